"""What a checkout states of itself: the numbers of the paper, the use of its figures, origins, hashes and licences.

Rules that tests hold are not written a second time: those tests are run, by name.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from cmf import catalogue, paper, sources
from cmf.audit.compare import Line, verdict
from cmf.book import plan

# check -> tests that hold it
TESTS = {
    "numbers in the text": ("tests/test_paper.py::test_every_call_in_the_text_is_understood",
                            "tests/test_paper.py::test_no_measured_number_is_typed"),
    "equations": ("tests/test_paper.py::test_equations_and_their_tests_belong_together",
                  "tests/test_paper.py::test_every_displayed_equation_has_a_label",
                  "tests/test_paper_*.py"),
    "references": ("tests/test_paper.py::test_references_are_cited_and_have_an_address",),
    "notebook pairs": ("tests/test_notebooks.py",),
    "figure table": ("tests/test_readme.py::test_figure_table_agrees_with_the_notebooks",
                     "tests/test_readme.py::test_every_notebook_is_in_the_figure_table"),
    "catalogue": ("tests/test_catalogue.py::test_entries_say_enough", "tests/test_catalogue.py::test_bad_entry"),
    "environment and lock": ("tests/test_make.py::test_conda_pins_agree_with_the_lock_and_have_reasons",),
    "rules of the code": ("tests/test_architecture.py",),
}


def tests(root: Path, python: str, environment: dict[str, str]) -> Iterator[Line]:
    """Run TESTS in a checkout, a line a check. A test that is gone fails its check."""
    report = root / "build" / "audit.xml"
    report.parent.mkdir(exist_ok=True)
    for check, patterns in TESTS.items():
        names = [name for pattern in patterns for name in _files(root, pattern)]
        ended = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *names],
                               cwd=root, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
        report.unlink(missing_ok=True)
        bad = [f"{case.get('classname')}.{case.get('name')}" for case in cases
               if {child.tag for child in case} & {"failure", "error"}]
        if ended.returncode and not bad:
            bad = [" ".join((ended.stdout + ended.stderr).split())[-300:] or f"pytest ended with {ended.returncode}"]
        skipped = sum(case.find("skipped") is not None for case in cases)
        files = ", ".join(dict.fromkeys(name.partition("::")[0] for name in patterns))
        yield verdict(check, f"{len(cases) - len(bad) - skipped} passed, {skipped} skipped, of {files}", bad)


def paper_files(root: Path) -> Line:
    """Every number, figure and table of the paper is in a committed file."""
    return verdict("the paper's files", f"{len(paper.needs(root))} numbers, figures and tables looked up",
                   [f"{what} is not there" for what in paper.missing(root)])


def figures_used(root: Path) -> Line:
    """Every committed figure is drawn by a notebook, and shown by the paper or named in the README."""
    shown = {file for file, _ in paper.needs(root)}
    named = set(re.findall(r"`([a-z0-9_]+)`", (root / "README.md").read_text(encoding="utf-8")))
    drawn = {name for book in plan.notebooks(root) for name in plan.drawn(root / "notebooks" / f"{book}.py")}
    wrong, kept = [], sorted((root / "figures").glob("*/*.pdf"))
    for path in kept:
        file = path.relative_to(root).as_posix()
        if path.stem not in drawn:
            wrong.append(f"{file} is drawn by no notebook")
        if file not in shown and path.stem not in named:
            wrong.append(f"{file} is neither in the paper nor in the README")
    in_paper = sum(path.relative_to(root).as_posix() in shown for path in kept)
    return verdict("figures used", f"{len(kept)} figures, {in_paper} in the paper, the others in the README", wrong)


def origins(root: Path) -> list[Line]:
    """Commit and inputs that figures and results state: the commit is in the history, the inputs are those here.

    Inputs below CMF_DATA need a catalogue entry with checksum and licence, and no more, for they are not here.
    """
    commits, inputs, dirty, wrong = {}, {}, 0, []
    for path in _records(root):
        record, file = json.loads(path.read_text(encoding="utf-8")), path.relative_to(root).as_posix()
        run = record.get("run") or record
        if not run.get("commit"):
            wrong.append(f"{file} states no commit")
            continue
        if run.get("alone"):
            wrong.append(f"{file} was drawn without the checks of its notebook: make figures")
        commits.setdefault(run["commit"], file)
        dirty += bool(run.get("dirty"))
        for name, sha in ((run.get("inputs") or {}) | (record.get("inputs") or {})).items():
            inputs.setdefault((name, sha), []).append(file)
    for commit, file in commits.items():
        if subprocess.run(["git", "-C", str(root), "merge-base", "--is-ancestor", commit, "HEAD"],
                          capture_output=True).returncode:
            wrong.append(f"{file} was made at {commit[:12]}, which is not in the history")
    found = f"{len(_records(root))} records of {len(commits)} commits; {dirty} were made with changes not yet committed"
    lines = [verdict("commits", found, wrong)]
    wrong = [f"{users[0]} and {len(users) - 1} more: {fault}" for (name, sha), users in sorted(inputs.items())
             if (fault := _input(root, name, sha))]
    return [*lines, verdict("inputs of figures", f"{len(inputs)} files that figures rest on, by sha256", wrong)]


def licences(root: Path) -> Line:
    """Weights of the project state architecture and licence and have a card; catalogue entries have a licence, and
    a checksum or a word on how to obtain them."""
    from cmf import weights

    kept, wrong = sorted((root / "cmf/trained").glob("*.safetensors")), []
    for path in kept:
        try:
            weights.facts(path)
        except ValueError as reason:
            wrong.append(" ".join(str(reason).replace(str(root), "").split()))
        card = path.with_suffix(".md")
        if not card.is_file() or "licence" not in card.read_text(encoding="utf-8").lower():
            wrong.append(f"{path.name} has no card that states its licence")
    wrong += [f"the catalogue's {name} has no licence" for name, one in catalogue.ENTRIES.items() if not one.licence]
    hashed = sum(one.sha256 is not None for one in catalogue.ENTRIES.values())
    return verdict("hashes and licences", f"{len(kept)} weights with cards; {len(catalogue.ENTRIES)} catalogue entries "
                   f"with licences, {hashed} with a checksum, the others obtained by hand", wrong)


def _files(root: Path, pattern: str) -> list[str]:
    """A test's name, or the files that a pattern with an asterisk stands for."""
    return sorted(str(path.relative_to(root)) for path in root.glob(pattern)) if "*" in pattern else [pattern]


def _records(root: Path) -> list[Path]:
    """Provenance beside figures and results."""
    return sorted(path for path in (root / "figures").rglob("*.json") if path.parent.name != "values")


def _input(root: Path, name: str, sha: str) -> str:
    """What is wrong with one input of a figure; empty where nothing is."""
    if name.startswith("$CMF_DATA/"):
        place = name.split("/")[1]
        known = [one for one in catalogue.ENTRIES.values() if one.place == place and one.sha256 and one.licence]
        return "" if known else f"{name} belongs to no catalogue entry with checksum and licence"
    if sha == "absent":  # a pattern that fitted no file
        return ""
    if not (root / name).is_file():
        return f"its input {name} is not there"
    here = sources.sha256(root / name)
    return "" if here == sha else f"made with another {name} ({sha[:12]}) than the present one ({here[:12]})"
