"""Equations of the paper on SA-CMF and its experiments: test_eq_<label> holds the equation labelled eq:<label>.

The right-hand sides are written out as they are printed and compared with the package.
Axes: B samples, T tokens of both modalities (3 of the image, 2 of the sequence), d width.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cmf import copula


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")

def published(torch, tokens, seed=0):
    from cmf.methods import sacmf

    image, sequence = torch.randn(2, 3, tokens, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return image, sequence, *sacmf.published_importance(image, sequence)


def ranks(x):
    return stats.rankdata(x.mean(-1).numpy(), axis=1) / (x.shape[1] + 1)


def published_map(image, sequence):
    c = copula.gumbel_cdf(ranks(image)[:, :, None], ranks(sequence)[:, None, :], 2.0)
    return c * np.log(c)


def test_eq_published_rank(torch):
    image, *_ = published(torch, 2)
    assert np.allclose(np.sort(ranks(image), axis=1), [1 / 3, 2 / 3])


def test_eq_published_map(torch):
    image, sequence, *_, found = published(torch, 4)
    assert np.allclose(found, published_map(image, sequence), rtol=1e-5) and (found < 0).all()


def test_eq_published_share(torch):
    image, sequence, alpha, beta, _ = published(torch, 4)
    m = published_map(image, sequence)
    total = 1e-6 + m.sum((1, 2))[:, None]
    assert np.allclose(alpha, m.sum(2) / total) and np.allclose(beta, m.sum(1) / total)


def published_network(torch):
    from cmf.methods import sacmf

    torch.manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    network = sacmf.PublishedSACMF(3, length=8, pooled=6).eval()
    batch = dict(pooled=draw(5, 2, 6), grey=draw(5, 3), difference=draw(5, 1), flat=draw(5, 8),
                 labels=torch.tensor([0, 1, 2, 0, 1]))
    return sacmf, network, batch


def test_eq_published_fusion(torch):
    _, network, batch = published_network(torch)
    kept = {}
    network.cross.register_forward_hook(lambda _, inputs, out: kept.update(x=inputs[0], y=inputs[1], cross=out[0]))
    out = network(batch)
    z = 0.3 * kept["cross"] + 0.7 * (out["share_image"].softmax(1)[..., None] * kept["x"]
                                     + out["share_sequence"].softmax(1)[..., None] * kept["y"])
    assert torch.allclose(out["fused"], z.mean(1), atol=1e-6)


def test_eq_published_loss(torch):
    from cmf.losses import hard_negative_hinge

    sacmf, network, batch = published_network(torch)
    out = network(batch)
    expected = (torch.nn.functional.cross_entropy(out["logits"], batch["labels"])
                + 0.01 * hard_negative_hinge(out["image"], out["sequence"])
                + 0.01 * (out["share_image"].mean() + out["share_sequence"].mean()))
    assert torch.allclose(sacmf.published_criterion(out, batch)["loss"], expected)


def test_eq_published_constant(torch):
    for tokens in (2, 5):
        for seed in (0, 1):
            *_, alpha, _, m = published(torch, tokens, seed)
            total = m.sum((1, 2))
            assert np.allclose(alpha.mean(1), total / (total + 1e-6) / tokens, rtol=1e-5)
            assert np.ptp(total.numpy()) < 1e-6 * abs(float(total[0]))


def model(torch, **more):
    from cmf.methods import sacmf

    torch.manual_seed(0)
    config = sacmf.Config(classes=3, image=(("cells", 3, 5),), sequence=(("steps", 2, 4),), width=8, heads=2, **more)
    network = sacmf.SACMF(config)
    draw = torch.Generator().manual_seed(1)
    batch = dict(cells=torch.randn(40, 3, 5, generator=draw), steps=torch.randn(40, 2, 4, generator=draw),
                 labels=torch.arange(40) % 3)
    network.fit_inputs(batch)
    token = network.copula
    token.table.fit(torch.randn(300, 5, generator=draw))
    token.theta.copy_(1 + torch.rand(3, 2, generator=draw))
    token.rotated.copy_(torch.tensor([[0, 90], [180, 270], [0, 0]]))
    token.relevance.copy_(torch.rand(5, generator=draw))
    return sacmf, network.eval(), batch


def captured(network):
    """What enters the copula module and what leaves the attention blocks."""
    kept = {}
    network.copula.register_forward_hook(lambda _, inputs, out: kept.update(tokens=inputs[:2], copula=out))
    network.across["image"].register_forward_hook(lambda _, inputs, out: kept.update(image=out[0]))
    return kept


def test_eq_stretch():
    from cmf.encoders.features import stretch

    x = np.random.default_rng(0).normal(100, 5, (1, 1, 16, 16))
    middle = np.median(x)
    z = (x - middle) / (1.4826 * np.median(abs(x - middle)))
    g = (np.arcsinh(z) - np.arcsinh(-3)) / (np.arcsinh(100) - np.arcsinh(-3))
    assert np.allclose(stretch(x), np.clip(g, 0, 1), atol=1e-6)


def test_eq_attention(torch):
    from cmf.blocks.attention import Attention

    torch.manual_seed(0)
    layer, q, k = Attention(4, 1), torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    key, value = layer.key_value(k).chunk(2, -1)
    expected = (layer.query(q) @ key.mT / 4**0.5).softmax(-1) @ value
    assert torch.allclose(layer(q, k)[0], layer.out(expected), atol=1e-6)


def test_eq_scalar(torch):
    _, network, batch = model(torch)
    kept = captured(network)
    network(batch)
    tokens = torch.cat(kept["tokens"], 1)
    scalars = (torch.nn.functional.layer_norm(tokens, (8,)) * network.copula.direction).sum(-1)
    u, v = network.copula.table(scalars).split([3, 2], 1)
    expected = copula.gumbel_logpdf(u[:, 0].detach().double(), v[:, 0].detach().double(),
                                    float(network.copula.theta[0, 0]))
    assert np.allclose(kept["copula"]["pointwise"][:, 0, 0].detach(), expected, atol=1e-4)


def test_eq_soft_ecdf(torch):
    from cmf.copula.soft_ranks import soft_ecdf

    r, s = torch.randn(2, 30, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    below, up_to = (r.T < s).double().sum(1), (r.T <= s).double().sum(1)
    assert torch.allclose(soft_ecdf(s, r)[:, 0], (below + up_to + 1) / (2 * (30 + 1)))
    assert np.allclose(soft_ecdf(r, r)[:, 0], copula.ecdf(r[:, 0].numpy()))


def test_eq_soft_gradient(torch):
    from cmf.copula.soft_ranks import soft_ecdf

    r, s = torch.randn(2, 30, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s.requires_grad_()
    soft_ecdf(s, r, bandwidth=0.5).sum().backward()
    h = 0.5 * r.std(correction=0)
    kernel = torch.exp(-0.5 * ((s - r.T) / h) ** 2) / (2 * torch.pi) ** 0.5
    assert torch.allclose(s.grad[:, 0], kernel.sum(1) / ((30 + 1) * h))


def test_eq_relevance(torch):
    _, network, batch = model(torch)
    probe = 2 * torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(2))
    probe[torch.arange(40), :2, batch["labels"]] += 4.0
    network.copula.relevance.zero_()
    network.copula.judge(probe, batch["labels"])
    share = torch.bincount(batch["labels"]) / 40
    losses = torch.stack([torch.nn.functional.cross_entropy(probe[:, i], batch["labels"]) for i in range(5)])
    expected = (-(share * share.log()).sum() - losses).clamp_min(0)
    assert torch.allclose(network.copula.relevance, expected, atol=1e-6) and expected[0] > 0 == expected[2]


def redundancy(torch, out):
    information, pointwise = out["information"], out["pointwise"].clamp(-2, 2)
    rows = [0.5 * (information[i, j] + pointwise[:, i, j]) for i, j in enumerate(information.argmax(1))]
    columns = [0.5 * (information[i, j] + pointwise[:, i, j]) for j, i in enumerate(information.argmax(0))]
    return torch.stack(rows + columns, 1)


def test_eq_redundancy(torch):
    """Importance falls with redundancy alone when all tokens are equally relevant."""
    _, network, batch = model(torch)
    network.copula.relevance.zero_()
    out = network(batch)
    log = out["importance"].log()
    delta = redundancy(torch, out) / network.config.temperature
    assert torch.allclose(log - log.mean(1, keepdim=True), delta.mean(1, keepdim=True) - delta, atol=1e-4)


def test_eq_importance(torch):
    _, network, batch = model(torch)
    out = network(batch)
    score = (network.copula.relevance - redundancy(torch, out)) / network.config.temperature
    assert torch.allclose(out["importance"], 5 * score.softmax(1), atol=1e-5)
    assert torch.allclose(out["importance"].mean(1), torch.ones(40))


def test_eq_pool(torch):
    _, network, batch = model(torch)
    kept = captured(network)
    out = network(batch)
    assert torch.allclose(out["image"], (out["importance"][:, :3, None] * kept["image"]).mean(1), atol=1e-5)


def test_eq_hinge(torch):
    from cmf.losses import hard_negative_hinge

    f, g = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels, s, total = torch.tensor([0, 0, 1, 1, 2, 2]), f @ g.T, 0.0
    for i in range(6):
        others = (labels != labels[i]).nonzero()[:, 0]
        total += max(0, 0.3 - s[i, i] + s[i, others].max()) + max(0, 0.3 - s[i, i] + s[others, i].max())
    assert torch.isclose(hard_negative_hinge(f, g, labels, 0.3), torch.as_tensor(total / 6))


def losses(torch, **weights):
    sacmf, network, batch = model(torch)
    out = network(batch)
    return out, sacmf.criterion(network, **weights)(out, batch)


def test_eq_mi_loss(torch):
    out, terms = losses(torch)
    assert torch.allclose(terms["information"], out["pointwise"].mean(0).clamp_min(0).mean())


def doubled(torch, **weights):
    """Outputs and losses of a batch in training, where some samples are shown again without one modality."""
    sacmf, network, batch = model(torch)
    network.train()
    network.config = replace(network.config, withheld=0.5)
    out = network(batch)
    return out, sacmf.criterion(network, **weights)(out, batch), len(batch["labels"])


def test_eq_consistency(torch):
    out, terms, n = doubled(torch)
    z, total = out["fused"], 0.0
    copies = range(n, len(z))
    assert len(copies) > 0
    for b in copies:
        original = z[out["row"][b]]
        total += 1 - (z[b] @ original) / (z[b].norm() * original.norm())
    assert torch.allclose(terms["consistency"], total / len(copies), atol=1e-5)


def test_eq_loss(torch):
    _, terms, _ = doubled(torch, similarity=0.2, information=0.7, consistency=0.4)
    expected = (terms["classification"] + terms["probe"] + 0.2 * terms["similarity"] + 0.7 * terms["information"]
                + 0.4 * terms["consistency"])
    assert torch.allclose(terms["loss"], expected)


def test_eq_heat():
    """In steady sunlight the simulated temperature reaches the one at which the balance is zero."""
    from cmf.simulate import deepspace_physics as physics

    bodies = physics.draw_bodies(np.zeros(4, int), np.random.default_rng(0))
    passage = physics.Passage(altitude=np.full(4, 1000.0), entry=np.full(4, 1e9), exit=np.full(4, 2e9))
    times = np.tile([1e4, 1.2e4], (4, 1))
    found = physics.temperatures(bodies, passage, times)
    loss = bodies.emissivity * physics.STEFAN * found[:, 1] ** 4
    assert np.allclose(passage.heat(bodies, 1.2e4), loss, rtol=1e-3)


def test_eq_flux():
    from cmf.simulate.deepspace import simulate_targets
    from cmf.simulate.deepspace_physics import band_radiance

    truth = simulate_targets(60, seed=2).truth
    spheres = np.flatnonzero(np.ptp(truth["sides"], axis=1) == 0)  # their projected area does not change
    expected = (truth["emissivity"] * truth["area"][:, 0] / truth["range"] ** 2
                * band_radiance(truth["frame_temperature"][:, 0]))[spheres]
    ratio = truth["flux"][spheres, 0] / expected
    assert len(spheres) > 10 and np.ptp(ratio) < 1e-9 * ratio.mean()
    wavelength = np.linspace(8e-6, 12e-6, 20001)
    planck = (2 * 6.62607015e-34 * 299792458.0**2 / wavelength**5
              / np.expm1(6.62607015e-34 * 299792458.0 / (wavelength * 1.380649e-23 * 300)))
    assert np.isclose(band_radiance(300.0), np.trapezoid(planck, wavelength), rtol=1e-6)


def test_eq_rmm():
    from cmf.metrics.recognition import robustness_missing

    p = np.array([[0.8, 0.2], [0.3, 0.7], [0.9, 0.1]])
    q = np.array([[0.6, 0.4], [0.6, 0.4], [0.7, 0.3]])
    f, g = np.eye(3), np.array([[1.0, 0, 0], [0, 1, 1], [-1, 0, 0]])
    expected = 0.4 * (2 / 3) + 0.3 * (1.9 / 2.4) + 0.3 * (1 + 2**-0.5 + 0) / 3
    assert np.isclose(robustness_missing([0, 1, 0], (p, f), {"image": (q, g)})["image"]["r@mm"], expected)
