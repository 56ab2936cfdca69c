"""The selective scan as Triton kernels for CUDA, forward and backward, in the three passes of a chunked scan.

Each chunk is first scanned alone, then the states are carried from chunk to chunk, then each chunk is run again with
its true beginning: a single long sequence fills the card. Within a chunk a tree scan runs over time, one state after
the other, so that any number of states fits in registers; the states are never written out. Sums over channels are
kept per block of channels and added afterwards, which makes two runs equal.

Axes: Z batch, D channels, G groups, R rows (Z x G), P channels of a group, L length, N states, K chunks of T steps,
Q blocks of W channels.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from cmf.blocks.scan_operator import empty_starts, operator, wide

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
STEPS, WIDTH = (8, 2) if INTERPRETED else (128, 16)     # T and W: a tile is 2048 numbers, 16 a thread
CARRIED = 8 if INTERPRETED else 64                      # chunks of one step of the carrying pass


@triton.jit
def _after(a, x, b, y):
    """h -> a h + x, then h -> b h + y."""
    return a * b, b * x + y


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), its digits kept where it is small: log1p(z) = z log(w) / (w - 1) with w = 1 + z."""
    z = tl.exp(-tl.abs(x))
    w = 1 + z
    small = w == 1
    return tl.maximum(x, 0) + tl.where(small, z, z * (tl.log(w) / tl.where(small, 1, w - 1)))


@triton.jit
def _raw(delta, bias, row, channel, p, t, length, P, biased: tl.constexpr, kind: tl.constexpr):
    """delta with its bias (W, T), 0 outside."""
    inside = (p < P)[:, None] & (t < length)[None, :]
    x = tl.load(delta + (row * P + p)[:, None] * length + t[None, :], mask=inside, other=0).to(kind)
    if biased:
        x += tl.load(bias + channel, mask=p < P, other=0).to(kind)[:, None]
    return x


@triton.jit
def _step(delta, bias, row, channel, p, t, length, P, biased: tl.constexpr, softplus: tl.constexpr,
          kind: tl.constexpr):
    """delta after bias and softplus (W, T), 0 outside: the state stays as it is."""
    x = _raw(delta, bias, row, channel, p, t, length, P, biased, kind)
    if softplus:
        x = _softplus(x)
    return tl.where((p < P)[:, None] & (t < length)[None, :], x, 0)


@triton.jit
def _ends(u, delta, A, B, bias, ends, total, groups, length, P, states, number, biased: tl.constexpr,
          softplus: tl.constexpr, kind: tl.constexpr, T: tl.constexpr, W: tl.constexpr):
    """State at the end of each chunk begun with 0: ends (R, K, N, P), and the sum of its steps: total (R, K, P)."""
    row, block, k = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    p, t = block * W + tl.arange(0, W), k * T + tl.arange(0, T)
    channel = (row % groups) * P + p
    inside, here = (p < P)[:, None] & (t < length)[None, :], row * number + k
    step = _step(delta, bias, row, channel, p, t, length, P, biased, softplus, kind)
    x = tl.load(u + (row * P + p)[:, None] * length + t[None, :], mask=inside, other=0).to(kind)
    tl.store(total + here * P + p, tl.sum(step, 1), mask=p < P)
    later = _step(delta, bias, row, channel, p, t + 1, length, P, biased, softplus, kind)
    later = tl.cumsum(tl.where((tl.arange(0, T) == T - 1)[None, :], 0, later), 1, reverse=True)  # sum of later steps
    for n in range(states):
        rate = tl.load(A + channel * states + n, mask=p < P, other=0).to(kind)[:, None]
        b = tl.load(B + (row * states + n) * length + t, mask=t < length, other=0).to(kind)[None, :]
        end = tl.sum(tl.exp(later * rate) * (step * x * b), 1)
        tl.store(ends + (here * states + n) * P + p, end, mask=p < P)


@triton.jit
def _carry(A, ends, total, carried, groups, P, states, number, reverse: tl.constexpr, kind: tl.constexpr,
           M: tl.constexpr, W: tl.constexpr):
    """From what each chunk adds, `ends`, to what is there before each (after each, where reverse): both (R, K, N, P).

    The value before chunk k is the decay of chunk k - 1 times the value before that, plus what k - 1 added.
    """
    row, block, n = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    p = block * W + tl.arange(0, W)
    rate = tl.load(A + ((row % groups) * P + p) * states + n, mask=p < P, other=0).to(kind)[:, None]
    carry = tl.zeros((W,), kind)
    for m in range(0, number, M):
        k = m + tl.arange(0, M)                                             # (M,)
        inside, known = (p < P)[:, None] & (k < number)[None, :], (p < P)[:, None] & (k > 0)[None, :]
        known = known & (k <= number)[None, :]
        if reverse:
            here, earlier = row * number + number - 1 - k, row * number + number - k
        else:
            here, earlier = row * number + k, row * number + k - 1
        decay = tl.exp(rate * tl.load(total + earlier[None, :] * P + p[:, None], mask=known, other=0))
        added = tl.load(ends + (earlier[None, :] * states + n) * P + p[:, None], mask=known, other=0)
        added += tl.where((k == m)[None, :], decay * carry[:, None], 0)
        _, before = tl.associative_scan((decay, added), 1, _after)
        carry = tl.sum(tl.where((k == m + M - 1)[None, :], before, 0), 1)
        tl.store(carried + (here[None, :] * states + n) * P + p[:, None], before, mask=inside)


@triton.jit
def _outputs(u, delta, A, B, C, D, bias, starts, y, groups, length, P, states, number, direct: tl.constexpr,
             biased: tl.constexpr, softplus: tl.constexpr, kind: tl.constexpr, T: tl.constexpr, W: tl.constexpr):
    """y (R, P, L) from the states before each chunk."""
    row, block, k = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    p, t = block * W + tl.arange(0, W), k * T + tl.arange(0, T)
    channel = (row % groups) * P + p
    inside, first = (p < P)[:, None] & (t < length)[None, :], (tl.arange(0, T) == 0)[None, :]
    step = _step(delta, bias, row, channel, p, t, length, P, biased, softplus, kind)
    cell = (row * P + p)[:, None] * length + t[None, :]
    x = tl.load(u + cell, mask=inside, other=0).to(kind)
    out = tl.zeros((W, T), kind)
    if direct:
        out += x * tl.load(D + channel, mask=p < P, other=0).to(kind)[:, None]
    for n in range(states):
        rate = tl.load(A + channel * states + n, mask=p < P, other=0).to(kind)[:, None]
        b = tl.load(B + (row * states + n) * length + t, mask=t < length, other=0).to(kind)[None, :]
        c = tl.load(C + (row * states + n) * length + t, mask=t < length, other=0).to(kind)[None, :]
        start = tl.load(starts + ((row * number + k) * states + n) * P + p, mask=p < P, other=0)[:, None]
        decay = tl.exp(step * rate)
        _, state = tl.associative_scan((decay, step * x * b + tl.where(first, decay * start, 0)), 1, _after)
        out += c * state
    tl.store(y + cell, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _pulls(delta, A, C, bias, grad, pulls, total, groups, length, P, states, number, biased: tl.constexpr,
           softplus: tl.constexpr, kind: tl.constexpr, T: tl.constexpr, W: tl.constexpr):
    """Gradient of the state before each chunk by its own outputs: pulls (R, K, N, P); and total, as in `_ends`."""
    row, block, k = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    p, t = block * W + tl.arange(0, W), k * T + tl.arange(0, T)
    channel = (row % groups) * P + p
    inside = (p < P)[:, None] & (t < length)[None, :]
    step = _step(delta, bias, row, channel, p, t, length, P, biased, softplus, kind)
    g = tl.load(grad + (row * P + p)[:, None] * length + t[None, :], mask=inside, other=0).to(kind)
    tl.store(total + (row * number + k) * P + p, tl.sum(step, 1), mask=p < P)
    passed = tl.cumsum(step, 1)                                             # sum of the steps up to this one: (W, T)
    for n in range(states):
        rate = tl.load(A + channel * states + n, mask=p < P, other=0).to(kind)[:, None]
        c = tl.load(C + (row * states + n) * length + t, mask=t < length, other=0).to(kind)[None, :]
        pull = tl.sum(tl.exp(passed * rate) * g * c, 1)
        tl.store(pulls + ((row * number + k) * states + n) * P + p, pull, mask=p < P)


@triton.jit
def _gradients(u, delta, A, B, C, D, bias, starts, pulls, grad, du, ddelta, dA, dB, dC, dD, dbias, groups, length, P,
               states, number, direct: tl.constexpr, biased: tl.constexpr, softplus: tl.constexpr,
               kind: tl.constexpr, T: tl.constexpr, W: tl.constexpr):
    """du, ddelta (R, P, L), and shares dA (R, K, N, P), dB, dC (Q, R, N, L), dD, dbias (R, K, P)."""
    row, block, k = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    p, t = block * W + tl.arange(0, W), k * T + tl.arange(0, T)
    channel = (row % groups) * P + p
    inside, time = (p < P)[:, None] & (t < length)[None, :], tl.arange(0, T)
    first, last, here = (time == 0)[None, :], (time == T - 1)[None, :], row * number + k
    cell = (row * P + p)[:, None] * length + t[None, :]
    step = _step(delta, bias, row, channel, p, t, length, P, biased, softplus, kind)
    following = _step(delta, bias, row, channel, p, t + 1, length, P, biased, softplus, kind)
    following = tl.where(last, 0, following)                                # the chunk's end has its own carry
    x = tl.load(u + cell, mask=inside, other=0).to(kind)
    g = tl.load(grad + cell, mask=inside, other=0).to(kind)
    ddrive, ddt = tl.zeros((W, T), kind), tl.zeros((W, T), kind)
    for n in range(states):
        rate = tl.load(A + channel * states + n, mask=p < P, other=0).to(kind)[:, None]
        line = (row * states + n) * length + t
        b = tl.load(B + line, mask=t < length, other=0).to(kind)[None, :]
        c = tl.load(C + line, mask=t < length, other=0).to(kind)[None, :]
        edge = (here * states + n) * P + p
        start = tl.load(starts + edge, mask=p < P, other=0)[:, None]
        pull = tl.load(pulls + edge, mask=p < P, other=0)[:, None]
        decay, drive = tl.exp(step * rate), step * x * b
        _, state = tl.associative_scan((decay, drive + tl.where(first, decay * start, 0)), 1, _after)
        after = tl.exp(following * rate)
        _, slope = tl.associative_scan((after, g * c + tl.where(last, pull, 0)), 1, _after, reverse=True)
        kept = slope * (state - drive)                                      # gradient of delta A
        ddrive += slope * b
        ddt += kept * rate
        tl.store(dA + edge, tl.sum(kept * step, 1), mask=p < P)
        share = block.to(tl.int64) * tl.num_programs(0) * states * length + line
        tl.store(dB + share, tl.sum(slope * step * x, 0), mask=t < length)
        tl.store(dC + share, tl.sum(g * state, 0), mask=t < length)
    ddt += ddrive * x
    if softplus:
        ddt *= tl.sigmoid(_raw(delta, bias, row, channel, p, t, length, P, biased, kind))
    x_slope = ddrive * step
    if direct:
        x_slope += g * tl.load(D + channel, mask=p < P, other=0).to(kind)[:, None]
        tl.store(dD + here * P + p, tl.sum(g * x, 1), mask=p < P)
    if biased:
        tl.store(dbias + here * P + p, tl.sum(tl.where(inside, ddt, 0), 1), mask=p < P)
    tl.store(du + cell, x_slope.to(du.dtype.element_ty), mask=inside)
    tl.store(ddelta + cell, ddt.to(ddelta.dtype.element_ty), mask=inside)


def _shapes(u: Tensor, A: Tensor, B: Tensor) -> tuple[int, ...]:
    """R, blocks of channels Q, chunks K, and the kernels' groups, L, P, N, K."""
    (batch, groups, states, length), channels = B.shape, u.shape[1] // B.shape[1]
    number = triton.cdiv(length, STEPS)
    return batch * groups, triton.cdiv(channels, WIDTH), number, (groups, length, channels, states, number)


def _kind(*tensors: Tensor | None):
    return tl.float64 if wide(*tensors) == torch.float64 else tl.float32


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    given = u, delta, A, B, C, D, bias
    rows, blocks, number, sizes = _shapes(u, A, B)
    groups, length, channels, states, _ = sizes
    starts, y = empty_starts(*given, STEPS, True), torch.empty_like(u)
    ends, total = torch.empty_like(starts), starts.new_empty(rows, number, channels)
    facts = dict(kind=_kind(*given), W=WIDTH)
    flags = dict(biased=bias is not None, softplus=softplus, T=STEPS)
    _ends[rows, blocks, number](u, delta, A, B, bias, ends, total, *sizes, **flags, **facts)
    _carry[rows, blocks, states](A, ends, total, starts, groups, channels, states, number, reverse=False, M=CARRIED,
                                 **facts)
    _outputs[rows, blocks, number](u, delta, A, B, C, D, bias, starts, y, *sizes, direct=D is not None, **flags,
                                   **facts)
    return y, starts if keep else starts.new_empty(0)


def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool,
    starts: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = u, delta, A, B, C, D, bias
    rows, blocks, number, sizes = _shapes(u, A, B)
    groups, length, channels, states, _ = sizes
    own, pulls, dA = (torch.empty_like(starts) for _ in range(3))           # (R, K, N, P) each
    total, dD, dbias = (starts.new_empty(rows, number, channels) for _ in range(3))
    dB, dC = (starts.new_empty(blocks, *B.shape) for _ in range(2))
    du, ddelta = torch.empty_like(u), torch.empty_like(delta)
    facts = dict(kind=_kind(*given), W=WIDTH)
    flags = dict(biased=bias is not None, softplus=softplus, T=STEPS)
    _pulls[rows, blocks, number](delta, A, C, bias, grad, own, total, *sizes, **flags, **facts)
    _carry[rows, blocks, states](A, own, total, pulls, groups, channels, states, number, reverse=True, M=CARRIED,
                                 **facts)
    _gradients[rows, blocks, number](u, delta, A, B, C, D, bias, starts, pulls, grad, du, ddelta, dA, dB, dC, dD, dbias,
                                     *sizes, direct=D is not None, **flags, **facts)
    apart = lambda x: x.sum(1).unflatten(0, (-1, groups)).sum(0)            # (R, K, ...) -> (G, ...)
    whole = lambda x, like: u.new_empty(0) if like is None else apart(x).flatten().to(like.dtype)
    return (du, ddelta, apart(dA).mT.reshape(A.shape).to(A.dtype), dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype),
            whole(dD, D), whole(dbias, bias))


scan = operator("scan_triton", _forward, _backward, STEPS)
