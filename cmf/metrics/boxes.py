"""Matching of predicted boxes to true ones, and average precision.

Axes: n predicted, m true. A box is (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, so its area is
(x1 - x0)(y1 - y0).
"""

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's overlaps
RECALLS = np.linspace(0, 1, 101)  # COCO's recall points


def _boxes(boxes, name):
    b = np.asarray(boxes, np.float64)
    b = b.reshape(0, 4) if b.size == 0 else b
    if b.ndim != 2 or b.shape[1] != 4 or not np.isfinite(b).all():
        raise ValueError(f"{name} boxes must be finite and of shape (n, 4) as x0, y0, x1, y1, got {b.shape}")
    if (b[:, 2:] <= b[:, :2]).any():
        row = int(np.flatnonzero((b[:, 2:] <= b[:, :2]).any(1))[0])
        raise ValueError(f"{name} box {row} is empty: {b[row].tolist()}; expected x0 < x1 and y0 < y1")
    return b


def overlap(a, b):
    """Intersection over union (n, m) in [0, 1] of boxes a (n, 4) with boxes b (m, 4)."""
    a, b = _boxes(a, "first"), _boxes(b, "second")
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.maximum(0, high - low), axis=2)  # (n, m)
    area = lambda x: np.prod(x[:, 2:] - x[:, :2], axis=1)
    return inside / (area(a)[:, None] + area(b)[None] - inside)


def _greedy(table, order, threshold):
    """Best free truth for each prediction in order; -1 without one."""
    match, free = np.full(len(table), -1), np.ones(table.shape[1], bool)
    for i in order:
        if free.any():
            j = int(np.where(free, table[i], -1).argmax())
            if table[i, j] >= threshold:
                match[i], free[j] = j, False
    return match


def _scores(scores, n):
    s = np.asarray(scores, np.float64).reshape(-1)
    if len(s) != n or not np.isfinite(s).all():
        raise ValueError(f"{len(s)} scores for {n} predicted boxes: expected one finite score a box")
    return s


def box_matching(predicted, truth, scores=None, iou=0.5):
    """Greedy one-to-one matching in order of falling score at an intersection over union of at least `iou`.

    Arguments: predicted (n, 4), truth (m, 4), scores (n,) or None (the given order), iou in (0, 1].
    Returns {"precision", "recall", "f1", "tp", "fp", "fn", "match": (n,) index of the truth or -1}.
    With neither predicted nor true boxes the three ratios are 1; with only one of them 0.

    >>> box_matching([[0, 0, 10, 10]], [[0, 0, 10, 10], [20, 20, 30, 30]])["recall"]
    0.5
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou must lie in (0, 1], got {iou}")
    table = overlap(_boxes(predicted, "predicted"), _boxes(truth, "true"))
    n, m = table.shape
    order = range(n) if scores is None else np.argsort(-_scores(scores, n), kind="stable")
    match = _greedy(table, order, iou)
    tp = int((match >= 0).sum())
    empty = float(n == m == 0)
    return {"precision": tp / n if n else empty, "recall": tp / m if m else empty,
            "f1": 2 * tp / (n + m) if n + m else 1.0, "tp": tp, "fp": n - tp, "fn": m - tp, "match": match}


def _area(hit, score, total):
    """COCO's area: mean over 101 recall points of the best precision at that recall or beyond."""
    hit = hit[np.argsort(-score, kind="stable")]
    tp = np.cumsum(hit)
    precision = np.maximum.accumulate((tp / np.arange(1, len(hit) + 1))[::-1])[::-1]
    where = np.searchsorted(tp / total, RECALLS - 1e-12)
    return float(np.append(precision, 0.0)[where].mean())


def average_precision(predicted, scores, truth, predicted_labels=None, true_labels=None):
    """Average precision over images as COCO defines it (101 recall points, overlaps 0.50:0.05:0.95).

    Arguments: lists over images of boxes (n_i, 4), scores (n_i,), true boxes (m_i, 4) and, optionally, labels
    (n_i,) and (m_i,); with labels the mean over the classes that have a true box is taken. No cap on the
    number of boxes, no area ranges, no crowds.
    Returns {"ap": mean over overlaps, "ap50", "ap75"}, nan where no true box exists.
    """
    if not len(predicted) == len(scores) == len(truth):
        raise ValueError(f"lists over images differ in length: {len(predicted)} predicted, {len(scores)} "
                         f"scores, {len(truth)} truth")
    if (predicted_labels is None) != (true_labels is None):
        raise ValueError("labels were given for one of predicted and truth only; give both or neither")
    truth, predicted = [_boxes(t, "true") for t in truth], [_boxes(p, "predicted") for p in predicted]
    scores = [_scores(s, len(p)) for s, p in zip(scores, predicted, strict=True)]
    pl, tl = predicted_labels, true_labels
    if tl is None:
        pl, tl = ([np.zeros(len(b), int) for b in boxes] for boxes in (predicted, truth))
    pl, tl = ([np.asarray(x).reshape(-1) for x in labels] for labels in (pl, tl))
    if [len(x) for x in tl + pl] != [len(x) for x in truth + predicted]:
        raise ValueError("labels and boxes differ in number in an image: expected one label a box")
    table = []  # (classes, overlaps)
    for c in sorted({v for x in tl for v in x.tolist()}):
        images = [(overlap(p[lp == c], t[lt == c]), s[lp == c])
                  for p, s, t, lp, lt in zip(predicted, scores, truth, pl, tl, strict=True)]
        total, score = sum(t.shape[1] for t, _ in images), np.concatenate([s for _, s in images])
        table.append([_area(np.concatenate([_greedy(t, np.argsort(-s, kind="stable"), threshold) >= 0
                                            for t, s in images]), score, total) for threshold in THRESHOLDS])
    row = np.mean(table, axis=0) if table else np.full(len(THRESHOLDS), np.nan)
    return {"ap": float(row.mean()), "ap50": float(row[0]), "ap75": float(row[5])}
