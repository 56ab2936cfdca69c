"""Where things lie. Standard library only; every module may import it."""

import os
from pathlib import Path


def root(start: Path | str | None = None) -> Path:
    """The project's folder: CMF_ROOT, else the nearest folder from `start` (default: here) upwards that holds
    pyproject.toml and notebooks/, else the folder this package was installed from.

    Raises:
        FileNotFoundError: CMF_ROOT names no folder.
    """
    named = os.environ.get("CMF_ROOT")
    if named:
        if not Path(named).is_dir():
            raise FileNotFoundError(f"CMF_ROOT is {named!r}, which is no folder; unset it or name the checkout")
        return Path(named).resolve()
    here = Path(start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parents[1]


def build() -> Path:
    """Folder of everything that can be made again: root/build."""
    return root() / "build"


def figures() -> Path:
    """Where figures go: CMF_FIGURES (the runner sets it), else build/interactive/figures, so that stepping
    through a notebook never writes over committed figures."""
    named = os.environ.get("CMF_FIGURES")
    return Path(named) if named else build() / "interactive" / "figures"


def cache() -> Path:
    """Folder of cached results: CMF_CACHE_DIR, else build/cache."""
    named = os.environ.get("CMF_CACHE_DIR")
    return Path(named) if named else build() / "cache"
