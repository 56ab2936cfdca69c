"""Motion columns of video frames from dense optical flow (DIS: Kroeger, Timofte, Dai and Van Gool, ECCV 2016).

Axes: n frames, H rows and W columns of a picture, D columns, T segments; a cell is one of a grid of rows x columns.

Units: speed in picture heights per second, so that size and frame rate drop out. Directions are those of the
picture: sector 0 is motion to the right, a quarter of the sectors on is down, then left, then up.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

GRID = (3, 4)                                      # rows and columns of cells
QUANTILES = (0.9, 0.95, 0.99, 0.995, 0.999)        # of the speed over the picture
SPEEDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)     # heights per second: bounds of the speed histogram
DIRECTIONS = 8                                     # sectors
CELL = ("mean", "fastest", "moving", "right", "down")
LONGEST = 240                                      # px; larger pictures are shrunk before the flow
SMALLEST = 32                                      # px, of either side


def names(grid: tuple[int, int] = GRID) -> tuple[str, ...]:
    """Names of the D columns, in order, for a grid of (rows, columns) cells.

    >>> len(names()), names()[5], names((1, 1))[-1]
    (83, 'fastest', 'cell 0,0 down')
    """
    whole = [f"speed q{100 * q:g}" for q in QUANTILES] + ["fastest"]
    whole += [f"area above {s:g}" for s in SPEEDS] + [f"direction {k}" for k in range(DIRECTIONS)]
    whole += ["divergence", "spreading"]
    return tuple(whole + [f"cell {r},{c} {what}" for r in range(grid[0]) for c in range(grid[1]) for what in CELL])


def motion(frames: Iterable[np.ndarray], times: Sequence[float] | None = None, rate: float = 25.0, span: int = 2,
           grid: tuple[int, int] = GRID) -> np.ndarray:
    """Motion columns of every frame, float32 (n, D); `names(grid)` names them.

    Of the flow over `span` frame intervals around each frame: quantiles QUANTILES of the speed and its maximum
    ("fastest") after a median over 5 x 5 px; shares of the picture faster than each of SPEEDS; the share of the
    moved path in each of DIRECTIONS sectors; mean divergence and mean absolute divergence, per second; and for
    every cell the mean speed, the fastest pixel, the share moving faster than SPEEDS[1], and the mean velocity to
    the right and down. At the ends of the video the nearest whole window counts, so the first frame has the
    columns of its neighbour. Frames are taken one by one, so a long video needs little memory.

    Args:
        frames: uint8 pictures of one size, (H, W) grey or (H, W, 3) RGB; a list, an array or a stream.
        times: seconds of each frame, rising; where frames come at unequal steps.
        rate: frames per second where there are no times.
        span: frame intervals that a flow spans; 1 is neighbours, 2 from the frame before to the frame after, which
            halves the error of slow motion.
        grid: rows and columns of cells.

    Raises:
        ValueError: a frame of another kind or size, fewer than two frames, times that do not rise or do not match
            the frames, a rate or span that is not positive.

    >>> texture = np.random.default_rng(0).integers(0, 255, (15, 20)).astype(np.uint8)
    >>> texture = cv2.resize(texture, (160, 120), interpolation=cv2.INTER_CUBIC)
    >>> found = motion([np.roll(texture, 2 * k, 1) for k in range(4)], rate=10)   # 2 px a frame to the right
    >>> found.shape, round(float(found[1, names().index("speed q90")]), 2)        # 2 px / 120 px * 10 / s
    ((4, 83), 0.17)
    """
    if span < 1 or not rate > 0:
        raise ValueError(f"span is {span} frame intervals and rate {rate} frames per second; both must be positive")
    if times is not None:
        times = np.asarray(times, np.float64)
        if times.ndim != 1 or not (np.diff(times) > 0).all():
            raise ValueError(f"times of shape {times.shape} must be one list of seconds that rises from frame to frame")
    clock = lambda k: k / rate if times is None else times[k]
    flow, held, rows, n, width = _Flow(), deque(maxlen=span + 1), [], 0, span
    for picture in _grey(frames):
        if times is not None and n >= len(times):
            raise ValueError(f"there are {len(times)} times, but more frames; give one time a frame")
        held.append(picture)
        n += 1
        if n > span:
            rows.append(_columns(flow(held[0], held[-1]), clock(n - 1) - clock(n - 1 - span), grid))
    if n < 2:
        raise ValueError(f"motion needs at least 2 frames, got {n}; a single frame has no motion")
    if times is not None and n != len(times):
        raise ValueError(f"there are {len(times)} times for {n} frames; give one time a frame")
    if not rows:
        width = n - 1
        rows.append(_columns(flow(held[0], held[-1]), clock(n - 1) - clock(0), grid))
    at = np.clip(np.arange(n) - (width + 1) // 2, 0, n - 1 - width)                    # (n,) window of each frame
    return np.stack(rows)[at]                                                          # (n, D)


def segment(columns: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Motion tokens of segments, float32 (T, 2 D): mean and maximum of the columns over each segment's frames.

    Args:
        columns: (n, D) as `motion` gives them.
        starts: (T,) first frame of each segment, rising from 0; a segment ends where the next one starts.

    Raises:
        ValueError: columns of another shape, or starts that do not begin at 0, do not rise or pass the last frame.
    """
    columns, starts = np.asarray(columns, np.float32), np.asarray(starts)
    if columns.ndim != 2 or not len(columns):
        raise ValueError(f"columns have shape {columns.shape}, expected (n, D): frames and motion columns")
    if not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= len(columns):
        raise ValueError(f"starts of segments are {starts.tolist()}; expected frame numbers that begin at 0, rise and "
                         f"stay below {len(columns)}")
    count = np.diff(np.append(starts, len(columns)))[:, None]
    mean = np.add.reduceat(columns, starts) / count
    return np.concatenate([mean, np.maximum.reduceat(columns, starts)], 1).astype(np.float32)


def velocity(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Optical flow in px, float32 (H, W, 2), to the right and down, of each pixel of `before`.

    DIS at OpenCV's medium preset; the same frames give the same flow. OpenCV runs on one thread meanwhile.

    Args:
        before, after: grey uint8 pictures (H, W) of one size.
    """
    return _Flow()(before, after)


class _Flow:
    """DIS optical flow on one thread of OpenCV."""

    def __init__(self):
        self.dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            return self.dis.calc(before, after, None)
        finally:
            cv2.setNumThreads(threads)


def _grey(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Grey pictures of at most LONGEST px, checked."""
    shape = None
    for k, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or not (frame.ndim == 2 or frame.ndim == 3 and frame.shape[2] == 3):
            raise ValueError(f"frame {k} is {frame.dtype} of shape {frame.shape}, expected uint8 (H, W) or (H, W, 3)")
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"frame {k} has shape {frame.shape}, the first {shape}; frames of a video have one size")
        if min(shape[:2]) < SMALLEST:
            raise ValueError(f"frames of {shape[1]}x{shape[0]} px are too small for optical flow; enlarge them to at "
                             f"least {SMALLEST} px a side")
        if frame.ndim == 3:
            frame = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        factor = LONGEST / max(shape[:2])
        if factor < 1:
            size = [max(SMALLEST, round(side * factor)) for side in (shape[1], shape[0])]
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        yield np.ascontiguousarray(frame)


def _speed(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Length of the vectors, float32 (H, W), rounded alike at every pixel.

    `cv2.magnitude` rounds some of them by the address of its result, which changes from run to run.
    """
    return np.sqrt(right * right + down * down)


def _columns(flow: np.ndarray, seconds: float, grid: tuple[int, int]) -> np.ndarray:
    """The D columns of one flow (H, W, 2) in px over `seconds`."""
    h, w = flow.shape[:2]
    flow = flow * np.float32(1 / (h * seconds))                                        # heights per second
    right, down = cv2.split(flow)
    speed = cv2.medianBlur(_speed(right, down), 5)                                     # (H, W)
    flat = speed.ravel()
    k = [min(int(q * flat.size), flat.size - 1) for q in QUANTILES]
    quantiles = np.partition(flat, k)[k]
    areas = [np.count_nonzero(flat > s) / flat.size for s in SPEEDS]
    sector = np.floor(cv2.phase(right, down) * (DIRECTIONS / (2 * np.pi)) + 0.5).astype(np.intp) % DIRECTIONS
    path = np.bincount(sector.ravel(), np.where(flat > SPEEDS[0], flat, 0), DIRECTIONS)
    path = path / path.sum() if path.sum() > 0 else path
    spread = (right[1:, 1:] - right[1:, :-1] + down[1:, 1:] - down[:-1, 1:]) * h       # (H-1, W-1) per second
    whole = [*quantiles, flat.max(), *areas, *path, spread.mean(), abs(spread).mean()]
    rows, columns = (np.arange(parts) * side // parts for parts, side in zip(grid, (h, w), strict=True))
    pool = lambda x, how: how.reduceat(how.reduceat(x, rows, axis=0), columns, axis=1)
    count = np.diff(np.append(rows, h))[:, None] * np.diff(np.append(columns, w))
    mean = lambda x: pool(x, np.add) / count
    moving = (speed > SPEEDS[1]).astype(np.float32)
    cells = [mean(speed), pool(speed, np.maximum), mean(moving), mean(right), mean(down)]
    return np.concatenate([whole, np.stack(cells, -1).ravel()]).astype(np.float32)
