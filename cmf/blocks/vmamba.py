"""VMamba as an encoder of pictures (Liu et al. 2024, section 4; the release s1l8 with blocks v05_noz).

The names and shapes of the parameters are those of its public ImageNet weights, so that `load` takes such a file.

Axes: B pictures, C channels of a stage, H, W rows and columns.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cmf.blocks.channels import DropPath, LayerNorm2d, Linear2d, start
from cmf.blocks.ss2d import SS2D


class VSSBlock(nn.Module):
    """x + drop(SS2D(norm x)), then x + drop(mlp(norm x)) with an mlp of four times the width."""

    def __init__(self, width: int, drop: float = 0.0, states: int = 1, scan: bool = True):
        super().__init__()
        self.norm = LayerNorm2d(width)
        self.op = SS2D(width, states=states, scan=scan)
        self.norm2 = LayerNorm2d(width)
        self.mlp = nn.Sequential(OrderedDict(fc1=Linear2d(width, 4 * width), act=nn.GELU(),
                                             fc2=Linear2d(4 * width, width)))
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VMamba(nn.Module):
    """Stages of `VSSBlock` at 1/4, 1/8, ... of the size, to be called one by one: other things happen between them.

        x = encoder.patch_embed(pictures);  for each stage i: x = encoder.stage(i, x);  x = encoder.down(i, x)

    Sizes are halved rounding up, so pictures of any size fit.

    Args:
        widths: C of each stage; the first must be even.
        depths: blocks of each stage.
        inputs: channels of the pictures.
        drop: rate of the last block's `DropPath`; the blocks' rates rise linearly from 0.
        states: N of the scans.
        scan: see `SS2D`.

    Raises:
        ValueError: widths and depths of different number.
    """

    def __init__(self, widths: Sequence[int] = (96, 192, 384, 768), depths: Sequence[int] = (2, 2, 8, 2),
                 inputs: int = 3, drop: float = 0.2, states: int = 1, scan: bool = True):
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"{len(widths)} widths and {len(depths)} depths; give one of each for a stage")
        half = widths[0] // 2
        self.patch_embed = nn.Sequential(
            nn.Conv2d(inputs, half, 3, 2, 1), nn.Identity(), LayerNorm2d(half), nn.Identity(), nn.GELU(),
            nn.Conv2d(half, widths[0], 3, 2, 1), nn.Identity(), LayerNorm2d(widths[0]),
        )
        rates = (drop * k / max(1, sum(depths) - 1) for k in range(sum(depths)))
        self.layers = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stage = OrderedDict(blocks=nn.Sequential(*(VSSBlock(width, next(rates), states, scan)
                                                       for _ in range(depth))))
            if i + 1 < len(widths):
                stage["downsample"] = nn.Sequential(nn.Identity(), nn.Conv2d(width, widths[i + 1], 3, 2, 1),
                                                    nn.Identity(), LayerNorm2d(widths[i + 1]))
            self.layers.append(nn.Sequential(stage))
        self.apply(start)

    def stage(self, i: int, x: Tensor) -> Tensor:
        """Blocks of stage i: x (B, C_i, H, W) -> the same shape."""
        return self.layers[i].blocks(x)

    def down(self, i: int, x: Tensor) -> Tensor:
        """x (B, C_i, H, W) of stage i -> (B, C_{i+1}, H/2, W/2), the input of the next."""
        return self.layers[i].downsample(x)


def load(encoder: VMamba, state: Mapping) -> list[str]:
    """Fill an encoder with public weights of VMamba.

    Args:
        encoder: one of the same widths and depths.
        state: a state dict, or a checkpoint that holds one under "model".

    Returns: the names that were left aside, all of the classifier.

    Raises:
        ValueError: parameters that are missing, unknown or of another shape, by name; the encoder is unchanged then.
    """
    state = state.get("model", state)
    aside = [name for name in state if name.startswith("classifier.")]
    mine = encoder.state_dict()
    given = {name: value for name, value in state.items() if name not in aside}
    wrong = [f"{name} is missing" for name in mine if name not in given]
    wrong += [f"{name} is unknown" for name in given if name not in mine]
    for name in mine.keys() & given.keys():
        shape, found = tuple(mine[name].shape), tuple(given[name].shape)
        if found != shape and found != (*shape, 1, 1):                         # a linear map stored as convolution
            wrong.append(f"{name} has shape {found}, expected {shape}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"these weights do not fit the encoder: {'; '.join(sorted(wrong)[:5])}{more}; "
                         "give weights of the same widths, depths and kind of block")
    encoder.load_state_dict({name: value.reshape(mine[name].shape) for name, value in given.items()})
    return aside
