"""The same U-Net on the pictures of several methods: what it is given, what is measured, and how methods are ranked."""

import numpy as np
import pytest
import torch

from cmf.studies import downstream as study
from cmf.studies import fields, segmenting
from cmf.studies.classical import CLASSICAL
from cmf.studies.segmenting import luma
from cmf.training import Recipe

SHORT = Recipe(epochs=1, batch=4, lr=3e-3)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(segmenting, "WINDOW", (40, 48))
    monkeypatch.setattr(segmenting, "CROP", (32, 32))
    monkeypatch.setattr(fields, "WIDTHS", (8, 12))


@pytest.fixture
def some():
    return study.scenes(3, 5, 2, 3, (48, 64))


class Answer:
    """A fuser and a segmenter whose fused picture is the mean."""

    def fuse(self, visible, infrared):
        self.luma = (luma(np.moveaxis(visible, 2, 0)) + infrared) / 510
        return self

    def segment(self, visible, infrared):
        self.fused = np.repeat((visible.mean(2) / 510 + infrared / 510)[..., None], 3, 2)
        return self


def test_methods_give_grey_pictures(some):
    made = study.methods(Answer(), Answer())
    assert list(made) == ["visible", "infrared", *CLASSICAL, "CMI-Fusion", "CMFS"]
    v, u = some["test"].columns["visible"][0], some["test"].columns["infrared"][0]
    found = {name: method(v, u) for name, method in made.items()}
    assert all(x.shape == (48, 64) and 0 <= x.min() and x.max() <= 1 for x in found.values())
    np.testing.assert_allclose(found["infrared"], u[0].numpy() / 255, rtol=1e-6)
    np.testing.assert_allclose(found["visible"], luma(v) / 255, rtol=1e-6)
    np.testing.assert_allclose(found["CMI-Fusion"], (found["visible"] + found["infrared"]) / 2, atol=1e-6)


def test_pictures_are_made_once_and_stand_for_both_bands(some):
    calls = []

    def method(v, u):
        calls.append(1)
        return u[0].numpy() / 255

    made = [study.pictures("infrared", some, method) for _ in range(2)]
    assert len(calls) == 10 and made[0]["test"].dtype == np.uint8
    np.testing.assert_array_equal(made[1]["test"], some["test"].columns["infrared"][:, 0])
    told = some["test"].told(made[0]["test"])
    assert torch.equal(told["visible"][:, 2], told["infrared"][:, 0]) and torch.equal(
        told["label"], some["test"].columns["label"])


def test_table_and_ranks(some):
    methods, chosen = study.methods(Answer(), Answer()), ("visible", "pixel maximum", "CMFS")
    made = {name: study.pictures(name, some, methods[name]) for name in chosen}
    table = study.table(some, [0, 1], made, SHORT, 8, 1)
    assert table.equals(study.table(some, [0, 1], made, SHORT, 8, 1)), "two runs agree"
    assert list(table.method) == list(made) and table.miou.between(0, 1).all()
    assert (table.low <= table.miou).all() and (table.seeds_low <= table.seeds_high).all()
    assert table.set_index("method").difference["CMFS"] == 0
    ranks = study.ranked(some, made, 2).set_index("method")
    assert ranks.mean_rank.between(1, 3).all() and ranks.mean_rank.mean() == pytest.approx(2)
    assert ranks.SCD.notna().all()


def test_net_of_any_size_sees_one_picture():
    model = study.Net(0.4, 0.2).eval()
    x = torch.rand(2, 1, 37, 51)
    one, other = (model(dict(visible=x.expand(-1, 3, -1, -1), infrared=y))["logits"] for y in (x, x * 0))
    assert one.shape == (2, study.K, 37, 51) and torch.equal(one, other)
