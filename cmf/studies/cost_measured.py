"""One method measured in a process of its own: seconds, memory, throughput and energy. `cost.measure` starts it.

`python -m cmf.studies.cost_measured METHOD THREADS [[rows, columns], ...] cpu|cuda` prints what it found as JSON.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cmf.metrics.energy import joules
from cmf.metrics.timing import latency, throughput
from cmf.studies import classical
from cmf.studies.cost import CLASSICAL, NETWORKS

BUDGET = 1.5                     # seconds of repetitions, about
BATCHES = (1, 4, 16, 64)         # pairs, targets or clips at once, as long as memory and BUDGET allow
SHARE = 0.5                      # of the memory that is free, which a batch may take


def _call(method: str, size, device: str = "cpu") -> Callable[[int], None]:
    """Forward passes of so many samples at once, as a function of their number; classical ones take one by one."""
    torch.manual_seed(0)
    if method in CLASSICAL:
        function, pair = classical.CLASSICAL[method], np.random.default_rng(0).random((2, *size), np.float32)
        return lambda batch: [function(*pair) for _ in range(batch)]
    network, one = NETWORKS[method](size)
    network = network.eval().requires_grad_(False).to(device)
    given = {1: {name: x.to(device) for name, x in one.items()}}

    def call(batch: int) -> None:
        if batch not in given:
            given[batch] = {name: x.repeat(batch, *[1] * (x.ndim - 1)) for name, x in given[1].items()}
        network(given[batch])

    return torch.no_grad()(call)


def _held() -> tuple[int, int]:
    """Bytes that this process holds now, and held at most since `_forget`."""
    status = Path("/proc/self/status")
    if status.is_file():
        kib = dict(line.split()[:2] for line in status.read_text().splitlines() if line.startswith(("VmRSS", "VmHWM")))
        return 1024 * int(kib["VmRSS:"]), 1024 * int(kib["VmHWM:"])
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def _forget() -> None:
    """Give free memory back to the system, and let the most that was held be what is held now."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:        # not allowed in some containers: what was held most before counts
            pass


def main(method: str, threads: int, sizes, device: str = "cpu") -> list[dict]:
    """What `cost.measure` says, measured in this process: a dict for each size."""
    import cv2

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    on_gpu = device == "cuda" and method not in CLASSICAL
    for _ in range(3 if on_gpu else 1):                      # libraries are loaded, kernels chosen
        _call(method, (32, 32), device)(1)
    rows = []
    for size in sizes:
        call = _call(method, size, device)
        if on_gpu:
            call(1)                                          # kernels of this size are compiled
        seconds, memory = _first(call, on_gpu)
        found = latency(lambda call=call: call(1), warmup=0, repeats=int(np.clip(BUDGET / seconds, 2, 20)))
        best = _best(call, found["median"], memory, on_gpu)
        rows.append(dict(seconds=found["median"], seconds_p95=found["p95"], memory_mib=max(memory, 0) / 2**20,
                         per_second=best["per_second"], batch=best["batch"],
                         joules=_energy(call, best, "cuda" if on_gpu else "cpu")))
    return rows


def _first(call: Callable, on_gpu: bool) -> tuple[float, int]:
    """Seconds of a call at batch 1, and the bytes that it took beyond what was held."""
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()
        call(1)
        torch.cuda.synchronize()
        return time.perf_counter() - began, torch.cuda.max_memory_allocated() - before
    _forget()
    before, began = _held()[0], time.perf_counter()
    call(1)
    return time.perf_counter() - began, _held()[1] - before


def _best(call: Callable, seconds: float, memory: int, on_gpu: bool) -> dict:
    """`throughput` of the best of `BATCHES`, as far as memory and BUDGET go: a larger batch takes no less time.

    seconds, memory: of a call at batch 1.
    """
    tried = [dict(batch=1, per_second=1 / seconds)]
    for batch in BATCHES[1:]:
        if batch * memory > _room(on_gpu) or 4 * tried[-1]["batch"] / tried[-1]["per_second"] > BUDGET:
            break
        try:
            tried.append(throughput(call, (batch,), warmup=1, repeats=3))
        except RuntimeError:             # more than the memory, or the indices of a kernel, can take
            break
    return max(tried, key=lambda one: one["per_second"])


def _room(on_gpu: bool) -> float:
    """Bytes that a batch may take."""
    if on_gpu:
        return SHARE * torch.cuda.mem_get_info()[0]
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):        # macOS, Windows
        return 2**30
    return SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _energy(call: Callable, best: dict, device: str) -> float | None:
    """Joules of a sample, over BUDGET seconds of calls of the best batch, or two of them; None without a counter."""
    if joules(lambda: None, device) is None:
        return None
    calls = max(2, int(np.ceil(BUDGET * best["per_second"] / best["batch"])))

    def work():
        for _ in range(calls):
            call(best["batch"])
        if device == "cuda":
            torch.cuda.synchronize()

    spent = joules(work, device)
    return None if spent is None else spent / (calls * best["batch"])


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])))
