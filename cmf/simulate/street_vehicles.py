"""Cars as two extruded profiles with wheels, glass and lights, and bicycles; engines and tyres warm in the infrared."""
from __future__ import annotations

import numpy as np

from cmf.simulate.street_actors import Actor, Stage, frame, look_of
from cmf.simulate.street_paint import capsule, disc, light_ground, polygon

# length, width, wheel radius; profiles along the car (front positive) and up, clockwise from the rear sill, m
SHAPES = {
    "saloon": (4.5, 1.76, .32, ((-2.25, .25), (-2.22, .80), (-1.6, .98), (.75, .98), (2.1, .76), (2.25, .50),
                                (2.2, .25)), ((-1.65, .95), (-.95, 1.42), (.15, 1.45), (1.0, .95))),
    "hatchback": (3.9, 1.68, .31, ((-1.95, .25), (-1.95, .85), (-1.8, 1.0), (.8, 1.0), (1.8, .78), (1.95, .5),
                                   (1.9, .25)), ((-1.85, .98), (-1.55, 1.48), (.1, 1.52), (.98, .98))),
    "van": (4.7, 1.85, .33, ((-2.35, .28), (-2.35, 1.12), (1.5, 1.12), (2.3, .9), (2.35, .5), (2.3, .28)),
            ((-2.33, 1.1), (-2.25, 1.95), (.9, 1.98), (1.6, 1.1))),
    "truck": (6.4, 2.1, .42, ((-3.2, .55), (-3.2, 2.7), (1.2, 2.7), (1.2, .55)),
              ((1.25, .5), (1.25, 2.2), (2.5, 2.2), (3.1, 1.2), (3.15, .5))),
}
TAPER = 0.17                       # share by which a cabin is narrower at the roof
DARK = np.array((.02, .02, .022))


class _Car:
    def __init__(self, stage: Stage, actor: Actor):
        self.stage, self.actor = stage, actor
        self.look = look_of("car", actor.look)
        self.forward, self.right = frame(actor)
        self.at = np.array((actor.x, actor.y, actor.z))
        self.eye = np.array((0.0, stage.place.height, 0.0))
        self.scale = stage.focal / max(stage.axis(actor), 0.5) * actor.size

    def world(self, points):
        """(along, across, up) of the car -> world."""
        p = np.asarray(points, float) * self.actor.size
        return self.at + p[:, :1] * self.forward + p[:, 1:2] * self.right + p[:, 2:] * np.array((0, 1.0, 0))

    def flat(self, points):
        """(along, across, up) of the car -> pixels."""
        return self.stage.project(self.world(points))

    def seen(self, centre, normal):
        """Whether a face looks at the camera."""
        return float((self.eye - self.world([centre])[0]) @ normal) > 0

    def turn(self, along, across, up):
        """A direction of the car in the world."""
        return along * self.forward + across * self.right + up * np.array((0, 1.0, 0))


def shadow(stage: Stage, actor: Actor):
    """The dark ground below a car, its cast shadow in the sun, the light of its lamps."""
    car = _Car(stage, actor)
    length, width = SHAPES[car.look.body][:2]
    under = [(-length / 2, -width / 2, 0), (-length / 2, width / 2, 0), (length / 2, width / 2, 0),
             (length / 2, -width / 2, 0)]
    heat = 0.0 if not actor.running else float(stage.heat(stage.air + 4) - stage.heat(stage.air))
    light_ground(stage.canvas, stage.base.ground, car.flat(under), 0.45 * car.scale, 0.75, heat=heat)
    if stage.sunny(actor):
        sx, sy, sz = stage.place.sun
        h = SHAPES[car.look.body][4][1][1] * 0.85
        far = car.world(under) - np.array((sx, 0, sz)) / sy * h
        if far[:, 2].min() > 1.0:
            light_ground(stage.canvas, stage.base.ground, stage.project(0.5 * (far + car.world(under))),
                         0.35 * car.scale, 0.5)
            light_ground(stage.canvas, stage.base.ground, stage.project(far), 0.35 * car.scale, 0.35)
    if actor.pose == "drive" and stage.dark:
        beam = [(length / 2, -.6, 0), (length / 2, .6, 0), (length / 2 + 9, 2.4, 0), (length / 2 + 9, -2.4, 0)]
        if car.world(beam)[:, 2].min() > 1.5:
            light_ground(stage.canvas, stage.base.ground, car.flat(beam), 1.6 * car.scale, 0.0,
                         np.array((.05, .048, .04)) * (1 if stage.light == "night" else .8))


def _prism(car: _Car, profile, width, colours, heats, taper=0.0):
    """Faces of an extruded convex profile that look at the camera. colours and heats: one for each strip, then side.
    taper: share by which it is narrower at its top."""
    n, half = len(profile), width / 2
    low, high = min(u for _, u in profile), max(u for _, u in profile)

    def wide(up):
        return half * (1.0 - taper * (up - low) / (high - low))

    faces, normals = [], []
    middle = np.mean(profile, axis=0)
    for i in range(n):
        (a0, u0), (a1, u1) = profile[i], profile[(i + 1) % n]
        along, up = u1 - u0, -(a1 - a0)
        if along * (0.5 * (a0 + a1) - middle[0]) + up * (0.5 * (u0 + u1) - middle[1]) < 0:
            along, up = -along, -up
        normal = car.turn(along, 0.0, up) / max(np.hypot(along, up), 1e-6)
        if car.seen((0.5 * (a0 + a1), 0, 0.5 * (u0 + u1)), normal):
            faces.append((i, [(a0, -wide(u0), u0), (a0, wide(u0), u0), (a1, wide(u1), u1), (a1, -wide(u1), u1)]))
            normals.append(normal)
    for sign in (-1, 1):
        normal = car.turn(0, sign * (1 - 0.3 * bool(taper)), 0.5 * bool(taper))
        if car.seen((0, sign * half, middle[1]), car.turn(0, sign, 0)):
            faces.append((n, [(a, sign * wide(u), u) for a, u in profile]))
            normals.append(normal)
    if not faces:
        return []
    falls = car.stage.falls(car.actor, normals)
    gloss = 0.05 * car.stage.falls(car.actor, [(0, 1, 0)])[0]
    ends = np.cumsum([len(points) for _, points in faces])[:-1]
    flat = np.split(car.flat([point for _, points in faces for point in points]), ends)
    for (i, _), points, light, normal in zip(faces, flat, falls, normals, strict=True):
        colour = np.array(colours[i]) * light + gloss * max(0.25, normal[1])
        polygon(car.stage.canvas, points, colour, heats[i], shade=(1.1, 0.8) if abs(normal[1]) < .5 else None)
    return [i for i, _ in faces]


def draw(stage: Stage, actor: Actor):
    """Body, wheels, cabin with glass, lights, plate."""
    car = _Car(stage, actor)
    look, air = car.look, stage.air
    length, width, wheel, body, cabin = SHAPES[look.body]
    hot = 1.0 if actor.running else 0.0
    paint = np.array(look.paint)
    shell = stage.heat(air + 0.4 + (2.5 if stage.sunny(actor) else 0.0) + 1.2 * hot, 0.88)
    bonnet = stage.heat(air + 7 * hot - 0.5, 0.9)
    grille = stage.heat(air + 9 * hot, 0.93)
    n = len(body)
    heats = [shell] * n + [shell]
    colours = [paint] * (n + 1)
    if look.body != "truck":
        heats[n - 4], heats[n - 3], heats[n - 2] = (shell, bonnet, grille) if n == 7 else (bonnet, bonnet, grille)
        if n == 7:
            heats[3] = bonnet
    heats[n - 1] = stage.heat(air + 8 * hot)
    _prism(car, body, width, colours, heats)
    glass = stage.heat(air + 2.5 * hot, 0.88)
    m = len(cabin)
    window = np.array((.05, .06, .07))
    cabin_colours = [window] * m + [paint]
    cabin_colours[1] = paint
    cabin_heats = [glass] * m + [shell]
    cabin_heats[1] = stage.heat(air - 1.0 + (3.0 if stage.sunny(actor) else 0.0), 0.88)
    sides = [s for s in (-1, 1) if car.seen((0, s * width / 2, .6), car.turn(0, s, 0))]
    _wheels(car, sides, wheel, length, width, hot)
    _prism(car, cabin, width * 0.94, cabin_colours, cabin_heats, TAPER)
    falls = stage.falls(actor, [car.turn(0, s, 0) for s in sides] or [(0, 0, -1)])
    for sign, light in zip(sides, falls, strict=False):
        centre = np.mean(cabin, axis=0)
        low, high = cabin[0][1], max(u for _, u in cabin)
        pane = [(centre[0] + (a - centre[0]) * .86, centre[1] + .02 + (u - centre[1]) * .74) for a, u in cabin]
        pane = [(a, sign * width * .473 * (1 - TAPER * (u - low) / (high - low)), u) for a, u in pane]
        if look.body != "truck":
            polygon(stage.canvas, car.flat(pane), window * light + 0.03 * light, glass, shade=(1.5, .7))
            seams = [(.05, .95), (-.95, .95)]
            for along, top in seams:
                ends = car.flat([(along, sign * width * .503, .35), (along, sign * width * .503, top)])
                capsule(stage.canvas, ends[0], ends[1], .010 * car.scale, .010 * car.scale, paint * .3 * light, None)
            pillar = car.flat([(.0, sign * width * .455, .95), (-.08, sign * width * .473 * (1 - TAPER), high)])
            capsule(stage.canvas, pillar[0], pillar[1], .035 * car.scale, .035 * car.scale, paint * light, shell)
    _ends(car, body, length, width, hot)


def _wheels(car, sides, radius, length, width, hot):
    stage, actor = car.stage, car.actor
    tyre = stage.heat(stage.air + 0.5 + 8 * hot, 0.95)
    rim = stage.heat(stage.air + 9 * hot, 0.86)
    light = stage.falls(actor, [(0, 0.1, -1)])[0]
    for sign in sides:
        for along in (-.30 * length, .31 * length):
            across = sign * width * 0.5
            c, u, v = car.flat([(along, across, radius), (along + radius, across, radius), (along, across, 2 * radius)])
            disc(stage.canvas, c, u - c, v - c, DARK * light, tyre)
            if car.scale * radius > 2.5:
                disc(stage.canvas, c, .58 * (u - c), .58 * (v - c), np.array((.30, .30, .31)) * light, rim)
                disc(stage.canvas, c, .2 * (u - c), .2 * (v - c), DARK * light, rim)


def _ends(car, body, length, width, hot):
    stage, actor = car.stage, car.actor
    on = actor.pose == "drive" and stage.dark
    for sign in (-1, 1):                                  # rear, front
        if not car.seen((sign * length / 2, 0, .6), car.turn(sign, 0, 0)):
            continue
        along = sign * (length / 2 - 0.01)
        light = stage.falls(actor, [car.turn(sign, 0, 0)])[0]
        half = width * .48
        bumper = [(along, -half, .30), (along, half, .30), (along, half, .46), (along, -half, .46)]
        polygon(stage.canvas, car.flat(bumper), np.array(car.look.paint) * .55 * light, None)
        plate = [(along, -.26, .46), (along, .26, .46), (along, .26, .57), (along, -.26, .57)]
        polygon(stage.canvas, car.flat(plate), np.array((.6, .6, .52)) * light, None)
        if sign > 0:
            mask = [(along, -.5, .48), (along, .5, .48), (along, .42, .66), (along, -.42, .66)]
            polygon(stage.canvas, car.flat(mask), DARK * light, stage.heat(stage.air + 17 * hot))
        elif hot:
            pipe = car.flat([(along, -.5, .28)])[0]
            disc(stage.canvas, pipe, (.07 * car.scale, 0), (0, .07 * car.scale), DARK * light,
                 stage.heat(stage.air + 22))
        for side in (-1, 1):
            lamp = car.flat([(along, side * width * .38, .68 if sign > 0 else .75)])[0]
            colour = np.array((.55, .55, .52)) if sign > 0 else np.array((.35, .02, .02))
            r = .13 * car.scale
            glow = (np.array((4., 3.8, 3.2)) if sign > 0 else np.array((.8, .03, .02))) if on else colour * light
            disc(stage.canvas, lamp, (r, 0), (0, r * .62), glow, stage.heat(stage.air + 12 * hot * on + 1))
            if on:
                stage.canvas.glow(*lamp, (2.6 if sign > 0 else 2.0) * r + 1.5, glow * (.22 if sign > 0 else .35))


def bicycle(stage: Stage, actor: Actor):
    """Two wheels, a frame of tubes, saddle and bars; at the temperature of the air."""
    car = _Car(stage, actor)
    paint = np.array(look_of("bicycle", actor.look).paint)
    light = stage.falls(actor, [(0, .3, -.95)])[0]
    steel = stage.heat(stage.air - 1.0 + (2.0 if stage.sunny(actor) else 0.0), 0.82)
    rubber = stage.heat(stage.air + (2.0 if stage.sunny(actor) else -0.3))
    canvas, r = stage.canvas, .34
    for along in (-.52, .52):
        c, u, v = car.flat([(along, 0, r), (along + r, 0, r), (along, 0, 2 * r)])
        slim = abs((u - c)[0]) < 0.12 * abs((v - c)[1])
        if slim:                                          # seen from its end
            capsule(canvas, c - (v - c), v, .03 * car.scale, .03 * car.scale, DARK * light, rubber)
        else:
            disc(canvas, c, u - c, v - c, DARK * light, rubber, ring=max(.06 * car.scale, .7))
    names = {"rear": (-.52, 0, .34), "pedal": (-.05, 0, .30), "seat": (-.18, 0, .85), "head": (.36, 0, .82),
             "front": (.52, 0, .34), "bar": (.34, 0, 1.0)}
    at = dict(zip(names, car.flat(list(names.values())), strict=True))
    tube = max(.022 * car.scale, .32)
    for a, b in (("rear", "pedal"), ("rear", "seat"), ("pedal", "seat"), ("seat", "head"), ("pedal", "head"),
                 ("head", "front"), ("head", "bar")):
        capsule(canvas, at[a], at[b], tube, tube, paint * light, steel)
    ends = car.flat([(.34, -.26, 1.02), (.34, .26, 1.02), (-.28, 0, .93), (-.05, 0, .95)])
    capsule(canvas, ends[0], ends[1], tube, tube, DARK * light, steel)
    capsule(canvas, ends[2], ends[3], tube * 1.6, tube * 1.4, DARK * light, rubber)


def bicycle_shadow(stage: Stage, actor: Actor):
    """A narrow dark patch."""
    car = _Car(stage, actor)
    patch = [(-.8, -.12, 0), (-.8, .12, 0), (.8, .12, 0), (.8, -.12, 0)]
    light_ground(stage.canvas, stage.base.ground, car.flat(patch), 0.2 * car.scale, 0.4)
