"""Fusion without learning: exact where the answer is known."""

import numpy as np
import pytest

from cmf.studies.classical import (
    CLASSICAL,
    laplacian_multiply_adds,
    laplacian_pyramid,
    pixel_maximum,
    pixel_mean,
)

SIZES = [(32, 48), (37, 53), (1, 1), (2, 2), (1, 9), (6, 1), (3, 2)]


def pictures(size, seed=0):
    return np.random.default_rng(seed).random((2, *size), np.float32)


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_with_itself_is_itself(name, size):
    x, _ = pictures(size)
    fused = CLASSICAL[name](x, x)
    assert fused.shape == size and fused.dtype == np.float32
    np.testing.assert_allclose(fused, x, atol=2e-6)


@pytest.mark.parametrize("name", CLASSICAL)
def test_any_size_gives_a_picture(name):
    for size in SIZES:
        fused = CLASSICAL[name](*pictures(size))
        assert fused.shape == size and 0 <= fused.min() and fused.max() <= 1


def test_mean_and_maximum():
    a, b = pictures((5, 6))
    np.testing.assert_allclose(pixel_mean(a, b), (a + b) / 2)
    assert (pixel_maximum(a, b) == np.where(a > b, a, b)).all()


def slow_reduce(x):
    """Every second pixel of the blurred picture, by a plain sum over a reflected frame."""
    w = np.outer(*2 * [np.array([1, 4, 6, 4, 1]) / 16])
    p = np.pad(x, 2, mode="reflect")
    return np.array([[(w * p[i:i + 5, j:j + 5]).sum() for j in range(0, x.shape[1], 2)]
                     for i in range(0, x.shape[0], 2)])


def slow_expand(x, shape):
    """4 sum_mn w_mn x((i - m)/2, (j - n)/2) over whole indices (Burt and Adelson 1983, eq. 2)."""
    wide = np.zeros(shape)
    wide[::2, ::2] = x
    w = np.outer(*2 * [np.array([1, 4, 6, 4, 1]) / 16])
    p = np.pad(wide, 2, mode="reflect")
    return np.array([[4 * (w * p[i:i + 5, j:j + 5]).sum() for j in range(shape[1])] for i in range(shape[0])])


def test_one_level_against_the_plain_sums():
    a, b = (0.3 + 0.4 * x.astype(float) for x in pictures((11, 14), 3))
    details = [x - slow_expand(slow_reduce(x), x.shape) for x in (a, b)]
    strongest = np.where(np.abs(details[0]) >= np.abs(details[1]), *details)
    expected = slow_expand((slow_reduce(a) + slow_reduce(b)) / 2, a.shape) + strongest
    np.testing.assert_allclose(laplacian_pyramid(a, b, 1), expected.clip(0, 1), atol=1e-6)


def test_a_constant_picture_leaves_the_details_of_the_other():
    x = 0.4 + 0.2 * pictures((33, 40))[0]
    fused = laplacian_pyramid(x, np.full_like(x, 0.5))
    assert np.corrcoef(np.diff(fused).ravel(), np.diff(x).ravel())[0, 1] > 0.999
    assert laplacian_pyramid(x, x, 0) == pytest.approx(x)


def test_multiply_adds_by_hand():
    assert laplacian_multiply_adds(4, 6, 2) == 50 * (4 * 6 + 2 * 3)
    assert laplacian_multiply_adds(5, 5, 2) == 50 * (5 * 5 + 3 * 3)
    assert laplacian_multiply_adds(480, 640) == pytest.approx(50 * 480 * 640 * (1 - 1 / 4**4) / (1 - 1 / 4))


@pytest.mark.parametrize("name", CLASSICAL)
def test_pictures_of_different_or_no_size_are_refused(name):
    with pytest.raises(ValueError, match=r"visible is \(4, 5\) and infrared \(4, 6\), expected both .*one size"):
        CLASSICAL[name](np.zeros((4, 5)), np.zeros((4, 6)))
    with pytest.raises(ValueError, match=r"visible is \(0, 5\).*at least one pixel"):
        CLASSICAL[name](np.zeros((0, 5)), np.zeros((0, 5)))
    with pytest.raises(ValueError, match=r"visible is \(4, 5, 3\).*give grey pictures"):
        CLASSICAL[name](np.zeros((4, 5, 3)), np.zeros((4, 5, 3)))


def test_negative_levels_are_refused():
    with pytest.raises(ValueError, match="levels must be 0 or larger, got -1"):
        laplacian_pyramid(np.zeros((4, 4)), np.zeros((4, 4)), -1)
