"""CMFS `small` on simulated streets and on fields: its arms, their training and judging, and noise in either picture.

All arms learn from the same windows of labelled scenes, drawn so that rare classes are seen, with the same loss; the
epoch is that of the best mean IoU over the foreground of validation scenes. They are judged on scenes of other places:
counts of pixels of each picture, measures of the fused picture, and what share of the tokens each expert saw.

Axes: n pictures, H, W rows and columns, K classes, P = K - 1 prompts, D text width, E experts, M expert blocks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cmf import runs, sources
from cmf.blocks.experts import load as shares
from cmf.datasets import segmentation
from cmf.datasets.augment import Joint, Views
from cmf.encoders.clip import CLIP
from cmf.methods import cmfs
from cmf.methods.cmfs import CMFS
from cmf.metrics import fusion
from cmf.metrics.intervals import bootstrap_interval
from cmf.metrics.segmentation import confusion, miou_difference, miou_interval, scores
from cmf.segmentation_losses import PUBLISHED, Weights, criterion
from cmf.simulate.street import Dials
from cmf.studies.segmenting_start import START, begin, fits
from cmf.training import Recipe, Result, fit, parameters

SCENES = dict(train=480, validation=24, test=64)
SIZE, WINDOW, CROP = (192, 256), (112, 112), (96, 96)    # of scenes, of windows of them, of what the network sees
WINDOWS, ROUNDS = 800, 1                                 # windows to learn from; views of each
CROWD = 4.0                                              # factor on the number of people and things in a scene
SCALES = (0.85, 1.0, 1.2)
BALANCE = 1.0                                            # of the experts' balance loss
RARE = 0.25                                              # power of a class's share that weighs it down in the loss
CLASSED = 0.75                                           # share of the windows that are drawn about a class
RECIPE = Recipe(epochs=3, batch=4, lr=2e-3, weight_decay=0.01, warmup=0.1, ema=0.98)
FIELDS = Recipe(epochs=8, batch=4, lr=2e-3, weight_decay=0.01, warmup=0.1, ema=0.98)
FIELD_WINDOWS, FIELD_WINDOW, FIELD_CROP = 480, (224, 224), (128, 128)
MEASURES = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "Nabf", "SSIM")
FUSED = 12                                               # test pictures whose fused picture is measured
NOISE = (0.0, 0.05, 0.1, 0.2)                            # spread of added noise, white is 1
GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Arm:
    """What sets an arm apart: changes of the configuration and of the weights of the loss, and where it starts."""

    config: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)
    start: bool = True                                                # encoders as of `segmenting_start`, or random


ARMS: dict[str, Arm] = {
    "CMFS": Arm(),
    "visible only": Arm(dict(use="visible"), dict(fusion=0.0)),       # nothing to fuse
    "infrared only": Arm(dict(use="infrared"), dict(fusion=0.0)),
    "early concatenation": Arm(dict(use="early")),
    "without text": Arm(dict(text=False)),
    "without region interaction": Arm(dict(region=False)),
    "without wavelet": Arm(dict(wavelet=False)),
    "without Fourier": Arm(dict(fourier=False)),
    "without scan": Arm(dict(scan=False)),
    "without experts": Arm(dict(experts=False)),
    "from random encoders": Arm(start=False),
    "published": Arm(dict(published=cmfs.PUBLISHED, per="image"), PUBLISHED),
}
MAIN = tuple(ARMS)[:4]


@dataclass(frozen=True)
class Sets:
    """What the arms share. Columns are uint8: visible (n, 3, H, W), infrared (n, 1, H, W), label (n, H, W)."""

    name: str | tuple[str, ...]     # of the classes, in `cmf.datasets.segmentation.CLASSES`; or their names
    train: dict[str, Tensor]        # windows
    held: dict[str, Tensor]         # whole pictures to choose the epoch by
    test: dict[str, Tensor]
    text: Tensor                    # (P, D): prompts of the classes but the background
    crop: tuple[int, int] = CROP
    ids: tuple[str, ...] = ()       # of the test pictures

    @property
    def classes(self) -> tuple[str, ...]:
        return segmentation.CLASSES[self.name] if isinstance(self.name, str) else self.name


def prompts(classes: Sequence[str], encoder=None) -> Tensor:
    """Embeddings (P, D) of "the photo of {label}" for every class but the first, the background, by a CLIP.

    encoder: default the project's small one, whose vocabulary is small: words of MFNet's and CWFID's classes such as
    guardrail or weed are unknown to it and read letter by letter; see `spelled`.
    """
    encoder = encoder or CLIP("small", device="cpu", precision="float32")
    return encoder.texts([f"the photo of {label}" for label in classes[1:]]).pooled


def spelled(classes: Sequence[str], encoder) -> list[str]:
    """The classes but the background with a word that the encoder's vocabulary lacks, so that it is read in pieces."""
    return [label for label in classes[1:] if any(len(encoder.tokenizer.tokenize(word)) > 1 for word in label.split())]


def sets(seed: int = 0, train: int = SCENES["train"], validation: int = SCENES["validation"],
         test: int = SCENES["test"], size: tuple[int, int] = SIZE, windows: int = WINDOWS,
         window: tuple[int, int] = WINDOW, crop: tuple[int, int] = CROP, encoder=None) -> Sets:
    """Simulated street scenes of the three splits, each of places of its own; the training scenes cut into windows."""
    counts, facts = dict(train=train, validation=validation, test=test), dict(seed=seed, size=list(size))

    def compute() -> dict:
        made = {split: street(n, split, seed, size) for split, n in counts.items()}
        columns = {split: segmentation.columns(*(some[k] for k in ("visible", "infrared", "label")))
                   for split, some in made.items()}
        columns["train"] = cut(columns["train"], windows, window, seed)
        ids = dict(ids=list(made["test"]["ids"]))
        return ids | {f"{split}/{k}": column for split, some in columns.items() for k, column in some.items()}

    found = runs.cached("street_scenes", compute, code=[segmentation.street], parameters=counts | facts | dict(
        windows=windows, window=list(window), crowd=CROWD))
    part = lambda split: {k: found[f"{split}/{k}"] for k in ("visible", "infrared", "label")}
    return Sets("street", part("train"), part("validation"), part("test"),
                prompts(segmentation.CLASSES["street"], encoder), tuple(crop), tuple(found["ids"]))


def street(n: int, split: str, seed: int, size: tuple[int, int] = SIZE) -> dict:
    """`cmf.datasets.segmentation.street` with CROWD times the people and things, so that few steps see enough of them.
    """
    return segmentation.street(n, split, seed, size, Dials(crowd=CROWD))


def cwfid(root=None, seed: int = 1, windows: int = FIELD_WINDOWS, window: tuple[int, int] = FIELD_WINDOW,
          crop: tuple[int, int] = FIELD_CROP, encoder=None) -> Sets:
    """CWFID: windows of 32 of its training pictures, the other 8 to choose the epoch by, its 10 test pictures.

    Raises FileNotFoundError where the set is not here, see `cmf.datasets.segmentation.layout`.
    """
    kept, held = segmentation.divide(segmentation.layout("cwfid", root, "train"))
    test = segmentation.layout("cwfid", root, "test")
    return Sets("cwfid", cut(segmentation.tensors(kept), windows, window, seed), segmentation.tensors(held),
                segmentation.tensors(test), prompts(segmentation.CLASSES["cwfid"], encoder), tuple(crop),
                tuple(one.stem for one in test))


def cut(columns: dict, n: int, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """n windows of `size` (h, w) of labelled pictures, as columns.

    A share CLASSED of them lies about a random pixel of a class that is drawn evenly of those but the background, so
    that small and rare things are seen; the others lie anywhere.

    Args:
        columns: visible (m, 3, H, W), infrared (m, 1, H, W), label (m, H, W), uint8; or lists of such pictures.

    Raises:
        ValueError: a picture smaller than a window.
    """
    labels = [label.numpy() for label in columns["label"]]
    small = [k for k, label in enumerate(labels) if label.shape[0] < size[0] or label.shape[1] < size[1]]
    if small:
        raise ValueError(f"picture {small[0]} has {' x '.join(map(str, labels[small[0]].shape))} rows and columns, "
                         f"less than a window of {size[0]} x {size[1]}; give a smaller one")
    rng = np.random.default_rng((79, seed))
    where = {c: [k for k, label in enumerate(labels) if (label == c).any()]
             for c in range(1, 1 + max(int(label[label < segmentation.IGNORED].max(initial=0)) for label in labels))}
    where = {c: rows for c, rows in where.items() if rows}
    made = {name: [] for name in ("visible", "infrared", "label")}
    for _ in range(n):
        row = int(rng.integers(len(labels)))
        centre = [rng.integers(side) for side in labels[row].shape]
        if where and rng.random() < CLASSED:
            kind = list(where)[int(rng.integers(len(where)))]
            row = where[kind][int(rng.integers(len(where[kind])))]
            places = np.argwhere(labels[row] == kind)
            centre = places[rng.integers(len(places))] + rng.integers(-size[0] // 4, size[0] // 4 + 1, 2)
        top, left = (int(np.clip(c - want // 2, 0, have - want))
                     for c, want, have in zip(centre, size, labels[row].shape, strict=True))
        for name, column in made.items():
            column.append(columns[name][row][..., top:top + size[0], left:left + size[1]])
    return {name: torch.stack(column) for name, column in made.items()}


def frequency(label: Sequence[Tensor], classes: int, power: float = RARE) -> tuple[float, ...]:
    """Weights of the classes in the loss: share of the class ** -power, scaled to mean 1; absent classes as the rarest.
    """
    count = sum(torch.bincount(one[one < classes].long(), minlength=classes) for one in label).double()
    share = count / count.sum()
    weight = share.clamp_min(float(share[share > 0].min())) ** -power
    return tuple((weight / weight.mean()).tolist())


def build(arm: str, some: Sets, seed: int, size=cmfs.small, start=START) -> tuple[CMFS, Weights]:
    """The network of an arm before training and the weights of its loss. size: `cmfs.small` or `cmfs.tiny`. Encoders
    of the shape of those in the file `start` begin with them; others, and with start=None, with random numbers.

    Raises:
        ValueError: no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm {arm!r}; there are {', '.join(ARMS)}")
    runs.seed_everything(seed)
    its, k = ARMS[arm], len(some.classes)
    config = size(k, some.text.shape[1], **dict(prompts=len(some.text)) | its.config)
    weights = dict(classes=frequency(some.train["label"], k), balance=BALANCE) | its.weights
    network = CMFS(config, some.text)
    return begin(network, start) if its.start and start and fits(network, start) else network, Weights(**weights)


def train(network: CMFS, weights: Weights, some: Sets, recipe: Recipe = RECIPE, *, rounds: int = ROUNDS, run=None,
          label: str = "CMFS", scales: Sequence[float] = SCALES) -> Result:
    """Train a network on the windows of `some`; the epoch of the best foreground IoU on its held pictures counts."""
    views = Views(**some.train, joint=Joint(some.crop, scales=scales, brightness=0.1), seed=recipe.seed, rounds=rounds)
    loss, k = criterion(weights), len(some.classes)

    def told(outputs: dict, batch: dict) -> dict[str, Tensor]:
        return loss(outputs, batch | dict(mask=batch["inside"]))

    def score(model: nn.Module) -> float:
        return scores(counted(some.held["label"], labelled(model, some.held)["label"], k).sum(0))["miou_foreground"]

    return fit(network, views, told, recipe, score=score, run=run, label=label)


@torch.no_grad()
def labelled(model: nn.Module, columns: dict, batch: int = 4, noise: dict[str, float] | None = None) -> dict:
    """What a network in eval mode says of whole pictures: label uint8 (n, H, W), fused uint8 (n, 3, H, W), load (M, E).

    columns: as of `Sets`, of one size or lists of pictures. noise: spread of Gaussian noise, white is 1, added to
    "visible" and "infrared"; infinite: the picture is black. Where sizes differ, label and fused are lists.
    """
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(0)
    even = isinstance(columns["label"], Tensor)
    made, fused, routed = [], [], []
    for k in range(0, len(columns["label"]), batch if even else 1):
        part = {name: (columns[name][k:k + batch] if even else columns[name][k][None]).float() / 255
                for name in ("visible", "infrared")}
        for name, spread in (noise or {}).items():
            x = part[name]
            added = torch.randn(x.shape, generator=generator) * (0 if np.isinf(spread) else spread)
            part[name] = x * 0 if np.isinf(spread) else (x + added).clamp(0, 1)
        out = model({name: x.to(device) for name, x in part.items()})
        made.append(out["logits"].argmax(1).to(torch.uint8).cpu())
        fused.append((out["fused"].float() * 255).round().to(torch.uint8).cpu())
        routed.append([r._replace(chosen=r.chosen.cpu(), probabilities=r.chosen.cpu()) for r in out["routing"]])
    load = np.stack([shares(*block).numpy() for block in zip(*routed, strict=True)])                     # (M, E)
    if even:
        return dict(label=torch.cat(made), fused=torch.cat(fused), load=load)
    return dict(label=[x[0] for x in made], fused=[x[0] for x in fused], load=load)


def counted(truth, predicted, classes: int) -> np.ndarray:
    """Counts of each picture, int64 (n, K, K), rows the truth."""
    return np.stack([confusion(np.asarray(t), np.asarray(p), classes) for t, p in zip(truth, predicted, strict=True)])


def luma(picture) -> np.ndarray:
    """Grey levels (H, W) float32 of a colour picture (3, H, W), whole numbers."""
    return np.rint(np.einsum("c,chw->hw", GREY, np.asarray(picture, np.float32)))


def measured(fused: Sequence, columns: dict, n: int = FUSED) -> pd.DataFrame:
    """MEASURES of the first n fused pictures (3, H, W), or (H, W), in grey levels: a row a picture."""
    rows = []
    for k in range(min(n, len(fused))):
        made = np.asarray(fused[k], np.float32)
        made = np.rint(made) if made.ndim == 2 else luma(made)
        infrared = np.asarray(columns["infrared"][k][0], np.float32)
        rows.append(dict(picture=k) | fusion.evaluate(infrared, luma(columns["visible"][k]), made, 255, MEASURES))
    return pd.DataFrame(rows)


def trained(arm: str, some: Sets, seed: int, recipe: Recipe = RECIPE, rounds: int = ROUNDS) -> tuple[CMFS, dict]:
    """An arm, trained once for the same scenes, seed, recipe and code, and then read from the cache.

    Returns the model in eval mode and a record: history, best_epoch, held (score of that epoch), seconds, parameters,
    counts (n, K, K) of the test pictures, load (M, E) on them, fused (table of `measured`; empty for one modality).
    """
    def compute() -> dict:
        model, weights = build(arm, some, seed)
        result = train(model, weights, some, replace(recipe, seed=seed), rounds=rounds, label=f"{arm}, seed {seed}")
        state = {f"state/{name}": value for name, value in model.state_dict().items()}
        said = labelled(model, some.test)
        both = model.config.use in ("both", "early")
        return dict(history=result.history.drop(columns="seconds"), best_epoch=result.best_epoch,
                    held=result.best_score, seconds=result.seconds, parameters=parameters(model), load=said["load"],
                    counts=counted(some.test["label"], said["label"], len(some.classes)),
                    fused=measured(said["fused"], some.test, FUSED if both else 0)) | state

    inputs = dict(train=some.train, held=some.held, test=some.test, text=some.text)
    record = runs.cached("cmfs_arm", compute, inputs=inputs, parameters=dict(
        arm=arm, what=str(ARMS.get(arm)), seed=seed, recipe=asdict(recipe), rounds=rounds, crop=list(some.crop),
        name=some.name, start=sources.sha256(START)))
    model, _ = build(arm, some, seed)
    model.load_state_dict({name.removeprefix("state/"): torch.as_tensor(record.pop(name))
                           for name in list(record) if name.startswith("state/")})
    return model.eval(), record


def arms(names: Sequence[str], some: Sets, seeds: Sequence[int], recipe: Recipe = RECIPE,
         rounds: int = ROUNDS) -> pd.DataFrame:
    """A row an arm and seed: arm, seed, epoch, held, seconds, parameters, miou, miou_foreground, accuracy,
    iou_<class>, least_load (the least share of an expert, over blocks), and the means of MEASURES."""
    rows = []
    for arm, seed in runs.progress([(a, s) for s in seeds for a in names], "arms"):
        record = trained(arm, some, seed, recipe, rounds)[1]
        found = scores(record["counts"].sum(0))
        each = {f"iou_{label}": value for label, value in zip(some.classes, found.pop("iou").tolist(), strict=True)}
        drawn = record["fused"].drop(columns="picture").mean().to_dict() if len(record["fused"]) else {}
        rows.append(dict(arm=arm, seed=seed, epoch=record["best_epoch"], held=record["held"],
                         seconds=record["seconds"], parameters=record["parameters"],
                         **{k: found[k] for k in ("miou", "miou_foreground", "accuracy")}, **each,
                         least_load=float(record["load"].min()), **drawn))
    return pd.DataFrame(rows)


def compare(names: Sequence[str], some: Sets, seeds: Sequence[int], to: str = "CMFS", foreground: bool = False,
            recipe: Recipe = RECIPE, rounds: int = ROUNDS) -> pd.DataFrame:
    """mIoU of arms over test pictures and seeds, and the paired difference `to` minus each.

    The counts of a picture are added over the seeds, so that intervals (95 %) are over pictures for the mean of
    seeds. Columns: arm, miou, low, high, difference, difference_low, difference_high, p, seeds_low, seeds_high (the
    least and largest difference of a seed).
    """
    counts = {arm: [trained(arm, some, seed, recipe, rounds)[1]["counts"] for seed in seeds]
              for arm in dict.fromkeys([to, *names])}
    mean = lambda one: scores(one.sum(0))["miou_foreground" if foreground else "miou"]
    rows = []
    for arm in names:
        own, best = sum(counts[arm]), sum(counts[to])
        found, gap = miou_interval(own, foreground), miou_difference(best, own, foreground)
        each = [mean(a) - mean(b) for a, b in zip(counts[to], counts[arm], strict=True)]
        rows.append(dict(arm=arm, miou=found.estimate, low=found.low, high=found.high, difference=gap.estimate,
                         difference_low=gap.low, difference_high=gap.high, p=gap.p, seeds_low=min(each),
                         seeds_high=max(each)))
    return pd.DataFrame(rows)


def by_class(names: Sequence[str], some: Sets, seeds: Sequence[int], recipe: Recipe = RECIPE,
             rounds: int = ROUNDS) -> pd.DataFrame:
    """A row an arm and class: arm, label, iou with low and high (95 % over test pictures, counts added over seeds), and
    pixels of the class in the truth of the test pictures."""
    rows = []
    for arm in names:
        counts = sum(trained(arm, some, seed, recipe, rounds)[1]["counts"] for seed in seeds)            # (n, K, K)
        for k, label in enumerate(some.classes):
            one = np.stack([counts[:, k, k], counts[:, k].sum(1) + counts[:, :, k].sum(1) - counts[:, k, k]], 1)
            found = bootstrap_interval(one, lambda drawn: float(drawn[:, 0].sum() / max(1, drawn[:, 1].sum())))
            rows.append(dict(arm=arm, label=label, iou=found.estimate, low=found.low, high=found.high,
                             pixels=int(counts[:, k].sum()) // len(seeds)))
    return pd.DataFrame(rows)


def noisy(names: Sequence[str], some: Sets, seeds: Sequence[int], levels: Sequence[float] = NOISE, n: int = 24,
          recipe: Recipe = RECIPE, rounds: int = ROUNDS) -> pd.DataFrame:
    """mIoU on the first n test pictures with noise in one of the two, a row an arm, seed, picture and level.

    Columns: arm, seed, noise_in, level, miou, miou_foreground. levels: spread of the noise, white is 1; an infinite one
    stands for a picture that is missing, all black.
    """
    columns, rows = {name: column[:n] for name, column in some.test.items()}, []
    for arm, seed in runs.progress([(a, s) for a in names for s in seeds], "noise"):
        model = trained(arm, some, seed, recipe, rounds)[0]
        for band in ("visible", "infrared"):
            for level in levels:
                said = labelled(model, columns, noise={band: level})["label"]
                found = scores(counted(columns["label"], said, len(some.classes)).sum(0))
                rows.append(dict(arm=arm, seed=seed, noise_in=band, level=level, miou=found["miou"],
                                 miou_foreground=found["miou_foreground"]))
    return pd.DataFrame(rows)
