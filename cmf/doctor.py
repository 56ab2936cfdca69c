"""`python -m cmf doctor`: what is here, what is missing, and the command that mends it.

Standard library at the top; what may be broken (torch, weights) is imported where it is looked at.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cmf import paths

WORDS = {"well": "ok", "absent": "--", "wrong": "!!"}
ROOM = 10 * 2**30      # bytes of free disk that an installation and the caches may need


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    state: well; absent, what is optional and not here; wrong, what `make figures` or `make test` needs.
    mend: the command or step that helps, empty where nothing is to be done.
    """

    part: str
    state: str
    found: str
    mend: str = ""


def packages(lock: Path) -> Iterator[Finding]:
    """Installed packages against the lock file; a package whose lines all have conditions may be absent."""
    if not lock.is_file():
        yield Finding("packages", "absent", f"no {lock.name} beside this installation")
        return
    wanted: dict[str, list[str]] = {}
    plain = set()
    for line in lock.read_text(encoding="utf-8").splitlines():
        pin, _, marker = line.partition(";")
        name, _, version = pin.strip().partition("==")
        if version:
            wanted.setdefault(name, []).append(version)
            if not marker.strip():
                plain.add(name)
    other, missing = [], []
    for name, versions in wanted.items():
        try:
            own = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing += [name] * (name in plain)
            continue
        if own.partition("+")[0] not in versions:
            other.append(f"{name} {own}, locked {' or '.join(versions)}")
    if missing:
        yield Finding("packages", "wrong", f"not installed: {_some(missing)}", "make setup")
    if other:
        yield Finding("packages", "absent", f"of other versions: {_some(other)}",
                      "make setup, for the versions that were tested")
    if not missing and not other:
        yield Finding("packages", "well", f"{len(wanted)} as locked")


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def tools() -> Iterator[Finding]:
    """Python, make and git."""
    own = platform.python_version()
    yield Finding("python", "well" if sys.version_info >= (3, 11) else "wrong", f"{own}, {sys.executable}",
                  "" if sys.version_info >= (3, 11) else "make distclean; make setup PYTHON=python3.12")
    for name, least, mend in (("make", (4, 3), "install GNU Make 4.3 or later"), ("git", (2, 0), "install git")):
        found = _version(name)
        good = found is not None and found >= least
        yield Finding(name, "well" if good else "wrong", ".".join(map(str, found)) if found else "not found",
                      "" if good else mend)


def _version(tool: str) -> tuple[int, ...] | None:
    try:
        told = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(\d+)\.(\d+)", told)
    return tuple(map(int, match.groups())) if match else None


def device() -> Iterator[Finding]:
    """Processor, GPU and the compiled scans."""
    try:
        import torch
        import torchvision  # noqa: F401  fails beside a torch of another build
    except Exception as reason:
        yield Finding("torch", "wrong", f"cannot be imported: {_line(reason)}", "make distclean; make setup")
        return
    yield Finding("torch", "well", f"{torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        shown = ", ".join(f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards)
        yield Finding("GPU", "well", shown)
    else:
        yield Finding("GPU", "absent", "none that torch can use; the default profile needs none")
    from cmf.blocks.scan import FOUND

    fast = [name for name, there in FOUND.items() if there]
    yield Finding("scan", "well" if FOUND.get("numba") else "absent", ", ".join(fast) or "plain torch only",
                  "" if FOUND.get("numba") else "make setup, for the compiled scan on a CPU")


def _line(reason: BaseException) -> str:
    return " ".join(str(reason).split())[:160] or type(reason).__name__


def room(cache: Path) -> Iterator[Finding]:
    """The cache, whether it can be written, and the free space beside it."""
    above = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    held = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.is_dir() else 0
    free = shutil.disk_usage(above).free
    if not os.access(above, os.W_OK):
        yield Finding("cache", "wrong", f"{above} cannot be written", "CMF_CACHE_DIR=/a/folder/of/yours make figures")
    else:
        yield Finding("cache", "well", f"{cache}, {held / 2**20:.0f} MiB; `make clean` empties it")
    yield Finding("disk", "well" if free > ROOM else "absent", f"{free / 2**30:.0f} GiB free",
                  "" if free > ROOM else f"an installation takes some {ROOM >> 30} GiB")


def trained(folder: Path) -> Iterator[Finding]:
    """The project's own weights: each can be read, states its architecture and has a card."""
    from cmf import weights

    bad, good = [], []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            weights.facts(path)
        except (ValueError, OSError) as reason:
            bad.append(f"{path.name}: {_line(reason)}")
            continue
        if path.with_suffix(".md").is_file():
            good.append(path.stem)
        else:
            bad.append(f"{path.name} has no card")
    if bad or not good:
        yield Finding("weights", "wrong", _some(bad, 2) or f"none in {folder}", f"git checkout -- {folder}")
    else:
        yield Finding("weights", "well", f"{len(good)} with cards: {', '.join(good)}")


def data() -> Iterator[Finding]:
    """Data sets and published weights of the catalogue; all are optional."""
    from cmf import catalogue

    named = os.environ.get("CMF_DATA")
    if not named:
        yield Finding("CMF_DATA", "absent", "not set; profile real needs it", "export CMF_DATA=/folder/with/data")
    elif not Path(named).is_dir():
        yield Finding("CMF_DATA", "wrong", f"{named} is no folder", "unset CMF_DATA, or name a folder")
    for row in catalogue.rows():
        if row["kind"] != "generated":
            here = row["path"] is not None
            yield Finding(row["name"], "well" if here else "absent", str(row["path"]) if here else row["kind"],
                          "" if here else row["how"])


def findings() -> Iterator[Finding]:
    """All checks, in the order of the report; one that fails by itself is a finding too."""
    root = paths.root()
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        tools, lambda: packages(root / "requirements.lock"), device, lambda: room(paths.cache()),
        lambda: trained(Path(__file__).resolve().parent / "trained"), data)
    for check in checks:
        try:
            yield from check()
        except Exception as reason:
            yield Finding(getattr(check, "__name__", "check").strip("<>"), "wrong", f"could not look: {_line(reason)}")


def report(found: list[Finding]) -> str:
    """The findings as text: a line each, and below it what mends it."""
    lines = []
    for one in found:
        lines.append(f"{WORDS[one.state]} {one.part:<26} {one.found}")
        if one.mend:
            lines.append(f"{'':<29} -> {one.mend}")
    wrong = sum(one.state == "wrong" for one in found)
    lines.append(f"{wrong} wrong" if wrong else "`make figures` and `make test` can run")
    return "\n".join(lines)


def arguments(parser) -> None:
    """`python -m cmf doctor`; exit status 1 when something that the two commands need is wrong."""

    def run(_) -> int:
        found = list(findings())
        print(report(found))
        return int(any(one.state == "wrong" for one in found))

    parser.set_defaults(run=run)
