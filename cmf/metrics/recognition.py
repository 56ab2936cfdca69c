"""Measures of recognition: classification, retrieval, feature statistics, robustness to a missing modality.

Axes: n samples, K classes, D feature channels.
"""

import numpy as np
from scipy.stats import rankdata

BINS = 10  # equal bins on [0, 1] of the expected calibration error


def _labels(labels, k, name="labels"):
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} must be a non-empty vector of integers, got shape {labels.shape} "
                         f"of {labels.dtype}")
    if labels.min() < 0 or labels.max() >= k:
        raise ValueError(f"{name} must lie in 0..{k - 1} for {k} classes, got {labels.min()}..{labels.max()}"
                         "; leave out unlabelled samples first")
    return labels


def _probabilities(probabilities, n=None):
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or (n is not None and len(p) != n):
        raise ValueError(f"probabilities have shape {p.shape}, expected ({'n' if n is None else n}, K): "
                         "one row a sample, one column a class")
    if not np.isfinite(p).all() or (p < 0).any() or (abs(p.sum(1) - 1) > 1e-2).any():
        raise ValueError("probabilities must be finite, >= 0 and sum to 1 in each row (within 0.01); "
                         "apply softmax to logits first")
    return p


def _features(x, name, n=None):
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or (n is not None and len(x) != n):
        raise ValueError(f"{name} features have shape {x.shape}, expected ({'n' if n is None else n}, D)")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} features hold {np.count_nonzero(~np.isfinite(x))} values that "
                         "are not finite; expected none")
    return x


def _unit(x):
    """Rows scaled to length 1; a row of zeros stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def confusion(labels, predictions, k):
    """Counts (k, k) int64: row the true class, column the predicted one.

    Arguments: labels, predictions (n,) integers in 0..k-1. Raises ValueError on other values or lengths.

    >>> confusion([0, 1, 1], [0, 0, 1], 2).tolist()
    [[1, 0], [1, 1]]
    """
    labels, predictions = _labels(labels, k), _labels(predictions, k, "predictions")
    if len(labels) != len(predictions):
        raise ValueError(f"{len(labels)} labels but {len(predictions)} predictions: "
                         "expected one of each a sample")
    return np.bincount(labels * k + predictions, minlength=k * k).reshape(k, k)


def _ratio(a, b):
    return np.divide(a, b, out=np.zeros(np.shape(a)), where=np.asarray(b) > 0)


def macro_f1(labels, predictions, k):
    """Mean F1 over the classes that occur among labels or predictions, in [0, 1]."""
    c = confusion(labels, predictions, k)
    size = c.sum(0) + c.sum(1)
    return float(_ratio(2 * np.diag(c), size)[size > 0].mean())


def roc_auc(positive, score):
    """Area under the receiver operating curve by mid-ranks: Mann-Whitney U / (n1 n0).

    Arguments: positive (n,) bool, score (n,) real. nan when one of the two sides is empty.
    """
    positive = np.asarray(positive, bool)
    n1, n0 = positive.sum(), (~positive).sum()
    if n1 == 0 or n0 == 0:
        return float("nan")
    return float((rankdata(score)[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def calibration_error(labels, probabilities, bins=BINS):
    """Expected calibration error in [0, 1]: sum over bins of share * |accuracy - mean top probability|.

    Equal bins (lo, hi] on the top probability (Guo et al. 2017, eq. 3). Arguments as in `classification`.
    """
    p = _probabilities(probabilities, len(labels))
    labels, top = _labels(labels, p.shape[1]), p.max(1)
    which = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, (p.argmax(1) == labels) - top, bins)  # (bins,)
    return float(abs(gap).sum() / len(labels))


def classification(labels, probabilities, classes):
    """Every classification measure of one set of predictions; the predicted class is the most probable one.

    Arguments
        labels         (n,) integers in 0..K-1
        probabilities  (n, K), rows sum to 1
        classes        K names
    Returns a dict: accuracy, ece, roc_auc (one against rest, weighted by class size, over classes that occur
    and do not fill the set), {precision, recall, f1}_{weighted, macro, micro}, n, and per_class: name ->
    {precision, recall, f1, roc_auc, support}. A ratio 0/0 is 0; the macro mean runs over the classes that
    occur among labels or predictions. Raises ValueError on shapes, labels or rows that do not fit.

    >>> classification([0, 1], [[.9, .1], [.2, .8]], ("a", "b"))["f1_macro"]
    1.0
    """
    k = len(classes)
    p = _probabilities(probabilities, len(labels))
    if p.shape[1] != k:
        raise ValueError(f"probabilities have {p.shape[1]} columns but {k} classes are named: "
                         f"{tuple(classes)}")
    labels = _labels(labels, k)
    c = confusion(labels, p.argmax(1), k)  # (K, K)
    hit, predicted, support = np.diag(c), c.sum(0), c.sum(1)
    per = {"precision": _ratio(hit, predicted), "recall": _ratio(hit, support),
           "f1": _ratio(2 * hit, predicted + support)}
    seen = predicted + support > 0
    accuracy = float(hit.sum() / len(labels))
    auc = np.array([roc_auc(labels == j, p[:, j]) for j in range(k)])
    known = np.isfinite(auc)
    out = {"n": len(labels), "accuracy": accuracy, "ece": calibration_error(labels, p),
           "roc_auc": float(np.average(auc[known], weights=support[known])) if known.any() else float("nan")}
    for name, values in per.items():
        out |= {f"{name}_weighted": float(np.average(values, weights=support)),
                f"{name}_macro": float(values[seen].mean()), f"{name}_micro": accuracy}
    out["per_class"] = {str(name): {m: float(v[j]) for m, v in per.items()}
                        | {"roc_auc": float(auc[j]), "support": int(support[j])}
                        for j, name in enumerate(classes)}
    return out


def recall_at(image, sequence, labels, k=(1, 5, 10), own_pair=False):
    """Category recall at K from image to sequence: share of images with their class among the K nearest.

    Nearness is the cosine; a tie counts against the query, so that collapsed features score low and not by
    their order. The query's own sequence is left out of the gallery: with it the answer may be trivial
    (`own_pair=True` counts it, as some publications do). An image whose class has no other member is no
    query.

    Arguments: image, sequence (n, D) in one space; labels (n,) integers; k the depths.
    Returns {"r@1": ..., ..., "queries": count}. Raises ValueError on shapes, on K < 1 or without a query.
    """
    a, labels = _unit(_features(image, "image")), np.asarray(labels)
    b = _unit(_features(sequence, "sequence", len(a)))
    if a.shape != b.shape or labels.shape != (len(a),):
        raise ValueError(f"image {a.shape}, sequence {b.shape} and labels {labels.shape} do not belong "
                         "together; expected (n, D), (n, D), (n,)")
    if min(k) < 1:
        raise ValueError(f"k must be depths of at least 1, got {tuple(k)}")
    rank = []  # candidates of another class that come before the first of the own class
    for start in range(0, len(a), 1024):
        rows = slice(start, min(start + 1024, len(a)))
        s = a[rows] @ b.T  # (chunk, n)
        same = labels[rows, None] == labels[None]
        if not own_pair:
            own = np.arange(rows.start, rows.stop)
            s[own - rows.start, own] = -np.inf
            same[own - rows.start, own] = False
        best = np.where(same, s, -np.inf).max(1, keepdims=True)
        rank.append(np.where(same.any(1), ((s >= best - 1e-12) & ~same).sum(1), -1))
    rank = np.concatenate(rank)
    rank = rank[rank >= 0]
    if len(rank) == 0:
        raise ValueError("no class has two samples: category recall has no query")
    return {f"r@{depth}": float((rank < depth).mean()) for depth in k} | {"queries": len(rank)}


def feature_entropy(features):
    """Mean entropy in nats of softmax over the channels of each row (n, D), in [0, log D]."""
    x = _features(features, "the")
    x = x - x.max(1, keepdims=True)
    log_sum = np.log(np.exp(x).sum(1, keepdims=True))
    log_p = x - log_sum  # (n, D)
    return float(-(np.exp(log_p) * log_p).sum(1).mean())


def redundancy(a, b=None):
    """Mean over rows of the standard deviation of the cosine similarity matrix of a (n, D) with b (m, D).

    b defaults to a. 0 when every pair is equally alike (collapse); at most 1.
    """
    a = _unit(_features(a, "first"))
    b = a if b is None else _unit(_features(b, "second"))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features have {a.shape[1]} and {b.shape[1]} channels; expected equal widths")
    return float((a @ b.T).std(1).mean())


def complementarity_gain(a, b, f):
    """Modality complementarity gain: mean max(0, cos(f, m) - max(0, cos(a, b))), m = normalised (a + b) / 2.

    Arguments: a, b, f (n, D): image, sequence and fused features of the same samples, normalised here.
    Returns {"gain": in [0, 1], "anchor": mean cos(f, m), "overlap": mean max(0, cos(a, b))}.
    """
    a = _unit(_features(a, "image"))
    b, f = _unit(_features(b, "sequence", len(a))), _unit(_features(f, "fused", len(a)))
    if not a.shape == b.shape == f.shape:
        raise ValueError(f"image {a.shape}, sequence {b.shape} and fused {f.shape} features must have "
                         "one shape")
    anchor = (f * _unit((a + b) / 2)).sum(1)  # (n,)
    overlap = np.maximum(0, (a * b).sum(1))
    return {"gain": float(np.maximum(0, anchor - overlap).mean()), "anchor": float(anchor.mean()),
            "overlap": float(overlap.mean())}


def robustness_missing(labels, full, missing):
    """R@MM for each removed modality: 0.4 accuracy kept + 0.3 top probability kept + 0.3 feature agreement.

    Arguments
        labels   (n,) integers
        full     (probabilities (n, K), fused features (n, D)) with both modalities
        missing  name of the removed modality -> the same pair without it
    Returns name -> {"r@mm": clipped to [0, 1], "accuracy_kept", "confidence_kept" (ratios without / with, not
    clipped), "agreement" (mean max(0, cos(full, missing feature))), "accuracy"}.
    Raises ValueError when nothing is right with both modalities (no ratio exists) or shapes do not fit.
    """
    p, f = _probabilities(full[0], len(labels)), _features(full[1], "full", len(labels))
    labels = _labels(labels, p.shape[1])
    accuracy = (p.argmax(1) == labels).mean()
    if accuracy == 0:
        raise ValueError("accuracy with both modalities is 0: the share that is kept has no meaning")
    out = {}
    for name, (q, g) in missing.items():
        q, g = _probabilities(q, len(labels)), _features(g, name, len(labels))
        if q.shape != p.shape or g.shape != f.shape:
            raise ValueError(f"without {name}: shapes {q.shape} and {g.shape}, expected those with both: "
                             f"{p.shape} and {f.shape}")
        left = (q.argmax(1) == labels).mean()
        parts = {"accuracy_kept": float(left / accuracy),
                 "confidence_kept": float(q.max(1).mean() / p.max(1).mean()),
                 "agreement": float(np.maximum(0, (_unit(f) * _unit(g)).sum(1)).mean())}
        score = float(np.clip(np.dot([.4, .3, .3], list(parts.values())), 0, 1))
        out[name] = {"r@mm": score, **parts, "accuracy": float(left)}
    return out
