"""Registered pairs of pictures: matched from files and folders, found by the name of a set, or simulated.

Axes: n pairs, H, W rows and columns.
"""
from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmf.datasets.pictures import SUFFIXES, Picture, read


@dataclass(frozen=True)
class Pair:
    """Two registered pictures of one scene; of a medical pair `visible` is CT, PET or SPECT and `infrared` is MRI."""

    stem: str
    visible: Path
    infrared: Path


def match(visible, infrared) -> list[Pair]:
    """The pair of two files, or the pairs of two folders whose names agree but for the suffix, sorted by name.

    Files in a folder that are no pictures, and hidden ones, are passed over; folders below it too. A pair of two files
    bears the visible one's name. Pictures without a partner are warned about when others have one.

    Raises:
        FileNotFoundError: nothing at a path, or a folder without pictures.
        ValueError: a file and a folder, one name twice in a folder, or no name in both (names are listed).
    """
    paths = [Path(visible), Path(infrared)]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such picture or folder; give two pictures or two folders of pictures")
    if not any(path.is_dir() for path in paths):
        return [Pair(paths[0].stem, *paths)]
    if not all(path.is_dir() for path in paths):
        raise ValueError(f"{paths[0]} and {paths[1]} are a picture and a folder; give two pictures or two folders")
    files = [_stems(path) for path in paths]
    both = sorted(files[0].keys() & files[1].keys())
    lonely = [f"in {paths[i]} only: {_listed(sorted(files[i].keys() - both))}" for i in (0, 1)
              if files[i].keys() - both]
    if not both:
        raise ValueError(f"no name is in both folders; {'; '.join(lonely)}. Partners bear one name, such as 0001.png "
                         "and 0001.jpg")
    if lonely:
        warnings.warn(f"pictures without a partner are left out; {'; '.join(lonely)}", stacklevel=2)
    return [Pair(stem, files[0][stem], files[1][stem]) for stem in both]


def _stems(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by their name without suffix."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            found.setdefault(path.stem, []).append(path)
    if not found:
        raise FileNotFoundError(f"{folder}: no pictures in it; expected files that end in {', '.join(SUFFIXES)}")
    twice = [" and ".join(path.name for path in paths) for paths in found.values() if len(paths) > 1]
    if twice:
        raise ValueError(f"{folder}: one name twice: {_listed(twice)}; keep one of each")
    return {stem: paths[0] for stem, paths in found.items()}


def _listed(names) -> str:
    from cmf.datasets.targets import listed

    return listed(names)


def load(pair: Pair, align: str = "refuse") -> tuple[Picture, Picture]:
    """The visible and the infrared picture of a pair, of one size.

    align: "refuse" different sizes, or "resize" the infrared to the visible's: mean over areas where it shrinks,
    cubic where it grows; a warning when the shapes differ by more than 2 %, since that distorts.

    Raises:
        ValueError: different sizes (both are named), another `align`, and as `cmf.datasets.pictures.read`.
    """
    if align not in ("refuse", "resize"):
        raise ValueError(f"align {align!r}: expected refuse or resize")
    visible, infrared = read(pair.visible), read(pair.infrared)
    if visible.size == infrared.size:
        return visible, infrared
    sizes = (f"{pair.stem}: visible {visible.size[1]} x {visible.size[0]}, infrared {infrared.size[1]} x "
             f"{infrared.size[0]} pixels (width x height)")
    if align == "refuse":
        raise ValueError(f"{sizes}; expected one size. Register them, or resize the infrared (--align resize)")
    stretch = np.divide(visible.size, infrared.size)
    if abs(stretch[0] / stretch[1] - 1) > 0.02:
        warnings.warn(f"{sizes}: the shapes differ, resizing distorts the infrared", stacklevel=2)
    planes = {name: _resized(getattr(infrared, name), visible.size) for name in ("luma", "chroma", "alpha")
              if getattr(infrared, name) is not None}
    return visible, replace(infrared, **planes)


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) or (H, W, 2) at another size, within the range of its values."""
    import cv2

    low, high = plane.min(), plane.max()
    less = [min(a, b) for a, b in zip(plane.shape, size, strict=False)]
    plane = cv2.resize(plane, less[::-1], interpolation=cv2.INTER_AREA)
    return np.clip(cv2.resize(plane, size[::-1], interpolation=cv2.INTER_CUBIC), low, high)
