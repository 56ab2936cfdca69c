"""What each pixel of a place sees: distance, point, reflectance, normal and warmth of the nearest static surface.

Axes: H, W of the oversampled picture (twice the wanted one). Rays step one metre along the optical axis, so that
the parameter of a ray is the distance that also orders the actors.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cmf.simulate.street_place import Place
from cmf.simulate.street_sensor import TILE, texture

SKY, GROUND, WALL, GLASS, LEAF, THING, LAMP = range(7)
FIELDS = ("depth", "kind", "albedo", "normal", "kelvin", "lit", "hides")
FAR = 400.0                        # m, distance of the sky and of what ends the street


@dataclass
class Surfaces:
    """Arrays over pixels; `kelvin` is warmth over the air as (by day in sun, by day in shade, at night)."""

    depth: np.ndarray              # (H, W) m
    kind: np.ndarray               # (H, W) uint8
    albedo: np.ndarray             # (H, W, 3)
    normal: np.ndarray             # (H, W, 3)
    kelvin: np.ndarray             # (H, W, 3)
    lit: np.ndarray                # (H, W) share of a lit window or lamp that shines at night
    hides: np.ndarray              # (H, W) m, what hides actors; the ground never does
    rays: tuple


def sample(seed, u, v, per_metre, slope=-2.0):
    """Texture values at surface coordinates in m, `per_metre` texels for each. A split (thousands of the seed) has
    one texture for each slope; the seed's other digits say where in it to look."""
    field = texture(seed // 1000, slope).ravel()
    down = np.floor(v * per_metre + seed * 37 % TILE).astype(np.int32) & (TILE - 1)
    across = np.floor(u * per_metre + seed * 91 % TILE).astype(np.int32) & (TILE - 1)
    return field[down * TILE + across]


def _lines(coordinate, period, width, blur):
    """Share of thin lines every `period` m, `width` wide, faded where a pixel covers `blur` m."""
    off = np.abs((coordinate + 0.5 * period) % period - 0.5 * period)
    return np.clip((0.5 * width + 0.5 * blur - off) / np.maximum(blur, 1e-3), 0, 1) * width / np.maximum(width, blur)


def _ground(place: Place, s: Surfaces, f: float):
    low = int(np.argmax(s.rays[1][:, 0] < -1e-4)) if s.rays[1][-1, 0] < -1e-4 else len(s.kind)
    dx, dy, dz = (r[low:] for r in s.rays)               # rows below the horizon
    t = np.where(dy < -1e-4, place.height / np.maximum(-dy, 1e-4), FAR)
    seen = t < 0.9 * FAR
    t = np.where(seen, t, FAR)
    across, along = place.road_point(dx * t, dz * t)
    foot = t / f                                          # m across one pixel
    long = np.minimum(foot * t / place.height, 20.0)      # m along the ground in one pixel
    fine = sample(place.texture, across, along, 40, place.slope) / (1 + 8 * foot) \
        + 0.6 * sample(place.texture + 1, across, along, 150, -1.2) / (1 + 60 * foot)
    broad = sample(place.texture + 2, across, along, 3.0, -2.4)
    side = np.abs(across)
    # road, with worn wheel tracks and patches
    albedo = np.array(place.ground) * np.exp(0.16 * fine + 0.14 * broad)[..., None]
    patch = sample(place.texture + 3, across, along, 5, -3.2) > 1.1
    albedo = np.where(patch[..., None], 0.72 * albedo, albedo)
    worn = np.clip(0.75 + 0.25 * fine, 0.2, 1)
    dash = ((along % 7.0) < 3.2) * _lines(across, 2 * place.road / place.lanes if place.lanes > 1 else 99, .13, foot)
    edge = _lines(side - place.road + 0.3, 500, 0.13, foot)
    paint = np.clip(np.maximum(dash * (place.lanes > 1), edge), 0, 1)
    if place.crossing > 0:
        stripe = np.clip(0.5 + 2.5 * np.sin(across * 2 * np.pi / 0.95), 0, 1)
        paint = np.maximum(paint, stripe * (np.abs(along - place.crossing - 1.6) < 1.6))
    paint = (paint * worn * (side < place.road))[..., None]
    albedo = albedo * (1 - paint) + 0.62 * paint
    kelvin = np.zeros((*t.shape, 3)) + (4.5, -0.6, 0.9)
    # pavement
    flags = np.maximum(_lines(along, 0.6, 0.02, long), _lines(across, 0.6, 0.02, foot)) * (place.paving != 1)
    tone = np.array((.24, .225, .20)) if place.paving == 0 else np.array((.17, .165, .16))
    walk = tone * np.exp(0.13 * fine + 0.10 * broad - 0.5 * flags)[..., None]
    on_walk = side > place.road
    albedo = np.where(on_walk[..., None], walk, albedo)
    kelvin = np.where(on_walk[..., None], (2.6, -0.3, 0.2), kelvin)
    kerb = (side > place.road) & (side < place.road + 0.16 + 0.3 * foot)
    albedo = np.where(kerb[..., None], (.30, .29, .27) * np.exp(0.1 * fine)[..., None], albedo)
    gutter = (side > place.road - 0.08) & (side <= place.road)
    albedo = np.where(gutter[..., None], 0.55 * albedo, albedo)
    # beyond the pavement
    beyond = side > place.road + place.pavement
    green = np.array(place.leaves) * 1.5 if place.paving == 2 else np.array((.15, .14, .11))
    albedo = np.where(beyond[..., None], green * np.exp(0.45 * fine + 0.2 * broad)[..., None], albedo)
    kelvin = np.where(beyond[..., None], (1.2, -0.8, -1.0), kelvin)
    kelvin = kelvin + (0.25 * fine + 0.45 * broad)[..., None]
    s.depth[low:] = t
    s.kind[low:][seen] = GROUND
    s.albedo[low:][seen] = albedo[seen]
    s.kelvin[low:][seen] = kelvin[seen]
    s.normal[low:][seen] = (0, 1, 0)


def _window(place: Place, s: Surfaces, corners):
    """Rows and columns that a wall with these corners (4, 3) can cover; None where it lies behind the camera."""
    ahead = corners[:, 2] > 0.5
    if not ahead.any():
        return None
    if not ahead.all():
        return slice(None), slice(None)
    pixels = place.project(corners, s.depth.shape)[0]
    (x0, y0), (x1, y1) = np.maximum(pixels.min(0), 0).astype(int), np.maximum(pixels.max(0) + 2, 0).astype(int)
    return slice(y0, y1), slice(x0, x1)


def _walls(place: Place, s: Surfaces, f: float):
    c, sn = math.cos(place.yaw), math.sin(place.yaw)
    a0, l0 = place.road_point(0.0, 0.0)
    for b in place.buildings:
        inner, outer = b.side * b.front, b.side * (b.front + b.deep)
        for front, feet in ((True, ((inner, b.near), (inner, b.far))), (False, ((inner, b.near), (outer, b.near)))):
            feet = [place.point(*foot) for foot in feet]
            box = _window(place, s, np.array([(x, y, z) for x, z in feet for y in (0.0, b.height)]))
            if box is None:
                continue
            dx, dy, dz = (r[box] for r in s.rays)
            with np.errstate(divide="ignore", invalid="ignore"):
                da, dl = dx * c - dz * sn, dx * sn + dz * c
                t = (inner - a0) / da if front else (b.near - l0) / dl
                along, up = l0 + t * dl, place.height + t * dy
                u = along - b.near if front else b.side * (a0 + t * da) - b.front
            width = b.far - b.near if front else b.deep
            hit = (t > 0.3) & (t < s.depth[box]) & (u >= 0) & (u < width) & (up > 0) & (up < b.height)
            if b.material == 3 and hit.any():            # the cut of a hedge is uneven
                u = np.where(hit, u, 0.0)
                hit &= up < b.height - 0.10 - 0.10 * sample(place.texture, u, 0 * u, 40)
            if hit.any():
                normal = (-b.side * c, 0, b.side * sn) if front else (-sn, 0, -c)
                part = Surfaces(*(getattr(s, name)[box] for name in FIELDS), (dx, dy, dz))
                draw = _hedge if b.material == 3 else _facade
                draw(place, part, b, hit, u[hit], up[hit], t[hit], width, normal, f, front)


def _hedge(place, s, b, hit, u, up, t, width, normal, f, front):
    big, small = sample(place.texture + 7, u, up, 30, -2.2), sample(place.texture + 8, u, up, 70, -1.2)
    tone = np.exp(0.45 * small + 0.3 * big + 0.9 * (up / b.height - 0.7))
    s.depth[hit], s.hides[hit], s.kind[hit] = t, t, LEAF
    s.albedo[hit] = np.array(place.leaves) * tone[:, None]
    s.normal[hit] = np.array(normal) + np.stack((.3 * small, .4 + .2 * big, .3 * big), -1)
    s.kelvin[hit] = (2.0, .8, .6) + (.25 * big + .25 * small)[:, None]
    s.lit[hit] = 0


def _facade(place, s, b, hit, u, up, t, width, normal, f, front):
    base, slope = place.texture // 1000 * 1000, place.slope
    foot = t / f
    tone = np.exp(0.10 * sample(base + b.seed % 997, u, up, 30, slope) / (1 + 5 * foot)
                  + 0.16 * sample(base + b.seed % 991, u, up, 4, -2.6))
    if b.material == 1:                                    # bricks: courses that fade with distance
        tone = tone * (1 - 0.35 * np.maximum(_lines(up, 0.09, .015, foot), _lines(u + 0.11 * ((up // .09) % 2), .23,
                                                                                 .012, foot)))
    elif b.material == 2:
        tone = tone * (1 - 0.45 * np.maximum(_lines(up, b.storey, .05, foot), _lines(u, b.bay, .04, foot)))
    tone = tone * (1 - 0.30 * np.exp(-up / 0.5))          # dirt near the ground
    colour = np.array(b.colour) * tone[..., None]
    kelvin = np.zeros((u.size, 3)) + (5.5, 1.0, 2.2) + (0.7 * sample(base + b.seed % 983, u, up, 3, -2.6))[..., None]
    # windows
    storey, bay = np.floor(up / b.storey).astype(int), np.floor(u / b.bay).astype(int)
    pu, pv = u / b.bay - bay, up / b.storey - storey
    ground_floor = storey == 0
    half = 0.5 * np.where(ground_floor, min(b.glass * 1.25, .85), b.glass)
    low, high = np.where(ground_floor, .16, .30), np.where(ground_floor, .78, .84)
    glass = (np.abs(pu - 0.5) < half) & (pv > low) & (pv < high) & (u < np.floor(width / b.bay) * b.bay) \
        & (up < np.floor(b.height / b.storey) * b.storey - 0.2) & (front or b.material != 1)
    frame = glass & ((np.abs(np.abs(pu - 0.5) - half) * b.bay < 0.07) | (np.abs(pv - low) * b.storey < 0.07)
                     | (np.abs(pu - 0.5) * b.bay < 0.03))
    pick = ((storey * 7919 + bay * 104729 + b.seed) % 1009) / 1009.0           # one number for each window
    door = front & ground_floor & (pick < 0.22)
    glass &= ~(door & (pv < 0.72))
    door &= (np.abs(pu - 0.5) * b.bay < 0.55) & (pv < 0.70)
    board = front & ground_floor & (pv > 0.82) & (pv < 0.97) & ((b.seed % 3) == 0)
    curtain = glass & (pick > 0.3) & (pick < 0.55) & (np.abs(pu - 0.5) > half * (0.15 + pick))
    sill = (np.abs(pu - .5) < half + .03) & (np.abs(pv - low + .02) * b.storey < .06) & ~ground_floor
    sheen = np.clip(0.05 + 0.20 * pick + 0.12 * (pv - low), 0.02, 0.5)
    colour = np.where(glass[..., None], sheen[..., None] * (.7, .85, 1.0), colour)
    colour = np.where(frame[..., None], np.array((.5, .5, .48)) * (0.4 + 0.8 * ((b.seed % 5) / 5)), colour)
    colour = np.where(curtain[..., None], (.30, .27, .22), colour)
    colour = np.where(sill[..., None], (.42, .41, .38), colour)
    hue = np.array(((.25, .12, .07), (.10, .16, .12), (.12, .13, .2), (.3, .28, .25)))[(pick * 997).astype(int) % 4]
    colour = np.where(door[..., None], hue, colour)
    sign = np.array(((.6, .12, .1), (.1, .2, .5), (.65, .6, .5), (.1, .35, .2)))[b.seed % 4]
    letters = np.sin(u * 17 + 3 * np.sin(u * 5)) * np.sin(up * 22) > 0.35
    colour = np.where(board[..., None], np.where(letters[..., None], 0.75, sign), colour)
    warm = b.warm * (0.4 + 0.9 * pick)
    kelvin = np.where(glass[..., None], np.stack((warm * .5, warm * .5, warm), -1) - 0.5, kelvin)
    kelvin = np.where(frame[..., None], kelvin + 0.8, kelvin)
    s.depth[hit] = t
    s.hides[hit] = t
    s.kind[hit] = np.where(glass & ~frame, GLASS, WALL)
    s.albedo[hit] = colour
    s.kelvin[hit] = kelvin
    s.normal[hit] = normal
    bright = glass & ~frame & (pick > np.where(ground_floor, .5, .74))
    s.lit[hit] = np.where(bright, 0.3 + 0.7 * ((pick * 31) % 1), 0.0) \
        + 0.5 * (board & (b.seed % 2 == 0))


def _skyline(place: Place, s: Surfaces):
    """Trees and houses that close the street far away."""
    dx, dy, dz = s.rays
    angle = np.arctan2(dx, dz)
    row = texture(place.texture // 1000, -2.0)[place.texture % 1000 * 7 % TILE]
    height = 9 + 4 * row[(angle * 60).astype(int) % TILE] + 2.5 * row[(angle * 500).astype(int) % TILE]
    far = (s.kind == SKY) & (dy < height / 160.0) | (s.kind == GROUND) & (s.depth > 160)
    tone = np.exp(0.5 * sample(place.texture + 6, angle * 100, dy * 100, 1.5, -1.8))
    s.kind[far], s.depth[far], s.hides[far] = LEAF, 160.0, 160.0
    s.albedo[far] = (np.array(place.leaves) * tone[..., None])[far]
    s.kelvin[far] = (1.5, 1.0, 0.8)
    s.normal[far] = (-.3 * np.sign(place.sun[0]), .6, -.6)


def _put(s, box, mask, depth, kind, albedo, kelvin, normal, lit=0.0):
    mask = mask & (s.depth[box] > depth)
    for name, value in (("depth", depth), ("hides", depth), ("kind", kind), ("lit", lit), ("albedo", albedo),
                        ("kelvin", kelvin), ("normal", normal)):
        value = np.broadcast_to(value, getattr(s, name)[box].shape)
        getattr(s, name)[box][mask] = value[mask]


def _things(place: Place, s: Surfaces):
    """Trees, hedges, poles and street furniture as upright cut-outs, each at its own distance."""
    size = s.depth.shape
    for item in place.trees:
        (base, top), axis = place.project([(item.x, 0, item.z), (item.x, item.height, item.z)], size)
        scale, depth = place.focal * size[0] / axis[0], axis[0]
        reach = max(item.spread, 0.9) * 1.25 * scale
        x0, x1 = int(max(base[0] - reach, 0)), int(min(base[0] + reach + 2, size[1]))
        y0, y1 = int(max(top[1] - 0.3 * scale, 0)), int(min(base[1] + 2, size[0]))
        if axis[0] < (4.5 if item.kind == "tree" else 2.0) or x0 >= x1 or y0 >= y1:
            continue
        box = slice(y0, y1), slice(x0, x1)
        u = (np.arange(x0, x1)[None] - base[0]) / scale                    # m to the right of its foot
        v = (base[1] - np.arange(y0, y1)[:, None]) / scale                 # m above the ground
        rng = np.random.default_rng(item.seed)
        if item.kind == "tree":
            _tree(place, s, box, item, u, v, depth, scale, rng)
            continue
        wide = {"pole": .11, "lamp": .09, "sign": .04, "bollard": .06, "bin": .28}[item.kind]
        mask = (np.abs(u) < max(wide, 0.35 / scale)) & (v < item.height) & (v > 0)
        tone = {"pole": (.22, .21, .20), "lamp": (.12, .15, .13), "sign": (.35, .35, .36), "bollard": (.5, .48, .42),
                "bin": (.08, .13, .10)}[item.kind]
        round_ = 0.55 + 0.5 * np.clip(0.5 - 0.5 * u / max(wide, 1e-3) * np.sign(place.sun[0]), 0, 1)
        band = 1 - 0.75 * (item.kind == "bollard") * (np.abs(v - 0.7) < 0.09)
        _put(s, box, mask, depth, THING, np.array(tone) * (round_ * band)[..., None], (3.0, .8, 0.3),
             (-.4 * np.sign(place.sun[0]), .2, -.9))
        if item.kind == "lamp":
            arm = np.sign(place.lamps[0][0] - place.lamps[0][0] + (-item.x if abs(item.x) > .1 else 1))
            mask = (u * arm > 0) & (u * arm < 1.25) & (np.abs(v - 6.45) < 0.05)
            _put(s, box, mask, depth, THING, tone, (1, .5, .3), (0, -1, 0))
            mask = (np.abs(u * arm - 1.15) < 0.3) & (np.abs(v - 6.36) < max(0.08, 0.8 / scale))
            _put(s, box, mask, depth, LAMP, (.5, .5, .5), (2, 1, 6.0), (0, -1, 0), 1.0)
        if item.kind == "sign":
            plate = np.hypot(u, v - 2.3) < 0.33
            ring = np.hypot(u, v - 2.3) < 0.24
            paint = np.where(ring[..., None], (.7, .7, .68), ((.6, .06, .05), (.06, .12, .5))[item.seed % 2])
            _put(s, box, plate, depth, THING, paint, (1.0, .3, -.6), (0, 0, -1))


def _tree(place, s, box, item, u, v, depth, scale, rng):
    at = rng.integers(TILE, size=2)
    big = sample(place.texture + 7, u + at[0], v + at[1], 22, -2.2)
    small = sample(place.texture + 8, u + at[1], v + at[0], 60, -1.2)
    trunk = np.abs(u - 0.12 * np.sin(v)) < 0.04 * item.height ** 0.5 * (1.3 - 0.5 * v / item.height) * 1.3
    trunk &= (v > 0) & (v < item.height * 0.75)
    _put(s, box, trunk, depth, THING, np.array((.10, .085, .065)) * np.exp(.25 * small)[..., None],
         (2.5, 1.0, 1.2), (-.5 * np.sign(place.sun[0]), .2, -.8))
    middle, half = 0.5 * (item.base + item.height), 0.5 * (item.height - item.base)
    reach = np.hypot(u / item.spread, (v - middle) / half) + 0.13 * big
    holes = 0.35 + 0.85 * np.clip(1.05 - reach, 0, 1)
    mask = (reach < 1.0) & (small * 0.4 + 0.3 * big > -holes)
    lift = np.clip((v - item.base) / (2 * half), 0, 1)
    tone = np.exp(0.45 * small + 0.35 * big + 0.5 * (lift - 0.6))
    normal = np.stack(np.broadcast_arrays(0.8 * u / max(item.spread, 1) + .3 * small, .3 + .5 * lift + .2 * big,
                                          -0.7 * np.ones_like(u + v)), -1)
    kelvin = np.stack(np.broadcast_arrays(2.2 + .3 * small, 1.2 + .15 * small, 1.4 + .15 * small), -1)
    _put(s, box, mask, depth, LEAF, np.array(place.leaves) * tone[..., None], kelvin + 0.3 * big[..., None], normal)


def surfaces(place: Place, size) -> Surfaces:
    """What every pixel of a picture of this size (H, W) sees of the place."""
    rays = place.rays(size)
    plain, triple = np.zeros(size, np.float32), np.zeros((*size, 3), np.float32)
    s = Surfaces(plain + FAR, np.zeros(size, np.uint8), triple.copy(), triple.copy(), triple.copy(), plain.copy(),
                 plain + np.inf, rays)
    s.normal[..., 2] = -1
    f = place.focal * size[0]
    _ground(place, s, f)
    _walls(place, s, f)
    _skyline(place, s)
    _things(place, s)
    return s
