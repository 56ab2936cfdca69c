"""The Ped2 study on made-up clips: splits, no label of a frame in weak training, batches; and on the set itself."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmf.encoders import motion
from cmf.metrics import anomaly
from cmf.studies import ped2

FOLDER = Path(os.environ.get("CMF_DATA", "")) / "ucsd_ped2"
needs_ped2 = pytest.mark.skipif(not os.environ.get("CMF_DATA") or not (FOLDER / "frames.csv").is_file(),
                                reason="CMF_DATA names no folder with ucsd_ped2/frames.csv, the frames of UCSD Ped2")


def made(seed=0):
    """28 clips of 30 to 39 frames; anomalous frames (the second half) move faster."""
    rng = np.random.default_rng(seed)
    abnormal = np.arange(28) >= 16
    labels = tuple((np.arange(30 + v % 10) >= 15) & abnormal[v] for v in range(28))
    columns = tuple(rng.gamma(4.0, 0.02, (len(y), len(motion.names()))).astype(np.float32) * (1 + 2 * y[:, None])
                    for y in labels)
    change = tuple(x[:, 6] for x in columns)
    names = tuple(f"{'test' if a else 'train'}/{v:02d}" for v, a in enumerate(abnormal))
    return ped2.Clips(names, abnormal, columns, change, labels)


@pytest.mark.parametrize("protocol, train, test", [("weak 16", (6, 16), (6, 0)), ("weak 4", (6, 4), (6, 12))])
def test_weak_splits_part_the_clips(protocol, train, test):
    clips = made()
    found = ped2.weak_splits(clips, protocol)
    assert len(found) == 10 and len({tuple(sorted(a)) for a, _ in found}) == 10
    for one, other in found:
        assert not set(one) & set(other) and len(one) + len(other) == 28
        for rows, (abnormal, normal) in ((one, train), (other, test)):
            assert clips.abnormal[rows].sum() == abnormal and (~clips.abnormal[rows]).sum() == normal
    again = ped2.weak_splits(clips, protocol, 3)
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(again, found, strict=False))
    with pytest.raises(ValueError, match="no weak protocol 'one-class'; there are weak 16, weak 4"):
        ped2.weak_splits(clips, "one-class")


def test_multiple_instances_find_anomalous_frames_without_their_labels(monkeypatch):
    monkeypatch.setattr(ped2, "NETWORKS", 1)
    monkeypatch.setattr(ped2, "RECIPE", replace(ped2.RECIPE, epochs=30))
    clips = made()
    system = ped2.WEAKLY["multiple instances, speeds"]
    train, test = ped2.weak_splits(clips, "weak 4")[0]
    scores = system(clips, train, test, 0)
    assert anomaly.frame_auc(scores, [clips.labels[v] for v in test]) > 0.9
    blind = replace(clips, labels=tuple(np.zeros_like(y) for y in clips.labels))
    for a, b in zip(scores, system(blind, train, test, 0), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["nearest neighbour, all columns", "Gaussian, speeds", "speeds above normal"])
def test_one_class_systems_rest_on_normal_clips_and_score_frames_alone(name):
    clips = made()
    train, test = np.arange(16), np.arange(16, 28)
    scores = ped2.ONE_CLASS[name](clips, train, test, 0)
    assert anomaly.frame_auc(scores, [clips.labels[v] for v in test]) > 0.8
    alone = ped2.ONE_CLASS[name](clips, train, test[3:4], 0)  # no use of other test clips
    np.testing.assert_allclose(alone[0], scores[3])


def test_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    clips = made()
    table = ped2.one_class(clips).set_index("system")
    assert {"fastest pixel", "frame difference"} <= set(table.index)
    assert (table.low <= table.auc).all() and (table.auc <= table.high).all() and 0 < table.rate.iloc[0] < 1
    systems = {**ped2.UNTRAINED, "random forest, frame labels": ped2.WEAKLY["random forest, frame labels"]}
    summary, splits = ped2.weak(clips, systems, count=3)
    assert len(summary) == 2 * len(systems) and len(splits) == 3 * len(summary)
    own = summary[summary.system == "fastest pixel"]
    assert (own.gain == 0).all() and (own.wins == 0).all() and summary.auc.between(0.5, 1).all()
    with pytest.raises(ValueError, match="do not hold 'fastest pixel', which they are compared with"):
        ped2.weak(clips, {"frame difference": ped2.UNTRAINED["frame difference"]})


def test_published_numbers_say_their_source_and_protocol():
    table = ped2.published()
    assert set(table.protocol) == {"one-class", "weak 4"} and table.auc.between(0.9, 1).all()
    assert table.source.str.contains(r" 20\d\d, ").all() and table.note.str.len().gt(10).all()


def test_batches_for_cmaf():
    clips = made()
    visual = [np.ones((len(y), 5), np.float32) for y in clips.labels]
    found = ped2.batch(clips, [0, 20], length=4, visual=visual)
    assert found["visual"].shape == (2, 8, 5) and found["motion"].shape == (2, 8, 2 * ped2.SPEEDS)
    assert found["segments"].tolist() == [[True] * 8] * 2 and found["labels"].tolist() == [0.0, 1.0]
    torch.testing.assert_close(found["visual"].norm(dim=-1), torch.ones(2, 8))
    assert found["frame_labels"][0].max() == 0 and found["frame_labels"][1].tolist()[2:5] == [0.0, 0.25, 1.0]
    padded = ped2.batch(clips, [0, 9], length=4)                       # 30 and 39 frames: 8 and 10 segments
    assert padded["segments"].sum(1).tolist() == [8, 10] and padded["visual"].shape == (2, 10, 0)
    with pytest.raises(ValueError, match="train/00: visual columns of 7 frames, but the clip has 30"):
        ped2.batch(clips, [0], visual=[np.ones((7, 5))])


def test_segment_scores_return_to_frames():
    assert ped2.spread([1, 2, 3], 10, 4).tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_frame_difference_is_that_of_the_liveliest_cell():
    frames = np.zeros((4, 160, 240), np.uint8)
    frames[2:, 16:32, 20:40] = 100                                     # one cell of 16 x 20 px, from frame 2 on
    np.testing.assert_allclose(ped2.change(frames), [100, 100, 100, 100])
    assert ped2.change(frames[:2].repeat(2, 0)).max() == 0


@needs_ped2
def test_fastest_pixel_on_the_set_itself():
    items = [item for item in ped2.read_ped2(FOLDER) if item.anomalous]
    labels = [item.mask(item.frames) for item in items]
    k = motion.names((1, 1)).index("fastest")
    scores = [motion.motion(ped2.pictures(item), rate=item.fps, grid=(1, 1))[:, k] for item in items]
    assert anomaly.frame_auc(scores, labels) == pytest.approx(0.927, abs=0.01)
    assert anomaly.frame_auc([ped2.smooth(s) for s in scores], labels) == pytest.approx(0.946, abs=0.01)
