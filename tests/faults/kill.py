"""Work in forked processes, killed at a random moment or just before a random one of its file operations.

A child inherits the imported libraries, so that a start costs milliseconds. SIGKILL loses what a process holds in
memory and nothing that it had handed to the system: a power cut is not tried.
"""

import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PATIENCE = 300  # seconds that work may take
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_DONE = [0]     # file operations of this process
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


@dataclass(frozen=True)
class Work:
    """Something that a kill must not harm.

    run: does the work in a folder, and takes up there what an earlier run left. content: what counts of the
    folder, equal after every whole run, however often it was cut short. prepare: makes the folder ready.
    chain: kills in a row before the work may end.
    """

    stage: str
    run: Callable[[Path], object]
    content: Callable[[Path], dict]
    prepare: Callable[[Path], object] = lambda place: place.mkdir(parents=True)
    chain: int = 1


@dataclass(frozen=True)
class Ended:
    """status: exit status, negative for a signal. said: all that was printed. operations: of files, if it ended."""

    status: int
    seconds: float
    said: str

    @property
    def operations(self) -> int:
        return max(map(int, re.findall(r"^operations (\d+)$", self.said, re.MULTILINE)))


def start(run: Callable[[Path], object], place: Path, before: int = 0, limit: Callable[[], object] = int) -> int:
    """Fork, and do the work in the child; its process group is its own. The child's id.

    before: the child kills itself before this operation on files below `place`, counted from 1.
    limit: called in the child first.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        log = os.open(_log(place, os.getpid()), os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)
        limit()
        _count(place, before)
        run(place)
        tell()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(pid: int, place: Path, began: float) -> Ended:
    """Wait for a child; one that takes longer than PATIENCE is killed."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        if time.monotonic() - began > PATIENCE:
            end(pid)
        time.sleep(0.002)
    end(pid)
    log = _log(place, pid)
    said = log.read_text(errors="replace") if log.is_file() else ""
    log.unlink(missing_ok=True)
    return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - began, said)


def whole(run: Callable[[Path], object], place: Path, **more) -> Ended:
    """Do the work to its end."""
    began = time.monotonic()
    return wait(start(run, place, **more), place, began)


def end(pid: int) -> None:
    """Kill the group of a child, if anything of it is left."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def tell() -> None:
    """Print how many file operations this child, or a process that it has forked, has done."""
    print(f"\noperations {_DONE[0]}", flush=True)


def family(pid: int) -> list[int]:
    """A process and all its descendants, where the system lists them in /proc; else the process alone."""
    found = [pid]
    for one in found:
        try:
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except OSError:
            continue
    return found


def kills(work: Work, count: int, how: str, seed: int, folder: Path) -> dict:
    """Kill the work `count` times and let it end after each chain of kills.

    how: "moment", at a random share of the time that it takes, one or all of its processes; "operation", before a
    random one of its file operations.

    Returns:
        A row of the campaign: stage, fault, tried, survived, seconds, and lost: what went wrong, in words.
    """
    began, rng = time.monotonic(), np.random.default_rng([seed, how == "moment", *work.stage.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "whole"
    work.prepare(place)
    ended = whole(work.run, place)
    if ended.status:
        raise RuntimeError(f"{work.stage}: the work fails by itself\n{ended.said[-3000:]}")
    wanted, length, operations = work.content(place), ended.seconds, ended.operations
    tried, survived, lost, attempts = 0, 0, [], 0
    while tried < count and attempts < 4 * count:
        place, cut = folder / f"{how}{attempts}", 0
        work.prepare(place)
        for _ in range(min(work.chain, count - tried)):
            attempts += 1
            if not _killed(work, place, how, rng, length, operations):
                break
            cut += 1
        ended = whole(work.run, place)
        tried, length = tried + cut, min(length, ended.seconds) if not ended.status else length
        found = work.content(place) if not ended.status else {}
        if found == wanted:
            survived += cut
        else:
            names = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
            lost.append(f"{place.name}: {ended.said[-2000:] if ended.status else names}")
        shutil.rmtree(place)
    words = {"moment": "SIGKILL at a random moment", "operation": "SIGKILL before a file operation"}[how]
    return dict(stage=work.stage, fault=words, tried=tried, survived=survived,
                seconds=round(time.monotonic() - began, 1), lost=lost)


def _killed(work: Work, place: Path, how: str, rng: np.random.Generator, length: float, operations: int) -> bool:
    """Start the work and kill it; False when it had ended before."""
    began = time.monotonic()
    if how == "operation":
        return wait(start(work.run, place, before=int(rng.integers(1, operations + 1))), place, began).status < 0
    share, which = rng.random(), int(rng.integers(3))
    pid = start(work.run, place)
    time.sleep(share * length)
    everyone = family(pid)
    if len(everyone) > 1 and which < 2:          # one process of several, the rest a little later
        _stop(everyone[1 + which % (len(everyone) - 1)])
        time.sleep(0.3)
    for one in everyone:
        _stop(one)
    return wait(pid, place, began).status != 0


def _log(place: Path, pid: int) -> Path:
    """What a child prints: outside the folder that holds `place`, which may be full or read-only."""
    return place.parent.parent / f"{pid}.log"


def _stop(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _count(place: Path, before: int) -> None:
    """Count this process's file operations below `place` from now on, and end before one of them."""
    here = str(place)

    def hook(event, arguments):
        if event in CHANGES or event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
            if str(arguments[0]).startswith(here):
                _DONE[0] += 1
                if _DONE[0] == before:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
