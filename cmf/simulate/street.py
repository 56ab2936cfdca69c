"""Simulated street scenes in the visible and the thermal infrared, with labels, boxes, captions and prompts.

Axes: n pictures, H, W rows and columns, 3 colours. World: x right, y up, z forward from the camera, m.

One world, two renderings. The visible follows from reflectance and light, the infrared from temperature and
emissivity. What separates look-alikes, and where:

| pair | what separates it | where |
|---|---|---|
| parked car, running car | heat of bonnet, grille, tyres and exhaust | infrared only |
| person in the dark, no person | warmth of skin and clothes | infrared; weakly visible near lamps |
| bag, person crouching | shape in both; warmth | infrared, weakly visible |
| barrier, pale wall; bump, patch of road | stripes of paint | visible only |
| smoke, person behind smoke | smoke is thin in the infrared | infrared |
| colours of clothes and cars, signs, markings | reflectance | visible only |

Everything made here is simulated and says so where it is drawn.
"""
from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from cmf.simulate.street_actors import BODIES, KINDS, PAINT, POSES, Actor, look_of
from cmf.simulate.street_background import Background, background
from cmf.simulate.street_place import LIGHTS, PLACES, SPLITS, VERSION, WEATHERS, Place, place
from cmf.simulate.street_render import Box, Picture, Scene, render
from cmf.simulate.street_sensor import statistics
from cmf.simulate.street_words import caption, captions, corrupt, counts_in, prompt, seen

__all__ = ["BODIES", "KINDS", "LIGHTS", "PAINT", "PLACES", "POSES", "SPLITS", "VERSION", "WEATHERS", "Actor",
           "Background", "Box", "Dials", "Pairs", "Picture", "Place", "Scene", "background", "caption", "captions",
           "corrupt", "counts_in", "draw_scene", "look_of", "place", "prompt", "render", "seen", "simulate_pairs",
           "statistics"]

MEAN = {"person": 1.7, "car": 1.3, "bicycle": .35, "bag": .12, "barrier": .15, "bump": .12, "smoke": .06, "fire": .05}


@dataclass(frozen=True)
class Dials:
    """Settings of simulated pairs; all continuous, all meant to be swept. Raises ValueError outside their ranges."""

    day: float = 0.45              # share of pictures by day
    dusk: float = 0.15             # and at dusk; the rest is night
    rain: float = 0.12             # share of pictures in rain
    fog: float = 0.08              # and in fog
    crowd: float = 1.0             # factor on the mean number of actors
    exposure: float = 1.0          # factor on the visible exposure: illumination
    visible_noise: float = 1.0     # factor on the visible camera's noise
    infrared_noise: float = 1.0
    misalignment: float = 0.0      # pixels at a height of 240, spread of the infrared picture's displacement
    missing: float = 0.0           # share of pictures of which one band, at random, is missing (zero)
    words: float = 0.0             # share of caption words replaced by others
    captions: int = 2              # captions for each picture, a whole number

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"dial {f.name}={value!r}: expected a finite number, 0 or larger")
        for name in ("day", "dusk", "rain", "fog", "missing", "words"):
            if getattr(self, name) > 1:
                raise ValueError(f"dial {name}={getattr(self, name)!r}: expected a share between 0 and 1")
        if self.day + self.dusk > 1 or self.rain + self.fog > 1:
            raise ValueError(f"dials day + dusk = {self.day + self.dusk} and rain + fog = {self.rain + self.fog}: "
                             "expected sums of at most 1")


@dataclass(frozen=True)
class Pairs:
    """n simulated pictures. `truth` maps names to arrays whose first axis is n (see `simulate_pairs`)."""

    visible: np.ndarray            # uint8 (n, H, W, 3)
    infrared: np.ndarray           # uint8 (n, H, W)
    labels: np.ndarray             # uint8 (n, H, W)
    boxes: tuple[list[Box], ...]
    captions: tuple[tuple[str, ...], ...]
    prompts: tuple[str, ...]
    scenes: tuple[Scene, ...]
    ids: tuple[str, ...]
    truth: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.visible)


def _spot(place: Place, rng, kind, pose):
    """A point for an actor inside the picture (4:3 view), with its heading; None where none was found."""
    for _ in range(12):
        along = float(np.exp(rng.uniform(np.log(5.0), np.log(48.0)))) + (4.0 if place.height > 3 else 0.0)
        side = rng.choice([-1, 1])
        heading = place.yaw + (0.0 if rng.random() < .5 else np.pi)
        if kind == "car":
            across = side * (place.road - 1.05) if pose == "stand" else side * 0.5 * place.road
            heading = place.yaw + (0.0 if side > 0 else np.pi)
        elif kind == "person" and pose != "ride":
            across = rng.uniform(-place.road, place.road) if rng.random() < .35 else \
                side * (place.road + rng.uniform(.3, place.pavement - .2))
            heading += rng.normal(0, .3) if abs(across) > place.road else rng.choice([-1, 1]) * np.pi / 2
        elif kind in ("barrier", "bump", "smoke", "fire"):
            across = rng.uniform(-.7, .7) * place.road
            heading = place.yaw
        else:
            across = side * (place.road + (rng.uniform(-.6, -.3) if pose == "ride" else rng.uniform(.3, 1.5)))
        x, z = place.point(across, along)
        if z > (7.5 if kind == "car" else 3.5) and abs(x) < 0.62 * z / place.focal:
            return float(x), float(z), float(heading)
    return None


def draw_scene(place: Place, light: str, weather: str, rng, dials: Dials = Dials()) -> Scene:
    """A random everyday scene at a place: people, cars, bicycles, things; rng: numpy Generator."""
    actors = []
    for kind in KINDS:
        for _ in range(min(rng.poisson(MEAN[kind] * dials.crowd), 8)):
            pose = "stand"
            if kind == "person":
                pose = str(rng.choice(POSES["person"], p=[.25, .42, .08, .06, .03, .05, .03, .08]))
            elif kind == "car":
                pose = str(rng.choice(POSES["car"], p=[.55, .45]))
            spot = _spot(place, rng, kind, pose)
            if spot is None:
                continue
            x, z, heading = spot
            wide = 4.5 if kind == "car" else 0.6
            if any(np.hypot(a.x - x, a.z - z) < max(wide, 3.0 if a.kind == "car" else .5) for a in actors):
                continue
            running = kind != "car" or pose == "drive" or rng.random() < 0.35
            sizes = {"person": rng.normal(1.0, .06), "smoke": rng.uniform(.8, 1.3), "fire": rng.uniform(.6, 1.2)}
            size = sizes.get(kind, 1.0)
            actor = Actor(kind, x, z, heading, pose, float(rng.uniform(0, 2 * np.pi)), float(np.clip(size, .7, 1.3)),
                          int(rng.integers(1000)), bool(running), float(rng.uniform(.5, 1)))
            actors.append(actor)
            if pose == "ride":
                actors.append(replace(actor, kind="bicycle", pose="stand", z=z + .01, size=1.0))
    return Scene(place, light, weather, tuple(actors), dials.exposure * float(rng.uniform(.85, 1.15)),
                 dials.visible_noise, dials.infrared_noise, float(rng.uniform(.85, 1.15)), float(rng.uniform(-.5, .5)))


def simulate_pairs(n: int, split: str, seed: int, size=(128, 160), dials: Dials = Dials()) -> Pairs:
    """n pictures of everyday scenes of a split, in random order of place, light and weather.

    n: at least 1; split: train, validation, test or shift; size: (height, width), pixels, at least 48; dials: see
    `Dials`. A call uses n / 10 settings of place, light and weather, at least 8, since a background is drawn
    once for each. truth: place, light, weather (n,) indices; counts (n, kinds) actors that can be seen; offset
    (n, 2) pixels; missing (n,) 0 none, 1 visible, 2 infrared. Raises ValueError for anything else.

    >>> pairs = simulate_pairs(2, "test", seed=1, size=(48, 64))
    >>> pairs.visible.shape, len(pairs.captions[0])
    ((2, 48, 64, 3), 2)
    """
    if n < 1:
        raise ValueError(f"n={n}: expected at least 1 picture")
    place(split, 0)
    rng = np.random.default_rng((23, SPLITS.index(split), int(seed)))
    settings = []
    for _ in range(max(8, n // 10)):
        u, v = rng.random(2)
        light = "day" if u < dials.day else "dusk" if u < dials.day + dials.dusk else "night"
        weather = "rain" if v < dials.rain else "fog" if v < dials.rain + dials.fog else "clear"
        settings.append((int(rng.integers(PLACES[split])), light, weather))
    settings.sort()
    made = {name: [None] * n for name in ("visible", "infrared", "labels", "boxes", "captions", "prompts", "scenes")}
    truth = {name: [None] * n for name in ("place", "light", "weather", "counts", "offset", "missing")}
    which = rng.integers(len(settings), size=n)
    for i in np.argsort(which, kind="stable"):            # one background after another; the order stays random
        rng = np.random.default_rng((29, SPLITS.index(split), int(seed), int(i)))
        number, light, weather = settings[which[i]]
        scene = draw_scene(place(split, number), light, weather, rng, dials)
        offset = rng.normal(0, 1, 2) * dials.misalignment * size[0] / 240
        scene = replace(scene, offset=(float(offset[0]), float(offset[1])))
        picture = render(scene, size, int(rng.integers(2**62)))
        missing = int(rng.integers(1, 3)) if rng.random() < dials.missing else 0
        named = seen(scene, picture.boxes, size)
        words = captions(scene, rng, dials.captions, picture.boxes, size)
        values = (picture.visible * (missing != 1), picture.infrared * (missing != 2), picture.labels, picture.boxes,
                  tuple(corrupt(w, dials.words, rng) for w in words) if dials.words else tuple(words),
                  prompt(scene, "fusion", picture.boxes, size), scene)
        for name, value in zip(made, values, strict=True):
            made[name][i] = value
        counts = np.bincount([KINDS.index(scene.actors[k].kind) for k, _ in named], minlength=len(KINDS))
        for name, value in zip(truth, (number, LIGHTS.index(light), WEATHERS.index(weather), counts, offset, missing),
                               strict=True):
            truth[name][i] = value
    return Pairs(np.stack(made["visible"]), np.stack(made["infrared"]), np.stack(made["labels"]), tuple(made["boxes"]),
                 tuple(made["captions"]), tuple(made["prompts"]), tuple(made["scenes"]),
                 tuple(f"street-{split}-{seed}-{i}" for i in range(n)),
                 {name: np.array(value) for name, value in truth.items()})
