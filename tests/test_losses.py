"""Losses against hand-made values."""

import pytest
import torch

from cmf.losses import hard_negative_hinge


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
