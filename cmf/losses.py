"""Loss terms shared by the methods.

Axes: B batch, d width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def hard_negative_hinge(a: Tensor, b: Tensor, labels: Tensor | None = None, margin: float = 0.3) -> Tensor:
    """Triplet hinge on cosine similarity with the hardest negative of the batch, in both directions.

        mean_i max(0, m - cos(a_i, b_i) + max_{j in N(i)} cos(a_i, b_j))  +  the same with a and b exchanged

    Args:
        a, b: paired embeddings (B, d) of the two modalities.
        labels: (B,) classes; when given, pairs of one class are not each other's negatives.
        margin: m, in units of cosine similarity.

    Returns zero when no sample has a negative. Source: VSE++ (Faghri et al., BMVC 2018), eq. 6.

    Raises:
        ValueError: `a` and `b` differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired embeddings must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    similarity = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T                     # (B, B)
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    positive_class = own if labels is None else labels[:, None] == labels[None, :]     # (B, B)
    negatives = similarity.masked_fill(positive_class | own, -torch.inf)
    pair = similarity.diagonal()                                                       # (B,)
    terms = [F.relu(margin - pair + negatives.amax(dim)) for dim in (0, 1)]            # -inf negatives give 0
    return sum(term.mean() for term in terms)
