"""The project's own rules: which module may import which, sizes, and the shape of a notebook."""

import ast
import re
from pathlib import Path

import pytest

from cmf import sources
from cmf.book import parameters, plan

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "cmf").rglob("*.py"))
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.py" for name in plan.notebooks(ROOT)]
EVERYTHING = None

# part of cmf -> parts it may import, beside itself; a part that is missing here fails the test
MAY_IMPORT = {
    "paths": set(), "sources": set(), "cache": {"sources"}, "runs": {"cache", "paths", "sources"},
    "processes": {"runs"},
    "metrics": set(), "copula": set(), "blocks": set(), "catalogue": set(), "simulate": set(), "weights": set(),
    "plots": {"paths", "runs"},  # a figure carries the provenance of its run
    "book": {"catalogue", "paths", "runs", "sources"}, "paper": {"paths"}, "site": {"paths"},
    "audit": {"book", "catalogue", "paper", "paths", "runs", "sources", "weights"},
    "datasets": {"simulate", "catalogue"}, "losses": {"copula", "blocks"}, "fusion_losses": set(),
    "segmentation_losses": {"blocks", "fusion_losses"},
    "encoders": {"catalogue", "blocks", "weights"}, "methods": {"encoders", "blocks", "losses", "copula"},
    "training": {"runs", "training_processes", "training_state"}, "training_processes": set(),
    "training_state": {"cache"},
    "baselines": {"metrics"}, "detection": {"datasets", "encoders", "methods", "metrics"},
    "studies": EVERYTHING, "results": EVERYTHING, "doctor": EVERYTHING, "cli": EVERYTHING, "__main__": EVERYTHING,
}


def part(path: Path) -> str:
    """The part of cmf that a file belongs to: cmf/metrics/boxes.py -> metrics."""
    return path.relative_to(ROOT / "cmf").parts[0].removesuffix(".py")


def direct(path: Path) -> set[Path]:
    """Files of cmf that a file imports itself."""
    stems = [ROOT.joinpath(*name.split(".")) for name in sources.imports(path, ROOT) if name.startswith("cmf.")]
    return {file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    name = part(path)
    if name == "__init__":
        assert not direct(path), "cmf/__init__.py imports nothing"
        return
    assert name in MAY_IMPORT, f"say in MAY_IMPORT what cmf.{name} may import"
    if MAY_IMPORT[name] is not EVERYTHING:
        wrong = {part(p) for p in direct(path)} - MAY_IMPORT[name] - {name, "__init__"}
        assert not wrong, f"{path.name} imports {', '.join(sorted(wrong))}"
    if name == "methods" and path.name != "__init__.py":
        others = {p.name for p in direct(path) if part(p) == "methods"} - {path.name, "__init__.py"}
        assert not others, f"methods do not import each other, but {path.name} imports {others}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 380, "split a file when it passes some 350 lines and holds two ideas"
    assert ast.get_docstring(ast.parse(text)) or not text.strip(), "a module starts with a docstring"


@pytest.mark.parametrize("path", [*MODULES, *NOTEBOOKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_silenced_unpickled_or_tied_to_a_machine(path):
    text = path.read_text(encoding="utf-8")
    for pattern, why in ((r"warnings\.(ignore|filterwarnings|simplefilter)", "warnings are mended, not silenced"),
                         (r"^\s*import (pickle|joblib)\b|^\s*from (pickle|joblib) import (?!UnpicklingError$)"
                          r"|allow_pickle=True|weights_only=False", "no pickle"),
                         (r"[\"'](/home/|/root/|/Users/|/work/|/mnt/|[A-Z]:\\\\)", "no path of one machine")):
        found = re.search(pattern, text, re.MULTILINE)
        assert not found, f"{why}: {found[0]!r}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_has_its_shape(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    header, first, _ = parameters.cells(text)[0]
    assert "[markdown]" in header and first.startswith("# # "), "it starts with a title"
    assert parameters.read(path), "its parameters have comments"
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree)), "it asserts its claim"
    assert plan.drawn(path), "it draws a figure"
    long = [f.name for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f.end_lineno - f.lineno + 1 > 12]
    assert not long, f"functions longer than 12 lines belong to cmf: {long}"


def test_figure_names_are_unique_and_found_by_make():
    if not NOTEBOOKS:
        pytest.skip("there are no notebooks yet")
    names = [name for path in NOTEBOOKS for name in plan.drawn(path)]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
    greps = [name for path in NOTEBOOKS for name in re.findall(r'plots\.save.[^"\n]*"([a-z0-9_]+)"', path.read_text())]
    assert sorted(greps) == sorted(names), "write plots.save(fig, \"name\" on one line"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert not targets & set(names), "a figure bears the name of a make target"
