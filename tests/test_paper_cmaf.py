"""Equations of the paper on CMAF and its experiments: test_eq_<label> holds the equation labelled eq:<label>.

The right-hand sides are written out as they are printed and compared with the package.
Axes: B videos, T segments, L text tokens, H heads, d width.
"""

import numpy as np
import pytest

WIDTH, HEADS = 16, 2


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def columns(torch, visual=6, text=5):
    """Three videos of 8 segments and 12 words (4 captions); of the second the last segment and word do not exist."""
    draw = torch.Generator().manual_seed(0)
    caption = torch.arange(4).repeat_interleave(3).expand(3, -1)
    batch = dict(visual=torch.randn(3, 8, visual, generator=draw), motion=torch.randn(3, 8, 2, generator=draw),
                 segments=torch.ones(3, 8, dtype=torch.bool), text=torch.randn(3, 12, text, generator=draw),
                 text_mask=torch.ones(3, 12, dtype=torch.bool), text_time=(caption + 0.5) / 4,
                 text_caption=caption.clone(), labels=torch.tensor([0.0, 1.0, 1.0]))
    batch["segments"][1, -1] = batch["text_mask"][1, -1] = False
    return batch


def published(torch):
    """The published network on a batch, with what enters and leaves its parts."""
    from cmf.methods import cmaf_published

    torch.manual_seed(0)
    network, kept = cmaf_published.PublishedCMAF(visual=WIDTH, text=5, heads=HEADS).eval(), {}
    for name in ("visual", "text", "to_text", "to_visual", "gate", "final"):
        network.fusion[name].register_forward_hook(lambda _, inputs, out, name=name: kept.update({name: (inputs, out)}))
    network.head.register_forward_hook(lambda _, inputs, out: kept.update(head=(inputs, out)))
    batch = columns(torch, visual=WIDTH)
    return cmaf_published, network, batch, network(batch), kept


def test_eq_cmaf_published_cross(torch):
    _, network, _, _, kept = published(torch)
    v, x = (kept[name][1][:, None] for name in ("visual", "text"))                            # (B, 1, d)
    for name, query, other in (("to_text", v, x), ("to_visual", x, v)):
        assert torch.allclose(kept[name][1][0], network.fusion[name](query, other, other)[0], atol=1e-6)


def test_eq_cmaf_published_gate(torch):
    _, network, _, _, kept = published(torch)
    a_v, a_x = kept["to_text"][1][0], kept["to_visual"][1][0]
    gate = network.fusion["gate"]
    g = (torch.cat([a_v, a_x], -1) @ gate.weight.T + gate.bias).sigmoid()
    assert torch.allclose(kept["final"][0][0], g * a_v + (1 - g) * a_x, atol=1e-6)


def test_eq_cmaf_published_residual(torch):
    cmaf_published, _, batch, _, kept = published(torch)
    r = kept["visual"][0][0]
    assert torch.allclose(kept["head"][0][0], r + kept["final"][1][:, 0], atol=1e-6)
    assert torch.equal(r, cmaf_published.mean_frame(batch, 8)[0])


def test_eq_cmaf_published_loss(torch):
    cmaf_published, _, batch, out, kept = published(torch)
    cosine = torch.nn.functional.cosine_similarity(kept["visual"][0][0], kept["text"][1], dim=-1)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(out["score"], batch["labels"])
    terms = cmaf_published.published_criterion(out, batch)
    assert torch.allclose(terms["loss"], bce + 0.1 * (cosine - 0.5).abs().mean(), atol=1e-6)
    assert not terms["alignment"].requires_grad


def test_eq_cmaf_one_key(torch):
    _, network, _, out, kept = published(torch)
    layer, x = network.fusion["to_text"], kept["text"][1]
    value = x @ layer.in_proj_weight[2 * WIDTH:].T + layer.in_proj_bias[2 * WIDTH:]
    expected = value @ layer.out_proj.weight.T + layer.out_proj.bias
    assert torch.allclose(kept["to_text"][1][0][:, 0], expected, atol=1e-6)
    assert (out["attention"] == 1).all() and (out["back"] == 1).all()


def test_eq_cmaf_dead(torch):
    from cmf.methods import cmaf_published

    torch.manual_seed(0)
    d, network = 512, cmaf_published.PublishedCMAF().eval()
    batch = columns(torch, visual=d, text=768)
    cmaf_published.published_criterion(network(batch), batch)["loss"].backward()
    dead = 0
    for name in ("to_text", "to_visual"):
        layer = network.fusion[name]
        for part in (layer.in_proj_weight, layer.in_proj_bias):
            assert (part.grad[:2 * d] == 0).all() and (part.grad[2 * d:] != 0).any()
            dead += part[:2 * d].numel()
    assert dead == 4 * d * (d + 1) == 1_050_624
    assert sum(p.numel() for p in network.fusion.parameters()) == 3_810_816


def corrected(torch):
    """A network whose residual is open, on a batch, with what enters and leaves its parts."""
    from cmf.methods import cmaf

    torch.manual_seed(0)
    network = cmaf.CMAF(cmaf.Config(visual=6, text=5, motion=2, width=WIDTH, heads=HEADS)).eval()
    assert (network.gamma == 0).all() and (network.back.out.weight == 0).all() and (network.read.slope == 4).all()
    network.gamma.data.uniform_(-0.2, 0.2)
    torch.nn.init.normal_(network.back.out.weight, std=0.3)
    kept = {}
    parts = dict(v=network.embed["segments"], x=network.embed["words"], read=network.read, back=network.back,
                 weigh=network.weigh, out=network.out, norm=network.norm)
    for name, part in parts.items():
        part.register_forward_hook(lambda _, inputs, out, name=name: kept.update({name: (inputs, out)}))
    batch = columns(torch)
    return network, batch, network(batch), kept


def test_eq_cmaf_tokens(torch):
    from cmf.methods.cmaf import time_features

    network, batch, _, kept = corrected(torch)
    count = batch["segments"].sum(1, keepdim=True)                                            # T of each video
    zeta = (torch.arange(1, 9) - 0.5) / count
    here = batch["segments"]
    timed, keys = kept["read"][0][:2]
    assert torch.allclose(timed[here], (kept["v"][1] + time_features(zeta, WIDTH))[here], atol=1e-6)
    words = kept["x"][1] + time_features(batch["text_time"], WIDTH) + network.kind
    assert torch.allclose(keys[batch["text_mask"]], words[batch["text_mask"]], atol=1e-6)


def test_eq_cmaf_time(torch):
    from cmf.methods.cmaf import time_features

    zeta, j = torch.rand(7, generator=torch.Generator().manual_seed(0)), torch.arange(WIDTH // 2)
    turns = 2.0 ** (6 * j / (WIDTH / 2 - 1) - 2)
    angle = 2 * torch.pi * zeta[:, None] * turns
    assert torch.allclose(time_features(zeta, WIDTH), 0.3 * torch.cat([angle.sin(), angle.cos()], -1), atol=1e-4)
    assert turns[0] == 1 / 4 and turns[-1] == 16


def heads(x):
    """(B, N, d) -> (B, H, N, d / H)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def weights(layer, queries, keys, exists, distance):
    """A^h_tl (B, H, Lq, Lk) as printed; distance (B, Lq, Lk) in segments."""
    q, k = heads(layer.query(queries)), heads(layer.key_value(keys).chunk(2, -1)[0])
    b = q @ k.mT / (WIDTH / HEADS) ** 0.5 - layer.slope[:, None, None] * distance[:, None]
    up = exists[:, None, None, :] * b.exp()
    return up / up.sum(-1, keepdim=True)


def distances(torch, batch):
    count = batch["segments"].sum(1)[:, None, None]
    zeta = (torch.arange(1, 9)[None, :, None] - 0.5) / count
    return count * (zeta - batch["text_time"][:, None, :]).abs()                              # (B, T, L)


def attended(layer, queries, keys, exists, distance):
    value = heads(layer.key_value(keys).chunk(2, -1)[1])
    return layer.out((weights(layer, queries, keys, exists, distance) @ value).transpose(1, 2).flatten(-2))


def test_eq_cmaf_nearness(torch):
    network, batch, out, kept = corrected(torch)
    timed, keys, here = *kept["read"][0][:2], batch["segments"]
    expected = weights(network.read, timed, keys, batch["text_mask"], distances(torch, batch))
    assert torch.allclose(out["attention"].transpose(1, 2)[here], expected.transpose(1, 2)[here], atol=1e-5)
    assert (out["attention"][1, ..., -1] == 0).all()


def streams(torch, network, batch, kept):
    """v^ (B, T, d) and x^ (B, L, d) as printed."""
    timed, keys = kept["read"][0][:2]
    distance = distances(torch, batch)
    return (timed + attended(network.read, timed, keys, batch["text_mask"], distance),
            keys + attended(network.back, keys, timed, batch["segments"], distance.mT))


def test_eq_cmaf_streams(torch):
    network, batch, _, kept = corrected(torch)
    v, x = streams(torch, network, batch, kept)
    here = batch["segments"]
    assert torch.allclose(kept["weigh"][0][0][..., :WIDTH][here], v[here], atol=1e-5)
    exists = batch["text_mask"]
    assert torch.allclose((kept["read"][0][1] + kept["back"][1][0])[exists], x[exists], atol=1e-5)


def test_eq_cmaf_context(torch):
    network, batch, out, kept = corrected(torch)
    _, x = streams(torch, network, batch, kept)
    expected = out["attention"].mean(1) @ (x * batch["text_mask"][..., None])
    here = batch["segments"]
    assert torch.allclose(out["context"][here], expected[here], atol=1e-5)
    assert torch.equal(kept["weigh"][0][0][..., WIDTH:2 * WIDTH], out["context"])


def test_eq_cmaf_gate(torch):
    network, _, out, kept = corrected(torch)
    v, c, timed = kept["weigh"][0][0].split(WIDTH, -1)
    g = (torch.cat([v, c, timed], -1) @ network.weigh.weight.T + network.weigh.bias).sigmoid()
    assert torch.allclose(kept["out"][0][0], g * v + (1 - g) * c, atol=1e-6)
    assert torch.equal(timed, kept["read"][0][0]) and torch.allclose(out["gate"], g.mean(-1), atol=1e-6)


def test_eq_cmaf_residual(torch):
    network, _, _, kept = corrected(torch)
    f, v = kept["out"][0][0], kept["v"][1]
    e = v + 10 * network.gamma * (f @ network.out.weight.T + network.out.bias)
    expected = torch.nn.functional.layer_norm(e, (WIDTH,), network.norm.weight, network.norm.bias)
    assert torch.allclose(kept["norm"][1], expected, atol=1e-5)


def test_eq_cmaf_score(torch):
    network, batch, out, kept = corrected(torch)
    here = batch["segments"]
    e = kept["norm"][1] * here[..., None]
    mixed = e + torch.nn.functional.gelu(network.mixer(e.mT).mT)
    assert torch.allclose(out["logits"].sigmoid()[here], network.head(mixed)[..., 0].sigmoid()[here], atol=1e-6)
    assert network.mixer.kernel_size == (3,)


def test_eq_cmaf_own(torch):
    from cmf.methods import cmaf

    torch.manual_seed(0)
    network = cmaf.CMAF(cmaf.Config(visual=6, text=5, motion=2, width=WIDTH, heads=HEADS, own=True)).eval()
    batch = columns(torch)
    assert network(batch)["verbal_logits"][0].std() < 1e-6, "untrained, the words add a constant"
    network.gamma.data.fill_(0.1)
    out = network(batch)
    vision = network.sight(batch)["logits"]
    for rho in (1.0, 0.25):
        network.trust.fill_(rho)
        p, found = (out["verbal_logits"] + rho * vision).sigmoid(), network(batch)["logits"].sigmoid()
        assert torch.allclose(found[batch["segments"]], p[batch["segments"]], atol=1e-6)
    out["logits"].sum().backward()
    assert all(x.grad is None for x in network.sight.parameters())


def test_eq_cmaf_mil(torch):
    from cmf.losses import top_k_bce

    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    count, labels = torch.tensor([40, 16, 15]), torch.tensor([1.0, 0.0, 1.0])
    total = 0.0
    for b in range(3):
        k = int(count[b]) // 16 + 1
        p = logits[b, :count[b]].sigmoid().sort(descending=True).values[:k].mean()
        total -= (labels[b] * p.log() + (1 - labels[b]) * (1 - p).log()) / 3
    found = top_k_bce(logits, labels, torch.arange(40) < count[:, None])
    assert torch.isclose(found.double(), total.double(), rtol=1e-5)


def test_eq_cmaf_align(torch):
    from cmf.losses import info_nce

    v, x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    s = torch.nn.functional.cosine_similarity(v[:, None], x[None], dim=-1) / 0.07
    total = sum(s[b].softmax(0)[b].log() + s[:, b].softmax(0)[b].log() for b in range(5))
    assert torch.isclose(info_nce(v, x, 0.07), -total / 10, rtol=1e-4)


def test_eq_cmaf_diversity(torch):
    from cmf.losses import head_diversity

    a = (3 * torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))).softmax(-1)   # (B, H, T, L)
    a[1] = 0.98 * torch.nn.functional.one_hot(torch.tensor(2), 5) + 0.02 * a[1]                 # nearly collapsed
    total, below = 0.0, []
    for one in a:
        pairs = [torch.nn.functional.cosine_similarity(one[h].flatten(), one[g].flatten(), dim=0)
                 for h in range(3) for g in range(3) if h != g]
        mean = one.mean(0)
        eta = -(mean * mean.log()).sum() / (6 * np.log(5))
        below.append(bool(eta < 0.3))
        total += sum(pairs) / (3 * 2) + max(torch.tensor(0.0), 0.3 - eta)
    every = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    assert torch.isclose(head_diversity(a, *every), total / 2, rtol=1e-4) and below == [False, True]


def losses(torch):
    from cmf.methods import cmaf

    _, batch, out, _ = corrected(torch)
    return batch, out, cmaf.criterion()(out, batch)


def test_eq_cmaf_smooth(torch):
    batch, out, terms = losses(torch)
    scores = [row[here].sigmoid() for row, here in zip(out["logits"], batch["segments"], strict=True)]
    steps = torch.cat([(p[:-1] - p[1:]) ** 2 for p in scores])
    assert torch.allclose(terms["smooth"], steps.mean())
    assert torch.allclose(terms["sparse"], torch.cat(scores[1:]).mean())


def test_eq_cmaf_loss(torch):
    _, _, terms = losses(torch)
    expected = (terms["instances"] + 0.1 * terms["alignment"] + 0.01 * terms["diversity"] + 8e-4 * terms["smooth"]
                + 8e-5 * terms["sparse"])
    assert torch.allclose(terms["loss"], expected)


def test_eq_cmaf_pointing():
    from cmf.metrics.faithfulness import pointing

    rng = np.random.default_rng(0)
    attention, inside = rng.random((30, 7)), rng.random((30, 7)) < 0.3
    asks = np.flatnonzero(inside.any(1))
    expected = sum(inside[t, attention[t].argmax()] for t in asks) / len(asks)
    found = pointing(attention, inside)
    assert np.isclose(found["accuracy"], expected) and found["queries"] == len(asks)


def test_eq_cmaf_deletion():
    from cmf.metrics.faithfulness import faithfulness

    effect = np.array([3.0, 0.5, 2.0, 0.1, 1.0])                                              # of each word
    score = lambda masks: masks @ effect
    area = lambda order: np.trapezoid(effect.sum() - np.cumsum([0, *effect[list(order)]]), np.linspace(0, 1, 6))
    rng = np.random.default_rng(0)
    random = np.mean([area(rng.permutation(5)) for _ in range(40)])
    found = faithfulness(score, effect, orders=40, seed=0)
    assert np.isclose(found["deletion_gain"], random - area(np.argsort(-effect))) and found["deletion_gain"] > 0
