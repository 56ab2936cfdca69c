"""Losses against hand-made values."""

import math

import pytest
import torch
from torch.nn import functional as F

from cmf.losses import hard_negative_hinge, head_diversity, info_nce, top_k_bce


def test_hinge_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # similarity rows: [1, 1], [0, 0]; a->b: .3-1+1, .3-0+0; b->a: .3-1+0 -> 0, .3-0+1
    expected = (0.3 + 0.3) / 2 + (0.0 + 1.3) / 2
    torch.testing.assert_close(hard_negative_hinge(a, b), torch.tensor(expected))


def test_pairs_of_one_class_are_no_negatives():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = hard_negative_hinge(a, a.detach().flip(0), labels=torch.tensor([1, 1]))
    assert loss == 0
    loss.backward()
    assert torch.isfinite(a.grad).all()


def test_scale_does_not_matter_and_the_gradient_separates():
    torch.manual_seed(0)
    a, b = torch.randn(8, 4), torch.randn(8, 4)
    torch.testing.assert_close(hard_negative_hinge(a, b), hard_negative_hinge(5 * a, 0.1 * b))
    a.requires_grad_()
    before = hard_negative_hinge(a, b)
    step = a - 0.5 * torch.autograd.grad(before, a)[0]
    assert hard_negative_hinge(step, b) < before


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2, 4\)"):
        hard_negative_hinge(torch.ones(2, 3), torch.ones(2, 4))


def test_top_k_bce_against_the_obvious_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 40, generator=generator, dtype=torch.float64).requires_grad_()
    present = torch.arange(40) < torch.tensor([40, 33, 15, 1])[:, None]
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    slow = 0.0
    for row, exists, label in zip(logits, present, labels, strict=True):
        own = row[exists].sigmoid()
        k = min(len(own) // 16 + 1, len(own))                   # 3, 3, 1, 1
        slow = slow + F.binary_cross_entropy(own.topk(k).values.mean(), label) / 4
    fast = top_k_bce(logits, labels, present)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (fast, slow)), rtol=1e-4, atol=1e-8)


def test_top_k_bce_neither_overflows_nor_goes_silent():
    logits = torch.tensor([[-200.0, -300.0], [200.0, 100.0]], requires_grad=True)
    loss = top_k_bce(logits, torch.tensor([1.0, 0.0]), torch.ones(2, 2, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(200.0) and logits.grad[0, 0] < -0.4 and logits.grad[1, 0] > 0.4
    assert torch.isfinite(logits.grad).all()


def test_top_k_bce_refuses():
    ones = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"labels \(B,\), got \(2, 3\), \(2, 3\) and \(3,\)"):
        top_k_bce(torch.zeros(2, 3), torch.zeros(3), ones)
    ones[1] = False
    with pytest.raises(ValueError, match="bag 1 has no segment; drop it"):
        top_k_bce(torch.zeros(2, 3), torch.zeros(2), ones)


def test_info_nce_by_hand():
    a = torch.eye(2)
    swapped, own = info_nce(a, a.flip(0), 0.5), info_nce(a, 3 * a, 0.5)
    assert float(own) == pytest.approx(math.log(1 + math.exp(-2.0)))
    assert float(swapped) == pytest.approx(math.log(1 + math.exp(2.0)))
    lone = torch.ones(1, 4, requires_grad=True)
    info_nce(lone, lone).backward()
    assert (lone.grad == 0).all()
    with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(1, 2\)"):
        info_nce(a, a[:1])


def test_head_diversity_by_hand():
    uniform, sharp = torch.full((4,), 0.25), torch.eye(4)[0]
    rows, keys = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    make = lambda *heads: torch.stack([h.expand(3, 4) for h in heads])[None]
    assert float(head_diversity(make(uniform, uniform), rows, keys)) == pytest.approx(1.0)      # equal heads
    assert float(head_diversity(make(sharp, sharp.roll(1)), rows, keys)) == pytest.approx(0.0)  # entropy log 2
    assert float(head_diversity(make(sharp, sharp), rows, keys)) == pytest.approx(1.3)          # and collapsed
    assert float(head_diversity(make(sharp), rows, keys)) == pytest.approx(0.3)                 # one head
    lone = torch.tensor([[True, False, False, False]])
    assert float(head_diversity(make(sharp, sharp), rows, lone)) == 0.0                         # one key
    with pytest.raises(ValueError, match=r"needs rows \(1, 3\) and keys \(1, 4\), got \(1, 4\)"):
        head_diversity(make(uniform), keys, keys)


def test_head_diversity_has_a_finite_gradient_that_parts_the_heads():
    scores = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, keys = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    rows[0, 3:] = False
    loss = lambda s: head_diversity(s.softmax(-1), rows, keys)
    gradient = torch.autograd.grad(loss(scores), scores)[0]
    assert torch.isfinite(gradient).all() and loss(scores - 5 * gradient) < loss(scores)
