"""`--track`: the history of a training, told to TensorBoard, Weights & Biases or MLflow through Accelerate's trackers.

Training keeps history.csv in its run's folder, a row an epoch. A thread reads it once a second and tells the new rows,
so that the loop knows of no tracker. A run that is resumed tells its earlier epochs again.
"""

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from cmf import paths

NAMES = ("tensorboard", "wandb", "mlflow")
SECONDS = 1.0      # between two looks


def arguments(parser) -> None:
    """`--track NAME`, which may be given several times."""
    parser.add_argument("--track", action="append", default=[], choices=NAMES,
                        help="show loss and score of each epoch there; may be given several times. tensorboard: "
                             "tensorboard --logdir build/tracked")


def check(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker that is not installed, with the command that installs it."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(f"--track {absent[0]}: not installed; pip install {' '.join(absent)}")


class Curves:
    """Trackers of one run, opened when there is something to tell.

    Args:
        names: of NAMES.
        label: the run's name.
        folder: for files of tensorboard and wandb; default build/tracked.
    """

    def __init__(self, names: Sequence[str], label: str, folder: Path | None = None):
        self.names, self.label, self.folder = names, label, folder or paths.build() / "tracked"
        self.open, self.told = [], 0

    def tell(self, rows: pd.DataFrame, recipe: Mapping) -> None:
        """Tell the rows that were not told yet: column epoch, and numbers. recipe: what the run was trained with."""
        if len(rows) and not self.open:
            self._start(recipe)
        for row in rows.iloc[self.told:].to_dict("records"):
            step = int(row.pop("epoch"))
            for tracker in self.open:
                tracker.log({name: float(value) for name, value in row.items()}, step=step)
        self.told = max(self.told, len(rows))

    def close(self) -> None:
        for tracker in self.open:
            tracker.finish()

    def _start(self, recipe: Mapping) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()      # the trackers ask it whether this is the main process
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = dict(tensorboard=dict(run_name=self.label, logging_dir=str(self.folder)),
                        wandb=dict(run_name="cmf", name=self.label, dir=str(self.folder)),
                        mlflow=dict(experiment_name="cmf", run_name=self.label))
        for name in self.names:
            tracker = LOGGER_TYPE_TO_CLASS[name](**settings[name])
            tracker.start()
            self.open.append(tracker)
            tracker.store_init_configuration(dict(recipe))


@contextmanager
def followed(names: Sequence[str], run: Path, label: str, folder: Path | None = None) -> Iterator[None]:
    """Inside, the rows that training adds to `run`/history.csv are told; the last ones on the way out.

    A tracker that fails is reported once on stderr; training goes on. Arguments as of `Curves`.
    """
    if not names:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(Curves(names, label, folder), run, ended), name="tracking")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(curves: Curves, run: Path, ended: threading.Event) -> None:
    last = False
    try:
        while not last:
            last = ended.wait(SECONDS)
            if (run / "history.csv").is_file():
                curves.tell(pd.read_csv(run / "history.csv"), json.loads((run / "config.json").read_text())["recipe"])
        curves.close()
    except Exception as reason:      # whatever a tracker raises; the training is worth more than its curves
        print(f"cmf: --track stopped at epoch {curves.told}: {' '.join(str(reason).split())}", file=sys.stderr)
