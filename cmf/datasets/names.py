"""Names: pictures of a folder by theirs, and how many of them an error message gives."""
from __future__ import annotations

from pathlib import Path

from cmf.datasets.pictures import SUFFIXES

NAMED = 10  # names in an error before the rest is only counted


def listed(names) -> str:
    """The first ten names and how many more there are, for an error message."""
    names = [str(name) for name in names]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def stems(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by their name without suffix.

    Raises:
        FileNotFoundError: no pictures in it. ValueError: two of one name.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            found.setdefault(path.stem, []).append(path)
    if not found:
        raise FileNotFoundError(f"{folder}: no pictures in it; expected files that end in {', '.join(SUFFIXES)}")
    twice = [" and ".join(path.name for path in paths) for paths in found.values() if len(paths) > 1]
    if twice:
        raise ValueError(f"{folder}: one name twice: {listed(twice)}; keep one of each")
    return {stem: paths[0] for stem, paths in found.items()}
