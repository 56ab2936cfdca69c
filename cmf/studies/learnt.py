"""How much do the features that a trained network has learnt of either modality share, before it fuses them?

Of each method the last features that know one modality only, from the weights in cmf/trained:
  SA-CMF      tokens after the attention within a modality, mean over its tokens; things are targets
  CMAF        a segment's embedding, and the mean embedding of the words that are told in it; things are segments
  CMI-Fusion  features of either stem at 1/8 of the size; things are places in pictures
  CMFS        features of either encoder's first stage, before the first exchange; things are places in pictures
Their leading principal components are paired, each of one modality with each of the other. Partners exchanged between
units show what such numbers are by chance.

Axes: n things (targets, segments, places), m units (targets, clips, pictures), d channels, k components, H, W rows and
columns of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cmf import copula, runs
from cmf.copula.differentiable import gumbel_mi, pairwise_theta
from cmf.datasets.deepspace import from_simulator
from cmf.encoders.features import Projection
from cmf.simulate.deepspace import simulate_targets
from cmf.simulate.surveillance import simulate_clips
from cmf.studies import footage, fusing, scenes, segmenter, segmenting, trios, watching
from cmf.studies.shared import jackknife
from cmf.studies.trios import WORLD

COMPONENTS = 8                                   # of a modality, at most
TARGETS, CLIPS, PICTURES = 150, 16, 12           # looked at, of the split "test"
PLACES = (9, 12)                                 # of a picture, rows and columns; the same ones in each
EXCHANGES = 99                                   # of partners between units
SAID = ("mean", "mean_low", "mean_high", "chance", "largest", "largest_low", "largest_high", "chance_largest", "p", "n",
        "units")


@dataclass(frozen=True)
class Learnt:
    """What is learnt of n things. one, other: (n, d) features of the two modalities; unit: (n,) number of the target,
    clip or picture that a thing is of; things of a unit stand together."""

    one: np.ndarray
    other: np.ndarray
    unit: np.ndarray


def information(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mutual information of the Gumbel copula, nats, of each column of (n, k) with each of (n, k'): (k, k').

    By maximum likelihood, in the rotation that fits best, as `cmf.copula.mutual_information` has it.
    """
    u, v = (torch.from_numpy(copula.ecdf(x)).float() for x in (one, other))
    return gumbel_mi(pairwise_theta(u, v)[0]).double().numpy()


def components(x: np.ndarray, most: int = COMPONENTS) -> np.ndarray:
    """The leading principal components of features (n, d), at most `most`: (n, k), fitted on these features."""
    return Projection.fit(x, min(most, x.shape[1], len(x))).apply(x)


def partners(unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each thing the number of one of another unit, (n,): whole units change partners, the order within is kept.

    So that things of a unit, which are alike, stay together, and a place in a picture meets the same place. Of a larger
    unit the first things are taken, a smaller one begins again.

    Raises:
        ValueError: fewer than two units.
    """
    rows = [np.flatnonzero(unit == k) for k in np.unique(unit)]
    if len(rows) < 2:
        raise ValueError(f"partners are exchanged between units, got {len(rows)}; give two or more")
    order, found = rng.permutation(len(rows)), np.empty(len(unit), int)
    for own, other in zip(order, np.roll(order, 1), strict=True):
        found[rows[own]] = np.resize(rows[other], len(rows[own]))
    return found


def measured(found: Learnt, exchanges: int = EXCHANGES, seed: int = 0) -> tuple[np.ndarray, dict[str, float]]:
    """Information of all pairs of components, (k, k') nats, and what is said of it.

    mean and largest over the pairs, each with low and high (95 %, `cmf.studies.shared.jackknife` over units, the
    components kept); chance and chance_largest, the same with partners exchanged, mean over the exchanges; p, the share
    of exchanges, and of the things as they are, that have the mean of these or more; n things, units.
    """
    one, other = components(found.one), components(found.other)
    said, rng = {}, np.random.default_rng(seed)
    for name, take in dict(mean=np.mean, largest=np.max).items():
        spread = jackknife(lambda rows, take=take: float(take(information(one[rows], other[rows]))), found.unit)
        said |= dict(zip((name, f"{name}_low", f"{name}_high"), spread, strict=True))
    null = [information(one, other[partners(found.unit, rng)]) for _ in range(exchanges)]
    means = np.array([x.mean() for x in null])
    return information(one, other), said | dict(
        chance=float(means.mean()), chance_largest=float(np.mean([x.max() for x in null])),
        p=(1 + int(np.count_nonzero(means >= said["mean"]))) / (1 + exchanges), n=len(found.unit),
        units=len(np.unique(found.unit)))


def caught(network: nn.Module, batch: dict, *modules: nn.Module) -> list[tuple[tuple, object]]:
    """What each of these modules of a network took and gave, (arguments, output), as it last saw this batch.

    Raises:
        ValueError: a module that was not called.
    """
    kept = {}
    hooks = [module.register_forward_hook(lambda m, took, gave: kept.update({m: (took, gave)})) for module in modules]
    with torch.no_grad():
        network.eval()(batch)
    for hook in hooks:
        hook.remove()
    idle = [type(module).__name__ for module in modules if module not in kept]
    if idle:
        raise ValueError(f"{', '.join(idle)} of {type(network).__name__} took no part; name modules that forward calls")
    return [kept[module] for module in modules]


def sacmf(n: int = TARGETS) -> Learnt:
    """Targets by the classifier's tokens after the attention within a modality, mean over the tokens."""
    model = scenes.Classifier.load()
    table = model.table(from_simulator(simulate_targets(n, "test", WORLD)))
    within = [model.network.within[name][-1] for name in ("image", "sequence")]
    one, other = (gave[0].mean(1).numpy() for _, gave in caught(model.network, table.columns, *within))
    return Learnt(one, other, np.arange(n))


def cmaf(n: int = CLIPS) -> Learnt:
    """Segments of clips by CMAF's embedding of pictures and motion, and the mean embedding of the words told in them;
    segments without words are left out."""
    watcher = watching.Watcher.load()
    clips = simulate_clips(n, "test", WORLD)
    table, network = footage.columns(clips, watcher.encoders()).columns, watcher.network
    (_, seen), (_, words) = caught(network, table, network.embed["segments"], network.embed["words"])
    return paired(seen, words, table["segments"], table["text_mask"], table["text_time"])


def paired(seen: Tensor, words: Tensor, segments: Tensor, text_mask: Tensor, text_time: Tensor) -> Learnt:
    """Segments (B, T, d) with the mean of the words (B, L, d) whose time (B, L), a share of the clip, lies in them.

    segments (B, T) and text_mask (B, L): True where there is one.
    """
    one, other, unit = [], [], []
    for k, here in enumerate(segments):
        count, told = int(here.sum()), text_mask[k]
        at = (text_time[k][told] * count).long().clamp(max=count - 1)                     # (words,)
        for t in at.unique().tolist():
            one.append(seen[k, t])
            other.append(words[k][told][at == t].mean(0))
            unit.append(k)
    return Learnt(torch.stack(one).numpy(), torch.stack(other).numpy(), np.array(unit))


def cmi_fusion(n: int = PICTURES) -> Learnt:
    """Places of streets by what either stem of CMI-Fusion makes of them at 1/8 of the size, without a sentence."""
    some, fuser = trios.scenes(n=n), trios.fuser()
    grey = lambda x: torch.as_tensor(x, dtype=torch.float32)[None, None] / 255
    maps = []
    for visible, infrared in zip(some["visible"], some["infrared"], strict=True):
        batch = dict(visible=grey(segmenting.luma(visible)), infrared=grey(infrared[0])) | fuser.read()
        [(took, _)] = caught(fuser.network, batch, fuser.network.choose[-1])
        maps.append((took[0]["visible"], took[0]["infrared"]))
    return placed(maps)


def cmfs(n: int = PICTURES) -> Learnt:
    """Places of streets by what the first stage of either encoder of CMFS makes of them, before any exchange."""
    some, network = trios.scenes(n=n), segmenter.Segmenter.load(device="cpu").network
    maps = []
    for visible, infrared in zip(some["visible"], some["infrared"], strict=True):
        batch = dict(visible=visible[None].float() / 255, infrared=infrared[None].float() / 255)
        [(took, _)] = caught(network, batch, network.interaction[0])
        maps.append(took[:2])
    return placed(maps)


def placed(maps: Sequence[tuple[Tensor, Tensor]], places: tuple[int, int] = PLACES) -> Learnt:
    """Pairs of maps (1, d, H, W), one pair a picture, at evenly spread places (rows, columns): pictures are the units.

    Raises:
        ValueError: maps with fewer rows or columns than there are places.
    """
    h, w = maps[0][0].shape[2:]
    if h < places[0] or w < places[1]:
        raise ValueError(f"maps of {h} x {w} have no {places[0]} x {places[1]} places; give larger pictures")
    rows, columns = ((np.arange(count) + 0.5) * side // count for count, side in zip(places, (h, w), strict=True))
    at = np.ix_(rows.astype(int), columns.astype(int))
    taken = [np.concatenate([pair[k][0][:, *at].flatten(1).T.numpy() for pair in maps]) for k in range(2)]
    return Learnt(*taken, np.repeat(np.arange(len(maps)), places[0] * places[1]))


METHODS = {"SA-CMF": (sacmf, scenes.TRAINED), "CMAF": (cmaf, watching.TRAINED),
           "CMI-Fusion": (cmi_fusion, fusing.TRAINED), "CMFS": (cmfs, segmenter.TRAINED)}


def table(methods: Sequence[str] = tuple(METHODS)) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The matrix of each method, and a row a method: method, then SAID, as of `measured`.

    Computed once for the same weights and code.
    """
    matrices, rows = {}, []
    for method in runs.progress(methods, "methods"):
        make, file = METHODS[method]

        def compute(make=make) -> dict:
            matrix, said = measured(make())
            return dict(matrix=matrix, said=said)

        found = runs.cached("learnt_information", compute, inputs=dict(weights=file), parameters=dict(method=method))
        matrices[method] = found["matrix"]
        rows.append(dict(method=method) | {name: found["said"][name] for name in SAID})
    return matrices, pd.DataFrame(rows)


def pairs_table(matrices: dict[str, np.ndarray]) -> pd.DataFrame:
    """The matrices (k, k') of `table` as rows method, one, other (numbers of components, from 1), value."""
    return pd.DataFrame([dict(method=method, one=i + 1, other=j + 1, value=value)
                         for method, matrix in matrices.items() for (i, j), value in np.ndenumerate(matrix)])
