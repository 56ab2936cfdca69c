"""One scored video, its alarms, and the words behind them.

Axes: T segments, L words, K captions, H heads, N thumbnails, h, w rows and columns of a thumbnail. Times are seconds.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cmf.metrics.events import events, temporal_iou


@dataclass(frozen=True)
class Scored:
    """What is known of a video after scoring; lists become arrays, and what does not fit is refused.

    Arguments
        name         shown as the title
        times        (T, 2) start and end of each segment, s, rising, start < end, T >= 1
        scores       (T,) finite, higher is more anomalous
        threshold    alarms are segments at or above it
        captions     K pairs (time s, text)
        words        L strings, the tokens that attention is over; caption (L,) int: which caption each is from
        attention    (H, T, L) >= 0, or None
        gate         (T,) in [0, 1], 1 vision only, 0 captions only, or None
        thumbnails   (N, h, w, 3) uint8, or None; shown (N,): their segments, rising, default one for each segment
        truth        (n, 2) true intervals, s, or None when unknown
        note         a sentence on model and data, shown below the title
    Raises ValueError on shapes and values other than these.
    """

    name: str
    times: np.ndarray
    scores: np.ndarray
    threshold: float
    captions: tuple = ()
    words: tuple = ()
    caption: np.ndarray = ()
    attention: np.ndarray | None = None
    gate: np.ndarray | None = None
    thumbnails: np.ndarray | None = None
    shown: np.ndarray | None = None
    truth: np.ndarray | None = None
    note: str = ""

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        put("times", np.asarray(self.times, float))
        put("scores", np.asarray(self.scores, float))
        put("captions", tuple((float(time), str(text)) for time, text in self.captions))
        put("words", tuple(map(str, self.words)))
        put("caption", np.asarray(self.caption, int).reshape(-1))
        for name in ("attention", "gate", "truth"):
            if getattr(self, name) is not None:
                put(name, np.asarray(getattr(self, name), float))
        if self.thumbnails is not None:
            put("thumbnails", np.asarray(self.thumbnails))
            put("shown", np.arange(len(self.thumbnails)) if self.shown is None else np.asarray(self.shown, int))
        self._check()

    def _check(self):
        t, n = len(self.scores) if self.scores.ndim else 0, len(self.words)
        say = f"video {self.name!r}: "
        if self.times.shape != (t, 2) or t == 0 or not np.isfinite(self.times).all():
            raise ValueError(f"{say}times have shape {self.times.shape} and scores {self.scores.shape}; expected "
                             "finite (T, 2) starts and ends and (T,) scores, T >= 1")
        if (self.times[:, 1] <= self.times[:, 0]).any() or (np.diff(self.times[:, 0]) <= 0).any():
            raise ValueError(f"{say}segments must rise in time, each with start < end, in seconds")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.threshold)):
            raise ValueError(f"{say}scores or threshold hold NaN or infinity; a page needs a score for each segment")
        if self.caption.shape != (n,) or (n and not 0 <= self.caption.min() <= self.caption.max() < len(self.captions)):
            raise ValueError(f"{say}{n} words with caption numbers of shape {self.caption.shape} for "
                             f"{len(self.captions)} captions; expected one number in 0..K-1 a word")
        if self.attention is not None and (self.attention.ndim != 3 or self.attention.shape[1:] != (t, n)
                                           or not (self.attention >= 0).all()):
            raise ValueError(f"{say}attention has shape {self.attention.shape}; expected (H, {t}, {n}) >= 0: heads, "
                             "segments, words")
        if self.gate is not None and (self.gate.shape != (t,) or not ((self.gate >= 0) & (self.gate <= 1)).all()):
            raise ValueError(f"{say}gate has shape {self.gate.shape}; expected ({t},) values in 0..1")
        if self.truth is not None:
            put = self.truth.reshape(-1, 2) if self.truth.size else np.zeros((0, 2))
            if not (put[:, 0] < put[:, 1]).all():
                raise ValueError(f"{say}a true interval is empty or reversed; expected start < end in seconds")
            object.__setattr__(self, "truth", put)
        if self.thumbnails is not None:
            x, at = self.thumbnails, self.shown
            if x.ndim != 4 or x.shape[3] != 3 or x.dtype != np.uint8 or 0 in x.shape:
                raise ValueError(f"{say}thumbnails have shape {x.shape} of {x.dtype}; expected (N, h, w, 3) uint8")
            if at.shape != (len(x),) or at.min() < 0 or at.max() >= t or (np.diff(at) <= 0).any():
                raise ValueError(f"{say}{len(x)} thumbnails with segment numbers of shape {at.shape}; expected one "
                                 f"rising number in 0..{t - 1} each")

    @property
    def end(self) -> float:
        """End of the last segment, s."""
        return float(self.times[:, 1].max())

    @property
    def weights(self) -> np.ndarray:
        """Attention, mean over heads, (T, L); zeros without attention."""
        return np.zeros((len(self.scores), len(self.words))) if self.attention is None else self.attention.mean(0)

    def picture(self, segment: int) -> int | None:
        """Number of the thumbnail nearest to a segment."""
        return None if self.thumbnails is None else int(np.abs(self.shown - segment).argmin())


class Alarm(NamedTuple):
    """A run of segments at or above the threshold."""

    first: int          # segment
    last: int           # segment, inclusive
    peak: int           # segment of the highest score
    start: float        # s
    end: float          # s
    score: float        # at the peak
    caption: str        # nearest in time to the peak, or ""
    words: tuple        # most attended at the peak: (word, weight), strongest first
    iou: float | None   # temporal IoU with the best true interval; None when truth is unknown


def alarms(scored: Scored, shortest: int = 1, gap: int = 0, top: int = 5) -> list[Alarm]:
    """The alarms of a video in order of time.

    Arguments: shortest and gap in segments as in cmf.metrics.events.events; top: how many words of each.
    """
    out, weights = [], scored.weights
    for first, stop in events(scored.scores, scored.threshold, shortest, gap):
        peak = int(first + scored.scores[first:stop].argmax())
        start, end = float(scored.times[first, 0]), float(scored.times[stop - 1, 1])
        strongest = np.argsort(-weights[peak], kind="stable")[:top]
        words = tuple((scored.words[i], float(weights[peak, i])) for i in strongest if weights[peak, i] > 0)
        iou = None
        if scored.truth is not None:
            iou = float(temporal_iou([[start, end]], scored.truth).max(initial=0))
        near = nearest(scored, peak)
        out.append(Alarm(int(first), int(stop - 1), peak, start, end, float(scored.scores[peak]),
                         "" if near is None else scored.captions[near][1], words, iou))
    return out


def nearest(scored: Scored, segment: int) -> int | None:
    """Number of the caption nearest in time to the middle of a segment; None without captions."""
    if not scored.captions:
        return None
    return int(np.abs(np.array([time for time, _ in scored.captions]) - scored.times[segment].mean()).argmin())


def join_pieces(pieces, caption, attention):
    """Word pieces ("walk", "##ing") joined to words, their attention added.

    Arguments: pieces L strings, those that continue a word begin with "##"; caption (L,) which caption each is from;
    attention (H, T, L). Returns (words, caption (L',), attention (H, T, L')). Raises ValueError on other lengths.

    >>> join_pieces(["a", "walk", "##ing"], [0, 0, 0], np.array([[[.2, .5, .3]]]))[0]
    ('a', 'walking')
    """
    caption, attention = np.asarray(caption, int), np.asarray(attention, float)
    if attention.ndim != 3 or attention.shape[2] != len(pieces) or caption.shape != (len(pieces),):
        raise ValueError(f"{len(pieces)} pieces, captions {caption.shape} and attention {attention.shape} do not "
                         "belong together; expected L, (L,) and (H, T, L)")
    begins = np.array([not p.startswith("##") for p in pieces], bool)
    if len(pieces) == 0:
        return (), caption, attention
    begins |= np.r_[True, caption[1:] != caption[:-1]]
    starts = np.flatnonzero(begins)
    words = tuple("".join(p.removeprefix("##") for p in pieces[a:b])
                  for a, b in zip(starts, [*starts[1:], len(pieces)], strict=True))
    return words, caption[starts], np.add.reduceat(attention, starts, axis=2)


def ticks(start: float, end: float) -> np.ndarray:
    """Round times from start to end, s, seven steps at most.

    >>> ticks(0, 58).tolist()
    [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    """
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
    step = next((s for s in steps if (end - start) / s <= 7), 3600 * np.ceil((end - start) / 7 / 3600))
    return step * np.arange(int(np.ceil(start / step - 1e-9)), int(np.floor(end / step + 1e-9)) + 1.0)


def clock(seconds: float) -> str:
    """Minutes and seconds with one decimal, as 1:02.5; hours when there are any.

    >>> clock(62.5), clock(3600), clock(59.97)
    ('1:02.5', '1:00:00.0', '1:00.0')
    """
    tenths = round(abs(seconds) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and tenths else ""
    tail = f"{rest / 10:04.1f}"
    return f"{sign}{hours}:{minutes:02d}:{tail}" if hours else f"{sign}{minutes}:{tail}"
