"""Rendering of a street scene: actors composited over a cached background in both bands, then the two cameras.

Axes: H, W rows and columns; 3 colours. A label is 1 + the index of a kind in KINDS, 0 elsewhere.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import shift as move

from cmf.simulate import street_people, street_things, street_vehicles
from cmf.simulate.street_actors import KINDS, Actor, Stage, look_of
from cmf.simulate.street_background import background, check
from cmf.simulate.street_paint import Canvas
from cmf.simulate.street_place import Place
from cmf.simulate.street_sensor import band_radiance, expose_infrared, expose_visible, fixed_pattern

DRAW = {"person": street_people.draw, "car": street_vehicles.draw, "bicycle": street_vehicles.bicycle,
        "smoke": street_things.smoke, "fire": street_things.fire, "bag": street_things.bag,
        "barrier": street_things.barrier, "bump": street_things.bump}
SHADOW = {"person": street_people.shadow, "car": street_vehicles.shadow, "bicycle": street_vehicles.bicycle_shadow,
          "fire": street_things.fire_shadow, "bag": street_things.spot_shadow, "barrier": street_things.spot_shadow}
NEAREST = 1.2                      # m along the optical axis; actors that come nearer are not drawn
FLAT = ("bump",)                   # lie on the ground: drawn before what stands


@dataclass(frozen=True)
class Scene:
    """Everything that is a fact: place, light (day, dusk, night), weather (clear, rain, fog), actors, cameras.

    exposure: factor on the visible camera's automatic exposure (0 is black); visible_noise, infrared_noise: factors
    on the cameras' noise; infrared_gain: factor on its automatic gain; infrared_level: K by which its black lies
    lower than usual; offset: rows and columns by which the infrared picture is displaced against the visible
    one and the labels, pixels. Raises ValueError for an unknown light or weather, actors that are no Actor, and
    factors below 0.
    """

    place: Place
    light: str
    weather: str
    actors: tuple[Actor, ...] = ()
    exposure: float = 1.0
    visible_noise: float = 1.0
    infrared_noise: float = 1.0
    infrared_gain: float = 1.0
    infrared_level: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        check(self.light, self.weather, (999, 999))
        wrong = [type(a).__name__ for a in self.actors if not isinstance(a, Actor)]
        if wrong:
            raise ValueError(f"actors hold {wrong[0]}: expected only Actor")
        for name in ("exposure", "visible_noise", "infrared_noise", "infrared_gain"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a finite number, 0 or larger")


class Box(NamedTuple):
    """Bounds of the visible pixels of an actor (x1 and y1 outside), the share of it that is seen, its number."""

    kind: str
    x0: int
    y0: int
    x1: int
    y1: int
    share: float
    actor: int


@dataclass(frozen=True)
class Picture:
    """A registered pair with its truth."""

    visible: np.ndarray            # uint8 (H, W, 3)
    infrared: np.ndarray           # uint8 (H, W)
    labels: np.ndarray             # uint8 (H, W), 0 background, else 1 + index into KINDS
    boxes: list[Box]


@lru_cache(maxsize=64)
def _falloff(place: Place, size) -> np.ndarray:
    y, x = np.mgrid[-1:1:size[0] * 1j, -1:1:size[1] * 1j]
    loss = 1.0 - place.vignetting * 0.5 * (x * x + y * y)
    return np.ascontiguousarray((loss[..., None] * np.array(place.tint) / np.mean(place.tint)).astype(np.float32))


@lru_cache(maxsize=8)
def _streaks(size) -> np.ndarray:
    """Rain: short slanted bright lines, periodic tile twice the picture's height and width."""
    rng = np.random.default_rng(12)
    tall, wide = 2 * size[0], 2 * size[1]
    out = np.zeros((tall, wide), np.float32)
    for _ in range(int(0.0035 * tall * wide)):
        length = int(rng.uniform(.02, .09) * size[0]) + 2
        y, x = rng.integers(tall), rng.uniform(0, wide)
        steps = np.arange(length)
        out[(y + steps) % tall, (x - 0.12 * steps).astype(int) % wide] += rng.uniform(.15, .6)
    return out


def _reach(actor: Actor) -> float:
    """How far an actor comes towards the camera from its middle, m."""
    if actor.kind != "car":
        return 0.0
    length, width = street_vehicles.SHAPES[look_of("car", actor.look).body][:2]
    return 0.5 * actor.size * (length * abs(np.cos(actor.heading)) + width * abs(np.sin(actor.heading)))


def paint(scene: Scene, size) -> tuple[Canvas, list[Box]]:
    """The radiance of both bands before the cameras, and the boxes of actors in the order of `scene.actors`."""
    base = background(scene.place, scene.light, scene.weather, size)
    size = base.infrared.shape
    canvas = Canvas(base.visible.copy(), base.infrared.copy(), base.hides)
    stage = Stage(scene.place, scene.light, scene.weather, size, base, canvas)
    order = sorted(((stage.axis(a), i) for i, a in enumerate(scene.actors)), reverse=True)
    order = [(axis, i) for axis, i in order if axis - _reach(scene.actors[i]) > NEAREST]
    for axis, i in order:
        canvas.begin(i + 1, axis)
        if scene.actors[i].kind in SHADOW and scene.actors[i].y < 0.5:
            SHADOW[scene.actors[i].kind](stage, scene.actors[i])
    whole = {}
    for flat in (True, False):
        for axis, i in order:
            if (scene.actors[i].kind in FLAT) == flat:
                canvas.begin(i + 1, axis)
                DRAW[scene.actors[i].kind](stage, scene.actors[i])
                whole[i] = canvas.seen_share()
                if scene.weather != "clear":
                    _weather(stage, axis, i + 1)
    return canvas, _boxes(canvas.owner, whole, scene.actors)


def _weather(stage: Stage, axis: float, actor: int):
    """Fog in front of an actor, and its image in wet ground."""
    canvas = stage.canvas
    rows, columns = np.nonzero(canvas.owner == actor)
    if not len(rows):
        return
    clear, clear_infrared = stage.fog(axis)
    canvas.visible[rows, columns] = canvas.visible[rows, columns] * clear + (1 - clear) * stage.base.veil
    canvas.infrared[rows, columns] = canvas.infrared[rows, columns] * clear_infrared \
        + (1 - clear_infrared) * band_radiance(stage.air)
    if stage.weather == "rain":
        foot = rows.max()
        below = 2 * foot - rows + 1
        inside = below < len(canvas.owner)
        rows, columns, below = rows[inside], columns[inside], below[inside]
        wet = stage.base.ground[below, columns] & (canvas.owner[below, columns] == 0)
        rows, columns, below = rows[wet], columns[wet], below[wet]
        canvas.visible[below, columns] += 0.28 * (canvas.visible[rows, columns] - canvas.visible[below, columns])


def _boxes(owner, whole, actors) -> list[Box]:
    boxes = []
    rows, columns = np.nonzero(owner)
    who = owner[rows, columns]
    for i in range(len(actors)):
        mine = who == i + 1
        count = int(mine.sum())
        if count:
            y, x = rows[mine], columns[mine]
            pixels, inside = whole[i]
            boxes.append(Box(actors[i].kind, int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1,
                             float(min(1.0, count / max(pixels, 1)) * inside), i))
    return boxes


def render(scene: Scene, size=(128, 160), seed: int = 0) -> Picture:
    """Draw a scene.

    size: (height, width) in pixels, at least 48 each; seed: of the cameras' noise and the rain drops
    only, so that the frames of a clip differ in their seeds. Raises ValueError for a
    size that is too small. Same bytes for the same scene, size and seed.

    >>> from cmf.simulate.street_place import place
    >>> scene = Scene(place("train", 0), "day", "clear", (Actor("person", 0.5, 9.0, pose="walk"),))
    >>> picture = render(scene, (64, 80))
    >>> picture.visible.shape, picture.labels.max()
    ((64, 80, 3), np.uint8(1))
    """
    size = (int(size[0]), int(size[1])) if len(size) == 2 else tuple(size)
    check(scene.light, scene.weather, size)
    rng = np.random.default_rng((31, int(seed)))
    canvas, boxes = paint(scene, size)
    base = background(scene.place, scene.light, scene.weather, size)
    if scene.weather == "rain":
        y, x = rng.integers(size[0]), rng.integers(size[1])
        streaks = _streaks(size)[y:y + size[0], x:x + size[1], None]
        canvas.visible += streaks * (0.12 * base.veil + 0.10 * canvas.visible).astype(np.float32)
    noise = 0.85 * np.sqrt(base.exposure / 0.8) * scene.visible_noise
    visible = expose_visible(canvas.visible, base.exposure * scene.exposure, noise, _falloff(scene.place, size), rng)
    infrared = canvas.infrared
    if any(scene.offset):
        infrared = move(infrared, scene.offset, order=1, mode="nearest")
    black = band_radiance(base.air - 2.7 - scene.infrared_level)
    gain = 220.0 / (band_radiance(303.5) - black) * scene.infrared_gain
    infrared = expose_infrared(infrared, black, gain, 1.15 * scene.infrared_noise,
                               fixed_pattern(scene.place.texture, size), rng)
    kinds = np.array([0] + [1 + KINDS.index(a.kind) for a in scene.actors], np.uint8)
    return Picture(visible, infrared, kinds[canvas.owner], boxes)
