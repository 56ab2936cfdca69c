"""Other ways to an environment: the development container, Binder, and the checks before a commit."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
HOOKS = {hook["id"]: hook for hook in
         yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]}


def committed() -> list[str]:
    try:
        return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
                              ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no repository: committed files cannot be listed")


def test_container_has_the_python_of_the_conda_environment_and_is_set_up_by_make():
    told = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    conda = (ROOT / "environment.yml").read_text()
    assert re.search(r"python:([\d.]+)$", told["image"])[1] == re.search(r"- python=([\d.]+)", conda)[1]
    makefile = (ROOT / "Makefile").read_text()
    words = told["postCreateCommand"].split()
    assert words[0] == "make" and re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
    python = told["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert f"RUN := {python.removeprefix('${containerWorkspaceFolder}/')}\n" in makefile


def test_binder_reads_environment_yml_and_make_uses_what_it_made():
    hiding = ["binder", ".binder", "Dockerfile", "Project.toml", "Pipfile"]
    assert not [name for name in hiding if (ROOT / name).exists()], "repo2docker would not look at environment.yml"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CMF_", "CONDA_", "MAKE", "MFLAGS"))}
    run = subprocess.run(["make", "-n", "setup", "lint"], cwd=ROOT, capture_output=True, text=True,
                         env={**clean, "NB_PYTHON_PREFIX": "/srv/conda/envs/notebook"})
    assert run.stdout.strip().endswith("python -m ruff check .") and ".venv" not in run.stdout, run.stderr


def test_checks_before_a_commit_have_the_locked_versions_and_exist():
    pins = [pin.split("==") for hook in HOOKS.values() for pin in hook.get("additional_dependencies", ())]
    assert {name: version for name, version in pins if name != "pre-commit-hooks"} == {
        name: LOCK[name] for name in ("ruff", "jupytext", "pytest")}
    named = [word for hook in HOOKS.values() for word in hook["entry"].split() if word.startswith("tests/")]
    assert named and all((ROOT / name).is_file() for name in named)


def test_what_is_committed_passes_the_checks_on_files():
    files = [name for name in committed() if (ROOT / name).is_file()]
    limit = int(re.search(r"--maxkb=(\d+)", HOOKS["large"]["entry"])[1])
    assert not [name for name in files if (ROOT / name).stat().st_size > 1024 * limit]
    refused = re.compile(HOOKS["data"]["files"])
    assert refused.search("tests/reference/film.mp4") and not [name for name in files if refused.search(name)]
    assert re.search(HOOKS["pairs"]["files"], "notebooks/03_sacmf.ipynb")
