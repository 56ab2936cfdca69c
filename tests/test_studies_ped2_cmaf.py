"""CMAF on Ped2's protocols, on made-up clips in which anomalous frames are fast."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmf.encoders import motion
from cmf.metrics import anomaly
from cmf.studies import ped2, ped2_cmaf
from cmf.studies.footage import Encoders

RECIPE = replace(ped2_cmaf.RECIPE, epochs=15)


@pytest.fixture(scope="module")
def clips():
    torch.set_num_threads(1)
    rng, count, n = np.random.default_rng(0), 24, 62
    abnormal = np.arange(count) >= 12
    labels = [np.zeros(n, bool) for _ in range(count)]
    for v in np.flatnonzero(abnormal):
        labels[v][20:45] = True
    speeds = [np.exp(0.3 * rng.normal(size=(n, len(motion.names())))) * (1 + 2 * y[:, None]) for y in labels]
    return ped2.Clips(tuple(f"clip {v}" for v in range(count)), abnormal, tuple(x.astype(np.float32) for x in speeds),
                      tuple(x[:, 0] for x in speeds), tuple(labels))


def test_columns_of_motion_alone_of_pictures_and_of_words(clips):
    alone = ped2_cmaf.columns(clips, [0, 13])
    assert "motion" not in alone and alone["visual"].shape == (2, 16, 2 * ped2.SPEEDS)
    visual = [np.ones((len(y), 5), np.float32) for y in clips.labels]
    captions = [[(0, 20, "a man walks"), (20, 62, "a car drives")] for _ in clips.labels]
    both = ped2_cmaf.columns(clips, [0, 13], visual, captions, Encoders())
    assert both["visual"].shape == (2, 16, 5) and both["motion"].shape == (2, 16, 2 * ped2.SPEEDS)
    times = both["text_time"][0][both["text_mask"][0]].unique()
    assert torch.allclose(times, torch.tensor([10 / 62, 41 / 62]))


def test_a_system_learns_from_labels_of_clips_and_repeats(clips):
    train, test = ped2.weak_splits(clips, "weak 4", 1)[0]
    system = ped2_cmaf.system(recipe=RECIPE)
    scores = system(clips, train, test, 0)
    assert [len(s) for s in scores] == [62] * len(test)
    assert anomaly.frame_auc(scores, [clips.labels[v] for v in test]) > 0.9
    again = ped2_cmaf.system(recipe=RECIPE)(clips, train, test, 0)
    assert all(np.array_equal(a, b) for a, b in zip(scores, again, strict=True))


def test_curves_end_in_the_corner(clips):
    lines = ped2_cmaf.curves(clips, {"one-class": ["fastest pixel"], "weak 4": ["fastest pixel"]}, ped2.UNTRAINED)
    assert set(lines.protocol) == {"one-class", "weak 4"}
    assert (lines.groupby("protocol").last()[["x", "y"]] == 1).all(axis=None)


class Looker:
    """Stands for CLIP and BLIP: the mean grey of a frame as its embedding, and a caption that says it."""

    def images(self, frames, progress):
        return SimpleNamespace(pooled=torch.tensor([[float(frame.mean())] * 3 for frame in frames]))

    def captions(self, frames, progress):
        return [f"grey {int(frame.mean())}" for frame in frames]

    def fingerprint(self):
        return "0123456789"


def test_what_is_looked_at_is_given_to_all_frames_of_a_segment(tmp_path, monkeypatch):
    """Clips of 30 and 45 frames whose grey rises by one a frame."""
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path / "cache"))
    items = []
    for name, frames in (("train/a", 30), ("test/b", 45)):
        (tmp_path / "ped2" / name).mkdir(parents=True)
        (tmp_path / "ped2" / name / "n.txt").write_text(str(frames))
        items.append(SimpleNamespace(id=name, source=tmp_path / "ped2" / name))
    monkeypatch.setattr(ped2_cmaf, "read_ped2", lambda folder: items)
    monkeypatch.setattr(ped2_cmaf.ped2, "pictures", lambda item: [
        np.full((4, 6), k, np.uint8) for k in range(int((item.source / "n.txt").read_text()))])
    encoders = SimpleNamespace(eye=Looker(), writer=Looker(), reader=Looker())
    visual, captions = ped2_cmaf.looked(encoders)
    assert [v.shape for v in visual] == [(30, 3), (45, 3)]
    assert visual[1][:9, 0].tolist() == [2, 2, 2, 2, 6, 6, 6, 6, 10], "the middle frame of every four"
    assert captions[0] == [(0, 20, "grey 10"), (20, 30, "grey 29")]
    assert [start for start, _, _ in captions[1]] == [0, 20, 40] and captions[1][-1][1] == 45
    names = list(ped2_cmaf.systems(encoders))
    assert names == ["CMAF, motion", "CMAF, motion and pictures 01234567",
                     "CMAF, motion, pictures and words 01234567+01234567+01234567"]
