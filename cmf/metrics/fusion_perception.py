"""Fusion measures after the eye: contrast kept (Chen-Blum) and regions alike (Chen-Varshney), as in VIFB.

Axes: H rows, W columns; h, w a half of the spectrum. A, B the sources, F the fused picture. Both measures stretch each
picture to 0..255 and round it first: a picture's range does not count.
"""

import cv2
import numpy as np
from scipy import fft

from cmf.metrics.fusion_triple import measure, ratio, sobel

BLOCK = 16  # pixels: side of a region of Qcv


def _stretched(triple):
    """Pictures a, b, f stretched to 0..255 and rounded, halves up; a constant picture becomes 0: {name: (H, W)}."""
    out = {}
    for name in "abf":
        picture = getattr(triple, name)
        low, high = picture.min(), picture.max()
        out[name] = np.floor((picture - low) / (high - low) * 255 + 0.5) if high > low else np.zeros(triple.shape)
    return out


def _frequency(shape, rows, columns):
    """Radial frequency of the half spectrum of a real picture; `rows`, `columns` the frequency at Nyquist: (H, h)."""
    down = 2 * fft.fftfreq(shape[0])[:, None] * rows
    along = 2 * fft.rfftfreq(shape[1])[None] * columns
    return np.sqrt(down**2 + along**2)


def _filtered(picture, gain):
    return fft.irfft2(fft.rfft2(picture) * gain, s=picture.shape)


def _contrast(picture):
    """Masked local contrast C^3 / (C^2 + .0001), C = |G_2 * x / G_4 * x - 1|: (H, W)."""
    x = np.arange(-15, 16)
    near, far = (np.exp(-x**2 / (2 * s * s)) / (np.sqrt(2 * np.pi) * s) for s in (2, 4))
    near, far = (cv2.sepFilter2D(picture, cv2.CV_64F, g, g, borderType=cv2.BORDER_CONSTANT) for g in (near, far))
    c = np.abs(ratio(near, far, 1.0) - 1)
    square = c * c
    return c * square / (square + 1e-4)


@measure("Qcb", "contrast kept", "up", "", "Chen and Blum 2009, as in VIFB")
def contrast_kept(triple):
    """Local contrast kept after the eye's contrast sensitivity, in [0, 1]; more is better.

    Each picture, stretched to 0..255, passes a difference of Gaussians over radial frequency, exp(-(r/15.387)^2) -
    .7622 exp(-(r/1.3456)^2); C its masked local contrast. Mean of (C_A^2 Q_A + C_B^2 Q_B) / (C_A^2 + C_B^2), Q_S the
    smaller over the larger of C_S and C_F (Chen and Blum 2009; constants as in the toolbox VIFB). Where nothing has
    contrast, Q is 1 and both weights are 1/2.
    """
    r = _frequency(triple.shape, triple.shape[0] / 30, triple.shape[1] / 30)
    gain = np.exp(-(r / 15.387) ** 2) - 0.7622 * np.exp(-(r / 1.3456) ** 2)
    c = {name: _contrast(_filtered(picture, gain)) for name, picture in triple.once(_stretched).items()}
    kept = {name: ratio(np.minimum(c[name], c["f"]), np.maximum(c[name], c["f"]), 1.0) for name in "ab"}
    first, second = c["a"] ** 2, c["b"] ** 2
    share = ratio(first, first + second, 0.5)
    return float((share * kept["a"] + (1 - share) * kept["b"]).mean())


@measure("Qcv", "difference of regions", "down", "grey level squared", "Chen and Varshney 2007, as in VIFB")
def regions_apart(triple):
    """Visible difference between sources and fused picture, grey levels squared, from 0; less is better.

    Of each picture stretched to 0..255: mean squared difference A - F (and B - F) in blocks of 16 x 16 pixels after
    the contrast sensitivity 2.6 (.0192 + .144 r) exp(-(.144 r)^1.1) of Mannos and Sakrison, weighted by the sum of the
    fifth powers of the block's Sobel strengths in A (in B) (Chen and Varshney 2007; as in VIFB). Blocks at the lower
    and right border are filled up with 0. Where neither source has an edge, all blocks weigh the same.
    """
    pictures, total, weights, plain = triple.once(_stretched), 0.0, 0.0, 0.0
    r = 0.144 * _frequency(triple.shape, triple.shape[0] / 8, triple.shape[1] / 8)
    gain = 2.6 * (0.0192 + r) * np.exp(-r**1.1)
    for name in "ab":
        apart = _filtered(pictures[name] - pictures["f"], gain)
        apart = _blocks(apart * apart) / BLOCK**2  # (ceil(H/16), ceil(W/16))
        x, y = sobel(pictures[name], cv2.BORDER_CONSTANT)
        square = x * x + y * y
        weight = _blocks(square * square * np.sqrt(square))
        total += float((weight * apart).sum())
        weights += float(weight.sum())
        plain += float(apart.mean()) / 2
    return ratio(total, weights, plain)


def _blocks(values):
    """Sums over blocks of 16 x 16, filled up with 0."""
    h, w = (-(-n // BLOCK) for n in values.shape)
    full = np.zeros((h * BLOCK, w * BLOCK))
    full[:values.shape[0], :values.shape[1]] = values
    return full.reshape(h, BLOCK, w, BLOCK).sum((1, 3))
