"""CMI-Fusion as published: two pictures, three sentences of one vector each, and a wide network at full size.

Features of each picture (two convolutions, dual attention) meet their sentence, are added, widened, and meet the
sentence for the fused picture; a convolutional decoder follows. A sentence is one vector, so the attention of a pixel
to it is the number 1: whatever the pixel shows, it receives the same vector. The sentences are constant biases, and
fixed ones could be folded into the weights. `PublishedCMIFusion` keeps this arithmetic as an arm.

Source: the released code of Li et al., Signal Processing 237 (2025) 110073. The block in which pixels attend the
sentence is not in it. Its reading here, cross-attention and then a network for each pixel, is inferred: attention
among the pixels would need terabytes at the sizes it was run at, and with this reading all counts agree.

Axes: B pictures, C channels, H, W rows and columns, D text width, d interaction width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cmf.blocks.attention import Attention, feed_forward

SOURCES = ("visible", "infrared")
PIECE = 1 << 15         # pixels that meet a sentence at a time, where no gradient is asked for

# the sentences of visible, infrared and fused picture, one triple a kind of pictures, letter by letter
INFRARED_PROMPTS = dict(
    visible="a visible light gray image, highlighting the the objects. ",
    infrared="a infrared image with clear background.",
    fused="a vivid image with clear background and obvious objects")
CT_PROMPTS = dict(      # the CT picture in the place of the visible one, MRI in that of the infrared one
    visible="a CT image highlighting the dense structures like bones and tissues with clear contrast",
    infrared="an MRI image showcasing soft tissues, brain or internal organs with detailed contrast and textures",
    fused="a fused image combining the detailed contrast of dense and soft tissues, providing a comprehensive view of "
          "the internal anatomy")
PET_PROMPTS = dict(
    visible="a PET image", infrared="an MRI image",
    fused="a fused PET-MRI image illustrating both metabolic activities and detailed anatomical structures")


@dataclass(frozen=True)
class Config:
    """The shape of a `PublishedCMIFusion`. The defaults are the published values: 17.7 M parameters."""

    text_width: int = 512                            # D of a sentence's vector; 512: CLIP ViT-B/32
    shallow: int = 64                                # channels of the two pictures' features
    width: int = 512                                 # d, of their sum and of the fused picture's sentence
    decoder: tuple[int, int, int] = (256, 128, 64)   # channels on the way back to one
    heads: int = 8
    depth: int = 2                                   # blocks for the fused picture's sentence
    dropout: float = 0.1                             # share of numbers left out in training; 0: none
    drop_path: float = 0.1                           # share of samples that skip a branch in training; 0: none
    sentences: tuple[str, ...] = (*SOURCES, "fused")  # those that are heard; fewer: the published ablations
    attention: bool = True                           # dual attention; without it: the shallow features alone

    def __post_init__(self):
        object.__setattr__(self, "decoder", tuple(self.decoder))        # lists where it comes from a file
        object.__setattr__(self, "sentences", tuple(self.sentences))
        if set(self.sentences) - {*SOURCES, "fused"}:
            raise ValueError(f"sentences must be some of {(*SOURCES, 'fused')}, got {self.sentences}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share in [0, 1), got {getattr(self, name)}")
        groups = [c for c in self.decoder[:2] if c % 8]
        if groups:
            raise ValueError(f"the first two numbers of decoder must be multiples of its 8 groups, got {self.decoder}")

    def slim(self) -> "Config":
        """A narrow copy that can be trained without a GPU: 1/130 of the work, the same arithmetic, no dropout."""
        return replace(self, shallow=16, width=40, decoder=(24, 16, 8), heads=4, dropout=0.0, drop_path=0.0)


class PublishedCMIFusion(nn.Module):
    """The published network.

    A batch is a dict: visible, infrared (B, 1, H, W) in [0, 1]; text_visible, text_infrared, text_fused (B, D), one
    vector for each sentence that the configuration hears, not normalised.

    The outputs, a dict: fused (B, 1, H, W) in [0, 1]; unclamped (B, 1, H, W) in (-1, 1), before the cut at 0;
    attention, a dict sentence -> (B, heads, H W, 1), all ones.

    Raises:
        ValueError: pictures of another or of different shapes, or a sentence that is missing or of another width.
    """

    def __init__(self, config: Config = Config()):
        super().__init__()
        self.config, c, d = config, config.shallow, config.width
        slope = nn.PReLU()                                   # one object everywhere: one slope, as published
        each = lambda make: nn.ModuleDict({kind: make() for kind in SOURCES})
        heard = [kind for kind in SOURCES if kind in config.sentences]
        self.stem = each(lambda: nn.Sequential(conv(1, c), slope, conv(c, c)))
        self.dual = each(lambda: DualAttention(c, slope)) if config.attention else None
        self.text = nn.ModuleDict({kind: nn.Linear(config.text_width, c) for kind in heard})
        self.meet = nn.ModuleDict({kind: AttBlock(c, config) for kind in heard})
        self.widen = nn.Linear(c, d)
        nn.init.xavier_uniform_(self.widen.weight)
        if "fused" in config.sentences and config.text_width != d:
            self.text["fused"] = nn.Linear(config.text_width, d)         # not published: there D = d
        depth = config.depth if "fused" in config.sentences else 0
        self.last = nn.ModuleList(AttBlock(d, config) for _ in range(depth))
        self.norm = nn.LayerNorm(d)
        self.refine = nn.ModuleList(Residual(d) for _ in range(2))
        e, f, g = config.decoder
        plain = lambda a, b: nn.Conv2d(a, b, 3, padding=1)
        self.decode = nn.Sequential(plain(d, e), nn.GroupNorm(8, e), nn.GELU(), plain(e, f), nn.GroupNorm(8, f),
                                    nn.GELU(), plain(f, g), nn.ReLU(), plain(g, 1), nn.Tanh())

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        told, size, attention = self._sentences(batch), batch["visible"].shape[-2:], {}
        total = 0.0
        for kind in SOURCES:
            x = self.stem[kind](batch[kind])                                 # (B, C, H, W)
            if self.dual is not None:
                x = self.dual[kind](x)
            x = x.flatten(2).transpose(1, 2)                                 # (B, H W, C)
            if kind in told:
                x, attention[kind] = pieces(self.meet[kind], x, told[kind])
            total = total + x
        z = self.widen(total)                                                # (B, H W, d)
        for block in self.last:
            z, attention["fused"] = pieces(block, z, told["fused"])
        z = self.norm(z).transpose(1, 2).unflatten(2, size)                  # (B, d, H, W)
        for block in self.refine:
            z = block(z)
        made = self.decode(z)                                                # (B, 1, H, W)
        return dict(fused=made.clamp(0, 1), unclamped=made, attention=attention)

    def _sentences(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sentences heard, each as one key (B, 1, C) or (B, 1, d), after checks of the batch."""
        shapes = [tuple(batch[kind].shape) for kind in SOURCES]
        if len(shapes[0]) != 4 or shapes[0][1] != 1 or shapes[0] != shapes[1]:
            raise ValueError(f"visible is {shapes[0]} and infrared {shapes[1]}, expected both (pictures, 1, rows, "
                             "columns); give grey pictures of one size")
        told = {}
        for kind in self.config.sentences:
            given, expected = batch.get(f"text_{kind}"), (shapes[0][0], self.config.text_width)
            if given is None or tuple(given.shape) != expected:
                raise ValueError(f"text_{kind} is {'absent' if given is None else tuple(given.shape)}, expected "
                                 f"{expected}: one vector a picture, as its text encoder pools a sentence")
            told[kind] = (self.text[kind](given) if kind in self.text else given)[:, None]
        return told


class AttBlock(nn.Module):
    """Pixels attend one sentence, then a network for each pixel: x + attention(norm x, t), then x + mlp(norm x).

    With one key t the softmax is 1, so that attention(norm x, t) = W_o W_v t + b for every x: see `constant`.
    """

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.norm_query, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, config.heads)
        self.feed = feed_forward(width, 4, config.dropout)
        self.dropout, self.skip = nn.Dropout(config.dropout), config.drop_path

    def forward(self, x: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N, d), sentence (B, 1, d) -> x (B, N, d), weights (B, heads, N, 1)."""
        read, weights = self.attention(self.norm_query(x), sentence)
        x = x + self._branch(read)
        return x + self._branch(self.feed(self.norm_feed(x))), weights

    def constant(self, sentence: Tensor) -> Tensor:
        """All that a sentence (B, 1, d) does in this block: the vector (B, 1, d) that each pixel receives."""
        return self.attention.out(self.attention.key_value(sentence).chunk(2, -1)[1])

    def _branch(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        if not (self.training and self.skip):
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.skip        # stochastic depth, by sample
        return x * kept / (1 - self.skip)


class DualAttention(nn.Module):
    """Spatial and channel attention side by side (MIRNet, Zamir et al., ECCV 2020), without its residual.

    r = conv(prelu(conv(x))); S = sigmoid(conv5([max_c r, mean_c r])); C = sigmoid(W2 relu(W1 mean_hw r));
    out = conv1([r S, r C]).
    """

    def __init__(self, channels: int, slope: nn.PReLU):
        super().__init__()
        few = max(channels // 8, 1)
        self.body = nn.Sequential(conv(channels, channels), slope, conv(channels, channels))
        self.spatial = nn.Conv2d(2, 1, 5, padding=2, bias=False)
        self.channel = nn.Sequential(nn.Conv2d(channels, few, 1, bias=False), nn.ReLU(),
                                     nn.Conv2d(few, channels, 1, bias=False))
        self.out = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        r = self.body(x)                                                                   # (B, C, H, W)
        where = self.spatial(torch.cat([r.amax(1, True), r.mean(1, True)], 1)).sigmoid()   # (B, 1, H, W)
        which = self.channel(r.mean((2, 3), True)).sigmoid()                               # (B, C, 1, 1)
        return self.out(torch.cat([r * where, r * which], 1))


class Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
                                  nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3 x 3 convolution without bias, zeros beyond the border."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def pieces(block: AttBlock, x: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
    """`block(x, sentence)`; without gradient for `PIECE` pixels at a time, since no pixel looks at another one."""
    if torch.is_grad_enabled():
        return block(x, sentence)
    done = [block(piece, sentence) for piece in x.split(PIECE, 1)]
    return torch.cat([y for y, _ in done], 1), torch.cat([w for _, w in done], 2)
