"""Features of target stamps: contrast stretch, tokens of a frozen encoder, radiometry and motion.

Axes: n targets, F frames of one target (A, B; or science, template, difference), H, W pixels, D channels.
Every function is pure, so that callers may cache by content.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

RADIOMETRIC = ("mean", "std", "max", "flux", "peak_snr", "background", "noise", "width")
MOTION = ("dx", "dy", "shift", "flux_difference", "difference_peak", "difference_trough", "correlation")
MAD = 1.4826  # standard deviation of a Gaussian over its median absolute deviation


def _frames(frames):
    """float64 (n, F, H, W) without NaN: missing pixels take the frame's median."""
    x = np.asarray(frames)
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"frames have shape {x.shape}, expected (n, F, H, W): targets, frames, rows, columns")
    huge = abs(x) > 1e30  # infinity, and fill values such as the largest float32
    if huge.any():
        raise ValueError(f"frames hold values beyond 1e30, first in target {int(np.argwhere(huge)[0][0])}; "
                         "mark missing pixels with NaN")
    x = x.astype(np.float64)
    missing = np.isnan(x)
    if missing.any():
        empty = missing.all((2, 3))
        if empty.any():
            i, j = np.argwhere(empty)[0]
            raise ValueError(f"frame {j} of target {i} has no pixel with a value; leave the target out")
        x = np.where(missing, np.nanmedian(x, axis=(2, 3), keepdims=True), x)
    return x


def _robust(x):
    """Median and noise over the last axis, kept; noise falls back to the standard deviation where MAD is 0."""
    middle = np.median(x, -1, keepdims=True)
    noise = MAD * np.median(abs(x - middle), -1, keepdims=True)
    return middle, np.where(noise > 0, noise, x.std(-1, keepdims=True))


def stretch(frames, low=-3.0, high=100.0):
    """Contrast enhancement: asinh of background-subtracted counts in units of the noise, mapped to [0, 1].

    z = (x - median) / (1.4826 MAD) of each frame; y = (asinh z - asinh low) / (asinh high - asinh low),
    clipped (Lupton, Gunn and Szalay 1999: linear near the noise, logarithmic above it).

    Arguments
        frames     (n, F, H, W) counts; NaN marks missing pixels, which become background
        low, high  noise units that map to 0 and 1
    Returns float32 of the same shape. A constant frame becomes the grey of z = 0.
    Raises ValueError on another shape, infinite values, a frame without values, or low >= high.
    """
    if not low < high:
        raise ValueError(f"low must lie below high, got {low} and {high}")
    x = _frames(frames)
    middle, noise = _robust(x.reshape(*x.shape[:2], -1))
    middle, noise = middle[..., None], noise[..., None]  # (n, F, 1, 1)
    z = np.divide(x - middle, noise, out=np.zeros_like(x), where=noise > 0)
    y = (np.arcsinh(z) - np.arcsinh(low)) / (np.arcsinh(high) - np.arcsinh(low))
    return np.clip(y, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Projection:
    """Linear map of the channel axis, fitted on training rows only: (x - mean) @ basis."""

    mean: np.ndarray  # (D,)
    basis: np.ndarray  # (D, p)

    @classmethod
    def fit(cls, rows, width, kind="pca", seed=0, limit=20000):
        """Fit on rows (..., D) to `width` channels; "pca" (seeded subsample of at most `limit` rows) or "random".

        The result is scaled so that the channels have variance 1 on average. Raises ValueError when width is
        not in 1..min(D, rows) or kind is unknown.
        """
        rows = np.asarray(rows).reshape(-1, np.shape(rows)[-1])
        if kind not in ("pca", "random"):
            raise ValueError(f"kind is {kind!r}, expected 'pca' or 'random'")
        if not 1 <= width <= min(rows.shape):
            raise ValueError(f"width is {width}, expected 1..{min(rows.shape)} for rows of shape {rows.shape}")
        rng = np.random.default_rng(seed)
        if len(rows) > limit:
            rows = rows[np.sort(rng.choice(len(rows), limit, replace=False))]
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        if kind == "pca":
            basis = np.linalg.eigh(np.cov(rows.T, bias=True).reshape(len(mean), -1))[1][:, ::-1][:, :width]
            basis = basis * np.sign(basis[abs(basis).argmax(0), np.arange(width)])  # a definite sign
        else:
            basis = rng.standard_normal((len(mean), width)) / np.sqrt(width)
        spread = np.sqrt(((rows - mean) @ basis).var(0).mean())
        return cls(mean.astype(np.float32), (basis / (spread if spread > 0 else 1)).astype(np.float32))

    def apply(self, x):
        """(..., D) -> float32 (..., p). Raises ValueError on another number of channels."""
        if np.shape(x)[-1] != len(self.mean):
            raise ValueError(f"features have {np.shape(x)[-1]} channels, the projection was fitted on "
                             f"{len(self.mean)}")
        return ((np.asarray(x, np.float32) - self.mean) @ self.basis).astype(np.float32)


def image_tokens(frames, encoder, batch=64, projection=None, progress=None):
    """Tokens of a frozen encoder for every frame of every target.

    Arguments
        frames      (n, F, H, W) in [0, 1] (see `stretch`)
        encoder     module: images (N, 1, H, W) -> tokens (N, t, D), pooled (N, D)
        batch       images at a time
        projection  fitted `Projection` of the token channels, or None
        progress    function(iterable, label) that shows progress; default a bar after 3 seconds
    Returns {"grid": float32 (n, F*t, D or p), frame after frame, "pooled": float32 (n, F, D)}.
    Raises ValueError as `Inception.forward` does.
    """
    import torch
    from tqdm import tqdm

    x = np.asarray(frames, np.float32)
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"frames have shape {x.shape}, expected (n, F, H, W): targets, frames, rows, columns")
    n, f = x.shape[:2]
    images = x.reshape(n * f, 1, *x.shape[2:])
    device = next(encoder.parameters()).device
    starts = range(0, n * f, batch)
    bar = progress(starts, "encoder") if progress else tqdm(starts, desc="encoder", delay=3, leave=False)
    grid, pooled = [], []
    with torch.inference_mode():
        for s in bar:
            tokens, mean = encoder(torch.from_numpy(images[s:s + batch]).to(device))
            tokens = tokens.float().cpu().numpy()  # (N, t, D)
            grid.append(projection.apply(tokens) if projection else tokens)
            pooled.append(mean.float().cpu().numpy())
    grid = np.concatenate(grid)
    return {"grid": grid.reshape(n, f * grid.shape[1], -1), "pooled": np.concatenate(pooled).reshape(n, f, -1)}


def _radius(shape, x, y):
    """Distance (n, F, H, W) of every pixel from the point x, y (n, F) of its frame."""
    rows, columns = np.arange(shape[2])[:, None], np.arange(shape[3])
    return np.hypot(columns - x[..., None, None], rows - y[..., None, None])


def _level(x, inner):
    """Robust background and noise (n, F) outside `inner` pixels from the centre of the stamp."""
    rows, columns = np.arange(x.shape[2])[:, None], np.arange(x.shape[3])
    ring = np.hypot(columns - (x.shape[3] - 1) / 2, rows - (x.shape[2] - 1) / 2) >= inner  # (H, W)
    if ring.sum() < 16:
        raise ValueError(f"stamps of {x.shape[2]}x{x.shape[3]} px leave {ring.sum()} pixels for the background "
                         f"outside {inner} px of the centre; at least 16 are needed: lower `inner`")
    return (v[..., 0] for v in _robust(x[:, :, ring]))


def centroid(frames, search=None, inner=10.0, psf=1.3):
    """Sub-pixel position (n, F, 2) as x, y in pixels of the brightest source near the centre of each frame.

    The peak, within `search` px of the centre, of the frame smoothed with the point-spread function (`psf`: its
    standard deviation in px), refined by a parabola through the logarithm.

    Arguments: frames (n, F, H, W) counts; search in px, a number or one for each frame; by default 4, but 12 in
    the second frame of a pair A, B, to where a target has moved. inner: background is taken outside so many px
    of the centre. Raises ValueError on shapes and stamps too small for a background.
    """
    x = _frames(frames)
    background, _ = _level(x, inner)
    return _centroid(x - background[..., None, None], search, psf)


def _search(search, frames):
    if search is None:
        search = (4.0, 12.0) if frames == 2 else 4.0
    if np.ndim(search) > 1 or np.size(search) not in (1, frames):
        raise ValueError(f"search is {search}, expected a number or {frames} of them, one a frame")
    return np.broadcast_to(np.asarray(search, np.float64), (frames,))


def _centroid(x, search, psf):
    n, f, h, w = x.shape
    search = _search(search, f)[:, None, None]  # (F, 1, 1)
    smooth = gaussian_filter(x, (0, 0, psf, psf), mode="nearest")
    centre = np.full((1, 1), (w - 1) / 2), np.full((1, 1), (h - 1) / 2)
    near = _radius(x.shape, *centre) <= search
    peak = np.where(near, smooth, -np.inf).reshape(n, f, -1).argmax(-1)  # (n, F)
    py, px = np.divmod(peak, w)
    inner_y, inner_x = np.clip(py, 1, h - 2), np.clip(px, 1, w - 2)
    at = lambda dy, dx: smooth[np.arange(n)[:, None], np.arange(f), inner_y + dy, inner_x + dx]  # (n, F)
    across, _ = parabola(at(0, -1), at(0, 0), at(0, 1))
    down, _ = parabola(at(-1, 0), at(0, 0), at(1, 0))
    return np.stack([inner_x + across, inner_y + down], -1)


def parabola(low, mid, high):
    """Vertex in [-1, 1] and variance of the Gaussian through three neighbouring pixels a pixel apart.

    Arguments: arrays of one shape, mid the highest; a value below a thousandth of mid counts as that.
    """
    floor = np.maximum(1e-3 * mid, 1e-30)
    low, mid, high = (np.log(np.maximum(v, floor)) for v in (low, mid, high))
    bend = np.minimum(low - 2 * mid + high, -1e-3)
    return np.clip((low - high) / (2 * bend), -1, 1), -1 / bend


def _photometry(x, search, inner, aperture, psf):
    background, noise = _level(x, inner)
    x = x - background[..., None, None]
    where = _centroid(x, search, psf)
    near = _radius(x.shape, where[..., 0], where[..., 1]) <= aperture  # (n, F, H, W)
    light = np.where(near, x, 0)
    return x, background, noise, where, near, light


def radiometric(frames, search=None, inner=10.0, aperture=4.0, psf=1.3):
    """Radiometry (n, F, 8) float32 of each frame, columns RADIOMETRIC.

    mean, std, max of the stamp; flux: background-subtracted sum within `aperture` px of the brightest source
    near the centre (`search` as in `centroid`); peak_snr: highest pixel of that source over the noise; background
    (median) and noise (1.4826 MAD) of the pixels farther than `inner` px from the centre; width: root mean
    square radius in px of the positive light in the aperture. All but peak_snr and width are in counts.

    Argument: frames (n, F, H, W) counts, NaN where missing. Raises ValueError on shapes, on frames without
    values and on stamps too small for a background.
    """
    x = _frames(frames)
    _, background, noise, where, near, light = _photometry(x, search, inner, aperture, psf)
    peak = light.max((2, 3))
    positive = np.maximum(light, 0)
    spread = (positive * _radius(x.shape, where[..., 0], where[..., 1])**2).sum((2, 3))
    total = positive.sum((2, 3))
    divide = lambda a, b: np.divide(a, b, out=np.zeros_like(a), where=b > 0)
    columns = (x.mean((2, 3)), x.std((2, 3)), x.max((2, 3)), light.sum((2, 3)), divide(peak, noise), background,
               noise, np.sqrt(divide(spread, total)))
    return np.stack(columns, -1).astype(np.float32)


def motion(frames, search=None, inner=10.0, aperture=4.0, psf=1.3):
    """What changed between the first two frames of a target: (n, 7) float32, columns MOTION.

    dx, dy, shift: displacement in px of the brightest source (see `centroid`) from frame 0 to 1 and its length;
    flux_difference: aperture flux 1 - 0 in counts; difference_peak and _trough: highest and lowest pixel,
    within the wider search of the centre, of the smoothed difference over its noise; correlation of the two stamps.
    The difference is frame 1 - frame 0, or frame 2 where there are three (science, template, difference).

    Argument: frames (n, F, H, W) counts with F 2 or 3, NaN where missing. Raises ValueError as `radiometric`
    and on another F.
    """
    x = _frames(frames)
    if x.shape[1] not in (2, 3):
        raise ValueError(f"motion needs 2 frames (A, B) or 3 (science, template, difference), got {x.shape[1]}")
    search = _search(search, x.shape[1])
    pair, _, _, where, _, light = _photometry(x[:, :2], search[:2], inner, aperture, psf)
    step = where[:, 1] - where[:, 0]  # (n, 2)
    difference = x[:, 2:] if x.shape[1] == 3 else x[:, 1:2] - x[:, :1]
    difference = gaussian_filter(difference, (0, 0, psf, psf), mode="nearest")  # (n, 1, H, W)
    level, noise = (v[:, 0] for v in _level(difference, inner))
    centre = np.full((1, 1), (x.shape[3] - 1) / 2), np.full((1, 1), (x.shape[2] - 1) / 2)
    inside = difference[:, 0, _radius(x.shape, *centre)[0, 0] <= search.max()] - level[:, None]
    noise = np.where(noise > 0, noise, np.inf)
    flat = pair.reshape(len(x), 2, -1)
    flat = flat - flat.mean(-1, keepdims=True)
    length = np.sqrt((flat**2).sum(-1).prod(-1))
    correlation = np.divide(flat.prod(1).sum(-1), length, out=np.zeros(len(x)), where=length > 0)
    flux = light.sum((2, 3))
    columns = (step[:, 0], step[:, 1], np.hypot(*step.T), flux[:, 1] - flux[:, 0], inside.max(-1) / noise,
               inside.min(-1) / noise, correlation)
    return np.stack(columns, -1).astype(np.float32)
