"""Feature mutual information: what windows of 3 x 3 features share, after Haghighat.

Axes: H rows, W columns; K = 9 features of a window, column after column; n windows of a block. A, B sources, F fused.
"""

import numpy as np

from cmf.metrics.fusion_triple import measure

SIDE = 3        # pixels: of a window
WINDOWS = 2048  # at a time: what fits into the cache


def _rows(feature, low, high):
    """Windows that start in rows low..high - 1: (9, n)."""
    w = feature.shape[1] - SIDE + 1
    return np.stack([feature[low + i:high + i, j:j + w].ravel() for j in range(SIDE) for i in range(SIDE)])


class _Windows:
    """Windows (9, n) as distributions over 1..9: p, its sums, entropy and standard deviation, each (n,) or (9, n)."""

    def __init__(self, windows):
        x = windows.astype(np.float32)
        self.raw = windows
        low, high = x.min(0), x.max(0)
        self.flat = low == high
        spread = np.where(self.flat, np.float32(1), high - low)
        x = np.where(self.flat, np.float32(1), (x - low) / spread)
        self.p = x / x.sum(0)                                     # (9, n)
        self.entropy = -_xlogx(self.p).sum(0)                     # (n,)
        k = np.arange(1, 10, dtype=np.float32)
        mean = k @ self.p
        self.deviation = np.sqrt(np.maximum(k**2 @ self.p - mean**2, 0))
        self.apart = self.p - np.float32(1 / 9)
        self.length = np.sqrt((self.apart**2).sum(0))


def _xlogx(p):
    """p ln |p|, 0 at 0."""
    return p * np.log(np.maximum(np.abs(p), np.float32(1e-30)))


def _shared(a, f):
    """Normalised mutual information of two sets of windows under the joint distribution of their correlation: (n,)."""
    alike = (a.raw == f.raw).all(0)
    flat = a.flat | f.flat
    c = np.where(flat, 0, (a.apart * f.apart).sum(0) / np.where(flat, 1, a.length * f.length))  # (n,)
    p = np.where(c < 0, a.p[::-1], a.p)      # the lower bound is the upper one of the reversed order
    sums, fused = np.cumsum(p, 0), np.cumsum(f.p, 0)
    bound = np.zeros_like(c)
    for k in range(9):
        bound += np.minimum(sums, fused[k]).sum(0)
    bound -= sums.sum(0) * fused.sum(0)
    weight = np.abs(c) * a.deviation * f.deviation
    weight = np.where((weight > 0) & (bound > 1e-7), weight / np.where(bound > 1e-7, bound, 1), 0).astype(np.float32)
    before = np.vstack([np.zeros_like(c)[None], sums[:-1]])
    rest, joint, last = p * (1 - weight), np.zeros_like(c), np.zeros_like(c)
    for k in range(9):
        both = np.minimum(sums, fused[k]) - np.maximum(before, last)
        np.maximum(both, 0, out=both)
        both *= weight
        both += rest * f.p[k]
        joint -= _xlogx(both).sum(0)
        last = fused[k]
    total = a.entropy + f.entropy
    shared = np.where(total > 0, 2 * (total - joint) / np.where(total > 0, total, 1), 0)
    return np.where(alike, 1, shared)


def _mean(a, b, f):
    """Mean over all windows of the two normalised informations; features (H, W)."""
    h, w = f.shape[0] - SIDE + 1, f.shape[1] - SIDE + 1
    step, total = max(1, WINDOWS // w), 0.0
    for low in range(0, h, step):
        one, two, fused = (_Windows(_rows(x, low, min(low + step, h))) for x in (a, b, f))
        total += float((_shared(one, fused) + _shared(two, fused)).sum(dtype=np.float64))
    return max(0.0, total / (2 * h * w))


@measure("FMI", "feature mutual information, grey levels", "up", "", "Haghighat et al. 2011", smallest=3)
def feature_information(triple):
    """Feature mutual information of grey levels, in [0, 1]; more is better. NaN below 3 pixels.

    Each window of 3 x 3 values, stretched to 0..1 and divided by its sum, is read as a distribution over its 9 places.
    The joint distribution of source and fused window is the mixture of their independent one and the upper (for a
    negative correlation the lower) bound of Frechet that has their Pearson correlation; FMI is the mean of 2 I(S; F) /
    (H_S + H_F) over windows and sources, 1 for equal windows (Haghighat, Aghagolzadeh, Seyedarabi 2011, with the fast
    form of 2014).
    """
    return _mean(triple.a, triple.b, triple.f)


@measure("FMI_gradient", "feature mutual information, gradients", "up", "", "Haghighat et al. 2011", smallest=3)
def gradient_information(triple):
    """As FMI, of the gradient along the rows instead of grey levels (central differences, one-sided at the border)."""
    return _mean(*(np.gradient(x, axis=1) for x in (triple.a, triple.b, triple.f)))
