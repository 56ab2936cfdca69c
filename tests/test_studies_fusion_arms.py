"""The arms of CMI-Fusion on a few small pairs: what sets each apart, what is judged, and the controls of its text."""

import numpy as np
import pandas as pd
import pytest
import small_asked as small
import torch
from torch import nn

from cmf.studies import fusion_arms as study
from cmf.studies.asked import Texts
from cmf.training import Recipe

SHORT = Recipe(epochs=1, batch=4, lr=2e-3)


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    encoder = small.encoder(tmp_path_factory.mktemp("encoder"))
    return study.sets(train=4, validation=2, test=6, seed=3, size=(64, 80), rounds=1, encoder=encoder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))


class Obeys(nn.Module):
    """Gives the maximum, plus 20 grey levels where the infrared is bright if `hot` is among the sentences told."""

    def __init__(self, hot):
        super().__init__()
        self.hot = hot          # (k, D') pooled vectors

    def forward(self, batch):
        both = torch.maximum(batch["visible"], batch["infrared"])
        asked = torch.tensor([bool((self.hot - one).abs().sum(1).min() < 1e-5) for one in batch["pooled"]])
        return dict(fused=(both * 0.5 + asked[:, None, None, None] * 20 / 255 * (batch["infrared"] > 0.5)))


@pytest.mark.gpu
@pytest.mark.parametrize("arm", study.ARMS)
def test_every_arm_trains_and_is_judged(arm, some):
    model, result = study.train(arm, some, 0, SHORT)
    table = study.judge(model, some)
    assert np.isfinite(result.history.loss).all()
    assert list(table.columns) == ["pair", *study.MEASURES, "inside", "outside"] and len(table) == 6
    assert np.isfinite(table[list(study.MEASURES)]).all().all()
    if arm == "without text":
        assert not table.inside.dropna().any() and not table.outside.any(), "what is not heard changes nothing"


def test_an_arm_lacks_what_its_name_says(some):
    network = {arm: study.build(arm, some, 0) for arm in study.ARMS}
    assert network["without text"][0].words is None and network["without FiLM"][0].film is None
    assert network["single token"][0].shape.text == "single"
    assert not network["without dual attention"][0].shape.attention
    assert network["without SSIM"][1].weights["similarity"] == 0 < network["CMI-Fusion"][1].weights["similarity"]
    assert network["without visual information"][1].weights["information"] == 0
    assert network["without difference correlation"][1].weights["difference"] == 0
    assert network["without calm"][1].weights["calm"] == 0
    batch = study.silenced(some.train).__getitems__([0, 1, 2, 3])
    assert not batch["text_mask"].any() and torch.equal(batch["pooled"][0], batch["pooled"][3])
    assert torch.equal(batch["visible"], some.train.__getitems__([0, 1, 2, 3])["visible"])
    with pytest.raises(ValueError, match="no arm 'late'; there are CMI-Fusion, without text"):
        study.build("late", some, 0)


def test_published_arm_hears_the_sentence_and_two_that_stay(some):
    model = study.build("as published", some, 0)[0].eval()
    assert model.sources.shape == (2, some.texts.none["pooled"].shape[-1])
    assert torch.allclose(model.sources.square().mean(1), torch.ones(2), atol=1e-4)
    visible, infrared, _ = study.stacked(some.test)
    one, other = (study.fuse(model, visible, infrared, some.texts.column([(family, 0)] * 6))
                  for family in study.OPPOSITES)
    assert np.abs(one - other).max() > 0


def test_response_is_what_the_picture_changes_by(some):
    told = some.texts.told["heat"]["pooled"]
    table = study.judge(Obeys(told), some)
    _, infrared, warm = study.stacked(some.test)
    bright = infrared[:, 0].numpy() > 0.5
    for k in range(6):
        if warm[k].sum() < study.LEAST:
            assert np.isnan(table.inside[k])
            continue
        assert table.inside[k] == pytest.approx(20 * bright[k][warm[k]].mean(), abs=1e-3)
        assert table.outside[k] == pytest.approx(20 * bright[k][~warm[k]].mean(), abs=1e-3)
    assert table.inside.notna().any()
    cases = pd.DataFrame(dict(inside=[9.0, 7.0, -20.0, np.nan]))
    assert study.obeyed(cases).tolist()[:3] == [1, 0, 0] and np.isnan(study.obeyed(cases)[3])


def test_arms_come_from_the_cache_and_beside_fusion_without_learning(some, monkeypatch):
    first = study.trained("without text", some, 1, SHORT)
    monkeypatch.setattr(study, "train", lambda *args: pytest.fail("trained twice"))
    model, record = study.trained("without text", some, 1, SHORT)
    pd.testing.assert_frame_equal(first[1]["table"], record["table"])
    assert not model.training and record["parameters"] > 0
    monkeypatch.setattr(study, "trained", lambda arm, some, seed: (model, dict(record)))
    table = study.arms(["without text"], some, (1, 2))
    assert table.groupby("arm").size().to_dict() == {
        "without text": 12, "pixel mean": 6, "pixel maximum": 6, "Laplacian pyramid": 6}
    maximum = table[table.arm == "pixel maximum"].reset_index()
    expected = study.measures(np.maximum(some.test.visible, some.test.infrared), some.test)
    assert np.allclose(maximum[["SD", "VIF"]], expected[["SD", "VIF"]], atol=1e-3)
    assert not maximum.inside.dropna().any()


def test_comparison_is_paired_over_pairs_and_tells_the_seeds():
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=40)
    rows = [pd.DataFrame(dict(arm=arm, seed=seed, pair=range(40), VIF=pairs + base + by_seed * seed))
            for arm, base, by_seed, seeds in (("CMI-Fusion", 0.5, 0.1, (1, 2, 3)), ("without text", 0.2, 0, (1, 2, 3)),
                                              ("pixel mean", 0.0, 0, (0,))) for seed in seeds]
    table = pd.concat(rows)
    table.loc[table.pair == 7, "VIF"] = np.nan
    found = study.compare(table, "VIF").set_index("arm")
    assert list(found.index) == ["CMI-Fusion", "without text", "pixel mean"]
    assert found.difference["without text"] == pytest.approx(0.5)
    assert found.difference_low["without text"] == pytest.approx(0.5), "pairs move together"
    assert (found.seeds_low["without text"], found.seeds_high["without text"]) == pytest.approx((0.4, 0.6))
    assert found.seeds_low["pixel mean"] == pytest.approx(0.6) and found.difference["CMI-Fusion"] == 0


def test_controls_tell_what_they_name(some):
    texts: Texts = some.texts
    true = study.said("own sentence", texts, 6)
    assert {family for family, _ in true["heat"]} == {"heat"} and len(true["texture"]) == 6
    assert study.said("opposite sentence", texts, 6) == dict(heat=true["texture"], texture=true["heat"])
    mixed = study.said("of another pair", texts, 6)
    assert sorted(mixed["heat"] + mixed["texture"]) == sorted(true["heat"] + true["texture"]) and mixed != true
    same = study.said("one sentence for all", texts, 6)
    assert len(set(same["heat"] + same["texture"])) == 1
    assert {number for _, number in study.said("no sentence", texts, 6)["heat"]} == {-1}
    assert {texts.sentences[f][k] for f, k in study.said("a caption", texts, 6)["heat"]} <= set(some.test.captions)
    assert {family for family, _ in study.said("nonsense words", texts, 6)["heat"]} == {"foreign"}
    with pytest.raises(ValueError, match="no control 'silence'; there are own sentence, no sentence"):
        study.said("silence", texts, 6)


def test_controls_judge_every_model(some):
    model = Obeys(some.texts.told["heat"]["pooled"])
    found = study.controls({1: model, 2: model}, some)
    assert found.groupby("control").size().to_dict() == dict.fromkeys(
        [*study.CONTROLS, "brighten, asked", "brighten, not asked", "denoise, asked", "denoise, not asked"], 12)
    mean = found.groupby("control")[["response", "error", "change", "psnr"]].mean()
    assert mean.response["own sentence"] > 0 and mean.response["one sentence for all"] == 0
    assert mean.response["opposite sentence"] == pytest.approx(-mean.response["own sentence"])
    assert mean.change["no sentence"] == 0 == mean.change["nonsense words"] < mean.change["own sentence"]
    assert mean.psnr["denoise, asked"] == pytest.approx(mean.psnr["denoise, not asked"]), "it hears heat only"
    assert 10 < mean.psnr["denoise, asked"] < 50
    one, two = (study.degraded("denoise", *study.stacked(some.test)[:2]) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
