"""Pictures with captions for the small encoders: generated street scenes and clips, or a folder with captions.csv.

Axes: n pictures, K captions a picture, C kinds of objects, H = W picture side.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from cmf import processes, runs
from cmf.encoders import vocabulary
from cmf.simulate import street, street_words, surveillance, surveillance_words

SIDE = 128        # px, of the pictures that the small encoders see
RENDERED = (128, 160)  # px, height and width of generated pictures, of the shape of a camera's
CHUNK = 160       # street scenes of one job
CLIPS = 8         # clips of one job
FRAMES = 10       # frames of a clip


@dataclass
class Captioned:
    """Pictures with captions, and what is known of them."""

    pictures: Tensor                 # (n, SIDE, SIDE, 3) uint8
    captions: list[list[str]]        # K of each, or more or fewer
    cover: Tensor | None = None      # (n, C, 32, 32) uint8: how much of each cell is of a kind, 0 to 255
    facts: list[dict] | None = None  # light, weather and counts of the things that can be seen

    def __len__(self) -> int:
        return len(self.pictures)


def squeezed(pictures, side: int = SIDE) -> Tensor:
    """Pictures uint8 (n, H, W, 3) resized to (n, side, side, 3), as the small encoders' own preparation does."""
    x = torch.tensor(np.asarray(pictures)).permute(0, 3, 1, 2)
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True).permute(0, 2, 3, 1).contiguous()


def folder(path: str | Path) -> dict[str, Captioned]:
    """Every split of a folder with captions.csv and images/.

    captions.csv has the columns image and caption, a row a caption, and may have split (or derived_split); without
    it everything is "train".

    Raises:
        FileNotFoundError: no captions.csv, or an image that it names is missing.
        ValueError: a column is missing, there are no rows, or an image cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    if not (path / "captions.csv").is_file():
        raise FileNotFoundError(f"no captions.csv in {path}; expected columns image and caption, and images/ beside it")
    table = pd.read_csv(path / "captions.csv", dtype=str, keep_default_na=False)
    table = table.rename(columns={"derived_split": "split"})
    if not {"image", "caption"} <= set(table.columns) or not len(table):
        raise ValueError(f"{path / 'captions.csv'} has columns {', '.join(table.columns)} and {len(table)} rows, "
                         "expected image, caption and at least one row")
    if "split" not in table:
        table["split"] = "train"
    found = {}
    for split, rows in table.groupby("split", sort=False):
        pictures, captions = [], []
        for name, own in runs.progress(list(rows.groupby("image", sort=False)), f"images of {split}"):
            file = path / "images" / name
            if not file.is_file():
                raise FileNotFoundError(f"captions.csv names {name}, which is not in {path / 'images'}")
            try:
                with Image.open(file) as image:
                    pictures.append(squeezed(np.asarray(image.convert("RGB"))[None]))
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{file} is no readable image ({error}); take its rows out of captions.csv") from error
            captions.append(own.caption.tolist())
        found[split] = Captioned(torch.cat(pictures), captions)
    return found


def scenes(split: str, pictures: int, clips: int = 0, seed: int = 0) -> Captioned:
    """Street scenes of a split's places with four captions each, and frames of surveillance clips with theirs.

    Rendered on all cores, once for the same simulators, and cached. A frame has three captions of the street's
    grammar and the sentence of an onlooker who overlooks nothing; labels of events are not used.

    Args:
        split: train, validation, test or shift: disjoint places.
        pictures: street scenes.
        clips: surveillance clips, `FRAMES` frames of each at random times.
        seed: 0 <= seed < 1000.
    """
    jobs = [(_street_part, split, min(CHUNK, pictures - k), 1000 * seed + k // CHUNK)
            for k in range(0, pictures, CHUNK)]
    jobs += [(_clip_part, split, min(CLIPS, clips - k), 1000 * seed + k // CLIPS) for k in range(0, clips, CLIPS)]

    def compute():
        parts = processes.spread(_work, jobs, f"scenes of {split}")
        made = {name: np.concatenate([part[name] for part in parts]) for name in ("pictures", "cover")}
        return made | {name: [x for part in parts for x in part[name]] for name in ("captions", "facts")}

    kept = runs.cached("twins_scenes", compute, code=[street, surveillance, squeezed, _street_part, _clip_part],
                       parameters=dict(split=split, pictures=pictures, clips=clips, seed=seed))
    return Captioned(torch.as_tensor(kept["pictures"]), [list(c) for c in kept["captions"]],
                     torch.as_tensor(kept["cover"]), kept["facts"])


def onlooker(split: str, clips: int, seed: int = 0) -> list[str]:
    """Sentences of the onlookers of surveillance clips: text alone, nothing is rendered."""
    made = surveillance.simulate_clips(clips, split, seed, dials=surveillance.Dials(replaced=0.0))
    return [c.text for clip in runs.progress(made, "sentences", clips) for c in clip.captions()]


def plain(facts: dict) -> str:
    """The facts of a picture as one sentence of fixed order and wording, for a captioner.

    >>> plain(dict(light="night", weather="clear", counts=[2, 1, 0, 0, 0, 0, 0, 0]))
    'two people and a car on a street at night in clear weather.'
    """
    things = []
    for kind, count in zip(street.KINDS, facts["counts"], strict=True):
        one, many = street_words.NOUNS[kind]
        if count:
            things.append(f"a {one}" if count == 1 else f"{street_words.NUMBERS[min(count, 12)]} {many}")
    *others, last = things or ["nothing moves"]
    named = f"{', '.join(others)} and {last}" if others else last
    time = dict(day="by day", dusk="at dusk", night="at night")[facts["light"]]
    return f"{named} on a street {time} {street_words.SKY[facts['weather']][1]}."


def known_words(captions) -> list[str]:
    """The words of `captions` and of both grammars, sorted."""
    return vocabulary.words([*captions, *street_words.VOCABULARY, *surveillance_words.VOCABULARY])


def _work(job) -> dict:
    function, *facts = job
    return function(*facts)


def _street_part(split: str, n: int, seed: int) -> dict:
    pairs = street.simulate_pairs(n, split, seed, RENDERED, street.Dials(captions=4))
    facts = [dict(light=street.LIGHTS[light], weather=street.WEATHERS[weather], counts=[int(c) for c in counts])
             for light, weather, counts in zip(pairs.truth["light"], pairs.truth["weather"], pairs.truth["counts"],
                                               strict=True)]
    return dict(pictures=squeezed(pairs.visible).numpy(), cover=cover(pairs.labels),
                captions=[list(c) for c in pairs.captions], facts=facts)


def _clip_part(split: str, n: int, seed: int) -> dict:
    rng = np.random.default_rng((29, seed))
    frames, labels, captions, facts = [], [], [], []
    for clip in surveillance.simulate_clips(n, split, seed, dials=surveillance.Dials(missed=0.0, replaced=0.0)):
        for t in np.sort(rng.uniform(0, clip.seconds, FRAMES)):
            picture, scene = clip.picture(float(t), RENDERED), clip.scene_at(float(t))
            sight = surveillance_words.choose(clip.sights(float(t)), 0.0, 0.0, rng)
            named = [scene.actors[i].kind for i, _ in street.seen(scene, picture.boxes, RENDERED)]
            frames.append(picture.visible)
            labels.append(picture.labels)
            captions.append([*street.captions(scene, rng, 3, picture.boxes, RENDERED),
                             surveillance_words.describe(sight, clip.light, clip.weather, rng)])
            facts.append(dict(light=clip.light, weather=clip.weather,
                              counts=[named.count(kind) for kind in street.KINDS]))
    return dict(pictures=squeezed(np.stack(frames)).numpy(), cover=cover(np.stack(labels)), captions=captions,
                facts=facts)


def cover(labels: np.ndarray, cells: int = 32) -> np.ndarray:
    """How much of each cell is of each kind: labels (n, H, W) uint8 to uint8 (n, C, cells, cells), 255 for all.

    H and W must be multiples of `cells`.
    """
    n, h, w = labels.shape
    blocks = labels.reshape(n, cells, h // cells, cells, w // cells)
    share = [(blocks == 1 + k).mean((2, 4)) for k in range(len(street.KINDS))]
    return np.rint(255 * np.stack(share, 1)).astype(np.uint8)
