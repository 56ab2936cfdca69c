"""The audit: what it calls equal and what it does not, what it finds in a checkout, and a small project audited."""

import json
import subprocess
import sys

import project
import pytest

from cmf.audit import __main__ as audit
from cmf.audit import compare, records
from cmf.book import plan

TABLE = b"arm,f1\nours,0.91\ntheirs,0.85\n"
VALUES = json.dumps({"f1": {"value": 0.91, "text": "0.91", "unit": None},
                     "seconds": {"value": 2.0, "text": "2 s", "unit": "s"}}).encode()
JSON = json.dumps({"figure": "arms", "run": {"commit": "a", "seconds": 3}}).encode()
BUILT = {"figures/demo/arms.csv": TABLE, "figures/demo/arms.png": b"\x89PNG 12", "figures/demo/arms.json": JSON,
         "figures/demo/values/01_one.json": VALUES, "figures/demo/cost.csv": b"seconds\n1.5\n",
         "figures/demo/cost.pdf": b"%PDF 1.5"}
TIMINGS = ["cost", "01_one.seconds"]


def git(root, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True, text=True).stdout


def changed(name, *replacements):
    content = BUILT[name]
    for old, new in replacements:
        assert old in content
        content = content.replace(old, new)
    return BUILT | {name: content}


def test_equal_builds_and_other_timings():
    other = (BUILT | {"figures/demo/cost.csv": b"seconds\n1.7\n", "figures/demo/cost.pdf": b"%PDF 1.77"}
             | {"figures/demo/values/01_one.json": VALUES.replace(b"2.0", b"2.5").replace(b"2 s", b"2.5 s")})
    other["figures/demo/arms.json"] = JSON.replace(b"3", b"4")
    line = compare.twice(BUILT, other, TIMINGS)
    assert (line.state, line.wrong) == ("passed", ())
    assert line.found == "2 CSV, 1 PNG, 1 PDF, 2 JSON; 0 differing bytes; 2 files of timings by structure"


@pytest.mark.parametrize("other, words", [
    (changed("figures/demo/arms.csv", (b"0.91", b"0.92")), "arms.csv: 1 of 29 bytes differ"),
    (changed("figures/demo/arms.png", (b"12", b"123")), "arms.png: 1 of 8 bytes differ"),
    (changed("figures/demo/arms.json", (b'"arms"', b'"other"')), "arms.json: other facts than seconds differ"),
    (changed("figures/demo/values/01_one.json", (b'"0.91"', b'"0.92"')), "01_one.json: f1 is 0.91 and 0.92"),
    (changed("figures/demo/values/01_one.json", (b'"f1"', b'"f2"')), "the value f1 is in one of them only"),
    (changed("figures/demo/cost.csv", (b"seconds", b"minutes")), "1 rows of seconds beside 1 rows of minutes"),
    ({k: v for k, v in BUILT.items() if "cost.pdf" not in k}, "figures/demo/cost.pdf was drawn by one build only"),
])
def test_what_differs_between_two_builds_is_named(other, words):
    line = compare.twice(BUILT, other, TIMINGS)
    assert line.state == "failed" and any(words in one for one in line.wrong), line.wrong


def test_two_empty_builds_do_not_pass():
    assert compare.twice({}, {}).wrong == ("nothing was drawn",)


def test_last_digits_may_differ_from_the_committed_and_then_pictures_are_left_out():
    other = changed("figures/demo/arms.csv", (b"0.91", b"0.9101")) | {"figures/demo/arms.png": b"\x89PNG 13"}
    numbers, pictures = compare.committed(other, BUILT, TIMINGS)
    assert numbers.state == "passed" and "3 tables and files of values, 2 equal to the last digit" in numbers.found
    assert pictures.state == "skipped" and "1 tables have other last digits" in pictures.found


def test_pictures_of_equal_numbers_are_equal():
    assert [line.state for line in compare.committed(BUILT, BUILT, TIMINGS)] == ["passed", "passed"]
    numbers, pictures = compare.committed(changed("figures/demo/arms.png", (b"12", b"13")), BUILT, TIMINGS)
    assert numbers.state == "passed"
    assert pictures.wrong == ("figures/demo/arms.png: 1 of 7 bytes differ from the committed",)


@pytest.mark.parametrize("other, words", [
    (changed("figures/demo/arms.csv", (b"0.91", b"0.95")), "column f1 differs by up to 0.04, its largest"),
    (changed("figures/demo/arms.csv", (b"ours", b"mine")), "arms.csv: words of column arm differ"),
    (changed("figures/demo/arms.csv", (b"theirs,0.85\n", b"")), "1 rows of arm, f1 beside 2 rows of arm, f1"),
    (changed("figures/demo/values/01_one.json", (b"0.91", b"0.95")), "01_one.json: f1 is 0.95 and 0.91"),
    (changed("figures/demo/values/01_one.json", (b'0.91, "text"', b'"CPU", "text"')), "f1 is 0.91 and 0.91"),
    (BUILT | {"figures/demo/new.png": b""}, "figures/demo/new.png is not committed"),
])
def test_what_differs_from_the_committed_is_named(other, words):
    numbers = compare.committed(other, BUILT, TIMINGS)[0]
    assert numbers.state == "failed" and any(words in one for one in numbers.wrong), numbers.wrong


@pytest.fixture
def checkout(tmp_path):
    """A repository of the small project with a paper, a README and one figure of stated origin."""
    root = project.make(tmp_path / "project")
    (root / ".gitignore").write_text("build/\n__pycache__/\n")
    (root / "paper").mkdir()
    (root / "paper" / "main.typ").write_text('#fig("first")[x] #val("01_one", "last")')
    (root / "README.md").write_text("`second`")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    return root


def figure(root, name, **run):
    for kind in ("pdf", "csv"):
        (root / "figures" / "demo").mkdir(parents=True, exist_ok=True)
        (root / "figures" / "demo" / f"{name}.{kind}").write_text("x")
    (root / "figures" / "demo" / f"{name}.json").write_text(json.dumps({"run": run}))


def test_use_of_figures_and_numbers(checkout):
    figure(checkout, "first")
    figure(checkout, "second")
    assert records.figures_used(checkout).state == "passed"
    assert records.paper_files(checkout).wrong == ("figures/demo/values/01_one.json is not there",)
    figure(checkout, "third")
    assert records.figures_used(checkout).wrong == (
        "figures/demo/third.pdf is drawn by no notebook",
        "figures/demo/third.pdf is neither in the paper nor in the README")


def test_origins_are_in_the_history_and_inputs_are_those_here(checkout):
    head = git(checkout, "rev-parse", "HEAD").strip()
    (checkout / "input.txt").write_text("here")
    other = "c3ee6d99a6d5" + 52 * "0"
    figure(checkout, "first", commit=head, dirty=True, inputs={"$CMF_DATA/deepspace/ztf.npz": "ab"})
    commits, inputs = records.origins(checkout)
    assert commits.state == inputs.state == "passed"
    assert "1 records of 1 commits; 1 were made with changes" in commits.found
    figure(checkout, "first", commit="0" * 40, inputs={"input.txt": other, "gone.txt": other, "$CMF_DATA/x/y": other})
    figure(checkout, "second", commit=None)
    figure(checkout, "third", commit=head, alone=True)
    commits, inputs = records.origins(checkout)
    assert commits.wrong == ("figures/demo/second.json states no commit",
                             "figures/demo/third.json was drawn without the checks of its notebook: make figures",
                             "figures/demo/first.json was made at 000000000000, which is not in the history")
    words = "\n".join(inputs.wrong)
    assert "$CMF_DATA/x/y belongs to no catalogue entry with checksum and licence" in words
    assert "its input gone.txt is not there" in words and "made with another input.txt (c3ee6d99a6d5)" in words


def test_weights_need_a_card_and_their_architecture(checkout):
    assert records.licences(checkout).state == "passed"
    (checkout / "cmf" / "trained").mkdir()
    (checkout / "cmf" / "trained" / "net.safetensors").write_bytes(b"no weights")
    wrong = records.licences(checkout).wrong
    assert any("net.safetensors is no complete safetensors file" in words for words in wrong)
    assert "net.safetensors has no card that states its licence" in wrong


def test_tests_that_fail_or_are_gone_fail_their_check(checkout, monkeypatch):
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_a.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    monkeypatch.setattr(records, "TESTS", {"all": ("tests/test_*.py",), "gone": ("tests/test_b.py::test_c",)})
    every, gone = records.tests(checkout, sys.executable, project.environment())
    assert every.wrong == ("tests.test_a.test_bad",) and every.found == "1 passed, 0 skipped, of tests/test_*.py"
    assert gone.state == "failed" and "test_b.py" in gone.wrong[0]


def test_tests_that_the_audit_names_exist():
    for patterns in records.TESTS.values():
        for pattern in patterns:
            files = records._files(project.ROOT, pattern)
            assert files
            for file, _, name in (one.partition("::") for one in files):
                assert not name or f"def {name}(" in (project.ROOT / file).read_text(encoding="utf-8"), pattern


def test_timings_are_declared_beside_inputs(tmp_path):
    book = tmp_path / "01_one.py"
    book.write_text('TIMINGS = ["cost", "values.seconds"]\n')
    assert plan.declared(book, "TIMINGS") == ["cost", "values.seconds"] and plan.declared(book, "INPUTS") == []
    book.write_text("TIMINGS = [name]\n")
    with pytest.raises(ValueError, match="01_one.py, line 1: TIMINGS must be a list of literal strings, got"):
        plan.declared(book, "TIMINGS")


def test_declared_timings_name_figures_and_values_that_there_are():
    for name in plan.notebooks(project.ROOT):
        source = project.ROOT / "notebooks" / f"{name}.py"
        text, figures = source.read_text(encoding="utf-8"), plan.drawn(source)
        for word in plan.declared(source, "TIMINGS"):
            assert word in figures or f'plots.value("{word.removeprefix("values.")}"' in text, f"{name}: {word}"


def test_a_small_project_is_audited(checkout, monkeypatch, capfd):
    """Clone, two builds, page: all equal; then with a notebook that draws lots, which is found."""
    for name in ("Makefile", "requirements.lock"):
        (checkout / name).write_bytes((project.ROOT / name).read_bytes())
    monkeypatch.setenv("CMF_ROOT", str(checkout))
    monkeypatch.setattr(records, "TESTS", {})
    project.book(checkout, "figures", SOURCE_DATE_EPOCH="0")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "figures")
    assert audit.main(["--venv"]) == 0, capfd.readouterr().out
    page = (checkout / "build" / "audit" / "index.md").read_text()
    assert "| two builds | passed | 2 CSV, 2 PNG, 2 PDF, 3 JSON; 0 differing bytes; 0 files of timings" in page
    assert "| committed pictures | passed | 4 PNG and PDF, byte for byte |" in page
    assert f"Commit {git(checkout, 'rev-parse', 'HEAD').strip()}" in page and "not committed" not in page
    book = checkout / "notebooks" / "01_one.py"
    book.write_text(book.read_text().replace("toy_one.table(power)", "toy_one.table(power).assign(z=time.time())"))
    git(checkout, "commit", "-q", "-a", "-m", "lots")
    (checkout / "note.txt").write_text("of mine")
    assert audit.main(["--venv", "--only", "01"]) == 1
    page = (checkout / "build" / "audit" / "index.md").read_text()
    assert "* figures/demo/first.csv: " in page and ", notebooks 01 only. " in page
    assert "There were changes that are not committed" in page


def test_a_failing_build_and_a_word_that_names_nothing(checkout, monkeypatch, capfd):
    monkeypatch.setenv("CMF_ROOT", str(checkout))
    assert audit.main(["--venv", "--only", "nine"]) == 2
    assert "'nine' is neither a notebook nor a figure" in capfd.readouterr().err
    lines = list(audit.builds(checkout, [sys.executable], ["01"]))  # no Makefile
    assert lines[0].check == "build 1" and lines[0].wrong == ("01_one failed",)
    assert lines[2].wrong == ("nothing was drawn",)


@pytest.mark.parametrize("check", [records.paper_files, records.figures_used, records.licences])
def test_this_project_states_what_the_audit_asks(check):
    found = check(project.ROOT)
    assert found.state == "passed", found.wrong
