"""The selective scan in plain torch: all chunks of the sequence step together, and backward recomputes the states.

Axes: Z batch, D channels, R rows (batch x groups), P channels of a group, L length, N states, K chunks,
T steps of a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cmf.blocks.scan_operator import empty_starts, finished, operator, prepared

BLOCK = 1 << 22  # states held at once (P x N x L of a block of channels): bounds memory, 16 MiB in float32
STEPS = 96       # T, near the square root of the lengths of pictures: as many chunks side by side as steps


def _stepped(x: Tensor, number: int, steps: int) -> Tensor:
    """(R, X, L) -> (T, R, X, K): step t of every chunk side by side, zeros after the end."""
    x = F.pad(x, (0, number * steps - x.shape[-1]))
    return x.unflatten(-1, (number, steps)).permute(3, 0, 1, 2).contiguous()


def _sequence(x: Tensor, length: int) -> Tensor:
    """(T, R, X, K) -> (R, X, L), the inverse of `_stepped`."""
    return x.permute(1, 2, 3, 0).flatten(2)[..., :length]


def _blocks(delta: Tensor, states: int) -> list[slice]:
    """Blocks of channels whose states fit in BLOCK."""
    size = max(1, BLOCK // (delta.shape[0] * states * delta.shape[-1]))
    return [slice(p, p + size) for p in range(0, delta.shape[1], size)]


def _decays(delta: Tensor, A: Tensor) -> Tensor:
    """exp(delta A) of every step: delta (T, R, P, K), A (R, P, N) -> (T, R, N, P, K)."""
    return (delta[:, :, None] * A.mT[:, :, :, None]).exp_()


def _starts(decay: Tensor, drive: Tensor, B: Tensor) -> Tensor:
    """State before the first step of each chunk (R, N, P, K), from the chunks' own end states."""
    state = torch.zeros_like(decay[0])                                      # (R, N, P, K)
    for a, x, b in zip(decay.unbind(0), drive.unbind(0), B.unbind(0), strict=True):
        state.mul_(a).addcmul_(x[:, None], b[:, :, None])
    return _carried(decay.prod(0), state)


def _carried(decay: Tensor, state: Tensor) -> Tensor:
    """Carry end states from chunk to chunk: `decay` and `state` (R, N, P, K), the result shifted by one chunk."""
    carry, start = torch.zeros_like(state[..., 0]), torch.empty_like(state)
    for k in range(state.shape[-1]):
        start[..., k] = carry
        carry = torch.addcmul(state[..., k], decay[..., k], carry)
    return start


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    starts = empty_starts(u, delta, A, B, C, D, bias, STEPS, keep)
    y = _outputs(*prepared(u, delta, A, B, C, D, bias, softplus), starts if keep else None)
    return finished(y, u, D), starts


def _outputs(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor | None) -> Tensor:
    """y (R, P, L) of rows; fills `starts` (R, K, N, P) where given."""
    length = u.shape[-1]
    number, steps = -(-length // STEPS), STEPS
    b, c = _stepped(B, number, steps), _stepped(C, number, steps)           # (T, R, N, K) each
    y = torch.empty_like(u)
    for block in _blocks(delta, A.shape[2]):
        dt = _stepped(delta[:, block], number, steps)                       # (T, R, P, K)
        drive = dt * _stepped(u[:, block], number, steps)                   # (T, R, P, K)
        decay = _decays(dt, A[:, block])                                    # (T, R, N, P, K)
        state = _starts(decay, drive, b)                                    # (R, N, P, K)
        if starts is not None:
            starts[..., block] = state.permute(0, 3, 1, 2)
        out = torch.empty_like(drive)                                       # (T, R, P, K)
        for t in range(steps):
            state.mul_(decay[t]).addcmul_(drive[t][:, None], b[t][:, :, None])
            torch.sum(state * c[t][:, :, None], 1, out=out[t])
        y[:, block] = _sequence(out, length)
    return y


def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool,
    starts: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = prepared(u, delta, A, B, C, D, bias, softplus)
    slope = grad.to(starts.dtype)                                           # (Z, D, L)
    du, ddelta, dA, dB, dC = _gradients(*rows, starts, slope.reshape(rows[0].shape))
    du, ddelta = du.reshape(u.shape), ddelta.reshape(u.shape)
    dD, dbias = u.new_empty(0), u.new_empty(0)
    if D is not None:
        dD = torch.einsum("zdl,zdl->d", slope, u.to(slope.dtype)).to(D.dtype)
        du = torch.addcmul(du, slope, D.to(du.dtype)[:, None])
    if softplus:
        ddelta.mul_(-torch.expm1(-rows[1].reshape(u.shape)))                # 1 - exp(-softplus(x)) is its slope at x
    if bias is not None:
        dbias = ddelta.sum((0, 2)).to(bias.dtype)
    return (du.to(u.dtype), ddelta.to(delta.dtype), dA.reshape(u.shape[0], *A.shape).sum(0).to(A.dtype),
            dB.reshape(B.shape).to(B.dtype), dC.reshape(C.shape).to(C.dtype), dD, dbias)


def _gradients(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor, grad: Tensor) -> tuple:
    """Gradients of u, delta (R, P, L), A (R, P, N), B and C (R, N, L), from that of y (R, P, L)."""
    length = u.shape[-1]
    number, steps = -(-length // STEPS), STEPS
    b, c = _stepped(B, number, steps), _stepped(C, number, steps)           # (T, R, N, K) each
    du, ddelta, dA = torch.empty_like(u), torch.empty_like(delta), torch.empty_like(A)
    db, dc = torch.zeros_like(b), torch.zeros_like(c)
    for block in _blocks(delta, A.shape[2]):
        dt, x, g = (_stepped(v[:, block], number, steps) for v in (delta, u, grad))
        a, drive = A[:, block].mT[..., None], dt * x                        # (R, N, P, 1), (T, R, P, K)
        decay = _decays(dt, A[:, block])                                    # (T, R, N, P, K)
        before = torch.empty_like(decay)                                    # state before each step
        state = starts[..., block].permute(0, 2, 3, 1).clone()              # (R, N, P, K)
        for t in range(steps):
            before[t] = state
            state.mul_(decay[t]).addcmul_(drive[t][:, None], b[t][:, :, None])
            dc[t] += (state * g[t][:, None]).sum(2)

        carry = torch.zeros_like(state)                                     # gradient of the state after a chunk
        for t in reversed(range(steps)):
            carry.addcmul_(g[t][:, None], c[t][:, :, None]).mul_(decay[t])
        carry = _carried(decay.prod(0).flip(-1), carry.flip(-1)).flip(-1).contiguous()

        ddrive, ddt, da = torch.empty_like(drive), torch.empty_like(drive), torch.zeros_like(state)
        for t in reversed(range(steps)):
            carry.addcmul_(g[t][:, None], c[t][:, :, None])                 # gradient of the state after step t
            torch.sum(carry * b[t][:, :, None], 1, out=ddrive[t])
            db[t] += (carry * drive[t][:, None]).sum(2)
            carry.mul_(decay[t])
            pull = before[t].mul_(carry)                                    # gradient of delta A
            torch.sum(pull * a, 1, out=ddt[t])
            da.addcmul_(pull, dt[t][:, None])
        du[:, block] = _sequence(ddrive * dt, length)
        ddelta[:, block] = _sequence(ddt.addcmul_(ddrive, x), length)
        dA[:, block] = da.sum(-1).mT
    return du, ddelta, dA, _sequence(db, length).contiguous(), _sequence(dc, length).contiguous()


scan = operator("scan_chunked", _forward, _backward, STEPS)
