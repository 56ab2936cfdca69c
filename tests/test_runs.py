"""Seeds, progress, provenance, cached steps, results, and the hashes below them."""

import json
import random
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmf import cache, paths, runs, sources


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project folder of its own, outside the runner."""
    for name in ("CMF_FIGURES", "CMF_PROFILE", "CMF_NOTEBOOK", "CMF_PARAMETERS", "CMF_PROGRESS", "CMF_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CMF_ROOT", str(tmp_path))
    return tmp_path


def everything():
    return {"array": np.arange(6.0).reshape(2, 3), "words": np.array(["a", "bc"]), "tensor": torch.ones(2, 2),
            "frame": pd.DataFrame({"name": ["x", "y"], "n": [1, 2], "v": [0.5, np.nan]}), "n": np.int64(3),
            "list": [1, "two", None]}


def test_cached_gives_the_same_kinds_first_and_later(root):
    calls = []

    def function():
        calls.append(1)
        return everything()

    for _ in range(2):
        got = runs.cached("kinds", function, parameters={"k": 1})
        np.testing.assert_array_equal(got["array"], everything()["array"])
        assert got["words"].tolist() == ["a", "bc"] and got["n"] == 3 and got["list"] == [1, "two", None]
        assert torch.equal(got["tensor"], torch.ones(2, 2))
        pd.testing.assert_frame_equal(got["frame"], everything()["frame"], check_dtype=False)
    assert len(calls) == 1
    assert runs.provenance()["used"]["cached kinds"]


def test_cached_depends_on_inputs_parameters_and_code(root, tmp_path):
    calls = []
    file = tmp_path / "data.txt"
    file.write_text("one")

    def function():
        calls.append(1)
        return {"n": len(calls)}

    def ask(**more):
        return runs.cached("key", function, **{"inputs": {"file": file, "x": np.ones(2)}, **more})["n"]

    assert [ask(), ask()] == [1, 1]
    assert ask(parameters={"epochs": 2}) == 2
    assert ask(inputs={"file": file, "x": np.array([1.0, 2.0])}) == 3
    assert ask(code=[sources]) == 4
    file.write_text("two")
    assert [ask(), ask()] == [5, 5]


def test_a_damaged_cache_is_named_and_computed_again(root):
    calls = []

    def function():
        calls.append(1)
        return {"x": np.arange(1000)}

    runs.cached("flip", function)
    [stored] = (root / "build" / "cache").rglob("arrays.npz")
    data = bytearray(stored.read_bytes())
    data[500] ^= 1
    stored.write_bytes(data)
    with pytest.warns(RuntimeWarning, match=r"the cached flip \w{12} is damaged \(its arrays no longer match"):
        got = runs.cached("flip", function)
    assert got["x"].tolist() == list(range(1000)) and len(calls) == 2


def test_values_that_were_swapped_are_named_and_computed_again(root):
    def ask(n):
        return runs.cached("swap", lambda: {"n": n}, parameters={"n": n})["n"]

    assert [ask(1), ask(2)] == [1, 2]
    one, two = (p for p in (root / "build" / "cache" / "swap").iterdir() if p.is_dir())
    one.rename(one.with_name("aside")), two.rename(one), one.with_name("aside").rename(two)
    for n in (1, 2):
        with pytest.warns(RuntimeWarning, match=r"is damaged \(it is the value of another key, \w{12}\)"):
            assert ask(n) == n


def test_two_at_once_compute_once(root):
    calls = []

    def function():
        calls.append(1)
        time.sleep(0.2)
        return {"n": 1}

    threads = [threading.Thread(target=runs.cached, args=("both", function)) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(calls) == 1


def test_a_failed_computation_leaves_nothing_that_counts(root):
    answers = iter([RuntimeError("no luck"), {"n": 1}])

    def function():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(RuntimeError, match="no luck"):
        runs.cached("twice", function)
    assert runs.cached("twice", function) == {"n": 1}


def test_is_cached_asks_for_the_place_where_cached_keeps(root):
    asked = dict(inputs={"x": np.arange(3)}, parameters={"k": 2})
    assert not runs.is_cached("asked", everything, **asked)
    runs.cached("asked", everything, **asked)
    assert runs.is_cached("asked", everything, **asked)
    assert not runs.is_cached("asked", everything, **asked | dict(parameters={"k": 3}))
    assert not runs.is_cached("asked", lambda: {}, **asked) and not runs.is_cached("other", everything, **asked)
    with pytest.raises(ValueError, match="lower-case letters, digits and underscores only, got 'a b'"):
        runs.is_cached("a b", everything)


@pytest.mark.parametrize("value, error, words", [
    ([1], TypeError, "returns a dict, got list"),
    ({"f": pd.DataFrame({"a": [1]}, index=[7])}, ValueError, "'f' has an index of its own; call reset_index"),
    ({"a": np.array([object()])}, TypeError, "array 'a' holds Python objects"),
    ({"s": {1, 2}}, TypeError, "cannot keep a value of"),
])
def test_cached_refuses_what_it_cannot_keep(root, value, error, words):
    with pytest.raises(error, match=words):
        runs.cached("bad", lambda: value)


def test_cached_refuses_what_it_cannot_hash(root):
    with pytest.raises(TypeError, match="cannot hash a object; give arrays"):
        runs.cached("bad", everything, inputs={"x": object()})
    with pytest.raises(TypeError, match="cannot read the source of"):
        runs.cached("bad", everything, code=[len])
    with pytest.raises(ValueError, match="lower-case letters, digits and underscores only, got '../x'"):
        runs.cached("../x", everything)


simple = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                      lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(simple, simple)
def test_digest_is_equal_exactly_for_equal_values(one, other):
    assert cache.digest(one) == cache.digest(one)
    assert (cache.digest(one) == cache.digest(other)) == (repr_sorted(one) == repr_sorted(other))


def repr_sorted(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {repr_sorted(value[k])}" for k in sorted(value)) + "}"
    return "[" + ", ".join(map(repr_sorted, value)) + "]" if isinstance(value, list) else repr(value)


def test_digest_sees_shape_dtype_and_kind():
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.zeros(4, np.int64), torch.zeros(4),
              torch.zeros(4, dtype=torch.bfloat16), [0.0] * 4, pd.DataFrame({"a": np.zeros(4)})]
    assert len({cache.digest(a) for a in arrays}) == len(arrays)
    assert cache.digest(np.arange(6).reshape(2, 3).T) == cache.digest(np.arange(6).reshape(2, 3).T.copy())


def test_seed_everything_repeats_and_refuses():
    def draws():
        runs.seed_everything(5)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draws() == draws()
    assert 5 in runs.provenance()["seeds"]
    for wrong in (-1, 2**32, 1.0, True):
        with pytest.raises(ValueError, match="seed must be an integer from 0"):
            runs.seed_everything(wrong)


def test_progress_speaks_to_the_runner_or_draws_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CMF_PROGRESS", raising=False)
    assert list(runs.progress(range(3), "plain")) == [0, 1, 2]
    assert "plain" in capsys.readouterr().err
    place = tmp_path / "progress"
    monkeypatch.setenv("CMF_PROGRESS", str(place))
    seen = [place.read_text() for _ in runs.progress(range(3), "fitting")]
    assert seen[0] == "fitting 0/3" and place.read_text() == ""
    seen = [place.read_text() for _ in runs.progress(iter("ab"), "open")]
    assert seen[0] == "open 0" and capsys.readouterr().err == ""


def test_provenance_has_the_runners_facts_and_no_path(root, monkeypatch):
    monkeypatch.setenv("CMF_NOTEBOOK", "03_x")
    monkeypatch.setenv("CMF_PARAMETERS", '{"epochs": 3}')
    runs.used("weights", "ab" * 32)
    facts = runs.provenance(extra=1)
    assert facts["notebook"] == "03_x" and facts["parameters"] == {"epochs": 3} and facts["extra"] == 1
    assert facts["used"]["weights"] == "ab" * 32 and facts["versions"]["numpy"] == np.__version__
    text = json.dumps(facts)
    assert str(root) not in text and str(Path.home()) not in text


def test_same_facts_ignores_seconds_and_commit_only():
    one = {"claim": "a", "run": {"seconds": 1, "commit": "x", "dirty": True, "seeds": [1]}}
    assert runs.same_facts(one, {"claim": "a", "run": {"seconds": 2, "commit": "y", "dirty": False, "seeds": [1]}})
    assert not runs.same_facts(one, {"claim": "a", "run": {"seconds": 1, "seeds": [2]}})
    assert not runs.same_facts(one, {"claim": "b", "run": one["run"]})


def test_results_are_kept_and_read(root):
    frame = pd.DataFrame({"arm": ["a", "b"], "f1": [1 / 3, 0.5]})
    path = runs.write_result("arms", frame, seeds=[1, 2])
    assert path == root / "figures" / "demo" / "results" / "arms.csv"
    assert path.read_text() == "arm,f1\na,0.333333\nb,0.5\n"
    assert json.loads(path.with_suffix(".json").read_text())["seeds"] == [1, 2]
    assert runs.read_result("arms").arm.tolist() == ["a", "b"]
    assert runs.provenance()["used"]["result arms"] == sources.sha256(path)
    with pytest.raises(FileNotFoundError, match="no result 'none' at figures/real/results/none.csv; .* `make results`"):
        runs.read_result("none", profile="real")
    with pytest.raises(ValueError, match="got 'Arms.csv'"):
        runs.write_result("Arms.csv", frame)


def test_write_text_leaves_an_equal_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    runs.write_text(path, "one")
    before = path.stat().st_mtime_ns
    runs.write_text(path, "one")
    assert path.stat().st_mtime_ns == before
    runs.write_text(path, "two")
    assert path.read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_root_is_found_from_below_or_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CMF_ROOT", raising=False)
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    assert paths.root(tmp_path / "notebooks" / "deep") == tmp_path.resolve()
    monkeypatch.setenv("CMF_ROOT", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="CMF_ROOT is .*absent', which is no folder"):
        paths.root()


def test_reach_follows_absolute_relative_and_lazy_imports(tmp_path):
    for name, text in {"a/__init__.py": "", "a/top.py": "def f():\n    from .sub import leaf\n",
                       "a/sub/__init__.py": "", "a/sub/leaf.py": "from ..other import x\nimport os\n",
                       "a/other.py": "x = 1\n", "a/alone.py": "", "n.py": "from a import top\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = [str(p.relative_to(tmp_path.resolve())) for p in sources.reach(tmp_path / "n.py", tmp_path, "a")]
    assert found == ["a/__init__.py", "a/other.py", "a/sub/__init__.py", "a/sub/leaf.py", "a/top.py"]


def test_code_hash_sees_code_only():
    one = sources.tree_hash('"""Doc."""\ndef f(x):\n    """Doc."""\n    return x + 1\n')
    assert one == sources.tree_hash("def f(x):\n    # note\n    return (x + 1)\n")
    assert one != sources.tree_hash("def f(x):\n    return x + 2\n")
