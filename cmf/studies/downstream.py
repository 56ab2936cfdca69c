"""What fused pictures are worth to another network: the same small U-Net learns to label them, one method at a time.

Each method turns the scenes into grey pictures: the sources alone, fusion without learning, and the ready weights of
CMI-Fusion and of CMFS. A U-Net of its own is trained on the pictures of each, on the same windows, and judged on
scenes of other places.

Axes: n scenes, H, W rows and columns, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf import runs, sources
from cmf.datasets import segmentation
from cmf.datasets.augment import Joint, Views
from cmf.metrics.segmentation import miou_difference, miou_interval, scores
from cmf.studies import fields, fusing, segmenter, segmenting
from cmf.studies.classical import CLASSICAL
from cmf.studies.segmenting import counted, frequency, luma, measured
from cmf.training import Recipe, fit

SCENES = dict(train=160, validation=24, test=64)
WINDOWS, ROUNDS = 480, 2
RECIPE = Recipe(epochs=8, batch=8, lr=3e-3, weight_decay=0.01, warmup=0.1)
SPLITS = ("train", "validation", "test")
CLASSES = segmentation.CLASSES["street"]
K = len(CLASSES)

Method = Callable[[Tensor, Tensor], np.ndarray]        # uint8 (3, H, W) and (1, H, W) -> float (H, W) in [0, 1]


@dataclass(frozen=True)
class Scenes:
    """One split: visible uint8 (n, 3, H, W), infrared (n, 1, H, W), label (n, H, W)."""

    columns: dict[str, Tensor]

    def told(self, grey: np.ndarray) -> dict[str, Tensor]:
        """The same columns with grey pictures uint8 (n, H, W) in place of the visible and the infrared ones."""
        one = torch.from_numpy(grey)[:, None]
        return dict(visible=one.expand(-1, 3, -1, -1), infrared=one, label=self.columns["label"])


def scenes(seed: int = 0, train: int = SCENES["train"], validation: int = SCENES["validation"],
           test: int = SCENES["test"], size: tuple[int, int] = segmenting.SIZE) -> dict[str, Scenes]:
    """Simulated street scenes of the three splits, each of places of its own; those of `segmenting.sets` come first."""
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))

    def compute() -> dict:
        made = {split: segmenting.street(n, split, seed, size) for split, n in counts.items()}
        return {f"{split}/{name}": column for split, some in made.items() for name, column in segmentation.columns(
            *(some[k] for k in ("visible", "infrared", "label"))).items()}

    found = runs.cached("downstream_scenes", compute, code=[segmentation.street],
                        parameters=counts | dict(seed=seed, size=list(size), crowd=segmenting.CROWD))
    return {split: Scenes({name: found[f"{split}/{name}"] for name in ("visible", "infrared", "label")})
            for split in SPLITS}


def methods(fuser=None, cmfs=None) -> dict[str, Method]:
    """The methods by name. fuser: a `cmf.studies.fusing.Fuser`; cmfs: a `cmf.studies.segmenter.Segmenter`; default the
    project's ready weights. CMFS's were trained to label such scenes too, and its colours are dropped here."""
    fuser, cmfs = fuser or fusing.Fuser.load(), cmfs or segmenter.Segmenter.load()
    unit = lambda x: luma(x) / np.float32(255)
    grey = lambda x: np.asarray(x[0], np.float32) / 255
    classical = {name: lambda v, u, function=function: function(unit(v), grey(u))
                 for name, function in CLASSICAL.items()}
    colours = lambda v: np.moveaxis(np.asarray(v), 0, 2)
    return {"visible": lambda v, u: unit(v), "infrared": lambda v, u: grey(u), **classical,
            "CMI-Fusion": lambda v, u: fuser.fuse(colours(v), np.asarray(u[0])).luma,
            "CMFS": lambda v, u: cmfs.segment(colours(v), np.asarray(u[0])).fused @ segmenting.GREY}


def ready() -> list[str]:
    """Hashes of the ready weights that the methods use."""
    return [sources.sha256(path) for path in (fusing.TRAINED, segmenter.TRAINED)]


def pictures(name: str, some: dict[str, Scenes], method: Method, weights: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The grey pictures uint8 (n, H, W) of each split that a method makes; made once for the same scenes and weights.
    """
    def compute() -> dict:
        made = {}
        for split, one in some.items():
            both = zip(one.columns["visible"], one.columns["infrared"], strict=True)
            n = len(one.columns["label"])
            made[split] = np.stack([np.rint(np.clip(method(v, u), 0, 1) * 255).astype(np.uint8)
                                    for v, u in runs.progress(both, f"{name}, {split}", n)])
        return made

    return runs.cached("downstream_pictures", compute, parameters=dict(name=name, weights=list(weights)),
                       inputs={split: one.columns for split, one in some.items()},
                       code=[fusing.Fuser, segmenter.Segmenter])


class Net(fields.UNet):
    """`fields.UNet` on one grey picture, for K classes."""

    def __init__(self, mean: float, spread: float):
        super().__init__("red", (mean, mean), (spread, spread))
        self.head = nn.Conv2d(fields.WIDTHS[0], K, 1)


@torch.no_grad()
def predicted(model: nn.Module, columns: dict[str, Tensor]) -> np.ndarray:
    """Classes uint8 (n, H, W) of whole pictures."""
    parts = zip(columns["visible"].split(4), columns["infrared"].split(4), strict=True)
    made = [model(dict(visible=v.float() / 255, infrared=u.float() / 255))["logits"].argmax(1) for v, u in parts]
    return torch.cat(made).to(torch.uint8).numpy()


def learn(some: dict[str, Scenes], grey: dict[str, np.ndarray], seed: int, recipe: Recipe = RECIPE,
          windows: int = WINDOWS, rounds: int = ROUNDS) -> dict:
    """Train the U-Net on windows of a method's pictures; the epoch of the best foreground mIoU on validation counts.

    Returns counts (n, K, K) of the test pictures, held (that score) and seconds.
    """
    runs.seed_everything(seed)
    told = {split: one.told(grey[split]) for split, one in some.items()}
    train = segmenting.cut(told["train"], windows, segmenting.WINDOW, seed)
    whole = grey["train"] / np.float32(255)
    model = Net(float(whole.mean()), float(whole.std()) + 1e-3).to(memory_format=torch.channels_last)
    weight = torch.tensor(frequency(train["label"], K), dtype=torch.float32)
    views = Views(**train, joint=Joint(segmenting.CROP, scales=segmenting.SCALES), seed=seed, rounds=rounds)

    def criterion(outputs: dict, batch: dict) -> dict[str, Tensor]:
        return dict(loss=F.cross_entropy(outputs["logits"].float(), batch["label"], weight, ignore_index=255))

    def score(trained: nn.Module) -> float:
        held = told["validation"]
        return scores(counted(held["label"], predicted(trained, held), K).sum(0))["miou_foreground"]

    result = fit(model, views, criterion, replace(recipe, seed=seed), score=score, label="U-Net")
    counts = counted(told["test"]["label"], predicted(model, told["test"]), K)
    return dict(counts=counts, held=result.best_score, seconds=result.seconds)


def judged(name: str, some: dict[str, Scenes], grey: dict[str, np.ndarray], seed: int, recipe: Recipe = RECIPE,
           windows: int = WINDOWS, rounds: int = ROUNDS) -> dict:
    """`learn`, once for the same pictures, seed, recipe and code."""
    inputs = dict(grey=grey, label={split: one.columns["label"] for split, one in some.items()})
    return runs.cached("downstream", lambda: learn(some, grey, seed, recipe, windows, rounds), inputs=inputs,
                       code=[learn], parameters=dict(name=name, seed=seed, recipe=asdict(recipe), windows=windows,
                                                     rounds=rounds))


def table(some: dict[str, Scenes], seeds: Sequence[int], made: dict[str, dict[str, np.ndarray]] | None = None,
          recipe: Recipe = RECIPE, windows: int = WINDOWS, rounds: int = ROUNDS) -> pd.DataFrame:
    """A row a method: method, miou and miou_foreground with low and high, difference (of mIoU, CMFS's pictures minus
    these) with low, high and p, seeds_low and seeds_high (least and largest mIoU of a seed), iou_<class>.

    Counts of a picture are added over the seeds; intervals (95 %) are over test pictures. made: pictures of each split
    by method; default those of `methods`.
    """
    if made is None:
        made = {name: pictures(name, some, method, ready()) for name, method in methods().items()}
    each = {name: [judged(name, some, grey, seed, recipe, windows, rounds)["counts"] for seed in seeds]
            for name, grey in made.items()}
    whole, rows = {name: sum(counts) for name, counts in each.items()}, []
    for name, counts in whole.items():
        mean, front = miou_interval(counts), miou_interval(counts, True)
        alone = [scores(one.sum(0))["miou"] for one in each[name]]
        gap = miou_difference(whole["CMFS"], counts) if "CMFS" in whole else None
        rows.append(dict(
            method=name, miou=mean.estimate, low=mean.low, high=mean.high, miou_foreground=front.estimate,
            foreground_low=front.low, foreground_high=front.high, seeds_low=min(alone), seeds_high=max(alone),
            **({} if gap is None else dict(difference=gap.estimate, difference_low=gap.low, difference_high=gap.high,
                                           p=gap.p)),
            **{f"iou_{label}": value for label, value in zip(CLASSES, scores(counts.sum(0))["iou"], strict=True)}))
    return pd.DataFrame(rows)


def ranked(some: dict[str, Scenes], made: dict[str, dict[str, np.ndarray]], n: int = 24) -> pd.DataFrame:
    """Measures of the first n test pictures: a row a method, means of `segmenting.MEASURES`, and mean_rank, the mean
    over measures of its rank among the methods (1 is best; Nabf is better small)."""
    frame = pd.DataFrame({name: measured(list(grey["test"]), some["test"].columns, n).drop(columns="picture").mean()
                          for name, grey in made.items()}).T
    better = frame.assign(Nabf=-frame["Nabf"])
    return frame.assign(mean_rank=better.rank(ascending=False).mean(axis=1)).rename_axis("method").reset_index()
