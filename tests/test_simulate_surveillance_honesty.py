"""Leak probes of surveillance clips: what has nothing to do with an event must not tell whether there is one."""
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score

from cmf.simulate import surveillance as sim
from cmf.studies import clips as study

SIZE = (48, 64)


@pytest.fixture(scope="module")
def many():
    return sim.simulate_clips(400, "train", 8)


@pytest.fixture(scope="module")
def few():
    """Fewer clips with their first picture and one of a random moment, in all of few places."""
    made = sim.simulate_clips(400, "test", 8)
    rng = np.random.default_rng(0)
    return made, [(c.frame(0.0, SIZE), c.frame(rng.uniform(0, c.seconds), SIZE)) for c in made]


def above_chance(table, clips):
    """Accuracy of a forest under cross-validation above the half that chance gives, and what may be due to luck.

    Less than half is no leak: with folds of equal shares a classifier without knowledge leans to the other side.
    """
    target = np.array([c.label > 0 for c in clips])
    model = RandomForestClassifier(60, min_samples_leaf=8, random_state=0)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    score = cross_val_score(model, np.asarray(table, float).reshape(len(clips), -1), target, cv=folds).mean()
    return score - 0.5, max(0.05, 2 * 0.5 / np.sqrt(len(clips)))


def _lengths(captions):
    words = [len(c.text.split()) for c in captions]
    return [min(words), max(words), np.mean(words), np.mean([len(c.text) for c in captions]), len(captions)]


PROBES = {
    "length": lambda i, c: [c.seconds],
    "order": lambda i, c: [i, i % 12, i % 2, i % 6],
    "tracks": lambda i, c: [len(c.tracks), sum(k.kind == "person" for k in c.tracks), len(c.tracks) / c.seconds],
    "actors": lambda i, c: [len(c.present(t)) for t in np.linspace(0, c.seconds, 6)],
    "first scene": lambda i, c: [sum(k.kind == kind for k in c.present(0.0))
                                 for kind in ("person", "car", "bag", "fire", "smoke", "bicycle")],
    "place, light, weather": lambda i, c: [c.layout.place.number, c.light == "night", c.weather == "rain",
                                           c.weather == "fog", c.flow],
    "caption length": lambda i, c: _lengths(c.captions()),
    "name": lambda i, c: [sum(c.id.encode()), len(c.id)],
}


@pytest.mark.parametrize("probe", PROBES)
def test_what_is_beside_the_point_does_not_tell_the_label(probe, many):
    gain, luck = above_chance([PROBES[probe](i, c) for i, c in enumerate(many)], many)
    assert gain <= luck, f"{probe} tells the label: {gain:+.3f} above chance"


@pytest.mark.parametrize("what", ["first picture", "mean and spread of the first", "mean and spread of any",
                                  "corners"])
def test_pictures_beside_the_event_do_not_tell_the_label(what, few):
    made, pictures = few
    look = {"first picture": lambda a, b: a[::6, ::6].mean(-1).ravel(),
            "mean and spread of the first": lambda a, b: [a.mean(), a.std()],
            "mean and spread of any": lambda a, b: [b.mean(), b.std()],
            "corners": lambda a, b: [b[y, x, 0] for y in (0, -1) for x in (0, -1)]}[what]
    gain, luck = above_chance([look(a, b) for a, b in pictures], made)
    assert gain <= luck, f"{what} tells the label: {gain:+.3f} above chance"


def test_one_pixel_does_not_tell_the_label(few):
    made, pictures = few
    gains = [above_chance([b[y, x] for _, b in pictures], made) for y, x in ((24, 32), (16, 20), (30, 48), (40, 30))]
    assert np.mean([gain for gain, _ in gains]) <= gains[0][1], f"one pixel tells the label: {gains}"


def test_classes_have_equal_shares_in_every_split():
    shares = [np.bincount([c.label for c in sim.simulate_clips(48, split, 0)], minlength=7) for split in sim.SPLITS]
    assert all((s == shares[0]).all() for s in shares)


def test_events_come_at_any_time(many):
    start = np.array([c.events[0][0] / c.seconds for c in many if c.events])
    end = np.array([c.events[0][1] / c.seconds for c in many if c.events])
    assert start.min() < 0.1 and start.max() > 0.75 and end.max() > 0.97
    assert 0.35 < np.mean(0.5 * (start + end)) < 0.65


def test_neither_pictures_nor_words_suffice_and_both_say_more():
    found = study.ceilings(n_train=144, n_test=96, seed=2)
    assert 0.04 < found["base"] < 0.2
    for name in ("visual", "words"):
        assert 0.65 < found[name] < 0.92, found
    assert max(found["visual"], found["words"]) + 0.01 < found["both"] < 0.985, found


def test_frame_auc_is_that_of_the_frames_one_by_one():
    rng = np.random.default_rng(0)
    share, seconds, score = rng.integers(0, 5, 30) / 4, rng.integers(1, 4, 30).astype(float), rng.normal(size=30)
    labels = np.concatenate([np.repeat([1, 0], [round(4 * s * p), round(4 * s * (1 - p))])
                             for p, s in zip(share, seconds, strict=True)])
    expected = roc_auc_score(labels, np.repeat(score, (4 * seconds).astype(int)))
    assert study.frame_auc(score, share, seconds) == pytest.approx(expected)


def test_shares_of_segments_add_up_to_the_event():
    clip = sim.simulate_clip("train", 0, 0)
    start, end = clip.events[0]
    assert study.shares(clip, 16).sum() * clip.seconds / 16 == pytest.approx(end - start)
    assert study.shares(clip, 7).max() <= 1 + 1e-9


def test_words_tell_less_the_more_an_onlooker_misses():
    rows = study.sweep("missed", (0.0, 1.0), n_train=96, n_test=60, segments=12)
    assert [row["missed"] for row in rows] == [0.0, 1.0]
    assert rows[0]["words"] > rows[1]["words"] + 0.1 and rows[1]["words"] < 0.65
