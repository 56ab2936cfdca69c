"""The long results: what is computed, under which names it is kept, and that every committed table has its computation.

The studies have tests of their own; here they are stood in for, so that only the order of the steps runs.
"""

import inspect
from types import ModuleType

import project
import pytest

from cmf import results


class Anything:
    """Answers every call, attribute, index, loop over two, and format."""

    def __call__(self, *given, **named):
        return Anything()

    def __getattr__(self, name):
        return Anything()

    def __getitem__(self, key):
        return Anything()

    def __iter__(self):
        return iter((Anything(), Anything()))

    def __float__(self):
        return 1.0

    def __round__(self, digits=None):
        return 1

    def __format__(self, spec):
        return "1"


@pytest.fixture
def kept(monkeypatch):
    """Names under which results are written, while every study answers at once; constants stay as they are."""
    studies = [one for name, one in vars(results).items() if isinstance(one, ModuleType) and name != "runs"
               and one.__name__.startswith("cmf.")]
    for module in studies:
        for name, item in list(vars(module).items()):
            if (inspect.isfunction(item) or inspect.isclass(item)) and item.__module__.startswith("cmf."):
                monkeypatch.setattr(module, name, Anything())
    for name in ("pd", "replace", "Encoders"):
        monkeypatch.setattr(results, name, Anything())
    names = []
    monkeypatch.setattr(results.runs, "write_result", lambda name, table, **facts: names.append((name, facts)))
    return names


def test_every_committed_table_has_its_computation(kept, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    results.main([])
    names = [name for name, _ in kept]
    committed = {path.stem for path in (project.ROOT / "figures/demo/results").glob("*.csv")}
    assert committed <= {*names, "encoders", "faults"}, "nothing computes these"
    assert len(names) == len(set(names)) and all(facts["profile"] == "demo" for _, facts in kept)


def test_a_result_that_needs_a_gpu_is_left_out_where_there_is_none(kept, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    results.main(["--only", "cost_gpu"])
    assert not kept and "cost_gpu is left out: it needs a CUDA device" in capsys.readouterr().out


def test_one_result_of_a_profile(kept):
    results.main(["--only", "deepspace_arms"])
    (name, facts), = kept
    assert name == "deepspace_arms" and facts["targets"] == results.TARGETS and facts["training_seconds"] == 1
    results.main(["--profile", "real"])
    assert len(kept) == 1, "weights leave no table"


def test_an_unknown_result_is_refused_with_the_list(capsys):
    with pytest.raises(SystemExit) as end:
        results.main(["--only", "nine"])
    assert end.value.code == 2
    assert "no result 'nine' in profile demo; there are deepspace_classifier, deepspace_arms" in capsys.readouterr().err
