"""Measures of segmentation: counts per class, intersection over union, and intervals over pictures.

Axes: n pictures, H, W rows and columns, K classes; of K x K counts the rows are the truth, the columns the prediction.
"""

import numpy as np

from cmf.metrics.intervals import Difference, Interval, bootstrap_interval, paired_bootstrap

IGNORED = 255          # label of pixels that do not count


def confusion(truth, predicted, classes: int, ignore: int = IGNORED) -> np.ndarray:
    """Counts of pixels by true and predicted class, int64 (K, K); counts of several pictures may be added.

    Args:
        truth, predicted: integers of one shape, such as (H, W) or (n, H, W); classes are 0 to classes - 1.
        classes: K, the background included.
        ignore: label of pixels in `truth` that do not count, whatever is predicted there; outside 0 to K - 1.

    Raises:
        ValueError: shapes that differ, no pixel, numbers that are not whole, classes below 1, `ignore` among the
            classes, a counted label or prediction outside 0 to K - 1 (the values are named).

    >>> confusion([[0, 1], [1, 255]], [[0, 1], [0, 7]], 2).tolist()
    [[1, 0], [1, 1]]
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or not truth.size:
        raise ValueError(f"truth of shape {truth.shape} and prediction of shape {predicted.shape}, expected one shape "
                         "with at least one pixel; bring the prediction to the size of the labels")
    if classes < 1 or 0 <= ignore < classes:
        raise ValueError(f"{classes} classes and ignore={ignore}: expected at least 1 class, and a label to ignore "
                         f"outside 0 to {classes - 1}")
    for name, values in (("truth", truth), ("prediction", predicted)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} of {values.dtype}, expected whole numbers; take the argmax over classes first")
    counted = truth != ignore
    truth, predicted = truth[counted], predicted[counted]
    for name, values in (("truth", truth), ("prediction", predicted)):
        outside = np.unique(values[(values < 0) | (values >= classes)])
        if outside.size:
            named = ", ".join(map(str, outside[:10])) + (", ..." if outside.size > 10 else "")
            raise ValueError(f"{name} holds the values {named} outside the {classes} classes 0 to {classes - 1}; "
                             f"give the right number of classes, or label pixels to leave out {ignore}")
    index = truth.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)          # (K, K)


def scores(counts) -> dict:
    """Scores of counts (K, K), rows the truth.

    With the hits h_c = counts[c, c], t_c pixels of class c in the truth, p_c in the prediction, N in all:

    | key | what |
    |---|---|
    | iou | (K,) h_c / (t_c + p_c - h_c); nan for a class in neither truth nor prediction |
    | miou | mean of iou over the classes that are in truth or prediction, background included |
    | miou_foreground | the same without class 0 |
    | accuracy | sum of h_c / N, share of pixels that are right |
    | mean_accuracy | mean of h_c / t_c over the classes of the truth |
    | frequency_weighted | sum of t_c / N iou_c |

    All lie in [0, 1] and are larger for better; a mean over no class is nan. A class that is absent from the truth but
    predicted has an iou of 0 and counts. (Long, Shelhamer and Darrell 2015, CVPR, section 5, but for absent classes.)

    Raises ValueError for counts that are not (K, K) whole numbers from 0 on, or that count no pixel.

    >>> round(scores([[6, 2, 0], [1, 3, 0], [0, 0, 0]])["miou"], 4)
    0.5833
    """
    counts = _counts(counts)
    if counts.ndim != 2:
        raise ValueError(f"counts of shape {counts.shape}, expected (K, K); add the counts of several pictures")
    hits, truth, union = _parts(counts)
    total = counts.sum()
    if not total:
        raise ValueError("counts hold no pixel: all were ignored; give pictures with labels")
    iou = _ratio(hits, union)                             # (K,)
    return {"iou": iou, "miou": _mean(iou), "miou_foreground": _mean(iou[1:]), "accuracy": float(hits.sum() / total),
            "mean_accuracy": _mean(_ratio(hits, truth)),
            "frequency_weighted": float((truth[truth > 0] / total * iou[truth > 0]).sum())}


def miou_interval(counts, foreground: bool = False, n: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean intersection over union of counts added over pictures, with a percentile interval over pictures.

    Args:
        counts: (m, K, K) counts of each picture. foreground: leave class 0 out.
        n, level, seed: as in `cmf.metrics.intervals.bootstrap_interval`.

    Pictures are drawn with replacement, their counts added, the classes present in the draw averaged: in a draw without
    a rare class the mean is one over fewer classes.

    Raises ValueError for counts of another shape, or pictures that hold no pixel of the classes asked for.

    >>> one = confusion([0, 0, 1, 1], [0, 0, 1, 0], 2)
    >>> miou_interval([one, one, one]).low
    0.5833333333333333
    """
    stacked, statistic = _of_pictures(counts, foreground)
    return bootstrap_interval(stacked, statistic, n, level, seed)


def miou_difference(a, b, foreground: bool = False, n: int = 2000, level: float = 0.95, seed: int = 0) -> Difference:
    """Difference in mean intersection over union, a - b, of two methods on the same pictures, with interval and p.

    a, b: counts (m, K, K) of each picture, in one order. The rest as `miou_interval`; p from swapping the methods
    within pictures, see `cmf.metrics.intervals.paired_bootstrap`. Raises ValueError as these do.
    """
    (a, statistic), (b, _) = _of_pictures(a, foreground), _of_pictures(b, foreground)
    return paired_bootstrap(a, b, statistic, n=n, level=level, seed=seed)


def _of_pictures(counts, foreground):
    """Counts (m, K, K), checked, and the function of such that gives the mean IoU; nan of a draw without a class that
    counts becomes 0, as nothing was found."""
    counts = _counts(counts)
    if counts.ndim != 3:
        raise ValueError(f"counts of shape {counts.shape}, expected (pictures, K, K): one matrix for each picture")
    first = int(foreground)

    def statistic(drawn):
        hits, _, union = _parts(drawn.sum(0))
        return _mean(_ratio(hits, union)[first:])

    if np.isnan(statistic(counts)):
        raise ValueError("the pictures hold no pixel of the classes that count; give pictures with labels")
    return counts, lambda drawn: float(np.nan_to_num(statistic(drawn)))


def _counts(counts) -> np.ndarray:
    counts = np.asarray(counts)
    square = counts.ndim >= 2 and counts.shape[-1] == counts.shape[-2] and counts.size
    if not square or not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise ValueError(f"counts of shape {counts.shape} and {counts.dtype}, expected whole numbers from 0 on, (K, K) "
                         "or (pictures, K, K), as `confusion` returns")
    return counts


def _parts(counts):
    """Hits, truth and union of each class, (K,) each."""
    hits, truth, predicted = np.diagonal(counts), counts.sum(1), counts.sum(0)
    return hits, truth, truth + predicted - hits


def _ratio(part, whole) -> np.ndarray:
    """part / whole, nan where whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values) -> float:
    """Mean of the values that are not nan; nan of none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
