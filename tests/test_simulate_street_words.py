"""Captions and prompts of the street simulator are true, and nothing gives the pictures' content away."""
from collections import Counter

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from cmf.simulate import street
from cmf.simulate.street import Actor, Dials, Scene, place, simulate_pairs, statistics

# medians over real infrared-visible pictures of streets by day and by night (320 x 240): mean, standard deviation,
# entropy, spectral slope, mean size of horizontal differences
REAL = {"day": {"infrared": (30, 18, 5.5, -2.8, 2.7), "visible": (101, 53, 7.3, -2.5, 6.2)},
        "night": {"infrared": (18, 14, 5.1, -2.8, 2.2), "visible": (27, 30, 5.8, -2.8, 2.7)}}
LABEL_WORDS = ("explosion", "explode", "fight", "fall", "fell", "wrong", "abandon", "anomal", "abnormal", "unusual")


@pytest.fixture(scope="module")
def pairs():
    return simulate_pairs(400, "train", 5, (64, 80), Dials(captions=3))


def test_captions_count_what_can_be_seen(pairs):
    for i, scene in enumerate(pairs.scenes):
        named = Counter(scene.actors[k].kind for k, _ in street.seen(scene, pairs.boxes[i], (64, 80)))
        assert dict(zip(street.KINDS, pairs.truth["counts"][i], strict=True)) == {k: named[k] for k in street.KINDS}
        for text in pairs.captions[i]:
            assert street.counts_in(text) == dict(named), text


def test_captions_tell_light_weather_colour_pose_and_place(pairs):
    light = {"day": "(daylight|by day|daytime)", "dusk": "(dusk|twilight|evening)", "night": "(night|dark)"}
    for scene, texts in zip(pairs.scenes, pairs.captions, strict=True):
        for text in texts:
            for name, words in light.items():
                assert bool(np.char.count(text, words.strip("()").split("|")).sum()) == (name == scene.light), text
            assert scene.weather == "rain" or not any(w in text for w in ("rain", "wet")), text
            assert scene.weather == "fog" or not any(w in text for w in ("fog", "mist")), text
            for colour in street.PAINT:
                if f" {colour} " in text or f"in {colour}" in text:
                    assert any(street.look_of(a.kind, a.look).colour == colour for a in scene.actors), text
            for pose, word in (("lie", "lying"), ("run", "running"), ("sit", "sitting"), ("ride", "riding")):
                assert word not in text or any(a.pose == pose for a in scene.actors), text
    left = Scene(place("train", 0), "day", "clear", (Actor("car", -3.2, 10.0),))
    texts = street.captions(left, np.random.default_rng(0), 30)
    assert any("on the left" in t for t in texts) and not any("right" in t or "middle" in t for t in texts)
    assert len(set(texts)) > 10, "several wordings"


def test_captions_never_hold_a_label_word(pairs):
    for text in (*sum(pairs.captions, ()), *pairs.prompts, " ".join(street.corrupt("a b c d e", 1.0,
                                                                                    np.random.default_rng(0)))):
        assert not any(word in text.lower() for word in LABEL_WORDS), text


def test_prompts_name_kinds_and_degradations():
    scene = Scene(place("test", 1), "night", "rain", (Actor("person", 0.0, 9.0),))
    assert street.prompt(scene, "visible") == "a dark noisy rainy visible picture of people."
    assert street.prompt(scene, "infrared") == "an infrared picture of people."
    assert "people" in street.prompt(scene) and "fused" in street.prompt(scene)
    with pytest.raises(ValueError, match="modality 'both': expected visible, infrared or fusion"):
        street.prompt(scene, "both")


def _excess(features, labels, model):
    """Accuracy in cross-validation above that of the larger class."""
    guess = cross_val_predict(model, features, labels, cv=4)
    return (guess == labels).mean() - max(labels.mean(), 1 - labels.mean())


def test_order_and_brightness_do_not_tell_whether_a_person_is_there(pairs):
    labels = (pairs.truth["counts"][:, 0] > 0).astype(int)
    assert 0.25 < labels.mean() < 0.85
    order = np.arange(len(pairs))[:, None] / len(pairs)
    trees = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=6, random_state=0)
    assert _excess(order, labels, trees) < 0.05
    means = np.stack((pairs.visible.mean((1, 2, 3)), pairs.infrared.mean((1, 2))), 1)
    for model in (LogisticRegression(), trees):
        assert _excess((means - means.mean(0)) / means.std(0), labels, model) < 0.10
    pixel = pairs.visible[:, 32, 40].astype(float) / 255
    assert _excess(pixel, labels, LogisticRegression()) < 0.05


def test_place_and_background_do_not_tell_whether_a_person_is_there(pairs):
    labels = (pairs.truth["counts"][:, 0] > 0).astype(int)
    facts = np.stack([pairs.truth[k] for k in ("place", "light", "weather")], 1)
    assert _excess(facts, labels, HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=6)) < 0.10


def test_statistics_of_known_pictures():
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 10, (128, 128))
    got = statistics(noise, noise[::-1])
    assert got["visible_kurtosis"] == pytest.approx(3.0, abs=0.2) and abs(got["visible_slope"]) < 0.2
    assert got["visible_dx"] == pytest.approx(10 * 2 / np.sqrt(np.pi), rel=0.03)
    assert abs(got["correlation"]) < 0.05 and statistics(noise, noise)["correlation"] == pytest.approx(1.0)
    ramp = np.tile(np.arange(64.0), (64, 1))
    got = statistics(ramp, 255 - ramp)
    assert got["visible_dx"] == 1 and got["visible_entropy"] == pytest.approx(6.0)
    assert got["correlation"] == pytest.approx(-1.0) and np.isnan(got["visible_kurtosis"])
    for left, right in ((np.zeros((64, 64)), np.zeros((64, 32))), (np.zeros((20, 64)), np.zeros((20, 64)))):
        with pytest.raises(ValueError, match="expected two equal ones"):
            statistics(left, right)


@pytest.mark.parametrize("light", ["day", "night"])
def test_pictures_have_the_statistics_of_real_ones(light):
    made = simulate_pairs(24, "train", 9, (240, 320), Dials(day=float(light == "day"), dusk=0, rain=0, fog=0))
    rows = [statistics(v @ np.array([.299, .587, .114]), i) for v, i in zip(made.visible, made.infrared, strict=True)]
    for band, wanted in REAL[light].items():
        for name, value in zip(("mean", "sd", "entropy", "slope", "dx"), wanted, strict=True):
            got = float(np.median([row[f"{band}_{name}"] for row in rows]))
            if name == "slope":
                assert abs(got - value) < 0.4, (band, name, got)
            else:
                assert 1 / 1.5 < got / value < 1.5, (band, name, got)
