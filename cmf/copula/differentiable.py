"""The Gumbel copula in torch: differentiable, and batched over all pairs of the scalars of two modalities.

Axes: n pairs of observations (batch and memory), Ti scalars of the first modality, To of the second, P = Ti To pairs
of scalars, B observations of a batch. CPU or GPU, float32 or float64; the answer has the dtype of u. Symbols as in
cmf.copula.gumbel; rotations in degrees: 0 is (u, v), 90 (1 - u, v), 180 (1 - u, 1 - v), 270 (u, 1 - v).
"""

import math

import torch
from torch.autograd.function import once_differentiable

from .soft_ranks import own_ecdf

THETA_MAX = 100.0
_CHUNK = 1 << 16        # elements of one pass over pairs: temporaries stay in cache on a CPU
_CHUNK_GPU = 1 << 23
_EULER = 0.5772156649015329


def _scaled_exp1(a):
    """exp(a) E1(a) for a >= 1 by its continued fraction, 64 levels: 1e-14 at a = 1."""
    value = torch.zeros_like(a)
    for k in range(64, 0, -1):
        value = -k * k / (a + 2 * k + 1 + value)
    return 1 / (a + 1 + value)


def _series(a, first):
    """sum_{k >= first} a^k / k! (psi(k + 1) - ln a) for 0 < a <= 1."""
    log_a, harmonic, term, total = a.log(), 0.0, torch.ones_like(a), torch.zeros_like(a)
    for k in range(24):
        if k:
            harmonic, term = harmonic + 1 / k, term * a / k
        if k >= first:
            total = total + term * (harmonic - _EULER - log_a)
    return total


class _GumbelMI(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta):
        ctx.save_for_backward(theta)
        a = theta - 1
        small, large = a.clamp(torch.finfo(a.dtype).tiny, 1), a.clamp(min=1)
        closed = _EULER - 1 + 1 / theta + large.log() + _scaled_exp1(large) / theta
        near = torch.where(a > 0, _series(small, 2) / theta, torch.zeros_like(a))
        return torch.where(a < 1, near, closed)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        theta, = ctx.saved_tensors
        a = theta - 1
        small, large = a.clamp(torch.finfo(a.dtype).tiny, 1), a.clamp(min=1)
        scaled = torch.where(a < 1, _series(small, 0), _scaled_exp1(large))
        return grad * a / theta**2 * (1 + scaled)


def gumbel_mi(theta):
    """Mutual information of the Gumbel copula in closed form, nats, differentiable in theta.

    theta: floating tensor of any shape, >= 1. The formula and its derivative are those of cmf.copula.gumbel_mi;
    E1 is a series below theta = 2 and a continued fraction above, so that it runs on any device.
    Raises ValueError on theta < 1 or NaN.

    >>> round(float(gumbel_mi(torch.tensor(2.0, dtype=torch.float64))), 12)
    0.375389346063
    """
    if not bool((theta >= 1).all()):
        raise ValueError(f"theta must be at least 1 everywhere, got a smallest value of {float(theta.min()):g}")
    return _GumbelMI.apply(theta)


def _inside(name, u):
    """u kept off 0 and 1 by one rounding unit; values outside [0, 1] and NaN are refused."""
    wrong = ~((u >= 0) & (u <= 1))
    if bool(wrong.any()):
        raise ValueError(f"{name} must lie in (0, 1), got {int(wrong.sum())} values outside or NaN: "
                         "use soft_ecdf or a QuantileTable")
    info = torch.finfo(u.dtype)
    return u.clamp(info.tiny, 1 - info.eps / 2)


def gumbel_logpdf(u, v, theta):
    """Log-density of the Gumbel copula in nats, differentiable in u, v and theta, stable in float32.

    u, v: tensors in [0, 1] (exact 0 and 1, as rounding makes them, count as the nearest number inside), theta: >= 1;
    all broadcast. Formula as cmf.copula.gumbel_logpdf. Raises ValueError on u or v outside [0, 1] or NaN.
    """
    x, y = -_inside("u", u).log(), -_inside("v", v).log()
    larger, smaller = torch.maximum(x, y), torch.minimum(x, y)
    gap = (x / y).log().abs()
    rise = torch.log1p(torch.exp(-theta * gap)) / theta      # ln(A / larger)
    A = larger * rise.exp()
    return (smaller - larger * torch.expm1(rise) - (theta - 1) * (gap + 2 * rise)
            - larger.log() - rise + torch.log(A + (theta - 1)))


def _sides(u, name="u"):
    """ln(-ln u) and ln(-ln(1 - u)), one row a scalar: u (n, T) -> (2 T, n); flipped rows follow the plain ones."""
    wide = _inside(name, u.detach()).double().T               # (T, n)
    both = torch.cat([wide, 1 - wide])                       # (2 T, n)
    return torch.log(-torch.log(both.clamp(1e-300, 1 - 1e-16))).to(u.dtype).contiguous()


def _rows(rotation, Ti, To):
    """Row numbers in _sides of both members of every pair: rotation (Ti, To) -> two of (P,)."""
    flip_u = (rotation == 90) | (rotation == 180)
    flip_v = (rotation == 180) | (rotation == 270)
    i = torch.arange(Ti, device=rotation.device)[:, None] + Ti * flip_u
    j = torch.arange(To, device=rotation.device)[None] + To * flip_v
    return i.reshape(-1), j.reshape(-1)


def _chunks(count, n, device):
    step = max(1, (_CHUNK if device.type == "cpu" else _CHUNK_GPU) // n)
    return [slice(k, k + step) for k in range(0, count, step)]


def _parts(X, Y, i, j, t):
    """Shared quantities of a chunk of pairs: ln x, ln y, |gap|, exp(-t |gap|), ln(A / larger), A; each (P, n)."""
    a, b = X.index_select(0, i), Y.index_select(0, j)
    d = (a - b).abs_()
    e = (d * -t).exp_()
    L = (e + 1).log_().div_(t)                               # log1p is ten times slower, its extra digits unused
    A = torch.maximum(a, b).add_(L).exp_()
    return a, b, d, e, L, A


def _log_density(a, b, d, L, A, t):
    """ln c of a chunk from its parts: (P, n). Overwrites a and b."""
    value = torch.log(A + (t - 1)).sub_(A).sub_(torch.maximum(a, b)).sub_(L)
    return value.sub_((d + 2 * L).mul_(t - 1)).add_(a.exp_()).add_(b.exp_())


def _score(X, Y, i, j, theta, mean=None):
    """Means over n of the first and second derivative of ln c in theta, for pairs (i, j): two of (P,).

    mean: (P,) to be filled with the means of ln c itself, or None.
    """
    first, second = torch.empty_like(theta), torch.empty_like(theta)
    for s in _chunks(len(theta), X.shape[1], X.device):
        t = theta[s, None]
        a, b, d, e, L, A = _parts(X, Y, i[s], j[s], t)
        if mean is not None:
            mean[s] = _log_density(a, b, d, L, A, t).mean(1)
        q = e / (1 + e)
        dq = d * q
        dL = (dq + L).div_(-t)                               # d ln A / dt
        ddL = (d * dq).mul_(1 - q).sub_(dL, alpha=2).div_(t)
        inverse = (A + (t - 1)).reciprocal_()
        AdL = A * dL
        slope = (AdL + 1).mul_(inverse)                      # d ln(A + t - 1) / dt
        rest = (1 - 2 * t) - A
        first[s] = torch.addcmul(slope - d, dL, rest).sub_(L, alpha=2).mean(1)
        curve = torch.addcmul(ddL, dL, dL).mul_(A).mul_(inverse).addcmul_(ddL, rest)
        second[s] = curve.addcmul_(AdL + 4, dL, value=-1).addcmul_(slope, slope, value=-1).mean(1)
    return first, second


def _mean_logpdf(X, Y, i, j, theta):
    """Mean over n of ln c for pairs (i, j): (P,)."""
    mean = torch.empty_like(theta)
    for s in _chunks(len(theta), X.shape[1], X.device):
        t = theta[s, None]
        a, b, d, _, L, A = _parts(X, Y, i[s], j[s], t)
        mean[s] = _log_density(a, b, d, L, A, t).mean(1)
    return mean


def _maximise(X, Y, i, j, theta, tolerance):
    """theta of every pair by Newton steps of the score in ln(theta - 1), inside a bracket; finished pairs drop out."""
    s = (theta - 1).clamp(1e-3, 50.0).log()
    low, high = torch.full_like(s, -16.0), torch.full_like(s, math.log(THETA_MAX - 1))
    top = high.clone()
    active = torch.arange(len(s), device=s.device)
    for _ in range(40):
        now = s[active]
        a = now.exp()
        first, second = _score(X, Y, i[active], j[active], 1 + a)
        step = torch.where(second < 0, -first / (a * second), first.sign()).clamp(-2, 2)
        lower, upper = torch.where(first > 0, now, low[active]), torch.where(first > 0, high[active], now)
        following = now + step
        inside = (following >= lower) & (following <= upper)
        following = torch.where(inside, following, (lower + upper) / 2)
        low[active], high[active], s[active] = lower, upper, following
        going = (step.abs() > tolerance) & (upper - lower > 1e-5) & (following > -13)
        active = active[going]
        if len(active) == 0:
            break
    theta = torch.where(s <= -13, torch.ones_like(s), 1 + s.exp())
    return torch.where(s > top - 1e-4, torch.full_like(s, THETA_MAX), theta)


@torch.no_grad()
def pairwise_theta(u, v, rotations=True):
    """Maximum-likelihood theta of all pairs of scalars at once, detached.

    u: (n, Ti), v: (n, To) in (0, 1), n >= 2. rotations: the sign of Spearman's correlation picks {0, 180} or
    {90, 270}, the likelihood one of the two; False keeps rotation 0. Newton steps with analytic first and second
    derivatives, on every eighth observation first when n >= 2048; arithmetic in the dtype of u (float32 agrees with
    float64 within 1e-4 in theta up to theta = 10).
    Returns theta (Ti, To) in [1, 100] and rotation (Ti, To), int64 degrees.
    Raises ValueError on unequal n, n < 2, values outside [0, 1] or NaN.
    """
    if u.ndim != 2 or v.ndim != 2 or len(u) != len(v) or len(u) < 2:
        raise ValueError(f"u and v must be (n, Ti) and (n, To) with one n >= 2, got {tuple(u.shape)} and "
                         f"{tuple(v.shape)}")
    v = v.to(u.dtype)
    n, Ti, To = len(u), u.shape[1], v.shape[1]
    X, Y = _sides(u), _sides(v, "v")
    a, b = (z - z.mean(0) for z in (u, v))
    scale = a.norm(dim=0)[:, None] * b.norm(dim=0)[None]
    with torch.autocast(u.device.type, enabled=False):
        product = a.T @ b
    rho = torch.where(scale > 0, product / scale.clamp(min=1e-30), torch.zeros_like(scale)).clamp(-1, 1)  # (Ti, To)
    strength = rho.abs() if rotations else rho.clamp(min=0)
    start = 1 / (1 - 2 / math.pi * torch.asin(strength)).clamp(min=0.02).reshape(-1)
    plain = torch.zeros(Ti, To, dtype=torch.int64, device=u.device)
    options = [plain + torch.where(rho < 0, 90, 0), plain + torch.where(rho < 0, 270, 180)] if rotations else [plain]
    coarse = n >= 2048
    Xc, Yc = (X[:, ::8].contiguous(), Y[:, ::8].contiguous()) if coarse else (X, Y)
    best = None
    for rotation in options:
        i, j = _rows(rotation, Ti, To)
        theta = _maximise(Xc, Yc, i, j, start, 0.03 if coarse else 2e-3)
        weak = (theta < 1.2).nonzero()[:, 0]                 # near independence the parabola below is poor
        if coarse and rotations and len(weak):
            theta[weak] = _maximise(X, Y, i[weak], j[weak], theta[weak].clamp(min=1.02), 3e-3)
        mean = torch.empty_like(theta)
        if rotations:                                        # ln c at the maximum, by its parabola here
            first, second = _score(X, Y, i, j, theta, mean)
            step = torch.where((second < 0) & (theta > 1), -first / second, torch.zeros_like(first))
            step = torch.maximum(step, (1 - theta) / 2).clamp(max=1)
            mean, theta = mean + step * (first + step * second / 2), theta + step
        if best is not None:
            better = mean > best[0]
            mean, theta = torch.where(better, mean, best[0]), torch.where(better, theta, best[1])
            rotation = torch.where(better.reshape(Ti, To), rotation, best[2])
        best = mean, theta, rotation
    _, theta, rotation = best
    if coarse:
        theta = _maximise(X, Y, *_rows(rotation, Ti, To), theta, 3e-3)
    return theta.reshape(Ti, To), rotation


class _PairMean(torch.autograd.Function):
    """Mean over n of ln c for all pairs at fixed theta; keeps u and v only and forms the gradient in chunks."""

    @staticmethod
    def forward(ctx, u, v, theta, rotation):
        ctx.save_for_backward(u, v, theta, rotation)
        i, j = _rows(rotation, u.shape[1], v.shape[1])
        mean = _mean_logpdf(_sides(u), _sides(v), i, j, theta.reshape(-1)).reshape(theta.shape)
        return torch.where(theta > 1, mean, torch.zeros_like(mean))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        u, v, theta, rotation = ctx.saved_tensors
        X, Y = _sides(u), _sides(v)
        i, j = _rows(rotation, u.shape[1], v.shape[1])
        theta, weight = theta.reshape(-1), (grad / len(u)).reshape(-1)
        used = (theta > 1).nonzero()[:, 0]
        i, j, theta, weight = i[used], j[used], theta[used], weight[used]
        gX, gY = torch.zeros_like(X), torch.zeros_like(Y)
        for s in _chunks(len(theta), X.shape[1], X.device):
            t, w = theta[s, None], weight[s, None]
            a, b, _, e, _, A = _parts(X, Y, i[s], j[s], t)
            q = e / (1 + e)
            share = torch.where(a > b, 1 - q, q)             # d ln A / d ln x; of ln y the rest
            turn = A / (A + (t - 1)) - A + 1 - 2 * t
            gX.index_add_(0, i[s], (turn * share).add_(t - 1).add_(a.exp_()).mul_(w))
            gY.index_add_(0, j[s], (turn * (1 - share)).add_(t - 1).add_(b.exp_()).mul_(w))
        return _to_unit(gX, u), _to_unit(gY, v), None, None


def _to_unit(g, u):
    """Gradient in ln(-ln u) and ln(-ln(1 - u)), (2 T, n), as a gradient in u, (n, T)."""
    plain, flipped = g.chunk(2)
    u = _inside("u", u).T
    w = (1 - u).clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)
    return (plain / (u * u.log()) - flipped / (w * w.log())).T


def pairwise_mi(x, y, memory_x=None, memory_y=None, bandwidth=None):
    """Mutual information of all pairs of scalars of two modalities, nats >= 0, differentiable in x and y.

    The mean of ln c at the maximum-likelihood theta and rotation of each pair: a lower bound on the truth whatever
    the family. There the derivative in theta vanishes, so theta is detached and the gradient flows through u and v,
    as soft_ecdf does it. Ranks, theta and mean are over batch and memory together; the gradient reaches the batch only.

    x: (B, Ti), y: (B, To), any units; memory_x (M, Ti), memory_y (M, To): earlier observations of the same pairs,
    or None; bandwidth: of soft_ecdf. Returns (Ti, To). Below some 200 observations in all the value is mostly noise.
    Raises ValueError on unequal lengths, one memory without the other, fewer than two observations, or NaN.
    """
    if (memory_x is None) != (memory_y is None):
        raise ValueError("memory_x and memory_y must be given together: they hold earlier pairs, got only one")
    batch = len(x)
    if memory_x is not None:
        if len(memory_x) != len(memory_y):
            raise ValueError(f"memory_x and memory_y must pair up, got {len(memory_x)} and {len(memory_y)} rows")
        x, y = torch.cat([x, memory_x.detach().to(x)]), torch.cat([y, memory_y.detach().to(y)])
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x and y must be (B, Ti) and (B, To) with one B, got {tuple(x.shape)} and {tuple(y.shape)}")
    u, v = own_ecdf(x, batch, bandwidth), own_ecdf(y, batch, bandwidth)
    theta, rotation = pairwise_theta(u.detach(), v.detach())
    return _PairMean.apply(u, v, theta, rotation).clamp(min=0)


def pairwise_logpdf(u, v, theta, rotation):
    """ln c of every observation and pair of scalars, nats, differentiable.

    u: (B, Ti), v: (B, To) in [0, 1]; theta (Ti, To) >= 1 and rotation (Ti, To) degrees, as pairwise_theta returns.
    Returns (B, Ti, To). Raises as gumbel_logpdf, and on shapes that do not fit.
    """
    if theta.shape != (u.shape[1], v.shape[1]) or rotation.shape != theta.shape or len(u) != len(v):
        raise ValueError(f"theta and rotation must be (Ti, To) = ({u.shape[1]}, {v.shape[1]}) and u, v of one length, "
                         f"got theta {tuple(theta.shape)}, rotation {tuple(rotation.shape)}, {len(u)} and {len(v)}")
    flip_u, flip_v = (rotation == 90) | (rotation == 180), (rotation == 180) | (rotation == 270)
    a, b = u[:, :, None], v[:, None, :]
    return gumbel_logpdf(torch.where(flip_u, 1 - a, a), torch.where(flip_v, 1 - b, b), theta)  # (B, Ti, To)
