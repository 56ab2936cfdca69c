"""Three networks of a method with their test sets: which dials change what, and who is trained on what."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmf.simulate.deepspace import Dials
from cmf.simulate.surveillance import simulate_clips
from cmf.studies import anomaly, deepspace, segmenting, trios
from cmf.training import Tensors


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))


def test_dials_change_sequences_and_leave_frames(monkeypatch):
    monkeypatch.setattr(trios, "TARGETS", dict(train=18, validation=12, test=12))
    base = lambda made: {split: Tensors(labels=torch.from_numpy(some.labels), grid=torch.zeros(len(some.labels), 2),
                                        **{k: torch.as_tensor(v) for k, v in deepspace.sequence_features(some).items()})
                         for split, some in made.items()}
    monkeypatch.setattr(deepspace, "features", lambda made: (base(made), None))
    one, other = (deepspace.simulated(**trios.TARGETS, seed=1, dials=dials)["train"].images
                  for dials in (None, Dials(redundancy=0.5, sequence_noise=20.0)))
    assert np.array_equal(one, other)
    usual, turned = trios.targets(), trios.targets(redundancy=1.0)
    assert not np.allclose(usual["test"].columns["patches"], turned["test"].columns["patches"])
    assert turned["train"].columns["patches"].dtype == torch.float32
    assert torch.equal(usual["test"].columns["labels"], turned["test"].columns["labels"])


def test_what_does_not_change_is_trained_once(monkeypatch):
    asked = []
    record = lambda arm, sets, seed: asked.append((arm, sets)) or (arm, {})
    monkeypatch.setattr(deepspace, "trained", record)
    monkeypatch.setattr(anomaly, "trained", record)
    monkeypatch.setattr(trios, "targets", lambda: "usual targets")
    monkeypatch.setattr(anomaly, "footage", lambda **_: "usual clips")
    assert list(trios.sacmf("targets")) == ["SA-CMF", "image only", "sequence only"]
    assert list(trios.cmaf()) == ["CMAF", "visual only", "text only"]
    assert asked == [("SA-CMF", "targets"), ("image only", "usual targets"), ("sequence only", "targets"),
                     ("CMAF", "usual clips"), ("visual only", "usual clips"), ("text only", "usual clips")]


def test_dials_change_captions_and_leave_pictures(monkeypatch):
    clips = simulate_clips(4, "test", 1)
    heard = []

    class Some(anomaly.Footage):
        def with_text(self, captions, encoders):
            heard.append(captions)
            return replace(self, table="read")

    monkeypatch.setattr(anomaly, "footage", lambda **_: {"test": Some(clips, "usual")})
    assert trios.clips().table == "usual" and not heard
    found = trios.clips(missed=1.0)
    assert found.table == "read" and found.clips is clips
    told = [[text for _, _, text in video] for video in heard[0]]
    assert told != [[c.text for c in clip.captions(2.0)] for clip in clips] and list(map(len, told)) == [
        len(clip.captions(2.0)) for clip in clips]


def test_streets_by_one_light_in_one_weather(monkeypatch):
    monkeypatch.setattr(segmenting, "SIZE", (48, 64))
    day, night = (trios.scenes(light, "clear", 2) for light in ("day", "night"))
    assert day["visible"].shape == (2, 3, 48, 64) and day["label"].dtype == torch.uint8
    assert day["visible"].float().mean() > night["visible"].float().mean()
    assert trios.scenes(n=2)["infrared"].shape == (2, 1, 48, 64)
    with pytest.raises(ValueError, match="light 'noon' and weather 'clear': expected one of day, dusk, night and"):
        trios.scenes("noon", "clear")


def test_networks_that_stay(monkeypatch):
    assert trios.fuser().facts["architecture"] == "CMIFusion"
    monkeypatch.setattr(segmenting, "sets", lambda seed: seed)
    monkeypatch.setattr(segmenting, "trained", lambda arm, some, seed: ((arm, some, seed), {}))
    assert list(trios.cmfs().values()) == [(arm, 1, 1) for arm in ("CMFS", "visible only", "infrared only")]
