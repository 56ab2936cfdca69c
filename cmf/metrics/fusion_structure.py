"""Fusion measures of structure: visual information fidelity, structural similarity over one and five scales.

Axes: H rows, W columns. A, B the sources, F the fused picture, on the 8-bit scale (see `cmf.metrics.fusion`).
Moments are local: means under a Gaussian window that lies fully inside the picture.
"""

import cv2
import numpy as np

from cmf.metrics.fusion_triple import measure, ratio

NOISE = 2.0                                        # variance of the eye's noise in VIF, grey levels squared
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales of MS-SSIM
CONTRAST, LIGHT = (0.03 * 255) ** 2, (0.01 * 255) ** 2


def gaussian(size, sigma):
    """Gaussian window of `size` pixels (odd), summing to 1: (size,)."""
    x = np.arange(size) - size // 2
    window = np.exp(-x**2 / (2 * sigma**2))
    return window / window.sum()


def blurred(picture, window):
    """Mean under a separable window where it fits: (H, W) -> (H - size + 1, W - size + 1)."""
    edge = len(window) // 2
    full = cv2.sepFilter2D(picture, cv2.CV_64F, window, window, borderType=cv2.BORDER_CONSTANT)
    return full[edge:picture.shape[0] - edge, edge:picture.shape[1] - edge]


def local(pictures, window):
    """Local moments of a, b and f: means, variances and covariances with f, dicts by name, all (h, w)."""
    means = {name: blurred(picture, window) for name, picture in pictures.items()}
    variances = {name: blurred(picture * picture, window) - means[name] ** 2 for name, picture in pictures.items()}
    covariances = {name: blurred(pictures[name] * pictures["f"], window) - means[name] * means["f"] for name in "ab"}
    return means, variances, covariances


def _pictures(triple):
    return {name: getattr(triple, name) for name in "abf"}


@measure("VIF", "visual information fidelity", "up", "", "Sheikh and Bovik 2006", smallest=41)
def visual_information_fidelity(triple):
    """VIF(A; F) + VIF(B; F) in the pixel domain over four scales; more is better; 2 for identical pictures.

    VIF(S; F) = sum log(1 + g^2 s_S^2 / (s_v^2 + n)) / sum log(1 + s_S^2 / n) with noise variance n = 2, local gain g
    and residual s_v^2 of F on S (Sheikh and Bovik 2006); at scale k = 1..4 a Gaussian of 2^(5-k) + 1 pixels with a
    fifth of that as sigma, the picture halved between scales. Contrast can raise a term above 1. Of a constant source
    the term is 1 when F is constant too, else 0. NaN below 41 pixels: the fourth scale has no window.
    """
    pictures, kept, there = _pictures(triple), dict.fromkeys("ab", 0.0), dict.fromkeys("ab", 0.0)
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        window = gaussian(size, size / 5)
        if scale:
            pictures = {name: np.ascontiguousarray(blurred(p, window)[::2, ::2]) for name, p in pictures.items()}
        _, variances, covariances = local(pictures, window)
        for name in "ab":
            signal, noise = _fidelity(variances[name], variances["f"], covariances[name])
            kept[name] += float(np.log(signal, out=signal).sum())
            there[name] += float(np.log(noise, out=noise).sum())
    return sum(ratio(kept[name], there[name], triple.constant("f")) for name in "ab")


def _fidelity(source, fused, covariance, tiny=1e-10):
    """Signal-to-noise powers plus 1 of what F keeps of a source, and of the source: (h, w) each."""
    source, fused = np.maximum(source, 0), np.maximum(fused, 0)
    gain = covariance / (source + tiny)
    flat = source < tiny
    if flat.any():
        source[flat] = gain[flat] = 0
    gain[(fused < tiny) | (gain < 0)] = 0
    rest = np.maximum(np.where(gain > 0, fused - gain * covariance, fused), tiny)
    return 1 + gain**2 * source / (rest + NOISE), 1 + source / NOISE


def _similarity(pictures, window):
    """Mean structural similarity of each source with f, and the mean of its contrast-structure part: two dicts."""
    means, variances, covariances = local(pictures, window)
    whole, part = {}, {}
    for name in "ab":
        structure = (2 * covariances[name] + CONTRAST) / (variances[name] + variances["f"] + CONTRAST)
        both = means[name] * means["f"]
        light = (2 * both + LIGHT) / (means[name] ** 2 + means["f"] ** 2 + LIGHT)
        whole[name], part[name] = float((light * structure).mean()), float(structure.mean())
    return whole, part


def _first_scale(triple):
    return _similarity(_pictures(triple), gaussian(11, 1.5))


def _halved(picture):
    """Means of 2 x 2 pixels; where a side is odd, the first row and column are repeated before: (H/2, W/2) up."""
    odd = max(side % 2 for side in picture.shape)
    picture = cv2.copyMakeBorder(picture, odd, 0, odd, 0, cv2.BORDER_REPLICATE)
    h, w = (side // 2 for side in picture.shape)
    return cv2.resize(picture[:2 * h, :2 * w], (w, h), interpolation=cv2.INTER_AREA)


@measure("SSIM", "structural similarity", "up", "", "Wang et al. 2004", smallest=11)
def structural_similarity(triple):
    """Mean of SSIM(A, F) and SSIM(B, F), in [-1, 1]; more is better.

    SSIM = (2 m_S m_F + c1)(2 s_SF + c2) / ((m_S^2 + m_F^2 + c1)(s_S^2 + s_F^2 + c2)), c1 = (.01 * 255)^2,
    c2 = (.03 * 255)^2, averaged over the windows that fit: Gaussian of 11 pixels, sigma 1.5, population moments (Wang,
    Bovik, Sheikh, Simoncelli 2004). NaN below 11 pixels. Some papers print the sum of both.
    """
    whole, _ = triple.once(_first_scale)
    return (whole["a"] + whole["b"]) / 2


@measure("MS-SSIM", "structural similarity over five scales", "up", "", "Wang et al. 2003", smallest=161)
def multiscale_similarity(triple):
    """Mean of MS-SSIM(A, F) and MS-SSIM(B, F), in [0, 1]; more is better.

    Product over five scales of the mean contrast-structure part, at the last of the whole SSIM, to the powers .0448,
    .2856, .3001, .2363, .1333; between scales means of 2 x 2 pixels, where a side is odd the first row and column
    repeated before (Wang, Simoncelli, Bovik 2003). A negative mean counts as 0. NaN below 161 pixels: the fifth scale
    has no window.
    """
    window, pictures, out = gaussian(11, 1.5), _pictures(triple), {"a": 1.0, "b": 1.0}
    for scale, weight in enumerate(WEIGHTS):
        whole, part = _similarity(pictures, window) if scale else triple.once(_first_scale)
        for name in "ab":
            out[name] *= max(whole[name] if scale == 4 else part[name], 0.0) ** weight
        pictures = {name: _halved(picture) for name, picture in pictures.items()}
    return (out["a"] + out["b"]) / 2
