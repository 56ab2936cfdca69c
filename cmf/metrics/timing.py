"""Latency at batch 1 and throughput at the best batch."""

import sys
import time

import numpy as np


def _wait():
    """Wait for an accelerator, when torch is in use and has one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def _times(function, warmup, repeats, synchronise):
    if warmup < 0 or repeats < 1:
        raise ValueError(f"expected warmup >= 0 and repeats >= 1, got {warmup} and {repeats}")
    for _ in range(warmup):
        function()
    synchronise()
    seconds = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter()
        function()
        synchronise()
        seconds[i] = time.perf_counter() - start
    return seconds


def latency(function, warmup=10, repeats=100, synchronise=_wait):
    """Seconds of one call: {"median", "p95", "repeats"}, after `warmup` calls, each timed on its own.

    Arguments: function without arguments that handles ONE sample; synchronise waits for the accelerator
    (default: torch's CUDA stream where there is one).
    """
    seconds = _times(function, warmup, repeats, synchronise)
    return {"median": float(np.median(seconds)), "p95": float(np.percentile(seconds, 95)), "repeats": repeats}


def throughput(function, batches=(1, 4, 16, 64), warmup=2, repeats=5, synchronise=_wait):
    """Samples a second at the best batch: {"batch", "per_second", "table": batch -> samples a second}.

    Argument: function(batch) handles that many samples; the median of `repeats` calls counts.
    """
    if len(batches) == 0 or min(batches) < 1:
        raise ValueError(f"batches must be sizes of at least 1, got {tuple(batches)}")
    table = {b: b / float(np.median(_times(lambda b=b: function(b), warmup, repeats, synchronise)))
             for b in batches}
    best = max(table, key=table.get)
    return {"batch": best, "per_second": table[best], "table": table}
