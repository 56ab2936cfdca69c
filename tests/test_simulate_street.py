"""The street simulator: what it draws agrees with its truth, and what it knows shows only where physics allows."""
from dataclasses import replace

import numpy as np
import pytest

from cmf.simulate import street
from cmf.simulate import street_place as places
from cmf.simulate.street import Actor, Dials, Scene, place, render, simulate_pairs
from cmf.simulate.street_actors import look_of

LOW = next(place("train", k) for k in range(48) if place("train", k).height < 2.3 and abs(place("train", k).centre) < 3)
SIZE = (120, 160)


def in_front(kind, along=10.0, **more):
    """An actor in the middle of the picture."""
    return Actor(kind, 0.0, along, **more)


def picture(*actors, light="day", weather="clear", size=SIZE, seed=0, at=LOW, **more):
    return render(Scene(at, light, weather, tuple(actors), **more), size, seed)


@pytest.fixture(scope="module")
def pairs():
    return simulate_pairs(60, "train", 3, (96, 128))


def test_same_seed_same_bytes(pairs):
    again = simulate_pairs(60, "train", 3, (96, 128))
    for name in ("visible", "infrared", "labels"):
        assert np.array_equal(getattr(pairs, name), getattr(again, name))
    assert pairs.captions == again.captions and pairs.boxes == again.boxes and pairs.scenes == again.scenes
    other = simulate_pairs(60, "train", 4, (96, 128))
    assert not np.array_equal(pairs.visible, other.visible)
    assert pairs.visible.shape == (60, 96, 128, 3) and pairs.visible.dtype == np.uint8 == pairs.infrared.dtype
    assert len(pairs) == 60 and len(set(pairs.ids)) == 60


def test_splits_share_no_place_palette_texture_or_camera():
    worlds = {split: [place(split, k) for k in range(street.PLACES[split])] for split in street.SPLITS}
    for facts in (lambda p: (p.height, p.pitch, p.focal), lambda p: p.texture // 1000, lambda p: p.leaves,
                  lambda p: p.buildings, lambda p: p.yaw):
        seen = [set(map(facts, world)) for world in worlds.values()]
        assert len(set.union(*seen)) == sum(map(len, seen)), "a fact appears in two splits"
    walls = [set(palette) for palette in places.WALLS.values()]
    assert len(set.union(*walls)) == sum(map(len, walls))
    focal = {split: [p.focal for p in world] for split, world in worlds.items()}
    assert max(focal["shift"]) < min(focal["train"]), "the lens of shift lies outside the training range"
    assert max(p.air("day") for p in worlds["shift"]) < min(p.air("day") for p in worlds["train"]), "and it is colder"
    assert place("test", 3) is place("test", 3 + street.PLACES["test"])


def test_road_coordinates_come_back_and_pixels_follow_the_pinhole():
    x, z = LOW.point(2.0, 30.0)
    assert np.allclose(LOW.road_point(x, z), (2.0, 30.0))
    flat = replace(LOW, pitch=0.0, height=1.5, focal=1.2)
    (pixel,), (axis,) = flat.project([(1.0, 0.0, 10.0)], (200, 300))
    assert axis == pytest.approx(10.0)
    assert np.allclose(pixel, (149.5 + 1.2 * 200 * 0.1, 99.5 + 1.2 * 200 * 0.15))


def test_labels_agree_with_boxes(pairs):
    for labels, boxes in zip(pairs.labels, pairs.boxes, strict=True):
        covered = np.zeros_like(labels, bool)
        for box in boxes:
            mine = labels == 1 + street.KINDS.index(box.kind)
            inside = mine[box.y0:box.y1, box.x0:box.x1]
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any(), box
            covered[box.y0:box.y1, box.x0:box.x1] |= inside
            assert 0 < box.share <= 1
        assert np.array_equal(covered, labels > 0), "a label lies outside all boxes of its kind"


@pytest.mark.parametrize("kind", street.KINDS)
@pytest.mark.parametrize("light", street.LIGHTS)
def test_every_kind_is_drawn_and_labelled(kind, light):
    made = picture(in_front(kind), light=light)
    (box,) = made.boxes
    assert box.kind == kind and box.share > 0.5
    assert (made.labels == 1 + street.KINDS.index(kind)).sum() > 20


@pytest.mark.parametrize("pose", street.POSES["person"])
def test_poses_differ(pose):
    boxes = {p: picture(in_front("person", 8.0, pose=p, phase=1.0, heading=1.4)).boxes[0]
             for p in (pose, "stand")}
    tall = {p: b.y1 - b.y0 for p, b in boxes.items()}
    wide = {p: b.x1 - b.x0 for p, b in boxes.items()}
    if pose in ("sit", "lie", "crouch"):
        assert tall[pose] < 0.8 * tall["stand"]
    if pose in ("walk", "run", "lie", "strike", "ride"):
        assert wide[pose] > 1.3 * wide["stand"]


def test_perspective_halves_with_distance():
    near, far = (picture(in_front("person", z), size=(240, 320)).boxes[0] for z in (8.0, 16.0))
    assert (near.y1 - near.y0) / (far.y1 - far.y0) == pytest.approx(2.0, abs=0.2)


def test_gait_moves_the_legs_and_nothing_else_moves():
    still, moved = (picture(in_front("person", 7.0, pose="walk", heading=1.5, phase=p), visible_noise=0.0,
                            infrared_noise=0.0) for p in (0.5, 2.5))
    change = np.abs(still.infrared.astype(int) - moved.infrared) > 8
    rows, columns = np.nonzero(change)
    box = still.boxes[0]
    assert change.any() and rows.min() >= box.y0 - 8 and columns.min() >= box.x0 - 20


def test_nearer_actors_hide_farther_ones():
    alone = picture(in_front("person", 14.0))
    both = picture(in_front("car", 9.0, heading=1.57), in_front("person", 14.0))
    shares = {b.kind: b.share for b in both.boxes}
    assert alone.boxes[0].share > 0.95 and shares["car"] > 0.95 and shares.get("person", 0.0) < 0.7
    cut = picture(Actor("car", -0.5 * 9 / LOW.focal * SIZE[1] / SIZE[0], 9.0, heading=1.57))
    assert cut.boxes[0].share < 0.75, "half of it is outside the picture"


@pytest.mark.parametrize("along", [-20.0, -1.0, 0.0, 1.0, 2.5, 400.0])
def test_actors_beside_behind_or_far_from_the_camera_draw_nothing_odd(along):
    empty = picture(visible_noise=0.0)
    for kind in street.KINDS:
        made = picture(in_front(kind, along), visible_noise=0.0)
        assert (made.labels > 0).mean() < (0.9 if along == 2.5 else 1e-3)
        if along < 1.2 and kind != "fire":
            assert not made.boxes and np.array_equal(made.visible, empty.visible)


def test_running_car_is_warmer_and_looks_the_same():
    parked, running = (picture(in_front("car", 8.0, heading=2.6, look=3, running=r)) for r in (False, True))
    body = parked.labels == 1 + street.KINDS.index("car")
    assert running.infrared[body].mean() > parked.infrared[body].mean() + 8
    assert np.abs(running.visible[body].astype(int) - parked.visible[body]).mean() < 1.0


@pytest.mark.parametrize("light", street.LIGHTS)
def test_people_are_warm_bags_are_not_and_fire_saturates(light):
    made = {k: picture(in_front(k, 8.0), light=light) for k in ("person", "bag", "fire")}
    level = {k: np.median(m.infrared[m.labels > 0]) for k, m in made.items()}
    assert level["fire"] > 240 > level["person"] > level["bag"] + 40


def test_paint_is_seen_in_the_visible_only():
    by_body = {}
    for look in range(200):
        by_body.setdefault(look_of("car", look).body, {}).setdefault(look_of("car", look).colour, look)
    looks = by_body["saloon"]
    red, white = (picture(in_front("car", 8.0, look=looks[c])) for c in ("red", "white"))
    assert np.array_equal(red.infrared, white.infrared)
    assert np.abs(red.visible.astype(int) - white.visible).max() > 60
    stripes = [picture(in_front("barrier", 6.0, look=k)) for k in (0, 1)]
    assert np.array_equal(stripes[0].infrared, stripes[1].infrared)
    bump = picture(in_front("bump", 8.0), size=(240, 320), infrared_noise=0.0)
    on = bump.labels > 0
    assert bump.visible[on].std() > 4 * bump.infrared[on].std()


def test_smoke_hides_a_person_in_the_visible_but_not_in_the_infrared():
    clear = picture(in_front("person", 12.0))
    behind = picture(in_front("person", 12.0), Actor("smoke", 0.0, 10.0, size=0.9))
    person = clear.labels == 1
    ground = picture()

    def contrast(made, band):
        values = getattr(made, band).astype(float)
        return np.abs(values - getattr(ground, band))[person].mean()

    smoke = picture(Actor("smoke", 0.0, 10.0, size=0.9))
    visible = np.abs(behind.visible.astype(int) - smoke.visible)[person].mean()
    infrared = np.abs(behind.infrared.astype(int) - smoke.infrared)[person].mean()
    assert visible < 0.6 * contrast(clear, "visible") and infrared > 0.6 * contrast(clear, "infrared")


def test_light_weather_and_lamps_show():
    mean = {light: picture(light=light).visible.mean() for light in street.LIGHTS}
    assert mean["day"] > mean["dusk"] > mean["night"]
    spread = {w: picture(in_front("person", 40.0), weather=w, seed=1).visible[:50].std()
              for w in ("clear", "fog")}
    assert spread["fog"] < spread["clear"]
    dark, bright = (picture(in_front("car", heading=np.pi, pose=p), light="night") for p in ("stand", "drive"))
    assert (bright.visible > 250).sum() > (dark.visible > 250).sum() + 30
    day = [picture(in_front("car", 10.0, heading=np.pi, pose=p)) for p in ("stand", "drive")]
    assert np.array_equal(day[0].visible, day[1].visible)


def test_cameras_have_noise_offset_and_exposure():
    base = picture(in_front("person"), visible_noise=0.0, infrared_noise=0.0)
    noisy = picture(in_front("person"), visible_noise=4.0, infrared_noise=4.0)
    assert np.abs(base.visible.astype(int) - noisy.visible).mean() > 2
    assert np.abs(base.infrared.astype(int) - noisy.infrared).mean() > 2
    moved = picture(in_front("person"), visible_noise=0.0, infrared_noise=0.0, offset=(3.0, 5.0))
    assert np.array_equal(moved.visible, base.visible) and np.array_equal(moved.labels, base.labels)
    assert np.abs(moved.infrared[3:, 5:].astype(int) - base.infrared[:-3, :-5]).max() <= 1
    assert picture(exposure=0.0, visible_noise=0.0).visible.max() == 0
    night, day = (np.std(picture(light=k, seed=1).visible[:20].astype(float)
                         - picture(light=k, seed=1, visible_noise=0.0).visible[:20]) for k in ("night", "day"))
    assert night > day, "noise grows in the dark"


def test_backgrounds_are_kept_and_read_only():
    base = street.background(LOW, "day", "clear", SIZE)
    assert street.background(LOW, "day", "clear", SIZE) is base
    with pytest.raises(ValueError, match="read-only"):
        base.visible[0, 0] = 0


def test_missing_bands_and_replaced_words():
    made = simulate_pairs(12, "test", 0, (48, 64), Dials(missing=1.0, words=1.0))
    for visible, infrared, which in zip(made.visible, made.infrared, made.truth["missing"], strict=True):
        assert (visible.max() == 0) == (which == 1) and (infrared.max() == 0) == (which == 2)
    assert set(made.truth["missing"]) == {1, 2}
    clean = simulate_pairs(12, "test", 0, (48, 64), Dials(missing=1.0))
    assert all(a != b for a, b in zip(made.captions[0], clean.captions[0], strict=True))


@pytest.mark.parametrize(("call", "match"), [
    (lambda: Actor("horse", 0, 5), "kind 'horse': expected one of person, car"),
    (lambda: Actor("person", 0, 5, pose="fly"), "pose 'fly' of a person: expected one of stand"),
    (lambda: Actor("car", 0, 5, pose="walk"), "pose 'walk' of a car: expected one of stand, drive"),
    (lambda: Actor("car", np.nan, 5), "x=nan of a car: expected a finite number"),
    (lambda: Actor("car", 0, 5, size=0), "size=0 of a car: expected a number above 0"),
    (lambda: Actor("fire", 0, 5, strength=2), r"strength=2 of a fire: expected a number in \[0, 1\]"),
    (lambda: place("training", 0), "split 'training': expected one of train, validation, test, shift"),
    (lambda: place("train", -1), "place number -1: expected 0 or more"),
    (lambda: Scene(LOW, "noon", "clear"), "light 'noon': expected one of day, dusk, night"),
    (lambda: Scene(LOW, "day", "snow"), "weather 'snow': expected one of clear, rain, fog"),
    (lambda: Scene(LOW, "day", "clear", ("car",)), "actors hold str: expected only Actor"),
    (lambda: Scene(LOW, "day", "clear", exposure=-1.0), "exposure=-1.0: expected a finite number, 0 or larger"),
    (lambda: render(Scene(LOW, "day", "clear"), (40, 64)), r"size \(40, 64\): expected \(height, width\), each 48"),
    (lambda: street.background(LOW, "day", "clear", (64,)), r"size \(64,\): expected \(height, width\)"),
    (lambda: simulate_pairs(0, "train", 0), "n=0: expected at least 1 picture"),
    (lambda: simulate_pairs(1, "all", 0), "split 'all': expected one of"),
    (lambda: Dials(crowd=-1), "dial crowd=-1: expected a finite number, 0 or larger"),
    (lambda: Dials(words=2), "dial words=2: expected a share between 0 and 1"),
    (lambda: Dials(day=.8, dusk=.4), r"dials day \+ dusk = 1.2.*expected sums of at most 1"),
])
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
