"""The Gumbel copula on arrays: distribution, density, mutual information, sampler. Information is in nats.

Symbols: u, v in (0, 1) are pseudo-observations; t >= 1 is theta; x = -ln u, y = -ln v;
A = (x^t + y^t)^(1/t), always formed as exp(ln A) with

    ln A = max(ln x, ln y) + log1p(exp(-t |ln x - ln y|)) / t

because x^t underflows for u near 1 at moderate t. Work is in float64; float32 in gives float32 out.
"""

import numpy as np
from scipy.special import exp1

_SERIES_TERMS = 24  # of the series in theta - 1 below 1: the last is under 1e-24 of the first
_HARMONIC = np.cumsum(1.0 / np.arange(1, _SERIES_TERMS))  # H_1, H_2, ...


def _scalar_or_array(value, dtype=np.float64):
    return value.astype(dtype)[()] if np.ndim(value) else dtype(value)


def _real(name, x):
    """x as a float64 array; NaN refused with their number and first position."""
    x = np.asarray(x, dtype=np.float64)
    missing = np.isnan(x)
    if missing.any():
        first = tuple(int(i) for i in np.argwhere(missing)[0]) if x.ndim != 1 else int(missing.argmax())
        raise ValueError(f"{name} has {int(missing.sum())} NaN of {x.size} values, the first at position {first}: "
                         "drop those pairs or fill them before measuring")
    return x


def _unit(name, u):
    """u as a float64 array strictly inside (0, 1), or a ValueError that says what was found."""
    values = _real(name, u)
    if values.size == 0:
        raise ValueError(f"{name} is empty: expected values in (0, 1)")
    low, high = values.min(), values.max()
    if low <= 0 or high >= 1:
        outside = (values <= 0) | (values >= 1)
        hint = "; in float32 values above 1 - 6e-8 round to 1" if np.asarray(u).dtype == np.float32 else ""
        raise ValueError(f"{name} must lie strictly inside (0, 1), got {int(outside.sum())} values outside "
                         f"(smallest {low:g}, largest {high:g}): use ecdf(x), which divides ranks by n + 1{hint}")
    return values


def _theta(theta):
    t = _real("theta", theta)
    if t.size and t.min() < 1:
        raise ValueError(f"theta must be at least 1 (1 is independence), got {t.min():g}: "
                         "model negative dependence by a rotation of 90 or 270 degrees")
    return t


def ecdf(x):
    """Pseudo-observations by the empirical distribution function: average ranks / (n + 1).

    x: (n,) or (n, d), any real unit; each column is ranked on its own. Returns float64 of the same shape,
    inside (0, 1). Tied values share the mean of their ranks. Raises ValueError on NaN, on no rows, on more axes.

    >>> ecdf([10.0, 30.0, 20.0, 20.0])
    array([0.2, 0.8, 0.5, 0.5])
    """
    x = _real("x", x)
    if x.ndim not in (1, 2) or len(x) == 0:
        raise ValueError(f"x must have shape (n,) or (n, d) with n >= 1, got {x.shape}")
    if x.ndim == 2:
        return np.stack([ecdf(column) for column in x.T], axis=1) if x.shape[1] else x.copy()
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))  # where each distinct value begins
    count = np.diff(np.append(first, len(x)))
    ranks = np.empty(len(x))
    ranks[order] = np.repeat(first + (count + 1) / 2, count)
    return ranks / (len(x) + 1)


def _parts(u, v, theta):
    """ln of the larger of x and y, |ln x - ln y|, ln(A / larger), theta and the dtype of the answer."""
    given = np.result_type(*(z if np.isscalar(z) else np.asarray(z) for z in (u, v)))
    dtype = np.float32 if given in (np.float16, np.float32) else np.float64
    t = _theta(theta)
    x, y = -np.log(_unit("u", u)), -np.log(_unit("v", v))
    larger, smaller = np.maximum(x, y), np.minimum(x, y)
    gap = np.abs(np.log(x) - np.log(y))
    return larger, smaller, gap, np.log1p(np.exp(-t * gap)) / t, t, dtype


def gumbel_cdf(u, v, theta):
    """Distribution function C(u, v) = exp(-A), A = (x^theta + y^theta)^(1/theta) (Nelsen 2006, eq. 4.2.4).

    u, v: arrays in (0, 1), theta: >= 1, all broadcast. Returns C in (0, 1); float32 if u and v are.
    Raises ValueError on NaN, on u or v outside (0, 1), on theta < 1.

    >>> float(gumbel_cdf(0.5, 0.5, 1.0))
    0.25
    """
    larger, _, _, rise, _, dtype = _parts(u, v, theta)
    return _scalar_or_array(np.exp(-larger * np.exp(rise)), dtype)


def gumbel_logpdf(u, v, theta):
    """Log-density of the Gumbel copula, in nats.

    ln c = -A + x + y + (t - 1)(ln x + ln y) + (1 - 2t) ln A + ln(A + t - 1), with the two large terms joined as
    -(t - 1)(|ln x - ln y| + 2 ln(A / max(x, y))) - ln A so that nothing cancels at large t or u near 1.
    u, v: arrays in (0, 1), theta: >= 1, all broadcast. Float32 if u and v are. Raises as gumbel_cdf.

    >>> round(float(gumbel_logpdf(0.5, 0.5, 2.0)), 6)
    0.416056
    """
    larger, smaller, gap, rise, t, dtype = _parts(u, v, theta)
    A = larger * np.exp(rise)
    value = (smaller - larger * np.expm1(rise)          # x + y - A
             - (t - 1) * (gap + 2 * rise) - np.log(A) + np.log(A + (t - 1)))
    return _scalar_or_array(value, dtype)


def _scaled_exp1(a):
    """exp(a) E1(a) for a > 0: directly to 50, by the asymptotic series above (error under 3e-16)."""
    near = np.minimum(a, 50.0)
    far = np.maximum(a, 50.0)
    tail = np.ones_like(far)
    for k in range(22, 0, -1):  # 1 - 1/a (1 - 2/a (1 - 3/a ...))
        tail = 1 - k / far * tail
    return np.where(a <= 50, np.exp(near) * exp1(near), tail / far)


def gumbel_mi(theta):
    """Mutual information of the Gumbel copula in closed form, in nats.

    MI(t) = g - 1 + 1/t + ln(t - 1) + exp(t - 1) E1(t - 1) / t, with g Euler's gamma and E1 the exponential
    integral. Key step: w = x^t / (x^t + y^t) is uniform and independent of A, whose density is
    (A + t - 1) exp(-A) / t; the mean of ln c then falls into moments of ln A, ln w and ln(A + t - 1), of which
    only the last is not elementary. Below t = 2 the equal series (a = t - 1, psi the digamma function)

        MI(t) = 1/t * sum_{k >= 2} a^k / k! (psi(k + 1) - ln a)

    has positive terms only, so nothing cancels near independence; MI(1) is exactly 0 and
    MI(t) -> ln t + g - 1 for large t.

    theta: >= 1, scalar or array. Returns the same shape. Raises ValueError on NaN and on theta < 1.

    >>> round(float(gumbel_mi(2.0)), 12)
    0.375389346063
    """
    t = _theta(theta)
    a = t - 1
    small = np.clip(a, np.finfo(float).tiny, 1.0)
    log_small, term, series = np.log(small), small.copy(), np.zeros_like(small)
    for k in range(2, _SERIES_TERMS):
        term = term * small / k
        series = series + term * (_HARMONIC[k - 1] - np.euler_gamma - log_small)
    large = np.maximum(a, 1.0)
    closed = np.euler_gamma - 1 + 1 / t + np.log(large) + _scaled_exp1(large) / t
    return _scalar_or_array(np.where(a < 1, np.where(a > 0, series / t, 0.0), closed))


def gumbel_mi_derivative(theta):
    """dMI/dtheta = (t - 1) / t^2 (1 + exp(t - 1) E1(t - 1)), in nats; 0 at t = 1 and positive above.

    theta: >= 1, scalar or array. Raises as gumbel_mi.
    """
    t = _theta(theta)
    a = np.maximum(t - 1, np.finfo(float).tiny)
    return _scalar_or_array(np.where(t > 1, a / t**2 * (1 + _scaled_exp1(a)), 0.0))


def gumbel_tau(theta):
    """Kendall's tau of the copula, 1 - 1/theta, in [0, 1). theta: >= 1. Raises as gumbel_mi."""
    return _scalar_or_array(1 - 1 / _theta(theta))


def gumbel_tail_dependence(theta):
    """(lower, upper) tail dependence: 0 and 2 - 2^(1/theta), each in [0, 1). theta: >= 1. Raises as gumbel_mi."""
    t = _theta(theta)
    return _scalar_or_array(np.zeros_like(t)), _scalar_or_array(-2 * np.expm1(-(1 - 1 / t) * np.log(2.0)))


def gumbel_sample(n, theta, rng):
    """n pairs from the copula, exactly and without stable laws.

    A = E1 + [U < 1/t] E2 with unit exponentials E1, E2 has the density (A + t - 1) exp(-A) / t; with w uniform,
    u = exp(-A w^(1/t)) and v = exp(-A (1 - w)^(1/t)).

    n: number of pairs >= 1; theta: one number >= 1; rng: numpy.random.Generator, or a seed for one.
    Returns u, v: (n,), float64 inside (0, 1). Raises ValueError on theta < 1 or n < 1.

    >>> u, v = gumbel_sample(3, 2.0, 0)
    >>> u.shape, v.shape
    ((3,), (3,))
    """
    t = float(_theta(theta))
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rng = np.random.default_rng(rng)
    A = rng.exponential(size=n) + (rng.random(n) < 1 / t) * rng.exponential(size=n)
    w = rng.random(n)
    inside = np.finfo(float).tiny, 1 - np.finfo(float).epsneg
    return np.clip(np.exp(-A * w ** (1 / t)), *inside), np.clip(np.exp(-A * (1 - w) ** (1 / t)), *inside)
