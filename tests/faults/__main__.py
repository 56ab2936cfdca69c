"""`PYTHONPATH=tests python -m faults [--quick] [--only STAGE] [--seed 0]`: the campaign and its table."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from cmf import runs
from faults import harm, works
from faults.kill import kills

COUNTS = {"weights": (30, 20), "feature extraction": (25, 25), "downloads": (30, 30), "training, one process": (20, 20),
          "training, two processes": (12, 12), "training, torchrun": (0, 4), "figures": (4, 8)}
QUICK = {"weights": (6, 2), "feature extraction": (3, 1), "downloads": (3, 1)}


def campaign(port: int, folder: Path, seed: int, quick: bool, only: str) -> Iterator[dict]:
    """Rows of the table, one after the other."""
    download = works.downloads(port)
    every = (works.WEIGHTS, works.FEATURES, download, works.ONE, works.TWO, works.TORCHRUN, works.FIGURES)
    counts = QUICK if quick else COUNTS
    some = [work for work in every if only in work.stage and work.stage in counts]
    for k, work in enumerate(some):
        for count, how in zip(counts[work.stage], ("operation", "moment"), strict=True):
            if count:
                yield kills(work, count, how, seed, folder / f"{k}{how}")
    if quick:
        yield harm.file_too_large(works.WEIGHTS, 2, seed, folder / "large")
        return
    for k, work in enumerate(work for work in some if work in (works.WEIGHTS, works.FEATURES, download, works.ONE)):
        yield harm.file_too_large(work, 6, seed, folder / f"{k}large")
        for found in (harm.disk_full(work, 4, seed, folder / f"{k}full"), harm.read_only(work, folder / f"{k}read")):
            if found is None:
                print("  left out: a small disk for this, which only root may mount", flush=True)
            else:
                yield found
    for k, (work, names) in enumerate(((works.FEATURES, "*.[nj][ps]*"), (works.ONE, "checkpoint.pt"),
                                       (harm.LOADING, "seed*.safetensors"), (download, "*.data*"))):
        if only in work.stage:
            yield from harm.damaged(work, names, 15, seed, folder / f"{k}damaged")
    for work, exchange in ((works.FEATURES, harm.swap_cached), (works.ONE, harm.swap_checkpoint)):
        if only in work.stage:
            yield harm.swapped(work, exchange, 6, seed, folder / f"swap{exchange.__name__}")
    if only in download.stage:
        wanted, _ = harm.reference(download, folder / "good")
        yield from harm.connections(port, folder / "good", wanted)
        yield harm.at_once(download, 10, folder / "both downloads")
    if only in works.FEATURES.stage:
        yield harm.at_once(works.FEATURES, 10, folder / "both features")
    if only in works.FIGURES.stage:
        yield harm.at_once(works.FIGURES, 1, folder / "both figures")
        yield harm.four_jobs(folder / "jobs")


def main(argv=None) -> int:
    """0 when nothing was lost. The table is kept as the result `faults`, unless a part was chosen."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a dozen kills, some seconds")
    parser.add_argument("--only", default="", metavar="STAGE", help="stages with this in their name")
    parser.add_argument("--seed", type=int, default=0, help="moments, operations and damage follow from it")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    os.environ.update(OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    server, port = works.serve()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for row in campaign(port, Path(folder).resolve(), args.seed, args.quick, args.only):
                rows.append(row)
                print("{stage:<25} {fault:<32} {survived:>3} of {tried:>3} {seconds:>7.1f} s".format(**row), flush=True)
                for words in row["lost"]:
                    print(f"  lost: {words}", flush=True)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    table = pd.DataFrame(rows).drop(columns="lost")
    killed = int(table.tried[table.fault.str.startswith("SIGKILL")].sum())
    print(f"{killed} kills, {int(table.tried.sum())} faults, {int((table.tried - table.survived).sum())} lost")
    if not args.quick and not args.only:
        runs.write_result("faults", table, profile="demo", kills=killed, seed=args.seed)
    return int((table.survived < table.tried).any())


if __name__ == "__main__":
    sys.exit(main())
