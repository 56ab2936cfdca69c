"""Layers of maps whose channels come first: a norm over the channels, a linear map of them, and stochastic depth.

Axes: B maps, C channels, H, W rows and columns.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map (B, C, H, W), at each pixel; weight and bias (C,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Linear2d(nn.Linear):
    """The same linear map at each pixel: (B, C, H, W) -> (B, C', H, W); weight (C', C) as in `torch.nn.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class DropPath(nn.Module):
    """Leaves out a branch, sample by sample, with probability `rate`, and scales what stays by 1 / (1 - rate).

    Source: Huang et al. 2016, Deep Networks with Stochastic Depth. In eval mode nothing is left out.

    Raises:
        ValueError: a rate outside [0, 1).
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a branch is left out with a probability in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)


def start(module: nn.Module) -> None:
    """Start of a linear layer, as transformers have it: weights normal within 0.02, cut at 2, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
