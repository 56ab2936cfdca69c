"""The study of the copula's information: truths against samples, the published map, the trained matrix."""

import numpy as np
import pytest
import torch

from cmf import copula
from cmf.methods.sacmf import Config, TokenInformation
from cmf.studies import copula as study


@pytest.mark.parametrize("family, parameter", [("gumbel", 2.0), ("gaussian", 0.6), ("clayton", 2.0), ("parabola", 0.2)])
def test_truth_agrees_with_nearest_neighbours(family, parameter):
    x, y = study.draw(family, parameter, 20000, seed=1)
    assert abs(copula.ksg_mutual_information(x, y) - study.FAMILIES[family].truth(parameter)) < 0.03
    assert np.array_equal(x, study.draw(family, parameter, 20000, seed=1)[0])


@pytest.mark.parametrize("theta", [1.01, 1.5, 2.0, 10.0])
def test_quadrature_agrees_with_closed_form(theta):
    assert study.quadrature(theta) == pytest.approx(float(copula.gumbel_mi(theta)), rel=1e-12)


def test_bound_is_that_of_a_large_sample():
    bound, theta = study.gaussian_bound(0.6)
    x, y = study.draw("gaussian", 0.6, 100000, seed=0)
    fit = copula.fit_gumbel(copula.ecdf(x), copula.ecdf(y), rotation=0)
    assert abs(fit.log_likelihood / fit.n - bound) < 0.01 and abs(fit.theta - theta) < 0.02


def test_compare_tells_bias_and_error(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    table = study.compare([("gaussian", 0.6, 200)], repeats=3)
    assert list(table.estimator) == list(study.ESTIMATORS)
    assert np.allclose(table["mean"] - table.truth, table.bias)
    assert np.allclose(table.rmse**2, table.bias**2 + table.sd**2 * 2 / 3)


def test_refusals():
    with pytest.raises(ValueError, match="no family 'frank'; there are gumbel, gaussian, clayton, parabola"):
        study.draw("frank", 2.0, 10, 0)
    with pytest.raises(ValueError, match="repeats must be at least 2 to show a spread, got 1"):
        study.compare([("gumbel", 2.0, 100)], repeats=1)


def test_published_sum_is_constant_and_has_no_gradient():
    sums = study.published_sums((2, 16), (0.0, 1.0), samples=8)
    spread = sums.groupby("tokens").high.max() - sums.groupby("tokens").low.min()
    assert spread.max() < 1e-9 and torch.get_default_dtype() == torch.float32
    facts = study.published_facts(samples=8)
    assert facts["gradient"] == 0 and facts["scalar"] < 1e-6
    assert facts["weight_low"] == pytest.approx(0.499, abs=5e-4)


def test_learned_reads_the_stored_samples():
    config = Config(classes=3, image=(("a", 2, 4),), sequence=(("b", 3, 4),), width=8, memory=128)
    module = TokenInformation(2, 3, config)
    with pytest.raises(ValueError, match="these weights hold no recent samples"):
        study.learned(module)
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(128, 1, 8, generator=generator)
    tokens = [common + 0.5 * torch.randn(128, n, 8, generator=generator) for n in (2, 3)]
    module.train()
    module(*tokens, torch.ones(128, 5, dtype=torch.bool))
    module.eval()
    found = study.learned(module)
    assert found["information"].shape == (2, 3) and found["ranks"].shape == (128, 5)
    assert found["importance"].mean() == pytest.approx(1, abs=1e-5)
    names = ("a 1", "a 2", "b 1", "b 2", "b 3")
    table = study.matrix_table(found["information"], names)
    assert tuple(table.iloc[4]) == ("a 2", "b 2", found["information"][1, 1])
    assert list(study.importance_table(found, names).token) == list(names)
