"""The Makefile as a user meets it, the conda environment, and the counts that the tests end with."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import counts
import project
import pytest
import reached

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(tmp_path):
    """The small project with the real Makefile and a .venv that stands for an installed one."""
    root = project.make(tmp_path / "project")
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    stamp = re.search(r"^LOCKED := (.+)$", make(root, "-pn", "help").stdout, re.MULTILINE)[1]
    (root / stamp).touch()
    return root


def make(root: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    names = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "CONDA_DEFAULT_ENV", "NB_PYTHON_PREFIX")
    environment = {k: v for k, v in project.environment(**more).items() if k not in names}
    return subprocess.run(["make", *words], cwd=root, env=environment, capture_output=True, text=True, timeout=60)


def test_make_alone_is_help(root):
    text = make(root).stdout
    for target in ("setup", "figures", "notebooks", "results", "data", "test", "lint", "paper", "site", "benchmarks",
                   "clean", "coverage", "audit", "faults"):
        assert re.search(rf"^  {target} +\w", text, re.MULTILINE), target
    assert text.rstrip().endswith("first second")


@pytest.mark.parametrize("flags", [["-n"], ["-n", "-j2"], ["-nk"], ["--dry-run"]])
def test_dry_run_shows_the_plan_and_runs_nothing(root, flags):
    result = make(root, *flags, "figures")
    assert result.returncode == 0 and "02_two               runs: it has not been run here" in result.stdout
    assert not (root / "build").exists() and not (root / "figures").exists()


def test_figures_from_scratch_compute_the_long_results_first(root):
    text = make(root, "-n", "figures", "FROM=scratch").stdout
    assert text.index("-m cmf.results --profile demo") < text.index("02_two               runs")
    assert "cmf.results" not in make(root, "-n", "figures").stdout
    assert "FROM=nothing is unknown; FROM=scratch computes" in make(root, "-n", "figures", "FROM=nothing").stderr


def test_one_figure_profile_parameters_and_jobs_reach_the_runner(root):
    text = make(root, "-n", "second").stdout
    assert "01_one" not in text and "02_two               runs" in text
    assert "power takes int, got 'x'" in make(root, "figures", "P=power=x").stderr
    assert "no profile 'real'; there are: demo" in make(root, "figures", "PROFILE=real").stderr
    assert "'nine' is neither a notebook nor a figure" in make(root, "figures", "ONLY=nine").stderr
    assert "--jobs 3 " in make(root, "-n", "-j3", "figures").stdout


def test_an_active_conda_environment_is_used_as_it_is(root):
    shutil.rmtree(root / ".venv")
    names = {k: v for k, v in os.environ.items() if not k.startswith(("CMF_", "MAKE"))}
    result = subprocess.run(["make", "-n", "setup", "lint"], cwd=root, env={**names, "CONDA_DEFAULT_ENV": "cmf"},
                            capture_output=True, text=True)
    assert result.stdout.strip().endswith("python -m ruff check .") and ".venv" not in result.stdout


def test_an_old_python_is_refused_in_a_sentence(root):
    shutil.rmtree(root / ".venv")
    result = make(root, "setup", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "Python 3.11 or later is needed and none was found (tried: no-such-python)" in result.stderr
    assert "make setup PYTHON=/path/to/python3.12" in result.stderr


def test_an_installed_environment_is_left_alone(root):
    assert make(root, "setup").returncode == 0 and make(root, "setup").stdout.startswith("make: Nothing to be done")
    (root / "requirements.lock").write_text("numpy==0\n")
    assert "pip install" in make(root, "-n", "setup").stdout


def test_clean_keeps_committed_figures(root):
    for folder in ("build", "figures"):
        (root / folder).mkdir()
    make(root, "clean")
    assert (root / "figures").exists() and not (root / "build").exists()


def test_conda_pins_agree_with_the_lock_and_have_reasons():
    lock = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        pin, _, marker = line.partition(";")
        if "< '3.12'" not in marker:  # the conda environment has Python 3.12
            name, _, version = pin.strip().partition("==")
            lock[name] = version
    lines = (ROOT / "environment.yml").read_text().split("dependencies:\n")[1].splitlines()
    assert all("#" in line for line in lines if not line.endswith("pip:")), "a reason on every line"
    pins = dict(re.findall(r"- ([a-z0-9-]+)==(\S+)", "\n".join(lines)))
    assert {name: lock.get(name) for name in pins} == pins
    wanted = set(re.findall(r'^  "([a-z0-9-]+)[<>=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert wanted == set(pins)


def test_counts_are_read_from_junit_files(tmp_path, capsys):
    case = '<testcase classname="{}" name="a">{}</testcase>'
    mark = '<properties><property name="kind" value="property"/></properties>'
    (tmp_path / "a.xml").write_text("<testsuites><testsuite>" + "".join((
        case.format("tests.test_runs", ""), case.format("tests.test_runs", mark),
        case.format("tests.test_plots", "<failure/>"), case.format("tests.test_architecture", "<skipped/>"),
        case.format("notebooks.01_data.ipynb", ""))) + "</testsuite></testsuites>")
    assert counts.main([str(tmp_path / "a.xml")]) == 1
    text = capsys.readouterr().out
    assert re.search(r"unit +1 passed, 1 failed", text) and re.search(r"property +1 passed", text)
    assert re.search(r"notebooks +1 passed", text)
    assert text.splitlines()[-1] == "3 passed, 1 failed, 1 skipped"


def test_coverage_names_modules_and_raises_that_were_not_reached(tmp_path, capsys):
    source = tmp_path / "a.py"
    source.write_text("def f(x):\n    if x:\n        raise ValueError('of x')\n    raise TypeError('other')\n")
    report = {"files": {str(source): {"summary": {"percent_covered": 75.0}, "missing_lines": [4]}},
              "totals": {"percent_covered": 95.0, "num_statements": 4}}
    (tmp_path / "c.json").write_text(json.dumps(report))
    assert reached.main([str(tmp_path / "c.json")]) == 1
    text = capsys.readouterr().out
    assert f" 75.0 % of {source}\n" in text and f"{source}:4: raise TypeError('other')\n" in text
    assert "95.0 % of 4 lines, at least 90 % wanted; 1 raises not reached" in text
    report["files"][str(source)]["missing_lines"] = []
    (tmp_path / "c.json").write_text(json.dumps(report))
    assert reached.main([str(tmp_path / "c.json")]) == 0 and "every raise was reached" in capsys.readouterr().out
    assert reached.main(["--least", "96", str(tmp_path / "c.json")]) == 1
