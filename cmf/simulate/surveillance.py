"""Simulated surveillance clips: a street over 10 to 60 s in which, in half of them, one thing goes wrong.

Axes: F frames, H and W rows and columns. Seconds from the start of a clip; metres on the ground as in
`cmf.simulate.street`. A clip is a latent story (`surveillance_life`, `surveillance_events`): tracks of people,
cars, bags, smoke. Frames, infrared, frame labels and captions are made from it, each when it is asked for.
In a clip without event something harmless and alike takes the event's place, drawn by the same rules, so that
neither length nor the number of actors tells the label. Everything made here is simulated.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from cmf.simulate import surveillance_life as life
from cmf.simulate.street_actors import Actor, look_of
from cmf.simulate.street_place import LIGHTS, PLACES, SPLITS
from cmf.simulate.street_render import Picture, Scene, render
from cmf.simulate.surveillance_events import CLASSES, EVENTS, LIKE, Event
from cmf.simulate.surveillance_tracks import Track
from cmf.simulate.surveillance_words import EYE, Caption, Sight, choose, describe, miswrite
from cmf.simulate.surveillance_world import Layout, layout

__all__ = ["CLASSES", "FPS", "SPLITS", "VERSION", "Caption", "Clip", "Dials", "simulate_clip", "simulate_clips"]

VERSION = 1                       # part of cache keys: raise it when the simulator's numbers change
FPS = 25.0                        # frames/s
SIZE = (120, 160)                 # pixels, usual height and width of a frame
BLOCK = 12                        # clips among which the classes are balanced: 6 normal, one of each other class


@dataclass(frozen=True)
class Dials:
    """Settings of the simulated street and its onlooker; all continuous, all meant to be swept."""

    missed: float = 0.2      # 0 to 1, probability that a caption of an event tells of something else
    replaced: float = 0.02   # 0 to 1, share of the captions' words replaced by other words
    jitter: float = 0.4      # s, standard deviation of the time that a caption is really about
    delay: float = 0.0       # s, how late captions are
    silent: float = 0.0      # 0 to 1, share of captions that are missing
    overlap: float = 0.0     # 0 to 1: what onlookers overlook is chance (0) or what is far and small in pictures (1)
    traffic: float = 1.0     # people and cars, 1: about ten actors at a time
    likeness: float = 1.2    # harmless things like trouble in a clip, mean number beside the one that is always there
    night: float = 0.25      # 0 to 1, share of clips at night; dusk is half of it
    noise: float = 1.0       # factor on the noise of the cameras

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"dial {field.name}={value!r}: expected a finite number, 0 or larger")
        for name in ("missed", "replaced", "silent", "overlap", "night"):
            if getattr(self, name) > 1:
                raise ValueError(f"dial {name}={getattr(self, name)!r}: expected a share between 0 and 1")


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip. `tracks` is the story; `event` is None in a normal clip; `flashes`: (s, factor of the light)."""

    id: str
    split: str
    label: int                             # index into CLASSES
    seconds: float                         # a whole number of frames
    fps: float
    layout: Layout
    light: str                             # day, dusk, night
    weather: str                           # clear, rain, fog
    flow: int                              # +1: most people walk away from the camera, -1: towards it
    tracks: tuple[Track, ...]
    event: Event | None
    flashes: tuple[tuple[float, float], ...]
    dials: Dials
    seed: tuple[int, int, int]             # index of the split, seed, number

    @property
    def events(self) -> tuple[tuple[float, float], ...]:
        """Intervals (start, end) in seconds in which something is wrong: none or one."""
        return () if self.event is None else ((self.event.start, self.event.end),)

    @property
    def frames(self) -> int:
        return round(self.seconds * self.fps)

    def _time(self, t: float) -> float:
        if not 0 <= t <= self.seconds:
            raise ValueError(f"t={t!r}: expected seconds between 0 and the clip's {self.seconds:g}")
        return float(t)

    def scene_at(self, t: float) -> Scene:
        """The `cmf.simulate.street.Scene` at t seconds. Raises ValueError outside the clip."""
        actors = []
        for track in self.present(self._time(t)):
            facts = track.state(t)
            still = "drive" if track.kind == "car" and track.running else "stand"
            pose = facts["pose"] if track.kind == "person" else still
            if track.kind == "bicycle":
                actors.append(Actor("person", facts["x"], facts["z"], facts["heading"], "ride", facts["phase"],
                                    look=track.look + 1))
            actors.append(Actor(track.kind, facts["x"], facts["z"], facts["heading"], pose, facts["phase"],
                                facts["size"], track.look, track.running, facts["strength"], track.y))
        _, exposure, gain, level = self._cameras
        return Scene(self.layout.place, self.light, self.weather, tuple(actors), exposure=exposure * self.gain(t),
                     visible_noise=self.dials.noise, infrared_noise=self.dials.noise, infrared_gain=gain,
                     infrared_level=level)

    def present(self, t: float) -> list[Track]:
        """Tracks that exist at t and stand before the camera, in the order of `scene_at(t).actors`."""
        return [k for k in self.tracks
                if k.times[0] <= t <= k.times[-1] and k.before(t, 4.5 if k.kind == "car" else 1.5)]

    def picture(self, t: float, size: tuple[int, int] = SIZE) -> Picture:
        """The street's picture at t: visible, infrared, labels, boxes."""
        return render(self.scene_at(t), size=size, seed=self._cameras[0] + round(1000 * t))

    def frame(self, t: float, size: tuple[int, int] = SIZE) -> np.ndarray:
        """The visible picture at t seconds: (H, W, 3) uint8."""
        return self.picture(t, size).visible

    def frame_infrared(self, t: float, size: tuple[int, int] = SIZE) -> np.ndarray:
        """The infrared picture at t seconds: (H, W) uint8."""
        return self.picture(t, size).infrared

    def iterate(self, fps: float | None = None, size: tuple[int, int] = SIZE) -> Iterator[np.ndarray]:
        """Visible frames of the whole clip one after another at `fps` (the clip's own by default)."""
        return (self.frame(t, size) for t in self.times(fps))

    def times(self, fps: float | None = None) -> np.ndarray:
        """Instants of the frames at `fps`: (F,), frame i at i / fps."""
        fps = self.fps if fps is None else fps
        if not fps > 0:
            raise ValueError(f"fps={fps!r}: expected frames per second above 0")
        return np.arange(max(round(self.seconds * fps), 1)) / fps

    def involved(self, track: Track, t: float) -> bool:
        """Whether a track is in the event at t; who only walks there or leaves is not."""
        return (self.event is not None and track.name in self.event.actors
                and self.event.start <= t < self.event.end and track.deed(t) != "walk")

    def gain(self, t: float) -> float:
        """Factor of the visible light at t: above 1 for a moment after a flash, which fades in 0.15 s."""
        return 1.0 + sum((g - 1.0) * np.exp(-(t - at) / 0.15) for at, g in self.flashes if 0 <= t - at < 1.0)

    def frame_labels(self, fps: float | None = None) -> np.ndarray:
        """1 where a frame lies in an event, else 0: (F,) uint8, frames as in `times`."""
        times, labels = self.times(fps), 0
        for start, end in self.events:
            labels = (times >= start) & (times < end)
        return np.zeros(len(times), np.uint8) | np.asarray(labels, np.uint8)

    def sights(self, t: float) -> list[Sight]:
        """What an onlooker can see at t: one entry for each actor in the picture, one for the street itself."""
        place, (near, far) = self.layout.place, self.layout.view
        active = self.event is not None and self.event.start <= t < self.event.end
        seen, tracks = [], self.present(t)
        crowd = sum(k.kind == "person" for k in tracks)
        for track in tracks:
            facts = track.state(t)
            pixels, _ = place.project([(facts["x"], 0.6, facts["z"])], (120, 160))
            column, row = pixels[0]
            if not (4 < column < 155 and 2 < row < 118):
                continue
            across, along = place.road_point(facts["x"], facts["z"])
            away = track.moves_away(t)
            deed = track.deed(t)
            mine = active and (self.involved(track, t) or deed == "hurry" and self.event.reach > 0)
            seen.append(Sight(
                track.name, track.kind, deed, facts["pose"], track.size < 0.8 and track.kind == "person",
                "left" if column < 55 else "right" if column > 104 else "middle",
                float(np.clip((along - near) / (far + 8 - near), 0, 1)), self._ground(across, along),
                "left" if across < 0 else "right", not away, self._colour(track),
                0 if track.kind != "person" or facts["speed"] < 0.3 else self.flow if away else -self.flow,
                crowd, float(EYE.get(deed, 1.0)), bool(mine)))
        street = dict(name="", kind="street", pose="", child=False, side="middle", far=0.5, ground="road", lane="left",
                      towards=self.flow < 0, colour="", stream=0, crowd=crowd, event=False)
        seen.append(Sight(deed="street", weight=EYE["street"], **street))
        if any(0 <= t - at < 2.0 for at, _ in self.flashes):
            mine = active and self.label == CLASSES.index("explosion")
            seen.append(Sight(deed="flash", weight=EYE["flash"], **(street | {"event": bool(mine), "far": -1.0})))
        return seen

    def _colour(self, track: Track) -> str:
        return look_of(track.kind, track.look).colour if self.light == "day" and self.weather != "fog" else ""

    def _ground(self, across: float, along: float) -> str:
        place, side = self.layout.place, abs(across)
        if side < place.road:
            return "crossing" if 0 < place.crossing <= along <= place.crossing + 3.2 else "road"
        if side < place.road + 0.6:
            return "kerb"
        beyond = place.road + place.pavement + (0.0 if self.layout.grass else -0.75)
        return "pavement" if side < beyond else "grass" if self.layout.grass else "wall"

    def captions(self, every: float = 2.0) -> tuple[Caption, ...]:
        """What an onlooker writes: a sentence for each `every` seconds (the last stretch may be shorter).

        Each tells of something seen at one of two moments of its stretch, shifted by the dials' delay and jitter;
        `about` and `event` say of whom it really tells. Raises ValueError unless every is above 0.
        """
        if not every > 0:
            raise ValueError(f"every={every!r}: expected seconds above 0")
        rng = np.random.default_rng([VERSION, 5, *self.seed, round(1000 * every)])
        made = []
        for k in range(int(np.ceil(self.seconds / every - 1e-9))):
            start, end = k * every, min((k + 1) * every, self.seconds)
            times = rng.uniform(start, end, 2) + self.dials.jitter * rng.normal() - self.dials.delay
            seen = {(s.name, s.deed): s for t in np.clip(times, 0.0, self.seconds) for s in self.sights(float(t))}
            sight = choose(list(seen.values()), self.dials.missed, self.dials.overlap, rng)
            text = miswrite(describe(sight, self.light, self.weather, rng), self.dials.replaced, rng)
            if rng.uniform() >= self.dials.silent:
                made.append(Caption(start, end, text, (sight.name,) if sight.name else (), sight.event))
        return tuple(made)

    def event_box(self, t: float, size: tuple[int, int] = SIZE) -> tuple[float, float, float, float] | None:
        """Pixels x0, y0, x1, y1 around the actors of the event at t (last excluded), cut to the picture, or None."""
        if self.event is None or not self.event.start <= t < self.event.end:
            return None
        points = []
        for track in self.present(t):
            if self.involved(track, t):
                facts = track.state(t)
                wide, tall = EXTENT[track.kind]
                if facts["pose"] in ("lie", "crouch", "sit"):
                    wide, tall = (1.0, 0.5) if facts["pose"] == "lie" else (0.45, 1.1)
                wide, tall = wide * facts["size"], tall * facts["size"]
                points += [(facts["x"] + s * wide, track.y + h, facts["z"]) for s in (-1, 1) for h in (0.0, tall)]
        if not points:
            return None
        pixels, _ = self.layout.place.project(points, size)
        low, high = np.clip(pixels.min(0), 0, None), np.minimum(pixels.max(0) + 1, (size[1], size[0]))
        return None if (high - low < 1).any() else (float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    @cached_property
    def truth(self) -> dict:
        """Facts: class, actors of the event and its place, place and flow, what pictures and words know of it.

        pixels: height in pixels of what the event is about at its middle, in a frame of SIZE; told: share of the
        captions of event stretches (every 2 s) that tell of it; both nan in normal clips.
        """
        event = self.event
        facts = {"class": CLASSES[self.label], "place": self.layout.place.number, "flow": self.flow,
                 "light": self.light, "weather": self.weather, "actors": (), "pixels": np.nan, "told": np.nan}
        if event is None:
            return facts
        inside = [c.event for c in self.captions() if c.start < event.end and c.end > event.start]
        box = self.event_box(0.5 * (event.start + event.end))
        return facts | {"actors": event.actors, "x": event.x, "z": event.z,
                        "pixels": 0.0 if box is None else box[3] - box[1],
                        "told": float(np.mean(inside)) if inside else np.nan}

    def digest(self) -> str:
        """SHA-256 of everything that the clip is made of: equal digests, equal pictures, labels and captions."""
        facts = repr((VERSION, self.id, self.label, self.seconds, self.fps, self.layout, self.light, self.weather,
                      self.flow, self.tracks, self.event, self.flashes, self.dials, self.seed))
        return hashlib.sha256(facts.encode()).hexdigest()

    @cached_property
    def _cameras(self) -> tuple[int, float, float, float]:
        """What stays throughout a clip: seed of the noise, exposure, gain and level [K] of the infrared."""
        rng = np.random.default_rng([VERSION, 7, *self.seed])
        return int(rng.integers(2**31)), rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), rng.uniform(-0.5, 0.5)


EXTENT = {"person": (0.35, 1.75), "car": (1.9, 1.5), "bicycle": (0.5, 1.7), "smoke": (1.0, 2.2), "fire": (0.6, 1.4),
          "bag": (0.25, 0.4)}   # m, half width and height at size 1


def simulate_clip(split: str = "train", seed: int = 0, number: int = 0, dials: Dials | None = None) -> Clip:
    """The clip `number` of a split and seed; its label follows from both, balanced within each BLOCK of numbers.

    split: one of SPLITS, each with its own places, palettes and cameras; seed, number: 0 or larger.
    Equal arguments give equal clips. Raises ValueError on a bad split, seed, number or dial.

    >>> clip = simulate_clip("test", seed=1, number=4)
    >>> clip.frames == round(clip.seconds * clip.fps), len(clip.frame_labels()) == clip.frames
    (True, True)
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    for name, value in (("seed", seed), ("number", number)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"{name}={value!r}: expected a whole number, 0 or larger")
    dials, index = Dials() if dials is None else dials, SPLITS.index(split)
    kinds = [0] * (BLOCK // 2) + list(range(1, len(CLASSES)))
    label = int(np.random.default_rng([VERSION, index, seed, number // BLOCK, 1]).permutation(kinds)[number % BLOCK])
    rng = np.random.default_rng([VERSION, index, seed, number, 2])
    seconds = round(rng.uniform(10.0, 60.0) * FPS) / FPS
    where = layout(split, int(rng.integers(PLACES[split])))
    odds = [1 - 1.5 * min(dials.night, 2 / 3), 0.5 * dials.night, dials.night]
    light = str(rng.choice(LIGHTS, p=np.array(odds) / sum(odds)))
    weather = str(rng.choice(["clear", "rain", "fog"], p=[0.7, 0.22, 0.08]))
    stage = life.Stage(where, seconds, rng, int(rng.choice([-1, 1])), rng.uniform(0.92, 1.0))
    lasts = max(rng.uniform(0.05, 0.4) * seconds, min(2.0, 0.4 * seconds))
    start = rng.uniform(0.04 * seconds + 0.4, seconds - lasts)
    # the event, or by the same draws something alike and harmless, then what is alike anyway
    kind = CLASSES[label] if label else str(rng.choice(CLASSES[1:]))
    event, alike = (EVENTS[kind](stage, start, start + lasts), []) if label else (None, LIKE[kind](stage, start, lasts))
    for _ in range(min(rng.poisson(dials.likeness), 4)):
        when, so_long = rng.uniform(0.0, 0.8) * seconds, rng.uniform(0.05, 0.4) * seconds
        alike += LIKE[str(rng.choice(list(LIKE)))](stage, when, so_long)
    first = alike if event is None else [*event.tracks, *alike]
    tracks = life.apart([*first, *life.street(stage, dials.traffic)], seconds)
    flashes = () if event is None else event.flashes
    alarm = [(event.start, event.x, event.z, event.reach)] if event is not None and event.reach else []
    if weather == "rain" and rng.uniform() < 0.6:                       # lightning, which makes some people run
        at = rng.uniform(0.0, seconds)
        flashes = (*flashes, (float(at), float(rng.uniform(1.3, 1.9))))
        alarm.append((at, *stage.spot(where.pavements)[1:], rng.uniform(4.0, 16.0)))
    fixed = () if event is None else event.actors
    for at, x, z, reach in alarm:
        tracks = [k if k.name in fixed else life.hurry(k, at, x, z, reach, rng) for k in tracks]
    order = rng.permutation(len(tracks))
    name = f"{split}-{seed}-{number:05d}"
    return Clip(name, split, label, seconds, FPS, where, light, weather, stage.flow, tuple(tracks[i] for i in order),
                event, flashes, dials, (index, int(seed), int(number)))


def simulate_clips(n: int, split: str = "train", seed: int = 0, dials: Dials | None = None) -> list[Clip]:
    """Clips 0 to n - 1 of a split and seed: half of them normal, the rest shared equally by the other classes.

    Raises ValueError unless n is a whole number above 0, and as `simulate_clip`.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n={n!r}: expected a whole number of clips, 1 or larger")
    return [simulate_clip(split, seed, number, dials) for number in range(n)]
