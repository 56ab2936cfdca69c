"""Several targets in a scene: candidates, their sequences and classes, judged on simulated scenes.

Axes: n candidates, m true targets, Ti image tokens, To sequence tokens, K classes, H, W rows and columns of a frame.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist

from cmf import runs, weights
from cmf.datasets.deepspace import SceneFiles, read_inference
from cmf.datasets.targets import TargetSet
from cmf.detection import Detections, crops, detect, top_k
from cmf.encoders.features import Projection
from cmf.methods.sacmf import SACMF, Config
from cmf.metrics.boxes import box_matching
from cmf.simulate.deepspace import CLASSES, NAMES, Scene, simulate_scene
from cmf.studies import deepspace
from cmf.training import Tensors

TRAINED = Path(__file__).resolve().parents[1] / "trained" / "sacmf_deepspace.safetensors"
CHIP = 32                  # pixels, side of the picture that the classifier sees
REACH = 6.0                # pixels between a candidate and the position of its sequence
BOX_A = ["x0_a", "y0_a", "x1_a", "y1_a"]


class Classifier(torch.nn.Module):
    """SA-CMF with the projection of its image tokens, as one file of weights."""

    def __init__(self, config: Config, channels: int, backbone: deepspace.Backbone):
        super().__init__()
        self.backbone = backbone
        self.network = SACMF(config)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("basis", torch.zeros(channels, deepspace.CHANNELS))
        self._encoder = None
        self.facts: dict[str, str] = {}     # what the weights file says beside the configuration

    @classmethod
    def of(cls, network: SACMF, projection: Projection, backbone: deepspace.Backbone) -> "Classifier":
        """From a trained network and the projection it was trained with."""
        model = cls(network.config, len(projection.mean), backbone)
        model.network = network
        model.mean.copy_(torch.from_numpy(projection.mean))
        model.basis.copy_(torch.from_numpy(projection.basis))
        return model.eval()

    def save(self, path: Path, **facts: str) -> Path:
        """Write weights with network, backbone and channels in their config, and its own and further facts."""
        config = dict(network=self.network.config.__dict__, backbone=self.backbone.__dict__, channels=len(self.mean))
        return weights.save(path, self, config, **self.facts | facts)

    @classmethod
    def load(cls, path: Path = TRAINED) -> "Classifier":
        """Read weights that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: as `cmf.weights.load`; also ValueError for a configuration that this
                version cannot build.
        """
        stated = weights.facts(path)
        if stated["architecture"] != cls.__name__:
            raise ValueError(f"{path} holds weights of {stated['architecture']}, expected {cls.__name__}; "
                             "give a file written by Classifier.save")
        config = stated["config"]
        tuples = lambda value: tuple(map(tuples, value)) if isinstance(value, list) else value
        try:
            network = Config(**{name: tuples(value) for name, value in config["network"].items()})
            model = cls(network, config["channels"], deepspace.Backbone(**config["backbone"]))
        except (KeyError, TypeError) as reason:
            raise ValueError(f"{path} states a configuration that cannot be built here ({reason}); "
                             "train it again with this version") from reason
        model.facts = {name: value for name, value in stated.items() if name not in ("architecture", "config")}
        return weights.load(path, model)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return tuple(json.loads(self.facts["classes"])) if "classes" in self.facts else CLASSES

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of the pictures of a target."""
        return tuple(json.loads(self.facts.get("frames", '["A", "B"]')))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of a sequence."""
        return tuple(json.loads(self.facts.get("channels", '["temperature", "radiation"]')))

    @property
    def steps(self) -> int:
        """Samples of a sequence that the network was trained on."""
        if "steps" in self.facts:
            return int(self.facts["steps"])
        patches = {name: (count, channels) for name, count, channels in self.network.config.sequence}["patches"]
        return patches[0] * (patches[1] - 1) // 4           # a patch: two channels, their masks, one time

    def table(self, targets: TargetSet) -> Tensors:
        """The network's inputs for these targets."""
        targets = padded(targets)
        if self._encoder is None:
            object.__setattr__(self, "_encoder", self.backbone.build())
        projection = Projection(self.mean.numpy(), self.basis.numpy())
        columns = deepspace.image_features(targets, self._encoder, projection, progress=lambda steps, label: steps)
        columns |= deepspace.sequence_features(targets)
        return Tensors(**{name: torch.from_numpy(np.asarray(column, np.float32)) for name, column in columns.items()})


def padded(targets: TargetSet, multiple: int = deepspace.PATCHES) -> TargetSet:
    """The targets with sequences of a length that `multiple` divides: steps without observation at the end."""
    more = -targets.values.shape[1] % multiple
    if not more:
        return targets
    end = lambda x, mode="constant": np.pad(x, ((0, 0), (0, more), (0, 0))[:x.ndim], mode)
    return replace(targets, values=end(targets.values), observed=end(targets.observed),
                   times=end(targets.times, "edge"))


@dataclass(frozen=True)
class Answer:
    """What was found in one scene; rows of `boxes` and of the arrays belong together, best probability first."""

    id: str
    frames: np.ndarray            # (2, H, W)
    boxes: pd.DataFrame           # label, name, score, sequence_row (-1: none), boxes, ..., p_<class>
    chips: np.ndarray             # (n, 2, 32, 32)
    importance: np.ndarray        # (n, Ti + To), mean 1
    attention: np.ndarray         # (n, Ti, To), of each image token to the sequence tokens; sums to 1 over To
    names: tuple[str, ...]        # of the Ti + To tokens


def token_names(config: Config) -> tuple[str, ...]:
    """Readable names of all tokens: "grid A 2,3" is row 2, column 3 of frame A, "radiometric B" of frame B."""
    names = []
    for name, count, _ in config.image + config.sequence:
        side = round((count / 2) ** 0.5)
        if name == "grid":
            names += [f"grid {f} {r},{c}" for f in "AB" for r in range(1, side + 1) for c in range(1, side + 1)]
        elif name == "radiometric":
            names += [f"radiometric {f}" for f in "AB"]
        else:
            names += [f"{name} {k + 1}" for k in range(count)] if count > 1 else [name]
    return tuple(names)


def sequence_rows(scene: SceneFiles, found: Detections) -> np.ndarray:
    """The row of the sequence files that belongs to each candidate, -1 where none does: (n,).

    With positions, pairs within REACH pixels of the candidate in frame A, the closest first, and no row twice;
    without, a single row that all candidates share.

    Raises:
        ValueError: several rows and no positions.
    """
    if scene.positions is None:
        if len(scene.temp) != 1:
            raise ValueError(f"{scene.id}: {len(scene.temp)} sequences and no {scene.id}_positions.npy that says "
                             "whose they are; add it, or give one shared row")
        return np.zeros(len(found), int)
    gap = cdist(found.positions_a, scene.positions)                                      # (n, rows)
    rows = np.full(len(found), -1)
    for k in np.argsort(gap, axis=None, kind="stable")[:np.count_nonzero(gap <= REACH)]:
        i, j = np.unravel_index(k, gap.shape)
        if rows[i] < 0 and j not in rows:
            rows[i] = j
    return rows


def answer(scene: SceneFiles, model: Classifier, k: float = 5.0, overall: int = 30, per_class: int = 7,
           classes: tuple[str, ...] | None = None) -> Answer:
    """Detect, classify and rank the targets of one scene.

    Each candidate is classified with its own sequence, one without a sequence from its pictures alone. Without
    times the samples count as evenly spaced.

    Args:
        scene: frames and sequences, as `read_inference` gives them.
        model: a trained classifier.
        k: detection threshold in units of the local noise.
        overall, per_class: how many candidates are kept, best probability first.
        classes: names of the classes, in the order of the model's logits; default: those of the model.

    Raises:
        ValueError: a model of other frames or channels; a frame in which nothing can be detected (constant, NaN), k,
            overall or per_class out of range, sequences that belong to nobody or have another length than in
            training. The scene is named.
    """
    classes = model.classes if classes is None else classes
    if (len(model.frames), model.channels) != (2, ("temperature", "radiation")):
        raise ValueError(f"{scene.id}: the classifier was trained on the frames {', '.join(model.frames)} and the "
                         f"channels {', '.join(model.channels)}; a scene has two frames, temperature and radiation, so "
                         "give weights that were trained on such targets")
    if scene.temp.shape[1] != model.steps:
        raise ValueError(f"{scene.id}: sequences of {scene.temp.shape[1]} samples, but the classifier was trained "
                         f"on {model.steps}; resample them, NaN where a sample is missing")
    top_k([], np.empty(0, int), overall, per_class)                                      # refuses bad limits early
    try:
        found = detect(scene.frames, k=k)
    except ValueError as reason:
        raise ValueError(f"{scene.id}: {reason}") from reason
    rows = sequence_rows(scene, found)
    n = len(found)
    names = token_names(model.network.config)
    counts = model.network.copula.counts
    if n == 0:
        columns = ["label", "name", "score", "sequence_row", "x_a", "y_a", "x_b", "y_b", "dx", "dy", *BOX_A]
        return Answer(scene.id, scene.frames, pd.DataFrame(columns=columns), np.empty((0, 2, CHIP, CHIP)),
                      np.empty((0, len(names))), np.empty((0, *counts)), names)
    chips = crops(scene.frames, found.boxes_a, CHIP).astype(np.float32)                  # (n, 2, 32, 32)
    values, observed = (x[rows] for x in scene.sequences())                              # (n, T, 2)
    steps = values.shape[1]
    times = np.broadcast_to(np.arange(steps, dtype=np.float32), (n, steps)) if scene.times is None else (
        scene.times[rows if len(scene.times) > 1 else np.zeros(n, int)])
    targets = TargetSet(images=chips, values=values, observed=observed, times=np.ascontiguousarray(times),
                        labels=np.full(n, -1), ids=tuple(f"{scene.id}/{i}" for i in range(n)),
                        classes=tuple(classes), frames=("A", "B"), channels=("temperature", "radiation"),
                        time_unit="s")
    outputs = deepspace.predict(model.network, model.table(targets), has_sequence=torch.from_numpy(rows >= 0))
    probabilities = outputs["probabilities"].numpy()                                     # (n, K)
    label, score = probabilities.argmax(1), probabilities.max(1)
    kept = np.asarray(top_k(score, label, overall, per_class), int)
    boxes = pd.DataFrame([dict(label=classes[label[i]], name=NAMES.get(classes[label[i]], classes[label[i]]),
                               score=float(score[i]), sequence_row=int(rows[i]), **found.rows()[i]) for i in kept])
    boxes = boxes.join(pd.DataFrame(probabilities[kept], columns=[f"p_{name}" for name in classes]))
    attention = outputs["attention"].mean(1).numpy()                                     # (n, Ti, To)
    return Answer(scene.id, scene.frames, boxes, chips[kept], outputs["importance"].numpy()[kept], attention[kept],
                  names)


def of_simulator(scene: Scene, name: str) -> SceneFiles:
    """A simulated scene as the inference folders would hold it, one sequence a target."""
    return SceneFiles(name, scene.frames, scene.sequences[..., 0], scene.sequences[..., 1], scene.positions_a,
                      scene.times)


def simulated_answers(seeds, targets: int = 20, path: Path = TRAINED) -> list[tuple[Scene, Answer]]:
    """Physical scenes (brightness left to chance) of the split "test" and what the classifier says of them.

    Every candidate is kept, so that the answers can be judged. Computed once for the same seeds, weights and code.
    """
    scenes = [simulate_scene(targets, psnr=None, seed=seed) for seed in seeds]
    parts = ("boxes", "chips", "importance", "attention")

    def compute() -> dict:
        model, found = Classifier.load(path), {}
        for seed, scene in zip(seeds, runs.progress(scenes, "scenes"), strict=True):
            one = answer(of_simulator(scene, f"scene {seed}"), model, overall=10**4, per_class=10**4)
            found |= {f"{seed}/{part}": getattr(one, part) for part in parts}
        return found | dict(names=list(token_names(model.network.config)))

    found = runs.cached("scene_answers", compute, inputs=dict(weights=Path(path)),
                        parameters=dict(seeds=list(seeds), targets=targets))
    return [(scene, Answer(f"scene {seed}", scene.frames, **{part: found[f"{seed}/{part}"] for part in parts},
                           names=tuple(found["names"]))) for seed, scene in zip(seeds, scenes, strict=True)]


def detected(psnr: float, seeds, targets: int = 20, k: float = 5.0) -> list[dict]:
    """Candidates of simulated scenes in which every target has this peak signal-to-noise; nothing is classified.

    One dict a scene: boxes (n, 4), scores (n,), truth (m, 4), tp, fp, fn at an overlap of one half in frame A.
    """
    def compute() -> dict:
        out = {}
        for seed in runs.progress(seeds, f"scenes at {psnr:g}"):
            scene = simulate_scene(targets, psnr=psnr, seed=seed)
            found = detect(scene.frames, k=k)
            counts = box_matching(found.boxes_a, scene.boxes_a, found.scores)
            out |= {f"{seed}/boxes": found.boxes_a, f"{seed}/scores": found.scores, f"{seed}/truth": scene.boxes_a}
            out |= {f"{seed}/{name}": counts[name] for name in ("tp", "fp", "fn")}
        return out

    found = runs.cached("scene_candidates", compute,
                        parameters=dict(psnr=float(psnr), seeds=list(seeds), targets=targets, k=k))
    return [{name: found[f"{seed}/{name}"] for name in ("boxes", "scores", "truth", "tp", "fp", "fn")}
            for seed in seeds]


def judged(found: Answer, scene: Scene) -> pd.DataFrame:
    """One row a true target: label, snr (peak, in the dimmer frame), row (of found.boxes, -1: missed), predicted."""
    boxes = found.boxes[BOX_A].to_numpy(float)
    match = box_matching(boxes, scene.boxes_a, found.boxes["score"].to_numpy(float))["match"]   # (n,)
    row = np.full(len(scene.labels), -1)
    row[match[match >= 0]] = np.flatnonzero(match >= 0)
    predicted = [found.boxes["label"].iloc[i] if i >= 0 else "" for i in row]
    return pd.DataFrame(dict(label=[CLASSES[k] for k in scene.labels], snr=scene.truth["snr"].min(1), row=row,
                             predicted=predicted))


def arguments(parser) -> None:
    """`python -m cmf detect --images DIR --sequences DIR --out DIR`."""
    parser.add_argument("--images", required=True, metavar="DIR", help="<id>_A.png and <id>_B.png of each scene")
    parser.add_argument("--sequences", required=True, metavar="DIR",
                        help="<id>_temp.npy, <id>_rad.npy and, with several targets, <id>_positions.npy")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for detections, heatmaps, fusion_weights")
    parser.add_argument("--weights", default=str(TRAINED), metavar="FILE", help="default: the project's own")
    parser.add_argument("--threshold", type=float, default=5.0, metavar="K", help="in units of the noise (default 5)")
    parser.add_argument("--top", type=int, default=30, metavar="N", help="targets kept in a scene (default 30)")
    parser.add_argument("--per-class", type=int, default=7, metavar="N", help="of one class (default 7)")
    parser.set_defaults(run=_run)


def _run(options) -> None:
    from matplotlib import pyplot

    from cmf.studies import overlay

    scenes = read_inference(options.images, options.sequences)
    model = Classifier.load(options.weights)
    out = Path(options.out)
    for folder in ("detections", "heatmaps", "fusion_weights"):
        try:
            (out / folder).mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise OSError(f"{out} cannot be written ({reason.strerror}); give a folder of your own") from reason
    if not os.access(out, os.W_OK):
        raise OSError(f"{out} cannot be written (no permission); give a folder of your own")
    pyplot.switch_backend("agg")
    torch.set_num_threads(1)  # small batches: on busy cores more threads wait for each other, tenfold and worse
    lines, total = [], 0
    for scene in runs.progress(scenes, "scenes"):
        found = answer(scene, model, options.threshold, options.top, options.per_class)
        overlay.write(found, out, model.backbone.grid)
        total += len(found.boxes)
        kinds = ", ".join(f"{n} {NAMES.get(label, label)}" for label, n in found.boxes["label"].value_counts().items())
        lines.append(f"{scene.id}: {len(found.boxes)} targets" + (f" ({kinds})" if kinds else ""))
    print(*lines, f"{total} targets in {len(scenes)} scenes; see {out / 'detections'}", sep="\n")
