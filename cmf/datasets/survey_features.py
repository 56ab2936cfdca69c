"""Hand-made features of survey alerts: the light curve here, the stamps in `cmf.datasets.stamp_features`.

Axes: n objects, T steps of a sequence, b = 3 filters (g, r, i), k columns of a group.

Both functions return a dict from group name to `Group`, whose values are float64 (n, k), finite, with one
name a column. No feature uses a position on the sky, a date, a class or a score of the survey's own
classifiers. How often an object was seen is kept apart in the group "counts", so that it can be left out;
columns that need two detections are constant for an object with one and so still tell it from the rest.

Sequence groups (magnitudes of the difference, m = 20 - 2.5 log10 |flux|):
    level      last, median and brightest magnitude, significance, depth
    sign       brighter or fainter than the template
    variation  scatter, trend and structure function about the mean of each filter
    bands      level, scatter and trend in g and r
    colour     g - r
    limits     age, rise and fade, contrast with the depth before, between and after the detections
    counts     detections, limits, share, span
"""

from __future__ import annotations

import numpy as np

from cmf.datasets.stamp_features import IMAGE_GROUPS, Group, join, pack, stamp_features

__all__ = ["IMAGE_GROUPS", "SEQUENCE_GROUPS", "Group", "join", "sequence_features", "stamp_features",
           "survey_features"]

SEQUENCE_GROUPS = ("level", "sign", "variation", "bands", "colour", "limits", "counts")
WINDOW = 31.0  # days of history in one alert packet
TREND_PRIOR = 20.0  # days squared added to the time variance: short spans give no steep slopes
ERROR_FLOOR = 0.03  # mag, calibration
DEEPER = 0.3  # mag: a limit this much fainter than the object should have seen it
TYPICAL_COLOUR = 0.1  # g - r of an object seen in one filter, mag
TOGETHER = 1.1  # days between a g and an r that make one colour


def survey_features(images, times, values, observed, window: float | None = WINDOW) -> dict[str, Group]:
    """Image and sequence groups in one dict; arguments as `stamp_features` and `sequence_features`."""
    return stamp_features(images) | sequence_features(times, values, observed, window)


def sequence_features(times, values, observed, window: float | None = WINDOW) -> dict[str, Group]:
    """Sequence groups of difference light curves.

    times: (n, T) days, at most 0, the newest step of an object at or near 0; any order.
    values: (n, T, 6) = flux_g, flux_r, flux_i, limit_g, limit_r, limit_i, each arcsinh(f) with f the flux in
    units of magnitude 20; flux negative where the source is fainter than in the template; the limit is that
    of 5 sigma, also at a step with a detection. observed: bool (n, T, 6).
    window: days of history that count; None takes all. An alert packet holds 30 days; longer histories tell
    how the data were collected more than what the object is.

    Raises ValueError for other shapes and positive times. An object without any detection gets the depth of
    its limits for its level and 0 elsewhere.

    >>> values = np.zeros((1, 2, 6))
    >>> values[0, :, 1] = np.arcsinh(1.0)
    >>> groups = sequence_features(np.array([[-1.0, 0.0]]), values, values != 0)
    >>> dict(zip(groups["level"].columns, groups["level"].values[0]))["last"]
    np.float64(20.0)
    """
    times, values, observed = np.asarray(times), np.asarray(values, dtype=np.float64), np.asarray(observed, bool)
    if values.ndim != 3 or values.shape[2] != 6 or observed.shape != values.shape \
            or times.shape != values.shape[:2]:
        raise ValueError(f"times {times.shape}, values {values.shape}, observed {observed.shape}: expected "
                         "(n, T), (n, T, 6) and (n, T, 6), three fluxes and three limits a step")
    if (times > 1e-6).any():
        raise ValueError(f"times run up to {times.max():.3g} days; they count back from the last exposure, so "
                         "expected at most 0")
    rows = []
    for t, v, seen in zip(times, values, observed, strict=True):
        keep = seen.any(axis=1) & (t >= -(np.inf if window is None else window))
        order = np.flatnonzero(keep)[np.argsort(t[keep], kind="stable")]
        rows.append(_one(t[order].astype(np.float64), np.sinh(v[order]), seen[order]))
    return pack({name: {column: np.array([row[name][column] for row in rows])
                        for column in _one(*EMPTY)[name]} for name in SEQUENCE_GROUPS})


def _one(t: np.ndarray, flux: np.ndarray, seen: np.ndarray) -> dict[str, dict[str, float]]:
    """Groups of one object: t (T,) ascending, flux and seen (T, 6)."""
    step, band = np.nonzero(seen[:, :3])  # one entry a detection
    f, td = flux[step, band], t[step]
    m = _magnitude(f)
    depth = np.where(seen[:, 3:].any(axis=1), _magnitude((flux[:, 3:] * seen[:, 3:]).sum(axis=1)), np.nan)
    missed = ~seen[:, :3].any(axis=1) & np.isfinite(depth)
    tl, limit = t[missed], depth[missed]  # steps that saw nothing
    deepest = np.nanmax(depth) if np.isfinite(depth).any() else 20.5
    if not len(m):
        return _undetected(deepest, len(limit))
    own = np.where(np.isfinite(depth[step]), depth[step], deepest)  # 5-sigma depth at each detection
    error = np.hypot(1.0857 / 5 * 10 ** (0.4 * (m - own)), ERROR_FLOOR)  # mag; sigma = limit / 5
    sign = np.sign(f)
    middle = np.median(m)
    variation, bands = _variation(td, m, f, error, band)
    g, r = m[band == 0], m[band == 1]
    pairs = np.array([a - b for a, ta in zip(g, td[band == 0], strict=True)
                      for b, tb in zip(r, td[band == 1], strict=True) if abs(ta - tb) < TOGETHER])
    gr = np.clip(np.median(g) - np.median(r), -2, 3) if len(g) and len(r) else TYPICAL_COLOUR
    before = tl < td[0]
    after = tl > td[0]
    blind = (limit > middle + DEEPER).sum()
    blind_after = (limit[after] > middle + DEEPER).sum()
    last_before = limit[before][np.argsort(tl[before])[-3:]]
    return {
        "level": dict(last=m[-1], median=middle, brightest=m.min(), snr_last=np.arcsinh(0.2 / error[-1]),
                      snr_best=np.arcsinh(0.2 / error.min()), depth=deepest, contrast=own[-1] - m[-1]),
        "sign": dict(last=sign[-1], mean=sign.mean(), changes=float((sign != sign[0]).any())),
        "variation": variation,
        "bands": bands,
        "colour": dict(gr=gr, both=float(len(g) > 0 and len(r) > 0),
                       slope=bands["slope_g"] - bands["slope_r"],
                       gr_night=np.clip(np.median(pairs), -2, 3) if len(pairs) else gr,
                       gr_scatter=min(pairs.std(), 1.0) if len(pairs) > 1 else 0.15),
        "limits": dict(
            age=np.log1p(-td[0]),
            gap=np.log1p(min(td[0] - tl[before].max(), WINDOW)) if before.any() else np.log1p(WINDOW),
            has_before=float(before.any()),
            rise_from_deepest=np.clip(limit[before].max() - m.min(), -1, 5) if before.any() else 0.0,
            rise_from_last=np.clip(last_before.max() - m[0], -2, 4) if before.any() else 0.0,
            deepest_contrast=np.clip(limit.max() - m[-1], -2, 5) if len(limit) else 0.0,
            blind_share=(blind + 0.5) / (blind + len(m) + 1),
            blind_share_after=blind_after / (len(m) + blind_after),
            after_contrast=np.clip(limit[after].max() - m.max(), -3, 3) if after.any() else -1.0,
            peak_age=np.log1p(-td[np.argmin(m)]), fade=m[-1] - m.min(), rise=m[0] - m.min()),
        "counts": dict(detections=np.log(len(m)), limits=np.log1p(len(limit)), share=len(m) / len(t),
                       span=np.log1p(np.ptp(td)), once=float(len(m) == 1), detections_g=np.log1p(len(g)),
                       detections_r=np.log1p(len(r)), steps=np.log(len(t))),
    }


def _variation(t, m, f, error, band) -> tuple[dict, dict]:
    """Groups variation and bands: everything about the mean of each filter. Sums are divided by n + 1 and
    slopes carry TREND_PRIOR, so that few detections give small numbers and one gives 0."""
    n = len(m)
    signed = np.sign(f) * np.arcsinh(np.abs(f) / 0.3)  # brightness with its sign
    res, signed_res, tc = m.copy(), signed.copy(), t.copy()
    for b in np.unique(band):
        for array, source in ((res, m), (signed_res, signed), (tc, t)):
            array[band == b] -= source[band == b].mean()
    variance = (tc ** 2).sum() + TREND_PRIOR
    left = res - (tc * res).sum() / variance * tc
    distance, lag = np.abs(res[:, None] - res), np.abs(t[:, None] - t)  # (n, n)
    pair = (band[:, None] == band) & np.triu(np.ones((n, n), dtype=bool), 1)
    structure = [distance[inside].sum() / (inside.sum() + 1)
                 for inside in (pair & (lag >= low) & (lag < high) for low, high in ((0, 1.5), (1.5, 6), (6, 40)))]
    variation = dict(
        scatter=np.sqrt((res ** 2).sum() / (n + 1)), range=min(np.ptp(res), 4.0),
        flux_scatter=np.sqrt((signed_res ** 2).sum() / (n + 1)),
        chi2=np.log1p((res ** 2 / error ** 2).sum() / (n + 1)),
        slope=10 * (tc * res).sum() / variance, flux_slope=10 * (tc * signed_res).sum() / variance,
        scatter_detrended=np.sqrt((left ** 2).sum() / (n + 1)),
        chi2_detrended=np.log1p((left ** 2 / error ** 2).sum() / (n + 1)),
        skew=(res ** 3).sum() / ((res ** 2).sum() ** 1.5 + 0.05),
        structure_1=structure[0], structure_5=structure[1], structure_20=structure[2])
    bands = {}
    for b, name in enumerate("gr"):
        own = band == b
        bands |= {f"scatter_{name}": np.sqrt((res[own] ** 2).sum() / (own.sum() + 1)),
                  f"slope_{name}": 10 * (tc[own] * res[own]).sum() / ((tc[own] ** 2).sum() + TREND_PRIOR),
                  f"median_{name}": np.median(m[own]) if own.any() else np.median(m),
                  f"last_{name}": m[own][-1] if own.any() else m[-1]}
    return variation, bands


def _undetected(depth: float, limits: int) -> dict[str, dict[str, float]]:
    """Groups of an object that was never detected: its level is the depth, everything else 0."""
    one = _one(np.zeros(1), np.array([[0, 1.0, 0, 0, 0, 0]]), np.array([[0, 1, 0, 0, 0, 0]], dtype=bool))
    out = {name: dict.fromkeys(columns, 0.0) for name, columns in one.items()}
    out["level"] |= dict(last=depth, median=depth, brightest=depth, depth=depth)
    out["bands"] |= dict(median_g=depth, last_g=depth, median_r=depth, last_r=depth)
    out["counts"] |= dict(limits=np.log1p(limits))
    return out


def _magnitude(flux):
    """20 - 2.5 log10 |flux|, at most 30."""
    return 20 - 2.5 * np.log10(np.maximum(np.abs(flux), 1e-4))


EMPTY = (np.zeros(0), np.zeros((0, 6)), np.zeros((0, 6), dtype=bool))
