"""Segmentation scores: by hand, against scikit-learn, and their intervals over pictures."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from cmf.metrics import segmentation
from cmf.metrics.segmentation import confusion, miou_difference, miou_interval, scores

RNG = np.random.default_rng(3)


def drawn(seed, classes, share=0.7, shape=(4, 12, 15)):
    """Labels with ignored pixels, and a prediction that is right in a share of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape)
    predicted = np.where(rng.random(shape) < share, truth, rng.integers(0, classes, shape))
    truth[rng.random(shape) < 0.1] = 255
    return truth.astype(np.uint8), predicted


@given(st.integers(0, 10**6), st.integers(2, 9))
def test_counts_and_scores_agree_with_scikit_learn(seed, classes):
    truth, predicted = drawn(seed, classes)
    counts = confusion(truth, predicted, classes)
    t, p = truth[truth != 255], predicted[truth != 255]
    np.testing.assert_array_equal(counts, reference.confusion_matrix(t, p, labels=range(classes)))
    found = scores(counts)
    present = np.union1d(t, p)
    iou = reference.jaccard_score(t, p, labels=present, average=None)
    np.testing.assert_allclose(found["iou"][present], iou)
    assert found["miou"] == pytest.approx(iou.mean())
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(t, p))
    assert found["mean_accuracy"] == pytest.approx(
        reference.recall_score(t, p, labels=np.unique(t), average="macro", zero_division=0))
    assert found["frequency_weighted"] == pytest.approx(reference.jaccard_score(t, p, average="weighted"))


def test_by_hand():
    found = scores([[6, 2, 0, 0], [1, 3, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert found["iou"][:2].tolist() == [6 / 9, 3 / 7], "hits over union"
    assert np.isnan(found["iou"][2]) and found["iou"][3] == 0, "absent from both; predicted but not there"
    assert found["miou"] == pytest.approx((6 / 9 + 3 / 7 + 0) / 3)
    assert found["miou_foreground"] == pytest.approx((3 / 7 + 0) / 2)
    assert found["accuracy"] == pytest.approx(9 / 13)
    assert found["mean_accuracy"] == pytest.approx((6 / 8 + 3 / 5) / 2), "over the classes of the truth"
    assert found["frequency_weighted"] == pytest.approx(8 / 13 * 6 / 9 + 5 / 13 * 3 / 7)


def test_background_alone_has_no_foreground_score():
    found = scores(confusion(np.zeros((3, 3), int), np.zeros((3, 3), int), 4))
    assert found["miou"] == 1 and np.isnan(found["miou_foreground"])


def test_ignored_pixels_do_not_count_whatever_is_predicted_there():
    truth = np.array([[0, 255], [1, 255]], np.uint8)
    assert confusion(truth, np.array([[0, 99], [1, -3]]), 2).tolist() == [[1, 0], [0, 1]]
    assert confusion(truth, np.array([[0, 0], [1, 1]]), 256, ignore=-1).sum() == 4, "255 may be a class"
    assert confusion(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), int), 3).sum() == 0


def test_counts_of_pictures_add_up():
    truth, predicted = drawn(1, 5)
    np.testing.assert_array_equal(sum(confusion(t, p, 5) for t, p in zip(truth, predicted, strict=True)),
                                  confusion(truth, predicted, 5))


@pytest.mark.parametrize("truth, predicted, classes, ignore, words", [
    (np.zeros((2, 3), int), np.zeros((3, 2), int), 2, 255, r"\(2, 3\) and prediction of shape \(3, 2\), expected one"),
    (np.zeros((0, 3), int), np.zeros((0, 3), int), 2, 255, "with at least one pixel"),
    (np.array([0, 3, 9]), np.zeros(3, int), 3, 255, "truth holds the values 3, 9 outside the 3 classes 0 to 2"),
    (np.zeros(3, int), np.array([0, -1, 2]), 3, 255, "prediction holds the values -1 outside"),
    (np.zeros(3, int), np.arange(3) + 40, 30, 255, "values 40, 41, 42 outside the 30 classes"),
    (np.zeros(3), np.zeros(3, int), 3, 255, "truth of float64, expected whole numbers; take the argmax"),
    (np.zeros(3, int), np.zeros(3, int), 3, 2, "a label to ignore outside 0 to 2"),
    (np.zeros(3, int), np.zeros(3, int), 0, 255, "0 classes and ignore=255: expected at least 1 class"),
])
def test_bad_labels(truth, predicted, classes, ignore, words):
    with pytest.raises(ValueError, match=words):
        confusion(truth, predicted, classes, ignore)


@pytest.mark.parametrize("counts, words", [
    (np.zeros((2, 3), int), r"counts of shape \(2, 3\) and int64, expected whole numbers from 0 on, \(K, K\)"),
    (np.ones((2, 2)), "and float64, expected whole numbers"),
    (-np.ones((2, 2), int), "expected whole numbers from 0 on"),
    (np.zeros((2, 2), int), "counts hold no pixel: all were ignored"),
    (np.ones((4, 2, 2), int), r"\(4, 2, 2\), expected \(K, K\); add the counts"),
])
def test_bad_counts(counts, words):
    with pytest.raises(ValueError, match=words):
        scores(counts)


def test_interval_over_pictures():
    counts = np.stack([confusion(*drawn(seed, 4, share, (10, 10)), 4) for seed, share in enumerate(RNG.random(20))])
    found = miou_interval(counts, seed=5)
    assert found.estimate == pytest.approx(scores(counts.sum(0))["miou"]) and found.low < found.estimate < found.high
    assert found == miou_interval(counts, seed=5)
    assert miou_interval(counts, True).estimate == pytest.approx(scores(counts.sum(0))["miou_foreground"])
    assert miou_interval(np.stack([counts[0]] * 6)).low == pytest.approx(scores(counts[0])["miou"])


def test_a_draw_without_the_class_found_nothing():
    blank, full = confusion([0, 0], [0, 0], 2), confusion([0, 1], [0, 1], 2)
    found = miou_interval([blank, full], foreground=True)
    assert found.estimate == 1 and found.low == 0


def test_paired_difference():
    truth = [drawn(seed, 4) for seed in range(12)]
    better = np.stack([confusion(t, p, 4) for t, p in truth])
    worse = np.stack([confusion(t, np.where(p == 3, 0, p), 4) for t, p in truth])
    found = miou_difference(better, worse)
    assert found.low > 0 and found.p < 0.01
    assert found.estimate == pytest.approx(scores(better.sum(0))["miou"] - scores(worse.sum(0))["miou"])
    with pytest.raises(ValueError, match=r"lengths \[12, 11\]|shapes"):
        miou_difference(better, worse[:11])


def test_bad_pictures():
    with pytest.raises(ValueError, match=r"\(2, 2\), expected \(pictures, K, K\): one matrix for each picture"):
        miou_interval(np.ones((2, 2), int))
    with pytest.raises(ValueError, match="hold no pixel of the classes that count"):
        miou_interval(np.array([[[4, 0], [0, 0]]]), foreground=True)


def test_examples():
    result = doctest.testmod(segmentation)
    assert result.attempted == 4 and result.failed == 0
