"""Hand-made features of survey stamps: science, template and difference around an object.

Axes: n objects, F = 3 frames (science, template, difference), H rows, W = H columns, k columns of a group.
Background and noise are taken outside 12 px by clipped median and MAD; "snr" is arcsinh(S/N).

    science, template, difference  snr and flux shares in apertures of 1 to 14 px around the stamp's centre
    residual   peak, negative lobe, dipole and point-source fit of the difference
    shape      windowed centroid offset, size and ellipticity in each frame
    host       nearest template source (distance, its significance, sharpness against the stars of the field),
               likely host, light around the object
    context    how crowded the field is
    relation   flux ratios between the frames
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

IMAGE_GROUPS = ("science", "template", "difference", "residual", "shape", "host", "context", "relation")
RADII = (1, 2, 3, 5, 8, 14)  # aperture radii, px
SKY_RADIUS = 12  # px; pixels beyond it measure background and noise
PSF_SIGMA = 1.1  # px; ZTF's 2" seeing at 1.01" a pixel, after subtraction
FAR = 20.0  # px; distance given to an object without a source beside it


class Group(NamedTuple):
    """values: float64 (n, k). columns: k names."""

    values: np.ndarray
    columns: tuple[str, ...]


def join(groups: dict[str, Group], names=None, drop=()) -> tuple[np.ndarray, tuple[str, ...]]:
    """Matrix (n, sum of k) of the named groups (all by default, without `drop`) and its "group.column" names.

    Raises ValueError for a group that does not exist or when none is left.
    """
    wanted = [name for name in (groups if names is None else names) if name not in drop]
    unknown = [name for name in (*wanted, *drop) if name not in groups]
    if unknown or not wanted:
        raise ValueError(f"feature groups {unknown or 'none'} asked for; choose among {tuple(groups)}")
    columns = tuple(f"{name}.{column}" for name in wanted for column in groups[name].columns)
    return np.concatenate([groups[name].values for name in wanted], axis=1), columns


def pack(groups: dict[str, dict[str, np.ndarray]]) -> dict[str, Group]:
    """Groups from group name -> column name -> (n,)."""
    return {name: Group(np.stack([np.asarray(v, dtype=np.float64) for v in columns.values()], axis=1),
                        tuple(columns)) for name, columns in groups.items()}


def stamp_features(images: np.ndarray) -> dict[str, Group]:
    """Image groups of stamps.

    images: (n, 3, H, W), H = W odd and at least 31, detector counts of science, template and difference with
    the object at the centre; NaN or infinite pixels take the stamp's median.
    Adding a constant to a stamp changes nothing; nor do quarter turns and mirrors.
    Raises ValueError for another shape.

    >>> stamps = np.random.default_rng(0).normal(size=(2, 3, 63, 63))
    >>> stamp_features(stamps)["context"].values.shape
    (2, 5)
    """
    images = np.asarray(images, dtype=np.float64)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] \
            or images.shape[2] % 2 == 0 or images.shape[2] < 31:
        raise ValueError(f"images have shape {images.shape}, expected (n, 3, H, H) with H odd and at least 31: "
                         "science, template, difference around the object")
    x, noise = _normalise(images)  # (n, 3, H, W), (n, 3)
    c = images.shape[-1] // 2
    yy, xx = np.mgrid[-c:c + 1, -c:c + 1].astype(np.float64)
    r = np.hypot(yy, xx)
    groups: dict[str, dict[str, np.ndarray]] = {name: {} for name in IMAGE_GROUPS}
    fluxes, centres = {}, {}
    for frame, name in enumerate(IMAGE_GROUPS[:3]):
        groups[name], fluxes[name] = _radiometry(x[:, frame], r)
        groups[name]["noise"] = np.log(noise[:, frame])
        offset, size, ellipticity, centres[name] = _moments(x[:, frame], yy, xx)
        groups["shape"] |= {f"{name}_offset": offset, f"{name}_size": size, f"{name}_ellipticity": ellipticity}
    groups["residual"] = _residual(x[:, 2], r)
    groups["host"], sources = _host(x[:, 1], yy, xx, centres["difference"], groups["difference"]["snr_2"])
    ring = (r > 4) & (r < SKY_RADIUS)
    disc = r < 10
    turned = x[:, 1, ::-1, ::-1]
    groups["host"] |= {
        "ring_median": np.arcsinh(np.median(x[:, 1][:, ring], axis=-1)),
        "ring_mean": np.arcsinh(np.clip(x[:, 1][:, ring], -5, 200).mean(axis=-1)),
        "ring_science": np.arcsinh(np.median(x[:, 0][:, ring], axis=-1)),
        "asymmetry": np.clip(np.abs(x[:, 1] - turned)[:, disc].sum(-1)
                             / np.maximum(np.abs(x[:, 1])[:, disc].sum(-1), 50), 0, 2),
    }
    groups["context"] = {
        "sources": np.log1p(sources),
        "template_90": np.arcsinh(np.percentile(x[:, 1], 90, axis=(1, 2))),
        "template_99": np.arcsinh(np.percentile(x[:, 1], 99, axis=(1, 2))),
        "science_98": np.arcsinh(np.percentile(x[:, 0], 98, axis=(1, 2))),
        "lit_share": np.sqrt((x[:, 1] > 3).mean(axis=(1, 2))),
    }
    for radius in (2, 5):  # arcsinh at 50 counts: a logarithm that survives noise and negative flux
        s, t, d = (np.arcsinh(fluxes[name][radius] * noise[:, frame] / 50)
                   for frame, name in enumerate(IMAGE_GROUPS[:3]))
        d = np.abs(d)
        groups["relation"] |= {f"science_template_{radius}": s - t, f"difference_template_{radius}": d - t,
                               f"difference_science_{radius}": d - s, f"science_{radius}": s,
                               f"template_{radius}": t, f"difference_{radius}": d}
    return pack(groups)


def _normalise(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stamps in units of their noise without background, (n, 3, H, W), and the noise in counts, (n, 3)."""
    x = np.where(np.isfinite(images) & (np.abs(images) < 1e30), images, np.nan)
    filled = np.where(np.isnan(x).all(axis=(2, 3), keepdims=True), 0.0, x)
    x = np.where(np.isnan(filled), np.nanmedian(filled, axis=(2, 3), keepdims=True), filled)
    c = x.shape[-1] // 2
    sky = x[..., np.hypot(*np.mgrid[-c:c + 1, -c:c + 1]) > SKY_RADIUS]  # (n, 3, sky pixels)
    for _ in range(3):
        level = np.median(sky, axis=-1, keepdims=True)
        noise = 1.4826 * np.median(np.abs(sky - level), axis=-1, keepdims=True)
        noise = np.where(noise > 0, noise, 1.0)
        sky = np.clip(sky, level - 3 * noise, level + 3 * noise)
    return (x - level[..., None]) / noise[..., None], noise[..., 0]


def _radiometry(x: np.ndarray, r: np.ndarray) -> tuple[dict, dict]:
    """S/N and flux shares of one frame (n, H, W) in apertures with soft edges; fluxes by radius."""
    flux, error = {}, {}
    for radius in RADII:
        weight = np.clip(radius + 0.5 - r, 0, 1)
        flux[radius] = (x * weight).sum(axis=(1, 2))
        error[radius] = np.sqrt((weight ** 2).sum())
    whole = {radius: np.maximum(np.abs(flux[radius]), 2 * error[radius]) for radius in (3, 5, 14)}
    return {
        **{f"snr_{radius}": np.arcsinh(flux[radius] / error[radius]) for radius in (2, 5, 14)},
        "share_1_3": np.clip(flux[1] / whole[3], -1, 1.5),
        "share_2_5": np.clip(flux[2] / whole[5], -1, 1.5),
        "share_5_14": np.clip(flux[5] / whole[14], -1, 2),
    }, flux


def _moments(x: np.ndarray, yy: np.ndarray, xx: np.ndarray):
    """Offset (px), size (px) and ellipticity by Gaussian-windowed moments, and the centroid (n, 2) y, x."""
    positive = np.maximum(x, 0)
    cy = cx = np.zeros((len(x), 1, 1))
    for _ in range(4):
        weight = positive * np.exp(-((yy - cy) ** 2 + (xx - cx) ** 2) / (2 * 2.0 ** 2))
        total = weight.sum(axis=(1, 2), keepdims=True) + 1e-6
        cy, cx = (np.clip((weight * axis).sum(axis=(1, 2), keepdims=True) / total, -3, 3) for axis in (yy, xx))
    dy, dx = yy - cy, xx - cx
    weight = positive * np.exp(-(dy ** 2 + dx ** 2) / (2 * 3.0 ** 2))
    total = weight.sum(axis=(1, 2)) + 1e-6
    vy, vx, vxy = ((weight * product).sum(axis=(1, 2)) / total for product in (dy * dy, dx * dx, dy * dx))
    centre = np.stack([cy[:, 0, 0], cx[:, 0, 0]], axis=1)
    return np.hypot(*centre.T), np.sqrt(vy + vx), np.hypot(vx - vy, 2 * vxy) / (vx + vy + 1e-6), centre


def _residual(d: np.ndarray, r: np.ndarray) -> dict[str, np.ndarray]:
    """How much the difference (n, H, W) looks like one positive point source."""
    core = r < 6
    peak = d[:, r < 3].max(axis=-1)
    turned = d[:, ::-1, ::-1]
    psf = np.where(core, np.exp(-r ** 2 / (2 * PSF_SIGMA ** 2)), 0)
    psf /= np.sqrt((psf ** 2).sum())
    amplitude = (d * psf).sum(axis=(1, 2))  # least squares, in sigma
    left = ((d - amplitude[:, None, None] * psf)[:, core] ** 2).sum(axis=-1)
    return {
        "peak": np.arcsinh(peak),
        "negative": np.clip(-d[:, r < 7].min(axis=-1) / np.maximum(peak, 3), 0, 3),
        "dipole": np.clip(np.abs(d - turned)[:, core].sum(-1)
                          / np.maximum(np.abs(d + turned)[:, core].sum(-1), 1), 0, 3),
        "psf": np.arcsinh(amplitude),
        "psf_residual": np.log(left / core.sum() + 0.1),
        "psf_residual_share": np.clip(left / np.maximum(amplitude ** 2, 25), 0, 2),
        "outer": np.log((np.clip(d, -50, 50)[:, r > 8] ** 2).mean(axis=-1) + 0.1),
    }


def _host(t: np.ndarray, yy, xx, centres: np.ndarray, snr: np.ndarray) -> tuple[dict, np.ndarray]:
    """Template sources around the difference's centroid; number of sources, (n,)."""
    smooth = ndimage.gaussian_filter(t, (0, 1, 1))
    peaks = smooth == ndimage.maximum_filter(smooth, (1, 5, 5))
    inside = np.maximum(np.abs(yy), np.abs(xx)) <= yy.max() - 3
    table, counts = [], []
    for one, soft, peak, centre, s in zip(t, smooth, peaks, centres, np.sinh(snr), strict=True):
        limit = max(5 * 1.4826 * np.median(np.abs(soft - np.median(soft))), 1.5)
        rows, columns = np.nonzero(peak & inside & (soft > limit))
        counts.append(len(rows))
        row = dict(distance=np.log1p(FAR), distance_sigma=np.log1p(60), snr=0.0, share=0.5, share_excess=0.0,
                   on_source=0.0, share_if_on=0.0, snr_if_on=0.0, halo=0.0, second_distance=np.log1p(FAR),
                   second_snr=0.0, host_distance=np.log1p(FAR), host_snr=0.0, host_share=0.5, host_norm=10.0)
        if len(rows):
            row |= _nearest(one, soft, yy, xx, rows, columns, centre, s)
        table.append(row)
    return {name: np.array([row[name] for row in table]) for name in (table[0] if table else ())}, \
        np.array(counts)


def _nearest(t, soft, yy, xx, rows, columns, centre, snr) -> dict[str, float]:
    """Columns of one object: its nearest template source, the next one and the likeliest host."""
    y, x = _centroids(t, yy, xx, yy[rows, 0], xx[0, columns])
    distance = np.hypot(y - centre[0], x - centre[1])  # (sources,)
    order = np.argsort(distance)[:25]
    y, x, distance, height = y[order], x[order], distance[order], soft[rows, columns][order]
    radius = np.hypot(yy - y[:, None, None], xx - x[:, None, None])  # (sources, H, W)
    flux2, flux5, flux8 = ((t * np.clip(limit + 0.5 - radius, 0, 1)).sum(axis=(1, 2)) for limit in (2, 5, 8))
    share = np.clip(flux2 / np.maximum(flux5, 10), 0, 1.2)  # 1 is sharp, small is extended
    stars = share[(distance > 7) & (height > 8)]
    excess = share[0] - (np.percentile(stars, 70) if len(stars) else 0.5)
    on = float(distance[0] < 1.5)
    host = np.argmax(np.arcsinh(height) / (distance + 3) * (1.3 - share))
    ring = np.median(t[(radius[0] >= 4) & (radius[0] < 9)])
    out = dict(distance=np.log1p(min(distance[0], FAR)),
               distance_sigma=np.log1p(min(distance[0] * np.clip(snr, 1, 30) / 3, 60)),
               snr=np.arcsinh(height[0]), share=share[0], share_excess=excess, on_source=on,
               share_if_on=excess * on, snr_if_on=np.arcsinh(height[0]) * on,
               halo=np.clip(100 * ring / max(flux2[0], 30), -1, 3),
               host_distance=np.log1p(min(distance[host], FAR)), host_snr=np.arcsinh(height[host]),
               host_share=share[host], host_norm=min(distance[host] / np.log(max(flux8[host], 10)), 10))
    if len(distance) > 1:
        out |= dict(second_distance=np.log1p(min(distance[1], FAR)), second_snr=np.arcsinh(height[1]))
    return out


def _centroids(t, yy, xx, y0, x0) -> tuple[np.ndarray, np.ndarray]:
    """Sub-pixel centres of sources near (y0, x0): Gaussian-windowed centroids, each step doubled because
    window and source are about equally wide (the iteration of SExtractor's XWIN)."""
    y, x = y0.copy(), x0.copy()
    light = np.maximum(t, 0)
    for _ in range(5):
        dy, dx = yy - y[:, None, None], xx - x[:, None, None]
        weight = light * np.exp(-(dy ** 2 + dx ** 2) / (2 * 1.5 ** 2))  # (sources, H, W)
        total = weight.sum(axis=(1, 2)) + 1e-6
        y = np.clip(y + 2 * (weight * dy).sum(axis=(1, 2)) / total, y0 - 2.5, y0 + 2.5)
        x = np.clip(x + 2 * (weight * dx).sum(axis=(1, 2)) / total, x0 - 2.5, x0 + 2.5)
    return y, x
