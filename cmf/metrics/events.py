"""Events: runs of frames above a threshold, and their matching to true intervals.

Axes: F frames of a video, E events; n and m intervals. An interval is (start, stop), stop exclusive.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment


def events(score, threshold, shortest=1, gap=0):
    """Runs of frames at or above a threshold.

    Arguments
        score      (F,) finite; threshold real
        shortest   frames: shorter runs are dropped, after merging; at least 1
        gap        frames: runs with at most so many frames between them become one; at least 0
    Returns (E, 2) int64: first frame and one past the last, in order of time. Raises ValueError on other arguments.

    >>> events([0, .9, .2, .8, 0, 0, .7], 0.5, shortest=2, gap=1).tolist()
    [[1, 4]]
    """
    score = np.asarray(score, np.float64)
    if score.ndim != 1 or not np.isfinite(score).all():
        raise ValueError(f"events need a vector of finite scores (F,), got shape {score.shape} with "
                         f"{np.count_nonzero(~np.isfinite(score))} values that are not finite")
    if shortest < 1 or gap < 0:
        raise ValueError(f"shortest must be at least 1 frame and gap at least 0, got {shortest} and {gap}")
    edges = np.flatnonzero(np.diff(np.r_[0, (score >= threshold).astype(np.int8), 0])).reshape(-1, 2)
    if len(edges) == 0:
        return np.zeros((0, 2), np.int64)
    apart = edges[1:, 0] - edges[:-1, 1] > gap                                           # (E - 1,)
    merged = np.stack([edges[np.r_[True, apart], 0], edges[np.r_[apart, True], 1]], 1)
    return merged[merged[:, 1] - merged[:, 0] >= shortest].astype(np.int64)


def temporal_iou(a, b):
    """Intersection over union (n, m) in [0, 1] of intervals a (n, 2) with b (m, 2): start, stop (exclusive).

    >>> temporal_iou([[0, 4]], [[2, 6]]).round(3).tolist()
    [[0.333]]
    """
    a, b = np.reshape(np.asarray(a, np.float64), (-1, 2)), np.reshape(np.asarray(b, np.float64), (-1, 2))
    if (a[:, 1] <= a[:, 0]).any() or (b[:, 1] <= b[:, 0]).any():
        raise ValueError("an interval is empty or reversed; expected start < stop in each row")
    inside = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    inside = np.maximum(0, inside)                                                       # (n, m)
    return inside / ((a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - inside)


def matched(table, overlap):
    """The largest number of one-to-one pairs in a table (n, m) of temporal IoU with at least this overlap.

    >>> matched(np.array([[.6, .9], [.0, .8]]), 0.5)
    2
    """
    fits = table >= overlap
    return int(fits[linear_sum_assignment(~fits)].sum())
