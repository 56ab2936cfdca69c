"""A pair of blocks that refines a map: a mixture of low-rank experts, then a long and thin convolution.

Axes: B maps, C channels, H, W rows and columns.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.channels import LayerNorm2d
from cmf.blocks.experts import Experts, Routing
from cmf.blocks.ss2d import Mixer


class Feed(nn.Module):
    """GELU(W (u * depth-wise conv3 g)) with [u; g] = GELU(V x): (B, C, H, W) -> the same shape."""

    def __init__(self, width: int):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU())
        self.depth = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.leave = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        u, g = self.enter(x).chunk(2, 1)
        return self.leave(u * self.depth(g))


class Mixture(nn.Module):
    """x + W experts(q, k) of norm x, then x + feed(norm x).

    [a; b] = conv1 GELU(conv3 norm x); q = GELU(mixer(norm a)); k = b + what a coarse path sees of b: twice the same
    depth-wise convolution of stride 4 with GELU, depth-wise conv3, conv1, enlarged to b's size.

    Args:
        width: C.
        ranks, per, region: see `cmf.blocks.experts.Experts`; one expert a token.
        states: N of the mixer.
        scan, normed: see `Mixer`.
    """

    def __init__(self, width: int, ranks: Sequence[int] = (2, 4, 8), per: str = "image", region: int = 8,
                 states: int = 64, scan: bool = True, normed: bool = True):
        super().__init__()
        self.norm, self.norm2 = LayerNorm2d(width, eps=1e-6), LayerNorm2d(width, eps=1e-6)
        self.enter = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 2 * width, 1))
        self.mixer = nn.Sequential(LayerNorm2d(width), Mixer(width, states, scan, normed, mean=False), nn.GELU())
        self.coarse = nn.Sequential(nn.Conv2d(width, width, 4, 4, 2, groups=width), nn.GELU())
        self.seen = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1))
        self.experts = Experts(width, ranks, per=per, region=region)
        self.leave = nn.Conv2d(width, width, 1)
        self.feed = Feed(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """x (B, C, H, W) -> the same shape, and where its tokens went."""
        a, b = self.enter(self.norm(x)).chunk(2, 1)
        seen = self.seen(self.coarse(self.coarse(b)))                                           # (B, C, h, w)
        b = b + F.interpolate(seen, b.shape[2:], mode="bilinear", align_corners=False)
        y, routing = self.experts(self.mixer(a), b)
        x = x + self.leave(y)
        return x + self.feed(self.norm2(x)), routing


class Thin(nn.Module):
    """x + W (q * v) with [q; v] = GELU(V norm x) and q convolved 1 x 11 and 11 x 1, then x + feed(norm x)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.norm2 = LayerNorm2d(width, eps=1e-6), LayerNorm2d(width, eps=1e-6)
        self.enter = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU())
        self.long = nn.Sequential(nn.Conv2d(width, width, (1, 11), padding=(0, 5), groups=width),
                                  nn.Conv2d(width, width, (11, 1), padding=(5, 0), groups=width))
        self.leave = nn.Conv2d(width, width, 1)
        self.feed = Feed(width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        q, v = self.enter(self.norm(x)).chunk(2, 1)
        x = x + self.leave(self.long(q) * v)
        return x + self.feed(self.norm2(x))


class Join(nn.Module):
    """Maps of several streams as one: norm(V x + conv1 relu(depth-wise conv3 W x)) with batch norms.

    Args:
        inputs: channels of all streams together.
        width: C of the result.
        eps: of both batch norms.

    >>> import torch
    >>> Join(32, 16)(torch.zeros(2, 32, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(self, inputs: int, width: int, eps: float = 1e-3):
        super().__init__()
        self.short = nn.Conv2d(inputs, width, 1, bias=False)
        self.long = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=width),
                                  nn.ReLU(), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width, eps=eps))
        self.norm = nn.BatchNorm2d(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, H, W) -> (B, C, H, W)."""
        return self.norm(self.short(x) + self.long(x))
