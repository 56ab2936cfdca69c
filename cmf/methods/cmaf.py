"""CMAF: video anomaly detection in which segments of a clip attend to the words of its captions, and back.

The T segments of a video attend to the caption tokens under a mask, both with the encoding of their time in the
clip; a gate weighs, segment by segment, vision against the words read; the result joins the visual stream through
a residual that starts at zero, so the untrained network is its own visual baseline and text has to earn its
place. Every segment has its own score. `CMAF` is the corrected method; `cmf.methods.cmaf_published` keeps the published
arithmetic, whose attention over one token is a constant, as an arm.

Axes: B videos, T segments, L text tokens, H heads, d width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.attention import Attention, masked_mean
from cmf.losses import head_diversity, info_nce, top_k_bce

ABSENT = -20.0  # logit of a segment that does not exist: a score of 2e-9
TRUSTS = (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)  # in the network of vision, to choose from
OPENING = 10.0  # gamma counts this many times: as a step of Adam is of one size, text is heard before vision overfits


@dataclass(frozen=True)
class Config:
    """The shape of a `CMAF` and its arms; stored with its weights and compared when they are loaded."""

    visual: int                  # channels of a segment's image embedding
    text: int                    # channels of a caption token
    motion: int = 0              # channels of a segment's motion token; 0: none
    width: int = 64              # d
    heads: int = 4               # H
    dropout: float = 0.1
    text_dropout: float = 0.15   # share of training videos that lose their text
    vision: float = 1.0          # scale of the segments' vectors; 0: they know only their time, the text-only arm
    own: bool = False            # vision has a network of its own, whose scores are added
    relative: bool = False       # segments less the mean of their clip: a fixed camera's place and light drop out
    use: str = "bidirectional"   # none | v_from_x | bidirectional: who attends whom
    fusion: str = "gate"         # gate | sum | concat | none (what the segments read, without the context)
    nearness: float = 4.0        # attention's slope over distance in time at the start, 1/segment; 0: no such bias
    window: int = 3              # segments under the temporal convolution, odd; 1: no mixing over time

    def __post_init__(self):
        for name, least in dict(visual=1, text=1, width=1, heads=1, motion=0, nearness=0).items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.width % 2 or self.width % self.heads:
            raise ValueError(f"width must be even and a multiple of {self.heads} heads, got {self.width}")
        for name in ("dropout", "text_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share in [0, 1), got {getattr(self, name)}")
        if self.use not in ("none", "v_from_x", "bidirectional"):
            raise ValueError(f"use must be one of none, v_from_x, bidirectional, got {self.use!r}")
        if self.fusion not in ("gate", "sum", "concat", "none"):
            raise ValueError(f"fusion must be one of gate, sum, concat, none, got {self.fusion!r}")
        if self.own and self.use == "none":
            raise ValueError("own gives vision a network beside that of the words; with use 'none' there is only one")
        if not self.vision and self.use == "none":
            raise ValueError("without vision and without text nothing is left; give vision a scale or use text")
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be an odd number of segments, got {self.window}")


class CMAF(nn.Module):
    """The corrected method.

    A batch is a dict: visual (B, T, Dv), and motion (B, T, Dm) where configured; segments (B, T) bool, True where
    one exists, by default all; text (B, L, Dx), text_mask (B, L) bool and text_time (B, L), the time of a token's
    caption as a share of the clip. The three text columns may be absent, and a video may have no token: a learned
    null token then stands for its text, in column 0. `fit_inputs` should have seen the training data once.

    The outputs, a dict: logits (B, T), far below zero where no segment exists; present (B, T) bool; video (B, d),
    the mean segment before any text; and, where text is used: words (B, d), the mean token; has_text (B,) bool;
    text_mask (B, L) bool, the tokens read; attention (B, H, T, L) from segments to words, its rows summing to one;
    context (B, T, d), what the words give back; back (B, H, L, T) from words to segments, if bidirectional; gate
    (B, T) in (0, 1), the mean weight of vision, if learned; temperature, of the alignment.

    With `use="none"` the segments attend to one another in the place of the words: the visual-only arm lacks
    only the words' embedding and the attention back. Untrained arms with vision and equal weights score alike.

    With `own`, vision has such a visual-only network to itself, `sight`. The rest of the network then sees pictures
    in its attention only, and its residual stream starts empty. logits = verbal_logits + trust * visual_logits, (B, T)
    each, and no gradient of the sum reaches `sight`, which would fit what the words leave over to the training places.
    The number `trust` is no parameter: a network that knows its training places by heart is too sure of others, so it
    is chosen on validation videos, see `choose_trust`. Untrained it is 1, and the words add a constant.

    Raises:
        ValueError: a column that is missing or of another shape, times outside [0, 1], or a video whose attention
            would have one key only, where its weights are a constant: one segment, or one token.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, d = config, config.width
        attention = lambda: TimedAttention(d, config.heads, config.dropout, config.nearness)
        channels = dict(segments=config.visual + config.motion, words=config.text)
        if config.use == "none":
            del channels["words"]
        self.scale = nn.ModuleDict({name: Standard(c) for name, c in channels.items()})
        self.embed = nn.ModuleDict({n: nn.Sequential(nn.Linear(c, d), nn.LayerNorm(d)) for n, c in channels.items()})
        if config.use != "none":
            self.null = nn.Parameter(0.02 * torch.randn(d))
            self.kind = nn.Parameter(0.02 * torch.randn(d))
            self.log_temperature = nn.Parameter(torch.tensor(0.07).log())
        self.dropout = nn.Dropout(config.dropout)
        self.read = attention()
        self.back = attention() if config.use == "bidirectional" else None
        if self.back is not None:                                              # starts silent, like gamma
            nn.init.zeros_(self.back.out.weight)
            nn.init.zeros_(self.back.out.bias)
        self.weigh = nn.Linear(3 * d, d) if config.fusion == "gate" else None
        self.join = nn.Linear(2 * d, d) if config.fusion == "concat" else None
        self.out, self.gamma, self.norm = nn.Linear(d, d), nn.Parameter(torch.zeros(d)), nn.LayerNorm(d)
        self.mixer = nn.Conv1d(d, d, config.window, padding=config.window // 2) if config.window > 1 else None
        self.head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(d, 1))
        self.sight = CMAF(replace(config, own=False, use="none", fusion="none")) if config.own else None
        if config.own:
            self.register_buffer("trust", torch.ones(()))

    def fit_inputs(self, batch: dict[str, Tensor]) -> "CMAF":
        """Take mean and spread of every input channel from the segments and tokens of training data."""
        seen, present = self._segments(batch)
        self.scale["segments"].fit(seen[present])
        if self.config.use != "none":
            words, mask, _ = self._words(batch)
            self.scale["words"].fit(words[mask])
        if self.sight is not None:
            self.sight.fit_inputs(batch)
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        seen, present = self._segments(batch)
        v = self.config.vision * self.embed["segments"](self.scale["segments"](seen))          # (B, T, d)
        rank = present.cumsum(1)
        time = (rank - 0.5).clamp_min(0) / rank[:, -1:]                        # (B, T) shares of the clip
        timed = self.dropout(v) + time_features(time, self.config.width)       # V', (B, T, d)
        found = dict(present=present, video=masked_mean(v, present))
        if self.config.use == "none":
            keys, mask, key_time = timed, present, time
        else:
            words, mask, key_time = self._words(batch)
            x, mask, has = self._null(self.embed["words"](self.scale["words"](words)), mask)    # (B, L, d)
            keys = self.dropout(x) + time_features(key_time, self.config.width) + self.kind     # X', (B, L, d)
            found |= dict(words=masked_mean(x, mask), has_text=has, text_mask=mask,
                          temperature=self.log_temperature.exp().clamp(0.01, 1.0))
        distance = (time[:, :, None] - key_time[:, None, :]).abs() * rank[:, -1, None, None]    # (B, T, L) segments
        attended, attention = self.read(timed, keys, mask, distance)
        if self.back is not None:
            returned, back = self.back(keys, timed, present, distance.transpose(1, 2))
            keys, found["back"] = keys + returned, back                        # X^, (B, L, d)
        context = attention.mean(1) @ keys                                     # c_t = sum_l a_tl x^_l, (B, T, d)
        fused = self._fuse(timed, timed + attended, context, found)            # f, (B, T, d)
        stream = torch.zeros_like(v) if self.config.own else v
        e = self.norm(stream + OPENING * self.gamma * self.out(fused)) * present[..., None]     # (B, T, d)
        if self.mixer is not None:
            e = e + self.dropout(F.gelu(self.mixer(e.transpose(1, 2)).transpose(1, 2)))
        logits = self.head(e).squeeze(-1).masked_fill(~present, ABSENT)        # (B, T)
        if self.sight is not None:
            seen = self.sight(batch)["logits"]                                 # (B, T)
            found |= dict(visual_logits=seen, verbal_logits=logits)
            logits = (logits + self.trust * seen.detach()).masked_fill(~present, ABSENT)
        heard = dict(attention=attention, context=context) if self.config.use != "none" else {}
        return dict(logits=logits, **found, **heard)

    def choose_trust(self, outputs: dict[str, Tensor], judge: Callable[[Tensor], float]) -> float:
        """Set `trust` to the one of TRUSTS whose logits `judge` likes best, and return what it says of them.

        outputs: of this network for validation videos. judge: (B, T) logits -> score, higher is better; of equal ones
        the larger trust is taken. Without a network of its own for vision the logits are judged as they are.
        """
        if self.sight is None:
            return judge(outputs["logits"])
        present, own = outputs["present"], (outputs["verbal_logits"], outputs["visual_logits"])
        tried = {trust: judge((own[0] + trust * own[1]).masked_fill(~present, ABSENT)) for trust in TRUSTS}
        best = max(tried, key=tried.get)
        self.trust.fill_(best)
        return tried[best]

    def _fuse(self, timed: Tensor, attended: Tensor, context: Tensor, found: dict[str, Tensor]) -> Tensor:
        """V', V^ and the context, (B, T, d) each -> f (B, T, d); notes the gate in `found`."""
        if self.weigh is not None:                                             # g_t = sigmoid(W_g [v^ ; c ; v'])
            g = self.weigh(torch.cat([attended, context, timed], -1)).sigmoid()
            found["gate"] = g.mean(-1)                                         # (B, T)
            return g * attended + (1 - g) * context
        if self.join is not None:
            return self.join(torch.cat([attended, context], -1))
        return attended + context if self.config.fusion == "sum" else attended

    def _segments(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Segment vectors (B, T, Dv + Dm) and which of them exist (B, T)."""
        visual = column(batch, "visual", self.config.visual)
        present = batch.get("segments")
        if present is None:
            present = torch.ones(visual.shape[:2], dtype=torch.bool, device=visual.device)
        same_shape("segments", present, visual)
        at_least_two(present, "segment", "cut the clip into shorter segments", none=False)
        if self.config.motion:
            motion = column(batch, "motion", self.config.motion)
            same_shape("motion", motion[..., 0], visual)
            visual = torch.cat([visual, motion], -1)
        if self.config.relative:
            visual = visual - masked_mean(visual, present)[:, None]
        return visual.masked_fill(~present[..., None], 0.0), present

    def _words(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, Dx), which of them exist (B, L) and their times (B, L); one that does not exist if no text."""
        some = batch["visual"]
        if "text" not in batch or batch["text"].numel() == 0:
            return (some.new_zeros(len(some), 1, self.config.text),
                    torch.zeros(len(some), 1, dtype=torch.bool, device=some.device), some.new_zeros(len(some), 1))
        words = column(batch, "text", self.config.text)
        if len(words) != len(some):
            raise ValueError(f"text of {len(words)} videos beside {len(some)} videos; give one row a video")
        for name in ("text_mask", "text_time"):
            if name not in batch:
                raise ValueError(f"text comes without {name}; give it with shape {tuple(words.shape[:2])}")
            same_shape(name, batch[name], words)
        mask, time = batch["text_mask"], batch["text_time"].masked_fill(~batch["text_mask"], 0.0)
        if not ((time >= 0) & (time <= 1)).all():
            raise ValueError(f"text_time must be a share of the clip in [0, 1], got {float(time.min()):.3g} to "
                             f"{float(time.max()):.3g}; divide seconds by the clip's length")
        at_least_two(mask, "text token", "give the whole caption, or no text", none=True)
        return words.masked_fill(~mask[..., None], 0.0), mask, time

    def _null(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, d) with the null token in column 0 of videos without text; in training some lose theirs."""
        has = mask.any(1)                                                      # (B,)
        if self.training and self.config.text_dropout:
            has = has & (torch.rand(len(has), device=has.device) >= self.config.text_dropout)
        empty = (torch.arange(mask.shape[1], device=mask.device) == 0) & ~has[:, None]         # (B, L)
        return torch.where(empty[..., None], self.null.to(x.dtype), x), (mask & has[:, None]) | empty, has


class TimedAttention(Attention):
    """Attention that starts out preferring keys near in time: scores q k / sqrt(d / H) - slope_h * distance.

    The slopes, one a head, are learned and start at `nearness` a segment. Under video labels any segment may
    carry the evidence; one that reads the words of its own time is then the one that scores. The form is that of
    ALiBi (Press et al., ICLR 2022), whose slopes are fixed and differ between heads.
    """

    def __init__(self, width: int, heads: int, dropout: float, nearness: float):
        super().__init__(width, heads, dropout)
        self.slope = nn.Parameter(torch.full((heads,), float(nearness))) if nearness else None

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """As `Attention`, with the distance in time of each query to each key, (B, Lq, Lk), in segments."""
        bias = None if self.slope is None else -self.slope[:, None, None] * distance[:, None]
        return super().forward(queries, keys, mask, bias)


class Standard(nn.Module):
    """Input channels at mean 0 and deviation 1 over the training data; before `fit`, as they come."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def fit(self, x: Tensor) -> None:
        """x (n, channels); a channel that does not vary keeps its scale."""
        self.mean.copy_(x.float().mean(0))
        self.deviation.copy_(x.float().std(0, correction=0)).masked_fill_(self.deviation < 1e-6, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def time_features(time: Tensor, width: int) -> Tensor:
    """Times (...) as shares of the clip -> 0.3 times sines and cosines (..., width) of 1/4 to 16 turns a clip."""
    angle = 2 * math.pi * time[..., None] * 2.0 ** torch.linspace(-2, 4, width // 2, device=time.device)
    return 0.3 * torch.cat([angle.sin(), angle.cos()], -1)


def column(batch: dict[str, Tensor], name: str, channels: int) -> Tensor:
    """The column `name` (B, N, channels) of a batch, or a ValueError that says what came."""
    if name not in batch:
        raise ValueError(f"the batch has no {name}, only {sorted(batch)}; give it as (B, N, {channels})")
    if batch[name].ndim != 3 or batch[name].shape[-1] != channels:
        raise ValueError(f"{name} must be (B, N, {channels}), got {tuple(batch[name].shape)}; another encoder?")
    return batch[name]


def same_shape(name: str, given: Tensor, beside: Tensor) -> None:
    """`given` must be (B, N) beside vectors (B, N, channels)."""
    if given.shape != beside.shape[:2]:
        raise ValueError(f"{name} must cover {tuple(beside.shape[:2])}, got {tuple(given.shape)}")


def at_least_two(mask: Tensor, what: str, advice: str, none: bool) -> None:
    """Each row of `mask` (B, N) must have two elements or more, or none if `none`."""
    count = mask.sum(1)
    bad = (count == 1) | ((count == 0) & (not none))
    if bad.any():
        i = int(bad.int().argmax())
        raise ValueError(f"video {i} of the batch has {int(count[i])} {what}(s), and attention needs at least two to "
                         f"choose from; {advice}")


def criterion(instances: float = 1.0, frames: float = 0.0, alignment: float = 0.1, diversity: float = 0.01,
              smooth: float = 8e-4, sparse: float = 8e-5):
    """The weighted sum of the loss terms, as the trainer wants it; each weight 0 or more.

    instances: top-k cross-entropy with the video's label, `labels` (B,). frames: cross-entropy with `frame_labels`
    (B, T), for fully labelled data alone. Both are asked of the sum and, where vision has a network of its own, of
    each of the two answers. alignment: symmetric InfoNCE between a video and its own words, over the
    videos that have some. diversity: of the heads that read the words. smooth: mean of (s_t - s_t+1)^2. sparse:
    mean of s_t in anomalous videos; both as in Sultani et al. (CVPR 2018), eq. 6.
    """

    def loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, present, labels = outputs["logits"], outputs["present"], batch["labels"]
        score, pairs = logits.float().sigmoid(), present[:, 1:] & present[:, :-1]
        bad = present & (labels > 0.5)[:, None]
        over = lambda x, where: (x * where).sum() / where.sum().clamp_min(1)
        terms = dict(smooth=over((score[:, 1:] - score[:, :-1]).square(), pairs), sparse=over(score, bad))
        weights = dict(smooth=smooth, sparse=sparse)
        for who in ("", "visual_", "verbal_"):
            if f"{who}logits" in outputs:
                answer = outputs[f"{who}logits"].float()
                terms[f"{who}instances"], weights[f"{who}instances"] = top_k_bce(answer, labels, present), instances
                if frames:
                    each = F.binary_cross_entropy_with_logits(answer, batch["frame_labels"], reduction="none")
                    terms[f"{who}frames"], weights[f"{who}frames"] = over(each, present), frames
        if "attention" in outputs:
            has = outputs["has_text"]
            terms["alignment"] = info_nce(outputs["video"][has], outputs["words"][has], outputs["temperature"])
            terms["diversity"] = head_diversity(outputs["attention"], present, outputs["text_mask"])
            weights |= dict(alignment=alignment, diversity=diversity)
        return terms | dict(loss=sum(weights[name] * term for name, term in terms.items()))

    return loss
