"""CMFS: one network fuses an infrared and a visible picture and labels every pixel.

Two VMamba encoders look at the visible and the infrared picture. After each of their stages the streams exchange
features, region by region, as far as pixels and the words of the classes allow. In the first two stages each stream
is also scanned among its wavelet bands and filtered by frequency. What both know is joined, refined by low-rank experts
and labelled; a second head mixes the two pictures at every pixel and redraws a bounded part.

Source: Su, Huang, Yang, He, IJCAI 2025, 1873-1881, doi 10.24963/ijcai.2025/209, as far as its released code states it.

Corrected against that code, and in `Config.published` where a name is given, to measure what it does:
  "mosaic"     the windowed scan of wavelet bands is never put back in order, and its windows are dilated
  "magnitude"  the inverse Fourier transform loses its sign
  "frozen"     no parameter of any selective scan is trained
  "text"       the gate by text averages the channels away, knows one picture size, and each prompt has a fixed place
  "bare"       what the mixers scan is not normalised before it is gated, and grows without bound
  "shuffle"    channels are left shuffled before pretrained layers; an undone shuffle is no shuffle, so none is here
  "head"       the fused picture is drawn without its sources and their colours, Sobel filters are overwritten by
               random numbers, and 134 maps are enlarged to full size
Corrected without a name: regions and bands fit every size; pictures are normalised as the encoder expects; an infrared
picture has one channel; text is encoded once and is no part of checkpoints; batch norms have one epsilon in
training and use; any batch; balanced experts, unsigned gradients (`cmf.segmentation_losses`). The head that labels
adds its scan to what it scans. With "text" and "head" the parameters are the published 135,160,556 (9 classes) less
four that nothing uses.

Axes: B pictures, C channels, H, W rows and columns, K classes, P prompts, D text width, N regions a side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.channels import LayerNorm2d, Linear2d
from cmf.blocks.collaboration import Collaboration
from cmf.blocks.mixture import Join, Mixture, Thin
from cmf.blocks.region import Interaction
from cmf.blocks.ss2d import SS2D, freeze
from cmf.blocks.vmamba import VMamba

USE = {"both": 2, "visible": 1, "infrared": 1, "early": 1}              # how many encoders
PUBLISHED = ("mosaic", "magnitude", "frozen", "text", "bare", "shuffle", "head")
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)             # of ImageNet, which encoders are trained on
EPS = 1e-3                                                              # of all batch norms
GREY = (0.299, 0.587, 0.114)                                            # ITU-R BT.601
SHARPNESS = 20.0                                                        # of the choice of the brighter source
PIXELS = (768, 192, 1200, 300)                                          # of a region of tiny at 480 x 640


@dataclass(frozen=True)
class Config:
    """The shape of a `CMFS` and its arms; stored with its weights and compared when they are loaded."""

    classes: int = 9                                 # K, the background among them
    text_width: int = 512                            # D
    widths: tuple[int, ...] = (96, 192, 384, 768)    # C of each stage, at 1/4, 1/8, ... of the size
    depths: tuple[int, ...] = (2, 2, 8, 2)           # blocks of each stage
    regions: tuple[int, ...] = (5, 5, 1, 1)          # N of each stage
    band_states: tuple[int, ...] = (8, 16)           # states of the frequency-spatial scans; one a stage that has them
    band_ratio: float = 4                            # their inner width by C
    mixer_states: int = 16                           # of the scans of the interaction
    pairs: int = 2                                   # of expert blocks a stage
    expert_states: int = 64                          # of the scans in them
    ranks: tuple[int, ...] = (2, 4, 8)               # of the experts
    per: str = "image"                               # image | region | pixel: what is sent to one expert
    side: int = 32                                   # of such a region, in pixels of the picture
    embed: int = 512                                 # channels of the head that labels
    embed_states: int = 16                           # of its scan
    full: int = 16                                   # channels of the head that fuses
    drop: float = 0.2                                # of the encoder's last block
    use: str = "both"                                # both | visible | infrared | early: 4 channels, one encoder
    text: bool = True                                # the gate by the classes' prompts
    region: bool = True                              # the interaction of the streams before they are joined
    wavelet: bool = True
    fourier: bool = True
    scan: bool = True                                # all selective scans
    experts: bool = True                             # False: one expert of the same ranks together
    published: tuple[str, ...] = ()                  # defects to keep, of PUBLISHED
    prompts: int = 8                                 # P, used by the published gate alone

    def __post_init__(self):
        for name in ("widths", "depths", "regions", "band_states", "ranks", "published"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list where it comes from a file
        if not len(self.widths) == len(self.depths) == len(self.regions) >= len(self.band_states):
            raise ValueError(f"stages differ: {len(self.widths)} widths, {len(self.depths)} depths, "
                             f"{len(self.regions)} regions, {len(self.band_states)} band_states; the first three are "
                             "of one length and the last is not longer")
        if self.use not in USE:
            raise ValueError(f"use must be one of {', '.join(USE)}, got {self.use!r}")
        unknown = [name for name in self.published if name not in PUBLISHED]
        if unknown:
            raise ValueError(f"published holds {', '.join(unknown)}; choose of {', '.join(PUBLISHED)}")
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}; give the background and at least one more")
        if "text" in self.published and len(self.widths) > len(PIXELS):
            raise ValueError(f"the published gate by text has {len(PIXELS)} stages, got {len(self.widths)}")

    @property
    def needs_text(self) -> bool:
        """Whether the network asks for embeddings of the classes' prompts."""
        return self.text and self.region and self.use == "both"


def tiny(classes: int = 9, text_width: int = 512, **changes) -> Config:
    """The published size: 134,695,787 parameters with the corrections; `changes` are other fields of `Config`."""
    return Config(classes=classes, text_width=text_width, **changes)


def small(classes: int = 9, text_width: int = 512, **changes) -> Config:
    """About 2 M parameters, which two CPU cores train in minutes; `changes` are other fields of `Config`."""
    size = dict(widths=(32, 48, 80, 96), depths=(1, 1, 2, 1), regions=(5, 5, 2, 1), band_states=(4, 4), band_ratio=1,
                mixer_states=4, pairs=1, expert_states=4, per="region", embed=48, embed_states=4, drop=0.05)
    return Config(classes=classes, text_width=text_width, **size | changes)


class CMFS(nn.Module):
    """The network of a `Config`.

    A batch is a dict: visible (B, 3, H, W) and infrared (B, 1, H, W) in [0, 1], H and W at least 32; text (P, D), the
    embeddings of the classes' prompts, may be left out where they were given at construction.

    The outputs, a dict: logits (B, K, H, W); fused (B, 3, H, W) in [0, 1]; routing, a list of `Routing` of all expert
    blocks; gates, a list of dicts, one for each stage with an interaction: pixel (B, 1, h, w), the share that the
    visible stream takes, mean over the channels; with text also region (B, N, N) and similarity (B, N, N, P).

    Args:
        config: the shape.
        text: (P, D) embeddings of prompts for each class but the background, any scale; not part of the state dict.

    Raises:
        ValueError: text of another width, or pictures of a wrong shape in a batch.
    """

    def __init__(self, config: Config, text: Tensor | None = None):
        super().__init__()
        self.config = c = config
        self.register_buffer("text", None if text is None else self._checked(text).detach().clone(), persistent=False)
        streams = USE[c.use]
        inputs = 4 if c.use == "early" else 3
        self.encoders = nn.ModuleList(VMamba(c.widths, c.depths, inputs, c.drop, scan=c.scan) for _ in range(streams))
        self.interaction = None
        if streams == 2 and c.region:
            self.interaction = nn.ModuleList(
                Interaction(width, number, c.text_width if c.text else None, c.mixer_states, c.scan,
                            "shuffle" in c.published, (PIXELS[i], c.prompts) if "text" in c.published else None,
                            "bare" not in c.published)
                for i, (width, number) in enumerate(zip(c.widths, c.regions, strict=True)))
        self.collaboration = nn.ModuleList(
            nn.ModuleList(Collaboration(c.widths[i], states, c.band_ratio, c.scan, c.wavelet, c.fourier,
                                        "mosaic" not in c.published, "magnitude" not in c.published)
                          for _ in range(streams)) for i, states in enumerate(c.band_states))
        self.norms = nn.ModuleList(nn.ModuleList(LayerNorm2d(width) for _ in range(streams)) for width in c.widths)
        self.join = nn.ModuleList(Join(streams * width, width, EPS) for width in c.widths)
        ranks = c.ranks if c.experts else (sum(c.ranks),)
        self.refine = nn.ModuleList(
            nn.ModuleList(nn.ModuleList([Mixture(width, ranks, c.per, max(1, c.side >> 2 + i), c.expert_states, c.scan,
                                                 "bare" not in c.published), Thin(width)])
                          for _ in range(c.pairs)) for i, width in enumerate(c.widths))
        self.segment = Segment(c)
        self.fuse = Fuse(c, streams, "head" in c.published)
        if "frozen" in c.published:
            freeze(self)

    def forward(self, batch: dict) -> dict:
        pictures = self._pictures(batch)
        text = self._checked(batch["text"]) if "text" in batch else self.text
        if self.config.needs_text and text is None:
            raise ValueError("this network has a gate by text and no text came; give the embeddings of the classes' "
                             "prompts to CMFS(config, text) or in the batch, or set text=False")
        size = pictures[0].shape[2:]
        xs = [encoder.patch_embed(x) for encoder, x in zip(self.encoders, self._streams(pictures), strict=True)]
        seen, drawn, routing, gates = [], [], [], []
        for i in range(len(self.config.widths)):
            xs = [encoder.stage(i, x) for encoder, x in zip(self.encoders, xs, strict=True)]
            if self.interaction is not None:
                *xs, gate = self.interaction[i](*xs, text)
                gates.append(gate | dict(pixel=gate["pixel"].mean(1, True)))
            told = xs
            if i < len(self.collaboration):
                told = [x + block(x) for x, block in zip(xs, self.collaboration[i], strict=True)]
            drawn += [self.fuse.reduced(i, k, self.norms[i][k](x)) for k, x in enumerate(told)]
            s = self.join[i](torch.cat(told, 1))                                        # (B, C_i, h, w)
            for mixture, thin in self.refine[i]:
                s, where = mixture(s)
                s = thin(s)
                routing.append(where)
            seen.append(self.segment.embedded(i, s))
            if i + 1 < len(self.config.widths):
                xs = [encoder.down(i, x) for encoder, x in zip(self.encoders, xs, strict=True)]
        del xs, told, s
        return dict(logits=self.segment(seen, size), fused=self.fuse(drawn, pictures), routing=routing, gates=gates)

    def _pictures(self, batch: dict) -> list[Tensor]:
        """The pictures that this arm may see, visible first, each checked."""
        names = ("visible", "infrared") if self.config.use in ("both", "early") else (self.config.use,)
        for name in names:
            if name not in batch:
                raise ValueError(f"the batch has no {name} picture; it holds {', '.join(batch) or 'nothing'}")
            x, channels = batch[name], 3 if name == "visible" else 1
            if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < 32:
                raise ValueError(f"{name} has shape {tuple(x.shape)}; give (B, {channels}, H, W), H and W at least 32")
        found = [batch[name] for name in names]
        if len(found) == 2 and (len(found[0]), *found[0].shape[2:]) != (len(found[1]), *found[1].shape[2:]):
            raise ValueError(f"visible has shape {tuple(found[0].shape)} and infrared {tuple(found[1].shape)}; "
                             "both need the same number, height and width")
        return found

    def _streams(self, pictures: list[Tensor]) -> list[Tensor]:
        """Inputs of the encoders (B, 3, H, W), normalised; for "early" one of four channels."""
        normed = []
        for x in pictures:
            mean, spread = (x.new_tensor(v)[:, None, None] for v in (MEAN, SPREAD))
            normed.append((x - mean) / spread)                                          # infrared: three channels
        if self.config.use == "early":
            return [torch.cat([normed[0], normed[1][:, 1:2]], 1)]
        return normed

    def _checked(self, text: Tensor) -> Tensor:
        if text.ndim != 2 or text.shape[1] != self.config.text_width or not len(text):
            raise ValueError(f"text has shape {tuple(text.shape)}; give (prompts, {self.config.text_width})")
        return text


def enlarged(x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """x (B, C, h, w) enlarged `factor` times, bilinearly, and cut to `size` (H, W)."""
    if factor > 1:
        x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


class Segment(nn.Module):
    """The head that labels: all stages at 1/4 of the size as one map, scanned, then a class for each pixel.

    The convolution over the maps of all stages is done part by part at their own sizes, as enlarging commutes with it.
    """

    def __init__(self, c: Config):
        super().__init__()
        self.embed = nn.ModuleList(Linear2d(width, c.embed) for width in c.widths)
        self.join = nn.Conv2d(len(c.widths) * c.embed, c.embed, 1)
        self.norm = nn.BatchNorm2d(c.embed, eps=EPS)
        self.scan = SS2D(c.embed, 2, c.embed_states, gated=True, scan=c.scan)
        self.norm2 = LayerNorm2d(c.embed)
        self.drop = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(c.embed, c.classes, 1)

    def embedded(self, i: int, s: Tensor) -> Tensor:
        """The part of stage i: s (B, C_i, h, w) -> (B, embed, h, w)."""
        width = self.join.out_channels
        return F.conv2d(self.embed[i](s), self.join.weight[:, i * width:(i + 1) * width])

    def forward(self, parts: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Parts of all stages -> logits (B, K, H, W) of `size`."""
        here = parts[0].shape[2:]
        y = sum(enlarged(part, 2**i, here) for i, part in enumerate(parts)) + self.join.bias[:, None, None]
        y = self.norm(y)
        y = self.drop(F.relu(self.norm2(y + self.scan(y))))
        return enlarged(self.classify(y), 4, size)


class Fuse(nn.Module):
    """The head that fuses: for each pixel a share of the visible grey, and a step towards black or white.

        s = sigmoid(omega + 20 (y - u)),  t = tanh(theta),  b = s y + (1 - s) u,
        g = b + t (1 - b) for t > 0, b + t b for t < 0,     fused = g + a (visible - y)

    with y the grey of the visible picture, u the infrared one, omega and theta from the features, and a in [0, 1] the
    largest for which all colours stay in [0, 1]. Where the features say nothing, g is the brighter of the two, and the
    colours are those of the visible picture. The streams' features are joined at 1/4 of the size
    and meet the pictures in full size. As published they meet there one by one, and fused is sigmoid(conv1 y).
    """

    def __init__(self, c: Config, streams: int, published: bool):
        super().__init__()
        self.published, self.sources, self.streams = published, 2 if c.use in ("both", "early") else 1, streams
        unit = lambda width: nn.Sequential(nn.Conv2d(width, c.full, 1), nn.BatchNorm2d(c.full, eps=EPS), nn.ReLU())
        self.reduce = nn.ModuleList(nn.ModuleList(unit(width) for _ in range(streams)) for width in c.widths)
        told = streams * len(c.widths) * c.full
        self.coarse = None if published else nn.Sequential(nn.Conv2d(told, c.full, 3, padding=1),
                                                           nn.BatchNorm2d(c.full, eps=EPS), nn.ReLU())
        self.join = nn.Conv2d((told if published else c.full) + 3 * self.sources, c.full, 3, padding=1)
        self.norm = nn.BatchNorm2d(c.full, eps=EPS)
        self.detail = Detail(c.full, fixed=not published)
        self.draw = nn.Conv2d(c.full, 3 if published else self.sources, 1)

    def reduced(self, i: int, k: int, x: Tensor) -> Tensor:
        """What stage i of stream k says to this head: x (B, C_i, h, w) -> (B, full, h, w)."""
        return self.reduce[i][k](x)

    def forward(self, parts: list[Tensor], pictures: list[Tensor]) -> Tensor:
        """Parts by stage and stream, and the pictures (B, 3 or 1, H, W) -> fused (B, 3, H, W) in [0, 1]."""
        size, here = pictures[0].shape[2:], parts[0].shape[2:]
        pictures = [x.expand(-1, 3, -1, -1) for x in pictures]
        factors = [2 ** (n // self.streams) for n in range(len(parts))]
        if self.published:
            y = [enlarged(part, 4 * factor, size) for part, factor in zip(parts, factors, strict=True)]
        else:
            y = [enlarged(part, factor, here) for part, factor in zip(parts, factors, strict=True)]
            y = [enlarged(self.coarse(torch.cat(y, 1)), 4, size)]
        y = self.draw(self.detail(F.relu(self.norm(self.join(torch.cat([*y, *pictures], 1))))))
        if self.published:
            return y.sigmoid()
        grey = base = (pictures[0] * pictures[0].new_tensor(GREY)[:, None, None]).sum(1, True)  # (B, 1, H, W)
        if self.sources == 2:
            u = pictures[1][:, :1]
            s = (y[:, 1:] + SHARPNESS * (grey - u)).sigmoid()
            base = s * grey + (1 - s) * u
        t = y[:, :1].tanh()
        return coloured(base + t * torch.where(t > 0, 1 - base, base), pictures[0] - grey)


def coloured(grey: Tensor, colour: Tensor) -> Tensor:
    """grey + a colour, with the largest a in [0, 1] at each pixel that keeps it in [0, 1].

    grey: (B, 1, H, W) in [0, 1]; colour: (B, 3, H, W), red, green and blue minus their grey.
    """
    room = torch.where(colour > 0, 1 - grey, grey) / colour.abs().clamp_min(1e-6)
    return (grey + room.amin(1, True).clamp(max=1) * colour).clamp(0, 1)                    # rounding


class Detail(nn.Module):
    """A dense block beside a gradient: leaky(conv1 [x; c1; c2] + conv1(|Sobel x| + |Sobel y|)); slopes .2 and .1."""

    def __init__(self, width: int, fixed: bool = True):
        super().__init__()
        self.first, self.second = (nn.Conv2d(n * width, width, 3, padding=1) for n in (1, 2))
        self.dense, self.edges = nn.Conv2d(3 * width, width, 1), nn.Conv2d(width, width, 1)
        across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
        sobel = torch.stack([across, across.T])[:, None, None].repeat(1, width, 1, 1, 1)   # (2, width, 1, 3, 3)
        if fixed:
            self.register_buffer("sobel", sobel, persistent=False)
        else:
            self.sobel = nn.Parameter(nn.init.normal_(sobel, std=(2 / 9) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        c1 = F.leaky_relu(self.first(x), 0.2)
        c2 = F.leaky_relu(self.second(torch.cat([x, c1], 1)), 0.2)
        across, down = (F.conv2d(x, s, padding=1, groups=x.shape[1]) for s in self.sobel)
        return F.leaky_relu(self.dense(torch.cat([x, c1, c2], 1)) + self.edges(across.abs() + down.abs()), 0.1)
