"""One of two modalities missing, or that of another object: the same faults for all four methods.

A share of the test units is hit. "missing" withholds a modality: SA-CMF is told that it is not there, CMAF gets black
pictures or no captions, CMI-Fusion and CMFS a black picture. "of another" gives it from another unit, well formed and
wrong, and nobody is told. Beside the fused network stands the modality that is left: its own network on whole data.

Axes: m units (targets, clips, pictures), T segments, K classes, H, W rows and columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cmf import runs
from cmf.datasets.segmentation import CLASSES as KINDS
from cmf.metrics import fusion
from cmf.metrics.intervals import bootstrap_interval
from cmf.metrics.recognition import macro_f1, roc_auc
from cmf.metrics.segmentation import scores
from cmf.simulate.deepspace import CLASSES
from cmf.studies import anomaly, deepspace, explained, segmenting, trios
from cmf.studies.footage import Encoders, told
from cmf.studies.trios import ALONE, MODALITIES
from cmf.training import Tensors

FAULTS = ("missing", "of another")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLUMNS = dict(image=("grid", "pooled", "radiometric", "motion"), sequence=("patches", "summary"))
_VISION = {"missing": "black pictures", "of another": "of another clip"}
_WORDS = {"missing": "none", "of another": "of another clip"}


@dataclass(frozen=True)
class Tried:
    """What a method says of m units. outcome: (modality, fault), or two None for whole data -> (m, ...), a row a unit;
    alone: by modality, what its own network says of whole data; measure: outcomes (m, ...) and numbers of units -> its
    measure of these units. A unit's outcome does not depend on the other units, so that shares are mixtures."""

    outcome: Callable[[str | None, str | None], np.ndarray]
    alone: dict[str, np.ndarray]
    measure: Callable[[np.ndarray, np.ndarray], float]


def sacmf() -> Tried:
    """SA-CMF on targets at the usual dials: predicted classes, macro F1."""
    sets = trios.targets()
    test, models = sets["test"], trios.sacmf(sets)
    truth, (m,) = test.columns["labels"].numpy(), test.columns["labels"].shape
    says = lambda arm, table, **there: deepspace.predict(models[arm], table, **there)["logits"].argmax(1).numpy()

    def outcome(modality, fault):
        if fault == "missing":
            return says("SA-CMF", test, **{f"has_{modality}": torch.zeros(m, dtype=torch.bool)})
        other = {name: test.columns[name].roll(1, 0) for name in (_COLUMNS[modality] if modality else ())}
        return says("SA-CMF", Tensors(**test.columns | other))

    return Tried(outcome, {name: says(arm, test) for name, arm in _pairs("SA-CMF")},
                 lambda said, some: macro_f1(truth[some], said[some], len(CLASSES)))


def cmaf() -> Tried:
    """CMAF on clips at the usual dials: logits of segments (m, T), ROC-AUC over segments."""
    test, encoders, models = trios.clips(), Encoders(), trios.cmaf()
    here = test.table.columns["segments"].numpy()                                        # (m, T)
    up = (test.table.columns["frame_labels"] >= 0.5).numpy()
    says = lambda arm, table: anomaly.predict(models[arm], table)["logits"].numpy()

    def outcome(modality, fault):
        if modality is None:
            return says("CMAF", test.table)
        if modality == "vision":
            return says("CMAF", explained.faulty(test, encoders, "vision", _VISION[fault], 1.0))
        captions = anomaly.controlled(_WORDS[fault], [told(clip) for clip in test.clips])
        return says("CMAF", test.with_text(captions, encoders).table)

    return Tried(outcome, {name: says(arm, test.table) for name, arm in _pairs("CMAF")},
                 lambda logit, some: float(roc_auc(up[some][here[some]], logit[some][here[some]])))


def spoilt(pictures: dict[str, torch.Tensor], modality: str | None, fault: str | None) -> dict[str, torch.Tensor]:
    """Pictures with one of the two, "visible" or "infrared", black or that of the picture before.

    Raises:
        ValueError: no such fault.
    """
    if modality is None:
        return pictures
    if fault not in FAULTS:
        raise ValueError(f"no fault {fault!r}; there are {', '.join(FAULTS)}")
    whole = pictures[modality]
    return pictures | {modality: torch.zeros_like(whole) if fault == "missing" else whole.roll(1, 0)}


def cmfs() -> Tried:
    """CMFS on mixed test streets: counts of pixels (m, K, K), mean IoU."""
    some, models, k = trios.scenes(), trios.cmfs(), len(KINDS["street"])
    says = lambda arm, pictures: segmenting.counted(some["label"], segmenting.labelled(models[arm], pictures)["label"],
                                                    k)
    return Tried(lambda modality, fault: says("CMFS", spoilt(some, modality, fault)),
                 {name: says(arm, some) for name, arm in _pairs("CMFS")},
                 lambda counts, chosen: scores(counts[chosen].sum(0))["miou"])


def cmi_fusion() -> Tried:
    """CMI-Fusion on mixed test streets."""
    return fused(trios.scenes(), trios.fuser())


def fused(some: dict[str, torch.Tensor], fuser) -> Tried:
    """SCD (m,) of these pictures, fused by a `cmf.studies.fusing.Fuser`, against the two whole sources."""
    def grey(pictures):
        return [(segmenting.luma(v), u[0].numpy().astype(np.float32))
                for v, u in zip(pictures["visible"], pictures["infrared"], strict=True)]

    whole = grey(some)
    quality = lambda made: np.array([fusion.evaluate(u, v, f, 255, ("SCD",))["SCD"]
                                     for (v, u), f in zip(whole, made, strict=True)])

    def outcome(modality, fault):
        pairs = grey(spoilt(some, modality, fault))
        return quality([np.rint(255 * fuser.fuse(v / 255, u / 255).luma.clip(0, 1)) for v, u in pairs])

    copies = {name: quality([pair[k] for pair in whole]) for k, name in enumerate(MODALITIES["CMI-Fusion"])}
    return Tried(outcome, copies, lambda found, chosen: float(found[chosen].mean()))


METHODS = {"SA-CMF": sacmf, "CMAF": cmaf, "CMI-Fusion": cmi_fusion, "CMFS": cmfs}
MEASURES = {"SA-CMF": "macro F1", "CMAF": "ROC-AUC", "CMI-Fusion": "SCD", "CMFS": "mIoU"}


def _pairs(method: str):
    """Modalities of a method with the arms that see nothing else."""
    return zip(MODALITIES[method], ALONE[method], strict=True)


def shares(tried: Tried, modalities: Sequence[str], values: Sequence[float] = SHARES, resamples: int = 300,
           seed: int = 0) -> pd.DataFrame:
    """A row a modality, fault and share of the units that are hit: modality, fault, share, value (of the measure) with
    low and high (95 %, units drawn again), whole (the value when nothing is hit), left (the measure of the other
    modality's own network on whole data)."""
    whole = tried.outcome(None, None)
    units = np.arange(len(whole))
    draw, rows = np.random.default_rng(seed).uniform(size=len(whole)), []
    for modality, other in zip(modalities, reversed(modalities), strict=True):
        left = tried.measure(tried.alone[other], units)
        for fault in FAULTS:
            hit = tried.outcome(modality, fault)
            for share in values:
                mixed = np.where((draw < share).reshape(-1, *[1] * (whole.ndim - 1)), hit, whole)
                found = bootstrap_interval(units, lambda some, mixed=mixed: tried.measure(mixed, some), n=resamples)
                rows.append(dict(modality=modality, fault=fault, share=share, value=found.estimate, low=found.low,
                                 high=found.high, whole=tried.measure(whole, units), left=left))
    return pd.DataFrame(rows)


def table(methods: Sequence[str] = tuple(METHODS)) -> pd.DataFrame:
    """A row a method, modality, fault and share: method, measure, then the columns of `shares`."""
    found = [shares(METHODS[method](), MODALITIES[method]).assign(method=method, measure=MEASURES[method])
             for method in runs.progress(methods, "methods")]
    whole = pd.concat(found, ignore_index=True)
    return whole[["method", "measure", *whole.columns.drop(["method", "measure"])]]
