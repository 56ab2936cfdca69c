"""Smoke, fire, bags, barriers and speed bumps."""
from __future__ import annotations

import numpy as np

from cmf.simulate.street_actors import Actor, Stage, frame, look_of
from cmf.simulate.street_paint import capsule, ellipse, light_ground, polygon
from cmf.simulate.street_sensor import TILE, texture


def _field(stage, actor, wide, high):
    """Pixels of an upright cut-out, its coordinates in units of its half width and height, and m a pixel."""
    (base,) = stage.project([(actor.x, actor.y, actor.z)])
    scale = stage.focal / max(stage.axis(actor), 0.5)
    found = stage.canvas.box(base[0] - wide * scale, base[1] - high * scale, base[0] + wide * scale, base[1])
    if not found:
        return None
    where, columns, rows = found
    return where, (columns - base[0]) / (wide * scale), (base[1] - rows) / (high * scale), base, scale


def _smooth(field, u, v):
    """Texture values between texels, bilinear."""
    i, j = np.floor(v), np.floor(u)
    a, b = (v - i).astype(np.float32), (u - j).astype(np.float32)
    i, j = i.astype(int) % TILE, j.astype(int) % TILE
    k, m = (i + 1) % TILE, (j + 1) % TILE
    upper = field[i, j] + b * (field[i, m] - field[i, j])
    return upper + a * (field[k, j] + b * (field[k, m] - field[k, j]) - upper)


def _turbulence(u, v, seed, drift, bank):
    """Noise that rises with `drift` and curls: coarse billows displace the fine ones. bank: seed of the textures."""
    coarse, fine = texture(bank, -3.2), texture(bank, -2.6)
    a = _smooth(coarse, u * 26.0 + seed * 91, v * 34.0 - drift * 12 + seed * 37)
    return a + 0.55 * _smooth(fine, u * 38 + 5 * a + seed * 17, v * 46.0 - drift * 20 + seed * 53 + 3 * a)


def smoke(stage: Stage, actor: Actor):
    """A turbulent plume, grey in the visible; thin and warm near its foot in the infrared."""
    found = _field(stage, actor, 2.4 * actor.size, 5.0 * actor.size)
    if not found:
        return
    where, u, v, _, _ = found
    wind = 0.25 * np.sin(actor.look)
    noise = _turbulence(u, v, actor.look % 50, actor.phase, stage.place.texture // 1000)
    width = 0.22 + 0.62 * np.clip(v, 0, 1) ** 0.7
    body = 1.0 - np.abs(u - wind * v) / width
    alpha = np.clip(0.9 * body + 0.36 * noise - 0.03, 0, 1) * np.clip(v * 9, 0, 1) * np.clip((1.0 - v) * 3, 0, 1)
    alpha = np.clip(actor.strength * 2.0 * alpha, 0, .96)
    light = stage.falls(actor, [(0, .8, -.6)], 2.0)[0]
    tone = np.array((.30, .29, .29)) * (0.5 if actor.look % 2 else 1.0)
    colour = tone * light * np.exp(0.25 * noise + 0.5 * (v - .5))[..., None]
    kelvin = stage.air + 45 * actor.strength * np.exp(-np.clip(v, 0, 1) / 0.13) + 2
    stage.canvas.blend(where, alpha, colour, 0.30 * alpha, _heats(stage, kelvin), alpha > 0.4)


def _heats(stage, kelvin):
    low, high = float(stage.heat(stage.air)), float(stage.heat(stage.air + 100.0))
    return low + (kelvin - stage.air) * (high - low) / 100.0


def fire(stage: Stage, actor: Actor):
    """Flames that shine in the visible and saturate the infrared."""
    high = 1.9 * actor.size * (0.45 + 0.55 * actor.strength)
    found = _field(stage, actor, 0.95 * actor.size, high)
    if not found:
        return
    where, u, v, base, scale = found
    noise = _turbulence(0.8 * u, 0.5 * v, actor.look % 50, 1.7 * actor.phase, stage.place.texture // 1000)
    sway = 0.12 * np.sin(actor.phase + 5 * v)
    body = 1.0 - np.abs(u - sway) / (0.15 + 0.62 * np.sqrt(np.clip(1 - v, 0, 1))) - 0.55 * np.clip(v, 0, 1)
    core = body + 0.18 - 0.35 * np.clip(v, 0, 1) ** 2 + 0.38 * noise
    alpha = np.clip(2.6 * core, 0, 1) * np.clip(v * 14, 0, 1) * np.clip(8 - 8 * v, 0, 1)
    heat = np.clip(core * 1.1, 0, 1.3)[..., None]
    shine = 0.9 / stage.base.exposure                      # flames nearly saturate whatever the exposure
    colour = shine * (np.array((1.0, .22, .02)) * (1 - np.clip(heat, 0, 1)) + np.array((1.5, 1.0, .28)) * heat)
    stage.canvas.blend(where, alpha, colour, np.clip(alpha * 1.4, 0, 1), _heats(stage, 420.0), alpha > 0.35)
    if stage.dark:
        glow = np.array((.035, .016, .004)) * actor.strength
        stage.canvas.glow(base[0], base[1] - 0.4 * high * scale, 1.6 * high * scale, glow)


def fire_shadow(stage: Stage, actor: Actor):
    """Scorched ground and, in the dark, the light that it throws on the ground."""
    ring = np.linspace(0, 2 * np.pi, 11)[:-1]
    scale = stage.focal / max(stage.axis(actor), 0.5)
    circle = np.stack((np.cos(ring), 0 * ring, np.sin(ring)), 1)
    at = np.array((actor.x, 0, actor.z))
    warm = float(_heats(stage, 300) - stage.heat(stage.air))
    spot = stage.project(at + .7 * actor.size * circle)
    light_ground(stage.canvas, stage.base.ground, spot, .5 * scale, .6, heat=warm)
    if stage.dark:
        wide = 3.2 * actor.size
        if actor.z - wide > 1.0:
            spot = stage.project(at + wide * circle)
            light_ground(stage.canvas, stage.base.ground, spot, 2.6 * scale * actor.size, 0,
                         np.array((.07, .032, .01)) * actor.strength)


def _flat(stage, actor, points):
    forward, right = frame(actor)
    p = np.asarray(points, float) * actor.size
    at = np.array((actor.x, actor.y, actor.z))
    return stage.project(at + p[:, :1] * right + p[:, 1:2] * np.array((0, 1.0, 0)) + p[:, 2:] * forward)


def bag(stage: Stage, actor: Actor):
    """A suitcase or a soft bag with a handle, at the temperature of the air."""
    look = look_of("bag", actor.look)
    light = stage.round_falls(actor, .3)
    paint, heat = np.array(look.paint) * light, stage.heat(stage.air + .4, .93)
    scale = stage.focal / max(stage.axis(actor), 0.5) * actor.size
    (base,) = stage.project([(actor.x, actor.y, actor.z)])
    if actor.look % 2:
        box = np.array([(-.21, 0), (.21, 0), (.21, -.52), (-.21, -.52)]) * scale + base
        polygon(stage.canvas, box, paint, heat, shade=(1.2, .8))
        for x in (-.08, .08):
            capsule(stage.canvas, base + (x * scale, -.05 * scale), base + (x * scale, -.48 * scale), .012 * scale,
                    .012 * scale, paint * .5, None)
        for x in (-.1, .1):
            capsule(stage.canvas, base + (x * scale, -.5 * scale), base + (x * scale, -.68 * scale), .015 * scale,
                    .015 * scale, np.array((.1, .1, .1)) * light, heat)
    else:
        ellipse(stage.canvas, base - (0, .19 * scale), .30 * scale, .19 * scale, paint, heat, np.array((.3, -.6)))
        capsule(stage.canvas, base + (-.15 * scale, -.33 * scale), base + (.15 * scale, -.33 * scale), .02 * scale,
                .02 * scale, paint * .5, heat)


def barrier(stage: Stage, actor: Actor):
    """A striped board on two legs across its heading; stripes only in the visible."""
    look = look_of("barrier", actor.look)
    light = stage.round_falls(actor, .8)
    heat = stage.heat(stage.air + (1.5 if stage.sunny(actor) else -.8), .9)
    legs = _flat(stage, actor, [(-.75, 0, 0), (-.75, 1.0, 0), (.75, 0, 0), (.75, 1.0, 0)])
    scale = stage.focal / max(stage.axis(actor), 0.5) * actor.size
    for i in (0, 2):
        capsule(stage.canvas, legs[i], legs[i + 1], .03 * scale, .03 * scale, np.array((.3, .3, .3)) * light, heat)
    for low in (.42, .74):
        board = [(-.95, low, 0), (.95, low, 0), (.95, low + .25, 0), (-.95, low + .25, 0)]
        polygon(stage.canvas, _flat(stage, actor, board),
                np.array((.62, .62, .6)) * light, heat)
        for i in range(4):
            x = -.95 + .5 * i
            stripe = [(x, low, 0), (x + .22, low, 0), (x + .40, low + .25, 0), (x + .18, low + .25, 0)]
            polygon(stage.canvas, _flat(stage, actor, stripe), np.array(look.paint) * light, None)


def bump(stage: Stage, actor: Actor):
    """A rubber speed bump across its heading, 3 m long at size 1, with yellow stripes only in the visible."""
    light = stage.falls(actor, [(0, .9, -.4)], .05)[0]
    heat = stage.heat(stage.air + (5.0 if stage.sunny(actor) else 1.0 if stage.light == "day" else -1.5), .95)
    half = 1.5
    for foot in sorted((-.25, .25), key=lambda f: -f * np.cos(actor.heading)):        # the farther slope first
        for k in range(7):
            x, wide = (-half, 2 * half) if k == 0 else (-half + .5 * (k - 1), .25)
            slope = [(x, 0, foot), (x + wide, 0, foot), (x + wide, .06, 0), (x, .06, 0)]
            paint = np.array((.55, .40, .04)) if k else np.array((.03, .03, .03))
            polygon(stage.canvas, _flat(stage, actor, slope), paint * light, None if k else heat)


def spot_shadow(stage: Stage, actor: Actor):
    """A dark patch below a bag or a barrier."""
    wide = (.3 if actor.kind == "bag" else .9) * actor.size
    scale = stage.focal / max(stage.axis(actor), 0.5)
    _, right = frame(actor)
    if actor.kind == "bag":
        right = np.array((1.0, 0, 0))
    deep = np.array((0, 0, .2))
    at = np.array((actor.x, 0, actor.z))
    points = [at - wide * right - deep, at + wide * right - deep, at + wide * right + deep, at - wide * right + deep]
    light_ground(stage.canvas, stage.base.ground, stage.project(points), .2 * scale, .45)
