"""Learnt features: what they share by known cases, partners by unit, and that each knows one modality only."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmf import copula
from cmf.studies import footage, learnt, scenes, trios, watching
from cmf.studies.learnt import Learnt
from cmf.training import Tensors


def features(share, m=40, each=5, d=6):
    """Two sets of features of m units with a part in common, things of a unit alike."""
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(m), each)
    draw = lambda: rng.normal(size=(m * each, d)) + rng.normal(size=(m, d))[unit]
    common, scale = draw(), np.arange(d, 0, -1)
    return Learnt(*(scale * (share * common + (1 - share) * draw()) for _ in "ab"), unit)


def test_information_is_that_of_each_pair():
    one, other = np.random.default_rng(1).normal(size=(2, 300, 3))
    other[:, 1] -= 2 * one[:, 2]
    found = learnt.information(one, other)
    assert found.shape == (3, 3)
    for i, j in ((0, 0), (2, 1)):
        assert found[i, j] == pytest.approx(copula.mutual_information(one[:, i], other[:, j]).mi, abs=2e-3)
    assert found[2, 1] == found.max() > 0.3 and np.delete(found.ravel(), 7).max() < 0.05


def test_components_are_the_widest_first():
    x = np.random.default_rng(2).normal(size=(50, 12)) * np.arange(1, 13)
    found = learnt.components(x)
    assert found.shape == (50, 8) and (np.diff(found.var(0)) < 0).all()
    assert learnt.components(x[:, :3]).shape == (50, 3), "fewer channels are all kept"


def test_partners_are_whole_units():
    unit = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    found = learnt.partners(unit, np.random.default_rng(0))
    assert (unit[found] != unit).all()
    for k in range(3):
        other = np.unique(unit[found[unit == k]])
        first = np.flatnonzero(unit == other[0])
        assert len(other) == 1 and found[unit == k].tolist() == np.resize(first, (unit == k).sum()).tolist()
    with pytest.raises(ValueError, match="partners are exchanged between units, got 1; give two or more"):
        learnt.partners(np.zeros(4), np.random.default_rng(0))


def test_what_is_shared_is_told_from_chance():
    matrix, said = learnt.measured(features(0.8), exchanges=19)
    assert matrix.shape == (6, 6) and said["mean"] == pytest.approx(matrix.mean()) and said["p"] == 1 / 20
    assert said["largest"] == pytest.approx(matrix.max()) and said["largest"] > 5 * said["chance_largest"]
    for name in ("mean", "largest"):
        assert said[f"{name}_low"] <= said[name] <= said[f"{name}_high"]
    assert said["mean_low"] > said["chance"] and (said["n"], said["units"]) == (200, 40)
    apart = learnt.measured(features(0.0), exchanges=19)[1]
    assert apart["p"] > 0.05 and apart["mean_low"] < apart["chance"] < apart["mean_high"], "things of a unit are alike"


def test_caught_is_what_modules_took_and_gave():
    first, second, idle = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1), torch.nn.Linear(1, 1)
    network, x = torch.nn.Sequential(first, second), torch.ones(4, 2)
    (took, gave), (again, _) = learnt.caught(network, x, first, second)
    assert took[0] is x and again[0] is gave and gave.shape == (4, 3) and not first._forward_hooks
    with pytest.raises(ValueError, match="Linear of Sequential took no part; name modules that forward calls"):
        learnt.caught(network, x, idle)


def test_words_belong_to_the_segment_of_their_time():
    seen, words = torch.arange(8.0).view(2, 4, 1), torch.arange(10.0).view(2, 5, 1)
    segments = torch.tensor([[True] * 4, [True, True, False, False]])
    mask = torch.tensor([[True] * 4 + [False], [True, False, False, False, False]])
    time = torch.tensor([[0.0, 0.2, 0.9, 1.0, 0.5], [0.6, 0.0, 0.0, 0.0, 0.0]])
    found = learnt.paired(seen, words, segments, mask, time)
    assert found.one.ravel().tolist() == [0, 3, 5] and found.other.ravel().tolist() == [0.5, 2.5, 5]
    assert found.unit.tolist() == [0, 0, 1]


def test_places_are_the_same_in_each_picture():
    grid = torch.arange(24.0).view(1, 1, 4, 6)
    found = learnt.placed([(grid, -grid), (grid + 100, -grid)], (2, 3))
    assert found.one.ravel().tolist() == [7, 9, 11, 19, 21, 23, 107, 109, 111, 119, 121, 123]
    assert (found.other[:6] == found.other[6:]).all() and found.unit.tolist() == [0] * 6 + [1] * 6
    with pytest.raises(ValueError, match="maps of 4 x 6 have no 9 x 12 places; give larger pictures"):
        learnt.placed([(grid, grid)])


def targets(monkeypatch, other):
    config = scenes.Classifier.load().network.config
    torch.manual_seed(0)
    columns = {name: torch.randn(5, *shape) for name, *shape in config.image + config.sequence}
    columns["summary"] += other
    monkeypatch.setattr(scenes.Classifier, "table", lambda model, some: Tensors(**columns))
    return learnt.sacmf(5)


def clips(monkeypatch, other):
    config = watching.Watcher.load().network.config
    torch.manual_seed(0)
    columns = dict(visual=torch.randn(2, 4, config.visual), motion=torch.randn(2, 4, config.motion),
                   segments=torch.ones(2, 4, dtype=torch.bool), text=torch.randn(2, 6, config.text) + other,
                   text_mask=torch.ones(2, 6, dtype=torch.bool), text_time=torch.linspace(0, 1, 6).expand(2, 6))
    monkeypatch.setattr(footage, "columns", lambda some, encoders: SimpleNamespace(columns=columns))
    return learnt.cmaf(2)


def streets(monkeypatch, other, make):
    grey = np.random.default_rng(0).integers(0, 200, (2, 4, 96, 128), dtype=np.uint8)
    pictures = dict(visible=torch.from_numpy(grey[:, :3]), infrared=torch.from_numpy(grey[:, 3:]) + other)
    monkeypatch.setattr(trios, "scenes", lambda n: pictures)
    return make(2)


MADE = {"SA-CMF": (targets, 5, 64, 5), "CMAF": (clips, 8, 64, 2),
        "CMI-Fusion": (lambda patch, other: streets(patch, other, learnt.cmi_fusion), 216, 64, 2),
        "CMFS": (lambda patch, other: streets(patch, other, learnt.cmfs), 216, 32, 2)}


@pytest.mark.parametrize("method", learnt.METHODS)
def test_learnt_features_know_one_modality(monkeypatch, method):
    make, n, d, units = MADE[method]
    found, changed = make(monkeypatch, 0), make(monkeypatch, 20)
    assert found.one.shape == found.other.shape == (n, d) and len(np.unique(found.unit)) == units
    assert np.array_equal(found.one, changed.one), "the other modality does not reach these features"
    assert np.abs(found.other - changed.other).max() > 1e-3


def test_every_method_has_a_row(monkeypatch, tmp_path):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(learnt, "METHODS", {"one": (lambda: features(0.8), scenes.TRAINED)})
    matrices, rows = learnt.table(("one",))
    again, same = learnt.table(("one",))
    assert matrices["one"].shape == (6, 6) and rows.method.tolist() == ["one"] and rows["mean"][0] > rows.chance[0]
    assert np.array_equal(again["one"], matrices["one"]) and same.equals(rows)


def test_pairs_are_numbered_from_one():
    found = learnt.pairs_table({"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0]])})
    assert found.values.tolist() == [["a", 1, 1, 1.0], ["a", 1, 2, 2.0], ["b", 1, 1, 3.0]]
