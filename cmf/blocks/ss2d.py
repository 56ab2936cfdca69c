"""Selective scans of pictures along four directions, and of sequences in both directions.

`SS2D` is the encoder's block of VMamba (Liu et al. 2024; the release called v05_noz) or, gated, the block of
Mamba carried to two dimensions; `Mixer` is Vim's bidirectional block (Zhu et al. 2024). Both hold the parameters of
all their directions in `Scans` and run them in one call of `selective_scan`.

Axes: B batch, C channels outside, E channels inside, K directions, N states, R rank of the step, H, W rows and
columns, L = H W, Q = R + 2 N channels that say step, B and C of a scan.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.channels import LayerNorm2d, Linear2d, start
from cmf.blocks.scan import cross_merge, cross_scan, selective_scan, visiting_order

SCAN = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")  # names of a scan's own parameters
EPS = 1e-5        # added to a mean square before its root
BLOCK = 1 << 23  # numbers of u that are scanned at once where no gradient is asked: 32 MiB in float32


class Scans(nn.Module):
    """Parameters of K selective scans side by side, each with its own A, D and input-dependent step, B and C.

    In direction k, with u the E channels at a time: [s, B, C] = W_k u, delta = softplus(V_k s + b_k) with V_k of rank
    R, A = -exp(A_log). Start: A_log[n] = ln n for n = 1..N, D = 1, V_k uniform within R^-1/2, and b_k such that
    softplus(b_k) is log-uniform in [1e-3, 1e-1].

    Args:
        directions: K.
        width: E.
        states: N.
        rank: R.
        scan: False leaves the parameters out; blocks without them pass u on.
    """

    def __init__(self, directions: int, width: int, states: int, rank: int, scan: bool = True):
        super().__init__()
        self.directions, self.width, self.states, self.rank, self.scan = directions, width, states, rank, scan
        if not scan:
            return
        k, e, n, r = directions, width, states, rank
        self.x_proj_weight = nn.Parameter(torch.empty(k, r + 2 * n, e))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, e, r))
        self.dt_projs_bias = nn.Parameter(torch.empty(k, e))
        self.A_logs = nn.Parameter(torch.arange(1, n + 1).float().log().repeat(k * e, 1))       # (K E, N)
        self.Ds = nn.Parameter(torch.ones(k * e))
        with torch.no_grad():
            self.x_proj_weight.uniform_(-1, 1).mul_(e**-0.5)
            self.dt_projs_weight.uniform_(-1, 1).mul_(r**-0.5)
            step = torch.rand(k, e).mul_(math.log(100)).exp_().mul_(1e-3)                       # 1e-3 .. 1e-1
            self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))                     # softplus inverted

    def run(self, u: Tensor, said: Tensor, first: int, last: int) -> Tensor:
        """Scan the channels first..last: u (B, K, last - first, L), said (B, K, Q, L) -> (B, K, last - first, L)."""
        s, b, c = said.split([self.rank, self.states, self.states], 2)                          # (B, K, R | N, L)
        step = self.dt_projs_weight[:, first:last] @ s                                          # (B, K, e, L)
        wide = torch.promote_types(self.A_logs.dtype, torch.float32)
        mine = lambda x: x.unflatten(0, (self.directions, -1))[:, first:last].flatten(0, 1).to(wide)
        bias = self.dt_projs_bias[:, first:last].flatten().to(wide)
        y = selective_scan(u.flatten(1, 2), step.flatten(1, 2), -mine(self.A_logs).exp(), b, c, mine(self.Ds),
                           bias, delta_softplus=True)
        return y.unflatten(1, (self.directions, -1))

    def blocks(self, batch: int, length: int) -> list[tuple[int, int]]:
        """Channels to scan at once: all where gradients are recorded, else as many as keep u within `BLOCK`."""
        size = self.width if torch.is_grad_enabled() else max(16, BLOCK // (batch * self.directions * length))
        return [(e, min(e + size, self.width)) for e in range(0, self.width, size)]


class SS2D(Scans):
    """Selective scan of a picture in four directions.

        u = SiLU(depth-wise conv 3 x 3 (in x));   y = norm(sum over directions of scan(u));   out y

    and gated: [u; z] = in x, and y is multiplied with SiLU(z) before `out`. Names and shapes of the parameters are
    those of VMamba's public weights.

    Args:
        width: C.
        ratio: E / C.
        states: N.
        rank: R, by default C / 16 rounded up.
        gated: with z and a bias of the convolution.
        tile: side of the windows of the visiting order, None for the raster; see `visiting_order`.
        dilated: see `visiting_order`.
        inverse: False leaves what was scanned in windows in that order, as if it had been a raster: the arm in
            which features land at other pixels than they came from.
        scan: False puts u in the place of its scan: the arm that only looks at 3 x 3 pixels.

    >>> SS2D(16, states=4, gated=True, tile=4)(torch.zeros(1, 16, 5, 7)).shape
    torch.Size([1, 16, 5, 7])
    """

    def __init__(self, width: int, ratio: float = 1.0, states: int = 1, rank: int | None = None, gated: bool = False,
                 tile: int | None = None, dilated: bool = False, inverse: bool = True, scan: bool = True):
        inner = round(ratio * width)
        super().__init__(4, inner, states, rank or -(-width // 16), scan)
        self.gated, self.tile, self.dilated, self.inverse = gated, tile, dilated, inverse
        self.in_proj = Linear2d(width, inner * (1 + gated), bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=gated)
        self.out_norm = LayerNorm2d(inner)
        self.out_proj = Linear2d(inner, width, bias=False)
        self.apply(start)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        entered = lambda part: F.conv2d(x, part[:, :, None, None])                              # (B, E, H, W)
        first, *rest = self.in_proj.weight.split(self.width)
        u = F.silu(self.conv2d(entered(first)), inplace=True)
        y = self.out_norm(self._scanned(u.contiguous()) if self.scan else u)
        del u
        for gate in rest:                                               # z comes last: it need not wait in memory
            y = y * F.silu(entered(gate), inplace=True)
        return self.out_proj(y)

    def _scanned(self, u: Tensor) -> Tensor:
        size = u.shape[2:]
        said = self._unrolled(F.conv2d(u, self.x_proj_weight.flatten(0, 1)[:, :, None, None]))  # (B, K, Q, L)
        tile = self.tile if self.inverse else None
        scan = lambda a, b: cross_merge(self.run(cross_scan(u[:, a:b], self.tile, self.dilated), said, a, b), size,
                                        tile, self.dilated)                                     # (B, b - a, H, W)
        parts = self.blocks(len(u), size.numel())
        if len(parts) == 1:
            return scan(*parts[0])
        for first, last in parts:                                       # no gradient: y may lie where u is read no more
            u[:, first:last] = scan(first, last)
        return u

    def _unrolled(self, said: Tensor) -> Tensor:
        """said (B, K Q, H, W), a part for each direction -> (B, K, Q, L), each part along its own direction."""
        size = said.shape[2:]
        parts = said.unflatten(1, (4, -1)).unbind(1)                                            # (B, Q, H, W) each
        if self.tile is None:
            along = [x.flatten(2) if k % 2 == 0 else x.mT.flatten(2) for k, x in enumerate(parts)]
        else:
            orders = [visiting_order(*size, self.tile, self.dilated, turned).to(said.device)
                      for turned in (False, True)]
            along = [x.flatten(2)[..., orders[k % 2]] for k, x in enumerate(parts)]
        return torch.stack([*along[:2], *(x.flip(-1) for x in along[2:])], 1)


class Mixer(Scans):
    """Bidirectional selective scan of a sequence (Zhu et al. 2024, Vim, algorithm 1).

    [x; z] = in tokens; forward and backward in time each: u = SiLU(causal depth-wise conv of 4 (x)), scanned; both are
    added, divided by their root mean square over E, and multiplied with SiLU(z); then `out`. Both directions have their
    own convolution and scan. The block of Vim does not divide, and what it scans can grow without bound in training.

    Args:
        width: C; E is 2 C.
        states: N.
        scan: False puts u in the place of its scan.
        normed: False leaves the division out.
        mean: the mean of both directions instead of their sum; without the division it differs.

    >>> Mixer(16)(torch.zeros(2, 16, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(self, width: int, states: int = 16, scan: bool = True, normed: bool = True, mean: bool = True):
        inner = 2 * width
        super().__init__(2, inner, states, -(-width // 16), scan)
        self.normed, self.mean = normed, mean
        self.in_proj = Linear2d(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(2 * inner, 2 * inner, 4, padding=3, groups=2 * inner)             # both directions
        self.out_proj = Linear2d(inner, width, bias=False)
        self.apply(start)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), read row by row -> the same shape."""
        size = x.shape[2:]
        x, z = self.in_proj(x).chunk(2, 1)                                                      # (B, E, H, W) each
        x = x.flatten(2)                                                                        # (B, E, L)
        u = self.conv(torch.cat([x, x.flip(-1)], 1))[..., : size.numel()]                       # (B, K E, L)
        u = F.silu(u, inplace=True).unflatten(1, (2, -1))                                       # (B, K, E, L)
        if self.scan:
            said = self.x_proj_weight @ u                                                       # (B, K, Q, L)
            parts = [self.run(u[:, :, a:b], said, a, b) for a, b in self.blocks(len(u), size.numel())]
            u = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        y = (u[:, 0] + u[:, 1].flip(-1)).unflatten(-1, size)                                    # (B, E, H, W)
        if self.normed:
            wide = y.to(torch.promote_types(y.dtype, torch.float32))
            y = y * (wide.square().mean(1, keepdim=True) + EPS).rsqrt().to(y.dtype)
        elif self.mean:
            y = 0.5 * y
        return self.out_proj(y * F.silu(z))


def freeze(module: nn.Module) -> int:
    """Stop the training of all parameters of scans in `module`, as a published optimiser did by leaving them out.

    Returns: how many numbers that are.
    """
    found = [getattr(part, name) for part in module.modules() if isinstance(part, Scans) and part.scan
             for name in SCAN]
    for parameter in found:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in found)
