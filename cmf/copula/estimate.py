"""Fitting the Gumbel copula to pairs, mutual information with its error, and tests of fit. Information is in nats.

A rotation turns the copula so that it can follow negative dependence or the other tail:
0 is (u, v), 90 is (1 - u, v), 180 is (1 - u, 1 - v), 270 is (u, 1 - v).
"""

from dataclasses import dataclass

import numpy as np

from .comparisons import plugin_mutual_information
from .gumbel import (
    _real,
    _unit,
    ecdf,
    gumbel_cdf,
    gumbel_logpdf,
    gumbel_mi,
    gumbel_mi_derivative,
    gumbel_sample,
    gumbel_tau,
)

THETA_MAX = 100.0       # the likelihood of perfectly ordered pairs has no maximum
SMALL_SAMPLE = 200      # below it the standard error is of the size of the estimate
ROTATIONS = (0, 90, 180, 270)
_CHUNK = 8192           # elements of one pass, so that the temporaries stay in cache
_ERROR_SAMPLE = 20000   # pairs that the standard error is measured on


@dataclass(frozen=True)
class GumbelFit:
    """theta >= 1 and rotation in degrees; standard error of theta (nan at the bounds, for method "tau" and below
    10 pairs); log-likelihood in nats over all pairs; Kendall's tau of the fitted copula, negative for 90 and 270."""

    theta: float
    rotation: int
    standard_error: float
    log_likelihood: float
    tau: float
    n: int


@dataclass(frozen=True)
class MutualInformation:
    """mi: closed form at the fitted theta; lower_bound: mean log-density at it, a lower bound on the truth even when
    the family is wrong, so their gap checks the fit; interval: (low, high) around mi; rotation and theta: the fit;
    tie_share: the larger share of values that occur more than once; independence_p: of Kendall's tau = 0;
    n: pairs; note: what a reader must know, or "". All information in nats."""

    mi: float
    lower_bound: float
    interval: tuple[float, float]
    rotation: int | None
    theta: float
    tie_share: float
    independence_p: float
    n: int
    note: str


def rotate(u, v, rotation):
    """(u, v) turned so that a plain Gumbel copula applies; rotation in degrees, one of 0, 90, 180, 270.

    Raises ValueError on another rotation.
    """
    if rotation not in ROTATIONS:
        raise ValueError(f"rotation must be one of {ROTATIONS} degrees or None for automatic, got {rotation!r}")
    below_one = 1 - np.finfo(float).epsneg             # 1 - u rounds to 1 for u under 1e-16
    return (np.minimum(1 - u, below_one) if rotation in (90, 180) else u,
            np.minimum(1 - v, below_one) if rotation in (180, 270) else v)


def _pairs(u, v, names, minimum=2):
    if u.ndim != 1 or v.ndim != 1 or len(u) != len(v):
        raise ValueError(f"{names[0]} and {names[1]} must be one-dimensional and of one length, got shapes {u.shape} "
                         f"and {v.shape}: pass one column of each")
    if len(u) < minimum:
        raise ValueError(f"at least {minimum} pairs are needed, got {len(u)}")


def _score(lx, ly, t):
    """Sums over the pairs of the first and second derivative of ln c with respect to theta."""
    first = second = 0.0
    for i in range(0, len(lx), _CHUNK):
        a, b = lx[i:i + _CHUNK], ly[i:i + _CHUNK]
        d = np.abs(a - b)
        e = np.exp(-t * d)
        L = np.log(1 + e) / t                        # ln A = max + L
        A = np.exp(np.maximum(a, b) + L)
        q = e / (1 + e)
        dL = (L + d * q) / -t                        # d ln A / dt
        ddL = (d * d * q * (1 - q) - 2 * dL) / t
        inverse = 1 / (A + (t - 1))
        slope = (1 + A * dL) * inverse               # d ln(A + t - 1) / dt
        rest = 1 - 2 * t - A
        first += float((slope + dL * rest - d - 2 * L).sum())
        second += float((ddL * rest - (4 + A * dL) * dL + A * inverse * (dL * dL + ddL) - slope * slope).sum())
    return first, second


def _maximise(lx, ly, t):
    """theta in [1, THETA_MAX] where the score vanishes: Newton steps of the score in ln(theta - 1), inside a bracket.

    A sixteenth of the pairs brings a long sample near the maximum before the passes over all.
    """
    if len(lx) > 16384:
        t = _maximise(lx[::16], ly[::16], t)
    low, high = np.log(1e-7), np.log(THETA_MAX - 1)
    s = float(np.clip(np.log(max(t - 1, 1e-3)), low, np.log(50.0)))
    for _ in range(60):
        a = np.exp(s)
        first, second = _score(lx, ly, 1 + a)
        low, high = (s, high) if first > 0 else (low, s)
        step = -first / (a * second) if second < 0 else np.sign(first)
        step = float(np.clip(step, -2, 2))
        s = s + step if low <= s + step <= high else (low + high) / 2
        if abs(step) < 1e-4 or high - low < 1e-9:    # the step after this one is of the order of its square
            break
        if s > np.log(THETA_MAX - 1) - 1e-6:
            return THETA_MAX
        if s < -15:
            return 1.0
    return 1 + float(np.exp(s))


def _logs(u, v):
    return np.log(-np.log(u)), np.log(-np.log(v))


def _standard_error(u, v, t):
    """Standard error of the maximum pseudo-likelihood theta, ranks in place of known margins included.

    Genest, Ghoudi and Rivest (1995, Biometrika 82, section 4): sd(S_i + W_u(u_i) + W_v(v_i)) / (I sqrt(n)), S the
    score, I its mean negative derivative, W_u(s) the mean of 1{s <= u_j} d2 ln c / dt du at the pairs j.
    """
    n, thin = len(u), -(-len(u) // _ERROR_SAMPLE)
    u, v = u[::thin], v[::thin]
    if len(u) < 10 or t <= 1 or t >= THETA_MAX:
        return float("nan")
    x, y = -np.log(u), -np.log(v)
    gap = np.log(x) - np.log(y)
    e = np.exp(-t * np.abs(gap))
    L = np.log1p(e) / t
    q = e / (1 + e)
    A = np.maximum(x, y) * np.exp(L)
    dL = (L + np.abs(gap) * q) / -t
    B = A + t - 1
    score = (1 + A * dL) / B + dL * (1 - 2 * t - A) - np.abs(gap) - 2 * L
    influence = score.copy()
    for own, w, side, sign in ((x, u, np.where(gap > 0, 1 - q, q), 1), (y, v, np.where(gap > 0, q, 1 - q), -1)):
        turn = sign * side * (1 - side) * gap        # d(d ln A / d ln x) / dt
        mixed = ((1 - 2 * t - A + A / B) * turn - A * side * dL * (1 - 1 / B) + 1 - 2 * side
                 - (1 + A * dL) * A * side / B**2) / (-own * w)
        order = np.argsort(w)
        influence[order] += np.cumsum(mixed[order][::-1])[::-1] / len(u)
    information = -_score(np.log(x), np.log(y), t)[1] / len(u)
    return float(influence.std() / information / np.sqrt(n)) if information > 0 else float("nan")


def fit_gumbel(u, v, method="ml", rotation=None):
    """The Gumbel copula of pseudo-observations.

    u, v: (n,) in (0, 1), n >= 2, from ecdf. method: "ml" maximises the likelihood over theta in [1, 100] by Newton
    steps in ln(theta - 1) with analytic derivatives; "tau" inverts Kendall's tau, theta = 1 / (1 - tau).
    rotation: 0, 90, 180 or 270 degrees, or None: the sign of tau picks {0, 180} or {90, 270}, the likelihood one of
    the two. Returns a GumbelFit. Raises ValueError on NaN, values outside (0, 1), unequal lengths, fewer than two
    pairs, an unknown method or rotation.

    >>> from cmf.copula import gumbel_sample
    >>> fit = fit_gumbel(*gumbel_sample(2000, 2.0, 0))
    >>> fit.rotation, 1.8 < fit.theta < 2.2
    (0, True)
    """
    if method not in ("ml", "tau"):
        raise ValueError(f'method must be "ml" or "tau", got {method!r}')
    u, v = _unit("u", u), _unit("v", v)
    _pairs(u, v, ("u", "v"))
    tau = None
    if rotation is None or method == "tau":
        tau = _kendall(u, v)[0]
    sides = ((0, 180) if tau >= 0 else (90, 270)) if rotation is None else (rotation,)
    if method == "tau":
        strength = abs(tau) if rotation is None else tau * (-1 if rotation in (90, 270) else 1)
        start = min(1 / max(1 - max(strength, 0.0), 1 / THETA_MAX), THETA_MAX)
    best = None
    for side in sides:
        a, b = rotate(u, v, side)
        if method == "ml":
            lx, ly = _logs(a, b)
            start_ml = 1.5 if tau is None else 1 / max(1 - abs(tau), 0.02)
            theta = _maximise(lx, ly, start_ml)
        else:
            theta = start
        likelihood = float(gumbel_logpdf(a, b, theta).sum()) if theta > 1 else 0.0
        if best is None or likelihood > best[0]:
            best = likelihood, theta, side, a, b
    likelihood, theta, side, a, b = best
    error = _standard_error(a, b, theta) if method == "ml" else float("nan")
    tau = float(gumbel_tau(theta)) * (-1 if side in (90, 270) else 1)
    return GumbelFit(theta, side, error, likelihood, tau, len(u))


def _kendall(x, y):
    """Kendall's tau-b and its p-value; tau 0 where it is not defined."""
    from scipy.stats import kendalltau

    tau, p = kendalltau(x, y)
    return (float(tau), float(p)) if np.isfinite(tau) else (0.0, 1.0)


def _repeated(x):
    counts = np.unique(x, return_counts=True)[1]
    return float(counts[counts > 1].sum() / len(x))


def mutual_information(x, y, method="ml", rotation=None, interval="asymptotic", level=0.95, resamples=200,
                       tie_limit=0.1, discrete=None, seed=0):
    """Mutual information of two real quantities by the Gumbel copula of their ranks.

    x, y: (n,) finite, any units, n >= 2. method, rotation: as fit_gumbel. interval: "asymptotic" (theta plus or minus
    its standard error, mapped through the closed form) or "bootstrap" (pairs drawn again and ranked again, resamples
    times, by seed). level: coverage in (0, 1). tie_limit: largest share of repeated values accepted.
    discrete: "plugin" counts joint frequencies instead of fitting a copula: mi and lower_bound are then that
    estimate, theta is nan and rotation None.
    Returns a MutualInformation. Raises ValueError on NaN or infinite values, constant input, too many ties, unequal
    lengths, n < 2, or an unknown option.

    >>> from cmf.copula import gumbel_sample
    >>> r = mutual_information(*gumbel_sample(2000, 2.0, 0))
    >>> r.interval[0] < 0.3754 < r.interval[1]
    True
    """
    if interval not in ("asymptotic", "bootstrap"):
        raise ValueError(f'interval must be "asymptotic" or "bootstrap", got {interval!r}')
    if discrete not in (None, "plugin"):
        raise ValueError(f'discrete must be None or "plugin", got {discrete!r}')
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    x, y = _real("x", x), _real("y", y)
    _pairs(x, y, ("x", "y"))
    for name, values in (("x", x), ("y", y)):
        if np.isinf(values).any():
            raise ValueError(f"{name} has {int(np.isinf(values).sum())} infinite values, the first at position "
                             f"{int(np.isinf(values).argmax())}: drop those pairs before measuring")
        if (values == values[0]).all():
            raise ValueError(f"{name} is constant (all {len(values)} values are {values[0]:g}): it carries no "
                             "information, choose another quantity")
    ties = max(_repeated(x), _repeated(y))
    n = len(x)
    notes = []
    if discrete is None and ties > tie_limit:
        raise ValueError(f"{ties:.0%} of the values are tied, more than tie_limit {tie_limit:.0%}: the copula of "
                         'discrete data is not identified; use discrete="plugin" for counts, or a continuous quantity')
    independence = _kendall(x, y)[1]
    if discrete == "plugin":
        def estimate(a, b):
            return plugin_mutual_information(a, b)
        mi = bound = estimate(x, y)
        theta, side, error, interval = float("nan"), None, float("nan"), "bootstrap"
    else:
        u, v = ecdf(x), ecdf(y)
        fit = fit_gumbel(u, v, method, rotation)
        theta, side, error = fit.theta, fit.rotation, fit.standard_error
        mi, bound = float(gumbel_mi(theta)), fit.log_likelihood / n

        def estimate(a, b):
            return float(gumbel_mi(fit_gumbel(ecdf(a), ecdf(b), method, side).theta))
        if theta >= THETA_MAX:
            notes.append(f"theta is at its bound {THETA_MAX:g}: the pairs are almost perfectly ordered and the "
                         "estimate is a lower limit")
    if interval == "asymptotic":
        if method == "tau" and 1 < theta < THETA_MAX:
            error = _standard_error_tau(*rotate(u, v, side), theta)
        reach = _normal_quantile(level) * error
        low = float(gumbel_mi(max(theta - reach, 1.0))) if np.isfinite(reach) else float("nan")
        high = float(gumbel_mi(theta + reach)) if np.isfinite(reach) else float("nan")
        spread = error * float(gumbel_mi_derivative(theta))
    else:
        rng = np.random.default_rng(seed)
        draws = [estimate(x[i], y[i]) for i in (rng.integers(0, n, n) for _ in range(resamples))]
        low, high = (float(z) for z in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
        spread = float(np.std(draws))
    if n < SMALL_SAMPLE:
        size = f"{spread:.2f}" if np.isfinite(spread) else "not measurable"
        notes.append(f"only {n} pairs: the standard error of the estimate ({size} nats) is as large as what is "
                     f"usually looked for; take {SMALL_SAMPLE} or more")
    return MutualInformation(mi, bound, (low, high), side, theta, ties, independence, n, "; ".join(notes))


def _normal_quantile(level):
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def _standard_error_tau(u, v, t):
    """Standard error of 1 / (1 - tau) by Hoeffding's projection of tau, with C_theta as the pairs' distribution."""
    projection = 4 * gumbel_cdf(u, v, t) - 2 * u - 2 * v
    return float(2 * projection.std() * t**2 / np.sqrt(len(u)))


def _cramer_von_mises(u, v, t):
    """Sum over the pairs of (empirical copula - C_theta)^2; the empirical copula counts pairs below and left."""
    empirical = np.empty(len(u))
    for i in range(0, len(u), 512):
        below = (u[None] <= u[i:i + 512, None]) & (v[None] <= v[i:i + 512, None])  # (chunk, n)
        empirical[i:i + 512] = below.sum(1) / len(u)
    return float(((empirical - gumbel_cdf(u, v, t)) ** 2).sum())


def goodness_of_fit(u, v, theta=None, rotation=0, resamples=200, limit=2000, seed=0):
    """Cramer-von Mises test of the Gumbel family on the empirical copula, by parametric bootstrap.

    S = sum (C_n(u_i, v_i) - C_theta(u_i, v_i))^2 (Genest, Remillard and Beaudoin 2009, Insurance: Mathematics and
    Economics 44). Each bootstrap sample is drawn from C_theta, ranked and fitted again by likelihood.
    u, v: (n,) in (0, 1); theta: >= 1 or None to fit at the given rotation; resamples: >= 1; limit: at most so many
    pairs, drawn by seed, because the count is quadratic. Returns (S, p), p in (0, 1], small where Gumbel does not
    fit. Raises as fit_gumbel, and on resamples < 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    u, v = _unit("u", u), _unit("v", v)
    _pairs(u, v, ("u", "v"))
    rng = np.random.default_rng(seed)
    u, v = rotate(u, v, rotation)
    if len(u) > limit:
        chosen = rng.choice(len(u), limit, replace=False)
        u, v = ecdf(u[chosen]), ecdf(v[chosen])
        theta = None                                  # the test needs theta of the pairs it looks at
    t = _maximise(*_logs(u, v), 1.5) if theta is None else float(theta)
    observed = _cramer_von_mises(u, v, t)
    as_large = 0
    for _ in range(resamples):
        a, b = (ecdf(z) for z in gumbel_sample(len(u), t, rng))
        as_large += _cramer_von_mises(a, b, _maximise(*_logs(a, b), t)) >= observed
    return observed, (1 + as_large) / (1 + resamples)
