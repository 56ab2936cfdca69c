"""Things that move on the ground as functions of time: tracks of keyframes, and the lines that they follow.

Axes: k keyframes of a track, t instants. Ground plane in metres: x to the right, z away from the camera; seconds.
Between two keyframes a place, a scale and a strength go linearly; what somebody does changes at the keyframe.
A heading of nan follows the motion, and while standing keeps the last one.
"""
from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import atan2, cos, hypot, isnan, nan, pi, sin

import numpy as np

STRIDE = {"walk": 1.45, "run": 2.4, "ride": 4.0}  # m, length of two steps (one turn of the pedals)


@dataclass(frozen=True)
class Track:
    """One actor over time. It exists from its first keyframe to its last; `deeds` are what an onlooker sees it do."""

    name: str
    kind: str
    look: int
    times: tuple[float, ...]               # s, increasing, (k,)
    x: tuple[float, ...]                   # m, (k,)
    z: tuple[float, ...]                   # m, (k,)
    poses: tuple[str, ...]                 # pose from this keyframe on, (k,)
    deeds: tuple[str, ...]                 # key of the grammar from this keyframe on, (k,)
    headings: tuple[float, ...]            # rad, nan follows the motion, (k,)
    travelled: tuple[float, ...]           # m along the track, (k,)
    size: float = 1.0
    running: bool = True
    scale: tuple[float, ...] | None = None     # factor of size, (k,)
    strength: tuple[float, ...] | None = None  # in [0, 1], (k,)
    sway: float = 0.0                      # m, half width of an unrest in place while a deed in RESTLESS lasts
    beat: float = 1.0                      # Hz, of the sway and of the arms
    offset: float = 0.0                    # rad, phase at the start
    y: float = 0.0                         # m, height of the foot
    courses: tuple[float, ...] = ()        # rad, direction of the last motion before or after each keyframe, (k,)

    def __post_init__(self):
        object.__setattr__(self, "courses", tuple(self._course(i) for i in range(len(self.times))))

    def alive(self, t: float) -> bool:
        return self.times[0] <= t <= self.times[-1]

    def index(self, t: float) -> int:
        """The keyframe whose pose and deed hold at t."""
        return min(max(bisect_right(self.times, t) - 1, 0), len(self.times) - 1)

    def deed(self, t: float) -> str:
        return self.deeds[self.index(t)]

    def state(self, t: float) -> dict:
        """Facts at t, the arguments of an actor: x, z, heading, pose, phase, size, strength; speed and unrest [m/s]."""
        i = self.index(t)
        j = min(i + 1, len(self.times) - 1)
        gap = self.times[j] - self.times[i]
        u = min(max((t - self.times[i]) / gap, 0.0), 1.0) if gap else 0.0
        dx, dz = self.x[j] - self.x[i], self.z[j] - self.z[i]
        x, z = self.x[i] + u * dx, self.z[i] + u * dz
        heading = self.headings[i]
        if isnan(heading):
            heading = self.courses[i]
        pose, way = self.poses[i], self.travelled[i] + u * (self.travelled[j] - self.travelled[i])
        phase = self.offset + 2 * pi * (way / STRIDE[pose] if pose in STRIDE else 0.25 * t)
        unrest = 0.0
        if self.sway and self.deeds[i] in RESTLESS:
            unrest = 1.4 * pi * self.sway * self.beat
            swing = sin(2 * pi * self.beat * t + self.offset)
            slow = sin(2.3 * self.beat * t + 1.7 * self.offset)
            x, z = x + self.sway * swing, z + 0.7 * self.sway * slow
            phase = self.offset + 2 * pi * self.beat * t
            if swing < -0.2:
                pose = "stand"
        grow = _between(self.scale, i, j, u, 1.0)
        return {"x": x, "z": z, "heading": heading, "pose": pose, "phase": phase, "size": self.size * grow,
                "strength": _between(self.strength, i, j, u, 1.0), "speed": hypot(dx, dz) / gap if gap else 0.0,
                "unrest": unrest}

    def before(self, t: float, nearest: float) -> bool:
        """Whether it is farther than `nearest` m in front of the camera at t."""
        i = self.index(t)
        j = min(i + 1, len(self.times) - 1)
        gap = self.times[j] - self.times[i]
        return self.z[i] + ((t - self.times[i]) / gap if gap else 0.0) * (self.z[j] - self.z[i]) > nearest

    def moves_away(self, t: float) -> bool:
        """Whether its present motion, or else its last one, leads away from the camera."""
        return cos(self.courses[self.index(t)]) > 0

    def places(self, t: np.ndarray) -> np.ndarray:
        """Places at instants t without the unrest: (t, 2), nan where the actor does not exist."""
        t = np.asarray(t, dtype=float)
        at = np.stack([np.interp(t, self.times, self.x), np.interp(t, self.times, self.z)], axis=-1)  # (t, 2)
        at[(t < self.times[0]) | (t > self.times[-1])] = np.nan
        return at

    def _course(self, i: int) -> float:
        """Direction of the last motion up to keyframe i, or of the first one after it."""
        last = len(self.times) - 1
        for k in [*range(min(i, last - 1), -1, -1), *range(i + 1, last)]:
            dx, dz = self.x[k + 1] - self.x[k], self.z[k + 1] - self.z[k]
            if dx or dz:
                return atan2(dx, dz)
        return 0.0


RESTLESS = frozenset({"struggle", "horseplay", "wave"})


def _between(values, i, j, u, default):
    return default if values is None else values[i] + u * (values[j] - values[i])


class Path:
    """A track in the making: start somewhere, then walk, wait, run ... until `done`.

    >>> path = Path("p0", "person", 3, t=0.0, x=1.0, z=10.0).go(1.0, 16.0, speed=1.2).stay(4.0, "stand", "wait")
    >>> path.done().alive(8.9), round(path.t, 2)
    (True, 9.0)
    """

    def __init__(self, name: str, kind: str, look: int, t: float, x: float, z: float, **options):
        self.name, self.kind, self.look, self.options = name, kind, look, options
        self.t, self.x, self.z = float(t), float(x), float(z)
        self.rows: list[tuple] = []        # t, x, z, pose, deed, heading of each leg
        self.levels: list[tuple] = []      # scale and strength at the same instants

    def go(self, x: float, z: float, speed: float, pose: str = "walk", deed: str | None = None,
           heading: float = nan, scale: float = 1.0, strength: float = 1.0) -> Path:
        """On a straight line to (x, z) at `speed` [m/s]."""
        self._add(pose, pose if deed is None else deed, heading, scale, strength)
        self.t += max(hypot(x - self.x, z - self.z) / speed, 0.04)
        self.x, self.z = float(x), float(z)
        return self

    def stay(self, seconds: float, pose: str = "stand", deed: str = "stand", heading: float = nan,
             scale: float = 1.0, strength: float = 1.0) -> Path:
        """In place for so many seconds; nothing is added for less than a frame."""
        if seconds >= 0.04:
            self._add(pose, deed, heading, scale, strength)
            self.t += seconds
        return self

    def leg(self, until: float, x: float, z: float, pose: str, deed: str, heading: float = nan) -> Path:
        """On a straight line to (x, z), there at the instant `until`; nothing if that is past."""
        if until - self.t >= 1e-6:
            self._add(pose, deed, heading, 1.0, 1.0)
            self.t, self.x, self.z = float(until), float(x), float(z)
        return self

    def done(self, scale: float = 1.0, strength: float = 1.0) -> Track:
        if not self.rows:
            raise ValueError(f"track {self.name} has no leg: call go or stay before done")
        _, _, _, pose, deed, heading = self.rows[-1]
        rows = [*self.rows, (self.t, self.x, self.z, pose, deed, heading)]
        levels = [*self.levels, (scale, strength)]
        times, x, z, poses, deeds, headings = zip(*rows, strict=True)
        steps = [hypot(x[i + 1] - x[i], z[i + 1] - z[i]) for i in range(len(x) - 1)]
        travelled = tuple(float(sum(steps[:i])) for i in range(len(x)))
        scales, strengths = zip(*levels, strict=True)
        return Track(self.name, self.kind, self.look, times, x, z, poses, deeds, headings, travelled,
                     scale=scales if set(scales) != {1.0} else None,
                     strength=strengths if set(strengths) != {1.0} else None, **self.options)

    def _add(self, pose, deed, heading, scale, strength):
        self.rows.append((self.t, self.x, self.z, pose, deed, heading))
        self.levels.append((scale, strength))
