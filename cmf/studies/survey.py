"""SA-CMF on labelled survey alerts: two protocols, the arms, and the baselines on the same features.

Axes: n objects, K classes, k columns of a feature group; a token is a group.

Protocols, never mixed: "five-fold", stratified by object, and "leave one source out", which holds out every folder
the alerts came from in turn. Probabilities are collected out of fold; measures are computed once over all objects.
The recipe is for some two hundred objects: whole-batch steps, strong noise, mixing of training rows, the mean of
several networks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from cmf import processes, runs
from cmf.baselines import average, cross_validate, stratified_folds
from cmf.copula import mutual_information
from cmf.datasets.survey_features import IMAGE_GROUPS, SEQUENCE_GROUPS, Group, join, survey_features
from cmf.datasets.targets import TargetSet
from cmf.methods import sacmf
from cmf.metrics.intervals import bootstrap_interval
from cmf.metrics.recognition import macro_f1
from cmf.training import Recipe, Tensors, fit

NETWORKS = 3                       # whose log-probabilities are averaged
RECIPE = Recipe(epochs=80, batch=4096, lr=5e-3, weight_decay=0.1, warmup=0.2)
NOISE, MIXING, SMOOTHING = 0.4, 0.4, 0.05
LOST_GROUP, LOST_COLUMN = 0.2, 0.3  # shares of groups and of columns hidden from a training row
LIMIT = 3.0                        # standard deviations beyond which a feature is cut off
PROTOCOLS = ("five-fold", "leave one source out")

_SINGLE = dict(information=False, weighting="uniform", cross=False)

# name: changes of the configuration, weight of the similarity loss, weight of the information loss
ARMS: dict[str, tuple[dict, float, float]] = {
    "image only": (dict(modalities=("image",), **_SINGLE), 0.0, 0.0),
    "sequence only": (dict(modalities=("sequence",), **_SINGLE), 0.0, 0.0),
    "late concatenation": (_SINGLE, 0.0, 0.0),
    "cross-attention": (dict(information=False, weighting="uniform"), 0.0, 0.0),
    "SA-CMF": ({}, 0.05, 0.05),
}


@dataclass(frozen=True)
class Survey:
    """Feature groups of labelled objects, with what the protocols need."""

    groups: dict[str, Group]
    labels: np.ndarray             # (n,) int64
    classes: tuple[str, ...]
    source: np.ndarray             # (n,) folder each object came from

    def without(self, label: str) -> "Survey":
        """The objects of the other classes."""
        gone = self.classes.index(label)
        keep = self.labels != gone
        groups = {name: Group(group.values[keep], group.columns) for name, group in self.groups.items()}
        labels = self.labels[keep]
        return Survey(groups, labels - (labels > gone), tuple(c for c in self.classes if c != label),
                      self.source[keep])


def features(targets: TargetSet) -> Survey:
    """Feature groups of a set read by `read_ztf` (labelled objects with their source folder); cached."""
    def compute() -> dict:
        found = survey_features(targets.images, targets.times, targets.values, targets.observed)
        return {f"{name}/{part}": np.asarray(getattr(group, part)) if part == "values" else list(group.columns)
                for name, group in found.items() for part in ("values", "columns")}

    found = runs.cached("survey_features", compute, inputs=dict(targets=targets.digest()))
    groups = {name: Group(found[f"{name}/values"], tuple(found[f"{name}/columns"]))
              for name in IMAGE_GROUPS + SEQUENCE_GROUPS}
    used = np.unique(targets.labels)
    classes = tuple(targets.classes[k] for k in used)
    return Survey(groups, np.searchsorted(used, targets.labels), classes, np.asarray(targets.groups["origin"]))


def folds(survey: Survey, protocol: str, split: int = 0) -> np.ndarray:
    """What is held out together: fold numbers (n,), or source folders.

    Raises:
        ValueError: no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    return survey.source if protocol == PROTOCOLS[1] else stratified_folds(survey.labels, 5, seed=split)


class Rows(Tensors):
    """Training rows that come noised, with hidden groups and columns, and mixed with a partner."""

    def __init__(self, seed: int, **columns: torch.Tensor):
        super().__init__(**columns)
        self.generator = torch.Generator().manual_seed(seed)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        index = torch.as_tensor(indices)
        rows, draw = self[index], lambda *shape: torch.rand(*shape, generator=self.generator)
        partner = torch.randint(len(self), (len(index),), generator=self.generator)
        share = 1 - MIXING * draw(len(index))                                            # of the row itself
        batch = dict(labels=rows["labels"], partner=self.columns["labels"][partner], share=share)
        for name in set(self.columns) - {"labels"}:
            x = rows[name]                                                               # (n, 1, k)
            x = share[:, None, None] * x + (1 - share)[:, None, None] * self.columns[name][partner]
            x = x + NOISE * torch.randn(x.shape, generator=self.generator)
            kept = (draw(len(x), 1, 1) >= LOST_GROUP) & (draw(*x.shape) >= LOST_COLUMN)
            batch[name] = x * kept / (1 - LOST_COLUMN)
        return batch


def criterion(model: sacmf.SACMF, weights: torch.Tensor, similarity: float, information: float):
    """SA-CMF's loss with mixed, smoothed and weighted labels; `weights` (K,) of the classes."""
    plain = sacmf.criterion(model, similarity, information, consistency=0.0)

    def loss(outputs, batch):
        terms = plain(outputs, batch)
        entropy = lambda labels: F.cross_entropy(outputs["logits"], labels, weights, reduction="none",
                                                 label_smoothing=SMOOTHING)
        share, own, partner = (batch[name][outputs["row"]] for name in ("share", "labels", "partner"))
        mixed = (share * entropy(own) + (1 - share) * entropy(partner)).mean()
        return terms | dict(loss=terms["loss"] - terms["classification"] + mixed, classification=mixed)

    return loss


def tokens(survey: Survey, names: tuple[str, ...], train: np.ndarray) -> dict[str, torch.Tensor]:
    """Groups as tokens (n, 1, k), standardised on the training rows and cut at LIMIT."""
    found = {}
    for name in names:
        x = survey.groups[name].values
        spread = x[train].std(0)
        z = (x - x[train].mean(0)) / np.where(spread > 1e-9, spread, 1.0)
        found[name] = torch.from_numpy(np.clip(z, -LIMIT, LIMIT).astype(np.float32))[:, None]
    return found


def networks(survey: Survey, arm: str, held: np.ndarray, seed: int, drop: tuple[str, ...] = ("counts",)):
    """Train one network on the rows that are not `held` (n,) bool; returns it and the tokens of all rows."""
    image, sequence = (tuple(n for n in names if n not in drop) for names in (IMAGE_GROUPS, SEQUENCE_GROUPS))
    table = tokens(survey, image + sequence, ~held)
    changes, similarity, information = ARMS[arm]
    source = lambda names: tuple((n, 1, table[n].shape[2]) for n in names)
    config = replace(sacmf.Config(len(survey.classes), source(image), source(sequence), width=32, dropout=0.4,
                                  temperature=0.5, refit=4, withheld=0.05), **changes)
    runs.seed_everything(seed)
    labels = torch.from_numpy(survey.labels)
    train = {name: x[torch.from_numpy(~held)] for name, x in table.items()}
    model = sacmf.SACMF(config)
    model.inputs = nn.ModuleDict({name: nn.Identity() for name in train})  # the tokens come standardised
    counts = np.bincount(survey.labels[~held], minlength=len(survey.classes)).clip(1)
    weights = torch.from_numpy((counts.sum() / len(counts) / counts) ** 0.5).float()
    rows = Rows(seed, **train, labels=labels[torch.from_numpy(~held)])
    fit(model, rows, criterion(model, weights, similarity, information), replace(RECIPE, seed=seed),
        label=f"{arm}, network {seed}")
    return model, table


def out_of_fold(survey: Survey, arm: str, protocol: str, split: int = 0,
                drop: tuple[str, ...] = ("counts",)) -> np.ndarray:
    """Probabilities (n, K) of an arm of ARMS or a model of `cmf.baselines`, every object predicted once; cached."""
    compute, facts = _asked(survey, arm, protocol, split, drop)
    return runs.cached("survey_arm", compute, **facts)["p"]


def _asked(survey: Survey, arm: str, protocol: str, split: int, drop: tuple[str, ...]) -> tuple[Callable, dict]:
    """What computes the probabilities of `out_of_fold`, and what they rest on, both as `runs.cached` takes them."""
    held = folds(survey, protocol, split)

    def compute() -> dict:
        if arm not in ARMS:
            values, _ = join(survey.groups, drop=drop)
            return dict(p=cross_validate(values, survey.labels, held, arm))
        found = np.zeros((len(survey.labels), len(survey.classes)))
        for fold in np.unique(held):
            out = held == fold
            logs = []
            for seed in range(NETWORKS):
                model, table = networks(survey, arm, out, seed, drop)
                with torch.no_grad():
                    rows = {name: x[torch.from_numpy(out)] for name, x in table.items()}
                    logs.append(model(rows)["logits"].double().log_softmax(-1).numpy())
            mean = np.exp(np.mean(logs, 0))
            found[out] = mean / mean.sum(1, keepdims=True)
        return dict(p=found)

    inputs = {name: group.values for name, group in survey.groups.items()} | dict(
        labels=survey.labels, source=[str(s) for s in survey.source])
    parameters = dict(arm=arm, change=str(ARMS.get(arm)), protocol=protocol, split=split, drop=list(drop))
    return compute, dict(inputs=inputs, parameters=parameters)


def learn(tasks: list[tuple]) -> None:
    """Compute and cache `out_of_fold(*task)` where it is not cached yet, one process a core: the networks are small.

    tasks: each (survey, arm, protocol, split, drop).
    """
    def waits(task: tuple) -> bool:
        compute, facts = _asked(*task)
        return not runs.is_cached("survey_arm", compute, **facts)

    processes.spread(_learn, [task for task in tasks if waits(task)], "models")


def _learn(task: tuple) -> None:
    out_of_fold(*task)


def table(survey: Survey, splits: int = 2) -> tuple[pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """Macro F1 of every arm and baseline in both protocols, with and without detection counts.

    Columns: protocol, counts, solar_system, model, macro_f1, low, high (bootstrap over objects). Five-fold
    numbers are means over `splits` stratified splits. Also returns the probabilities without counts by (protocol,
    model), of the first split.
    """
    rows, kept = [], {}
    single = ("image only", "sequence only", "late concatenation", "cross-attention")
    variants = [(survey, ("counts",), "without", "with", (*single, "SA-CMF", "logistic", "boosting", "discriminant")),
                (survey, (), "with", "with", ("SA-CMF", "logistic", "boosting", "discriminant")),
                (survey.without("solar_system"), ("counts",), "without", "without", ("SA-CMF", "logistic"))]
    repeats = {PROTOCOLS[0]: splits, PROTOCOLS[1]: 1}
    todo = [(p, *variant) for p in PROTOCOLS for variant in variants]
    tasks = [(data, model, protocol, split, drop) for protocol, data, drop, *_, models in todo for model in models
             for split in range(repeats[protocol])]
    learn(sorted(tasks, key=lambda task: ("SA-CMF", PROTOCOLS[1]) != task[1:3]))  # the longest first
    for protocol, data, drop, counts, solar, models in todo:
        found = {}
        for model in models:
            found[model] = [out_of_fold(data, model, protocol, split, drop) for split in range(repeats[protocol])]
        if "discriminant" in found:
            found["SA-CMF and discriminant"] = [average(a, b) for a, b in zip(
                found["SA-CMF"], found["discriminant"], strict=True)]
        k = len(data.classes)
        for model, several in found.items():
            predicted = np.stack([p.argmax(1) for p in several], -1)                     # (n, splits)
            score = lambda y, q, k=k: np.mean([macro_f1(y, q[:, s], k) for s in range(q.shape[1])])
            estimate = bootstrap_interval((data.labels, predicted), score, n=1000)
            rows.append(dict(protocol=protocol, counts=counts, solar_system=solar, model=model,
                             macro_f1=estimate.estimate, low=estimate.low, high=estimate.high))
            if drop and solar == "with":
                kept[protocol, model] = several[0]
    return pd.DataFrame(rows), kept


def information(survey: Survey) -> pd.DataFrame:
    """Mutual information between each image group and each sequence group, by their first principal components.

    Columns: image, sequence, mi, lower_bound, low, high (nats), rotation (degrees), tie_share, note. Where the
    copula is refused (ties, constants) mi is NaN and the note says why.
    """
    def leading(values: np.ndarray) -> np.ndarray:
        z = np.clip((values - values.mean(0)) / (values.std(0) + 1e-9), -LIMIT, LIMIT)
        left, size, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
        return left[:, 0] * size[0]

    scalars = {name: leading(group.values) for name, group in survey.groups.items()}
    rows = []
    for image in IMAGE_GROUPS:
        for sequence in (name for name in SEQUENCE_GROUPS if name != "counts"):
            row = dict(image=image, sequence=sequence)
            try:
                found = mutual_information(scalars[image], scalars[sequence])
                row |= dict(mi=found.mi, lower_bound=found.lower_bound, low=found.interval[0], high=found.interval[1],
                            rotation=found.rotation, tie_share=found.tie_share, note=found.note)
            except ValueError as reason:
                row |= dict(mi=np.nan, note=str(reason))
            rows.append(row)
    return pd.DataFrame(rows)
