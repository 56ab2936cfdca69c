"""Where things happen: lanes, pavements and their edges, as lines on the ground that tracks follow.

Ground plane in metres: x to the right, z away from the camera. A line runs from its near end to its far end;
`way` +1 follows it away from the camera, -1 towards it.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from cmf.simulate.street_place import SPLITS, Place, place


@dataclass(frozen=True)
class Line:
    """A straight strip of ground of `width` m; for a lane `way` is the direction that traffic must take."""

    near: tuple[float, float]              # m, x and z
    far: tuple[float, float]
    width: float
    way: int = 1
    start: float = 0.0                     # m along the road, of the near end

    @property
    def length(self) -> float:
        return float(np.hypot(self.far[0] - self.near[0], self.far[1] - self.near[1]))

    def at(self, share: float, aside: float = 0.0) -> tuple[float, float]:
        """The point at `share` in [0, 1] of the length and `aside` m to the right of it (seen from the near end)."""
        dx, dz = (self.far[0] - self.near[0]) / self.length, (self.far[1] - self.near[1]) / self.length
        along = share * self.length
        return self.near[0] + dx * along + dz * aside, self.near[1] + dz * along - dx * aside

    def ends(self, way: int, aside: float = 0.0) -> tuple[tuple[float, float], tuple[float, float]]:
        """First and last point of a passage in direction `way`."""
        return (self.at(0, aside), self.at(1, aside)) if way > 0 else (self.at(1, aside), self.at(0, aside))

    def share(self, x: float, z: float) -> float:
        """Share of the length at the foot of (x, z)."""
        dx, dz = self.far[0] - self.near[0], self.far[1] - self.near[1]
        return ((x - self.near[0]) * dx + (z - self.near[1]) * dz) / self.length**2


@dataclass(frozen=True)
class Layout:
    """Lines and spots of one place as one camera on a mast sees them."""

    place: Place
    lanes: tuple[Line, ...]                # right-hand traffic: the right lane leads away from the camera
    pavements: tuple[Line, ...]
    edges: tuple[Line, ...]                # strips along the walls, or the grass there, where people sit and lie
    crossing: float                        # m along the road; negative: none
    view: tuple[float, float]              # m along the road, nearest and farthest place at which a person is seen well
    grass: bool                            # the edges are grass

    def shows(self, x: float, z: float, height: float = 0.9) -> bool:
        """Whether a thing of that height on the ground at (x, z) is well inside the picture."""
        (column, row), _ = (v[0] for v in self.place.project([(x, 0.5 * height, z)], (120, 160)))
        return z > 2.0 and 10 < column < 149 and 8 < row < 112

    def share(self, line: Line, along: float) -> float:
        """Share of a line's length at `along` m of the road."""
        return (along - line.start) / line.length


@lru_cache(maxsize=256)
def layout(split: str, number: int) -> Layout:
    """The place `number` of a split, seen from a mast of its own height, and the lines that life follows there.

    split, number as in `cmf.simulate.street_place.place`, with its refusals.

    >>> [lane.way for lane in layout("train", 3).lanes]
    [-1, 1]
    """
    bare = place(split, number)
    rng = np.random.default_rng((72, SPLITS.index(split), bare.number))
    height = rng.uniform(3.4, 5.2)
    focal = rng.uniform(0.85, 0.95) if split == "shift" else rng.uniform(1.1, 1.4)
    pitch = rng.uniform(0.21, 0.29) + 0.03 * (height - 4.3)
    centre = rng.choice([-1, 1]) * rng.uniform(0.2, 1.0) * bare.road    # over the road or the edge of a pavement
    grass, step = bare.paving == 2, centre - bare.centre
    buildings, trees = bare.buildings, tuple(replace(tree, x=tree.x + step) for tree in bare.trees)
    lamps = tuple((x + step, y, z) for x, y, z in bare.lamps)
    if grass:                                                           # a lawn between pavement and walls
        lawn = bare.road + bare.pavement + 3.0
        buildings = tuple(replace(b, front=max(b.front, lawn)) for b in buildings)
        trees = tuple(tree for tree in trees if tree.kind != "hedge")
    seen = replace(bare, height=float(height), focal=float(focal), pitch=float(pitch), centre=float(centre),
                   buildings=buildings, trees=trees, lamps=lamps)
    nearest = height / np.tan(pitch + np.arctan(0.5 / focal))           # m, where the picture's lower edge meets ground

    def line(across, width, way=1, start=1.0, end=36.0):
        return Line(seen.point(across, start), seen.point(across, end), width, way, start)

    lanes = tuple(line(0.5 * way * seen.road, seen.road, way, -5.0, 75.0) for way in (-1, 1))
    middle = seen.road + 0.5 * seen.pavement
    pavements = tuple(line(side * middle, seen.pavement) for side in (-1, 1))
    outer, breadth = seen.road + seen.pavement + (1.2 if grass else -0.4), 1.6 if grass else 0.4
    edges = tuple(line(side * outer, breadth) for side in (-1, 1))
    return Layout(seen, lanes, pavements, edges, seen.crossing, (float(nearest) + 1.0, float(nearest) + 13.0), grass)
