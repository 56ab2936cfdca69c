"""One-dimensional sequences as tokens: patches of consecutive samples, and a summary of the whole.

Axes: n sequences, T samples, C channels, P patches. Samples may be irregular in time and missing.
"""

import numpy as np

SUMMARY = ("mean", "deviation", "minimum", "maximum", "slope", "curvature", "residual", "persistence", "missing")


def patches(values: np.ndarray, observed: np.ndarray, times: np.ndarray, count: int = 4) -> np.ndarray:
    """Cut each sequence into `count` runs of consecutive samples.

    Args:
        values: (n, T, C), any unit; what stands where `observed` is False is ignored.
        observed: (n, T, C) bool.
        times: (n, T), ascending within a sequence.
        count: P, which must divide T.

    Returns (n, P, T/P * 2 C + 1) float32: the samples, missing ones at the mean of what was observed of their
    channel in this sequence; then 1 where a sample is observed; then the middle of the patch in time, from
    -1 (start of the sequence) to 1 (its end).

    Raises:
        ValueError: shapes that do not fit, or a length that `count` does not divide.
    """
    _check(values, observed, times)
    n, length, channels = values.shape
    if length % count:
        raise ValueError(f"{length} samples cannot be cut into {count} equal patches; choose a divisor of {length}")
    filled = np.where(observed, values, _mean(values, observed)[:, None])              # (n, T, C)
    scaled = _unit_time(times)                                                         # (n, T)
    cut = lambda x: x.reshape(n, count, -1)
    middle = cut(scaled).mean(-1, keepdims=True)                                       # (n, P, 1)
    return np.concatenate([cut(filled), cut(observed), middle], -1).astype(np.float32)


def summary(values: np.ndarray, observed: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Describe each channel of each sequence by the numbers named in `SUMMARY`.

    Slope and curvature are those of the least-squares parabola in time scaled to [-1, 1], with a weak ridge so
    that one observation is enough; residual is the deviation around it, persistence the share of the residual's
    variance that neighbouring observations have in common. Arguments as for `patches`.

    Returns (n, 1, 9 C + 1) float32, the last number the correlation of the residuals of the first two channels.
    """
    _check(values, observed, times)
    n, length, channels = values.shape
    weight = observed.astype(np.float64)                                               # (n, T, C)
    count = weight.sum(1).clip(1)                                                      # (n, C)
    mean = _mean(values, observed)                                                     # (n, C)
    centred = np.where(observed, values - mean[:, None], 0.0)                          # (n, T, C)
    extreme = lambda f, fill: f(np.where(observed, values, fill), axis=1)
    low, high = (np.where(observed.any(1), extreme(f, fill), mean)
                 for f, fill in ((np.min, np.inf), (np.max, -np.inf)))
    t = _unit_time(times)
    basis = np.stack([np.ones_like(t), t, t**2 - 1 / 3], -1)                           # (n, T, 3)
    gram = np.einsum("ntc,nti,ntj->ncij", weight, basis, basis) + 0.1 * np.eye(3)
    moment = np.einsum("ntc,nti->nci", centred, basis)
    fit = np.linalg.solve(gram, moment[..., None])[..., 0]                             # (n, C, 3)
    residual = np.where(observed, centred - np.einsum("nti,nci->ntc", basis, fit), 0.0)
    spread = np.sqrt((residual**2).sum(1) / count)                                     # (n, C)
    together = weight[:, 1:] * weight[:, :-1]
    lagged = (residual[:, 1:] * residual[:, :-1]).sum(1) / together.sum(1).clip(1)
    persistence = lagged / (spread**2 + 1e-12)
    deviation = np.sqrt((centred**2).sum(1) / count)
    described = np.stack([mean, deviation, low, high, fit[..., 1], fit[..., 2], spread, persistence,
                          1 - weight.mean(1)], -1).reshape(n, -1)                      # (n, 9 C)
    common = np.zeros(n)
    if channels > 1:
        pair = residual[..., 0] * residual[..., 1]
        both = (weight[..., 0] * weight[..., 1]).sum(1).clip(1)
        common = pair.sum(1) / both / (spread[:, 0] * spread[:, 1] + 1e-12)
    return np.concatenate([described, common[:, None]], -1)[:, None].astype(np.float32)


def _mean(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    total = np.where(observed, values, 0.0).sum(1, dtype=np.float64)
    return total / observed.sum(1).clip(1)                                             # (n, C)


def _unit_time(times: np.ndarray) -> np.ndarray:
    start, end = times[:, :1].astype(np.float64), times[:, -1:].astype(np.float64)
    return 2 * (times - start) / np.where(end > start, end - start, 1.0) - 1


def _check(values: np.ndarray, observed: np.ndarray, times: np.ndarray) -> None:
    if values.ndim != 3 or observed.shape != values.shape or times.shape != values.shape[:2]:
        raise ValueError(f"expected values and observed (n, T, C) and times (n, T), got {values.shape}, "
                         f"{observed.shape} and {times.shape}")
