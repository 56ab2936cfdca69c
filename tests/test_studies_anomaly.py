"""CMAF on simulated clips: columns from pictures and captions, arms, controls."""

import numpy as np
import pandas as pd
import pytest
import torch

from cmf.metrics.anomaly import frame_auc
from cmf.simulate.surveillance import simulate_clips
from cmf.studies import anomaly, footage
from cmf.training import Recipe, Tensors

ENCODERS = footage.Encoders()
SHORT = Recipe(epochs=1, batch=8, lr=2e-3)


@pytest.fixture(scope="module")
def clips():
    found = [clip for clip in simulate_clips(24, "train", 3) if clip.seconds < 25]
    assert {clip.label > 0 for clip in found[:6]} == {True, False}
    return found[:6]


def made(clips, seed=0):
    """Columns as `footage.columns` makes them, without looking at pictures."""
    rng = np.random.default_rng(seed)
    T = [len(footage.cut(clip).centres) for clip in clips]
    present = torch.arange(max(T)) < torch.tensor(T)[:, None]
    labels = torch.tensor([float(clip.label > 0) for clip in clips])
    shares = torch.zeros(present.shape)
    for i, clip in enumerate(clips):
        shares[i, :T[i]] = torch.from_numpy(footage.cut(clip).mean(clip.frame_labels(), clip.times())).float()
    visual, motion = (torch.from_numpy(rng.normal(size=(*present.shape, d))).float() for d in (8, 5))
    text = footage.read([footage.told(clip) for clip in clips], [clip.seconds for clip in clips], ENCODERS)
    return anomaly.Footage(clips, Tensors(visual=visual, motion=motion, segments=present, labels=labels,
                                          frame_labels=shares, **text))


@pytest.fixture(scope="module")
def sets(clips):
    return {split: made(clips, k) for k, split in enumerate(anomaly.SPLITS)}


def test_look_gives_a_row_a_segment(clips):
    clip = min(clips, key=lambda clip: clip.seconds)
    seen = footage.look(clip, ENCODERS, size=(48, 64))
    T = len(footage.cut(clip).centres)
    assert T == round(clip.seconds / footage.SEGMENT) and seen["pictures"].shape == (T, 48, 64, 3)
    assert np.allclose(np.linalg.norm(seen["visual"][:, :128], axis=1), 1, atol=1e-5), "CLIP's embedding comes first"
    assert seen["visual"].shape == (T, 3 * 128)
    assert seen["motion"].shape[0] == T and np.isfinite(seen["motion"]).all()
    captions = footage.written(seen["pictures"][:2], footage.cut(clip).edges[:3], ENCODERS)
    assert len(captions) == 2 and captions[1][0] == captions[0][1] and isinstance(captions[0][2], str)


def test_read_keeps_words_times_and_order():
    captions = [[(0.0, 2.0, "a man walks"), (2.0, 4.0, "a car waits on the road")], [], [(0.0, 1.0, "a man walks")]]
    found = footage.read(captions, [8.0, 5.0, 2.0], ENCODERS)
    counts = found["text_mask"].sum(1).tolist()
    assert counts[1] == 0 and counts[2] == 3 and counts[0] == 9
    assert found["text_time"][0, :3].tolist() == [0.125] * 3 and found["text_time"][0, 3] == 0.375
    assert found["text_caption"][0, :9].tolist() == [0] * 3 + [1] * 6
    assert torch.equal(found["text"][0, :3], found["text"][2, :3]), "equal sentences, equal tokens"
    assert ENCODERS.reader.tokenizer.convert_ids_to_tokens(found["text_ids"][2, :3].tolist()) == ["a", "man", "walks"]


@pytest.mark.gpu
@pytest.mark.parametrize("arm", anomaly.ARMS)
def test_every_arm_trains_and_is_judged(arm, sets):
    model, result = anomaly.train(arm, sets, 0, SHORT)
    found = anomaly.judge(model, sets)
    assert np.isfinite(result.history.loss).all() and 0 <= found["roc_auc"] <= 1
    assert found["frames"] == sum(clip.frames for clip in sets["test"].clips)
    assert 0 <= found["event_recall_0.3"] <= 1


def test_unknown_arm_and_control_are_refused(sets):
    with pytest.raises(ValueError, match="no arm 'late'; there are visual only, text only"):
        anomaly.build("late", sets["train"].table, 0)
    with pytest.raises(ValueError, match="no control 'noise'; there are true captions, none"):
        anomaly.controlled("noise", [[]])


def test_frame_scores_repeat_their_segment(sets):
    model, _ = anomaly.build("CMAF", sets["train"].table, 0)
    scores = anomaly.predict(model, sets["test"].table)["logits"].sigmoid()[0]
    clip = sets["test"].clips[0]
    frames = anomaly.frame_scores(model, sets["test"])[0]
    edges = footage.cut(clip).edges
    assert len(frames) == clip.frames
    for i in (0, int(edges[1] * clip.fps) + 1, clip.frames - 1):
        k = np.searchsorted(edges, i / clip.fps, side="right") - 1
        assert frames[i] == pytest.approx(float(scores[k]))


def test_controls_change_what_they_name(clips):
    captions = [footage.told(clip) for clip in clips]
    texts = lambda some: [text for video in some for *_, text in video]
    same = lambda name: anomaly.controlled(name, captions, 1)
    assert same("true captions") == captions and not any(same("none"))
    assert {text for video in same("one sentence for all") for *_, text in video} == {"a street."}
    assert all(a != b for a, b in zip(same("of another clip"), captions, strict=True))
    assert sorted(texts(same("of another clip"))) == sorted(texts(captions)), "nothing is lost"
    for changed, clip in zip(same("of another clip"), clips, strict=True):
        assert 0 <= changed[0][0] and changed[-1][1] == pytest.approx(clip.seconds), "within the clip"
    for changed, video in zip(same("shuffled in time"), captions, strict=True):
        assert [c[:2] for c in changed] == [c[:2] for c in video]
        assert sorted(c[2] for c in changed) == sorted(c[2] for c in video)
    assert [len(video) for video in same("first caption only")] == [1] * len(clips)
    assert np.mean([a == b for a, b in zip(texts(same("corrupted 1")), texts(captions), strict=True)]) < 0.1


def test_controls_judge_every_model(sets, monkeypatch):
    models = {seed: anomaly.build("CMAF", sets["train"].table, seed)[0].eval() for seed in (0, 1)}
    for model in models.values():
        torch.nn.init.ones_(model.gamma)
    seen = {name: column for name, column in sets["test"].table.columns.items() if not name.startswith("text")}
    monkeypatch.setattr(footage, "watched", lambda clips, encoders: seen)
    names = ("true captions", "none", "corrupted 0.5")
    found = anomaly.controls(models, sets["test"], ENCODERS, names)
    assert found.groupby("control").size().to_dict() == dict.fromkeys(names, 2)
    true = found[found.control == "true captions"].set_index("seed").roc_auc
    for seed, model in models.items():
        scores = anomaly.frame_scores(model, sets["test"])
        assert true[seed] == pytest.approx(frame_auc(scores, anomaly.truth(sets["test"])))


def test_comparison_is_paired_over_seeds():
    rows = [dict(arm=arm, seed=seed, roc_auc=base + 0.02 * seed)
            for arm, base in (("CMAF", 0.8), ("visual only", 0.7)) for seed in range(5)]
    table = anomaly.compare(pd.DataFrame(rows)).set_index("arm")
    assert table.difference["visual only"] == pytest.approx(0.1) and table.difference_low["visual only"] > 0.09
