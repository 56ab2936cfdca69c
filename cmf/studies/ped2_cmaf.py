"""CMAF on UCSD Ped2, weak protocols only: motion, the pictures seen by CLIP, and sentences that BLIP writes.

Ped2 has no captions. Those of BLIP are all that words can bring here, and they are as good as BLIP is: the small one
has seen generated streets only. Nothing was chosen on Ped2: the recipe is that of the simulated clips with fewer
epochs, and the last epoch counts, since a weak split has no clips to spare for validation.

Axes: V clips, n frames of one, T segments, Dv channels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_curve

from cmf import runs
from cmf.datasets.anomaly import read_ped2
from cmf.methods import cmaf
from cmf.studies import ped2
from cmf.studies.footage import Encoders, read
from cmf.training import Recipe, Tensors, fit

LENGTH = 4       # frames of a segment
STRETCH = 20     # frames of a caption
RECIPE = Recipe(epochs=40, batch=32, lr=2e-3, weight_decay=0.05)


def looked(encoders: Encoders, folder=None) -> tuple[list[np.ndarray], list[list[tuple[float, float, str]]]]:
    """CLIP's embedding of the middle frame of each segment, given to all its frames, and BLIP's captions; cached.

    Returns V arrays (n, Dv), and V lists of captions (start, end as frame numbers, text), one for STRETCH frames.
    """
    items = read_ped2(folder)

    def compute() -> dict:
        found = {}
        for item in runs.progress(items, "clips"):
            frames = [np.repeat(frame[..., None], 3, 2) for frame in ped2.pictures(item)]
            silent = dict(progress=lambda steps, label: steps)
            at = lambda step, frames=frames: [frames[min(k + step // 2, len(frames) - 1)]
                                              for k in range(0, len(frames), step)]
            found[f"{item.id}/visual"] = encoders.eye.images(at(LENGTH), **silent).pooled.numpy()
            found[f"{item.id}/texts"] = encoders.writer.captions(at(STRETCH), **silent)
            found[f"{item.id}/frames"] = len(frames)
        return found

    root = items[0].source.parents[1]
    found = runs.cached("ped2_looked", compute, inputs=dict(
        train=root / "train", test=root / "test", clip=encoders.eye.fingerprint(), blip=encoders.writer.fingerprint()),
        parameters=dict(length=LENGTH, stretch=STRETCH))
    visual = [np.repeat(found[f"{item.id}/visual"], LENGTH, 0)[:found[f"{item.id}/frames"]] for item in items]
    captions = [[(STRETCH * k, min(STRETCH * (k + 1), len(seen)), text)
                 for k, text in enumerate(found[f"{item.id}/texts"])] for item, seen in zip(items, visual, strict=True)]
    return visual, captions


def columns(clips: ped2.Clips, rows: Sequence[int], visual=None, captions=None,
            encoders: Encoders | None = None) -> dict[str, torch.Tensor]:
    """Columns of a CMAF batch: those of `ped2.batch`, motion as vision where `visual` is None, and words if given."""
    table = ped2.batch(clips, rows, LENGTH, visual)
    if visual is None:
        table["visual"] = table.pop("motion")
    if captions is not None:
        own, frames = [captions[v] for v in rows], [len(clips.labels[v]) for v in rows]
        table |= {name: x for name, x in read(own, frames, encoders).items()}
    return table


def system(visual=None, captions=None, encoders: Encoders | None = None, recipe: Recipe = RECIPE) -> ped2.Scores:
    """A system for `ped2.weak`: CMAF of motion, and of pictures and captions where they are given."""

    def scores(clips: ped2.Clips, train: np.ndarray, test: np.ndarray, seed: int) -> list[np.ndarray]:
        table = columns(clips, train, visual, captions, encoders)
        table.pop("frame_labels")
        runs.seed_everything(seed)
        text = dict(text=table["text"].shape[-1]) if captions is not None else dict(text=1, use="none", fusion="none")
        config = cmaf.Config(table["visual"].shape[-1], motion=table["motion"].shape[-1] if visual is not None else 0,
                             **text)
        model = cmaf.CMAF(config).fit_inputs(table)
        losses = {} if captions is not None else dict(alignment=0.0, diversity=0.0)
        fit(model, Tensors(**table), cmaf.criterion(**losses), replace(recipe, seed=seed), label=f"split {seed}")
        with torch.no_grad():
            logits = model.eval()(columns(clips, test, visual, captions, encoders))["logits"].numpy()
        return [ped2.spread(row, len(clips.labels[v]), LENGTH) for row, v in zip(logits, test, strict=True)]

    return scores


def systems(encoders: Encoders, folder=None) -> dict[str, ped2.Scores]:
    """CMAF's arms for `ped2.weak`. Their names end in the encoders' hashes, since the cache goes by name."""
    visual, captions = looked(encoders, folder)
    mark = lambda *parts: " " + "+".join(part.fingerprint()[:8] for part in parts)
    return {
        "CMAF, motion": system(),
        "CMAF, motion and pictures" + mark(encoders.eye): system(visual),
        "CMAF, motion, pictures and words" + mark(encoders.eye, encoders.reader, encoders.writer):
            system(visual, captions, encoders)}


def curves(clips: ped2.Clips, drawn: dict[str, Sequence[str]], systems: dict[str, ped2.Scores],
           points: int = 200) -> pd.DataFrame:
    """ROC curves over the test frames, of the one split of "one-class" and the first of each weak protocol.

    drawn: systems of each protocol by name. Columns: protocol, system, x (false alarm rate), y (recall).
    """
    rows = []
    for protocol, name in runs.progress([(p, n) for p, names in drawn.items() for n in names], "curves"):
        train, test = (np.flatnonzero(~clips.abnormal), np.flatnonzero(clips.abnormal)) if protocol == "one-class" \
            else ped2.weak_splits(clips, protocol, 1)[0]
        scores = [ped2.smooth(s) for s in systems[name](clips, train, test, 0)]
        x, y, _ = roc_curve(np.concatenate([clips.labels[v] for v in test]), np.concatenate(scores))
        at = np.unique(np.linspace(0, len(x) - 1, points).astype(int))
        rows.append(pd.DataFrame(dict(protocol=protocol, system=name, x=x[at], y=y[at])))
    return pd.concat(rows, ignore_index=True)
