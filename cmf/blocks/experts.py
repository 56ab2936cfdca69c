"""A mixture of low-rank experts: each image, region or pixel goes to the few experts that its router chooses.

Axes: B maps, C channels, H, W rows and columns, E experts, R ranks of all experts together, h, w rows and columns of
the tokens that are routed (1 x 1 an image; H x W a pixel each).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PER = ("image", "region", "pixel")


class Routing(NamedTuple):
    """Where tokens went.

    probabilities: (B, E, h, w) in [0, 1], float32 or wider, sum one over E, with gradient.
    chosen: (B, E, h, w) bool, True for the experts that a token went to.
    """

    probabilities: Tensor
    chosen: Tensor


def balance_loss(routing: Routing) -> Tensor:
    """E * sum_e f_e P_e, f_e the share of choices that fell on expert e, P_e its mean probability.

    Fedus, Zoph and Shazeer 2022 (Switch Transformers), eq. 4-6; the share is taken of all choices, so that top-k of any
    k is served. Scalar, one when both are even over the experts, E when everything goes to one. The gradient
    reaches the router through P_e. It sees only the tokens of one batch: a batch of B images routed as wholes holds B.
    """
    shares = load(routing).to(routing.probabilities.dtype)                  # (E,)
    return len(shares) * (shares * routing.probabilities.mean((0, 2, 3))).sum()


def load(*routings: Routing) -> Tensor:
    """Share of the choices that fell on each expert, over one or more batches: (E,) float64, sums to one.

    Raises:
        ValueError: no routing is given.
    """
    if not routings:
        raise ValueError("load needs one routing or more; none came")
    counts = sum(routing.chosen.sum((0, 2, 3)) for routing in routings)     # (E,)
    return counts.double() / counts.sum()


class Router(nn.Module):
    """Softmax of a linear map of each token's mean: pi = softmax(W mean(x)), then the `top` largest are chosen.

    Computed in float32 (or wider) under any autocast or input type, as the choice is not stable in bfloat16.

    Args:
        channels: C.
        experts: E.
        top: how many experts a token goes to, 1 to E.
        per: what a token is: "image", "region" (squares of `region` pixels, those at the right and lower border cut
            off by it) or "pixel".
        region: side of a region in pixels; used only with `per="region"`.

    Raises:
        ValueError: `top`, `per` or `region` is out of these ranges.
    """

    def __init__(self, channels: int, experts: int, top: int = 1, per: str = "image", region: int = 8):
        super().__init__()
        if not 1 <= top <= experts:
            raise ValueError(f"top is {top}; a token goes to 1 to {experts} of {experts} experts")
        if per not in PER:
            raise ValueError(f"routing per {per!r} is not known; choose one of {', '.join(PER)}")
        if region < 1:
            raise ValueError(f"a region has a side of 1 pixel or more, not {region}")
        self.top, self.per, self.region = top, per, region
        self.weight = nn.Parameter(torch.empty(experts, channels))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Routing:
        """x (B, C, H, W) -> routing of its tokens."""
        plain = torch.amp.is_autocast_available(x.device.type)              # not on devices without memory
        with torch.autocast(x.device.type, enabled=False) if plain else nullcontext():
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            if self.per == "image":
                x = x.mean((-2, -1), keepdim=True)                          # (B, C, 1, 1)
            elif self.per == "region":
                x = F.avg_pool2d(x, self.region, ceil_mode=True, count_include_pad=False)  # (B, C, h, w)
            probabilities = torch.einsum("bchw,ec->behw", x, self.weight.to(x.dtype)).softmax(1)
        best = probabilities.detach().topk(self.top, 1).indices             # (B, top, h, w)
        return Routing(probabilities, torch.zeros_like(probabilities, dtype=torch.bool).scatter(1, best, True))

    def gates(self, routing: Routing, size: tuple[int, int]) -> Tensor:
        """Probability of the chosen experts, zero for the others, at every pixel of `size` (H, W): (B, E, H, W)."""
        gates = routing.probabilities * routing.chosen                      # (B, E, h, w)
        if self.per == "region":
            gates = gates.repeat_interleave(self.region, -2).repeat_interleave(self.region, -1)
            return gates[..., : size[0], : size[1]]
        return gates.expand(*gates.shape[:2], *size)


class Experts(nn.Module):
    """x + sum over chosen experts of pi_e E_e(x, k), where E_e(x, k) = V_e((P_e k) * (Q_e x)) has rank r_e.

    All experts are one product each for P, Q and V, with what experts that were not chosen answer set to zero. At
    ranks 2, 4, 8 (96 x 120 x 160, one core) that takes 4 to 5 ms, gathering each expert's tokens 10 to 14; from ranks
    of some 32 on gathering would be the faster (24 against 32 ms at 32, 64, 128). The chosen probabilities are not
    rescaled to sum one, so the router has a gradient also when `top` is 1. Each E_e has the biases of its convolutions.

    Args:
        channels: C of x and of k.
        ranks: rank of each expert, at least one expert, each rank at least 1.
        top, per, region: see `Router`.

    Raises:
        ValueError: there is no expert, a rank is below 1, or the router refuses its arguments.

    >>> mixture = Experts(8, ranks=(2, 4, 8), per="region", region=4)
    >>> y, routing = mixture(torch.randn(2, 8, 10, 13), torch.randn(2, 8, 10, 13))
    >>> tuple(y.shape), tuple(routing.chosen.shape), float(load(routing).sum())
    ((2, 8, 10, 13), (2, 3, 3, 4), 1.0)
    """

    def __init__(self, channels: int, ranks: Sequence[int] = (2, 4, 8), top: int = 1, per: str = "image",
                 region: int = 8):
        super().__init__()
        if not ranks or min(ranks) < 1:
            raise ValueError(f"ranks are {tuple(ranks)}; give one rank of at least 1 for each expert")
        self.channels, self.ranks = channels, tuple(ranks)
        self.router = Router(channels, len(ranks), top, per, region)
        self.key = nn.Conv2d(channels, sum(ranks), 1)                       # P of all experts
        self.query = nn.Conv2d(channels, sum(ranks), 1)                     # Q of all experts
        self.out = nn.Conv2d(sum(ranks) + len(ranks), channels, 1, bias=False)  # V of all experts, then their biases
        with torch.no_grad():  # as a convolution for each expert would start: uniform within 1 / sqrt(rank)
            widths = [rank for rank in self.ranks for _ in range(rank)] + [*self.ranks]
            bounds = torch.tensor(widths, dtype=torch.float32).rsqrt()              # (R + E,)
            self.out.weight.uniform_(-1, 1).mul_(bounds[:, None, None])

    def forward(self, x: Tensor, k: Tensor) -> tuple[Tensor, Routing]:
        """x, k (B, C, H, W) -> the sum of x and its experts' answers (B, C, H, W), and where its tokens went.

        Raises:
            ValueError: x and k differ in shape, or it is not (B, C, H, W) of this mixture's C.
        """
        if x.shape != k.shape or x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x and k both have shape (B, {self.channels}, H, W), not {tuple(x.shape)} "
                             f"and {tuple(k.shape)}")
        routing = self.router(x)
        hidden = self.key(k) * self.query(x)                                # (B, R, H, W)
        gates = self.router.gates(routing, x.shape[-2:]).to(hidden.dtype)   # (B, E, H, W)
        parts = zip(hidden.split(self.ranks, 1), gates.split(1, 1), strict=True)
        return x + self.out(torch.cat([*(part * gate for part, gate in parts), gates], 1)), routing
