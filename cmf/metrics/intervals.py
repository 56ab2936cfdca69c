"""Intervals and paired comparisons by resampling.

Axis: n samples (objects or seeds), the first axis of every array here.
"""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A number and its percentile interval."""

    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference a - b, its percentile interval and a two-sided p."""

    estimate: float
    low: float
    high: float
    p: float


def _aligned(arrays):
    arrays = [np.asarray(a) for a in arrays]
    lengths = [len(a) if a.ndim else 0 for a in arrays]
    if min(lengths) == 0 or len(set(lengths)) > 1:
        raise ValueError(f"expected arrays of one length of at least 1, got lengths {lengths}")
    for a in arrays:
        if np.issubdtype(a.dtype, np.inexact) and not np.isfinite(a).all():
            raise ValueError("values hold NaN or infinity: leave these samples out first")
    return arrays


def _percentiles(draws, level):
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    tail = 50 * (1 - level)
    return [float(v) for v in np.percentile(draws, [tail, 100 - tail])]


def bootstrap_interval(values, statistic=None, n=2000, level=0.95, seed=0):
    """Percentile bootstrap over the first axis (Efron 1979).

    Arguments
        values     array (m, ...), or a tuple of arrays of one length that are resampled together
        statistic  function of the resampled array(s) -> number; default the mean
        n          resamples; level the mass of the interval; seed of the resampling
    Returns Interval(estimate, low, high). With fewer than ten values the interval is too narrow; with five
    seeds it covers about 0.83 of the time at level 0.95.

    >>> bootstrap_interval([1., 1., 1.])
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    arrays = _aligned(values if isinstance(values, tuple) else (values,))
    statistic = statistic or (lambda v: v.mean())
    rng, m = np.random.default_rng(seed), len(arrays[0])
    draws = [statistic(*(a[rows] for a in arrays)) for rows in (rng.integers(0, m, m) for _ in range(n))]
    return Interval(float(statistic(*arrays)), *_percentiles(draws, level))


def paired_bootstrap(a, b, statistic=None, common=(), n=2000, level=0.95, seed=0):
    """Difference statistic(a) - statistic(b) over paired samples, with a bootstrap interval and a swap test.

    Arguments
        a, b       arrays of one length: row i of both belongs to the same object, or the same seed
        statistic  function(rows, *common rows) -> number; default the mean
        common     arrays that both share (labels), resampled with them
    The interval resamples pairs. p is two-sided from swapping a and b within pairs (for means the sign-flip
    test): all 2^m swaps when m <= 12, else n random ones with the observed one counted. With five pairs the
    smallest p is 2/32.

    >>> paired_bootstrap([.8, .9, .7, .8, .9], [.7, .8, .6, .7, .8]).p
    0.0625
    """
    arrays = _aligned((a, b, *common))
    a, b, common = arrays[0], arrays[1], arrays[2:]
    if a.shape != b.shape:
        raise ValueError(f"paired arrays have shapes {a.shape} and {b.shape}; expected equal shapes")
    statistic = statistic or (lambda v: v.mean())
    difference = lambda x, y, *rest: statistic(x, *rest) - statistic(y, *rest)
    rng, m = np.random.default_rng(seed), len(a)
    observed = difference(a, b, *common)
    draws = [difference(a[r], b[r], *(c[r] for c in common))
             for r in (rng.integers(0, m, m) for _ in range(n))]
    exact = m <= 12
    swaps = (np.arange(2**m)[:, None] >> np.arange(m)) & 1 if exact else rng.integers(0, 2, (n, m))
    null = []
    for swap in swaps.astype(bool):
        swap = swap.reshape(-1, *[1] * (a.ndim - 1))
        null.append(difference(np.where(swap, b, a), np.where(swap, a, b), *common))
    extreme = np.count_nonzero(np.abs(null) >= abs(observed) * (1 - 1e-9) - 1e-15)
    p = extreme / len(null) if exact else (extreme + 1) / (len(null) + 1)
    return Difference(float(observed), *_percentiles(draws, level), float(p))
