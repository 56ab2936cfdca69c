"""Seconds of fit and closed form beside other libraries, in one process; prints ratios (pytest -m benchmarks -s).

Every time is the best of a few repeats on this process's CPU clock, one thread each, so that other work on the
machine counts as little as it can.
"""

import numpy as np
import pytest
import torch
from cpu_seconds import seconds
from scipy.stats import kendalltau

from cmf import copula
from cmf.copula.differentiable import pairwise_theta

pytestmark = pytest.mark.benchmarks


def vine_theta(vine, u, v):
    pair = vine.Bicop(family=vine.BicopFamily.gumbel)
    pair.fit(np.column_stack([u, v]), controls=vine.FitControlsBicop(parametric_method="mle", num_threads=1))
    return float(pair.parameters[0, 0])


def test_fit_is_three_times_faster_than_pyvinecopulib():
    vine = pytest.importorskip("pyvinecopulib", reason="the benchmark needs pyvinecopulib")
    from sklearn.feature_selection import mutual_info_regression
    from statsmodels.distributions.copula.api import GumbelCopula

    print(f"\n{'n':>8} {'estimator':34} {'seconds':>9} {'/ ours':>8}  theta or MI")
    for n in (1000, 10_000, 100_000, 1_000_000):
        x, y = copula.gumbel_sample(n, 2.0, n)
        u, v = copula.ecdf(x), copula.ecdf(y)
        repeats = 5 if n < 1_000_000 else 1
        rows = {
            "ours, likelihood": lambda: copula.fit_gumbel(u, v, rotation=0).theta,               # noqa: B023
            "ours, likelihood, four rotations": lambda: copula.fit_gumbel(u, v).theta,           # noqa: B023
            "ours, tau": lambda: copula.fit_gumbel(u, v, "tau", rotation=0).theta,               # noqa: B023
            "scipy tau, inverted": lambda: 1 / (1 - kendalltau(u, v)[0]),                         # noqa: B023
            "statsmodels (tau)": lambda: GumbelCopula().fit_corr_param(np.column_stack([u, v])),  # noqa: B023
            "pyvinecopulib, likelihood": lambda: vine_theta(vine, u, v),                          # noqa: B023
        }
        if n <= 100_000:
            rows["ours, nearest neighbours"] = lambda: copula.ksg_mutual_information(x, y)       # noqa: B023
            rows["scikit-learn, nearest neighbours"] = lambda: mutual_info_regression(           # noqa: B023
                x[:, None], y, n_neighbors=3, random_state=0)[0]                                 # noqa: B023
        timed = {name: seconds(call, 1 if "neigh" in name and n > 10_000 else repeats) for name, call in rows.items()}
        ours = timed["ours, likelihood"]
        for name, (took, answer) in timed.items():
            print(f"{n:8d} {name:34} {took:9.5f} {took / ours[0]:8.1f}  {float(answer):.6f}")
        theirs = timed["pyvinecopulib, likelihood"]
        assert ours[1] == pytest.approx(theirs[1], abs=1e-4)
        if n == 100_000:
            assert theirs[0] / ours[0] >= 3


def test_pair_matrix_is_ten_times_faster_than_a_loop(one_thread):
    vine = pytest.importorskip("pyvinecopulib", reason="the benchmark needs pyvinecopulib")
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(4096, 8))
    x, y = (cause @ rng.normal(size=(8, 64)) + 0.5 * rng.normal(size=(4096, 64)) for _ in range(2))
    u, v = copula.ecdf(x), copula.ecdf(y)
    wide, narrow = ([torch.tensor(z, dtype=d) for z in (u, v)] for d in (torch.float64, torch.float32))
    plain, (theta, _) = seconds(lambda: pairwise_theta(*narrow, rotations=False), 2)
    turned, _ = seconds(lambda: pairwise_theta(*narrow), 2)
    double, (exact, _) = seconds(lambda: pairwise_theta(*wide, rotations=False), 1)
    some = [(i, j) for i in range(0, 64, 8) for j in range(0, 64, 4)]               # one pair in 32 stands for the loop
    part, values = seconds(lambda: [vine_theta(vine, u[:, i], v[:, j]) for i, j in some], 1)
    loop = part * 64 * 64 / len(some)
    print(f"\n64 x 64 pairs, n = 4096: loop over pyvinecopulib {loop:.1f} s (from {len(some)} pairs)")
    for name, took in (("float32", plain), ("float32, four rotations", turned), ("float64", double)):
        print(f"  all pairs at once, {name:24} {took:6.2f} s, {loop / took:6.1f} times faster")
    assert max(abs(float(theta[i, j]) - value) for (i, j), value in zip(some, values, strict=True)) < 1e-4
    assert (theta - exact).abs().max() < 1e-4
    assert loop / plain >= 10 and loop / turned >= 10
