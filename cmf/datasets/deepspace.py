"""Deep-space targets: pictures and one irregular sequence a target, from the simulator or from two folders.

Axes: n targets, F frames (pictures of one target), H rows, W columns, T steps of a sequence, C channels.

Training folder (the dual-folder contract)::

    2D/<id>.png|jpg|...   picture of the target, 8- or 16-bit grey; colour becomes luma
    2D/<id>.json          LabelMe file; shapes[0].label is the class
    2D/<id>_B.png|...     second frame of the same target (all targets or none)
    1D/<id>.npy           temperatures, then as many radiation values; NaN where a sample is missing
    1D/<id>_time.npy      seconds of the samples (all targets or none)

Inference folders: <id>_A.png and <id>_B.png in one, <id>_temp.npy and <id>_rad.npy in the other, each of
shape (T,) or (n, T); <id>_positions.npy (n, 2) says at which x, y of frame A the target of a row stands.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cmf.datasets.names import listed
from cmf.datasets.targets import TargetDataset, TargetSet
from cmf.simulate.deepspace import CLASSES

__all__ = ["SceneFiles", "TargetDataset", "TargetSet", "from_simulator", "read_inference", "read_picture",
           "read_training"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class SceneFiles:
    """One scene of the inference folders.

    frames: float32 (2, H, W), counts of A and B. temp, rad: float32 (n, T), one row a target or n = 1 for
    a sequence that all targets share; NaN where missing. positions: (n, 2) x, y in frame A, or None.
    times: float32 (n, T) seconds, or None.
    """

    id: str
    frames: np.ndarray
    temp: np.ndarray
    rad: np.ndarray
    positions: np.ndarray | None
    times: np.ndarray | None

    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """values (n, T, 2), 0 where missing, and observed (n, T, 2), with the channels of a TargetSet."""
        return _channels(self.temp, self.rad)


def from_simulator(targets) -> TargetSet:
    """The TargetSet of `cmf.simulate.deepspace.Targets`; numeric truth of one row a target goes to groups.

    >>> from cmf.simulate.deepspace import simulate_targets
    >>> from_simulator(simulate_targets(6, seed=1)).frames
    ('A', 'B')
    """
    values, observed = _channels(targets.sequences[..., 0], targets.sequences[..., 1])
    truth = {f"truth_{name}": array for name, array in targets.truth.items()
             if isinstance(array, np.ndarray) and array.shape[:1] == (len(targets.ids),)}
    return TargetSet(images=targets.images.astype(np.float32), values=values, observed=observed,
                     times=targets.times.astype(np.float32), labels=targets.labels.astype(np.int64),
                     ids=tuple(targets.ids), classes=tuple(CLASSES), frames=("A", "B"),
                     channels=("temperature", "radiation"), time_unit="s", groups=truth)


def read_training(folder, classes=CLASSES, length: int | None = None, size: int | None = None) -> TargetSet:
    """Read a training folder (module docstring) with the channels temperature and radiation.

    classes: label strings in the order of the label numbers. length: samples of each of the two sequences;
    None takes what most files have. size: cut a size x size px chip around the LabelMe shape (its edge
    repeated outside the picture); None takes whole pictures, which must then be of one size.
    Targets are sorted by id, numbers by value. Without time files the times are 0, 1, ... in steps.

    Raises FileNotFoundError for a missing folder or partner file; ValueError for an empty folder, a file
    that does not belong, two files of one id, an unreadable picture, an unknown label, a wrong length,
    infinite values, a sequence without one number. Every message names the path.
    """
    pictures, labelled = _files(Path(folder) / "2D", PICTURES, also=(".json",))
    sequences, _ = _files(Path(folder) / "1D", (".npy",))
    seconds = _split_suffix(pictures, "_B")
    clocks = _split_suffix(sequences, "_time")
    flat, line = Path(folder) / "2D", Path(folder) / "1D"
    missing = [flat / f"{key}.json" for key in pictures if key not in labelled]
    missing += [line / f"{key}.npy" for key in pictures if key not in sequences]
    missing += [flat / f"{key}.png (or .jpg)" for key in {**sequences, **labelled} if key not in pictures]
    missing += [flat / f"{key}_B.png (or .jpg)" for key in pictures if seconds and key not in seconds]
    missing += [line / f"{key}_time.npy" for key in pictures if clocks and key not in clocks]
    if missing:
        raise FileNotFoundError(f"partner files missing: {listed(sorted(missing))}; every target needs a "
                                "picture, its .json and its sequence; second frames and times: all or none")
    ids = sorted(pictures, key=_natural)
    labels, centres = zip(*(_read_label(labelled[key], classes) for key in ids), strict=True)
    pairs = _halves([sequences[key] for key in ids], length)  # (n, 2, T)
    values, observed = _channels(pairs[:, 0], pairs[:, 1])
    times = np.broadcast_to(np.arange(values.shape[1], dtype=np.float32), values.shape[:2])
    if clocks:
        times = np.stack([_read_times(clocks[key], values.shape[1]) for key in ids])
    stacks = [[source[key] for key in ids] for source in (pictures, seconds) if source]
    images = np.stack([_stack(paths, centres, size) for paths in stacks], axis=1)  # (n, F, H, W)
    return TargetSet(images=images, values=values, observed=observed, times=np.ascontiguousarray(times),
                     labels=np.array(labels, dtype=np.int64), ids=tuple(ids), classes=tuple(classes),
                     frames=("A", "B")[: len(stacks)], channels=("temperature", "radiation"),
                     time_unit="s" if clocks else "step")


def read_inference(images_folder, sequences_folder) -> list[SceneFiles]:
    """Read the scenes of two inference folders (module docstring), sorted by id.

    .json files (the truth of generated scenes) are left alone. Raises like `read_training`, with the path.
    """
    pictures, _ = _files(Path(images_folder), PICTURES, also=(".json",))
    sequences, _ = _files(Path(sequences_folder), (".npy",), also=(".json",))
    frames = _by_role(pictures, ("_A", "_B"))
    parts = _by_role(sequences, ("_temp", "_rad", "_positions", "_time"))
    missing = []
    for key in sorted({*frames, *parts}):
        missing += [Path(images_folder) / f"{key}{role}.png (or .jpg)" for role in ("_A", "_B")
                    if role not in frames.get(key, {})]
        missing += [Path(sequences_folder) / f"{key}{role}.npy" for role in ("_temp", "_rad")
                    if role not in parts.get(key, {})]
    if missing:
        raise FileNotFoundError(f"partner files missing: {listed(missing)}; a scene needs _A and _B "
                                "pictures, _temp.npy and _rad.npy")
    return [_read_scene(key, frames[key], parts[key]) for key in sorted(frames, key=_natural)]


def read_picture(path) -> np.ndarray:
    """One picture as float32 (H, W) counts: grey of 8, 16 or 32 bit as stored, colour as BT.601 luma.

    Raises ValueError for a file that cannot be read whole or holds values that are not finite.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            if picture.mode in ("1", "L") or picture.mode.startswith(("I", "F")):
                grey = picture.convert("L") if picture.mode == "1" else picture
                array = np.asarray(grey).astype(np.float32)
            else:
                array = np.asarray(picture.convert("RGB"), dtype=np.float32) @ LUMA
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as reason:
        if isinstance(reason, FileNotFoundError):
            raise
        raise ValueError(f"{path}: the picture cannot be read ({reason}); damaged or cut short") from reason
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: the picture holds NaN or infinite values; fill them before")
    return array


def _read_scene(key: str, frames: dict[str, Path], parts: dict[str, Path]) -> SceneFiles:
    a, b = (read_picture(frames[role]) for role in ("_A", "_B"))
    if a.shape != b.shape:
        raise ValueError(f"{frames['_B']}: {b.shape} pixels, but frame A has {a.shape}")
    temp, rad = (np.atleast_2d(_read_array(parts[role], (1, 2))) for role in ("_temp", "_rad"))
    if temp.shape != rad.shape:
        raise ValueError(f"{parts['_rad']}: shape {rad.shape}, but {parts['_temp'].name} has {temp.shape}; "
                         "expected (T,) or (targets, T), equal in both")
    empty = np.flatnonzero(np.isnan(temp).all(axis=1) & np.isnan(rad).all(axis=1))
    if len(empty):
        raise ValueError(f"{parts['_temp']}: row {empty[0]} holds no number here nor in {parts['_rad'].name}")
    positions = times = None
    if "_positions" in parts:
        positions = _read_array(parts["_positions"], (2,))
        if positions.shape != (len(temp), 2) or np.isnan(positions).any():
            raise ValueError(f"{parts['_positions']}: shape {positions.shape}, expected ({len(temp)}, 2) "
                             "numbers x, y: one row for each row of the sequences")
    if "_time" in parts:
        times = np.atleast_2d(_read_array(parts["_time"], (1, 2)))
        if times.shape[1] != temp.shape[1] or len(times) not in (1, len(temp)) or np.isnan(times).any():
            raise ValueError(f"{parts['_time']}: shape {times.shape}, expected {temp.shape} seconds "
                             "without NaN")
        times = np.ascontiguousarray(np.broadcast_to(times, temp.shape))
    return SceneFiles(id=key, frames=np.stack([a, b]), temp=temp, rad=rad, positions=positions, times=times)


def _files(folder: Path, suffixes, also=()) -> tuple[dict[str, Path], dict[str, Path]]:
    """Files of a folder by stem: those with the wanted suffixes and those that may also lie there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    wanted, others = {}, {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        kind = wanted if path.suffix.lower() in suffixes else others if path.suffix.lower() in also else None
        if kind is None or not path.is_file():
            raise ValueError(f"{path}: does not belong here; expected {', '.join((*suffixes, *also))}")
        if path.stem in kind:
            raise ValueError(f"{path}: the same id as {kind[path.stem].name}; keep one of them")
        kind[path.stem] = path
    if not wanted:
        raise ValueError(f"{folder}: the folder is empty, expected files {', '.join(suffixes)}")
    return wanted, others


def _split_suffix(files: dict[str, Path], suffix: str) -> dict[str, Path]:
    """Take the files whose stem is that of another file plus suffix out of `files`."""
    keys = [key for key in files if key.endswith(suffix) and key.removesuffix(suffix) in files]
    return {key.removesuffix(suffix): files.pop(key) for key in keys}


def _by_role(files: dict[str, Path], roles) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for stem, path in files.items():
        role = next((role for role in roles if stem.endswith(role)), None)
        if role is None:
            raise ValueError(f"{path}: expected a name that ends with one of {', '.join(roles)}")
        found.setdefault(stem.removesuffix(role), {})[role] = path
    return found


def _read_label(path: Path, classes) -> tuple[int, tuple[float, float]]:
    """Class number and centre x, y of the first shape of a LabelMe file."""
    try:
        shapes = json.loads(path.read_text(encoding="utf-8"))["shapes"]
        label, points = shapes[0]["label"], np.asarray(shapes[0]["points"], dtype=float).reshape(-1, 2)
        centre = points.min(axis=0) / 2 + points.max(axis=0) / 2
    except (ValueError, KeyError, IndexError, TypeError) as reason:
        raise ValueError(f"{path}: expected a LabelMe file with shapes[0].label and shapes[0].points "
                         f"({type(reason).__name__}: {reason})") from reason
    if label not in classes:
        raise ValueError(f"{path}: unknown label {label!r}; known are {', '.join(classes)}")
    return list(classes).index(label), (float(centre[0]), float(centre[1]))


def _read_array(path: Path, dimensions: tuple[int, ...]) -> np.ndarray:
    """A float32 array from .npy, of one of the stated numbers of dimensions, without infinite values."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as reason:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({reason})") from reason
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected an array of numbers")
    if array.ndim not in dimensions or not array.size:
        raise ValueError(f"{path}: shape {array.shape}, expected {' or '.join(map(str, dimensions))} "
                         "dimensions and at least one value")
    array = array.astype(np.float32)
    if np.isinf(array).any():
        raise ValueError(f"{path}: infinite values; mark a missing sample with NaN")
    return array


def _halves(paths: list[Path], length: int | None) -> np.ndarray:
    """Sequences (n, 2, T) from files of 2 T values each."""
    arrays = [_read_array(path, (1,)) for path in paths]
    common = Counter(len(array) for array in arrays if len(array) % 2 == 0).most_common(1)
    want = 2 * length if length else common[0][0] if common else 0
    for path, array in zip(paths, arrays, strict=True):
        if len(array) % 2:
            raise ValueError(f"{path}: {len(array)} values, an odd number; expected temperatures, then as "
                             "many radiation values")
        if len(array) != want:
            raise ValueError(f"{path}: {len(array)} values, expected {want} "
                             f"({'2 x length' if length else 'as most other files have'})")
        if np.isnan(array).all():
            raise ValueError(f"{path}: every value is NaN; leave the target out")
    return np.stack(arrays).reshape(len(arrays), 2, want // 2)


def _read_times(path: Path, steps: int) -> np.ndarray:
    times = _read_array(path, (1,))
    if times.shape != (steps,) or np.isnan(times).any():
        raise ValueError(f"{path}: shape {times.shape}, expected ({steps},) seconds without NaN")
    return times


def _channels(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.stack([first, second], axis=-1).astype(np.float32)  # (n, T, 2)
    observed = np.isfinite(both)
    return np.where(observed, both, np.float32(0)), observed


def _stack(paths: list[Path], centres, size: int | None) -> np.ndarray:
    """Pictures of one size (n, H, W), or chips around the centres."""
    pictures = [read_picture(path) for path in paths]
    if size:
        pictures = [_chip(*each, size) for each in zip(pictures, centres, strict=True)]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise ValueError(f"{path}: {picture.shape} pixels, but {paths[0].name} has {pictures[0].shape}; "
                             "pass size= to cut chips around the labelled shape")
    return np.stack(pictures)


def _chip(picture: np.ndarray, centre: tuple[float, float], size: int) -> np.ndarray:
    rows = np.clip(int(round(centre[1])) - size // 2 + np.arange(size), 0, picture.shape[0] - 1)
    columns = np.clip(int(round(centre[0])) - size // 2 + np.arange(size), 0, picture.shape[1] - 1)
    return picture[np.ix_(rows, columns)]


def _natural(name: str) -> list:
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts if part]
