"""Equations of the paper's section on the copula: test_eq_<label> holds the equation labelled eq:<label>.

The right-hand sides are written out as they are printed and compared with the package, with quadrature or with
samples. t is the copula's parameter.
"""

import numpy as np
import pytest
from scipy import integrate, special, stats

from cmf import copula

GAMMA = np.euler_gamma
T = (1.05, 1.5, 2.0, 3.7, 12.0)
U, V = np.random.default_rng(1).uniform(0.02, 0.98, (2, 50))


def radial(a, t):
    return (a + t - 1) * np.exp(-a) / t


def radial_mean(f, t):
    return integrate.quad(lambda a: f(a) * radial(a, t), 0, np.inf, epsabs=1e-12, epsrel=1e-12)[0]


def density(u, v, t):
    """ln c term by term as printed."""
    x, y = -np.log(u), -np.log(v)
    A = (x**t + y**t) ** (1 / t)
    return (-A + x + y + (t - 1) * (np.log(x) + np.log(y)) + (1 - 2 * t) * np.log(A) + np.log(A + t - 1))


def closed(t):
    return GAMMA - 1 + 1 / t + np.log(t - 1) + np.exp(t - 1) * special.exp1(t - 1) / t

def test_eq_information():
    """E ln c by quadrature over the unit square equals the divergence of a Gaussian pair, which is known."""
    rho = 0.6
    grid, weight = np.polynomial.hermite_e.hermegauss(60)
    x, y = np.meshgrid(grid, grid)
    y = rho * x + np.sqrt(1 - rho**2) * y
    log_c = -0.5 * np.log(1 - rho**2) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / (2 * (1 - rho**2))
    assert np.isclose((np.outer(weight, weight) * log_c).sum() / (2 * np.pi), -0.5 * np.log(1 - rho**2))


def test_eq_ecdf():
    x = np.random.default_rng(2).normal(size=9)
    assert np.allclose(copula.ecdf(x), stats.rankdata(x) / 10)


@pytest.mark.parametrize("t", T)
def test_eq_gumbel(t):
    expected = np.exp(-(((-np.log(U)) ** t + (-np.log(V)) ** t) ** (1 / t)))
    assert np.allclose(copula.gumbel_cdf(U, V, t), expected, rtol=1e-12)


def test_eq_tau():
    u, v = copula.gumbel_sample(200_000, 2.5, 4)
    assert abs(stats.kendalltau(u, v)[0] - (1 - 1 / 2.5)) < 0.005
    assert np.isclose(copula.gumbel_tau(2.5), 1 - 1 / 2.5)


@pytest.mark.parametrize("t", T)
def test_eq_density(t):
    assert np.allclose(copula.gumbel_logpdf(U, V, t), density(U, V, t), rtol=1e-9, atol=1e-9)
    h = 1e-4
    C = lambda a, b: copula.gumbel_cdf(a, b, t)
    u, v = 0.4, 0.55
    mixed = (C(u + h, v + h) - C(u + h, v - h) - C(u - h, v + h) + C(u - h, v - h)) / (4 * h * h)
    assert np.isclose(np.exp(density(u, v, t)), mixed, rtol=1e-4)


@pytest.mark.parametrize("t", T)
def test_eq_stable(t):
    x, y = -np.log(U), -np.log(V)
    stable = np.maximum(np.log(x), np.log(y)) + np.log1p(np.exp(-t * abs(np.log(x) - np.log(y)))) / t
    assert np.allclose(stable, np.log((x**t + y**t) ** (1 / t)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", T)
def test_eq_mi(t):
    """Closed form against the package and against quadrature of c ln c over the unit square in (A, w)."""
    assert np.isclose(copula.gumbel_mi(t), closed(t), rtol=1e-9)

    def integrand(w, a):
        x, y = a * w ** (1 / t), a * (1 - w) ** (1 / t)
        return radial(a, t) * (-a + x + y + (t - 1) * (np.log(x) + np.log(y)) + (1 - 2 * t) * np.log(a)
                               + np.log(a + t - 1))

    w, weight = special.roots_jacobi(400, 0, 0)
    inner = lambda a: 0.5 * (weight * integrand((1 + w) / 2, a)).sum()
    assert np.isclose(integrate.quad(inner, 0, np.inf, limit=200)[0], closed(t), atol=1e-4)


@pytest.mark.parametrize("t", T)
def test_eq_radial(t):
    u, v = copula.gumbel_sample(20_000, t, 5)
    x, y = -np.log(u), -np.log(v)
    A, w = (x**t + y**t) ** (1 / t), x**t / (x**t + y**t)
    cumulative = lambda a: 1 - np.exp(-a) * (1 + a / t)
    assert np.isclose(radial_mean(lambda a: 1.0, t), 1)
    assert stats.kstest(A, cumulative).pvalue > 1e-3 and stats.kstest(w, "uniform").pvalue > 1e-3
    assert abs(stats.spearmanr(A, w)[0]) < 0.03


@pytest.mark.parametrize("t", T[:-1])  # at t = 12, 1 - w loses the digits that its power brings back
def test_eq_polar(t):
    x, y = -np.log(U), -np.log(V)
    A, w = (x**t + y**t) ** (1 / t), x**t / (x**t + y**t)
    assert np.allclose(A * w ** (1 / t), x) and np.allclose(A * (1 - w) ** (1 / t), y)


@pytest.mark.parametrize("t", T)
def test_eq_jacobian(t):
    A, w, h = 1.3, 0.37, 1e-6
    place = lambda a, s: np.array([a * s ** (1 / t), a * (1 - s) ** (1 / t)])
    columns = ((place(A + h, w) - place(A - h, w)) / (2 * h), (place(A, w + h) - place(A, w - h)) / (2 * h))
    expected = A / t * (w * (1 - w)) ** (1 / t - 1)
    assert np.isclose(abs(np.linalg.det(np.stack(columns))), expected, rtol=1e-7)
    x, y = place(A, w)
    assert np.isclose(np.exp(density(np.exp(-x), np.exp(-y), t) - x - y) * expected, radial(A, t))


@pytest.mark.parametrize("t", T)
def test_eq_radial_moments(t):
    assert np.isclose(radial_mean(lambda a: a, t), 1 + 1 / t)
    assert np.isclose(radial_mean(np.log, t), 1 / t - GAMMA)


def test_eq_margin_moments():
    assert np.isclose(integrate.quad(lambda x: x * np.exp(-x), 0, np.inf)[0], 1)
    assert np.isclose(integrate.quad(lambda x: np.log(x) * np.exp(-x), 0, np.inf)[0], -GAMMA)


@pytest.mark.parametrize("t", T)
def test_eq_elementary(t):
    assert np.isclose(-(1 + 1 / t) + 2 - 2 * GAMMA * (t - 1) + (1 - 2 * t) * (1 / t - GAMMA), GAMMA - 1)


@pytest.mark.parametrize("t", T)
def test_eq_shifted_integral(t):
    a = t - 1
    integral = integrate.quad(lambda s: s * np.log(s) * np.exp(a - s), a, np.inf)[0] / t
    assert np.isclose(radial_mean(lambda A: np.log(A + a), t), integral)


@pytest.mark.parametrize("t", T)
def test_eq_shifted(t):
    a = t - 1
    expected = np.log(a) + 1 / t + np.exp(a) * special.exp1(a) / t
    assert np.isclose(radial_mean(lambda A: np.log(A + a), t), expected)


@pytest.mark.parametrize("t", T)
def test_eq_mi_derivative(t):
    expected = (t - 1) / t**2 * (1 + np.exp(t - 1) * special.exp1(t - 1))
    assert np.isclose(copula.gumbel_mi_derivative(t), expected)
    assert np.isclose((closed(t + 1e-6) - closed(t - 1e-6)) / 2e-6, expected, rtol=1e-6)


@pytest.mark.parametrize("t", (1.2, 1.5, 2.0))
def test_eq_mi_series(t):
    a, k = t - 1, np.arange(2, 30)
    terms = a**k / special.factorial(k) * (special.digamma(k + 1) - np.log(a))
    assert (terms > 0).all() and np.isclose(terms.sum() / t, closed(t), rtol=1e-12)


def test_eq_mi_small():
    for a in (1e-4, 1e-6):
        assert np.isclose(copula.gumbel_mi(1 + a), a**2 / 2 * (1.5 - GAMMA - np.log(a)), rtol=2 * a)
    assert copula.gumbel_mi(1.0) == 0


def test_eq_mi_large():
    t = np.array([50.0, 100.0, 200.0])
    rest = copula.gumbel_mi(t) - (np.log(t) + GAMMA - 1 + 1 / (2 * t**2))
    assert (abs(rest) < 2 / t**3).all()


@pytest.mark.parametrize("t", (1.0, 2.0, 8.0))
def test_eq_sampler(t):
    u, v = copula.gumbel_sample(50_000, t, 6)
    for p, q in ((0.3, 0.6), (0.5, 0.5), (0.9, 0.8)):
        assert abs(((u <= p) & (v <= q)).mean() - copula.gumbel_cdf(p, q, t)) < 0.01
    assert stats.kstest(u, "uniform").pvalue > 1e-3 and stats.kstest(v, "uniform").pvalue > 1e-3


def test_eq_score():
    u, v = (copula.ecdf(z) for z in copula.gumbel_sample(2000, 2.0, 7))
    t, h = copula.fit_gumbel(u, v).theta, 1e-5
    slope = (copula.gumbel_logpdf(u, v, t + h).mean() - copula.gumbel_logpdf(u, v, t - h).mean()) / (2 * h)
    assert abs(slope) < 1e-4


def test_eq_rotation():
    u, v = copula.gumbel_sample(4000, 2.0, 8)
    plain, turned = copula.fit_gumbel(u, v), copula.fit_gumbel(1 - u, v)
    assert turned.rotation == 90 and np.isclose(plain.theta, turned.theta, rtol=1e-6) and turned.tau < 0


def test_eq_bound():
    rho = 0.6
    x, y = np.random.default_rng(9).multivariate_normal([0, 0], [[1, rho], [rho, 1]], 100_000).T
    found = copula.mutual_information(x, y)
    truth = -0.5 * np.log(1 - rho**2)
    assert found.lower_bound < truth < float(copula.gumbel_mi(1 / (1 - 2 / np.pi * np.arcsin(rho))))
