"""CMAF as published: its size, its constant attention, its dead queries and its term without gradient."""

import pytest
import torch

from cmf.methods.cmaf_published import PublishedBaseline, PublishedCMAF, mean_frame, published_criterion


def batch(videos=4, segments=8, captions=4, words=3):
    """Random videos with captions at even times, all of them complete."""
    draw = torch.Generator().manual_seed(0)
    caption, tokens = torch.arange(captions).repeat_interleave(words).expand(videos, -1), captions * words
    return dict(
        visual=torch.randn(videos, segments, 32, generator=draw),
        segments=torch.ones(videos, segments, dtype=torch.bool),
        text=torch.randn(videos, tokens, 24, generator=draw), text_mask=torch.ones(videos, tokens, dtype=torch.bool),
        text_caption=caption.clone(), labels=torch.arange(videos).remainder(2).float())


def published():
    torch.manual_seed(0)
    return PublishedCMAF(32, 24).eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameters():
    full = PublishedCMAF()
    assert count(full.fusion) == 3_810_816 and count(full.head) == 165_121
    assert count(PublishedBaseline().head) == 131_585
    dead = 2 * (2 * 512 * 512 + 2 * 512)                       # W_q, W_k and their biases of both attentions
    assert dead == 1_050_624 and dead / count(full.fusion) == pytest.approx(0.276, abs=5e-4)


def test_published_attention_is_the_constant_one_and_its_queries_are_dead():
    net, some = published(), batch()
    out = net(some)
    for name in ("attention", "back"):
        assert (out[name] == 1).all() and out[name].shape == (4, 8, 1, 1)
    published_criterion(out, some)["loss"].backward()
    for attention in (net.fusion["to_text"], net.fusion["to_visual"]):
        assert (attention.in_proj_weight.grad[:64] == 0).all() and (attention.in_proj_bias.grad[:64] == 0).all()
        assert attention.in_proj_weight.grad[64:].abs().max() > 0
    key = torch.randn(4, 1, 32)
    outputs = [net.fusion["to_text"](torch.randn(4, 1, 32), key, key)[0] for _ in range(2)]
    assert torch.equal(*outputs)


def test_published_alignment_has_no_gradient():
    net, some = published(), batch()
    terms = published_criterion(net(some), some)
    assert not terms["alignment"].requires_grad and float(terms["alignment"]) > 0
    with_it = torch.autograd.grad(terms["loss"], net.fusion["text"][0].weight)[0]
    terms = published_criterion(net(some), some)
    assert torch.equal(torch.autograd.grad(terms["classification"], net.fusion["text"][0].weight)[0], with_it)


def test_published_score_is_one_a_video_and_reads_one_caption():
    net, some = published(), batch()
    some["segments"][0, 5:] = False
    out = net(some)
    assert (out["logits"][1:] == out["score"][1:, None]).all() and (out["logits"][0, 5:] < -10).all()
    later = some["text"].clone()
    later[:, 3:] = 0.0                                          # the words of captions 2 to 4
    torch.testing.assert_close(net(some | dict(text=later))["logits"], out["logits"])
    torch.testing.assert_close(net(some | dict(text_caption=some["text_caption"] + 2))["logits"], out["logits"])
    mean, _ = mean_frame(some, 3)
    torch.testing.assert_close(mean[0], some["visual"][0, [0, 2, 4]].mean(0))
    torch.testing.assert_close(mean[1], some["visual"][1, [0, 3, 7]].mean(0))
    flat = PublishedBaseline(32)(some)
    assert "alignment" not in published_criterion(flat, some) and flat["logits"].shape == (4, 8)
