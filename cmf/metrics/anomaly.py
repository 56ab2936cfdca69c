"""Measures of anomaly detection over the frames of many videos.

Axes: V videos, F frames of one video (each has its own F), E events. A frame is an alarm where its score is at least
the threshold. Frames are pooled over all videos as the scores come (micro): no video is rescaled by its own minimum
and maximum, which would use the whole test video and lift poor scores by itself.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from cmf.metrics.events import events, matched, temporal_iou
from cmf.metrics.intervals import Difference, Interval, bootstrap_interval, paired_bootstrap
from cmf.metrics.recognition import calibration_error, roc_auc

OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5)  # temporal IoU of the event measures
MEASURES = ("roc_auc", "average_precision", "ano_auc", "macro_auc")


class Videos(NamedTuple):
    """Checked input: V vectors of scores (float64) and labels (bool), and which videos are abnormal (V,)."""

    scores: list
    labels: list
    abnormal: np.ndarray


def videos(scores, labels, abnormal=None):
    """Check scores and labels of a set of videos.

    Arguments
        scores    V vectors (F_i,) of finite numbers, higher is more anomalous
        labels    V vectors (F_i,) of 0 and 1, 1 where the frame is anomalous
        abnormal  V flags; default: videos with an anomalous frame. A flagged video may lack one.
    Raises ValueError when numbers of videos or frames differ, on empty videos, on NaN or infinity, on labels other
    than 0 and 1, on an anomalous frame in a video that is flagged normal.
    """
    scores = [np.asarray(s, np.float64) for s in scores]
    labels = [np.asarray(y) for y in labels]
    if not scores or len(scores) != len(labels):
        raise ValueError(f"{len(scores)} videos have scores and {len(labels)} have labels; expected the same number, "
                         "at least one")
    for i, (s, y) in enumerate(zip(scores, labels, strict=True)):
        if s.ndim != 1 or s.shape != y.shape or len(s) == 0:
            raise ValueError(f"video {i} has scores of shape {s.shape} and labels of shape {y.shape}; expected one "
                             "score and one label a frame: (F,) and (F,), F >= 1")
        if not np.isfinite(s).all():
            raise ValueError(f"video {i} has {np.count_nonzero(~np.isfinite(s))} scores that are NaN or infinite; "
                             "mend the detector or leave the video out and say so")
        if not np.isin(y, (0, 1)).all():
            raise ValueError(f"video {i} has labels {np.unique(y)[:5].tolist()}; expected 0 and 1 only, one a frame")
    labels = [y.astype(bool) for y in labels]
    has = np.array([y.any() for y in labels])
    abnormal = has if abnormal is None else np.asarray(abnormal).astype(bool)
    if abnormal.shape != has.shape:
        raise ValueError(f"abnormal has shape {abnormal.shape} for {len(has)} videos; expected one flag a video")
    if (has & ~abnormal).any():
        raise ValueError(f"video {np.flatnonzero(has & ~abnormal)[0]} is flagged normal but has anomalous frames; "
                         "mend the flag or the labels")
    return Videos(scores, labels, abnormal)


class _Pool:
    """Distinct (video, score) pairs of all videos in falling order of score, so that a resample costs one sum."""

    def __init__(self, data: Videos):
        self.count = len(data.scores)
        score, video, weight = [], [], []
        for i, (s, y) in enumerate(zip(data.scores, data.labels, strict=True)):
            value, where = np.unique(s, return_inverse=True)
            score.append(value)
            video.append(np.full(len(value), i))
            weight.append(np.stack([np.bincount(where, y, len(value)), np.bincount(where, ~y, len(value))]))
        score, video = np.concatenate(score), np.concatenate(video)
        order = np.argsort(-score, kind="stable")
        self.video, self.weight = video[order], np.concatenate(weight, 1)[:, order]     # (2, n): anomalous, normal
        score = score[order]
        self.starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])               # where a new score begins
        self.values = score[self.starts]
        self.own = np.array([roc_auc(y, s) for s, y in zip(data.scores, data.labels, strict=True)])
        self.abnormal = data.abnormal

    def counts(self, rows):
        """Anomalous and normal frames at each distinct score, highest first, when the videos are `rows`."""
        times = np.bincount(rows, minlength=self.count)[self.video]
        return np.add.reduceat(self.weight * times, self.starts, axis=1)                 # (2, distinct scores)

    def roc_auc(self, rows):
        """P(anomalous > normal) + P(equal) / 2, by counting; nan with one class only."""
        up, down = self.counts(rows)
        whole = up.sum() * down.sum()
        return float((down * (np.cumsum(up) - up / 2)).sum() / whole) if whole else float("nan")

    def average_precision(self, rows):
        """Sum over falling thresholds of (recall gained) x precision; nan without an anomalous frame."""
        up, down = self.counts(rows)
        if not up.any():
            return float("nan")
        hit, alarms = np.cumsum(up), np.cumsum(up + down)
        return float((up * np.divide(hit, alarms, out=np.zeros(len(up)), where=alarms > 0)).sum() / up.sum())

    def ano_auc(self, rows):
        return self.roc_auc(rows[self.abnormal[rows]])

    def macro_auc(self, rows):
        values = self.own[rows]
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")


def _measure(name):
    if name not in MEASURES:
        raise ValueError(f"measure {name!r} is unknown; expected one of {', '.join(MEASURES)}")
    return lambda pool: getattr(pool, name)


def _both(data, what="the videos"):
    anomalous = sum(int(y.sum()) for y in data.labels)
    frames = sum(map(len, data.labels))
    if anomalous in (0, frames):
        raise ValueError(f"{what} have {anomalous} anomalous frames of {frames}: only one class, so no curve exists; "
                         "expected frames of both kinds")
    return data


def _abnormal_only(data):
    if not data.abnormal.any():
        raise ValueError(f"none of the {len(data.abnormal)} videos is abnormal; expected at least one")
    keep = np.flatnonzero(data.abnormal)
    return _both(Videos([data.scores[i] for i in keep], [data.labels[i] for i in keep], data.abnormal[keep]),
                 "the abnormal videos")


def frame_auc(scores, labels):
    """Area under the ROC curve of all frames of all videos together (micro), ties counted half.

    Arguments as in `videos`. Raises ValueError as there, and with one class only.

    >>> frame_auc([[.1, .9], [.2, .2]], [[0, 1], [0, 0]])
    1.0
    """
    data = _both(videos(scores, labels))
    return _Pool(data).roc_auc(np.arange(len(data.scores)))


def average_precision(scores, labels):
    """Average precision of all frames together: sum_k (R_k - R_{k-1}) P_k, equal scores as one step.

    By chance it is the base rate, which has to be stated beside it. Raises ValueError as `frame_auc`.

    >>> average_precision([[.1, .9], [.2, .2]], [[0, 1], [0, 0]])
    1.0
    """
    data = _both(videos(scores, labels))
    return _Pool(data).average_precision(np.arange(len(data.scores)))


def ano_auc(scores, labels, abnormal=None):
    """Frame AUC over the frames of the abnormal videos only (Wu et al. 2024, VadCLIP, "Ano-AUC").

    Normal videos, which often differ by scene and source, cannot help it. Raises ValueError without abnormal video
    and when these hold one class only.

    >>> ano_auc([[.1, .9], [.2, .95]], [[0, 1], [0, 0]])
    1.0
    """
    data = _abnormal_only(videos(scores, labels, abnormal))
    return _Pool(data).roc_auc(np.arange(len(data.scores)))


def macro_auc(scores, labels):
    """Mean of the AUC of each video by itself, and how many videos have both kinds of frames and so count.

    Returns (mean, count); (nan, 0) when no video has both. It forgives scores on a different scale in each video.

    >>> macro_auc([[.1, .9], [.7, .8]], [[0, 1], [0, 0]])
    (1.0, 1)
    """
    data = videos(scores, labels)
    own = _Pool(data).own
    count = int(np.isfinite(own).sum())
    return (float(np.nanmean(own)) if count else float("nan")), count


def false_alarm_rate(scores, labels, threshold, abnormal=None):
    """Share of the frames of normal videos whose score is at least the threshold, in [0, 1].

    Raises ValueError without normal video.

    >>> false_alarm_rate([[.1, .9], [.2, .6]], [[0, 1], [0, 0]], 0.5)
    0.5
    """
    return float((_normal(videos(scores, labels, abnormal)) >= threshold).mean())


def _normal(data):
    if data.abnormal.all():
        raise ValueError(f"all {len(data.abnormal)} videos are abnormal: false alarms are counted on normal videos; "
                         "expected at least one")
    return np.concatenate([s for s, odd in zip(data.scores, data.abnormal, strict=True) if not odd])


def base_rate(labels):
    """Share of anomalous frames among all frames, in [0, 1]: what average precision is by chance.

    >>> base_rate([[0, 1], [0, 0]])
    0.25
    """
    labels = list(labels)
    data = videos(labels, labels)
    return float(np.concatenate(data.labels).mean())


def frame_calibration_error(scores, labels):
    """Expected calibration error of the frame scores read as probabilities, 10 bins; see recognition.calibration_error.

    Raises ValueError as `videos`, and when a score lies outside [0, 1].

    >>> round(frame_calibration_error([[.9, .9]], [[1, 0]]), 6)
    0.4
    """
    data = videos(scores, labels)
    s, y = np.concatenate(data.scores), np.concatenate(data.labels)
    if s.min() < 0 or s.max() > 1:
        raise ValueError(f"scores lie in {s.min():.4g}..{s.max():.4g}; calibration needs probabilities in 0..1")
    return calibration_error(y.astype(int), np.stack([1 - s, s], 1))


def choose_threshold(scores, labels, abnormal=None, far=None):
    """The threshold for later use, chosen on validation videos.

    Arguments: scores, labels, abnormal as in `videos`; far: None for the largest F1 over all frames, else the
    largest share in [0, 1) of the frames of normal videos that may be alarms.
    Returns a float that lies midway between two neighbouring scores where it can. With `far` it is the lowest that
    keeps to it. Raises ValueError with one class only (F1), without normal video (far), or on far outside [0, 1).

    >>> choose_threshold([[.1, .9], [.2, .3]], [[0, 1], [0, 0]])
    0.6
    >>> choose_threshold([[.1, .9], [.2, .3]], [[0, 1], [0, 0]], far=0.5)
    0.25
    """
    data = videos(scores, labels, abnormal)
    pool = _Pool(data if far is not None else _both(data))
    if far is None:
        up, down = pool.counts(np.arange(pool.count))
        hit, alarms = np.cumsum(up), np.cumsum(up + down)
        best = int((2 * hit / (alarms + up.sum())).argmax())                             # F1 at each distinct score
        lower = pool.values[best + 1:best + 2]
        return float((pool.values[best] + lower[0]) / 2 if len(lower) else pool.values[best])
    if not 0 <= far < 1:
        raise ValueError(f"far is the share of normal frames that may be alarms, 0 <= far < 1, got {far}")
    normal = np.sort(_normal(data))[::-1]
    first = normal[int(np.floor(far * len(normal) + 1e-9))]                              # highest that must be silent
    higher = pool.values[pool.values > first]
    return float((first + higher[-1]) / 2 if len(higher) else np.nextafter(np.float32(first), np.float32(np.inf)))


def event_measures(scores, labels, threshold, shortest=1, gap=0, overlaps=OVERLAPS):
    """Recall, precision and F1 of events at temporal overlaps.

    Events are found in the scores with `events`; true events are the runs of anomalous frames. Within each video as
    many pairs as possible are made, one event to one true event, whose temporal IoU is at least the overlap.
    Returns overlap -> {"recall", "precision", "f1", "found", "true", "matched"}; a ratio 0/0 is 0.
    Raises ValueError as `videos` and `events`.
    """
    data, overlaps = videos(scores, labels), tuple(overlaps)
    if not overlaps or min(overlaps) <= 0 or max(overlaps) > 1:
        raise ValueError(f"overlaps are temporal IoU above 0 and at most 1, got {overlaps}")
    tables = [temporal_iou(events(s, threshold, shortest, gap), events(y, 0.5))
              for s, y in zip(data.scores, data.labels, strict=True)]
    found, true = sum(len(t) for t in tables), sum(t.shape[1] for t in tables)
    out = {}
    for overlap in overlaps:
        pairs = sum(matched(table, overlap) for table in tables)
        out[overlap] = {"recall": pairs / true if true else 0.0, "precision": pairs / found if found else 0.0,
                        "f1": 2 * pairs / (found + true) if found + true else 0.0,
                        "found": found, "true": true, "matched": pairs}
    return out


def evaluate(scores, labels, abnormal=None, threshold=0.5, shortest=1, gap=0, overlaps=OVERLAPS):
    """Every measure of one system on one set of videos.

    Arguments: scores, labels, abnormal as in `videos`; threshold chosen elsewhere (`choose_threshold` on validation
    videos); shortest, gap, overlaps as in `event_measures`.
    Returns a dict: videos, abnormal_videos, frames, base_rate; roc_auc, average_precision, ano_auc, macro_auc with
    macro_videos; ece (nan when scores are no probabilities); at the threshold: precision, recall, f1 of frames,
    false_alarm_rate (frames of normal videos) and false_alarm_videos (share of normal videos with an event), both
    nan without normal videos; events as in `event_measures`. ano_auc is nan when abnormal videos hold one class.
    Raises ValueError as `videos`, and with one class only.
    """
    data = _both(videos(scores, labels, abnormal))
    rows, pool = np.arange(len(data.scores)), _Pool(data)
    s, y = np.concatenate(data.scores), np.concatenate(data.labels)
    alarm = s >= threshold
    hit = int((alarm & y).sum())
    macro, count = macro_auc(data.scores, data.labels)
    quiet = [(v >= threshold, len(events(v, threshold, shortest, gap)) > 0)
             for v, odd in zip(data.scores, data.abnormal, strict=True) if not odd]
    nan = float("nan")
    return {"videos": len(rows), "abnormal_videos": int(data.abnormal.sum()), "frames": len(s),
            "base_rate": float(y.mean()), "roc_auc": pool.roc_auc(rows),
            "average_precision": pool.average_precision(rows), "ano_auc": pool.ano_auc(rows),
            "macro_auc": macro, "macro_videos": count,
            "ece": frame_calibration_error(data.scores, data.labels) if 0 <= s.min() and s.max() <= 1 else nan,
            "threshold": float(threshold), "precision": hit / max(int(alarm.sum()), 1), "recall": hit / int(y.sum()),
            "f1": 2 * hit / int(alarm.sum() + y.sum()),
            "false_alarm_rate": float(np.concatenate([q for q, _ in quiet]).mean()) if quiet else nan,
            "false_alarm_videos": float(np.mean([e for _, e in quiet])) if quiet else nan,
            "events": event_measures(data.scores, data.labels, threshold, shortest, gap, overlaps)}


def interval(scores, labels, abnormal=None, measure="roc_auc", n=2000, level=0.95, seed=0) -> Interval:
    """A measure with its bootstrap interval over videos (frames of a video are no independent samples).

    Arguments: as in `videos`; measure one of MEASURES; n resamples, level and seed as in intervals.bootstrap_interval.
    low and high are nan when a resample holds no measure (few videos, so that one class is missing).
    Raises ValueError as `videos`, on an unknown measure, and with one class only.
    """
    pick = _measure(measure)
    data = _both(videos(scores, labels, abnormal))
    return bootstrap_interval(np.arange(len(data.scores)), pick(_Pool(data)), n=n, level=level, seed=seed)


def difference(a, b, labels, abnormal=None, measure="roc_auc", n=2000, level=0.95, seed=0) -> Difference:
    """Measure of a minus measure of b over the same videos: bootstrap interval over videos and a swap test.

    Arguments: a, b scores of two systems as in `videos`, frame by frame the same; the rest as in `interval`.
    The swap test exchanges whole videos between the systems. Their scores may have different scales, so each system's
    scores are first replaced by their ranks over all frames, which changes neither measure.
    Raises ValueError as `interval`, and when frames of a and b differ.
    """
    pick = _measure(measure)
    a, b = _both(videos(a, labels, abnormal)), videos(b, labels, abnormal)
    v = len(a.scores)
    both = Videos([*_ranks(a), *_ranks(b)], a.labels * 2, np.tile(a.abnormal, 2))
    return paired_bootstrap(np.arange(v), v + np.arange(v), pick(_Pool(both)), n=n, level=level, seed=seed)


def _ranks(data):
    """Mid-ranks over the frames of all videos, in (0, 1); ties stay ties."""
    whole = (rankdata(np.concatenate(data.scores)) - 0.5) / sum(map(len, data.scores))
    return np.split(whole, np.cumsum([len(s) for s in data.scores])[:-1])
