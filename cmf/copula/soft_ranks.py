"""Ranks for training: ECDF values with a gradient, and stored quantiles for inference.

Axes: B observations, R reference observations, T scalars (each ranked on its own), q stored levels.
"""

import math

import torch
from torch.autograd.function import once_differentiable

_CHUNK = 1 << 22


def _check(name, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"{name} must be (rows, scalars) with at least one row, got {tuple(x.shape)}")
    if bool(x.isnan().any()):
        raise ValueError(f"{name} has {int(x.isnan().sum())} NaN of {x.numel()} values: the projections that made it "
                         "have diverged or their input is missing")


def _positions(x, reference):
    """(number below + number not above + 1) / (2 (R + 1)): (B, T)."""
    ordered, points = reference.T.sort(dim=1).values.contiguous(), x.T.contiguous()      # (T, R), (T, B)
    rank = torch.searchsorted(ordered, points) + torch.searchsorted(ordered, points, right=True) + 1
    return (rank.to(x.dtype) / (2 * (len(reference) + 1))).T


class _SoftEcdf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, reference, h):
        ctx.save_for_backward(x, reference, h)
        return _positions(x, reference)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, reference, h = ctx.saved_tensors
        gx, gr = torch.empty_like(x), torch.empty_like(reference)
        for s, kernel in _kernels(x, reference, h):
            gx[:, s] = grad[:, s] * kernel.sum(2).T
            gr[:, s] = -torch.bmm(grad.T[s, None], kernel)[:, 0].T
        return gx, gr, None


class _OwnEcdf(torch.autograd.Function):
    """x as its own reference; the gradient reaches the first rows only, so only their kernels are formed."""

    @staticmethod
    def forward(ctx, x, first, h):
        ctx.save_for_backward(x, h)
        ctx.first = first
        return _positions(x, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, h = ctx.saved_tensors
        gx, rows = torch.zeros_like(x), slice(None, ctx.first)
        for s, kernel in _kernels(x[rows], x, h):
            gx[rows, s] = grad[rows, s] * kernel.sum(2).T - torch.bmm(kernel, grad.T[s, :, None])[:, :, 0].T
        return gx, None, None


def _kernels(x, reference, h):
    """Gaussian densities between x and the reference over (R + 1), (t, B, R) for a slice of scalars at a time."""
    step = max(1, _CHUNK // (len(x) * len(reference)))
    for k in range(0, x.shape[1], step):
        s = slice(k, k + step)
        z = (x.T[s, :, None] - reference.T[s, None]) / h[s, None, None]                   # (t, B, R)
        scale = h[s, None, None] * (math.sqrt(2 * math.pi) * (len(reference) + 1))
        yield s, z.square_().mul_(-0.5).exp_().div_(scale)


def soft_ecdf(x, reference, bandwidth=None):
    """Position of x in the empirical distribution of a reference sample, with a gradient.

    The value is exact, (number below + number not above + 1) / (2 (R + 1)): for x itself as reference it equals
    ecdf(x). The gradient is that of a Gaussian-kernel distribution function, in x and in the reference.
    Chosen by measurement: descending pairwise_mi on two projections (batches of 256, 80 steps, 4 seeds) took an
    independent nearest-neighbour estimate from 0.80 to 0.006 nats; without the reference's part to 0.072; with a
    bandwidth of one standard deviation to 0.086; of 0.05, to 0.007 but worse than the default in its worst seed.

    x: (B, T), reference: (R, T), any units; bandwidth: kernel width in units of the reference's standard deviation,
    default 0.9 R^(-1/5). Returns (B, T) in (0, 1), at least float32; half-precision input is taken up to float32, but
    its coarse values tie, so project in float32. Raises ValueError on NaN, wrong shapes, no rows, bandwidth <= 0.
    """
    _check("x", x)
    _check("reference", reference)
    if x.shape[1] != reference.shape[1]:
        raise ValueError(f"x and reference must have one number of scalars, got {x.shape[1]} and {reference.shape[1]}")
    x = _full(x)
    reference = reference.to(x.dtype)
    return _SoftEcdf.apply(x, reference, _width(reference, bandwidth))


def own_ecdf(x, first, bandwidth=None):
    """soft_ecdf(x, x, bandwidth) whose gradient reaches the first rows only: those of a batch, ahead of a memory.

    x: (R, T); first: number of rows with a gradient, 0 to R. Returns (R, T). Raises as soft_ecdf.
    """
    _check("x", x)
    x = _full(x)
    return _OwnEcdf.apply(x, first, _width(x, bandwidth))


def _full(x):
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _width(reference, bandwidth):
    """Kernel width of every scalar, (T,); infinite for a constant one, which makes its gradient 0."""
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    wide = reference.detach()
    factor = 0.9 * len(wide) ** -0.2 if bandwidth is None else bandwidth
    spread = wide.std(0, correction=0)
    varies = spread > torch.finfo(wide.dtype).eps * wide.abs().amax(0)
    return torch.where(varies, factor * spread, torch.full_like(spread, math.inf))


class QuantileTable(torch.nn.Module):
    """Stored quantiles of each scalar, so that at inference u does not depend on the batch.

    scalars: number T of scalars; levels: number q >= 3 of stored quantiles, at probabilities k / (q + 1).
    The buffers are saved with the model. Raises ValueError on levels < 3.
    """

    def __init__(self, scalars, levels=255):
        super().__init__()
        if levels < 3:
            raise ValueError(f"levels must be at least 3, got {levels}")
        self.register_buffer("quantiles", torch.zeros(scalars, levels))                   # (T, q)
        self.register_buffer("floor", torch.zeros(()))                                    # 0 until fit

    @torch.no_grad()
    def fit(self, x):
        """Store the quantiles of x: (n, T), n >= 2. Returns self. Raises ValueError on NaN, shape, constant scalars."""
        _check("x", x)
        if len(x) < 2 or x.shape[1] != len(self.quantiles):
            raise ValueError(f"x must be (n >= 2, {len(self.quantiles)}), got {tuple(x.shape)}")
        ordered = x.to(self.quantiles).sort(dim=0).values.T                               # (T, n)
        constant = (ordered[:, 0] == ordered[:, -1]).nonzero()[:, 0].tolist()
        if constant:
            raise ValueError(f"scalars {constant} are constant over {len(x)} rows: their rank carries no information, "
                             "project with other weights")
        q, n = self.quantiles.shape[1], len(x)
        p = torch.arange(1, q + 1, device=ordered.device, dtype=torch.float64) / (q + 1)
        place = (p * (n + 1) - 1).clamp(0, n - 1)                                         # rank r has u = r / (n + 1)
        left = place.floor().long().clamp(max=n - 2)
        part = (place - left).to(ordered.dtype)
        self.quantiles.copy_(torch.lerp(ordered[:, left], ordered[:, left + 1], part))
        self.floor.fill_(min(0.5 / (n + 1), 0.5 / (q + 1)))
        return self

    def forward(self, x):
        """u: (B, T) in (0, 1) for x: (B, T): linear between quantiles, differentiable.

        Beyond the outer quantiles u falls exponentially towards half a rank of the fitted sample, 0.5 / (n + 1), so
        that an outlier is no more extreme than what the sample could show.
        Raises RuntimeError before fit, ValueError on NaN or on another number of scalars.
        """
        if not bool(self.floor > 0):
            raise RuntimeError("this QuantileTable is empty: call fit(x) on the training scalars first")
        _check("x", x)
        if x.shape[1] != len(self.quantiles):
            raise ValueError(f"x must have {len(self.quantiles)} scalars, got {x.shape[1]}")
        x = _full(x)
        table = self.quantiles.to(x.dtype)
        q = table.shape[1]
        points = x.T.contiguous()                                                         # (T, B)
        sides = []
        for right in (False, True):                                                       # their mean halves ties
            k = torch.searchsorted(table, points.detach(), right=right).clamp(1, q - 1)
            below, above = table.gather(1, k - 1), table.gather(1, k)
            width = (above - below).clamp(min=torch.finfo(x.dtype).tiny)
            sides.append((k + ((points - below) / width).clamp(0, 1)) / (q + 1))
        u = (sides[0] + sides[1]) / 2
        p, floor, tiny = 1 / (q + 1), self.floor.to(x.dtype), torch.finfo(x.dtype).tiny
        least = (table[:, -1:] - table[:, :1]) / q                                        # of a tail's width
        tails = []
        for edge, gap, outward in ((table[:, :1], table[:, 1:2] - table[:, :1], -1),
                                   (table[:, -1:], table[:, -1:] - table[:, -2:-1], 1)):
            away = (outward * (points - edge) / torch.maximum(gap, least).clamp(min=tiny)).clamp(min=0)
            tails.append((away > 0, floor + (p - floor) * torch.exp(-away)))
        u = torch.where(tails[0][0], tails[0][1], torch.where(tails[1][0], 1 - tails[1][1], u))
        return u.T                                                                        # (B, T)


class ToNormal(torch.nn.Module):
    """Every input channel through its empirical distribution on the training data, to a standard normal.

    z = Phi^-1(F(x)), F a quantile table; skewed counts and magnitudes reach the network at one scale, and values
    beyond the training range stay within 3.5. Channels that were constant in training are zero.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.table = QuantileTable(channels, levels=127)
        self.register_buffer("varies", torch.zeros(channels, dtype=torch.bool))

    def fit(self, x: torch.Tensor) -> None:
        """x (n, tokens, channels)."""
        flat = x.flatten(0, -2)
        self.varies.copy_(flat.amax(0) > flat.amin(0))
        ramp = torch.arange(len(flat), dtype=flat.dtype)[:, None]
        self.table.fit(torch.where(self.varies.cpu(), flat.cpu(), ramp))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.special.ndtri(self.table(x.flatten(0, -2))).clamp(-3.5, 3.5) * self.varies
        return z.view(x.shape)
