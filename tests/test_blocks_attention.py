"""Attention: rows sum to one, masked keys get nothing, order of keys does not matter, queries matter."""

import pytest
import torch

from cmf.blocks.attention import Attention, Block


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 8, generator=generator), torch.randn(2, 6, 8, generator=generator)


def attention():
    torch.manual_seed(0)
    return Attention(8, 2).eval()


def test_agrees_with_torch(tokens):
    x, y = tokens
    ours, theirs = attention(), torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    weight = torch.cat([ours.query.weight, ours.key_value.weight])
    bias = torch.cat([ours.query.bias, ours.key_value.bias])
    theirs.load_state_dict({"in_proj_weight": weight, "in_proj_bias": bias,
                            "out_proj.weight": ours.out.weight, "out_proj.bias": ours.out.bias})
    expected, weights = theirs(x, y, y, average_attn_weights=False)
    out, own = ours(x, y)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(own, weights)


def test_rows_sum_to_one_and_masked_keys_get_nothing(tokens):
    x, y = tokens
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    out, weights = attention()(x, y, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))
    assert (weights[..., 4:] == 0).all()
    torch.testing.assert_close(out, attention()(x, y[:, :4])[0])


def test_order_of_keys_does_not_matter(tokens):
    x, y = tokens
    torch.testing.assert_close(attention()(x, y)[0], attention()(x, y.flip(1))[0])


def test_query_has_a_gradient_with_two_keys_and_none_with_one(tokens):
    x, y = tokens
    x = x.requires_grad_()
    many = torch.autograd.grad(attention()(x, y)[0].square().sum(), x)[0]
    one = torch.autograd.grad(attention()(x, y[:, :1])[0].square().sum(), x)[0]
    assert many.abs().max() > 1e-4
    assert one.abs().max() == 0


def test_block_keeps_shape_for_self_and_cross(tokens):
    x, y = tokens
    block = Block(8, 2).eval()
    assert block(x)[0].shape == x.shape
    assert block(x, y)[1].shape == (2, 2, 5, 6)


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="width 8 is not a multiple of 3 heads"):
        Attention(8, 3)
