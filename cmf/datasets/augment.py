"""One random change of a visible picture, its infrared partner and its labels together: flip, scale, crop, brightness.

Axes: B samples, n pictures, H, W rows and columns of a picture, h, w of what comes out.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cmf.datasets.segmentation_classes import IGNORED

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class Joint:
    """Flip left to right, scale, pad and crop of all planes of a sample alike, and brightness of the visible alone.

    A call maps a batch to a batch: visible (B, 3, H, W) and infrared (B, 1, H, W), uint8 or float in [0, 1], and label
    (B, H, W) of whole numbers become visible (B, 3, h, w) and infrared (B, 1, h, w) float32 in [0, 1] and label
    (B, h, w) int64; `inside` (B, 1, h, w) float32 is 1 where a picture was and 0 on padding. Each sample is changed by
    numbers of its own. Scaling is bilinear, of labels by the nearest pixel; a picture smaller than the crop is padded
    on all sides alike, with 0, label 255. Other entries of the batch are passed on.

    Args:
        size: (h, w) of the crop. flip: probability of it.
        scales: factors on both sides of a picture, one is drawn; (1,) for none.
        brightness: the visible is multiplied by a number between 1 - brightness and 1 + brightness, cut at 1.

    Raises:
        ValueError: a size, probability, factor or brightness out of range; planes of other shapes.

    >>> batch = dict(visible=torch.zeros(2, 3, 30, 40), infrared=torch.zeros(2, 1, 30, 40),
    ...              label=torch.zeros(2, 30, 40, dtype=torch.uint8))
    >>> changed = Joint((32, 32))(batch, torch.Generator().manual_seed(0))
    >>> changed["visible"].shape, changed["label"].dtype
    (torch.Size([2, 3, 32, 32]), torch.int64)
    """

    def __init__(self, size: tuple[int, int], flip: float = 0.5, scales: Sequence[float] = SCALES,
                 brightness: float = 0.0):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size {size}: expected (rows, columns) of at least 1")
        if not 0 <= flip <= 1 or not 0 <= brightness < 1:
            raise ValueError(f"flip {flip} and brightness {brightness}: expected a probability, and less than 1")
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales {tuple(scales)}: expected factors above 0, (1,) for none")
        self.size, self.flip, self.scales, self.brightness = tuple(size), flip, tuple(scales), brightness

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        self._check(batch)
        changed = [self._one(*planes, generator) for planes in
                   zip(batch["visible"], batch["infrared"], batch["label"], strict=True)]
        return batch | {name: torch.stack([one[name] for one in changed]) for name in changed[0]}

    def _check(self, batch: dict[str, Tensor]) -> None:
        shapes = {name: tuple(batch[name].shape) for name in ("visible", "infrared", "label")}
        b, *size = shapes["label"] if len(shapes["label"]) == 3 else (0,)
        if not b or shapes["visible"] != (b, 3, *size) or shapes["infrared"] != (b, 1, *size):
            raise ValueError(f"planes of shapes {shapes}, expected visible (B, 3, H, W), infrared (B, 1, H, W) and "
                             "label (B, H, W)")

    def _one(self, visible: Tensor, infrared: Tensor, label: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """One sample, changed. What happens to it is drawn first, always the same number of draws."""
        from torchvision import tv_tensors
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        turned, which, down, right, light = torch.rand(5, generator=generator).tolist()
        planes = {"visible": tv_tensors.Image(_unit(visible)), "infrared": tv_tensors.Image(_unit(infrared)),
                  "label": tv_tensors.Mask(label[None]), "inside": tv_tensors.Mask(torch.ones_like(label[None]))}
        scale = self.scales[int(which * len(self.scales))]
        scaled = [max(1, round(scale * side)) for side in label.shape]
        free = [max(0, have - want) for have, want in zip(scaled, self.size, strict=True)]
        short = [max(0, want - have) for have, want in zip(scaled, self.size, strict=True)]
        edges = [short[1] // 2, short[0] // 2, short[1] - short[1] // 2, short[0] - short[0] // 2]
        top, left = int(down * (free[0] + 1)), int(right * (free[1] + 1))
        for name, plane in planes.items():
            if turned < self.flip:
                plane = F.horizontal_flip(plane)
            if scale != 1:
                mode = (InterpolationMode.BILINEAR if isinstance(plane, tv_tensors.Image)
                        else InterpolationMode.NEAREST_EXACT)             # plain nearest would shift by half a pixel
                plane = tv_tensors.wrap(F.resize_image(plane, scaled, mode), like=plane)
            if any(edges):
                plane = F.pad(plane, edges, fill=IGNORED if name == "label" else 0)
            planes[name] = F.crop(plane, top, left, *self.size)           # (channels, h, w)
        if self.brightness:
            planes["visible"] = F.adjust_brightness(planes["visible"], 1 + self.brightness * (2 * light - 1))
        plain = {name: plane.as_subclass(torch.Tensor) for name, plane in planes.items()}
        return plain | {"label": plain["label"][0].long(), "inside": plain["inside"].float()}


class Views(Dataset):
    """`rounds` changed views of each of n samples as a data set of whole batches, for `cmf.training.fit`.

    View i shows sample i % n, changed by a generator of (seed, i) alone: it is the same in every epoch and run, in
    whatever order, batch or process, so that a resumed run sees what an uninterrupted one does. More rounds give more
    variety: ten rounds and four epochs rather than forty epochs.

    Args:
        visible, infrared, label: uint8 (n, 3, H, W), (n, 1, H, W), (n, H, W), see `cmf.datasets.segmentation.tensors`;
            or lists of n tensors whose sizes differ.
        joint: what is done to them. seed: of the views. rounds: views of each sample.
        more: further tensors of n rows, handed out unchanged.

    Raises:
        ValueError: no samples, columns of different lengths, rounds below 1, and as `Joint`.

    >>> views = Views(torch.zeros(3, 3, 8, 8), torch.zeros(3, 1, 8, 8), torch.zeros(3, 8, 8), Joint((4, 4)), rounds=2)
    >>> len(views), views[[0, 5]]["infrared"].shape
    (6, torch.Size([2, 1, 4, 4]))
    """

    def __init__(self, visible: Sequence[Tensor], infrared: Sequence[Tensor], label: Sequence[Tensor], joint: Joint,
                 seed: int = 0, rounds: int = 1, **more: Tensor):
        self.columns = {"visible": visible, "infrared": infrared, "label": label, **more}
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1 or not len(label) or rounds < 1:
            raise ValueError(f"columns of lengths {lengths} and {rounds} rounds, expected one length, at least 1, and "
                             "at least 1 round")
        self.joint, self.seed, self.rounds = joint, seed, rounds

    def __len__(self) -> int:
        return self.rounds * len(self.columns["label"])

    def __getitem__(self, index: int | Sequence[int]) -> dict[str, Tensor]:
        if np.ndim(index) == 0:
            return {name: values[0] for name, values in self[[int(index)]].items()}
        views = [self._view(int(i)) for i in index]
        return {name: torch.cat([view[name] for view in views]) for name in views[0]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return self[indices]

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Batches come whole from `__getitems__`."""
        return batch

    def _view(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"view {index}, expected 0 to {len(self) - 1}")
        row = index % len(self.columns["label"])
        word = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(word >> np.uint64(1)))
        return self.joint({name: column[row][None] for name, column in self.columns.items()}, generator)


def _unit(picture: Tensor) -> Tensor:
    """float32 in [0, 1]; bytes are divided by 255."""
    return picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()
