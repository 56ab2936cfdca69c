"""Training of CMI-Fusion: its loss, and that the same network comes out twice."""

from dataclasses import replace
from functools import partial

import pytest
import small_asked as small
import torch
from small_asked import SIDE, pictures
from small_fusion import SHAPE

from cmf import weights
from cmf.methods.cmi_fusion import CMIFusion
from cmf.studies import asked, fusion
from cmf.studies.asked import Asked, Texts
from cmf.studies.fusion import WEIGHTS, Criterion
from cmf.training import Recipe

RECIPE = Recipe(epochs=3, batch=4, lr=5e-3, seed=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return small.encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def texts(encoder):
    return Texts(encoder, "train", pictures().captions, each=12)


@pytest.fixture(scope="module")
def data(texts):
    return Asked(pictures(), texts, SIDE, rounds=4)


def network(seed=0, **change):
    torch.manual_seed(seed)
    return CMIFusion(replace(SHAPE, **change))


def untrained(data, **change):
    batch = data.__getitems__(list(range(4)))
    return network(**change).fit_text(data.texts.all())(batch), batch


def test_the_terms_add_up(data):
    outputs, batch = untrained(data)
    found = Criterion()(outputs, batch)
    assert set(found) == {"loss", *WEIGHTS}
    torch.testing.assert_close(found["loss"], sum(WEIGHTS[name] * found[name] for name in WEIGHTS))
    assert all(value.isfinite() and value.ndim == 0 for value in found.values())
    assert found["loss"].requires_grad and found["calm"] == 0, "without the network nothing is calm"


def test_a_weight_of_zero_leaves_a_term_out(data):
    outputs, batch = untrained(data)
    found = Criterion(WEIGHTS | dict(information=0.0, asked=0.0))(outputs, batch)
    assert not {"information", "asked"} & set(found) and "gradient" in found
    assert set(Criterion(dict(gradient=2.0))(outputs, batch)) == {"loss", "gradient"}


def test_a_network_without_text_need_not_understand(data):
    outputs, batch = untrained(data, text="none")
    found = Criterion(network=network(text="none"))(outputs, batch)
    assert found["understood"] == found["calm"] == 0 and set(found) == {"loss", *WEIGHTS}


def test_an_unknown_term_is_refused():
    with pytest.raises(ValueError, match=r"no loss term \['colour'\]; there are intensity, gradient, similarity"):
        Criterion(dict(colour=1.0))


def test_what_lies_beyond_white_costs(data):
    outputs, batch = untrained(data)
    outputs["unclamped"] = outputs["unclamped"] + 1
    assert Criterion()(outputs, batch)["range"] > 0.3


def test_where_heat_is_asked_for_the_sources_do_not_count(texts):
    """Inside warm things the target of the sentence alone is compared, outside the sources alone."""
    data = Asked(pictures(), texts, SIDE, rounds=2, shares=(1, 0, 0, 0))
    outputs, batch = untrained(data)
    batch["warm"] = (batch["warm"] > 0.5).float()
    outputs["unclamped"] = batch["wanted"] * batch["warm"] + (1 - batch["warm"]) * torch.maximum(
        batch["source_infrared"], batch["source_visible"])
    found = Criterion()(outputs, batch)
    assert found["asked"] == 0 and found["intensity"] == 0


def test_outside_warm_things_a_sentence_is_to_change_nothing(texts):
    """Calm is the distance there from what the same network gives without a sentence."""
    data = Asked(pictures(), texts, SIDE, rounds=2, shares=(1, 0, 0, 0))
    batch, net = data.__getitems__([0, 1, 2, 3]), network()
    for name, value in net.named_parameters():
        if name.startswith("head.4") or ".film." in name:
            torch.nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(1))
    outputs = net(batch)
    silent = net(batch | dict(text_mask=torch.zeros_like(batch["text_mask"])))["unclamped"]
    cold = 1 - batch["warm"]
    expected = (cold * (outputs["unclamped"] - silent).abs()).sum() / cold.sum()
    found = Criterion(network=net)(outputs, batch)["calm"]
    torch.testing.assert_close(found, expected)
    assert found > 1e-4 and Criterion(network=net)(dict(outputs, unclamped=silent), batch)["calm"] < 1e-6
    batch["warm"] = torch.zeros_like(batch["warm"])
    everywhere = Criterion(network=net)(outputs, batch)["calm"]
    torch.testing.assert_close(everywhere, (outputs["unclamped"] - silent).abs().mean())
    quiet = batch | dict(text_mask=torch.zeros_like(batch["text_mask"]))
    assert Criterion(network=net)(net(quiet), quiet)["calm"] == 0, "nothing is said"


def test_where_repair_is_asked_for_the_pair_without_fault_is_the_target(texts):
    """The network's own silent answer to it; no source counts then."""
    data = Asked(pictures(), texts, SIDE, rounds=2, shares=(0, 0, 0.5, 0.5))
    batch, net = data.__getitems__([0, 1, 2, 3]), network()
    torch.nn.init.normal_(net.head[-1].weight, std=0.3, generator=torch.Generator().manual_seed(1))
    outputs = net(batch)
    clean = dict(visible=batch["source_visible"], infrared=batch["source_infrared"], text=batch["text"])
    silent = net(clean | dict(text_mask=torch.zeros_like(batch["text_mask"])))["unclamped"]
    found = Criterion(network=net)(outputs, batch)
    torch.testing.assert_close(found["repaired"], (outputs["unclamped"] - silent).abs().mean())
    assert found["repaired"] > 0.01 and found["understood"] > 0 and set(found) == {"loss", *WEIGHTS}
    assert all(found[name] == 0 for name in set(WEIGHTS) - {"repaired", "understood", "range"})


def test_sources_with_a_fault_do_not_count_beside_others(texts, data):
    """A batch of both has the terms of its faultless half."""
    faulty = Asked(pictures(), texts, SIDE, rounds=2, shares=(0, 0, 0, 1)).__getitems__([0, 1])
    plain = Asked(pictures(), texts, SIDE, rounds=2, shares=(0, 0, 0, 0)).__getitems__([0, 1])
    both = {name: torch.cat([faulty[name], plain[name]]) for name in plain if not name.startswith("text")}
    outputs = dict(unclamped=both["visible"] ** 1.1, understood=torch.zeros(4, 5))
    alone = Criterion()(dict(unclamped=outputs["unclamped"][2:], understood=torch.zeros(2, 5)), plain)
    found = Criterion()(outputs, both)
    for name in ("gradient", "information", "beyond", "artefacts"):
        torch.testing.assert_close(found[name], alone[name])


def test_a_few_epochs_lower_the_loss_and_two_runs_are_equal(data, texts):
    held = Asked(pictures(2), texts, SIDE, seed=1)
    results, fused = [], []
    for _ in range(2):
        net = network()
        results.append(fusion.train(net, data, held, RECIPE))
        with torch.no_grad():
            fused.append(net(held.__getitems__([0, 1]))["fused"])
    history = results[0].history
    assert history.loss.iloc[-1] < 0.98 * history.loss.iloc[0] and results[0].best_score < 0
    assert history.drop(columns="seconds").equals(results[1].history.drop(columns="seconds"))
    assert torch.equal(*fused)
    assert results[0].best_score == history.score.max()


def test_training_takes_the_scale_of_the_sentences(data, texts):
    net = network()
    fusion.train(net, data, Asked(pictures(1), texts, SIDE), replace(RECIPE, epochs=1))
    words = texts.all()
    torch.testing.assert_close(net.words.centre, words["text"][words["text_mask"]].mean(0))


def test_a_network_learns_to_read_before_it_sees_a_picture(texts):
    results = []
    for _ in range(2):
        net = network()
        seen = {name: value.clone() for name, value in net.state_dict().items()}
        results.append((fusion.learn_to_read(net, texts, rounds=30, lr=5e-3), net.state_dict()))
        changed = {name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, seen[name])}
        assert changed == {"words", "understood"}
    assert results[0][0] == results[1][0] > 0.7
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


def test_ready_weights_need_the_real_pairs(monkeypatch, tmp_path):
    for name in ("CMF_DATA", "CMF_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="infrared_visible(.|\n)*obtain"):
        fusion.ready(tmp_path / "w.safetensors")
    assert not list(tmp_path.rglob("*.safetensors")), "nothing is trained without them"


def test_ready_weights_say_what_they_are(monkeypatch, tmp_path, encoder):
    monkeypatch.setattr(asked, "real", lambda *names: pictures(2, 136, 140))
    monkeypatch.setattr(asked, "simulated", lambda n, split, seed: pictures(n, 136, 140))
    monkeypatch.setattr(fusion, "CLIP", lambda *arguments, **options: encoder)
    monkeypatch.setattr(fusion, "CMIFusion", network)
    monkeypatch.setattr(fusion, "Texts", partial(Texts, each=12))
    small = dict(simulated_pairs=1, rounds=1, recipe=replace(RECIPE, epochs=1, batch=2))
    result = fusion.ready(tmp_path / "w.safetensors", start=None, **small)
    again = fusion.ready(tmp_path / "v.safetensors", start=tmp_path / "w.safetensors", **small)
    assert again.best_score > result.best_score, "it goes on from there"
    with pytest.raises(FileNotFoundError, match="no weights at .*absent"):
        fusion.ready(tmp_path / "v.safetensors", start=tmp_path / "absent.safetensors", **small)
    facts = weights.facts(tmp_path / "w.safetensors")
    assert facts["architecture"] == "CMIFusion" and facts["text_encoder"] == encoder.fingerprint()
    assert facts["data"].startswith("2 real pairs (roadscene, msrs, tno") and "and 1 simulated" in facts["data"]
    assert float(facts["validation_loss"]) == pytest.approx(-result.best_score, abs=1e-4)
