"""The two cameras of the street world, and statistics that compare their pictures with real ones.

Axes: H, W rows and columns of a picture; 3 colours, red first.

Visible: linear radiance times exposure, vignetting, shot and read noise, square-root response, 8 bits.
With a square-root response shot noise has the same spread everywhere, so darkness, with its larger gain,
shows as one larger number. Infrared: band radiance, a gain and a black level of its own, column and pixel
pattern that stay with the camera, noise in time.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np

TILE = 512                         # pixels, side of the stored noise; pictures take random windows of it


def band_radiance(kelvin):
    """Radiance between 8 and 14 micrometres relative to a black body of 300 K, near (T / 300)^4.5 there."""
    return (np.asarray(kelvin, np.float32) / np.float32(300.0)) ** np.float32(4.5)


@lru_cache(maxsize=96)
def texture(seed: int, slope: float = -2.0, side: int = TILE) -> np.ndarray:
    """A periodic random field with power spectrum f^slope, mean 0, standard deviation 1: float32 (side, side)."""
    rng = np.random.default_rng((5, seed))
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    f[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * f ** (slope / 2), s=(side, side))
    field -= field.mean()
    return (field / field.std()).astype(np.float32)


@lru_cache(maxsize=4)
def _noise(channels: int) -> np.ndarray:
    rng = np.random.default_rng((6, channels))
    field = rng.standard_normal((2 * TILE, 2 * TILE, channels), dtype=np.float32)
    if channels == 3:                                # colours are interpolated on the chip: noise has a grain
        field = field + 0.6 * field.mean(axis=2, keepdims=True)
        field = field + 0.7 * np.roll(field, 1, axis=1)
        field = field + 0.7 * np.roll(field, 1, axis=0)
        field /= field.std()
    return field


def window(rng, size, channels: int) -> np.ndarray:
    """Standard normal noise (H, W, channels), a random window of a stored field; fresh where that is too small."""
    if max(size) > TILE:
        return rng.standard_normal((*size, channels), dtype=np.float32)
    y, x = rng.integers(2 * TILE - size[0] + 1), rng.integers(2 * TILE - size[1] + 1)
    return _noise(channels)[y:y + size[0], x:x + size[1]]


@lru_cache(maxsize=64)
def fixed_pattern(camera: int, size) -> np.ndarray:
    """Pattern of an infrared camera that stays from picture to picture, in units of its noise: (H, W)."""
    rng = np.random.default_rng((8, camera))
    column = rng.standard_normal(size[1])[None]
    y, x = np.mgrid[-1:1:size[0] * 1j, -1:1:size[1] * 1j]
    drift = rng.standard_normal() * (x * x + y * y) + rng.standard_normal() * x
    return (0.8 * column + 0.5 * rng.standard_normal(size) + 0.8 * drift).astype(np.float32)


def expose_visible(radiance, exposure: float, noise: float, falloff, rng) -> np.ndarray:
    """Visible radiance (H, W, 3) -> (H, W, 3) uint8. noise: spread in codes; falloff (H, W, 3) holds the vignetting."""
    signal = radiance * falloff
    signal *= exposure
    np.maximum(signal, 0.0, out=signal)
    np.sqrt(signal, out=signal)
    signal *= 255.0
    signal += noise * window(rng, signal.shape[:2], 3)
    np.clip(signal, 0.0, 255.0, out=signal)
    return (signal + 0.5).astype(np.uint8)


def expose_infrared(radiance, black: float, gain: float, noise: float, pattern, rng) -> np.ndarray:
    """Band radiance (H, W) -> (H, W) uint8: gain codes for each unit above black, noise and pattern in codes."""
    signal = (radiance - black) * gain
    signal += noise * (pattern + window(rng, signal.shape, 1)[..., 0])
    np.clip(signal, 0.0, 255.0, out=signal)
    return (signal + 0.5).astype(np.uint8)


def _kurtosis(values) -> float:
    off = values - values.mean()
    spread = np.mean(off * off)
    return np.mean(off**4) / spread**2 if spread > 0 else np.nan


def statistics(visible_grey, infrared) -> dict[str, float]:
    """Numbers that describe a registered pair of pictures, both (H, W) in grey levels 0 to 255.

    For each band (prefix visible_ or infrared_): mean; sd; entropy, bits of the 256-bin histogram; slope, of log
    power against log frequency between 0.02 and 0.4 cycles a pixel; dx, the mean size of horizontal differences;
    kurtosis of horizontal differences (3 for normal noise, NaN where all are equal). And correlation of the bands
    and of their gradients' sizes. Raises ValueError where the shapes differ or a picture is smaller than 32 pixels.
    """
    pair = {"visible": np.asarray(visible_grey, float), "infrared": np.asarray(infrared, float)}
    shapes = [band.shape for band in pair.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or min(shapes[0]) < 32:
        raise ValueError(f"pictures of shapes {shapes[0]} and {shapes[1]}: expected two equal ones (H, W), both >= 32")
    out, edges = {}, []
    for name, band in pair.items():
        share = np.bincount(np.clip(band, 0, 255).astype(int).ravel(), minlength=256) / band.size
        share = share[share > 0]
        across = np.diff(band, axis=1)
        hann = np.hanning(band.shape[0])[:, None] * np.hanning(band.shape[1])[None]
        power = np.abs(np.fft.fft2((band - band.mean()) * hann)) ** 2
        f = np.hypot(np.fft.fftfreq(band.shape[0])[:, None], np.fft.fftfreq(band.shape[1])[None])
        bins = np.geomspace(0.02, 0.4, 13)
        which = np.digitize(f, bins)
        mean = np.array([power[which == k].mean() if (which == k).any() else np.nan for k in range(1, 13)])
        good = np.isfinite(mean) & (mean > 0)
        slope = np.polyfit(np.log(np.sqrt(bins[1:] * bins[:-1]))[good], np.log(mean[good]), 1)[0] if good.sum() > 2 \
            else np.nan
        out |= {f"{name}_mean": band.mean(), f"{name}_sd": band.std(), f"{name}_entropy": -(share @ np.log2(share)),
                f"{name}_slope": slope, f"{name}_dx": np.abs(across).mean(),
                f"{name}_kurtosis": _kurtosis(across)}
        edges.append(np.hypot(*np.gradient(band)).ravel())
    grey = [band.ravel() for band in pair.values()]
    with np.errstate(invalid="ignore"):
        out["correlation"] = np.corrcoef(*grey)[0, 1]
        out["correlation_of_gradients"] = np.corrcoef(*edges)[0, 1]
    return {name: float(value) for name, value in out.items()}
