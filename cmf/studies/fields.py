"""Soil, crop and weed in fields (CWFID): what simple systems reach with the red band, the near infrared and both.

A threshold on a vegetation index, a random forest on pixels, a small U-Net, and CMFS beside them. All are chosen by a
validation part of the training pictures; the test pictures are looked at once.

Axes: m pictures, H, W rows and columns, h, w of a padded one, F features of a pixel, K = 3 classes, B samples.
"""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from cmf import runs
from cmf.datasets import segmentation
from cmf.datasets.augment import Joint, Views
from cmf.metrics.segmentation import confusion, miou_difference, miou_interval, scores
from cmf.studies import segmenting
from cmf.training import Recipe, fit, parameters

CLASSES = segmentation.CLASSES["cwfid"]
K = len(CLASSES)
BANDS = {"red": (0,), "near infrared": (1,), "both": (0, 1)}
THRESHOLDS = np.round(np.arange(-0.3, 0.61, 0.02), 2)
PRIORS = (0.0, 0.25, 0.5, 0.75, 1.0)     # how much of the classes' true shares the forest is told
SIGMAS = (1.0, 3.0, 8.0)                 # pixels, of the surroundings that the forest sees
PIXELS = 400                             # of each class of a picture that train the forest
WIDTHS = (16, 32, 64, 128)               # channels of the U-Net, from full resolution down
CROP, ROUNDS = 192, 16
RECIPE = Recipe(epochs=8, batch=4, lr=3e-3, weight_decay=0.01, warmup=0.05)       # 1,024 steps on 32 pictures


@dataclass(frozen=True)
class Fields:
    """m pictures: bands uint8 (m, 2, H, W), red and near infrared; label uint8 (m, H, W)."""

    bands: np.ndarray
    label: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Parts:
    """Pictures to train with, to choose by and to judge on."""

    train: Fields
    held: Fields
    test: Fields


def load(root=None) -> Parts:
    """CWFID: of the 40 training pictures the last 8 by name are held out to choose by; 10 test pictures.

    Raises FileNotFoundError where the set is not here, see `cmf.datasets.segmentation.layout`.
    """
    kept, held = segmentation.divide(segmentation.layout("cwfid", root, "train"))
    return Parts(*(_read(samples) for samples in (kept, held, segmentation.layout("cwfid", root, "test"))))


def _read(samples) -> Fields:
    made = segmentation.tensors(samples)
    bands = torch.cat([made["visible"][:, :1], made["infrared"]], 1)             # (m, 2, H, W)
    return Fields(bands.numpy(), made["label"].numpy(), tuple(one.stem for one in samples))


def vegetation(bands: np.ndarray) -> np.ndarray:
    """Normalised difference vegetation index, (n - r) / (n + r), float32 (..., H, W) in [-1, 1], of uncalibrated grey
    levels (..., 2, H, W) (Rouse et al. 1974, NASA SP-351); 0 where both are 0.

    >>> vegetation(np.array([[[50]], [[150]]], np.uint8)).tolist()
    [[0.5]]
    """
    red, near = np.moveaxis(bands.astype(np.float32), -3, 0)
    return (near - red) / np.maximum(near + red, 1)


def counted(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts of each picture, int64 (m, K, K)."""
    return np.stack([confusion(t, p, K) for t, p in zip(label, predicted, strict=True)])


def _miou(label, predicted) -> float:
    return scores(counted(label, predicted).sum(0))["miou"]


def threshold(parts: Parts) -> tuple[np.ndarray, dict]:
    """All vegetation of an index above a threshold is one class; threshold and class are those of the best mIoU on the
    held-out pictures. Returns predictions uint8 (m, H, W) of the test pictures and what was chosen."""
    index = vegetation(parts.held.bands)
    tried = {(float(t), c): _miou(parts.held.label, (index > t).astype(np.uint8) * c)
             for t in THRESHOLDS for c in range(1, K)}
    best, leaf = max(tried, key=tried.get)
    made = (vegetation(parts.test.bands) > best).astype(np.uint8) * np.uint8(leaf)
    return made, dict(threshold=best, leaf=CLASSES[leaf], held=tried[best, leaf])


def features(bands: np.ndarray, which: str, cut: float) -> np.ndarray:
    """What the forest knows of each pixel of one picture (2, H, W), float32 (H, W, F).

    Of each band the grey level, and mean and standard deviation of surroundings of three sizes; of both together
    also the vegetation index in the same way, and of the plant (connected pixels of an index above `cut`) that holds
    the pixel: area, length, width, share of its hull, roundness, thickness; and the vegetation around.
    """
    planes = [bands[k].astype(np.float32) for k in BANDS[which]]
    if which == "both":
        planes.append(100 * vegetation(bands))
    found = []
    for plane in planes:
        found.append(plane)
        for sigma in SIGMAS:
            mean = cv2.GaussianBlur(plane, (0, 0), sigma)
            found += [mean, np.sqrt(np.maximum(cv2.GaussianBlur(plane * plane, (0, 0), sigma) - mean * mean, 0))]
    if which == "both":
        found += _plants((vegetation(bands) > cut).astype(np.uint8))
    return np.stack(found, -1)                            # (H, W, F)


def _plants(leaves: np.ndarray) -> list[np.ndarray]:
    """Planes (H, W) that tell the shape of the plant at each pixel, 0 off plants; `leaves` is uint8 of 0 and 1."""
    n, index, stats, _ = cv2.connectedComponentsWithStats(leaves, connectivity=8)
    depth = cv2.distanceTransform(leaves, cv2.DIST_L2, 3)
    table = np.zeros((n, 6), np.float32)
    for k in range(1, n):
        x, y, w, h, area = stats[k]
        own = (index[y:y + h, x:x + w] == k).astype(np.uint8)
        outline = max(cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        long, short = sorted(cv2.minAreaRect(outline)[1], reverse=True)
        hull = cv2.contourArea(cv2.convexHull(outline))
        table[k] = (np.log(area), long + 1, short + 1, area / (hull + len(outline) / 2 + 1),
                    4 * np.pi * area / max(len(outline), 1) ** 2, (depth[y:y + h, x:x + w] * own).max())
    around = [cv2.GaussianBlur(leaves.astype(np.float32), (0, 0), sigma) for sigma in (8, 24, 48)]
    return [*np.moveaxis(table[index], -1, 0), depth, *around]


def forest(parts: Parts, which: str, cut: float, seed: int = 0) -> tuple[np.ndarray, dict]:
    """A random forest on pixels, as many of each class in training; how far its probabilities are turned back to the
    true shares of the classes is chosen on the held-out pictures. Returns as `threshold`."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for bands, label in zip(parts.train.bands, parts.train.label, strict=True):
        known, flat = features(bands, which, cut).reshape(label.size, -1), label.reshape(-1)
        for c in range(K):
            own = np.flatnonzero(flat == c)
            own = rng.choice(own, min(PIXELS, own.size), replace=False)
            rows.append(known[own])
            labels.append(flat[own])
    model = RandomForestClassifier(60, max_depth=16, min_samples_leaf=4, class_weight="balanced", random_state=seed,
                                   n_jobs=1).fit(np.concatenate(rows), np.concatenate(labels))
    share = np.bincount(parts.train.label.reshape(-1), minlength=K) / parts.train.label.size

    def probable(some: Fields) -> np.ndarray:             # (m, H, W, K)
        return np.stack([model.predict_proba(features(bands, which, cut).reshape(-1, model.n_features_in_))
                         .reshape(*some.label.shape[1:], K) for bands in runs.progress(some.bands, f"forest, {which}")])

    held = probable(parts.held)
    tried = {power: _miou(parts.held.label, (held * share ** power).argmax(-1)) for power in PRIORS}
    best = max(tried, key=tried.get)
    return (probable(parts.test) * share ** best).argmax(-1).astype(np.uint8), dict(prior=best, held=tried[best])


class UNet(nn.Module):
    """Down and up again with a bridge at each scale (Ronneberger, Fischer and Brox 2015, MICCAI), of few channels.

    A batch of visible (B, 3, H, W), red three times, and infrared (B, 1, H, W) in [0, 1] becomes logits (B, K, H, W),
    of any size. which: a name of BANDS. mean, spread: of both bands in training, each of 2 numbers.
    """

    def __init__(self, which: str, mean: Sequence[float] = (0.5, 0.5), spread: Sequence[float] = (0.25, 0.25)):
        super().__init__()
        self.which = list(BANDS[which])
        for name, values in (("mean", mean), ("spread", spread)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[self.which][:, None, None])
        inputs = (len(self.which), *WIDTHS)
        self.down = nn.ModuleList(_double(a, b) for a, b in zip(inputs, WIDTHS, strict=False))
        self.up = nn.ModuleList(_double(a + b, a) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.head = nn.Conv2d(WIDTHS[0], K, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = torch.cat([batch["visible"][:, :1], batch["infrared"]], 1)[:, self.which]
        x = (x - self.mean) / self.spread
        size, step = x.shape[-2:], 1 << (len(WIDTHS) - 1)
        x = F.pad(x, (0, -size[1] % step, 0, -size[0] % step), mode="replicate")       # (B, bands, h, w)
        bridges = []
        for k, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if k else x)
            bridges.append(x)
        for k in reversed(range(len(self.up))):
            x = self.up[k](torch.cat([bridges[k], F.interpolate(x, scale_factor=2, mode="nearest")], 1))
        return {"logits": self.head(x)[..., :size[0], :size[1]]}


def _double(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(*(layer for first in (a, b) for layer in
                           (nn.Conv2d(first, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))))


@torch.no_grad()
def predicted(model: nn.Module, some: Fields) -> np.ndarray:
    """Classes uint8 (m, H, W) of whole pictures, one at a time."""
    device = next(model.parameters()).device
    bands = torch.from_numpy(some.bands)
    made = [model({"visible": one[:, :1].float().to(device) / 255, "infrared": one[:, 1:].float().to(device) / 255})
            for one in bands.split(1)]
    return torch.cat([one["logits"].argmax(1) for one in made]).to(torch.uint8).cpu().numpy()


def unet(parts: Parts, which: str, seed: int = 0, recipe: Recipe = RECIPE, rounds: int = ROUNDS
         ) -> tuple[np.ndarray, dict]:
    """A small U-Net on random crops, cross-entropy with weights of 1 / sqrt(share of the class); the epoch of the best
    mIoU on the held-out pictures counts. Returns as `threshold`."""
    runs.seed_everything(seed)
    bands = parts.train.bands / np.float32(255)
    model = UNet(which, bands.mean((0, 2, 3)).tolist(), bands.std((0, 2, 3)).tolist())
    model = model.to(memory_format=torch.channels_last)   # a third faster on a CPU
    share = np.bincount(parts.train.label.reshape(-1), minlength=K) / parts.train.label.size
    weight = torch.tensor(share ** -0.5 / np.mean(share ** -0.5), dtype=torch.float32)
    whole = torch.from_numpy(parts.train.bands)
    views = Views(whole[:, :1].expand(-1, 3, -1, -1), whole[:, 1:], torch.from_numpy(parts.train.label),
                  Joint((CROP, CROP), scales=(0.75, 1.0, 1.25)), seed, rounds)

    def criterion(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = outputs["logits"]
        return {"loss": F.cross_entropy(logits.float(), batch["label"], weight.to(logits), ignore_index=255)}

    result = fit(model, views, criterion, recipe, label=f"U-Net, {which}",
                 score=lambda trained: _miou(parts.held.label, predicted(trained, parts.held)))
    return predicted(model, parts.test), dict(held=result.best_score, epoch=result.best_epoch,
                                              parameters=parameters(model))


def sets(parts: Parts, seed: int = 0) -> segmenting.Sets:
    """The same pictures as CMFS takes them, red three times as the visible one; the training pictures cut into windows
    as `segmenting.cwfid` does."""
    def columns(some: Fields) -> dict[str, Tensor]:
        bands = torch.from_numpy(some.bands)
        return dict(visible=bands[:, :1].expand(-1, 3, -1, -1), infrared=bands[:, 1:],
                    label=torch.from_numpy(some.label))

    train = segmenting.cut(columns(parts.train), segmenting.FIELD_WINDOWS, segmenting.FIELD_WINDOW, seed)
    return segmenting.Sets("cwfid", train, columns(parts.held), columns(parts.test), segmenting.prompts(CLASSES),
                           segmenting.FIELD_CROP, parts.test.names)


def cmfs(parts: Parts, seed: int = 0) -> tuple[np.ndarray, dict]:
    """CMFS `small` on both bands, its encoders begun with those of simulated streets; the epoch of the best mIoU of
    crop and weed on the held-out pictures counts. Returns as `threshold`, with the seconds of training."""
    some = sets(parts, seed)
    model, record = segmenting.trained("CMFS", some, seed, segmenting.FIELDS)
    held, made = (segmenting.labelled(model, one)["label"].numpy() for one in (some.held, some.test))
    return made, dict(held=_miou(parts.held.label, held), epoch=record["best_epoch"], parameters=record["parameters"],
                      seconds=record["seconds"])


def judged(system: str, which: str, parts: Parts, seed: int = 0, recipe: Recipe = RECIPE, rounds: int = ROUNDS) -> dict:
    """One system on the test pictures, computed once for the same pictures, seed, recipe and code: predicted uint8
    (m, H, W), counts (m, K, K), chosen (what the held-out pictures decided) and seconds.

    system: NDVI threshold or CMFS (of both bands only), random forest or U-Net; recipe and rounds are the U-Net's.
    Raises ValueError for others.
    """
    known = ("NDVI threshold", "random forest", "U-Net", "CMFS")
    if system not in known or which not in BANDS or (system == "CMFS" and which != "both"):
        raise ValueError(f"no {system!r} on {which!r}; expected NDVI threshold, random forest or U-Net on "
                         f"{', '.join(BANDS)}, or CMFS on both")

    def compute() -> dict:
        began = time.perf_counter()
        made, chosen = threshold(parts)
        if system == "random forest":
            made, chosen = forest(parts, which, chosen["threshold"], seed)
        elif system == "U-Net":
            made, chosen = unet(parts, which, seed, recipe, rounds)
        elif system == "CMFS":
            made, chosen = cmfs(parts, seed)
        return dict(predicted=made, counts=counted(parts.test.label, made), chosen=chosen,
                    seconds=chosen.pop("seconds", time.perf_counter() - began))

    inputs = {name: [some.bands, some.label] for name, some in vars(parts).items()}
    own = {"U-Net": dict(recipe=asdict(recipe), rounds=rounds), "CMFS": dict(recipe=asdict(segmenting.FIELDS))}
    return runs.cached("fields", compute, inputs=inputs, parameters=dict(
        system=system, which=which, seed=seed, **own.get(system, {})))


SYSTEMS = (("NDVI threshold", "both"), *((system, which) for system in ("random forest", "U-Net") for which in BANDS),
           ("CMFS", "both"))


def table(parts: Parts, systems=SYSTEMS, seed: int = 0, recipe: Recipe = RECIPE, rounds: int = ROUNDS) -> pd.DataFrame:
    """A row a system and choice of bands: system, bands, soil, crop, weed (intersection over union), miou with low and
    high (95 % over test pictures), accuracy, held (mIoU on the held-out pictures), seconds; with CMFS among the systems
    also difference (of mIoU, CMFS minus the row's) with difference_low, difference_high and p, over test pictures."""
    kept = {(system, which): judged(system, which, parts, seed, recipe, rounds) for system, which in systems}
    ours, rows = kept.get(("CMFS", "both")), []
    for (system, which), record in kept.items():
        found, mean = scores(record["counts"].sum(0)), miou_interval(record["counts"])
        gap = miou_difference(ours["counts"], record["counts"]) if ours else None
        rows.append(dict(system=system, bands=which, **dict(zip(CLASSES, found["iou"].tolist(), strict=True)),
                         miou=mean.estimate, low=mean.low, high=mean.high, accuracy=found["accuracy"],
                         held=record["chosen"]["held"], seconds=record["seconds"],
                         **({} if gap is None else dict(difference=gap.estimate, difference_low=gap.low,
                                                        difference_high=gap.high, p=gap.p))))
    return pd.DataFrame(rows)
