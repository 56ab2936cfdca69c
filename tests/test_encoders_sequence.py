"""Sequences as tokens: what the numbers mean, missing samples, refusals."""

import numpy as np
import pytest

from cmf.encoders.sequence import SUMMARY, patches, summary


def made(n=3, length=16, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, length, channels)).astype(np.float32)
    times = np.sort(rng.uniform(0, 10, (n, length)), 1).astype(np.float32)
    return values, np.ones(values.shape, bool), times


def column(described, name, channel=0):
    return described[:, 0, channel * len(SUMMARY) + SUMMARY.index(name)]


def test_patches_hold_every_sample_once():
    values, observed, times = made()
    cut = patches(values, observed, times, 4)
    assert cut.shape == (3, 4, 4 * 2 * 2 + 1)
    np.testing.assert_array_equal(cut[:, :, :8].reshape(values.shape), values)
    assert (np.diff(cut[:, :, -1]) > 0).all() and np.abs(cut[:, :, -1]).max() <= 1


def test_missing_samples_are_marked_and_never_read():
    values, observed, times = made()
    observed[:, 3, 0] = False
    other = values.copy()
    other[:, 3, 0] = 1e6
    np.testing.assert_array_equal(patches(values, observed, times), patches(other, observed, times))
    np.testing.assert_array_equal(summary(values, observed, times), summary(other, observed, times))


def test_slope_and_curvature_of_a_parabola():
    _, observed, times = made(length=64)
    t = 2 * (times - times[:, :1]) / (times[:, -1:] - times[:, :1]) - 1
    values = np.stack([3 + 2 * t, 5 - 4 * t**2], -1)
    described = summary(values, observed, times)
    np.testing.assert_allclose(column(described, "slope"), 2, rtol=0.02)
    np.testing.assert_allclose(column(described, "curvature", 1), -4, rtol=0.05)
    assert (column(described, "residual") < 0.02).all()


def test_one_observation_and_none_are_finite():
    values, observed, times = made()
    observed[0] = False
    observed[1, 1:] = False
    assert np.isfinite(summary(values, observed, times)).all()
    np.testing.assert_allclose(column(summary(values, observed, times), "mean")[1], values[1, 0, 0], rtol=1e-6)


def test_refusals():
    values, observed, times = made()
    with pytest.raises(ValueError, match="16 samples cannot be cut into 5 equal patches"):
        patches(values, observed, times, 5)
    with pytest.raises(ValueError, match=r"expected values and observed \(n, T, C\)"):
        summary(values, observed[:, :3], times)
