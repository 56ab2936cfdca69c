"""Estimators of mutual information to compare the Gumbel copula with: nearest neighbours, Gaussian copula, counts.

All take x, y: (n,) and return nats.
"""

import numpy as np
from scipy.special import digamma, ndtri

from .gumbel import _real, ecdf


def _columns(x, y, minimum):
    x, y = _real("x", x), _real("y", y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y must be one-dimensional and of one length, got shapes {x.shape} and {y.shape}")
    if len(x) < minimum:
        raise ValueError(f"at least {minimum} pairs are needed, got {len(x)}")
    return x, y


def ksg_mutual_information(x, y, k=3):
    """Nearest-neighbour estimate: psi(k) + psi(n) - mean(psi(n_x + 1) + psi(n_y + 1)).

    First algorithm of Kraskov, Stoegbauer and Grassberger (2004, Phys. Rev. E 69, 066138, eq. 8): n_x counts the
    points nearer in x than the k-th neighbour in the plane (maximum norm). Columns are scaled to unit deviation.
    x, y: (n,) finite, n > k; k: neighbours >= 1. May be slightly negative near independence.
    Raises ValueError on NaN, constant input, unequal lengths, n <= k, k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    from scipy.spatial import cKDTree

    x, y = _columns(x, y, k + 1)
    for name, column in (("x", x), ("y", y)):
        if column.std() == 0:
            raise ValueError(f"{name} is constant: nearest neighbours need a quantity that varies")
    x, y = x / x.std(), y / y.std()
    plane = np.stack([x, y], axis=1)
    # strictly nearer, with room for the rounding of column + reach: the k-th neighbour itself must not count
    reach = cKDTree(plane).query(plane, k=[k + 1], p=np.inf)[0][:, 0] * (1 - 1e-10)
    total = 0.0
    for column in (x, y):
        ordered = np.sort(column)
        count = np.searchsorted(ordered, column + reach, "right") - np.searchsorted(ordered, column - reach, "left")
        total += digamma(np.maximum(count, 1)).mean()                                   # the point itself is counted
    return float(digamma(k) + digamma(len(x)) - total)


def gaussian_mutual_information(x, y):
    """Gaussian-copula estimate -ln(1 - r^2) / 2, r the correlation of the normal scores of the ranks.

    x, y: (n,), n >= 2. Infinite for perfectly ordered pairs. Raises ValueError on NaN, constant input, unequal
    lengths, n < 2.
    """
    x, y = _columns(x, y, 2)
    a, b = (ndtri(ecdf(z)) for z in (x, y))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise ValueError(f"{'x' if np.ptp(a) == 0 else 'y'} is constant: a correlation needs a quantity that varies")
    r = min(abs(float(np.corrcoef(a, b)[0, 1])), 1.0)
    return float("inf") if r == 1 else float(-0.5 * np.log1p(-r * r))


def plugin_mutual_information(x, y):
    """Plug-in estimate from joint frequencies, sum p ln(p / (p_x p_y)), for discrete data.

    x, y: (n,) levels, n >= 1. Biased upwards by about (levels_x - 1)(levels_y - 1) / (2 n).
    Raises ValueError on NaN, unequal lengths, no pairs.
    """
    x, y = _columns(x, y, 1)
    i, j = (np.unique(z, return_inverse=True)[1] for z in (x, y))
    cells, counts = np.unique(i * (j.max() + 1) + j, return_counts=True)
    row, column = np.bincount(i)[cells // (j.max() + 1)], np.bincount(j)[cells % (j.max() + 1)]
    return float((counts * np.log(counts * len(x) / (row * column))).sum() / len(x))
