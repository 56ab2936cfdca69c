"""Scans of pictures in four directions and of sequences in two, against the recurrence written out."""

import math

import pytest
import torch
from torch.nn import functional as F

from cmf.blocks import ss2d
from cmf.blocks.channels import DropPath, LayerNorm2d, Linear2d
from cmf.blocks.scan import selective_scan, visiting_order
from cmf.blocks.ss2d import SCAN, SS2D, Mixer, Scans, freeze

SIZES = [(1, 1), (2, 3), (7, 5), (8, 8)]


def one_scan(block: Scans, u: torch.Tensor, k: int) -> torch.Tensor:
    """Direction k of `block` as it is written: u (E, L) in its order -> (E, L)."""
    s, b, c = (block.x_proj_weight[k] @ u).split([block.rank, block.states, block.states])
    step = F.softplus(block.dt_projs_weight[k] @ s + block.dt_projs_bias[k][:, None])
    a = -block.A_logs.unflatten(0, (block.directions, -1))[k].exp()
    skip = block.Ds.unflatten(0, (block.directions, -1))[k]
    return selective_scan(u[None], step[None], a, b[None], c[None], skip, backend="reference")[0]


def picture_orders(height: int, width: int, tile: int | None, dilated: bool) -> list[torch.Tensor]:
    """The four visiting orders, as row-major places."""
    if tile is None:
        places = torch.arange(height * width).view(height, width)
        first, second = places.flatten(), places.T.flatten()
    else:
        first, second = (visiting_order(height, width, tile, dilated, turned) for turned in (False, True))
    return [first, second, first.flip(0), second.flip(0)]


def shaken(block: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The block with all its parameters off their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return block


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kind", [dict(), dict(tile=4), dict(tile=2, dilated=True)])
def test_picture_scan_is_the_sum_of_four_recurrences(size, gated, kind):
    torch.manual_seed(1)
    block = shaken(SS2D(6, ratio=1.5, states=3, rank=2, gated=gated, **kind)).double()
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    entered = torch.einsum("oc,bchw->bohw", block.in_proj.weight, x)
    u = F.silu(F.conv2d(entered[:, :9], block.conv2d.weight, block.conv2d.bias, padding=1, groups=9))
    merged = torch.zeros(9, size[0] * size[1], dtype=torch.float64)
    for k, order in enumerate(picture_orders(*size, kind.get("tile"), kind.get("dilated", False))):
        merged[:, order] += one_scan(block, u[0].flatten(1)[:, order], k)
    y = block.out_norm(merged.view(1, 9, *size))
    if gated:
        y = y * F.silu(entered[:, 9:])
    torch.testing.assert_close(block(x), block.out_proj(y))


def test_published_order_leaves_features_at_other_places():
    torch.manual_seed(2)
    right = SS2D(8, states=2, gated=True, tile=4, dilated=True)
    wrong = SS2D(8, states=2, gated=True, tile=4, dilated=True, inverse=False)
    wrong.load_state_dict(right.state_dict())
    x = torch.randn(1, 8, 8, 8)
    assert (right(x) - wrong(x)).abs().max() > 1e-4
    flat = x[..., :4, :4]                                                   # one tile: windows are the raster itself
    torch.testing.assert_close(SS2D.forward(right, flat), SS2D.forward(wrong, flat))


@pytest.mark.parametrize(("normed", "mean"), [(True, True), (False, True), (False, False)])
def test_mixer_is_two_recurrences(normed, mean):
    torch.manual_seed(3)
    block = shaken(Mixer(4, states=3, normed=normed, mean=mean)).double()
    x = torch.randn(1, 4, 3, 5, dtype=torch.float64)
    a, z = (block.in_proj.weight @ x[0].flatten(1)).chunk(2)                # (E, L) each
    total = 0
    for k, turn in enumerate((lambda t: t, lambda t: t.flip(-1))):
        weight, bias = (p.chunk(2)[k] for p in (block.conv.weight, block.conv.bias))
        u = F.silu(F.conv1d(F.pad(turn(a), (3, 0))[None], weight, bias, groups=8))[0]
        total = total + turn(one_scan(block, u, k))
    scale = (total.square().mean(0) + 1e-5).rsqrt() if normed else 0.5 if mean else 1
    expected = block.out_proj.weight @ (scale * total * F.silu(z))
    torch.testing.assert_close(block(x)[0].flatten(1), expected)


@pytest.mark.parametrize("make", [lambda: SS2D(4, states=2, rank=1, gated=True, tile=2), lambda: Mixer(2, 2)])
def test_gradients_are_right(make):
    torch.manual_seed(10)
    block = shaken(make()).double()
    x = torch.randn(1, block.in_proj.in_features, 3, 2, dtype=torch.float64, requires_grad=True)
    names, values = zip(*block.named_parameters(), strict=True)
    run = lambda x, *values: torch.func.functional_call(block, dict(zip(names, values, strict=True)), x)
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


def test_half_precision_keeps_the_state_wide():
    torch.manual_seed(11)
    block, x = SS2D(16, states=2, gated=True), torch.randn(1, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - block(x)).abs().max() < 0.05 * block(x).abs().max()


@pytest.mark.parametrize("make", [lambda: SS2D(16, 2, 3, gated=True), lambda: SS2D(16, 2, 3, gated=True, tile=4),
                                  lambda: Mixer(16, 4)])
def test_blocks_of_channels_change_nothing(make, monkeypatch):
    torch.manual_seed(4)
    block, x = make(), torch.randn(2, 16, 6, 7)
    whole = block(x).detach()
    monkeypatch.setattr(ss2d, "BLOCK", 1)                                   # sixteen channels at once, no gradient
    with torch.no_grad():
        assert len(block.blocks(2, 42)) == 2
        torch.testing.assert_close(block(x), whole)


@pytest.mark.parametrize("make", [lambda: SS2D(8, states=2), lambda: SS2D(8, states=2, gated=True, tile=4),
                                  lambda: Mixer(8, 2)])
def test_every_parameter_learns_and_arms_without_scan_have_none(make):
    torch.manual_seed(5)
    block = shaken(make())
    block(torch.randn(2, 8, 5, 6)).square().sum().backward()
    without = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without
    assert set(SCAN) <= set(dict(block.named_parameters()))


def test_without_scan_a_pixel_sees_its_neighbours_only():
    torch.manual_seed(6)
    block, x = SS2D(8, gated=True, scan=False), torch.randn(1, 8, 9, 9)
    assert not set(SCAN) & set(dict(block.named_parameters()))
    moved = x.clone()
    moved[..., 0, 0] += 1
    changed = (block(moved) - block(x)).abs().amax(1)[0] > 0
    assert changed[:2, :2].any() and not changed[2:].any() and not changed[:, 2:].any()
    assert Mixer(8, scan=False)(x).shape == x.shape


def test_start_of_a_scan():
    torch.manual_seed(7)
    block = SS2D(32, states=4)
    step = F.softplus(block.dt_projs_bias.detach())
    assert 9e-4 < float(step.min()) and float(step.max()) < 0.11
    torch.testing.assert_close(block.A_logs[0], torch.tensor([0, math.log(2), math.log(3), math.log(4)]))
    assert block.rank == 2 and (block.Ds == 1).all()
    assert block.dt_projs_weight.abs().max() <= 2**-0.5


def test_freeze_stops_scans_and_nothing_else():
    block = torch.nn.Sequential(SS2D(8, states=2), Mixer(8, 2), SS2D(8, scan=False))
    numbers = freeze(block)
    frozen = {name for name, p in block.named_parameters() if not p.requires_grad}
    assert frozen == {f"{i}.{name}" for i in (0, 1) for name in SCAN}
    assert numbers == sum(p.numel() for p in block.parameters() if not p.requires_grad)


def test_layers_of_maps():
    torch.manual_seed(8)
    x = torch.randn(2, 6, 3, 4)
    norm, linear = shaken(LayerNorm2d(6)), Linear2d(6, 5)
    expected = F.layer_norm(x[1, :, 2, 3], (6,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(x)[1, :, 2, 3], expected)
    torch.testing.assert_close(linear(x)[1, :, 2, 3], linear.weight @ x[1, :, 2, 3] + linear.bias)


def test_stochastic_depth_leaves_out_whole_samples():
    torch.manual_seed(9)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 1, 1)
    y = drop(x)
    kept = y[:, 0, 0, 0] > 0
    assert abs(float(kept.double().mean()) - 0.75) < 0.03
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / 0.75)) and not y[~kept].any()
    assert drop.eval()(x) is x
    with pytest.raises(ValueError, match=r"probability in \[0, 1\), not 1"):
        DropPath(1)
