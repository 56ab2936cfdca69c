"""CMAF on collections of videos: their columns, training, scores and measures.

Training sees one label a video, or the labels of frames where that is asked. Where a collection has no validation
part, a fifth of its training videos is held out by video, alike in both classes. The epoch and the threshold come from
validation, from the same kind of labels: with those of videos, the threshold leaves a share FAR of the segments of
normal videos as alarms.

Axes: B videos, T segments, F frames.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from cmf import runs
from cmf.datasets import anomaly as readers
from cmf.datasets.anomaly import VideoItem
from cmf.datasets.clips import read_captions, read_clips
from cmf.datasets.video import Segments
from cmf.metrics import anomaly as measures
from cmf.metrics.recognition import roc_auc
from cmf.simulate.surveillance import simulate_clips
from cmf.studies import anomaly, footage, ped2, watching
from cmf.studies.anomaly import RECIPE, Footage
from cmf.studies.footage import Encoders
from cmf.studies.watching import Watcher
from cmf.training import Recipe, Tensors, fit

ARMS = dict(videos="CMAF, clip labels", frames="CMAF")   # by the labels that training sees
NAMES = ("surveillance", "ped2", "ucf-crime", "xd-violence", "shanghaitech")
LONGEST = 96     # segments of a training video; those of longer ones are averaged to so many
HELD_OUT = 0.2   # share of the training videos, for validation
FAR = 0.02       # share of normal segments above the threshold, where no frames are annotated
SHOWN = ("roc_auc", "average_precision", "ano_auc", "macro_auc")


@dataclass(frozen=True)
class Collected:
    """Videos of one part of a collection with their columns and captions, in one order."""

    items: list[VideoItem]
    seen: list[dict]
    captions: list[list]

    def table(self, encoders: Encoders, labels: str = "videos") -> Tensors:
        """Columns of a CMAF batch with labels of whole videos, and with "frames" also frame_labels.

        Raises:
            ValueError: labels of frames are wanted, and some video has none.
        """
        rows = [shortened(seen) for seen in self.seen]
        pad = lambda name: nn.utils.rnn.pad_sequence([torch.from_numpy(r[name]) for r in rows], batch_first=True)
        known = {}
        if labels == "frames":
            bare = [item.id for item in self.items if item.events is None]
            if bare:
                raise ValueError(f"{len(bare)} of {len(self.items)} videos have no labels of frames ({bare[0]}, ...); "
                                 "train with those of whole videos, --labels videos")
            shares = [torch.from_numpy(Segments(row["edges"], row["edges"]).mean(truth, times).astype(np.float32))
                      for row, (times, truth) in zip(rows, map(annotated, self.items), strict=True)]
            known = dict(frame_labels=nn.utils.rnn.pad_sequence(shares, batch_first=True))
        here = [torch.ones(len(row["visual"]), dtype=torch.bool) for row in rows]
        told = [nearest(captions, row["edges"]) for captions, row in zip(self.captions, rows, strict=True)]
        return Tensors(visual=pad("visual"), motion=pad("motion"), **known,
                       segments=nn.utils.rnn.pad_sequence(here, batch_first=True),
                       labels=torch.tensor([float(item.anomalous) for item in self.items]),
                       **footage.read(told, [row["edges"][-1] for row in rows], encoders))

    def scores(self, watcher: Watcher, encoders: Encoders) -> list[np.ndarray]:
        """Scores of the segments of each video, (T,) each."""
        return [watcher.watch(seen, captions, encoders, item.id).scores
                for item, seen, captions in zip(self.items, self.seen, self.captions, strict=True)]

    def frames(self, watcher: Watcher, encoders: Encoders) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Scores and labels of the frames of each annotated video, (F,) each."""
        scores, truth = [], []
        for item, seen, each in zip(self.items, self.seen, self.scores(watcher, encoders), strict=True):
            times, labels = annotated(item)
            scores.append(each[Segments(seen["edges"], seen["edges"]).of(times)])
            truth.append(labels.astype(int))
        return scores, truth


def annotated(item: VideoItem) -> tuple[np.ndarray, np.ndarray]:
    """Times (F,) in seconds and labels (F,) bool of the frames of an annotated video."""
    times = item.open().times
    return times, item.mask(len(times))


def shortened(seen: dict, longest: int = LONGEST) -> dict:
    """The columns of a video with at most `longest` segments: neighbours averaged."""
    count = len(seen["visual"])
    if count <= longest:
        return dict(edges=seen["edges"], visual=seen["visual"], motion=seen["motion"])
    starts = np.arange(longest) * count // longest
    sizes = np.diff(np.append(starts, count))[:, None]
    mean = {name: (np.add.reduceat(seen[name], starts) / sizes).astype(np.float32) for name in ("visual", "motion")}
    return dict(edges=seen["edges"][np.append(starts, count)], **mean)


def nearest(captions: watching.Told, edges: np.ndarray) -> list:
    """At most one caption a segment where there are more: those nearest to the middles of the segments."""
    if len(captions) <= len(edges) - 1:
        return list(captions)
    middle = np.array([(a + b) / 2 for a, b, _ in captions])
    chosen = {int(np.abs(middle - t).argmin()) for t in (edges[:-1] + edges[1:]) / 2}
    return [captions[k] for k in sorted(chosen)]


def find(name: str, split: str, folder: str | None = None, fps: float | None = None, seed: int = 0) -> list[VideoItem]:
    """The videos of a part ("train", "validation", "test") of a collection; [] where it has no such part.

    Args:
        name: one of NAMES but the simulated set, or a folder: written by `data make surveillance`, or one that
            `cmf.datasets.anomaly.read_folder` reads, with normal/ and one folder a class.
        folder: where the collection lies; default CMF_DATA/<name with _>.
        fps: frames a second of folders of frames. seed: number of the weak split of Ped2, 0 to 9.

    Raises:
        FileNotFoundError, ValueError: as the readers; videos without labels.
    """
    root = Path(folder) if folder else Path(os.environ.get("CMF_DATA", ".")) / name.replace("-", "_")
    if name == "ped2":
        items = readers.read_ped2(folder)
        clips = ped2.Clips(tuple(i.id for i in items), np.array([i.anomalous for i in items]), (), (), ())
        rows = ped2.weak_splits(clips, "weak 4")[seed % ped2.SPLITS]
        return [items[k] for k in dict(train=rows[0], test=rows[1]).get(split, ())]
    if name in NAMES and not root.is_dir():
        raise FileNotFoundError(f"{root}: no folder of {name}; give it with --folder, or set CMF_DATA to the folder "
                                "above it")
    if name == "ucf-crime":
        return [] if split == "validation" else readers.read_ucf_crime(root, split)
    if name == "xd-violence":
        listing = dict(train=None, test=root / "annotations.txt")
        return [] if split == "validation" else readers.read_xd_violence(root / split, listing[split])
    if name == "shanghaitech":
        listing = root / f"SHANGHAI_{split}.txt"        # of the weakly supervised re-split
        return [] if split == "validation" else readers.read_shanghaitech(root, split, listing)
    root = Path(name)
    items = read_clips(root) if (root / "annotations.csv").is_file() else readers.read_folder(root, fps)
    if any(item.label is None for item in items):
        raise ValueError(f"{root}: videos without labels; put them into normal/ and one folder a class, or write "
                         "annotations.csv as `python -m cmf data make surveillance` does")
    splits = {item.split for item in items}
    return [item for item in items if item.split == split or splits == {item.split} and split != "validation"]


def held_out(items: Sequence[VideoItem], seed: int, share: float = HELD_OUT) -> tuple[list, list]:
    """Training and validation videos: a share of each class (normal or not) is held out, one video at least.

    Raises:
        ValueError: fewer than two videos of a class.
    """
    rng, kept, out = np.random.default_rng([seed, 23]), [], []
    for odd in (False, True):
        own = [item for item in items if item.anomalous == odd]
        if len(own) < 2:
            raise ValueError(f"{len(own)} {'anomalous' if odd else 'normal'} videos for training; expected at least 2, "
                             "so that one can be held out for validation")
        order = rng.permutation(len(own))
        count = max(1, round(share * len(own)))
        out += [own[k] for k in order[:count]]
        kept += [own[k] for k in np.sort(order[count:])]
    return kept, out


def collect(items: Sequence[VideoItem], encoders: Encoders, captions: str | None = None) -> Collected:
    """Columns and captions of videos; both cached by the content of the files.

    captions: a CSV; default captions.csv beside the videos or above them, else BLIP writes them.
    """
    seen, told = [], []
    tables = {}
    for item in runs.progress(items, "videos"):
        whole = watching.look(item.source, item.fps, encoders)
        seen.append({name: whole[name] for name in ("edges", "visual", "motion")})
        beside = [Path(captions)] if captions else [folder / "captions.csv" for folder in item.source.parents[:2]]
        path = next((path for path in beside if captions or path.is_file()), None)
        if path is None:
            told.append(watching.written(whole, encoders, item.id))
            continue
        if path not in tables:
            others = {p.stem for p in item.source.parent.iterdir()} | {one.id for one in items}
            tables[path] = read_captions(path, others)
        found = tables[path].get(item.id, ())
        told.append([(c.start, min(c.end, seen[-1]["edges"][-1]), c.text) for c in found
                     if c.start < seen[-1]["edges"][-1]])
    return Collected(list(items), seen, told)


def judge(logits: torch.Tensor, table: Tensors) -> float:
    """ROC-AUC on validation: of segments where the table has their labels, else of videos by their highest score."""
    if "frame_labels" in table.columns:
        return anomaly.segment_auc(logits, table)
    best = logits.max(1).values.numpy()
    return float(roc_auc(table.columns["labels"].numpy() > 0.5, best))


def teach(train: Collected, validation: Collected, encoders: Encoders, seed: int = 1, recipe: Recipe = RECIPE,
          labels: str = "videos", run: Path | None = None) -> Watcher:
    """Train CMAF with labels of whole videos, or of "frames"; epoch, trust and threshold come from validation.

    run: as of `fit`.
    """
    table, other = train.table(encoders, labels), validation.table(encoders, labels)
    model, criterion = anomaly.build(ARMS[labels], table, seed)
    fit(model, table, criterion, replace(recipe, seed=seed), run=run, label=f"CMAF, seed {seed}",
        score=lambda model: anomaly.validate(model, other, judge))
    watcher = Watcher.of(model, encoders, 0.5)
    if labels == "frames":
        return Watcher.of(model, encoders, measures.choose_threshold(*validation.frames(watcher, encoders)))
    scores = validation.scores(watcher, encoders)
    nothing = [np.zeros(len(s), int) for s in scores]
    return Watcher.of(model, encoders, measures.choose_threshold(
        scores, nothing, [item.anomalous for item in validation.items], far=FAR))


def train_bundle(path: Path | str = watching.TRAINED, clips: dict[str, int] | None = None, world: int = 1,
                 seed: int = 1, encoders: Encoders | None = None, recipe: Recipe = RECIPE,
                 labels: str = "frames") -> dict:
    """Train CMAF on simulated clips, write its weights, and return what was measured on the test clips, with "history".

    clips: numbers of train, validation and test clips; default `anomaly.CLIPS`. world: seed of the clips. labels: of
    "frames" or "videos". Columns and training are cached, so that after the arms only the file is written. With labels
    of videos the validation clips still give epoch and threshold by their frames.
    """
    clips, encoders = clips or anomaly.CLIPS, encoders or Encoders()
    sets = anomaly.footage(**clips, seed=world, encoders=encoders)
    model, record = anomaly.trained(ARMS[labels], sets, seed, recipe)
    found = record["measures"]
    facts = dict(data=f"simulated surveillance clips, {clips['train']} for training", labels=labels, licence="MIT",
                 frame_auc_test=f"{found['roc_auc']:.4f}", average_precision_test=f"{found['average_precision']:.4f}",
                 base_rate_test=f"{found['base_rate']:.4f}", seed=str(seed), epochs=str(recipe.epochs))
    Watcher.of(model, encoders, found["threshold"]).save(path, **facts)
    return found | dict(history=record["history"])


def evaluation(scores: list, labels: list, abnormal: Sequence[bool] | None, threshold: float) -> pd.DataFrame:
    """Measures over frames: columns measure, value, low, high (95 % over videos; NaN where there is no interval)."""
    found = measures.evaluate(scores, labels, abnormal, threshold)
    rows = []
    for name in SHOWN:
        own = measures.interval(scores, labels, abnormal, name)
        rows.append(dict(measure=name, value=own.estimate, low=own.low, high=own.high))
    others = {k: v for k, v in found.items() if k not in (*SHOWN, "events")}
    others |= {f"event_recall_{overlap:g}": at["recall"] for overlap, at in found["events"].items()}
    return pd.DataFrame(rows + [dict(measure=k, value=v, low=np.nan, high=np.nan) for k, v in others.items()])


def over_seeds(name: str, encoders: Encoders, seeds: int = 3, recipe: Recipe = RECIPE,
               folder: str | None = None) -> pd.DataFrame:
    """CMAF taught with one label a video and measured on the test videos of a collection, with seeds 1, 2, ...

    name, folder: as of `find`. Columns: seed, then those of `evaluation`. A fifth of the training videos, the same for
    all seeds, chooses epoch and threshold where the collection has no validation part.

    Raises:
        ValueError: fewer than one seed, and as `find`.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    items, aside = (find(name, split, folder) for split in ("train", "validation"))
    if not aside:
        items, aside = held_out(items, 1)
    train, validation, test = (collect(some, encoders) for some in (items, aside, find(name, "test", folder)))
    rows = []
    for seed in range(1, seeds + 1):
        watcher = teach(train, validation, encoders, seed, recipe)
        scores, truth = test.frames(watcher, encoders)
        rows.append(evaluation(scores, truth, [item.anomalous for item in test.items], watcher.settings.threshold)
                    .assign(seed=seed))
    return pd.concat(rows, ignore_index=True)[["seed", "measure", "value", "low", "high"]]


def simulated(watcher: Watcher, encoders: Encoders, count: int, seed: int) -> tuple[list, list, list]:
    """Frame scores and labels and video labels of simulated test clips."""
    clips = simulate_clips(count, "test", seed)
    some = Footage(clips, footage.columns(clips, encoders))
    return (anomaly.frame_scores(watcher.network, some), anomaly.truth(some), [clip.label > 0 for clip in clips])
