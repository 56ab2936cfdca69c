"""Losses of fusion and labels, against sums written out."""

import math

import pytest
import torch

from cmf.blocks.experts import Routing
from cmf.fusion_losses import gradients
from cmf.segmentation_losses import (
    Weights,
    brightened,
    colour_difference,
    contrasted,
    criterion,
    cross_entropy,
    fusion_terms,
    larger_gradient,
    real_pixels,
)


def pictures(seed: int = 0, size=(9, 11)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(2, c, *size, generator=generator) for c in (3, 3, 1))


def test_cross_entropy_is_the_mean_over_pixels_that_count():
    torch.manual_seed(0)
    logits, label = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 2], [255, 1]]])
    share = logits.softmax(1)
    expected = -(share[0, 0, 0, 0].log() + share[0, 2, 0, 1].log() + share[0, 1, 1, 1].log()) / 3
    torch.testing.assert_close(cross_entropy(logits, label), expected)
    weights = torch.tensor([1.0, 2.0, 5.0])
    weighed = -(share[0, 0, 0, 0].log() + 5 * share[0, 2, 0, 1].log() + 2 * share[0, 1, 1, 1].log()) / 8
    torch.testing.assert_close(cross_entropy(logits, label, weights=weights), weighed)


def test_no_pixel_that_counts_is_no_loss():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


@pytest.mark.parametrize("label, weights, words", [
    (torch.zeros(1, 2, 3, dtype=torch.long), None, r"labels \(1, 2, 3\)"),
    (torch.full((1, 2, 2), 3), None, r"labels go from 3 to 3; with 3 classes they lie in 0..2, or are 255"),
    (torch.full((1, 2, 2), -1), None, "labels go from -1 to -1"),
    (torch.zeros(1, 2, 2, dtype=torch.long), torch.ones(2), "2 class weights came for 3 classes"),
])
def test_labels_that_do_not_fit(label, weights, words):
    with pytest.raises(ValueError, match=words):
        cross_entropy(torch.zeros(1, 3, 2, 2), label, weights=weights)


def test_targets():
    _, visible, infrared = pictures()
    torch.testing.assert_close(brightened(visible, 0.5), visible.sqrt())
    mean = infrared.mean((1, 2, 3), True)
    torch.testing.assert_close(contrasted(infrared, 1.7), (mean + 1.7 * (infrared - mean)).clamp(0, 1))
    assert torch.equal(contrasted(infrared, 1.0), infrared)
    mask = torch.ones_like(infrared)
    mask[..., 5:] = 0
    inner = infrared[..., :5]
    torch.testing.assert_close(contrasted(infrared, 1.7, mask)[..., :5], contrasted(inner, 1.7))


def test_terms_of_a_fused_picture():
    fused, visible, infrared = pictures(1)
    weights = Weights(gamma=0.5, contrast=1.0, grey=False)
    terms = fusion_terms(fused, visible, infrared, weights)
    v = visible.sqrt()
    torch.testing.assert_close(terms["intensity"], (fused - torch.maximum(v, infrared)).abs().mean())
    gv, gi = gradients(v), gradients(infrared.expand(-1, 3, -1, -1))
    larger = torch.where(gv.abs() > gi.abs(), gv, gi)
    torch.testing.assert_close(terms["gradient"], (gradients(fused) - larger).abs().mean())
    difference = 0
    for b in range(2):
        y = [0.299 * p[b, 0] + 0.587 * p[b, 1] + 0.114 * p[b, 2] for p in (fused, v)]
        difference += (0.564 * ((fused[b, 2] - y[0]) - (v[b, 2] - y[1]))).abs().mean() / 2
        difference += (0.713 * ((fused[b, 0] - y[0]) - (v[b, 0] - y[1]))).abs().mean() / 2
    torch.testing.assert_close(terms["colour"], difference)


def test_greys_are_fused_unless_asked_otherwise():
    fused, visible, infrared = pictures(1)
    f, v = ((p * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, True) for p in (fused, visible))
    terms, alone = fusion_terms(fused, visible, infrared), Weights(grey=False)
    torch.testing.assert_close(terms["intensity"], (f - torch.maximum(v, infrared)).abs().mean())
    torch.testing.assert_close(terms["gradient"], (gradients(f) - larger_gradient(v, infrared)).abs().mean())
    assert terms["colour"] == fusion_terms(fused, visible, infrared, alone)["colour"]
    # brighter infrared in the colours of the visible picture: all that both terms ask for
    v, u = 0.3 + 0.1 * visible, torch.full_like(infrared, 0.6)
    lifted = v + (u - (v * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, True))
    here, released = fusion_terms(lifted, v, u), fusion_terms(lifted, v, u, alone)
    assert here["intensity"] < 1e-6 and here["colour"] < 1e-6 < 1e-3 < released["intensity"]


def test_a_falling_edge_survives_only_unsigned():
    edge = torch.ones(1, 1, 6, 8)
    edge[..., 4:] = 0
    flat = torch.full_like(edge, 0.5)
    assert larger_gradient(edge, flat).amin() == pytest.approx(-1)
    assert larger_gradient(edge, flat, signed=True).amin() == 0
    assert torch.equal(larger_gradient(1 - edge, flat, signed=True), larger_gradient(1 - edge, flat))


def test_what_was_added_by_cropping_does_not_count():
    fused, visible, infrared = pictures(2, (12, 14))
    mask = torch.zeros(2, 1, 12, 14)
    mask[..., 2:9, 3:11] = 1
    terms = fusion_terms(fused, visible, infrared, mask=mask)
    outside = torch.rand(2, 3, 12, 14) * (1 - mask)
    same = fusion_terms(fused * mask + outside, visible * mask + outside, infrared * mask + outside[:, :1], mask=mask)
    for name, value in terms.items():
        torch.testing.assert_close(same[name], value, msg=name)
    nothing = fusion_terms(fused, visible, infrared, mask=torch.zeros_like(mask))
    assert all(float(value) == 0 for value in nothing.values())


def test_grey_change_is_no_colour_difference():
    fused, visible, _ = pictures(3)
    assert float(colour_difference(visible + 0.1, visible)) == pytest.approx(0, abs=1e-7)
    assert float(colour_difference(fused, visible)) > 0.01


def test_total_is_the_weighed_sum():
    fused, visible, infrared = pictures(4)
    torch.manual_seed(4)
    probabilities = torch.rand(2, 3, 1, 1).softmax(1)
    chosen = torch.zeros(2, 3, 1, 1, dtype=torch.bool)
    chosen[:, 0] = True
    outputs = dict(logits=torch.randn(2, 4, 9, 11), fused=fused, routing=[Routing(probabilities, chosen)] * 2)
    batch = dict(visible=visible, infrared=infrared, label=torch.randint(0, 4, (2, 9, 11)))
    weights = Weights(fusion=0.3, intensity=2, gradient=3, colour=4, balance=5, classes=(1, 1, 1, 2))
    terms = criterion(weights)(outputs, batch)
    assert set(terms) == {"segmentation", "intensity", "gradient", "colour", "balance", "loss"}
    torch.testing.assert_close(terms["balance"], 3 * probabilities[:, 0].mean())
    drawn = 2 * terms["intensity"] + 3 * terms["gradient"] + 4 * terms["colour"]
    torch.testing.assert_close(terms["loss"], terms["segmentation"] + 0.3 * drawn + 5 * terms["balance"])
    by_hand = cross_entropy(outputs["logits"], batch["label"], weights=torch.tensor([1.0, 1, 1, 2]))
    torch.testing.assert_close(terms["segmentation"], by_hand)
    masked = criterion(weights)(outputs, batch | dict(mask=torch.zeros(2, 1, 9, 11)))
    assert float(masked["intensity"]) == 0 and masked["segmentation"] == terms["segmentation"]
    unrouted = criterion()(outputs | dict(routing=[]), batch)
    assert float(unrouted["balance"]) == 0 and math.isfinite(float(unrouted["loss"]))


def test_added_pixels_are_found_without_a_mask():
    fused, visible, infrared = pictures(6, (10, 12))
    label = torch.ones(2, 10, 12, dtype=torch.long)
    label[0, 0, 0] = 255                                                    # a real pixel without a label
    batch = dict(visible=visible.clone(), infrared=infrared.clone(), label=label)
    for value, name in ((0, "visible"), (0, "infrared"), (255, "label")):
        batch[name][..., 8:] = value
    batch["infrared"][1, 0, 2, 2] = 0                                       # black in one of both is no padding
    mask = real_pixels(batch)
    assert mask[..., :8].all() and not mask[..., 8:].any()
    outputs = dict(logits=torch.randn(2, 4, 10, 12), fused=fused, routing=[])
    found, said = criterion()(outputs, batch), criterion()(outputs, batch | dict(mask=mask))
    assert all(torch.equal(found[name], said[name]) for name in found)
    other = criterion()(outputs | dict(fused=torch.where(mask, fused, torch.zeros(()))), batch)
    assert torch.equal(other["loss"], found["loss"])


def test_gradient_of_the_terms_is_right():
    fused, visible, infrared = (x.double() for x in pictures(5, (4, 5)))
    fused.requires_grad_(True)
    total = lambda f: sum(fusion_terms(f, visible, infrared).values())
    assert torch.autograd.gradcheck(total, (fused,))


def test_pictures_that_do_not_fit():
    fused, visible, infrared = pictures()
    with pytest.raises(ValueError, match=r"infrared \(2, 3, 9, 11\); give \(B, 3, H, W\) twice and \(B, 1, H, W\)"):
        fusion_terms(fused, visible, visible)


def test_weights_that_cannot_be():
    with pytest.raises(ValueError, match="colour=-1, gamma=0: weights are at least 0, gamma and contrast above 0"):
        Weights(colour=-1, gamma=0)
