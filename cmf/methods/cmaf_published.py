"""CMAF as published: one mean image vector and one text vector a video, so that attention has nothing to choose.

Axes: B videos, T segments, L text tokens, H heads, d width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmf.blocks.attention import masked_mean

ABSENT = -20.0  # logit of a segment that does not exist: a score of 2e-9


class PublishedCMAF(nn.Module):
    """The published network: one mean image vector and one text vector a video, hence attention over one key.

    The batch is that of `cmf.methods.cmaf.CMAF` (at least the visual columns); of its text the mean token of the first
    caption (`text_caption`, (B, L) int) is read, zero without text. The width is that of the visual vectors, as the
    residual demands. The weights of both attentions are the constant 1: the queries and their projections do not
    influence the output and get no gradient, 27.6 % of the fusion's parameters.
    The outputs: logits (B, T), the video's logit on each of its segments; score (B,), that logit; attention
    (B, H, 1, 1) of vision to text and back; similarity (B,), the cosine of the alignment term, without gradient.
    """

    def __init__(self, visual: int = 512, text: int = 768, heads: int = 8, frames: int = 8):
        super().__init__()
        d, self.frames = visual, frames
        project = lambda c: nn.Sequential(nn.Linear(c, d), nn.LayerNorm(d), nn.ReLU(), nn.Dropout(0.1))
        attend = lambda: nn.MultiheadAttention(d, heads, dropout=0.1, batch_first=True)
        self.fusion = nn.ModuleDict(dict(
            visual=project(visual), text=project(text), to_text=attend(), to_visual=attend(), gate=nn.Linear(2 * d, d),
            final=nn.Sequential(*project(d), nn.Linear(d, d))))
        step = lambda a, b, p: (nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU(), nn.Dropout(p))
        self.head = nn.Sequential(*step(d, d // 2, 0.2), *step(d // 2, d // 4, 0.1), nn.Linear(d // 4, 1))
        for layer in (self.fusion["visual"][0], self.fusion["text"][0], self.fusion["final"][0]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        part = self.fusion
        raw, present = mean_frame(batch, self.frames)                          # (B, d)
        number = batch["text_caption"].masked_fill(~batch["text_mask"], torch.iinfo(batch["text_caption"].dtype).max)
        mask = batch["text_mask"] & (number == number.amin(1, keepdim=True))   # (B, L), the first caption's tokens
        v, t = part["visual"](raw)[:, None], part["text"](masked_mean(batch["text"], mask))[:, None]   # (B, 1, d)
        a_v, to_text = part["to_text"](v, t, t, average_attn_weights=False)
        a_t, to_visual = part["to_visual"](t, v, v, average_attn_weights=False)
        g = part["gate"](torch.cat([a_v, a_t], -1)).sigmoid()                  # (B, 1, d)
        fused = part["final"](g * a_v + (1 - g) * a_t)[:, 0]
        score = self.head(raw + fused)                                         # (B, 1)
        return dict(logits=torch.where(present, score, ABSENT), score=score[:, 0], present=present, attention=to_text,
                    back=to_visual, similarity=F.cosine_similarity(raw, t[:, 0], dim=-1).detach())


class PublishedBaseline(nn.Module):
    """The published visual baseline: the mean image vector of 16 frames through two layers."""

    def __init__(self, visual: int = 512, frames: int = 16):
        super().__init__()
        self.frames = frames
        self.head = nn.Sequential(nn.Linear(visual, visual // 2), nn.ReLU(), nn.Dropout(0.1), nn.Linear(visual // 2, 1))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raw, present = mean_frame(batch, self.frames)
        score = self.head(raw)                                                 # (B, 1)
        return dict(logits=torch.where(present, score, ABSENT), score=score[:, 0], present=present)


def mean_frame(batch: dict[str, Tensor], frames: int) -> tuple[Tensor, Tensor]:
    """Mean (B, Dv) of `frames` evenly spaced segments, first and last included, and which exist (B, T)."""
    visual = batch["visual"]
    present = batch.get("segments", torch.ones(visual.shape[:2], dtype=torch.bool, device=visual.device))
    rank = torch.arange(frames, device=visual.device) * (present.sum(1, keepdim=True) - 1) // (frames - 1)  # floor
    place = present.long().argsort(dim=1, descending=True, stable=True).gather(1, rank)
    return visual.gather(1, place[..., None].expand(-1, -1, visual.shape[-1])).mean(1), present


def published_criterion(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy with the video's label + 0.1 |s - 0.5|, s without gradient: nothing to the optimiser."""
    terms = dict(classification=F.binary_cross_entropy_with_logits(outputs["score"], batch["labels"]))
    if "similarity" in outputs:
        terms["alignment"] = (outputs["similarity"].detach() - 0.5).abs().mean()
    return terms | dict(loss=terms["classification"] + 0.1 * terms.get("alignment", 0.0))
