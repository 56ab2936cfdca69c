"""What `python -m cmf fuse` and `segment` share: the folder that they make, options on pairs, and how they end."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def aside(out: Path) -> Iterator[Path]:
    """The folder `<out>.part`, new and empty, and gone afterwards unless `completed` has given it its name.

    Raises:
        OSError: `out` holds something or cannot be made.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; remove it or choose another one")
    part = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as reason:
        raise OSError(f"{out} cannot be written ({reason.strerror}); give a folder of your own") from reason
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def completed(part: Path, out: Path) -> Iterator[None]:
    """The body writes the last files of `part`, which then becomes `out`. Raises OSError when there is no room."""
    try:
        yield
        if out.exists():
            out.rmdir()
        part.replace(out)
    except OSError as reason:
        raise OSError(f"{out} cannot be written ({reason.strerror or reason}); make room or give a folder of your "
                      "own") from reason


def alignment(parser) -> None:
    """--align."""
    parser.add_argument("--align", choices=("refuse", "resize"), default="refuse",
                        help="resize: an infrared picture of another size takes the visible one's (default: refuse)")


def arguments(parser) -> None:
    """--align and --device."""
    alignment(parser)
    parser.add_argument("--device", metavar="D", help="cpu or cuda; default: a GPU where there is one")


def why(stem: str, reason: Exception) -> str:
    """Why a pair could not be read or answered, with its name."""
    return str(reason) if stem in str(reason) else f"{stem}: {reason}"


def closing(lines: Sequence[str], done: int, pairs: int, verb: str, failed: dict[str, str], out: Path) -> int:
    """Print what failed and what was done; the exit status, 1 where a pair failed."""
    for reason in failed.values():
        print(f"cmf: {' '.join(reason.split())}", file=sys.stderr)
    print(*lines, f"{done} of {pairs} pairs {verb}" + (f"; see {out}" if done else ""), sep="\n")
    return 1 if failed else 0
