"""A generated pair and what is fused from it, for the tests of the fusion measures."""

import numpy as np


def pair():
    """Infrared and visible picture (192, 256), levels 0..255, as tests/reference/fusion_metrics.json says."""
    y, x = np.mgrid[:192, :256].astype(float)
    warm = sum(a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s**2))
               for a, cx, cy, s in ((150, 70, 60, 9), (120, 180, 120, 14), (90, 120, 150, 6)))
    infrared = 40 + 20 * np.sin(x / 31) * np.cos(y / 23) + warm + 6 * np.sin(1.7 * x + 0.9 * y)
    visible = (110 + 45 * np.sin(x / 7 + np.sin(y / 19)) + 35 * np.sign(np.sin(x / 17) * np.sin(y / 11))
               + 10 * np.sin(2.53 * x + 1.3 * y))
    return tuple(np.clip(np.floor(picture + 0.5), 0, 255) for picture in (infrared, visible))


def mean(infrared, visible):
    """Their mean, halves rounded up."""
    return np.floor((infrared + visible) / 2 + 0.5)


def triples():
    """The pair with each fused picture of the reference."""
    a, b = pair()
    return {"mean": (a, b, mean(a, b)), "max": (a, b, np.maximum(a, b))}
