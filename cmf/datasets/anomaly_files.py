"""Lists, annotation lines and videos on disk, for `cmf.datasets.anomaly`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from cmf.datasets.video_decode import PICTURES, natural

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".flv", ".3gp", ".gif")
BESIDE = (".csv", ".txt", ".json", ".md", ".npy", ".npz", "")  # files that may lie beside videos


def listing(folder: Path, name: str) -> Path:
    """Path of a list in the folder or, failing that, below it. Raises FileNotFoundError."""
    for path in [folder / name, *sorted(folder.rglob(name))]:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder}: no {name} in it or below; it comes with the data set")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of the lines that are not empty. Raises FileNotFoundError, ValueError for none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise ValueError(f"{path}: the list is empty")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def intervals(path, number: int, line: str, values: list[str], first: int) -> tuple[tuple[int, int], ...]:
    """Half-open intervals from 0 of pairs start, end; the pair -1 -1 stands for none.

    first: 1 where frames count from 1 and the end is included, 0 where they count from 0 and it is not.
    Raises ValueError for an odd number of values, other text, or an end before its start.
    """
    try:
        numbers = [int(value) for value in values]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise ValueError(f"{path}:{number}: {line!r}, expected whole numbers in pairs start end") from None
    pairs = [pair for pair in pairs if pair != (-1, -1)]
    for start, end in pairs:
        if start < first or end < start + 1 - first:
            raise ValueError(f"{path}:{number}: from {start} to {end} in {line!r}, expected {first} <= start "
                             f"{'<=' if first else '<'} end")
    return tuple((start - first, end) for start, end in pairs)


def videos(folder: Path, may_be_empty: bool = False) -> list[Path]:
    """Video files at any depth, sorted by the numbers in their names. Raises FileNotFoundError for none."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS and not path.name.startswith(".")]
    if not found and not may_be_empty:
        raise FileNotFoundError(f"{folder}: no videos in it or below ({', '.join(VIDEOS)})")
    return sorted(found, key=lambda path: natural(path.as_posix()))


def by_name(folder: Path, wanted: Iterable[str], source: Path) -> dict[str, Path]:
    """Video of each wanted file name, the first of equal names. Raises FileNotFoundError with all that are missing."""
    found: dict[str, Path] = {}
    for path in videos(folder, may_be_empty=True):
        found.setdefault(path.name, path)
    wanted = list(wanted)
    absent = [name for name in wanted if name not in found]
    if absent:
        missing(folder, absent, len(wanted), source)
    return found


def missing(folder, names: list[str], total: int, source) -> NoReturn:
    """Raises FileNotFoundError that names all of them."""
    raise FileNotFoundError(f"{folder}: {len(names)} of {total} of {source} are missing: {', '.join(names)}; "
                            "put them there, or take them off the list")


def mask(path: Path) -> np.ndarray:
    """0/1 mask of frames (n,). Raises ValueError for another shape or other values."""
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as reason:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({reason})") from reason
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not len(values) or not np.isin(values, (0, 1)).all():
        raise ValueError(f"{path}: expected (n,) values of 0 and 1, one a frame; got shape "
                         f"{getattr(values, 'shape', None)}")
    return values.astype(bool)


def sources(folder: Path) -> list[Path]:
    """Video files, and folders that hold pictures, at any depth. Warns of files that are neither."""
    entries = sorted((path for path in folder.iterdir() if not path.name.startswith(".")),
                     key=lambda path: natural(path.name))
    if any(path.suffix.lower() in PICTURES for path in entries if path.is_file()):
        return [folder]
    strange = [path.name for path in entries
               if path.is_file() and path.suffix.lower() not in (*VIDEOS, *BESIDE)]
    if strange:
        warnings.warn(f"{folder}: neither video nor picture, left out: {', '.join(strange)}", stacklevel=3)
    found = []
    for path in entries:
        if path.is_dir():
            found += sources(path)
        elif path.suffix.lower() in VIDEOS:
            found.append(path)
    return found
