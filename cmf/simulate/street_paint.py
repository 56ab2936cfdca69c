"""A canvas with both bands, and shapes drawn on it from signed distances inside their bounding boxes only.

Axes: H, W rows and columns; 3 colours. Points on the canvas are (column, row) in pixels, centres at integers.
A shape's colour is radiance (3,) or (h, w, 3); its heat is band radiance, a number or (h, w).
"""
from __future__ import annotations

import math

import numpy as np

SOFT = 2.2                         # pixels, width of an edge in the infrared, where optics blur


class Canvas:
    """Radiance of both bands, which actor owns each pixel, and the distance of what can hide an actor."""

    def __init__(self, visible, infrared, hides):
        self.visible, self.infrared, self.hides = visible, infrared, hides
        self.owner = np.zeros(infrared.shape, np.int16)
        self.whole = np.zeros(infrared.shape, bool)     # pixels of the actor at work, hidden ones too
        self.columns = np.arange(infrared.shape[1], dtype=np.float32)[None]
        self.rows = np.arange(infrared.shape[0], dtype=np.float32)[:, None]
        self.actor, self.depth = 0, 0.0
        self.bounds = [np.inf, np.inf, -np.inf, -np.inf]

    def begin(self, actor: int, depth: float):
        """Start an actor: `actor` is its number from 1 on, `depth` its distance along the optical axis in m."""
        self.actor, self.depth = actor, depth
        self.whole[:] = False
        self.bounds = [np.inf, np.inf, -np.inf, -np.inf]

    def seen_share(self):
        """Pixels of the actor at work inside the picture, hidden ones too, and the share of its bounds inside."""
        x0, y0, x1, y1 = self.bounds
        height, width = self.infrared.shape
        inside = max(min(x1, width) - max(x0, 0), 0) * max(min(y1, height) - max(y0, 0), 0)
        return int(self.whole.sum()), min(1.0, inside / max((x1 - x0) * (y1 - y0), 1e-6)) if x1 > x0 else 0.0

    def box(self, x0, y0, x1, y1):
        """Slices of the pixels around these bounds, and their columns and rows; None where outside."""
        b = self.bounds
        self.bounds = [min(b[0], x0), min(b[1], y0), max(b[2], x1), max(b[3], y1)]
        height, width = self.infrared.shape
        left, right = max(int(x0) - 2, 0), min(int(x1) + 4, width)
        top, bottom = max(int(y0) - 2, 0), min(int(y1) + 4, height)
        if left >= right or top >= bottom or x1 < -2 or y1 < -2:
            return None
        return (slice(top, bottom), slice(left, right)), self.columns[:, left:right], self.rows[top:bottom]

    def put(self, where, distance, colour, heat, opacity=1.0, heat_opacity=None, marks=True):
        """Composite one shape: distance in pixels, negative inside. Pixels behind nearer static things stay."""
        free = self.hides[where] > self.depth
        if marks:
            inside = distance < 0
            self.whole[where] |= inside
            np.copyto(self.owner[where], self.actor, where=inside & free)
        if colour is not None:
            part = self.visible[where]
            alpha = np.minimum(np.maximum(0.5 - distance, 0.0), 1.0) * (free * np.float32(opacity))
            part += alpha[..., None] * (colour - part)
        if heat is not None:
            part = self.infrared[where]
            alpha = np.minimum(np.maximum(0.5 - distance / SOFT, 0.0), 1.0) * free
            part += alpha * (np.asarray(heat, np.float32) - part) * (opacity if heat_opacity is None else heat_opacity)

    def blend(self, where, alpha, colour, heat_alpha, heat, marks=None):
        """Composite textures: opacities (h, w) of the two bands, colour and heat; marks (h, w) bool owns pixels."""
        free = self.hides[where] > self.depth
        part = self.visible[where]
        part += (alpha * free)[..., None] * (colour - part)
        part = self.infrared[where]
        part += heat_alpha * free * (heat - part)
        if marks is not None:
            self.whole[where] |= marks
            np.copyto(self.owner[where], self.actor, where=marks & free)

    def glow(self, x, y, radius, colour):
        """Add light around a lamp or a flame, in the visible only."""
        bounds = self.bounds
        found = self.box(x - 2.5 * radius, y - 2.5 * radius, x + 2.5 * radius, y + 2.5 * radius)
        self.bounds = bounds                             # light around an actor is no part of it
        if found:
            where, columns, rows = found
            r2 = ((columns - x) ** 2 + (rows - y) ** 2) / (radius * radius)
            self.visible[where] += (np.exp(-2.0 * r2) * (self.hides[where] > self.depth))[..., None] * colour


def capsule(canvas, a, b, ra, rb, colour, heat, light=None, **put):
    """A rounded limb from a to b with radii in pixels; light (2,): direction on the picture that brightens a side."""
    ax, ay, bx, by, ra, rb = (float(v) for v in (*a, *b, ra, rb))
    r = max(ra, rb)
    found = canvas.box(min(ax, bx) - r, min(ay, by) - r, max(ax, bx) + r, max(ay, by) + r)
    if not found:
        return
    where, columns, rows = found
    px, py = columns - ax, rows - ay
    dx, dy = bx - ax, by - ay
    length2 = dx * dx + dy * dy + 1e-6
    t = px * (dx / length2) + py * (dy / length2)
    t = np.minimum(np.maximum(t, 0.0, out=t), 1.0, out=t)
    ox, oy = px - t * dx, py - t * dy
    radius = ra + t * (rb - ra)
    off = np.sqrt(ox * ox + oy * oy)
    if light is not None and r > 0.8:
        size = 1.0 / np.maximum(radius, 0.5)
        side = (ox * (0.55 * light[0]) + oy * (0.55 * light[1])) * size
        shade = np.minimum(np.maximum(1.0 + side - 0.2 * (off * size) ** 2, 0.25), 1.7)
        colour = shade[..., None] * np.asarray(colour, np.float32)
        heat = heat * (1.012 - 0.04 * (off * size) ** 2)      # rims are seen at a slant and cool in the wind
    elif colour is not None:
        colour = np.asarray(colour, np.float32)
    canvas.put(where, off - radius, colour, heat, **put)


def ellipse(canvas, centre, rx, ry, colour, heat, light=None, **put):
    """An upright ellipse with half axes in pixels."""
    x, y, rx, ry = float(centre[0]), float(centre[1]), max(float(rx), 0.3), max(float(ry), 0.3)
    found = canvas.box(x - rx, y - ry, x + rx, y + ry)
    if not found:
        return
    where, columns, rows = found
    u, v = (columns - x) / rx, (rows - y) / ry
    off = np.sqrt(u * u + v * v)
    colour = np.asarray(colour, np.float32)
    if light is not None and rx > 0.8:
        colour = np.clip(1.0 + 0.5 * (u * float(light[0]) + v * float(light[1])) - 0.15 * off, 0.25, 1.7)[..., None] \
            * colour
    canvas.put(where, (off - 1.0) * min(rx, ry), colour, heat, **put)


def _inside(points, columns, rows):
    """Signed distance to a convex polygon, given as a list of (x, y); None where it has no area."""
    ends = points[1:] + points[:1]
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, ends, strict=True))
    if abs(area) < 0.3:
        return None
    sign, distance = (1.0 if area > 0 else -1.0), None
    for (x0, y0), (x1, y1) in zip(points, ends, strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        if length > 1e-3:
            nx, ny = sign * (y1 - y0) / length, -sign * (x1 - x0) / length
            edge = nx * columns + (ny * rows - (nx * x0 + ny * y0))
            distance = edge if distance is None else np.maximum(distance, edge, out=distance)
    return distance


def _bounds(points):
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def polygon(canvas, points, colour, heat, shade=None, **put):
    """A convex polygon (n, 2), either orientation. shade: brightness at its top and at its bottom."""
    points = [(float(x), float(y)) for x, y in points]
    x0, y0, x1, y1 = _bounds(points)
    found = canvas.box(x0, y0, x1, y1)
    if not found:
        return
    where, columns, rows = found
    distance = _inside(points, columns, rows)
    if distance is None:
        return
    if shade is not None:
        t = np.clip((rows - y0) / max(y1 - y0, 1.0), 0.0, 1.0)
        colour = (shade[0] + t * (shade[1] - shade[0]))[..., None] * np.asarray(colour, np.float32)
        heat = None if heat is None else heat * (0.99 + 0.025 * t)      # upper parts mirror the sky
    elif colour is not None:
        colour = np.asarray(colour, np.float32)
    canvas.put(where, distance, colour, heat, **put)


def light_ground(canvas, ground, points, soft, amount, light=None, heat=0.0):
    """A soft convex patch (n, 2) on the ground: darker by the share `amount`, or lit by adding `light` (3,) times
    what is there; `heat` is added to the infrared. soft: width of its edge, pixels."""
    points = [(float(x), float(y)) for x, y in points]
    x0, y0, x1, y1 = _bounds(points)
    found = canvas.box(x0 - soft, y0 - soft, x1 + soft, y1 + soft)
    if not found:
        return
    where, columns, rows = found
    distance = _inside(points, columns, rows)
    if distance is None:
        return
    alpha = np.clip(0.5 - distance / max(soft, 1.0), 0.0, 1.0) * ground[where]
    part = canvas.visible[where]
    part *= 1.0 - amount * alpha[..., None]
    if light is not None:
        part += alpha[..., None] * light
    if heat:
        canvas.infrared[where] += alpha * np.float32(heat)


def disc(canvas, centre, u, v, colour, heat, ring=0.0, **put):
    """A circle seen obliquely: u and v (2,) are its two radii projected onto the picture, in pixels.
    ring: width of a hoop in pixels instead of the full circle."""
    centre, u, v = ([float(c) for c in p] for p in (centre, u, v))
    rx, ry = math.hypot(u[0], v[0]), math.hypot(u[1], v[1])
    found = canvas.box(centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)
    area = u[0] * v[1] - u[1] * v[0]
    if not found or abs(area) < 0.05:
        return
    where, columns, rows = found
    px, py = columns - centre[0], rows - centre[1]
    a, b = (px * v[1] - py * v[0]) / area, (py * u[0] - px * u[1]) / area
    off = np.sqrt(a * a + b * b)
    slender = abs(area) / max(math.hypot(*u), math.hypot(*v), 1e-3)
    distance = (off - 1.0) * slender
    if ring:
        radius = np.sqrt(px * px + py * py) / np.maximum(off, 1e-3)
        distance = np.abs(off - 1.0) * np.maximum(radius, slender) - 0.5 * ring
    canvas.put(where, distance, colour, heat, **put)
