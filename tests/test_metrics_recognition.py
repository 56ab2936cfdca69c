"""Measures against scikit-learn, slow obvious code and values worked out by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from cmf.metrics import boxes, intervals, recognition, timing

K = 4


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, 300)
    logits = rng.normal(size=(300, K)) + 1.5 * np.eye(K)[labels]
    p = np.exp(logits)
    return labels, p / p.sum(1, keepdims=True)


def test_classification_agrees_with_scikit_learn(predictions):
    labels, p = predictions
    ours = recognition.classification(labels, p, "abcd")
    for average in ("weighted", "macro", "micro"):
        theirs = reference.precision_recall_fscore_support(labels, p.argmax(1), average=average)
        assert np.allclose([ours[f"{m}_{average}"] for m in ("precision", "recall", "f1")], theirs[:3])
    theirs = reference.precision_recall_fscore_support(labels, p.argmax(1))
    for j, name in enumerate("abcd"):
        row = ours["per_class"][name]
        assert np.allclose([row["precision"], row["recall"], row["f1"], row["support"]],
                           [t[j] for t in theirs])
    auc = reference.roc_auc_score(labels, p, multi_class="ovr", average="weighted")
    assert ours["roc_auc"] == pytest.approx(auc, abs=1e-12)
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(labels, p.argmax(1)))
    assert np.array_equal(recognition.confusion(labels, p.argmax(1), K),
                          reference.confusion_matrix(labels, p.argmax(1)))
    assert recognition.macro_f1(labels, p.argmax(1), K) == pytest.approx(ours["f1_macro"])


def test_a_class_that_never_occurs_does_not_count_in_the_macro_mean():
    ours = recognition.classification([0, 1, 1], [[.9, .1, 0], [.2, .8, 0], [.6, .4, 0]], "abc")
    assert ours["f1_macro"] == pytest.approx(reference.f1_score([0, 1, 1], [0, 1, 0], average="macro"))
    assert ours["per_class"]["c"]["support"] == 0 and np.isnan(ours["per_class"]["c"]["roc_auc"])


def test_roc_auc_counts_ties_half_and_one_class_is_nan():
    assert recognition.roc_auc([True, False], [.5, .5]) == 0.5
    assert np.isnan(recognition.roc_auc([True, True], [.5, .6]))


def test_calibration_error_by_hand():
    # bin (0.8, 0.9]: two samples at 0.9, one right: |0.5 - 0.9|; bin (0.5, 0.6]: two at 0.6, both right: 0.4
    p = [[.9, .1], [.9, .1], [.6, .4], [.6, .4]]
    assert recognition.calibration_error([0, 1, 0, 0], p) == pytest.approx(0.4)
    assert recognition.calibration_error([0, 0], [[1, 0], [1, 0]]) == 0


def slow_recall(a, b, labels, k):
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    hits = []
    for i in range(len(a)):
        others = [j for j in np.argsort(-(b @ a[i])) if j != i]
        hits.append(labels[i] in labels[others[:k]])
    return np.mean(hits)


def test_recall_at_agrees_with_the_slow_path_and_leaves_the_own_pair_out():
    rng = np.random.default_rng(1)
    a, b, labels = rng.normal(size=(90, 5)), rng.normal(size=(90, 5)), rng.integers(0, 6, 90)
    ours = recognition.recall_at(a, b, labels)
    assert [ours[f"r@{k}"] for k in (1, 5, 10)] == [slow_recall(a, b, labels, k) for k in (1, 5, 10)]
    assert ours["queries"] == 90
    assert recognition.recall_at(a, a, labels, own_pair=True)["r@1"] == 1
    assert recognition.recall_at(a, a, labels)["r@1"] < 0.5


def test_recall_at_gives_collapsed_features_nothing():
    assert recognition.recall_at(np.ones((40, 3)), np.ones((40, 3)), np.arange(40) % 2)["r@10"] == 0


def test_feature_entropy_and_redundancy_by_hand():
    assert recognition.feature_entropy(np.zeros((3, 8))) == pytest.approx(np.log(8))
    assert recognition.feature_entropy([[1000., 0.]]) == pytest.approx(0)
    assert recognition.redundancy(np.ones((5, 2))) == pytest.approx(0)
    assert recognition.redundancy(np.eye(2)) == pytest.approx(0.5)  # rows (1, 0): deviation 1/2
    assert recognition.redundancy(np.eye(2), np.array([[1., 0.]])) == 0


def test_complementarity_gain_by_hand():
    a, b = np.array([[2., 0.]]), np.array([[0., 3.]])
    out = recognition.complementarity_gain(a, b, a + b * 2 / 3)
    assert (out["gain"], out["anchor"], out["overlap"]) == pytest.approx((1, 1, 0))
    assert recognition.complementarity_gain(a, a, a)["gain"] == pytest.approx(0)
    assert recognition.complementarity_gain(a, b, a)["gain"] == pytest.approx(np.sqrt(.5))


def test_robustness_by_hand():
    labels = [0, 1]
    full = ([[.8, .2], [.2, .8]], np.eye(2))
    without = ([[.6, .4], [.6, .4]], np.array([[1., 0.], [-1., 0.]]))
    out = recognition.robustness_missing(labels, full, {"image": without, "sequence": full})
    assert out["image"]["accuracy_kept"] == 0.5 and out["image"]["agreement"] == 0.5
    assert out["image"]["r@mm"] == pytest.approx(.4 * .5 + .3 * .75 + .3 * .5)
    assert out["sequence"]["r@mm"] == pytest.approx(1)


@pytest.mark.parametrize("call, words", [
    (lambda: recognition.classification([0.5], [[1., 0.]], "ab"), "vector of integers, got shape"),
    (lambda: recognition.classification([2], [[1., 0.]], "ab"), r"must lie in 0\.\.1 for 2 classes"),
    (lambda: recognition.classification([0], [[2., 1.]], "ab"), "apply softmax to logits first"),
    (lambda: recognition.classification([0], [[1., 0.]], "abc"), "2 columns but 3 classes"),
    (lambda: recognition.classification([0, 1], [[1., 0.]], "ab"), r"shape \(1, 2\), expected \(2, K\)"),
    (lambda: recognition.confusion([0, 1], [0], 2), "2 labels but 1 predictions"),
    (lambda: recognition.recall_at(np.eye(2), np.eye(2), [0, 1]), "category recall has no query"),
    (lambda: recognition.recall_at(np.eye(2), np.eye(2), [0, 0], k=(0,)), "depths of at least 1"),
    (lambda: recognition.recall_at(np.eye(2), np.eye(2), [0]), "do not belong together"),
    (lambda: recognition.feature_entropy([[np.nan]]), "1 values that are not finite"),
    (lambda: recognition.feature_entropy([1.]), r"have shape \(1,\), expected \(n, D\)"),
    (lambda: recognition.redundancy(np.eye(2), np.eye(3)), "2 and 3 channels"),
    (lambda: recognition.complementarity_gain(np.eye(2), np.eye(2), np.ones((2, 3))), "must have one shape"),
    (lambda: recognition.robustness_missing([1], ([[1., 0.]], np.eye(1)), {}), "with both modalities is 0"),
    (lambda: recognition.robustness_missing([0], ([[1., 0.]], np.eye(1)), {"image": ([[1.]], np.eye(1))}),
     "without image: shapes"),
    (lambda: boxes.box_matching([[0, 0, 1]], []), r"of shape \(n, 4\)"),
    (lambda: boxes.box_matching([[0, 0, 0, 1]], []), "predicted box 0 is empty"),
    (lambda: boxes.box_matching([], [], iou=0), r"iou must lie in \(0, 1\], got 0"),
    (lambda: boxes.box_matching([[0, 0, 1, 1]], [], scores=[1, 2]), "2 scores for 1 predicted"),
    (lambda: boxes.average_precision([[]], [[]], []), "lists over images differ in length"),
    (lambda: boxes.average_precision([[]], [[]], [[]], [[]]), "give both or neither"),
    (lambda: boxes.average_precision([[]], [[]], [[]], [[1]], [[]]), "expected one label a box"),
    (lambda: intervals.bootstrap_interval([]), "one length of at least 1, got lengths"),
    (lambda: intervals.bootstrap_interval([1., np.nan]), "hold NaN or infinity"),
    (lambda: intervals.bootstrap_interval([1., 2.], level=1.), "between 0 and 1, got 1"),
    (lambda: intervals.paired_bootstrap(np.ones(2), np.ones((2, 2))), r"shapes \(2,\) and \(2, 2\)"),
    (lambda: timing.latency(int, repeats=0), "repeats >= 1, got 10 and 0"),
    (lambda: timing.throughput(abs, batches=(0,)), "sizes of at least 1"),
])
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_box_matching_is_greedy_by_score_and_one_to_one():
    truth = [[0, 0, 10, 10]]
    predicted = [[0, 0, 10, 10], [1, 0, 11, 10]]
    out = boxes.box_matching(predicted, truth, scores=[.1, .9])
    assert out["match"].tolist() == [-1, 0]
    assert (out["tp"], out["fp"], out["fn"]) == (1, 1, 0)
    assert (out["precision"], out["recall"], out["f1"]) == (.5, 1, pytest.approx(2 / 3))
    assert boxes.overlap(predicted, truth)[1, 0] == pytest.approx(90 / 110)
    assert boxes.box_matching([], [])["f1"] == 1
    assert boxes.box_matching([], truth)["f1"] == 0 == boxes.box_matching(truth, [])["recall"]


def test_average_precision_by_hand():
    truth = [[[0, 0, 10, 10], [20, 0, 30, 10]]]
    perfect = boxes.average_precision(truth, [[.5, .4]], truth)
    assert perfect == {"ap": pytest.approx(1), "ap50": pytest.approx(1), "ap75": pytest.approx(1)}
    # right, wrong, right: precision 1 up to recall 1/2 (51 points), then 2/3 (50 points)
    predicted = [[[0, 0, 10, 10], [50, 50, 60, 60], [20, 0, 30, 10]]]
    area = boxes.average_precision(predicted, [[.9, .8, .7]], truth)["ap50"]
    assert area == pytest.approx((51 + 50 * 2 / 3) / 101)
    # overlap 0.8: right for 7 of the 10 thresholds
    shifted = boxes.average_precision([[[0, 0, 10, 8]]], [[1.]], [[[0, 0, 10, 10]]])
    assert (shifted["ap"], shifted["ap50"], shifted["ap75"]) == pytest.approx((.7, 1, 1))
    assert np.isnan(boxes.average_precision([truth[0]], [[1, 1]], [[]])["ap"])
    two = boxes.average_precision(truth, [[.5, .4]], truth, [[0, 0]], [[0, 1]])
    assert two["ap50"] == pytest.approx(0.5)


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(100):
        v = rng.normal(size=60)
        low, high = intervals.bootstrap_interval(v, n=300)[1:]
        inside += low <= 0 <= high
    assert 88 <= inside <= 100
    assert intervals.bootstrap_interval(v) == intervals.bootstrap_interval(v)


def test_bootstrap_interval_of_a_statistic_of_two_arrays(predictions):
    labels, p = predictions
    f1 = lambda y, z: recognition.macro_f1(y, z, K)
    out = intervals.bootstrap_interval((labels, p.argmax(1)), f1, n=200)
    assert out.low < out.estimate < out.high
    assert out.estimate == recognition.macro_f1(labels, p.argmax(1), K)


def test_paired_bootstrap_sees_a_difference_and_its_absence():
    rng = np.random.default_rng(3)
    base = rng.normal(size=200)
    clear = intervals.paired_bootstrap(base + .1 + .1 * rng.normal(size=200), base, n=500)
    assert clear.low > 0 and clear.p < .01 and clear.estimate == pytest.approx(.1, abs=.03)
    none = intervals.paired_bootstrap(base + .1 * rng.normal(size=200), base, n=500)
    assert none.low < 0 < none.high and none.p > .05
    assert intervals.paired_bootstrap(base, base, n=50).p == 1


def test_paired_bootstrap_of_a_statistic(predictions):
    labels, p = predictions
    worse = np.where(np.random.default_rng(4).random(300) < .3, 0, p.argmax(1))
    out = intervals.paired_bootstrap(p.argmax(1), worse, lambda z, y: (z == y).mean(), (labels,), n=300)
    assert out.low > 0 and out.p < .05


def test_timing_counts_calls_and_waits():
    calls, waits = [], []
    out = timing.latency(lambda: calls.append(1), warmup=3, repeats=20, synchronise=lambda: waits.append(1))
    assert len(calls) == 23 and len(waits) == 21 and 0 <= out["median"] <= out["p95"]
    best = timing.throughput(lambda batch: sum(range(20000)), batches=(1, 64))
    assert best["batch"] == 64 and best["per_second"] == best["table"][64]
