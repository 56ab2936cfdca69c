"""The README holds: commands are understood, paths exist, figures are drawn, the examples give what is printed."""

import argparse
import contextlib
import importlib
import inspect
import io
import re
import shlex
from pathlib import Path

import pytest
import yaml

from cmf import __version__, catalogue, cli
from cmf.book import __main__ as book
from cmf.book import plan
from cmf.studies import twins

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
CODE = re.findall(r"`([^`\n]+)`", PROSE)
SITE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "paper" / "site").rglob("*.md")))
COMMANDS = [shlex.split(line, comments=True)
            for kind, block in BLOCKS + re.findall(r"^```(\w*)\n(.*?)^```", SITE, re.MULTILINE | re.DOTALL)
            if kind == "bash" for line in block.splitlines() if line.strip()]
COMMANDS += [shlex.split(text) for text in CODE if re.match(r"(make|python|pip|source) ", text)]
COMMANDS = [list(words) for words in dict.fromkeys(map(tuple, COMMANDS))]
ROWS = re.findall(r"^\| `(\w+)` \| ([^|]+) \| `(\d\d_\w+)` \| `make (\w+)` \| ([^|]+) \|$", TEXT, re.MULTILINE)
REAL = {"03_sacmf": {"ztf_arms", "ztf_confusion", "ztf_mi"},    # named in the prose on the profile
        "04_cmaf": {"ped2_table", "ped2_curves"}, "06_cmfs": {"cwfid_miou"}}
MADE = ("build", ".venv", "figures/", "paper/main.pdf")         # what commands make


def source(name):
    """The notebook's path; skips where it is not written yet."""
    path = ROOT / "notebooks" / f"{name}.py"
    if not path.is_file():
        pytest.skip(f"notebooks/{name}.py is not there, so that its figures cannot be compared")
    return path


@pytest.fixture
def parsed(monkeypatch):
    """Commands are parsed by their own parsers and not run."""
    real = argparse.ArgumentParser.parse_args

    def parse(self, *arguments):
        namespace = real(self, *arguments)
        namespace.run = lambda _: 0
        return namespace

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_understood(words, parsed):
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m"):]]
    if words[0] == "make":
        variables = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for name in variables:
            assert re.search(rf"^{name}\s*\?=|\$\({name}\)", makefile, re.MULTILINE), f"make knows no {name}"
        profile, assignments = variables.get("PROFILE", "demo"), variables.get("P", "").split()
        if profile == "demo":
            plan.jobs(ROOT, profile, assignments, variables.get("ONLY", "").split())
        owners = {row[3]: row[2] for row in ROWS}
        for target in (word for word in words[1:] if "=" not in word and not word.startswith("-")):
            if target in owners:
                assert target in plan.drawn(source(owners[target]))
            else:
                assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), f"make has no target {target}"
    elif words[:3] == ["python", "-m", "cmf"]:
        assert cli.main(words[3:]) == 0
        if words[3:5] in (["data", "get"], ["data", "check"]):
            catalogue.entry(words[5])
    elif words[:3] == ["python", "-m", "cmf.book"]:
        assert book.main(words[3:]) == 0
    elif words[:3] == ["python", "-m", "cmf.studies.twins"]:
        with pytest.raises(SystemExit) as end:
            twins.main([*words[3:], "--help"])
        assert end.value.code == 0
    else:
        assert words[0] in ("jupyter", "conda", "pip", "source"), f"no check is known for {words[0]}"
        named = [word for word in words if word in ("notebooks", "environment.yml")]
        assert all((ROOT / word).exists() for word in named)


def test_commands_that_are_not_understood_are_noticed(parsed, capsys):
    assert cli.main(["detect", "--pictures", "DIR"]) == 2 and "required: --images" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted({row[2] for row in ROWS}))
def test_figure_table_agrees_with_the_notebooks(name):
    told = [row for row in ROWS if row[2] == name]
    assert all(figure == target for figure, _, _, target, _ in told)
    drawn = set(plan.drawn(source(name)))
    assert {row[0] for row in told} == drawn - REAL.get(name, set())


def test_every_notebook_is_in_the_figure_table():
    assert len({row[0] for row in ROWS}) == len(ROWS) == len(re.findall(r"`make \w+` \| [^|]+ \|$", TEXT, re.MULTILINE))
    assert set(plan.notebooks(ROOT)) <= {row[2] for row in ROWS}
    for names in REAL.values():
        assert all(f"`{name}`" in TEXT for name in names)


@pytest.mark.parametrize("path", sorted({text for text in CODE if re.fullmatch(r"[\w./-]+", text) and
                                         ("/" in text or re.search(r"\.(yml|lock|cff)$", text))
                                         and not text.startswith(MADE)}))
def test_paths_exist(path):
    if path == "notebooks/profiles/real.yaml" and not (ROOT / path).is_file():
        pytest.skip(f"{path} is not there")
    assert (ROOT / path).exists()


def test_tree_is_true():
    tree = next(block for kind, block in BLOCKS if not kind and block.startswith("Makefile"))
    folder, told = ROOT, set()
    for line in tree.splitlines():
        name = line.split()[0]
        folder = ROOT if not line.startswith(" ") else ROOT / "cmf"
        assert (folder / name).exists(), f"{line!r}: there is no such path"
        told.add(name.rstrip("/"))
    small = {"__init__.py", "__main__.py", "__pycache__", "paths.py", "sources.py", "cache.py", "weights.py", "cli.py"}
    there = {path.name for path in (ROOT / "cmf").iterdir() if not path.name.startswith(".")}
    assert there - small <= told, f"the tree does not show {sorted(there - small - told)}"


def test_example_prints_what_the_readme_says():
    kinds = [kind for kind, _ in BLOCKS]
    at = kinds.index("text")
    assert kinds[at - 1] == "python"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(BLOCKS[at - 1][1], "README.md", "exec"), {})
    assert printed.getvalue() == BLOCKS[at][1]


def test_reader_examples_fit_their_signatures():
    calls = [(module, call) for kind, block in BLOCKS if kind == "python"
             for module in re.findall(r"from (cmf\.datasets\.\w+) import", block)
             for call in re.findall(r"= (\w+\(.*?\))(?:\s+#.*)?$", block, re.MULTILINE)]
    assert len(calls) == 3
    for module, call in calls:
        name, _, arguments = call.partition("(")
        bind = inspect.signature(getattr(importlib.import_module(module), name)).bind
        assert eval(f"bind({arguments}", {"bind": bind}).arguments


def test_folders_are_as_shown(tmp_path):
    from cmf.datasets.deepspace import read_inference, read_training

    made = cli.make_deepspace(tmp_path / "made", targets=6, scenes=1)
    assert len(read_training(made / "train", size=16).ids) == 6
    assert len(read_inference(made / "images", made / "sequences")) == 1
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    shown = re.findall(r"^\s+(0001|scene)(\w*\.\w+)", TEXT, re.MULTILINE)
    for stem, ending in shown:
        assert any(name.endswith(("00000" if stem == "0001" else "scene00") + ending) for name in names), ending
    assert len(shown) == 11


def test_citation_has_what_is_required():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(content)
    assert content["cff-version"] == "1.2.0" and content["version"] == __version__ and content["license"] == "MIT"
    assert all("name" in author or "family-names" in author for author in content["authors"])
