"""What is out of date, by content: hashes of notebook, modules, parameters, inputs and outputs.

A stamp (build/<profile>/<notebook>.stamp.json) is written last, when every output is in place. File times
mean nothing: a clone has arbitrary ones.
"""

import ast
import glob
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmf import runs, sources
from cmf.book import needs, parameters, rests


@dataclass
class Job:
    """One notebook with the parameters it is to run with, or what some of its figures rest on."""

    root: Path
    name: str                        # NN_name
    profile: str
    given: dict[str, object]         # parameters that differ from the notebook's defaults
    values: dict[str, object]        # all of them
    build: Path                      # folder of the executed copy, stamp and staging
    target: Path                     # folder of the figures
    skip: str | None = None          # why it is left out
    figures: list[str] = field(default_factory=list)
    alone: bool = False              # only these figures, and only the statements that they rest on

    @property
    def label(self) -> str:
        return f"{self.name}.{'+'.join(self.figures)}" if self.alone else self.name

    @property
    def source(self) -> Path:
        return self.root / "notebooks" / f"{self.name}.py"

    @property
    def executed(self) -> Path:
        return self.build / f"{self.label}.ipynb"

    @property
    def stamp(self) -> Path:
        return self.build / f"{self.label}.stamp.json"

    @property
    def staging(self) -> Path:
        return self.build / "staging" / self.label


def notebooks(root: Path) -> list[str]:
    """Names of the notebooks, in order: notebooks/NN_name.py."""
    return sorted(p.stem for p in (root / "notebooks").glob("[0-9][0-9]_*.py"))


def drawn(source: Path) -> list[str]:
    """Names of the figures that a notebook saves."""
    return rests.saved(ast.parse(source.read_text(encoding="utf-8"), str(source)))


def choose(root: Path, only: Sequence[str]) -> list[str]:
    """Notebooks by name, number (03), or the name of a figure they draw; all without `only`.

    Raises:
        ValueError: no notebooks at all, or a word that names nothing.
    """
    names = notebooks(root)
    if not names:
        raise ValueError(f"no notebooks/NN_name.py in {root.name}; run this in the project's folder")
    figures = {name: drawn(root / "notebooks" / f"{name}.py") for name in names} if only else {}
    chosen = set()
    for word in only:
        found = [name for name in names if word in (name, name[:2]) or word in figures[name]]
        if not found:
            known = "\n".join(f"  {name}: {', '.join(figures[name]) or '(no figure)'}" for name in names)
            raise ValueError(f"{word!r} is neither a notebook nor a figure; there are\n{known}")
        chosen.update(found)
    return [name for name in names if not only or name in chosen]


def jobs(root: Path, profile: str, assignments: Sequence[str] = (), only: Sequence[str] = (),
         whole: bool = False) -> list[Job]:
    """The chosen notebooks with their checked parameters.

    A notebook that is chosen by figures alone, and not by its name or number, is run for these figures alone, but for
    `whole`. Values from the command line give folders of their own below build/, so that a trial never writes over
    the figures of a profile.

    Raises:
        ValueError: anything unknown in the profile, the assignments or `only`, or something that the profile
            requires for these notebooks and that is not here.
    """
    root = root.resolve()
    names = choose(root, only)
    known = {name: parameters.read(root / "notebooks" / f"{name}.py") for name in notebooks(root)}
    stored, requires, skip = parameters.profile(root, profile, known)
    checked = {name: parameters.check(name, known[name], stored.get(name, {})) for name in known}
    added = parameters.spread(assignments, {name: known[name] for name in names})
    needs.check(profile, {name: requires.get(name, []) for name in names if name not in skip})
    folder, target = root / "build" / profile, root / "figures" / profile
    if assignments:
        mark = hashlib.sha256("\n".join(sorted(assignments)).encode()).hexdigest()[:8]
        folder = root / "build" / f"{profile}+{mark}"
        target = folder / "figures"
    made = []
    for name in names:
        given = checked[name] | parameters.check(name, known[name], added[name])
        given = {k: v for k, v in given.items()
                 if v != known[name][k].default or type(v) is not type(known[name][k].default)}
        values = {k: parameter.default for k, parameter in known[name].items()} | given
        figures = drawn(root / "notebooks" / f"{name}.py")
        alone = bool(only) and not whole and not {name, name[:2]} & set(only)
        figures = [figure for figure in figures if figure in only] if alone else figures
        made.append(Job(root, name, profile, given, values, folder, target, skip.get(name), figures, alone))
    return made


def facts(job: Job) -> dict:
    """Everything that the notebook's outputs rest on, as hashes."""
    text = job.source.read_text(encoding="utf-8")
    lock = job.root / "requirements.lock"
    return {
        "notebook": {job.source.name: hashlib.sha256(text.encode()).hexdigest()},
        "modules": {str(p.relative_to(job.root)): sources.code_hash(p) for p in sources.reach(job.source, job.root)},
        "parameters": {name: repr(value) for name, value in job.given.items()},
        "inputs": _inputs(job),
        "environment": {"python": platform.python_version(),
                        "requirements.lock": sources.sha256(lock) if lock.is_file() else "absent"},
    }


def stale(job: Job, now: Mapping) -> list[str]:
    """Why the notebook must run; empty when it is up to date, as a whole where figures alone are asked for."""
    if job.alone and not stale(replace(job, alone=False), now):
        return []
    try:
        stamp = json.loads(job.stamp.read_text(encoding="utf-8"))
        before, outputs = stamp["facts"], stamp["outputs"]
    except FileNotFoundError:
        return ["it has not been run here"]
    except (ValueError, KeyError):
        return ["its stamp cannot be read"]
    reasons = []
    for group, content in now.items():
        earlier = before.get(group, {})
        for name in sorted(content.keys() | earlier.keys()):
            old, new = earlier.get(name), content.get(name)
            if old != new and group == "parameters":
                reasons.append(f"{name}: {old or 'default'} -> {new or 'default'}")
            elif old != new:
                reasons.append(f"{name} {'is new' if old is None else 'is gone' if new is None else 'changed'}")
    for name, wanted in outputs.items():
        path = job.root / name
        if not path.is_file():
            reasons.append(f"{name} is missing")
        elif sources.sha256(path) != wanted:
            reasons.append(f"{name} was changed")
    return reasons


def waits(job: Job) -> bool:
    """Does the notebook read what other notebooks draw (INPUTS below figures/, but for the long results, which none
    draws)?"""
    return any(pattern.startswith("figures/") and "/results/" not in pattern
               for pattern in declared(job.source, "INPUTS"))


def declared(source: Path, what: str) -> list[str]:
    """A list of strings that a notebook states at its top level, empty where it does not.

    INPUTS: files that its outputs rest on. TIMINGS: figures that show how long something took, and values of that
    kind as "values.name", for they differ from run to run.

    Raises:
        ValueError: something else than a list of literal strings.
    """
    for node in ast.parse(source.read_text(encoding="utf-8"), str(source)).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [what]:
            try:
                found = ast.literal_eval(node.value)
                if isinstance(found, list) and all(isinstance(word, str) for word in found):
                    return found
            except ValueError:
                pass
            raise ValueError(f"{source.name}, line {node.lineno}: {what} must be a list of literal strings, "
                             f"got {ast.unparse(node.value)}")
    return []


def _inputs(job: Job) -> dict[str, str]:
    found = {}
    data = os.environ.get("CMF_DATA")
    for pattern in declared(job.source, "INPUTS"):
        base, rest = job.root, pattern
        if pattern.startswith("$CMF_DATA/") and job.profile == "demo":
            continue  # demo makes its own data; what lies elsewhere must not change it
        if pattern.startswith("$CMF_DATA/"):
            base, rest = data and Path(data).resolve(), pattern.removeprefix("$CMF_DATA/")
        files = sorted(glob.glob(rest, root_dir=base, recursive=True)) if base else []
        files = [name for name in files if (base / name).is_file()]
        prefix = pattern.removesuffix(rest)
        found |= {prefix + name: _hash(base / name, job.root) for name in files}
        if not files:
            found[pattern] = "absent"
    return found


def _hash(path: Path, root: Path) -> str:
    """sha256 of an input; of large files it is remembered by path, size and time of change."""
    stat = path.stat()
    if stat.st_size < 1 << 20:
        return sources.sha256(path)
    memory = root / "build" / "hashes.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    key = f"{path} {stat.st_size} {stat.st_mtime_ns}"
    if key not in known:
        known[key] = sources.sha256(path)
        memory.parent.mkdir(parents=True, exist_ok=True)
        runs.write_text(memory, json.dumps(known, indent=1))
    return known[key]


def outputs(job: Job) -> set[str]:
    """Files, relative to the project, that the last run of the notebook made; empty where there was none."""
    try:
        return set(json.loads(job.stamp.read_text(encoding="utf-8"))["outputs"])
    except (OSError, ValueError, KeyError):
        return set()


def publish(job: Job, now: Mapping, seconds: float) -> list[str]:
    """Move the staged figures into place and write the stamp, which comes last; names of the figures.

    A figure's JSON that differs only in seconds and commit stays as it is. Files of an earlier run that this
    one no longer makes are removed. Figures alone leave the notebook's values and, where they come out equal, their
    JSON.
    """
    earlier, found = outputs(job), {}
    staged = sorted(p for p in job.staging.rglob("*") if p.is_file() and p.suffix != ".part")
    if job.alone:
        own = [p for p in staged if p.parent == job.staging and p.name.split(".")[0] in job.figures]
        news = {p.name.split(".")[0] for p in own if p.suffix != ".json" and not _same(p, job.target / p.name)}
        staged = [p for p in own if p.suffix != ".json" or p.stem in news]
    for path in staged:
        place = job.target / path.relative_to(job.staging)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not _same(path, place):
            os.replace(path, place)
        found[str(place.relative_to(job.root))] = sources.sha256(place)
    found[str(job.executed.relative_to(job.root))] = sources.sha256(job.executed)
    for name in earlier - set(found):
        (job.root / name).unlink(missing_ok=True)
    figures = sorted(p.stem for p in staged if p.suffix == ".pdf")
    stamp = {"facts": now, "outputs": found, "seconds": round(seconds, 1), "figures": figures}
    runs.write_text(job.stamp, json.dumps(stamp, indent=1) + "\n")
    return figures


def _same(staged: Path, placed: Path) -> bool:
    if not placed.is_file():
        return False
    if staged.read_bytes() == placed.read_bytes():
        return True
    try:
        one, other = json.loads(staged.read_text()), json.loads(placed.read_text())
        return staged.suffix == ".json" and isinstance(other, dict) and runs.same_facts(one, other)
    except ValueError:
        return False
