"""The runner, on a small project of two notebooks: refusals, what is out of date, failures, kills."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import project
import pytest

from cmf import catalogue
from cmf.book import __main__ as command
from cmf.book import execute, needs, parameters, plan


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory):
    """The project with both notebooks run."""
    root = project.make(tmp_path_factory.mktemp("drawn") / "project")
    (root / "output").write_text(project.book(root, "figures").stdout)
    return root


@pytest.fixture
def root(drawn_once, tmp_path, monkeypatch):
    """A copy of the drawn project for one test."""
    for name in [name for name in os.environ if name.startswith("CMF_")]:
        monkeypatch.delenv(name)
    return Path(shutil.copytree(drawn_once, tmp_path / "project"))


@pytest.fixture
def fresh(tmp_path):
    """The project, never run."""
    return project.make(tmp_path / "project")


def reasons(root: Path, **more) -> dict[str, list[str]]:
    return {job.name: plan.stale(job, plan.facts(job)) for job in plan.jobs(root, "demo", **more)}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# what a run leaves

def test_a_run_draws_and_says_what_it_does(drawn_once):
    text = (drawn_once / "output").read_text()
    assert "01_one  cell 2/3  00:0" in text and "compute" in text and text.rstrip().endswith("2 drawn")
    assert {p.name for p in (drawn_once / "figures" / "demo").glob("first.*")} == {
        "first.csv", "first.json", "first.pdf", "first.png"}
    run = json.loads((drawn_once / "figures" / "demo" / "first.json").read_text())["run"]
    assert (run["notebook"], run["profile"]) == ("01_one", "demo")
    assert run["parameters"] == {"power": 2, "arm": "full", "fraction": 0.5, "name": None}
    two = json.loads((drawn_once / "figures" / "demo" / "second.json").read_text())["run"]["inputs"]
    assert len(two["figures/demo/first.csv"]) == 64 and two["data/*.txt"] == "absent"
    assert json.loads((drawn_once / "figures/demo/values/01_one.json").read_text())["last"]["value"] == 9
    left = {p.name for p in (drawn_once / "build" / "demo").iterdir()} - {".lock", "staging"}
    assert left == {f"{n}{e}" for n in ("01_one", "02_two") for e in (".ipynb", ".stamp.json")}


def test_pairs_are_written_once_and_equal(root):
    before = project.files(root / "figures")
    first = project.book(root, "notebooks")
    assert first.stdout.count("written") == 2
    text = (root / "notebooks" / "01_one.ipynb").read_text()
    assert "jupytext_version" not in text and "injected" not in text and "execution\"" not in text
    assert project.book(root, "notebooks").stdout.count("unchanged") == 2
    assert project.files(root / "figures") == before


def test_commands_in_this_process(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    (root / "notebooks" / "02_two.py").write_text(project.TWO.replace("power = 1", "power = 3"))
    before = (root / "notebooks" / "01_one.py").read_bytes()
    assert command.main(["figures"]) == 0
    told = capsys.readouterr()
    assert "1 drawn, 1 up to date" in told.out and re.search(r"02_two +drawn", told.out)
    assert command.main(["notebooks"]) == 0 and "notebooks/02_two.ipynb written" in capsys.readouterr().out
    assert command.main(["parameters", "two"]) == 2 and "neither a notebook nor a figure" in capsys.readouterr().err
    assert command.main(["parameters", "02"]) == 0 and "power" in capsys.readouterr().out
    assert (root / "notebooks" / "01_one.py").read_bytes() == before
    (root / "notebooks" / "02_two.py").write_text(project.TWO.replace("toy_two.read", "toy_two.nothing"))
    assert command.main(["figures", "--jobs", "1"]) == 1
    assert "AttributeError" in capsys.readouterr().out and (root / "build/demo/02_two.failed.ipynb").is_file()


def test_a_signal_ends_all_notebooks_of_this_process(root, monkeypatch, capsys):
    began = []

    async def endless(job, screen):
        began.append(job.name)
        if len(began) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.chdir(root)
    monkeypatch.setattr(execute, "run", endless)
    assert command.main(["figures", "--force"]) == 130
    assert began and "the same command goes on from here" in capsys.readouterr().err


def test_a_second_run_does_nothing_and_is_quick(root):
    before, began = project.files(root / "figures"), time.monotonic()
    result = project.book(root, "figures")
    assert time.monotonic() - began < 3
    assert result.returncode == 0 and result.stdout.rstrip().endswith("2 up to date")
    assert project.files(root / "figures") == before


def test_parameters_make_a_copy_beside(root):
    before = project.files(root / "figures")
    result = project.book(root, "figures", "-p", "power=3", "--only", "first")
    assert result.returncode == 0, result.stdout + result.stderr
    [csv] = (root / "build").glob("demo+*/figures/first.csv")
    assert csv.read_text() == "x,y\n1,1\n2,8\n3,27\n"
    assert project.files(root / "figures") == before


def test_a_figure_alone_is_drawn_without_the_checks_of_its_notebook(root):
    assert project.book(root, "figures", "--only", "first").stdout.rstrip().endswith("1 up to date")
    before = project.files(root / "figures")
    check = "assert table.y.iloc[-1] == 3**power"
    edit(root / "notebooks" / "01_one.py", check, "again = toy_one.table(7)\nassert again.equals(table)")
    edit(root / "notebooks" / "01_one.py", "table.y)\n", "table.y, 'o-')\nprint('drawn')\n")
    result = project.book(root, "figures", "--only", "first")
    assert result.returncode == 0 and "drawn alone, without the checks of its notebook" in result.stdout
    after = project.files(root / "figures")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {f"demo/first.{kind}" for kind in ("json", "pdf", "png")}, "values and numbers stay"
    assert json.loads(after["demo/first.json"])["run"]["alone"] is True
    assert "counting" not in (root / "build" / "demo" / "01_one.first.ipynb").read_text()
    assert project.book(root, "figures", "--only", "first").stdout.rstrip().endswith("1 up to date")
    assert "AssertionError" in project.book(root, "figures", "--only", "first", "01").stdout, "asked for as a whole"
    edit(root / "notebooks" / "01_one.py", "toy_one.table(7)", "toy_one.table(power)")
    assert project.book(root, "notebooks", "--only", "first").returncode == 0
    assert "alone" not in json.loads((root / "figures" / "demo" / "first.json").read_text())["run"]


def test_a_figure_alone_that_comes_out_as_it_was_leaves_its_record(root):
    before = project.files(root / "figures")
    edit(root / "notebooks" / "02_two.py", "# read the other's table", "# the other's table")
    assert "1 drawn" in project.book(root, "figures", "--only", "second").stdout
    assert project.files(root / "figures") == before
    assert reasons(root)["02_two"] == ["02_two.py changed"], "the notebook has still to be run"
    [job] = plan.jobs(root, "demo", only=["second"])
    assert plan.stale(job, plan.facts(job)) == []


# what is out of date

def test_only_what_rests_on_a_module_is_redrawn(root):
    assert reasons(root) == {"01_one": [], "02_two": []}
    edit(root / "cmf" / "base.py", "return pd.DataFrame(c)", "return pd.DataFrame(dict(c))")
    assert reasons(root) == {"01_one": ["cmf/base.py changed"], "02_two": []}
    edit(root / "cmf" / "toy_two.py", "import pandas as pd", "import pandas as pd\nfrom cmf import base")
    assert reasons(root)["02_two"] == ["cmf/base.py is new", "cmf/toy_two.py changed"]


def test_file_times_comments_and_docstrings_do_not_count(root):
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    edit(root / "cmf" / "base.py", '"""Frame."""', '"""A frame."""  # better words')
    assert reasons(root) == {"01_one": [], "02_two": []}


def test_notebooks_inputs_lock_and_outputs_count(root):
    (root / "data").mkdir()
    (root / "data" / "a.txt").write_text("1")
    assert reasons(root)["02_two"] == ["data/*.txt is gone", "data/a.txt is new"]
    (root / "requirements.lock").write_text("numpy==1")
    (root / "figures" / "demo" / "first.png").write_text("scribble")
    (root / "figures" / "demo" / "first.pdf").unlink()
    edit(root / "notebooks" / "01_one.py", "# One", "# Once")
    assert reasons(root)["01_one"] == ["01_one.py changed", "requirements.lock changed",
                                       "figures/demo/first.pdf is missing", "figures/demo/first.png was changed"]
    plan_text = project.book(root, "figures", "--plan").stdout
    assert "01_one               runs: 01_one.py changed; requirements.lock changed;" in plan_text
    (root / "build" / "demo" / "02_two.stamp.json").write_text("{")
    assert reasons(root)["02_two"] == ["its stamp cannot be read"]


def test_a_changed_parameter_is_named(root):
    profiles = root / "notebooks" / "profiles"
    profiles.mkdir()
    (profiles / "long.yaml").write_text("01_one: {power: 5}\n02_two: {skip: needs a week}\n")
    one, two = plan.jobs(root, "long")
    assert one.given == {"power": 5} and two.skip == "needs a week" and one.target == root / "figures" / "long"
    one.build.mkdir(parents=True)
    stamp = {"facts": plan.facts(one) | {"parameters": {}}, "outputs": {}}
    one.stamp.write_text(json.dumps(stamp))
    assert plan.stale(one, plan.facts(one)) == ["power: default -> 5"]
    assert "02_two               skipped: needs a week" in project.book(root, "figures", "--plan", "--profile",
                                                                        "long").stdout


def test_data_outside_is_an_input(root, tmp_path, monkeypatch):
    edit(root / "notebooks" / "02_two.py", '"data/*.txt"', '"$CMF_DATA/big.bin"')
    [job] = plan.jobs(root, "demo", only=["02"])
    assert "$CMF_DATA/big.bin" not in plan.facts(job)["inputs"], "demo takes nothing from outside"
    job.profile = "real"
    assert plan.facts(job)["inputs"]["$CMF_DATA/big.bin"] == "absent"
    (tmp_path / "big.bin").write_bytes(bytes(2 << 20))
    monkeypatch.setenv("CMF_DATA", str(tmp_path))
    first = plan.facts(job)["inputs"]["$CMF_DATA/big.bin"]
    assert len(first) == 64 and (root / "build" / "hashes.json").is_file()
    (tmp_path / "big.bin").write_bytes(b"1" + bytes(2 << 20))
    assert plan.facts(job)["inputs"]["$CMF_DATA/big.bin"] != first
    edit(root / "notebooks" / "02_two.py", "INPUTS = [", "INPUTS = [str(1), ")
    with pytest.raises(ValueError, match=r"02_two.py, line 6: INPUTS must be a list of literal strings"):
        plan.facts(job)


# failures and kills

def test_a_failed_notebook_leaves_figures_alone_and_the_rest_goes_on(root):
    before = project.files(root / "figures")
    edit(root / "cmf" / "base.py", "DataFrame(c)", "DataFrame(c) * 7")
    edit(root / "notebooks" / "02_two.py", "# # Two", "# # Zwei")
    result = project.book(root, "figures")
    assert result.returncode == 1
    assert "cell 2 (compute): AssertionError" in result.stdout
    assert "see build/demo/01_one.failed.ipynb" in result.stdout
    assert result.stdout.rstrip().endswith("1 drawn, 1 failed")
    assert project.files(root / "figures") == before
    assert "AssertionError" in (root / "build" / "demo" / "01_one.failed.ipynb").read_text()
    edit(root / "cmf" / "base.py", "DataFrame(c) * 7", "DataFrame(c)")
    assert reasons(root) == {"01_one": [], "02_two": []}


def started(root: Path) -> tuple[subprocess.Popen, int]:
    """A run that hangs in the second cell of 01_one, and the id of its kernel."""
    edit(root / "notebooks" / "01_one.py", "import time\n",
         "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\n"
         "while pathlib.Path('hang').exists(): time.sleep(0.1)\n")
    (root / "hang").touch()
    process = subprocess.Popen(project.command(root, "figures"), cwd=root, env=project.environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: (root / "pid").is_file() and (root / "pid").read_text())
    return process, int((root / "pid").read_text())


def until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Has the process ended (or is it a zombie that nobody collects)?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.mark.parametrize("how, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_killed_run_starts_again_and_ends_with_the_same_files(root, how, status):
    before = project.files(root / "figures")
    process, kernel = started(root)
    process.send_signal(how)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == status, output
    assert how == signal.SIGKILL or "stopped; what was finished is kept" in output
    until(lambda: gone(kernel))
    assert project.files(root / "figures") == before
    (root / "hang").unlink()
    result = project.book(root, "figures")
    assert result.returncode == 0, result.stdout + result.stderr
    assert project.files(root / "figures") == before
    assert reasons(root) == {"01_one": [], "02_two": []}


def test_a_kill_while_figures_are_moved_heals(root):
    """Half of the figures in place, the stamp still the old one."""
    before = project.files(root / "figures")
    (root / "figures" / "demo" / "first.csv").write_text("x,y\n0,0\n")
    (root / "build" / "demo" / "staging" / "01_one").mkdir(parents=True, exist_ok=True)
    (root / "build" / "demo" / "staging" / "01_one" / "ghost.pdf").write_text("of the earlier run")
    assert reasons(root)["01_one"] == ["figures/demo/first.csv was changed"]
    result = project.book(root, "figures", "--jobs", "2")
    assert result.returncode == 0 and project.files(root / "figures") == before


def test_figures_that_are_no_longer_drawn_are_removed(root):
    edit(root / "notebooks" / "02_two.py", '"second"', '"renamed"')
    assert project.book(root, "figures", "--only", "02").returncode == 0
    names = {p.name for p in (root / "figures" / "demo").glob("*.pdf")}
    assert names == {"first.pdf", "renamed.pdf"}


# refusals

@pytest.mark.parametrize("words, message", [
    (["-p", "powr=3"], "no notebook has a parameter 'powr'; there are\n 01_one\n  power     int    2"),
    (["-p", "power=2.5"], "01_one: power takes int, got 2.5 (float); 01_one takes\n  power"),
    (["-p", "power=True"], "01_one: power takes int, got True (bool)"),
    (["-p", "arm=half"], "01_one: arm is one of full, bare, got 'half'"),
    (["-p", "fraction=x"], "01_one: fraction takes float, got 'x' (str)"),
    (["-p", "name=[1]"], "01_one: name takes any, got [1] (list)"),
    (["-p", "power"], "a parameter is given as name=value, got 'power'"),
    (["--profile", "real"], "no profile 'real'; there are: demo"),
    (["--only", "third"], "'third' is neither a notebook nor a figure; there are\n  01_one: first\n  02_two: second"),
    (["--jobs", "0"], "--jobs must be at least 1, got 0"),
])
def test_the_command_line_is_refused_with_what_exists(fresh, monkeypatch, capsys, words, message):
    monkeypatch.setenv("CMF_ROOT", str(fresh))
    assert command.main(["figures", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (fresh / "build").exists()


def test_numbers_words_and_none_are_taken_as_meant(fresh):
    given = plan.jobs(fresh, "demo", ["fraction=1", "name=left", "arm=bare"])[0].given
    assert given == {"fraction": 1.0, "name": "left", "arm": "bare"} and type(given["fraction"]) is float
    assert plan.jobs(fresh, "demo", ["power=2"])[0].given == {}
    assert plan.jobs(fresh, "demo", ["power=2"])[0].target != fresh / "figures" / "demo"


@pytest.mark.parametrize("text, message", [
    ("- 1", "must map notebook names to parameters, got"),
    ("01_one: [1]", "must map notebook names to parameters, got"),
    ("a: [", "profiles/p.yaml is no YAML"),
    ("03_x: {power: 1}", "names 03_x; the notebooks are: 01_one, 02_two"),
    ("01_one: {powr: 1}", "01_one: no parameter 'powr'; 01_one takes"),
    ("01_one: {power: two}", "01_one: power takes int, got 'two'"),
    ("requires: CMF_X", "requires must be a list of names, got 'CMF_X'"),
    ("01_one: {requires: 3}", "requires must be a list of names, got 3"),
    ("requires: [CMF_X]", "the environment variable CMF_X is not set; set it, for instance: make figures"),
    ("requires: [ucsd_pet2]", "unknown name 'ucsd_pet2'; did you mean ucsd_ped2?"),
])
def test_profiles_are_refused(fresh, text, message):
    (fresh / "notebooks" / "profiles").mkdir()
    (fresh / "notebooks" / "profiles" / "p.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        plan.jobs(fresh, "p")


def test_what_measures_time_or_reads_figures_runs_last_and_alone(tmp_path, monkeypatch):
    told = dict(a="", b='TIMINGS = ["cost"]', c="", d='INPUTS = ["figures/demo/cost.csv"]', e="")
    some = [SimpleNamespace(name=name, skip=None, source=tmp_path / f"{name}.py") for name in told]
    for job in some:
        job.source.write_text(told[job.name])
    events = []

    async def run(job, screen):
        events.append(job.name)
        await asyncio.sleep(0.01)
        events.append(job.name)
        return dict(notebook=job.name)

    monkeypatch.setattr(execute, "run", run)
    monkeypatch.setattr(plan, "facts", lambda job: {})
    monkeypatch.setattr(plan, "stale", lambda job, now: ["new"])
    rows = asyncio.run(execute.run_all(some, None, jobs=2))
    assert [row["notebook"] for row in rows] == list(told)
    assert sorted(events[:6]) == list("aaccee") and events[:2] == ["a", "c"], "two at once"
    assert events[6:] == list("bbdd")


def test_two_notebooks_share_the_line_of_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(execute.shutil, "get_terminal_size", lambda: SimpleNamespace(columns=21))
    screen = execute.Screen()
    screen.inplace = True
    screen.say("02", "02 cell 1 of many", keep=False)
    screen.say("08", "08 cell 2", keep=False)
    assert capsys.readouterr().out.split("\x1b[K")[-1] == "02 cell 1 08 cell 2 "
    screen.say("02", "02 drawn")
    screen.close()
    assert capsys.readouterr().out.split("\x1b[K")[1:] == ["02 drawn\n\r", "08 cell 2           \n"]


@pytest.mark.parametrize("pattern, waits", [("figures/demo/first.csv", True), ("figures/*.csv", True),
                                            ("data/*", False), ("figures/demo/results/long.csv", False)])
def test_a_notebook_waits_for_figures_but_not_for_long_results(root, pattern, waits):
    edit(root / "notebooks/02_two.py", "figures/demo/first.csv", pattern)
    assert plan.waits(plan.jobs(root, "demo", (), ["02"])[0]) == waits


def test_what_a_profile_lacks_is_told_at_once_and_for_the_chosen_notebooks_alone(fresh, monkeypatch, tmp_path):
    (fresh / "notebooks" / "profiles").mkdir()
    (fresh / "notebooks" / "profiles" / "p.yaml").write_text(
        "01_one: {requires: [CMF_X, mfnet]}\n02_two: {requires: [gpu, mfnet, inception_v3]}\n")
    monkeypatch.setenv("CMF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CMF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(needs, "_gpu", lambda: False)
    with pytest.raises(ValueError) as refused:
        plan.jobs(fresh, "p")
    head, *lines = str(refused.value).splitlines()
    assert head == "profile p lacks 4 of what it needs; nothing has been run. `ONLY` chooses notebooks"
    for line, words in zip(lines, (("01_one: the environment variable CMF_X is not set", "PROFILE=p CMF_X=/path/to"),
                                   ("01_one, 02_two: mfnet is not here", "https://www.mi.t.u-tokyo.ac.jp/"),
                                   ("02_two: no GPU that torch can use is here", "python -m cmf doctor"),
                                   ("02_two: inception_v3 is not here", "python -m cmf data get inception_v3")),
                           strict=True):
        assert all(word in line for word in words), line
    monkeypatch.setattr(needs, "_gpu", lambda: True)
    with pytest.raises(ValueError, match="lacks 2 of what it needs.*\n  02_two: mfnet is not here"):
        plan.jobs(fresh, "p", only=["02"])
    for name in ("mfnet", "inception_v3"):
        (tmp_path / "data" / catalogue.entry(name).place).mkdir(parents=True)
    assert [job.name for job in plan.jobs(fresh, "p", only=["02"])] == ["02_two"]


def test_a_gpu_is_asked_of_torch(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert needs.lack("gpu", "p") is None
    monkeypatch.setitem(sys.modules, "torch", None)      # not installed
    assert "no GPU" in needs.lack("gpu", "p")


@pytest.mark.parametrize("name", sorted(path.stem for path in (project.ROOT / "notebooks" / "profiles").glob("*.yaml")))
def test_the_profiles_are_accepted_where_all_is_there(monkeypatch, tmp_path, name):
    for one in catalogue.ENTRIES.values():
        (tmp_path / one.place).mkdir(parents=True)
    monkeypatch.setenv("CMF_DATA", str(tmp_path))
    monkeypatch.setattr(needs, "_gpu", lambda: True)
    made = plan.jobs(project.ROOT, name)
    assert [job.name for job in made] == plan.notebooks(project.ROOT)
    assert all(bool(job.given) != bool(job.skip) or name == "full" and job.name == "02_features" for job in made)
    assert all(job.target == project.ROOT / "figures" / name for job in made)


@pytest.mark.parametrize("cell, message", [
    ("x = 1", "x.py, line 2: the parameter x needs a comment"),
    ("x = f()  # no", r"x.py, line 2: the parameters cell holds only assignments of literals, got 'x = f\(\)'"),
    ("x = 1  # one\nprint(x)", r"x.py, line 3: the parameters cell holds only .* got 'print\(x\)'"),
    ("a, b = 1, 2  # two", "only assignments of literals, got"),
])
def test_the_parameters_cell_holds_commented_literals(tmp_path, cell, message):
    path = tmp_path / "x.py"
    path.write_text(f'# %% tags=["parameters"]\n{cell}\n\n# %%\npass\n')
    with pytest.raises(ValueError, match=message):
        parameters.read(path)


def test_one_parameters_cell(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("# %%\nx = 1\n")
    with pytest.raises(ValueError, match="x.py: expected one cell tagged parameters, found 0; start it with"):
        parameters.read(path)


def test_parameters_are_read_with_types_and_comments(tmp_path):
    path = tmp_path / "x.py"
    path.write_text('# %% tags=["parameters"]\n# widths of the layers\nwidths = [\n    1,\n    2,\n]\n'
                    'k: int | None = None  # neighbours; None: all\nINPUTS = ["a"]\nkind = "a b"  # one of: a b, c\n'
                    'n = -1  # offset\n')
    known = parameters.read(path)
    assert list(known) == ["widths", "k", "kind", "n"]
    assert known["widths"].default == [1, 2] and known["widths"].meaning == "widths of the layers"
    assert known["k"].default is None and known["k"].kind == "any" and known["kind"].choices == ("a b", "c")
    assert known["n"].default == -1


def test_a_project_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no notebooks/NN_name.py in"):
        plan.jobs(tmp_path, "demo")
