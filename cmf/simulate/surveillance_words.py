"""What an onlooker writes every few seconds about a street: sentences made from what is there, no verdicts.

No word names a class; trouble and its harmless likeness share most of their words ("two people push each
other", "a man lies on the ground", "a bag stands by the wall"), and what separates them are pairs of words
and the picture. An onlooker overlooks things, is early or late, and sometimes writes another word.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

FORBIDDEN = ("explosion", "explode", "blast", "fight", "fall", "fell", "abandon", "wrong", "unattended", "anomal",
             "accident", "attack", "bomb", "collapse", "danger", "strange", "suspicious", "violen")


@dataclass(frozen=True)
class Caption:
    """One sentence about [start, end) seconds. `about` names actors; `event`: it tells of the event itself."""

    start: float
    end: float
    text: str
    about: tuple[str, ...]
    event: bool


@dataclass(frozen=True)
class Sight:
    """One actor as an onlooker sees it at an instant."""

    name: str
    kind: str
    deed: str
    pose: str
    child: bool
    side: str                      # left, middle, right of the picture
    far: float                     # 0 near to 1 far
    ground: str                    # pavement, kerb, wall, grass, road, crossing
    lane: str                      # left, right; of the road
    towards: bool                  # moves towards the camera
    colour: str                    # of clothes, paint or bag; empty where it cannot be told
    stream: int                    # +1 with most people, -1 against them, 0 neither
    crowd: int                     # people on foot in view
    weight: float                  # how much it draws the eye
    event: bool


SAY = {
    "walk": ("{who} walks {dir} {where}{stream}", "{who} goes {dir} {where}{stream}", "{who} passes {where}",
             "{who} strolls {where}"),
    "run": ("{who} runs {dir} {where}{stream}", "{who} runs {where}{stream}", "{who} comes running {where}",
            "{who} runs past people {where}{stream}"),
    "counter": ("{who} runs {dir} {where}{stream}", "{who} runs {where}{stream}", "{who} turns and runs {dir}{stream}",
                "{who} runs past people {where}{stream}", "people stop and look at {who} who runs {dir}"),
    "hurry": ("{who} hurries {dir} {where}", "people run {where}", "people hurry {dir}", "people run to both sides"),
    "stand": ("{who} stands {where}", "{who} stops {where}", "{who} stands still {where} and does not move"),
    "wait": ("{who} waits {where}", "{who} stands {where} and waits", "{who} in a coat looks around {where}"),
    "phone": ("{who} talks on the telephone {where}", "{who} shouts into a telephone {where}",
              "{who} stands {where} with a telephone, angry",
              "{who} waves an arm {where} and shouts into a telephone, angry"),
    "sit": ("{who} sits {where}", "{who} sits on the ground {where}", "{who} sits still {where}, nobody beside"),
    "crouch": ("{who} bends down {where}", "{who} goes down {where}", "{who} sits down {where}"),
    "topple": ("{who} goes down {where}", "{who} stumbles {where}", "{who} bends down {where}"),
    "get_up": ("{who} gets up {where}", "{who} gets up slowly {where}", "{who} bends down {where}"),
    "put_down": ("{who} puts a bag down {where}", "{who} bends down with a bag {where}", "{who} goes down {where}"),
    "pick_up": ("{who} takes a bag {where}", "{who} bends down to a bag {where}", "{who} picks up a bag {where}"),
    "lie_hurt": ("{who} lies {where}", "{who} lies on the ground {where}, people stop and look",
                 "{who} lies still {where}, people stop", "{who} lies {where} and holds a leg",
                 "{who} lies where people walk {where}", "{who} lies on the ground {where} and does not move"),
    "lie_rest": ("{who} lies {where}", "{who} lies on the ground {where}, asleep", "{who} lies still {where}, asleep",
                 "{who} lies {where} and looks at the sky", "{who} rests {where}, people walk past",
                 "{who} lies on the ground {where} and reads"),
    "struggle": ("two people push each other {where}", "two men swing their arms at each other {where}, angry",
                 "{who} grabs another by the arm {where}, angry", "two people shout and push {where}",
                 "two people push hard {where}, angry", "two people hold each other and stumble {where}, people look"),
    "horseplay": ("two people push each other {where}, laughing", "two men swing their arms at each other {where}",
                  "{who} grabs another by the arm {where} and laughs", "two people joke and push {where}, people look",
                  "two people stumble {where}, laughing", "two friends push each other {where}"),
    "hug": ("two people hold each other {where}", "two friends hold each other {where}, smiling",
            "{who} puts both arms around another {where}"),
    "wave": ("two people wave their arms {where}", "two friends shout and wave {where}",
             "{who} swings both arms {where} and laughs"),
    "burn": ("flames and smoke {where}", "something burns {where}", "a bright light and smoke {where}",
             "a fire {where}, people step back", "high flames {where}", "fire and dark smoke {where}, people run"),
    "smoke": ("a cloud of smoke {where}", "dark smoke rises {where}", "smoke drifts {where}",
              "a cloud grows {where}"),
    "steam": ("a cloud of steam {where}", "white smoke rises {where}", "smoke drifts {where}", "a cloud rises {where}",
              "dark smoke drifts {where}"),
    "brazier": ("a small fire burns {where}, people look", "flames in a basket {where}",
                "a fire and a little smoke {where}", "something burns {where}"),
    "warm": ("{who} stands at a fire {where}", "{who} warms both hands {where}", "{who} stands {where}"),
    "flash": ("a bright light over the street", "a flash lights the street", "the street is bright for a moment"),
    "bag_alone": ("a bag stands {where}", "a bag stands {where}, nobody beside it", "a bag stands alone {where}",
                  "people walk past a bag {where}", "a bag {where}, nobody waits beside it"),
    "bag_beside": ("a bag stands {where}", "a bag stands {where}, its owner beside it",
                   "somebody waits with a bag {where}", "a bag stands beside somebody {where}",
                   "a bag {where} and its owner"),
    "drive": ("a car drives {dir}{lane}", "a car comes by{lane}", "a car drives{lane}", "a car passes {dir}"),
    "against": ("a car drives {dir}{lane}", "a car comes by{lane}", "a car drives{lane}",
                "a car drives {dir} in the other lane", "a car drives in the other lane and another waits"),
    "overtake": ("a car swings into the other lane", "a car swings out and drives {dir}", "a car drives {dir}{lane}"),
    "stop": ("a car waits{lane}", "a car stands {where}", "a car has to stop{lane}"),
    "reverse": ("a car backs {dir}{lane}", "a car drives slowly{lane}", "a car backs to the kerb"),
    "parked": ("a car stands at the kerb", "a parked car {where}"),
    "ride": ("{who} rides a bicycle {dir}", "a bicycle passes{lane}", "{who} on a bicycle {where}"),
    "street": ("the street is quiet", "{few} people walk {dir}", "nobody stands at the kerb", "{light}", "{weather}",
               "cars and people pass", "people stop and look into a window",
               "people step back from the kerb", "people walk alone and in pairs",
               "somebody laughs, nothing much happens"),
}
FEW = ("no", "one or two", "a few", "some", "many")
LIGHT = {"day": "daylight on the street", "dusk": "it gets dark", "night": "the lamps are on, it is dark"}
WEATHER = {"clear": "the air is clear", "rain": "it rains hard and the road shines", "fog": "fog hangs over the street"}
EYE = {  # how much a deed draws the eye; 1 where not named
    "struggle": 6, "horseplay": 6, "hug": 4, "wave": 5, "burn": 8, "smoke": 4, "steam": 4, "brazier": 3,
    "lie_hurt": 5, "lie_rest": 4, "bag_alone": 3, "bag_beside": 3, "run": 2.5, "counter": 3, "hurry": 2, "reverse": 3,
    "overtake": 4, "against": 4, "put_down": 3, "pick_up": 3, "topple": 4, "get_up": 3, "street": 1.5, "flash": 6}
PLACES = {"pavement": ("on the pavement", "along the pavement"), "kerb": ("at the kerb", "on the pavement"),
          "wall": ("by the wall", "on the pavement by the wall"), "grass": ("on the grass",),
          "road": ("on the road",), "crossing": ("on the crossing", "on the road")}


def _vocabulary() -> tuple[str, ...]:
    texts = [re.sub(r"\{\w+\}", " ", text) for options in SAY.values() for text in options]
    texts += [*FEW, *LIGHT.values(), *WEATHER.values(), *(p for options in PLACES.values() for p in options)]
    return tuple(sorted({word for text in texts for word in re.findall(r"[a-z]+", text)}))


VOCABULARY = _vocabulary()


def _where(sight: Sight, rng) -> str:
    parts = [str(rng.choice(PLACES[sight.ground]))] if rng.uniform() < 0.75 else []
    if sight.side != "middle" and rng.uniform() < 0.35:
        parts.append(f"on the {sight.side}")
    if rng.uniform() < 0.3:
        parts.append("far away" if sight.far > 0.65 else "close by" if sight.far < 0.3 else "")
    return " ".join(parts)


def describe(sight: Sight, light: str, weather: str, rng: np.random.Generator) -> str:
    """One sentence about what is seen, truthful."""
    who = ("a child", "a girl", "a boy") if sight.child else ("a man", "a woman", "a person", "somebody")
    name, colour = str(rng.choice(who)), ""
    if sight.colour and rng.uniform() < 0.4:
        name, colour = f"{name} in {sight.colour}", f"{sight.colour} "
    stream = {1: ", like the others", -1: ", people come the other way"}.get(sight.stream, "")
    say = str(rng.choice(SAY[sight.deed])).format(
        who=name, dir="towards the camera" if sight.towards else "away from the camera",
        where=_where(sight, rng), stream=stream if rng.uniform() < 0.6 else "",
        lane=f" in the {sight.lane} lane" if rng.uniform() < 0.8 else "", light=LIGHT[light], weather=WEATHER[weather],
        few=FEW[min((sight.crowd + 1) // 2, 4)])
    if sight.kind in ("car", "bag") and colour and say.startswith(f"a {sight.kind}"):
        say = f"a {colour}{say[2:]}"
    return re.sub(r"\s+", " ", say).replace(" ,", ",").strip()


def miswrite(text: str, share: float, rng: np.random.Generator) -> str:
    """The sentence with each word replaced by any other of the vocabulary with probability `share`.

    >>> miswrite("a man walks", 0.0, np.random.default_rng(0))
    'a man walks'
    """
    if share <= 0:
        return text
    other = [w + ("," if old.endswith(",") else "")
             for old, w in zip(text.split(), rng.choice(VOCABULARY, len(text.split())), strict=True)]
    swap = rng.uniform(size=len(other)) < share
    return " ".join(b if s else a for a, b, s in zip(text.split(), other, swap, strict=True))


def choose(sights: list[Sight], missed: float, overlap: float, rng: np.random.Generator) -> Sight:
    """What an onlooker writes about: the event unless it is overlooked, else what draws the eye.

    missed: probability of overlooking an event that is there. overlap in [0, 1]: at 0 that is chance, at 1 it is
    always the far half of events that is overlooked most, so that words know what pictures show.
    """
    odd = [s for s in sights if s.event]
    if odd:
        pick = _by_weight(odd, rng)
        p = missed if pick.far < 0 else (1 - overlap) * missed + overlap * min(2 * missed * pick.far, 1.0)
        if rng.uniform() >= p:
            return pick
    return _by_weight([s for s in sights if not s.event], rng)


def _by_weight(sights, rng):
    weights = np.cumsum([s.weight for s in sights])
    return sights[int(np.searchsorted(weights, rng.uniform() * weights[-1], side="right"))]
