"""Places of the street world: a camera, a road between buildings, trees and lamps, and the climate of each light.

Axes of the world: x to the right, y up, z forward from the camera's foot, in metres. The camera looks along z,
pitched down; its focal length is given in picture heights, so that a place can be drawn at any size.
A place's road runs at an angle to z: `Place.point(across, along)` turns road coordinates into x and z.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

VERSION = 1                       # part of cache keys: raise it when the simulator's numbers change
SPLITS = ("train", "validation", "test", "shift")
LIGHTS = ("day", "dusk", "night")
WEATHERS = ("clear", "rain", "fog")
PLACES = {"train": 48, "validation": 12, "test": 16, "shift": 12}   # different places of each split
AIR = {"day": 289.0, "dusk": 286.0, "night": 282.0}                 # K, middle of the air's temperature


@dataclass(frozen=True)
class Building:
    """A box beside the road; side is -1 left, 1 right. Lengths in m."""

    side: int
    near: float                    # along the road, where it starts
    far: float
    front: float                   # distance of its front from the road's axis
    height: float
    colour: tuple[float, float, float]      # reflectance of its wall
    storey: float                  # height of a storey
    bay: float                     # distance from window to window
    glass: float                   # share of a bay that is window
    material: int                  # 0 plaster, 1 brick, 2 panels, 3 a hedge
    warm: float                    # K, how much warmer its windows are than the air
    seed: int

    @property
    def deep(self) -> float:
        """How far it reaches away from the road."""
        return 1.2 if self.material == 3 else 14.0


@dataclass(frozen=True)
class Tree:
    x: float
    z: float
    height: float
    spread: float                  # radius of the crown; 0 for a bare pole
    base: float                    # height of the crown's lower edge
    seed: int
    kind: str = "tree"             # tree, pole, lamp, bollard, bin, sign


@dataclass(frozen=True)
class Place:
    """A background: everything that does not move, and the camera that looks at it."""

    split: str
    number: int
    height: float                  # m, of the camera
    pitch: float                   # rad, downwards
    focal: float                   # picture heights
    yaw: float                     # rad, of the road against z, positive to the right
    centre: float                  # m, x of the road's axis at z = 0
    road: float                    # m, half width of the road
    pavement: float                # m, width of each pavement
    lanes: int
    crossing: float                # m along the road of a zebra crossing; negative: none
    paving: int                    # 0 flags, 1 asphalt, 2 grass verge
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    lamps: tuple[tuple[float, float, float], ...]       # x, y, z of the lamps' heads
    lamp_colour: tuple[float, float, float]
    sun: tuple[float, float, float]                      # unit vector towards the sun
    ground: tuple[float, float, float]                   # reflectance of the road
    leaves: tuple[float, float, float]
    tint: tuple[float, float, float]                     # white balance of the visible camera
    warmth: float                  # K, added to the air's temperature
    vignetting: float              # loss of light in the corners
    blur: float                    # infrared blur in pixels at a height of 240
    texture: int                   # seed of its textures
    slope: float = field(default=-2.0)                   # exponent of its textures' power spectrum

    def __hash__(self):
        return hash((self.split, self.number, self.yaw))

    def point(self, across: float, along: float) -> tuple[float, float]:
        """World x and z of the point `across` m to the right of the road's axis and `along` m ahead."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return self.centre + across * c + along * s, along * c - across * s

    def road_point(self, x, z):
        """Inverse of `point`: across and along, of numbers or arrays."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return (x - self.centre) * c - z * s, (x - self.centre) * s + z * c

    def project(self, points, size):
        """Pixels of world points: (n, 3) -> (n, 2) columns and rows, and (n,) the distance along the optical axis."""
        points = np.asarray(points, float)
        c, s, f = math.cos(self.pitch), math.sin(self.pitch), self.focal * size[0]
        up, depth = points[..., 1] - self.height, points[..., 2]
        axis = np.maximum(depth * c - up * s, 0.05)
        out = np.empty((*axis.shape, 2))
        out[..., 0] = 0.5 * size[1] - 0.5 + f * points[..., 0] / axis
        out[..., 1] = 0.5 * size[0] - 0.5 - f * (up * c + depth * s) / axis
        return out, axis

    def rays(self, size):
        """Directions of all pixels with unit step along the optical axis: x, y, z, each (H, W)."""
        f = self.focal * size[0]
        right = (np.arange(size[1]) + 0.5 - 0.5 * size[1])[None, :] / f
        up = (0.5 * size[0] - np.arange(size[0]) - 0.5)[:, None] / f
        c, s, one = math.cos(self.pitch), math.sin(self.pitch), np.ones(size, np.float32)
        right, up = right.astype(np.float32), up.astype(np.float32)
        return right * one, (up * c - s) * one, (c + up * s) * one

    def air(self, light: str) -> float:
        """Temperature of the air, K."""
        return AIR[light] + self.warmth


WALLS = {  # reflectances of walls; each split has its own palette
    "train": ((.42, .36, .29), (.30, .14, .10), (.46, .45, .43), (.24, .21, .19), (.50, .42, .28), (.20, .22, .24)),
    "validation": ((.45, .33, .26), (.26, .16, .13), (.38, .39, .42), (.50, .46, .38)),
    "test": ((.34, .30, .31), (.33, .18, .12), (.52, .50, .44), (.26, .27, .23), (.40, .30, .24)),
    "shift": ((.30, .38, .44), (.18, .10, .12), (.56, .40, .36), (.16, .20, .16)),
}
LEAVES = {"train": (.07, .12, .035), "validation": (.08, .115, .03), "test": (.06, .11, .045), "shift": (.15, .10, .03)}


def _colour(rng, base, spread):
    return tuple(float(v) for v in np.clip(np.array(base) * np.exp(spread * rng.standard_normal(3) * (1, .4, .6)),
                                           0.01, 0.85))


def _buildings(rng, split, road, pavement, open_side):
    made = []
    for side in (-1, 1):
        along = rng.uniform(-12, 4)
        while along < 150:
            length = rng.uniform(9, 30)
            gap = rng.choice([0.0, 0.0, rng.uniform(2, 9)])
            if side != open_side or rng.random() < 0.15:
                made.append(Building(
                    side, along, along + length, road + pavement + rng.choice([0.1, 0.3, rng.uniform(1, 7)]),
                    float(rng.choice([2, 3, 4, 5, 7], p=[.12, .25, .28, .2, .15]) * 3.2 + rng.uniform(0.3, 1.5)),
                    _colour(rng, WALLS[split][rng.integers(len(WALLS[split]))], 0.12), rng.uniform(2.9, 3.5),
                    rng.uniform(2.0, 4.2), rng.uniform(0.35, 0.7), int(rng.integers(3)), rng.uniform(0.5, 6.0),
                    int(rng.integers(2**31))))
            along += length + gap
        if side == open_side:
            along = rng.uniform(-6, 2)
            while along < 90:
                length = rng.uniform(6, 25)
                made.append(Building(side, along, along + length, road + pavement + 0.3, rng.uniform(.8, 1.9),
                                     (0, 0, 0), 1, 1, 0, 3, 0.0, int(rng.integers(2**31))))
                along += length + rng.choice([0.0, 1.5, 4.0])
    return tuple(made)


def _plants(rng, road, pavement, point, open_side):
    made, lamps = [], []

    def add(across, along, height, spread, base, kind):
        x, z = point(across, along)
        if z > 2.5:
            made.append(Tree(float(x), float(z), height, spread, base, int(rng.integers(2**31)), kind))
        return float(x), float(z)

    for side in (-1, 1):
        lush = rng.random() < (0.95 if side == open_side else 0.6)
        along = rng.uniform(5, 16)
        while lush and along < 110:
            height = rng.uniform(6, 13)
            add(side * (road + rng.uniform(0.8, 1.4) + (rng.uniform(0, 4) if side == open_side else 0)), along, height,
                rng.uniform(2.0, 4.2), rng.uniform(1.9, 2.9), "tree")
            along += rng.uniform(5, 14)
        if rng.random() < 0.5:
            for along in np.arange(rng.uniform(3, 6), 60, rng.choice([2.0, 3.5])):
                add(side * (road + 0.35), along, 0.9, 0.0, 0.0, "bollard")
        along = rng.uniform(6, 18) + (side > 0) * 8
        while along < 130:
            x, z = add(side * (road + 0.6), along, 6.5, 0.0, 0.0, "lamp")
            lamps.append((x - side * 1.2, 6.4, z))
            along += rng.uniform(26, 46)
        for kind, height, share in (("pole", rng.uniform(6.5, 8.5), .5), ("sign", 2.6, .6), ("bin", 1.0, .5)):
            if rng.random() < share:
                add(side * (road + rng.uniform(.5, 1.0)), rng.uniform(7, 30), height, 0.0, 0.0, kind)
    return tuple(made), tuple(lamps)


def place(split: str, number: int) -> Place:
    """The place `number` of a split. Splits share no place, palette, texture or camera.

    split: train, validation, test, or shift (colder, other lens, other colours); number: counted from 0, taken
    modulo `PLACES[split]`. Raises ValueError for an unknown split or a negative number.

    >>> place("train", 0).split, place("train", 0) == place("test", 0)
    ('train', False)
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if number < 0:
        raise ValueError(f"place number {number}: expected 0 or more")
    return _place(split, int(number) % PLACES[split])


@lru_cache(maxsize=256)
def _place(split: str, number: int) -> Place:
    rng = np.random.default_rng((71, SPLITS.index(split), number))
    shift = split == "shift"
    high = rng.random() < 0.3
    height = rng.uniform(3.2, 5.5) if high else rng.uniform(1.3, 2.3)
    pitch = rng.uniform(0.10, 0.18) if high else rng.uniform(-0.04, 0.06)
    focal = rng.uniform(0.85, 0.98) if shift else rng.uniform(1.15, 1.6)
    road, pavement = rng.uniform(2.7, 4.6), rng.uniform(1.8, 4.0)
    yaw = rng.uniform(-0.2, 0.2)
    centre = rng.choice([0.0, rng.uniform(-2.5, 2.5), rng.choice([-1, 1]) * (road + 1)])
    rough = Place(split, number, height, pitch, focal, yaw, centre, road, pavement, 1, -1.0, 0, (), (), (),
                  (1, 1, 1), (0, 1, 0), (.1, .1, .1), (0, .1, 0), (1, 1, 1), 0, 0, 1, 0)
    open_side = int(rng.choice([-1, 0, 1]))
    plants, lamps = _plants(rng, road, pavement, rough.point, open_side)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.95)
    warm_lamp = rng.random() < 0.5
    asphalt = rng.uniform(0.06, 0.15)
    return Place(
        split, number, height, pitch, focal, yaw, centre, road, pavement, int(rng.integers(1, 3)),
        float(rng.choice([-1, rng.uniform(9, 26)])), int(rng.integers(3)),
        _buildings(rng, split, road, pavement, open_side), plants, lamps,
        (1.0, .70, .38) if warm_lamp else (.86, 1.0, .82),
        (float(np.cos(elevation) * np.sin(azimuth)), float(np.sin(elevation)),
         float(np.cos(elevation) * np.cos(azimuth))),
        (asphalt, asphalt * rng.uniform(.98, 1.02), asphalt * rng.uniform(.97, 1.08)), _colour(rng, LEAVES[split], .1),
        _colour(rng, (.8, .8, .8), .05), rng.uniform(-16, -11) if shift else rng.uniform(-4, 4),
        rng.uniform(.3, .5) if shift else rng.uniform(.05, .3), rng.uniform(1.1, 1.5) if shift else rng.uniform(.6, 1),
        1000 * SPLITS.index(split) + number, -2.3 if shift else -2.0)
