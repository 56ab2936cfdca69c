"""CMAF on simulated clips: the arms, their training and judging, and the controls that show whether text is used.

Simulated clips are labelled throughout, so the arms learn from the labels of segments; two arms learn from one label a
clip, as on real collections. The epoch and the threshold come from validation clips. Scores of segments are repeated
over their frames, and measures are taken over frames.

Axes: B clips, T segments, L text tokens, F frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from cmf import runs
from cmf.methods import cmaf, cmaf_published
from cmf.metrics import anomaly
from cmf.metrics.intervals import bootstrap_interval, paired_bootstrap
from cmf.simulate.surveillance import Clip, Dials, simulate_clips
from cmf.simulate.surveillance_words import miswrite
from cmf.studies.footage import Encoders, columns, cut, told
from cmf.training import Recipe, Tensors, fit, parameters

SPLITS = ("train", "validation", "test")
CLIPS = dict(train=480, validation=96, test=192)
RECIPE = Recipe(epochs=12, batch=16, lr=1.5e-3, weight_decay=0.05)
SHAPE = dict(vision=0.05, relative=True, dropout=0.3)      # what the arms share; chosen on the clips of seed 0


@dataclass(frozen=True)
class Footage:
    """Clips of one split with their columns."""

    clips: list[Clip]
    table: Tensors

    def with_text(self, captions, encoders: Encoders) -> "Footage":
        """The same clips with other captions: a list of (start, end, text) for each clip."""
        return Footage(self.clips, columns(self.clips, encoders, captions))


def footage(train: int, validation: int, test: int, seed: int = 0, encoders: Encoders | None = None,
            dials: Dials | None = None) -> dict[str, Footage]:
    """Clips of the three splits, from their own places, with their columns."""
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    clips = {split: simulate_clips(n, split, seed, dials) for split, n in counts.items()}
    return {split: Footage(some, columns(some, encoders or Encoders())) for split, some in clips.items()}


_FRAMES = dict(instances=0.0, frames=1.0)                 # labels of segments
_ALONE = _FRAMES | dict(alignment=0.0, diversity=0.0)
_VISUAL = dict(use="none", fusion="none")
_OWN = dict(own=True)                                      # vision has a network of its own

# name: changes of the configuration, weights of the losses; None: the published networks
ARMS: dict[str, tuple[dict, dict] | None] = {
    "visual only": (_VISUAL, _ALONE),
    "text only": (dict(vision=0.0), _ALONE),
    "published": None,
    "published visual baseline": None,
    "V from X": (dict(use="v_from_x", fusion="none"), _ALONE),
    "bidirectional, sum": (dict(fusion="sum"), _ALONE),
    "bidirectional, concatenation": (dict(fusion="concat"), _ALONE),
    "+ gate": ({}, _ALONE),
    "+ alignment": ({}, _FRAMES | dict(diversity=0.0)),
    "+ diversity": ({}, _FRAMES),
    "CMAF": (_OWN, _FRAMES),
    "visual only, clip labels": (_VISUAL, dict(alignment=0.0, diversity=0.0)),
    "CMAF, clip labels": (_OWN, {}),
}


def build(arm: str, table: Tensors, seed: int) -> tuple[nn.Module, object]:
    """The untrained network of an arm for these columns, and its loss.

    Raises:
        ValueError: no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm {arm!r}; there are {', '.join(ARMS)}")
    runs.seed_everything(seed)
    width = {name: table.columns[name].shape[-1] for name in ("visual", "motion", "text")}
    if ARMS[arm] is None:
        model = (cmaf_published.PublishedCMAF(width["visual"], width["text"]) if arm == "published"
                 else cmaf_published.PublishedBaseline(width["visual"]))
        return model, cmaf_published.published_criterion
    changes, losses = ARMS[arm]
    model = cmaf.CMAF(cmaf.Config(**(width | SHAPE | changes))).fit_inputs(table.columns)
    return model, cmaf.criterion(**losses)


@torch.no_grad()
def predict(model: nn.Module, table: Tensors) -> dict[str, torch.Tensor]:
    """Outputs of a trained model for all clips of a table."""
    return model.eval()(table.columns)


def frame_scores(model: nn.Module, some: Footage) -> list[np.ndarray]:
    """Scores in (0, 1) of every frame of every clip, each (F,)."""
    scores = predict(model, some.table)["logits"].sigmoid().numpy()                       # (B, T)
    return [row[cut(clip).of(clip.times())] for row, clip in zip(scores, some.clips, strict=True)]


def truth(some: Footage) -> list[np.ndarray]:
    """Labels of every frame of every clip, each (F,) of 0 and 1."""
    return [clip.frame_labels() for clip in some.clips]


def segment_auc(logits: torch.Tensor, table: Tensors) -> float:
    """ROC-AUC over segments, anomalous where half of their frames are: quick, for the choice of the epoch."""
    here = table.columns["segments"]
    labels = (table.columns["frame_labels"][here] >= 0.5).numpy()
    return float(anomaly.frame_auc([logits[here].numpy()], [labels.astype(int)]))


def validate(model: nn.Module, table: Tensors, judge: Callable[[torch.Tensor, Tensors], float] = segment_auc) -> float:
    """The score of a model on validation clips; CMAF's trust in vision is set to the best one there."""
    outputs = predict(model, table)
    if isinstance(model, cmaf.CMAF):
        return model.choose_trust(outputs, lambda logits: judge(logits, table))
    return judge(outputs["logits"], table)


def train(arm: str, sets: dict[str, Footage], seed: int, recipe: Recipe = RECIPE, run=None):
    """Train an arm; epoch and trust in vision are chosen on "validation". Returns model and result."""
    table = sets["train"].table
    model, criterion = build(arm, table, seed)
    if ARMS[arm] is None:
        recipe = replace(recipe, lr=5e-4, weight_decay=1e-4)  # the published ones
    result = fit(model, table, criterion, replace(recipe, seed=seed), run=run, label=f"{arm}, seed {seed}",
                 score=lambda model: validate(model, sets["validation"].table))
    return model, result


def judge(model: nn.Module, sets: dict[str, Footage], test: Footage | None = None) -> dict[str, float]:
    """Measures over the frames of the test clips, at the threshold that is best on the validation clips."""
    test = test or sets["test"]
    threshold = anomaly.choose_threshold(frame_scores(model, sets["validation"]), truth(sets["validation"]))
    found = anomaly.evaluate(frame_scores(model, test), truth(test), threshold=threshold)
    events = found.pop("events")
    return found | {f"event_recall_{overlap:g}": at["recall"] for overlap, at in events.items()} | dict(
        trained=parameters(model))


def trained(arm: str, sets: dict[str, Footage], seed: int, recipe: Recipe = RECIPE) -> tuple[nn.Module, dict]:
    """An arm, trained once for the same columns, seed, recipe and code, and then read from the cache.

    Returns the model in eval mode and a record: history, best_epoch, seconds, measures (of `judge`).
    """
    def compute() -> dict:
        model, result = train(arm, sets, seed, recipe)
        state = {f"state/{name}": value for name, value in model.state_dict().items()}
        return dict(history=result.history.drop(columns="seconds"), best_epoch=result.best_epoch,
                    seconds=result.seconds, measures=judge(model, sets)) | state

    inputs = {split: some.table.columns for split, some in sets.items()}
    record = runs.cached("anomaly_arm", compute, inputs=inputs,
                         parameters=dict(arm=arm, change=str(ARMS.get(arm)), seed=seed, recipe=asdict(recipe)))
    model, _ = build(arm, sets["train"].table, seed)
    model.load_state_dict({name.removeprefix("state/"): torch.as_tensor(record.pop(name))
                           for name in list(record) if name.startswith("state/")})
    return model.eval(), record


def arms(names: Sequence[str], sets: dict[str, Footage], seeds: Sequence[int]) -> pd.DataFrame:
    """One row an arm and seed: arm, seed, best_epoch, seconds and every measure on "test"."""
    rows = []
    for arm, seed in runs.progress([(a, s) for a in names for s in seeds], "arms"):
        record = trained(arm, sets, seed)[1]
        rows.append(dict(arm=arm, seed=seed, best_epoch=record["best_epoch"], seconds=record["seconds"],
                         **record["measures"]))
    return pd.DataFrame(rows)


def compare(table: pd.DataFrame, measure: str = "roc_auc", to: str = "CMAF", by: str = "arm") -> pd.DataFrame:
    """Mean over seeds and bootstrap interval of each arm, and the paired difference `to` minus arm.

    Columns: arm (or `by`), the measure, low, high, difference, difference_low, difference_high, p.
    """
    wide = table.pivot(index="seed", columns=by, values=measure)
    rows = []
    for name in dict.fromkeys(table[by]):
        own = bootstrap_interval(wide[name].to_numpy())
        gap = paired_bootstrap(wide[to].to_numpy(), wide[name].to_numpy())
        rows.append({by: name, measure: own.estimate, "low": own.low, "high": own.high, "difference": gap.estimate,
                     "difference_low": gap.low, "difference_high": gap.high, "p": gap.p})
    return pd.DataFrame(rows)


def _shuffled(captions, rng):
    """Every clip gets the captions of another one, at the same shares of its length."""
    n = len(captions)
    step = rng.permutation(np.arange(1, n))[0]
    order = rng.permutation(n)
    other = dict(zip(order, np.roll(order, step), strict=True))
    length = [video[-1][1] if video else 1.0 for video in captions]                       # s, end of the last one
    return [[(a * length[i] / length[other[i]], b * length[i] / length[other[i]], text)
             for a, b, text in captions[other[i]]] for i in range(n)]


def _in_time(captions, rng):
    """The texts of a clip change places in time."""
    return [[(a, b, video[j][2]) for (a, b, _), j in zip(video, rng.permutation(len(video)), strict=True)]
            for video in captions]


CONTROLS = {
    "true captions": lambda captions, rng: captions,
    "none": lambda captions, rng: [[] for _ in captions],
    "one sentence for all": lambda captions, rng: [[(a, b, "a street.") for a, b, _ in video] for video in captions],
    "of another clip": _shuffled,
    "shuffled in time": _in_time,
    "first caption only": lambda captions, rng: [video[:1] for video in captions],
}
CORRUPTED = (0.1, 0.25, 0.5, 0.75, 1.0)   # shares of the words


def controlled(name: str, captions, seed: int = 0):
    """Captions changed as CONTROLS or "corrupted S" says, S a share of words replaced; lists of (start, end, text).

    Raises:
        ValueError: no such control.
    """
    rng = np.random.default_rng([seed, 17])
    if name.startswith("corrupted "):
        share = float(name.removeprefix("corrupted "))
        return [[(a, b, miswrite(text, share, rng)) for a, b, text in video] for video in captions]
    if name not in CONTROLS:
        raise ValueError(f"no control {name!r}; there are {', '.join(CONTROLS)} and 'corrupted 0.5'")
    return CONTROLS[name](captions, rng)


def controls(models: dict[int, nn.Module], test: Footage, encoders: Encoders, names: Sequence[str],
             seed: int = 0) -> pd.DataFrame:
    """Frame AUC of trained models, by seed, when the test clips' captions are changed: control, seed, roc_auc."""
    labels, rows = truth(test), []
    for name in runs.progress(list(names), "captions"):
        captions = controlled(name, [told(clip) for clip in test.clips], seed)
        changed = test.with_text(captions, encoders)
        rows += [dict(control=name, seed=own, roc_auc=anomaly.frame_auc(frame_scores(model, changed), labels))
                 for own, model in models.items()]
    return pd.DataFrame(rows)
