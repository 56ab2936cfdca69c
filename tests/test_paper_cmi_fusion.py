"""Equations of the paper on CMI-Fusion: test_eq_<label> holds the equation labelled eq:<label>.

The right-hand sides are written out as they are printed and compared with the package.
Axes: B pictures, C channels, H, W rows and columns, n pixels, L words, d width.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest

PAPER = Path(__file__).resolve().parents[1] / "paper"
KINDS = ("visible", "infrared")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def kept_of(parts):
    """What enters and leaves modules by name, the last time that each runs."""
    kept = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, inputs, out, name=name: kept.update({name: (inputs, out)}))
    return kept


def unit(torch, part, r):
    """[r S; r C] of a dual attention unit as printed, and its last convolution."""
    s = part.spatial(torch.stack([r.max(1).values, r.mean(1)], 1)).sigmoid()
    mean = r.mean((2, 3))[:, :, None, None]
    c = part.channel[2](part.channel[0](mean).clamp_min(0)).sigmoid()
    return part.out(torch.cat([r * s, r * c], 1))


def published(torch, full=False):
    from cmf.methods.cmi_fusion_published import Config, PublishedCMIFusion

    torch.manual_seed(0)
    config = Config() if full else Config(text_width=12, shallow=8, width=16, decoder=(16, 8, 4), heads=4)
    network, draw = PublishedCMIFusion(config).eval(), torch.Generator().manual_seed(1)
    batch = {kind: torch.rand(2, 1, 6, 5, generator=draw) for kind in KINDS}
    batch |= {f"text_{name}": torch.randn(2, config.text_width, generator=draw) for name in (*KINDS, "fused")}
    return network, batch


def test_eq_cmi_published_dual(torch):
    network, batch = published(torch)
    kept = kept_of(dict(unit=network.dual["visible"], r=network.dual["visible"].body))
    network(batch)
    assert torch.allclose(kept["unit"][1], unit(torch, network.dual["visible"], kept["r"][1]), atol=1e-6)
    assert torch.equal(kept["r"][0][0], kept["unit"][0][0])


def attended(torch, layer, queries, keys):
    """MHA(queries, keys, keys) head by head, without the package's own code."""
    k, v = layer.key_value(keys).chunk(2, -1)
    q, d = layer.query(queries), queries.shape[-1] // layer.heads
    each = []
    for h in range(layer.heads):
        own = slice(h * d, (h + 1) * d)
        each.append((q[..., own] @ k[..., own].mT / d**0.5).softmax(-1) @ v[..., own])
    return layer.out(torch.cat(each, -1))


def test_eq_cmi_published_attend(torch):
    network, batch = published(torch)
    block = network.meet["infrared"]
    kept = kept_of(dict(block=block))
    network(batch)
    (x, t), (y, _) = kept["block"]
    half = x + attended(torch, block.attention, block.norm_query(x), t)
    assert torch.allclose(y, half + block.feed(block.norm_feed(half)), atol=1e-5)


def test_eq_cmi_one_key(torch):
    network, batch = published(torch)
    kept = kept_of(dict(layer=network.meet["visible"].attention))
    network(batch)
    layer, (inputs, (out, weights)) = network.meet["visible"].attention, kept["layer"]
    d = layer.out.in_features
    values = inputs[1] @ layer.key_value.weight[d:].T + layer.key_value.bias[d:]
    expected = values @ layer.out.weight.T + layer.out.bias                                   # (B, 1, d)
    assert torch.allclose(out, expected.expand_as(out), atol=1e-6) and (weights == 1).all() and out.shape[1] == 30


def test_eq_cmi_dead(torch):
    network, batch = published(torch, full=True)
    network(batch)["unclamped"].square().mean().backward()
    dead = 0
    for block in (*network.meet.values(), *network.last):
        attention, d = block.attention, block.norm_query.normalized_shape[0]
        values = (attention.key_value.weight, attention.key_value.bias)
        silent = [p.grad for p in (*block.norm_query.parameters(), *attention.query.parameters())]
        silent += [p.grad[:d] for p in values]
        assert not any(g.any() for g in silent) and all(p.grad[d:].any() for p in values)
        dead += sum(g.numel() for g in silent)
    assert dead == sum(2 * d * (d + 2) for d in (64, 64, 512, 512)) == 1_069_568
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 17.7


def corrected(torch):
    """A network in which nothing is zero, on a batch in which one word does not exist, and what its parts did."""
    import small_fusion as small

    network, draw = small.network(), torch.Generator().manual_seed(2)
    batch = {kind: torch.rand(2, 1, 24, 32, generator=draw) for kind in KINDS}
    batch |= dict(text=torch.randn(2, 4, small.SHAPE.text_width, generator=draw), text_mask=torch.ones(2, 4) > 0)
    batch["text_mask"][1, 3] = False
    step = network.interaction[0]["infrared"]
    kept = kept_of(dict(dual=network.at_half["visible"], r=network.at_half["visible"].body, words=network.words,
                        step=step, pixels=step.pixels, look=step.look, attend=step.attend, film=step.film,
                        choice=network.choose[0], score=network.choose[0].score, head=network.head,
                        up=network.film[0]))
    with torch.no_grad():
        return network, batch, network(batch), kept


def test_eq_cmi_dual(torch):
    network, _, _, kept = corrected(torch)
    x = kept["dual"][0][0]
    assert torch.allclose(kept["dual"][1], x + unit(torch, network.at_half["visible"], kept["r"][1]), atol=1e-6)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] > 1]
    assert {m.padding_mode for m in convolutions} == {"replicate"}


def test_eq_cmi_words(torch):
    network, _, _, kept = corrected(torch)
    x, p = kept["words"][1][0], kept["pixels"][1]                                             # (B, 5, d), (B, d, h, w)
    regions = torch.nn.functional.adaptive_avg_pool2d(p, 8).flatten(2).mT                     # (B, 64, d)
    look = network.interaction[0]["infrared"].look
    assert torch.allclose(kept["attend"][0][1], x + attended(torch, look, x, regions), atol=1e-5)


def test_eq_cmi_attend(torch):
    network, batch, out, kept = corrected(torch)
    layer, step = network.interaction[0]["infrared"].attend, network.interaction[0]["infrared"]
    p, words, mask = kept["attend"][0]
    m = torch.nn.functional.pad(batch["text_mask"].float(), (1, 0), value=1.0)                # (B, 1 + L), null first
    k, v = layer.key_value(words).chunk(2, -1)
    d, each, every = p.shape[-1] // layer.heads, [], []
    for h in range(layer.heads):
        own = slice(h * d, (h + 1) * d)
        b = torch.einsum("bnd,bld->bnl", layer.query(p)[..., own], k[..., own]) / math.sqrt(d)
        up = m[:, None] * b.exp()
        every.append(up / up.sum(-1, keepdim=True))
        each.append(every[-1] @ v[..., own])
    assert torch.equal(mask, m > 0)
    assert torch.allclose(out["attention"].flatten(2, 3), torch.stack(every, 1), atol=1e-6)
    read = step.out(layer.out(torch.cat(each, -1)).mT.unflatten(2, (8, 8)))
    assert torch.allclose(kept["film"][0][0], kept["step"][0][0] + read, atol=1e-5)


def test_eq_cmi_film(torch):
    network, batch, _, kept = corrected(torch)
    x, t = kept["film"][0]
    g, b = network.interaction[0]["infrared"].film.map(t)[..., None, None].chunk(2, 1)
    assert torch.allclose(kept["film"][1], (1 + g) * x + b, atol=1e-6)
    words, mask, _ = kept["words"][1]
    there = [words[k, 1:][batch["text_mask"][k]].mean(0) for k in range(2)]
    assert torch.allclose(t, torch.stack(there), atol=1e-6) and torch.equal(kept["up"][0][1], t)


def test_eq_cmi_choice(torch):
    _, _, _, kept = corrected(torch)
    level, score = kept["choice"][0][0], kept["score"][1]
    share = score.unflatten(1, (2, -1)).exp()
    share = share / share.sum(1, keepdim=True)
    expected = share[:, 0] * level["visible"] + share[:, 1] * level["infrared"]
    assert torch.allclose(kept["choice"][1], expected, atol=1e-6)


def cut(torch, x):
    """Six bands (B, 6, H, W) of x (B, 1, H, W) as printed."""
    levels = [x]
    for k in range(1, 6):
        blocks = x.unflatten(2, (-1, 2**k)).unflatten(4, (-1, 2**k)).mean((3, 5))             # (B, 1, H / 2^k, ...)
        levels.append(torch.nn.functional.interpolate(blocks, x.shape[-2:], mode="bilinear"))
    levels.append(torch.zeros_like(x))
    return torch.cat([levels[k] - levels[k + 1] for k in range(6)], 1)


def livelier(torch, v, u):
    mean = lambda x: torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x.abs(), (1,) * 4, mode="replicate"), 3, 1)
    return (mean(v) - mean(u)) / (mean(v) + mean(u) + 1e-3)


def test_eq_cmi_bands(torch):
    from cmf.methods.cmi_fusion import bands

    x = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.allclose(bands(x), cut(torch, x), atol=1e-5) and torch.allclose(bands(x).sum(1, True), x, atol=1e-5)


def test_eq_cmi_rule(torch):
    from cmf.methods.cmi_fusion import CMIFusion, Shape, activity

    v, u = (cut(torch, torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(k)) - 0.5) for k in range(2))
    assert torch.allclose(activity(v, u), livelier(torch, v, u), atol=1e-6)
    assert CMIFusion(Shape()).rule.tolist() == [4.0] * 5 + [0.0]


def test_eq_cmi_output(torch):
    network, batch, out, kept = corrected(torch)
    x = [torch.nn.functional.pad(batch[kind], (0, 0, 0, 8), mode="replicate") for kind in KINDS]
    m = 0.5 * sum(picture.mean((2, 3), True) for picture in x)
    v, u = (cut(torch, picture - m) for picture in x)
    omega, gamma, rho = kept["head"][1].split([6, 6, 1], 1)
    s = 1 / (1 + (-omega - network.rule[:, None, None] * livelier(torch, v, u)).exp())
    g = 2 / (1 + (-gamma).exp())
    f = m + (g * (s * v + (1 - s) * u)).sum(1, True) + 0.3 * rho.tanh()
    assert torch.allclose(out["unclamped"], f[..., :24, :], atol=1e-5)
    assert torch.allclose(out["weight"], s.mean(1, True)[..., :24, :], atol=1e-5)


def pictures(torch, n=2, side=48):
    """u, v, f and a mask M (n, 1, side, side), float64."""
    draw = np.random.default_rng(0)
    u, v = (torch.from_numpy(draw.random((n, 1, side, side))) for _ in range(2))
    f = 0.4 * u + 0.5 * v + 0.1 * torch.from_numpy(draw.random((n, 1, side, side)))
    return u, v, f, torch.from_numpy((draw.random((n, 1, side, side)) < 0.3).astype(np.float64))


def nabla(torch, x):
    """Sobel gradients divided by 4, (n, 2, H, W), by convolution."""
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=x.dtype).flip(1) / 4
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])


def test_eq_cmi_intensity(torch):
    terms = losses()
    u, v, f, m = pictures(torch)
    expected = ((1 - m) * (f - torch.maximum(v, u)).abs()).mean() / (1 - m).mean()
    assert torch.isclose(terms.intensity(f, torch.maximum(u, v), 1 - m), expected)


def test_eq_cmi_gradient(torch):
    u, v, f, m = pictures(torch)
    gu, gv = nabla(torch, u), nabla(torch, v)
    star = torch.where(gu.norm(dim=1, keepdim=True) > gv.norm(dim=1, keepdim=True), gu, gv)
    apart = (nabla(torch, f) - star).abs().sum(1, keepdim=True)
    assert torch.isclose(losses().gradient(f, u, v, 1 - m), ((1 - m) * apart).mean() / (1 - m).mean())


def test_eq_cmi_artefacts(torch):
    u, v, f, _ = pictures(torch)
    length = [nabla(torch, x).norm(dim=1) for x in (f + 0.2 * (f - 0.5), u, v)]
    expected = (length[0] - torch.maximum(length[1], length[2])).clamp_min(0).mean()
    assert torch.isclose(losses().artefacts(f + 0.2 * (f - 0.5), u, v), expected, rtol=1e-4)


def test_eq_cmi_beyond(torch):
    u, v, f, _ = pictures(torch)
    f = f + 0.4 * (f - 0.5)
    near = lambda x: torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate").unfold(2, 5, 1).unfold(3, 5, 1)
    both = torch.cat([near(u), near(v)], 1)                                         # (B, 2, H, W, 5, 5)
    high, low = both.amax((1, 4, 5)), both.amin((1, 4, 5))
    expected = ((f[:, 0] - high).clamp_min(0) + (low - f[:, 0]).clamp_min(0)).mean()
    assert torch.isclose(losses().beyond(f, u, v), expected) and expected > 0


def test_eq_cmi_repaired(torch):
    from cmf.studies.fusion import Criterion

    _, outputs, batch, (u, v, f, _) = criterion(torch)
    batch |= dict(text=f, pooled=f, text_mask=torch.ones(2, 3) > 0, faulty=torch.ones(2) > 0)
    silent = lambda given: dict(unclamped=0.6 * given["infrared"] + 0.4 * given["visible"])
    found = Criterion(network=silent)(outputs, batch)["repaired"]
    assert torch.isclose(found, (f - (0.6 * u + 0.4 * v)).abs().mean())


def losses():
    from cmf import fusion_losses

    return fusion_losses


def criterion(torch):
    """Terms of the training loss, and u, v, f, M."""
    from cmf.studies.fusion import Criterion

    u, v, f, m = pictures(torch)
    outputs = dict(unclamped=1.2 * f, understood=torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    batch = dict(source_infrared=u, source_visible=v, warm=m, wanted=v, family=torch.tensor([0, 2]),
                 faulty=torch.zeros(2) > 0)
    return Criterion()(outputs, batch), outputs, batch, (u, v, 1.2 * f, m)


def test_eq_cmi_similarity(torch):
    from cmf.metrics.fusion import evaluate

    found, _, _, (u, v, f, _) = criterion(torch)
    inside = [x * 255 / 1.3 for x in (u, v, f)]                                     # scores take what lies in the range
    scores = [evaluate(*(x[k, 0].numpy() for x in inside), names=("SSIM", "VIF")) for k in range(2)]
    terms = losses()
    u, v, f = (x / 255 for x in inside)
    ssim = 1 - (terms.ssim(u, f) + terms.ssim(v, f)).mean() / 2
    vif = 1 - (terms.visual_information(u, f) + terms.visual_information(v, f)).mean() / 2
    assert ssim.item() == pytest.approx(1 - np.mean([s["SSIM"] for s in scores]), abs=1e-6)
    assert vif.item() == pytest.approx(1 - np.mean([s["VIF"] for s in scores]) / 2, abs=1e-5)
    u, v, f = (1.3 * x for x in (u, v, f))
    assert torch.isclose(found["similarity"], 1 - (terms.ssim(u, f) + terms.ssim(v, f)).mean() / 2)
    assert torch.isclose(found["information"], 1 - (terms.visual_information(u, f)
                                                    + terms.visual_information(v, f)).mean() / 2)


def test_eq_cmi_vif(torch):
    """By convolutions, scale by scale."""
    u, _, f, _ = pictures(torch, n=1, side=64)
    s, x, up, down = 255 * u, 255 * f, 0.0, 0.0
    for size, scale in ((17, 0), (9, 1), (5, 2), (3, 3)):
        g = torch.exp(-(torch.arange(size, dtype=torch.float64) - size // 2) ** 2 / (2 * (size / 5) ** 2))
        g = torch.outer(g, g)[None, None] / g.sum() ** 2
        mean = lambda y, g=g: torch.nn.functional.conv2d(y, g)
        if scale:
            s, x = mean(s)[..., ::2, ::2], mean(x)[..., ::2, ::2]
        s_s, s_f, both = mean(s * s) - mean(s)**2, mean(x * x) - mean(x)**2, mean(s * x) - mean(s) * mean(x)
        gamma = (both / s_s).clamp_min(0)
        up += torch.log(1 + gamma**2 * s_s / (s_f - gamma * both + 2)).sum()
        down += torch.log(1 + s_s / 2).sum()
    assert losses().visual_information(u, f).item() == pytest.approx((up / down).item(), abs=1e-5)


def test_eq_cmi_difference(torch):
    found, _, _, (u, v, f, _) = criterion(torch)
    corr = lambda a, b: np.mean([np.corrcoef(a[k].flatten(), b[k].flatten())[0, 1] for k in range(2)])
    assert found["difference"].item() == pytest.approx(1 - (corr(f - v, u) + corr(f - u, v)) / 2, abs=1e-6)


def test_eq_cmi_asked(torch):
    from cmf.studies import asked

    found, _, batch, (_, _, f, m) = criterion(torch)
    assert torch.isclose(found["asked"], (m * (f - batch["wanted"]).abs()).mean() / m.mean())
    plain, rng = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), asked.FAMILIES
    sentences = dict.fromkeys(rng, ["a sentence"])
    for family, expected in (("heat", (plain.max(0).values + 0.1).clamp_max(1)), ("texture", plain[0])):
        made = object.__new__(asked.Asked)
        made.seed, made.texts = 0, type("Said", (), dict(sentences=sentences))
        made.shares = np.array([float(name == family) for name in rng])
        assert torch.equal(made._one(0, plain[0], plain[1], torch.ones(1, 8, 8))["wanted"], expected)


def test_eq_cmi_calm(torch):
    from cmf.studies.fusion import Criterion

    _, outputs, batch, (_, _, f, m) = criterion(torch)
    still = 0.7 * f
    batch |= dict(text=f, pooled=f, text_mask=torch.ones(2, 3) > 0)
    asked = []
    silent = lambda given: asked.append(given["text_mask"].any().item()) or dict(unclamped=still)
    found = Criterion(network=silent)(outputs, batch)["calm"]
    assert torch.isclose(found, ((1 - m) * (f - still).abs()).mean() / (1 - m).mean()) and asked == [False]


def test_eq_cmi_loss(torch):
    found, outputs, batch, (_, _, f, _) = criterion(torch)
    out = torch.where(f > 1, f - 1, torch.where(f < 0, -f, 0.0)).mean()
    family = -outputs["understood"].log_softmax(1)[torch.arange(2), batch["family"]].mean()
    assert torch.isclose(found["range"], out) and torch.isclose(found["understood"], family) and out > 0
    total = (found["intensity"] + 5.5 * found["gradient"] + 8 * found["artefacts"] + 4 * found["beyond"]
             + found["similarity"] / 2 + 1.6 * found["information"] + 0.4 * found["difference"] + 2.5 * found["asked"]
             + 8 * found["calm"] + 6 * found["repaired"] + 2 * out + 0.3 * family)
    assert torch.isclose(found["loss"], total)


def test_the_table_names_every_measure_with_its_direction_and_unit():
    from cmf.metrics.fusion import MEASURES

    text = (PAPER / "cmi_fusion.typ").read_text(encoding="utf-8")
    rows = re.findall(r"^  \[([\w-]+)\], \[.*?\], \[([\w ]*)\], \[(up|down)\],", text, re.MULTILINE | re.DOTALL)
    expected = [(name, m.unit, m.better) for name, m in MEASURES.items() if name != "FMI_gradient"]
    assert sorted(rows) == sorted(expected) and len(rows) == 18


def test_what_is_said_of_other_toolboxes(torch):
    """Units, peaks, ranges and stretching, on a generated pair."""
    import small_fusion as small

    from cmf.metrics.fusion import evaluate

    assert math.log2(math.e) == pytest.approx(1.4427, abs=1e-4) and round(20 * math.log10(255)) == 48
    colours, infrared = small.pair(96, 128)
    visible = colours[..., 0]
    fused = visible * 0.4 + infrared * 0.4
    stretched = (fused - fused.min()) / (fused.max() - fused.min()) * 255
    names = ("EN", "SD", "SF", "AG", "SSIM")
    plain, wide = (evaluate(infrared, visible, f, names=names) for f in (fused, stretched))
    assert all(wide[name] > plain[name] for name in names[:4])
    u, v, f = (torch.from_numpy(np.float64(x))[None, None] for x in (infrared, visible, fused))
    range_of_one = (losses().ssim(u, f) + losses().ssim(v, f)).item() / 2
    assert range_of_one < plain["SSIM"] - 0.01
    mean = evaluate(infrared, visible, infrared / 2 + visible / 2, names=("PSNR",))["PSNR"]
    for other in (np.maximum(infrared, visible), infrared, fused):
        assert evaluate(infrared, visible, np.float64(other), names=("PSNR",))["PSNR"] < mean


def test_most_words_of_the_families_are_spelt():
    from cmf.encoders.clip import CLIP
    from cmf.simulate import prompts

    tokenizer = CLIP("small", device="cpu", precision="float32").tokenizer
    known = [len(tokenizer.tokenize(word)) == 1 for word in prompts.words()]
    assert 0 < sum(known) < len(known) / 2
    assert tokenizer.tokenize("heat") == ["h", "##e", "##a", "##t"]
