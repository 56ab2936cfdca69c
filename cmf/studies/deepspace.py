"""SA-CMF on deep-space targets: features, the arms of the ablation, training and judging one of them.

Axes: n targets, F frames, Ti image tokens, To sequence tokens, K classes.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch import nn

from cmf import runs
from cmf.datasets.deepspace import from_simulator
from cmf.datasets.targets import TargetSet
from cmf.encoders.features import MOTION, RADIOMETRIC, Projection, image_tokens, motion, radiometric, stretch
from cmf.encoders.inception import Inception, fast_dtype
from cmf.encoders.sequence import patches, summary
from cmf.methods import sacmf
from cmf.metrics.intervals import bootstrap_interval, paired_bootstrap
from cmf.metrics.recognition import classification, macro_f1, robustness_missing
from cmf.simulate import deepspace as simulator
from cmf.training import Recipe, Tensors, fit, parameters

PATCHES = 4                       # sequence tokens beside the summary
CHANNELS = 24                     # of an image token, after a projection fitted on training data
RECIPE = Recipe(epochs=16, batch=128, lr=3e-3, weight_decay=0.3)
PUBLISHED_RATE = 1e-3             # the published network's own learning rate; at the others' it does not train
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Backbone:
    """Which InceptionV3 makes the image tokens; the words of `cmf.encoders.inception.Inception`."""

    weights: str = "untrained"
    size: int = 139
    layer: str = "Mixed_7c"
    grid: int = 3
    seed: int = 0

    def build(self) -> Inception:
        """The frozen encoder; an untrained one is calibrated on a fixed set of simulated stamps."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        stamps = None
        if self.weights == "untrained":
            images = simulator.simulate_targets(96, "train", seed=2**20).images
            stamps = torch.from_numpy(stretch(images)).flatten(0, 1)[:, None]           # (192, 1, H, W)
        return Inception(**asdict(self), dtype=fast_dtype(device), calibration=stamps).to(device)


def simulated(train: int, validation: int, test: int, seed: int = 0,
              dials: simulator.Dials | None = None) -> dict[str, TargetSet]:
    """Targets of the three splits, each from its own world; `seed` changes every one of them."""
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    return {split: from_simulator(simulator.simulate_targets(n, split, seed, dials or simulator.Dials()))
            for split, n in counts.items()}


def image_features(targets: TargetSet, encoder: nn.Module, projection: Projection,
                   progress=runs.progress) -> dict[str, np.ndarray]:
    """Tokens of both frames: grid (n, F g g, CHANNELS), pooled (n, F, D), radiometric (n, F, 8), motion (n, 1, 7)."""
    tokens = image_tokens(stretch(targets.images), encoder, projection=projection, progress=progress)
    return dict(grid=tokens["grid"], pooled=tokens["pooled"], radiometric=radiometric(targets.images),
                motion=motion(targets.images)[:, None])


def fit_projection(targets: TargetSet, encoder: nn.Module, most: int = 300) -> Projection:
    """The projection of grid tokens to CHANNELS, from at most `most` training targets."""
    some = targets.subset(slice(0, most))
    return Projection.fit(image_tokens(stretch(some.images), encoder, progress=runs.progress)["grid"], CHANNELS)


def sequence_features(targets: TargetSet) -> dict[str, np.ndarray]:
    """patches (n, PATCHES, .) and summary (n, 1, .) of the sequences."""
    given = targets.values, targets.observed, targets.times
    return dict(patches=patches(*given, PATCHES), summary=summary(*given))


def published_features(targets: TargetSet) -> dict[str, np.ndarray]:
    """What the published network takes beside the pooled vectors: grey, difference, flat.

    `grey` is mean, standard deviation and maximum of frame A, `difference` the mean absolute difference to the
    frame B of the previous target of the list, as published; `flat` the temperatures, then the radiation values,
    gaps at the mean of the sequence.
    """
    a, b = targets.images[:, 0], targets.images[:, 1]
    grey = np.stack([a.mean((1, 2)), a.std((1, 2)), a.max((1, 2))], -1)
    difference = np.abs(b - np.roll(b, 1, axis=0)).mean((1, 2))[:, None]
    total = targets.values.sum(1) / targets.observed.sum(1).clip(1)                     # (n, C)
    filled = np.where(targets.observed, targets.values, total[:, None])                 # (n, T, C)
    return dict(grey=grey, difference=difference, flat=filled.transpose(0, 2, 1).reshape(len(a), -1))


def features(sets: dict[str, TargetSet], backbone: Backbone | None = None) -> tuple[dict[str, Tensors], Projection]:
    """Everything the arms look at, for every split, and the projection that was fitted on "train".

    Cached by the content of the targets, the backbone and the code.
    """
    backbone = backbone or Backbone()

    def compute() -> dict:
        encoder = backbone.build()
        projection = fit_projection(sets["train"], encoder)
        found = {"projection/mean": projection.mean, "projection/basis": projection.basis,
                 "fingerprint": encoder.fingerprint()}
        for split, targets in sets.items():
            columns = image_features(targets, encoder, projection) | sequence_features(targets)
            columns |= published_features(targets) | dict(labels=targets.labels)
            found |= {f"{split}/{name}": np.asarray(column, np.int64 if name == "labels" else np.float32)
                      for name, column in columns.items()}
        return found

    inputs = {split: targets.digest() for split, targets in sets.items()}
    found = runs.cached("deepspace_features", compute, inputs=inputs, parameters=asdict(backbone))
    runs.used(f"InceptionV3, {backbone.weights}", found["fingerprint"])
    table = {split: Tensors(**{name.split("/")[1]: torch.as_tensor(column) for name, column in found.items()
                               if name.startswith(f"{split}/")}) for split in sets}
    return _scaled(table), Projection(found["projection/mean"], found["projection/basis"])


def _scaled(table: dict[str, Tensors]) -> dict[str, Tensors]:
    """Inputs of the published network at unit scale by training statistics: it states none, and raw counts fail."""
    for name in ("grey", "difference", "flat", "pooled"):
        train = table["train"].columns[name]
        mean, deviation = train.mean(0), train.std(0).clamp_min(1e-6)
        for split in table.values():
            split.columns[name] = (split.columns[name] - mean) / deviation
    return table


def config(table: Tensors, **changes) -> sacmf.Config:
    """The configuration of SA-CMF for these features."""
    source = lambda names: tuple((n, *table.columns[n].shape[1:]) for n in names)
    base = sacmf.Config(classes=len(simulator.CLASSES), image=source(("grid", "radiometric", "motion")),
                        sequence=source(("patches", "summary")), dropout=0.3, temperature=1.0, refit=8,
                        withheld=1.0)
    return replace(base, **changes)


_SINGLE = dict(information=False, weighting="uniform", cross=False)
_ALIKE = dict(similarity=0.0, information=0.0, consistency=0.5)      # losses of the arms without copulas
_FULL = dict(similarity=0.02, information=0.02, consistency=0.5)

# name: changes of the configuration, weights of the losses
ARMS: dict[str, tuple[dict, dict] | None] = {
    "image only": (dict(modalities=("image",), **_SINGLE), _ALIKE),
    "sequence only": (dict(modalities=("sequence",), **_SINGLE), _ALIKE),
    "late concatenation": (_SINGLE, _ALIKE),
    "cross-attention": (dict(information=False, weighting="uniform"), _ALIKE),
    "cross-attention, published MI": (dict(information=False, weighting="published"), _ALIKE),
    "SA-CMF as published": None,
    "SA-CMF": ({}, _FULL),
    "without ECDF memory": (dict(memory=0), _FULL),
    "without rotation": (dict(rotation=False), _FULL),
    "without importance": (dict(weighting="uniform"), _FULL),
    "without MI loss": ({}, _FULL | dict(information=0.0)),
    "without similarity loss": ({}, _FULL | dict(similarity=0.0)),
    "without consistency loss": ({}, _FULL | dict(consistency=0.0)),
}


def build(arm: str, table: Tensors, seed: int) -> tuple[nn.Module, object]:
    """The untrained network of an arm and its loss, for these training features.

    Raises:
        ValueError: no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm {arm!r}; there are {', '.join(ARMS)}")
    runs.seed_everything(seed)
    if ARMS[arm] is None:
        columns = table.columns
        model = sacmf.PublishedSACMF(len(simulator.CLASSES), columns["flat"].shape[1], columns["pooled"].shape[2])
        return model, sacmf.published_criterion
    changes, losses = ARMS[arm]
    model = sacmf.SACMF(config(table, **changes)).fit_inputs(table.columns)
    return model, sacmf.criterion(model, **losses)


@torch.no_grad()
def predict(model: nn.Module, table: Tensors, **presence: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of a trained model for all rows; `presence` may hold has_image and has_sequence, (n,) bool."""
    device = next(model.parameters()).device
    outputs = send_to_device(model.eval()(send_to_device(table.columns | presence, device)), "cpu")
    return outputs | dict(probabilities=outputs["logits"].double().softmax(-1))


def train(arm: str, sets: dict[str, Tensors], seed: int, recipe: Recipe = RECIPE, run=None):
    """Train an arm; the epoch is chosen by macro F1 on "validation". Returns the model and the training result."""
    model, criterion = build(arm, sets["train"], seed)
    if ARMS[arm] is None:
        recipe = replace(recipe, lr=min(recipe.lr, PUBLISHED_RATE))
    truth = sets["validation"].columns["labels"].numpy()

    def score(model: nn.Module) -> float:
        predicted = predict(model, sets["validation"])["logits"].argmax(1).numpy()
        return macro_f1(truth, predicted, len(simulator.CLASSES))

    result = fit(model, sets["train"], criterion, replace(recipe, seed=seed), score=score, run=run,
                 label=f"{arm}, seed {seed}")
    return model, result


def judge(model: nn.Module, table: Tensors) -> dict[str, float]:
    """Measures on a test table: those of `cmf.metrics.recognition.classification`, flat."""
    probabilities = predict(model, table)["probabilities"].numpy()
    found = classification(table.columns["labels"].numpy(), probabilities, simulator.CLASSES)
    return {name: value for name, value in found.items() if np.isscalar(value)} | dict(trained=parameters(model))


def trained(arm: str, sets: dict[str, Tensors], seed: int, recipe: Recipe = RECIPE) -> tuple[nn.Module, dict]:
    """An arm, trained once for the same features, seed, recipe and code, and then read from the cache.

    Returns the model in eval mode and a record: history (DataFrame), best_epoch, seconds, measures (of `judge` on
    "test", with R@MM of `missing` where the arm sees both modalities).
    """
    def compute() -> dict:
        model, result = train(arm, sets, seed, recipe)
        measures = judge(model, sets["test"])
        if ARMS[arm] is not None and "modalities" not in ARMS[arm][0]:
            measures |= {f"rmm_without_{name}": found["r@mm"] for name, found in missing(model, sets["test"]).items()}
        state = {f"state/{name}": value for name, value in model.state_dict().items()}
        return dict(history=result.history.drop(columns="seconds"), best_epoch=result.best_epoch,
                    seconds=result.seconds, measures=measures) | state

    inputs = {split: table.columns for split, table in sets.items()}
    record = runs.cached("deepspace_arm", compute, inputs=inputs,
                         parameters=dict(arm=arm, change=str(ARMS.get(arm)), seed=seed, recipe=asdict(recipe)))
    model, _ = build(arm, sets["train"], seed)
    model.load_state_dict({name.removeprefix("state/"): torch.as_tensor(record.pop(name))
                           for name in list(record) if name.startswith("state/")})
    return model.eval(), record


def missing(model: nn.Module, table: Tensors) -> dict[str, dict[str, float]]:
    """R@MM and its parts when one modality is withheld from a model of two: keys "image" and "sequence"."""
    none = torch.zeros(len(table), dtype=torch.bool)
    facts = lambda outputs: (outputs["probabilities"].numpy(), outputs["fused"].numpy())
    without = {name: facts(predict(model, table, **{f"has_{name}": none})) for name in ("image", "sequence")}
    return robustness_missing(table.columns["labels"].numpy(), facts(predict(model, table)), without)


def arms(names, sets: dict[str, Tensors], seeds) -> pd.DataFrame:
    """One row an arm and seed: arm, seed, best_epoch, seconds and every measure on "test"."""
    rows = []
    for arm, seed in runs.progress([(a, s) for a in names for s in seeds], "arms"):
        record = trained(arm, sets, seed)[1]
        rows.append(dict(arm=arm, seed=seed, best_epoch=record["best_epoch"], seconds=record["seconds"],
                         **record["measures"]))
    return pd.DataFrame(rows)


def compare(table: pd.DataFrame, measure: str = "f1_macro", to: str = "SA-CMF") -> pd.DataFrame:
    """Mean and bootstrap interval of each arm over seeds, and its paired difference `to` minus arm.

    Columns: arm, macro_f1 (or the measure's name), low, high, difference, difference_low, difference_high, p.
    """
    wide = table.pivot(index="seed", columns="arm", values=measure)
    rows = []
    for arm in dict.fromkeys(table["arm"]):
        own = bootstrap_interval(wide[arm].to_numpy())
        gap = paired_bootstrap(wide[to].to_numpy(), wide[arm].to_numpy())
        rows.append(dict(arm=arm, **{"macro_f1" if measure == "f1_macro" else measure: own.estimate}, low=own.low,
                         high=own.high, difference=gap.estimate, difference_low=gap.low, difference_high=gap.high,
                         p=gap.p))
    return pd.DataFrame(rows)


__all__ = ["ARMS", "MOTION", "RADIOMETRIC", "Backbone", "arms", "build", "compare", "config", "features", "judge",
           "missing", "predict", "simulated", "train", "trained"]
