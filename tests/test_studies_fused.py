"""What is told of a trained CMI-Fusion: pairs, comparisons, answers to sentences, attention on words."""

from types import SimpleNamespace

import numpy as np
import pytest
import small_fusion as small

from cmf import catalogue
from cmf.datasets.pictures import Picture
from cmf.metrics import fusion
from cmf.simulate.prompts import prompts
from cmf.studies import fused

HEAT, TEXTURE = prompts("heat", "test"), prompts("texture", "test")
SIZE = (48, 64)


class Told:
    """In place of a Fuser: the maximum; asked for heat, warm pixels (infrared above a half) are 12 levels brighter and
    all others 1; asked for texture, warm pixels are 4 levels darker; other words change nothing."""

    def fuse(self, visible, infrared, prompt=""):
        warm = infrared > 0.5
        change = np.where(warm, 12, 1) if prompt in HEAT else np.where(warm, -4, 0) if prompt in TEXTURE else 0
        return SimpleNamespace(luma=np.maximum(visible, infrared) + change / np.float32(255))


def several(n=3, groups=("day", "night")):
    """Pairs of 48 x 64 whose warm pixels are known."""
    rng = np.random.default_rng(0)
    visible = [Picture(rng.uniform(0.1, 0.4, SIZE).astype(np.float32)) for _ in range(n)]
    infrared = [Picture(np.pad(np.full((10, 8), 0.8, np.float32), ((20, 18), (30 + k, 26 - k)), constant_values=0.2))
                for k in range(n)]
    return fused.Several([f"p{k}" for k in range(n)], [groups[k % len(groups)] for k in range(n)], visible, infrared,
                         [u.luma > 0.5 for u in infrared], ["two people walk"] * n)


@pytest.fixture(scope="module")
def streets():
    return fused.simulated(3, 2, SIZE, least=0.004)


def test_simulated_pairs_are_warm_sorted_and_the_same_again(streets):
    assert all(warm.mean() >= 0.004 for warm in streets.warm) and len(streets) == 3
    place = [fused.GROUPS.index(group) for group in streets.groups]
    assert place == sorted(place)
    assert all(v.luma.shape == u.luma.shape == SIZE and v.chroma.shape == (*SIZE, 2) and u.chroma is None
               for v, u in zip(streets.visible, streets.infrared, strict=True))
    again = fused.simulated(3, 2, SIZE, least=0.004)
    assert again.names == streets.names
    assert all(np.array_equal(a.luma, b.luma) for a, b in zip(again.visible, streets.visible, strict=True))


def test_too_few_warm_pairs_are_refused():
    with pytest.raises(ValueError, match=r"0 of 6 pairs are warm in a share of 0.9 or more, expected 1; ask for fewer"):
        fused.simulated(1, 2, SIZE, least=0.9)


def test_one_pair_of_each_light():
    found = fused.by_light(1, SIZE, of=2)
    assert tuple(found.groups) == fused.GROUPS and len(found) == 4


def test_real_pairs_are_test_pairs_spread_over_their_set():
    try:
        catalogue.find("infrared_visible"), catalogue.find("medical_pairs")
    except FileNotFoundError:
        pytest.skip("the packs infrared_visible and medical_pairs are not here; set CMF_DATA")
    from cmf.datasets import pairs

    found = fused.real(("roadscene", "ct-mri"), most=2)
    assert found.groups == ["RoadScene"] * 2 + ["CT-MRI"] * 2 and found.warm == [None] * 4
    tested = [pair.stem for pair in pairs.layout("roadscene", split="test")]
    assert found.names[:2] == [tested[0], tested[-1]]
    assert not set(tested) & {pair.stem for pair in pairs.layout("roadscene", split="train")}


def test_colours_and_grey_levels():
    grey = np.array([[0.0, 0.2], [0.5, 1.0]], np.float32)
    assert fused.rgb(grey).shape == (2, 2, 3) and np.array_equal(fused.rgb(Picture(grey))[..., 1], grey)
    red = fused.rgb(grey, np.broadcast_to(np.float32([0, 0.2]), (2, 2, 2)))
    assert red[1, 0, 0] > red[1, 0, 1]
    assert fused.levels([[0.1, 1.2]]).tolist() == [[26, 255]]


def test_methods_are_compared_on_the_same_pairs():
    some = several()
    rows = fused.compare(Told(), some, ("VIF", "SD", "Nabf"))
    assert rows.groupby("fused", sort=False).size().to_dict() == {
        "pixel mean": 3, "pixel maximum": 3, "Laplacian pyramid": 3, "CMI-Fusion": 3}
    ours, maximum = (rows[rows.fused == name].drop(columns="fused").reset_index(drop=True)
                     for name in ("CMI-Fusion", "pixel maximum"))
    assert ours.equals(maximum), "without a sentence the stand-in is the maximum"
    u, v = (np.rint(255 * some.__dict__[kind][1].luma.astype(float)) for kind in ("infrared", "visible"))
    assert ours.VIF[1] == fusion.evaluate(u, v, np.maximum(u, v), 255, ["VIF"])["VIF"]


def test_summary_is_by_group_and_over_all():
    rows = fused.compare(Told(), several(4), ("VIF", "SD", "Nabf"))
    means, ranks = fused.summary(rows)
    assert list(dict.fromkeys(means.group)) == ["day", "night", "all"]
    of = lambda group: means[(means.group == group) & (means.fused == "pixel mean") & (means.measure == "SD")].iloc[0]
    assert of("all").n == 4 and of("all")["mean"] == pytest.approx((of("day")["mean"] + of("night")["mean"]) / 2)
    assert "Nabf" not in ranks and {"VIF", "SD", "mean_rank"} <= set(ranks)
    assert (ranks.groupby("group").mean_rank.mean() == 2.5).all()
    one = fused.summary(fused.compare(Told(), several(2, ("day",)), ("SD",)))[0]
    assert set(one.group) == {"day"}, "one group is all there is"


def test_response_to_sentences_is_measured_inside_and_outside():
    rows = fused.respond(Told(), several(), seed=1)
    assert len(rows) == 3 * len(fused.COMPARED)
    assert set(rows[rows.compared == "heat against texture"].sentence) <= set(HEAT)
    found = fused.response(rows).set_index("compared")
    assert found.inside.round(3).to_dict() == {
        "heat against texture": 16, "heat against balanced": 12, "texture against balanced": -4,
        "caption against balanced": 0, "unknown words against balanced": 0}
    assert found.outside.round(3).tolist() == [1, 1, 0, 0, 0] and (found.low <= found.inside).all()
    assert found["share"][:3].tolist() == [1, 1, 1] and found["share"][3:].isna().all()
    assert rows.equals(fused.respond(Told(), several(), seed=1))


def test_response_needs_warm_pixels():
    some = several()
    some.warm[1] = None
    with pytest.raises(ValueError, match="1 of 3 pairs have no pixels that are known to be warm, first p1; take"):
        fused.respond(Told(), some)
    some.warm[1] = np.zeros(SIZE, bool)
    with pytest.raises(ValueError, match="1 of 3 pairs have no pixels that are known to be warm"):
        fused.respond(Told(), some)


def test_answers_are_to_pairs_with_the_fault_that_is_spoken_of():
    some = several()
    v, u = some.visible[0].luma, some.infrared[0].luma
    got = {family: fused.answer(Told(), v, u, family, seed=3) for family in ("heat", "texture", "brighten", "denoise")}
    assert all(one.sentence in prompts(family, "test") for family, one in got.items())
    assert all(np.array_equal(one.wanted, np.maximum(v, u)) for one in got.values())
    assert np.array_equal(got["heat"].visible, v) and got["heat"].told.mean() > got["heat"].balanced.mean()
    assert got["brighten"].visible.mean() < v.mean() and np.array_equal(got["brighten"].infrared, u)
    assert 3 / 255 < (got["denoise"].infrared - u).std() < 26 / 255
    with pytest.raises(ValueError, match="family 'balanced': expected one that asks for something, heat, texture"):
        fused.answer(Told(), v, u, "balanced")


def test_repair_is_the_distance_from_the_pair_without_fault():
    rows = fused.repair(Told(), several(2), seed=1)
    assert rows.family.tolist() == ["brighten", "denoise"] * 2
    assert (rows.balanced == rows.told).all() and (rows.balanced > 1).all(), "the stand-in repairs nothing"


def test_attention_is_over_words_and_the_null_word(tmp_path):
    fuser = small.fuser(tmp_path)
    v, u = (plane.astype(np.float32) / 255 for plane in small.pair(50, 66))
    words, seen = fused.attention(fuser, v[..., 1], u, "two red cars cd")
    assert words == ("(null)", "two", "red", "cars", "cd"), "a word of letters is one word"
    assert seen.shape == (5, 13, 17) and np.allclose(seen.sum(0), 1, atol=1e-5) and (seen > 0).all()
    with pytest.raises(ValueError, match="the sentence ' ' has no words, expected one or more"):
        fused.attention(fuser, v[..., 1], u, " ")
