"""Frequency-spatial collaboration: one map scanned among its wavelet bands and in space, then filtered by Fourier.

Axes: B maps, C channels, H, W rows and columns.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.channels import LayerNorm2d
from cmf.blocks.spectral import Fourier, Wavelet, cut, mosaic
from cmf.blocks.ss2d import SS2D


class ChannelAttention(nn.Sequential):
    """Two convolutions with GELU, then each channel times sigmoid(W relu(V mean)) (Zhang et al. 2018, RCAN)."""

    def __init__(self, width: int):
        few = max(width // 3, 1)
        super().__init__(nn.Conv2d(width, few, 3, padding=1), nn.GELU(), nn.Conv2d(few, width, 3, padding=1),
                         Gate(width, max(width // 12, 4), nn.ReLU()))


class Gate(nn.Module):
    """x sigmoid(W act(V mean of x over the pixels)), with `hidden` channels between V and W."""

    def __init__(self, width: int, hidden: int, act: nn.Module):
        super().__init__()
        self.weigh = nn.Sequential(nn.Conv2d(width, hidden, 1), act, nn.Conv2d(hidden, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x.mean((2, 3), keepdim=True)).sigmoid()


class WaveletScan(nn.Module):
    """w = synthesis(s M + SS2D(norm M)), M the mosaic of two levels of Haar bands of GELU(conv1 x).

    The gated SS2D visits the mosaic in windows of 4 x 4 pixels.

    Args:
        width: C.
        states, ratio, scan: see `SS2D`.
        ordered: False is the published arm: dilated windows, whose order is not undone.
    """

    def __init__(self, width: int, states: int, ratio: float = 4, scan: bool = True, ordered: bool = True):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU())
        self.wavelet = Wavelet("haar", 2)
        self.norm = LayerNorm2d(width)
        self.scan = SS2D(width, ratio, states, gated=True, tile=4, dilated=not ordered, inverse=ordered, scan=scan)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        bands = self.wavelet(self.enter(x))
        whole = mosaic(bands)
        whole = self.scale * whole + self.scan(self.norm(whole))
        return self.wavelet.inverse(cut(whole, 2, bands.size))


class SpatialScan(nn.Module):
    """y = s x + SS2D(norm x), then t y + channel attention(norm y)."""

    def __init__(self, width: int, states: int, ratio: float = 4, scan: bool = True):
        super().__init__()
        self.norm, self.norm2 = LayerNorm2d(width), LayerNorm2d(width)
        self.scan = SS2D(width, ratio, states, gated=True, scan=scan)
        self.attention = ChannelAttention(width)
        self.scale, self.scale2 = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        y = self.scale * x + self.scan(self.norm(x))
        return self.scale2 * y + self.attention(self.norm2(y))


class Collaboration(nn.Module):
    """o = gate(GELU(depth-wise conv3 conv1 Fourier([spatial scan of x; wavelet scan of x]))).

    The Fourier filter keeps the sign of what it returns, and the last convolution mirrors the border.

    Args:
        width: C, at least 4.
        states: N of both scans.
        ratio: E / C of both scans.
        scan: see `SS2D`.
        wavelet: False leaves the wavelet scan out.
        fourier: False leaves the filter out.
        ordered: see `WaveletScan`.
        signed: False is the published arm that takes the absolute value after the inverse transform.

    Raises:
        ValueError: a width below 4.
    """

    def __init__(self, width: int, states: int = 16, ratio: float = 4, scan: bool = True, wavelet: bool = True,
                 fourier: bool = True, ordered: bool = True, signed: bool = True):
        super().__init__()
        if width < 4:
            raise ValueError(f"a collaboration of {width} channels is too narrow; give at least 4")
        self.spatial = SpatialScan(width, states, ratio, scan)
        self.wavelet = WaveletScan(width, states, ratio, scan, ordered) if wavelet else None
        both = width * (1 + wavelet)
        self.fourier = Fourier(both, keep_sign=signed) if fourier else None
        self.join = nn.Conv2d(both, width, 1)
        self.depth = nn.Conv2d(width, width, 3, groups=width)
        self.gate = Gate(width, width // 4, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), any size from 1 x 1 -> what is to be added to it, the same shape."""
        y = self.spatial(x)
        if self.wavelet is not None:
            y = torch.cat([y, self.wavelet(x)], 1)
        if self.fourier is not None:
            y = self.fourier(y)
        border = "reflect" if min(x.shape[2:]) > 1 else "replicate"                             # a line has no mirror
        return self.gate(F.gelu(self.depth(F.pad(self.join(y), (1, 1, 1, 1), mode=border))))
