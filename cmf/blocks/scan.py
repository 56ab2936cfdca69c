"""The selective scan of state-space models, and the orders in which it visits a picture.

Axes: Z batch, D channels, L length, N states, G groups, R rows (Z x G), P channels of a group,
H, W rows and columns of a picture, K directions.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from cmf.blocks import scan_chunked
from cmf.blocks.scan_operator import finished, prepared

BACKENDS = ("reference", "chunked", "numba", "triton")
FOUND = {name: importlib.util.find_spec(name) is not None for name in ("numba", "triton")}


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, backend: str | None = None,
) -> Tensor:
    """Run a linear recurrence whose coefficients depend on the input (Gu and Dao 2023, eq. 2 with Algorithm 2).

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t from h = 0, and y_t = <C_t, h_t> + D u_t; states are float32,
    or float64 when any argument is. Gradients reach every tensor; only `reference` can be differentiated twice.

    Args:
        u: (Z, D, L) input of any real unit, any floating type.
        delta: (Z, D, L) step; positive after bias and softplus.
        A: (D, N) rate of each state, negative for a state that fades.
        B: (Z, N, L), or (Z, G, N, L) with channels g D/G .. (g+1) D/G - 1 reading group g.
        C: like B.
        D: (D,) weight of the direct path, or None for none.
        delta_bias: (D,) added to delta, or None.
        delta_softplus: pass delta (with its bias) through log(1 + exp(.)).
        backend: "reference" (the recurrence, step by step), "chunked" (plain torch, any device), "numba"
            (compiled, CPU, torch's number of threads, which does not change a digit), "triton" (compiled, CUDA); None
            takes numba or triton where it can be used, else chunked. triton also runs on the CPU, very slowly, where
            the environment has TRITON_INTERPRET=1 before Triton is imported.

    Returns: y (Z, D, L), of u's type.

    Raises:
        ValueError: shapes that do not belong together, or a backend that is unknown or cannot be used here.

    Example:
        >>> u, delta = torch.ones(1, 2, 3), torch.ones(1, 2, 3)
        >>> selective_scan(u, delta, torch.zeros(2, 1), torch.ones(1, 1, 3), torch.ones(1, 1, 3))[0, 0]
        tensor([1., 2., 3.])
    """
    B, C = (x[:, None] if x.ndim == 3 else x for x in (B, C))               # (Z, G, N, L) each
    _check(u, delta, A, B, C, D, delta_bias)
    scan = _backend(backend, u.device)
    return scan(u, delta, A, B, C, D, delta_bias, delta_softplus)


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None) -> None:
    """Refuse shapes that do not belong together."""
    if u.ndim != 3 or not u.numel() or delta.shape != u.shape:
        raise ValueError(
            f"u has shape {tuple(u.shape)} and delta {tuple(delta.shape)}; give both as (batch, channels, length)"
        )
    batch, channels, length = u.shape
    if A.ndim != 2 or A.shape[0] != channels or not A.shape[1]:
        raise ValueError(f"A has shape {tuple(A.shape)}; give ({channels}, states) for {channels} channels")
    if B.ndim != 4 or C.shape != B.shape or (B.shape[0], *B.shape[2:]) != (batch, A.shape[1], length):
        raise ValueError(
            f"B has shape {tuple(B.shape)} and C {tuple(C.shape)} (batch, groups, states, length); "
            f"give ({batch}, groups, {A.shape[1]}, {length}) or the same without groups"
        )
    if not B.shape[1] or channels % B.shape[1]:
        raise ValueError(f"{channels} channels do not divide into the {B.shape[1]} groups of B and C")
    for name, x in (("D", D), ("delta_bias", bias)):
        if x is not None and x.shape != (channels,):
            raise ValueError(f"{name} has shape {tuple(x.shape)}; give ({channels},), one value a channel")


def _backend(name: str | None, device: torch.device) -> Callable:
    """The scan called `name`, or the fastest that `device` allows."""
    if name not in (None, *BACKENDS):
        raise ValueError(f"scan backend {name!r} is unknown; choose one of {', '.join(BACKENDS)}, or None")
    if name is None:
        fastest = {"cpu": "numba", "cuda": "triton"}.get(device.type)
        name = fastest if FOUND.get(fastest) else "chunked"
    if not FOUND.get(name, True):
        raise ValueError(f"scan backend {name!r} needs the package {name}, which is not installed; use 'chunked'")
    if name == "numba":
        if device.type != "cpu":
            raise ValueError(f"scan backend 'numba' runs on the CPU, and u is on {device}; move it or use 'chunked'")
        from cmf.blocks import scan_numba
        return scan_numba.scan
    if name == "triton":
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(f"scan backend 'triton' runs on CUDA, and u is on {device}; move it, use 'chunked', or "
                             "set TRITON_INTERPRET=1 before Triton is imported to try it without a device")
        from cmf.blocks import scan_triton
        return scan_triton.scan
    return scan_chunked.scan if name == "chunked" else _reference


def _reference(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
               softplus: bool) -> Tensor:
    """The recurrence as it is written."""
    rows, step, A, B, C = prepared(u, delta, A, B, C, D, bias, softplus)
    state, out = torch.zeros_like(A), []                                    # (R, P, N)
    for x, dt, b, c in zip(*(v.unbind(-1) for v in (rows, step, B, C)), strict=True):
        state = torch.exp(dt[..., None] * A) * state + (dt * x)[..., None] * b[:, None]
        out.append((state * c[:, None]).sum(-1))                            # (R, P)
    return finished(torch.stack(out, -1), u, D)


@lru_cache(maxsize=64)
def visiting_order(height: int, width: int, tile: int = 4, dilated: bool = False, transposed: bool = False) -> Tensor:
    """Order in which a windowed scan visits the pixels of a picture of any size (Huang et al. 2024, LocalMamba).

    A pixel is offset (i, j) in tile (I, J). Windowed is the order (I, J, i, j), one tile after the other;
    dilated is (i, j, I, J), one coarse lattice after the other; transposed swaps rows and columns in both.
    Tiles at the right and lower edge are as small as they need to be.

    Returns: (L,) int64; entry t is the row-major index of the pixel visited at time t.

    Raises:
        ValueError: a size or tile below 1.
    """
    if min(height, width, tile) < 1:
        raise ValueError(f"a picture of {height}x{width} cannot be cut into tiles of {tile}; each must be at least 1")
    with torch.inference_mode(False):  # the cached order may be asked for in training later
        row = torch.arange(height)[:, None].expand(height, width)
        column = torch.arange(width).expand(height, width)
        if transposed:
            row, column = column, row
        coarse, fine = (row // tile, column // tile), (row % tile, column % tile)
        key = torch.zeros_like(row)
        for digit in (*fine, *coarse) if dilated else (*coarse, *fine):
            key = key * (max(height, width) + 1) + digit
        return key.flatten().argsort()


def inverse_order(order: Tensor) -> Tensor:
    """The permutation (L,) that undoes `order` (L,): x[order][inverse_order(order)] is x."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


def cross_scan(x: Tensor, tile: int | None = None, dilated: bool = False) -> Tensor:
    """Unroll a picture along four directions (Liu et al. 2024, VMamba, section 4.3).

    They are row-major, column-major and the reverse of each; with `tile`, the visiting orders of
    `visiting_order` take the place of the two rasters.

    Args:
        x: (Z, C, H, W).
        tile: side of a window in pixels, or None for plain rasters.
        dilated: see `visiting_order`.

    Returns: (Z, K=4, C, L).
    """
    if tile is None:
        first, second = x.flatten(2), x.mT.flatten(2)                       # (Z, C, L) each
    else:
        first, second = (x.flatten(2)[..., order] for order in _orders(x.shape[2:], tile, dilated, x.device))
    return torch.stack([first, second, first.flip(-1), second.flip(-1)], 1)


def cross_merge(y: Tensor, size: tuple[int, int], tile: int | None = None, dilated: bool = False) -> Tensor:
    """Put four directions back in their places and add them: the inverse of `cross_scan`, times four.

    Args:
        y: (Z, K=4, C, L), ordered as `cross_scan` with the same `tile` and `dilated` does.
        size: H, W of the picture.
        tile, dilated: as in `cross_scan`.

    Returns: (Z, C, H, W).

    Raises:
        ValueError: y has not four directions, or not H x W steps.
    """
    height, width = size
    if y.ndim != 4 or y.shape[1] != 4 or y.shape[3] != height * width:
        raise ValueError(f"directions have shape {tuple(y.shape)}; give (batch, 4, channels, {height * width}) "
                         f"for a picture of {height}x{width}")
    first, second = (y[:, :2] + y[:, 2:].flip(-1)).unbind(1)                # (Z, C, L) each
    if tile is None:
        return first.unflatten(-1, (height, width)) + second.unflatten(-1, (width, height)).mT
    back = [inverse_order(order) for order in _orders(size, tile, dilated, y.device)]
    return (first[..., back[0]] + second[..., back[1]]).unflatten(-1, (height, width))


def _orders(size: tuple[int, int], tile: int, dilated: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The visiting order of a picture and its transposed fellow."""
    return tuple(visiting_order(*size, tile, dilated, transposed).to(device) for transposed in (False, True))
