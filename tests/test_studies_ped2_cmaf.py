"""CMAF on Ped2's protocols, on made-up clips in which anomalous frames are fast."""

from dataclasses import replace

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
