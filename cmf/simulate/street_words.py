"""Words about a street scene: truthful captions and prompts from a small grammar, and a reader that checks them.

A caption speaks of actors that can be seen (a share of them inside the picture and not hidden, tall enough), of
their kinds, numbers, colours by day, poses and places, and of light and weather.
"""
from __future__ import annotations

import re

import numpy as np

from cmf.simulate.street_actors import look_of
from cmf.simulate.street_render import Scene, paint

SEEN, TALL = 0.3, 0.035            # least visible share, least height in picture heights of an actor that is named
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NOUNS = {"person": ("person", "people"), "car": ("car", "cars"), "bicycle": ("bicycle", "bicycles"),
         "smoke": ("cloud of smoke", "clouds of smoke"), "fire": ("fire", "fires"), "bag": ("bag", "bags"),
         "barrier": ("barrier", "barriers"), "bump": ("speed bump", "speed bumps")}
OTHER = {"person": ("pedestrian", "pedestrians"), "car": ("vehicle", "vehicles"), "bicycle": ("bike", "bikes"),
         "smoke": ("plume of smoke", "plumes of smoke"), "bag": ("piece of luggage", "pieces of luggage"),
         "barrier": ("striped barrier", "striped barriers")}
POSE = {"stand": "standing", "walk": "walking", "run": "running", "sit": "sitting", "lie": "lying on the ground",
        "crouch": "crouching", "strike": "with an arm out", "ride": "riding"}
TIME = {"day": ("in daylight", "by day", "in the daytime"), "dusk": ("at dusk", "at twilight", "in the evening light"),
        "night": ("at night", "in the dark", "at night time")}
SKY = {"clear": ("", "in clear weather", ""), "rain": ("in the rain", "with wet ground", "while it rains"),
       "fog": ("in fog", "in the mist", "in foggy air")}
STREET = ("a street", "a road between pavements", "a city street")
EMPTY = ("{street} without people or cars {time} {sky}", "an empty {place} {time} {sky}",
         "nothing moves on {street} {time} {sky}")
FRAMES = ("{things} on {street} {time} {sky}", "{street} {time} {sky} with {things}", "{time} {sky}: {things}",
          "a picture of {things} {time} {sky}", "{things}, {time} {sky}")


def seen(scene: Scene, boxes=None, size=(96, 120)):
    """Numbers of the actors that can be named, with their boxes as shares of the picture (x0, y0, x1, y1).

    boxes: of a picture of the scene (then `size` is that picture's size); without them the scene is drawn once.
    """
    if boxes is None:
        boxes = paint(scene, size)[1]
    found = []
    for box in boxes:
        tall = (box.y1 - box.y0) / size[0]
        if box.share >= SEEN and (tall >= TALL or box.kind == "bump" and (box.x1 - box.x0) / size[1] > .08):
            found.append((box.actor, (box.x0 / size[1], box.y0 / size[0], box.x1 / size[1], box.y1 / size[0])))
    return found


def _where(bounds):
    middle = 0.5 * (bounds[0] + bounds[2])
    return "on the left" if middle < 1 / 3 else "on the right" if middle > 2 / 3 else "in the middle"


def _groups(scene, found, rng):
    """Phrases, one for each group of like actors, with every seen actor in exactly one."""
    coloured = scene.light != "night" and scene.weather != "fog" and rng.random() < 0.75
    posed, placed = rng.random() < 0.8, rng.random() < 0.6
    groups = {}
    for i, bounds in found:
        actor = scene.actors[i]
        colour = look_of(actor.kind, actor.look).colour if coloured and actor.kind in ("car", "bag", "person") else ""
        pose = POSE[actor.pose] if actor.kind == "person" and posed else ""
        place = _where(bounds) if placed else ""
        groups.setdefault((actor.kind, colour if actor.kind != "person" else "", pose, place), []).append((i, colour))
    phrases = []
    for (kind, colour, pose, place), members in groups.items():
        names = OTHER[kind] if kind in OTHER and rng.random() < 0.35 else NOUNS[kind]
        n = len(members)
        shirt = f"in {members[0][1]}" if kind == "person" and n == 1 and members[0][1] else ""
        article = ("one" if rng.random() < .3 else "a") if n == 1 else NUMBERS[n] if n < len(NUMBERS) else str(n)
        phrases.append(" ".join(w for w in (article, colour, names[n > 1], shirt, pose, place) if w))
    return [phrases[k] for k in rng.permutation(len(phrases))]


def _join(phrases):
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _tidy(text):
    return re.sub(r"\s+([,:.])", r"\1", re.sub(r"\s+", " ", text)).strip(" ,:") + "."


def caption(scene: Scene, rng, boxes=None, size=(96, 120)) -> str:
    """One truthful sentence about a scene. rng: numpy Generator, picks the wording; boxes and size as for `seen`."""
    found = seen(scene, boxes, size)
    time, sky, street = (str(rng.choice(words)) for words in (TIME[scene.light], SKY[scene.weather], STREET))
    if not found:
        return _tidy(str(rng.choice(EMPTY)).format(street=street, time=time, sky=sky, place=street.split(" ", 1)[1]))
    things = _join(_groups(scene, found, rng))
    return _tidy(str(rng.choice(FRAMES)).format(things=things, street=street, time=time, sky=sky))


def captions(scene: Scene, rng, n: int, boxes=None, size=(96, 120)) -> list[str]:
    """n captions of a scene in different wordings (they may repeat by chance)."""
    if boxes is None:
        boxes = paint(scene, size)[1]
    return [caption(scene, rng, boxes, size) for _ in range(n)]


def prompt(scene: Scene, modality: str = "fusion", boxes=None, size=(96, 120)) -> str:
    """A prompt for fusion: of the visible or infrared picture, or of the fused one; it names degradations and kinds.

    modality: visible, infrared or fusion. Raises ValueError for another.
    """
    if modality not in ("visible", "infrared", "fusion"):
        raise ValueError(f"modality {modality!r}: expected visible, infrared or fusion")
    kinds = [k for k in NOUNS if any(scene.actors[i].kind == k for i, _ in seen(scene, boxes, size))]
    things = _join([NOUNS[k][1] if k not in ("smoke", "fire") else k for k in kinds]) if kinds else "the street"
    poor = [w for w, true in (("dark", scene.light == "night" or scene.exposure < 0.5),
                              ("noisy", scene.visible_noise > 1.5 or scene.light == "night"),
                              ("rainy", scene.weather == "rain"), ("foggy", scene.weather == "fog")) if true]
    if modality == "visible":
        return _tidy(f"a {' '.join(poor) or 'clear'} visible picture of {things}")
    if modality == "infrared":
            return _tidy(f"{'a noisy' if scene.infrared_noise > 1.5 else 'an'} infrared picture of {things}")
    return _tidy(f"a clear fused picture of {things} with the detail of the visible and the warmth of the infrared")


def counts_in(text: str) -> dict[str, int]:
    """Kinds and numbers that a caption claims: {"person": 2, "car": 1}. The inverse of the grammar.

    >>> counts_in("two people walking and a red car at night.")
    {'person': 2, 'car': 1}
    """
    text = re.sub(r"without people or cars", "", text.lower())
    number = {word: k for k, word in enumerate(NUMBERS)} | {"a": 1, "an": 1}
    out = {}
    for kind in NOUNS:
        nouns = [n for table in (NOUNS, OTHER) if kind in table for n in table[kind]]
        nouns = "|".join(sorted(map(re.escape, nouns), key=len, reverse=True))
        for word in re.findall(rf"\b({'|'.join(number)}|\d+) (?:\w+ )?(?:{nouns})\b", text):
            out[kind] = out.get(kind, 0) + (number[word] if word in number else int(word))
    return out


VOCABULARY = sorted({w for phrase in [*POSE.values(), *(x for t in (TIME, SKY) for v in t.values() for x in v), *STREET,
                                      *(n for t in (NOUNS, OTHER) for v in t.values() for n in v), *NUMBERS[1:]]
                     for w in phrase.split()})


def corrupt(text: str, share: float, rng) -> str:
    """Replace this share of a caption's words, chosen at random, by other words of the grammar."""
    words = text.rstrip(".").split()
    for k in np.flatnonzero(rng.random(len(words)) < share):
        words[k] = str(rng.choice(VOCABULARY))
    return " ".join(words) + "."
