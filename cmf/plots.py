"""One look for every figure, and one way to keep one: by name, with its numbers and its origin beside it."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox

from cmf import paths, runs

COLUMN = 3.5   # inches: one column of an IEEE page
PAGE = 7.16    # inches: both columns
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")  # Okabe, Ito
STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "font.family": "DejaVu Sans",
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS), "image.cmap": "viridis",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "lines.linewidth": 1.2, "lines.markersize": 3, "legend.frameon": False,
    "axes.grid": True, "grid.linewidth": 0.3, "grid.alpha": 0.5, "axes.axisbelow": True,
    "figure.dpi": 150, "savefig.dpi": 200, "pdf.fonttype": 42, "svg.hashsalt": "cmf",
}
_saved: set[tuple[str, str]] = set()


class Layout(ConstrainedLayoutEngine):
    """Matplotlib's constrained layout, with the edges of the axes on a grid of 1e-5 of the figure.

    Constrained layout starts from where the axes stand, so that each further drawing moves them by some 1e-11, and a
    PDF of them differs in a last digit. On the grid, a fiftieth of a pixel or finer, they stay.
    """

    def execute(self, fig: Figure) -> None:
        """Place the axes of a figure; those that are taken out of the layout stay where they are."""
        super().execute(fig)
        for ax in fig.axes:
            if ax.get_in_layout():
                edges = ax.get_position(original=True).extents
                ax.set_position(Bbox.from_extents(*edges.round(5)))
                ax.set_in_layout(True)                 # set_position took it out


def figure(rows: int = 1, columns: int = 1, *, width: float = COLUMN, height: float | None = None, **more):
    """A figure in the house style and its axes, as `plt.subplots` gives them.

    Args:
        rows, columns: number of panels.
        width: inches; COLUMN or PAGE.
        height: inches; default: panels in the ratio 4 to 3.
        more: passed to `plt.subplots`.

    Raises:
        ValueError: wider than a page, or no size.

    Example:
        >>> fig, axes = figure(1, 2, width=PAGE)
        >>> axes.shape
        (2,)
    """
    if not 0 < width <= PAGE + 1e-9:
        raise ValueError(f"width must be above 0 and at most {PAGE} inches (PAGE), got {width}")
    if height is not None and height <= 0:
        raise ValueError(f"height must be above 0 inches, got {height}")
    plt.rcParams.update(STYLE)
    size = (width, height or 0.75 * width / columns * rows)
    return plt.subplots(rows, columns, figsize=size, layout=Layout(), **more)


def picture(ax: Axes, pixels: np.ndarray, title: str | None = None, **more) -> None:
    """Show a picture without ticks, grid and frame.

    Args:
        pixels: (H, W) or (H, W, 3), as `Axes.imshow` takes it. title: small, above it; empty or None: none.
        more: passed to `Axes.imshow`.
    """
    ax.imshow(pixels, **more)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, pad=2, fontsize=6.5)


def bars(ax: Axes, names: pd.Series, x: pd.Series, low: pd.Series, high: pd.Series) -> None:
    """Points with their intervals, a name a line; a point outside its interval has no bar on that side."""
    ax.errorbar(x, names, xerr=[(x - low).clip(0), (high - x).clip(0)], fmt="o")


def arms(axes: Sequence[Axes], table: pd.DataFrame, score: str, ours: str) -> None:
    """A table of arms: on the left the score of each, on the right what `ours` is ahead of each other arm.

    Args:
        axes: two panels that share y.
        table: a row an arm, drawn from the top: arm, the column `score` with low and high, and difference with
            difference_low and difference_high (ours minus the arm).

    Raises:
        ValueError: no arm of the name `ours`.
    """
    order = table.iloc[::-1]
    if ours not in set(order.arm):
        raise ValueError(f"no arm {ours!r} in the table; there are {', '.join(table.arm)}")
    bars(axes[0], order.arm, order[score], order.low, order.high)
    gaps = order[["difference", "difference_low", "difference_high"]].where(order.arm != ours)
    bars(axes[1], order.arm, gaps.difference, gaps.difference_low, gaps.difference_high)
    axes[1].axvline(0, color="black", lw=0.8)


def save(fig: Figure, name: str, data: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None, *,
         claim: str | None = None, inputs: Mapping[str, str] | None = None, simulated: bool = True) -> Path:
    """Keep a figure: name.pdf, name.png, the numbers as CSV, and a JSON on how it came to be.

    The runner says where (CMF_FIGURES); elsewhere it is build/interactive/figures. Saving the same figure
    again gives the same bytes.

    Args:
        fig: drawn with `figure`.
        name: lower-case letters, digits, underscores; no folder, no extension.
        data: the table behind the figure (name.csv), or several (name.key.csv). Without it the lines of the
            axes are written.
        claim: the sentence the figure supports, asserted before it is drawn.
        inputs: names and hashes of data or weights behind it, beside those noted by `cmf.runs`.
        simulated: True puts the words "simulated data" in the corner.

    Returns:
        The path of the PDF.

    Raises:
        ValueError: a name with other characters, a name that this run has used, no data and no lines, or an
            empty table.

    Example:
        >>> fig, ax = figure()
        >>> line = ax.plot([0, 1], [0, 1], label="identity")
        >>> save(fig, "identity", simulated=False).name
        'identity.pdf'
    """
    if not re.fullmatch("[a-z0-9_]+", name):
        raise ValueError(f"a figure's name has lower-case letters, digits and underscores only, got {name!r}; "
                         "the folder and the file types are chosen for you")
    folder = paths.figures()
    if os.environ.get("CMF_FIGURES") and (str(folder), name) in _saved:
        raise ValueError(f"this run has saved a figure {name!r} already; give each figure a name of its own")
    if data is None:
        data = _lines(fig, name)
    tables = {f"{name}.csv": data} if isinstance(data, pd.DataFrame) else {
        f"{name}.{key}.csv": table for key, table in data.items()}
    for file, table in tables.items():
        if not isinstance(table, pd.DataFrame) or table.empty:
            raise ValueError(f"{file} would be empty; data is a DataFrame with rows, or a dict of them")
    if simulated:
        _note(fig)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for kind, facts in (("pdf", {"CreationDate": None, "Creator": "cmf", "Producer": "matplotlib"}),
                            ("png", {"Software": "matplotlib"})):
            part = folder / f"{name}.{kind}.part"
            fig.savefig(part, format=kind, metadata=facts)
            os.replace(part, folder / f"{name}.{kind}")
    for file, table in tables.items():
        runs.write_text(folder / file, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    facts = {"figure": name, "claim": claim, "simulated": simulated, "inputs": dict(inputs or {}),
             "tables": {file: [str(c) for c in table.columns] for file, table in sorted(tables.items())},
             "run": runs.provenance()}
    path = folder / f"{name}.json"
    if not (path.is_file() and runs.same_facts(json.loads(path.read_text()), json.loads(json.dumps(facts)))):
        runs.write_text(path, json.dumps(facts, indent=1, sort_keys=True) + "\n")
    _saved.add((str(folder), name))
    return folder / f"{name}.pdf"


def value(name: str, number: float | int | str, unit: str | None = None, fmt: str | None = None) -> str:
    """Keep a number for the paper's text, in values/<notebook>.json beside the figures.

    Args:
        name: lower-case letters, digits, underscores; unique in the notebook.
        number: finite; kept with 6 significant digits. A string is kept as it is.
        unit: written after the number in the text.
        fmt: format of the text, as in "{:.2f}" without braces and colon; default 3 significant digits,
            integers in full.

    Returns:
        The text as the paper shows it, with its unit.

    Raises:
        ValueError: a name with other characters, or a number that is not finite.

    Example:
        >>> value("macro_f1", 0.87345, fmt=".2f")
        '0.87'
    """
    if not re.fullmatch("[a-z0-9_]+", name):
        raise ValueError(f"a value's name has lower-case letters, digits and underscores only, got {name!r}")
    if not isinstance(number, str):
        number = number.item() if hasattr(number, "item") else number
        if not math.isfinite(number):
            raise ValueError(f"the value {name!r} is {number}; the paper needs a finite number")
        if isinstance(number, float):
            number = float(f"{number:.6g}")
    text = format(number, fmt or (".3g" if isinstance(number, float) else ""))
    text = f"{text} {unit}" if unit else text
    path = paths.figures() / "values" / f"{os.environ.get('CMF_NOTEBOOK') or 'interactive'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept[name] = {"value": number, "text": text, "unit": unit}
    runs.write_text(path, json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return text


def _lines(fig: Figure, name: str) -> pd.DataFrame:
    tables = [pd.DataFrame({"panel": k, "line": line.get_label().lstrip("_"), "x": line.get_xdata(),
                            "y": line.get_ydata()})
              for k, ax in enumerate(fig.axes) for line in ax.lines]
    if not tables:
        raise ValueError(f"the figure {name!r} has no lines to read numbers from; pass data=")
    return pd.concat(tables, ignore_index=True)


def _note(fig: Figure) -> None:
    if any(text.get_gid() == "simulated" for text in fig.texts):
        return
    engine = fig.get_layout_engine()
    if engine is not None and hasattr(engine, "set"):
        share = 0.09 / fig.get_figheight()  # the note's height
        engine.set(rect=(0, share, 1, 1 - share))
    fig.text(0.995, 0.004, "simulated data", ha="right", va="bottom", fontsize=5, color="0.45", gid="simulated")
