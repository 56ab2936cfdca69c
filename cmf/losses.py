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


def top_k_bce(logits: Tensor, labels: Tensor, present: Tensor, every: int = 16) -> Tensor:
    """Multiple-instance cross-entropy: the mean score of each bag's k highest segments against the bag's label.

        L = -mean_b [y_b log p_b + (1 - y_b) log(1 - p_b)],  p_b = mean of the k_b largest sigmoid(logits_bt),
        k_b = floor(T_b / every) + 1

    Computed from logits throughout, so that it neither overflows nor loses gradient at p near 0 or 1.

    Args:
        logits: (B, T).
        labels: (B,) in [0, 1]; 1 where some segment of the bag is positive.
        present: (B, T) bool, True where a segment exists; T_b of them in bag b.
        every: segments for each further one that is judged.

    Source: top-k multiple-instance learning as in RTFM (Tian et al., ICCV 2021) with cross-entropy, as in VadCLIP
    (Wu et al., AAAI 2024).

    Raises:
        ValueError: shapes that do not fit, or a bag without a segment.
    """
    if logits.shape != present.shape or labels.shape != logits.shape[:1]:
        raise ValueError("logits and present must be (B, T) and labels (B,), got "
                         f"{tuple(logits.shape)}, {tuple(present.shape)} and {tuple(labels.shape)}")
    count = present.sum(1)                                                             # (B,) = T_b
    if not (count > 0).all():
        raise ValueError(f"bag {int(count.argmin())} has no segment; drop it")
    k = count // every + 1
    ranked = logits.float().masked_fill(~present, -torch.inf).sort(1, descending=True).values
    chosen = torch.arange(logits.shape[1], device=logits.device) < torch.minimum(k, count)[:, None]  # (B, T)
    ranked = ranked.masked_fill(~chosen, 0.0)
    log_mean = lambda x: x.masked_fill(~chosen, -torch.inf).logsumexp(1) - chosen.sum(1).log()
    positive, negative = log_mean(F.logsigmoid(ranked)), log_mean(F.logsigmoid(-ranked))            # (B,) each
    return -(labels * positive + (1 - labels) * negative).mean()


def info_nce(a: Tensor, b: Tensor, temperature: Tensor | float = 0.07) -> Tensor:
    """Symmetric InfoNCE: each row of `a` must find its own row of `b` among all of the batch, and the reverse.

        L = (CE(S, i) + CE(S^T, i)) / 2,  S_ij = cos(a_i, b_j) / temperature

    Args:
        a, b: paired embeddings (B, d).
        temperature: above 0.

    Returns zero for fewer than two pairs, where there is nothing to tell apart. Source: van den Oord et al. 2018,
    eq. 4; symmetric as in CLIP (Radford et al. 2021, figure 3).

    Raises:
        ValueError: `a` and `b` differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired embeddings must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if len(a) < 2:
        return (a.sum() + b.sum()) * 0.0
    similarity = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T / temperature    # (B, B)
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def head_diversity(weights: Tensor, rows: Tensor, keys: Tensor, floor: float = 0.3, beta: float = 1.0) -> Tensor:
    """Attention heads should look at different things, and none should collapse on a single key.

        L = mean_{h != h'} cos(vec A_h, vec A_h') + beta max(0, floor - H(a) / log L),  a the mean over heads

    averaged over samples; the entropy H, over the L keys that exist, is averaged over the rows that exist. Both
    terms are constants for one head or one key, so the first is zero for one head and a sample with fewer than
    two keys counts as zero.

    Args:
        weights: attention (B, H, Lq, Lk), its rows sum to one.
        rows: (B, Lq) bool, queries that exist.
        keys: (B, Lk) bool, keys that exist.
        floor: least entropy as a share of log L, in [0, 1].
        beta: weight of the second term.

    Raises:
        ValueError: shapes that do not fit.
    """
    b, h, q, k = weights.shape
    if rows.shape != (b, q) or keys.shape != (b, k):
        raise ValueError(f"attention {tuple(weights.shape)} needs rows {(b, q)} and keys {(b, k)}, got "
                         f"{tuple(rows.shape)} and {tuple(keys.shape)}")
    weights = weights.float() * rows[:, None, :, None]
    flat = F.normalize(weights.flatten(2), dim=-1)                                     # (B, H, Lq Lk)
    cosine = flat @ flat.transpose(1, 2)                                               # (B, H, H)
    same = (cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(1)) / max(1, h * (h - 1))      # (B,)
    mean = weights.mean(1)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum(-1).sum(1) / rows.sum(1).clamp_min(1)       # (B,)
    count = keys.sum(1)
    collapse = F.relu(floor - entropy / count.clamp_min(2).log())
    several = count > 1
    return ((same + beta * collapse) * several).sum() / several.sum().clamp_min(1)
