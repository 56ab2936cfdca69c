"""Command line of the runner: `python -m cmf.book --help`."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cmf import paths, runs
from cmf.book import execute, parameters, plan


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of the runner; 0: all well, 1: a notebook failed, 2: refused, 130: stopped."""
    args = arguments().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, SyntaxError) as error:
        print(f"cmf.book: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cmf.book: stopped; what was finished is kept, the same command goes on from here", file=sys.stderr)
        return 130


def arguments(parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """The commands and their options, on a parser of one's own or on a new one."""
    parser = parser or argparse.ArgumentParser(prog="python -m cmf.book", description="The strict notebook runner.")
    commands = parser.add_subparsers(required=True, metavar="command")
    draw = commands.add_parser("figures", help="run the notebooks that are out of date")
    draw.set_defaults(run=figures, whole=False)
    draw.add_argument("--profile", default="demo", help="notebooks/profiles/<name>.yaml; demo: the defaults")
    draw.add_argument("-p", dest="assignments", action="append", default=[], metavar="name=value",
                      help="a parameter, for the chosen notebooks that have it")
    draw.add_argument("--only", nargs="+", default=[], metavar="NAME",
                      help="notebooks, their numbers, or figures; of figures only what they rest on is run")
    draw.add_argument("--plan", action="store_true", help="say what would run and why, run nothing")
    pairs = commands.add_parser("notebooks", help="run what is out of date and write notebooks/*.ipynb")
    pairs.set_defaults(run=notebooks, profile="demo", assignments=[], plan=False, whole=True)
    pairs.add_argument("--only", nargs="+", default=[], metavar="NAME", help="notebooks, their numbers, or figures")
    for command in (draw, pairs):
        command.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1),
                             help="notebooks at once (default: 2, on one core 1)")
        command.add_argument("--force", action="store_true", help="run also what is up to date")
    tell = commands.add_parser("parameters", help="list a notebook's parameters")
    tell.set_defaults(run=describe)
    tell.add_argument("notebook", nargs="*", help="name, number or figure; all without")
    return parser


def figures(args: argparse.Namespace) -> int:
    """Draw what is out of date; see `--help`."""
    if args.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {args.jobs}")
    root = paths.root()
    chosen = plan.jobs(root, args.profile, args.assignments, args.only, args.whole)
    if args.plan:
        for job in chosen:
            reasons = [f"skipped: {job.skip}"] if job.skip else plan.stale(job, plan.facts(job))
            state = reasons[0] if job.skip else f"runs: {_some(reasons)}" if reasons else "up to date"
            print(f"{job.name:<20} {state}")
        return 0
    build = chosen[0].build
    build.mkdir(parents=True, exist_ok=True)
    with _alone(build, args.profile):
        rows = asyncio.run(_supervised(chosen, args.jobs, args.force))
    if rows is None:
        raise KeyboardInterrupt
    print(closing_table(rows, chosen[0].target.relative_to(root)))
    if any(job.alone and row["state"] == "drawn" for job, row in zip(chosen, rows, strict=True)):
        print("drawn alone, without the checks of its notebook; `make figures` runs them and draws it for good")
    return int(any(row["state"] == "failed" for row in rows))


def notebooks(args: argparse.Namespace) -> int:
    """Run the demo profile and write each executed copy as the pair of its source."""
    root, status = paths.root(), figures(args)
    for job in plan.jobs(root, "demo", (), args.only, whole=True):
        if plan.stale(job, plan.facts(job)):
            continue  # failed: the pair stays as it was
        pair = job.source.with_suffix(".ipynb")
        before = pair.read_bytes() if pair.is_file() else b""
        runs.write_text(pair, normalised(job.executed))
        print(f"{pair.relative_to(root)} {'unchanged' if pair.read_bytes() == before else 'written'}")
    return status


def describe(args: argparse.Namespace) -> int:
    """List the parameters of the chosen notebooks."""
    root = paths.root()
    for name in plan.choose(root, args.notebook):
        print(f"{name}\n{parameters.table(parameters.read(root / 'notebooks' / f'{name}.py'))}")
    return 0


def normalised(executed: Path) -> str:
    """An executed notebook's text without what changes from run to run: timings, scroll states, versions."""
    book = json.loads(executed.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "tags"}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output["metadata"] = {}
    return json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def closing_table(rows: Sequence[dict], target: Path) -> str:
    """The table a run ends with: notebook, state, seconds, figures; failures with their cell and error."""
    width = max(len(row["notebook"]) for row in rows)
    lines = ["", f"{'notebook':<{width}}  state       seconds  figures in {target}"]
    for row in rows:
        seconds = f"{row['seconds']:7.1f}" if row["seconds"] else f"{'-':>7}"
        line = f"{row['notebook']:<{width}}  {row['state']:<10}  {seconds}  {', '.join(row['figures'])}{row['note']}"
        lines.append(line.rstrip())
    counts = {state: sum(row["state"] == state for row in rows) for state in ("drawn", "up to date", "failed",
                                                                             "skipped")}
    return "\n".join([*lines, ", ".join(f"{n} {state}" for state, n in counts.items() if n)])


async def _supervised(chosen: Sequence[plan.Job], jobs: int, force: bool) -> list[dict] | None:
    """`execute.run_all`; None when a signal ended it, with every kernel shut down."""
    screen = execute.Screen()
    task = asyncio.ensure_future(execute.run_all(chosen, screen, jobs, force))
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(name, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        screen.close()
        return None


@contextlib.contextmanager
def _alone(build: Path, profile: str):
    """One run of a profile at a time; the system frees the lock when its holder dies."""
    import fcntl

    with open(build / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"another run of profile {profile} is going on; waiting for it to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _some(reasons: Sequence[str], most: int = 4) -> str:
    more = len(reasons) - most
    return "; ".join(reasons[:most]) + (f"; and {more} more" if more > 0 else "")


if __name__ == "__main__":
    sys.exit(main())
