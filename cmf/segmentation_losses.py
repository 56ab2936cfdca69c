"""Losses of a network that fuses two pictures and labels every pixel.

    loss = segmentation + fusion * (intensity + gradient + colour) + balance

Targets of the fused picture f are made of the visible V = v^gamma, brightened, and the infrared I, its contrast raised
about the mean grey of the picture: intensity max(V, I), the larger gradient of both, the colours of V.

Source: Su, Huang, Yang, He, IJCAI 2025, 1873-1881, as its released code states it; the maximum of gradients is taken of
their lengths here, and the balance of the experts is Fedus et al. 2022, eq. 4. The released targets (`PUBLISHED`)
brighten the visible picture by gamma .5, which draws haze over day scenes, weigh gradients little, and ask every colour
to be as bright as the infrared while the colour term asks for those of the visible picture; here the targets are the
sources themselves, gradients count more, and intensity and gradient are of the grey levels.

Axes: B pictures, H, W rows and columns, K classes. Colour pictures are (B, 3, H, W), grey ones (B, 1, H, W), in [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cmf.blocks.experts import balance_loss
from cmf.fusion_losses import gradients

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Weights:
    """How the terms are weighed, and what the fused picture should look like; stored with a run."""

    fusion: float = 0.3          # of all fusion terms together
    intensity: float = 0.5
    gradient: float = 1.0
    colour: float = 1.0
    balance: float = 0.01        # of the experts' balance loss; 0: nothing balances them, as published
    gamma: float = 1.0           # exponent of the visible picture; below 1 brightens
    contrast: float = 1.0        # of the infrared picture; 1 leaves it
    grey: bool = True            # intensity and gradient are of the grey levels; False: of every colour
    signed: bool = False         # True: the published maximum of signed gradients, which drops falling edges
    ignore: int = 255            # label of pixels that do not count
    classes: tuple[float, ...] | None = None  # weight of each class in the cross-entropy

    def __post_init__(self):
        parts = ("fusion", "intensity", "gradient", "colour", "balance")
        wrong = [name for name in parts if getattr(self, name) < 0]
        wrong += [name for name in ("gamma", "contrast") if getattr(self, name) <= 0]
        if wrong:
            raise ValueError(f"{', '.join(f'{name}={getattr(self, name)}' for name in wrong)}: weights are at least 0, "
                             "gamma and contrast above 0")
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))


PUBLISHED = dict(fusion=0.1, gradient=0.2, gamma=0.5, contrast=1.7, balance=0.0, grey=False, signed=True)


def cross_entropy(logits: Tensor, label: Tensor, ignore: int = 255, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the pixels whose label is not `ignore`; zero, with gradient, where there is none.

    Args:
        logits: (B, K, H, W).
        label: (B, H, W) int64, 0..K-1 or `ignore`.
        weights: (K,), one for each class; the mean is weighed by them. None: all one.

    Raises:
        ValueError: shapes that do not fit, or a label that is neither a class nor `ignore`.
    """
    classes = logits.shape[1]
    if label.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"logits have shape {tuple(logits.shape)} and labels {tuple(label.shape)}; "
                         f"labels are (B, H, W) of the same B, H and W")
    if weights is not None and weights.shape != (classes,):
        raise ValueError(f"{len(weights)} class weights came for {classes} classes; give one for each")
    counts = label != ignore
    found = label[counts]
    if found.numel() and (int(found.min()) < 0 or int(found.max()) >= classes):
        raise ValueError(f"labels go from {int(found.min())} to {int(found.max())}; with {classes} classes they lie in "
                         f"0..{classes - 1}, or are {ignore} where they do not count")
    if not found.numel():
        return logits.sum() * 0
    return F.cross_entropy(logits.float(), label, weights, ignore_index=ignore)


def brightened(visible: Tensor, gamma: float) -> Tensor:
    """visible (B, 3, H, W) in [0, 1] to the power gamma."""
    return visible.clamp(0, 1) ** gamma


def contrasted(infrared: Tensor, contrast: float, mask: Tensor | None = None) -> Tensor:
    """mean + contrast (infrared - mean), cut to [0, 1]; the mean of each picture, over `mask` (B, 1, H, W)."""
    where = torch.ones_like(infrared) if mask is None else mask
    mean = (infrared * where).sum((1, 2, 3), True) / where.sum((1, 2, 3), True).clamp_min(1)    # (B, 1, 1, 1)
    return (contrast * infrared + (1 - contrast) * mean).clamp(0, 1)


def larger_gradient(a: Tensor, b: Tensor, signed: bool = False) -> Tensor:
    """For each pixel, channel and direction the gradient of a or b (B, C, H, W) that is larger: (B, 2 C, H, W).

    Larger in size, the sign kept; with `signed` the larger number, so that a falling edge loses to no edge.
    """
    ga, gb = gradients(a), gradients(b)
    return torch.maximum(ga, gb) if signed else torch.where(ga.abs() > gb.abs(), ga, gb)


def colour_difference(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean |Cb_x - Cb_y| plus mean |Cr_x - Cr_y| of pictures (B, 3, H, W), over `mask` (B, 1, H, W).

    Y = .299 R + .587 G + .114 B, Cb = .564 (B - Y), Cr = .713 (R - Y).
    """
    return _mean((_chroma(x) - _chroma(y)).abs().sum(1, True), mask)


def _grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor(GREY)[:, None, None]).sum(1, True)


def _chroma(x: Tensor) -> Tensor:
    y = _grey(x)
    return torch.cat([0.564 * (x[:, 2:] - y), 0.713 * (x[:, :1] - y)], 1)                       # (B, 2, H, W)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of x (B, C, H, W) where mask (B, 1, H, W) is one."""
    return x.mean() if mask is None else (x * mask).sum() / (mask.sum() * x.shape[1]).clamp_min(1)


def fusion_terms(fused: Tensor, visible: Tensor, infrared: Tensor, weights: Weights = Weights(),
                 mask: Tensor | None = None) -> dict[str, Tensor]:
    """Intensity, gradient and colour terms of a fused picture, not yet weighed.

    intensity = mean |f - max(V, I)|; gradient = mean over directions and channels of |grad f - larger gradient|, Sobel
    divided by 4; both of the grey of f and V unless `weights` says otherwise; colour = `colour_difference(f, V)`. The
    mean runs over `mask` (B, 1, H, W), the pixels that were not added by cropping; gradients there beside an added
    pixel do not count.

    Raises:
        ValueError: shapes that do not fit.
    """
    shape = (len(fused), 1, *fused.shape[2:])
    if fused.ndim != 4 or fused.shape[1] != 3 or visible.shape != fused.shape or infrared.shape != shape:
        raise ValueError(f"fused has shape {tuple(fused.shape)}, visible {tuple(visible.shape)}, infrared "
                         f"{tuple(infrared.shape)}; give (B, 3, H, W) twice and (B, 1, H, W)")
    v = brightened(visible, weights.gamma)
    i, colours, drawn = contrasted(infrared, weights.contrast, mask), v, fused
    if weights.grey:
        v, drawn = (_grey(x) for x in (v, fused))                                               # (B, 1, H, W)
    inner = None if mask is None else -F.max_pool2d(-mask, 3, 1, 1)                             # all neighbours count
    i = i.expand_as(v)
    return dict(intensity=_mean((drawn - torch.maximum(v, i)).abs(), mask),
                gradient=_mean((gradients(drawn) - larger_gradient(v, i, weights.signed)).abs(), inner),
                colour=colour_difference(fused, colours, mask))


def real_pixels(batch: dict, ignore: int = 255) -> Tensor:
    """Where a pixel was not added by cropping: (B, 1, H, W) bool. An added one is black in both, its label `ignore`."""
    black = (batch["visible"] == 0).all(1) & (batch["infrared"] == 0).all(1)                    # (B, H, W)
    return ~(black & (batch["label"] == ignore))[:, None]


def criterion(weights: Weights = Weights()):
    """A criterion for `cmf.training.fit`: (outputs, batch) -> segmentation, intensity, gradient, colour, balance, loss.

    Outputs are those of `cmf.methods.cmfs.CMFS`; a batch holds visible, infrared and label, and may hold mask
    (B, 1, H, W), one where a pixel was not added by cropping; without it, see `real_pixels`. The terms are reported
    unweighed, the total under "loss".
    """
    def losses(outputs: dict, batch: dict) -> dict[str, Tensor]:
        logits, fused = outputs["logits"], outputs["fused"].float()
        by_class = None if weights.classes is None else logits.new_tensor(weights.classes, dtype=torch.float32)
        mask = batch["mask"] if "mask" in batch else real_pixels(batch, weights.ignore)
        terms = dict(segmentation=cross_entropy(logits, batch["label"], weights.ignore, by_class))
        terms |= fusion_terms(fused, batch["visible"], batch["infrared"], weights, mask.to(fused.dtype))
        routing = outputs["routing"]
        terms["balance"] = sum(balance_loss(r) for r in routing) / max(1, len(routing)) + fused.new_zeros(())
        drawn = sum(getattr(weights, name) * terms[name] for name in ("intensity", "gradient", "colour"))
        terms["loss"] = terms["segmentation"] + weights.fusion * drawn + weights.balance * terms["balance"]
        return terms

    return losses
