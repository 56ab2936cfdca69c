"""What a selective scan costs on a CPU: seconds beside scans in plain torch, and beside what no scan can go below.

Axes: D channels, L length, N states; batch 1.
"""

import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan

from cmf import runs
from cmf.blocks.scan import FOUND, selective_scan

SIZES = ((1200, 96, 16), (4800, 96, 16), (19200, 96, 16), (1200, 192, 1), (4800, 192, 1), (19200, 192, 1),
         (19200, 192, 16))       # L, D, N
PASSES = ("forward", "forward+backward")
MOST = 1 << 23                   # states D L N that scans which hold all of them at once are given, by default
LONGEST = 4800                   # steps that the recurrence step by step is given
COLUMNS = ("length", "channels", "states", "threads", "scan", "pass", "seconds", "cpu", "floor", "load")


def _terms(u, delta, A, B) -> tuple[Tensor, Tensor]:
    """Decay and what is added at every step, (D, N, L) each, at batch 1."""
    step = delta[0][:, None]                                                # (D, 1, L)
    return torch.exp(step * A[..., None]), step * u[0][:, None] * B


def _read(states: Tensor, C: Tensor) -> Tensor:
    return (states * C).sum(1)[None]                                        # (1, D, L)


def blelloch(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan as a tree in plain torch (Blelloch 1990): neighbours are joined, and the half as long is scanned.

    Arguments and result: as `cmf.blocks.scan.selective_scan`, batch 1, no groups.
    """
    def scan(a, x):
        if a.shape[-1] == 1:
            return x
        even, odd = slice(0, a.shape[-1] // 2 * 2, 2), slice(1, None, 2)
        second = scan(a[..., odd] * a[..., even], torch.addcmul(x[..., odd], a[..., odd], x[..., even]))
        first = torch.addcmul(x[..., 2::2], a[..., 2::2], second[..., :(a.shape[-1] - 1) // 2])
        first = torch.cat([x[..., :1], first], -1)
        both = torch.stack([first[..., :second.shape[-1]], second], -1).flatten(-2)
        return torch.cat([both, first[..., second.shape[-1]:]], -1)

    return _read(scan(*_terms(u, delta, A, B)), C)


def associative(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan by torch's own associative_scan, not compiled. Arguments and result: as `blelloch`."""
    join = lambda first, second: (first[0] * second[0], first[1] * second[0] + second[1])
    return _read(associative_scan(join, _terms(u, delta, A, B), 2, combine_mode="generic")[1], C)


def _backend(name: str) -> Callable:
    return lambda *given: selective_scan(*given, backend=name)


SCANS: dict[str, Callable] = {name: _backend(name) for name in ("numba", "chunked", "reference")}
SCANS |= {"blelloch": blelloch, "associative": associative}
PLAIN = ("chunked", "reference", "blelloch", "associative")  # in plain torch
LEAN = ("numba", "chunked")                                  # never hold all states


def given(length: int, channels: int, states: int, seed: int = 0) -> list[Tensor]:
    """u, delta (1, D, L), A (D, N), B, C (1, N, L) at random, steps and rates as a trained scan has them."""
    normal = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=normal)
    u, delta = draw(1, channels, length), torch.rand(1, channels, length, generator=normal) * 0.1 + 1e-3
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    return [u, delta, A, draw(1, states, length), draw(1, states, length)]


def rates(threads: int = 1, repeats: int = 9) -> tuple[float, float]:
    """Bytes a second of a copy beyond the caches, and exponentials a second within them, on `threads` threads.

    A copied byte counts twice, read and written. Of the exponentials of torch and of the compiled scan the faster
    count. Medians of processor seconds, shared out to the threads: other work slows them as it slows the scans.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        far, near = torch.zeros(1 << 24), torch.linspace(-1, 0, threads << 14)
        to, out = torch.empty_like(far), torch.empty_like(near)
        copied = _shared(lambda: to.copy_(far), threads, repeats)
        powers = [_shared(lambda: [torch.exp(near, out=out) for _ in range(64)], threads, repeats) / 64]
        if FOUND["numba"]:
            powers.append(_compiled(near, out, threads, repeats))
    finally:
        torch.set_num_threads(before)
    return 2 * 4 * len(far) / copied, len(near) / min(powers)


def _compiled(near: Tensor, out: Tensor, threads: int, repeats: int) -> float:
    """Seconds of the compiled exponential of all of `near`."""
    from cmf.blocks import scan_numba

    @scan_numba.compiled
    def powers(x, y):
        for _ in range(64):
            for i in range(len(x)):
                y[i] = scan_numba.exp2(x[i])

    parts = list(zip(near.numpy().reshape(threads, -1), out.numpy().reshape(threads, -1), strict=True))
    return _shared(lambda: scan_numba.each(powers, parts), threads, repeats) / 64


def _times(call: Callable) -> tuple[float, float]:
    """Seconds of a call by the clock on the wall, and of all processors together."""
    start, busy = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - busy


def floor(length: int, channels: int, states: int, copied: float, powers: float) -> dict[str, float]:
    """Seconds that no scan can go below, by pass.

    forward = max(bytes / copied, D L N / powers), as memory and arithmetic may overlap, with 4-byte numbers:
    u and delta read and y written, 3 D L, and B and C read, 2 N L. Backward adds u, delta and the gradient of y read
    and those of u and delta written, 5 D L, and 4 N L, and every exponential once more, as states are not kept.

    Args:
        length, channels, states: L, D, N.
        copied, powers: bytes and exponentials a second, from `rates`.
    """
    line, group, count = channels * length, states * length, channels * states * length
    forward = 4 * (3 * line + 2 * group)
    both = forward + 4 * (5 * line + 4 * group)
    return {"forward": max(forward / copied, count / powers),
            "forward+backward": max(both / copied, 2 * count / powers)}


def table(sizes: Sequence[tuple[int, int, int]] = SIZES, threads: int = 1, repeats: int = 7,
          scans: Sequence[str] = tuple(SCANS), most: int = MOST) -> pd.DataFrame:
    """Seconds of scans in float32 at batch 1, a row for each size, scan and pass.

    Each scan runs once to warm up and `repeats` times in a row, of which the median counts: the first time bears the
    return of the memory that the scan before it took. Not cached: every call measures.

    Args:
        sizes: L, D, N each.
        threads: of torch and of the compiled scan.
        repeats: at least 1.
        scans: some of `SCANS`; numba is left out where it is not installed.
        most: states D L N that scans which hold all of them at once are given; beyond they have no row, nor has the
            reference beyond `LONGEST` steps.

    Returns:
        Columns `COLUMNS`: seconds; cpu, seconds of all processors, which other work lengthens less; floor, of `floor`;
        load, the mean number of processes that ran or waited during the last minute, of this whole machine.

    Raises:
        ValueError: an unknown scan, or repeats below 1.
    """
    unknown = sorted(set(scans) - set(SCANS))
    if unknown or repeats < 1:
        raise ValueError(f"scans {unknown or list(scans)} with {repeats} repeats; give some of {', '.join(SCANS)}, and "
                         "1 repeat or more")
    copied, powers = rates(threads)
    before, rows = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        for size in runs.progress(sizes, "scan cost"):
            least = floor(*size, copied, powers)
            names = [name for name in scans if FOUND.get(name, True) and (name in LEAN or np.prod(size) <= most)
                     and (name != "reference" or size[0] <= LONGEST)]
            for kind in PASSES:
                found = [_median(_call(name, size, kind), repeats) for name in names]
                rows += [(*size, threads, name, kind, *seconds, least[kind], os.getloadavg()[0])
                         for name, seconds in zip(names, found, strict=True)]
    finally:
        torch.set_num_threads(before)
    return pd.DataFrame(rows, columns=COLUMNS)


def _call(name: str, size: tuple[int, int, int], kind: str) -> Callable:
    scan, inputs = SCANS[name], given(*size)
    if kind == "forward":
        return torch.no_grad()(lambda: scan(*inputs))
    weight = torch.ones_like(inputs[0])
    leaves = [x.requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(scan(*leaves), leaves, weight)


def _median(call: Callable, repeats: int) -> np.ndarray:
    """Median seconds and processor seconds of a call."""
    call()
    return np.median([_times(call) for _ in range(repeats)], 0)


def _shared(call: Callable, threads: int, repeats: int) -> float:
    return float(_median(call, repeats)[1]) / threads


def growth(table: pd.DataFrame, clock: str = "seconds") -> pd.DataFrame:
    """Time at 4 L over time at L by `clock`, seconds or cpu: the columns of `table` up to pass, length being L, and
    `growth`; 4 is linear."""
    keys = ["channels", "states", "threads", "scan", "pass"]
    earlier = table.assign(later=4 * table["length"])
    later = table[["length", *keys, clock]].rename(columns={"length": "later", clock: "at_later"})
    both = earlier.merge(later, on=["later", *keys])
    return both[["length", *keys]].assign(growth=both["at_later"] / both[clock])


def beside(table: pd.DataFrame, clock: str = "seconds") -> pd.DataFrame:
    """The compiled scan by size and pass: its time by `clock`, seconds or cpu; `plain`, that over the fastest
    plain-torch scan's; and `floor`, over the floor's."""
    keys = ["length", "channels", "states", "threads", "pass"]
    ours = table[table["scan"] == "numba"].set_index(keys)
    others = table[table["scan"].isin(PLAIN)].groupby(keys)[clock].min()
    return pd.DataFrame({clock: ours[clock], "plain": ours[clock] / others,
                         "floor": ours[clock] / ours["floor"]}).reset_index()
