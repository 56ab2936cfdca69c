"""Command line of the audit: `python -m cmf.audit --help`."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmf import paths, runs
from cmf.audit import compare, records
from cmf.audit.compare import Line
from cmf.book import plan


def main(argv: Sequence[str] | None = None) -> int:
    """Audit the commit and write the page; 0: nothing failed, 1: something did, 2: no clone or no installation."""
    args = arguments().parse_args(argv)
    source = paths.root()
    try:
        plan.choose(source, args.only)
        with tempfile.TemporaryDirectory(prefix="cmf-audit-", dir=args.folder) as folder:
            root = clone(source, Path(folder) / "clone")
            make = setup(root, sys.executable if args.venv else None)
            lines = []
            for line in checks(root, make, args.only):
                print(f"{line.state}  {line.check}: {line.found}", flush=True)
                lines.append(line)
            text = page(lines, git(root, "rev-parse", "HEAD").strip(), args.only)
    except (ValueError, OSError, subprocess.CalledProcessError) as reason:
        print(f"cmf.audit: {reason}", file=sys.stderr)
        return 2
    if git(source, "status", "--porcelain"):
        text += "\nThere were changes that are not committed; they are not part of this audit.\n"
    place = source / "build" / "audit" / "index.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(place, text)
    print(f"\n{text}\n{place.relative_to(source)}")
    return int(any(line.state == "failed" for line in lines))


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m cmf.audit", description="Clone, build twice, compare, one page.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="notebooks, their numbers, or figures")
    parser.add_argument("--venv", action="store_true",
                        help="use this interpreter with its packages instead of installing the locked ones anew")
    parser.add_argument("--folder", metavar="DIR", help="where the temporary clone goes (default: the system's place)")
    return parser


def checks(root: Path, make: Sequence[str], only: Sequence[str] = ()) -> Iterator[Line]:
    """All lines of the page, as they are found: what the clone states, then what it builds."""
    yield from records.tests(root, make[0], environment(root))
    yield from (records.paper_files(root), records.figures_used(root), *records.origins(root), records.licences(root))
    yield from builds(root, make, only)


def clone(source: Path, folder: Path) -> Path:
    """A clone of the commit, without links to the original."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(source), str(folder)], check=True)
    return folder


def environment(root: Path) -> dict[str, str]:
    """The caller's environment without what would reach into the clone: this package's variables and cache, those of
    make, an active conda environment, GPUs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CMF_", "MAKE", "MFLAGS", "CONDA_DEFAULT_ENV"))}
    return kept | {"PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}


def setup(root: Path, python: str | None) -> list[str]:
    """Install in the clone as a newcomer does, or take `python` as it is: [interpreter, what make is given]."""
    if python:
        return [python, f"RUN={python}", "READY="]
    subprocess.run(["make", "setup"], cwd=root, env=environment(root), check=True)
    return [str(root / ".venv" / "bin" / "python")]


def builds(root: Path, make: Sequence[str], only: Sequence[str] = ()) -> Iterator[Line]:
    """Build the demo figures of a clone twice, each time with nothing cached, and compare."""
    kept = {str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "figures").rglob("*"))
            if path.is_file()}
    drawn = []
    for k in (1, 2):
        shutil.rmtree(root / "build", ignore_errors=True)
        began = time.monotonic()
        ended = subprocess.run(["make", "figures", "PROFILE=demo", "P=", f"ONLY={' '.join(only)}", *make[1:]],
                               cwd=root, env=environment(root))
        chosen = plan.jobs(root, "demo", (), only)
        failed = [f"{job.name} failed" for job in chosen if not job.stamp.is_file()]
        if ended.returncode and not failed:
            failed = [f"make figures ended with {ended.returncode}"]
        minutes = (time.monotonic() - began) / 60
        yield compare.verdict(f"build {k}", f"{len(chosen)} notebooks in {minutes:.1f} minutes, nothing cached", failed)
        drawn.append({name: (root / name).read_bytes() for job in chosen for name in plan.outputs(job)
                      if name.startswith("figures/")})
    timings = [word.replace("values.", f"{job.name}.", 1) for job in chosen
               for word in plan.declared(job.source, "TIMINGS")]
    yield compare.twice(*drawn, timings)
    yield from compare.committed(drawn[1], kept, timings)


def page(lines: Sequence[Line], commit: str, only: Sequence[str] = ()) -> str:
    """The page as Markdown: a line a check, then what is wrong."""
    states = [line.state for line in lines]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("passed", "failed", "skipped"))
    chosen = f", notebooks {' '.join(only)} only" if only else ""
    text = ["# Reproducibility audit", "", f"Commit {commit}, {time.strftime('%Y-%m-%d')}{chosen}. {counts}.", "",
            "| check | state | what was looked at |", "|---|---|---|"]
    text += [f"| {line.check} | {line.state} | {line.found.replace('|', '/')} |" for line in lines]
    for line in lines:
        if line.wrong:
            text += ["", f"## {line.check}", "", *(f"* {words}" for words in line.wrong)]
    return "\n".join(text) + "\n"


def git(root: Path, *words: str) -> str:
    """What git says."""
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
