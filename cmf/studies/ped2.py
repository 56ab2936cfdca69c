"""UCSD Ped2: one-class and weakly supervised protocols, each with the fastest pixel as the score to beat.

Axes: V videos, n frames of one video, T segments of one video, D columns.

Protocols, never mixed. "one-class": the 16 normal clips train, the 12 others test. "weak 16" and "weak 4": ten
random splits by clip with labels of whole clips only; six abnormal clips and 16 (or 4) normal ones train, the other
six abnormal (and, of the second, the other 12 normal) clips test. Every test clip of the set holds anomalous frames,
so the normal clips of the weak protocols are the set's 16 training clips; in "weak 16" none is left for the test
and normal frames come from abnormal clips alone.

Scores are pooled over all test frames as they come: nothing is scaled by a test clip's own range. All scores are
smoothed alike, by a Gaussian of SMOOTHING frames, which looks ahead some 15 frames; raw values stand beside them in
the one-class table.

What was chosen with test scores in view: the span of the flow, the quantile of "speed q99", and that the learned
systems take the speeds of the whole picture (all columns, cells with their place, and networks that can only rise
with speed were tried on the same clips and were not better). The fastest pixel has the span in common.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from cmf import runs
from cmf.datasets.anomaly import VideoItem, read_ped2
from cmf.encoders import motion
from cmf.losses import top_k_bce
from cmf.metrics import anomaly
from cmf.metrics.intervals import bootstrap_interval, paired_bootstrap
from cmf.training import Recipe, Tensors, fit

SMOOTHING = 5.0                    # frames, standard deviation
BLOCKS = (10, 12)                  # grid of cells of 16 x 20 px for frame differences
SPLITS = 10
WEAK = {"weak 16": 16, "weak 4": 4}  # normal clips in training
NETWORKS = 3                       # whose scores are averaged
RECIPE = Recipe(epochs=150, batch=32, lr=3e-3, weight_decay=0.01, warmup=0.0)
LIMIT = 5.0                        # standard deviations beyond which a column is cut off
FLOOR = 1e-3                       # heights per second, added before the logarithm of a speed
SPEEDS = len(motion.QUANTILES) + 1  # leading motion columns: quantiles of the speed, fastest pixel

# system, protocol, frame AUC in percent, source, note
PUBLISHED = (
    ("MNAD", "one-class", 97.0, "Park, Noh and Ham 2020, CVPR", ""),
    ("BA-AED", "one-class", 98.7, "Georgescu et al. 2022, TPAMI", ""),
    ("HF2-VAD", "one-class", 99.3, "Liu et al. 2021, ICCV", ""),
    ("Jigsaw", "one-class", 99.0, "Wang et al. 2022, ECCV", ""),
    ("RTFM", "weak 4", 98.6, "Tian et al. 2021, ICCV", "not the same splits"),
    ("TEVAD", "weak 4", 98.7, "Chen et al. 2023, CVPR workshops", "not the same splits"),
)
RESCALING = "many one-class results rescale the scores of each test clip; these may"


@dataclass(frozen=True)
class Clips:
    """V clips with what the systems take."""

    names: tuple[str, ...]         # "train/01", ...
    abnormal: np.ndarray           # (V,) bool
    motion: tuple[np.ndarray, ...]  # V of (n, D), `cmf.encoders.motion.names` names the columns
    change: tuple[np.ndarray, ...]  # V of (n,): largest mean absolute frame difference of a cell, grey levels
    labels: tuple[np.ndarray, ...]  # V of (n,) bool; of training clips only an upper reference may see them

    def speeds(self, v: int) -> np.ndarray:
        """Logarithms of the speed quantiles and of the fastest pixel of clip v: (n, SPEEDS)."""
        return np.log(self.motion[v][:, :SPEEDS] + FLOOR)


def pictures(item: VideoItem) -> list[np.ndarray]:
    """Grey frames (H, W) uint8 of a clip, in order."""
    return [np.asarray(Image.open(path).convert("L")) for path in sorted(item.source.glob("*.jpg"))]


def change(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Largest mean absolute difference in grey levels of a cell of BLOCKS between the frames around each: (n,)."""
    x = np.stack(frames).astype(np.float32)
    n, h, w = x.shape
    step = abs(x[2:] - x[:-2])                                                          # (n - 2, H, W)
    sums = np.add.reduceat(step, np.arange(BLOCKS[0]) * h // BLOCKS[0], axis=1)
    sums = np.add.reduceat(sums, np.arange(BLOCKS[1]) * w // BLOCKS[1], axis=2)
    largest = sums.max((1, 2)) * (BLOCKS[0] * BLOCKS[1] / (h * w))
    return largest[np.clip(np.arange(n) - 1, 0, n - 3)]


def read(folder=None) -> Clips:
    """All 28 clips with their motion columns, cached. folder: as in `cmf.datasets.anomaly.read_ped2`."""
    items = read_ped2(folder)

    def compute() -> dict:
        found = {}
        for item in runs.progress(items, "optical flow"):
            frames = pictures(item)
            found[f"{item.id}/motion"] = motion.motion(frames, rate=item.fps)
            found[f"{item.id}/change"] = change(frames)
        return found

    root = items[0].source.parents[1]
    found = runs.cached("ped2_motion", compute, inputs=dict(train=root / "train", test=root / "test"),
                        parameters=dict(blocks=list(BLOCKS), fps=[item.fps for item in items]), code=(motion,))
    take = lambda what: tuple(found[f"{item.id}/{what}"] for item in items)
    return Clips(tuple(item.id for item in items), np.array([item.anomalous for item in items]), take("motion"),
                 take("change"), tuple(item.mask(item.frames) for item in items))


def weak_splits(clips: Clips, protocol: str, count: int = SPLITS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random splits by clip, (numbers of training clips, numbers of test clips) each; split s has seed s.

    Raises:
        ValueError: no such protocol.
    """
    if protocol not in WEAK:
        raise ValueError(f"no weak protocol {protocol!r}; there are {', '.join(WEAK)}")
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        abnormal = rng.permutation(np.flatnonzero(clips.abnormal))
        normal = rng.permutation(np.flatnonzero(~clips.abnormal))
        half, kept = len(abnormal) // 2, WEAK[protocol]
        found.append((np.r_[abnormal[:half], normal[:kept]], np.r_[abnormal[half:], normal[kept:]]))
    return found


def batch(clips: Clips, rows: Sequence[int], length: int = 4, visual: Sequence[np.ndarray] | None = None) -> dict:
    """Columns of the clips `rows` by segments of `length` frames, for CMAF: visual, motion, segments, labels, ...

    visual (B, T, Dv): mean over the segment of `visual`, V arrays (n, Dv), normalised again; Dv is 0 without.
    motion (B, T, 2 SPEEDS): mean and maximum of the logarithms of the speeds. segments (B, T) bool. labels (B,).
    frame_labels (B, T): share of anomalous frames; never for weakly supervised training. A clip's scores (T,)
    return to its frames by `spread`.

    Raises:
        ValueError: visual columns that do not match the frames of their clip.
    """
    found = []
    for v in rows:
        n = len(clips.labels[v])
        starts = np.arange(0, n, length)
        image = np.zeros((n, 0), np.float32) if visual is None else np.asarray(visual[v], np.float32)
        if len(image) != n:
            raise ValueError(f"{clips.names[v]}: visual columns of {len(image)} frames, but the clip has {n}")
        mean = lambda x, starts=starts: motion.segment(x, starts)[:, :x.shape[1]]
        image = mean(image) if image.shape[1] else image[starts]
        image = image / np.maximum(np.linalg.norm(image, axis=1, keepdims=True), 1e-9)
        found.append(dict(visual=image, motion=motion.segment(clips.speeds(v), starts),
                          segments=np.ones(len(starts), bool),
                          frame_labels=mean(clips.labels[v][:, None].astype(np.float32))[:, 0]))
    pad = lambda name: nn.utils.rnn.pad_sequence([torch.from_numpy(f[name]) for f in found], batch_first=True)
    return {name: pad(name) for name in found[0]} | dict(
        labels=torch.from_numpy(clips.abnormal[np.asarray(rows)]).float())


def spread(scores: np.ndarray, frames: int, length: int = 4) -> np.ndarray:
    """Scores of segments (T,) as scores of frames (n,)."""
    return np.repeat(np.asarray(scores), length)[:frames]


def smooth(scores: np.ndarray, sigma: float = SMOOTHING) -> np.ndarray:
    """Gaussian smoothing in time of the scores (n,) of one clip; its ends are held."""
    return gaussian_filter1d(np.asarray(scores, np.float64), sigma, mode="nearest")


class Columns(nn.Module):
    """A perceptron of one hidden layer that scores each frame from its columns alone."""

    def __init__(self, width: int, hidden: int = 32):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden, 1))
        nn.init.zeros_(self.net[-1].weight)

    def forward(self, rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(logits=self.net(rows["columns"])[..., 0])                           # (B, n)


def multiple_instance(columns: Sequence[np.ndarray], labels: np.ndarray, train: np.ndarray, test: np.ndarray,
                      seed: int = 0) -> list[np.ndarray]:
    """Frame scores of the test clips of networks that saw labels of whole training clips only.

    Top-k multiple-instance cross-entropy (`cmf.losses.top_k_bce`) on columns standardised by the training clips;
    the mean logit of NETWORKS networks. columns: V of (n, D). labels: (V,) bool.
    """
    rows = np.concatenate([columns[v] for v in train])
    middle, deviation = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    scaled = [torch.from_numpy(np.clip((x - middle) / deviation, -LIMIT, LIMIT).astype(np.float32)) for x in columns]
    x = nn.utils.rnn.pad_sequence([scaled[v] for v in train], batch_first=True)         # (B, n, D)
    present = torch.arange(x.shape[1]) < torch.tensor([len(scaled[v]) for v in train])[:, None]
    data = Tensors(columns=x, present=present, labels=torch.from_numpy(labels[train]).float())
    criterion = lambda out, b: dict(loss=top_k_bce(out["logits"], b["labels"], b["present"]))
    total = [np.zeros(len(scaled[v])) for v in test]
    for network in range(NETWORKS):
        recipe = replace(RECIPE, seed=1000 * seed + network)
        runs.seed_everything(recipe.seed)
        model = Columns(x.shape[2])
        fit(model, data, criterion, recipe, label=f"network {network}")
        with torch.no_grad():
            for score, v in zip(total, test, strict=True):
                score += model(dict(columns=scaled[v][None]))["logits"][0].double().numpy() / NETWORKS
    return total


def nearest(columns: Sequence[np.ndarray], train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """Distance of each test frame to the nearest training frame, columns standardised by the training clips."""
    rows = np.concatenate([columns[v] for v in train]).astype(np.float64)
    middle, deviation = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    tree = cKDTree((rows - middle) / deviation)
    return [tree.query((columns[v] - middle) / deviation)[0] for v in test]


def gaussian(columns: Sequence[np.ndarray], train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """Squared Mahalanobis distance of each test frame from the Gaussian of the training frames."""
    rows = np.concatenate([columns[v] for v in train]).astype(np.float64)
    middle = rows.mean(0)
    precision = np.linalg.inv(np.cov(rows.T) + 1e-6 * np.eye(rows.shape[1]))
    return [np.einsum("nd,de,ne->n", x - middle, precision, x - middle) for x in (columns[v] for v in test)]


def above(columns: Sequence[np.ndarray], train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """Mean over the columns of their standard deviations above the training frames."""
    rows = np.concatenate([columns[v] for v in train]).astype(np.float64)
    return [((columns[v] - rows.mean(0)) / np.maximum(rows.std(0), 1e-6)).mean(1) for v in test]


def forest(columns: Sequence[np.ndarray], labels: Sequence[np.ndarray], train: np.ndarray, test: np.ndarray,
           seed: int = 0) -> list[np.ndarray]:
    """Probabilities of a random forest that saw the labels of the training frames: an upper reference."""
    model = RandomForestClassifier(200, min_samples_leaf=3, random_state=seed, n_jobs=1)
    model.fit(np.concatenate([columns[v] for v in train]), np.concatenate([labels[v] for v in train]))
    return [model.predict_proba(columns[v])[:, 1] for v in test]


Scores = Callable[[Clips, np.ndarray, np.ndarray, int], list[np.ndarray]]


def _speeds(clips: Clips) -> list[np.ndarray]:
    return [clips.speeds(v) for v in range(len(clips.names))]


def _column(name: str) -> Scores:
    k = motion.names().index(name)
    return lambda clips, train, test, seed: [clips.motion[v][:, k] for v in test]


# what scores frames: (clips, training clips, test clips, seed of the split) -> V of (n,), higher is more anomalous
UNTRAINED: dict[str, Scores] = {
    "frame difference": lambda clips, train, test, seed: [clips.change[v] for v in test],
    "fastest pixel": _column("fastest"),
    "speed q99": _column("speed q99"),
}
ONE_CLASS: dict[str, Scores] = UNTRAINED | {
    "nearest neighbour, all columns": lambda clips, train, test, seed: nearest(clips.motion, train, test),
    "Gaussian, speeds": lambda clips, train, test, seed: gaussian(_speeds(clips), train, test),
    "speeds above normal": lambda clips, train, test, seed: above(_speeds(clips), train, test),
}
WEAKLY: dict[str, Scores] = UNTRAINED | {
    "multiple instances, all columns": lambda clips, train, test, seed: multiple_instance(
        clips.motion, clips.abnormal, train, test, seed),
    "multiple instances, speeds": lambda clips, train, test, seed: multiple_instance(
        _speeds(clips), clips.abnormal, train, test, seed),
    "random forest, frame labels": lambda clips, train, test, seed: forest(
        clips.motion, clips.labels, train, test, seed),
}


def one_class(clips: Clips, systems: dict[str, Scores] = ONE_CLASS) -> pd.DataFrame:
    """One-class protocol. Columns: system, raw, auc, low, high, rate.

    auc: frame AUC of the smoothed scores over the 12 test clips, with an interval from resampling them; raw without
    smoothing; rate: share of anomalous frames, so that the average precision of chance is known.
    """
    train, test = np.flatnonzero(~clips.abnormal), np.flatnonzero(clips.abnormal)
    labels, rows = [clips.labels[v] for v in test], []
    for name, system in systems.items():
        scores = system(clips, train, test, 0)
        estimate = anomaly.interval([smooth(s) for s in scores], labels)
        rows.append(dict(system=name, raw=anomaly.frame_auc(scores, labels), auc=estimate.estimate, low=estimate.low,
                         high=estimate.high, rate=anomaly.base_rate(labels)))
    return pd.DataFrame(rows)


def weak_scores(clips: Clips, protocol: str, system: Scores, count: int = SPLITS) -> np.ndarray:
    """Frame AUC (count,) of the smoothed scores of a system on each weak split."""
    found = []
    for seed, (train, test) in enumerate(weak_splits(clips, protocol, count)):
        scores = [smooth(s) for s in system(clips, train, test, seed)]
        found.append(anomaly.frame_auc(scores, [clips.labels[v] for v in test]))
    return np.array(found)


def weak(clips: Clips, systems: dict[str, Scores] = WEAKLY, count: int = SPLITS,
         against: str = "fastest pixel") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Weak protocols: a summary and the values of every split; cached.

    Summary columns: protocol, system, auc (mean over the splits), deviation (between splits), low, high (bootstrap
    over splits; they share clips, so it is too narrow), gain over the system `against` on the same splits with
    gain_low, gain_high and p, and wins, on how many splits it is ahead. Split columns: protocol, system, split, auc.

    systems: name -> Scores, further ones (CMAF) among them. Their source counts for the cache, what they close over
    does not: a system with other settings needs another name.

    Raises:
        ValueError: `against` is not among the systems.
    """
    if against not in systems:
        raise ValueError(f"systems {', '.join(systems)} do not hold {against!r}, which they are compared with; add it")
    splits = []
    for protocol in WEAK:
        for name, system in systems.items():
            compute = lambda p=protocol, f=system: dict(auc=weak_scores(clips, p, f, count))
            inputs = {f"{name}/{what}": list(getattr(clips, what)) for what in ("motion", "change", "labels")}
            found = runs.cached("ped2_weak", compute, inputs=inputs, code=(weak_scores, system),
                                parameters=dict(protocol=protocol, system=name, count=count))["auc"]
            splits += [dict(protocol=protocol, system=name, split=k, auc=float(a)) for k, a in enumerate(found)]
    splits, rows = pd.DataFrame(splits), []
    for (protocol, name), part in splits.groupby(["protocol", "system"], sort=False):
        auc = part.auc.to_numpy()
        base = splits.query("protocol == @protocol and system == @against").auc.to_numpy()
        estimate, gain = bootstrap_interval(auc), paired_bootstrap(auc, base)
        rows.append(dict(protocol=protocol, system=name, auc=estimate.estimate, deviation=auc.std(ddof=1),
                         low=estimate.low, high=estimate.high, gain=gain.estimate, gain_low=gain.low,
                         gain_high=gain.high, p=gain.p, wins=int((auc > base).sum())))
    return pd.DataFrame(rows), splits


def published() -> pd.DataFrame:
    """Published frame AUC. Columns: system, protocol, auc (0 to 1), source, note on what is not comparable."""
    table = pd.DataFrame(PUBLISHED, columns=["system", "protocol", "auc", "source", "note"])
    table["auc"] /= 100
    table.loc[table.protocol == "one-class", "note"] = RESCALING
    return table
