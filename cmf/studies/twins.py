"""The small encoders: CLIP, BLIP and DistilBERT of the same classes as the published ones, trained from scratch.

`make encoders` renders street scenes with captions, trains the three, measures them on places that they have not seen
and writes cmf/trained/{clip,blip,distilbert}_small.safetensors with a card each, and results/encoders.csv.
`python -m cmf.studies.twins --check` measures the weights that are there and compares with that table.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cmf import catalogue, paths, runs, training
from cmf.encoders import vocabulary
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT
from cmf.encoders.frozen import TRAINED
from cmf.encoders.inception import fast_dtype
from cmf.studies import twins_cards, twins_data, twins_models, twins_scores
from cmf.studies.twins_models import PICTURE

KINDS = dict(clip=CLIP, blip=BLIP, distilbert=DistilBERT)
SIZES = dict(pictures=3000, clips=100, sentences=600, test=500, test_clips=40)  # at 20 minutes; see `main`


# Passes over the pictures of `SIZES`; fewer minutes mean fewer pictures.
RECIPES = dict(
    clip=training.Recipe(epochs=8, batch=64, lr=1e-3, weight_decay=0.05, warmup=0.05),
    blip=training.Recipe(epochs=2, batch=64, lr=4e-4, weight_decay=0.05, warmup=0.05),
    distilbert=training.Recipe(epochs=2, batch=64, lr=1.5e-3, weight_decay=0.05, warmup=0.1))
FIRST = dict(clip=dict(epochs=18, lr=2e-3), blip=dict(epochs=24, lr=1.5e-3))  # vision alone; decoder alone


def train(minutes: float = 20.0, only: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Train the small encoders, write weights and cards, and return their scores (see `measure`).

    Args:
        minutes: what the three shall take together on two idle cores, rendering included; below 20 there are fewer
            pictures.
        only: "clip", "blip" or "distilbert": that one, with the vocabulary that is there.
        seed: of first weights, order, crops and masks.
    """
    share = min(1.0, minutes / 20)
    few = lambda name: max(16, round(SIZES[name] * share))
    data = twins_data.scenes("train", few("pictures"), few("clips"), seed)
    sentences = twins_data.onlooker("train", few("sentences"), seed)
    texts = [text for own in data.captions for text in own] + sentences
    made = paths.build() / "encoders"  # written there, put in place together: weights and vocabulary must agree
    if only is None:
        vocabulary.save(made / vocabulary.FILE, vocabulary.build(twins_data.known_words(texts)))
    tokenizer = vocabulary.load((TRAINED if only else made) / vocabulary.FILE)
    ids = twins_models.tokens(tokenizer, data.captions)
    mixed = fast_dtype("cuda" if torch.cuda.is_available() else "cpu") == torch.bfloat16
    for name in [only] if only else list(KINDS):
        runs.seed_everything(seed)
        recipe = replace(RECIPES[name], seed=seed, precision="bf16" if mixed else "no")
        model = twins_models.build(name, len(tokenizer), seed)
        if name == "clip":
            seconds = learn_clip(model, data, ids, recipe)
        elif name == "blip":
            plain = twins_models.tokens(tokenizer, [[twins_data.plain(facts)] for facts in data.facts])
            seconds = learn_blip(model, CLIP((TRAINED if only else made) / CLIP.SMALL), data, plain, recipe)
        else:
            table = training.Tensors(tokens=twins_models.tokens(tokenizer, [[t] for t in texts])[:, 0])
            seconds = training.fit(twins_models.Masked(model), table, given, recipe, label=name).seconds
        first = ", ".join(f"{k} {v:g}" for k, v in FIRST.get(name, {}).items())
        facts = {k: f"{v:g}" for k, v in asdict(recipe).items() if k in ("epochs", "batch", "lr", "seed")}
        KINDS[name].save(
            made / KINDS[name].SMALL, model, tokenizer, None if name == "distilbert" else PICTURE, **facts,
            data=f"simulated: {len(data)} pictures and {len(texts)} sentences of the training places", licence="MIT",
            seconds=f"{seconds:.0f}", threads=str(torch.get_num_threads()), precision=recipe.precision, first=first)
    scores = measure(only, made)
    files = [KINDS[name].SMALL for name in ([only] if only else KINDS)]
    for file in files:
        twins_cards.write(made / file, scores)
    for file in [vocabulary.FILE, *files, *(str(Path(file).with_suffix(".md")) for file in files)]:
        os.replace(made / file, TRAINED / file)
    return scores


def learn_clip(model, data: twins_data.Captioned, ids: torch.Tensor, recipe: training.Recipe) -> float:
    """Train a CLIPModel in place on pictures and captions (n, K, L); seconds. With cover, its vision tower first."""
    seconds, columns = 0.0, dict(pictures=data.pictures)
    wrapped = twins_models.Contrast(model, data.cover.shape[1] if data.cover is not None else 0)
    fit = lambda label, r, **c: training.fit(wrapped, training.Tensors(**c), twins_models.contrastive, r, label=label)
    if data.cover is not None:
        columns |= dict(cover=data.cover)
        seconds = fit("clip, vision", replace(recipe, **FIRST["clip"]), **columns).seconds
    return seconds + fit("clip", recipe, **columns, tokens=ids).seconds


def learn_blip(model, clip: CLIP, data: twins_data.Captioned, ids: torch.Tensor, recipe: training.Recipe) -> float:
    """Train a BlipForConditionalGeneration in place: first its decoder on what `clip` sees, then all."""
    twins_models.inherit(model, clip.to("cpu").model, data.pictures[:64])
    wrapped = twins_models.Captioner(model)
    fit = lambda label, r, **columns: training.fit(wrapped, training.Tensors(**columns), given, r, label=label).seconds
    seconds = fit("blip, decoder", replace(recipe, **FIRST["blip"]), seen=wrapped.look(data.pictures), tokens=ids)
    return seconds + fit("blip", recipe, pictures=data.pictures, tokens=ids)


def given(out: dict, batch: dict) -> dict:
    """The loss that the model itself gives."""
    return out


def measure(only: str | None = None, folder: Path = TRAINED) -> pd.DataFrame:
    """Scores of the weights in `folder`, on scenes of test places: a row a score, with its tolerance.

    Columns: encoder, score, value, tolerance (how far a training run on another machine may lie from it), chance,
    n (pictures, captions or tokens judged).
    """
    data = twins_data.scenes("test", SIZES["test"])
    rows = []
    if only in (None, "clip"):
        rows += twins_scores.of_clip(CLIP(folder / CLIP.SMALL), data)
    if only in (None, "blip"):
        rows += twins_scores.of_blip(BLIP(folder / BLIP.SMALL), data)
    if only in (None, "distilbert"):
        texts = [own[0] for own in data.captions]
        rows += twins_scores.of_distilbert(DistilBERT(folder / DistilBERT.SMALL), texts,
                                           twins_data.onlooker("test", SIZES["test_clips"]))
    return pd.DataFrame(rows)


def flickr_retrieval(path=None, *, epochs: int = 30, seed: int = 0) -> dict[str, float]:
    """A small CLIP trained from scratch on a folder of images with captions, and its retrieval on the other split.

    Args:
        path: folder as `twins_data.folder` reads it; default the catalogue's flickr8k (CMF_DATA).
        epochs: passes over the training pictures.
        seed: of the first weights and the order of samples.

    Returns:
        as `twins_scores.retrieval`, on the pictures that are not in "train", with seconds of training.

    Raises:
        FileNotFoundError: the folder is not here.
        ValueError: it has no split beside train.
    """
    splits = twins_data.folder(path or catalogue.find("flickr8k"))
    held = next((data for name, data in splits.items() if name != "train"), None)
    if held is None or "train" not in splits:
        raise ValueError(f"the folder has the splits {', '.join(splits)}, expected train and another one")
    count = Counter(word for own in splits["train"].captions for text in own for word in vocabulary.words([text]))
    tokenizer = vocabulary.wrap(vocabulary.build(word for word, times in count.items() if times > 1))
    model = twins_models.build("clip", len(tokenizer), seed)
    recipe = training.Recipe(epochs=epochs, batch=128, lr=1e-3, weight_decay=0.2, seed=seed, precision="no")
    own = splits["train"]
    seconds = learn_clip(model, own, twins_models.tokens(tokenizer, own.captions), recipe)
    with tempfile.TemporaryDirectory() as aside:
        clip = CLIP(CLIP.save(Path(aside) / "clip.safetensors", model, tokenizer, PICTURE), precision="float32")
    texts = [text for own in held.captions for text in own]
    owner = np.repeat(np.arange(len(held)), [len(own) for own in held.captions])
    scores = twins_scores.retrieval(clip.images(held.pictures).pooled, clip.texts(texts).pooled, texts, owner)
    return scores | dict(seconds=round(seconds, 1))


def main(argv=None) -> int:
    """`python -m cmf.studies.twins [--only clip] [--minutes 20] [--check]`; 1 when a score misses its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(KINDS), help="one of the three, with the vocabulary that is there")
    parser.add_argument("--minutes", type=float, default=20.0, help="for all on two idle cores (default 20)")
    parser.add_argument("--check", action="store_true", help="measure the weights that are there; train nothing")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    try:
        stated = runs.read_result("encoders", "demo")
    except FileNotFoundError:
        stated = None
    scores = measure(chosen.only) if chosen.check else train(chosen.minutes, chosen.only)
    table = scores if stated is None else twins_cards.compare(stated, scores)
    print(table.to_string(index=False))
    if not chosen.check:
        if stated is not None and chosen.only:
            scores = pd.concat([stated[stated.encoder != chosen.only], scores])
        runs.write_result("encoders", scores, profile="demo", sizes=SIZES, minutes=chosen.minutes)
    if stated is not None and not table.within.all():
        print("a score lies outside its tolerance of the committed one")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
