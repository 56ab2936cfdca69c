"""Sentences that ask for a fused picture, by what they ask for: five families, and sentences that ask for nothing.

| family | asks for | target |
|---|---|---|
| balanced | everything of both sources | intensity and detail of both |
| heat | warm things that stand out | warm things brighter than in either source |
| texture | the look of the visible picture | intensity of the visible, warm things not lifted |
| brighten | a dark scene made lighter | the visible as it would be in good light |
| denoise | grain removed | the sources without their noise |

`heat` and `texture` are opposites inside warm things. A sentence outside the families (a caption, other words) is
to be treated as balanced. The wordings for testing share words with those for training, but no sentence.
"""

import itertools
import random

from numpy.random import default_rng

FAMILIES = ("balanced", "heat", "texture", "brighten", "denoise")

_WARM = ("warm objects", "hot objects", "warm people", "people", "persons", "pedestrians", "hot targets",
         "thermal targets", "heat sources", "warm bodies", "vehicles", "warm things", "the heat", "thermal signatures",
         "salient targets", "living beings", "cars and people", "hot spots")
_PICTURE = ("", "", " in the fused picture", " in the image", " in the scene", " in the result")
_VISIBLE = ("visible texture", "texture of the visible image", "details of the visible picture", "natural look",
            "visible appearance", "look of the visible photograph", "visible details", "daylight appearance",
            "background texture", "surface texture")
_DARK = ("dark picture", "night scene", "low light image", "underexposed photograph", "dark areas", "shadows",
         "dim scene", "poorly lit street", "visible image", "scene")
_NOISE = ("noise", "grain", "sensor noise", "image noise", "speckle", "the noisy background", "camera noise",
          "random noise")
_PATTERNS = {
    "balanced": {
        "head": ("", "a clear fused image", "a balanced image", "fuse both images", "combine both pictures",
                 "a vivid image", "a detailed fused picture", "a fused image", "merge infrared and visible",
                 "keep the information of both sources", "equal weight to both sources", "default fusion",
                 "a picture with clear background", "an informative picture", "a natural combination"),
        "tail": ("", " with clear background and obvious objects", " of the scene", " with all details",
                 " from both sensors", " of infrared and visible", " showing everything", " without loss")},
    "heat": {
        "head": ("highlight ", "emphasise ", "emphasize ", "show ", "stress ", "make visible ", "bring out ",
                 "enhance ", "focus on ", "make brighter ", "detect ", "highlight all ", "accentuate ", "more of "),
        "middle": _WARM, "tail": _PICTURE},
    "texture": {
        "head": ("keep the ", "preserve the ", "retain the ", "maintain the ", "favour the ", "prefer the ",
                 "only the ", "show the ", "stay close to the ", "suppress the heat and keep the ",
                 "no heat, keep the ", "protect the "),
        "middle": _VISIBLE, "tail": _PICTURE},
    "brighten": {
        "head": ("brighten the ", "lighten the ", "improve the lighting of the ", "increase the brightness of the ",
                 "enhance the illumination of the ", "relight the ", "correct the exposure of the ",
                 "turn up the light in the ", "make lighter the ", "recover the "),
        "middle": _DARK, "tail": ("", "", " please", " so that it can be seen")},
    "denoise": {
        "head": ("remove the ", "reduce the ", "suppress the ", "denoise, less ", "clean the ", "filter the ",
                 "get rid of the ", "smooth away the ", "clean picture without "),
        "middle": _NOISE, "tail": _PICTURE},
}


def sentences(family: str) -> list[str]:
    """All sentences of a family, in a fixed order.

    Raises:
        ValueError: an unknown family, with those that exist.
    """
    if family not in _PATTERNS:
        raise ValueError(f"no family of prompts {family!r}; there are {', '.join(FAMILIES)}")
    parts = _PATTERNS[family].values()
    made = ("".join(words).replace("the the ", "the ").strip() for words in itertools.product(*parts))
    return list(dict.fromkeys(made))


def prompts(family: str, split: str = "train") -> list[str]:
    """The sentences of a family for training (three fifths), validation or testing (a fifth each), disjoint.

    >>> set(prompts("heat")) & set(prompts("heat", "test"))
    set()

    Raises:
        ValueError: an unknown family or split.
    """
    place = _place(split)
    found = sentences(family)
    random.Random(family).shuffle(found)
    fifth = len(found) // 5
    return found[place * fifth:(place + 1) * fifth if place < 2 else None]


_SPEAKERS = ("my uncle", "the teacher", "a farmer", "our neighbour", "the council", "her sister", "the orchestra",
             "an old sailor", "the bank", "every student", "the committee", "his dentist", "a young poet", "the baker",
             "the government", "my cousin", "a lawyer", "the choir", "an engineer", "the goalkeeper", "our landlord")
_DOINGS = ("bought", "forgot", "sold", "praises", "wrote about", "will paint", "dislikes", "borrowed", "counted",
           "has lost", "is cooking", "repaired", "voted against", "dreams of", "collects", "translated", "invented",
           "returned", "was late for", "ordered", "argued over")
_THINGS = ("three apples", "the annual budget", "a bowl of soup", "an opera ticket", "the history of rome",
           "cheap furniture", "a silver spoon", "the football match", "her homework", "some butter and flour",
           "a difficult equation", "the monthly rent", "fresh coffee", "a wooden violin", "the latin grammar",
           "two kilos of rice", "an insurance form", "the chess club", "his favourite novel", "a pension plan",
           "green tea with honey")
_TIMES = ("", "", "on monday", "last winter", "before breakfast", "every year", "in the morning", "at the meeting",
          "during the holidays", "for a friend", "in 1987", "at half past nine", "without a word", "once again",
          "over the weekend")
_SMALL = ("the", "a", "of", "and", "to", "in", "on", "with", "for", "is", "was", "it", "he", "she", "they", "my", "at",
          "by", "from", "very", "not", "two", "some", "there", "this", "as", "we", "you", "has", "will")
_STARTS = ("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "pl", "sh",
           "ch", "br", "gr", "sp", "")
_ENDS = ("", "", "n", "r", "s", "t", "l", "d", "ck", "ng", "m", "st", "rd")
SPLITS = ("train", "validation", "test")


def foreign(n: int, split: str = "train", seed: int = 0) -> list[str]:
    """n sentences that have nothing to do with pictures: plain ones about other things, small words between words of
    random syllables, and words of random letters. No thing told of and no random word of one split is in another.

    Raises ValueError on an unknown split.
    """
    mine = _place(split)
    rng = default_rng((61, seed))
    one = lambda parts: parts[rng.integers(len(parts))]
    own = lambda parts: one([part for k, part in enumerate(parts) if min(k % 5, 2) == mine])
    syllable = lambda: one(_STARTS) + one("aeiou") + one(_ENDS)
    makers = {"letters": lambda: "".join(chr(97 + k) for k in rng.integers(0, 26, rng.integers(2, 9))),
              "syllables": lambda: "".join(syllable() for _ in range(rng.integers(1, 4))),
              "number": lambda: str(rng.integers(0, 10000))}

    def word(kind: str) -> str:
        """The sum of a word's letters says of which split it is."""
        while True:
            found = makers[kind if rng.random() < 0.95 else "number"]()
            if min(sum(map(ord, found)) % 5, 2) == mine and found not in _SMALL:
                return found

    def said(kind: int) -> list[str]:
        length = rng.integers(1, 8)
        if kind == 0:
            plain = [own(_SPEAKERS), own(_DOINGS), own(_THINGS), one(_TIMES)]
            return plain if rng.random() < 0.7 else plain[rng.integers(3):]
        if kind == 1:
            return [word("letters") for _ in range(length)]
        return [one(_SMALL) if rng.random() < 0.4 else word("syllables") for _ in range(length)]

    return [" ".join(part for part in said(min(k % 4, 2)) if part) for k in range(n)]


def _place(split: str) -> int:
    """0 of validation, 1 of test, 2 of train."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r} of the prompts; there are {', '.join(SPLITS)}")
    return ("validation", "test", "train").index(split)


def draw(family: str, rng, split: str = "train") -> str:
    """One sentence of a family. rng: numpy Generator."""
    found = prompts(family, split)
    return found[int(rng.integers(len(found)))]


def words() -> list[str]:
    """Every word of every family in lower case, sorted."""
    return sorted({w.strip(",") for family in FAMILIES for s in sentences(family) for w in s.split()} - {""})
