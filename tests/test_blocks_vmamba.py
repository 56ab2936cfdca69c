"""The encoder: names and shapes of the public weights, sizes, and what does not fit."""

import pytest
import torch

from cmf.blocks.vmamba import VMamba, VSSBlock, load

WIDTHS, DEPTHS = (96, 192, 384, 768), (2, 2, 8, 2)


def public_shapes(widths=WIDTHS, depths=DEPTHS) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the file of VMamba-T, release s1l8, written down from the architecture."""
    half = widths[0] // 2
    shapes = {"patch_embed.0.weight": (half, 3, 3, 3), "patch_embed.0.bias": (half,),
              "patch_embed.2.weight": (half,), "patch_embed.2.bias": (half,),
              "patch_embed.5.weight": (widths[0], half, 3, 3), "patch_embed.5.bias": (widths[0],),
              "patch_embed.7.weight": (widths[0],), "patch_embed.7.bias": (widths[0],)}
    for i, (c, depth) in enumerate(zip(widths, depths, strict=True)):
        r = -(-c // 16)
        for j in range(depth):
            block = {"norm.weight": (c,), "norm.bias": (c,), "norm2.weight": (c,), "norm2.bias": (c,),
                     "op.x_proj_weight": (4, r + 2, c), "op.dt_projs_weight": (4, c, r), "op.dt_projs_bias": (4, c),
                     "op.A_logs": (4 * c, 1), "op.Ds": (4 * c,), "op.out_norm.weight": (c,), "op.out_norm.bias": (c,),
                     "op.in_proj.weight": (c, c), "op.conv2d.weight": (c, 1, 3, 3), "op.out_proj.weight": (c, c),
                     "mlp.fc1.weight": (4 * c, c), "mlp.fc1.bias": (4 * c,), "mlp.fc2.weight": (c, 4 * c),
                     "mlp.fc2.bias": (c,)}
            shapes |= {f"layers.{i}.blocks.{j}.{name}": shape for name, shape in block.items()}
        if i + 1 < len(widths):
            n = widths[i + 1]
            down = {"1.weight": (n, c, 3, 3), "1.bias": (n,), "3.weight": (n,), "3.bias": (n,)}
            shapes |= {f"layers.{i}.downsample.{name}": shape for name, shape in down.items()}
    last = widths[-1]
    return shapes | {"classifier.norm.weight": (last,), "classifier.norm.bias": (last,),
                     "classifier.head.weight": (1000, last), "classifier.head.bias": (1000,)}


def public_state(widths=WIDTHS, depths=DEPTHS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in public_shapes(widths, depths).items()}


def test_the_public_file_of_the_tiny_encoder_loads():
    encoder, state = VMamba(), public_state()
    assert sum(p.numel() for p in encoder.parameters()) == 29_478_528
    aside = load(encoder, {"model": state, "epoch": 264})
    assert sorted(aside) == ["classifier.head.bias", "classifier.head.weight", "classifier.norm.bias",
                             "classifier.norm.weight"]
    found = encoder.state_dict()
    assert found.keys() == state.keys() - set(aside)
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_linear_maps_stored_as_convolutions_load():
    encoder, state = VMamba((16, 32), (1, 1)), public_state((16, 32), (1, 1))
    name = "layers.1.blocks.0.mlp.fc1.weight"
    load(encoder, state | {name: state[name][:, :, None, None]})
    assert torch.equal(encoder.state_dict()[name], state[name])


@pytest.mark.parametrize("change, words", [
    (lambda s: s.update({"layers.0.blocks.0.op.A_logs": torch.zeros(64, 16)}),
     r"layers.0.blocks.0.op.A_logs has shape \(64, 16\), expected \(64, 1\)"),
    (lambda s: s.pop("patch_embed.7.bias"), "patch_embed.7.bias is missing"),
    (lambda s: s.update({"pos_embed": torch.zeros(3)}), "pos_embed is unknown"),
])
def test_weights_that_do_not_fit_are_refused_and_change_nothing(change, words):
    encoder, state = VMamba((16, 32), (1, 1)), public_state((16, 32), (1, 1))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=words):
        load(encoder, state)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_many_wrong_names_are_counted():
    with pytest.raises(ValueError, match="and [0-9]+ more; give weights of the same widths"):
        load(VMamba((16, 32), (1, 1)), public_state((24, 48), (1, 1)))


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 45)])
def test_any_size_is_halved_rounding_up(size):
    encoder = VMamba((16, 32), (1, 1)).eval()
    up = lambda n, k: -(-n // k)
    with torch.no_grad():
        x = encoder.stage(0, encoder.patch_embed(torch.rand(2, 3, *size)))
        assert x.shape == (2, 16, up(up(size[0], 2), 2), up(up(size[1], 2), 2))
        y = encoder.stage(1, encoder.down(0, x))
        assert y.shape == (2, 32, up(x.shape[2], 2), up(x.shape[3], 2))


def test_a_block_is_two_residual_branches():
    torch.manual_seed(0)
    block, x = VSSBlock(16), torch.randn(2, 16, 5, 4)
    y = x + block.op(block.norm(x))
    expected = y + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x), expected)


def test_depth_is_dropped_more_towards_the_end():
    rates = [block.drop_path.rate for layer in VMamba((16, 32), (2, 3), drop=0.2).layers for block in layer.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_stages_need_both_a_width_and_a_depth():
    with pytest.raises(ValueError, match="2 widths and 1 depths"):
        VMamba((16, 32), (1,))
