"""Frequency-spatial collaboration and the expert pair: formulas, sizes, arms and counts."""

import pytest
import torch
from torch.nn import functional as F

from cmf.blocks.collaboration import Collaboration, Gate, SpatialScan, WaveletScan
from cmf.blocks.mixture import Feed, Join, Mixture, Thin
from cmf.blocks.spectral import analyse, mosaic
from cmf.blocks.ss2d import SCAN

SIZES = [(1, 1), (1, 6), (5, 7), (8, 8), (13, 6)]


def numbers(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [dict(), dict(wavelet=False), dict(fourier=False), dict(scan=False),
                                  dict(ordered=False, signed=False)])
def test_any_size_and_every_arm(size, kind):
    torch.manual_seed(0)
    x = torch.randn(2, 8, *size)
    y = Collaboration(8, 2, 2, **kind)(x)
    assert y.shape == x.shape and y.isfinite().all()


def test_counts_are_the_published_ones():
    assert numbers(Collaboration(96, 8)) == 512_704 and numbers(Collaboration(192, 16)) == 2_014_592
    assert [numbers(Mixture(c)) + numbers(Thin(c)) for c in (96, 192)] == [352_828, 1_230_940]
    assert [numbers(Join(2 * c, c)) for c in (96, 192, 384)] == [47_616, 187_392, 743_424]


def test_wavelet_scan_adds_to_the_bands_where_they_are():
    torch.manual_seed(1)
    block, x = WaveletScan(8, 2, 2), torch.randn(1, 8, 9, 6)
    with torch.no_grad():
        block.scan.out_proj.weight.zero_()                                  # the scan adds nothing
        torch.testing.assert_close(block(x), block.enter(x))                # so analysis and synthesis cancel
        block.scale.fill_(2)
        torch.testing.assert_close(block(x), 2 * block.enter(x))
    whole = mosaic(analyse(block.enter(x), "haar", 2))
    assert whole.shape == (1, 8, 12, 8) and block.scan(block.norm(whole)).shape == whole.shape


def test_a_feature_returns_to_its_place_only_if_the_order_is_undone():
    torch.manual_seed(2)
    right, wrong = WaveletScan(8, 2, 2), WaveletScan(8, 2, 2, ordered=False)
    wrong.load_state_dict(right.state_dict())
    u = torch.randn(1, 16, 16, 16)
    moved = u.clone()
    moved[..., 6, 9] += 1
    with torch.no_grad():
        change = [(block.scan._scanned(moved) - block.scan._scanned(u)).abs().sum((0, 1)) for block in (right, wrong)]
    assert int(change[0].argmax()) == 6 * 16 + 9                            # the direct path is the strongest
    assert int(change[1].argmax()) != 6 * 16 + 9


def test_spatial_scan_is_its_formula():
    torch.manual_seed(3)
    block, x = SpatialScan(24, 2, 2), torch.randn(1, 24, 5, 4)
    y = block.scale * x + block.scan(block.norm(x))
    torch.testing.assert_close(block(x), block.scale2 * y + block.attention(block.norm2(y)))


def test_collaboration_is_its_formula():
    torch.manual_seed(4)
    block, x = Collaboration(8, 2, 2), torch.randn(1, 8, 6, 8)
    y = block.fourier(torch.cat([block.spatial(x), block.wavelet(x)], 1))
    z = F.conv2d(F.pad(block.join(y), (1, 1, 1, 1), mode="reflect"), block.depth.weight, block.depth.bias, groups=8)
    torch.testing.assert_close(block(x), block.gate(F.gelu(z)))


def test_published_filter_loses_the_sign():
    torch.manual_seed(5)
    x = torch.randn(1, 8, 6, 8)
    assert (Collaboration(8, 2, 2, signed=False).fourier(torch.cat([x, -x], 1)) >= 0).all()
    assert (Collaboration(8, 2, 2).fourier(torch.cat([x, -x], 1)) < 0).any()


def test_gate_weighs_channels():
    gate, x = Gate(8, 2, torch.nn.ReLU()), torch.randn(1, 8, 3, 3)
    weight = gate(x) / x
    torch.testing.assert_close(weight, weight[..., :1, :1].expand_as(weight), rtol=1e-3, atol=1e-5)
    assert (weight > 0).all() and (weight < 1).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("per", ["image", "region", "pixel"])
def test_expert_pair_at_any_size(size, per):
    torch.manual_seed(6)
    x = torch.randn(2, 8, *size)
    y, routing = Mixture(8, (2, 4), per, 4, states=2)(x)
    assert y.shape == x.shape and routing.chosen.sum(1).eq(1).all()
    assert Thin(8)(y).shape == Join(8, 4)(y)[:, :1].expand(-1, 8, -1, -1).shape


def test_expert_pair_is_its_formula():
    torch.manual_seed(7)
    block, x = Mixture(8, (2, 4), states=2), torch.randn(2, 8, 6, 7)
    a, b = block.enter(block.norm(x)).chunk(2, 1)
    coarse = block.coarse[0]
    q = lambda t: F.gelu(F.conv2d(t, coarse.weight, coarse.bias, 4, 2, groups=8))
    b = b + F.interpolate(block.seen(q(q(b))), (6, 7), mode="bilinear")
    mixed = x + block.leave(block.experts(F.gelu(block.mixer[1](block.mixer[0](a))), b)[0])
    feed = block.feed
    u, g = F.gelu(feed.enter[0](block.norm2(mixed))).chunk(2, 1)
    torch.testing.assert_close(block(x)[0], mixed + F.gelu(feed.leave[0](u * feed.depth(g))))


def test_thin_block_is_its_formula():
    torch.manual_seed(8)
    block, x = Thin(8), torch.randn(1, 8, 5, 4)
    q, v = F.gelu(block.enter[0](block.norm(x))).chunk(2, 1)
    y = x + block.leave(block.long[1](block.long[0](q)) * v)
    torch.testing.assert_close(block(x), y + block.feed(block.norm2(y)))
    assert isinstance(block.feed, Feed) and block.long[0].weight.shape == (8, 1, 1, 11)


@pytest.mark.parametrize("make", [lambda: Collaboration(48, 2, 1), lambda: Mixture(48, (2, 4), "pixel", states=2)])
def test_every_parameter_learns(make):
    torch.manual_seed(9)
    block = make()
    if isinstance(block, Collaboration):
        torch.nn.init.normal_(block.fourier.leave.weight, std=0.1)          # it starts at zero, behind which none learn
    y = block(torch.randn(4, 48, 9, 8))
    loss = y.square().sum() if torch.is_tensor(y) else y[0].square().sum() + y[1].probabilities.square().sum()
    loss.backward()
    names = dict(block.named_parameters())
    assert not [name for name, p in names.items() if p.grad is None or not p.grad.abs().max() > 0]
    assert {name.split(".")[-1] for name in names} >= set(SCAN)


def test_too_narrow_a_collaboration():
    with pytest.raises(ValueError, match="of 3 channels is too narrow"):
        Collaboration(3)
