"""Video files and folders of frames, read as streams: facts, frames in order, frames at stated times, segments.

Times are seconds from the first frame. The frame shown at time t is the last one that begins at or before t, by
the file's own timestamps, so that a variable frame rate needs no care. Sizes are (height, width) in pixels, after
the rotation that the file asks for; pictures are RGB, whatever is stored (grey, palette, YUV). Opening a file
reads its packets once without decoding them: memory is eight bytes a frame and one decoded frame.

A file that is cut short or damaged raises ValueError with the number of frames that can be read; a frame is never
replaced by another or by black. Broken files can be mended by `ffmpeg -i broken.mp4 mended.mp4`, which keeps what
can be read.

Axes: n frames, T segments, k frames of a segment, H rows, W columns.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from cmf.datasets.video_decode import File, Folder


@dataclass(frozen=True)
class Facts:
    """What a video is. seconds: from the first frame to the end of the last. fps: frames a second, the mean where
    `variable` is True (steps between frames differ by more than a tenth of the median and 1.5 ms).
    frames: how many. height, width: pixels after rotation. codec: name, "pictures" for a folder."""

    seconds: float
    fps: float
    frames: int
    height: int
    width: int
    variable: bool
    codec: str


@dataclass(frozen=True)
class Segments:
    """T equal parts of a video. edges (T + 1,) and times (T, k): seconds, ascending."""

    edges: np.ndarray
    times: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """Middle of each segment, seconds (T,)."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    def of(self, times) -> np.ndarray:
        """Number of the segment that holds each time, int (n,); times outside go to the nearest segment."""
        return np.clip(np.searchsorted(self.edges, times, side="right") - 1, 0, len(self.edges) - 2)

    def mean(self, values, times) -> np.ndarray:
        """Mean (T,) over the frames of each segment of values (n,) of frames that begin at times (n,).

        A segment in which no frame begins (variable frame rate) takes the value of the frame shown at its centre.
        With a 0/1 mask of frames this is the share of each segment's frames that are anomalous.
        """
        values, times = np.asarray(values, dtype=float), np.asarray(times, dtype=float)
        counts = np.bincount(self.of(times), minlength=len(self.edges) - 1)
        sums = np.bincount(self.of(times), weights=values, minlength=len(self.edges) - 1)
        shown = values[np.maximum(np.searchsorted(times, self.centres, side="right") - 1, 0)]
        return np.where(counts > 0, sums / np.maximum(counts, 1), shown)


class Video:
    """A video file, or a folder of pictures that are its frames in the order of the numbers in their names.

    Args:
        source: path of a file or folder.
        fps: frames a second of a folder, which has no clock; not for files.

    Raises:
        FileNotFoundError: there is nothing at that path.
        ValueError: not a video, audio only, without frames, cut short, or a folder without fps.
    """

    def __init__(self, source, fps: float | None = None):
        self.path = Path(source)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such video; expected a video file or a folder of frames")
        self._reader = Folder(self.path, fps) if self.path.is_dir() else File(self.path, fps)
        self.times: np.ndarray = self._reader.times
        """Begin of each frame, seconds (n,), ascending, from 0."""

    @cached_property
    def facts(self) -> Facts:
        """Facts of this video (see `Facts`)."""
        n, steps = len(self.times), np.diff(self.times)
        step = float(np.median(steps)) if n > 1 else 1 / (self._reader.rate or 1)
        height, width = self._reader.size()
        return Facts(seconds=float(self.times[-1] + step), frames=n, height=height, width=width,
                     fps=float((n - 1) / self.times[-1]) if n > 1 else 1 / step,
                     variable=bool(n > 2 and np.abs(steps - step).max() > max(0.1 * step, 1.5e-3)),
                     codec=self._reader.codec)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.facts.seconds

    def frames(self, size: tuple[int, int] | None = None, every: int = 1, start: float = 0.0,
               end: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """Frames in order, one in memory at a time.

        Args:
            size: (height, width) to resize to, area-averaged where it is smaller; None keeps the size.
            every: take every so-manieth frame from the first one on, 1 or more.
            start, end: only frames that begin in [start, end), seconds.

        Yields:
            (begin in seconds, (H, W, 3) uint8 RGB).

        Raises:
            ValueError: every below 1; a frame that cannot be decoded, when it is reached.
        """
        if every < 1:
            raise ValueError(f"every={every}, expected 1 (each frame) or more")
        first, last = np.searchsorted(self.times, [start, np.inf if end is None else end], side="left")
        for k, picture in self._read(range(int(first), int(last), every), size):
            yield float(self.times[k]), picture

    def frames_at(self, times, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """The frame shown at each time, (H, W, 3) uint8, in the order asked; seeks to the keyframe before it.

        times: ascending seconds in [0, seconds]; equal times give equal frames. size: as in `frames`.
        Raises ValueError for times that descend or lie outside, or a frame that cannot be decoded.
        """
        times = np.atleast_1d(np.asarray(times, dtype=float))
        if len(times) and not (np.isfinite(times).all() and times[0] >= 0 and times[-1] <= self.seconds + 1e-6
                               and (np.diff(times) >= 0).all()):
            raise ValueError(f"{self.path}: times from {times.min():g} to {times.max():g} s, expected ascending "
                             f"times in [0, {self.seconds:g}]; sort them and clip them to the video")
        wanted = np.searchsorted(self.times, times + 1e-6, side="right") - 1
        each, repeats = np.unique(wanted, return_counts=True)
        for (_, picture), repeat in zip(self._read(each.tolist(), size), repeats, strict=True):
            for _ in range(repeat):
                yield picture

    def segment(self, T: int, k: int = 1) -> Segments:
        """T equal segments with k frame times in each (see `segment`)."""
        return segment(self, T, k)

    def _read(self, wanted: Iterable[int], size) -> Iterator[tuple[int, np.ndarray]]:
        shape = None
        for index, picture in self._reader.read(wanted):
            if size is not None:
                picture = _resize(picture, size)
            elif shape not in (None, picture.shape):
                raise ValueError(f"{self.path}: frame {index} has {picture.shape[:2]} pixels, frames before it "
                                 f"{shape[:2]}; pass size=(height, width)")
            shape = picture.shape
            yield index, picture


def probe(path, fps: float | None = None) -> Facts:
    """Facts of a video file or folder of frames; one frame is decoded. Raises like `Video`."""
    return Video(path, fps).facts


def frames(path, size=None, every: int = 1, start: float = 0.0, end: float | None = None,
           fps: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Iterator of (seconds, (H, W, 3) uint8) over a video (see `Video.frames`)."""
    return Video(path, fps).frames(size, every, start, end)


def frames_at(path, times, size=None, fps: float | None = None) -> Iterator[np.ndarray]:
    """Iterator of the frames (H, W, 3) uint8 shown at ascending times (see `Video.frames_at`)."""
    return Video(path, fps).frames_at(times, size)


def segment(video, T: int, k: int = 1) -> Segments:
    """Cut a video into T equal segments, with the times of k frames spread evenly over each (k = 1: the centre).

    Args:
        video: path, `Video`, or anything with `seconds` (and, if it has it, `fps`).
        T: segments, 1 or more; a video of fewer frames gets one segment a frame, with a warning.
        k: frames of a segment, 1 or more.

    Raises:
        ValueError: T or k below 1, or T of 2 or more for a video of one frame.
    """
    if T < 1 or k < 1:
        raise ValueError(f"T={T} segments of k={k} frames, expected 1 or more of each")
    if isinstance(video, (str, os.PathLike)):
        video = Video(video)
    if isinstance(video, Video):
        n, name = len(video.times), video.path
    else:
        n = round(video.seconds * video.fps) if getattr(video, "fps", None) else T
        name = getattr(video, "id", "clip")
    if n < 2 <= T:
        raise ValueError(f"{name}: one frame cannot be cut into {T} segments; scores over time need at least two "
                         "frames (use T=1 for a single picture)")
    if n < T:
        warnings.warn(f"{name}: {n} frames for {T} segments; it gets {n} segments of one frame", stacklevel=2)
        T = n
    edges = np.linspace(0.0, video.seconds, T + 1)
    times = edges[:-1, None] + (np.arange(k) + 0.5) / k * (video.seconds / T)  # (T, k)
    return Segments(edges=edges, times=times)


def write_video(path, frames: Iterable[np.ndarray], fps: float, crf: int = 18, times=None, **options) -> Path:
    """Write frames as H.264 (x264, yuv420p), aside and then renamed; the suffix chooses the container.

    Args:
        path: file to write, .mp4 or .mkv or another container that holds H.264.
        frames: iterable of (H, W, 3) or (H, W) uint8, all of one size with even H and W.
        fps: frames a second, above 0.
        crf: quality, 0 (lossless) to 51; 18 looks like the source.
        times: begin of each frame in seconds, ascending from 0, for a variable frame rate; steps of 1/90000 s.
        options: passed to x264, such as g="12" (frames between keyframes), bf="0" (no B-frames).

    Raises:
        ValueError: no frames, odd or changing size, another dtype, fps not above 0, times that are too few or do not
            ascend. Nothing is left behind then.
    """
    import av

    path = Path(path)
    if not fps > 0:
        raise ValueError(f"{path}: fps={fps}, expected a number above 0")
    if times is not None and not (np.diff(times, prepend=-1e-4) > 5e-5).all():
        raise ValueError(f"{path}: times {times}, expected ascending seconds from 0 on")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    formats = {".mkv": "matroska", ".mov": "mov", ".avi": "avi", ".ts": "mpegts"}
    shape, count = None, 0
    try:
        with av.open(str(part), "w", format=formats.get(path.suffix.lower(), "mp4")) as container:
            rate = Fraction(fps).limit_denominator(1001)
            for count, frame in enumerate(frames, start=1):
                frame = np.asarray(frame)
                if shape is None:
                    _admit(frame, path)
                    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **options})
                    stream.height, stream.width = shape = frame.shape[:2]
                    stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1  # equal bytes on every run
                    unit = 1 / rate if times is None else Fraction(1, 90000)
                    stream.codec_context.time_base = unit
                elif frame.shape[:2] != shape or frame.dtype != np.uint8:
                    raise ValueError(f"{path}: frame {count - 1} is {frame.shape} {frame.dtype}, the first one "
                                     f"had {shape} pixels uint8")
                picture = np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                if times is not None and count > len(times):
                    raise ValueError(f"{path}: more frames than the {len(times)} times given")
                image.pts = count - 1 if times is None else round(times[count - 1] * 90000)
                image.time_base = unit
                container.mux(stream.encode(image))
            if shape is None:
                raise ValueError(f"{path}: no frames to write")
            container.mux(stream.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _admit(frame: np.ndarray, path: Path) -> None:
    if frame.dtype != np.uint8 or not (frame.ndim == 2 or frame.ndim == 3 and frame.shape[2] == 3):
        raise ValueError(f"{path}: a frame of shape {frame.shape} and {frame.dtype}, expected (H, W, 3) or "
                         "(H, W) uint8")
    if frame.shape[0] % 2 or frame.shape[1] % 2:
        raise ValueError(f"{path}: frames of {frame.shape[0]} x {frame.shape[1]} pixels; H.264 in yuv420p needs even "
                         "numbers, crop or pad one row or column")


def _resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    height, width = size
    if picture.shape[:2] == (height, width):
        return picture
    shrinks = height <= picture.shape[0] and width <= picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
