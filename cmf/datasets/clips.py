"""A folder of clips with their truth: videos/ID.mp4, annotations.csv, captions.csv; and captions of any videos.

annotations.csv: video, split, label, fps, frames, event, start, end: one row an event, one row with the last three
empty for a clip without. captions.csv: video, start, end, caption. Times are seconds, half-open: a frame is
anomalous if it begins in [start, end).
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmf.datasets import anomaly_files as files
from cmf.datasets.anomaly import NORMAL, VideoItem
from cmf.datasets.video import write_video

EVENTS = ("video", "split", "label", "fps", "frames", "event", "start", "end")
CAPTIONS = ("video", "start", "end", "caption")


@dataclass(frozen=True)
class Caption:
    """One sentence about [start, end) of a video, seconds."""

    start: float
    end: float
    text: str


def write_clips(clips: Iterable, out, size: tuple[int, int] = (240, 320), fps: float | None = None, crf: int = 23,
                split: str = "", classes: Sequence[str] | None = None, progress: bool = True) -> Path:
    """Write clips as MP4 files with annotations.csv and captions.csv, into a folder made aside and then renamed.

    Args:
        clips: objects with id, seconds, fps, label, frame(t, size) -> (H, W, 3) uint8 or a picture with
            `visible`, captions() and events (a method or an attribute each); a caption is (start, end, text), an
            event (start, end) or (start, end, kind), or objects with those attributes; times in seconds. split:
            used where it has one.
        out: folder that does not exist yet.
        size: (height, width), even numbers. fps: frames a second instead of each clip's own.
        crf: see `cmf.datasets.video.write_video`. split: of clips that do not say.
        classes: names of labels that are numbers, the simulator's by default. progress: show a bar.

    Returns:
        `out`.

    Raises:
        FileExistsError: `out` exists.
        ValueError: no clips, an id twice, an id that is no file name, a label that contradicts the events.
        Nothing is left behind then.
    """
    from tqdm import tqdm

    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or choose another folder")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / "videos").mkdir(parents=True)
        events, captions, seen = [], [], set()
        for clip in tqdm(clips, desc="clips", unit="clip", disable=not progress, delay=1):
            name, rate = str(clip.id), float(fps or clip.fps)
            if name in seen or name != Path(name).name:
                raise ValueError(f"clip id {name!r} twice, or no file name; give each clip a name of its own")
            seen.add(name)
            n = max(1, round(clip.seconds * rate))
            label = clip.label if isinstance(clip.label, str) else (classes or _classes())[clip.label]
            rows = [_row(event, ("start", "end", "kind"), label) for event in _of(clip, "events")]
            if bool(rows) != (label != NORMAL):
                raise ValueError(f"clip {name}: label {label!r} with {len(rows)} events; expected none for "
                                 f"{NORMAL!r}, one or more for another")
            head = (name, getattr(clip, "split", None) or split, label, f"{rate:.6g}", n)
            rows = [(kind, f"{start:.4f}", f"{end:.4f}") for start, end, kind in rows] or [("", "", "")]
            events += [(*head, *row) for row in rows]
            told = [_row(caption, ("start", "end", "text"), None) for caption in _of(clip, "captions")]
            captions += [(name, f"{start:.4f}", f"{end:.4f}", text) for start, end, text in told]
            pictures = (clip.frame(k / rate, size) for k in range(n))
            write_video(part / "videos" / f"{name}.mp4", (getattr(p, "visible", p) for p in pictures), rate, crf)
        if not seen:
            raise ValueError(f"{out}: no clips to write")
        _write(part / "annotations.csv", EVENTS, events)
        _write(part / "captions.csv", CAPTIONS, captions)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def read_clips(folder) -> list[VideoItem]:
    """Records of a folder that `write_clips` made, in the order of annotations.csv.

    Raises:
        FileNotFoundError: annotations.csv, or videos (all are named).
        ValueError: other columns, times that are no numbers or reversed.
    """
    folder = Path(folder)
    found: dict[str, tuple] = {}
    path = folder / "annotations.csv"
    for number, row in _table(path, EVENTS):
        fps, frames = _number(path, number, row, "fps"), int(_number(path, number, row, "frames"))
        head, events = found.setdefault(row["video"], ((row["label"], row["split"] or None, frames), []))
        if row["start"] or row["end"]:
            start, end = _times(path, number, row)
            events.append((math.ceil(start * fps - 1e-3), math.ceil(end * fps - 1e-3)))
    absent = [name for name in found if not (folder / "videos" / f"{name}.mp4").is_file()]
    if absent:
        files.missing(folder, absent, len(found), "annotations.csv")
    return [VideoItem(name, folder / "videos" / f"{name}.mp4", label, split, tuple(sorted(events)), frames=frames)
            for name, ((label, split, frames), events) in found.items()]


def read_captions(path, videos: Iterable[str] | Mapping[str, float]) -> dict[str, tuple[Caption, ...]]:
    """Captions of videos from a CSV of video, start, end (seconds), caption; sorted by start.

    Args:
        path: the CSV; a video is named by its id, with or without the suffix of its file.
        videos: known ids, or a mapping from id to length in seconds: captions are then clipped to the video, and
            left out when they begin beyond its end, with one warning.

    Returns:
        Captions of each known id; () where the file has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: missing or unknown columns, captions without their video (all are named), times that are no
            numbers, negative or reversed, an empty caption.
    """
    path, lengths = Path(path), videos if isinstance(videos, Mapping) else dict.fromkeys(videos, math.inf)
    found: dict[str, list[Caption]] = {name: [] for name in lengths}
    strangers, beyond = {}, []
    for number, row in _table(path, CAPTIONS):
        name = row["video"] if row["video"] in found else os.path.splitext(row["video"])[0]
        if name not in found:
            strangers[row["video"]] = None
            continue
        (start, end), text = _times(path, number, row), row["caption"].strip()
        if not text:
            raise ValueError(f"{path}:{number}: empty caption of {name}; write one or remove the line")
        if end > lengths[name] + 1e-3:
            beyond.append(f"{name} at {start:g} s")
        if start < lengths[name]:
            found[name].append(Caption(start, min(end, lengths[name]), text))
    if strangers:
        raise ValueError(f"{path}: captions of {len(strangers)} videos that are not there: {', '.join(strangers)}; "
                         "add the videos or remove the lines")
    if beyond:
        warnings.warn(f"{path}: {len(beyond)} captions beyond the video's end, clipped: {', '.join(beyond)}",
                      stacklevel=2)
    return {name: tuple(sorted(each, key=lambda caption: caption.start)) for name, each in found.items()}


def _classes() -> tuple[str, ...]:
    from cmf.simulate.surveillance import CLASSES

    return CLASSES


def _of(clip, name: str) -> list:
    value = getattr(clip, name)
    return list(value() if callable(value) else value or ())


def _row(record, names: tuple[str, ...], kind) -> tuple:
    """(start, end, text) of a tuple or an object; `kind` where it has no third part."""
    if hasattr(record, names[0]):
        return tuple(getattr(record, name, kind) for name in names)
    return tuple(record) if len(record) == 3 else (*record, kind)


def _table(path: Path, columns: tuple[str, ...]):
    """(line number, row) of a CSV with exactly these columns, in any order."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, restkey="", restval=None)
        if set(reader.fieldnames or ()) != set(columns):
            raise ValueError(f"{path}: columns {', '.join(reader.fieldnames or ()) or 'none'}; expected "
                             f"{', '.join(columns)}")
        for row in reader:
            if None in row.values() or "" in row:
                raise ValueError(f"{path}:{reader.line_num}: expected {len(columns)} fields; quote text with commas")
            yield reader.line_num, row


def _number(path: Path, number: int, row: dict, name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{path}:{number}: {name} {row[name]!r}, expected a number of 0 or more")
    return value


def _times(path: Path, number: int, row: dict) -> tuple[float, float]:
    start, end = (_number(path, number, row, name) for name in ("start", "end"))
    if end <= start:
        raise ValueError(f"{path}:{number}: from {start:g} to {end:g} s, reversed or empty; expected start < end")
    return start, end


def _write(path: Path, columns: tuple[str, ...], rows: list) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
