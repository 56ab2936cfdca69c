"""CMFS on a few small scenes: windows, weights of classes, what sets each arm apart, judging and noise."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmf.datasets.segmentation import CLASSES
from cmf.encoders.clip import CLIP
from cmf.studies import segmenting as study
from cmf.training import Recipe

SHORT = Recipe(epochs=1, batch=4, lr=2e-3)


@pytest.fixture(scope="module")
def encoder():
    return CLIP("small", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def some(encoder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMF_CACHE_DIR", str(tmp_path_factory.mktemp("scenes")))
        return study.sets(3, 6, 2, 3, (64, 80), windows=8, window=(48, 56), crop=(32, 48), encoder=encoder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))


def test_sets_are_of_other_places_and_the_same_twice(some, encoder):
    assert {name: tuple(x.shape) for name, x in some.train.items()} == {
        "visible": (8, 3, 48, 56), "infrared": (8, 1, 48, 56), "label": (8, 48, 56)}
    assert some.test["visible"].shape == (3, 3, 64, 80) and some.held["label"].shape == (2, 64, 80)
    assert some.classes == CLASSES["street"] and some.text.shape[0] == 8 and len(some.ids) == 3
    again = study.sets(3, 6, 2, 3, (64, 80), windows=8, window=(48, 56), crop=(32, 48), encoder=encoder)
    assert all(torch.equal(some.train[name], again.train[name]) for name in some.train)


def test_windows_show_rare_classes():
    label = torch.zeros(10, 60, 60, dtype=torch.uint8)
    label[3, 50:54, 10:14] = 2                       # 16 of 36,000 pixels
    label[4, 5, 5] = 255
    columns = dict(visible=label[:, None].expand(-1, 3, -1, -1), infrared=label[:, None], label=label)
    made = study.cut(columns, 200, (20, 20), 0)
    seen = (made["label"] == 2).flatten(1).any(1).float().mean()
    assert made["label"].shape == (200, 20, 20) and 0.5 < seen < study.CLASSED + 0.1
    assert torch.equal(made["visible"][:, 0], made["label"]), "planes are cut alike"
    ragged = {name: list(x[:2]) + [x[2][..., :30, :40]] for name, x in columns.items()}
    assert study.cut(ragged, 5, (20, 20), 0)["infrared"].shape == (5, 1, 20, 20)
    with pytest.raises(ValueError, match="picture 2 has 30 x 40 rows and columns, less than a window of 32 x 32"):
        study.cut(ragged, 5, (32, 32), 0)


def test_rarer_classes_weigh_more():
    label = torch.tensor([[0] * 81 + [1] * 16 + [2, 2, 255]], dtype=torch.uint8)
    found = study.frequency(label, 4, 0.5)
    assert np.mean(found) == pytest.approx(1) and found[2] == found[3], "an absent class counts as the rarest"
    assert found[1] / found[0] == pytest.approx((81 / 16) ** 0.5)
    assert study.frequency(label, 4, 0.0) == (1.0,) * 4


def test_prompts_and_the_words_that_are_unknown(encoder):
    text = study.prompts(CLASSES["mfnet"], encoder)
    own = encoder.texts(["the photo of person"]).pooled[0]
    assert torch.allclose(text[1], own, atol=1e-5) and len(text) == 8
    unknown = study.spelled(CLASSES["mfnet"], encoder)
    assert "guardrail" in unknown and "person" not in unknown and "car stop" not in unknown


@pytest.mark.gpu
@pytest.mark.parametrize("arm", study.ARMS)
def test_every_arm_learns_and_labels(arm, some):
    model, weights = study.build(arm, some, 0)
    result = study.train(model, weights, some, SHORT)
    said = study.labelled(model, some.test)
    assert np.isfinite(result.history.loss).all()
    assert said["label"].shape == (3, 64, 80) and said["fused"].shape == (3, 3, 64, 80)
    np.testing.assert_allclose(said["load"].sum(1), 1)
    assert study.labelled(model, {k: list(x) for k, x in some.test.items()})["label"][2].shape == (64, 80)


def test_an_arm_lacks_what_its_name_says(some):
    made = {arm: study.build(arm, some, 0) for arm in study.ARMS}
    shape = {arm: network.config for arm, (network, _) in made.items()}
    assert shape["visible only"].use == "visible" and made["visible only"][1].fusion == 0
    assert not shape["without text"].text and not shape["without region interaction"].region
    assert not shape["without wavelet"].wavelet and not shape["without Fourier"].fourier
    assert not shape["without scan"].scan and not shape["without experts"].experts
    assert shape["published"].published and made["published"][1].signed and made["published"][1].balance == 0
    assert made["CMFS"][1].balance == study.BALANCE and not shape["CMFS"].published
    with pytest.raises(ValueError, match="no arm 'late'; there are CMFS, visible only"):
        study.build("late", some, 0)


def test_arms_are_trained_once_and_compared(some):
    names = ["CMFS", "infrared only"]
    table = study.arms(names, some, [0, 1], SHORT)
    again = study.arms(names, some, [0, 1], SHORT)
    assert table.equals(again) and list(table.arm) == ["CMFS", "infrared only"] * 2, "read from the cache, seconds too"
    assert table.miou.between(0, 1).all() and table.least_load.between(0, 1).all()
    assert table.VIF.notna().tolist() == [True, False] * 2, "one modality has nothing to fuse"
    found = study.compare(names, some, [0, 1], recipe=SHORT).set_index("arm")
    assert found.difference["CMFS"] == 0 and (found.low <= found.miou).all() and (found.miou <= found.high).all()
    assert (found.seeds_low <= found.seeds_high).all()
    classes = study.by_class(names, some, [0, 1], SHORT)
    assert len(classes) == 2 * 9 and (classes.low <= classes.iou + 1e-9).all()
    own = classes[classes.arm == "CMFS"].set_index("label").pixels
    assert own["background"] == int((some.test["label"] == 0).sum())


def test_noise_reaches_one_picture(some):
    levels = (0.0, 0.3, np.inf)
    table = study.noisy(["infrared only"], some, [0], levels, 2, SHORT).set_index(["noise_in", "level"]).miou
    assert table["visible"].nunique() == 1, "it does not see the visible"
    assert table["visible", 0.0] == table["infrared", 0.0]
    model = study.trained("infrared only", some, 0, SHORT)[0]
    black = dict(some.test, infrared=some.test["infrared"] * 0)
    noisy = study.labelled(model, some.test, noise=dict(infrared=np.inf))["label"]
    assert torch.equal(noisy, study.labelled(model, black)["label"])


def test_measures_are_of_the_luma(some):
    visible = some.test["visible"]
    table = study.measured(visible, some.test, 2)
    assert list(table.columns) == ["picture", *study.MEASURES] and len(table) == 2
    grey = study.luma(visible[0])
    assert table.SD[0] == pytest.approx(grey.std(), rel=1e-5)
    assert study.measured([grey], some.test).EN[0] == table.EN[0]


def test_two_runs_agree(some):
    def states():
        model, weights = study.build("CMFS", some, 2)
        study.train(model, weights, some, replace(SHORT, seed=2))
        return model.state_dict()

    one, again = states(), states()
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_cwfid(encoder):
    root = Path(os.environ.get("CMF_DATA", "")) / "infrared_visible" / "cwfid"
    if not os.environ.get("CMF_DATA") or not root.is_dir():
        pytest.skip("CMF_DATA names no folder with infrared_visible/cwfid")
    some = study.cwfid(windows=6, window=(64, 64), crop=(48, 48), encoder=encoder)
    assert some.classes == ("soil", "crop", "weed") and len(some.text) == 2
    assert (len(some.train["label"]), len(some.held["label"]), len(some.test["label"])) == (6, 8, 10)
