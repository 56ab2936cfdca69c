"""CPU seconds of a call, for benchmarks."""

import time

import numpy as np


def seconds(call, repeats=3):
    """Least CPU seconds of several runs, and the last answer."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        answer = call()
        best = min(best, time.process_time() - start)
    return best, answer
