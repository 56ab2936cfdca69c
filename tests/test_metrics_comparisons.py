"""Holm's correction and paired effects against definitions and another library."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cmf.metrics.comparisons import family, holm, paired_effect
from cmf.metrics.intervals import paired_bootstrap


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_another_library(p):
    statsmodels = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    np.testing.assert_allclose(holm(p), statsmodels.multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1] and holm([0.2]).tolist() == [0.2]


@pytest.mark.parametrize("p", [[], [[0.1]], [0.1, np.nan], [-0.1], [1.5], 0.1])
def test_holm_refuses(p):
    with pytest.raises(ValueError, match="expected p values from 0 to 1 in one row, got"):
        holm(p)


def test_effect_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20))
    assert paired_effect(a, b) * np.sqrt(20) == pytest.approx(stats.ttest_rel(a, b).statistic)
    assert paired_effect(b, a) == -paired_effect(a, b) and paired_effect(9 * a + 1, 9 * b + 1) == pytest.approx(
        paired_effect(a, b))
    assert paired_effect(a, a) == 0 and paired_effect(a + 1, a) == np.inf and paired_effect(a - 1, a) == -np.inf


def test_effect_refuses():
    for a, b in (([1.0], [2.0]), ([1.0, 2.0], [1.0]), (np.ones((2, 2)), np.ones((2, 2)))):
        with pytest.raises(ValueError, match="expected two rows of one length of at least 2, got shapes"):
            paired_effect(a, b)
    with pytest.raises(ValueError, match="values hold NaN or infinity"):
        paired_effect([1.0, np.nan], [1.0, 2.0])


def test_a_table_of_arms():
    values = pd.DataFrame(dict(ours=[0.9, 0.8, 0.9, 0.8], less=[0.7, 0.7, 0.6, 0.7], same=[0.9, 0.8, 0.8, 0.9]))
    table = pd.DataFrame(dict(arm=["ours", "less", "same"], p=[1.0, 0.02, 0.5], low=0.0), index=[4, 5, 6])
    told = family(table, values, "ours")
    assert list(told) == ["arm", "low", "effect", "p", "p_holm", "t_holm"] and list(told.index) == [4, 5, 6]
    assert told.iloc[0][["effect", "p", "p_holm", "t_holm"]].isna().all()
    np.testing.assert_allclose(told.p_holm[1:], [0.04, 0.5])
    np.testing.assert_allclose(told.t_holm[1:], [2 * stats.ttest_rel(values.ours, values.less).pvalue, 1])
    assert told.effect[5] == paired_effect(values.ours, values.less) and told.effect[6] == 0
    drawn = family(table.drop(columns="p"), values, "ours").p
    assert drawn[5] == paired_bootstrap(values.ours, values.less).p == 0.125
    assert family(table[:1], values, "ours").p_holm.isna().all()
    with pytest.raises(ValueError, match="no values of other; there are ours, less, same"):
        family(table, values, "other")
