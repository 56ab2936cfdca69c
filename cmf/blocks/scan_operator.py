"""A backend of the selective scan as an operator of torch: shapes for torch.compile, and gradients.

Axes: Z batch, D channels, L length, N states, G groups, R rows (Z x G), P channels of a group, K chunks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def operator(name: str, forward: Callable, backward: Callable, steps: int) -> Callable:
    """Register the operator `name` of a scan.

    `forward(u, delta, A, B, C, D, bias, softplus, keep) -> (y, starts)` and `backward(u, delta, A, B, C, D, bias,
    softplus, starts, grad) -> (du, ddelta, dA, dB, dC, dD, dbias)` are typed functions of contiguous tensors with the
    shapes of `cmf.blocks.scan.selective_scan`, B and C with groups. `starts` (R, K, N, P) is the state before each
    chunk of `steps`, of the type of the state; empty unless `keep`. Gradients of absent tensors are empty. Gradients
    of gradients are not defined.

    Returns: scan(u, delta, A, B, C, D, bias, softplus) -> y.
    """
    run = torch.library.custom_op(f"cmf::{name}", forward, mutates_args=())
    back = torch.library.custom_op(f"cmf::{name}_backward", backward, mutates_args=())

    @run.register_fake
    def _(u, delta, A, B, C, D, bias, softplus, keep):
        return torch.empty_like(u), empty_starts(u, delta, A, B, C, D, bias, steps, keep)

    @back.register_fake
    def _(u, delta, A, B, C, D, bias, softplus, starts, grad):
        return tuple(torch.empty_like(x) if x is not None else u.new_empty(0) for x in (u, delta, A, B, C, D, bias))

    def remember(ctx, inputs, output):
        *tensors, ctx.softplus, _ = inputs
        ctx.save_for_backward(*tensors, output[1])
        ctx.mark_non_differentiable(output[1])

    def gradients(ctx, grad, _):
        *tensors, starts = ctx.saved_tensors
        found = back(*tensors, ctx.softplus, starts, grad.contiguous())
        return *(g if x is not None else None for g, x in zip(found, tensors, strict=True)), None, None

    run.register_autograd(gradients, setup_context=remember)

    def scan(*inputs):
        *tensors, softplus = inputs
        keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        return run(*(x if x is None else x.contiguous() for x in tensors), softplus, keep)[0]
    return scan


def wide(*tensors: Tensor | None) -> torch.dtype:
    """Type of the state: float64 when any tensor is, else float32."""
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in tensors) else torch.float32


def empty_starts(u, delta, A, B, C, D, bias, steps: int, keep: bool) -> Tensor:
    """Room for the states before each chunk of `steps` (R, K, N, P), or an empty tensor unless `keep`."""
    rows, number = B.shape[0] * B.shape[1], (u.shape[2] + steps - 1) // steps
    shape = (rows, number, A.shape[1], u.shape[1] // B.shape[1]) if keep else (0,)
    return u.new_empty(shape, dtype=wide(u, delta, A, B, C, D, bias))


def prepared(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
             softplus: bool) -> tuple[Tensor, ...]:
    """u, step (R, P, L), A (R, P, N) and B, C (R, N, L) in the type of the state, step after bias and softplus."""
    batch, groups = B.shape[:2]
    to = wide(u, delta, A, B, C, D, bias)
    step = delta.to(to)
    if bias is not None:
        step = step + bias.to(to)[:, None]
    if softplus:
        step = F.softplus(step)
    rows = lambda x: x.unflatten(1, (groups, -1)).flatten(0, 1)             # (Z, D, L) -> (R, P, L)
    return (rows(u.to(to)), rows(step), rows(A.to(to).expand(batch, *A.shape)),
            B.to(to).flatten(0, 1), C.to(to).flatten(0, 1))


def finished(y: Tensor, u: Tensor, D: Tensor | None) -> Tensor:
    """Rows y (R, P, L) as (Z, D, L) of u's type, with the direct path."""
    y = y.reshape(u.shape)
    return (y if D is None else torch.addcmul(y, u.to(y.dtype), D.to(y.dtype)[:, None])).to(u.dtype)
