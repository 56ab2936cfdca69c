"""Orthonormal wavelets and a Fourier filter of feature maps, both of any height and width.

Axes: B maps, C channels, H, W rows and columns, h, w rows and columns of a band, S = 3 orientations of a detail band.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# low-pass filters h of unit energy (Daubechies 1988, table 1); the high-pass one is g[k] = (-1)^k h[K-1-k]
FILTERS = {
    "haar": (1 / math.sqrt(2), 1 / math.sqrt(2)),
    "db2": tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, 1), (3, 1), (3, -1), (1, -1))),
}


class Bands(NamedTuple):
    """A map taken apart.

    low: (B, C, h, w), the coarsest average; a constant map of value v gives v * 2 ** levels.
    details: finest first, each (B, C, S, h, w); S: fine along the rows' axis H, along W, along both.
    size: (H, W) of the map they were made of.
    """

    low: Tensor
    details: tuple[Tensor, ...]
    size: tuple[int, int]


def filters(wavelet: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low-pass and high-pass filter of a wavelet, "haar" or "db2".

    Raises:
        ValueError: the name is not known.
    """
    if wavelet not in FILTERS:
        raise ValueError(f"there is no wavelet {wavelet!r}; choose one of {', '.join(FILTERS)}")
    low = FILTERS[wavelet]
    return low, tuple((-1) ** k * tap for k, tap in enumerate(reversed(low)))


def split(x: Tensor, wavelet: str, axis: int) -> tuple[Tensor, Tensor]:
    """Low and high half of `x` along one axis of even length: low[n] = sum_k h[k] x[2n + k], indices wrapping round."""
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis)                     # each half as long
    return tuple(
        sum(taps[2 * j] * shifted(even, -j, axis) + taps[2 * j + 1] * shifted(odd, -j, axis)
            for j in range(len(taps) // 2))
        for taps in filters(wavelet)
    )


def join(low: Tensor, high: Tensor, wavelet: str, axis: int) -> Tensor:
    """The transpose of `split`, which is its inverse."""
    h, g = filters(wavelet)
    halves = [
        sum(h[2 * j + odd] * shifted(low, j, axis) + g[2 * j + odd] * shifted(high, j, axis)
            for j in range(len(h) // 2))
        for odd in (0, 1)
    ]
    return torch.stack(halves, axis).flatten(axis - 1, axis)


def shifted(x: Tensor, by: int, axis: int) -> Tensor:
    return x.roll(by, axis) if by else x


def check_map(x: Tensor) -> None:
    """A map is (B, C, H, W) of floats with at least one row and column.

    Raises:
        ValueError: the shape is another.
        TypeError: the values are not floating-point numbers.
    """
    if x.ndim != 4 or 0 in x.shape[-2:]:
        raise ValueError(f"a map has shape (B, C, H, W) with H and W at least 1, not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"a map holds floating-point numbers, not {x.dtype}; convert it with .float()")


def analyse(x: Tensor, wavelet: str = "haar", levels: int = 1) -> Bands:
    """Take a map apart into wavelet bands (Mallat 1989).

    Border rule: the last row and column are repeated until H and W are multiples of 2 ** levels, then filters wrap
    round. With H and W such multiples the transform is orthonormal: the bands' energy is the map's. At other sizes
    it is the energy of the repeated map. The inverse is exact at every size.

    Args:
        x: (B, C, H, W), floating point, any range, H and W at least 1.
        wavelet: "haar" or "db2"; db2 is blind to slopes, Haar only to constants.
        levels: how often the average is taken apart again, at least 1.

    Raises:
        ValueError: the shape, the wavelet's name or the number of levels is not one of these.
        TypeError: the values are not floating-point numbers.

    >>> bands = analyse(torch.ones(1, 1, 5, 7), "haar", levels=2)
    >>> tuple(bands.low.shape), [tuple(d.shape) for d in bands.details]
    ((1, 1, 2, 2), [(1, 1, 3, 4, 4), (1, 1, 3, 2, 2)])
    >>> tuple(synthesise(bands, "haar").shape)
    (1, 1, 5, 7)
    """
    check_map(x)
    filters(wavelet)
    if levels < 1:
        raise ValueError(f"levels is {levels}; a map is taken apart at least once")
    size = tuple(x.shape[-2:])
    low, details = repeated(x, 2**levels), []                               # (B, C, H', W')
    for _ in range(levels):
        top, bottom = split(low, wavelet, -2)                               # (B, C, h, 2w) each
        (low, wide), (tall, both) = split(top, wavelet, -1), split(bottom, wavelet, -1)
        details.append(torch.stack([tall, wide, both], 2))                  # (B, C, S, h, w)
    return Bands(low, tuple(details), size)


def repeated(x: Tensor, multiple: int) -> Tensor:
    """x (B, C, H, W) with its last row and column repeated until both sizes are multiples of `multiple`."""
    for axis in (-2, -1):
        missing = -x.shape[axis] % multiple
        if missing:
            last = x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([x, last.repeat_interleave(missing, axis)], axis)
    return x


def synthesise(bands: Bands, wavelet: str = "haar") -> Tensor:
    """The map (B, C, H, W) of bands from `analyse`; exact if they are unchanged.

    Raises:
        ValueError: the wavelet is not known, or a detail band does not fit the average it is joined with.
    """
    low = bands.low
    for detail in reversed(bands.details):
        if detail.shape != (*low.shape[:2], 3, *low.shape[-2:]):
            raise ValueError(f"a detail band of shape {tuple(detail.shape)} does not fit an average of shape "
                             f"{tuple(low.shape)}; details are (B, C, 3, h, w), finest first")
        tall, wide, both = detail.unbind(2)
        low = join(join(low, wide, wavelet, -1), join(tall, both, wavelet, -1), wavelet, -2)
    return low[..., : bands.size[0], : bands.size[1]]


def mosaic(bands: Bands) -> Tensor:
    """Bands laid out as one map (B, C, H', W'): the average top left, at each level its details right of it (W), below
    it (H) and across (both). H', W' are H, W rounded up to multiples of 2 ** levels."""
    whole = bands.low
    for detail in reversed(bands.details):
        tall, wide, both = detail.unbind(2)
        whole = torch.cat([torch.cat([whole, wide], -1), torch.cat([tall, both], -1)], -2)
    return whole


def cut(whole: Tensor, levels: int, size: tuple[int, int]) -> Bands:
    """The inverse of `mosaic`: bands of `levels` levels of a map of `size` (H, W).

    Raises:
        ValueError: the mosaic is not as large as the bands of such a map.
    """
    expected = tuple(-(-n // 2**levels) * 2**levels for n in size)
    if tuple(whole.shape[-2:]) != expected:
        raise ValueError(f"the mosaic of {levels} levels of a map of {size[0]} x {size[1]} has "
                         f"{expected[0]} x {expected[1]} points, not {whole.shape[-2]} x {whole.shape[-1]}")
    details = []
    for _ in range(levels):
        top, bottom = whole.chunk(2, -2)
        (whole, wide), (tall, both) = top.chunk(2, -1), bottom.chunk(2, -1)
        details.append(torch.stack([tall, wide, both], 2))                  # (B, C, S, h, w)
    return Bands(whole, tuple(details), tuple(size))


class Wavelet(nn.Module):
    """`analyse` and `synthesise` of one wavelet and number of levels; it has no parameters.

    Args:
        wavelet: "haar" or "db2".
        levels: at least 1.

    Raises:
        ValueError: the wavelet is not known or the number of levels is below 1.
    """

    def __init__(self, wavelet: str = "haar", levels: int = 2):
        super().__init__()
        filters(wavelet)
        if levels < 1:
            raise ValueError(f"levels is {levels}; a map is taken apart at least once")
        self.wavelet, self.levels = wavelet, levels

    def forward(self, x: Tensor) -> Bands:
        """x (B, C, H, W) -> its bands."""
        return analyse(x, self.wavelet, self.levels)

    def inverse(self, bands: Bands) -> Tensor:
        """Bands -> map (B, C, H, W)."""
        return synthesise(bands, self.wavelet)

    def extra_repr(self) -> str:
        return f"{self.wavelet!r}, levels={self.levels}"


class Fourier(nn.Module):
    """Scales each frequency of each channel by a factor in (0, 2) learned from the magnitudes; phases stay.

    With F = rfft2(x) / sqrt(H W) and m = ln(1 + |F|), two 1 x 1 convolutions a, b over the channels give
    y = x + irfft2(tanh(b(LeakyReLU(a(m)))) F) sqrt(H W), that is F times 1 + tanh(.). b starts at zero, so an untrained
    block returns x to the last bit. The division by sqrt(H W) lets one filter serve every size. Half-precision maps
    are transformed in float32.

    Args:
        channels: C.
        hidden: channels between the two convolutions, C if not said.
        keep_sign: False returns |y| instead: the arm that loses the sign.

    Raises:
        ValueError: a number of channels is below 1.
    """

    def __init__(self, channels: int, hidden: int | None = None, keep_sign: bool = True):
        super().__init__()
        hidden = channels if hidden is None else hidden
        if channels < 1 or hidden < 1:
            raise ValueError(f"channels is {channels} and hidden {hidden}; both are at least 1")
        self.enter = nn.Conv2d(channels, hidden, 1)
        self.leave = nn.Conv2d(hidden, channels, 1)
        self.keep_sign = keep_sign
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def factor(self, spectrum: Tensor) -> Tensor:
        """What the block adds to the factor one, in (-1, 1): spectrum (B, C, H, W//2 + 1) complex -> the same, real."""
        m = spectrum.abs().log1p().to(self.enter.weight.dtype)
        return torch.tanh(self.leave(F.leaky_relu(self.enter(m), 0.1))).to(spectrum.real.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), floating point, any size -> the same shape and type."""
        check_map(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        spectrum = torch.fft.rfft2(wide, norm="ortho")                      # (B, C, H, W//2 + 1) complex
        y = wide + torch.fft.irfft2(self.factor(spectrum) * spectrum, s=x.shape[-2:], norm="ortho")
        return (y if self.keep_sign else y.abs()).to(x.dtype)
