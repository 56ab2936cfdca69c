"""Measures of anomaly detection against scikit-learn, slow obvious code and values worked out by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from cmf.metrics import anomaly, events, faithfulness, intervals


def sample(seed=0, count=12, digits=1, shift=1.0):
    """Videos of unequal length, half of them abnormal, with many equal scores."""
    rng = np.random.default_rng(seed)
    labels = [np.zeros(rng.integers(40, 90), int) for _ in range(count)]
    for y in labels[::2]:
        start = rng.integers(0, 25)
        y[start:start + rng.integers(5, 15)] = 1
    scores = [np.round(1 / (1 + np.exp(-rng.normal(size=len(y)) - shift * (2 * y - 1))), digits) for y in labels]
    return scores, labels, np.arange(count) % 2 == 0


@pytest.mark.parametrize("digits", [1, 6])
def test_curves_agree_with_scikit_learn(digits):
    scores, labels, abnormal = sample(digits=digits)
    s, y = np.concatenate(scores), np.concatenate(labels)
    out = anomaly.evaluate(scores, labels, abnormal, threshold=0.5)
    assert out["roc_auc"] == pytest.approx(reference.roc_auc_score(y, s), abs=1e-12)
    assert out["average_precision"] == pytest.approx(reference.average_precision_score(y, s), abs=1e-12)
    assert out["roc_auc"] == anomaly.frame_auc(scores, labels)
    assert out["average_precision"] == anomaly.average_precision(scores, labels)
    odd = [np.concatenate(x[::2]) for x in (labels, scores)]
    assert out["ano_auc"] == pytest.approx(reference.roc_auc_score(*odd), abs=1e-12)
    assert out["ano_auc"] == anomaly.ano_auc(scores, labels, abnormal)
    own = [reference.roc_auc_score(a, b) for a, b in zip(labels[::2], scores[::2], strict=True)]
    assert out["macro_auc"] == pytest.approx(np.mean(own), abs=1e-12) and out["macro_videos"] == 6
    p, r, f, _ = reference.precision_recall_fscore_support(y, s >= 0.5, average="binary")
    assert np.allclose([out["precision"], out["recall"], out["f1"]], [p, r, f])
    quiet = np.concatenate(scores[1::2])
    assert out["false_alarm_rate"] == pytest.approx((quiet >= 0.5).mean())
    assert out["false_alarm_rate"] == anomaly.false_alarm_rate(scores, labels, 0.5)
    assert out["base_rate"] == pytest.approx(y.mean()) and out["frames"] == len(y)
    assert out["base_rate"] == anomaly.base_rate(labels)


def test_equal_scores_are_chance_and_do_not_depend_on_order():
    labels = [[0, 1, 1, 0], [0, 0]]
    assert anomaly.frame_auc([[.5] * 4, [.5] * 2], labels) == 0.5
    assert anomaly.average_precision([[.5] * 4, [.5] * 2], labels) == pytest.approx(2 / 6)


def test_calibration_error_by_hand():
    # 0.9: half right, gap 0.4; 0.2 is 0.8 for normal, all right, gap 0.2
    assert anomaly.frame_calibration_error([[.9, .9], [.2, .2]], [[1, 0], [0, 0]]) == pytest.approx(0.3)
    assert np.isnan(anomaly.evaluate([[3., 1.]], [[1, 0]])["ece"])
    with pytest.raises(ValueError, match="probabilities in 0..1"):
        anomaly.frame_calibration_error([[3., 1.]], [[1, 0]])


def test_without_normal_videos_false_alarms_are_unknown_not_zero():
    out = anomaly.evaluate([[.1, .9], [.2, .8]], [[0, 1], [0, 1]], threshold=0.5)
    assert np.isnan(out["false_alarm_rate"]) and np.isnan(out["false_alarm_videos"])
    with pytest.raises(ValueError, match="all 2 videos are abnormal"):
        anomaly.false_alarm_rate([[.1, .9], [.2, .8]], [[0, 1], [0, 1]], 0.5)


def test_macro_auc_says_how_many_videos_count():
    assert anomaly.macro_auc([[.1, .9], [.3, .3]], [[0, 1], [0, 0]]) == (1.0, 1)
    value, count = anomaly.macro_auc([[.1, .9]], [[1, 1]])
    assert np.isnan(value) and count == 0


@pytest.mark.parametrize("scores, labels, abnormal, words", [
    ([[.1, np.nan]], [[0, 1]], None, "video 0 has 1 scores that are NaN"),
    ([[.1, .2]], [[0, 1, 1]], None, r"scores of shape \(2,\) and labels of shape \(3,\)"),
    ([[.1, .2]], [[0, 1], [0, 1]], None, "1 videos have scores and 2 have labels"),
    ([], [], None, "at least one"),
    ([[.1, .2]], [[0, 2]], None, "expected 0 and 1 only"),
    ([[.1, .2]], [[0, 0]], None, "0 anomalous frames of 2: only one class"),
    ([[.1, .2]], [[1, 1]], None, "2 anomalous frames of 2: only one class"),
    ([[.1, .2]], [[0, 1]], [0], "flagged normal but has anomalous frames"),
    ([[.1, .2]], [[0, 1]], [1, 0], "expected one flag a video"),
])
def test_bad_input_is_refused_with_words(scores, labels, abnormal, words):
    with pytest.raises(ValueError, match=words):
        anomaly.evaluate(scores, labels, abnormal)


def test_ano_auc_needs_an_abnormal_video_of_both_kinds():
    with pytest.raises(ValueError, match="none of the 2 videos is abnormal"):
        anomaly.ano_auc([[.1], [.2]], [[0], [0]])
    with pytest.raises(ValueError, match="the abnormal videos have 2 anomalous frames of 2"):
        anomaly.ano_auc([[.1, .3], [.2]], [[1, 1], [0]])


# thresholds

def test_threshold_of_largest_f1_against_every_threshold():
    scores, labels, _ = sample(3, digits=2)
    s, y = np.concatenate(scores), np.concatenate(labels)
    best = max(reference.f1_score(y, s >= t) for t in np.unique(s))
    chosen = anomaly.choose_threshold(scores, labels)
    assert reference.f1_score(y, s >= chosen) == pytest.approx(best, abs=1e-12)
    assert anomaly.choose_threshold([[.5, .5]], [[0, 1]]) == 0.5  # nothing lower to lie midway to


@pytest.mark.parametrize("far", [0, 0.01, 0.05, 0.3])
def test_threshold_of_a_false_alarm_rate_is_the_lowest_that_keeps_to_it(far):
    scores, labels, _ = sample(4, digits=2)
    chosen = anomaly.choose_threshold(scores, labels, far=far)
    assert anomaly.false_alarm_rate(scores, labels, chosen) <= far
    every = np.unique(np.concatenate(scores))
    lower = every[every < chosen].max()
    assert anomaly.false_alarm_rate(scores, labels, lower) > far


def test_threshold_above_every_score_holds_in_single_precision():
    scores = [np.array([.1, .7], np.float32), np.array([.7], np.float32)]
    chosen = anomaly.choose_threshold(scores, [[0, 1], [0]], far=0)
    assert not (scores[1] >= chosen).any() and chosen < 0.701


def test_threshold_errors():
    with pytest.raises(ValueError, match="0 <= far < 1, got 1"):
        anomaly.choose_threshold([[.1, .2]], [[0, 0]], far=1)
    with pytest.raises(ValueError, match="false alarms are counted on normal videos"):
        anomaly.choose_threshold([[.1, .2]], [[0, 1]], far=0.1)
    with pytest.raises(ValueError, match="only one class"):
        anomaly.choose_threshold([[.1, .2]], [[0, 0]])


# events

def slow_events(score, threshold, shortest, gap):
    runs, start = [], None
    for i, s in enumerate([*score, -np.inf]):
        if s >= threshold and start is None:
            start = i
        elif s < threshold and start is not None:
            if runs and start - runs[-1][1] <= gap:
                runs[-1][1] = i
            else:
                runs.append([start, i])
            start = None
    return [r for r in runs if r[1] - r[0] >= shortest]


@pytest.mark.parametrize("shortest, gap", [(1, 0), (3, 0), (1, 2), (4, 3)])
def test_events_agree_with_a_loop(shortest, gap):
    rng = np.random.default_rng(1)
    for _ in range(50):
        score = rng.random(30)
        assert anomaly.events(score, 0.6, shortest, gap).tolist() == slow_events(score, 0.6, shortest, gap)
    assert anomaly.events(np.zeros(5), 0.5).shape == (0, 2)
    assert anomaly.events(np.ones(5), 0.5).tolist() == [[0, 5]]


def test_event_measures_by_hand():
    labels = [np.r_[np.zeros(10), np.ones(10), np.zeros(10)].astype(int), np.zeros(30, int)]
    scores = [np.zeros(30), np.zeros(30)]
    scores[0][12:22] = 1                   # 8 of 12: IoU 2/3
    scores[1][3:5] = 1                     # false event
    out = anomaly.event_measures(scores, labels, 0.5, overlaps=(0.5, 0.7))
    assert out[0.5] == {"recall": 1.0, "precision": 0.5, "f1": pytest.approx(2 / 3), "found": 2, "true": 1,
                        "matched": 1}
    assert out[0.7]["recall"] == out[0.7]["precision"] == out[0.7]["f1"] == 0
    whole = anomaly.evaluate(scores, labels, threshold=0.5)
    assert whole["false_alarm_videos"] == 1 and whole["events"][0.5]["recall"] == 1
    assert anomaly.evaluate(scores, labels, threshold=0.5, shortest=5)["false_alarm_videos"] == 0


def test_one_long_event_counts_for_one_true_event_only():
    labels, scores = [np.array([1, 1, 0, 1, 1])], [np.ones(5)]
    assert anomaly.event_measures(scores, labels, 0.5, overlaps=(0.3,))[0.3]["matched"] == 1
    assert events.matched(np.array([[.6, .9], [.9, 0]]), 0.5) == 2  # greedy by overlap would find one


def test_event_errors():
    with pytest.raises(ValueError, match="1 values that are not finite"):
        anomaly.events([0, np.nan], 0.5)
    with pytest.raises(ValueError, match="shortest must be at least 1 frame and gap at least 0, got 0 and 0"):
        anomaly.events([0, 1], 0.5, shortest=0)
    with pytest.raises(ValueError, match="empty or reversed"):
        events.temporal_iou([[3, 3]], [[0, 1]])
    with pytest.raises(ValueError, match="temporal IoU above 0"):
        anomaly.event_measures([[.1, .2]], [[0, 1]], 0.5, overlaps=(0,))


# intervals

def slow_statistic(name, scores, labels, abnormal, rows):
    if name == "ano_auc":
        rows = [i for i in rows if abnormal[i]]
    if name == "macro_auc":
        return np.mean([reference.roc_auc_score(labels[i], scores[i]) for i in rows if labels[i].any()])
    y, s = np.concatenate([labels[i] for i in rows]), np.concatenate([scores[i] for i in rows])
    return (reference.average_precision_score if name == "average_precision" else reference.roc_auc_score)(y, s)


@pytest.mark.parametrize("measure", anomaly.MEASURES)
def test_interval_resamples_whole_videos(measure):
    scores, labels, abnormal = sample()
    ours = anomaly.interval(scores, labels, abnormal, measure, n=60, seed=3)
    slow = intervals.bootstrap_interval(np.arange(12), lambda rows: slow_statistic(measure, scores, labels, abnormal,
                                                                                   rows), n=60, seed=3)
    assert np.allclose(ours, slow, atol=1e-12)
    assert ours == anomaly.interval(scores, labels, abnormal, measure, n=60, seed=3)


@pytest.mark.parametrize("measure", anomaly.MEASURES)
def test_difference_of_two_systems_over_the_same_videos(measure):
    good, labels, abnormal = sample(digits=3, shift=1.5)
    bad = sample(digits=3, shift=0.2)[0]
    d = anomaly.difference(good, bad, labels, abnormal, measure, n=200)
    rows = range(12)
    slow = [slow_statistic(measure, s, labels, abnormal, rows) for s in (good, bad)]
    assert d.estimate == pytest.approx(slow[0] - slow[1], abs=1e-12)
    assert d.low > 0 and d.p <= 2 / 2**6  # six abnormal videos: all swaps but two are less extreme
    scaled = anomaly.difference([100 * s - 7 for s in good], bad, labels, abnormal, measure, n=200)
    assert np.allclose(d, scaled)
    same = anomaly.difference(good, good, labels, abnormal, measure, n=50)
    assert tuple(same) == (0, 0, 0, 1)


def test_interval_is_nan_when_a_resample_lacks_a_class():
    out = anomaly.interval([[.1, .9], [.2, .3]], [[0, 1], [0, 0]], n=50)
    assert out.estimate == 1 and np.isnan(out.low) and np.isnan(out.high)


def test_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="measure 'auc' is unknown; expected one of roc_auc"):
        anomaly.interval([[.1, .9]], [[0, 1]], measure="auc")


# explanations

def linear(weights):
    return lambda masks: masks @ np.asarray(weights, float)


def test_curves_by_hand_and_masked_tokens_stay_out():
    share, values, area = faithfulness.curve(linear([1, 3, 9]), [.1, .9, 5], "insertion", [True, True, False])
    assert share.tolist() == [0, .5, 1] and values.tolist() == [0, 3, 4] and area == 2.5
    _, values, area = faithfulness.curve(linear([1, 3, 9]), [.1, .9, 5], "deletion", [True, True, False])
    assert values.tolist() == [4, 1, 0] and area == 1.5
    assert faithfulness.masks(range(100), 100, "deletion", steps=7)[1].sum(1).tolist() == [100, 86, 71, 57, 43, 29,
                                                                                           14, 0]


def test_faithful_order_beats_random_and_a_reversed_one_does_not():
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=40)
    right = faithfulness.faithfulness(linear(weights), weights)
    assert right["deletion_gain"] > 0 < right["insertion_gain"] and right["insertion_p"] == pytest.approx(1 / 21)
    assert right["deletion"] < right["deletion_random"] and right["insertion_random_curve"].shape == (21,)
    wrong = faithfulness.faithfulness(linear(weights), -weights)
    assert wrong["deletion_gain"] < 0 > wrong["insertion_gain"] and wrong["deletion_p"] == 1
    again = faithfulness.faithfulness(linear(weights), weights)
    assert right["deletion_random"] == again["deletion_random"]
    other = faithfulness.faithfulness(linear(weights), weights, seed=1)
    assert right["deletion_random"] != other["deletion_random"]


def test_pointing_by_hand():
    weights = [[.5, .3, .2], [.1, .1, .8], [.4, .4, .2], [1, 0, 0]]
    inside = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    out = faithfulness.pointing(weights, inside)
    assert out == {"accuracy": pytest.approx((1 + 0 + 0.5) / 3), "chance": pytest.approx(1 / 3), "queries": 3}
    masked = faithfulness.pointing(weights, inside, np.array([[1, 1, 0]] * 4))
    assert masked["accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3) and masked["chance"] == 0.5


def test_entropy_and_head_similarity_by_hand():
    even = np.full((2, 3, 4), 0.25)
    assert np.allclose(faithfulness.attention_entropy(even), 1)
    half = np.array([[.5, .5, 0, 0], [1, 0, 0, 0]])
    assert faithfulness.attention_entropy(half).tolist() == [0.5, 0]
    assert faithfulness.attention_entropy(half, [True, True, False, False]).tolist() == [1, 0]
    assert np.isnan(faithfulness.attention_entropy([[1., 0.]], [True, False]))
    assert faithfulness.head_similarity(even) == pytest.approx(1)
    three = np.eye(3)[:, None]
    assert faithfulness.head_similarity(three) == 0


@pytest.mark.parametrize("call, words", [
    (lambda: faithfulness.curve(linear([1]), [np.nan], "deletion"), "1 that are not finite"),
    (lambda: faithfulness.curve(linear([1]), [1.], "removal"), "'deletion' or 'insertion', got 'removal'"),
    (lambda: faithfulness.curve(linear([1]), [1.], "deletion", [False]), "expected .* at least one"),
    (lambda: faithfulness.curve(linear([1]), [1.], "deletion", steps=0), "steps must be at least 1"),
    (lambda: faithfulness.curve(lambda m: 1.0, [1.], "deletion"), r"score gave shape \(\) for masks \(2, 1\)"),
    (lambda: faithfulness.faithfulness(linear([1]), [1.], orders=0), "at least 1 random order"),
    (lambda: faithfulness.pointing([[1.]], [[True, False]]), "must share a shape"),
    (lambda: faithfulness.pointing([[1.]], [[False]]), "pointing has no query"),
    (lambda: faithfulness.attention_entropy([.5, .1]), "sum to 1"),
    (lambda: faithfulness.attention_entropy([.5, .5], [True, False]), "missing tokens have weight up to 0.5"),
    (lambda: faithfulness.head_similarity(np.ones((1, 2, 2))), "at least two heads"),
    (lambda: faithfulness.head_similarity(np.zeros((2, 2, 2))), "head 0 has no weight"),
])
def test_explanation_measures_refuse_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
