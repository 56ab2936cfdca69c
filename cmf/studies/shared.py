"""Does redundancy between two modalities predict where fusing them helps? One question, four methods.

Redundancy is the mutual information of the Gumbel copula between what either modality alone says of the same things:
the logits of the two single arms or, for CMI-Fusion, which has none, the strength of edges in blocks of either source.
"plain" takes all things together; "given" takes those of one true class at a time and averages over the classes, so
that only what the modalities share beside the class is left: errors in common. The gain is the measure of the fused
network minus that of the better single modality.

Axes: n things (targets, segments, pixels or blocks), k scores of each, m units (targets, clips, pictures).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from cmf import copula, runs
from cmf.datasets.segmentation import CLASSES as KINDS
from cmf.metrics import fusion
from cmf.metrics.comparisons import holm
from cmf.metrics.intervals import bootstrap_interval
from cmf.metrics.recognition import macro_f1, roc_auc
from cmf.metrics.segmentation import scores
from cmf.simulate.deepspace import CLASSES
from cmf.studies import anomaly, deepspace, segmenting, trios
from cmf.studies.trios import ALONE

LEAST = 40                        # things of a class, for the information within it to count
BLOCKS = 20                       # parts that the jackknife leaves out one after another
EACH = 150                        # pixels or blocks drawn from a picture
SIDE = 8                          # of a block, pixels
TIES = 0.5                        # largest share of equal edge strengths: dark and foggy pictures have flat blocks
SETTINGS = {"SA-CMF": dict(redundancy=(0.0, 0.4, 0.8, 1.0), sequence_noise=(5.0, 20.0)),
            "CMAF": dict(missed=(0.0, 0.2, 0.5, 0.8), overlap=(0.0, 1.0)),
            "CMI-Fusion": dict(light=("day", "dusk", "night"), weather=("clear", "rain", "fog")),
            "CMFS": dict(light=("day", "dusk", "night"), weather=("clear", "rain", "fog"))}
PREDICTORS = ("plain", "given")


@dataclass(frozen=True)
class Seen:
    """What two modalities say of one test set. one, other: (n, k) scores; label: (n,) true class; unit: (n,) number of
    the target, clip or picture; measure: numbers (m',) of units -> measures of the fused, the one and the other."""

    one: np.ndarray
    other: np.ndarray
    label: np.ndarray
    unit: np.ndarray
    measure: Callable[[np.ndarray], np.ndarray]


def information(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the k columns of the copula's mutual information between (n, k) and (n, k), nats; best rotation."""
    return float(np.mean([copula.mutual_information(a, b, tie_limit=TIES).mi
                          for a, b in zip(one.T, other.T, strict=True)]))


def within(one: np.ndarray, other: np.ndarray, label: np.ndarray) -> float:
    """`information` within each class of at least LEAST things, averaged by their number.

    Raises:
        ValueError: no class has so many.
    """
    kinds, counts = np.unique(label, return_counts=True)
    kept = counts >= LEAST
    if not kept.any():
        raise ValueError(f"the largest class has {counts.max()} things, expected {LEAST} or more; give more of them")
    found = [information(one[label == kind], other[label == kind]) for kind in kinds[kept]]
    return float(np.average(found, weights=counts[kept]))


def jackknife(statistic: Callable[[np.ndarray], float], unit: np.ndarray, blocks: int = BLOCKS
              ) -> tuple[float, float, float]:
    """A statistic of rows (n,) with its 95 % interval, from leaving out each of `blocks` parts of the units in turn.

    Units are left out whole, as their things are alike; a bootstrap would rank copies of a thing as ties, and ties look
    like information. The standard error is sqrt((b - 1) / b sum (s_j - mean)^2); the interval ends at 0.
    """
    part = np.unique(unit, return_inverse=True)[1] % blocks
    whole = statistic(np.arange(len(unit)))
    left = np.array([statistic(np.flatnonzero(part != j)) for j in range(part.max() + 1)])
    reach = 1.96 * np.sqrt((len(left) - 1) / len(left) * np.square(left - left.mean()).sum())
    return whole, max(0.0, whole - reach), whole + reach


def measured(seen: Seen, resamples: int = 300) -> dict[str, float]:
    """Redundancy and gain of one setting: fused, one, other (measures), gain with interval (bootstrap over units, the
    better single modality that of all units), plain and given with intervals (`jackknife`), chance (given, when the
    things of a class change partners) and n."""
    units = np.unique(seen.unit)
    fused, one, other = seen.measure(units)
    best = 1 if one >= other else 2
    gain = bootstrap_interval(units, lambda some: float(np.subtract(*seen.measure(some)[[0, best]])), n=resamples)
    plain = jackknife(lambda rows: information(seen.one[rows], seen.other[rows]), seen.unit)
    given = jackknife(lambda rows: within(seen.one[rows], seen.other[rows], seen.label[rows]), seen.unit)
    rng, partner = np.random.default_rng(0), np.arange(len(seen.label))
    for kind in np.unique(seen.label):
        own = np.flatnonzero(seen.label == kind)
        partner[own] = rng.permutation(own)
    found = dict(fused=fused, one=one, other=other)
    for name, values in dict(gain=gain, plain=plain, given=given).items():
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return found | dict(chance=within(seen.one, seen.other[partner], seen.label), n=len(seen.label))


def sacmf(**dials) -> Seen:
    """SA-CMF's targets: log-odds of every class by either single arm; the measure is macro F1."""
    sets = trios.targets(**dials)
    test, models = sets["test"], trios.sacmf(sets)
    share = {arm: deepspace.predict(model, test)["probabilities"].numpy() for arm, model in models.items()}
    odds = {arm: np.log(p) - np.log1p(-p) for arm, p in share.items()}
    truth, said = test.columns["labels"].numpy(), [p.argmax(1) for p in share.values()]
    return Seen(*(odds[arm] for arm in ALONE["SA-CMF"]), truth, np.arange(len(truth)),
                lambda rows: np.array([macro_f1(truth[rows], one[rows], len(CLASSES)) for one in said]))


def cmaf(**dials) -> Seen:
    """CMAF's segments: logits of either single arm; the measure is the ROC-AUC over segments."""
    table, models = trios.clips(**dials).table, trios.cmaf()
    here = table.columns["segments"]                                                     # (m, T)
    logit = [anomaly.predict(model, table)["logits"][here].numpy() for model in models.values()]
    truth = (table.columns["frame_labels"][here] >= 0.5).numpy()
    unit = torch.arange(len(table))[:, None].expand(here.shape)[here].numpy()
    rows = np.split(np.arange(len(unit)), np.flatnonzero(np.diff(unit)) + 1)             # of each clip

    def measure(some: np.ndarray) -> np.ndarray:
        own = np.concatenate([rows[k] for k in some])
        return np.array([roc_auc(truth[own], x[own]) for x in logit])

    return Seen(logit[1][:, None], logit[2][:, None], truth.astype(int), unit, measure)


def cmfs(**dials) -> Seen:
    """CMFS's pixels: log-odds of the foreground by either camera alone; the measure is the mean IoU."""
    some, k = trios.scenes(**dials), len(KINDS["street"])
    label = some["label"].numpy()
    rows = _drawn(label.shape)
    odds, counts = [], []
    for model in trios.cmfs().values():
        with torch.no_grad():
            said = torch.cat([model(dict(visible=v.float() / 255, infrared=u.float() / 255))["logits"] for v, u in
                              zip(some["visible"].split(4), some["infrared"].split(4), strict=True)])
        counts.append(segmenting.counted(label, said.argmax(1).to(torch.uint8), k))
        odds.append((said[:, 1:].logsumexp(1) - said[:, 0]).numpy()[rows][:, None])
    return Seen(odds[1], odds[2], (label[rows] > 0).astype(int), rows[0],
                lambda chosen: np.array([scores(one[chosen].sum(0))["miou"] for one in counts]))


def cmi_fusion(**dials) -> Seen:
    """CMI-Fusion's blocks: mean strength of edges in either source. A single modality is that source given out as the
    fused picture; the measure is SCD, as most others flatter a copy, which is everything that one source has."""
    return edges(trios.scenes(**dials), trios.fuser())


def edges(some: dict[str, torch.Tensor], fuser) -> Seen:
    """`cmi_fusion` of these pictures and of a `cmf.studies.fusing.Fuser`."""
    visible = np.stack([segmenting.luma(x) for x in some["visible"]])                    # (m, H, W) grey levels
    infrared, label = some["infrared"][:, 0].numpy().astype(np.float32), some["label"].numpy()
    made = [np.rint(255 * fuser.fuse(v / 255, u / 255).luma.clip(0, 1)) for v, u in
            zip(visible, infrared, strict=True)]
    quality = np.array([[fusion.evaluate(u, v, f, 255, ("SCD",))["SCD"] for f in (own, v, u)]
                        for u, v, own in zip(infrared, visible, made, strict=True)])     # (m, 3)
    rows = _drawn(tuple(side // SIDE if axis else side for axis, side in enumerate(label.shape)))
    block = lambda x: x.reshape(len(x), x.shape[1] // SIDE, SIDE, x.shape[2] // SIDE, SIDE).mean((2, 4))
    strength = [block(np.hypot(*np.gradient(x, axis=(1, 2))))[rows][:, None] for x in (visible, infrared)]
    return Seen(*strength, (block((label > 0).astype(float))[rows] >= 0.5).astype(int), rows[0],
                lambda chosen: quality[chosen].mean(0))


def _drawn(shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """Indices of EACH random places in every picture of (m, rows, columns), without repetition."""
    rng, each = np.random.default_rng(0), min(EACH, shape[1] * shape[2])
    flat = np.concatenate([k * shape[1] * shape[2] + np.sort(rng.permutation(shape[1] * shape[2])[:each])
                           for k in range(shape[0])])
    return np.unravel_index(flat, shape)


METHODS = {"SA-CMF": sacmf, "CMAF": cmaf, "CMI-Fusion": cmi_fusion, "CMFS": cmfs}


def settings(method: str) -> Iterator[dict]:
    """The settings of the dials of a method, one dict each."""
    names, values = SETTINGS[method].keys(), SETTINGS[method].values()
    return (dict(zip(names, one, strict=True)) for one in product(*values))


def told(dials: dict) -> str:
    """Dials in words, such as "redundancy 0.4, sequence_noise 5"."""
    return ", ".join(value if isinstance(value, str) else f"{name} {value:g}" for name, value in dials.items())


def table(methods: Sequence[str] = tuple(METHODS)) -> pd.DataFrame:
    """A row a method and setting: method, setting, then the columns of `measured`."""
    jobs = [(method, dials) for method in methods for dials in settings(method)]
    return pd.DataFrame([dict(method=method, setting=told(dials)) | measured(METHODS[method](**dials))
                         for method, dials in runs.progress(jobs, "settings")])


def ranks(found: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Does redundancy order the settings by gain? Spearman's correlation over the settings of each method.

    Columns: method, predictor (of PREDICTORS), settings, rho, low, high (95 %, settings drawn again), p (two-sided,
    gains exchanged between settings) and p_holm (for all rows together). Few settings: the intervals are too narrow.
    """
    rows, rng = [], np.random.default_rng(seed)
    for method, own in found.groupby("method", sort=False):
        for name in PREDICTORS:
            x, y = own[name].to_numpy(), own["gain"].to_numpy()
            n, rho = len(x), _spearman(x, y)
            drawn = [_spearman(x[i], y[i]) for i in rng.integers(0, n, (resamples, n))]
            null = [_spearman(x, y[rng.permutation(n)]) for _ in range(resamples)]
            extreme = np.count_nonzero(np.abs(null) >= abs(rho) - 1e-12)
            low, high = np.percentile(drawn, (2.5, 97.5))
            rows.append(dict(method=method, predictor=name, settings=n, rho=rho, low=low, high=high,
                             p=(extreme + 1) / (resamples + 1)))
    return pd.DataFrame(rows).assign(p_holm=lambda t: holm(t["p"]))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of mid-ranks; 0 where one of them does not vary."""
    a, b = (rankdata(z) - (len(z) + 1) / 2 for z in (x, y))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size else 0.0
