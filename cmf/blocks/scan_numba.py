"""The selective scan compiled by Numba for the CPU: forward and backward each pass once over time.

The state of a block of channels stays in the first cache. A chunk of times is copied beside each other first, so
the innermost loop runs over channels and is vectorised, exponential included. Bias, softplus and the direct path are
taken within the chunk. The blocks do not depend on the number of threads, so neither do the results. Importing needs
Numba and compiles nothing; the first call does, and keeps the result beside this file or in Numba's cache folder.

Axes: Z batch, D channels, G groups, R rows (Z x G), P channels of a group, L length, N states, K chunks of T steps,
Q blocks of W channels.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from cmf.blocks.scan_operator import empty_starts, operator, wide

WIDTH = 96  # W at most; the states of a block are N x W numbers
STEPS = 64  # T
FAST = {"reassoc", "contract", "nsz", "arcp"}  # nan and infinity stay what they are
# division by zero is not looked for, which would keep loops from being vectorised
compiled = numba.njit(nogil=True, fastmath=FAST, cache=True, error_model="numpy")
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


def exp2(x):
    """Two to the power x; in float32 within 2e-7 relative, clipped to powers -126..126."""
    return np.exp2(x)


@overload(exp2, inline="always")
def _exp2_of_type(x):
    if x != types.float32:
        return lambda x: math.exp(x * LN2)

    def short(x):
        x = min(max(x, np.float32(-126)), np.float32(126))
        whole = np.int32(x + np.float32(127.5))
        f = x - np.float32(np.int32(whole - 127))  # in integers: x + 127 - whole would lose the digits of x
        return _power(whole) * (C0 + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6))))))
    return short


# log(1 + z) / z for 0 <= z <= 1: Chebyshev interpolation of degree 10, relative error 8e-10 before rounding
S0, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10 = (
    np.float32(c) for c in (0.9999999991556807, -0.49999979491372776, 0.3333249754305132, -0.24986496454221618,
                            0.19885820254673614, -0.16087622903927984, 0.12377995640066398, -0.08188040614120176,
                            0.04100657112625909, -0.01318782537683464, 0.0019866963583891365)
)


def _softplus(x):
    """log(1 + exp(x)) and its slope; in float32 within 3e-7 relative."""
    z = math.exp(-abs(x))
    return max(x, 0) + math.log1p(z), (1 if x > 0 else z) / (1 + z)


@overload(_softplus, inline="always")
def _softplus_of_type(x):
    if x != types.float32:
        def long(x):
            z = math.exp(-abs(x))
            return max(x, 0) + math.log1p(z), (1 if x > 0 else z) / (1 + z)
        return long

    def short(x):
        z = exp2(-abs(x) * np.float32(LOG2E))
        above = max(x, np.float32(0))
        tail = S5 + z * (S6 + z * (S7 + z * (S8 + z * (S9 + z * S10))))
        log = z * (S0 + z * (S1 + z * (S2 + z * (S3 + z * (S4 + z * tail)))))
        return above + log, (np.float32(1) if x > 0 else z) / (np.float32(1) + z)
    return short


@compiled
def _across(given, chunk):
    """Copy given (W, up to T) into chunk (T, W)."""
    for d in range(given.shape[0]):
        for t in range(given.shape[1]):
            chunk[t, d] = given[d, t]


@compiled
def _along(chunk, result):
    """Copy chunk (T, W) into result (W, up to T)."""
    for d in range(result.shape[0]):
        for t in range(result.shape[1]):
            result[d, t] = chunk[t, d]


@compiled
def _stepped(given, bias, softplus, step, slope):
    """Step and its slope (T, W) from delta (W, up to T), bias (W,) or empty."""
    _across(given, step)
    for t in range(given.shape[1]):
        if bias.size:
            for d in range(given.shape[0]):
                step[t, d] += bias[d]
        if softplus:
            for d in range(given.shape[0]):
                step[t, d], slope[t, d] = _softplus(step[t, d])


@compiled
def _rates(A, rate):
    """A (W, N) to rate (N, W), for powers of two."""
    for n in range(A.shape[1]):
        for d in range(A.shape[0]):
            rate[n, d] = A[d, n] * LOG2E


@compiled
def _forward_block(u, delta, A, B, C, D, bias, softplus, y, starts, first, keep):
    """Fill y (W, L), to keep also starts (K, N, P) from `first` on: A (W, N), B, C (N, L), D, bias (W,) or empty."""
    states, length = B.shape
    width = len(u)
    state, rate = np.zeros((states, width), u.dtype), np.empty((states, width), u.dtype)
    step, drive = np.empty((STEPS, width), u.dtype), np.empty((STEPS, width), u.dtype)
    out, x = np.empty((STEPS, width), u.dtype), np.empty((STEPS, width), u.dtype)
    _rates(A, rate)
    for k in range((length + STEPS - 1) // STEPS):
        t0 = k * STEPS
        size = min(STEPS, length - t0)
        if keep:
            for n in range(states):
                for d in range(width):
                    starts[k, n, first + d] = state[n, d]
        _stepped(delta[:, t0:t0 + size], bias, softplus, step, out)
        _across(u[:, t0:t0 + size], x)
        for t in range(size):
            for d in range(width):
                drive[t, d] = step[t, d] * x[t, d]
                out[t, d] = 0
            if D.size:
                for d in range(width):
                    out[t, d] = D[d] * x[t, d]
            for n in range(states):
                b, c = B[n, t0 + t], C[n, t0 + t]
                for d in range(width):
                    value = exp2(step[t, d] * rate[n, d]) * state[n, d] + drive[t, d] * b
                    state[n, d] = value
                    out[t, d] += c * value
        _along(out, y[:, t0:t0 + size])


@compiled
def _backward_block(u, delta, A, B, C, D, bias, softplus, starts, first, grad, du, ddelta, dA, dB, dC, dD, dbias):
    """Fill du, ddelta (W, L), dA (W, N), dD, dbias (W,) of some channels, and their share dB, dC (N, L)."""
    states, length = B.shape
    width = len(u)
    rate, carry = np.empty((states, width), u.dtype), np.zeros((states, width), u.dtype)
    da, part = np.zeros((states, width), u.dtype), np.empty((states, width), u.dtype)
    before = np.empty((STEPS + 1, states, width), u.dtype)              # state before each step
    decay = np.empty((STEPS, states, width), u.dtype)
    x, step, g, slope = (np.empty((STEPS, width), u.dtype), np.empty((STEPS, width), u.dtype),
                         np.empty((STEPS, width), u.dtype), np.empty((STEPS, width), u.dtype))
    drive, ddrive, ddt = np.empty(width, u.dtype), np.empty(width, u.dtype), np.empty(width, u.dtype)
    direct, offset = np.empty(width, u.dtype), np.empty(width, u.dtype)
    dD[:], dbias[:] = 0, 0
    _rates(A, rate)
    for k in range(len(starts) - 1, -1, -1):
        t0 = k * STEPS
        size = min(STEPS, length - t0)
        direct[:], offset[:] = 0, 0                                     # sums by chunk lose fewer digits
        for n in range(states):
            for d in range(width):
                before[0, n, d] = starts[k, n, first + d]
                part[n, d] = 0
        _stepped(delta[:, t0:t0 + size], bias, softplus, step, slope)
        _across(u[:, t0:t0 + size], x)
        _across(grad[:, t0:t0 + size], g)
        for t in range(size):
            for d in range(width):
                drive[d] = step[t, d] * x[t, d]
            for n in range(states):
                b = B[n, t0 + t]
                for d in range(width):
                    value = exp2(step[t, d] * rate[n, d])
                    decay[t, n, d] = value
                    before[t + 1, n, d] = value * before[t, n, d] + drive[d] * b
        for t in range(size - 1, -1, -1):
            for d in range(width):
                drive[d] = step[t, d] * x[t, d]
                ddrive[d] = 0
                ddt[d] = 0
            for n in range(states):
                b, c = B[n, t0 + t], C[n, t0 + t]
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
                    part[n, d] += pull * step[t, d]
                dB[n, t0 + t] = db
                dC[n, t0 + t] = dc
            for d in range(width):
                drive[d] = ddrive[d] * step[t, d]
                step[t, d] = ddrive[d] * x[t, d] + ddt[d] * LN2
            if softplus:
                for d in range(width):
                    step[t, d] *= slope[t, d]
            if D.size:
                for d in range(width):
                    drive[d] += D[d] * g[t, d]
                    direct[d] += x[t, d] * g[t, d]
            for d in range(width):
                offset[d] += step[t, d]
                g[t, d] = drive[d]
        _along(g, du[:, t0:t0 + size])
        _along(step, ddelta[:, t0:t0 + size])
        for n in range(states):
            for d in range(width):
                da[n, d] += part[n, d]
        dD += direct
        dbias += offset
    for n in range(states):
        for d in range(width):
            dA[d, n] = da[n, d]


def _blocks(rows: int, channels: int) -> list[tuple[int, int, slice]]:
    """Block number q, row and channels of each piece of work: four pieces or more where they are wide enough."""
    number = max(-(-channels // WIDTH), min(2 * channels // WIDTH, -(-4 // rows)))
    edges = [channels * q // number for q in range(number + 1)]
    return [(q, r, slice(edges[q], edges[q + 1])) for r in range(rows) for q in range(number)]


def each(work: Callable, jobs: list) -> None:
    """Call work(*job) for each job on torch's number of threads; the caller is one of them, none waits spinning."""
    todo = iter(jobs)                                                   # next() of a list's iterator is atomic

    def some():
        for job in todo:
            work(*job)

    helpers = min(torch.get_num_threads(), len(jobs)) - 1
    if not helpers:
        return some()
    with ThreadPoolExecutor(helpers) as pool:
        others = [pool.submit(some) for _ in range(helpers)]
        some()
        for done in others:
            done.result()


def _arrays(u, delta, A, B, C, D, bias, to) -> list[np.ndarray]:
    """u, delta (R, P, L), A (G, P, N), B, C (R, N, L) and D, bias (G, P), or (G, 0) where absent."""
    groups = B.shape[1]
    rows = lambda x: x.to(to).reshape(-1, u.shape[1] // groups, u.shape[2])
    apart = lambda x: A.new_empty(groups, 0, dtype=to) if x is None else x.to(to).unflatten(0, (groups, -1))
    given = rows(u), rows(delta), apart(A), B.to(to).flatten(0, 1), C.to(to).flatten(0, 1), apart(D), apart(bias)
    return [x.detach().numpy() for x in given]


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    given = u, delta, A, B, C, D, bias
    starts, to, groups = empty_starts(*given, STEPS, keep), wide(*given), B.shape[1]
    result = torch.empty_like(u, dtype=to)
    x, dt, a, b, c, direct, offset = _arrays(*given, to)
    y, kept = result.numpy().reshape(x.shape), starts.numpy() if keep else np.empty((len(x), 0, 0, 0), x.dtype)

    def work(q, r, p):
        g = r % groups
        _forward_block(x[r, p], dt[r, p], a[g, p], b[r], c[r], direct[g, p], offset[g, p], softplus, y[r, p],
                       kept[r], p.start, keep)

    each(work, _blocks(*x.shape[:2]))
    return result.to(u.dtype), starts


def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool,
    starts: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = u, delta, A, B, C, D, bias
    to, groups = wide(*given), B.shape[1]
    x, dt, a, b, c, direct, offset = _arrays(*given, to)
    slope, kept = grad.to(to).numpy().reshape(x.shape), starts.numpy()
    jobs = _blocks(*x.shape[:2])
    du, ddelta = (np.empty_like(x) for _ in range(2))
    dA = np.empty((len(x), *a.shape[1:]), x.dtype)                      # (R, P, N)
    dD, dbias = (np.empty(x.shape[:2], x.dtype) for _ in range(2))      # (R, P)
    dB, dC = (np.empty((jobs[-1][0] + 1, *b.shape), x.dtype) for _ in range(2))  # (Q, R, N, L)

    def work(q, r, p):
        g = r % groups
        _backward_block(x[r, p], dt[r, p], a[g, p], b[r], c[r], direct[g, p], offset[g, p], softplus,
                        kept[r], p.start, slope[r, p], du[r, p], ddelta[r, p], dA[r, p], dB[q, r], dC[q, r],
                        dD[r, p], dbias[r, p])

    each(work, jobs)
    added = lambda v, like: torch.from_numpy(v).unflatten(0, (-1, groups)).sum(0).reshape(like.shape).to(like.dtype)
    shared = lambda v, like: torch.from_numpy(v).sum(0).reshape(like.shape).to(like.dtype)
    like = lambda v, x: torch.from_numpy(v).reshape(x.shape).to(x.dtype)
    maybe = lambda v, x: u.new_empty(0) if x is None else added(v, x)
    return (like(du, u), like(ddelta, delta), added(dA, A), shared(dB, B), shared(dC, C), maybe(dD, D),
            maybe(dbias, bias))


scan = operator("scan_numba", _forward, _backward, STEPS)
