"""A modality missing or that of another object: what each method is shown, shares as mixtures, and the table."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmf.studies import anomaly, explained, segmenting, trios, withheld
from cmf.training import Tensors


class Model(torch.nn.Module):
    def __init__(self, says):
        super().__init__()
        self.says, self.here = says, torch.nn.Parameter(torch.zeros(()))    # says on which device it is

    def forward(self, batch):
        return self.says(batch)


def tried():
    """A hundred units: right as long as the first modality is, and half right without the second."""
    whole = np.ones(100)
    hit = {"missing": {"first": whole * 0, "second": whole * 0.5}, "of another": {"first": -whole, "second": whole}}
    return withheld.Tried(lambda modality, fault: whole if modality is None else hit[fault][modality],
                          {"first": whole * 0.9, "second": whole * 0.3}, lambda x, some: float(x[some].mean()))


def test_shares_are_mixtures_of_whole_and_hit_units():
    found = withheld.shares(tried(), ("first", "second"), (0.0, 0.5, 1.0), resamples=50)
    at = found.set_index(["modality", "fault", "share"])
    assert len(found) == 12 and (found[found.share == 0].value == 1).all()
    assert at.value["first", "missing", 1.0] == 0 and at.value["first", "of another", 1.0] == -1
    assert at.value["second", "missing", 1.0] == 0.5 and 0.6 < at.value["second", "missing", 0.5] < 0.9
    assert at.left["first", "missing", 0.0] == pytest.approx(0.3), "without the first the second is left"
    assert (found.low <= found.value).all() and (found.value <= found.high).all()


def test_the_table_has_all_methods(monkeypatch):
    monkeypatch.setattr(withheld, "METHODS", {"CMFS": tried})
    monkeypatch.setattr(withheld, "MODALITIES", {"CMFS": ("first", "second")})
    found = withheld.table(("CMFS",))
    assert found.columns[:2].tolist() == ["method", "measure"] and found.measure.eq("mIoU").all() and len(found) == 20


def test_targets_are_told_what_is_not_there(monkeypatch):
    label = torch.arange(12) % 6
    once = torch.nn.functional.one_hot(label, 6).float()
    columns = {name: once.clone() for name in ("grid", "pooled", "radiometric", "motion", "patches", "summary")}
    nothing = torch.ones(12, dtype=torch.bool)

    def both(batch):
        image = batch["grid"] * batch.get("has_image", nothing)[:, None]
        return dict(logits=image + 0.5 * batch["patches"] * batch.get("has_sequence", nothing)[:, None])

    monkeypatch.setattr(trios, "targets", lambda: dict(test=Tensors(labels=label, **columns)))
    monkeypatch.setattr(trios, "sacmf", lambda sets: {name: Model(both) for name in ("SA-CMF", "image only",
                                                                                    "sequence only")})
    found, units = withheld.sacmf(), np.arange(12)
    assert found.measure(found.outcome(None, None), units) == found.measure(found.alone["image"], units) == 1
    assert found.measure(found.outcome("image", "missing"), units) == 1, "the sequence is enough"
    assert found.measure(found.outcome("sequence", "of another"), units) == 1, "the image weighs more"
    assert found.measure(found.outcome("image", "of another"), units) == 0


def test_clips_get_black_pictures_and_other_captions(monkeypatch):
    here = torch.arange(4) < torch.tensor([4, 3])[:, None]
    up = (torch.arange(4) % 2).expand(2, 4).float() * here
    table = Tensors(segments=here, frame_labels=up, score=up)
    heard = []

    def with_text(captions, encoders):
        heard.append(captions)
        return SimpleNamespace(table=Tensors(**table.columns | dict(score=0 * up)))

    some = SimpleNamespace(table=table, clips=["a", "b"], with_text=with_text)
    monkeypatch.setattr(trios, "clips", lambda: some)
    monkeypatch.setattr(trios, "cmaf", lambda: {name: Model(lambda batch: dict(logits=batch["score"]))
                                                     for name in ("CMAF", "visual only", "text only")})
    monkeypatch.setattr(withheld, "told", lambda clip: [(0.0, 1.0, clip)])
    faults = []
    monkeypatch.setattr(explained, "faulty", lambda *given: faults.append(given[2:]) or Tensors(
        **table.columns | dict(score=-up)))
    found, units = withheld.cmaf(), np.arange(2)
    assert found.measure(found.outcome(None, None), units) == 1 == found.measure(found.alone["words"], units)
    assert found.measure(found.outcome("vision", "missing"), units) == 0
    assert found.measure(found.outcome("words", "missing"), units) == 0.5
    found.outcome("vision", "of another"), found.outcome("words", "of another")
    assert faults == [("vision", "black pictures", 1.0), ("vision", "of another clip", 1.0)]
    assert set(map(len, heard[0])) == {0} and [row[0][2] for row in heard[1]] == ["b", "a"]
    assert all(name in anomaly.CONTROLS for name in withheld._WORDS.values())
    assert all(name in explained.FAULTS["vision"] for name in withheld._VISION.values())


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    grey = torch.from_numpy(rng.integers(0, 255, (3, 4, 32, 40), dtype=np.uint8))
    return dict(visible=grey[:, :3], infrared=grey[:, 3:], label=(grey[:, 3] > 200).to(torch.uint8))


def test_pictures_are_black_or_of_another(pictures):
    assert withheld.spoilt(pictures, None, None) is pictures
    black, other = (withheld.spoilt(pictures, "infrared", fault) for fault in withheld.FAULTS)
    assert not black["infrared"].any() and torch.equal(black["visible"], pictures["visible"])
    assert torch.equal(other["infrared"][1], pictures["infrared"][0])
    with pytest.raises(ValueError, match="no fault 'fog'; there are missing, of another"):
        withheld.spoilt(pictures, "visible", "fog")


def test_labels_of_spoilt_pictures(monkeypatch, pictures):
    monkeypatch.setattr(trios, "scenes", lambda: pictures)
    monkeypatch.setattr(trios, "cmfs", lambda: {name: name for name in ("CMFS", "visible only", "infrared only")})
    monkeypatch.setattr(segmenting, "labelled", lambda model, some: dict(label=(some["infrared"][:, 0] > 200)))
    monkeypatch.setattr(segmenting, "counted", lambda truth, said, k: np.stack(
        [np.bincount(2 * t.flatten() + s.flatten(), minlength=4).reshape(2, 2)
         for t, s in zip(truth.numpy().astype(int), said.numpy().astype(int), strict=True)]))
    found, units = withheld.cmfs(), np.arange(3)
    assert found.measure(found.outcome("visible", "missing"), units) == 1
    assert found.measure(found.alone["visible"], units) == 1
    assert found.measure(found.outcome("infrared", "missing"), units) < 0.5


def test_a_fused_picture_is_judged_against_the_whole_sources(monkeypatch, pictures):
    fuser = SimpleNamespace(fuse=lambda v, u: SimpleNamespace(luma=u))
    monkeypatch.setattr(trios, "scenes", lambda: pictures)
    monkeypatch.setattr(trios, "fuser", lambda: fuser)
    found = withheld.cmi_fusion()
    whole = found.outcome(None, None)
    assert np.allclose(whole, found.alone["infrared"]) and np.allclose(found.outcome("visible", "missing"), whole)
    assert (found.outcome("infrared", "of another") < whole).all() and found.measure(whole, np.array([1])) == whole[1]
