"""Actors of the street world: what they are, their looks by name, and the stage that lights and heats them.

Axes: world x right, y up, z forward, in m. Headings in rad, 0 away from the camera, pi/2 to the right.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cmf.simulate.street_background import CLOUDED, LIGHT, SIGHT, Background, irradiance
from cmf.simulate.street_paint import Canvas
from cmf.simulate.street_place import Place
from cmf.simulate.street_sensor import band_radiance

KINDS = ("person", "car", "bicycle", "smoke", "fire", "bag", "barrier", "bump")
POSES = {"person": ("stand", "walk", "run", "sit", "lie", "crouch", "strike", "ride"), "car": ("stand", "drive")}
PAINT = {"white": (.62, .62, .60), "black": (.025, .025, .028), "grey": (.20, .20, .21), "red": (.45, .035, .03),
         "blue": (.035, .07, .32), "green": (.04, .20, .07), "yellow": (.62, .45, .05), "brown": (.16, .085, .04)}
SKIN = ((.45, .29, .20), (.52, .36, .27), (.30, .17, .10), (.16, .085, .05))
HAIR = ((.03, .025, .02), (.08, .05, .03), (.20, .15, .08), (.25, .25, .25))
BODIES = ("saloon", "hatchback", "van", "truck")


@dataclass(frozen=True)
class Actor:
    """One moving or movable thing. Frozen; use `dataclasses.replace` to move it.

    x, z: m on the ground; heading: rad, its direction of motion, 0 away from the camera and pi/2 to the right;
    pose: of a person stand, walk, run, sit, lie, crouch, strike (an arm out) or ride; of a car stand or drive
    (drive: its lights are on at dusk and night); phase: of gait, pedals or flicker, rad; size: 1 is usual;
    look: selects clothes, paint, body or material; running: engine or living warmth; strength: of fire and smoke
    in [0, 1]; y: height of its foot above the ground, m. Raises ValueError for an unknown kind or pose, a
    number that is not finite, a size that is not positive, or a strength outside [0, 1].
    """

    kind: str
    x: float
    z: float
    heading: float = 0.0
    pose: str = "stand"
    phase: float = 0.0
    size: float = 1.0
    look: int = 0
    running: bool = True
    strength: float = 1.0
    y: float = 0.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        poses = POSES.get(self.kind, ("stand",))
        if self.pose not in poses:
            raise ValueError(f"pose {self.pose!r} of a {self.kind}: expected one of {', '.join(poses)}")
        for name in ("x", "z", "heading", "phase", "size", "strength", "y"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} of a {self.kind}: expected a finite number")
        if self.size <= 0:
            raise ValueError(f"size={self.size!r} of a {self.kind}: expected a number above 0")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength={self.strength!r} of a {self.kind}: expected a number in [0, 1]")


@dataclass(frozen=True)
class Look:
    """What an actor's `look` selects; `colour` is the name that captions use, empty for smoke and fire."""

    colour: str
    paint: tuple[float, float, float]
    second: tuple[float, float, float]      # trousers
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    warm: float                             # share of the body's warmth that comes through the clothes
    pack: int                               # 1: a person with a rucksack
    body: str                               # of a car


@lru_cache(maxsize=4096)
def look_of(kind: str, look: int) -> Look:
    """Clothes, paint and body of an actor: its `look` modulo 1000."""
    rng = np.random.default_rng((17, KINDS.index(kind), int(look) % 1000))
    names = list(PAINT)
    share = [.24, .18, .24, .10, .12, .04, .03, .05] if kind == "car" else [.18, .22, .16, .12, .16, .08, .05, .03]
    name = str(rng.choice(names, p=share))
    if kind == "barrier":
        name = ("red", "yellow")[int(look) % 2]
    shade = np.exp(0.15 * rng.standard_normal())
    trousers = PAINT[str(rng.choice(["black", "blue", "grey", "brown"], p=[.4, .25, .2, .15]))]
    body = BODIES[int(rng.choice(4, p=[.42, .36, .14, .08]))]
    return Look("" if kind in ("smoke", "fire", "bump") else name, tuple(float(v * shade) for v in PAINT[name]),
                trousers, SKIN[rng.choice(4, p=[.4, .35, .15, .1])], HAIR[rng.choice(4, p=[.5, .25, .15, .1])],
                float(rng.uniform(.35, .62)), int(rng.random() < 0.3), body)


class Stage:
    """A place under a light and weather with a canvas to draw on."""

    def __init__(self, place: Place, light: str, weather: str, size, base: Background, canvas: Canvas):
        self.place, self.light, self.weather, self.size = place, light, weather, size
        self.base, self.canvas, self.air = base, canvas, base.air
        self.focal = place.focal * size[0]
        self.dark = light != "day"

    def project(self, points):
        """(n, 3) -> (n, 2) pixels."""
        return self.place.project(points, self.size)[0]

    def axis(self, actor: Actor) -> float:
        """Distance of its foot along the optical axis, m, before any clipping."""
        c, s = np.cos(self.place.pitch), np.sin(self.place.pitch)
        return float(actor.z * c - (actor.y - self.place.height) * s)

    def sunny(self, actor: Actor) -> bool:
        """True where the sun reaches its foot."""
        if not LIGHT[self.light][0] or not CLOUDED[self.weather]:
            return False
        (x, y), = self.project([(actor.x, 0.0, actor.z)])
        y, x = int(np.clip(y, 0, self.size[0] - 1)), int(np.clip(x, 0, self.size[1] - 1))
        return bool(self.base.shade[y, x] < 0.5)

    def falls(self, actor: Actor, normals, height=1.0):
        """Light on surfaces of an actor with these normals (n, 3): (n, 3)."""
        normals = np.asarray(normals, float)
        at = np.full(len(normals), 1.0)
        shade = None if self.sunny(actor) else 1.0
        return irradiance(self.place, self.light, self.weather, at * actor.x, at * (actor.y + height), at * actor.z,
                          normals, shade)

    def round_falls(self, actor: Actor, height=1.0):
        """Light on the side of something round that faces the camera, (3,)."""
        return self.falls(actor, [(-.75, .3, -.6), (.75, .3, -.6), (0, .5, -.87)], height).mean(0)

    def heat(self, kelvin: float, emissivity: float = 0.95) -> np.float32:
        """Band radiance of a surface at this temperature; what it does not emit it mirrors from the cold sky."""
        sky = self.air - (18.0 if self.weather == "clear" else 5.0)
        return np.float32(emissivity * band_radiance(kelvin) + (1 - emissivity) * band_radiance(sky))

    def fog(self, depth: float):
        """Share of an actor's radiance that arrives in the visible and in the infrared."""
        return np.exp(-depth / SIGHT[self.weather]), np.exp(-depth / (3 * SIGHT[self.weather]))


def frame(actor: Actor):
    """Unit vectors forward and right of an actor on the ground."""
    s, c = np.sin(actor.heading), np.cos(actor.heading)
    return np.array((s, 0.0, c)), np.array((c, 0.0, -s))
