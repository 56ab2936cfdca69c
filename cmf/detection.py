"""Detection of moving point-like targets in two frames of a star field.

Axes: H, W rows and columns of a frame, n candidates, F frames. Positions are (x, y) in pixels with centres at
integers; a box is (x0, y0, x1, y1), x1 and y1 exclusive, and may reach over the edge of the frame.

Sources are found by a matched filter above a local background and noise, so that the threshold is a
signal-to-noise ratio and follows the frame. Stars are the sources that share one displacement between the
frames; a target is a source in both frames with another displacement.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from cmf.encoders.features import MAD, parabola

SHARP = 0.3  # share of the estimated flux in one pixel: a lone hot pixel shows 0.5, a star of psf 1 px 0.15


@dataclass(frozen=True)
class Candidates:
    """Sources of one frame, brightest signal-to-noise first."""

    positions: np.ndarray  # (n, 2) float64, x and y
    snr: np.ndarray  # (n,) of the matched filter
    flux: np.ndarray  # (n,) counts
    errors: np.ndarray  # (n,) px, standard error of a coordinate
    widths: np.ndarray  # (n,) px, standard deviation of the source's profile
    boxes: np.ndarray  # (n, 4) int64

    def __len__(self):
        return len(self.snr)


@dataclass(frozen=True)
class Matches:
    """Pairs of candidates (row in A, row in B) and the motion that the stars share."""

    stars: np.ndarray  # (m, 2) int64
    targets: np.ndarray  # (n, 2) int64
    drift: np.ndarray  # (2,) px from A to B; NaN where too few sources agree


@dataclass(frozen=True)
class Detections:
    """Targets of a scene, best first, and what was rejected."""

    positions_a: np.ndarray  # (n, 2)
    positions_b: np.ndarray  # (n, 2)
    boxes_a: np.ndarray  # (n, 4) int64
    boxes_b: np.ndarray  # (n, 4) int64
    snr: np.ndarray  # (n, 2) in A and B
    flux: np.ndarray  # (n, 2) counts
    displacement: np.ndarray  # (n, 2) px from A to B, the stars' motion not subtracted
    drift: np.ndarray  # (2,) px, motion of the stars
    psf: float  # px, the width that was used
    stars: np.ndarray  # (m, 2) positions in A

    def __len__(self):
        return len(self.snr)

    @property
    def scores(self):
        """Signal-to-noise in the weaker frame (n,)."""
        return self.snr.min(1)

    def rows(self):
        """One dict of plain numbers a target, for JSON or CSV."""
        names = [f"{p}_{f}" for f in "ab" for p in ("x0", "y0", "x1", "y1")]
        return [{"x_a": float(a[0]), "y_a": float(a[1]), "x_b": float(b[0]), "y_b": float(b[1]),
                 "dx": float(d[0]), "dy": float(d[1]), "snr_a": float(s[0]), "snr_b": float(s[1]),
                 **dict(zip(names, map(int, [*p, *q]), strict=True))}
                for a, b, d, s, p, q in zip(self.positions_a, self.positions_b, self.displacement, self.snr,
                                            self.boxes_a, self.boxes_b, strict=True)]


def _frame(frame):
    x = np.asarray(frame)
    if x.ndim != 2 or min(x.shape) < 16:
        raise ValueError(f"frame has shape {x.shape}, expected (H, W) of at least 16x16 pixels")
    bad = np.count_nonzero(~np.isfinite(x))
    if bad:
        raise ValueError(f"frame holds {bad} pixels that are NaN or infinite; fill them with the background "
                         "first")
    if x.min() == x.max():
        raise ValueError(f"frame is constant ({x.flat[0]:g}): nothing can be detected; check that it was "
                         "read right")
    return x.astype(np.float32)


def _edges(length, tile):
    """Limits of tiles of about `tile` pixels that cover the length evenly."""
    return np.linspace(0, length, max(1, round(length / tile)) + 1).round().astype(int)


def _medians(x, tile):
    """Medians of tiles (rows, columns), smoothed by a 3x3 median."""
    rows, columns = (_edges(s, tile) for s in x.shape)
    grid = [[np.median(x[t:b, l:r]) for l, r in zip(columns, columns[1:], strict=False)]
            for t, b in zip(rows, rows[1:], strict=False)]
    return ndimage.median_filter(np.array(grid, np.float32), 3, mode="nearest")


def _spread(values, shape, tile):
    """Bilinear interpolation between tile centres to (H, W); the slope goes on to the edge."""
    for axis in (0, 1):
        edges = _edges(shape[axis], tile)
        centre = (edges[1:] + edges[:-1] - 1) / 2
        if len(centre) == 1:
            values = np.repeat(values, shape[axis], 0).T
            continue
        at = np.arange(shape[axis])
        low = np.clip(np.searchsorted(centre, at, "right") - 1, 0, len(centre) - 2)
        weight = ((at - centre[low]) / (centre[low + 1] - centre[low])).astype(np.float32)[:, None]
        values = (values[low] * (1 - weight) + values[low + 1] * weight).T
    return values


def background(frame, tile=64):
    """Local background and noise (H, W) of a frame: medians of tiles of the frame, and 1.4826 times those of
    the absolute deviation from that background, interpolated between the tiles.

    Noise is at least 0.3 of its median over the tiles. Where most tiles are constant it is the step between
    grey values over sqrt(12), the noise of rounding. Raises ValueError as `candidates` does.
    """
    x = _frame(frame)
    return _background(x, tile, x)


def _background(x, tile, raw, gain=1.0):
    """As `background`, for x a filtered version of raw that lowers white noise by the factor gain."""
    level = _spread(_medians(x, tile), x.shape, tile)
    noise = MAD * _medians(abs(x - level), tile)
    floor = 0.3 * np.median(noise)
    if floor == 0:
        floor = gain * np.diff(np.unique(raw)).min() / np.sqrt(12)
    return level, np.maximum(_spread(noise, x.shape, tile), floor)


def boxes_around(positions, box=11):
    """Boxes (n, 4) int64 of `box` x `box` pixels around positions (n, 2), ends exclusive."""
    corner = np.rint(np.asarray(positions).reshape(-1, 2)).astype(np.int64) - box // 2
    return np.concatenate([corner, corner + box], axis=1)


def candidates(frame, k=5.0, box=11, psf=1.3, tile=64, apart=3.0, limit=2000):
    """Point-like sources of a frame above k sigma of a matched filter.

    The frame is convolved with the point-spread function, whose signal-to-noise for a point source in white
    noise no other linear filter exceeds; background and noise of the result are local (`background`). In each
    connected component above k the local maxima are the sources; the vertex of a parabola through the
    logarithm gives the sub-pixel position, with standard error sqrt(2) psf / snr, and its curvature the
    width. A source within `apart` px of a better one is a duplicate, one whose light sits in a single pixel
    is a detector defect, and one within 2 psf of the edge has no position: they are left out.

    Arguments
        frame  (H, W) counts, any level and gain
        k      threshold in noise units of the filtered frame, > 0
        box    side of the boxes in px
        psf    standard deviation of the point-spread function in px
        tile   side in px of the tiles of the background
        limit  at most so many sources, the best ones
    Returns `Candidates`. Raises ValueError on a shape that is no frame, NaN, a constant frame, or k <= 0.

    >>> frame = np.random.default_rng(0).normal(100, 5, (64, 64)); frame[30:33, 40:43] += 60
    >>> candidates(frame).positions.round().tolist()
    [[41.0, 31.0]]
    """
    if not k > 0:
        raise ValueError(f"k is {k}, expected a positive threshold in noise units")
    x = _frame(frame)
    smooth = ndimage.gaussian_filter(x, psf, mode="nearest")
    if smooth.min() == smooth.max():
        raise ValueError("frame is constant after filtering: nothing can be detected")
    level, noise = _background(smooth, tile, x, 1 / (2 * np.sqrt(np.pi) * psf))
    snr = (smooth - level) / noise  # (H, W)
    component, _ = ndimage.label(snr > k, structure=np.ones((3, 3)))
    top = ndimage.maximum_filter(snr, 2 * max(1, round(1.5 * psf)) + 1, mode="nearest")
    y, x_ = np.nonzero((component > 0) & (snr == top))
    order = np.argsort(-snr[y, x_], kind="stable")
    y, x_ = y[order], x_[order]
    flux = 4 * np.pi * psf**2 * (smooth - level)[y, x_]
    edge = max(1, round(2 * psf))
    keep = (x - level)[y, x_] < SHARP * max(1.0, psf**-2) * flux
    keep &= (np.minimum(x_, y) >= edge) & (x_ < x.shape[1] - edge) & (y < x.shape[0] - edge)
    y, x_, flux = y[keep], x_[keep], flux[keep]
    at = lambda dy, dx: snr[y + dy, x_ + dx].astype(np.float64)
    across, down = parabola(at(0, -1), at(0, 0), at(0, 1)), parabola(at(-1, 0), at(0, 0), at(1, 0))
    positions = np.stack([x_ + across[0], y + down[0]], -1)  # (n, 2)
    widths = np.sqrt(np.maximum((across[1] + down[1]) / 2 - psf**2, 0))
    keep = _distinct(positions, apart)[:limit]
    best = snr[y, x_][keep].astype(np.float64)
    return Candidates(positions[keep], best, flux[keep].astype(np.float64), np.sqrt(2) * psf / best,
                      widths[keep], boxes_around(positions[keep], box))


def _distinct(positions, apart):
    """Rows that lie farther than `apart` from every kept earlier row."""
    keep = np.ones(len(positions), bool)
    if len(positions) > 1:
        for i, j in sorted(map(tuple, KDTree(positions).query_pairs(apart, output_type="ndarray").tolist())):
            keep[j] &= not keep[i]
    return np.flatnonzero(keep)


def star_drift(a, b, max_shift=20.0, least=3):
    """Displacement (2,) in px that most pairs of positions a (n, 2), b (m, 2) share; NaN below `least` pairs.

    Every pair within max_shift votes in a histogram of 1 px; the best 3x3 px are refined by the median.
    """
    unknown = np.full(2, np.nan)
    if len(a) == 0 or len(b) == 0:
        return unknown
    pairs = KDTree(a).query_ball_tree(KDTree(b), max_shift)
    moves = np.concatenate([b[j] - a[i] for i, j in enumerate(pairs)])  # (pairs, 2)
    if len(moves) < least:
        return unknown
    edge = np.arange(-np.ceil(max_shift) - 0.5, np.ceil(max_shift) + 1.5)
    votes = ndimage.uniform_filter(np.histogram2d(*moves.T, bins=(edge, edge))[0], 3, mode="constant")
    drift = edge[list(np.unravel_index(votes.argmax(), votes.shape))] + 0.5
    for radius in (2.0, 1.0):
        near = moves[np.hypot(*(moves - drift).T) <= radius]
        if len(near) < least:
            return unknown
        drift = np.median(near, axis=0)
    return drift


def measure_psf(frame, guess=1.3, snr=15.0, least=5):
    """Standard deviation in px of the point-spread function: median width of the sources above `snr`.

    Returns `guess` where fewer than `least` sources are that bright, and never less than 0.7 px, below which
    a Gaussian is not sampled. Raises ValueError as `candidates` does.
    """
    widths = candidates(frame, k=snr, psf=guess).widths
    return max(float(np.median(widths)), 0.7) if len(widths) >= least else guess


def match_frames(a, b, k=5.0, max_shift=20.0, tolerance=0.7, drift=None):
    """Pair the candidates of two frames: stars, which move together, and targets, which do not.

    First every source of A meets its mutual nearest source of B at the common motion: they are a star when
    the gap is at most sqrt(tolerance^2 + 16 (error_a^2 + error_b^2)) px. The rest, at least k in both frames,
    within max_shift px and moved by more than that, are paired one to one at the least total of
    distance / max_shift + |log(snr ratio)| / 2.

    Arguments
        a, b       `Candidates`; with a lower threshold than k faint stars find their partner
        max_shift  largest displacement of a target in px
        tolerance  largest deviation of a star from the common motion in px, position errors apart
        drift      (2,) the common motion when it is known; else `star_drift` finds it, and where fewer than
                   three sources agree nothing is called a star
    Returns `Matches`. Raises ValueError when max_shift <= tolerance or drift is not two finite numbers.
    """
    if not 0 < tolerance < max_shift:
        raise ValueError(f"expected 0 < tolerance < max_shift, got {tolerance} and {max_shift} px")
    if drift is None:
        drift = star_drift(a.positions, b.positions, max_shift)
    elif np.shape(drift) != (2,) or not np.isfinite(drift).all():
        raise ValueError(f"drift is {drift}, expected the stars' motion (dx, dy) in px")
    drift = np.asarray(drift, np.float64)
    stars = np.empty((0, 2), np.int64)
    if np.isfinite(drift).all() and len(a) and len(b):
        moved = a.positions + drift
        gap, there = KDTree(b.positions).query(moved)
        back = KDTree(moved).query(b.positions)[1]
        reach = np.sqrt(tolerance**2 + 16 * (a.errors**2 + b.errors[there]**2))
        i = np.flatnonzero((gap <= reach) & (back[there] == np.arange(len(a))))
        stars = np.stack([i, there[i]], -1)
    i = np.setdiff1d(np.flatnonzero(a.snr >= k), stars[:, 0])
    j = np.setdiff1d(np.flatnonzero(b.snr >= k), stars[:, 1])
    move = (b.positions[None, j] - a.positions[i, None]).transpose(2, 0, 1)  # (2, A, B)
    distance = np.hypot(*move)  # (A, B)
    reach = tolerance**2 + 16 * (a.errors[i, None]**2 + b.errors[None, j]**2)
    still = ((move - drift[:, None, None])**2).sum(0) <= reach  # False where drift is NaN
    cost = distance / max_shift + abs(np.log(a.snr[i, None] / b.snr[None, j])) / 2
    cost = np.where((distance <= max_shift) & ~still, cost, 1e3)
    p, q = linear_sum_assignment(cost)
    good = cost[p, q] < 1e3
    return Matches(stars, np.stack([i[p[good]], j[q[good]]], -1), drift)


def detect(frames, k=5.0, box=11, psf=None, max_shift=20.0, tolerance=0.7, drift=None, tile=64):
    """Moving targets in a pair of frames.

    Arguments: frames (2, H, W) counts, A then B (or two frames of one shape); psf in px, measured on frame A
    when None; the others as in `candidates` and `match_frames`. Sources down to 0.7 k help to recognise faint
    stars; targets reach k in both frames.
    Returns `Detections`. Raises ValueError on anything but two frames of one shape, and as `candidates` does.
    """
    frames = [np.asarray(f) for f in frames]
    if len(frames) != 2:
        raise ValueError(f"got {len(frames)} frames, expected two, A and B: a target is known by its motion")
    if frames[0].shape != frames[1].shape:
        raise ValueError(f"frame A has shape {frames[0].shape} but B {frames[1].shape}; expected one shape")
    psf = measure_psf(frames[0]) if psf is None else psf
    a, b = (candidates(f, 0.7 * k, box, psf, tile) for f in frames)
    found = match_frames(a, b, k, max_shift, tolerance, drift)
    i, j = found.targets.T
    order = np.argsort(-np.minimum(a.snr[i], b.snr[j]), kind="stable")
    i, j = i[order], j[order]
    return Detections(a.positions[i], b.positions[j], a.boxes[i], b.boxes[j],
                      np.stack([a.snr[i], b.snr[j]], -1), np.stack([a.flux[i], b.flux[j]], -1),
                      b.positions[j] - a.positions[i], found.drift, psf, a.positions[found.stars[:, 0]])


def crops(frames, boxes, size=32):
    """Chips around the centres of boxes, (n, size, size) of one frame or (n, F, size, size) of several.

    Arguments: frames (H, W) or (F, H, W); boxes (n, 4); size of the chip in px. Cut A and B at the boxes of A
    and the motion stays visible in the chip. Pixels outside the frame take the median of the chip's others.
    Raises ValueError on shapes, size < 1, or a box whose chip lies wholly outside.
    """
    x, boxes = np.asarray(frames), np.asarray(boxes).reshape(-1, 4)
    if x.ndim not in (2, 3) or size < 1:
        raise ValueError(f"frames have shape {x.shape} and size is {size}; expected (H, W) or (F, H, W), "
                         "size >= 1")
    stack = x[None] if x.ndim == 2 else x
    h, w = stack.shape[1:]
    corner = (boxes[:, :2] + boxes[:, 2:]) // 2 - size // 2  # (n, 2)
    out = np.empty((len(boxes), len(stack), size, size), x.dtype)
    for chip, (left, top), box in zip(out, corner, boxes, strict=True):
        rows, columns = slice(max(top, 0), min(top + size, h)), slice(max(left, 0), min(left + size, w))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            raise ValueError(f"box {box.tolist()} lies outside the frame of {w}x{h} pixels")
        part = stack[:, rows, columns]
        chip[:] = np.median(part, axis=(1, 2))[:, None, None]
        chip[:, rows.start - top:rows.stop - top, columns.start - left:columns.stop - left] = part
    return out[:, 0] if x.ndim == 2 else out


def top_k(scores, labels, overall=30, per_class=7):
    """Rows of the best detections by falling score: at most `per_class` of a label and `overall` in all.

    Arguments: scores (n,), labels (n,). Raises ValueError on lengths that differ or limits below 1.

    >>> top_k([.9, .8, .7, .6], ["a", "a", "a", "b"], overall=3, per_class=2).tolist()
    [0, 1, 3]
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape} and labels {labels.shape}; expected (n,) "
                         "and (n,)")
    if overall < 1 or per_class < 1:
        raise ValueError(f"overall and per_class must be at least 1, got {overall} and {per_class}")
    kept, seen = [], {}
    for i in np.argsort(-scores, kind="stable"):
        label = labels[i].item()
        if seen.get(label, 0) < per_class and len(kept) < overall:
            kept.append(i)
            seen[label] = seen.get(label, 0) + 1
    return np.array(kept, np.int64)
