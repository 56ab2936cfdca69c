"""Backgrounds: the static part of a place under one light and weather, in both bands, drawn once and kept.

Visible radiance is reflectance times irradiance (sun with cast shadows, sky, street lamps) plus what shines, in
units of which 1 saturates the camera at exposure 1. Infrared radiance follows from temperature and emissivity,
never from the visible picture. Fog veils the visible; in the infrared it weighs a third as much.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from cmf.simulate.street_place import LIGHTS, WEATHERS, Place
from cmf.simulate.street_sensor import band_radiance, texture
from cmf.simulate.street_surfaces import GLASS, GROUND, LAMP, LEAF, SKY, surfaces

SMALLEST = 48                      # pixels, least side of a picture
# sun, sky (irradiance), colour of the sky
LIGHT = {"day": (2.2, 0.55, (.80, .93, 1.15)), "dusk": (0.0, 0.085, (.85, .85, 1.2)),
         "night": (0.0, 0.0007, (.8, .9, 1.1))}
LAMP_POWER = {"day": 0.0, "dusk": 0.9, "night": 1.0}
CLOUDED = {"clear": 1.0, "rain": 0.0, "fog": 0.0}         # share of the sun that comes through
SIGHT = {"clear": 1500.0, "rain": 260.0, "fog": 45.0}     # m, where contrast falls to 1 / e
EMISSIVITY = 0.95


@dataclass(frozen=True)
class Background:
    """The static part of a picture. Arrays are read only."""

    visible: np.ndarray            # (H, W, 3) radiance, float32
    infrared: np.ndarray           # (H, W) band radiance, float32
    depth: np.ndarray              # (H, W) m along the optical axis
    hides: np.ndarray              # (H, W) m, distance of things that hide actors; inf where there is none
    ground: np.ndarray             # (H, W) bool
    shade: np.ndarray              # (H, W) share of the sun that does not reach the ground
    exposure: float                # of the visible camera
    air: float                     # K
    veil: np.ndarray               # (3,) radiance of the fog


def _shadow(place: Place, x, z):
    """Share of the sun, 0 to 1, that buildings and trees keep from points on the ground."""
    sx, sy, sz = place.sun
    c, s = np.cos(place.yaw), np.sin(place.yaw)
    across, along = place.road_point(x, z)
    da, dl = (sx * c - sz * s) / sy, (sx * s + sz * c) / sy        # m across and along for each m of height
    shade = np.zeros(x.shape)
    for b in place.buildings:
        low, high = sorted((b.side * b.front, b.side * (b.front + b.deep)))
        with np.errstate(divide="ignore", invalid="ignore"):
            enter_a, leave_a = (low - across) / da, (high - across) / da
            enter_l, leave_l = (b.near - along) / dl, (b.far - along) / dl
        enter = np.maximum(np.minimum(enter_a, leave_a), np.minimum(enter_l, leave_l))
        leave = np.minimum(np.maximum(enter_a, leave_a), np.maximum(enter_l, leave_l))
        shade[np.maximum(enter, 0) < np.minimum(leave, b.height)] = 1.0
    flat = np.hypot(sx, sz)
    leafy = texture(place.texture // 1000, -2.0)
    for item in place.trees:
        if item.kind != "tree":
            continue
        up = 0.5 * (item.base + item.height)
        dx, dz = x + sx / sy * up - item.x, z + sz / sy * up - item.z
        near = np.flatnonzero(dx * dx + dz * dz < (1.1 * item.spread) ** 2)
        dx, dz = dx[near], dz[near]
        reach = np.hypot(dx, dz) / (1.1 * item.spread)
        spots = leafy[(dz * 25).astype(int) % 512, (dx * 25).astype(int) % 512]
        shade[near] = np.maximum(shade[near], np.clip(0.75 + 0.8 * spots, 0, 1) * np.clip(3 - 3 * reach, 0, 1))
        aside = np.abs((x - item.x) * sz - (z - item.z) * sx) / flat       # the trunk's shadow
        along_sun = -((x - item.x) * sx + (z - item.z) * sz) / flat
        shade[(aside < 0.16) & (along_sun > 0) & (along_sun < item.height * flat / sy)] = 1.0
    return shade


@lru_cache(maxsize=256)
def _lamps(place: Place) -> np.ndarray:
    return np.array([lamp for lamp in place.lamps if lamp[2] < 80]).reshape(-1, 3)


def irradiance(place: Place, light: str, weather: str, x, y, z, normal, shade=None, leaf=None):
    """Light that falls on points with these normals: (..., 3). `shade` is the share of the sun that is kept off."""
    sun, sky, hue = LIGHT[light]
    cloud = CLOUDED[weather]
    up = 0.5 + 0.5 * normal[..., 1]
    total = (sky * (1.5 - 0.5 * cloud) * (0.35 + 0.65 * up))[..., None] * np.array(hue)
    if sun and cloud:
        facing = np.clip(normal @ np.array(place.sun), 0, None)
        if leaf is not None:
            facing = np.where(leaf, 0.25 + 0.75 * facing, facing)
        if shade is not None:
            facing = facing * (1.0 - shade)
        total = total + sun * cloud * facing[..., None] * np.array((1.0, .93, .80))
    power = LAMP_POWER[light]
    lamps = _lamps(place)
    if power and len(lamps):
        many = (slice(None), *(None,) * np.ndim(x))
        ox, oy, oz = (lamps[:, k][many] - c for k, c in enumerate((x, y, z)))        # (lamps, ...)
        r2 = ox * ox + oy * oy + oz * oz + 1.0
        r = np.sqrt(r2)
        cosine = np.maximum((ox * normal[..., 0] + oy * normal[..., 1] + oz * normal[..., 2]) / r, 0)
        if leaf is not None:
            cosine = np.where(leaf, 0.3 + 0.7 * cosine, cosine)
        down = np.maximum(oy / r, 0)                                   # lamps shine downwards
        total = total + (power * 6.0 * (cosine * (0.15 + down * np.sqrt(down)) / r2).sum(0))[..., None] \
            * np.array(place.lamp_colour)
    return total


def _sky(place, light, weather, rays):
    dx, dy, dz = rays
    up = np.clip(dy / np.sqrt(dx * dx + dy * dy + dz * dz), 0, 1)
    hue = np.array(LIGHT[light][2])
    level = {"day": 1.55, "dusk": 0.17, "night": 0.0014}[light]
    field = texture(place.texture // 1000, -3.0)
    cloud = field[(120 * up).astype(int) % 512, (90 * np.arctan2(dx, dz)).astype(int) % 512]
    cover = np.clip(0.5 + 0.6 * cloud, 0, 1) if weather == "clear" else np.ones_like(cloud) * 0.9 + 0.05 * cloud
    blue = np.stack((1.0 - 0.9 * up, 1.0 - 0.55 * up, 1.05 - 0.15 * up), -1)
    colour = level * (cover[..., None] * (1.0, 1.0, 1.0) + (1 - cover[..., None]) * blue)
    if light == "dusk":
        west = np.exp(-up / 0.12)[..., None]
        colour = colour * (1 - .5 * west) * hue + level * west * np.array((1.7, 1.0, .55))
    depth = {"clear": 26.0, "rain": 7.0, "fog": 3.0}[weather]          # K colder than the air at the horizon and up
    kelvin = place.air(light) - 4 - depth * np.sqrt(up) + 2.5 * (cover - 0.5) * (weather == "clear")
    return colour, kelvin


def halve(field):
    """Mean over blocks of 2 x 2 pixels."""
    return 0.25 * (field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2])


def _reflect(visible, ground, horizon, wet):
    """Wet ground mirrors what stands as far above the horizon as it lies below."""
    rows = np.arange(len(visible))
    mirror = np.clip(np.round(2 * horizon - rows).astype(int), 0, len(visible) - 1)
    image = visible[mirror]
    image = (image + np.roll(image, 1, 0) + np.roll(image, -1, 0) + np.roll(image, 2, 0)) / 4
    grazing = np.clip(1.0 - (rows - horizon) / (0.6 * len(visible)), 0.25, 1.0)[:, None, None]
    share = wet * grazing * ground[..., None]
    return visible * (1 - 0.35 * (wet > 0) * ground[..., None]) * (1 - share) + image * share


@lru_cache(maxsize=4)
def _surfaces(place: Place, size):
    return surfaces(place, (2 * size[0], 2 * size[1]))


def check(light: str, weather: str, size):
    """Raise ValueError for an unknown light or weather or a picture below 48 pixels."""
    if light not in LIGHTS:
        raise ValueError(f"light {light!r}: expected one of {', '.join(LIGHTS)}")
    if weather not in WEATHERS:
        raise ValueError(f"weather {weather!r}: expected one of {', '.join(WEATHERS)}")
    if len(size) != 2 or min(size) < SMALLEST:
        raise ValueError(f"size {tuple(size)}: expected (height, width), each {SMALLEST} pixels or more")


def background(place: Place, light: str, weather: str, size=(128, 160)) -> Background:
    """The static part of a place under a light (day, dusk, night) and a weather (clear, rain, fog), cached.

    size: (height, width), pixels, each at least 48. Raises ValueError for anything else.
    """
    check(light, weather, size)
    return _background(place, light, weather, (int(size[0]), int(size[1])))


@lru_cache(maxsize=96)
def _background(place, light, weather, size) -> Background:
    s = _surfaces(place, size)
    dx, dy, dz = s.rays
    # light changes slowly: one sample for each final pixel
    few = tuple(d[::2, ::2] * s.depth[::2, ::2] for d in (dx, dy, dz))
    normal = s.normal[::2, ::2]
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    kind = s.kind[::2, ::2]
    shade = None
    if LIGHT[light][0] and CLOUDED[weather]:
        shade = np.zeros(kind.shape)
        low = kind == GROUND
        shade[low] = _shadow(place, few[0][low], few[2][low])
    falls = irradiance(place, light, weather, few[0], few[1] + place.height, few[2], normal, shade, kind == LEAF)
    falls = falls.repeat(2, 0).repeat(2, 1)
    open_ = s.kind == SKY
    sky, sky_kelvin = _sky(place, light, weather, tuple(r[open_] for r in s.rays))
    visible = s.albedo * falls
    shines = {"day": 0.02, "dusk": 0.22, "night": 0.6}[light]
    visible += (s.lit * shines * np.where(s.kind == LAMP, 25.0 if light != "day" else 1.0, 1.0))[..., None] * \
        np.where((s.kind == LAMP)[..., None], place.lamp_colour, (1.0, .82, .55))
    glass = s.kind == GLASS
    visible[glass] += 0.10 * LIGHT[light][1]
    visible[open_] = sky
    kelvin = s.kelvin[..., 2] if light != "day" else s.kelvin[..., 1]
    if shade is not None:
        sunny = (np.clip(normal @ np.array(place.sun), 0, 1) * (1 - gaussian_filter(shade, 0.012 * size[0])))
        sunny = sunny.repeat(2, 0).repeat(2, 1)
        kelvin = kelvin + sunny * (s.kelvin[..., 0] - s.kelvin[..., 1])
    elif light == "dusk":
        kelvin = 0.5 * (s.kelvin[..., 1] + s.kelvin[..., 2]) + 0.4
    if weather != "clear":
        kelvin = kelvin * 0.55
    air = place.air(light)
    dull = np.where(glass, np.float32(0.91), np.float32(EMISSIVITY))
    infrared = dull * band_radiance(air + kelvin) \
        + (1 - dull) * band_radiance(air - (18 if weather == "clear" else 5))
    infrared[open_] = band_radiance(sky_kelvin)
    ground = halve((s.kind == GROUND).astype(float)) > 0.5
    visible, infrared = halve(visible), halve(infrared)
    horizon = 0.5 * size[0] - place.focal * size[0] * np.tan(place.pitch)
    if weather == "rain":
        visible = _reflect(visible, ground, horizon, 0.45)
    veil = np.array(LIGHT[light][2]) * {"day": 0.55, "dusk": 0.10, "night": 0.004}[light]
    depth = s.depth[::2, ::2]
    clear = np.exp(-depth / SIGHT[weather])
    visible = visible * clear[..., None] + (1 - clear[..., None]) * veil
    clear = np.exp(-depth / (3 * SIGHT[weather]))
    infrared = infrared * clear + (1 - clear) * band_radiance(air)
    exposure = _exposure(visible, light)
    visible = _optics(visible, exposure, size[0], light)
    infrared = gaussian_filter(infrared, place.blur * size[0] / 240)
    made = Background(visible.astype(np.float32), infrared.astype(np.float32), depth.astype(np.float32),
                      s.hides[::2, ::2].astype(np.float32), ground,
                      np.ones(size, np.float32) if shade is None else shade.astype(np.float32), exposure, air, veil)
    for field in (made.visible, made.infrared, made.depth, made.hides, made.ground, made.shade):
        field.flags.writeable = False
    return made


def _optics(visible, exposure, height, light):
    """Blur of the lens, and glare around what is brighter than the camera can show."""
    visible = gaussian_filter(visible, (0.6 * height / 240, 0.6 * height / 240, 0))
    if light != "day":
        excess = np.clip(visible - 1.0 / exposure, 0, 12.0 / exposure)
        for width, share in ((0.012, 0.35), (0.045, 0.25)):
            visible = visible + share * gaussian_filter(excess, (width * height, width * height, 0))
    return visible


def _exposure(visible, light):
    """Automatic exposure: aims at a middle grey, and gives up in the dark."""
    wanted, most = {"day": (0.40, 2.5), "dusk": (0.33, 6.0), "night": (0.10, 14.0)}[light]
    level = np.sqrt(np.clip(visible, 0, 1.0)).mean()
    return float(min(most, (wanted / max(level, 1e-4)) ** 2))
