"""Two modalities exchange features, region by region, as far as pixels and the words of the classes allow.

Maps of any size are cut into N x N regions of equal size; those at the right and lower edge are filled up with
zeros, which count in no mean and no maximum.

Axes: B pictures, C channels, H, W rows and columns, N regions a side, S = B N N regions of a batch, h, w rows and
columns of a region, P prompts of classes, D text width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.channels import LayerNorm2d
from cmf.blocks.ss2d import Mixer


def split(x: Tensor, number: int) -> Tensor:
    """Cut x (B, C, H, W) into number x number regions (B N N, C, h, w), filled up with zeros."""
    h, w = (-(-n // number) for n in x.shape[2:])
    x = F.pad(x, (0, number * w - x.shape[3], 0, number * h - x.shape[2]))
    x = x.unflatten(2, (number, h)).unflatten(4, (number, w))                                   # (B, C, N, h, N, w)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def merge(x: Tensor, number: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `split`: (B N N, C, h, w) -> (B, C, H, W) of `size`; what was filled up is cut off."""
    x = x.unflatten(0, (-1, number, number)).permute(0, 3, 1, 4, 2, 5)                          # (B, C, N, h, N, w)
    return x.flatten(4).flatten(2, 3)[..., : size[0], : size[1]]


def region_mask(size: tuple[int, int], number: int, like: Tensor) -> Tensor:
    """One where a region has a pixel of a map of `size`, zero where it was filled up: (N N, 1, h, w)."""
    return split(like.new_ones(1, 1, *size), number)


class Attention(nn.Module):
    """Weights of channels and of pixels of a region, both in (0, 1), from the region itself.

    a = sigmoid(W relu(V [mean; maximum of its pixels])), p = sigmoid(conv1 relu(conv3 [mean; maximum of channels])).
    """

    def __init__(self, width: int):
        super().__init__()
        self.channel = nn.Sequential(nn.Linear(2 * width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))
        self.pixel = nn.Sequential(nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (S, C, h, w), zero outside mask (S, 1, h, w) -> a (S, C, 1, 1), p (S, 1, h, w)."""
        mean = x.sum((2, 3)) / mask.sum((2, 3)).clamp_min(1)                                    # (S, C)
        most = x.masked_fill(mask == 0, -torch.inf).amax((2, 3))
        most = torch.where(mask.amax((2, 3)) > 0, most, torch.zeros_like(most))                 # a region of no pixel
        a = self.channel(torch.cat([mean, most], 1)).sigmoid()[:, :, None, None]
        return a, self.pixel(torch.cat([x.mean(1, True), x.amax(1, True)], 1)).sigmoid()


class TextGate(nn.Module):
    """How open a region is to the other modality, in (0, 1), by what the classes' prompts say of its content.

    q = W mean of the region's pixels; s_k = cos(q, T_k) for each prompt k; t = sum_k softmax_k(e^c s) T_k, the
    prompt that the region resembles; g = sigmoid(v relu(V [t; max_k s_k])). No term knows the order or the number of
    prompts, so both may change. T_k has length one.
    """

    def __init__(self, width: int, text: int, hidden: int = 32):
        super().__init__()
        self.query = nn.Linear(width, text)
        self.sharpness = nn.Parameter(torch.tensor(2.3))                                    # c: ten times the cosine
        self.gate = nn.Sequential(nn.Linear(text + 1, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, v: Tensor, mask: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """v (S, C, h, w), zero outside mask (S, 1, h, w); text (P, D) -> g (S, 1, 1, 1), s (S, P)."""
        mean = v.sum((2, 3)) / mask.sum((2, 3)).clamp_min(1)                                    # (S, C)
        text = F.normalize(text.to(v.dtype), dim=-1)
        s = F.normalize(self.query(mean), dim=-1) @ text.mT                                     # (S, P)
        t = (self.sharpness.exp() * s).softmax(-1) @ text                                       # (S, D)
        g = self.gate(torch.cat([t * t.shape[-1] ** 0.5, s.amax(-1, True)], -1)).sigmoid()
        return g[:, :, None, None], s


class PublishedTextGate(nn.Module):
    """The gate as released: channels are averaged away, and a region's pixels, pooled to a fixed number, are compared.

    q = W pool(mean of channels, row by row); s_k = cos(q, T_k); g = sigmoid(conv3 relu(conv3 s)) on a map of one pixel,
    of which convolutions see the middle only: each prompt has a place. Zeros of filled-up regions are pooled too.

    Args:
        pixels: numbers that a region is pooled to: the pixels of a region at the size of training.
        prompts: P, fixed.
        text: D.
    """

    def __init__(self, pixels: int, prompts: int, text: int):
        super().__init__()
        self.query = nn.Linear(pixels, text)
        self.gate = nn.Sequential(nn.Conv2d(prompts, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 3, padding=1))

    def forward(self, v: Tensor, mask: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """As `TextGate`.

        Raises:
            ValueError: another number of prompts.
        """
        if len(text) != self.gate[0].in_channels:
            raise ValueError(f"{len(text)} prompts came; the published gate is made for {self.gate[0].in_channels}")
        pooled = F.adaptive_avg_pool1d(v.mean(1).flatten(1)[:, None], self.query.in_features)[:, 0]
        s = F.normalize(self.query(pooled), dim=-1) @ F.normalize(text.to(v.dtype), dim=-1).mT  # (S, P)
        return self.gate(s[:, :, None, None]).sigmoid(), s


class Interaction(nn.Module):
    """Modality interaction: each stream is mixed along its sequence, then takes from the other, region by region.

        y_m = x_m + mixer(norm x_m);   o_1 = y_1 + g G (a_1 + p_1) y_2,   o_2 = y_2 + g (1 - G) (a_2 + p_2) y_1

    with the pixels' gate G = sigmoid(W relu(V [y_1; y_2])) in (0, 1)^C, the regions' gate g by the text from
    v = conv relu(conv [x_1; x_2]), and the attention a_m, p_m of stream m to itself. The published shuffle of the
    channels before the mixer only renames them, as long as it is undone; so here there is none.

    Args:
        width: C, a multiple of 8.
        regions: N.
        text: D, or None for g = 1.
        states: N of the mixers' scans.
        scan, normed: see `Mixer`.
        shuffled: the published arm that leaves the channels in shuffled order.
        published: None, or (pixels, prompts) of a `PublishedTextGate`.

    Raises:
        ValueError: a width that is not a multiple of 8, or regions below 1.
    """

    def __init__(self, width: int, regions: int = 5, text: int | None = 512, states: int = 16, scan: bool = True,
                 shuffled: bool = False, published: tuple[int, int] | None = None, normed: bool = True):
        super().__init__()
        if width % 8 or regions < 1:
            raise ValueError(f"width {width} and regions {regions}: give a multiple of 8 and at least 1")
        self.regions, self.shuffled = regions, shuffled
        per_stream = lambda make: nn.ModuleList([make(), make()])
        self.norm = per_stream(lambda: nn.Sequential(LayerNorm2d(width), RMSNorm2d(width)))
        self.mixer = per_stream(lambda: Mixer(width, states, scan, normed))
        self.pixel = nn.Sequential(nn.Conv2d(2 * width, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 1))
        self.attention = per_stream(lambda: Attention(width))
        self.squeeze = self.gate = None
        if text is not None:
            self.squeeze = nn.Sequential(nn.Conv2d(2 * width, width // 8, 1, bias=False), nn.ReLU(),
                                         nn.Conv2d(width // 8, width, 1, bias=False))
            self.gate = PublishedTextGate(*published, text) if published else TextGate(width, text)

    def forward(self, x1: Tensor, x2: Tensor, text: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """x1, x2 (B, C, H, W), text (P, D) -> both after the exchange, and what was let through.

        That is a dict: pixel (B, C, H, W), G; with text also region (B, N, N), g, and similarity (B, N, N, P), the
        cosines of the regions and the prompts.

        Raises:
            ValueError: a gate by text and no text.
        """
        if self.gate is not None and text is None:
            raise ValueError("the interaction has a gate by text, and no text came; give embeddings (prompts, width)")
        size, number = x1.shape[2:], self.regions
        v = self.squeeze(torch.cat([x1, x2], 1)) if self.gate is not None else None
        x1, x2 = (self._mixed(k, x) for k, x in enumerate((x1, x2)))
        open_pixels = self.pixel(torch.cat([x1, x2], 1)).sigmoid()                              # (B, C, H, W)
        mask = region_mask(size, number, x1).repeat(len(x1), 1, 1, 1)                           # (S, 1, h, w)
        gates, open_region = dict(pixel=open_pixels), 1.0
        if self.gate is not None:
            open_region, similarity = self.gate(split(v, number), mask, text)
            at = lambda t: t.flatten(1).unflatten(0, (-1, number, number))
            gates |= dict(region=at(open_region)[..., 0], similarity=at(similarity))
        weights = []
        for k, x in enumerate((x1, x2)):
            a, p = self.attention[k](split(x, number), mask)
            weights.append(merge(open_region * (a + p), number, size))                          # (B, C, H, W)
        return x1 + weights[0] * open_pixels * x2, x2 + weights[1] * (1 - open_pixels) * x1, gates

    def _mixed(self, k: int, x: Tensor) -> Tensor:
        if self.shuffled:
            x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return x + self.mixer[k](self.norm[k](x))


class RMSNorm2d(nn.Module):
    """x / rms of its channels, scaled: (B, C, H, W) -> the same shape; weight (C,)."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return (F.rms_norm(x.movedim(1, -1), self.weight.shape, eps=self.eps) * self.weight).movedim(-1, 1)
