"""Random crops of registered pairs as a torch data set that hands out whole batches, the same ones in every run.

Axes: B samples, n pairs, C channels, H, W rows and columns of a picture, h, w of a crop.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Crops(Dataset):
    """`rounds` crops of each of n pairs; sample i is cut from pair i % n, by a generator of (seed, i) alone.

    So a sample is the same in every epoch and run, whatever its order or batch; more rounds give more variety.
    Pictures are kept as 8 bit, decoded.

    Args:
        visible, infrared: n pictures each, (H, W), uint8, or floats in [0, 1] (luma). Sizes may differ between pairs.
        size: (h, w) of a crop, or one number for a square. seed: of place and turn.
        augment: random place and flips, left to right and upside down; else the middle, upright.
        rounds: crops of each pair.
        planes: further arrays by name, n of (H, W) or (H, W, C), cut and turned alike; their type is kept.

    A batch holds visible and infrared (B, 1, h, w) float32 in [0, 1], each of `planes` (B, h, w) or (B, C, h, w), and
    pair (B,) int64, the number of the pair.

    Raises:
        ValueError: no pairs, numbers that differ, pictures or planes whose sizes differ in a pair, a picture smaller
            than a crop, floats outside [0, 1], rounds below 1.

    >>> crops = Crops(np.zeros((3, 60, 80), np.uint8), np.ones((3, 60, 80)), size=(32, 48), rounds=2)
    >>> len(crops), crops[[0, 5]]["infrared"].shape
    (6, torch.Size([2, 1, 32, 48]))
    """

    def __init__(self, visible: Sequence, infrared: Sequence, size: int | tuple[int, int] = 128, seed: int = 0,
                 augment: bool = True, rounds: int = 1, **planes: Sequence):
        columns = {"visible": visible, "infrared": infrared, **planes}
        numbers = {name: len(column) for name, column in columns.items()}
        if len(set(numbers.values())) > 1 or not len(visible):
            raise ValueError(f"numbers of pictures {numbers}, expected one number, at least 1, for all")
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: expected at least 1 crop of each pair")
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.seed, self.augment, self.rounds = seed, augment, rounds
        self.columns = {name: [np.asarray(plane) for plane in column] for name, column in columns.items()}
        for i, shape in enumerate(plane.shape for plane in self.columns["visible"]):
            sizes = {name: column[i].shape[:2] for name, column in self.columns.items()}
            if set(sizes.values()) != {shape}:
                raise ValueError(f"pair {i} has sizes {sizes}, expected one (H, W) for all")
            if min(shape[0] - self.size[0], shape[1] - self.size[1]) < 0:
                raise ValueError(f"pair {i} of {shape[0]} x {shape[1]} pixels is smaller than crops of "
                                 f"{self.size[0]} x {self.size[1]}; use smaller crops or leave it out")
        for name in ("visible", "infrared"):
            self.columns[name] = [_bytes(plane, name, i) for i, plane in enumerate(self.columns[name])]

    def __len__(self) -> int:
        return self.rounds * len(self.columns["visible"])

    def __getitem__(self, index: int | Sequence[int]) -> dict[str, Tensor]:
        if np.ndim(index) == 0:
            return {name: values[0] for name, values in self[[int(index)]].items()}
        cuts = [self._cut(int(i)) for i in index]
        batch = {name: torch.from_numpy(np.stack([cut[name] for cut in cuts])) for name in self.columns}
        for name in ("visible", "infrared"):
            batch[name] = batch[name][:, None].float() / 255          # (B, 1, h, w)
        batch = {name: values.movedim(-1, 1) if name not in ("visible", "infrared") and values.ndim == 4 else values
                 for name, values in batch.items()}                   # (B, C, h, w)
        return batch | {"pair": torch.tensor([int(i) % len(self.columns["visible"]) for i in index])}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return self[indices]

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Batches come whole from `__getitems__`."""
        return batch

    def _cut(self, index: int) -> dict[str, np.ndarray]:
        """Sample `index` of every column."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index}, expected 0 to {len(self) - 1}")
        pair, (h, w) = index % len(self.columns["visible"]), self.size
        H, W = self.columns["visible"][pair].shape
        y, x, turn = (H - h) // 2, (W - w) // 2, slice(None)
        across = turn
        if self.augment:
            rng = np.random.default_rng((self.seed, index))
            y, x = rng.integers(H - h + 1), rng.integers(W - w + 1)
            turn, across = (slice(None, None, -1 if flip else 1) for flip in rng.random(2) < 0.5)
        return {name: np.ascontiguousarray(column[pair][y:y + h, x:x + w][turn, across])
                for name, column in self.columns.items()}


def _bytes(plane: np.ndarray, name: str, i: int) -> np.ndarray:
    """uint8 (H, W) of a picture."""
    if plane.ndim != 2:
        raise ValueError(f"{name} {i} of shape {plane.shape}, expected luma (H, W)")
    if plane.dtype == np.uint8:
        return plane
    if not (plane.min() >= 0 and plane.max() <= 1):
        raise ValueError(f"{name} {i} from {plane.min():g} to {plane.max():g}, expected [0, 1] or uint8")
    return np.rint(plane * np.float32(255)).astype(np.uint8)
