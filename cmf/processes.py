"""Tasks over several processes: answers in their order, one bar of the whole, and no pool where one is enough."""

import contextlib
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from cmf import runs


def spread(work: Callable, tasks: Sequence, label: str, jobs: int | None = None, each: int = 1,
           first: Callable[[], object] | None = None) -> list:
    """Answers of `work` to all tasks, over processes of one thread each.

    Processes are spawned, for torch is loaded: `work`, `first`, tasks and answers must be picklable. Progress is shown
    here, and not by the processes. Where one is enough, the tasks are done here, one after another; torch has one
    thread meanwhile, so that answers do not depend on the number of processes.

    Args:
        work: is called with a task.
        tasks: in the order in which they begin.
        label: a few words on what is being done, for the bar.
        jobs: processes, 1 or more; never more than tasks. None: as many as pay, at most one a core.
        each: tasks that make a process pay, where `jobs` does not say how many.
        first: is called by each process before its first task.

    Returns:
        The answers, in the order of the tasks.

    Raises:
        ValueError: jobs below 1.
        Exception: what the first task to fail raises; tasks that have not begun are given up.

    Example:
        >>> spread(abs, [-2, 1], "sizes", jobs=1)
        [2, 1]
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"{jobs} processes: expected 1 or more")
    jobs = min(jobs or os.cpu_count() or 1, math.ceil(len(tasks) / (1 if jobs else each)))
    if jobs <= 1:
        with _one_thread():
            return [work(task) for task in runs.progress(tasks, label)]
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _alone, (first,))
    try:
        asked = [pool.submit(work, task) for task in tasks]
        for done in runs.progress(as_completed(asked), label, len(asked)):
            done.result()
        return [done.result() for done in asked]
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(first: Callable[[], object] | None) -> None:
    """One thread a process, also of a torch that is loaded later, and no bar."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    os.environ.pop("CMF_PROGRESS", None)
    os.environ["TQDM_DISABLE"] = "1"
    if first:
        first()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch, where it is loaded, and as many as before afterwards."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    try:
        if torch:
            torch.set_num_threads(1)
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
