"""Fusion measures of information and statistics: entropy, contrast, mutual information, correlation, error.

Axes: H rows, W columns. A, B the sources, F the fused picture, on the 8-bit scale (see `cmf.metrics.fusion`).
"""

import math

import numpy as np

from cmf.metrics.fusion_triple import LEVELS, measure, ratio


def _entropy(counts):
    """Entropy of a histogram, nats."""
    p = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(p * np.log(p)).sum()))


def _shared(triple, name):
    """Mutual information of a source and the fused picture, nats."""
    joint = np.bincount(triple.levels[name] * LEVELS + triple.levels["f"], minlength=LEVELS**2)  # (256*256,)
    return max(0.0, _entropy(triple.counts[name]) + _entropy(triple.counts["f"]) - _entropy(joint))


def _correlation(x, y):
    """Pearson correlation of two arrays about their means; 0 where one is constant."""
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(np.vdot(x, x))) * math.sqrt(float(np.vdot(y, y)))
    return float(np.vdot(x, y)) / scale if scale > 1e-9 * x.size else 0.0


@measure("EN", "entropy", "up", "bit", "Shannon 1948")
def entropy(triple):
    """Entropy of the fused picture's 256 grey levels, bits in [0, 8]; more is better.

    EN = -sum p log2 p (Shannon 1948). Noise raises it too. Values are rounded to levels, halves up.
    """
    return _entropy(triple.counts["f"]) / math.log(2)


@measure("SD", "standard deviation", "up", "grey level", "Rao 1997")
def deviation(triple):
    """Population standard deviation of the fused picture, grey levels in [0, 127.5]; more contrast is better."""
    return float(triple.f.std())


@measure("SF", "spatial frequency", "up", "grey level", "Eskicioglu and Fisher 1995")
def spatial_frequency(triple):
    """Spatial frequency of the fused picture, grey levels; more detail (or noise) is better.

    SF = sqrt(mean dx^2 + mean dy^2), each mean over the differences to the next pixel that exist (Eskicioglu and
    Fisher 1995). A picture of one row or column has no difference that way; 0 stands for it.
    """
    total = 0.0
    for axis in (0, 1):
        step = np.diff(triple.f, axis=axis)
        total += float(np.vdot(step, step)) / max(step.size, 1)
    return math.sqrt(total)


@measure("AG", "average gradient", "up", "grey level", "Cui et al. 2015")
def average_gradient(triple):
    """Mean gradient of the fused picture, grey levels a pixel; more is better.

    AG = mean sqrt((gx^2 + gy^2) / 2), central differences, one-sided at the borders, over all H*W pixels (Cui et al.
    2015). Along an axis of one pixel the gradient is 0.
    """
    squares = np.zeros(triple.shape)
    for axis in (0, 1):
        if triple.shape[axis] > 1:
            squares += np.gradient(triple.f, axis=axis) ** 2
    return float(np.sqrt(squares / 2).mean())


@measure("MI", "mutual information", "up", "nat", "Qu et al. 2002")
def mutual_information(triple):
    """MI(A; F) + MI(B; F) of grey levels, nats in [0, 11.1]; more is better.

    From joint histograms of 256 x 256 levels (Qu, Zhang, Yan 2002). In bits it is 1.4427 times as large.
    """
    return _shared(triple, "a") + _shared(triple, "b")


@measure("NMI", "normalised mutual information", "up", "", "Hossny et al. 2008")
def normalised_mutual_information(triple):
    """2 [MI(A; F) / (H_A + H_F) + MI(B; F) / (H_B + H_F)], in [0, 2]; more is better.

    Hossny, Nahavandi, Creighton 2008. Where source and fused picture are both constant, the share is that of
    identical pictures, 1/2.
    """
    own = _entropy(triple.counts["f"])
    return 2 * sum(ratio(_shared(triple, name), _entropy(triple.counts[name]) + own, 0.5) for name in "ab")


@measure("CC", "correlation coefficient", "up", "", "Pearson 1895")
def correlation(triple):
    """Mean of the Pearson correlations of each source with the fused picture, in [-1, 1]; more is better.

    The correlation with a constant picture is taken as 0.
    """
    return (_correlation(triple.a, triple.f) + _correlation(triple.b, triple.f)) / 2


@measure("SCD", "sum of the correlations of differences", "up", "", "Aslantas and Bendes 2015")
def difference_correlation(triple):
    """corr(F - B, A) + corr(F - A, B), in [-2, 2]; more is better (Aslantas and Bendes 2015).

    What was added to one source should resemble the other. A correlation with a constant picture is taken as 0: so
    SCD is 0 for three identical pictures.
    """
    return _correlation(triple.f - triple.b, triple.a) + _correlation(triple.f - triple.a, triple.b)


@measure("PSNR", "peak signal-to-noise ratio", "up", "dB", "mean of both squared errors")
def peak_signal_to_noise(triple):
    """10 log10(255^2 / mean of the two mean squared errors), dB; more is better, infinite for identical pictures.

    The mean picture has the largest PSNR of all: it judges nearness, not fusion.
    """
    error = sum(float(np.vdot(d, d)) for d in (triple.a - triple.f, triple.b - triple.f)) / (2 * triple.f.size)
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


@measure("CE", "cross entropy", "down", "bit", "Bulanon et al. 2009, as in VIFB")
def cross_entropy(triple):
    """Mean over the sources of sum p_S log2(p_S / p_F) over the levels that both have, bits; less is better.

    p are histograms of 256 levels (Bulanon, Burks, Alchanatis 2009; as the toolbox VIFB computes it). Levels that
    only one picture has are left out, so that it is finite, may be negative, and is 0 where no level is common.
    """
    total = 0.0
    for name in "ab":
        source, fused = triple.counts[name], triple.counts["f"]
        common = (source > 0) & (fused > 0)
        p, q = source[common] / triple.f.size, fused[common] / triple.f.size
        total += float((p * np.log2(p / q)).sum())
    return total / 2
