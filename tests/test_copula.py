"""The Gumbel copula on arrays: reference values, edges, estimators against known truth, refusals."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad

import cmf.copula.estimate
import cmf.copula.gumbel
from cmf.copula import (
    ecdf,
    fit_gumbel,
    gaussian_mutual_information,
    goodness_of_fit,
    gumbel_cdf,
    gumbel_logpdf,
    gumbel_mi,
    gumbel_mi_derivative,
    gumbel_sample,
    gumbel_tail_dependence,
    gumbel_tau,
    ksg_mutual_information,
    mutual_information,
    plugin_mutual_information,
    rotate,
)

REFERENCE = json.loads((Path(__file__).parent / "reference" / "gumbel_copula.json").read_text())
POINTS = {key: np.array([p[key] for p in REFERENCE["points"]]) for key in REFERENCE["points"][0]}


@pytest.mark.parametrize("module", [cmf.copula.gumbel, cmf.copula.estimate])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# ---- closed form, density, distribution

@pytest.mark.parametrize("row", REFERENCE["theta_table"], ids=lambda row: str(row["theta"]))
def test_closed_form_matches_forty_digit_values(row):
    t = row["theta"]
    tolerance = 1e-10 if t >= 1.001 else 1e-6
    assert gumbel_mi(t) == pytest.approx(row["mi_nats"], rel=tolerance, abs=0)
    assert gumbel_mi_derivative(t) == pytest.approx(row["dmi_dtheta"], rel=tolerance, abs=0)
    assert gumbel_tau(t) == pytest.approx(row["kendall_tau"], rel=tolerance, abs=0)
    lower, upper = gumbel_tail_dependence(t)
    assert lower == 0 and upper == pytest.approx(row["upper_tail"], rel=tolerance, abs=0)


def test_density_and_distribution_match_forty_digit_values():
    error = np.abs(gumbel_logpdf(POINTS["u"], POINTS["v"], POINTS["theta"]) - POINTS["log_density"])
    assert (error / np.maximum(1, np.abs(POINTS["log_density"]))).max() < 1e-9
    assert np.abs(gumbel_cdf(POINTS["u"], POINTS["v"], POINTS["theta"]) - POINTS["cdf"]).max() < 1e-9


def test_float32_agrees_with_float64_at_the_same_inputs():
    u, v = np.minimum(np.stack([POINTS["u"], POINTS["v"]]).astype(np.float32), np.float32(1 - 6e-8))
    single, double = (gumbel_logpdf(u.astype(d), v.astype(d), POINTS["theta"]) for d in (np.float32, np.float64))
    assert single.dtype == np.float32 and gumbel_cdf(u, v, 2.0).dtype == np.float32
    assert (np.abs(single - double) / np.maximum(1, np.abs(double))).max() < 1e-4


@pytest.mark.parametrize("theta", [1.3, 2.0, 6.0])
def test_closed_form_is_the_integral_of_the_density(theta):
    def integrand(v, u):
        value = float(gumbel_logpdf(u, v, theta))
        return np.exp(value) * value
    total = 2 * dblquad(integrand, 1e-9, 1 - 1e-9, 1e-9, lambda u: u, epsabs=1e-6)[0]  # symmetric in u and v
    assert total == pytest.approx(gumbel_mi(theta), abs=2e-4)


def test_closed_form_is_the_integral_of_its_derivative():
    for low, high in ((1.0, 1.5), (1.5, 3.0), (40.0, 60.0)):                            # 51 is where E1 changes form
        assert quad(gumbel_mi_derivative, low, high, epsabs=1e-13)[0] == pytest.approx(
            gumbel_mi(high) - gumbel_mi(low), rel=1e-9)


def test_edges_of_theta():
    assert gumbel_mi(1.0) == 0 and gumbel_mi_derivative(1.0) == 0
    grid = np.concatenate([1 + np.logspace(-12, 0, 200), np.linspace(2.01, 100, 500), [1e6, 1e300]])
    values = gumbel_mi(grid)
    assert np.isfinite(values).all() and (np.diff(values) > 0).all()
    assert gumbel_mi(1e6) == pytest.approx(np.log(1e6) + np.euler_gamma - 1, abs=1e-5)
    corner = np.array([1e-12, 0.5, 1 - 1e-12])
    for u in corner:
        assert np.isfinite(gumbel_logpdf(u, corner, 100.0)).all() and np.isfinite(gumbel_cdf(u, corner, 100.0)).all()
    tiny = np.array([1e-12, 1 - 6e-8], dtype=np.float32)
    assert np.isfinite(gumbel_logpdf(tiny[:, None], tiny, 50.0)).all()
    assert np.abs(gumbel_logpdf(corner[:, None], corner, 1.0)).max() < 1e-12


# ---- ranks and sampler

def test_ecdf_averages_ties_and_ranks_columns_apart():
    np.testing.assert_allclose(ecdf([3.0, 1.0, 3.0, 2.0]), np.array([3.5, 1, 3.5, 2]) / 5)
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.testing.assert_array_equal(ecdf(x)[:, 1], ecdf(x[:, 1]))


def test_sampler_follows_the_distribution():
    u, v = gumbel_sample(200_000, 2.5, 1)
    for a, b in ((0.2, 0.3), (0.5, 0.5), (0.9, 0.95), (0.99, 0.4)):
        share = gumbel_cdf(a, b, 2.5)
        assert abs(((u <= a) & (v <= b)).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(u))
    assert abs(np.sort(u) - np.linspace(0, 1, len(u))).max() < 0.005
    np.testing.assert_array_equal(u, gumbel_sample(200_000, 2.5, 1)[0])
    assert abs(np.corrcoef(*gumbel_sample(20_000, 1.0, 2))[0, 1]) < 0.03


# ---- estimators against known truth (biases and deviations of 20 seeds, measured once)

@pytest.mark.parametrize("method, theta, n, seeds, bias, deviation", [
    ("ml", 1.25, 1000, 20, -.001, .016), ("ml", 2, 1000, 20, -.0003, .0265),
    ("ml", 2, 10_000, 10, -.0010, .0081), ("ml", 5, 10_000, 10, -.004, .011),
    ("tau", 1.25, 1000, 20, -.001, .016), ("tau", 2, 1000, 20, -.0008, .0279),
    ("tau", 2, 10_000, 10, -.0019, .0090), ("tau", 5, 10_000, 10, -.004, .013),
    ("ksg", 2, 1000, 20, .008, .041), ("gauss", 2, 1000, 20, -.040, .027), ("ksg", 5, 10_000, 4, .003, .014),
    ("gauss", 5, 10_000, 4, -.086, .013)])
def test_bias_of_the_estimators(method, theta, n, seeds, bias, deviation):
    values = []
    for seed in range(seeds):
        u, v = gumbel_sample(n, theta, 1000 + seed)
        if method in ("ml", "tau"):
            values.append(gumbel_mi(fit_gumbel(ecdf(u), ecdf(v), method, rotation=0).theta))
        else:
            values.append((ksg_mutual_information if method == "ksg" else gaussian_mutual_information)(u, v))
    error = 2 * deviation * np.sqrt(1 / seeds + 1 / 20)                  # of a difference of two means
    assert abs(np.mean(values) - gumbel_mi(theta) - bias) < error
    assert 0.4 * deviation < np.std(values, ddof=1) < 2 * deviation


@pytest.mark.parametrize("method", ["ml", "tau"])
def test_interval_covers_the_truth(method):
    hits, spread = 0, []
    for seed in range(60):
        result = mutual_information(*gumbel_sample(600, 2.0, seed), method=method)
        hits += result.interval[0] <= gumbel_mi(2.0) <= result.interval[1]
        spread.append(result.theta)
    assert 52 <= hits <= 60
    error = fit_gumbel(*(ecdf(z) for z in gumbel_sample(600, 2.0, 3))).standard_error
    assert error == pytest.approx(np.std(spread), rel=0.35)


def test_bootstrap_interval_is_repeatable_and_near_the_asymptotic_one():
    x, y = gumbel_sample(500, 2.0, 5)
    a = mutual_information(x, y, interval="bootstrap", resamples=100, seed=1)
    assert a == mutual_information(x, y, interval="bootstrap", resamples=100, seed=1)
    b = mutual_information(x, y)
    assert a.interval[0] < a.mi < a.interval[1]
    assert np.ptp(a.interval) == pytest.approx(np.ptp(b.interval), rel=0.4)


def test_nearest_neighbours_equal_scikit_learn():
    from sklearn.feature_selection import mutual_info_regression

    for theta, k in ((1.2, 3), (4.0, 5)):
        x, y = gumbel_sample(2000, theta, 0)
        theirs = mutual_info_regression(x[:, None], y, n_neighbors=k, random_state=0)[0]
        assert ksg_mutual_information(x, y, k) == pytest.approx(theirs, abs=1e-3)


def test_lower_bound_on_a_gaussian_where_the_closed_form_of_tau_is_not_one():
    rng, rho = np.random.default_rng(0), 0.6
    z = rng.normal(size=(50_000, 2))
    x, y, truth = z[:, 0], rho * z[:, 0] + np.sqrt(1 - rho**2) * z[:, 1], -0.5 * np.log(1 - rho**2)
    by_tau = mutual_information(x, y, method="tau", rotation=0)
    by_likelihood = mutual_information(x, y, rotation=0)
    assert by_tau.mi == pytest.approx(0.248, abs=0.01) and by_tau.mi > truth
    assert by_likelihood.lower_bound == pytest.approx(0.197, abs=0.01) and by_likelihood.lower_bound < truth
    assert gaussian_mutual_information(x, y) == pytest.approx(truth, abs=0.01)
    assert ksg_mutual_information(x, y) == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("method", ["ml", "tau"])
def test_rotation_is_found(rotation, method):
    u, v = rotate(*gumbel_sample(3000, 2.0, 7), rotation)
    fit = fit_gumbel(ecdf(u), ecdf(v), method)
    assert fit.rotation == rotation and fit.theta == pytest.approx(2.0, abs=0.15)
    assert np.sign(fit.tau) == (-1 if rotation in (90, 270) else 1)
    assert fit.log_likelihood > 0


def test_fit_is_the_maximum_of_the_likelihood():
    for theta in (1.05, 1.6, 4.0, 15.0):
        u, v = (ecdf(z) for z in gumbel_sample(2000, theta, 3))
        fit = fit_gumbel(u, v, rotation=0)
        assert fit.log_likelihood == pytest.approx(gumbel_logpdf(u, v, fit.theta).sum())
        for step in (-1e-4, 1e-4):
            beside = 1 + (fit.theta - 1) * (1 + step)
            assert gumbel_logpdf(u, v, beside).sum() <= fit.log_likelihood + 1e-9
        assert fit_gumbel(np.tile(u, 12), np.tile(v, 12), rotation=0).theta == pytest.approx(fit.theta, abs=1e-5)


def test_negative_dependence_without_rotation_is_independence():
    u, v = gumbel_sample(2000, 2.0, 0)
    fit = fit_gumbel(ecdf(-u), ecdf(v), rotation=0)
    assert fit.theta == 1 and fit.log_likelihood == 0 and gumbel_mi(fit.theta) == 0
    assert fit_gumbel(ecdf(-u), ecdf(v), "tau", rotation=0).theta == 1


@settings(max_examples=20)
@given(theta=st.floats(1, 20), n=st.integers(5, 300), seed=st.integers(0, 10_000))
def test_information_is_non_negative_symmetric_and_blind_to_monotone_maps(theta, n, seed):
    u, v = gumbel_sample(n, theta, seed)
    result = mutual_information(u, v)
    assert result.mi >= 0 and result.lower_bound >= -1e-12 and 0 <= result.independence_p <= 1
    swapped = mutual_information(v, u)
    assert swapped.mi == pytest.approx(result.mi, abs=1e-7)
    mapped = mutual_information(2 * ecdf(u) - 5, np.log(ecdf(v)))
    assert mapped.mi == pytest.approx(result.mi, abs=1e-12) and mapped.rotation == result.rotation
    turned = mutual_information(-ecdf(u), v)
    assert turned.mi == pytest.approx(result.mi, abs=1e-6)


def test_goodness_of_fit_accepts_gumbel_and_refuses_another_tail():
    u, v = (ecdf(z) for z in gumbel_sample(600, 2.0, 0))
    statistic, p = goodness_of_fit(u, v, resamples=100)
    assert p > 0.05 and (statistic, p) == goodness_of_fit(u, v, resamples=100)
    assert goodness_of_fit(1 - u, 1 - v, resamples=100)[1] < 0.05
    assert goodness_of_fit(1 - u, 1 - v, rotation=180, resamples=100)[1] == p
    big = (ecdf(z) for z in gumbel_sample(5000, 2.0, 1))
    assert 0 < goodness_of_fit(*big, 2.0, resamples=9, limit=300)[1] <= 1


def test_discrete_data_by_counts():
    levels = np.tile(np.arange(4), 100)
    assert plugin_mutual_information(levels, levels) == pytest.approx(np.log(4))
    result = mutual_information(levels, levels, discrete="plugin", resamples=20)
    assert result.mi == result.lower_bound == pytest.approx(np.log(4))
    assert result.tie_share == 1 and result.rotation is None and np.isnan(result.theta)
    assert plugin_mutual_information(levels, np.zeros(400)) == pytest.approx(0, abs=1e-12)


def test_small_and_ordered_samples_say_so():
    two = mutual_information([1.0, 2.0], [5.0, 9.0])
    assert two.n == 2 and np.isfinite(two.mi) and "only 2 pairs" in two.note and "not measurable" in two.note
    assert "only 50 pairs: the standard error" in mutual_information(*gumbel_sample(50, 2.0, 0)).note
    x = np.arange(300.0)
    assert "theta is at its bound 100" in mutual_information(x, x**3).note
    assert mutual_information(*gumbel_sample(500, 2.0, 0)).note == ""


# ---- refusals

NAN = np.where(np.arange(20) % 7 == 3, np.nan, np.arange(20.0))  # positions 3, 10, 17
X = np.random.default_rng(0).normal(size=20)
U = ecdf(X)


@pytest.mark.parametrize("call, message", [
    (lambda: ecdf(NAN), "x has 3 NaN of 20 values, the first at position 3"),
    (lambda: ecdf(np.zeros((2, 2, 2))), r"x must have shape \(n,\) or \(n, d\)"),
    (lambda: mutual_information(X, NAN), "y has 3 NaN of 20 values, the first at position 3: drop those pairs"),
    (lambda: mutual_information(np.r_[X[:19], np.inf], X), "x has 1 infinite values, the first at position 19"),
    (lambda: mutual_information(np.full(20, 7.0), X), r"x is constant \(all 20 values are 7\)"),
    (lambda: mutual_information(np.arange(20) % 4, X), "100% of the values are tied, more than tie_limit 10%"),
    (lambda: mutual_information(X, X[:5]), r"one length, got shapes \(20,\) and \(5,\)"),
    (lambda: mutual_information(X[:1], X[:1]), "at least 2 pairs are needed, got 1"),
    (lambda: mutual_information(X, X, interval="exact"), 'interval must be "asymptotic" or "bootstrap", got \'exact\''),
    (lambda: mutual_information(X, X, discrete="yes"), 'discrete must be None or "plugin", got \'yes\''),
    (lambda: mutual_information(X, X, level=95), "level must be between 0 and 1, got 95"),
    (lambda: fit_gumbel(U, U, method="mle"), 'method must be "ml" or "tau", got \'mle\''),
    (lambda: fit_gumbel(U, U, rotation=45), r"rotation must be one of \(0, 90, 180, 270\) degrees .* got 45"),
    (lambda: fit_gumbel(X, U), r"u must lie strictly inside \(0, 1\), got \d+ values outside .* use ecdf"),
    (lambda: gumbel_logpdf(0.0, 0.5, 2.0), r"u must lie strictly inside \(0, 1\), got 1 values outside \(smallest 0"),
    (lambda: gumbel_cdf(0.5, [0.5, 1.0], 2.0), r"v must lie strictly inside \(0, 1\), got 1 values .* largest 1\)"),
    (lambda: gumbel_logpdf(np.float32(1 - 1e-12), 0.5, 2.0), "in float32 values above 1 - 6e-8 round to 1"),
    (lambda: gumbel_logpdf([], 0.5, 2.0), "u is empty"),
    (lambda: gumbel_mi(0.5), "theta must be at least 1 .* got 0.5: model negative dependence by a rotation"),
    (lambda: gumbel_mi([2.0, np.nan]), "theta has 1 NaN of 2 values, the first at position 1"),
    (lambda: gumbel_sample(0, 2.0, 0), "n must be at least 1, got 0"),
    (lambda: goodness_of_fit(U, U, resamples=0), "resamples must be at least 1, got 0"),
    (lambda: ksg_mutual_information(X, X, k=0), "k must be at least 1, got 0"),
    (lambda: ksg_mutual_information(X[:3], X[:3]), "at least 4 pairs are needed, got 3"),
    (lambda: ksg_mutual_information(X, np.ones(20)), "y is constant: nearest neighbours"),
    (lambda: gaussian_mutual_information(np.ones(20), X), "x is constant: a correlation"),
    (lambda: plugin_mutual_information(X, X[:3]), r"one length, got shapes \(20,\) and \(3,\)"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
