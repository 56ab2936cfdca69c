"""What goes wrong in a street: one function a class, each with its interval, its tracks and who is in it.

| class | what happens | ordinary things like it | what tells them apart, and where it shows |
|---|---|---|---|
| explosion | flash, fire, growing smoke, people run off | steam, a brazier, lightning, headlights | size: pictures |
| fight | two strike and sway | friends who hug, wave, play at pushing | vigour; faces, told by words only |
| fall | from walking to lying in the way | people who rest by a wall | where: words and pictures |
| counter_run | somebody runs against the stream of people | joggers with it, walkers against it | motion: pictures |
| wrong_way | a car drives against its lane | oncoming, overtaking and reversing cars | lane and motion: pictures |
| abandoned | a bag is put down, its owner leaves | a bag beside its owner | a relation, small in pictures: words |

All of them leave: afterwards the street is as before, so the end of a clip tells no more than its middle.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import pi

import numpy as np

from cmf.simulate import surveillance_life as life
from cmf.simulate.surveillance_life import Stage, meeting, visit
from cmf.simulate.surveillance_tracks import Path, Track

CLASSES = ("normal", "explosion", "fight", "fall", "counter_run", "wrong_way", "abandoned")


@dataclass(frozen=True)
class Event:
    """An event: from `start` to `end` [s] at about (x, z) [m]; `actors` are the names of those in it."""

    start: float
    end: float
    x: float
    z: float
    actors: tuple[str, ...]
    tracks: tuple[Track, ...]
    reach: float = 0.0                     # m, from how far people run away
    flashes: tuple[tuple[float, float], ...] = field(default=())   # s and factor of the light


def explosion(stage: Stage, start: float, end: float) -> Event:
    """Something bursts at the roadside; fire and smoke grow, then die down."""
    line, x, z = stage.spot(stage.layout.pavements + stage.layout.lanes, 0.1, 0.9)
    lasts, big = end - start, stage.uniform(0.9, 1.7)
    fire = Path(stage.name("f"), "fire", stage.look(), start, x, z)
    fire.stay(0.3, "stand", "burn", 0.0, 0.5 * big, 0.9).stay(0.3 * lasts, "stand", "burn", 0.0, 1.3 * big, 1.0)
    fire.stay(max(0.6 * lasts - 0.3, 0.1), "stand", "burn", 0.0, 0.9 * big, 0.8)
    fire.stay(0.1 * lasts + 1.0, "stand", "burn", 0.0, 0.35 * big, 0.4)
    smoke = Path(stage.name("s"), "smoke", stage.look(), start + 0.1, x, z, y=0.4)
    smoke.stay(0.5 * lasts, "stand", "smoke", 0.0, 0.7, 0.7).stay(0.5 * lasts, "stand", "smoke", 0.0, 1.5 * big, 0.8)
    smoke.stay(stage.uniform(4.0, 9.0), "stand", "smoke", 0.0, 1.6 * big, 0.6)
    tracks = (fire.done(0.2, 0.05), smoke.done(1.8 * big, 0.02))
    return Event(start, end, x, z, tuple(t.name for t in tracks), tracks, reach=stage.uniform(9.0, 16.0),
                 flashes=((start, stage.uniform(1.4, 2.0)),))


def fight(stage: Stage, start: float, end: float) -> Event:
    """Two meet, strike at each other and sway, and part."""
    tracks = meeting(stage, start, end - start, "struggle", "strike", gap=stage.uniform(0.35, 0.8),
                     sway=stage.uniform(0.1, 0.3), beat=stage.uniform(0.9, 2.1))
    x, z = (float(v) for v in np.mean([t.places(np.array([start + 0.1]))[0] for t in tracks], axis=0))
    return Event(start, end, x, z, tuple(t.name for t in tracks), tuple(tracks))


def fall(stage: Stage, start: float, end: float) -> Event:
    """Somebody who walks goes down and lies; at the end gets up again."""
    line, x, z = stage.spot(stage.layout.pavements)
    heading = stage.uniform(-pi, pi)
    down = min(0.6, 0.2 * (end - start))

    def act(path):
        path.stay(down, "crouch", "topple", heading).stay(end - start - down, "lie", "lie_hurt", heading)
        path.stay(stage.uniform(1.0, 2.5), "crouch", "get_up", heading)

    track = visit(stage, line, x, z, start, act)
    return Event(start, end, x, z, (track.name,), (track,))


def counter_run(stage: Stage, start: float, end: float) -> Event:
    """Somebody comes with the stream of people, turns and runs against it, then walks on."""
    line, _, _ = stage.spot(stage.layout.pavements)
    aside, walk = stage.uniform(-0.35, 0.35) * line.width, stage.uniform(1.0, 1.6)
    turn, until, speed = _stretch(stage, line, -stage.flow, (3.2, 4.8), end - start)
    lasts = abs(turn - until) * line.length / speed
    (entry, _), there, leave = line.ends(stage.flow, aside), line.at(turn, aside), line.ends(-stage.flow, aside)[1]
    come = float(np.hypot(there[0] - entry[0], there[1] - entry[1])) / walk
    path = stage.person(start - come, *entry).go(*there, walk).go(*line.at(until, aside), speed, "run", "counter")
    track = path.go(*leave, walk).done()
    return Event(start, start + lasts, *line.at(0.5 * (turn + until), aside), (track.name,), (track,))


def wrong_way(stage: Stage, start: float, end: float) -> Event:
    """A car swings into the opposite lane and stays in it, against its direction, then leaves it."""
    other, _, _ = stage.spot(stage.layout.lanes)
    own = next(lane for lane in stage.layout.lanes if lane is not other)
    at, until, speed = _stretch(stage, other, own.way, (2.5, 9.0), end - start)
    lasts = abs(at - until) * other.length / speed
    swing = min(6.0, 0.3 * lasts * speed) / own.length * own.way
    (entry, leave) = own.ends(own.way)
    before, there = own.at(at - swing), other.at(at)
    way = sum(float(np.hypot(b[0] - a[0], b[1] - a[1])) for a, b in ((entry, before), (before, there)))
    path = Path(stage.name("c"), "car", stage.look(), start - way / speed, *entry).go(*before, speed, "stand", "drive")
    path.go(*there, speed, "stand", "overtake").go(*other.at(until), speed, "stand", "against")
    track = path.go(*own.at(until + swing), speed, "stand", "overtake").go(*leave, speed, "stand", "drive").done()
    return Event(start, start + lasts, *other.at(0.5 * (at + until)), (track.name,), (track,))


def _stretch(stage, line, way, speeds, lasts) -> tuple[float, float, float]:
    """Shares where a passage in direction `way` begins and ends inside the view, and its speed within `speeds`."""
    near, far = (stage.layout.share(line, along) for along in (stage.layout.view[0], stage.layout.view[1] + 6.0))
    speed = float(np.clip(stage.uniform(0.6, 1.0) * (far - near) * line.length / lasts, *speeds))
    length = min(speed * lasts / line.length, far - near)
    low = stage.uniform(near, far - length) if far - near > length else near
    return (low, low + length, speed) if way > 0 else (low + length, low, speed)


def abandoned(stage: Stage, start: float, end: float) -> Event:
    """Somebody puts a bag down and leaves; the interval ends when it is taken away."""
    line, x, z = stage.spot(stage.layout.pavements, 0.0, 0.55)
    heading = stage.uniform(-pi, pi)
    owner = visit(stage, line, x, z, start - 1.0, lambda path: path.stay(1.0, "crouch", "put_down", heading))
    bag = Path(stage.name("b"), "bag", stage.look(), start - 0.4, x + 0.35, z - 0.1, running=False)
    thing = bag.stay(end - start + 0.4, "stand", "bag_alone").done()
    taker = visit(stage, line, x, z, end - 0.6, lambda path: path.stay(0.8, "crouch", "pick_up", heading))
    return Event(start, end, x, z, (thing.name, owner.name), (owner, thing, taker))


def passing(stage: Stage, start: float, lasts: float) -> list[Track]:
    """Somebody who runs for a while and then walks on, as `counter_run` does, but with the stream of people."""
    other = Stage(stage.layout, stage.seconds, stage.rng, -stage.flow, stage.along, stage.names)
    (track,) = counter_run(other, start, start + lasts).tracks
    return [replace(track, deeds=tuple("run" if deed == "counter" else deed for deed in track.deeds))]


EVENTS = {"explosion": explosion, "fight": fight, "fall": fall, "counter_run": counter_run,
          "wrong_way": wrong_way, "abandoned": abandoned}

# what is drawn in an event's place in a normal clip, and what is about in every clip
LIKE = {"explosion": lambda *a: life.steam(*a) + life.brazier(*a)[:1], "fight": life.friends, "fall": life.resting,
        "counter_run": passing, "wrong_way": life.overtaking, "abandoned": life.waiting_bag,
        "parking": life.parking, "steam": life.steam, "brazier": life.brazier}
