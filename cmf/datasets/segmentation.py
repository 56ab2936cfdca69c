"""Labelled pairs of a visible and an infrared picture: found by the layout of their folders, checked, and simulated.

Axes: n pictures, H, W rows and columns, K classes.
"""
from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmf import catalogue
from cmf.datasets.names import listed, stems
from cmf.datasets.pictures import FORMATS, SUFFIXES, read, to_rgb
from cmf.datasets.segmentation_classes import CLASSES, IGNORED, PALETTE, painted

__all__ = ["CLASSES", "IGNORED", "PALETTE", "Sample", "columns", "divide", "folder", "layout", "load", "painted",
           "street", "tensors"]

# names that the folders of a set may bear, letter case aside
FOLDERS = {"visible": ("rgb", "visible", "vis", "vi"), "infrared": ("modal", "infrared", "thermal", "ir"),
           "label": ("label", "labels", "segmentation_labels")}
LISTS = {"train": ("train.txt",), "validation": ("val.txt", "validation.txt"), "test": ("test.txt",)}
PARTS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
MIRRORED = "_flip"     # end of the names under which MFNet's lists bear pictures turned left to right


@dataclass(frozen=True)
class Sample:
    """Files of one labelled pair. `visible` and `infrared` may be one file of four channels. classes: names of the
    label values from 0 on. mirrored: turned left to right when it is loaded."""

    stem: str
    visible: Path
    infrared: Path
    label: Path
    classes: tuple[str, ...]
    mirrored: bool = False


def layout(name: str, root=None, split: str | None = None) -> list[Sample]:
    """The labelled pairs of a set by its name.

    mfnet, msrs, fmb, pst900: any layout that `folder` reads: that of published code, MFNet's own (images of four
        channels and labels), or that of FMB, PST900 and MSRS (train and test with folders of their own).
    cwfid: the pack's red and near infrared bands. The red one is the visible picture, three times the same channel;
        near infrared is the infrared one. Its published test pictures are the test split; no picture is in both.

    root: folder of the set; None: where the catalogue finds it. split: train, validation, test; None: all.

    Raises:
        FileNotFoundError: the set is not here, or files of it are not.
        ValueError: an unknown set or split (the known are named), and as `folder`.
    """
    known = [one for one in CLASSES if one != "street"]
    if name not in known:
        raise ValueError(f"unknown set {name!r}; expected one of {', '.join(known)}, or give a folder of your own")
    place = catalogue.find("infrared_visible" if name == "cwfid" else name) if root is None else Path(root)
    if name == "cwfid" and (place / "manifest.csv").is_file():
        return _packed(place, split)
    return folder(place, split, CLASSES[name])


def folder(root, split: str | None = None, classes: Sequence[str] = CLASSES["mfnet"]) -> list[Sample]:
    """The labelled pairs of a folder, in the order of its lists, else sorted by name.

    Layouts, folder names in any letter case:

    | layout | folders | splits |
    |---|---|---|
    | published code | RGB or Visible, Modal or Infrared, Label | train.txt, val.txt, test.txt, a name a line |
    | MFNet's own | images (red, green, blue, infrared in one PNG), labels | the same; names with _flip are mirrored |
    | FMB, PST900, MSRS | such folders inside train, test (val) | those folders |

    A list may give names with or without suffix. A name that ends in _flip and has no file of its own is the mirror
    image of the name without it. split: train, validation, test; None: all pictures, lists aside. classes: names of the
    label values.

    Raises:
        FileNotFoundError: no such folder, no folder of one kind (those there are named), no list or folder of that
            split (those there are named), pictures of a list or of one kind only that have no partner (their names).
        ValueError: an unknown split, an empty list, a name twice in a list or in a folder, no classes.
    """
    root = Path(root)
    if split is not None and split not in LISTS:
        raise ValueError(f"unknown split {split!r}; expected {', '.join(LISTS)}, or None for all")
    if not classes or len(classes) > IGNORED:
        raise ValueError(f"{len(classes)} classes, expected 1 to {IGNORED}: the name of each label value from 0 on")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected one with visible, infrared and label pictures")
    parts = {part: root / name for part, names in PARTS.items() for name in names
             if (root / name).is_dir() and any(_kind(root / name, kind) for kind in FOLDERS)}
    if parts:
        _known(root, split, parts)
        return [sample for part in ([split] if split else parts) for sample in _samples(parts[part], None, classes)]
    if split is None:
        return _samples(root, None, classes)
    lists = {part: root / name for part, names in LISTS.items() for name in names if (root / name).is_file()}
    _known(root, split, lists)
    return _samples(root, lists[split], classes)


def _known(root: Path, split: str | None, found: dict) -> None:
    if split is not None and split not in found:
        wanted = " or ".join(LISTS[split])
        raise FileNotFoundError(f"{root}: no list {wanted} and no folder {' or '.join(PARTS[split])}; splits that are "
                                f"there: {', '.join(found) or 'none'}. Write {wanted}, a name a line, or set pictures "
                                "of another split aside with `divide`")


def _kind(root: Path, kind: str) -> Path | None:
    """The folder of a kind of picture."""
    there = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((there[name] for name in FOLDERS[kind] if name in there), None)


def _samples(root: Path, names: Path | None, classes: Sequence[str]) -> list[Sample]:
    """Samples of one folder, of all its pictures or of those in a list."""
    folders = {kind: _kind(root, kind) for kind in FOLDERS}
    if not folders["visible"] and not folders["infrared"] and (root / "images").is_dir():
        folders["visible"] = folders["infrared"] = root / "images"
    for kind, found in folders.items():
        if found is None:
            there = listed([path.name for path in sorted(root.iterdir()) if path.is_dir()]) or "none"
            raise FileNotFoundError(f"{root}: no folder of {kind} pictures; expected one named "
                                    f"{' or '.join(FOLDERS[kind])}, the folders there are: {there}")
    files = {kind: stems(found) for kind, found in folders.items()}
    wanted = sorted(set().union(*files.values())) if names is None else _names(names)
    lonely = {}
    samples = []
    for stem in wanted:
        turned = stem.endswith(MIRRORED) and not any(stem in found for found in files.values())
        own = stem.removesuffix(MIRRORED) if turned else stem
        absent = [kind for kind, found in files.items() if own not in found]
        for kind in absent:
            lonely.setdefault(kind, []).append(stem)
        if not absent:
            paths = {kind: found[own] for kind, found in files.items()}
            samples.append(Sample(stem, **paths, classes=tuple(classes), mirrored=turned))
    if lonely:
        where = f"of {len(wanted)} names" + (f" in {names.name}" if names else "")
        told = "; ".join(f"{kind} of {listed(found)} (in {folders[kind].name})" for kind, found in lonely.items())
        raise FileNotFoundError(f"{root}: {where} some have no picture of each kind, missing: {told}. Add the files, "
                                "or leave these names out")
    return samples


def _names(path: Path) -> list[str]:
    """Names in a list, without suffixes and folders."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    found = [Path(line).name for line in lines if line]
    found = [Path(name).stem if name.lower().endswith(SUFFIXES) else name for name in found]
    if not found:
        raise ValueError(f"{path}: the list is empty; write a name of a picture in each line")
    twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise ValueError(f"{path}: named twice: {listed(twice)}; name each picture once")
    return found


def _packed(root: Path, split: str | None) -> list[Sample]:
    """CWFID from the pack's table."""
    with open(root / "manifest.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["set"] == "cwfid"]
    known = sorted({row["derived_split"] for row in rows})
    if split is not None and split not in known:
        raise ValueError(f"split {split!r} of cwfid: expected {', '.join(known)}; set some of train aside with "
                         "`divide` to choose by")
    samples = [Sample(row["name"], root / row["vi"], root / row["ir"], root / row["label"], CLASSES["cwfid"])
               for row in rows if split in (None, row["derived_split"])]
    absent = [str(path) for one in samples for path in (one.visible, one.infrared, one.label) if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{root}: {len(absent)} files of cwfid are missing ({listed(absent)}); obtain the "
                                "pack again")
    return sorted(samples, key=lambda sample: sample.stem)


def divide(samples: Sequence[Sample], share: float = 0.2) -> tuple[list[Sample], list[Sample]]:
    """Samples to train with, and the last `share` of them by name to choose by; neighbours stay on one side of one cut.

    Raises ValueError for a share outside (0, 1) or one that leaves a side empty.
    """
    held = round(share * len(samples))
    if not 0 < share < 1 or not 0 < held < len(samples):
        raise ValueError(f"a share of {share} of {len(samples)} samples leaves a side empty; expected between 0 and 1, "
                         "and two samples or more")
    ordered = sorted(samples, key=lambda sample: sample.stem)
    return ordered[:-held], ordered[-held:]


def load(sample: Sample, span: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visible uint8 (H, W, 3), infrared float32 (H, W) in [0, 1] and label uint8 (H, W) of a sample.

    A grey visible picture becomes three equal channels, a 16-bit one is cut to 8. The infrared is one channel: a file
    of three equal ones is taken as one; of the four of MFNet's files it is the last. Its white is 255 of 8 bit and
    65535 of 16 bit; raw thermal counts fill little of that, so give the range they are to be read in.

    span: (low, high), counts as stored that become 0 and 1, such as (20000, 30000); what lies beyond is cut. The same
    for all pictures, so that brightness keeps its meaning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, an infrared picture in colour, sizes that differ, a label picture in
            colour, label values outside the classes (file and values), a span that does not rise.
    """
    if span is not None and not span[0] < span[1]:
        raise ValueError(f"span {span[0]:g} to {span[1]:g}: expected two counts, the first smaller")
    picture = read(sample.visible)
    if sample.infrared == sample.visible:
        if picture.alpha is None:
            raise ValueError(f"{sample.visible}: expected four channels, red, green, blue and infrared, as MFNet's "
                             "pictures have; or give the infrared as a file of its own")
        thermal, bits = picture.alpha, picture.bits
    else:
        other = read(sample.infrared)
        if other.chroma is not None:
            raise ValueError(f"{sample.infrared}: the infrared picture has colours (three channels that differ); "
                             "expected one channel, or three equal ones. Undo the false colours")
        thermal, bits = other.luma, other.bits
    label = _indices(sample.label)
    sizes = {"visible": picture.size, "infrared": thermal.shape, "label": label.shape}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{kind} {w} x {h}" for kind, (h, w) in sizes.items())
        raise ValueError(f"{sample.stem}: {told} pixels (width x height), expected one size; register the pictures, "
                         f"and resize labels ({sample.label}) by the nearest pixel only")
    outside = (label >= len(sample.classes)) & (label != IGNORED)
    if outside.any():
        values = ", ".join(map(str, np.unique(label[outside])[:10]))
        raise ValueError(f"{sample.label}: label values {values} in {outside.sum()} pixels, outside the "
                         f"{len(sample.classes)} classes 0 to {len(sample.classes) - 1} ({sample.classes[0]} to "
                         f"{sample.classes[-1]}); give the right classes, or label pixels to leave out {IGNORED}")
    if span is not None:
        counts = thermal * np.float32((1 << bits) - 1 if bits < 32 else 1)
        thermal = np.clip((counts - span[0]) / (span[1] - span[0]), 0, 1).astype(np.float32)
    colours = np.repeat(picture.luma[..., None], 3, 2) if picture.chroma is None else to_rgb(picture.luma,
                                                                                           picture.chroma)
    visible = np.rint(colours * np.float32(255)).astype(np.uint8)          # (H, W, 3)
    if sample.mirrored:
        visible, thermal, label = visible[:, ::-1], thermal[:, ::-1], label[:, ::-1]
    return tuple(np.ascontiguousarray(plane) for plane in (visible, thermal, label))


def _indices(path: Path) -> np.ndarray:
    """Label values (H, W) as they are stored: of a palette file the indices, not the colours."""
    from PIL import Image

    if not path.exists():
        raise FileNotFoundError(f"{path}: no such label picture; check the name")
    try:
        with Image.open(path, formats=FORMATS) as image:
            values = np.asarray(image)
    except Exception as reason:      # damaged files make the decoder raise almost anything; none may pass unnamed
        raise ValueError(f"{path}: cannot be read as a label picture ({type(reason).__name__}); copy it again or save "
                         "it as PNG") from reason
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise ValueError(f"{path}: a label picture of shape {values.shape} and {values.dtype}, expected one channel of "
                         "class numbers; turn colours into numbers first")
    if values.min() < 0 or values.max() > IGNORED:
        raise ValueError(f"{path}: label values from {values.min()} to {values.max()}, expected 0 to {IGNORED}")
    return values.astype(np.uint8)


def tensors(samples: Iterable[Sample], span: tuple[float, float] | None = None, stack: bool = True) -> dict:
    """All samples, loaded with a progress bar, as uint8 tensors to train with, see `columns`; the infrared is kept in 8
    bits. stack: as in `columns`. span: as in `load`. Raises ValueError as these do."""
    from tqdm import tqdm

    made = [load(sample, span) for sample in tqdm(list(samples), desc="labelled pairs", unit="pair", delay=1)]
    return columns(*([one[k] for one in made] for k in range(3)), stack=stack)


def columns(visible: Sequence, infrared: Sequence, label: Sequence, stack: bool = True) -> dict:
    """n pictures as uint8 tensors: visible (n, 3, H, W), infrared (n, 1, H, W), label (n, H, W).

    visible: n of uint8 (H, W, 3). infrared: n of (H, W), uint8 or floats in [0, 1]. label: n of uint8 (H, W).
    stack: False for lists of tensors, as pictures of different sizes need.

    Raises ValueError for no picture, numbers that differ, and pictures of different sizes that are to be stacked.

    >>> made = street(2, "test", seed=1, size=(48, 64))
    >>> columns(made["visible"], made["infrared"], made["label"])["visible"].shape
    torch.Size([2, 3, 48, 64])
    """
    import torch

    if not len(label) or len({len(visible), len(infrared), len(label)}) > 1:
        raise ValueError(f"{len(visible)} visible, {len(infrared)} infrared and {len(label)} label pictures; expected "
                         "one number, at least 1")
    sizes = [np.shape(one) for one in label]
    other = next((size for size in sizes if size != sizes[0]), None)
    if stack and other:
        raise ValueError(f"picture 0 has {sizes[0][0]} x {sizes[0][1]} rows and columns, picture {sizes.index(other)} "
                         f"{other[0]} x {other[1]}; expected one size, or stack=False for lists")
    grey = [one if one.dtype == np.uint8 else np.rint(one * np.float32(255)).astype(np.uint8) for one in infrared]
    made = {"visible": [np.moveaxis(one, 2, 0) for one in visible], "infrared": [one[None] for one in grey],
            "label": list(label)}
    tensor = lambda plane: torch.from_numpy(np.ascontiguousarray(plane))
    return {name: tensor(np.stack(planes)) if stack else [tensor(plane) for plane in planes]
            for name, planes in made.items()}


def street(n: int, split: str, seed: int, size: tuple[int, int] = (128, 160), dials=None) -> dict:
    """n simulated, labelled street scenes, see `cmf.simulate.street.simulate_pairs`, whose arguments these are.

    dials: default twice the usual number of people and things, as small ones are rare otherwise. Returns a dict:
    visible uint8 (n, H, W, 3); infrared uint8 (n, H, W); label uint8 (n, H, W), see CLASSES["street"]; light, weather,
    ids: n names. The label tells what stands foremost in the visible, so that a car behind smoke, which the infrared
    shows, is smoke. Raises ValueError as `simulate_pairs` does.

    >>> made = street(2, "test", seed=1, size=(48, 64))
    >>> made["visible"].shape, made["label"].dtype
    ((2, 48, 64, 3), dtype('uint8'))
    """
    from cmf.simulate import street as world

    made = world.simulate_pairs(n, split, seed, size, dials or world.Dials(crowd=2.0))
    return {"visible": made.visible, "infrared": made.infrared, "label": made.labels, "ids": made.ids,
            "light": tuple(world.LIGHTS[i] for i in made.truth["light"]),
            "weather": tuple(world.WEATHERS[i] for i in made.truth["weather"])}
