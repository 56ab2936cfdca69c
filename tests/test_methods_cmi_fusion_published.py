"""CMI-Fusion as published: its size, part by part, and the constant that its sentences are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmf.methods import cmi_fusion_published as published
from cmf.methods.cmi_fusion_published import AttBlock, Config, DualAttention, PublishedCMIFusion

SMALL = Config(text_width=12, shallow=8, width=16, decoder=(16, 8, 4), heads=4, dropout=0.0, drop_path=0.0)
SENTENCES = ("visible", "infrared", "fused")


def network(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return PublishedCMIFusion(config).eval()


def batch(config=SMALL, n=2, size=(9, 7), seed=0):
    draw = torch.Generator().manual_seed(seed)
    texts = {f"text_{kind}": torch.randn(n, config.text_width, generator=draw) for kind in SENTENCES}
    return texts | {kind: torch.rand(n, 1, *size, generator=draw) for kind in published.SOURCES}


def count(*modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def attention_blocks(net):
    return [module for module in net.modules() if isinstance(module, AttBlock)]


def test_parameters_by_part_are_those_of_the_released_code():
    with torch.device("meta"):
        net = PublishedCMIFusion()
    slope = 1
    for kind in published.SOURCES:
        assert count(net.stem[kind]) - slope == 37_440
        assert count(net.dual[kind]) - slope == 82_994
        assert count(net.text[kind], net.meet[kind]) == 82_816
    assert count(net.widen) == 33_280
    assert count(net.last) == 6_304_768
    assert count(net.refine) == 9_439_232
    assert count(net.decode) == 1_550_081
    assert count(net) == 17_734_886                                      # 17.7 M; all PReLU share one slope
    assert sum(isinstance(module, torch.nn.PReLU) for module in net.modules()) == 1


def test_shapes_range_and_ones():
    out = network()(batch())
    assert out["fused"].shape == out["unclamped"].shape == (2, 1, 9, 7)
    assert 0 <= out["fused"].min() and out["fused"].max() <= 1 and out["unclamped"].abs().max() < 1
    assert set(out["attention"]) == set(SENTENCES)
    for weights in out["attention"].values():
        assert weights.shape == (2, 4, 63, 1) and (weights == 1).all()   # a softmax over one key, exactly


def test_queries_and_keys_get_no_gradient():
    net = network().train()
    net(batch())["unclamped"].square().sum().backward()
    for block in attention_blocks(net):
        d = block.norm_query.normalized_shape[0]
        dead = (block.norm_query.weight, block.norm_query.bias, block.attention.query.weight,
                block.attention.query.bias, block.attention.key_value.weight, block.attention.key_value.bias)
        for parameter in dead[:4]:
            assert (parameter.grad == 0).all()
        for parameter in dead[4:]:
            assert (parameter.grad[:d] == 0).all() and (parameter.grad[d:] != 0).any()    # keys; values


def test_a_sentence_is_one_vector_for_all_pixels():
    block = attention_blocks(network())[0]
    draw = torch.Generator().manual_seed(1)
    sentence, pixels = torch.randn(3, 1, 8, generator=draw), torch.randn(3, 40, 8, generator=draw)
    read, _ = block.attention(block.norm_query(pixels), sentence)
    torch.testing.assert_close(read, block.constant(sentence).expand(-1, 40, -1))


def test_the_text_is_a_constant_bias(monkeypatch):
    """Vectors computed once from the sentences, before any picture is seen, replace all attention."""
    net, some = network(), batch()
    before = net(some)["unclamped"]
    constants = {}
    for kind in published.SOURCES:
        constants[id(net.meet[kind])] = net.meet[kind].constant(net.text[kind](some[f"text_{kind}"])[:, None])
    for block in net.last:
        constants[id(block)] = block.constant(net.text["fused"](some["text_fused"])[:, None])

    def biased(self, x, sentence):
        x = x + constants[id(self)]
        return x + self.feed(self.norm_feed(x)), None

    monkeypatch.setattr(AttBlock, "forward", biased)
    torch.testing.assert_close(net(some)["unclamped"], before, rtol=0, atol=1e-6)


def test_a_sentence_cannot_choose_a_place():
    """What another sentence changes before the pixels' own networks has no spread over the picture."""
    net, some = network(), batch()
    tokens, far = torch.rand(2, 63, 8), net.text["visible"](some["text_visible"] + 3)[:, None]
    near = net.text["visible"](some["text_visible"])[:, None]
    block = net.meet["visible"]
    read = [block.attention(block.norm_query(tokens), told)[0] for told in (near, far)]
    change = read[1] - read[0]
    assert change.abs().mean() > 0.05 and change.std(1).max() < 1e-6


def test_pieces_are_exact(monkeypatch):
    net, some = network(), batch()
    whole = net(some)
    monkeypatch.setattr(published, "PIECE", 10)
    with torch.no_grad():
        cut = net(some)
    torch.testing.assert_close(cut["fused"], whole["fused"], rtol=0, atol=1e-6)
    assert cut["attention"]["fused"].shape == (2, 4, 63, 1)


def test_gradients_are_those_of_the_function():
    config = replace(SMALL, shallow=4, width=4, decoder=(8, 8, 2), heads=2)
    net, some = network(config).double(), batch(config, 1, (3, 4))
    some = {name: column.double().requires_grad_() for name, column in some.items()}

    def run(*columns):
        return net(dict(zip(some, columns, strict=True)))["unclamped"]

    assert torch.autograd.gradcheck(run, tuple(some.values()), eps=1e-6, atol=1e-5)


def test_dual_attention_has_no_residual_and_sees_the_whole_picture():
    torch.manual_seed(0)
    unit, x = DualAttention(8, torch.nn.PReLU()), torch.rand(1, 8, 12, 12)
    torch.nn.init.zeros_(unit.out.weight)
    assert (unit(x) == 0).all()
    torch.manual_seed(0)
    unit = DualAttention(8, torch.nn.PReLU())
    other = x.clone()
    other[..., 11] += 1
    assert (unit(other) - unit(x))[..., :3].abs().max() > 1e-6            # by the mean over the picture


@pytest.mark.parametrize("missing", SENTENCES)
def test_ablation_without_a_sentence(missing):
    config = replace(SMALL, sentences=tuple(kind for kind in SENTENCES if kind != missing))
    net, some = network(config), batch()
    del some[f"text_{missing}"]
    out = net(some)
    assert set(out["attention"]) == set(config.sentences) and torch.isfinite(out["fused"]).all()
    assert count(net) < count(network()) and len(net.last) == (0 if missing == "fused" else 2)


def test_ablation_without_dual_attention():
    net = network(replace(SMALL, attention=False))
    assert not any(isinstance(module, DualAttention) for module in net.modules())
    assert torch.isfinite(net(batch())["fused"]).all()


def test_dropout_acts_in_training_alone():
    net, some = network(replace(SMALL, dropout=0.1, drop_path=0.1)), batch()
    assert torch.equal(net(some)["fused"], net(some)["fused"])
    net.train()
    assert not torch.equal(net(some)["unclamped"], net(some)["unclamped"])
    still = network(SMALL).train()
    assert torch.equal(still(some)["unclamped"], still(some)["unclamped"])


def test_slim_copy_learns_a_pair():
    config = replace(Config(text_width=12).slim(), width=16)
    assert config.dropout == config.drop_path == 0 and config.depth == Config().depth
    net, some = network(config).train(), batch(config, 1, (16, 16))
    wanted, optimiser = torch.maximum(some["visible"], some["infrared"]), torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = (net(some)["unclamped"] - wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert np.isfinite(losses).all()


def test_one_pixel():
    assert network()(batch(size=(1, 1)))["fused"].shape == (2, 1, 1, 1)


@pytest.mark.parametrize(("change", "words"), [
    (dict(sentences=("visible", "thermal")), r"sentences must be some of .*'fused'.*got .*thermal"),
    (dict(dropout=1.0), r"dropout is a share in \[0, 1\), got 1.0"),
    (dict(drop_path=-0.1), r"drop_path is a share in \[0, 1\), got -0.1"),
    (dict(decoder=(20, 8, 4)), r"multiples of its 8 groups, got \(20, 8, 4\)"),
])
def test_shapes_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


def test_batches_that_cannot_be():
    some = batch()
    with pytest.raises(ValueError, match=r"visible is \(2, 1, 9, 7\) and infrared \(2, 1, 9, 6\), .*one size"):
        network()(some | dict(infrared=some["infrared"][..., :6]))
    with pytest.raises(ValueError, match=r"visible is \(2, 3, 9, 7\).*give grey pictures"):
        network()(some | {kind: some[kind].expand(-1, 3, -1, -1) for kind in published.SOURCES})
    with pytest.raises(ValueError, match=r"text_fused is \(2, 5\), expected \(2, 12\): one vector a picture"):
        network()(some | dict(text_fused=some["text_fused"][:, :5]))
    del some["text_visible"]
    with pytest.raises(ValueError, match=r"text_visible is absent, expected \(2, 12\)"):
        network()(some)


def test_prompts_are_triples_of_three_kinds():
    for triple in (published.INFRARED_PROMPTS, published.CT_PROMPTS, published.PET_PROMPTS):
        assert tuple(triple) == SENTENCES and all(triple.values())
    assert "the the" in published.INFRARED_PROMPTS["visible"]             # letter by letter
