"""Frames of one video file (PyAV) or of a folder of pictures, by number: what `cmf.datasets.video` stands on.

Both readers have `times` (n,) in seconds from the first frame, `codec`, `rate` (nominal frames a second or None),
`size()` -> (height, width) and `read(wanted)`, which yields (number, (H, W, 3) uint8) for ascending frame numbers.
"""

from __future__ import annotations

import re
import warnings
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TEXT = {"tty", "hls", "concat", "concatf", "dash", "lrc", "srt", "webvtt"}  # FFmpeg opens some text as video
CHECKED = 40  # frames whose timestamps are compared with those of the packets


class File:
    """One video file; its packets are read once, undecoded, for timestamps and keyframes (8 bytes a frame).

    Raises ValueError: not a video, audio only, no frames, cut short, or fps given.
    """

    def __init__(self, path: Path, fps: float | None = None):
        if fps is not None:
            raise ValueError(f"{path}: fps={fps:g} for a video file, which has its own timestamps; leave fps out")
        self.path, self.pts = path, None  # timestamps of the frames as shown; None: they are counted, not sought
        with self._opened() as (container, stream):
            self.codec, self.base = stream.codec_context.name, stream.time_base
            self.rate = float(stream.average_rate or stream.guessed_rate or 0) or None
            pts, keys, seeks = self._packets(container, stream)
        if pts is not None and len(pts) == len(np.unique(pts)):
            self.pts = np.sort(pts[pts >= pts[keys[0]]])  # nothing before the first keyframe can be decoded
        if self.pts is None or not self._honest():
            self.pts, self.times = None, self._counted()
        else:
            self.times = (self.pts - self.pts[0]) * float(self.base)
            self.keys = np.searchsorted(self.pts, np.maximum.accumulate(pts[keys]))  # numbers of the keyframes
            self.seeks = seeks[keys]

    def size(self) -> tuple[int, int]:
        """(height, width) after rotation, from the first frame."""
        return next(iter(self.read([0])))[1].shape[:2]

    def read(self, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, RGB picture) of ascending frame numbers. Raises ValueError at a frame that cannot be decoded."""
        import av

        at, decoder, frame = -1, None, None  # at: number of the frame decoded last
        with self._opened() as (container, stream):
            for k in wanted:
                try:
                    key = 0 if self.pts is None else int(np.searchsorted(self.keys, k, side="right")) - 1
                    if key and self.keys[key] > at + 1:
                        decoder, frame = self._sought(container, stream, key)
                        at = self._number(frame, at)
                    decoder = decoder or container.decode(stream)
                    while at < k:
                        frame = next(decoder)
                        at = self._number(frame, at)
                except (StopIteration, av.error.FFmpegError) as reason:
                    raise self._damaged(at + 1) from reason
                if at > k or frame.is_corrupt or self.pts is not None and frame.pts != self.pts[k]:
                    raise self._damaged(k)
                yield k, self._rgb(frame)

    def _honest(self) -> bool:
        """Do the first decoded frames bear the timestamps of the packets? Not so in AVI with B-frames."""
        import av

        try:
            with self._opened() as (container, stream):
                first = [frame.pts for frame, _ in zip(container.decode(stream), range(CHECKED), strict=False)]
        except av.error.FFmpegError:
            return True  # damaged: found out when that frame is read
        return first == self.pts[: len(first)].tolist()

    def _counted(self) -> np.ndarray:
        """Times (n,) of a file without timestamps, by its frame rate; it is decoded once to count the frames."""
        import av

        if self.rate is None:
            raise ValueError(f"{self.path}: neither timestamps nor a frame rate; {self._mend}")
        count = 0
        try:
            with self._opened() as (container, stream):
                for _ in container.decode(stream):
                    count += 1
        except av.error.FFmpegError as reason:
            raise self._damaged(count, self.count) from reason
        if not count:
            raise self._damaged(0, self.count)
        return np.arange(count) / self.rate

    def _number(self, frame, before: int) -> int:
        """Number of a decoded frame: by its timestamp, or one more than that before it."""
        if self.pts is None:
            return before + 1
        return -1 if frame.pts is None else int(np.searchsorted(self.pts, frame.pts, side="right")) - 1

    def _sought(self, container, stream, key: int):
        """Decoder after a seek to keyframe number `key`, or to one before it, and its first frame.

        Containers seek by decoding time, which B-frames put before the time shown: a seek may land too late.
        """
        for earlier in range(key, -1, -1):
            container.seek(int(self.seeks[earlier]), stream=stream, backward=True)
            decoder = container.decode(stream)
            frame = next(decoder, None)
            if frame is not None and frame.pts <= self.pts[self.keys[key]]:
                return decoder, frame
        raise StopIteration

    def _rgb(self, frame) -> np.ndarray:
        picture = frame.to_ndarray(format="rgb24")  # (H, W, 3)
        turns = round(frame.rotation / 90)
        if abs(frame.rotation - 90 * turns) > 1:
            warnings.warn(f"{self.path}: rotation by {frame.rotation} degrees is left out; only multiples of 90 "
                          "are applied", stacklevel=2)
        elif turns:
            picture = np.ascontiguousarray(np.rot90(picture, turns))
        return picture

    @contextmanager
    def _opened(self):
        """Container and video stream; closed at the end."""
        import av
        from av.stream import Disposition

        try:
            container = av.open(f"file:{self.path}")
        except (av.error.FFmpegError, UnicodeError) as reason:
            size = self.path.stat().st_size
            raise ValueError(f"{self.path}: 0 frames readable, {size} bytes cannot be opened as a video "
                             f"({getattr(reason, 'strerror', reason)}): something else, or cut short before its index; "
                             "obtain it again") from reason
        with container:
            if TEXT & set(container.format.name.split(",")):
                raise ValueError(f"{self.path}: not a video but text ({container.format.name}); expected a video file")
            streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
            if not streams:
                kind = "audio only" if container.streams.audio else "no video stream"
                raise ValueError(f"{self.path}: {kind}; expected a file with pictures")
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]

    def _packets(self, container, stream):
        """Timestamps (n,) of the frames in stored order (None: some have none), keyframes and where to seek them.

        Raises ValueError when the file holds fewer frames than its header says, or no keyframe.
        """
        pts, seeks, keys, count, timed = array("q"), array("q"), array("q"), 0, True
        for packet in container.demux(stream):
            if not packet.size or packet.is_corrupt:
                continue
            count += 1
            if packet.is_discard:
                continue
            timed &= packet.pts is not None
            if packet.is_keyframe:
                keys.append(len(pts))
            pts.append(packet.pts if timed else 0)
            seeks.append(packet.dts if packet.dts is not None else packet.pts or 0)
        self.count = count
        if not count:
            raise ValueError(f"{self.path}: zero frames in its video stream; {self._mend}")
        declared, slack = stream.frames, 0.98 if container.format.name == "avi" else 1.0  # AVI counts empty frames
        if count < slack * declared:
            raise self._damaged(count, declared)
        if timed and "DURATION" in stream.metadata and self.rate:  # Matroska states its length in time
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            seconds = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            if float((max(pts) - min(pts)) * self.base) < 0.95 * seconds - 1:
                raise self._damaged(count, round(seconds * self.rate))
        if not keys:
            raise self._damaged(0, count)
        return np.array(pts) if timed else None, np.array(keys), np.array(seeks)

    def _damaged(self, readable: int, declared: int | None = None) -> ValueError:
        declared = declared or len(self.times)
        return ValueError(f"{self.path}: {readable} of {declared} frames readable, then it is cut short or damaged; "
                          f"{self._mend}")

    @property
    def _mend(self) -> str:
        return f"obtain it again, or keep what can be read: ffmpeg -i {self.path.name} mended.mp4"


class Folder:
    """Pictures of one folder as frames, in the order of the numbers in their names; hidden files are left alone.

    Raises ValueError: no pictures, two pictures of one name, or no fps. Warns of gaps in the numbers.
    """

    codec = "pictures"

    def __init__(self, path: Path, fps: float | None = None):
        found = [file for file in path.iterdir()
                 if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
        self.path, self.files = path, sorted(found, key=lambda file: natural(file.stem))
        if not found:
            raise ValueError(f"{path}: zero frames, the folder holds no pictures ({', '.join(PICTURES)})")
        if fps is None or not fps > 0:
            raise ValueError(f"{path}: fps={fps}; a folder of frames has no clock, pass its frames a second, fps=")
        stems = [file.stem for file in self.files]
        if len(set(stems)) < len(stems):
            twice = next(a for a, b in zip(stems, stems[1:], strict=False) if a == b)
            raise ValueError(f"{path}: two pictures named {twice}; keep one of them")
        steps = np.diff([int((re.findall(r"[0-9]+", stem) or [0])[-1]) for stem in stems])
        if len(steps) and steps.max() > max(np.median(steps), 0) > 0:
            gap = int(steps.argmax())
            warnings.warn(f"{path}: frame numbers jump between {stems[gap]} and {stems[gap + 1]}; frames after a gap "
                          "are counted on as if none were missing", stacklevel=3)
        self.rate, self.times = float(fps), np.arange(len(found)) / fps

    def size(self) -> tuple[int, int]:
        """(height, width) of the first picture."""
        return next(iter(self.read([0])))[1].shape[:2]

    def read(self, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, RGB picture) of the frame numbers. Raises ValueError at a picture that cannot be read."""
        from PIL import Image, UnidentifiedImageError

        for k in wanted:
            try:
                with Image.open(self.files[k]) as picture:
                    if picture.mode.startswith(("I", "F")):
                        raise ValueError(f"mode {picture.mode}, expected 8 bit; convert it, stating the range")
                    rgb = np.array(picture.convert("RGB"))  # (H, W, 3)
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as reason:
                raise ValueError(f"{self.files[k]}: frame {k} of {len(self.files)} cannot be read ({reason}); "
                                 "obtain the picture again or remove the clip") from reason
            yield k, rgb


def natural(name: str) -> list:
    """Sort key that orders the numbers in a name by value: frame 2 before frame 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts if part]
