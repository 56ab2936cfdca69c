"""Pictures and tables of what was found in a scene, for a person to read.

Axes: n candidates, Ti image tokens, To sequence tokens, H, W rows and columns of a frame.
"""

import json
import os
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle

from cmf import plots
from cmf.encoders.features import stretch
from cmf.simulate.deepspace import CLASSES, NAMES, Scene
from cmf.studies.scenes import BOX_A, Answer, judged

COLOUR = dict(zip(CLASSES, plots.COLOURS, strict=False))


def _colours(found: Answer) -> dict[str, str]:
    """A colour for each class of the classifier, those of the simulated classes where it knows no others."""
    own = [name.removeprefix("p_") for name in found.boxes.columns if name.startswith("p_")] or list(CLASSES)
    known = COLOUR if set(own) <= set(COLOUR) else dict(zip(own, cycle(plots.COLOURS), strict=False))
    return {name: known[name] for name in own}


def _label_places(boxes: np.ndarray, sizes: np.ndarray, shape: tuple[int, int], others=()) -> np.ndarray:
    """Corners x, y (n, 2) of labels of sizes (n, 2) beside boxes (n, 4), clear of all and of `others` if possible."""
    taken, places = [*map(tuple, boxes), *map(tuple, others)], []
    for (x0, y0, x1, y1), (w, h) in zip(boxes, sizes, strict=True):
        middle = (y0 + y1 - h) / 2
        tries = [(x1 + 2, middle), (x0 - 2 - w, middle), (x0, y0 - 2 - h), (x0, y1 + 2), (x1 - w, y0 - 2 - h),
                 (x1 - w, y1 + 2), (x1 + 2, y0 - h), (x1 + 2, y1)]
        clash = [sum(x < r and x + w > l and y < b and y + h > t for l, t, r, b in taken)
                 + 9 * (x < 0 or y < 0 or x + w > shape[1] or y + h > shape[0]) for x, y in tries]
        x, y = tries[int(np.argmin(clash))]
        taken.append((x, y, x + w, y + h))
        places.append((x, y))
    return np.reshape(places, (-1, 2))


def _caption(row: pd.Series, true: str | None) -> str:
    text = f"{row.name} {row['name']} {row['score']:.2f}" + (" (no sequence)" if row["sequence_row"] < 0 else "")
    if true is None:
        return text
    return text + (" NOT A TARGET" if true == "" else "" if true == row["label"] else f" TRUE: {NAMES[true]}")


def draw_overlay(found: Answer, truth: Scene | None = None):
    """Frame A with a numbered box, class and probability a target, its motion, and the first candidates enlarged.

    With the truth of a simulated scene also wrong classes, false candidates and missed targets are marked.
    Returns the figure; the counts are stretched (arcsinh of noise units).
    """
    h, w = found.frames.shape[1:]
    side, bottom, pad = 5.15, 0.42, 7                         # inches, inches, pixels
    tall = side * h / w
    fig, ax = plots.figure(width=plots.PAGE, height=tall + bottom + 0.22)
    fig.set_layout_engine(None)
    height = fig.get_figheight()
    ax.set_position([0.005, bottom / height, side / plots.PAGE, tall / height])
    ax.imshow(stretch(found.frames[None])[0, 0], cmap="gray", vmin=0.25, vmax=1)
    ax.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))
    ax.set_axis_off()
    colours = _colours(found)
    table = None if truth is None else judged(found, truth)
    labels = {} if table is None else {r: label for r, label in zip(table["row"], table["label"], strict=True)}
    true = [None if table is None else labels.get(i, "") for i in range(len(found.boxes))]
    captions = [_caption(row, name) for (_, row), name in zip(found.boxes.iterrows(), true, strict=True)]
    boxes = found.boxes[BOX_A].to_numpy(float) + [-pad, -pad, pad, pad]                  # (n, 4)
    tail = found.boxes[["x_a", "y_a"]].to_numpy(float)
    tip = tail + 6 * found.boxes[["dx", "dy"]].to_numpy(float)
    arrows = np.concatenate([np.minimum(tail, tip), np.maximum(tail, tip)], 1)           # (n, 4)
    unit = w / side / 72                                                                 # pixels a point
    sizes = np.array([(2.95 * len(text) * unit, 7.5 * unit) for text in captions]).reshape(-1, 2)
    for (_, row), box, text, place, size in zip(found.boxes.iterrows(), boxes, captions,
                                                _label_places(boxes, sizes, (h, w), arrows), sizes, strict=True):
        colour = colours[row["label"]]
        ax.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, ec=colour, lw=1.3))
        ax.annotate("", (row["x_a"] + 6 * row["dx"], row["y_a"] + 6 * row["dy"]), (row["x_a"], row["y_a"]),
                    arrowprops=dict(arrowstyle="-|>,head_width=0.12,head_length=0.25", color=colour, lw=0.8,
                                    shrinkA=3, shrinkB=0))
        ax.add_patch(Rectangle(place, *size, fc="k", ec=colour, lw=0.6, alpha=0.8))
        ax.text(place[0] + size[0] / 2, place[1] + size[1] / 2, text, color="w", fontsize=5.2, ha="center",
                va="center_baseline")
    missed = [] if table is None else truth.positions_a[table["row"] < 0]
    for place in missed:
        ax.add_patch(Circle(place, 16, fill=False, ec="w", lw=1, ls=":"))
    for i in range(min(len(found.boxes), 3 * max(1, int(tall / 0.64)))):                 # candidates, enlarged
        left = (side + 0.1 + 0.64 * (i % 3)) / plots.PAGE
        chip = fig.add_axes([left, (bottom + tall - 0.6 - 0.64 * (i // 3)) / height, 0.6 / plots.PAGE, 0.6 / height])
        chip.imshow(stretch(found.chips[i][None])[0, 0], cmap="gray", vmin=0.2, vmax=1)
        chip.text(0.04, 0.94, i, color="w", fontsize=7, va="top", transform=chip.transAxes)
        chip.set(xticks=[], yticks=[])
        chip.grid(False)
        chip.spines[:].set(visible=True, color=colours[found.boxes["label"].iloc[i]], linewidth=1.6)
    fig.text(0.005, 1 - 0.03 / height, f"{found.id}, frame A: {len(found.boxes)} targets. Number, class and its "
             "probability; arrow: motion to frame B, six times as long; right: enlarged.", fontsize=7, va="top")
    _legend(fig, found, len(missed), truth is not None)
    return fig


def _legend(fig, found: Answer, missed: int, with_truth: bool) -> None:
    counts = found.boxes["label"].value_counts()
    handles = [Line2D([], [], ls="", marker="s", ms=6, mfc="none", mec=colour, mew=1.3,
                      label=f"{NAMES.get(name, name)}: {counts.get(name, 0)}")
               for name, colour in _colours(found).items()]
    if with_truth:
        handles.append(Line2D([], [], ls="", marker="o", ms=7, mfc="none", mec="0.4", mew=1, label=f"missed: {missed}"))
    fig.legend(handles=handles, loc="lower left", ncols=len(handles), fontsize=6.5, handletextpad=0.2,
               columnspacing=1.1, borderaxespad=0.2, bbox_to_anchor=(0, 0.06 / fig.get_figheight()))


def draw_heat(found: Answer, rows, grid: int):
    """Where in the crops of these targets the importance and the attention lie; returns the figure.

    For each: importance of the grid tokens of both crops (mean 1 over all tokens); how strongly the grid tokens
    attend to the sequence token of largest importance, where 1 is even attention; importance of the other tokens.
    """
    rows = list(rows)
    block = 1.98                                                                         # inches a target
    fig, whole = plots.figure(height=block * len(rows))
    fig.set_layout_engine(None)
    whole.remove()
    high = fig.get_figheight()
    axes = lambda x, y, w, h: fig.add_axes([x / plots.COLUMN, y / high, w / plots.COLUMN, h / high])
    cells, images = grid * grid, found.attention.shape[1]
    others = [*range(2 * cells, len(found.names))]
    for row, base in zip(rows, block * np.arange(len(rows))[::-1], strict=True):
        strongest = int(found.importance[row, images:].argmax())
        focus = found.attention[row, :, strongest] * found.attention.shape[2]            # (Ti,)
        for k, (values, what) in enumerate(((found.importance[row], "importance"), (focus, "attention"))):
            for f, frame in enumerate("AB"):
                ax = axes(0.04 + 0.865 * (2 * k + f), base + 0.86, 0.825, 0.825)
                _cells(ax, found.chips[row, f], values[f * cells:(f + 1) * cells].reshape(grid, grid))
                ax.set_title(f"{what}, {frame}", fontsize=6.5, pad=2)
        chosen = found.boxes.iloc[row]
        fig.text(0.012, (base + block - 0.03) / high, f"{found.id}, {row}: {chosen['name']}, probability "
                 f"{chosen['score']:.2f}; attention to {found.names[images + strongest]}", fontsize=6.5, va="top")
        ax = axes(0.33, base + 0.23, 3.13, 0.45)
        ax.bar(range(len(others)), found.importance[row, others], width=0.6,
               color=[plots.COLOURS[int(i >= images)] for i in others])
        ax.axhline(1, color="0.4", lw=0.6)
        short = [found.names[i].replace("radiometric", "radiom.").replace("patches", "patch") for i in others]
        ax.set_xticks(range(len(others)), short)
        ax.tick_params(axis="both", labelsize=5.2, length=2, pad=1.5)
        ax.grid(False)
        ax.set_ylabel("importance", fontsize=6, labelpad=1)
        for start, stop, word in ((2 * cells, images, "image"), (images, len(found.names), "sequence")):
            ax.text((start + stop - 1) / 2 - 2 * cells, 1.04, f"{word} tokens", fontsize=6, ha="center",
                    color=plots.COLOURS[int(word == "sequence")], transform=ax.get_xaxis_transform())
    return fig


def _cells(ax, chip: np.ndarray, values: np.ndarray) -> None:
    """A crop under a grid of numbers, colour from 0 to 2."""
    grid = len(values)
    ax.imshow(stretch(chip[None, None])[0, 0], cmap="gray", vmin=0.2, vmax=1, extent=(0, grid, grid, 0))
    ax.imshow(values, cmap="PuOr_r", vmin=0, vmax=2, alpha=0.4, extent=(0, grid, grid, 0), interpolation="nearest")
    for (r, c), value in np.ndenumerate(values):
        ax.text(c + 0.06, r + 0.06, f"{value:.1f}", color="w", fontsize=min(5, 16 / grid), va="top")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def write(found: Answer, out: Path, grid: int) -> list[Path]:
    """detections/<id>.png, .csv, .json; heatmaps/<id>_<k>.png; fusion_weights/<id>.csv. Returns the paths.

    k is the number of the target in the overlay and its row in the tables. Each file is written aside and renamed.
    """
    written = []

    def put(path: Path, writer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        writer(part)
        os.replace(part, path)
        written.append(path)

    def picture(path: Path, fig, dpi: int) -> None:
        put(path, lambda part: fig.savefig(part, dpi=dpi))
        plt.close(fig)

    places = out / "detections"
    picture(places / f"{found.id}.png", draw_overlay(found), 220)
    put(places / f"{found.id}.csv", lambda part: found.boxes.to_csv(part, index_label="target", float_format="%.6g"))
    rounded = lambda v: float(f"{v:.6g}") if isinstance(v, float) else v
    records = [dict(target=i, **{name: rounded(v) for name, v in record.items()})
               for i, record in enumerate(found.boxes.to_dict("records"))]
    put(places / f"{found.id}.json", lambda part: part.write_text(json.dumps(dict(id=found.id, targets=records),
                                                                            indent=1)))
    table = pd.DataFrame(found.importance, columns=list(found.names))
    table.insert(0, "target", np.arange(len(table)))
    put(out / "fusion_weights" / f"{found.id}.csv", lambda part: table.to_csv(part, index=False, float_format="%.5g"))
    for row in range(len(found.boxes)):
        picture(out / "heatmaps" / f"{found.id}_{row:02d}.png", draw_heat(found, [row], grid), 250)
    return written
