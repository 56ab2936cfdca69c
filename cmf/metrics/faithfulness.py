"""Does an explanation point at what the model uses? Deletion, insertion, pointing, and how sharp attention is.

Axes: L tokens, M masks, H heads, T segments, n rows. A mask over tokens is True where the token is kept.
"""

import numpy as np

STEPS = 20  # points of a curve at most, beside the first


def _valid(mask, length):
    mask = np.ones(length, bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != (length,) or not mask.any():
        raise ValueError(f"mask has shape {mask.shape} with {np.count_nonzero(mask)} valid tokens; expected "
                         f"({length},) with at least one")
    return mask


def _importance(importance):
    values = np.asarray(importance, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"importance must be a non-empty vector of finite numbers, one a token, got shape "
                         f"{values.shape} with {np.count_nonzero(~np.isfinite(values))} that are not finite")
    return values


def masks(order, length, mode, steps=STEPS):
    """The masks of one curve.

    Arguments
        order   token indices, first the one to delete or insert first (only valid tokens)
        length  number L of tokens; mode "deletion" or "insertion"
        steps   number of equal steps at most
    Returns (share of tokens changed (M,), masks (M, L) bool), M = min(steps, len(order)) + 1, from 0 to 1.

    >>> masks([1, 0], 3, "insertion")[1].astype(int).tolist()
    [[0, 0, 0], [0, 1, 0], [1, 1, 0]]
    """
    if mode not in ("deletion", "insertion"):
        raise ValueError(f"mode is 'deletion' or 'insertion', got {mode!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    order = np.asarray(order, int)
    stops = np.round(np.linspace(0, len(order), min(steps, len(order)) + 1)).astype(int)
    rank = np.full(length, -1)
    rank[order] = np.arange(len(order))
    changed = rank[None] < stops[:, None]                                                # (M, L)
    keep = changed if mode == "insertion" else ~changed
    return stops / len(order), keep & (rank >= 0)


def curve(score, importance, mode, mask=None, steps=STEPS):
    """Score against the share of tokens deleted, or inserted, most important first (Petsiuk et al. 2018, section 3.2).

    Arguments
        score       function: masks (M, L) bool -> scores (M,); a mask may be empty
        importance  (L,) finite; equal values in the order of the tokens
        mode        "deletion" (from all tokens to none) or "insertion" (from none to all)
        mask        (L,) bool, the tokens that exist; default all
    Returns (shares (M,) from 0 to 1, scores (M,), area in the unit of the score). A faithful explanation has a small
    area under deletion and a large one under insertion. Raises ValueError on arguments that do not fit, and when
    `score` returns other than M finite numbers.

    >>> curve(lambda m: m[:, 0] * 1.0, [.9, .1], "deletion")[2]
    0.25
    """
    importance = _importance(importance)
    valid = np.flatnonzero(_valid(mask, len(importance)))
    return _curve(score, valid[np.argsort(-importance[valid], kind="stable")], len(importance), mode, steps)


def _curve(score, order, length, mode, steps):
    share, keep = masks(order, length, mode, steps)
    values = np.asarray(score(keep), np.float64)
    if values.shape != share.shape or not np.isfinite(values).all():
        raise ValueError(f"score gave shape {values.shape} for masks {keep.shape}; expected {share.shape} finite "
                         "numbers, one a mask")
    return share, values, float(np.trapezoid(values, share))


def faithfulness(score, importance, mask=None, orders=20, steps=STEPS, seed=0):
    """Deletion and insertion by importance beside random orders of the same tokens.

    Arguments as in `curve`; orders: number of random orders, drawn from seed.
    Returns a dict: share (M,); for deletion and insertion: {mode} area, {mode}_curve (M,), {mode}_random mean area
    over the orders, {mode}_random_curve (M,) their mean, {mode}_gain (positive is faithful: random - own for
    deletion, own - random for insertion) and {mode}_p = (1 + orders at least as good) / (1 + orders).
    Over many videos the gains are one number a video: give them to intervals.bootstrap_interval.
    """
    if orders < 1:
        raise ValueError(f"orders must be at least 1 random order, got {orders}")
    importance = _importance(importance)
    valid = np.flatnonzero(_valid(mask, len(importance)))
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(valid) for _ in range(orders)]
    out = {}
    for mode, sign in (("deletion", -1), ("insertion", 1)):
        share, own, area = curve(score, importance, mode, mask, steps)
        runs = [_curve(score, order, len(importance), mode, steps) for order in shuffled]
        areas = np.array([r[2] for r in runs])
        out |= {"share": share, mode: area, f"{mode}_curve": own, f"{mode}_random": float(areas.mean()),
                f"{mode}_random_curve": np.mean([r[1] for r in runs], 0),
                f"{mode}_gain": float(sign * (area - areas.mean())),
                f"{mode}_p": (1 + np.count_nonzero(sign * areas >= sign * area - 1e-12)) / (1 + orders)}
    return out


def pointing(weights, inside, mask=None):
    """Does the largest weight of a row fall where the truth is?

    Arguments
        weights  (n, L) finite: attention of n segments (or scores of n videos) over L words (or segments)
        inside   (n, L) bool: the truth, as tokens of captions from the true interval
        mask     (n, L) bool: what exists; default all
    Returns {"accuracy", "chance", "queries"}: share of rows whose largest weight lies inside (ties count by their
    share), the mean share of inside among what exists, and the number of rows with something inside; other rows ask
    nothing. Raises ValueError on shapes, on weights that are not finite, and without a query.

    >>> pointing([[.2, .8], [.7, .3]], [[False, True], [False, True]])
    {'accuracy': 0.5, 'chance': 0.5, 'queries': 2}
    """
    weights, inside = np.asarray(weights, np.float64), np.asarray(inside, bool)
    mask = np.ones(weights.shape, bool) if mask is None else np.asarray(mask, bool)
    if weights.ndim != 2 or not weights.shape == inside.shape == mask.shape or not np.isfinite(weights).all():
        raise ValueError(f"weights {weights.shape}, inside {inside.shape} and mask {mask.shape} must share a shape "
                         "(n, L), weights finite")
    inside = inside & mask
    asks = inside.any(1)
    if not asks.any():
        raise ValueError(f"none of {len(weights)} rows has a true token: pointing has no query")
    weights, inside, mask = np.where(mask, weights, -np.inf)[asks], inside[asks], mask[asks]
    top = weights >= weights.max(1, keepdims=True)                                       # ties
    return {"accuracy": float(((top & inside).sum(1) / top.sum(1)).mean()),
            "chance": float((inside.sum(1) / mask.sum(1)).mean()), "queries": int(asks.sum())}


def attention_entropy(attention, mask=None):
    """Entropy of attention rows over log L, in [0, 1]: 0 one token, 1 even attention.

    Arguments: attention (..., L) >= 0, each row sums to 1 (within 0.01); mask broadcastable to it, True where a token
    exists. Returns (...); nan for a row with fewer than two tokens, where nothing can be chosen. Raises ValueError
    when rows are no distributions or when a missing token has weight.

    >>> attention_entropy([[.5, .5], [1, 0]]).round(6).tolist()
    [1.0, 0.0]
    """
    a = np.asarray(attention, np.float64)
    mask = np.ones(a.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), a.shape)
    if a.ndim < 1 or not np.isfinite(a).all() or (a < 0).any() or (abs(a.sum(-1) - 1) > 0.01).any():
        raise ValueError("attention rows must be finite, >= 0 and sum to 1 (within 0.01) over the last axis; apply "
                         "softmax first, and leave out rows without a token")
    if (a[~mask] > 1e-6).any():
        raise ValueError(f"missing tokens have weight up to {a[~mask].max():.3g}; mask them before the softmax")
    entropy = (a * np.log(1 / np.where(a > 0, a, 1))).sum(-1)
    count = mask.sum(-1)
    return np.where(count > 1, entropy / np.log(np.maximum(count, 2)), np.nan)


def head_similarity(attention):
    """Mean cosine between the attention maps of different heads, in [0, 1]; 1: the heads do the same.

    Arguments: attention (H, T, L) >= 0, H >= 2. The mean over h != h' of cos(vec A_h, vec A_h'). Raises ValueError on
    another shape, fewer heads, or a head without any weight.

    >>> head_similarity([[[1., 0.]], [[0., 1.]]])
    0.0
    """
    a = np.asarray(attention, np.float64)
    if a.ndim != 3 or len(a) < 2:
        raise ValueError(f"attention has shape {a.shape}; expected (H, T, L) with at least two heads")
    a = a.reshape(len(a), -1)                                                            # (H, T L)
    length = np.linalg.norm(a, axis=1, keepdims=True)
    if not (length > 0).all():
        raise ValueError(f"head {int(np.argmin(length))} has no weight or NaN; expected attention >= 0")
    similar = (a / length) @ (a / length).T
    h = len(a)
    return float((similar.sum() - np.trace(similar)) / (h * (h - 1)))
