"""Masked multi-head attention, the self- and cross-attention blocks made of it, and a mean under a mask.

Axes: B batch, H heads, Lq query tokens, Lk key tokens, d width.
"""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head scaled dot-product attention that returns its weights (Vaswani et al. 2017, eq. 1).

    Args:
        width: d, channels of queries, keys and output; a multiple of `heads`.
        heads: H, number of heads.
        dropout: probability in [0, 1) of dropping an attention weight in training.

    Raises:
        ValueError: the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads; choose another of the two")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None,
                bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from `queries` (B, Lq, d) to `keys` (B, Lk, d).

        `mask` (B, Lk) is True where a key exists; at least one key of each sample must. `bias`, of a shape that
        broadcasts to (B, H, Lq, Lk), is added to the scores before the softmax.
        Returns the output (B, Lq, d) and the weights (B, H, Lq, Lk), whose rows sum to one.
        """
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = split(self.query(queries))                                      # (B, H, Lq, d/H)
        k, v = (split(x) for x in self.key_value(keys).chunk(2, -1))        # (B, H, Lk, d/H) each
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5               # (B, H, Lq, Lk)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        mixed = self.dropout(weights) @ v                                   # (B, H, Lq, d/H)
        return self.out(mixed.transpose(1, 2).flatten(-2)), weights


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of vectors (B, N, d) over those that exist (B, N) bool; (B, d), zero where none does."""
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def feed_forward(width: int, expansion: int, dropout: float) -> nn.Sequential:
    """The position-wise network of a transformer block: d -> expansion * d -> d with GELU."""
    return nn.Sequential(
        nn.Linear(width, expansion * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * width, width)
    )


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(x, keys), then x + feed-forward(x).

    With `keys=None` it is self-attention; otherwise cross-attention to the given tokens.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, expansion: int = 2):
        super().__init__()
        self.norm_query = nn.LayerNorm(width)
        self.norm_keys = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = feed_forward(width, expansion, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, Lq, d), keys (B, Lk, d) or None, mask (B, Lk) -> tokens (B, Lq, d), weights (B, H, Lq, Lk)."""
        queries = self.norm_query(x)
        attended, weights = self.attention(queries, queries if keys is None else self.norm_keys(keys), mask)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed(self.norm_feed(x))), weights
