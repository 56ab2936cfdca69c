"""Surveillance clips: their story, pictures, labels and captions, and what they refuse."""
import time
from dataclasses import replace

import numpy as np
import pytest

from cmf.simulate import surveillance as sim
from cmf.simulate.street_place import PLACES
from cmf.simulate.surveillance_tracks import Path
from cmf.simulate.surveillance_words import FORBIDDEN, SAY, VOCABULARY, miswrite
from cmf.simulate.surveillance_world import layout


@pytest.fixture(scope="module")
def clips():
    return sim.simulate_clips(72, "train", 3)


@pytest.fixture(scope="module")
def odd(clips):
    """The first clip of each class, by name."""
    return {name: next(c for c in clips if c.label == i) for i, name in enumerate(sim.CLASSES)}


def middle(clip):
    return 0.5 * sum(clip.events[0])


def test_classes_are_balanced_and_half_is_normal(clips):
    assert np.bincount([c.label for c in clips], minlength=7).tolist() == [36] + [6] * 6


def test_length_and_interval_are_as_promised(clips):
    for clip in clips:
        assert 10 <= clip.seconds <= 60 and clip.frames == pytest.approx(clip.seconds * clip.fps)
        assert len(clip.events) == (clip.label > 0)
        for start, end in clip.events:
            assert 0 < start < end <= clip.seconds + 1e-9
            assert 0.03 <= (end - start) / clip.seconds <= 0.401


def test_equal_arguments_give_equal_clips_and_others_do_not():
    a, b = (sim.simulate_clip("test", 5, 7) for _ in range(2))
    assert a.digest() == b.digest() and a.captions() == b.captions()
    np.testing.assert_array_equal(a.frame(3.0, (60, 80)), b.frame(3.0, (60, 80)))
    others = [sim.simulate_clip("test", 5, 8), sim.simulate_clip("test", 6, 7), sim.simulate_clip("train", 5, 7),
              sim.simulate_clip("test", 5, 7, sim.Dials(missed=0.5))]
    assert len({a.digest(), *(c.digest() for c in others)}) == 5


def test_a_clip_does_not_depend_on_how_many_are_asked_for(clips):
    assert sim.simulate_clip("train", 3, 50).digest() == clips[50].digest()


def test_frame_labels_mark_the_interval(odd):
    for name, clip in odd.items():
        labels = clip.frame_labels()
        assert labels.dtype == np.uint8 and len(labels) == clip.frames
        if name == "normal":
            assert not labels.any()
        else:
            start, end = clip.events[0]
            assert labels.sum() == pytest.approx((end - start) * clip.fps, abs=1.01)
            assert clip.frame_labels(2.0).mean() == pytest.approx((end - start) / clip.seconds, abs=1 / clip.seconds)


def test_frames_are_pictures_and_the_iterator_gives_them_all(odd):
    clip = odd["fight"]
    frame, infrared = clip.frame(2.0), clip.frame_infrared(2.0, (60, 80))
    assert frame.shape == (120, 160, 3) and frame.dtype == np.uint8 and frame.std() > 5
    assert infrared.shape == (60, 80) and infrared.dtype == np.uint8
    frames = list(clip.iterate(fps=0.2, size=(60, 80)))
    assert len(frames) == len(clip.times(0.2)) and frames[0].shape == (60, 80, 3)
    np.testing.assert_array_equal(frames[1], clip.frame(5.0, (60, 80)))


def test_exposure_is_steady_and_a_flash_lightens(odd):
    clip = odd["explosion"]
    start = clip.events[0][0]
    levels = [clip.frame(t, (60, 80)).mean() for t in np.linspace(0.2, 1.0, 6)]
    assert np.ptp(levels) < 0.08 * np.mean(levels)
    assert clip.gain(start + 0.01) > 1.3 and clip.gain(start - 0.1) == pytest.approx(1.0, abs=0.01)
    assert clip.frame(start + 0.01, (60, 80)).mean() > 1.05 * clip.frame(start - 0.1, (60, 80)).mean()


def states(clip, name, times):
    track = next(k for k in clip.tracks if k.name == name)
    return [track.state(t) for t in times]


def test_explosion_burns_and_people_near_it_run(clips):
    for clip in (c for c in clips if c.label == 1):
        kinds = {a.kind for a in clip.scene_at(middle(clip)).actors}
        assert {"fire", "smoke"} <= kinds
    assert any("hurry" in k.deeds for c in clips if c.label == 1 for k in c.tracks)


def test_fight_is_two_people_close_together_who_strike(clips):
    for clip in (c for c in clips if c.label == 2):
        times = np.linspace(clip.events[0][0] + 0.1, clip.events[0][1] - 0.1, 40)
        a, b = (states(clip, name, times) for name in clip.event.actors)
        gaps = [np.hypot(p["x"] - q["x"], p["z"] - q["z"]) for p, q in zip(a, b, strict=True)]
        assert np.median(gaps) < 1.2
        assert 0.2 < np.mean([p["pose"] == "strike" for p in a + b]) < 1.0


def test_fall_goes_from_walking_to_lying_and_stays(clips):
    for clip in (c for c in clips if c.label == 3):
        (name,), (start, end) = clip.event.actors, clip.events[0]
        before, down, late = states(clip, name, [start - 0.3, middle(clip), end - 0.1])
        assert (before["pose"], down["pose"], late["pose"]) == ("walk", "lie", "lie")
        assert (down["x"], down["z"]) == (late["x"], late["z"])


def test_counter_run_is_against_the_stream(clips):
    for clip in (c for c in clips if c.label == 4):
        (name,) = clip.event.actors
        track = next(k for k in clip.tracks if k.name == name)
        state = track.state(middle(clip))
        assert state["pose"] == "run" and state["speed"] > 2.5
        assert track.moves_away(middle(clip)) == (clip.flow < 0)


def test_wrong_way_is_in_the_lane_of_the_others(clips):
    for clip in (c for c in clips if c.label == 5):
        (name,) = clip.event.actors
        track = next(k for k in clip.tracks if k.name == name)
        state = track.state(middle(clip))
        across, _ = clip.layout.place.road_point(state["x"], state["z"])
        assert track.moves_away(middle(clip)) == (across < 0)


def test_abandoned_bag_stays_when_its_owner_leaves(clips):
    for clip in (c for c in clips if c.label == 6):
        bag, owner = (next(k for k in clip.tracks if k.name == name) for name in clip.event.actors)
        start, end = clip.events[0]
        assert bag.alive(start) and bag.alive(end - 0.1) and not bag.alive(end + 0.5)
        when = min(start + 2.0, owner.times[-1])
        assert np.hypot(*(owner.places([when])[0] - bag.places([start])[0])) > 0.8


def test_nobody_jumps(clips):
    """Between two frames nobody moves faster than a car, nor a person faster than a sprinter."""
    for clip in clips[:24]:
        for track in clip.tracks:
            times = np.arange(max(track.times[0], 0.0), min(track.times[-1], clip.seconds), 0.2)
            speed = np.hypot(*np.diff(track.places(times), axis=0).T) / 0.2
            assert (speed < (5.5 if track.kind == "person" else 13.0)).all(), (clip.id, track.name)


def test_every_actor_of_a_scene_is_a_fact_of_the_story(odd):
    clip = odd["normal"]
    scene = clip.scene_at(4.0)
    riders = sum(k.kind == "bicycle" for k in clip.present(4.0))
    assert len(scene.actors) == len(clip.present(4.0)) + riders
    assert scene.place.split == "train" and (scene.light, scene.weather) == (clip.light, clip.weather)


def test_event_box_holds_the_event_in_the_pictures_labels(odd):
    clip, t = odd["wrong_way"], middle(odd["wrong_way"])
    box = clip.event_box(t)
    labels = clip.picture(t).labels
    x0, y0, x1, y1 = (round(v) for v in box)
    assert (labels[y0:y1, x0:x1] == 2).mean() > 0.15
    assert clip.event_box(0.0) is None and odd["normal"].event_box(3.0) is None


def test_truth_says_what_pictures_and_words_know(odd):
    truth = odd["fight"].truth
    assert truth["class"] == "fight" and truth["actors"] == odd["fight"].event.actors
    assert 3 < truth["pixels"] < 90 and 0 <= truth["told"] <= 1
    assert np.isnan(odd["normal"].truth["told"]) and odd["normal"].truth["actors"] == ()


def test_captions_cover_the_clip_and_link_to_actors(clips):
    for clip in clips[:12]:
        captions = clip.captions()
        assert [c.start for c in captions] == [2.0 * i for i in range(len(captions))]
        assert captions[-1].end == clip.seconds
        assert {name for c in captions for name in c.about} <= {k.name for k in clip.tracks}
    assert not any(c.event for clip in clips if clip.label == 0 for c in clip.captions())


def test_no_word_is_a_verdict(clips):
    said = " ".join([*(text for options in SAY.values() for text in options), *VOCABULARY,
                     *(c.text for clip in clips for c in clip.captions())]).lower()
    assert not [word for word in FORBIDDEN if word in said]


def test_no_single_word_gives_an_event_away(clips):
    """Each word that is written about an event is also written elsewhere."""
    many = clips + sim.simulate_clips(180, "validation", 0)
    captions = [c for clip in many for c in clip.captions()]
    events = [set(c.text.replace(",", "").split()) for c in captions if c.event]
    others = [set(c.text.replace(",", "").split()) for c in captions if not c.event]
    for word in {w for words in events for w in words}:
        yes, no = (sum(word in words for words in group) for group in (events, others))
        assert yes < 15 or no > 0.2 * yes, f"{word!r}: {yes} captions of events, {no} others"


def test_dials_of_the_onlooker():
    def told(**dials):
        made = sim.simulate_clips(36, "train", 1, sim.Dials(jitter=0.0, replaced=0.0, **dials))
        inside = [(c, clip) for clip in made if clip.events for c in clip.captions()
                  if c.start >= clip.events[0][0] and c.end <= clip.events[0][1]]
        return np.mean([c.event for c, _ in inside])

    assert told(missed=1.0) == 0.0
    assert told(missed=0.0) > 0.85 > told(missed=0.3) > 0.5
    clip, silent = sim.simulate_clip("train", 1, 0), sim.simulate_clip("train", 1, 0, sim.Dials(silent=1.0))
    assert len(clip.captions()) > 4 and silent.captions() == ()
    other = sim.simulate_clip("train", 1, 0, sim.Dials(replaced=1.0))
    assert [len(c.text.split()) for c in other.captions()] != [] and other.captions()[0].text != clip.captions()[0].text


def test_overlap_makes_onlookers_miss_what_is_far():
    rng = np.random.default_rng(0)
    clip = next(c for c in sim.simulate_clips(24, "train", 2) if c.label == 2)
    near = [replace(s, far=0.0) for s in clip.sights(middle(clip))]
    far = [replace(s, far=1.0) for s in near]
    share = {(name, overlap): np.mean([sim.choose(s, 0.25, overlap, rng).event for _ in range(600)])
             for name, s in (("near", near), ("far", far)) for overlap in (0.0, 1.0)}
    assert abs(share["near", 0.0] - share["far", 0.0]) < 0.08
    assert share["near", 1.0] == 1.0 and share["far", 1.0] == pytest.approx(0.5, abs=0.08)


def test_words_are_replaced_at_the_share_that_is_asked_for():
    text = " ".join(["xyz"] * 2000)
    written = miswrite(text, 0.3, np.random.default_rng(0)).split()
    assert np.mean([w != "xyz" for w in written]) == pytest.approx(0.3, abs=0.04)


def test_splits_share_no_place():
    seen = {split: {layout(split, n).place for n in range(PLACES[split])} for split in sim.SPLITS}
    assert all(place.split == split for split in seen for place in seen[split])
    cameras = [{(p.height, p.pitch, p.focal) for p in seen[split]} for split in sim.SPLITS]
    assert len(set.union(*cameras)) == sum(len(c) for c in cameras)


def test_a_scene_is_cheap():
    clip = sim.simulate_clip("train", 0, 0)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        for t in np.linspace(0, clip.seconds, 50):
            clip.scene_at(t)
        best = min(best, (time.perf_counter() - start) / 50)
    assert best < 1.5e-3, f"{1e3 * best:.2f} ms a scene"


@pytest.mark.parametrize(("call", "words"), [
    (lambda: sim.simulate_clip("trian"), "split 'trian': expected one of train, validation, test, shift"),
    (lambda: sim.simulate_clip("train", -1), "seed=-1: expected a whole number"),
    (lambda: sim.simulate_clip("train", 0, 1.5), "number=1.5: expected a whole number"),
    (lambda: sim.simulate_clips(0), "n=0: expected a whole number of clips"),
    (lambda: sim.Dials(missed=1.2), "dial missed=1.2: expected a share between 0 and 1"),
    (lambda: sim.Dials(jitter=-1.0), "dial jitter=-1.0: expected a finite number"),
    (lambda: sim.simulate_clip().scene_at(-0.1), "t=-0.1: expected seconds between 0 and the clip's"),
    (lambda: sim.simulate_clip().captions(0), "every=0: expected seconds above 0"),
    (lambda: sim.simulate_clip().times(0), "fps=0: expected frames per second above 0"),
    (lambda: Path("p", "person", 0, 0, 0, 0).done(), "track p has no leg: call go or stay before done"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
