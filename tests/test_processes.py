"""Tasks over processes: order, errors, what a process is given, and when there is none."""

import doctest
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmf import processes


@pytest.fixture
def two_threads():
    """torch with two threads, and as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield torch
    torch.set_num_threads(before)


def slow(task):
    seconds, value = task
    time.sleep(seconds)
    return value, os.getpid()


def surroundings(_):
    import torch

    return (torch.get_num_threads(), os.environ.get("CMF_PROGRESS"), os.environ.get("TQDM_DISABLE"),
            os.environ.get("CMF_FIRST"))


def prepare():
    os.environ["CMF_FIRST"] = "called"


def leave_a_mark(task):
    folder, k = task
    if k == 1:
        raise KeyError("task 1 has no luck")
    (Path(folder) / f"{k}").touch()
    time.sleep(0.2)


def test_example_in_the_docstring():
    result = doctest.testmod(processes)
    assert result.attempted > 0 and result.failed == 0


def test_answers_come_in_the_order_of_the_tasks():
    found = processes.spread(slow, [(0.6, "a"), (0, "b"), (0.3, "c"), (0, "d")], "letters", jobs=2)
    assert [value for value, _ in found] == list("abcd")
    assert os.getpid() not in {pid for _, pid in found} and len({pid for _, pid in found}) <= 2


def test_an_error_reaches_the_caller_and_ends_the_pool(tmp_path):
    with pytest.raises(KeyError, match="task 1 has no luck"):
        processes.spread(leave_a_mark, [(str(tmp_path), k) for k in range(60)], "marks", jobs=2)
    assert not multiprocessing.active_children()
    assert len(list(tmp_path.iterdir())) < 59, "tasks that had not begun are given up"


def test_a_process_has_one_thread_and_no_bar_and_is_prepared(tmp_path, monkeypatch, capfd):
    place = tmp_path / "progress"
    monkeypatch.setenv("CMF_PROGRESS", str(place))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert processes.spread(surroundings, [0, 1], "asked", 2, first=prepare) == [(1, None, "1", "called")] * 2
    assert place.read_text() == "" and os.environ["CMF_PROGRESS"] == str(place), "the bar of the whole is shown here"
    assert "TQDM_DISABLE" not in os.environ and os.environ["OMP_NUM_THREADS"] == "2"
    assert capfd.readouterr().err == ""


def test_a_process_that_has_torch_already_has_one_thread_too(monkeypatch, two_threads):
    for name in ("OMP_NUM_THREADS", "CMF_PROGRESS", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "2")  # put back afterwards
    processes._alone(None)
    assert two_threads.get_num_threads() == 1 and os.environ["OMP_NUM_THREADS"] == "1"


def test_one_task_is_done_here_with_one_thread(monkeypatch, two_threads):
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda *_: pytest.fail("a pool for one task"))
    here = processes.spread(lambda task: (task, os.getpid(), two_threads.get_num_threads()), ["x"], "one", jobs=4)
    assert here == [("x", os.getpid(), 1)] and two_threads.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        processes.spread(lambda task: 1 / task, [0], "none")
    assert two_threads.get_num_threads() == 2
    monkeypatch.setattr(processes, "sys", SimpleNamespace(modules={}))
    assert processes.spread(abs, [-1, -2], "without torch", jobs=1) == [1, 2]
    assert processes.spread(abs, [], "nothing") == []


@pytest.mark.parametrize("jobs, each, n, wanted", [
    (None, 1, 9, 4), (None, 1, 3, 3), (None, 16, 33, 3), (None, 16, 99, 4), (3, 16, 9, 3), (3, 16, 2, 2),
    (9, 1, 99, 9)])
def test_as_many_processes_as_pay(monkeypatch, jobs, each, n, wanted):
    started = []

    def pool(workers, *_):
        started.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(processes.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(processes, "ProcessPoolExecutor", pool)
    assert processes.spread(abs, range(n), "numbers", jobs, each) == list(range(n)) and started == [wanted]


def test_sixteen_pictures_are_measured_here(monkeypatch):
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda *_: pytest.fail("a second process does not pay"))
    assert processes.spread(abs, range(16), "numbers", None, 16) == list(range(16))


@pytest.mark.parametrize("jobs", [0, -2])
def test_less_than_one_process_is_refused(jobs):
    with pytest.raises(ValueError, match=f"{jobs} processes: expected 1 or more"):
        processes.spread(abs, [1, 2], "numbers", jobs)
