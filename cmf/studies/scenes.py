"""Several targets in a scene: candidates, their classes, and what a person wants to see of them.

Axes: n candidates, Ti image tokens, To sequence tokens, K classes.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from cmf import plots, runs, weights
from cmf.datasets.deepspace import SceneFiles, read_inference
from cmf.datasets.targets import TargetSet
from cmf.detection import Detections, crops, detect, top_k
from cmf.encoders.features import Projection
from cmf.methods.sacmf import SACMF, Config
from cmf.simulate.deepspace import CLASSES, NAMES
from cmf.studies import deepspace
from cmf.training import Tensors

TRAINED = Path(__file__).resolve().parents[1] / "trained" / "sacmf_deepspace.safetensors"
CHIP = 32                  # pixels, side of the picture that the classifier sees
REACH = 6.0                # pixels between a candidate and the position of its sequence


class Classifier(torch.nn.Module):
    """SA-CMF with the projection of its image tokens, as one file of weights."""

    def __init__(self, config: Config, channels: int, backbone: deepspace.Backbone):
        super().__init__()
        self.backbone = backbone
        self.network = SACMF(config)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("basis", torch.zeros(channels, deepspace.CHANNELS))
        self._encoder = None

    @classmethod
    def of(cls, network: SACMF, projection: Projection, backbone: deepspace.Backbone) -> "Classifier":
        """From a trained network and the projection it was trained with."""
        model = cls(network.config, len(projection.mean), backbone)
        model.network = network
        model.mean.copy_(torch.from_numpy(projection.mean))
        model.basis.copy_(torch.from_numpy(projection.basis))
        return model.eval()

    def save(self, path: Path, **facts: str) -> Path:
        """Write weights with network, backbone and channels in their config."""
        config = dict(network=self.network.config.__dict__, backbone=self.backbone.__dict__, channels=len(self.mean))
        return weights.save(path, self, config, **facts)

    @classmethod
    def load(cls, path: Path = TRAINED) -> "Classifier":
        """Read weights that `save` wrote. Raises as `cmf.weights.load`."""
        stated = weights.facts(path)
        if stated["architecture"] != cls.__name__:
            raise ValueError(f"{path} holds weights of {stated['architecture']}, expected {cls.__name__}; "
                             "give a file written by Classifier.save")
        config = stated["config"]
        tuples = lambda value: tuple(map(tuples, value)) if isinstance(value, list) else value
        network = Config(**{name: tuples(value) for name, value in config["network"].items()})
        model = cls(network, config["channels"], deepspace.Backbone(**config["backbone"]))
        return weights.load(path, model)

    def table(self, targets: TargetSet) -> Tensors:
        """The network's inputs for these targets."""
        if self._encoder is None:
            object.__setattr__(self, "_encoder", self.backbone.build())
        projection = Projection(self.mean.numpy(), self.basis.numpy())
        columns = deepspace.image_features(targets, self._encoder, projection)
        columns |= deepspace.sequence_features(targets)
        return Tensors(**{name: torch.from_numpy(np.asarray(column, np.float32)) for name, column in columns.items()})


@dataclass(frozen=True)
class Answer:
    """What was found in one scene; rows of `boxes` and of the arrays belong together."""

    id: str
    frames: np.ndarray            # (2, H, W)
    boxes: pd.DataFrame           # a row a kept candidate: label, score, boxes, signal-to-noise, sequence row
    chips: np.ndarray             # (n, 2, 32, 32)
    importance: np.ndarray        # (n, Ti + To), mean 1
    attention: np.ndarray         # (n, Ti), attention of the sequence on each image token
    names: tuple[str, ...]        # of the Ti + To tokens


def token_names(config: Config) -> tuple[str, ...]:
    """Readable names of all tokens: source and number."""
    return tuple(f"{name} {k + 1}" if count > 1 else name
                 for name, count, _ in config.image + config.sequence for k in range(count))


def sequence_rows(scene: SceneFiles, found: Detections) -> np.ndarray:
    """The row of the sequence files that belongs to each candidate, -1 where none does: (n,).

    With positions, the nearest within REACH pixels of the candidate in frame A; with a single row that all
    targets share, row 0.

    Raises:
        ValueError: several rows and no positions.
    """
    if scene.positions is None:
        if len(scene.temp) != 1:
            raise ValueError(f"{scene.id}: {len(scene.temp)} sequences and no {scene.id}_positions.npy that says "
                             "whose they are; add it, or give one shared row")
        return np.zeros(len(found), int)
    gap = np.linalg.norm(found.positions_a[:, None] - scene.positions[None], axis=-1)   # (n, rows)
    rows = gap.argmin(1)
    return np.where(gap[np.arange(len(rows)), rows] <= REACH, rows, -1)


def answer(scene: SceneFiles, model: Classifier, k: float = 5.0, overall: int = 30, per_class: int = 7,
           classes: tuple[str, ...] = CLASSES) -> Answer:
    """Detect, classify and rank the targets of one scene.

    Args:
        scene: frames and sequences, as `read_inference` gives them.
        model: a trained classifier.
        k: detection threshold in units of the local noise.
        overall, per_class: how many candidates are kept, best probability first.
        classes: names of the classes, in the order of the model's logits.
    """
    found = detect(scene.frames, k=k)
    rows = sequence_rows(scene, found)
    n = len(found)
    names = token_names(model.network.config)
    counts = model.network.copula.counts
    if n == 0:
        empty = pd.DataFrame(columns=["label", "score"])
        return Answer(scene.id, scene.frames, empty, np.empty((0, 2, CHIP, CHIP)), np.empty((0, len(names))),
                      np.empty((0, counts[0])), names)
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
    # probability of each class, a column a class
    boxes = boxes.join(pd.DataFrame(probabilities[kept], columns=[f"p_{name}" for name in classes]))
    attention = outputs["attention"].mean(1)                                             # (n, Ti, To)
    focus = (attention * outputs["importance"][:, None, counts[0]:]).mean(-1).numpy()    # (n, Ti)
    return Answer(scene.id, scene.frames, boxes, chips[kept], outputs["importance"].numpy()[kept], focus[kept], names)


def draw_overlay(found: Answer, zoom: int = 0):
    """Frame A with a box, a label and a probability a target; returns the figure."""
    h, w = found.frames.shape[1:]
    fig, ax = plots.figure(width=plots.PAGE, height=plots.PAGE * h / w)
    low, high = np.percentile(found.frames[0], [1, 99.8])
    ax.imshow(found.frames[0], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    kinds = sorted(set(found.boxes["label"])) if len(found.boxes) else []
    for _, row in found.boxes.iterrows():
        colour = plots.COLOURS[kinds.index(row["label"]) % len(plots.COLOURS)]
        pad = 6
        ax.add_patch(Rectangle((row["x0_a"] - pad, row["y0_a"] - pad), row["x1_a"] - row["x0_a"] + 2 * pad,
                               row["y1_a"] - row["y0_a"] + 2 * pad, fill=False, ec=colour, lw=1))
        ax.annotate("", (row["x_a"] + 4 * row["dx"], row["y_a"] + 4 * row["dy"]), (row["x_a"], row["y_a"]),
                    arrowprops=dict(arrowstyle="->", color=colour, lw=0.8))
        right = row["x_a"] < 0.8 * w
        ax.text(row["x1_a"] + pad + 4 if right else row["x0_a"] - pad - 4, row["y_a"],
                f"{row['name']} {row['score']:.2f}", color="white", fontsize=6, va="center",
                ha="left" if right else "right", bbox=dict(fc=colour, ec="none", alpha=0.75, pad=0.8))
    ax.set_axis_off()
    return fig


def draw_heat(found: Answer, row: int, grid: int):
    """Chips A and B of one target under the importance of their grid tokens and the sequence's attention."""
    fig, axes = plots.figure(1, 4, width=plots.PAGE, height=1.9)
    cells = grid * grid
    for f, frame in enumerate("AB"):
        for ax, values, title in ((axes[f], found.importance[row], "importance"),
                                  (axes[2 + f], found.attention[row], "attention")):
            heat = values[f * cells:(f + 1) * cells].reshape(grid, grid)
            ax.imshow(found.chips[row, f], cmap="gray", extent=(0, grid, grid, 0))
            shown = ax.imshow(heat, cmap="magma", alpha=0.45, extent=(0, grid, grid, 0), interpolation="bicubic")
            ax.set(title=f"{title}, frame {frame}", xticks=[], yticks=[])
            ax.grid(False)
            fig.colorbar(shown, ax=ax, shrink=0.8)
    row = found.boxes.iloc[row]
    fig.suptitle(f"{found.id}: {row['name']}, probability {row['score']:.2f}", fontsize=8)
    return fig


def write(found: Answer, out: Path, grid: int) -> list[Path]:
    """detections/<id>.png, .csv, .json; heatmaps/<id>_<k>.png; fusion_weights/<id>.csv. Returns the paths."""
    written = []

    def put(path: Path, writer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        writer(part)
        os.replace(part, path)
        written.append(path)

    def picture(path: Path, fig) -> None:
        put(path, lambda part: fig.savefig(part, dpi=150))
        plt.close(fig)

    places = out / "detections"
    picture(places / f"{found.id}.png", draw_overlay(found))
    put(places / f"{found.id}.csv", lambda part: found.boxes.to_csv(part, index=False, float_format="%.6g"))
    records = found.boxes.to_dict("records")
    put(places / f"{found.id}.json", lambda part: part.write_text(json.dumps(dict(id=found.id, targets=records),
                                                                            indent=1)))
    table = pd.DataFrame(found.importance, columns=list(found.names))
    table.insert(0, "target", np.arange(len(table)))
    put(out / "fusion_weights" / f"{found.id}.csv", lambda part: table.to_csv(part, index=False, float_format="%.5g"))
    for row in range(len(found.boxes)):
        picture(out / "heatmaps" / f"{found.id}_{row:02d}.png", draw_heat(found, row, grid))
    return written


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
    scenes = read_inference(options.images, options.sequences)
    model = Classifier.load(options.weights)
    plt.switch_backend("agg")
    total = 0
    for scene in runs.progress(scenes, "scenes"):
        found = answer(scene, model, options.threshold, options.top, options.per_class)
        write(found, Path(options.out), model.backbone.grid)
        total += len(found.boxes)
        print(f"{scene.id}: {len(found.boxes)} targets "
              f"({', '.join(f'{n} {name}' for name, n in found.boxes['label'].value_counts().items())})")
    print(f"{total} targets in {len(scenes)} scenes; see {Path(options.out) / 'detections'}")
