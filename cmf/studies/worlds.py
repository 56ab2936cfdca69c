"""How far each rendering of the simulated deep-space world goes: ceilings, what separates whom, dials, leaks.

Axes: n targets, t instants, k columns, c classes. A ceiling is the macro F1 of gradient boosting on a few
physical columns, trained on one world and judged on another. `measured` reads the columns from pixels and
samples; `latent` takes the quantities behind them without noise.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from cmf import runs
from cmf.encoders.features import MOTION, RADIOMETRIC, motion, radiometric
from cmf.simulate.deepspace import CHIP, CLASSES, FRAME_A, WINDOW, Dials, Targets, simulate_targets
from cmf.simulate.deepspace_physics import band_radiance

MODALITIES = ("image", "sequence", "both")
CHANCE = 1.0 / len(CLASSES)
DIALS = {                       # settings of each dial of the simulator
    "psnr": (1.5, 5.0, 15.0, 30.0, 120.0),
    "sequence_noise": (0.0, 2.5, 5.0, 15.0, 40.0),
    "missing": (0.0, 0.15, 0.4, 0.7, 0.95),
    "redundancy": (0.0, 0.25, 0.5, 0.75, 1.0),
}


def measured(targets: Targets) -> dict[str, np.ndarray]:
    """Columns (n, k) that each of MODALITIES offers, read from noisy pixels and samples; NaN where nothing was seen.

    Image: logarithms of the flux in A and B and of the motion between them, their combinations, and the columns
    of `cmf.encoders.features.motion` and the peaks of `radiometric`. Sequence: see `sequence_columns`.
    """
    light, moved = radiometric(targets.images), motion(targets.images)
    flux = np.log(np.clip(light[..., RADIOMETRIC.index("flux")], 5.0, None))              # (n, 2)
    shift = np.log(np.clip(moved[:, MOTION.index("shift")], 0.5, None))
    peaks = light[..., RADIOMETRIC.index("peak_snr")]
    image = np.column_stack([_image_columns(*flux.T, shift), peaks, moved[:, MOTION.index("flux_difference"):]])
    return _joined(image, sequence_columns(targets.times, targets.sequences))


def latent(targets: Targets) -> dict[str, np.ndarray]:
    """Columns (n, k) of each of MODALITIES from the truth: flux, motion, temperature and apparent intensity.

    What a modality does not carry (range, gain, emissivity, size) stays hidden here too.
    """
    truth = targets.truth
    image = _image_columns(*np.log(truth["flux"]).T, np.log(np.hypot(*truth["motion"].T)))
    exact = np.stack([truth["temperature"], truth["apparent_intensity"]], -1)             # (n, t, 2)
    return _joined(image, sequence_columns(targets.times, exact))


def _image_columns(a, b, shift) -> np.ndarray:
    """The fifth column is the flux at a common range, because the shift is inverse to the range."""
    return np.stack([a, b, shift, np.abs(a - b), 0.5 * (a + b) - 2.0 * shift], axis=1)    # (n, 5)


def _joined(image, sequence) -> dict[str, np.ndarray]:
    """Flux at a common range over the radiance of the measured temperature is emissivity times area."""
    size = image[:, 4] - sequence[:, -1]
    return dict(image=image, sequence=sequence, both=np.column_stack([image, sequence, size]))


def sequence_columns(times, sequences) -> np.ndarray:
    """What a sequence says: (n, 16).

    Of the temperature and of the logarithm of intensity over band radiance (area times an unknown gain): level,
    slope and curvature of a parabola, scatter around it, range of values; then largest step of the temperature
    between neighbouring samples, its scatter of steps, lowest, highest and that at frame A; last the logarithm
    of the radiance at frame A. A sequence without samples gives NaN.

    Args:
        times: (n, t) seconds, ascending.
        sequences: (n, t, 2), kelvin and W/sr, NaN where missing.
    """
    values = np.asarray(sequences, np.float64)
    seen = np.isfinite(values[..., 0])                                                    # (n, t)
    z = (np.asarray(times, np.float64) - FRAME_A) / (0.5 * WINDOW)
    warm = np.clip(np.where(seen, values[..., 0], 250.0), 120.0, 500.0)
    area = np.log(np.clip(np.where(seen, values[..., 1], 1.0), 1e-3, None) / band_radiance(warm))
    steps = np.abs(_steps(warm, seen))                                                    # (n, t - 1)
    at_a = np.exp(-0.5 * (z / 0.1) ** 2) * seen + 1e-9 * seen
    now = (at_a * warm).sum(1) / np.maximum(at_a.sum(1), 1e-30)
    now = np.where(seen.any(1), now, 250.0)
    low, high = np.where(seen, warm, np.inf).min(1), np.where(seen, warm, -np.inf).max(1)
    columns = [*_parabola(z, warm, seen), *_parabola(z, area, seen), steps.max(1), steps.std(1), low, high]
    table = np.stack([*columns, now, np.log(band_radiance(now))], axis=1)
    return np.where(seen.any(1)[:, None], table, np.nan)


def _parabola(z, track, seen):
    """Level at z = 0, slope, curvature, scatter, range; the last two terms are held back by a weak prior."""
    count = seen.sum(1).clip(1)
    mean = np.where(seen, track, 0.0).sum(1) / count
    basis = np.stack([np.ones_like(z), z, z**2], -1)                                      # (n, t, 3)
    gram = np.einsum("nt,nti,ntj->nij", seen, basis, basis) + 0.02 * np.eye(3)
    moment = np.einsum("nt,nti->ni", np.where(seen, track - mean[:, None], 0.0), basis)
    fit = np.linalg.solve(gram, moment[..., None])[..., 0]                                # (n, 3)
    rest = np.where(seen, track - mean[:, None] - np.einsum("nti,ni->nt", basis, fit), 0.0)
    low, high = np.where(seen, track, np.inf).min(1), np.where(seen, track, -np.inf).max(1)
    return mean + fit[:, 0], fit[:, 1], fit[:, 2], np.sqrt((rest**2).sum(1) / count), high - low


def _steps(track, seen):
    """Differences between neighbouring seen samples, 0 where there are fewer: (n, t - 1)."""
    order = np.argsort(~seen, axis=1, kind="stable")
    there = np.take_along_axis(seen, order, 1)
    return np.diff(np.take_along_axis(track, order, 1), axis=1) * (there[:, 1:] & there[:, :-1])


def classify(train, labels, test, seed: int = 0) -> np.ndarray:
    """Class probabilities (m, c) of gradient boosting for the rows `test` (m, k), trained on `train` (n, k).

    One thread: small trees lose more by waiting for one another than they gain.
    """
    model = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=10, learning_rate=0.12, random_state=seed)
    with threadpool_limits(1):
        return model.fit(train, labels).predict_proba(test)


def _reach(worlds, read, seed):
    """Probabilities of each modality on the second world, trained on the first."""
    train, test = worlds
    columns, held = read(train), read(test)
    return {name: classify(columns[name], train.labels, held[name], seed) for name in MODALITIES}


def _worlds(train, test, seed, dials=None):
    return simulate_targets(train, "train", seed, dials), simulate_targets(test, "test", seed, dials)


def ceilings(train: int, test: int, seeds: Iterable[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Macro F1 within reach at the default dials, and how well each pair of classes is told apart.

    Args:
        train, test: targets of the splits "train" and "test", 60 or more each.
        seeds: each draws new targets and seeds the classifier.

    Returns two tables, cached: (columns, modality, seed, macro_f1) with columns "measured" or "latent";
    (one, other, modality, accuracy): of the latent columns, the share of the targets of two classes whose own
    class got the higher probability, mean over seeds; chance is 0.5.
    """
    seeds = list(seeds)

    def compute() -> dict:
        rows, pairs = [], []
        for seed in runs.progress(seeds, "ceilings"):
            worlds = _worlds(train, test, seed)
            for read in (measured, latent):
                for name, found in _reach(worlds, read, seed).items():
                    score = f1_score(worlds[1].labels, found.argmax(1), average="macro")
                    rows.append((read.__name__, name, seed, score))
                    if read is latent:
                        pairs.append(told_apart(found, worlds[1].labels).assign(modality=name))
        mean = pd.concat(pairs).groupby(["one", "other", "modality"], sort=False, as_index=False).accuracy.mean()
        return dict(scores=pd.DataFrame(rows, columns=["columns", "modality", "seed", "macro_f1"]), pairs=mean)

    found = runs.cached("deepspace_ceilings", compute, parameters=dict(train=train, test=test, seeds=seeds))
    return found["scores"], found["pairs"]


def told_apart(probabilities, labels) -> pd.DataFrame:
    """(one, other, accuracy) for every pair of classes, among the targets of the two, classes weighted alike.

    Args:
        probabilities: (n, c); labels: (n,) int, every class present.
    """
    rows = []
    for i, j in combinations(range(probabilities.shape[1]), 2):
        first = probabilities[:, i] > probabilities[:, j]
        rows.append((CLASSES[i], CLASSES[j], 0.5 * (first[labels == i].mean() + (~first[labels == j]).mean())))
    return pd.DataFrame(rows, columns=["one", "other", "accuracy"])


def sweep(train: int, test: int, seed: int = 0) -> pd.DataFrame:
    """Macro F1 from measured columns while one dial of DIALS moves: (dial, setting, modality, macro_f1), cached.

    Args:
        train, test: targets of the two splits at each setting, 60 or more each; seed: of targets and classifier.
    """
    def compute() -> dict:
        rows, known = [], {}
        for dial, settings in runs.progress(DIALS.items(), "dials"):
            for setting in settings:
                dials = Dials(**{dial: setting})
                if dials not in known:
                    worlds = _worlds(train, test, seed, dials)
                    known[dials] = {name: f1_score(worlds[1].labels, found.argmax(1), average="macro")
                                    for name, found in _reach(worlds, measured, seed).items()}
                rows += [(dial, setting, name, score) for name, score in known[dials].items()]
        return dict(scores=pd.DataFrame(rows, columns=["dial", "setting", "modality", "macro_f1"]))

    settings = {name: list(values) for name, values in DIALS.items()}
    parameters = dict(train=train, test=test, seed=seed, dials=settings)
    return runs.cached("deepspace_dials", compute, parameters=parameters)["scores"]


def _border(targets, frame):
    """Mean and deviation of the pixels 9 or more from the target in frame 0 (A) or 1 (B): (n, 2)."""
    nodes = np.arange(CHIP)
    x, y = (targets.truth[("position_a", "position_b")[frame]][:, i, None, None] for i in (0, 1))
    hidden = np.hypot(nodes[None, :, None] - y, nodes[None, None] - x) < 9.0
    pixels = np.where(hidden, np.nan, targets.images[:, frame])
    return np.column_stack([np.nanmean(pixels, axis=(1, 2)), np.nanstd(pixels, axis=(1, 2))])


PROBES = {
    "order in the file": lambda t: np.column_stack([np.arange(len(t)), np.arange(len(t)) % len(CLASSES)]),
    "background of A, target masked": lambda t: _border(t, 0),
    "background of B, target masked": lambda t: _border(t, 1),
    "one pixel in a corner": lambda t: t.images[:, :, 0, 0],
    "number of missing samples": lambda t: np.isnan(t.sequences[..., 0]).sum(axis=1, keepdims=True),
    "which samples are missing": lambda t: np.isnan(t.sequences[..., 0]).astype(float),
    "instants of the samples": lambda t: t.times,
}


def probes(train: Targets, test: Targets, seed: int = 0) -> pd.DataFrame:
    """Accuracy (probe, accuracy) of gradient boosting on things that must say nothing of the class: see PROBES."""
    rows = [(name, (classify(read(train), train.labels, read(test), seed).argmax(1) == test.labels).mean())
            for name, read in PROBES.items()]
    return pd.DataFrame(rows, columns=["probe", "accuracy"])
