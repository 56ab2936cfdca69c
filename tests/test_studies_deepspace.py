"""The deep-space study: arms on made-up features, the comparison table, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from cmf.datasets.deepspace import from_simulator
from cmf.simulate.deepspace import CLASSES, simulate_targets
from cmf.studies import deepspace
from cmf.training import Recipe, Tensors

SHAPES = dict(grid=(18, 24), pooled=(2, 2048), radiometric=(2, 8), motion=(1, 7), patches=(4, 17), summary=(1, 19),
              grey=(3,), difference=(1,), flat=(32,))


def made(n, seed):
    """Columns of the study's shapes; radiometric and summary each tell half of the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    columns = {name: rng.normal(size=(n, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    columns["radiometric"][..., 0] += 4 * (labels % 2)[:, None]
    columns["summary"][..., 0] += 4 * (labels // 2)[:, None]
    columns["flat"][:, :4] += 4 * (labels // 2)[:, None]
    return Tensors(labels=torch.from_numpy(labels), **{k: torch.from_numpy(v) for k, v in columns.items()})


SETS = {split: made(n, k) for k, (split, n) in enumerate(dict(train=384, validation=96, test=96).items())}
SHORT = Recipe(epochs=6, batch=96, lr=4e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("arm", deepspace.ARMS)
def test_every_arm_trains_and_is_judged(arm):
    model, result = deepspace.train(arm, SETS, 0, Recipe(epochs=1, batch=192))
    measures = deepspace.judge(model, SETS["test"])
    assert len(result.history) == 1 and np.isfinite(result.history.loss).all()
    assert 0 <= measures["f1_macro"] <= 1 and measures["trained"] > 0


def test_fusion_reads_what_no_modality_has_alone():
    found = {arm: deepspace.judge(deepspace.train(arm, SETS, 0, SHORT)[0], SETS["test"])["f1_macro"]
             for arm in ("image only", "sequence only", "SA-CMF")}
    assert found["SA-CMF"] > max(found["image only"], found["sequence only"]) + 0.1


def test_trained_comes_from_the_cache_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    first, record = deepspace.trained("SA-CMF", SETS, 0, Recipe(epochs=1, batch=192))
    monkeypatch.setattr(deepspace, "train", lambda *_: pytest.fail("trained again"))
    again, other = deepspace.trained("SA-CMF", SETS, 0, Recipe(epochs=1, batch=192))
    assert record["measures"] == other["measures"] and 0 <= record["measures"]["rmm_without_image"] <= 1
    outputs = [deepspace.predict(model, SETS["test"])["logits"] for model in (first, again)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_comparison_is_paired_over_seeds():
    rows = [dict(arm=arm, seed=seed, f1_macro=base + 0.1 * seed)
            for arm, base in (("SA-CMF", 0.5), ("image only", 0.3)) for seed in range(5)]
    table = deepspace.compare(pd.DataFrame(rows)).set_index("arm")
    assert table.difference["image only"] == pytest.approx(0.2)
    assert table.difference_low["image only"] == pytest.approx(0.2)
    assert table.high["SA-CMF"] > table.low["SA-CMF"] + 0.1


def test_published_features_keep_the_published_pairing():
    targets = from_simulator(simulate_targets(12, "test", 3))
    found = deepspace.published_features(targets)
    a, b = targets.images[:, 0], targets.images[:, 1]
    assert found["flat"].shape == (12, 32) and np.isfinite(found["flat"]).all()
    assert found["grey"][4].tolist() == pytest.approx([a[4].mean(), a[4].std(), a[4].max()])
    assert found["difference"][4, 0] == pytest.approx(np.abs(b[4] - b[3]).mean())


def test_unknown_arm_is_refused_with_the_list():
    with pytest.raises(ValueError, match="no arm 'ours'; there are image only, sequence only"):
        deepspace.build("ours", SETS["train"], 0)


def test_features_of_simulated_targets(tmp_path, monkeypatch):
    """Shapes as the arms take them; the projection and the published inputs rest on training targets alone."""
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    sets = deepspace.simulated(18, 6, 6, seed=3)
    assert {name: len(some.labels) for name, some in sets.items()} == dict(train=18, validation=6, test=6)
    table, projection = deepspace.features(sets)
    for split, n in dict(train=18, validation=6, test=6).items():
        found = {name: tuple(x.shape[1:]) for name, x in table[split].columns.items() if name != "labels"}
        assert len(table[split]) == n and found.pop("summary")[0] == 1
        assert found == {name: SHAPES[name] for name in found}
    assert projection.basis.shape == (2048, deepspace.CHANNELS)
    assert table["train"].columns["grey"].mean(0).abs().max() < 1e-4
    monkeypatch.setattr(deepspace.Backbone, "build", lambda _: pytest.fail("computed again"))
    again, _ = deepspace.features(sets)
    assert torch.equal(again["test"].columns["grid"], table["test"].columns["grid"])


def test_a_row_an_arm_and_seed(monkeypatch):
    record = dict(best_epoch=3, seconds=1.5, measures=dict(f1_macro=0.5))
    monkeypatch.setattr(deepspace, "trained", lambda arm, sets, seed: (None, record))
    table = deepspace.arms(["SA-CMF", "image only"], SETS, [1, 2])
    assert list(zip(table.arm, table.seed, strict=True)) == [
        ("SA-CMF", 1), ("SA-CMF", 2), ("image only", 1), ("image only", 2)]
    assert (table.f1_macro == 0.5).all() and (table.best_epoch == 3).all()
