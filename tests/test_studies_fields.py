"""Fields of soil, crop and weed: each baseline on pictures made here, where what must win is known."""

import doctest
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmf.studies import fields, segmenting
from cmf.studies.fields import BANDS, RECIPE, Fields, Parts, UNet, features, table, threshold, vegetation

SMALL = replace(RECIPE, epochs=2)


def field(m, seed, size=(56, 72)):
    """Plants in both bands dark in red and bright in near infrared: crops are discs, weeds are thin stripes. Soil has
    bright and dark patches in both bands alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size[0], :size[1]]
    bands, labels = [], []
    for _ in range(m):
        soil = 90 + 30 * np.sin(x / 9 + rng.uniform(0, 6)) * np.sin(y / 7 + rng.uniform(0, 6))
        label = np.zeros(size, np.uint8)
        for kind, n in ((1, 3), (2, 5)):
            for _ in range(n):
                v, u = rng.integers(6, size[0] - 6), rng.integers(6, size[1] - 6)
                shape = np.hypot(y - v, x - u) < 5 if kind == 1 else (abs(y - v) < 1) & (abs(x - u) < 6)
                label[shape & (label == 0)] = kind
        red, near = np.where(label > 0, 55, soil), np.where(label > 0, 165, soil * 1.1)
        bands.append(np.stack([red, near]) + rng.normal(0, 4, (2, *size)))
        labels.append(label)
    return Fields(np.clip(bands, 0, 255).astype(np.uint8), np.stack(labels), tuple(map(str, range(m))))


@pytest.fixture
def parts(monkeypatch, tmp_path):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fields, "CROP", 48)
    monkeypatch.setattr(fields, "WIDTHS", (8, 12))
    monkeypatch.setattr(fields, "PIXELS", 60)
    return Parts(field(6, 1), field(3, 2), field(4, 3))


def test_vegetation_index():
    bands = np.array([[[50, 0, 200]], [[150, 0, 100]]], np.uint8)
    np.testing.assert_allclose(vegetation(bands), [[0.5, 0, -1 / 3]], rtol=1e-6)
    assert vegetation(np.zeros((5, 2, 3, 4), np.uint8)).shape == (5, 3, 4)


def test_threshold_is_chosen_on_held_out_pictures(parts):
    made, chosen = threshold(parts)
    assert chosen["leaf"] == "crop" and 0.1 < chosen["threshold"] < 0.5, "crops cover more here"
    np.testing.assert_array_equal(made == 1, vegetation(parts.test.bands) > chosen["threshold"])
    without = replace(parts, test=parts.held)
    assert threshold(without)[1] == chosen, "test pictures decide nothing"


def test_features_tell_the_shape_of_plants():
    some = field(1, 5)
    found = features(some.bands[0], "both", 0.25)
    discs, stripes = found[some.label[0] == 1], found[some.label[0] == 2]
    assert found.shape == (56, 72, 31) and found.dtype == np.float32 and np.isfinite(found).all()
    assert features(some.bands[0], "red", 0.25).shape == (56, 72, 7)
    depth = found.shape[-1] - 4
    assert np.median(discs[:, depth]) > np.median(stripes[:, depth]), "discs are thick"
    np.testing.assert_array_equal(features(np.full((2, 9, 9), 80, np.uint8), "both", 0.25)[..., -10:], 0)


def test_table_of_all_systems(parts):
    some = fields.SYSTEMS[:-1]
    found = table(parts, some, recipe=SMALL, rounds=2)
    assert fields.SYSTEMS[-1] == ("CMFS", "both") and "difference" not in found
    assert list(found.system) == ["NDVI threshold"] + ["random forest"] * 3 + ["U-Net"] * 3
    assert list(found.bands[1:]) == [*BANDS, *BANDS]
    assert (found.low <= found.miou).all() and (found.miou <= found.high).all() and found.miou.between(0, 1).all()
    np.testing.assert_allclose(found[["soil", "crop", "weed"]].mean(axis=1), found.miou)
    best = found.set_index(["system", "bands"]).miou
    assert best["random forest", "both"] > best["NDVI threshold", "both"] + 0.1, "shape tells crop from weed"
    again = table(parts, some, recipe=SMALL, rounds=2)
    assert found.equals(again), "read from the cache, seconds too"


def test_unet_of_any_size_and_band(parts):
    batch = dict(visible=torch.rand(2, 3, 37, 51), infrared=torch.rand(2, 1, 37, 51))
    for which, bands in BANDS.items():
        model = UNet(which).eval()
        logits = model(batch)["logits"]
        assert logits.shape == (2, 3, 37, 51) and model.down[0][0].in_channels == len(bands)
        changed = model(batch | dict(infrared=torch.rand(2, 1, 37, 51)))["logits"]
        assert torch.equal(logits, changed) == (which == "red"), "the red one does not see the infrared"


def test_two_runs_agree(parts):
    one, again = (fields.unet(parts, "both", 3, SMALL, 2) for _ in range(2))
    np.testing.assert_array_equal(one[0], again[0])
    assert one[1] == again[1]


def test_cmfs_learns_from_windows_of_the_same_pictures(parts, monkeypatch):
    monkeypatch.setattr(segmenting, "FIELDS", replace(segmenting.FIELDS, epochs=1))
    for name, value in (("FIELD_WINDOWS", 4), ("FIELD_WINDOW", (40, 48)), ("FIELD_CROP", (32, 32))):
        monkeypatch.setattr(segmenting, name, value)
    some = fields.sets(parts)
    assert some.train["visible"].shape == (4, 3, 40, 48) and some.classes == fields.CLASSES
    assert torch.equal(some.test["visible"][:, 2], torch.from_numpy(parts.test.bands[:, 0]))
    assert torch.equal(some.held["infrared"][:, 0], torch.from_numpy(parts.held.bands[:, 1]))
    found = table(parts, (("NDVI threshold", "both"), ("CMFS", "both"))).set_index("system")
    assert found.difference["CMFS"] == 0 and found.difference["NDVI threshold"] == pytest.approx(
        found.miou["CMFS"] - found.miou["NDVI threshold"])
    assert (found.difference_low <= found.difference_high).all() and found.held.between(0, 1).all()
    assert found.equals(table(parts, (("NDVI threshold", "both"), ("CMFS", "both"))).set_index("system"))


def test_unknown_systems(parts):
    for system, which in (("U-Net", "green"), ("oracle", "both"), ("CMFS", "red")):
        with pytest.raises(ValueError, match=f"no '{system}' on '{which}'; expected NDVI threshold, random forest or"):
            fields.judged(system, which, parts)


def test_cwfid_threshold():
    root = Path(os.environ.get("CMF_DATA", "")) / "infrared_visible" / "cwfid"
    if not os.environ.get("CMF_DATA") or not root.is_dir():
        pytest.skip("CMF_DATA names no folder with infrared_visible/cwfid")
    parts = fields.load()
    assert (len(parts.train), len(parts.held), len(parts.test)) == (32, 8, 10)
    assert not set(parts.train.names) & set(parts.held.names)
    made, chosen = threshold(parts)
    counts = fields.counted(parts.test.label, made)
    assert chosen["leaf"] == "weed" and fields.scores(counts.sum(0))["miou"] == pytest.approx(0.537, abs=0.005)


def test_examples():
    result = doctest.testmod(fields)
    assert result.attempted == 1 and result.failed == 0
