"""Ceilings and dials of the simulated world, on few targets: the tables' rows, and that more light tells more."""

import pytest

from cmf.studies import worlds


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))


def test_ceilings_of_what_is_measured_and_of_what_is_true(monkeypatch):
    scores, pairs = worlds.ceilings(120, 120, [0])
    assert scores.groupby("columns").modality.apply(list).to_dict() == {
        "latent": list(worlds.MODALITIES), "measured": list(worlds.MODALITIES)}
    assert scores.macro_f1.between(worlds.CHANCE, 1).all()
    assert len(pairs) == 15 * len(worlds.MODALITIES) and pairs.accuracy.between(0, 1).all()
    monkeypatch.setattr(worlds, "_reach", lambda *_: pytest.fail("computed again"))
    again, _ = worlds.ceilings(120, 120, [0])
    assert again.equals(scores)


def test_a_dial_moves_what_can_be_told(monkeypatch):
    monkeypatch.setattr(worlds, "DIALS", {"psnr": (1.5, 120.0)})
    table = worlds.sweep(120, 120).set_index(["setting", "modality"]).macro_f1
    assert len(table) == 6
    assert table[120.0, "image"] > table[1.5, "image"] + 0.1
    assert table[120.0, "sequence"] == pytest.approx(table[1.5, "sequence"], abs=0.1), "the dial is of the frames"
