"""Joint augmentation: labels stay with their pixels, padding is marked, and the same seed gives the same views."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmf.datasets import augment
from cmf.datasets.augment import SCALES, Joint, Views
from cmf.training import EpochOrder


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def painted(b=3, size=(40, 56), seed=0, classes=5):
    """A batch whose pictures show their labels: brightness is 40 times the label, in blocks of 8 pixels."""
    coarse = np.random.default_rng(seed).integers(0, classes, (b, -(-size[0] // 8), -(-size[1] // 8)))
    label = coarse.repeat(8, 1).repeat(8, 2)[:, :size[0], :size[1]].astype(np.uint8)
    shown = torch.from_numpy(label * 40)[:, None]
    return dict(visible=shown.expand(-1, 3, -1, -1).clone(), infrared=shown.clone(), label=torch.from_numpy(label))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(24, 24), (40, 56), (64, 48), (33, 71)]))
def test_labels_stay_with_their_pixels(seed, size):
    made = Joint(size)(painted(seed=seed), seeded(seed))
    inside, label = made["inside"] == 1, made["label"][:, None]
    told = torch.round(made["infrared"] * 255 / 40).long()
    agree = (told == label)[inside].float().mean()
    assert agree > 0.8, "only at borders of blocks, where brightness is interpolated, may they differ"
    assert (label[~inside] == 255).all() and (label[inside] < 5).all()
    assert (made["infrared"][~inside] == 0).all() and (made["visible"].mean(1, keepdim=True)[~inside] == 0).all()
    torch.testing.assert_close(made["visible"], made["infrared"].expand(-1, 3, -1, -1))


def test_labels_do_not_drift_when_scaled():
    edge = torch.arange(64).expand(64, 64) >= 32
    batch = dict(visible=(255 * edge).byte().expand(1, 3, -1, -1), infrared=(255 * edge).byte()[None, None],
                 label=edge.byte()[None])
    for scale in SCALES:
        made = Joint((round(64 * scale),) * 2, flip=0, scales=(scale,))(batch, seeded())
        brightness, label = made["infrared"].double().sum(), made["label"].sum()
        assert float(brightness - label) == pytest.approx(0, abs=0.51 * 64 * scale), "half a pixel a row at most"


def test_without_scale_pixels_and_labels_agree_exactly():
    made = Joint((24, 32), scales=(1,))(painted(8), seeded(4))
    assert torch.equal(torch.round(made["infrared"][:, 0] * 255 / 40).long(), made["label"])
    assert made["inside"].min() == 1 and made["visible"].dtype == torch.float32 and made["label"].dtype == torch.int64


def test_whole_picture_untouched_and_flipped():
    batch = painted(2)
    same = Joint((40, 56), flip=0, scales=(1,))(batch, seeded())
    flipped = Joint((40, 56), flip=1, scales=(1,))(batch, seeded())
    assert torch.equal(same["label"], batch["label"].long()) and torch.equal(same["visible"], batch["visible"] / 255)
    assert torch.equal(flipped["label"], same["label"].flip(-1))
    assert torch.equal(flipped["infrared"], same["infrared"].flip(-1))


def test_padding_is_symmetric():
    made = Joint((50, 57), flip=0, scales=(1,))(painted(1), seeded())
    assert made["label"][0, :5].eq(255).all() and made["label"][0, 45:].eq(255).all() and made["label"][0, :, 56].eq(
        255).all() and made["label"][0, 5:45, :56].lt(5).all()


def test_brightness_of_the_visible_alone():
    batch = painted(6)
    made = Joint((40, 56), flip=0, scales=(1,), brightness=0.5)(batch, seeded(2))
    assert torch.equal(made["infrared"], batch["infrared"] / 255)
    factors = made["visible"].amax((1, 2, 3)) / (batch["visible"] / 255).amax((1, 2, 3))
    assert factors.min() >= 0.5 and factors.max() <= 1.5 and factors.std() > 0.05


def test_a_seed_decides_and_samples_differ():
    batch, joint = painted(1), Joint((24, 24))
    six = {name: plane.expand(6, *plane.shape[1:]) for name, plane in batch.items()}
    one, again, other = joint(six, seeded(1)), joint(six, seeded(1)), joint(six, seeded(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["label"], other["label"]) and len({x.numpy().tobytes() for x in one["label"]}) > 3


def test_views_depend_on_their_number_alone():
    batch = painted(5)
    views = Views(**batch, joint=Joint((16, 16)), seed=3, rounds=4, weight=torch.arange(5.0))
    assert len(views) == 20
    together, apart = views[[7, 2, 19]], [views[k] for k in (7, 2, 19)]
    assert all(torch.equal(together[name][k], one[name]) for k, one in enumerate(apart) for name in one)
    assert together["weight"].tolist() == [2, 2, 4] and not torch.equal(together["label"][0], together["label"][1])
    order = list(EpochOrder(len(views), seed=0))
    loader = torch.utils.data.DataLoader(views, batch_size=8, sampler=order, collate_fn=views.collate)
    assert [len(found["label"]) for found in loader] == [8, 8, 4]
    other = Views(**batch, joint=Joint((16, 16)), seed=4, rounds=4)
    assert not torch.equal(other[[0, 1]]["label"], views[[0, 1]]["label"])


@pytest.mark.parametrize("changes, words", [
    (dict(size=(0, 4)), r"size \(0, 4\): expected \(rows, columns\)"), (dict(size=(4,)), r"size \(4,\)"),
    (dict(flip=1.5), "flip 1.5 and brightness 0.0: expected a probability"),
    (dict(brightness=1), "brightness 1: expected"), (dict(scales=()), r"scales \(\): expected factors above 0"),
    (dict(scales=(0, 1)), r"scales \(0, 1\): expected factors")])
def test_bad_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        Joint(**{"size": (8, 8), **changes})


@pytest.mark.parametrize("name, shape", [("visible", (3, 1, 40, 56)), ("infrared", (3, 40, 56)),
                                         ("label", (3, 1, 40, 56)), ("infrared", (2, 1, 40, 56))])
def test_bad_planes(name, shape):
    with pytest.raises(ValueError, match=r"planes of shapes .*expected visible \(B, 3, H, W\), infrared"):
        Joint((8, 8))(painted() | {name: torch.zeros(shape)}, seeded())


def test_bad_views():
    batch = painted(2)
    for changes in (dict(rounds=0), dict(label=batch["label"][:1])):
        with pytest.raises(ValueError, match="expected one length, at least 1, and at least 1 round"):
            Views(**{**batch, "joint": Joint((8, 8)), **changes})
    with pytest.raises(IndexError, match="view 2, expected 0 to 1"):
        Views(**batch, joint=Joint((8, 8)))[2]


def test_examples():
    result = doctest.testmod(augment)
    assert result.attempted >= 4 and result.failed == 0
