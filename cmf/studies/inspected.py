"""What happens inside a trained CMFS: its maps before and after the frequency blocks, its experts, and its gates.

Axes: B pictures, C channels, H, W rows and columns, h, w those of a map or of tokens, K classes, P prompts, E experts,
N regions a side.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.spectral import analyse
from cmf.methods.cmfs import CMFS

BANDS = ("average", "coarse detail", "fine detail")   # of two Haar levels
RINGS = 12                                            # of spatial frequency


def given(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of all pictures of uint8 columns visible (B, 3, H, W) and infrared (B, 1, H, W)."""
    return {name: columns[name].float() / 255 for name in ("visible", "infrared")}


@torch.inference_mode()
def maps(network: CMFS, columns: dict[str, Tensor]) -> list[tuple[int, str, str, Tensor]]:
    """Maps (B, C, h, w) that enter the frequency-spatial blocks and leave them: (stage, stream, when, map).

    stage counts from 1; stream is "visible" or "infrared"; when is "before", or "after" for the map with what the
    block adds to it.
    """
    kept, hooks = [], []
    names = {"visible": ("visible",), "infrared": ("infrared",), "early": ("both",)}.get(
        network.config.use, ("visible", "infrared"))

    def keep(stage: int, stream: str):
        def hook(_: nn.Module, inputs: tuple, out: Tensor) -> None:
            kept.extend([(stage, stream, "before", inputs[0].clone()), (stage, stream, "after", inputs[0] + out)])
        return hook

    for i, pair in enumerate(network.collaboration):
        hooks += [block.register_forward_hook(keep(i + 1, stream)) for stream, block in zip(names, pair, strict=True)]
    try:
        network.eval()(given(columns))
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def energy(found: Sequence[tuple[int, str, str, Tensor]]) -> pd.DataFrame:
    """Share of a map's energy about its mean in each of `BANDS`: stage, stream, when, band, share.

    The bands are those of two levels of the Haar transform; shares of a map add up to one.
    """
    rows = []
    for stage, stream, when, x in found:
        low, details, _ = analyse(x - x.mean((2, 3), keepdim=True), "haar", 2)
        each = [low.square().sum(), details[1].square().sum(), details[0].square().sum()]
        rows += [dict(stage=stage, stream=stream, when=when, band=band, share=float(one / sum(each)))
                 for band, one in zip(BANDS, each, strict=True)]
    return pd.DataFrame(rows)


def spectrum(found: Sequence[tuple[int, str, str, Tensor]], rings: int = RINGS) -> pd.DataFrame:
    """Mean energy of a map's Fourier coefficients by spatial frequency: stage, stream, when, frequency, energy.

    frequency in cycles a pixel of the map, the middle of a ring of 0 to 0.5; the mean of the map is left out; energy
    per channel, coefficient and pixel.
    """
    rows = []
    for stage, stream, when, x in found:
        power = torch.fft.fft2(x - x.mean((2, 3), keepdim=True)).abs().square().mean((0, 1)) / x[0, 0].numel()
        away = torch.hypot(torch.fft.fftfreq(x.shape[2])[:, None], torch.fft.fftfreq(x.shape[3]))    # (h, w)
        ring = (away / 0.5 * rings).ceil() - 1                                                      # of the mean: -1
        for k in range(rings):
            inside = ring == k
            if inside.any():
                rows.append(dict(stage=stage, stream=stream, when=when, frequency=(k + 0.5) / rings / 2,
                                 energy=float(power[inside].mean())))
    return pd.DataFrame(rows)


@torch.inference_mode()
def experts(network: CMFS, columns: dict[str, Tensor], classes: Sequence[str]) -> pd.DataFrame:
    """Which expert saw what: a row a stage, block, expert and class, and "all" for all pixels.

    share is the part of the class's pixels whose token went to that expert; over the experts it adds up to one. A class
    without a pixel has no row. Columns: stage, block, expert, rank, label, share.
    """
    routing = network.eval()(given(columns))["routing"]
    known = torch.stack([(columns["label"] == k).float() for k in range(len(classes))], 1)          # (B, K, H, W)
    rows = []
    for number, route in enumerate(routing):
        stage, block = divmod(number, network.config.pairs)
        there = F.adaptive_avg_pool2d(known, route.chosen.shape[2:])                                 # (B, K, h, w)
        weight = torch.cat([there.sum(1, keepdim=True), there], 1).double()
        chosen = route.chosen.double() / route.chosen.sum(1, keepdim=True)
        share = torch.einsum("bkhw,behw->ke", weight, chosen) / weight.sum((0, 2, 3))[:, None]
        ranks = network.config.ranks if network.config.experts else (sum(network.config.ranks),)
        rows += [dict(stage=stage + 1, block=block + 1, expert=e + 1, rank=rank, label=label, share=float(share[k, e]))
                 for k, label in enumerate(("all", *classes)) for e, rank in enumerate(ranks)
                 if weight[:, k].sum() > 0]
    return pd.DataFrame(rows)


@torch.inference_mode()
def gates(network: CMFS, columns: dict[str, Tensor]) -> list[dict[str, np.ndarray]]:
    """Gates of one picture, a dict a stage: pixel (h, w) and, with text, region (N, N) and similarity (N, N, P).

    pixel is the share in (0, 1) of the exchange that the visible stream takes, region how much a region exchanges,
    similarity the cosine of a region and each class's prompt.

    Raises:
        ValueError: more than one picture, or a network without interaction.
    """
    if len(columns["visible"]) != 1:
        raise ValueError(f"{len(columns['visible'])} pictures came; gates are shown of one, give columns of length 1")
    found = network.eval()(given(columns))["gates"]
    if not found:
        raise ValueError("this network has no interaction of two streams, and so no gates")
    return [{name: value[0, 0].numpy() if name == "pixel" else value[0].numpy() for name, value in gate.items()}
            for gate in found]
