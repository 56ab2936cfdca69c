"""The network that fuses and labels: sizes, arms, counts, what may change its answers, and what it refuses."""

from dataclasses import asdict, replace

import pytest
import torch

from cmf.blocks.experts import load as load_of
from cmf.blocks.ss2d import SCAN
from cmf.blocks.vmamba import load
from cmf.methods.cmfs import CMFS, GREY, PUBLISHED, Config, Detail, coloured, enlarged, small, tiny
from cmf.segmentation_losses import criterion

ARMS = [dict(use="visible"), dict(use="infrared"), dict(use="early"), dict(text=False), dict(region=False),
        dict(wavelet=False), dict(fourier=False), dict(scan=False), dict(experts=False),
        dict(wavelet=False, fourier=False)]


def little(**changes) -> Config:
    """A network of three stages that is made in a moment."""
    size = dict(classes=5, text_width=6, widths=(16, 24, 32), depths=(1, 1, 1), regions=(3, 2, 1), band_states=(2,),
                band_ratio=1, mixer_states=2, pairs=1, expert_states=2, per="region", side=2, embed=16, embed_states=2,
                full=8, drop=0.0, prompts=4)
    return Config(**size | changes)


def made(config: Config, seed: int = 0) -> CMFS:
    torch.manual_seed(seed)
    return CMFS(config, torch.randn(4, config.text_width))


def batch(n: int = 2, size=(40, 44), seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return dict(visible=torch.rand(n, 3, *size, generator=generator),
                infrared=torch.rand(n, 1, *size, generator=generator),
                label=torch.randint(0, 5, (n, *size), generator=generator))


def numbers(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 101)])
def test_any_size(size):
    out = made(little())(batch(1, size))
    assert out["logits"].shape == (1, 5, *size) and out["fused"].shape == (1, 3, *size)
    assert out["fused"].min() >= 0 and out["fused"].max() <= 1
    assert len(out["routing"]) == 3 and len(out["gates"]) == 3
    h, w = (-(-n // 4) for n in size)
    assert out["gates"][0]["pixel"].shape == (1, 1, h, w)
    assert out["gates"][0]["region"].shape == (1, 3, 3) and out["gates"][0]["similarity"].shape == (1, 3, 3, 4)
    assert float(load_of(*out["routing"]).sum()) == pytest.approx(1)


@pytest.mark.parametrize("arm", ARMS + [dict(published=(name,)) for name in PUBLISHED], ids=str)
def test_every_arm_runs_and_learns(arm):
    network, b = made(little(**arm)).train(), batch()
    used = network.config.use
    b = {k: v for k, v in b.items() if used in ("both", "early") or k in (used, "label")}
    out = network(b)
    assert out["logits"].shape == (2, 5, 40, 44) and 0 <= out["fused"].min() and out["fused"].max() <= 1
    assert len(out["gates"]) == (3 if used == "both" and network.config.region else 0)
    (out["logits"].square().mean() + out["fused"].mean()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    scans = [p for name, p in network.named_parameters() if name.split(".")[-1] in SCAN]
    assert bool(scans) == network.config.scan
    assert all(p.requires_grad != ("frozen" in network.config.published) for p in scans)
    if not network.config.experts:
        assert all(r.probabilities.shape[1] == 1 for r in out["routing"])


def test_every_parameter_learns():
    network, b, loss = made(replace(little(), widths=(48, 48, 48))).train(), batch(4), criterion()
    torch.manual_seed(1)
    for block in network.collaboration[0]:
        torch.nn.init.normal_(block.fourier.leave.weight, std=0.1)          # zero at the start, and nothing behind it
    loss(network(b), b)["loss"].backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not missing
    scans = [name for name, _ in network.named_parameters() if name.split(".")[-1] in SCAN]
    # a stage: 2 encoder blocks, 2 mixers, 1 expert mixer; the first also 4 scans of collaboration; 1 in the head
    assert len(scans) == len(SCAN) * (3 * 5 + 4 + 1)


def test_some_steps_lower_the_loss():
    network, b, loss = made(little()).train(), batch(4), criterion()
    b["label"] = torch.zeros(4, 40, 44, dtype=torch.long)                   # brighter on the right is one, warmer two
    b["label"][..., 22:], b["label"][:, 20:] = 1, 2
    b["visible"] = 0.5 * b["visible"] + 0.5 * (b["label"] == 1)[:, None]
    b["infrared"] = 0.5 * b["infrared"] + 0.5 * (b["label"] == 2)[:, None]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        terms = loss(network(b), b)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    assert losses[-1]["segmentation"] < 0.8 * losses[0]["segmentation"]
    assert losses[-1]["intensity"] < losses[0]["intensity"]


def test_a_sample_does_not_depend_on_its_batch():
    network, b = made(little()).eval(), batch(3)
    with torch.no_grad():
        together = network(b)
        alone = network({k: v[1:2] for k, v in b.items()})
    for name in ("logits", "fused"):
        torch.testing.assert_close(together[name][1:2], alone[name], rtol=1e-4, atol=1e-5)


def test_words_open_gates_and_their_order_does_not_matter():
    network, b = made(little()).eval(), batch(1)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        out = network(b)
        turned = network(b | dict(text=network.text[order]))
        other = network(b | dict(text=torch.randn(6, 6)))
    torch.testing.assert_close(turned["logits"], out["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned["gates"][0]["similarity"], out["gates"][0]["similarity"][..., order])
    assert (other["gates"][0]["region"] - out["gates"][0]["region"]).abs().max() > 1e-4
    assert (other["logits"] - out["logits"]).abs().max() > 1e-5


def test_equal_inputs_of_equal_streams_may_be_swapped():
    """With equal weights in both streams and gates of one half, what the streams see does not know which is which."""
    network = made(little(text=False)).eval()
    network.encoders[1].load_state_dict(network.encoders[0].state_dict())
    for block in network.interaction:
        for pair in (block.norm, block.mixer, block.attention):
            pair[1].load_state_dict(pair[0].state_dict())
        torch.nn.init.zeros_(block.pixel[2].weight)
        torch.nn.init.zeros_(block.pixel[2].bias)
    x = torch.rand(1, 3, 32, 36)
    with torch.no_grad():
        xs = [encoder.stage(0, encoder.patch_embed(x)) for encoder in network.encoders]
        y1, y2, gates = network.interaction[0](*xs)
    assert (gates["pixel"] == 0.5).all()
    torch.testing.assert_close(y1, y2)


def test_an_arm_sees_its_own_picture_only():
    for use, other in (("visible", "infrared"), ("infrared", "visible")):
        network, b = made(little(use=use)).eval(), batch(1)
        with torch.no_grad():
            out = network({use: b[use]})
            same = network(b | {other: torch.zeros_like(b[other])})
        assert torch.equal(out["logits"], same["logits"]) and torch.equal(out["fused"], same["fused"])


def test_untouched_sources_come_through():
    """With no redrawing the grey of the fused picture lies between those of its sources, and is near the brighter."""
    network, b = made(little()).eval(), batch(1)
    with torch.no_grad():
        network.fuse.draw.weight.zero_()
        network.fuse.draw.bias.zero_()
        fused = network(b)["fused"]
    grey = lambda x: (x * torch.tensor(GREY)[:, None, None]).sum(1, True)
    y, u = grey(b["visible"]), b["infrared"]
    low, high = torch.minimum(y, u), torch.maximum(y, u)
    assert (grey(fused) >= low - 1e-5).all() and (grey(fused) <= high + 1e-5).all()
    assert (high - grey(fused)).max() < 0.02


def test_colours_stay_and_fit():
    grey, colour = torch.rand(2, 1, 6, 7), torch.rand(2, 3, 6, 7) - 0.5
    colour -= (colour * torch.tensor(GREY)[:, None, None]).sum(1, True)
    made = coloured(grey, colour)
    assert made.min() >= -1e-6 and made.max() <= 1 + 1e-6
    share = ((made - grey) / colour).mean(1, True)
    torch.testing.assert_close(made - grey, share * colour)
    whole = ((grey + colour >= 0) & (grey + colour <= 1)).all(1, True)
    assert torch.allclose(share[whole], torch.ones(())) and (share[~whole] < 1).all()
    assert torch.equal(coloured(grey, torch.zeros(2, 3, 6, 7)), grey.expand(-1, 3, -1, -1))


def test_text_is_no_part_of_a_checkpoint():
    network = made(little())
    state = network.state_dict()
    assert not [name for name in state if "text" in name or "sobel" in name]
    other = CMFS(little(), torch.randn(7, 6))
    other.load_state_dict(state)
    assert other.text.shape == (7, 6)
    assert Config(**{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(little()).items()}) == little()


def test_public_weights_of_the_encoder_load_into_both_streams():
    network, source = made(little()), made(little(), seed=1).encoders[0].state_dict()
    for encoder in network.encoders:
        load(encoder, source)
    assert torch.equal(network.encoders[1].patch_embed[0].weight, source["patch_embed.0.weight"])
    with pytest.raises(ValueError, match=r"patch_embed.0.weight has shape \(8, 3, 3, 3\), expected \(8, 4, 3, 3\)"):
        load(made(little(use="early")).encoders[0], source)


def test_the_small_network_has_two_million_parameters():
    assert 1.8e6 < numbers(CMFS(small(9, 128))) < 2.4e6
    assert small(4, 32, use="visible").use == "visible"


def test_the_published_counts():
    """Each part against the count taken from the released network, less its four numbers that nothing uses."""
    network = CMFS(tiny(9, published=("text", "head")))
    assert [numbers(e) for e in network.encoders] == [29_478_528] * 2
    assert [numbers(m) for m in network.interaction] == [604_979, 847_523, 3_426_947, 11_046_467]
    assert [numbers(m) for m in network.join] == [47_616, 187_392, 743_424, 2_961_408]
    assert [numbers(m) // 2 for m in network.refine] == [352_828, 1_230_940, 4_563_100, 17_531_164]
    assert [numbers(m) for pair in network.collaboration for m in pair] == [512_704] * 2 + [2_014_592] * 2
    assert numbers(network.norms) == 5_760
    assert numbers(network.segment) == 3_847_177 and numbers(network.fuse) == 74_147
    assert numbers(network) == 135_160_556 - 4
    network = CMFS(tiny(9))
    assert [numbers(m) for m in network.interaction] == [274_772, 861_380, 3_023_012, 11_299_940]
    assert numbers(network.fuse) == 76_194 and numbers(network) == 134_695_787


def test_enlarging_commutes_with_the_head_that_joins():
    network = made(little()).eval()
    s = [torch.rand(1, c, *hw) for c, hw in ((16, (9, 10)), (24, (5, 5)), (32, (3, 3)))]
    head = network.segment
    with torch.no_grad():
        maps = [enlarged(head.embed[i](x), 2**i, (9, 10)) for i, x in enumerate(s)]
        y = head.norm(head.join(torch.cat(maps, 1)))
        y = torch.relu(head.norm2(y + head.scan(y)))
        expected = enlarged(head.classify(y), 4, (35, 38))
        found = head([head.embedded(i, x) for i, x in enumerate(s)], (35, 38))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_sobel_filters_stay_unless_published():
    x = torch.zeros(1, 1, 5, 6)
    x[..., 3:] = 1
    detail = Detail(1)
    across, down = (torch.nn.functional.conv2d(x, s, padding=1) for s in detail.sobel)
    assert across[0, 0, 2, 2] == 1 and across[0, 0, 2, 3] == 1 and down[0, 0, 2, 2] == 0
    assert "sobel" not in dict(detail.named_parameters()) and "sobel" in dict(Detail(1, fixed=False).named_parameters())


@pytest.mark.parametrize("change, words", [
    (dict(use="thermal"), "use must be one of both, visible, infrared, early, got 'thermal'"),
    (dict(published=("mosaik",)), "published holds mosaik; choose of mosaic"),
    (dict(classes=1), "classes is 1; give the background and at least one more"),
    (dict(depths=(1, 1)), "stages differ: 3 widths, 2 depths"),
    (dict(widths=(8,) * 5, depths=(1,) * 5, regions=(1,) * 5, published=("text",)), "has 4 stages, got 5"),
])
def test_configurations_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        little(**change)


@pytest.mark.parametrize("change, words", [
    (dict(visible=torch.rand(1, 1, 40, 40)), r"visible has shape \(1, 1, 40, 40\); give \(B, 3, H, W\)"),
    (dict(infrared=torch.rand(2, 3, 40, 44)), r"infrared has shape \(2, 3, 40, 44\); give \(B, 1, H, W\)"),
    (dict(infrared=torch.rand(2, 1, 40, 30)), "H and W at least 32"),
    (dict(infrared=torch.rand(2, 1, 40, 45)), "both need the same number, height and width"),
    (dict(infrared=None), "the batch has no infrared picture; it holds visible, label"),
    (dict(text=torch.rand(4, 7)), r"text has shape \(4, 7\); give \(prompts, 6\)"),
])
def test_batches_that_do_not_fit(change, words):
    b = {k: v for k, v in (batch() | change).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        made(little())(b)


def test_a_gate_by_text_needs_text():
    with pytest.raises(ValueError, match="has a gate by text and no text came"):
        CMFS(little())(batch())
    assert CMFS(little(text=False))(batch())["logits"].shape == (2, 5, 40, 44)
