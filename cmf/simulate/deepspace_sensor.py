"""The sensor of the deep-space simulator and the world of each split: optics, background, noise, stars.

Axes: p pictures; y, x pixels (centres at integers); k point sources. Light and noise are in counts.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import erf

VERSION = 1                       # part of cache keys: raise it when the simulator's numbers change
SPLITS = ("train", "validation", "test", "shift")
READ_NOISE = 8.0                  # counts


@dataclass(frozen=True)
class World:
    """What differs from split to split: sensor and orbits."""

    background: float              # counts
    slope: tuple[float, float]     # counts over the detector along x and y
    psf: float                     # pixels, standard deviation of the point-spread function
    column: float                  # counts, standard deviation of the column pattern
    altitude: tuple[float, float]  # km, lowest and highest
    edge: tuple[float, float]  # shares of the window between which the shadow's edge is passed
    entering: float                # share of bodies whose edge is the entry
    noise: float = 1.0             # factor on the sequence's noise and on the read noise


WORLDS = {
    "train": World(400.0, (60.0, 20.0), 1.20, 2.0, (700, 1500), (-0.4, 0.9), 0.6),
    "validation": World(430.0, (-40.0, 50.0), 1.22, 2.2, (750, 1450), (-0.4, 0.9), 0.6),
    "test": World(380.0, (10.0, -70.0), 1.18, 1.8, (700, 1550), (-0.4, 0.9), 0.6),
    "shift": World(460.0, (-90.0, -80.0), 1.55, 4.0, (2200, 3400), (-0.8, 0.4), 0.9, 1.5),
}


def _profile(centre, psf, start, count):
    """Share of a Gaussian's light in each of `count` pixels from `start` on: (k, count)."""
    edges = (start[:, None] + np.arange(count + 1) - 0.5 - centre[:, None]) / (psf * np.sqrt(2.0))
    return 0.5 * np.diff(erf(edges), axis=1)


def render_points(shape, x, y, flux, psf: float, plane=None) -> np.ndarray:
    """Point sources on pictures, integrated over pixels, float64.

    shape: (p, H, W), p pictures; x, y: (k,) pixels; flux: (k,) counts in all; psf: pixels, standard
    deviation; plane: (k,) picture of each source, 0 where not given. Light beyond six psf (under 1e-8 of it)
    is left out.
    """
    x, y, flux = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (x, y, flux))
    plane = np.zeros(len(x), dtype=np.int64) if plane is None else np.asarray(plane)
    reach = int(np.ceil(6.0 * psf))
    count = 2 * reach + 1
    left, top = np.rint(x).astype(np.int64) - reach, np.rint(y).astype(np.int64) - reach
    picture = np.zeros((shape[0], shape[1] + 2 * count, shape[2] + 2 * count))  # a margin all round
    inside = (left > -count) & (left < shape[2]) & (top > -count) & (top < shape[1])
    x, y, flux, left, top, plane = (v[inside] for v in (x, y, flux, left, top, plane))
    across, down = _profile(x, psf, left, count), _profile(y, psf, top, count)             # (k, count) each
    for i in range(len(x)):
        rows, columns = slice(top[i] + count, top[i] + 2 * count), slice(left[i] + count, left[i] + 2 * count)
        picture[plane[i], rows, columns] += np.outer(flux[i] * down[i], across[i])
    return picture[:, count:-count, count:-count]


def boxes_around(positions, side: int = 11) -> np.ndarray:
    """Boxes of `side` x `side` pixels around positions (n, 2): int64 (n, 4), x0, y0, x1, y1, ends outside."""
    corner = np.rint(np.asarray(positions)).astype(np.int64) - side // 2
    return np.concatenate([corner, corner + side], axis=1)


@lru_cache(maxsize=8)
def fixed_pattern(split: str, size: int) -> np.ndarray:
    """Background and what calibration leaves of columns and pixels [counts], (size, size); one a split."""
    world = WORLDS[split]
    rng = np.random.default_rng([VERSION, SPLITS.index(split), size, 77])
    ramp = (np.arange(size) - 0.5 * (size - 1)) / size
    pattern = world.background + world.slope[0] * ramp[None, :] + world.slope[1] * ramp[:, None]
    pattern = pattern + world.column * rng.normal(size=(1, size)) + 3.0 * rng.normal(size=(size, size))
    pattern.setflags(write=False)
    return pattern


def noise_level(split: str) -> float:
    """Standard deviation of an empty pixel [counts]: shot noise of the background and read noise."""
    world = WORLDS[split]
    return float(np.sqrt(world.background + (READ_NOISE * world.noise) ** 2))


def peak_share(psf: float) -> float:
    """Share of a source's light in its brightest pixel, source at the pixel's centre."""
    return float(erf(0.5 / (psf * np.sqrt(2.0))) ** 2)


def expose(light, split, rng) -> np.ndarray:
    """Counts of frames whose expected light is given: shot noise, read noise, whole numbers, float32."""
    read = rng.normal(0.0, READ_NOISE * WORLDS[split].noise, light.shape)
    counts = rng.poisson(np.maximum(light, 0.0)) + read
    return np.clip(np.rint(counts), 0, 65535).astype(np.float32)


def draw_stars(rng, split, count, width, height):
    """x, y and flux of stars: uniform places, counts above a flux as flux^-1.2, peaks of 2 to 200 sigma."""
    world = WORLDS[split]
    peak = np.minimum(2.0 * rng.uniform(size=count) ** (-1.0 / 1.2), 200.0)
    return (rng.uniform(-8, width + 8, count), rng.uniform(-8, height + 8, count),
            peak * noise_level(split) / peak_share(world.psf))
