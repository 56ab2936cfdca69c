"""What CMI-Fusion learns from: samples that stay the same, sentences with their targets, faults within bounds."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import small_asked as small
import torch
from small_asked import SIDE, pictures

from cmf.datasets import pairs
from cmf.datasets.pictures import Picture
from cmf.simulate.prompts import FAMILIES
from cmf.studies import asked
from cmf.studies.asked import Asked, Texts


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return small.encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def texts(encoder):
    return Texts(encoder, "train", pictures().captions, each=12)


def asking(texts, family, **change):
    """Samples that all ask for one family."""
    shares = [float(name == family) for name in FAMILIES[1:]]
    return Asked(pictures(), texts, SIDE, shares=shares, **change)


def test_a_sample_is_the_same_in_every_batch_order_and_run(texts):
    data, again = (Asked(pictures(), texts, SIDE, rounds=4, seed=5) for _ in range(2))
    assert len(data) == 12
    alone = [data[i] for i in range(12)]
    order = [7, 0, 11, 3, 3, 5]
    batch = again.__getitems__(order)
    for name in ("visible", "infrared", "source_visible", "source_infrared", "warm", "wanted", "family", "pooled"):
        assert torch.equal(batch[name], torch.stack([alone[i][name] for i in order])), name
    for k, i in enumerate(order):
        words, mask = alone[i]["text"], alone[i]["text_mask"]
        assert torch.equal(batch["text"][k, :len(words)], words) and batch["text_mask"][k].sum() == mask.sum()
    other = Asked(pictures(), texts, SIDE, rounds=4, seed=6)
    assert not torch.equal(other[0]["visible"], alone[0]["visible"])


def test_shapes_and_ranges(texts):
    batch = Asked(pictures(), texts, SIDE, rounds=8).__getitems__(list(range(24)))
    for name in ("visible", "infrared", "source_visible", "source_infrared", "warm", "wanted"):
        assert batch[name].shape == (24, 1, SIDE, SIDE) and batch[name].dtype == torch.float32
        assert 0 <= batch[name].min() and batch[name].max() <= 1
    assert batch["text"].shape[:2] == batch["text_mask"].shape and batch["text_mask"].dtype == torch.bool
    assert batch["family"].shape == (24,) and len(batch["family"].unique()) > 1


def test_families_come_in_their_shares(texts):
    data = Asked(pictures(), texts, SIDE, rounds=500)
    plain = torch.zeros(1, 2, 2)
    rows = [data._one(i, plain, plain, plain) for i in range(1500)]
    found = Counter(FAMILIES[row["family"]] for row in rows)
    for family, share in zip(FAMILIES, (0.5, 0.14, 0.14, 0.09, 0.13), strict=True):
        assert found[family] / 1500 == pytest.approx(share, abs=4 * (share * (1 - share) / 1500) ** 0.5)
    said = Counter(row["text"] for row in rows if row["family"] == 0)
    nothing = said[("balanced", -1)] / found["balanced"]
    of = {says: sum(n for (family, k), n in said.items() if family == says and k >= 0) / found["balanced"]
          for says in ("balanced", "other", "foreign")}
    assert nothing == pytest.approx(0.4, abs=0.08) and of == pytest.approx(
        dict(balanced=0.24, other=0.12, foreign=0.24), abs=0.07)
    assert all(bool(row["faulty"]) == (row["family"] > 2) for row in rows)
    assert all(row["text"][0] == FAMILIES[row["family"]] for row in rows if row["family"] > 0)


def test_heat_is_to_be_brighter_than_either_source_where_it_is_warm(texts):
    batch = asking(texts, "heat").__getitems__([0, 1, 2])
    assert torch.equal(batch["visible"], batch["source_visible"])
    brightest = torch.maximum(batch["source_visible"], batch["source_infrared"])
    assert torch.equal(batch["wanted"], (brightest + asked.LIFT).clamp(0, 1))
    assert 0 < batch["warm"].mean() < 0.5 and (batch["source_infrared"][batch["warm"] == 1] > 0.5).all()


def test_texture_is_the_visible_picture_where_it_is_warm(texts):
    batch = asking(texts, "texture").__getitems__([0, 1, 2])
    assert torch.equal(batch["wanted"], batch["source_visible"]) and batch["warm"].any()
    assert torch.equal(batch["visible"], batch["source_visible"])


def test_brighten_is_asked_of_a_dark_picture(texts):
    batch = asking(texts, "brighten").__getitems__([0, 1, 2])
    assert (batch["visible"].mean((1, 2, 3)) < batch["source_visible"].mean((1, 2, 3))).all()
    assert torch.equal(batch["infrared"], batch["source_infrared"]) and not batch["warm"].any()


def test_denoise_is_asked_of_noisy_pictures(texts):
    batch = asking(texts, "denoise").__getitems__([0, 1, 2])
    for kind in ("visible", "infrared"):
        assert 3 / 255 < (batch[kind] - batch[f"source_{kind}"]).std() < 26 / 255
    assert not batch["warm"].any()


def test_balanced_keeps_what_it_is_given(texts):
    """Noise too, when nobody asks for its removal."""
    batch = asking(texts, "balanced", rounds=20).__getitems__(list(range(60)))
    assert torch.equal(batch["visible"], batch["source_visible"]) and not batch["warm"].any()
    assert torch.equal(batch["infrared"], batch["source_infrared"])


def test_samples_without_sentence_have_no_word(texts):
    batch = asking(texts, "balanced", rounds=20).__getitems__(list(range(60)))
    words = batch["text_mask"].sum(1)
    assert 12 < (words == 0).sum() < 38 and (batch["text"][words == 0].isfinite()).all()


def test_the_middle_is_taken_when_nothing_is_random(texts):
    made = pictures()
    data = Asked(made, texts, SIDE, augment=False)
    for i, picture in enumerate(made.infrared):
        assert np.array_equal(data[i]["source_infrared"][0].numpy(), picture[4:4 + SIDE, 8:8 + SIDE] / np.float32(255))


@pytest.mark.parametrize("seed", range(4))
def test_darkened_is_darker_within_bounds(seed):
    bright = torch.full((1, 64, 64), 0.6)
    dark = asked.darkened(bright, np.random.default_rng(seed))
    assert 0.4 * 0.6**2.6 - 0.01 < dark.mean() < 0.6**1.4 + 0.01
    assert 0.8 / 255 < dark.std() < 4.3 / 255 and 0 <= dark.min()
    assert asked.darkened(torch.zeros(1, 8, 8), np.random.default_rng(seed)).max() < 20 / 255


@pytest.mark.parametrize("seed", range(4))
def test_noise_has_four_to_twenty_five_levels(seed):
    grey = torch.full((1, 64, 64), 0.5)
    found = asked.noisy(grey, np.random.default_rng(seed))
    assert 3.8 / 255 < found.std() < 25.8 / 255 and abs(found.mean() - 0.5) < 0.01
    assert asked.noisy(torch.ones(1, 8, 8), np.random.default_rng(seed)).max() <= 1


def test_the_empty_sentence_has_no_word(texts):
    column = texts.column([("balanced", -1), ("heat", -1)])
    assert not column["text_mask"].any() and column["text"].shape[:2] == column["text_mask"].shape == (2, 1)


def test_columns_are_as_long_as_their_longest_sentence(texts):
    everything = texts.all()
    total = sum(len(found) for found in texts.sentences.values())
    assert len(everything["text"]) == len(everything["text_mask"]) == len(everything["pooled"]) == total
    assert everything["text_mask"].any(1).all() and everything["text_mask"][:, -1].any()
    told = texts.told["heat"]
    column = texts.column([("heat", 2), ("balanced", -1)])
    length = column["text"].shape[1]
    assert torch.equal(column["text"][0], told["text"][2, :length]) and torch.equal(column["pooled"][0],
                                                                                  told["pooled"][2])
    assert column["text_mask"][0].sum() == told["text_mask"][2].sum()


def test_sentences_of_the_splits_are_disjoint(encoder):
    made = {split: Texts(encoder, split, each=20).sentences for split in ("train", "validation", "test")}
    for family in FAMILIES:
        found = [sentence for split in made.values() for sentence in split[family]]
        assert len(found) == len(set(found)) and all(split[family] for split in made.values())
    assert not set(made["train"]["foreign"]) & set(made["validation"]["foreign"])


def test_sentences_are_chosen_by_the_seed_and_include_captions(encoder, texts):
    again = Texts(encoder, "train", pictures().captions, each=12)
    assert again.sentences == texts.sentences
    assert Texts(encoder, "train", each=12, seed=1).sentences["heat"] != texts.sentences["heat"]
    assert set(pictures().captions) == set(texts.sentences["other"]) and len(texts.sentences["heat"]) == 12
    assert len(texts.sentences["foreign"]) == 72


def test_simulated_pictures_know_their_warm_things():
    made = asked.simulated(2, "validation", seed=3, size=(64, 80))
    assert len(made) == 2 and made.captions and all(isinstance(text, str) for text in made.captions)
    for planes in (made.visible, made.infrared, made.warm):
        assert all(plane.dtype == np.uint8 and plane.shape == (64, 80) for plane in planes)
    assert set(np.unique(made.warm)) <= {0, 255}
    assert len(made + pictures()) == 5 and (made + pictures()).captions[-1] == "two people walk"


def test_of_real_pictures_bright_is_warm_by_degrees_and_medical_nowhere(monkeypatch):
    heat = np.full((20, 20), 0.2, np.float32)
    heat[:4, :4] = 1.0
    heat[10:14, 10:14] = 0.5
    read = Picture(np.full((20, 20), 0.5, np.float32), None), Picture(heat, None)
    monkeypatch.setattr(pairs, "layout", lambda name, split: [SimpleNamespace(stem="1")])
    monkeypatch.setattr(pairs, "load", lambda pair, align: read)
    street, brain = asked.real(["tno"]), asked.real(["ct-mri"])
    assert street.warm[0][0, 0] == 255 > street.warm[0][12, 12] > 0 == street.warm[0][19, 0]
    assert not brain.warm[0].any() and np.array_equal(street.infrared[0], np.round(heat * 255)) and not brain.captions


def test_an_unknown_set_is_refused():
    with pytest.raises(ValueError, match="unknown set 'nowhere'; expected one of roadscene"):
        asked.real(["nowhere"])
