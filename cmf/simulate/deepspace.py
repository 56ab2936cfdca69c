"""Simulated deep-space infrared targets: two frames and a temperature/intensity sequence of each, with truth.

Axes: n targets; f = 2 frames, A then B; y, x pixels (centres at integers); t = 16 instants; c = 2 channels.

One world, two renderings. Frames measure irradiance, eps A L(T) / R^2 (A projected area, L band radiance, R range),
and the angular motion v / R. The sequence measures T and an intensity whose range and gain are not calibrated.
The size of a sphere therefore needs the flux and the motion of the frames *and* the temperature of the sequence.

| pair | what separates it | where |
|---|---|---|
| two spheres | emissivity times area = flux R^2 / L(T) | flux and motion in frames, T in sequence |
| sphere, plate | tumbling modulates the projected area | intensity sequence; weakly flux A against B |
| sphere, platform | heat made inside and a large heat capacity keep T steady in the shadow | temperature sequence |
| sphere, float | a tiny heat capacity lets T jump at the shadow's edge | temperature sequence |
| plate, platform | strength of modulation; steadiness of T | sequence |
| plate, float | strength of modulation; speed of cooling | sequence |
| platform, float | heat capacity; internal heat | temperature sequence |

A body that stays in sunlight all the time keeps its temperature whatever its heat capacity: then only the flux
speaks. The class names of the last three labels are this project's reading of the published strings.
Everything made here is simulated and says so where it is drawn.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from scipy.special import erf

from cmf.simulate.deepspace_files import write_scene, write_training
from cmf.simulate.deepspace_physics import (
    CLASSES,
    NAMES,
    Passage,
    band_radiance,
    draw_bodies,
    temperatures,
)

__all__ = ["CLASSES", "NAMES", "SPLITS", "VERSION", "Dials", "Scene", "Targets", "boxes_around", "render_points",
           "simulate_scene", "simulate_targets", "write_scene", "write_training"]

VERSION = 1                       # part of cache keys: raise it when the numbers change
SPLITS = ("train", "validation", "test", "shift")
CHIP = 32                         # pixels, side of a target's picture
DETECTOR = 1024                   # pixels, side of the detector whose fixed pattern the chips are cut from
STEPS = 16                        # samples of a sequence
WINDOW = 720.0                    # s, length of the observation
FRAME_A, FRAME_GAP = 360.0, 4.0   # s, instant of frame A; B follows after the gap
RANGE = 80e3                      # m, nominal range, assumed by the radiometer's intensity
PIXEL = 1e-4                      # rad, angle of a pixel
SPEED = 11.0                      # m/s, median speed across the line of sight: 5.5 pixels between A and B
READ_NOISE = 8.0                  # counts


@dataclass(frozen=True)
class Dials:
    """Settings of the simulated sensor; all continuous, all meant to be swept."""

    psnr: float = 15.0             # peak signal-to-noise in a frame of a 0.6 m sphere at 260 K and nominal range
    sequence_noise: float = 5.0    # K, error of a temperature sample; an intensity errs by 2 % for each kelvin
    missing: float = 0.15          # 0 to 1, share of sequence samples that are missing
    stars: float = 300.0           # stars of peak signal-to-noise above 2 in a frame of 1024 x 1024
    redundancy: float = 0.0        # 0 to 1: 1 = the sequence's intensity is calibrated and tells size by itself
    gain_spread: float = 1.0       # standard deviation of the log of the radiometer's gain
    speed_spread: float = 0.13     # standard deviation of the log of the speed: how well motion tells range
    drift: float = 0.5             # pixels, common motion of the star field between A and B, each axis

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"dial {field.name}={value!r}: expected a finite number, 0 or larger")
        for name in ("missing", "redundancy"):
            if getattr(self, name) > 1:
                raise ValueError(f"dial {name}={getattr(self, name)!r}: expected a share between 0 and 1")


@dataclass(frozen=True)
class World:
    """What differs from split to split: sensor and orbits."""

    background: float              # counts
    slope: tuple[float, float]     # counts over the detector along x and y
    psf: float                     # pixels, standard deviation of the point-spread function
    column: float                  # counts, standard deviation of the column pattern
    altitude: tuple[float, float]  # km, lowest and highest
    edge: tuple[float, float]      # shares of the window between which an edge of the Earth's shadow is passed
    entering: float                # share of bodies whose edge is the entry
    noise: float = 1.0             # factor on the sequence's noise and on the read noise


WORLDS = {
    "train": World(400.0, (60.0, 20.0), 1.20, 2.0, (700, 1500), (-0.4, 0.9), 0.6),
    "validation": World(430.0, (-40.0, 50.0), 1.22, 2.2, (750, 1450), (-0.4, 0.9), 0.6),
    "test": World(380.0, (10.0, -70.0), 1.18, 1.8, (700, 1550), (-0.4, 0.9), 0.6),
    "shift": World(460.0, (-90.0, -80.0), 1.55, 4.0, (2200, 3400), (-0.8, 0.4), 0.9, 1.5),
}


@dataclass(frozen=True)
class Targets:
    """n simulated targets. `truth` maps names to arrays whose first axis is n (see `simulate_targets`)."""

    images: np.ndarray             # float32 (n, 2, 32, 32), whole counts
    times: np.ndarray              # float32 (n, 16), s
    sequences: np.ndarray          # float32 (n, 16, 2), K and W/sr, NaN where missing
    labels: np.ndarray             # int64 (n,), index into CLASSES
    ids: tuple[str, ...]
    truth: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Scene:
    """Two frames with n targets among stars; boxes are x0, y0, x1, y1 with x1 and y1 outside."""

    frames: np.ndarray             # float32 (2, H, W), whole counts
    boxes_a: np.ndarray            # int64 (n, 4)
    boxes_b: np.ndarray            # int64 (n, 4)
    positions_a: np.ndarray        # float32 (n, 2), x and y
    positions_b: np.ndarray        # float32 (n, 2)
    labels: np.ndarray             # int64 (n,)
    sequences: np.ndarray          # float32 (n, 16, 2)
    times: np.ndarray              # float32 (n, 16)
    truth: dict[str, np.ndarray]
    stars: np.ndarray              # float32 (m, 3), x and y in A and flux in counts
    drift: np.ndarray              # float32 (2,), pixels from A to B, common to all stars


def boxes_around(positions, side: int = 11) -> np.ndarray:
    """Boxes of `side` x `side` pixels around positions (n, 2): int64 (n, 4), x0, y0, x1, y1, ends outside."""
    corner = np.rint(np.asarray(positions)).astype(np.int64) - side // 2
    return np.concatenate([corner, corner + side], axis=1)


def _profile(centre, psf, start, count):
    """Share of a Gaussian's light in each of `count` pixels from `start` on: (k, count)."""
    edges = (start[:, None] + np.arange(count + 1) - 0.5 - centre[:, None]) / (psf * np.sqrt(2.0))
    return 0.5 * np.diff(erf(edges), axis=1)


def render_points(shape, x, y, flux, psf: float, plane=None) -> np.ndarray:
    """Point sources on pictures, integrated over pixels, float64.

    shape: (p, H, W), p pictures; x, y: (k,) pixels; flux: (k,) counts in all; psf: pixels, standard deviation;
    plane: (k,) picture of each source, 0 where not given. Light beyond six psf is left out (under 1e-8 of it).
    """
    x, y, flux = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (x, y, flux))
    plane = np.zeros(len(x), dtype=np.int64) if plane is None else np.asarray(plane)
    reach = int(np.ceil(6.0 * psf))
    count = 2 * reach + 1
    left, top = np.rint(x).astype(np.int64) - reach, np.rint(y).astype(np.int64) - reach
    picture = np.zeros((shape[0], shape[1] + 2 * count, shape[2] + 2 * count))             # a margin all round
    inside = (left > -count) & (left < shape[2]) & (top > -count) & (top < shape[1])
    x, y, flux, left, top, plane = (v[inside] for v in (x, y, flux, left, top, plane))
    across, down = _profile(x, psf, left, count), _profile(y, psf, top, count)             # (k, count) each
    for i in range(len(x)):
        rows, columns = slice(top[i] + count, top[i] + 2 * count), slice(left[i] + count, left[i] + 2 * count)
        picture[plane[i], rows, columns] += np.outer(flux[i] * down[i], across[i])
    return picture[:, count:-count, count:-count]


@lru_cache(maxsize=8)
def _fixed_pattern(split: str, size: int) -> np.ndarray:
    """Background and what calibration leaves of columns and pixels [counts], (size, size); one a split."""
    world = WORLDS[split]
    rng = np.random.default_rng([VERSION, SPLITS.index(split), size, 77])
    ramp = (np.arange(size) - 0.5 * (size - 1)) / size
    pattern = world.background + world.slope[0] * ramp[None, :] + world.slope[1] * ramp[:, None]
    pattern = pattern + world.column * rng.normal(size=(1, size)) + 3.0 * rng.normal(size=(size, size))
    pattern.setflags(write=False)
    return pattern


def _noise(split: str) -> float:
    world = WORLDS[split]
    return float(np.sqrt(world.background + (READ_NOISE * world.noise) ** 2))


def _peak_share(psf: float) -> float:
    """Share of a source's light in its brightest pixel, source at the pixel's centre."""
    return float(erf(0.5 / (psf * np.sqrt(2.0))) ** 2)


def _expose(light, split, rng) -> np.ndarray:
    """Counts of frames whose expected light is given: shot noise, read noise, whole numbers, float32."""
    counts = rng.poisson(np.maximum(light, 0.0)) + rng.normal(0.0, READ_NOISE * WORLDS[split].noise, light.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.float32)


def _facts(labels, split, rng, dials, snr=None):
    """Physical truth of targets and what their sequences and frames will show; snr: peak in the dimmer frame."""
    world, n = WORLDS[split], len(labels)
    bodies = draw_bodies(labels, rng)
    edge, duration = WINDOW * rng.uniform(*world.edge, n), rng.uniform(1700.0, 2100.0, n)
    entry = np.where(rng.uniform(size=n) < world.entering, edge, edge - duration)
    passage = Passage(altitude=rng.uniform(*world.altitude, n), entry=entry, exit=entry + duration)
    spacing = WINDOW / STEPS
    times = spacing * (np.arange(STEPS) + 0.5 + rng.uniform(-0.35, 0.35, (n, STEPS)))      # (n, t)
    every = np.concatenate([times, np.full((n, 1), FRAME_A), np.full((n, 1), FRAME_A + FRAME_GAP)], axis=1)
    order = np.argsort(every, axis=1)
    warm = np.empty_like(every)
    np.put_along_axis(warm, order, temperatures(bodies, passage, np.take_along_axis(every, order, 1)), 1)
    area = bodies.projected_area(every)                                                    # (n, t + 2)
    intensity = bodies.emissivity[:, None] * area * band_radiance(warm)                    # W/sr
    per_intensity = _flux_per_intensity(split, dials)                                      # counts per W/sr at RANGE
    distance = RANGE * np.exp(rng.uniform(np.log(0.6), np.log(1.7), n))
    if snr is not None:
        dimmer = intensity[:, STEPS:].min(axis=1) * per_intensity * _peak_share(world.psf) / _noise(split)
        distance = RANGE * np.sqrt(dimmer / snr)
    speed = SPEED * np.exp(dials.speed_spread * np.clip(rng.normal(size=n), -2.2, 2.2))
    heading = rng.uniform(0.0, 2.0 * np.pi, n)
    if snr is not None:                                                                    # 2.5 to 12 pixels
        speed = np.clip(speed, 2.5 * distance * PIXEL / FRAME_GAP, 12.0 * distance * PIXEL / FRAME_GAP)
    motion = (speed * FRAME_GAP / (distance * PIXEL))[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
    flux = per_intensity * intensity[:, STEPS:] * ((RANGE / distance) ** 2)[:, None]       # (n, 2) counts
    gain = np.exp(dials.gain_spread * rng.normal(size=n))
    apparent = intensity[:, :STEPS] * ((gain * (RANGE / distance) ** 2) ** (1.0 - dials.redundancy))[:, None]
    truth = {
        "size": bodies.sides.max(axis=1), "sides": bodies.sides, "surface": bodies.surface,
        "area": area[:, :STEPS], "emissivity": bodies.emissivity, "absorptance": bodies.absorptance,
        "heat_capacity": bodies.capacity, "internal_heat": bodies.internal, "spin_period": bodies.period,
        "altitude": passage.altitude, "shadow_entry": passage.entry, "shadow_exit": passage.exit,
        "range": distance, "speed": speed, "gain": gain, "temperature": warm[:, :STEPS],
        "frame_temperature": warm[:, STEPS:], "intensity": intensity[:, :STEPS], "apparent_intensity": apparent,
        "motion": motion, "flux": flux, "snr": flux * _peak_share(world.psf) / _noise(split),
    }
    return times, _measure(warm[:, :STEPS], apparent, world, rng, dials), truth


def _flux_per_intensity(split, dials) -> float:
    reference = 0.8 * np.pi * 0.3**2 * float(band_radiance(260.0))                         # W/sr
    return dials.psnr * _noise(split) / _peak_share(WORLDS[split].psf) / reference


def _measure(warm, apparent, world, rng, dials) -> np.ndarray:
    """Sequences as the radiometer reports them: (n, t, c). At least two samples stay unless all are missing."""
    error = dials.sequence_noise * world.noise
    bias = 0.5 * error * rng.normal(size=(len(warm), 1))
    warm = warm + bias + error * rng.normal(size=warm.shape)
    apparent = apparent * (1.0 + 0.02 * error * rng.normal(size=apparent.shape))
    draw = rng.uniform(size=warm.shape)
    lost = draw < dials.missing
    if dials.missing < 1:
        lost &= draw < np.sort(draw, axis=1)[:, -2:-1]
    return np.where(lost[..., None], np.nan, np.stack([warm, apparent], axis=-1)).astype(np.float32)


def _stars(rng, dials, split, count, width, height):
    """x, y and flux of stars: uniform places, numbers falling with brightness as flux^-1.2, peaks 2 to 200 sigma."""
    world = WORLDS[split]
    peak = np.minimum(2.0 * rng.uniform(size=count) ** (-1.0 / 1.2), 200.0)
    return (rng.uniform(-8, width + 8, count), rng.uniform(-8, height + 8, count),
            peak * _noise(split) / _peak_share(world.psf))


def _check(n, split, name):
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"{name}={n!r}: expected a whole number of targets, 1 or larger")


def _labels(n, rng):
    return rng.permutation(np.arange(n) % len(CLASSES)).astype(np.int64)


def simulate_targets(n: int, split: str = "train", seed: int = 0, dials: Dials | None = None) -> Targets:
    """n targets, classes balanced to within one, in shuffled order.

    split: one of SPLITS, each a world of its own (fixed pattern, background, optics, orbits, random numbers);
    `shift` is colder, noisier and less sharp. seed: 0 or larger; equal arguments give equal bytes.
    truth: SI units; size, sides, surface, area (n, 16), emissivity, absorptance, heat_capacity [J K-1 m-2],
    internal_heat [W m-2], spin_period, altitude [km], shadow_entry, shadow_exit, range, speed, gain, temperature (n, 16)
    and intensity (n, 16) without noise, apparent_intensity (n, 16), frame_temperature (n, 2), motion (n, 2) and
    drift (n, 2) [pixels], flux (n, 2) [counts], snr (n, 2), position_a, position_b (n, 2) [pixels].
    Raises ValueError on a bad number, split or dial.

    >>> targets = simulate_targets(12, split="test", seed=3)
    >>> targets.images.shape, targets.sequences.shape, sorted(targets.labels.tolist())[:3]
    ((12, 2, 32, 32), (12, 16, 2), [0, 0, 1])
    """
    _check(n, split, "n")
    dials = Dials() if dials is None else dials
    rng = np.random.default_rng([VERSION, SPLITS.index(split), seed, 1])
    labels = _labels(n, rng)
    times, sequences, truth = _facts(labels, split, rng, dials)
    centre = 0.5 * (CHIP - 1)
    position_a = centre + rng.uniform(-2.0, 2.0, (n, 2))
    drift = dials.drift * np.clip(rng.normal(size=(n, 2)), -2.0, 2.0)
    position_b = position_a + truth["motion"] + drift
    truth |= {"position_a": position_a, "position_b": position_b, "drift": drift}

    psf = WORLDS[split].psf
    both = np.concatenate([position_a, position_b])
    plane = np.concatenate([2 * np.arange(n), 2 * np.arange(n) + 1])
    light = render_points((2 * n, CHIP, CHIP), both[:, 0], both[:, 1], truth["flux"].T.reshape(-1), psf, plane)
    owner = np.repeat(np.arange(n), rng.poisson(dials.stars * (CHIP + 16) ** 2 / DETECTOR**2, n))
    x, y, flux = _stars(rng, dials, split, len(owner), CHIP, CHIP)
    for frame, moved in ((0, 0.0), (1, drift[owner])):
        at = np.stack([x, y], -1) + moved
        light += render_points((2 * n, CHIP, CHIP), at[:, 0], at[:, 1], flux, psf, 2 * owner + frame)
    pattern = _fixed_pattern(split, DETECTOR)
    top, left = rng.integers(0, DETECTOR - CHIP, (2, n))
    span = np.arange(CHIP)
    patch = pattern[(top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :]]  # (n, y, x)
    images = _expose(light.reshape(n, 2, CHIP, CHIP) + patch[:, None], split, rng)
    return Targets(images=images, times=times.astype(np.float32), sequences=sequences, labels=labels,
                   ids=tuple(f"{i:05d}" for i in range(n)), truth=truth)


def _places(rng, n, size, motion):
    """Places of n targets in frame A, apart from one another and inside the frame in A and B: (n, 2)."""
    apart, margin = 24.0, 20.0
    places = np.empty((0, 2))
    for i in range(n):
        for _ in range(2000):
            place = rng.uniform(margin, size - 1 - margin, 2)
            moved = place + motion[i]
            if (moved.min() >= margin and moved.max() <= size - 1 - margin
                    and (i == 0 or min(np.hypot(*(places - place).T).min(),
                                       np.hypot(*(places + motion[:i] - moved).T).min()) >= apart)):
                places = np.vstack([places, place])
                break
        else:
            raise ValueError(f"{n} targets do not fit {apart:g} pixels apart into {size} x {size} pixels: "
                             "ask for fewer targets or a larger scene")
    return places


def simulate_scene(n_targets: int = 20, size: int = 1024, psnr: float | None = 8.0, split: str = "test",
                   seed: int = 0, dials: Dials | None = None) -> Scene:
    """Two frames of size x size pixels with n targets; stars move together, each target in its own way.

    psnr: peak signal-to-noise of every target in the dimmer of its two frames (source at a pixel's centre), which
    then fixes its range (its speed is kept such that it moves 2.5 to 12 pixels); None leaves ranges, and so brightness, to chance as in `simulate_targets`.
    size: pixels, 128 or larger. split, seed, dials, truth as in `simulate_targets`.
    Raises ValueError on a bad number, split, size or psnr, and if the targets do not fit.
    """
    _check(n_targets, split, "n_targets")
    if size < 128:
        raise ValueError(f"size={size!r}: expected 128 pixels or more")
    if psnr is not None and not (np.isfinite(psnr) and psnr > 0):
        raise ValueError(f"psnr={psnr!r}: expected a positive number, or None for chance ranges")
    dials = Dials() if dials is None else dials
    rng = np.random.default_rng([VERSION, SPLITS.index(split), seed, 2])
    labels = _labels(n_targets, rng)
    times, sequences, truth = _facts(labels, split, rng, dials, snr=psnr)
    drift = dials.drift * np.clip(rng.normal(size=2), -2.0, 2.0)
    position_a = _places(rng, n_targets, size, truth["motion"] + drift)
    position_b = position_a + truth["motion"] + drift
    truth |= {"position_a": position_a, "position_b": position_b, "drift": np.tile(drift, (n_targets, 1))}
    x, y, flux = _stars(rng, dials, split, rng.poisson(dials.stars * (size + 16) ** 2 / DETECTOR**2), size, size)
    psf = WORLDS[split].psf
    light = np.empty((2, size, size))
    for frame, (place, moved) in enumerate(((position_a, np.zeros(2)), (position_b, drift))):
        light[frame] = render_points((1, size, size), np.append(place[:, 0], x + moved[0]),
                                     np.append(place[:, 1], y + moved[1]),
                                     np.append(truth["flux"][:, frame], flux), psf)[0]
    frames = _expose(light + _fixed_pattern(split, size), split, rng)
    return Scene(frames=frames, boxes_a=boxes_around(position_a), boxes_b=boxes_around(position_b),
                 positions_a=position_a.astype(np.float32), positions_b=position_b.astype(np.float32), labels=labels,
                 sequences=sequences, times=times.astype(np.float32), truth=truth,
                 stars=np.stack([x, y, flux], -1).astype(np.float32), drift=drift.astype(np.float32))
