"""Fusion measures of edges: how much of the sources' edges the fused picture keeps, and how many it invents.

Axes: H rows, W columns. A, B the sources, F the fused picture, on the 8-bit scale (see `cmf.metrics.fusion`).
"""

import cv2
import numpy as np

from cmf.metrics.fusion_triple import measure, ratio, sobel


def _sigmoid(x, top, steepness, centre):
    """top / (1 + exp(steepness (x - centre))), in place."""
    x -= centre
    x *= steepness
    np.exp(x, out=x)
    x += 1
    return np.divide(top, x, out=x)


def _edges(picture):
    """Strength and orientation (-pi/2, pi/2] of edges after Sobel, zeros beyond the border: (H, W) each."""
    x, y = sobel(picture, cv2.BORDER_CONSTANT)
    return np.sqrt(x * x + y * y), np.where(x == 0, np.pi / 2, np.arctan(ratio(-y, x)))


@measure("Qabf", "edges kept", "up", "", "Xydeas and Petrovic 2000")
def edges_kept(triple):
    """Share of the sources' edges that the fused picture keeps, in [0, 1); more is better.

    Q = sum (Q_AF g_A + Q_BF g_B) / sum (g_A + g_B), Q_SF = .9994 / (1 + exp(-15 (G - .5))) * .9879 / (1 + exp(-22 (A
    - .8))): G the smaller over the larger of the Sobel strengths g_S, g_F, A = 1 - 2 |a_S - a_F| / pi the agreement of
    orientations (Xydeas and Petrovic 2000). As the public codes have it, G is g_F itself where strengths are equal
    and orientations are not wrapped: atan(-y / x), pi/2 where x is 0; beyond the border lies 0. Q is 0 where no
    source has an edge.
    """
    fused, fused_angle = _edges(triple.f)
    kept = there = 0.0
    for name in "ab":
        source, angle = _edges(getattr(triple, name))
        strength = ratio(np.minimum(source, fused), np.maximum(source, fused))  # (H, W)
        np.copyto(strength, fused, where=source == fused)
        agreement = 1 - np.abs(angle - fused_angle) / (np.pi / 2)
        quality = _sigmoid(strength, 0.9994, -15, 0.5)
        quality *= _sigmoid(agreement, 0.9879, -22, 0.8)
        kept += float(np.vdot(quality, source))
        there += float(source.sum())
    return ratio(kept, there)


@measure("Nabf", "edges invented", "down", "", "Kumar 2013")
def edges_invented(triple):
    """Artefacts: fused edges stronger than those of both sources, in [0, 1]; less is better.

    N = sum over such pixels of ((1 - Q_AF) w_A + (1 - Q_BF) w_B) / sum (w_A + w_B) with w = g^1.5 where the Sobel
    strength g (an eighth of the plain one) is 2 or more, else .001, and Q = sqrt(.9999 / (1 + exp(-19 (G - .5))) *
    .9995 / (1 + exp(-22 (A - .5)))), A = | |a_S - a_F| - pi/2 | 2/pi (Petrovic and Xydeas 2005; Kumar 2013). The
    picture is mirrored about its border pixels. Swapped arguments (one toolbox has them) give values that are a
    million times as large.
    """
    edges = {name: _mirrored(getattr(triple, name)) for name in "abf"}
    fused, fused_angle = edges["f"]
    new = (fused > edges["a"][0]) & (fused > edges["b"][0])  # (H, W)
    lost = there = 0.0
    for name in "ab":
        source, angle = edges[name]
        weight = np.where(source >= 2, source * np.sqrt(source), 0.001)
        there += float(weight.sum())
        strength = ratio(source[new], fused[new])  # (pixels,)
        agreement = np.abs(np.abs(angle[new] - fused_angle[new]) - np.pi / 2) * (2 / np.pi)
        quality = _sigmoid(strength, 0.9999, -19, 0.5) * _sigmoid(agreement, 0.9995, -22, 0.5)
        lost += float(((1 - np.sqrt(quality)) * weight[new]).sum())
    return lost / there


def _mirrored(picture):
    """Strength (an eighth of Sobel's) and orientation of edges, the picture mirrored about its border pixels."""
    x, y = (change / 8 for change in sobel(picture, cv2.BORDER_REFLECT_101))  # (H, W)
    level = np.sign(x) * (np.pi / 2)
    return np.sqrt(x * x + y * y), np.where(y == 0, level, np.arctan(ratio(x, y)))
