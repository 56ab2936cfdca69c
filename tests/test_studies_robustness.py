"""Worse sensors and withheld modalities: one photometric scale, one row a setting, chance at the end."""

import numpy as np
import pytest
import torch
from test_studies_deepspace import SETS, SHAPES

from cmf.encoders.features import Projection
from cmf.simulate.deepspace import CLASSES, Dials
from cmf.studies import deepspace, robustness
from cmf.training import Recipe


class Frozen(deepspace.Backbone):
    def build(self):
        return None


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """Frames that the encoder is given; its features are random numbers of the right shapes."""
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    seen = []

    def looked(targets, encoder, projection):
        seen.append(targets.images)
        rng = np.random.default_rng(0)
        names = ("grid", "pooled", "radiometric", "motion")
        return {name: rng.normal(size=(len(targets.labels), *SHAPES[name])) for name in names}

    monkeypatch.setattr(robustness.deepspace, "image_features", looked)
    return seen


@pytest.fixture(scope="module")
def model():
    return deepspace.train("SA-CMF", SETS, 0, Recipe(epochs=4, batch=96, lr=4e-3))[0]


def test_frames_are_brought_to_one_photometric_scale(frames):
    """A body that is n times as bright in counts is as bright as before, in n times less noise."""
    projection = Projection(np.zeros(3), np.zeros((3, 2)))
    for psnr in (Dials().psnr, 4 * Dials().psnr):
        table = robustness.seen(Dials(psnr=psnr), projection, Frozen(), 12)
    assert len(table) == 12 and set(table.columns) >= {"grid", "patches", "summary", "labels"}
    usual, bright = (np.median(np.abs(x - np.median(x, (2, 3), keepdims=True))) for x in frames)
    assert bright == pytest.approx(usual / 4, rel=0.1)


def test_a_dial_is_swept_for_every_model(frames, model):
    projection = Projection(np.zeros(3), np.zeros((3, 2)))
    table = robustness.sweep({"SA-CMF": model}, projection, "missing", (0.0, 0.5), 24, Frozen())
    assert table[["dial", "value", "arm"]].values.tolist() == [["missing", 0.0, "SA-CMF"], ["missing", 0.5, "SA-CMF"]]
    assert table.macro_f1.between(0, 1).all()
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        robustness.sweep({}, projection, "nothing", (1,))


def test_what_is_withheld_costs_what_it_told(model):
    table = robustness.shares_missing(model, SETS["test"], (0.0, 1.0))
    wide = table.pivot(index="missing", columns="share", values="macro_f1")
    assert list(wide.index) == ["image", "sequence"]
    assert wide[0.0].nunique() == 1 and (wide[1.0] < wide[0.0] - 0.05).all()
    assert wide[0.0].iloc[0] == robustness.score(model, SETS["test"]) > 1 / len(CLASSES)
    assert torch.equal(SETS["test"].columns["labels"], torch.arange(96) % len(CLASSES))
