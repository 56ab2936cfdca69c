"""What a trained CMAF does on simulated clips: scores by segment, curves, its gate under faults, its words on trial.

Axes: B clips, T segments, L text tokens, M masks over the tokens.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import precision_recall_curve, roc_curve
from torch import nn

from cmf import runs
from cmf.metrics.faithfulness import STEPS, faithfulness, pointing
from cmf.studies.anomaly import Footage, predict, segment_auc
from cmf.studies.footage import SEGMENT, Encoders, columns, cut, look, pictures, told
from cmf.studies.scored import Scored, join_pieces
from cmf.training import Tensors

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FAULTS = {"words": ("replaced by other words", "captions left out"),
          "vision": ("of another clip", "black pictures")}


def segment_table(models: Mapping[str, nn.Module], some: Footage) -> pd.DataFrame:
    """Scores in (0, 1) of every segment of every clip, one column a model.

    Columns: clip, kind (class of the clip), segment, start, end (s), frames (that begin in it), anomalous (of these),
    then the models' names.
    """
    found = {name: predict(model, some.table)["logits"].sigmoid().numpy() for name, model in models.items()}
    rows = []
    for i, clip in enumerate(some.clips):
        parts, times = cut(clip), clip.times()
        count, edges = len(parts.centres), parts.edges
        number = parts.of(times)
        rows.append(pd.DataFrame(dict(
            clip=clip.id, kind=clip.truth["class"], segment=np.arange(count), start=edges[:-1], end=edges[1:],
            frames=np.bincount(number, minlength=count),
            anomalous=np.bincount(number, clip.frame_labels(), count).astype(int),
            **{name: scores[i, :count] for name, scores in found.items()})))
    return pd.concat(rows, ignore_index=True)


def table_auc(table: pd.DataFrame, arm: str) -> float:
    """ROC-AUC over the frames of a `segment_table`: each frame has the score of its segment."""
    up, weight = _frames(table)
    false, true, _ = roc_curve(up, np.tile(table[arm], 2), sample_weight=weight)
    return float(np.trapezoid(true, false))


def curves(table: pd.DataFrame, arms: Sequence[str], points: int = 200) -> pd.DataFrame:
    """ROC and precision-recall curves over the frames of a `segment_table`.

    Columns: arm, curve (roc, precision_recall), x (false alarm rate, recall), y (recall, precision); `points` of each.
    """
    up, weight = _frames(table)
    rows = []
    for arm in arms:
        score = np.tile(table[arm], 2)
        false, true, _ = roc_curve(up, score, sample_weight=weight)
        precision, recall, _ = precision_recall_curve(up, score, sample_weight=weight)
        for curve, x, y in (("roc", false, true), ("precision_recall", recall[::-1], precision[::-1])):
            at = np.unique(np.linspace(0, len(x) - 1, points).astype(int))
            rows.append(pd.DataFrame(dict(arm=arm, curve=curve, x=x[at], y=y[at])))
    return pd.concat(rows, ignore_index=True)


def _frames(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Labels and numbers of frames: each segment once as anomalous and once as normal."""
    return (np.repeat([1, 0], len(table)),
            np.concatenate([table.anomalous, table.frames - table.anomalous]).astype(float))


def faulty(some: Footage, encoders: Encoders, modality: str, fault: str, share: float, seed: int = 0) -> Tensors:
    """The columns of clips with a fault in one modality.

    Args:
        modality, fault: as in FAULTS. words: a share of the words, or of the captions. vision: a share of the
            segments shows the picture and motion of a segment of any clip, or nothing but black.
        share: in [0, 1].

    Raises:
        ValueError: no such fault.
    """
    if fault not in FAULTS.get(modality, ()):
        raise ValueError(f"no fault {fault!r} of {modality!r}; there are {FAULTS}")
    rng = np.random.default_rng([seed, 23])
    if modality == "words":
        return columns(some.clips, encoders, _misread([told(clip) for clip in some.clips], fault, share, rng))
    kept = dict(some.table.columns)
    here = kept["segments"].numpy()                                            # (B, T)
    hit = torch.from_numpy((rng.uniform(size=here.shape) < share) & here)
    other = rng.permutation(np.flatnonzero(here))
    for name, black in zip(("visual", "motion"), _black(encoders), strict=True):
        x = kept[name]
        if fault == "black pictures":
            moved = torch.from_numpy(black).expand_as(x)
        else:
            moved = torch.zeros_like(x)
            moved[torch.from_numpy(here)] = x.flatten(0, 1)[torch.from_numpy(other)]
        kept[name] = torch.where(hit[..., None], moved, x)
    return Tensors(**kept)


def _misread(captions, fault, share, rng):
    from cmf.simulate.surveillance_words import miswrite

    if fault == "captions left out":
        return [[row for row in video if rng.uniform() >= share] for video in captions]
    return [[(a, b, miswrite(text, share, rng)) for a, b, text in video] for video in captions]


def _black(encoders: Encoders) -> tuple[np.ndarray, np.ndarray]:
    """visual (Dv,) and motion (Dm,) columns of black pictures."""
    dark = SimpleNamespace(seconds=2 * SEGMENT, frames_at=lambda times, size: (np.zeros((*size, 3), np.uint8)
                                                                                for _ in times))
    seen = look(dark, encoders)
    return seen["visual"][0], seen["motion"][0]


def gate_under_faults(network: nn.Module, some: Footage, encoders: Encoders, shares: Sequence[float] = SHARES,
                      seed: int = 0) -> pd.DataFrame:
    """Mean gate (the weight of vision) and AUC over segments when one modality has faults.

    Columns: modality, fault, share, gate, roc_auc.
    """
    jobs = [(modality, fault, share) for modality, faults in FAULTS.items() for fault in faults for share in shares]
    rows = []
    for modality, fault, share in runs.progress(jobs, "faults"):
        table = faulty(some, encoders, modality, fault, share, seed) if share else some.table
        found = predict(network, table)
        gate = found["gate"][table.columns["segments"]].mean()
        rows.append(dict(modality=modality, fault=fault, share=share, gate=float(gate),
                         roc_auc=segment_auc(found["logits"], table)))
    return pd.DataFrame(rows)


def on_trial(network: nn.Module, some: Footage, orders: int = 10, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Deletion and insertion of words by attention beside random orders, at the highest score of each clip with event.

    Returns the mean curves (mode, share, attention, random: mean score) and, clip by clip, the gains of
    `cmf.metrics.faithfulness.faithfulness` (clip, deletion_gain, insertion_gain; positive is faithful).
    """
    grid = np.linspace(0, 1, STEPS + 1)
    curves_, gains = [], []
    abnormal = [i for i, clip in enumerate(some.clips) if clip.label]
    outputs = predict(network, some.table)
    for i in runs.progress(abnormal, "deletion and insertion"):
        peak = int(outputs["logits"][i].argmax())
        mask = some.table.columns["text_mask"][i]
        length, count = int(mask.sum()), int(some.table.columns["segments"][i].sum())
        if length < 8:
            continue                                                           # too few words to tell orders apart
        own = {name: (x[i, :length] if name.startswith("text") else x[i, :count])[None]
               for name, x in some.table.columns.items() if name not in ("labels", "frame_labels")}
        weights = outputs["attention"][i, :, peak, :length].mean(0).numpy()
        found = faithfulness(lambda keep, own=own, peak=peak: _masked(network, own, keep, peak), weights,
                             orders=orders, steps=min(STEPS, length // 2), seed=seed)
        gains.append(dict(clip=some.clips[i].id, deletion_gain=found["deletion_gain"],
                          insertion_gain=found["insertion_gain"]))
        curves_ += [pd.DataFrame(dict(mode=mode, share=grid,
                                      attention=np.interp(grid, found["share"], found[f"{mode}_curve"]),
                                      random=np.interp(grid, found["share"], found[f"{mode}_random_curve"])))
                    for mode in ("deletion", "insertion")]
    mean = pd.concat(curves_).groupby(["mode", "share"], as_index=False).mean()
    return mean, pd.DataFrame(gains)


@torch.no_grad()
def _masked(network: nn.Module, own: dict, keep: np.ndarray, segment: int) -> np.ndarray:
    """Scores (M,) of one segment of one clip when only the tokens `keep` (M, L) are there."""
    batch = {name: x.expand(len(keep), *x.shape[1:]) for name, x in own.items()} | dict(text_mask=torch.tensor(keep))
    return network.eval()(batch)["logits"][:, segment].sigmoid().numpy()


def pointed(network: nn.Module, some: Footage) -> pd.DataFrame:
    """Where the largest weight of segments in true events falls: asked, accuracy, chance, queries.

    asked "in time": on a word of a caption whose stretch overlaps the event, among all words of the clip; "in words":
    on a word of a caption that tells of the event, among those that overlap it, where some do not.
    """
    attention = predict(network, some.table)["attention"].mean(1).numpy()      # (B, T, L)
    asked = {name: [] for name in ("in time", "in words")}
    kept = {name: x.numpy() for name, x in some.table.columns.items()}
    for i, clip in enumerate(some.clips):
        if not clip.label:
            continue
        captions, (start, end) = clip.captions(), clip.events[0]
        overlap = np.array([c.start < end and c.end > start for c in captions])
        tells = overlap & np.array([c.event for c in captions])
        exists = kept["text_mask"][i]
        number = kept["text_caption"][i]
        rows = attention[i, kept["segments"][i] & (kept["frame_labels"][i] >= 0.5)]
        near, right = exists & overlap[number], exists & tells[number]
        asked["in time"] += [(row, near, exists) for row in rows]
        if right.any() and (near & ~right).any():
            asked["in words"] += [(row, right, near) for row in rows]
    return pd.DataFrame([dict(asked=name) | pointing(*map(np.stack, zip(*rows, strict=True)))
                         for name, rows in asked.items() if rows])


def report(network: nn.Module, some: Footage, i: int, threshold: float, encoders: Encoders, name: str = "",
           note: str = "simulated") -> Scored:
    """Clip i as a scored video with its pictures, words and truth, for `cmf.studies.timeline`."""
    clip, row = some.clips[i], {k: x[i:i + 1] for k, x in some.table.columns.items()}
    parts, out = cut(clip), predict(network, Tensors(**row))
    count, mask = len(parts.centres), row["text_mask"][0]
    pieces = encoders.reader.tokenizer.convert_ids_to_tokens(row["text_ids"][0][mask].tolist())
    words, caption, attention = join_pieces(pieces, row["text_caption"][0][mask].numpy(),
                                            out["attention"][0, :, :count][..., mask].numpy())
    return Scored(name or clip.id, np.stack([parts.edges[:-1], parts.edges[1:]], 1),
                  out["logits"][0, :count].sigmoid().numpy(), threshold,
                  tuple(((a + b) / 2, text) for a, b, text in told(clip)), words, caption, attention,
                  out["gate"][0, :count].clamp(0, 1).numpy() if "gate" in out else None,
                  pictures(clip, parts.centres), truth=np.array(clip.events).reshape(-1, 2), note=note)
