"""Faults: a quick campaign, the table of the whole one, and that nothing which is read can bring code along."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import project
import pytest

from cmf import sources
from cmf.book import execute, plan

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for folder in ("cmf", "notebooks") for path in sorted((ROOT / folder).rglob("*.py"))]
CODE = ["__import__('os').system('touch harmed')", '"; import os; os.system("touch harmed"); "', "'''\n1/0",
        "{{ 7 * 7 }}", "\\\"\\n%%bash\ntouch harmed", "{\"a\": exec('1/0')}"]


def test_a_quick_campaign_loses_nothing():
    done = subprocess.run([sys.executable, "-m", "faults", "--quick"], cwd=ROOT, capture_output=True, text=True,
                          env=project.environment(PYTHONPATH=str(ROOT / "tests")), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    kills, _, lost = map(int, re.findall(r"\d+", done.stdout.splitlines()[-1]))
    assert kills >= 10 and lost == 0


def test_the_whole_campaign_killed_often_and_lost_nothing():
    table = pd.read_csv(ROOT / "figures/demo/results/faults.csv")
    killed = table[table.fault.str.startswith("SIGKILL")]
    assert killed.tried.sum() >= 200 and (killed.survived == killed.tried).all()
    assert set(killed.stage) == {"weights", "feature extraction", "downloads", "training, one process",
                                 "training, two processes", "training, torchrun", "figures"}
    kept = json.loads((ROOT / "figures/demo/results/faults.json").read_text())
    assert kept["kills"] == killed.tried.sum()


def calls(path):
    """Name and keyword arguments of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Call):
            given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            yield ast.unparse(node.func), given, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path):
    wrong = [f"{name} in line {line}" for name, given, line in calls(path)
             if name == "torch.load" and given.get("weights_only") is not True
             or name in ("np.load", "numpy.load") and given.get("allow_pickle", False)
             or name.startswith("yaml.") and "load" in name and name != "yaml.safe_load"
             or re.search(r"(pickle|\bdill|\bmarshal|\bshelve|\bjoblib)\w*\.\w*(load|open)|read_pickle", name)
             or name in ("eval", "exec", "os.system", "os.popen") or given.get("shell")]
    assert not wrong, f"read with weights_only=True, allow_pickle=False, safe_load, and run no text: {wrong}"


def test_the_test_above_sees_what_is_wrong(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("torch.load(p)\nnp.load(p, allow_pickle=True)\nyaml.load(t)\npickle.loads(b)\neval(t)\n"
                    "subprocess.run(t, shell=True)\n")
    with pytest.raises(AssertionError, match="line 1.*line 2.*line 3.*line 4.*line 5.*line 6"):
        test_nothing_that_is_read_is_run(path)


@pytest.mark.parametrize("text", CODE)
def test_a_parameter_brings_no_code(tmp_path, text):
    [job] = plan.jobs(project.make(tmp_path / "project"), "demo", [f"name={text}"], ["01"])
    [cell] = [cell for cell in execute.prepare(job).cells if "injected-parameters" in cell.metadata.get("tags", [])]
    [assignment] = ast.parse(cell.source).body
    assert assignment.targets[0].id == "name" and ast.literal_eval(assignment.value) == text


def test_a_profile_brings_no_code(tmp_path):
    root = project.make(tmp_path / "project")
    (root / "notebooks/profiles").mkdir()
    (root / "notebooks/profiles/evil.yaml").write_text(
        f"01_one:\n  name: !!python/object/apply:os.mkdir [{tmp_path / 'harmed'}]\n")
    with pytest.raises(ValueError, match="evil.yaml is no YAML: could not determine a constructor"):
        plan.jobs(root, "evil")
    assert not (tmp_path / "harmed").exists()


def test_hashing_a_module_reads_it_without_running_it(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(f"import os\nos.mkdir({str(tmp_path / 'harmed')!r})\n")
    assert len(sources.code_hash(path)) == 64 and os.listdir(tmp_path) == ["module.py"]
