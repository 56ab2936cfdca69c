"""The selective scan compiled by Numba for the CPU: forward and backward each pass once over time.

The state of a block of channels stays in the first cache. A chunk of times is copied beside each other first, so
the innermost loop runs over channels and is vectorised, exponential included. Importing needs Numba and compiles
nothing; the first call does, and keeps the result beside this file or in Numba's own cache folder.

Axes: R rows (batch x groups), P channels of a group, L length, N states, K chunks of T steps, W channels of a block.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from cmf.blocks.scan_chunked import chunks, operator

WIDTH = 96  # W at most; the states of a block are N x W numbers
FAST = {"reassoc", "contract", "nsz", "arcp"}  # nan and infinity stay what they are
LOG2E, LN2 = math.log2(math.e), math.log(2)
# 2**f for |f| <= 1/2: Chebyshev interpolation of degree 6, relative error 3e-9 before rounding
C0, C1, C2, C3, C4, C5, C6 = (
    np.float32(c) for c in (0.999999999959223, 0.6931472068680862, 0.24022651216712035, 0.05550326878617132,
                            0.009618025187865812, 0.0013400566268072622, 0.0001546986467066127)
)


@intrinsic
def _power(context, exponent):
    """The float32 two ** (exponent - 127) of an int32 in 1..254, by writing its bits."""
    def build(context, builder, signature, arguments):
        bits = builder.shl(arguments[0], context.get_constant(types.int32, 23))
        return builder.bitcast(bits, context.get_value_type(types.float32))
    return types.float32(types.int32), build


def _exp2(x):
    """Two to the power x; in float32 within 2e-7 relative, clipped to powers -126..126."""
    return np.exp2(x)


@overload(_exp2, inline="always")
def _exp2_of_type(x):
    if x != types.float32:
        return lambda x: math.exp(x * LN2)

    def short(x):
        x = min(max(x, np.float32(-126)), np.float32(126))
        whole = np.int32(x + np.float32(127.5))
        f = x - np.float32(np.int32(whole - 127))  # in integers: x + 127 - whole would lose the digits of x
        return _power(whole) * (C0 + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6))))))
    return short


@numba.njit(nogil=True, cache=True)
def _across(given, chunk):
    """Copy given (W, up to T) into chunk (T, W)."""
    for d in range(given.shape[0]):
        for t in range(given.shape[1]):
            chunk[t, d] = given[d, t]


@numba.njit(nogil=True, cache=True)
def _along(chunk, result):
    """Copy chunk (T, W) into result (W, up to T)."""
    for d in range(result.shape[0]):
        for t in range(result.shape[1]):
            result[d, t] = chunk[t, d]


@numba.njit(nogil=True, fastmath=FAST, cache=True)
def _forward_block(u, delta, A, B, C, y, starts, steps, r, p0, p1):
    """Fill y (R, P, L) and starts (R, K, N, P) for channels p0..p1 of row r."""
    states, length = B.shape[1:]
    width = p1 - p0
    state, rate = np.zeros((states, width), u.dtype), np.empty((states, width), u.dtype)
    step, drive = np.empty((steps, width), u.dtype), np.empty((steps, width), u.dtype)
    out = np.empty((steps, width), u.dtype)
    for n in range(states):
        for d in range(width):
            rate[n, d] = A[r, p0 + d, n] * LOG2E
    for k in range(starts.shape[1]):
        t0 = k * steps
        size = min(steps, length - t0)
        for n in range(states):
            for d in range(width):
                starts[r, k, n, p0 + d] = state[n, d]
        for d in range(width):
            for t in range(size):
                step[t, d] = delta[r, p0 + d, t0 + t]
                drive[t, d] = step[t, d] * u[r, p0 + d, t0 + t]
        for t in range(size):
            for d in range(width):
                out[t, d] = 0
            for n in range(states):
                b, c = B[r, n, t0 + t], C[r, n, t0 + t]
                for d in range(width):
                    value = _exp2(step[t, d] * rate[n, d]) * state[n, d] + drive[t, d] * b
                    state[n, d] = value
                    out[t, d] += c * value
        for d in range(width):
            for t in range(size):
                y[r, p0 + d, t0 + t] = out[t, d]


@numba.njit(nogil=True, fastmath=FAST, cache=True)
def _backward_block(u, delta, A, B, C, starts, grad, du, ddelta, dA, dB, dC, steps, r, p0, p1):
    """Fill du, ddelta (R, P, L) and dA (R, P, N) for channels p0..p1 of row r, and their share dB, dC (N, L)."""
    states, length = B.shape[1:]
    width = p1 - p0
    rate, carry = np.empty((states, width), u.dtype), np.zeros((states, width), u.dtype)
    da = np.zeros((states, width), u.dtype)
    before = np.empty((steps + 1, states, width), u.dtype)              # state before each step
    decay = np.empty((steps, states, width), u.dtype)
    x, step, g = (np.empty((steps, width), u.dtype), np.empty((steps, width), u.dtype),
                  np.empty((steps, width), u.dtype))
    drive, ddrive, ddt = np.empty(width, u.dtype), np.empty(width, u.dtype), np.empty(width, u.dtype)
    for n in range(states):
        for d in range(width):
            rate[n, d] = A[r, p0 + d, n] * LOG2E
    for k in range(starts.shape[1] - 1, -1, -1):
        t0 = k * steps
        size = min(steps, length - t0)
        for n in range(states):
            for d in range(width):
                before[0, n, d] = starts[r, k, n, p0 + d]
        _across(u[r, p0:p1, t0:t0 + size], x)
        _across(delta[r, p0:p1, t0:t0 + size], step)
        _across(grad[r, p0:p1, t0:t0 + size], g)
        for t in range(size):
            for d in range(width):
                drive[d] = step[t, d] * x[t, d]
            for n in range(states):
                b = B[r, n, t0 + t]
                for d in range(width):
                    value = _exp2(step[t, d] * rate[n, d])
                    decay[t, n, d] = value
                    before[t + 1, n, d] = value * before[t, n, d] + drive[d] * b
        for t in range(size - 1, -1, -1):
            for d in range(width):
                drive[d] = step[t, d] * x[t, d]
                ddrive[d] = 0
                ddt[d] = 0
            for n in range(states):
                b, c = B[r, n, t0 + t], C[r, n, t0 + t]
                db, dc = b * 0, c * 0
                for d in range(width):
                    value = carry[n, d] + g[t, d] * c                   # gradient of the state after step t
                    dc += g[t, d] * before[t + 1, n, d]
                    db += value * drive[d]
                    ddrive[d] += value * b
                    carry[n, d] = value * decay[t, n, d]
                for d in range(width):
                    pull = carry[n, d] * before[t, n, d]                # gradient of delta A
                    ddt[d] += pull * rate[n, d]
                    da[n, d] += pull * step[t, d]
                dB[n, t0 + t] = db
                dC[n, t0 + t] = dc
            for d in range(width):
                g[t, d] = ddrive[d] * step[t, d]
                step[t, d] = ddrive[d] * x[t, d] + ddt[d] * LN2
        _along(g, du[r, p0:p1, t0:t0 + size])
        _along(step, ddelta[r, p0:p1, t0:t0 + size])
    for n in range(states):
        for d in range(width):
            dA[r, p0 + d, n] = da[n, d]


def _each_block(rows: int, channels: int, work) -> None:
    """Call work(block, row, first, last) for blocks of at most WIDTH channels, on torch's number of threads."""
    threads = torch.get_num_threads()
    parts = max(-(-channels // WIDTH), min(-(-threads // rows), -(-channels // 16)))
    width = -(-channels // parts)
    jobs = [(i, r, p, min(p + width, channels)) for r in range(rows) for i, p in enumerate(range(0, channels, width))]
    if min(threads, len(jobs)) == 1:
        for job in jobs:
            work(*job)
        return
    with ThreadPoolExecutor(min(threads, len(jobs))) as pool:
        for done in [pool.submit(work, *job) for job in jobs]:
            done.result()


def _forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    number, steps = chunks(u.shape[-1])
    y, starts = torch.empty_like(u), u.new_empty(u.shape[0], number, A.shape[2], u.shape[1])
    arrays = [x.detach().numpy() for x in (u, delta, A, B, C, y, starts)]
    _each_block(*u.shape[:2], lambda i, r, p0, p1: _forward_block(*arrays, steps, r, p0, p1))
    return y, starts


def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps = chunks(u.shape[-1])[1]
    du, ddelta, dA = torch.empty_like(u), torch.empty_like(delta), torch.empty_like(A)
    blocks = -(-u.shape[1] // 16)                                       # at most so many of _each_block
    dB, dC = B.new_zeros(blocks, *B.shape), C.new_zeros(blocks, *C.shape)
    arrays = [x.detach().numpy() for x in (u, delta, A, B, C, starts, grad, du, ddelta, dA)]
    b, c = dB.numpy(), dC.numpy()
    _each_block(*u.shape[:2], lambda i, r, p0, p1: _backward_block(*arrays, b[i, r], c[i, r], steps, r, p0, p1))
    return du, ddelta, dA, dB.sum(0), dC.sum(0)


scan = operator("scan_numba", _forward, _backward)
