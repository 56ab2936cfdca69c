"""A film camera for the street: like the street's own, but its exposure stays the same throughout a clip.

Axes: H, W rows and columns; 3 colours.
"""
from __future__ import annotations

import numpy as np

from cmf.simulate.street_background import background
from cmf.simulate.street_render import Picture, Scene, paint
from cmf.simulate.street_sensor import band_radiance, expose_infrared, expose_visible, fixed_pattern

KINDS = ("person", "car", "bicycle", "smoke", "fire", "bag", "barrier", "bump")   # labels are 1 + the index
READ = 1.2                        # codes, spread of the visible noise at an exposure of 0.8


def _vignetting(place, size) -> np.ndarray:
    y, x = np.mgrid[-1:1:size[0] * 1j, -1:1:size[1] * 1j]
    loss = 1.0 - place.vignetting * 0.5 * (x * x + y * y)
    return (loss[..., None] * np.array(place.tint) / np.mean(place.tint)).astype(np.float32)   # (H, W, 3)


def film(scene: Scene, size: tuple[int, int], camera: int, instant: int) -> Picture:
    """One frame: pictures, labels and boxes as `cmf.simulate.street.render` gives them.

    camera: seed of what stays through a clip (exposure, infrared gain); instant: seed of the noise of this frame.
    `scene.exposure` and the two noise factors are obeyed, `scene.offset` is not. Raises ValueError as `render`.
    """
    steady, rng = np.random.default_rng((33, camera)), np.random.default_rng((34, camera, instant))
    canvas, boxes = paint(scene, size)
    base = background(scene.place, scene.light, scene.weather, size)
    if scene.weather == "rain":
        canvas.visible += _rain(size, rng)[..., None] * (0.12 * base.veil + 0.10 * canvas.visible).astype(np.float32)
    gain = base.exposure * steady.uniform(0.9, 1.1)
    noise = READ * np.sqrt(gain / 0.8) * scene.visible_noise
    visible = expose_visible(canvas.visible, gain * scene.exposure, noise, _vignetting(scene.place, size), rng)
    black = band_radiance(base.air - 2.6 + steady.uniform(-0.5, 0.5))
    gain = 185.0 / (band_radiance(303.5) - black) * steady.uniform(0.9, 1.1)
    infrared = expose_infrared(canvas.infrared, black, gain, 0.9 * scene.infrared_noise,
                               fixed_pattern(scene.place.texture, size), rng)
    kinds = np.array([0] + [1 + KINDS.index(a.kind) for a in scene.actors], np.uint8)
    return Picture(visible, infrared, kinds[canvas.owner], boxes)


def _rain(size, rng) -> np.ndarray:
    """Short slanted streaks, new in each frame: (H, W)."""
    out = np.zeros(size, np.float32)
    n = int(0.0035 * size[0] * size[1])
    length = rng.integers(2, max(int(0.09 * size[0]), 3) + 1, n)
    along = np.arange(length.max())
    keep = along < length[:, None]                                                         # (n, length)
    y = (rng.integers(0, size[0], n)[:, None] + along) % size[0]
    x = (rng.integers(0, size[1], n)[:, None] - 0.12 * along).astype(int) % size[1]
    out[y[keep], x[keep]] += np.broadcast_to(rng.uniform(0.15, 0.6, n)[:, None], keep.shape)[keep]
    return out
