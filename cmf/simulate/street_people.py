"""People: a skeleton posed in three dimensions, drawn as shaded limbs; skin and clothes warm in the infrared."""
from __future__ import annotations

import numpy as np

from cmf.simulate.street_actors import Actor, Stage, frame, look_of
from cmf.simulate.street_paint import capsule, ellipse, light_ground, polygon

TALL = 1.72                        # m, at size 1
SKIN_KELVIN = 305.0
PACK = np.array((.05, .06, .10))    # reflectance of a rucksack
UP = np.array((0.0, 1.0, 0.0))
# hip height (share of height), lean (rad), thighs (left, right), knees, upper arms, elbows; angles forward from hanging
STILL = {
    "stand": (.53, .02, (.05, -.05), (.03, .03), (.06, -.04), (.15, .15)),
    "sit": (.26, .05, (1.45, 1.4), (1.45, 1.4), (.5, .6), (.5, .5)),
    "crouch": (.24, .65, (1.9, 1.5), (2.1, 2.2), (.7, .9), (.6, .4)),
    "lie": (.53, .0, (.12, -.12), (.2, .1), (.3, -.3), (.4, .3)),
}


def _angles(actor: Actor):
    p = actor.phase
    s = np.sin(p)
    if actor.pose == "walk":
        return .525 + .008 * np.cos(2 * p), .05, (.45 * s, -.45 * s), \
            (.12 + .5 * max(0, np.cos(p)), .12 + .5 * max(0, -np.cos(p))), (-.4 * s, .4 * s), (.25, .25)
    if actor.pose == "run":
        return .515 + .02 * np.cos(2 * p), .22, (.15 + .8 * s, .15 - .8 * s), \
            (.35 + 1.1 * max(0, np.cos(p)), .35 + 1.1 * max(0, -np.cos(p))), (-.8 * s, .8 * s), (1.5, 1.5)
    if actor.pose == "ride":
        return .56, .5, (.85 + .38 * s, .85 - .38 * s), (1.0 + .3 * np.cos(p), 1.0 - .3 * np.cos(p)), \
            (1.25, 1.25), (.3, .3)
    if actor.pose == "strike":
        return .50, .16 + .08 * s, (.35, -.35), (.2, .12), (1.45 + .35 * s, .5), (.55 - .5 * s, 1.5)
    return STILL[actor.pose]


def skeleton(actor: Actor) -> dict[str, np.ndarray]:
    """World points of a person's joints, m: head, neck, hips, knees, feet, shoulders, elbows, hands of both sides."""
    height = TALL * actor.size
    forward, right = frame(actor)
    up, origin = UP, np.array((actor.x, actor.y, actor.z))
    hip, lean, thigh, knee, arm, elbow = _angles(actor)
    if actor.pose == "lie":                            # the whole body turned back onto the ground
        up, forward, origin = forward, -UP, origin + UP * 0.13 * actor.size - frame(actor)[0] * 0.5 * height

    def down(angle):
        return -up * np.cos(angle) + forward * np.sin(angle)

    pelvis = origin + up * hip * height
    spine = up * np.cos(lean) + forward * np.sin(lean)
    neck = pelvis + spine * 0.30 * height
    joints = {"pelvis": pelvis, "neck": neck, "head": neck + (spine * .7 + up * .3) * 0.105 * height}
    toe = frame(actor)[0] * 0.07 * height * (actor.pose != "lie")
    for side, sign, i in (("left", -1, 0), ("right", 1, 1)):
        hips = pelvis + right * sign * 0.052 * height
        knees = hips + down(thigh[i]) * 0.25 * height
        shoulder = neck + right * sign * 0.105 * height - spine * 0.02 * height
        elbows = shoulder + (down(arm[i]) + right * sign * 0.10) * 0.17 * height
        joints |= {f"{side} hip": hips, f"{side} knee": knees,
                   f"{side} foot": knees + down(thigh[i] - knee[i]) * 0.25 * height,
                   f"{side} toe": knees + down(thigh[i] - knee[i]) * 0.25 * height + toe,
                   f"{side} shoulder": shoulder, f"{side} elbow": elbows,
                   f"{side} hand": elbows + down(arm[i] + elbow[i]) * 0.16 * height}
    return joints


def shadow(stage: Stage, actor: Actor):
    """A dark patch at the feet and, in the sun, a long shadow away from it."""
    place, h = stage.place, TALL * actor.size * {"sit": .55, "crouch": .55, "lie": .2}.get(actor.pose, 1.0)
    ring = np.linspace(0, 2 * np.pi, 9)[:-1]
    wide = 0.7 if actor.pose == "lie" else 0.27
    spot = [(actor.x + wide * np.cos(a), 0, actor.z + wide * np.sin(a)) for a in ring]
    axis = max(stage.axis(actor), 0.5)
    light_ground(stage.canvas, stage.base.ground, stage.project(spot), 0.25 * stage.focal / axis, 0.45)
    if stage.sunny(actor):
        sx, sy, sz = place.sun
        tip = (actor.x - sx / sy * h, actor.z - sz / sy * h)
        if tip[1] > 1.0:
            n = np.array((-sz, sx)) / np.hypot(sx, sz)
            feet, head = 0.16 * n, 0.13 * n
            points = [(actor.x + feet[0], 0, actor.z + feet[1]), (actor.x - feet[0], 0, actor.z - feet[1]),
                      (tip[0] - head[0], 0, tip[1] - head[1]), (tip[0] + head[0], 0, tip[1] + head[1])]
            light_ground(stage.canvas, stage.base.ground, stage.project(points), 0.10 * stage.focal / axis, 0.62,
                         heat=0.0)


def _seat(stage: Stage, actor: Actor):
    back = -0.05 * frame(actor)[0]
    at, half, top = np.array((actor.x, actor.y, actor.z)) + back, 0.28 * actor.size, 0.24 * TALL * actor.size
    return stage.project(at + np.array([(-half, 0, 0), (half, 0, 0), (half, top, 0), (-half, top, 0)]))


def draw(stage: Stage, actor: Actor):
    """Limbs from far to near, then torso and head."""
    look, joints = look_of("person", actor.look), skeleton(actor)
    names = list(joints)
    pixels = dict(zip(names, stage.project(np.array([joints[n] for n in names])), strict=True))
    scale = stage.focal / max(stage.axis(actor), 0.5) * TALL * actor.size     # pixels of a body's height
    falls = stage.round_falls(actor)
    sun = stage.place.sun
    light = np.array((np.sign(sun[0]) * 0.9, -.45)) if stage.sunny(actor) else np.array((0.0, -.45))
    air, warm = stage.air, look.warm if actor.running else 0.0
    wet = 0.75 if stage.weather == "rain" else 1.0

    def heat(share, emissivity=.96):
        return stage.heat(air + share * wet * (SKIN_KELVIN - air) * (1.0 if actor.running else 0.05), emissivity)

    shirt, trousers, skin = (np.array(c) * falls for c in (look.paint, look.second, look.skin))
    hair, shoe = np.array(look.hair) * falls, np.array((.03, .03, .03)) * falls
    sleeve = actor.look % 3 == 0                           # short sleeves
    canvas, r = stage.canvas, scale
    parts = []
    for side in ("left", "right"):
        depth = joints[f"{side} knee"][2] + joints[f"{side} hip"][2]
        parts.append((depth, side))
    parts.sort(reverse=True)
    (_, far), (_, near) = parts

    def leg(side):
        a, b, c = (pixels[f"{side} {n}"] for n in ("hip", "knee", "foot"))
        capsule(canvas, a, b, .052 * r, .038 * r, trousers, heat(warm * .95), light)
        capsule(canvas, b, c, .038 * r, .024 * r, trousers * .93, heat(warm * .8), light)
        capsule(canvas, c, pixels[f"{side} toe"], .022 * r, .02 * r, shoe, heat(warm * .35))

    def arm(side):
        a, b, c = (pixels[f"{side} {n}"] for n in ("shoulder", "elbow", "hand"))
        capsule(canvas, a, b, .034 * r, .028 * r, shirt * .92, heat(warm * .9), light)
        capsule(canvas, b, c, .026 * r, .02 * r, skin if sleeve else shirt * .9, heat(.8 if sleeve else warm * .8),
                light)
        ellipse(canvas, c, .024 * r, .024 * r, skin, heat(.78))

    away = np.cos(actor.heading) > 0                       # seen from behind
    if actor.pose == "sit":                                # on a low block
        block = _seat(stage, actor)
        polygon(canvas, block, np.array((.22, .21, .2)) * falls, stage.heat(air + 1.0), marks=False)
    arm(far)
    leg(far)
    leg(near)
    neck, pelvis = pixels["neck"], pixels["pelvis"]
    across = abs(np.cos(actor.heading)) if actor.pose != "lie" else 0.6
    broad = (.062 + .026 * across) * r
    waist = neck + (pelvis - neck) * .62
    if look.pack and not away:
        capsule(canvas, neck + (0, .04 * r), 0.5 * (neck + pelvis), broad * 1.05, broad,
                PACK * falls, heat(.12), light)
    capsule(canvas, pelvis, waist, broad * .88, broad * .8, trousers, heat(warm * .9), light)
    chest, hem = neck + (pelvis - neck) * .2, neck + (pelvis - neck) * .82
    capsule(canvas, chest, hem, broad, broad * .86, shirt, heat(warm), light)
    capsule(canvas, pixels["left shoulder"], pixels["right shoulder"], .04 * r, .04 * r, shirt, heat(warm), light)
    if look.pack and away:
        capsule(canvas, neck + (pelvis - neck) * .25, neck + (pelvis - neck) * .72, broad * .85, broad * .8,
                PACK * falls, heat(.15), light)
    arm(near)
    head = pixels["head"]
    capsule(canvas, neck + (0, .01 * r), head, .028 * r, .03 * r, skin, heat(.85))
    ellipse(canvas, head, .048 * r, .064 * r, skin, heat(.92), light)
    if away:
        ellipse(canvas, head, .050 * r, .066 * r, hair, heat(.62), light)
    else:
        ellipse(canvas, head - (np.sin(actor.heading) * .018 * r, .026 * r), .049 * r, .042 * r, hair, heat(.6), light)
        if scale > 45:
            face = head + (np.sin(actor.heading) * .02 * r, .012 * r)
            ellipse(canvas, face, .028 * r, .03 * r, skin, heat(1.0), light)
