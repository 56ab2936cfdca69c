"""Fusion without learning, which a network has to beat: mean, maximum, and a Laplacian pyramid.

Axes: H, W rows and columns.
"""

import cv2
import numpy as np

KERNEL = np.array([1, 4, 6, 4, 1], np.float32) / 16
TAPS = len(KERNEL)


def pixel_mean(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """(v + u) / 2 of two pictures (H, W) of floats in [0, 1]: (H, W) float32. Raises ValueError as `laplacian_pyramid`.

    >>> pixel_mean([[0.25]], [[0.5]]).tolist()
    [[0.375]]
    """
    v, u = _pair(visible, infrared)
    return (v + u) / 2


def pixel_maximum(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """max(v, u) of two pictures (H, W) of floats in [0, 1]: (H, W) float32. Raises ValueError as `laplacian_pyramid`.

    >>> pixel_maximum([[0.25, 0.5]], [[0.75, 0.0]]).tolist()
    [[0.75, 0.5]]
    """
    return np.maximum(*_pair(visible, infrared))


def laplacian_pyramid(visible: np.ndarray, infrared: np.ndarray, levels: int = 4) -> np.ndarray:
    """Of two pictures' details at each scale the stronger, over the mean of what is left.

    x_0 = x, x_{k+1} = every second pixel of G * x_k, detail d_k = x_k - expand(x_{k+1}), G the binomial kernel
    (1, 4, 6, 4, 1) / 16 in rows and columns (Burt and Adelson 1983, IEEE Trans. Commun. 31, 532). At each pixel the
    detail of larger size is taken (Burt and Kolczynski 1993, ICCV, without their matching of neighbourhoods); a tie
    goes to the visible picture. Borders are reflected, the outermost pixel not repeated.

    Args:
        visible, infrared: (H, W) floats in [0, 1], from one pixel on.
        levels: scales of details, from 0 (the mean of the pictures) on.

    Returns:
        (H, W) float32, cut to [0, 1].

    Raises:
        ValueError: pictures that are not (H, W), or not of one size, or have no pixel; levels below 0.

    >>> x = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    >>> bool(np.allclose(laplacian_pyramid(x, x), x, atol=1e-6))
    True
    """
    if levels < 0:
        raise ValueError(f"levels must be 0 or larger, got {levels}")
    v, u = _pair(visible, infrared)
    details = []
    for _ in range(levels):
        smaller = [_blur(x)[::2, ::2] for x in (v, u)]                         # (ceil H/2, ceil W/2)
        a, b = (x - _expand(less, x.shape) for x, less in zip((v, u), smaller, strict=True))
        details.append(np.where(np.abs(a) >= np.abs(b), a, b))
        v, u = smaller
    fused = (v + u) / 2
    for detail in reversed(details):
        fused = _expand(fused, detail.shape) + detail
    return fused.clip(0, 1)


def laplacian_multiply_adds(height: int, width: int, levels: int = 4) -> int:
    """Multiply-adds of `laplacian_pyramid`: at each scale five blurs by rows and columns, two down and three up.

    >>> laplacian_multiply_adds(1, 1, 1)
    50
    """
    total = 0
    for _ in range(levels):
        total += 5 * 2 * TAPS * height * width
        height, width = -(-height // 2), -(-width // 2)
    return total


CLASSICAL = {"pixel mean": pixel_mean, "pixel maximum": pixel_maximum, "Laplacian pyramid": laplacian_pyramid}


def _blur(x: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(x, cv2.CV_32F, KERNEL, KERNEL, borderType=cv2.BORDER_REFLECT_101)


def _expand(x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """x on every second pixel of a picture of that shape, and between them its interpolation."""
    wide = np.zeros(shape, np.float32)
    wide[::2, ::2] = x
    down, across = (KERNEL * min(side, 2) for side in shape)       # a lone row or column has nothing in between
    return cv2.sepFilter2D(wide, cv2.CV_32F, across, down, borderType=cv2.BORDER_REFLECT_101)


def _pair(visible, infrared) -> tuple[np.ndarray, np.ndarray]:
    v, u = (np.ascontiguousarray(x, np.float32) for x in (visible, infrared))
    if v.ndim != 2 or v.shape != u.shape or not v.size:
        raise ValueError(f"visible is {v.shape} and infrared {u.shape}, expected both (rows, columns) with at least "
                         "one pixel; give grey pictures of one size")
    return v, u
