"""CMI-Fusion: one picture from two, fused as a sentence asks.

Two registered grey pictures pass through stems with dual attention at 1/2, 1/4 and 1/8 of their size. At the two
coarser sizes every pixel attends the words of the prompt, or a null word, after the words have looked at the
picture; the whole prompt acts by an affine map of the channels. A decoder returns to full size and says, for
every pixel and each of six bands of detail, from which source the band is taken and how strong it is:

    f = m + sum_k g_k (s_k v_k + (1 - s_k) u_k) + r,    v = m + sum_k v_k,    u = m + sum_k u_k,

with 0 < g_k < 2 and 0 < s_k < 1. v_k and u_k are the bands of the visible and the infrared picture, m is the mean of
both pictures and r a bounded residual, so that what is drawn comes from the sources. The network starts as the
classical rule, the livelier band at every pixel, and learns the rest. `cmf.methods.cmi_fusion_published` keeps the
published arithmetic as an arm, in which a prompt is one token and so adds one constant vector to all pixels.

Source: Li et al., Signal Processing 237 (2025) 110073, as far as its released code states it.

Axes: B pictures, C channels, H, W rows and columns, L text tokens, D text width, d interaction width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.attention import Attention, Block

MULTIPLE = 32                    # rows and columns are padded to a multiple of this inside
KINDS = ("visible", "infrared")
BANDS = 6                        # of detail: below 2, 4, 8, 16 and 32 pixels, and the rest
SCALE = 4.0                      # brings the bands, as the head sees them, to about unit size


@dataclass(frozen=True)
class Shape:
    """The shape of a `CMIFusion`; stored with its weights and compared when they are loaded."""

    text_width: int = 128                        # D of the text encoder's token states
    channels: tuple[int, int, int] = (24, 48, 64)  # at 1/2, 1/4 and 1/8 of the size
    full: int = 16                               # channels at full size
    width: int = 48                              # d, of the words and the interaction
    heads: int = 4
    text: str = "tokens"                         # tokens | single: one vector a prompt | none
    attention: bool = True                       # the dual attention of the stems
    film: bool = True                            # the affine map of the channels by the whole prompt
    families: int = 5                            # kinds of prompts that it tells apart
    residual: float = 0.3                        # largest change beyond the bands of the sources

    def __post_init__(self):
        if self.text not in ("tokens", "single", "none"):
            raise ValueError(f"text must be one of tokens, single, none, got {self.text!r}")
        if not 0 <= self.residual <= 1:
            raise ValueError(f"residual must lie in [0, 1], got {self.residual}")
        object.__setattr__(self, "channels", tuple(self.channels))  # a list where it comes from a file


class CMIFusion(nn.Module):
    """The corrected method.

    A batch is a dict: visible, infrared (B, 1, H, W) in [0, 1], H and W at least 1; text (B, L, D) states of the
    words, text_mask (B, L) bool, True where a word exists (none is allowed: the empty prompt).

    The outputs, a dict: fused (B, 1, H, W) in [0, 1], and unclamped, before the cut to that range; weight (B, 1, H, W),
    the share of the visible, mean over the bands; residual (B, 1, H, W); attention (B, heads, h, w, 1 + L) of the
    pixels at 1/4 of the size on the null word and the words; understood (B, families), logits of what the prompt asks
    for; scene, what the network took from the whole picture.

    A large picture is fused in tiles with the `scene` of a reduced copy of the whole, so that all tiles see one
    scene: `network(tile, scene=network(small)["scene"])`.
    """

    def __init__(self, shape: Shape = Shape()):
        super().__init__()
        self.shape = shape
        c1, c2, c3 = shape.channels
        per_kind = lambda make: nn.ModuleDict({kind: make() for kind in KINDS})
        self.stem = per_kind(lambda: nn.Sequential(nn.PixelUnshuffle(2), conv(4, c1), nn.LeakyReLU(0.1)))
        unit = lambda c: DualAttention(c) if shape.attention else Plain(c)
        self.at_half = per_kind(lambda: unit(c1))
        self.at_quarter = per_kind(lambda: nn.Sequential(conv(c1, c2, 2), nn.LeakyReLU(0.1), unit(c2)))
        self.at_eighth = per_kind(lambda: nn.Sequential(conv(c2, c3, 2), nn.LeakyReLU(0.1), unit(c3)))
        self.words = Words(shape) if shape.text != "none" else None
        make = lambda c: per_kind(lambda: Interaction(c, shape))
        self.interaction = nn.ModuleList([make(c2), make(c3)]) if self.words else None
        self.choose = nn.ModuleList(Choice(c) for c in (c1, c2, c3))
        self.up = nn.ModuleList([conv(c3, c2), conv(c2, c1)])
        self.merge = nn.ModuleList([nn.Sequential(conv(2 * c2, c2), nn.LeakyReLU(0.1)),
                                    nn.Sequential(conv(2 * c1, c1), nn.LeakyReLU(0.1))])
        told = self.words is not None and shape.film
        self.film = nn.ModuleList(Film(shape.width, c) for c in (c2, c1)) if told else None
        self.understood = nn.Linear(shape.width, shape.families) if self.words else None
        self.full = nn.Sequential(conv(c1, 2 * shape.full), nn.PixelShuffle(2))
        self.head = nn.Sequential(conv(shape.full // 2 + 4 * BANDS, shape.full), nn.LeakyReLU(0.1),
                                  conv(shape.full, shape.full), nn.LeakyReLU(0.1),
                                  nn.Conv2d(shape.full, 2 * BANDS + 1, 1))
        self.rule = nn.Parameter(torch.tensor([4.0] * (BANDS - 1) + [0.0]))
        nn.init.zeros_(self.head[-1].weight)         # untrained: the stronger detail of both, on the mean of the rest
        nn.init.zeros_(self.head[-1].bias)

    def fit_text(self, batch: dict[str, Tensor]) -> "CMIFusion":
        """Bring the channels of the token states to one scale, that of `text` and `text_mask` of a training set."""
        if self.words is not None:
            self.words.fit(batch["text"], batch["text_mask"])
        return self

    def forward(self, batch: dict[str, Tensor], scene: "Scene | None" = None) -> dict[str, Tensor]:
        size = batch["visible"].shape[-2:]
        x = {kind: padded(batch[kind]) for kind in KINDS}                     # (B, 1, H', W')
        scene = Scene() if scene is None else scene.again()
        levels: list[dict[str, Tensor]] = []                                  # (B, C, H'/2, W'/2), /4, /8
        words, mask, whole = self.words(batch) if self.words else (None, None, None)
        seen = None
        features = {kind: self.stem[kind](x[kind]) for kind in KINDS}
        for k, stage in enumerate((self.at_half, self.at_quarter, self.at_eighth)):
            features = {kind: run(stage[kind], features[kind], scene) for kind in KINDS}
            if k and self.words:
                for kind in KINDS:
                    told, weights = self.interaction[k - 1][kind](features[kind], words, mask, whole, scene)
                    features = features | {kind: told}
                    seen = weights if k == 1 and kind == "infrared" else seen
            levels.append(features)
        chosen = [choose(level) for choose, level in zip(self.choose, levels, strict=True)]
        y = chosen[2]                                                         # (B, c3, H'/8, W'/8)
        for k, skip in enumerate(chosen[1::-1]):                              # at 1/4, then 1/2 of the size
            y = F.interpolate(self.up[k](y), skip.shape[-2:], mode="bilinear", align_corners=False)
            y = self.merge[k](torch.cat([y, skip], 1))
            y = self.film[k](y, whole) if self.film is not None else y
        middle = scene(lambda: 0.5 * sum(x[kind].mean((2, 3), True) for kind in KINDS))   # m, (B, 1, 1, 1)
        parts = {kind: bands(x[kind] - middle) for kind in KINDS}             # (B, 6, H', W') each
        around = [f(SCALE * parts[kind]) for kind in KINDS for f in (torch.clone, torch.abs)]
        share, gain, residual = self.head(torch.cat([self.full(y), *around], 1)).split([BANDS, BANDS, 1], 1)
        rule = self.rule[:, None, None] * activity(parts["visible"], parts["infrared"])
        share, gain = (share + rule).sigmoid(), 2 * gain.sigmoid()                     # (B, 6, H', W') each
        mixed = share * parts["visible"] + (1 - share) * parts["infrared"]
        residual = self.shape.residual * residual.tanh()
        fused = middle + (gain * mixed).sum(1, True) + residual
        weight = share.mean(1, True)
        crop = lambda t: t[..., :size[0], :size[1]]
        return dict(fused=crop(fused).clamp(0, 1), unclamped=crop(fused), weight=crop(weight),
                    residual=crop(residual), attention=seen, scene=scene,
                    understood=self.understood(whole) if self.words else None)


class Scene:
    """What a network takes from a whole picture: the means that its attention rests on, in the order of their use.

    The first pass over a picture fills it; a pass over a part of that picture, with `again()`, reads it back.
    """

    def __init__(self, values: list[Tensor] | None = None):
        self.values, self.reading, self.place = values or [], values is not None, 0

    def again(self) -> "Scene":
        """The same values, to be read from the first on."""
        return Scene(self.values)

    def __call__(self, value) -> Tensor:
        """`value()` of the whole picture: computed and kept, or read back."""
        if not self.reading:
            self.values.append(value())
        self.place += 1
        return self.values[self.place - 1]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution that repeats the border, so that no frame of zeros is seen."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, padding_mode="replicate")


def padded(x: Tensor) -> Tensor:
    """x (B, 1, H, W) with its last rows and columns repeated up to a multiple of `MULTIPLE`."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % MULTIPLE, 0, -h % MULTIPLE), mode="replicate")


def bands(x: Tensor) -> Tensor:
    """x (B, 1, H, W) as six pictures (B, 6, H, W) of finer to coarser detail, of which it is the sum.

    Differences of means over 2 x 2, 4 x 4, ... 32 x 32 pixels, brought back to full size bilinearly.
    """
    smooth = [x]
    for k in range(1, BANDS):
        small = F.avg_pool2d(x, 2 ** k)
        smooth.append(F.interpolate(small, x.shape[-2:], mode="bilinear", align_corners=False))
    fine = [a - b for a, b in zip(smooth[:-1], smooth[1:], strict=True)]
    return torch.cat([*fine, smooth[-1]], 1)


def activity(v: Tensor, u: Tensor) -> Tensor:
    """Which source is livelier, in [-1, 1], of bands (B, 6, H, W): (|v| - |u|) / (|v| + |u|), means over 3 x 3."""
    v, u = (F.avg_pool2d(F.pad(x.abs(), (1, 1, 1, 1), mode="replicate"), 3, 1) for x in (v, u))
    return (v - u) / (v + u + 1e-3)


def run(stage: nn.Module, x: Tensor, scene: Scene) -> Tensor:
    """A stage of stems, of which the dual attention needs the scene."""
    for layer in stage if isinstance(stage, nn.Sequential) else (stage,):
        x = layer(x, scene) if isinstance(layer, DualAttention) else layer(x)
    return x


class Plain(nn.Module):
    """Two convolutions with a residual: a dual attention unit without its attention, the arm."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), nn.LeakyReLU(0.1), conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class DualAttention(Plain):
    """Spatial and channel attention side by side (MIRNet, Zamir et al., ECCV 2020), with its residual.

    r = conv(leaky_relu(conv(x))); S = sigmoid(conv5([max_c r, mean_c r])); C = sigmoid(W2 relu(W1 mean_hw r));
    out = x + conv1([r S, r C]).
    """

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__(channels)
        few = max(channels // reduction, 4)
        self.spatial = nn.Conv2d(2, 1, 5, padding=2, padding_mode="replicate")
        self.channel = nn.Sequential(nn.Conv2d(channels, few, 1), nn.ReLU(), nn.Conv2d(few, channels, 1))
        self.out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, scene: Scene | None = None) -> Tensor:
        r = self.body(x)                                                               # (B, C, h, w)
        where = self.spatial(torch.cat([r.amax(1, True), r.mean(1, True)], 1)).sigmoid()   # (B, 1, h, w)
        mean = (scene or Scene())(lambda: r.mean((2, 3), True))                        # (B, C, 1, 1)
        return x + self.out(torch.cat([r * where, r * self.channel(mean).sigmoid()], 1))


class Words(nn.Module):
    """Token states of a prompt as d-vectors that know each other, behind a null word that is always there.

    Returns words (B, 1 + L, d), mask (B, 1 + L), and the whole prompt (B, d): the mean of its words, zero for the
    empty prompt. With text="single" the prompt is one word, its mean.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        self.single = shape.text == "single"
        self.register_buffer("centre", torch.zeros(shape.text_width))
        self.register_buffer("spread", torch.ones(shape.text_width))
        self.inputs = nn.Linear(shape.text_width, shape.width)
        self.null = nn.Parameter(0.02 * torch.randn(shape.width))
        self.within = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(2))
        self.norm = nn.LayerNorm(shape.width)

    def fit(self, text: Tensor, text_mask: Tensor) -> None:
        """Take mean and spread of every channel from the words of a training set: text (n, L, D), text_mask (n, L)."""
        found = text[text_mask].to(self.centre)                                        # (words, D)
        self.centre.copy_(found.mean(0))
        self.spread.copy_(found.std(0).clamp_min(1e-3))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        mask = batch["text_mask"]                                                      # (B, L)
        x = self.inputs((batch["text"].to(self.null.dtype) - self.centre) / self.spread)   # (B, L, d)
        x = torch.cat([self.null.expand(len(x), 1, -1), x], 1)                         # (B, 1 + L, d)
        mask = F.pad(mask, (1, 0), value=True)
        for block in self.within:
            x, _ = block(x, x, mask)
        x = self.norm(x)
        share = mask[:, 1:, None].to(x.dtype)
        whole = (x[:, 1:] * share).sum(1) / share.sum(1).clamp_min(1)                  # (B, d)
        if self.single:
            return whole[:, None], mask[:, :1], whole
        return x, mask, whole


class Interaction(nn.Module):
    """Image-text interaction: the words look at the picture, every pixel attends the words, the prompt scales channels.

        X' = X + attention(X, P);  F' = F + gamma attention(F, X', X');  out = (1 + g(t)) F' + b(t)

    P: the picture in at most 8 x 8 regions. gamma, g and b start at zero: an untrained interaction changes nothing.
    """

    def __init__(self, channels: int, shape: Shape):
        super().__init__()
        d = shape.width
        self.single = shape.text == "single"
        self.gain, self.bias = nn.Parameter(torch.ones(channels, 1, 1)), nn.Parameter(torch.zeros(channels, 1, 1))
        self.pixels = nn.Conv2d(channels, d, 1)
        self.look = Attention(d, shape.heads)
        self.attend = Attention(d, shape.heads)
        self.out = nn.Conv2d(d, channels, 1)
        self.film = Film(d, channels) if shape.film else None
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor, whole: Tensor, scene: Scene):
        """x (B, C, h, w), words (B, 1 + L, d), mask (B, 1 + L), whole (B, d) -> x, weights (B, heads, h, w, 1 + L)."""
        mean, spread = scene(lambda: x.mean((1, 2, 3), True)), scene(lambda: x.std((1, 2, 3), keepdim=True))
        normed = (x - mean) / (spread + 1e-5) * self.gain + self.bias
        p = self.pixels(normed)                                                        # (B, d, h, w)
        if not self.single:
            regions = scene(lambda: F.adaptive_avg_pool2d(p, 8).flatten(2).transpose(1, 2))    # (B, 64, d)
            words = words + self.look(words, regions)[0]
        told, weights = self.attend(p.flatten(2).transpose(1, 2), words, mask)         # (B, h w, d)
        x = x + self.out(told.transpose(1, 2).unflatten(2, p.shape[-2:]))
        x = self.film(x, whole) if self.film is not None else x
        return x, weights.unflatten(2, p.shape[-2:])


class Film(nn.Module):
    """An affine map of the channels by the whole prompt: (1 + g(t)) x + b(t); at the start it changes nothing.

    Source: Perez et al., AAAI 2018; in fusion Text-IF (Yi et al., CVPR 2024).
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.map = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, whole: Tensor) -> Tensor:
        gain, shift = self.map(whole)[:, :, None, None].chunk(2, 1)                    # (B, C, 1, 1)
        return (1 + gain) * x + shift


class Choice(nn.Module):
    """Fused features: for every pixel and channel a softmax over the two sources, F = sum_m w_m F_m."""

    def __init__(self, channels: int):
        super().__init__()
        self.score = nn.Conv2d(2 * channels, 2 * channels, 1)

    def forward(self, level: dict[str, Tensor]) -> Tensor:
        both = torch.stack([level[kind] for kind in KINDS], 1)                         # (B, 2, C, h, w)
        share = self.score(both.flatten(1, 2)).unflatten(1, (2, -1)).softmax(1)
        return (share * both).sum(1)
