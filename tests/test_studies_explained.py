"""Tables of scores, faults of one modality and words on trial, on three simulated clips with an untrained network."""

import numpy as np
import pytest
import torch

from cmf.metrics import anomaly as measures
from cmf.simulate.surveillance import simulate_clips
from cmf.studies import anomaly, explained
from cmf.studies.footage import Encoders, columns

ENCODERS = Encoders()


@pytest.fixture(scope="module")
def some():
    clips = sorted(simulate_clips(12, "validation", 3), key=lambda clip: clip.seconds)
    clips = [*[c for c in clips if c.label][:2], [c for c in clips if not c.label][0]]
    return anomaly.Footage(clips, columns(clips, ENCODERS))


@pytest.fixture(scope="module")
def network(some):
    torch.set_num_threads(1)
    model, _ = anomaly.build("CMAF", some.table, 0)
    torch.nn.init.normal_(model.gamma, std=0.1)            # words are heard
    return model.eval()


def test_table_has_the_area_of_the_frames(some, network):
    table = explained.segment_table({"CMAF": network}, some)
    scores, labels = anomaly.frame_scores(network, some), anomaly.truth(some)
    assert table.frames.sum() == sum(map(len, labels)) and table.anomalous.sum() == sum(y.sum() for y in labels)
    assert explained.table_auc(table, "CMAF") == pytest.approx(measures.frame_auc(scores, labels), abs=1e-9)


def test_curves_begin_and_end_where_they_must(some, network):
    lines = explained.curves(explained.segment_table({"CMAF": network}, some), ["CMAF"]).groupby("curve")
    roc, other = lines.get_group("roc"), lines.get_group("precision_recall")
    assert roc[["x", "y"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert other.x.iloc[-1] == 1 and (np.diff(other.x) >= 0).all()


@pytest.mark.parametrize(("modality", "fault"), [(m, f) for m, own in explained.FAULTS.items() for f in own])
def test_a_fault_changes_its_modality_alone(some, modality, fault):
    table = explained.faulty(some, ENCODERS, modality, fault, 1.0).columns
    kept = {name: name in table and x.shape == table[name].shape and torch.equal(x, table[name])
            for name, x in some.table.columns.items()}
    assert kept["visual"] == kept["motion"] == (modality == "words")
    assert kept["text"] == (modality == "vision")
    if fault == "captions left out":
        assert not table["text_mask"].any()


def test_unknown_faults_are_refused(some):
    with pytest.raises(ValueError, match="no fault 'rain' of 'vision'"):
        explained.faulty(some, ENCODERS, "vision", "rain", 0.5)


def test_words_on_trial(some, network):
    curves, gains = explained.on_trial(network, some, orders=2)
    assert len(gains) == 2 and set(curves["mode"]) == {"deletion", "insertion"}
    ends = curves.groupby("mode").agg(["first", "last"])
    for order in ("attention", "random"):                  # all words and no word, whichever way
        assert ends[order]["first"]["deletion"] == pytest.approx(ends[order]["last"]["insertion"], abs=1e-6)
        assert ends[order]["last"]["deletion"] == pytest.approx(ends[order]["first"]["insertion"], abs=1e-6)


def test_untrained_attention_points_near_in_time(some, network):
    found = explained.pointed(network, some).set_index("asked")
    assert found.accuracy["in time"] > 0.8 > found.chance["in time"]


def test_report_of_a_clip_has_its_words_truth_and_pictures(some, network):
    scored = explained.report(network, some, 0, 0.5, ENCODERS)
    assert len(scored.thumbnails) == len(scored.scores) and scored.truth.tolist() == [list(some.clips[0].events[0])]
    own = [word for word, caption in zip(scored.words, scored.caption, strict=True) if caption == 0]
    assert "".join(own) == scored.captions[0][1].replace(" ", "")
