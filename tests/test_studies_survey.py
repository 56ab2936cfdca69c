"""The survey study on made-up groups: protocols, tokens fitted on training rows, every object predicted once."""

import numpy as np
import pytest
import torch

from cmf import processes
from cmf.datasets.deepspace import TargetSet
from cmf.datasets.survey_features import IMAGE_GROUPS, SEQUENCE_GROUPS, Group
from cmf.studies import survey
from cmf.training import Recipe


def made(n=90, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    groups = {name: Group(rng.normal(size=(n, 3)), ("a", "b", "c")) for name in IMAGE_GROUPS + SEQUENCE_GROUPS}
    for name in ("science", "level"):
        groups[name].values[:] += 3.0 * labels[:, None]
    source = np.array(list("uvwxy"))[np.arange(n) % 5]
    return survey.Survey(groups, labels, ("agn", "transient", "solar_system"), source)


def test_protocols():
    found = made()
    five = survey.folds(found, "five-fold")
    assert sorted(np.unique(five)) == list(range(5))
    assert all(np.ptp(np.bincount(found.labels[five == k], minlength=3)) <= 1 for k in range(5))
    assert (survey.folds(found, "leave one source out") == found.source).all()
    with pytest.raises(ValueError, match="no protocol 'random'; there are five-fold"):
        survey.folds(found, "random")


def test_tokens_rest_on_training_rows_alone():
    found = made()
    train = np.arange(90) < 60
    changed = made()
    changed.groups["science"].values[~train] *= 100
    before, after = (survey.tokens(s, ("science",), train)["science"] for s in (found, changed))
    torch.testing.assert_close(before[torch.from_numpy(train)], after[torch.from_numpy(train)])
    assert float(after.abs().max()) <= survey.LIMIT


def test_rows_are_noised_and_repeatable():
    columns = dict(x=torch.zeros(20, 1, 4), labels=torch.arange(20) % 2)
    one, two = (survey.Rows(7, **columns).__getitems__(list(range(20))) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert float(one["x"].std()) > 0.2 and (one["x"] == 0).float().mean() > survey.LOST_COLUMN / 2
    assert ((one["share"] >= 1 - survey.MIXING) & (one["share"] <= 1)).all()


def test_every_object_is_predicted_once_and_without_its_fold(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(survey, "NETWORKS", 1)
    monkeypatch.setattr(survey, "RECIPE", Recipe(epochs=40, batch=4096, lr=5e-3, weight_decay=0.1))
    found = made()
    p = survey.out_of_fold(found, "SA-CMF", "five-fold")
    assert p.shape == (90, 3) and np.allclose(p.sum(1), 1)
    assert (p.argmax(1) == found.labels).mean() > 0.6
    assert survey.out_of_fold(found, "logistic", "leave one source out").shape == (90, 3)


def test_models_are_computed_in_processes_and_read_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path / "alone"))
    found, protocols = made(), survey.PROTOCOLS
    alone = [survey.out_of_fold(found, "logistic", p) for p in protocols]
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path / "spread"))
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 2)
    tasks = [(found, "logistic", p, 0, ("counts",)) for p in protocols]
    survey.learn(tasks)
    monkeypatch.setattr(survey, "cross_validate", lambda *_: pytest.fail("not taken from the cache"))
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda *_: pytest.fail("processes for nothing"))
    survey.learn(tasks)
    for protocol, before in zip(protocols, alone, strict=True):
        assert np.array_equal(survey.out_of_fold(found, "logistic", protocol), before)


def test_a_class_can_be_left_out():
    rest = made().without("transient")
    assert rest.classes == ("agn", "solar_system") and set(rest.labels) == {0, 1} and len(rest.labels) == 60
    assert all(len(group.values) == 60 for group in rest.groups.values())


def test_information_between_groups_names_what_it_refuses():
    found = made()
    found.groups["sign"].values[:] = 1.0
    table = survey.information(found).set_index(["image", "sequence"])
    assert table.mi["science", "level"] > 0.02
    assert np.isnan(table.mi["science", "sign"]) and len(table.note["science", "sign"]) > 10


def test_the_table_has_a_row_a_model_and_protocol(monkeypatch):
    """Every model is asked once a split, with the counts only where the row says so."""
    asked = []

    def predicted(survey, model, protocol, split, drop):
        asked.append((model, protocol, split, drop, len(survey.classes)))
        return np.eye(len(survey.classes))[survey.labels]

    monkeypatch.setattr(survey, "out_of_fold", predicted)
    monkeypatch.setattr(survey, "learn", lambda tasks: [predicted(*task) for task in tasks])
    table, kept = survey.table(made())
    assert (table.macro_f1 == 1).all() and (table.low == 1).all()
    assert table.groupby("protocol").size().to_dict() == {protocol: 16 for protocol in survey.PROTOCOLS}
    assert table[table.model == "SA-CMF and discriminant"].counts.tolist() == ["without", "with"] * 2
    assert set(table[table.solar_system == "without"].model) == {"SA-CMF", "logistic"}
    assert ("SA-CMF", "five-fold", 1, ("counts",), 3) in asked and ("SA-CMF", "five-fold", 0, (), 3) in asked
    assert not any(split for _, protocol, split, _, _ in asked if protocol != "five-fold")
    assert set(kept) == {(p, m) for p in survey.PROTOCOLS for m in (
        "image only", "sequence only", "late concatenation", "cross-attention", "SA-CMF", "logistic", "boosting",
        "discriminant", "SA-CMF and discriminant")}


def test_features_of_a_set_come_from_the_cache_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    observed = np.zeros((6, 5, 6), bool)
    observed[:, :, [0, 3]] = True
    targets = TargetSet(images=rng.normal(100, 5, (6, 3, 63, 63)).astype(np.float32),
                        times=np.tile(np.arange(-4, 1, dtype=np.float32), (6, 1)),
                        values=observed.astype(np.float32), observed=observed,
                        labels=np.array([0, 2, 4, 0, 2, 4]), ids=tuple("123456"), classes=tuple("abcde"),
                        frames=("science", "template", "difference"), channels=tuple("grizyx"), time_unit="days",
                        groups=dict(origin=np.array(list("uvwuvw"))))
    found = survey.features(targets)
    assert found.classes == ("a", "c", "e") and found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.source.tolist() == list("uvwuvw") and set(found.groups) == set(IMAGE_GROUPS + SEQUENCE_GROUPS)
    monkeypatch.setattr(survey, "survey_features", lambda *_: pytest.fail("computed again"))
    again = survey.features(targets)
    assert all(np.array_equal(again.groups[name].values, group.values) for name, group in found.groups.items())
