"""Loss terms of picture fusion: what a fused picture should keep of its two sources.

Axes: B pictures, H, W rows and columns. Pictures are (B, 1, H, W) in [0, 1]. Every term is a mean over the batch and
the pixels; `where` (B, 1, H, W) in [0, 1] says where it counts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def intensity(fused: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean absolute difference from a target picture: mean |f - t|, over `where`."""
    return _mean((fused - target).abs(), where)


def gradients(x: Tensor) -> Tensor:
    """Sobel gradients (B, 2, H, W), columns then rows, divided by 4: a step of height 1 gives 1. Borders repeated."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = p[..., 2:] - p[..., :-2], p[..., 2:, :] - p[..., :-2, :]
    return torch.cat([across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :],
                      down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]], 1) / 4


def strongest_gradient(a: Tensor, b: Tensor) -> Tensor:
    """For every pixel the gradient (B, 2, H, W) of the source in which it is longer: unsigned choice, sign kept.

    The maximum of signed gradients, which some public codes take, drops every falling edge; a choice by
    length does not.
    """
    ga, gb = gradients(a), gradients(b)
    longer = ga.square().sum(1, True) > gb.square().sum(1, True)
    return torch.where(longer, ga, gb)


def gradient(fused: Tensor, a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the fused gradient from the longer of the sources' gradients, both components."""
    return _mean((gradients(fused) - strongest_gradient(a, b)).abs().sum(1, True), where)


def artefacts(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean by which the fused gradient is longer than both sources': halos, noise, edges that no source has."""
    length = lambda x: (gradients(x).square().sum(1, True) + 1e-8).sqrt()
    return F.relu(length(fused) - torch.maximum(length(a), length(b))).mean()


def beyond(fused: Tensor, a: Tensor, b: Tensor, around: int = 5) -> Tensor:
    """Mean by which the fused picture is brighter or darker than everything nearby in both sources: bright rims, dark
    halos. Nearby: the `around` x `around` pixels about each one."""
    most = lambda x: F.max_pool2d(x, around, 1, around // 2)
    brightest, darkest = most(torch.maximum(a, b)), -most(-torch.minimum(a, b))
    return (F.relu(fused - brightest) + F.relu(darkest - fused)).mean()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (B,) of pictures of range 1: Gaussian 11 x 11 of sigma 1.5, valid region.

    Source: Wang et al., IEEE TIP 13 (2004) 600, eq. 13; C1 = .01^2, C2 = .03^2. Raises ValueError below 11 pixels.
    """
    mx, my, vx, vy, cov = _moments(x, y, 11, 1.5)
    value = ((2 * mx * my + 1e-4) * (2 * cov + 9e-4)) / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4))
    return value.mean((1, 2, 3))


def visual_information(reference: Tensor, distorted: Tensor, noise: float = 2.0 / 255**2) -> Tensor:
    """Visual information fidelity in the pixel domain (B,), above 1 where contrast is raised; differentiable.

    Four scales with Gaussian windows of 17, 9, 5 and 3, noise variance 2 on a scale of 0 to 255.
    Source: Sheikh and Bovik, IEEE TIP 15 (2006) 430. Raises ValueError below 41 pixels.
    """
    kept = carried = 0.0
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        if scale:
            reference, distorted = (_blur(x, size, size / 5)[..., ::2, ::2] for x in (reference, distorted))
        _, _, v1, v2, cov = _moments(reference, distorted, size, size / 5)
        v1, v2 = v1.clamp_min(0), v2.clamp_min(0)
        gain = (cov / (v1 + 1e-9)).clamp_min(0)
        rest = (v2 - gain * cov).clamp_min(1e-9)
        kept = kept + torch.log1p(gain * gain * v1 / (rest + noise)).sum((1, 2, 3))
        carried = carried + torch.log1p(v1 / noise).sum((1, 2, 3))
    return (kept + 1e-3) / (carried + 1e-3)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation (B,) over the pixels; 0 where one of them is constant."""
    x, y = (t - t.mean((2, 3), True) for t in (x, y))
    return (x * y).sum((1, 2, 3)) / (x.square().sum((1, 2, 3)) * y.square().sum((1, 2, 3)) + 1e-8).sqrt()


def difference_correlation(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sum of the correlations of differences (B,): corr(f - b, a) + corr(f - a, b), in [-2, 2].

    Source: Aslantas and Bendes, AEU 69 (2015) 1890.
    """
    return correlation(fused - b, a) + correlation(fused - a, b)


def direction(fused: Tensor, source: Tensor, wanted: Tensor, stated: Tensor) -> Tensor:
    """How far the change from source to fused points away from the change of words, in the space of CLIP, in [0, 1].

        (1 - cos(e_f - e_s, t_wanted - t_stated)) / 2

    Args: embeddings (B, D) of fused picture, source picture, wanted text and text that states the source.
    Source: LDFusion (Wang et al., arXiv 2402.16267), after StyleCLIP-NADA.
    """
    return 0.5 * (1 - F.cosine_similarity(fused - source, wanted - stated, dim=-1)).mean()


def _mean(values: Tensor, where: Tensor | None) -> Tensor:
    if where is None:
        return values.mean()
    return (values * where).sum() / where.expand_as(values).sum().clamp_min(1.0)


def _band(n: int, size: int, sigma: float, like: Tensor) -> Tensor:
    """A Gaussian window at every place where it fits, as a matrix (n - size + 1, n): products beat convolutions."""
    if n < size:
        raise ValueError(f"a side of {n} pixels is smaller than the window of {size}; give larger pictures")
    x = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    g = torch.exp(-x * x / (2 * sigma * sigma))
    rows = torch.arange(n - size + 1, device=like.device)[:, None]
    band = like.new_zeros(n - size + 1, n)
    return band.scatter_(1, rows + torch.arange(size, device=like.device), (g / g.sum()).expand(len(rows), -1))


def _blur(x: Tensor, size: int, sigma: float) -> Tensor:
    return _band(x.shape[-2], size, sigma, x) @ x @ _band(x.shape[-1], size, sigma, x).T


def _moments(x: Tensor, y: Tensor, size: int, sigma: float):
    mx, my, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]), size, sigma)
    return mx, my, xx - mx * mx, yy - my * my, xy - mx * my
