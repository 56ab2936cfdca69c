"""What every fusion measure starts from: the three pictures on the 8-bit scale, and a register of what a measure is.

Axes: H rows, W columns of a picture. A infrared (or any first source), B visible (or any second source), F fused.
"""

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

LEVELS = 256  # grey levels of a histogram


class Triple:
    """Two sources and the picture fused from them, float64 on the scale 0..255, and what several measures need of them.

    Args:
        infrared, visible, fused: (H, W) of one shape, integers or floats in 0..data_range; names of `sources` below:
            "a", "b" and "f". Values beyond the range by less than a millionth of it are rounding and clipped.
        data_range: the value of white: 255 for 8 bit, 65535 for 16 bit, 1 for floats in [0, 1]. It is never guessed.

    Raises:
        TypeError: values that are not real numbers.
        ValueError: shapes that differ, not two axes, no pixel, NaN or infinity, values outside 0..data_range, a
            data_range that is not a finite number above 0.

    Warns where all values are fractions in [0, 1] while the range is 255 or more: a picture in [0, 1], most likely.
    """

    def __init__(self, infrared, visible, fused, data_range):
        if not (np.ndim(data_range) == 0 and np.isrealobj(data_range) and 0 < float(data_range) < math.inf):
            raise ValueError(f"data_range must be the value of white, a finite number above 0 (255 for 8 bit, 1 for "
                             f"floats in [0, 1]), got {data_range!r}")
        given = {"infrared": infrared, "visible": visible, "fused": fused}
        given = {name: np.asarray(picture) for name, picture in given.items()}
        for name, picture in given.items():
            _check(name, picture, float(data_range))
        if len({picture.shape for picture in given.values()}) > 1:
            raise ValueError("pictures of different sizes: " + ", ".join(f"{name} {picture.shape}" for name, picture
                             in given.items()) + "; resize or crop them to one (rows, columns)")
        if data_range >= 255 and all(_unit(picture) for picture in given.values()):
            warnings.warn(f"all values lie in [0, 1] but data_range is {data_range:g}: such pictures are almost black; "
                          "pass data_range=1 if 1 is white", stacklevel=3)
        self.a, self.b, self.f = (_scaled(picture, float(data_range)) for picture in given.values())  # (H, W)
        self.shape = self.f.shape
        self._made = {}

    def once(self, make):
        """make(self), computed once: what several measures share."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    @functools.cached_property
    def levels(self):
        """Pictures a, b, f as grey levels 0..255, halves rounded up: {name: (H*W,) intp}."""
        return {name: np.floor(getattr(self, name).ravel() + 0.5).astype(np.intp) for name in "abf"}

    @functools.cached_property
    def counts(self):
        """Histograms of a, b, f: {name: (256,)}."""
        return {name: np.bincount(levels, minlength=LEVELS) for name, levels in self.levels.items()}

    def constant(self, name: str) -> bool:
        """Is the picture "a", "b" or "f" of one value?"""
        picture = getattr(self, name)
        return bool((picture == picture.flat[0]).all())


def _check(name, picture, white):
    if picture.ndim != 2:
        raise ValueError(f"the {name} picture has shape {picture.shape}; expected two axes (rows, columns): take the "
                         "luma of a colour picture, one picture at a time")
    if picture.size == 0:
        raise ValueError(f"the {name} picture has shape {picture.shape}: no pixel")
    if picture.dtype.kind not in "uifb":
        raise TypeError(f"the {name} picture holds {picture.dtype}; expected integers or floats")
    low, high = float(picture.min()), float(picture.max())
    if not math.isfinite(low + high):
        bad = np.count_nonzero(~np.isfinite(picture))
        raise ValueError(f"the {name} picture holds {bad} values that are NaN or infinite; "
                         "mend or leave them out first")
    if low < -1e-6 * white or high > (1 + 1e-6) * white:
        raise ValueError(f"the {name} picture has values {low:g}..{high:g}, outside 0..{white:g}; pass the data_range "
                         "that its white has, or clip it")


def _unit(picture):
    return picture.dtype.kind == "f" and bool(0 < picture.max() <= 1 and (picture != np.round(picture)).any())


def _scaled(picture, white):
    """The picture on the scale 0..255; values that are whole levels but for the rounding of float32 become whole."""
    out = picture.astype(np.float64)
    if white != 255:
        out *= 255 / white
    if picture.dtype.kind == "f":
        whole = np.rint(out)
        if np.abs(out - whole).max() < 1e-4:
            out = whole
    return np.clip(out, 0, 255, out=out)


def sobel(picture, border):
    """Sobel differences (x along columns, y along rows), each (H, W), unscaled: a ramp of 1 a pixel gives 8."""
    smooth, change = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    return (cv2.sepFilter2D(picture, cv2.CV_64F, change, smooth, borderType=border),
            cv2.sepFilter2D(picture, cv2.CV_64F, smooth, change, borderType=border))


def ratio(numerator, denominator, otherwise=0.0):
    """numerator / denominator, and `otherwise` where the denominator is 0. Numbers or arrays of one shape."""
    if np.ndim(denominator) == 0:
        return float(numerator) / float(denominator) if denominator != 0 else float(otherwise)
    out = np.full(np.shape(denominator), otherwise, np.float64)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


@dataclass(frozen=True)
class Measure:
    """What a table needs to know about a measure.

    name: its key. title: a few words. better: "up" or "down". unit: "" where it has none. source: whose definition.
    smallest: the shorter side of a picture, pixels, below which the measure is not defined (NaN).
    compute: function of a `Triple`.
    """

    name: str
    title: str
    better: str
    unit: str
    source: str
    smallest: int = 1
    compute: Callable[[Triple], float] = field(default=None, repr=False, compare=False)

    def of(self, triple: Triple) -> float:
        """The measure of a triple; NaN where a side is shorter than `smallest`."""
        return float(self.compute(triple)) if min(triple.shape) >= self.smallest else math.nan


def measure(name, title, better, unit, source, smallest=1):
    """Decorator: a function of a `Triple` becomes one of (infrared, visible, fused, data_range) with a `.measure`."""
    def wrap(compute):
        fact = Measure(name, title, better, unit, source, smallest, compute)

        @functools.wraps(compute)
        def public(infrared, visible, fused, data_range):
            return fact.of(Triple(infrared, visible, fused, data_range))

        del public.__wrapped__   # so that help() shows the arguments it takes
        public.measure = fact
        return public
    return wrap
