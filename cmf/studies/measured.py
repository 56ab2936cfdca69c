"""`python -m cmf measure`: folders of fused pictures to tables of measures, their means and a table of ranks."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd

from cmf import processes
from cmf.datasets import pairs
from cmf.datasets.names import listed
from cmf.datasets.pictures import read
from cmf.metrics import fusion
from cmf.metrics.intervals import bootstrap_interval

KEYS = ["fused", "stem"]  # columns of a row before the measures


def measure_arrays(triples, names=None, jobs: int | None = 1, data_range: float = 255) -> pd.DataFrame:
    """The measures of pictures in memory, one row a triple, in order.

    Args:
        triples: sequence of (infrared, visible, fused), each (H, W) with values in 0..data_range.
        names: of `cmf.metrics.fusion.MEASURES`; None: all.
        jobs: processes; None: as many as pay, at most one a core.
        data_range: the value of white.

    Raises:
        TypeError, ValueError: as `cmf.metrics.fusion.evaluate`; jobs below 1.

    Example:
        >>> a = np.tile(np.arange(64.), (64, 1))
        >>> measure_arrays([(a, a.T, a)], ["SD", "CC"]).round(2).to_dict("list")
        {'SD': [18.47], 'CC': [0.5]}
    """
    names = fusion.chosen(names)
    tasks = [(triple, names, data_range) for triple in triples]
    return pd.DataFrame(spread(_evaluate, tasks, jobs), columns=list(names))


def _evaluate(task) -> dict:
    triple, names, data_range = task
    return fusion.evaluate(*triple, data_range, names)


def spread(work, tasks: list, jobs: int | None) -> list:
    """`cmf.processes.spread` of pictures to measure: a process pays from 16 of them, and has one thread of OpenCV."""
    return processes.spread(work, tasks, "measure", jobs, each=16, first=_one_thread)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def measure_folders(infrared, visible, fused, names=None, jobs: int | None = None) -> pd.DataFrame:
    """The measures of fused pictures in folders, one row a picture: columns fused (the folder), stem, the measures.

    Args:
        infrared, visible: the sources, two folders with partners of one name, or two files.
        fused: folders of fused pictures with the names of their sources, or one file a method where the sources are
            files. Each is called by its folder's name (a file by its own), with the folder above where two are alike.
        names: of `cmf.metrics.fusion.MEASURES`; None: all.
        jobs: processes; None: as many as pay, at most one a core.

    Colour counts by its luma (BT.601); 8-bit luma is rounded to levels. Sources without a fused picture are left out.

    Raises:
        FileNotFoundError, ValueError: as `cmf.datasets.pairs.match` and `load`; fused pictures without sources, or
            that not all folders have (their names are listed); sizes that differ; an unknown measure.
    """
    names = fusion.chosen(names)
    found = {pair.stem: pair for pair in pairs.match(visible, infrared)}
    folders = _labelled([Path(folder) for folder in fused])
    made = {label: _fused(folder, found) for label, folder in folders.items()}
    every = set().union(*made.values())
    for label, files in made.items():
        if every - files.keys():
            raise ValueError(f"{folders[label]} lacks pictures that other folders have: "
                             f"{listed(sorted(every - files.keys()))}; means over different pictures must not be "
                             "compared")
    tasks = [(found[stem], {label: files[stem] for label, files in made.items()}, names) for stem in sorted(every)]
    rows = [row for answer in spread(_rows, tasks, jobs) for row in answer]
    order = {label: k for k, label in enumerate(folders)}
    rows.sort(key=lambda row: order[row["fused"]])
    return pd.DataFrame(rows, columns=[*KEYS, *names])


def _labelled(folders: list[Path]) -> dict[str, Path]:
    """Folders by the shortest names that tell them apart."""
    plain = [folder.resolve() for folder in folders]
    if len(set(plain)) < len(plain):
        raise ValueError(f"a fused folder is given twice: {', '.join(map(str, folders))}")
    for depth in range(1, max((len(path.parts) for path in plain), default=1)):
        names = ["/".join(path.with_suffix("").parts[-depth:] if path.is_file() else path.parts[-depth:])
                 for path in plain]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True))


def _fused(folder: Path, sources: dict) -> dict[str, Path]:
    """The fused pictures of a folder by stem; a file is the picture of the only pair."""
    if folder.is_file() and len(sources) == 1:
        return {next(iter(sources)): folder}
    files = {pair.stem: pair.visible for pair in pairs.match(folder, folder)}
    lone = files.keys() - sources.keys()
    if lone:
        raise ValueError(f"{folder}: fused pictures without sources: {listed(sorted(lone))}; a fused picture "
                         f"bears the name of its sources, such as {min(sources)}")
    return files


def _rows(task) -> list[dict]:
    """Rows of all fused pictures of one pair."""
    pair, files, names = task
    visible, infrared = map(levels, pairs.load(pair))
    rows = []
    for label, path in files.items():
        fused = levels(read(path))
        if not fused.shape == visible.shape:
            sizes = (f"{shape[1]} x {shape[0]}" for shape in (fused.shape, visible.shape))
            raise ValueError("{}: {} pixels (width x height), but its sources have {}; fuse at full size, or resize "
                             "it".format(path, *sizes))
        rows.append({"fused": label, "stem": pair.stem, **fusion.evaluate(infrared, visible, fused, 255, names)})
    return rows


def levels(picture) -> np.ndarray:
    """Luma on the scale 0..255: (H, W)."""
    scaled = picture.luma.astype(np.float64) * 255
    return np.rint(scaled) if picture.bits == 8 else scaled


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of each measure over the pictures of a folder with its 95 % bootstrap interval, a row a folder and measure.

    Columns: fused, measure, better, unit, mean, low, high, n. Values that are not finite (a measure of a picture that
    is too small, PSNR of identical pictures) are left out; n is what remains, mean NaN when that is none.
    """
    out = []
    for label, own in rows.groupby("fused", sort=False):
        for name in own.columns.drop(KEYS):
            values = own[name].to_numpy(float)
            values = values[np.isfinite(values)]
            interval = bootstrap_interval(values) if len(values) else (math.nan,) * 3
            fact = fusion.MEASURES[name]
            out.append((label, name, fact.better, fact.unit, *interval, len(values)))
    return pd.DataFrame(out, columns=["fused", "measure", "better", "unit", "mean", "low", "high", "n"])


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Rank of each folder in each measure's mean, 1 the best, ties share the mean of their ranks; best first.

    table: of `means`. Returns fused, mean_rank (over the measures), then a column a measure. A measure that some folder
    has no mean of, or that is not over equally many pictures in all, is left out.

    Example:
        >>> table = pd.DataFrame({"fused": ["one", "two"], "measure": "Nabf", "mean": [0.2, 0.1], "n": 5})
        >>> ranks(table).values.tolist()
        [['two', 1.0, 1.0], ['one', 2.0, 2.0]]
    """
    names, labels = list(dict.fromkeys(table.measure)), list(dict.fromkeys(table.fused))
    mean, n = (table.pivot(index="fused", columns="measure", values=column).loc[labels, names]
               for column in ("mean", "n"))
    mean = mean.loc[:, mean.notna().all() & (n.nunique() == 1)]
    signs = [1 if fusion.MEASURES[name].better == "down" else -1 for name in mean.columns]
    out = (mean * signs).round(12).rank(method="average")
    out.insert(0, "mean_rank", out.mean(axis=1))
    return out.sort_values("mean_rank", kind="stable").rename_axis(columns=None).reset_index()


def write(out: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Write tables as CSV beside `out`, all aside, then rename: suffix of the name ("", "_means") -> table.

    Raises OSError when they cannot be written; nothing is left behind then.
    """
    paths = [out.with_name(f"{out.stem}{suffix}{out.suffix}") for suffix in tables]
    parts = [path.with_name(f"{path.name}.{os.getpid()}.part") for path in paths]
    try:
        for part, table in zip(parts, tables.values(), strict=True):
            part.write_text(table.to_csv(index=False, float_format="%.9g", lineterminator="\n"), encoding="utf-8")
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return paths


def arguments(parser) -> None:
    """`python -m cmf measure --infrared DIR --visible DIR --fused DIR [--fused DIR ...] --out CSV`."""
    parser.add_argument("--infrared", required=True, metavar="DIR", help="infrared (or MRI) pictures, or one")
    parser.add_argument("--visible", required=True, metavar="DIR", help="visible pictures of the same names")
    parser.add_argument("--fused", required=True, action="append", metavar="DIR",
                        help="fused pictures of the same names; once for each method, to rank them")
    parser.add_argument("--out", required=True, metavar="CSV",
                        help="a row a picture; means and ranks go beside it, *_means.csv and *_ranks.csv")
    parser.add_argument("--measures", metavar="EN,SD,...", help="default: all of them: " + ", ".join(fusion.MEASURES))
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; default: as many as pay")
    parser.set_defaults(run=_run)


def _run(options) -> None:
    from cmf.studies.score import writable

    out = Path(options.out)
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; name a file, such as {out / 'measures.csv'}")
    names = fusion.chosen(options.measures and [name.strip() for name in options.measures.split(",")])
    writable(out.absolute().parent)
    rows = measure_folders(options.infrared, options.visible, options.fused, names, options.jobs)
    average = means(rows)
    tables = {"": rows, "_means": average}
    if len(options.fused) > 1:
        tables["_ranks"] = ranks(average)
    paths = write(out, tables)
    print(shown(average))
    if "_ranks" in tables:
        ordered = tables["_ranks"]
        left = [name for name in names if name not in ordered]
        print(f"\nRanks of the means, 1 the best, ties shared{'; without ' + ', '.join(left) if left else ''}",
              ordered.to_string(index=False, float_format="{:.3g}".format), sep="\n")
    print(f"\n{rows.stem.nunique()} pictures; written to {', '.join(map(str, paths))}")


def shown(average: pd.DataFrame) -> str:
    """Means as a table: a row a measure with its direction, a column a folder; with intervals for up to three."""
    cell = average["mean"].map("{:.4g}".format)
    if average.fused.nunique() <= 3:
        cell += " [" + average.low.map("{:.4g}".format) + ", " + average.high.map("{:.4g}".format) + "]"
    head = average.measure + " (" + average.better + average.unit.map(lambda unit: f", {unit})" if unit else ")")
    table = average.assign(cell=cell, head=head).pivot(index="head", columns="fused", values="cell")
    order = list(dict.fromkeys(head)), list(dict.fromkeys(average.fused))
    return table.loc[order].rename_axis(index=None, columns=None).to_string()
