"""Loss terms of fusion: equal to the measures of their name, differentiable, and what each one is for."""

import numpy as np
import pytest
import small_fusion as small
import torch

from cmf import fusion_losses as terms
from cmf.metrics.fusion import evaluate


def triple(height=64, width=80):
    """Infrared, visible and fused (H, W) uint8: a generated pair and a picture between them, with an error."""
    colours, infrared = small.pair(height, width)
    visible = colours[..., 1]
    noise = np.random.default_rng(3).normal(0, 5, visible.shape)
    fused = np.rint(np.maximum(visible, infrared) * 0.8 + noise).clip(0, 255).astype(np.uint8)
    return infrared, visible, fused


def tensors(*pictures):
    """(1, 1, H, W) float64 in [0, 1] each."""
    return [torch.from_numpy(p.astype(np.float64))[None, None] / 255 for p in pictures]


def noise(n=1, side=12, seed=0):
    return torch.rand(n, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(rising=True, side=12):
    """A vertical edge of height 1."""
    x = torch.zeros(1, 1, side, side, dtype=torch.float64)
    x[..., side // 2:] = 1
    return x if rising else 1 - x


@pytest.mark.parametrize(("height", "width"), [(64, 80), (97, 61), (41, 41)])
def test_terms_equal_the_measures(height, width):
    pictures = triple(height, width)
    infrared, visible, fused = tensors(*pictures)
    expected = evaluate(*pictures, names=("SSIM", "VIF", "SCD"))
    mean = 0.5 * (terms.ssim(fused, infrared) + terms.ssim(fused, visible))
    assert mean.item() == pytest.approx(expected["SSIM"], abs=1e-6)
    both = terms.visual_information(infrared, fused) + terms.visual_information(visible, fused)
    assert both.item() == pytest.approx(expected["VIF"], abs=1e-5)
    assert terms.difference_correlation(fused, infrared, visible).item() == pytest.approx(expected["SCD"], abs=1e-6)


def test_single_precision_is_close():
    infrared, visible, fused = tensors(*triple())
    for term in (terms.ssim, terms.visual_information, terms.correlation):
        assert term(visible.float(), fused.float()).item() == pytest.approx(term(visible, fused).item(), abs=1e-4)


def test_pictures_of_a_batch_do_not_meet():
    x, y = torch.cat([noise(side=48), noise(side=48, seed=1)]), noise(2, 48, seed=2)
    for term in (terms.ssim, terms.visual_information, terms.correlation):
        apart = torch.cat([term(x[k:k + 1], y[k:k + 1]) for k in range(2)])
        torch.testing.assert_close(term(x, y), apart)


def test_identical_pictures():
    x = noise(2, 48)
    assert torch.allclose(terms.ssim(x, x), torch.ones(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(terms.visual_information(x, x), torch.ones(2, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(terms.correlation(x, x), torch.ones(2, dtype=torch.float64), atol=1e-6)
    assert terms.intensity(x, x) == 0 and terms.gradient(x, x, torch.zeros_like(x)) == 0


def test_visual_information_rises_above_one_where_contrast_is_raised():
    x = 0.5 + 0.3 * (noise(side=48) - 0.5)
    assert terms.visual_information(x, 0.5 + 1.5 * (x - 0.5)) > 1 > terms.visual_information(x, 0.5 * x)


@pytest.mark.parametrize("term", [terms.intensity, terms.ssim, terms.correlation])
def test_derivatives_of_two(term):
    assert torch.autograd.gradcheck(term, (noise().requires_grad_(), noise(seed=1).requires_grad_()))


def test_derivative_of_visual_information():
    """With respect to the fused picture, in eight directions: 41 x 41 numbers one by one take long."""
    x, y, draw = noise(side=41), noise(side=41, seed=1).requires_grad_(), torch.Generator().manual_seed(2)
    found, = torch.autograd.grad(terms.visual_information(x, y).sum(), y)
    for _ in range(8):
        along = torch.randn(y.shape, dtype=y.dtype, generator=draw)
        ahead, behind = (terms.visual_information(x, y.detach() + e * along).item() for e in (1e-6, -1e-6))
        assert (found * along).sum().item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("term", [terms.gradient, terms.artefacts, terms.beyond,
                                  terms.difference_correlation])
def test_derivatives_of_three(term):
    assert torch.autograd.gradcheck(lambda f: term(f, noise(seed=1), noise(seed=2)), noise().requires_grad_())


def test_gradients_of_a_step_and_of_a_ramp():
    across, down = terms.gradients(step()).unbind(1)
    assert torch.equal(across[0, :, 5], torch.ones(12, dtype=torch.float64)) and (down == 0).all()
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert torch.equal(terms.gradients(ramp)[0, 0, :, 1:-1], torch.full((8, 6), 2.0))
    assert terms.gradients(ramp)[0, 1].abs().max() == 0


def test_falling_edges_are_kept():
    """A maximum of signed gradients takes the flat source where an edge falls; a choice by length does not."""
    falling, flat = step(rising=False), torch.full_like(step(), 0.5)
    chosen = terms.strongest_gradient(falling, flat)
    assert torch.equal(chosen, terms.gradients(falling)) and chosen.min() == -1
    assert torch.maximum(terms.gradients(falling), terms.gradients(flat)).abs().max() == 0
    assert terms.gradient(falling, falling, flat) == 0 < terms.gradient(flat, falling, flat)
    assert torch.equal(terms.strongest_gradient(0.3 * falling, step()), terms.gradients(step()))


def test_artefacts_are_edges_that_no_source_has():
    a, b = noise(seed=1), noise(seed=2)
    for fused in (a, b, 0.5 * (a + b), 0.2 * a + 0.8 * b, torch.full_like(a, 0.4)):
        assert terms.artefacts(fused, a, b) == 0
    assert terms.artefacts(a + 0.1 * noise(seed=3), a, b) > 0
    halo = terms.artefacts(1.5 * step(), step(), torch.zeros_like(a))
    assert halo.item() == pytest.approx(0.5 * 2 / 12, abs=1e-4)                # two columns of twelve


def test_beyond_is_what_no_pixel_nearby_reaches():
    a, b = noise(side=16, seed=1), noise(side=16, seed=2)
    for fused in (a, b, torch.maximum(a, b), torch.minimum(a, b), 0.3 * a + 0.7 * b):
        assert terms.beyond(fused, a, b) == 0
    flat = torch.full_like(a, 0.5)
    rim, halo = flat.clone(), flat.clone()
    rim[..., 4, 5], halo[..., 7:9, 3] = 0.9, 0.2
    assert terms.beyond(rim, flat, flat).item() == pytest.approx(0.4 / 256)
    assert terms.beyond(halo, flat, flat).item() == pytest.approx(0.6 / 256)
    lamp = flat.clone()
    lamp[..., 4, 7] = 1
    assert terms.beyond(rim, flat, lamp) == 0, "two pixels away a source is as bright"
    assert terms.beyond(rim, flat, lamp, around=3) > 0


def test_where_says_what_counts():
    f, t = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    t[..., 2:] = 3
    left = torch.zeros(2, 1, 4, 4)
    left[..., :2] = 1
    assert terms.intensity(f, t) == 2 and terms.intensity(f, t, left) == 1 and terms.intensity(f, t, 1 - left) == 3
    assert terms.intensity(f, t, 0.25 * left) == 1, "degrees of it are weights"
    assert terms.intensity(f, t, 0 * left) == 0, "nowhere: nothing is asked"
    edge, flat = step(), torch.zeros_like(step())
    near = torch.zeros_like(edge)
    near[..., 5:7] = 1
    assert terms.gradient(flat, edge, flat, near) == 1 and terms.gradient(flat, edge, flat, 1 - near) == 0


def test_constant_pictures_have_finite_terms_and_derivatives():
    flat, other = torch.full((1, 1, 48, 48), 0.5, requires_grad=True), torch.full((1, 1, 48, 48), 0.2)
    assert terms.correlation(flat, other) == 0
    total = (terms.ssim(flat, other) + terms.visual_information(other, flat) + terms.artefacts(flat, other, other)
             + terms.difference_correlation(flat, other, other) + terms.gradient(flat, other, other)).sum()
    total.backward()
    assert total.isfinite() and flat.grad.isfinite().all()


def test_direction_of_the_change():
    source, wanted, stated = (torch.randn(3, 8, generator=torch.Generator().manual_seed(k)) for k in range(3))
    change = wanted - stated
    assert terms.direction(source + 2 * change, source, wanted, stated).item() == pytest.approx(0, abs=1e-6)
    assert terms.direction(source - change, source, wanted, stated).item() == pytest.approx(1, abs=1e-6)
    across = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    across = across - change * (across * change).sum(1, True) / change.square().sum(1, True)
    assert terms.direction(source + across, source, wanted, stated).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(("term", "side", "words"), [
    (terms.ssim, 10, "a side of 10 pixels is smaller than the window of 11; give larger pictures"),
    (terms.visual_information, 16, "a side of 16 pixels is smaller than the window of 17"),
    (terms.visual_information, 40, "a side of 2 pixels is smaller than the window of 3")])
def test_small_pictures_are_refused(term, side, words):
    with pytest.raises(ValueError, match=words):
        term(noise(side=side), noise(side=side, seed=1))
