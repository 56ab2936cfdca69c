"""Exchange of two modalities region by region, against small sums written out."""

import pytest
import torch
from torch.nn import functional as F

from cmf.blocks.region import Attention, Interaction, PublishedTextGate, RMSNorm2d, TextGate, merge, region_mask, split

SIZES = [(1, 1), (3, 4), (7, 9), (10, 10), (4, 21)]


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("size", SIZES)
def test_regions_go_back_to_their_places(size, number):
    x = torch.rand(2, 3, *size)
    parts = split(x, number)
    h, w = (-(-n // number) for n in size)
    assert parts.shape == (2 * number**2, 3, h, w)
    assert torch.equal(merge(parts, number, size), x)
    torch.testing.assert_close(parts.sum(), x.sum())                        # filled up with zeros
    assert region_mask(size, number, x).sum() == size[0] * size[1]


def test_a_region_is_a_window_of_the_map():
    x = torch.arange(2 * 1 * 6 * 8).view(2, 1, 6, 8).float()
    assert torch.equal(split(x, 2)[3], x[0, :, 3:, 4:]) and torch.equal(split(x, 2)[4], x[1, :, :3, :4])


def test_attention_is_its_formula_and_counts_no_padding():
    torch.manual_seed(0)
    block, x = Attention(8).double(), torch.randn(1, 8, 4, 5, dtype=torch.float64) - 3   # all below zero
    a, p = block(x, torch.ones(1, 1, 4, 5, dtype=torch.float64))
    pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
    torch.testing.assert_close(a[:, :, 0, 0], block.channel(pooled).sigmoid())
    seen = torch.cat([x.mean(1, True), x.amax(1, True)], 1)
    torch.testing.assert_close(p, block.pixel(seen).sigmoid())
    wide, mask = F.pad(x, (0, 3, 0, 2)), F.pad(torch.ones(1, 1, 4, 5, dtype=torch.float64), (0, 3, 0, 2))
    a2, p2 = block(wide, mask)
    torch.testing.assert_close(a2, a)
    torch.testing.assert_close(p2[..., :4, :5], p)


def test_a_region_of_padding_alone_stays_finite():
    block = Interaction(8, 5, text=6)
    x = torch.randn(1, 8, 3, 11)                                            # three rows for five regions
    y1, y2, gates = block(x, x.flip(-1), torch.randn(2, 6))
    assert y1.isfinite().all() and y2.isfinite().all() and gates["region"].isfinite().all()
    (y1.sum() + y2.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in block.parameters())


def test_text_gate_is_its_formula():
    torch.manual_seed(1)
    gate = TextGate(4, 6).double()
    v, text = torch.randn(3, 4, 5, 2, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    g, s = gate(v, torch.ones(3, 1, 5, 2, dtype=torch.float64), text)
    unit = text / text.norm(dim=1, keepdim=True)
    for r in range(3):
        q = gate.query(v[r].mean((1, 2)))
        cosines = torch.stack([q @ t / (q.norm() * t.norm()) for t in text])
        torch.testing.assert_close(s[r], cosines)
        weights = (gate.sharpness.exp() * cosines).softmax(0)
        told = torch.cat([(weights[:, None] * unit).sum(0) * 6**0.5, cosines.max()[None]])
        torch.testing.assert_close(g[r, 0, 0, 0], gate.gate(told)[0].sigmoid())


def test_text_gate_counts_no_padding():
    torch.manual_seed(8)
    gate, v, text = TextGate(4, 6), torch.randn(3, 4, 5, 2), torch.randn(7, 6)
    g, s = gate(v, torch.ones(3, 1, 5, 2), text)
    padded = gate(F.pad(v, (0, 4, 0, 1)), F.pad(torch.ones(3, 1, 5, 2), (0, 4, 0, 1)), text)
    torch.testing.assert_close(padded, (g, s))


def test_regions_know_nothing_of_each_other():
    torch.manual_seed(9)
    attention, x = Attention(8), torch.randn(1, 8, 7, 9)                    # regions of 4 x 5, filled up on two sides
    a, p = attention(split(x, 2), region_mask((7, 9), 2, x))
    for k, (rows, columns) in enumerate([(slice(0, 4), slice(0, 5)), (slice(0, 4), slice(5, 9)),
                                         (slice(4, 7), slice(0, 5)), (slice(4, 7), slice(5, 9))]):
        part = x[..., rows, columns]
        a1, p1 = attention(part, torch.ones(1, 1, *part.shape[2:]))
        torch.testing.assert_close(a[k:k + 1], a1)
        torch.testing.assert_close(p[k:k + 1, :, : part.shape[2], : part.shape[3]], p1)


def test_the_gate_hears_the_words_and_not_their_order():
    torch.manual_seed(2)
    block = Interaction(16, 2, text=12).eval()
    x1, x2, text = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8), torch.randn(5, 12)
    order = torch.tensor([3, 1, 4, 0, 2])
    y, y_order, y_scaled = (block(x1, x2, t) for t in (text, text[order], 7 * text))
    torch.testing.assert_close(y_order[0], y[0])
    torch.testing.assert_close(y_order[2]["region"], y[2]["region"])
    torch.testing.assert_close(y_order[2]["similarity"], y[2]["similarity"][..., order])
    torch.testing.assert_close(y_scaled[0], y[0])                           # only directions of embeddings count
    other = block(x1, x2, torch.randn(3, 12))                               # another number of prompts is no error
    assert (other[2]["region"] - y[2]["region"]).abs().max() > 1e-4
    assert (other[0] - y[0]).abs().max() > 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [dict(), dict(text=None), dict(published=(12, 3)), dict(shuffled=True),
                                  dict(scan=False)])
def test_any_size_and_every_arm(size, kind):
    torch.manual_seed(3)
    block = Interaction(8, **dict(regions=2, text=6, states=2) | kind)
    x1, x2 = torch.randn(2, 8, *size), torch.randn(2, 8, *size)
    y1, y2, gates = block(x1, x2, torch.randn(3, 6))
    assert y1.shape == y2.shape == x1.shape
    assert gates["pixel"].shape == x1.shape
    if kind.get("text", 6):
        assert gates["region"].shape == (2, 2, 2) and gates["similarity"].shape == (2, 2, 2, 3)
        assert ((gates["region"] > 0) & (gates["region"] < 1)).all()
    else:
        assert "region" not in gates


def test_exchange_is_its_formula():
    torch.manual_seed(4)
    block = Interaction(8, 1, text=None, states=2)
    x1, x2 = torch.randn(1, 8, 4, 3), torch.randn(1, 8, 4, 3)
    y = [x + block.mixer[k](block.norm[k](x)) for k, x in enumerate((x1, x2))]
    gate = block.pixel(torch.cat(y, 1)).sigmoid()
    (a1, p1), (a2, p2) = (block.attention[k](y[k], torch.ones(1, 1, 4, 3)) for k in (0, 1))
    o1, o2, gates = block(x1, x2)
    torch.testing.assert_close(o1, y[0] + gate * (y[1] * a1 + y[1] * p1))
    torch.testing.assert_close(o2, y[1] + (1 - gate) * (y[0] * a2 + y[0] * p2))
    torch.testing.assert_close(gates["pixel"], gate)


def test_published_shuffle_renames_the_channels():
    torch.manual_seed(5)
    block = Interaction(8, 1, text=None, states=2, shuffled=True)
    names = torch.arange(8.0)[None, :, None, None]
    with torch.no_grad():
        block.mixer[0].out_proj.weight.zero_()                              # nothing is added
    assert block._mixed(0, names).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_published_gate_is_its_formula_and_sees_middle_taps_only():
    torch.manual_seed(6)
    gate = PublishedTextGate(12, 3, 6)
    v, text = torch.randn(2, 4, 3, 4), torch.randn(3, 6)
    g, s = gate(v, torch.ones(2, 1, 3, 4), text)
    q = gate.query(v.mean(1).flatten(1))                                    # twelve pixels: nothing is pooled
    torch.testing.assert_close(s, F.cosine_similarity(q[:, None], text[None], dim=-1))
    first, second = gate.gate[0], gate.gate[2]
    hidden = F.relu(s @ first.weight[..., 1, 1].T + first.bias)
    torch.testing.assert_close(g[:, 0, 0, 0], (hidden @ second.weight[0, :, 1, 1] + second.bias).sigmoid())
    with pytest.raises(ValueError, match="4 prompts came; the published gate is made for 3"):
        gate(v, torch.ones(2, 1, 3, 4), torch.randn(4, 6))


def test_every_parameter_learns():
    torch.manual_seed(7)
    block = Interaction(16, 2, text=6, states=2)
    y1, y2, _ = block(torch.randn(2, 16, 5, 6), torch.randn(2, 16, 5, 6), torch.randn(3, 6))
    (y1.square().sum() + y2.square().sum()).backward()
    assert not [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_root_mean_square_norm():
    x = torch.randn(2, 6, 3, 4)
    expected = x / (x.square().mean(1, True) + 1e-5).sqrt()
    torch.testing.assert_close(RMSNorm2d(6)(x), expected)


@pytest.mark.parametrize("width, regions", [(12, 2), (16, 0)])
def test_widths_and_regions_that_cannot_be(width, regions):
    with pytest.raises(ValueError, match=f"width {width} and regions {regions}: give a multiple of 8"):
        Interaction(width, regions)


def test_a_gate_by_text_needs_text():
    with pytest.raises(ValueError, match="has a gate by text, and no text came"):
        Interaction(8, 2, text=6)(torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4))
