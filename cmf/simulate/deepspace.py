"""Simulated deep-space infrared targets: two frames and a temperature and intensity sequence of each.

Axes: n targets; f = 2 frames, A then B; y, x pixels (centres at integers); t = 16 instants; c = 2 channels.

One world, two renderings. Frames measure irradiance, eps A L(T) / R^2 (A projected area, L band radiance,
R range), and the angular motion v / R. The sequence measures T and an intensity whose range and gain are not
calibrated. The size of a sphere therefore needs the flux and the motion of the frames *and* the temperature
of the sequence.

| pair | what separates it | where |
|---|---|---|
| two spheres | emissivity times area = flux R^2 / L(T) | flux and motion in frames, T in sequence |
| sphere, plate | tumbling modulates the projected area | intensity sequence; weakly flux A against B |
| sphere, platform | size, platforms are large; inside heat keeps T steady in the shadow | both |
| sphere, float | a tiny heat capacity lets T jump at the shadow's edge | temperature sequence |
| plate, platform | size; strength of modulation; steadiness of T | both |
| plate, float | strength of modulation; speed of cooling | sequence |
| platform, float | size; heat capacity and internal heat | both |

A body that stays in sunlight keeps its temperature whatever its heat capacity: then only the flux speaks.
The names of the last three classes are this project's reading of the published label strings.
Everything made here is simulated and says so where it is drawn.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cmf.simulate.deepspace_files import write_scene, write_training
from cmf.simulate.deepspace_physics import (
    CLASSES,
    NAMES,
    Passage,
    band_radiance,
    draw_bodies,
    temperatures,
)
from cmf.simulate.deepspace_sensor import (
    SPLITS,
    VERSION,
    WORLDS,
    boxes_around,
    draw_stars,
    expose,
    fixed_pattern,
    noise_level,
    peak_share,
    render_points,
)

__all__ = ["CLASSES", "NAMES", "SPLITS", "VERSION", "Dials", "Scene", "Targets", "boxes_around",
           "render_points", "simulate_scene", "simulate_targets", "write_scene", "write_training"]

CHIP = 32                         # pixels, side of a target's picture
DETECTOR = 1024                   # pixels, side of the detector whose fixed pattern the chips are cut from
STEPS = 16                        # samples of a sequence
WINDOW = 720.0                    # s, length of the observation
FRAME_A, FRAME_GAP = 360.0, 4.0   # s, instant of frame A; B follows after the gap
RANGE = 80e3                      # m, nominal range, assumed by the radiometer's intensity
PIXEL = 1e-4                      # rad, angle of a pixel
SPEED = 11.0                      # m/s, median speed across the line of sight: 5.5 pixels between A and B


@dataclass(frozen=True)
class Dials:
    """Settings of the simulated sensor; all continuous, all meant to be swept."""

    psnr: float = 30.0  # peak signal-to-noise of a 0.6 m sphere at 260 K and nominal range
    sequence_noise: float = 5.0  # K, error of a temperature sample; intensities err by 2 % for each K
    missing: float = 0.15          # 0 to 1, share of sequence samples that are missing
    stars: float = 300.0           # stars of peak signal-to-noise above 2 in a frame of 1024 x 1024
    redundancy: float = 0.0  # 0 to 1: at 1 the intensity is calibrated and tells size by itself
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


def _facts(labels, split, rng, dials, snr=None):
    """Truth of targets and their measured sequences; snr: peak in the dimmer frame or None."""
    world, n = WORLDS[split], len(labels)
    bodies = draw_bodies(labels, rng)
    edge = WINDOW * rng.uniform(*world.edge, n)
    duration = rng.uniform(1700.0, 2100.0, n)
    entry = np.where(rng.uniform(size=n) < world.entering, edge, edge - duration)
    passage = Passage(altitude=rng.uniform(*world.altitude, n), entry=entry, exit=entry + duration)
    spacing = WINDOW / STEPS
    times = spacing * (np.arange(STEPS) + 0.5 + rng.uniform(-0.35, 0.35, (n, STEPS)))      # (n, t)
    every = np.concatenate([times, np.tile([FRAME_A, FRAME_A + FRAME_GAP], (n, 1))], axis=1)  # (n, t + 2)
    order = np.argsort(every, axis=1)
    warm = np.empty_like(every)
    np.put_along_axis(warm, order, temperatures(bodies, passage, np.take_along_axis(every, order, 1)), 1)
    area = bodies.projected_area(every)                                                    # (n, t + 2)
    intensity = bodies.emissivity[:, None] * area * band_radiance(warm)                    # W/sr
    per_intensity = _flux_per_intensity(split, dials)  # counts per W/sr at RANGE
    distance = RANGE * np.exp(rng.uniform(np.log(0.6), np.log(1.7), n))
    if snr is not None:
        dimmer = intensity[:, STEPS:].min(axis=1) * per_intensity * peak_share(world.psf) / noise_level(split)
        distance = RANGE * np.sqrt(dimmer / snr)
    speed = SPEED * np.exp(dials.speed_spread * np.clip(rng.normal(size=n), -2.2, 2.2))
    heading = rng.uniform(0.0, 2.0 * np.pi, n)
    if snr is not None:                                                                    # 2.5 to 12 pixels
        speed = np.clip(speed, 2.5 * distance * PIXEL / FRAME_GAP, 12.0 * distance * PIXEL / FRAME_GAP)
    motion = (speed * FRAME_GAP / (distance * PIXEL))[:, None]                           # pixels
    motion = motion * np.stack([np.cos(heading), np.sin(heading)], axis=-1)                # (n, 2)
    flux = per_intensity * intensity[:, STEPS:] * ((RANGE / distance) ** 2)[:, None]       # (n, 2) counts
    gain = np.exp(dials.gain_spread * rng.normal(size=n))
    apparent = intensity[:, :STEPS] * ((gain * (RANGE / distance) ** 2) ** (1.0 - dials.redundancy))[:, None]
    truth = {
        "size": bodies.sides.max(axis=1), "sides": bodies.sides, "surface": bodies.surface,
        "area": area[:, :STEPS], "emissivity": bodies.emissivity, "absorptance": bodies.absorptance,
        "heat_capacity": bodies.capacity, "internal_heat": bodies.internal, "spin_period": bodies.period,
        "altitude": passage.altitude, "shadow_entry": passage.entry, "shadow_exit": passage.exit,
        "range": distance, "speed": speed, "gain": gain, "temperature": warm[:, :STEPS],
        "frame_temperature": warm[:, STEPS:],
        "intensity": intensity[:, :STEPS], "apparent_intensity": apparent,
        "motion": motion, "flux": flux, "snr": flux * peak_share(world.psf) / noise_level(split),
    }
    return times, _measure(warm[:, :STEPS], apparent, world, rng, dials), truth


def _flux_per_intensity(split, dials) -> float:
    reference = 0.8 * np.pi * 0.3**2 * float(band_radiance(260.0))                         # W/sr
    return dials.psnr * noise_level(split) / peak_share(WORLDS[split].psf) / reference


def _measure(warm, apparent, world, rng, dials) -> np.ndarray:
    """Sequences as reported: (n, t, c). At least two samples stay unless all are to be missing."""
    error = dials.sequence_noise * world.noise
    bias = 0.5 * error * rng.normal(size=(len(warm), 1))
    warm = warm + bias + error * rng.normal(size=warm.shape)
    apparent = apparent * (1.0 + 0.02 * error * rng.normal(size=apparent.shape))
    draw = rng.uniform(size=warm.shape)
    lost = draw < dials.missing
    if dials.missing < 1:
        lost &= draw < np.sort(draw, axis=1)[:, -2:-1]
    return np.where(lost[..., None], np.nan, np.stack([warm, apparent], axis=-1)).astype(np.float32)


def _check(n, split, seed, name):
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed={seed!r}: expected a whole number, 0 or larger")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"{name}={n!r}: expected a whole number of targets, 1 or larger")


def _labels(n, rng):
    return rng.permutation(np.arange(n) % len(CLASSES)).astype(np.int64)


def simulate_targets(n: int, split: str = "train", seed: int = 0, dials: Dials | None = None) -> Targets:
    """n targets, classes balanced to within one, in shuffled order.

    split: one of SPLITS, each a world of its own (fixed pattern, background, optics, orbits, random numbers);
    `shift` is colder, noisier and less sharp. seed: 0 or larger; equal arguments give equal bytes.
    truth: SI units; size, sides, surface, area (n, 16), emissivity, absorptance, heat_capacity [J K-1 m-2],
    internal_heat [W m-2], spin_period, altitude [km], shadow_entry, shadow_exit, range, speed, gain,
    temperature and intensity (n, 16) without noise, apparent_intensity (n, 16), frame_temperature (n, 2),
    motion (n, 2) and drift (n, 2) [pixels], flux (n, 2) [counts], snr (n, 2), position_a and
    position_b (n, 2) [pixels].
    Raises ValueError on a bad number, split, seed or dial.

    >>> targets = simulate_targets(12, split="test", seed=3)
    >>> targets.images.shape, targets.sequences.shape, sorted(targets.labels.tolist())[:3]
    ((12, 2, 32, 32), (12, 16, 2), [0, 0, 1])
    """
    _check(n, split, seed, "n")
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
    flux = truth["flux"].T.reshape(-1)                                                     # all A, then all B
    light = render_points((2 * n, CHIP, CHIP), both[:, 0], both[:, 1], flux, psf, plane)
    owner = np.repeat(np.arange(n), rng.poisson(dials.stars * (CHIP + 16) ** 2 / DETECTOR**2, n))
    x, y, flux = draw_stars(rng, split, len(owner), CHIP, CHIP)
    for frame, moved in ((0, 0.0), (1, drift[owner])):
        at = np.stack([x, y], -1) + moved
        light += render_points((2 * n, CHIP, CHIP), at[:, 0], at[:, 1], flux, psf, 2 * owner + frame)
    pattern = fixed_pattern(split, DETECTOR)
    top, left = rng.integers(0, DETECTOR - CHIP, (2, n))
    span = np.arange(CHIP)
    patch = pattern[(top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None, :]]  # (n, y, x)
    images = expose(light.reshape(n, 2, CHIP, CHIP) + patch[:, None], split, rng)
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

    psnr: peak signal-to-noise of every target in the dimmer of its two frames (source at a pixel's centre),
    which then fixes its range; its speed is kept such that it moves 2.5 to 12 pixels. None leaves ranges, and
    so brightness, to chance as in `simulate_targets`.
    size: pixels, 128 or larger. split, seed, dials, truth as in `simulate_targets`.
    Raises ValueError on a bad number, split, seed, size or psnr, and if the targets do not fit.
    """
    _check(n_targets, split, seed, "n_targets")
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
    x, y, flux = draw_stars(rng, split, rng.poisson(dials.stars * (size + 16) ** 2 / DETECTOR**2), size, size)
    psf = WORLDS[split].psf
    light = np.empty((2, size, size))
    for frame, (place, moved) in enumerate(((position_a, np.zeros(2)), (position_b, drift))):
        light[frame] = render_points((1, size, size), np.append(place[:, 0], x + moved[0]),
                                     np.append(place[:, 1], y + moved[1]),
                                     np.append(truth["flux"][:, frame], flux), psf)[0]
    frames = expose(light + fixed_pattern(split, size), split, rng)
    return Scene(frames=frames, boxes_a=boxes_around(position_a), boxes_b=boxes_around(position_b),
                 positions_a=position_a.astype(np.float32), positions_b=position_b.astype(np.float32),
                 labels=labels, sequences=sequences, times=times.astype(np.float32), truth=truth,
                 stars=np.stack([x, y, flux], -1).astype(np.float32), drift=drift.astype(np.float32))
