"""Faults that are no kill: a full disk, a read-only folder, damaged files, bad connections, two users at once."""

import contextlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from cmf import cache, weights
from faults import works
from faults.kill import Ended, Work, start, wait, whole

DISK = 4 * 2**20  # bytes of the small disk


def row(stage: str, fault: str, began: float, outcomes: list[str]) -> dict:
    """A row of the campaign; an outcome is "" or says what was lost."""
    lost = [words for words in outcomes if words]
    return dict(stage=stage, fault=fault, tried=len(outcomes), survived=len(outcomes) - len(lost),
                seconds=round(time.monotonic() - began, 1), lost=lost)


def again(work: Work, place: Path, wanted: dict, first: Ended, words: str = "") -> str:
    """After a run that may have failed: the next one ends with what is wanted. words: what a failure says."""
    if first.status not in (0, 1) or first.status and words not in first.said:
        return f"ended with {first.status}: {first.said[-800:]}"
    ended = whole(work.run, place)
    if ended.status:
        return f"does not go on: {ended.said[-800:]}"
    return "" if work.content(place) == wanted else "ends with other bytes"


def reference(work: Work, folder: Path) -> tuple[dict, int]:
    """What an unharmed run ends with, and the bytes of its largest file."""
    place = folder / "whole"
    work.prepare(place)
    ended = whole(work.run, place)
    if ended.status:
        raise RuntimeError(f"{work.stage}: the work fails by itself\n{ended.said[-3000:]}")
    return work.content(place), max(p.stat().st_size for p in place.rglob("*") if p.is_file())


def file_too_large(work: Work, count: int, seed: int, folder: Path) -> dict:
    """No file may grow beyond a random size, as on a disk that is full from there on (setrlimit, EFBIG)."""
    began, rng, outcomes = time.monotonic(), np.random.default_rng([seed, 1]), []
    wanted, largest = reference(work, folder)
    for k in range(count):
        place, size = folder / str(k), int(rng.integers(1, largest))
        work.prepare(place)
        first = whole(work.run, place, limit=lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
        outcomes.append(again(work, place, wanted, first) if first.status else "did not notice")
    return row(work.stage, "file size limit reached", began, outcomes)


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path | None]:
    """A small disk mounted below `folder`; None where this user may not mount one."""
    place = folder / "disk"
    place.mkdir(parents=True)
    size = ["-o", f"size={DISK}"]
    if subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", str(place)], capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def disk_full(work: Work, count: int, seed: int, folder: Path) -> dict | None:
    """A small disk with a random number of bytes left; then there is room again."""
    began, rng, outcomes = time.monotonic(), np.random.default_rng([seed, 2]), []
    wanted, _ = reference(work, folder)
    used = sum(p.stat().st_size for p in (folder / "whole").rglob("*") if p.is_file())
    with disk(folder) as here:
        if here is None:
            return None
        for _ in range(count):
            place, filler = here / "work", here / "filler"
            work.prepare(place)
            filler.write_bytes(bytes(DISK - int(rng.integers(8192, max(8193, used)))))
            first = whole(work.run, place)
            filler.unlink()
            outcomes.append(again(work, place, wanted, first))
            shutil.rmtree(place)
    return row(work.stage, "disk full (4 MB tmpfs)", began, outcomes)


def read_only(work: Work, folder: Path) -> dict | None:
    """A folder that cannot be written, empty and with the work done; the message names what cannot be written."""
    began, outcomes = time.monotonic(), []
    wanted, _ = reference(work, folder)
    with disk(folder) as here:
        if here is None:
            return None
        place = here / "work"
        work.prepare(place)
        for _ in range(2):
            subprocess.run(["mount", "-o", "remount,ro", str(here)], check=True)
            first = whole(work.run, place)
            subprocess.run(["mount", "-o", "remount,rw", str(here)], check=True)
            outcomes.append(again(work, place, wanted, first, str(here)))
    return row(work.stage, "read-only folder", began, outcomes)


def flip(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def cut(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def damaged(work: Work, names: str, count: int, seed: int, folder: Path) -> list[dict]:
    """Bits flipped in, and ends cut off, a random file of those that match `names`, after the work was done.

    Survived: the next run ends with the same bytes, or refuses and names the file or its folder.
    """
    wanted, _ = reference(work, folder)
    rows = []
    for words, harm in (("one bit flipped", flip), ("truncated", cut)):
        began, rng, outcomes = time.monotonic(), np.random.default_rng([seed, *words.encode()]), []
        for k in range(count):
            place = folder / f"{harm.__name__}{k}"
            shutil.copytree(folder / "whole", place)
            path = rng.choice(sorted(p for p in place.rglob(names) if p.is_file()))
            harm(path, rng)
            outcomes.append(judged(work, place, wanted, path))
        rows.append(row(work.stage, words, began, outcomes))
    return rows


def judged(work: Work, place: Path, wanted: dict, path: Path) -> str:
    """"" when the work ends as wanted or refuses the damaged `path` by name."""
    ended = whole(work.run, place)
    if ended.status == 1 and (path.name in ended.said or path.parent.name in ended.said):
        return ""
    if ended.status:
        return f"{path.name} is not named: {ended.said[-800:]}"
    return "" if work.content(place) == wanted else f"{path.name}: the damage goes unnoticed"


def swapped(work: Work, exchange: Callable[[Path, np.random.Generator], Path], count: int, seed: int,
            folder: Path) -> dict:
    """Files exchanged for others of the same kind; exchange: does it below a folder and returns one of them."""
    began, rng, outcomes = time.monotonic(), np.random.default_rng([seed, 3]), []
    wanted, _ = reference(work, folder)
    for k in range(count):
        place = folder / str(k)
        shutil.copytree(folder / "whole", place)
        path = exchange(place, rng)
        outcomes.append(judged(work, place, wanted, path))
    return row(work.stage, "swapped with another", began, outcomes)


def swap_cached(place: Path, rng: np.random.Generator) -> Path:
    """Exchange the stored arrays of two cached values, or all that is stored of them."""
    name = str(rng.choice(["arrays.npz", ""]))
    stored = sorted(folder for folder in place.glob("cache/*/*") if folder.is_dir())
    one, other = (folder / name for folder in rng.permutation(stored)[:2])
    aside = place / "aside"
    os.rename(one, aside), os.rename(other, one), os.rename(aside, other)
    return one


def swap_checkpoint(place: Path, rng: np.random.Generator) -> Path:
    """The checkpoint of a run with other numbers of the same shapes."""
    path = place / "run/checkpoint.pt"
    kept = torch.load(path, weights_only=True)
    for part in ("best", "model"):
        kept[part] = {k: v + float(rng.normal()) if v.is_floating_point() else v for k, v in kept[part].items()}
    torch.save(kept, path)
    return path


def connections(port: int, folder: Path, wanted: dict) -> list[dict]:
    """Answers that are cut short, wrong, reset or never end; then a good one, at once or as second address."""
    rows = []
    words = dict(cut="answer cut short", wrong="wrong bytes", reset="connection reset", stall="silent server")
    for kind, fault in words.items():
        began, place, work = time.monotonic(), folder / kind, works.downloads(port)
        work.prepare(place)
        first = whole(lambda place, kind=kind: works.fetch(place, port, (kind,)), place)
        outcomes = [again(work, place, wanted, first, "nothing was kept") if first.status else "did not notice"]
        if kind != "stall":
            shutil.rmtree(place)
            work.prepare(place)
            second = whole(lambda place, kind=kind: works.fetch(place, port, (kind, "good")), place)
            outcomes.append(second.said[-800:] if second.status else again(work, place, wanted, second))
        rows.append(row(work.stage, fault, began, outcomes))
    return rows


def at_once(work: Work, count: int, folder: Path) -> dict:
    """Two processes do the same work in the same folder at the same time; both must end well."""
    began, outcomes = time.monotonic(), []
    wanted, _ = reference(work, folder)
    for k in range(count):
        place, since = folder / str(k), time.monotonic()
        work.prepare(place)
        run = lambda place, since=since: (time.sleep(max(0, since + 0.5 - time.monotonic())), work.run(place))
        both = [wait(pid, place, since) for pid in [start(run, place), start(run, place)]]
        wrong = [ended.said[-800:] for ended in both if ended.status]
        outcomes.append("; ".join(wrong) or ("" if work.content(place) == wanted else "ends with other bytes"))
    return row(work.stage, "two at once in one folder", began, outcomes)


def four_jobs(folder: Path) -> dict:
    """Four notebooks one after the other and all at once."""
    began, found = time.monotonic(), []
    for jobs in (1, 4):
        place = folder / str(jobs)
        place.parent.mkdir(exist_ok=True)
        works.project_in(place, notebooks=4)
        ended = whole(lambda place, jobs=jobs: works.draw(place, jobs), place)
        found.append(works.drawn(place) if not ended.status else ended.said[-800:])
    return row("figures", "-j4 instead of serial", began, ["" if found[0] == found[1] else f"{found}"[:2000]])


def load_weights(place: Path) -> None:
    """Read weights back and write down what was read."""
    if not list(place.glob("*.safetensors")):
        works.save(place)
    found = {p.stem: cache.digest(weights.load(p, works.training.Net()).state_dict())
             for p in sorted(place.glob("seed*.safetensors"))}
    (place / "read.txt").write_text(repr(found))


LOADING = Work("weights", load_weights, lambda place: dict(read=(place / "read.txt").read_text()))
