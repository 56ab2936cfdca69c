"""The one form that every source of targets takes: pictures, an irregular sequence and a class a target.

Axes: n targets, F frames (pictures of one target), H rows, W columns, T steps of a sequence, C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch

from cmf.datasets.names import listed


@dataclass(frozen=True, eq=False)
class TargetSet:
    """n targets in the one form that every source takes; arrays are checked when it is made.

    images: float32 (n, F, H, W), detector counts, finite (missing pixels are filled by the reader).
    values: float32 (n, T, C), sequence channels, 0 where not observed.
    observed: bool (n, T, C).
    times: float32 (n, T), in time_unit; 0 at padding steps, where nothing is observed.
    labels: int64 (n,), an index into classes; -1 is unlabelled.
    ids: n different names. classes, frames (F names), channels (C names): tuples of str.
    groups: name -> array whose first axis is n (fold, origin, share of missing pixels, ...).

    Raises ValueError on shapes that disagree, values that are not finite, labels outside classes and
    two rows with one id.
    """

    images: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    times: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    frames: tuple[str, ...]
    channels: tuple[str, ...]
    time_unit: str
    groups: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        n, steps = len(self.ids), self.values.shape[1] if self.values.ndim == 3 else -1
        expected = {
            "images": (n, len(self.frames), *self.images.shape[2:4]),
            "values": (n, steps, len(self.channels)),
            "observed": (n, steps, len(self.channels)),
            "times": (n, steps),
            "labels": (n,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape or (name == "images" and len(shape) != 4):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape} for {n} "
                                 f"ids, frames {self.frames} and channels {self.channels}")
        for name, kind in (("images", np.float32), ("values", np.float32), ("observed", np.bool_),
                           ("times", np.float32), ("labels", np.int64)):
            if getattr(self, name).dtype != kind:
                raise ValueError(f"{name} is {getattr(self, name).dtype}, expected {np.dtype(kind)}; "
                                 "convert it")
        for name in ("images", "values", "times"):
            bad = ~np.isfinite(getattr(self, name)).reshape(n, -1).all(axis=1)
            if bad.any():
                raise ValueError(f"{name} of {listed(self.ids[i] for i in np.flatnonzero(bad))} not finite: "
                                 "fill missing pixels, and put 0 with observed False for missing samples")
        if (self.values[~self.observed] != 0).any():
            raise ValueError("values must be 0 where observed is False")
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise ValueError(f"two rows with one id: {listed(twice)}; merge or rename them")
        if n and (self.labels.min() < -1 or self.labels.max() >= len(self.classes)):
            raise ValueError(f"labels run from {self.labels.min()} to {self.labels.max()}, expected -1 "
                             f"(unlabelled) to {len(self.classes) - 1} for classes {self.classes}")
        for name, array in self.groups.items():
            if len(array) != n:
                raise ValueError(f"group {name!r} has {len(array)} rows, expected {n}")

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, index) -> TargetSet:
        """The targets of `index`: integers, a boolean mask (n,) or a slice, in that order."""
        rows = np.arange(len(self))[index]
        return replace(self, images=self.images[rows], values=self.values[rows], observed=self.observed[rows],
                       times=self.times[rows], labels=self.labels[rows], ids=tuple(self.ids[i] for i in rows),
                       groups={name: array[rows] for name, array in self.groups.items()})

    def digest(self) -> str:
        """SHA-256 (64 hex digits) of everything in the set, names and order included."""
        total = hashlib.sha256()
        for entry in fields(self):
            value = getattr(self, entry.name)
            for name, part in sorted(value.items()) if isinstance(value, dict) else [("", value)]:
                total.update(f"{entry.name}/{name}".encode())
                if isinstance(part, np.ndarray):
                    part = part.astype(str) if part.dtype == object else part
                    total.update(f"{part.dtype.str}{part.shape}".encode())
                    total.update(np.ascontiguousarray(part).tobytes())
                else:
                    total.update(json.dumps(part).encode())
        return total.hexdigest()


class TargetDataset(torch.utils.data.Dataset):
    """A TargetSet as a torch data set of dicts, for the default collate.

    Keys: frames float32 (F, H, W), values float32 (T, C), observed bool (T, C), times float32 (T,),
    labels int64 (), index int64 () (row in the set).
    """

    def __init__(self, targets: TargetSet):
        self.targets = targets
        self.tensors = {
            "frames": torch.from_numpy(targets.images),
            "values": torch.from_numpy(targets.values),
            "observed": torch.from_numpy(targets.observed),
            "times": torch.from_numpy(targets.times),
            "labels": torch.from_numpy(targets.labels),
            "index": torch.arange(len(targets)),
        }

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: tensor[row] for name, tensor in self.tensors.items()}
