"""SA-CMF: the properties that the corrected method claims, and the published arithmetic's lack of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmf.copula import ksg_mutual_information
from cmf.copula.differentiable import gumbel_mi
from cmf.methods.sacmf import (
    SACMF,
    Config,
    PublishedSACMF,
    TokenInformation,
    ToNormal,
    criterion,
    published_criterion,
    published_importance,
)
from cmf.training import Recipe, Tensors, fit

CONFIG = Config(classes=2, image=(("a", 2, 3),), sequence=(("b", 2, 3),), width=16, heads=2, dropout=0.0,
                memory=256, refit=2, withheld=0.25)


def built(n=512, copied=False, seed=0):
    """Two classes. Token 0 of the image shows one noisy sign of the class; token 0 of the sequence shows an
    independent one, or, when `copied`, the very same numbers. The other tokens are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    a, b = rng.normal(size=(2, n, 2, 3)).astype(np.float32)
    a[:, 0, 0] += 1.5 * (2 * labels - 1)
    b[:, 0, 0] += 1.5 * (2 * labels - 1)
    if copied:
        b[:, 0] = a[:, 0]
    return Tensors(a=torch.from_numpy(a), b=torch.from_numpy(b), labels=torch.from_numpy(labels))


def trained(data, config=CONFIG, epochs=12, seed=0, **weights):
    torch.manual_seed(seed)
    model = SACMF(config).fit_inputs(data.columns)
    fit(model, data, criterion(model, **weights), Recipe(epochs=epochs, batch=64, lr=3e-3, seed=seed))
    return model


@pytest.fixture(scope="module")
def model():
    return trained(built())


def outputs(model, data, **presence):
    with torch.no_grad():
        return model(data.columns | presence)


def test_withheld_rows_are_copies_without_one_modality():
    data = built(64)
    model = SACMF(replace(CONFIG, withheld=0.5)).fit_inputs(data.columns)
    found = model.train()(data.columns)
    row, copies = found["row"], len(found["row"]) - 64
    assert 16 < copies < 48 and torch.equal(row[:64], torch.arange(64)) and len(row[64:].unique()) == copies
    assert found["complete"][:64].all() and not found["complete"][64:].any()
    terms = criterion(model)(found, data.columns)
    assert 0 < terms["consistency"] < 2
    (slope,) = torch.autograd.grad(terms["consistency"], model.fuse[1].weight)
    assert slope.abs().sum() > 0
    assert len(model.eval()(data.columns)["row"]) == 64, "nothing is withheld outside training"


@pytest.mark.gpu
def test_learns_from_both_modalities(model):
    test = built(seed=1)
    right = lambda **k: (outputs(model, test, **k)["logits"].argmax(1) == test.columns["labels"]).float().mean()
    none = torch.zeros(len(test), dtype=torch.bool)
    assert right() > 0.93
    assert 0.8 < right(has_image=none) < right() and 0.8 < right(has_sequence=none) < right()


def test_a_sample_does_not_depend_on_its_batch(model):
    test = built(64, seed=2)
    whole = outputs(model, test)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = outputs(model, test.subset(order))
    for name in ("logits", "importance", "pointwise"):
        torch.testing.assert_close(shuffled[name], whole[name][order], rtol=0, atol=5e-6)
        alone = torch.cat([outputs(model, test.subset([i]))[name] for i in range(8)])
        torch.testing.assert_close(alone, whole[name][:8], rtol=0, atol=5e-6)


def test_importance_is_normalised_and_attention_rows_sum_to_one(model):
    found = outputs(model, built(32, seed=3))
    torch.testing.assert_close(found["importance"].mean(1), torch.ones(32))
    torch.testing.assert_close(found["attention"].sum(-1), torch.ones(32, 2, 2))
    assert (found["information"] >= 0).all()


def test_missing_modality_gets_no_weight_and_is_not_read(model):
    test = built(16, seed=4)
    none = torch.zeros(16, dtype=torch.bool)
    found = outputs(model, test, has_sequence=none)
    assert (found["importance"][:, 2:] == 0).all()
    other = Tensors(**test.columns | dict(b=torch.randn(16, 2, 3)))
    torch.testing.assert_close(found["logits"], outputs(model, other, has_sequence=none)["logits"])
    with pytest.raises(ValueError, match="neither image nor sequence; remove it"):
        outputs(model, test, has_image=none, has_sequence=none)


def direct(copied):
    """Train TokenInformation alone on fixed tokens, so that nothing else can move the importances."""
    data = built(2048, copied)
    torch.manual_seed(0)
    layer = TokenInformation(2, 2, replace(CONFIG, width=3, memory=1024))
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    for step in range(150):
        batch = data.subset(np.random.default_rng(step).choice(2048, 128))
        found = layer(batch.columns["a"], batch.columns["b"], torch.ones(128, 4, dtype=torch.bool))
        loss = layer.judge(found["probe"], batch.columns["labels"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    layer.eval()
    with torch.no_grad():
        test = built(512, copied, seed=9).columns
        return layer(test["a"], test["b"], torch.ones(512, 4, dtype=torch.bool)), layer


def test_importance_of_a_copied_token_falls_and_of_an_independent_one_stays():
    independent, layer = direct(copied=False)
    copied, _ = direct(copied=True)
    mean = lambda found: found["importance"].mean(0)
    assert layer.relevance[0] > 5 * layer.relevance[1]
    assert mean(independent)[0] > 1.2 and mean(independent)[2] > 1.2        # informative tokens keep their weight
    assert mean(copied)[0] < 0.7 * mean(independent)[0]                     # a repeated one loses it
    assert mean(copied)[2] < 0.7 * mean(independent)[2]
    assert copied["information"][0, 0] > 1.0 > 0.5 > independent["information"][0, 0]


def test_information_loss_has_a_gradient_and_descending_it_lowers_an_independent_estimate():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(600, 1))
    weight = np.array([2.0, 0.0, -1.0, 0.0])
    make = lambda: torch.from_numpy((weight * common + 0.5 * rng.normal(size=(600, 4))).astype(np.float32))
    x, y = make(), make()
    torch.manual_seed(0)
    # the loss acts on the encoders; the directions that read the scalars stand still
    encoder = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
    for layer in encoder:
        torch.nn.init.eye_(layer.weight)
    information = TokenInformation(1, 1, replace(CONFIG, width=4, memory=0, refit=1))
    information.direction.data[:] = torch.tensor([[2.0, 1.0, -1.0, 0.5]])
    present = torch.ones(600, 2, dtype=torch.bool)
    forward = lambda: information(encoder[0](x)[:, None], encoder[1](y)[:, None], present)

    def measured():
        with torch.no_grad():
            normal = [information.norm(layer(z)) @ information.direction[0]
                      for layer, z in zip(encoder, (x, y), strict=True)]
        return ksg_mutual_information(*(z.double().numpy() for z in normal))

    forward()
    before = measured()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.01)
    for _ in range(60):
        loss = forward()["pointwise"].mean(0).clamp_min(0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    first = torch.autograd.grad(forward()["pointwise"].mean(), encoder[0].weight)[0]
    assert torch.isfinite(first).all()
    assert before > 0.15 and measured() < 0.5 * before


def test_rotation_sees_negative_dependence_and_without_it_nothing_is_seen():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 1, 3)).astype(np.float32)
    tokens = torch.from_numpy(x), torch.from_numpy(-x)
    found = {}
    for rotation in (True, False):
        torch.manual_seed(0)
        layer = TokenInformation(1, 1, replace(CONFIG, width=3, rotation=rotation, memory=0))
        layer.direction.data[:] = 1.0
        layer.direction.data[:, 0] = -2.0
        layer(*tokens, torch.ones(800, 2, dtype=torch.bool))
        found[rotation] = float(gumbel_mi(layer.theta))
    assert found[True] > 1.0 and found[False] < 0.01


def test_tables_and_copulas_travel_with_the_weights(model):
    twin = SACMF(CONFIG)
    twin.load_state_dict(model.state_dict())
    test = built(16, seed=5)
    torch.testing.assert_close(outputs(twin.eval(), test)["logits"], outputs(model, test)["logits"])


def test_one_modality_arms_do_not_read_the_other():
    test = built(32, seed=6)
    config = replace(CONFIG, modalities=("image",), information=False, weighting="uniform", cross=False)
    model = trained(built(), config, epochs=3, similarity=0.0, information=0.0)
    changed = Tensors(**test.columns | dict(b=torch.randn(32, 2, 3)))
    torch.testing.assert_close(outputs(model, test)["logits"], outputs(model, changed)["logits"])


def test_wide_sources_reach_the_logits_directly():
    config = replace(CONFIG, wide=("a",))
    model = trained(built(), config, epochs=2)
    test = built(8, seed=7)
    without = outputs(model, test, has_image=torch.zeros(8, dtype=torch.bool))
    assert model.wide.weight.shape == (2, 6) and torch.isfinite(without["logits"]).all()


def test_to_normal_maps_skewed_inputs_and_zeroes_constants():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(np.stack([rng.lognormal(3, 2, 2000), np.full(2000, 7.0)], -1).astype(np.float32))[:, None]
    layer = ToNormal(2)
    layer.fit(x)
    z = layer(x)
    assert abs(float(z[..., 0].mean())) < 0.02 and abs(float(z[..., 0].std()) - 1) < 0.03
    assert (z[..., 1] == 0).all()


@pytest.mark.parametrize(("change", "words"), [
    (dict(weighting="loud"), "one of copula, published, uniform, got 'loud'"),
    (dict(modalities=()), r"some of \('image', 'sequence'\), got \(\)"),
    (dict(modalities=("image",)), "needs two of them"),
    (dict(information=False), "weighting by copulas needs information=True"),
])
def test_configurations_that_make_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **change)


def published_batch(n=6):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return dict(pooled=draw(n, 2, 2048), grey=draw(n, 3), difference=draw(n, 1), flat=draw(n, 32),
                labels=torch.arange(n) % 6)


def test_published_network_runs_and_its_information_loss_has_no_gradient():
    torch.manual_seed(0)
    model = PublishedSACMF(6)
    batch = published_batch()
    terms = published_criterion(model(batch), batch)
    assert float(terms["information"]) == pytest.approx(1.0, abs=1e-5)
    assert not terms["information"].requires_grad
    terms["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(("tokens", "total"), [(2, -1.3778739589), (16, -73.845), (64, -1134.5)])
def test_published_information_is_one_constant_for_copies_and_for_strangers(tokens, total):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, tokens, 8, generator=generator, dtype=torch.float64)
    copies, strangers = published_importance(x, x)[2], published_importance(x, y)[2]
    torch.testing.assert_close(copies.sum((1, 2)), strangers.sum((1, 2)), rtol=1e-6, atol=0)
    assert float(copies[0].sum()) == pytest.approx(total, rel=1e-4)


def test_published_weights_cannot_tell_tokens_apart():
    image, _, _ = published_importance(torch.randn(50, 2, 8), torch.randn(50, 2, 8))
    weights = image.softmax(1)
    assert float(weights.min()) > 0.49 and float(weights.max()) < 0.51
