"""What `python -m cmf train METHOD` and `evaluate METHOD` share: options, files to write, how measures are told."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cmf import paths, runs
from cmf.studies import tracking
from cmf.studies.score import writable

OPTIONS = dict(epochs=(int, "passes over the training data"), batch=(int, "samples a step, over all processes"),
               lr=(float, "peak learning rate"), accumulate=(int, "micro-batches of each process's share of a batch"))
PARTS = ("train", "validation", "test")
HELD_OUT = 0.2      # share of the data for validation, and for the test


def training_arguments(parser, method: str, default: str) -> None:
    """Where weights and checkpoints go, the recipe's options and --track. default: where unsaid numbers come from."""
    parser.add_argument("--out", metavar="FILE", help=f"weights; default build/{method}_NAME.safetensors")
    parser.add_argument("--checkpoints", "--run", metavar="DIR",
                        help=f"a run found there is resumed (default: a folder of these data and settings, "
                             f"build/runs/{method}_...); torchrun takes --run for an option of its own, so say "
                             "--checkpoints there")
    for name, (kind, text) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, metavar=name[0].upper(), help=f"{text}; default: {default}")
    tracking.arguments(parser)


def changed(options) -> dict:
    """The recipe's fields that were said on the command line."""
    return {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}


def main_process() -> bool:
    """Whether this process is the one that prints and writes, alone or under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def weights_file(given: str | None, method: str, name: str) -> Path:
    """The file of weights to write; its folder is made.

    Raises:
        ValueError: another suffix than .safetensors, or a folder. OSError: a folder that cannot be written.
    """
    out = Path(given or paths.build() / f"{method}_{name}.safetensors")
    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"--out {out}: expected a file to write, NAME.safetensors")
    writable(out.absolute().parent)
    return out


def run_folder(given: str | None, label: str, digest: str) -> Path:
    """The folder of a run's checkpoints: `given`, or build/runs/<label>_<first digits of digest>.

    digest: hexadecimal, of data and settings. It is kept in the folder, so that no run goes on with others.

    Raises:
        ValueError: the folder is of a run with other data or settings. OSError: it cannot be written.
    """
    folder = writable(Path(given or paths.build() / "runs" / f"{label}_{digest[:8]}"))
    told = folder / "inputs.sha256"
    if told.is_file() and told.read_text(encoding="utf-8").strip() != digest:
        raise ValueError(f"{folder} holds a run with other data or settings; delete it, or give another folder "
                         "with --checkpoints")
    if main_process():
        runs.write_text(told, digest + "\n")
    return folder


def divided(labels: Sequence[int], names: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Row numbers of the parts: of each class HELD_OUT at random for the test, as many for validation, one at least.

    labels: (n,) numbers of classes. names: of the classes. The rows of a part are in order.

    Raises:
        ValueError: fewer than two classes, or a class with fewer than three samples.
    """
    labels, found = np.asarray(labels), {name: [] for name in PARTS}
    if len(names) < 2:
        raise ValueError(f"{len(names)} class ({', '.join(names)}); expected two or more to tell apart")
    for k, name in enumerate(names):
        rows = np.random.default_rng([seed, 29, k]).permutation(np.flatnonzero(labels == k))
        if len(rows) < 3:
            raise ValueError(f"{len(rows)} targets of class {name}; expected 3 or more, so that training, validation "
                             "and test have one each")
        held = max(1, round(HELD_OUT * len(rows)))
        for part, some in zip(PARTS, np.split(rows[::-1], [len(rows) - 2 * held, len(rows) - held]), strict=True):
            found[part].extend(some.tolist())
    return {part: np.sort(rows) for part, rows in found.items()}


def say_other_data(what: str, split: str) -> None:
    """Print that a part of data is not what training held out, as the weights were not trained on these data."""
    print(f"these are not the {what} that the weights were trained on, and {split} is a part of them; --split all "
          "takes every one")


def lines(table: pd.DataFrame, whole: Sequence[str] = (), absent: str = "not defined") -> list[str]:
    """The rows of a table of measures (measure, value, low, high) as they are printed.

    whole: measures that count something. absent: what is said of a value that is NaN.
    """
    out = []
    for row in table.itertuples():
        spread = f"  {row.low:.3f} to {row.high:.3f}" if row.low == row.low else ""
        number = absent if row.value != row.value else f"{row.value:{'.0f' if row.measure in whole else '.3f'}}"
        out.append(f"  {row.measure.replace('_', ' '):<24}{number:>8}{spread}")
    return out


def write_measures(out: Path, table: pd.DataFrame, **record) -> str:
    """Write measures.csv and measures.json (the table, `record` and the provenance) into a folder; what to print."""
    runs.write_text(out / "measures.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    told = record | dict(measures=as_record(table), run=runs.provenance())
    runs.write_text(out / "measures.json", json.dumps(told, indent=1) + "\n")
    return f"{out / 'measures.csv'}, {out / 'measures.json'}"


def as_record(table: pd.DataFrame) -> dict[str, Mapping[str, float | None]]:
    """A table of measures as plain numbers: measure -> value, low, high; None for NaN."""
    plain = lambda x: None if x != x else float(f"{x:.6g}")
    return {row.measure: dict(value=plain(row.value), low=plain(row.low), high=plain(row.high))
            for row in table.itertuples()}
