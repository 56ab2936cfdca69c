"""Ordinary life in a street, with the things that look or read like trouble and are none.

Every function returns tracks of one `Stage` (a place, its traffic and a random generator). Slots are endless:
who leaves the street is followed by another after a while, so the first instant of a clip is like any other.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from math import pi

import numpy as np

from cmf.simulate.surveillance_tracks import Path, Track
from cmf.simulate.surveillance_world import Layout, Line

LOOKS = 1000                       # looks are drawn below this number


@dataclass
class Stage:
    """What the tracks of one clip share."""

    layout: Layout
    seconds: float
    rng: np.random.Generator
    flow: int                      # direction of most people: +1 away from the camera
    along: float                   # share of people who go with the flow
    names: object = field(default_factory=count)

    def name(self, letter: str) -> str:
        return f"{letter}{next(self.names)}"

    def look(self) -> int:
        return int(self.rng.integers(LOOKS))

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def way(self) -> int:
        return self.flow if self.rng.uniform() < self.along else -self.flow

    def person(self, t: float, x: float, z: float, **options) -> Path:
        options.setdefault("size", float(np.clip(self.rng.normal(1.0, 0.05), 0.88, 1.12)))
        return Path(self.name("p"), "person", self.look(), t, x, z, offset=self.uniform(0, 2 * pi), **options)

    def spot(self, lines: tuple[Line, ...], low: float = 0.0, high: float = 0.7) -> tuple[Line, float, float]:
        """A line and a point of it within `low` to `high` of the well-seen stretch, inside the picture if it can be."""
        near, far = self.layout.view
        for _ in range(40):
            line = lines[self.rng.integers(len(lines))]
            along = near + self.uniform(low, high) * (far - near)
            x, z = line.at(self.layout.share(line, along), self.uniform(-0.3, 0.3) * line.width)
            if self.layout.shows(x, z):
                break
        return line, x, z


def walkers(stage: Stage, line: Line, kind: str = "walk") -> list[Track]:
    """One slot of people on a pavement: walkers, joggers ("run") with the stream, children ("child") both ways."""
    tracks, t = [], None
    while t is None or t < stage.seconds:
        going = stage.way() if kind == "walk" else stage.rng.choice([-1, 1]) if kind == "child" else stage.flow
        aside = stage.uniform(-0.38, 0.38) * line.width
        (x0, z0), (x1, z1) = line.ends(going, aside)
        speed = stage.uniform(*{"walk": (1.0, 1.6), "run": (2.5, 3.7), "child": (2.0, 3.2)}[kind])
        if t is None:
            t = -stage.uniform(0.0, line.length / speed)
        size = {"size": stage.uniform(0.6, 0.75)} if kind == "child" else {}
        path = stage.person(t, x0, z0, **size)
        if kind == "walk" and stage.rng.uniform() < 0.25:      # stops on the way: a telephone, a shop window
            share = stage.uniform(0.2, 0.8)
            path.go(*_mix((x0, z0), (x1, z1), share), speed)
            path.stay(stage.uniform(2.0, 7.0), "stand", str(stage.rng.choice(["stand", "phone", "wait"])))
        path.go(x1, z1, speed, "walk" if kind == "walk" else "run")
        tracks.append(path.done())
        t = path.t + stage.rng.exponential(3.0)
    return tracks


def sitter(stage: Stage, bag: bool = False) -> list[Track]:
    """Somebody who sits by the wall or on the grass for the whole clip, perhaps with a bag beside the feet."""
    _, x, z = stage.spot(stage.layout.edges)
    heading = pi / 2 if x < stage.layout.place.centre else -pi / 2
    tracks = [stage.person(-1.0, x, z).stay(stage.seconds + 2.0, "sit", "sit", heading).done()]
    if bag:
        thing = Path(stage.name("b"), "bag", stage.look(), -1.0, x + 0.55, z - 0.1, running=False)
        tracks.append(thing.stay(stage.seconds + 2.0, "stand", "bag_beside").done())
    return tracks


def stander(stage: Stage) -> list[Track]:
    """Somebody who waits or talks into a telephone."""
    _, x, z = stage.spot(stage.layout.pavements, 0.0, 1.0)
    deed = str(stage.rng.choice(["stand", "phone", "wait"]))
    return [stage.person(-1.0, x, z).stay(stage.seconds + 2.0, "stand", deed, stage.uniform(-pi, pi)).done()]


def resting(stage: Stage, start: float, lasts: float) -> list[Track]:
    """Somebody who lies by the wall or on the grass, now and then on the pavement: all the time, or for a while."""
    aside = stage.rng.uniform() < 0.75
    line, x, z = stage.spot(stage.layout.edges if aside else stage.layout.pavements)
    heading = stage.uniform(-pi, pi)
    if stage.rng.uniform() < 0.3:
        return [stage.person(-1.0, x, z).stay(stage.seconds + 2.0, "lie", "lie_rest", heading).done()]
    walk = stage.layout.pavements[0 if x < stage.layout.place.centre else 1]
    return [visit(stage, walk, x, z, start, lambda path: path.stay(1.2, "crouch", "crouch", heading)
            .stay(lasts, "lie", "lie_rest", heading).stay(1.2, "crouch", "crouch", heading))]


def friends(stage: Stage, start: float, lasts: float) -> list[Track]:
    """Two who meet, hug, wave at each other or play at pushing, and part."""
    deed = str(stage.rng.choice(["hug", "horseplay", "wave"], p=[0.25, 0.5, 0.25]))
    return meeting(stage, start, lasts, deed, "hug" if deed == "hug" else "strike",
                   gap=stage.uniform(0.4, 0.9), sway=stage.uniform(0.07, 0.24), beat=stage.uniform(0.7, 1.9))


def meeting(stage: Stage, start: float, lasts: float, deed: str, pose: str, gap: float, sway: float,
            beat: float) -> list[Track]:
    """Two who come, face each other for `lasts` seconds doing `deed`, and go on."""
    line, x, z = stage.spot(stage.layout.pavements)
    tracks = []
    for side in (-1, 1):
        face = -side * pi / 2 + stage.uniform(-0.3, 0.3)
        act = "stand" if pose == "hug" else pose
        tracks.append(visit(stage, line, x + 0.5 * side * gap, z + stage.uniform(-0.15, 0.15), start,
                             lambda path, act=act, face=face: path.stay(lasts, act, deed, face),
                             sway=sway, beat=beat))
    return tracks


def visit(stage: Stage, line: Line, x: float, z: float, start: float, act, **options) -> Track:
    """Comes along a line to (x, z), is there at `start`, does `act(path)`, and goes on along the line."""
    way, aside, speed = stage.way(), stage.uniform(-0.35, 0.35) * line.width, stage.uniform(1.0, 1.6)
    entry, leave = line.ends(way, aside)
    turn = line.at(float(np.clip(line.share(x, z), 0.01, 0.99)), aside)
    length = np.hypot(turn[0] - entry[0], turn[1] - entry[1]) + np.hypot(x - turn[0], z - turn[1])
    path = stage.person(start - length / speed, *entry, **options).go(*turn, speed).go(x, z, speed)
    path.stay(start - path.t, "stand", "stand")
    act(path)
    return path.go(*turn, speed).go(*leave, speed).done()


def waiting_bag(stage: Stage, start: float, lasts: float) -> list[Track]:
    """Somebody puts a bag down, waits beside it (or steps a little away), takes it and goes on."""
    line, x, z = stage.spot(stage.layout.pavements, 0.0, 0.55)
    step, start = stage.uniform(0.0, 2.0), start - 1.0
    heading = stage.uniform(-pi, pi)

    def act(path):
        path.stay(1.0, "crouch", "put_down", heading)
        if step > 1.0:
            path.go(x + step, z + 0.3 * step, 1.1).stay(lasts, "stand", "wait", heading).go(x, z, 1.1)
        else:
            path.stay(lasts, "stand", "wait", heading)
        path.stay(0.8, "crouch", "pick_up", heading)

    owner = visit(stage, line, x, z, start, act)
    ends = owner.times[owner.deeds.index("pick_up")] + 0.6
    thing = Path(stage.name("b"), "bag", stage.look(), start + 0.6, x + 0.35, z - 0.1, running=False)
    return [owner, thing.stay(ends - start - 0.6, "stand", "bag_beside").done()]


def cars(stage: Stage, lane: Line, gap: float) -> list[Track]:
    """One slot of traffic in a lane, in its direction; some stop before the crossing, some reverse into a place."""
    tracks, t = [], None
    kind = "bicycle" if stage.rng.uniform() < 0.2 else "car"
    while t is None or t < stage.seconds:
        speed = stage.uniform(3.0, 5.0) if kind == "bicycle" else stage.uniform(5.0, 10.0)
        aside = 0.35 * lane.width * lane.way if kind == "bicycle" else stage.uniform(-0.08, 0.08) * lane.width
        entry, leave = lane.ends(lane.way, aside)
        if t is None:
            t = -stage.uniform(0.0, lane.length / speed + gap)
        path = Path(stage.name("c"), kind, stage.look(), t, *entry)
        deed = "ride" if kind == "bicycle" else "drive"
        stops = stage.layout.crossing > 0 and kind == "car" and stage.rng.uniform() < 0.4
        if stops:
            before = stage.layout.share(lane, stage.layout.crossing + (-5.5 if lane.way > 0 else 8.5))
            path.go(*lane.at(before, aside), speed, "stand", deed).stay(stage.uniform(1.5, 6.0), "stand", "stop")
        path.go(*leave, speed, "ride" if kind == "bicycle" else "stand", deed)
        tracks.append(path.done())
        t = path.t + 1.5 + stage.rng.exponential(gap)
    return tracks


def parking(stage: Stage, start: float, lasts: float) -> list[Track]:
    """A car that passes its place and reverses into it, against the direction of its lane."""
    lane, *at = stage.spot(stage.layout.lanes, 0.1, 0.8)
    share = lane.share(*at)
    back, kerb = stage.uniform(6.0, 12.0) / lane.length * lane.way, 0.3 * lane.width * lane.way
    entry, _ = lane.ends(lane.way)
    speed = stage.uniform(5.0, 8.0)
    there, place = lane.at(share), lane.at(share - back, kerb)
    heading = float(np.arctan2(there[0] - entry[0], there[1] - entry[1]))
    length = float(np.hypot(there[0] - entry[0], there[1] - entry[1]))
    path = Path(stage.name("c"), "car", stage.look(), start - length / speed, *entry)
    path.go(*there, speed, "stand", "drive")
    path.stay(stage.uniform(0.5, 1.5), "stand", "stop")
    path.go(*place, stage.uniform(1.2, 2.8), "stand", "reverse", heading)
    return [path.stay(max(stage.seconds - path.t, 0.0) + 1.0, "stand", "parked", heading).done()]


def overtaking(stage: Stage, start: float, lasts: float) -> list[Track]:
    """A car parked at the kerb and another that swings into the opposite lane to pass it."""
    lane, *at = stage.spot(stage.layout.lanes, 0.1, 0.8)
    share = lane.share(*at)
    parked = lane.at(share, 0.25 * lane.width * lane.way)
    heading = float(np.arctan2(lane.far[0] - lane.near[0], lane.far[1] - lane.near[1]) + (0 if lane.way > 0 else pi))
    still = Path(stage.name("c"), "car", stage.look(), -1.0, *parked, running=False)
    tracks = [still.stay(stage.seconds + 2.0, "stand", "parked", heading).done()]
    (entry, leave), reach = lane.ends(lane.way), 10.0 / lane.length * lane.way
    aside, speed = -0.8 * lane.width * lane.way, stage.uniform(4.0, 7.0)
    come = abs((share - reach) - (0.0 if lane.way > 0 else 1.0)) * lane.length / speed
    path = Path(stage.name("c"), "car", stage.look(), start - come, *entry)
    path.go(*lane.at(share - reach), speed, "stand", "drive")
    for at in (share - 0.4 * reach, share + 0.5 * reach):
        path.go(*lane.at(at, aside), speed, "stand", "overtake")
    path.go(*lane.at(share + reach), speed, "stand", "drive").go(*leave, speed, "stand", "drive")
    return [*tracks, path.done()]


def steam(stage: Stage, start: float, lasts: float) -> list[Track]:
    """Steam from a grating or a chimney: a cloud that swells and thins."""
    _, x, z = stage.spot(stage.layout.edges, 0.1, 1.0)
    path, level = Path(stage.name("s"), "smoke", stage.look(), start, x, z, y=stage.uniform(0.0, 2.5)), 0.05
    for _ in range(4):
        path.stay(0.25 * lasts, "stand", "steam", 0.0, 0.4 + level, level)
        level = stage.uniform(0.15, 0.6)
    return [path.done(0.5, 0.05)]


def brazier(stage: Stage, start: float, lasts: float) -> list[Track]:
    """A small open fire in a basket with somebody who warms their hands."""
    _, x, z = stage.spot(stage.layout.edges, 0.1, 0.9)
    path = Path(stage.name("f"), "fire", stage.look(), start, x, z)
    level = stage.uniform(0.4, 0.8)
    tracks = [path.stay(lasts, "stand", "brazier", 0.0, stage.uniform(0.3, 0.6), level)
              .done(0.4, level)]
    walk = stage.layout.pavements[0 if x < stage.layout.place.centre else 1]
    return [*tracks, visit(stage, walk, x + 0.9, z, start, lambda path: path.stay(lasts, "stand", "warm", -pi / 2))]




def hurry(track: Track, t: float, x: float, z: float, reach: float, rng: np.random.Generator) -> Track:
    """The same track, but who walks within `reach` m of (x, z) at t runs from there for a while; others go on."""
    at = track.places(np.array([t]))[0]
    if track.kind != "person" or not np.hypot(at[0] - x, at[1] - z) < reach or track.poses[track.index(t)] not in (
            "walk", "stand", "run"):
        return track
    cut = t + rng.uniform(0.3, 1.2)
    i = track.index(min(cut, track.times[-1]))
    here = track.places(np.array([min(cut, track.times[-1])]))[0]
    far = max(((track.x[0], track.z[0]), (track.x[-1], track.z[-1])), key=lambda p: np.hypot(p[0] - x, p[1] - z))
    length = max(np.hypot(far[0] - here[0], far[1] - here[1]), 0.1)
    share = min(rng.uniform(8.0, 16.0) / length, 1.0)
    path = Path(track.name, track.kind, track.look, track.times[0], track.x[0], track.z[0], size=track.size,
                offset=track.offset, sway=track.sway, beat=track.beat)
    for k in range(i):
        path.leg(track.times[k + 1], track.x[k + 1], track.z[k + 1], track.poses[k], track.deeds[k], track.headings[k])
    path.leg(cut, *here, track.poses[i], track.deeds[i], track.headings[i])
    return path.go(*_mix(here, far, share), rng.uniform(3.0, 4.5), "run", "hurry").go(*far, 1.5).done()


def street(stage: Stage, traffic: float) -> list[Track]:
    """Everybody else: walkers on both pavements, now and then a jogger or a child who runs, cars, people who stay."""
    tracks: list[Track] = []
    for lane in stage.layout.lanes:
        tracks += cars(stage, lane, 6.0 / max(traffic, 1e-3))
    for _ in range(round(3 * traffic) + stage.rng.poisson(2.5 * traffic)):
        kind = str(stage.rng.choice(["walk", "run", "child"], p=[0.88, 0.07, 0.05]))
        tracks += walkers(stage, stage.layout.pavements[stage.rng.integers(2)], kind)
    for act, mean in ((sitter, 0.4), (stander, 0.5)):
        for _ in range(stage.rng.poisson(mean * traffic)):
            tracks += act(stage)
    if stage.rng.uniform() < 0.3:
        tracks += sitter(stage, bag=True)
    return [track for track in tracks if track.times[-1] > 0 and track.times[0] < stage.seconds]


def apart(tracks: list[Track], seconds: float) -> list[Track]:
    """The tracks without cars and bicycles that would drive through one that comes earlier in the list."""
    times, kept, ways = np.arange(0.0, seconds, 0.25), [], []
    for track in tracks:
        if track.kind in ("car", "bicycle"):
            way = track.places(times)                                                      # (t, 2)
            if any(((np.abs(way - other) < (1.9, 5.0)).all(1)).any() for other in ways):
                continue
            ways.append(way)
        kept.append(track)
    return kept


def _mix(a, b, u):
    return a[0] + u * (b[0] - a[0]), a[1] + u * (b[1] - a[1])
