"""Registered pairs of pictures: matched from files and folders, found by the name of a set, or simulated.

Axes: n pairs, H, W rows and columns.
"""
from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmf import catalogue
from cmf.datasets.names import listed, stems
from cmf.datasets.pictures import Picture, luma_chroma, read

# name -> (pack in the catalogue, set in the pack, originals in the catalogue); None: there are none
SETS = {"roadscene": ("infrared_visible", "roadscene", "roadscene"), "tno": ("infrared_visible", "tno", "tno"),
        "tno_salient": ("infrared_visible", "tno_salient", None), "msrs": ("infrared_visible", "msrs_test", "msrs"),
        "m3fd": (None, None, "m3fd"), "llvip": (None, None, "llvip"), "ct-mri": ("medical_pairs", "CT-MRI", "harvard"),
        "pet-mri": ("medical_pairs", "PET-MRI", "harvard"), "spect-mri": ("medical_pairs", "SPECT-MRI", "harvard")}
# folders of the originals: visible, infrared; {} is the split, {task} a medical set, {first} its other modality
FOLDERS = {"roadscene": ("crop_LR_visible", "cropinfrared"), "tno": ("vi", "ir"), "m3fd": ("Vis", "Ir"),
           "msrs": ("{}/vi", "{}/ir"), "llvip": ("visible/{}", "infrared/{}"),
           "harvard": ("{task}/{}/{first}", "{task}/{}/MRI")}
# where a block of sorted names begins, and its split: cuts lie between scenes and between recordings
BLOCKS = {"roadscene": (("", "train"), ("FLIR_08749", "test"), ("FLIR_video", "validation")),
          "tno": (("", "test"), ("15", "train"), ("34", "validation"))}
# volumes of the Harvard atlas that are held out, all their slices
HELD_OUT = {"ct-mri": (2, 16, 21, 33), "pet-mri": (25,), "spect-mri": (3, 9, 10, 18, 25)}
WARM = ("person", "car", "fire")     # kinds that are warm while they live, run or burn


@dataclass(frozen=True)
class Pair:
    """Two registered pictures of one scene; of a medical pair `visible` is CT, PET or SPECT and `infrared` is MRI."""

    stem: str
    visible: Path
    infrared: Path


def match(visible, infrared) -> list[Pair]:
    """The pair of two files, or the pairs of two folders whose names agree but for the suffix, sorted by name.

    Files in a folder that are no pictures, and hidden ones, are passed over; folders below it too. A pair of two files
    bears the visible one's name. Pictures without a partner are warned about when others have one.

    Raises:
        FileNotFoundError: nothing at a path, or a folder without pictures.
        ValueError: a file and a folder, one name twice in a folder, or no name in both (names are listed).
    """
    paths = [Path(visible), Path(infrared)]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such picture or folder; give two pictures or two folders of pictures")
    if not any(path.is_dir() for path in paths):
        return [Pair(paths[0].stem, *paths)]
    if not all(path.is_dir() for path in paths):
        raise ValueError(f"{paths[0]} and {paths[1]} are a picture and a folder; give two pictures or two folders")
    files = [stems(path) for path in paths]
    both = sorted(files[0].keys() & files[1].keys())
    lonely = [f"in {paths[i]} only: {listed(sorted(files[i].keys() - both))}" for i in (0, 1)
              if files[i].keys() - both]
    if not both:
        raise ValueError(f"no name is in both folders; {'; '.join(lonely)}. Partners bear one name, such as 0001.png "
                         "and 0001.jpg")
    if lonely:
        warnings.warn(f"pictures without a partner are left out; {'; '.join(lonely)}", stacklevel=2)
    return [Pair(stem, files[0][stem], files[1][stem]) for stem in both]


def load(pair: Pair, align: str = "refuse") -> tuple[Picture, Picture]:
    """The visible and the infrared picture of a pair, of one size.

    align: "refuse" different sizes, or "resize" the infrared to the visible's: mean over areas where it shrinks,
    cubic where it grows; a warning when the shapes differ by more than 2 %, since that distorts.

    Raises:
        ValueError: different sizes (both are named), another `align`, and as `cmf.datasets.pictures.read`.
    """
    if align not in ("refuse", "resize"):
        raise ValueError(f"align {align!r}: expected refuse or resize")
    visible, infrared = read(pair.visible), read(pair.infrared)
    if visible.size == infrared.size:
        return visible, infrared
    sizes = (f"{pair.stem}: visible {visible.size[1]} x {visible.size[0]}, infrared {infrared.size[1]} x "
             f"{infrared.size[0]} pixels (width x height)")
    if align == "refuse":
        raise ValueError(f"{sizes}; expected one size. Register them, or resize the infrared (--align resize)")
    stretch = np.divide(visible.size, infrared.size)
    if abs(stretch[0] / stretch[1] - 1) > 0.02:
        warnings.warn(f"{sizes}: the shapes differ, resizing distorts the infrared", stacklevel=2)
    planes = {name: _resized(getattr(infrared, name), visible.size) for name in ("luma", "chroma", "alpha")
              if getattr(infrared, name) is not None}
    return visible, replace(infrared, **planes)


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) or (H, W, 2) at another size, within the range of its values."""
    import cv2

    low, high = plane.min(), plane.max()
    less = [min(a, b) for a, b in zip(plane.shape, size, strict=False)]
    plane = cv2.resize(plane, less[::-1], interpolation=cv2.INTER_AREA)
    return np.clip(cv2.resize(plane, size[::-1], interpolation=cv2.INTER_CUBIC), low, high)


def layout(name: str, root=None, split: str | None = None) -> list[Pair]:
    """The pairs of a set by its name, sorted by stem.

    roadscene: blocks of sorted names; validation is another recording, FLIR_video_*. Originals: crop_LR_visible,
        cropinfrared.
    tno: blocks of numbers; the views of one camp, 22 to 33, stay together. Originals: vi, ir with 01 to 42.
    tno_salient: in the pack only; each picture has the split of its scene in tno.
    msrs: of the pack, the published test part cut into train and test; of the originals (train/vi, train/ir, test/vi,
        test/ir) as published, so that their test part holds what the pack's train part does.
    m3fd: Vis, Ir; no splits. llvip: visible/, infrared/ with train, test.
    ct-mri, pet-mri, spect-mri: whole volumes held out (in the published parts, neighbouring slices lie on both
        sides). Originals: CT-MRI/train/CT, CT-MRI/train/MRI, CT-MRI/test/CT, ...

    root: folder of the pack or of the originals; None: the pack where the catalogue finds it, else the originals.
    split: train, validation, test; None: all pairs.

    Raises:
        FileNotFoundError: the set is not here (how to obtain it), or files that its list names.
        ValueError: an unknown name or split (the known are named), and as `match`.
    """
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}; expected one of {', '.join(SETS)}")
    pack, own, originals = SETS[name]
    root = _root(name) if root is None else Path(root)
    if pack and any((root / table).is_file() for table in ("manifest.csv", "pairs.csv")):
        pairs = _packed(name, root, own)
    elif originals:
        pairs = _published(name, root, originals)
    else:
        raise FileNotFoundError(f"{root}: no manifest.csv; {name} is part of the pack {pack} only")
    known = sorted({part for _, part in pairs if part})
    if split is not None and split not in known:
        raise ValueError(f"split {split!r} of {name}: expected {', '.join(known) or 'none, the set has no splits'}")
    return sorted((pair for pair, part in pairs if split in (None, part)), key=lambda pair: pair.stem)


def _root(name: str) -> Path:
    """Folder of the pack, else of the originals."""
    absent = []
    for place in (SETS[name][0], SETS[name][2]):
        try:
            if place:
                return catalogue.find(place)
        except FileNotFoundError as reason:
            absent.append(str(reason))
    raise FileNotFoundError("; or: ".join(absent))


def _packed(name: str, root: Path, own: str) -> list[tuple[Pair, str]]:
    """Pairs and their splits from a pack's table."""
    medical = (root / "pairs.csv").is_file()
    key, first, second = ("task", "functional_or_ct", "mri") if medical else ("set", "vi", "ir")
    with open(root / ("pairs.csv" if medical else "manifest.csv"), newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row[key] == own]
    found = []
    for row in rows:
        pair = Pair(Path(row["name"]).stem, root / row[first], root / row[second])
        scene = row["note"].rpartition("/")[2] if name == "tno_salient" else pair.stem
        found.append((pair, _block(name, scene) or row["derived_split"]))
    absent = [str(path) for pair, _ in found for path in (pair.visible, pair.infrared) if not path.is_file()]
    if absent or not found:
        raise FileNotFoundError(f"{root}: {len(absent)} files of {name} are missing ({listed(absent)}); obtain the "
                                "pack again" if found else f"{root}: the pack's table names no pair of {name}")
    return found


def _published(name: str, root: Path, originals: str) -> list[tuple[Pair, str]]:
    """Pairs and their splits from the folders of the originals."""
    task = SETS[name][1] or ""
    folders = [folder.replace("{task}", task).replace("{first}", task.partition("-")[0])
               for folder in FOLDERS[originals]]
    parts = ("train", "test") if "{}" in folders[0] else ("",)
    absent = [str(root / folder.format(part)) for part in parts for folder in folders
              if not (root / folder.format(part)).is_dir()]
    if absent:
        entry = catalogue.entry(originals)
        raise FileNotFoundError(f"{name}: no folder {listed(absent)}; to obtain the set: {entry.how}. Layout: "
                                f"{entry.layout}")
    found = [(pair, part) for part in parts
             for pair in match(*(root / folder.format(part) for folder in folders))]
    if name in HELD_OUT:
        return [(pair, "test" if int(pair.stem) // 1000 in HELD_OUT[name] else "train") for pair, _ in found]
    return [(pair, _block(name, pair.stem) or part) for pair, part in found]


def _block(name: str, stem: str) -> str | None:
    """The split of the block of names that a picture lies in, None of sets without blocks."""
    blocks = BLOCKS.get(name.removesuffix("_salient"), ())
    return next((part for start, part in reversed(blocks) if stem >= start), None)


def simulated(n: int, split: str, seed: int, size: tuple[int, int] = (128, 160), dials=None) -> dict:
    """n simulated street pairs, see `cmf.simulate.street.simulate_pairs`, whose arguments these are.

    Returns a dict: visible float32 (n, H, W), luma in [0, 1]; chroma float32 (n, H, W, 2); infrared float32
    (n, H, W) in [0, 1]; thermal bool (n, H, W), pixels of warm bodies; labels uint8 (n, H, W), 1 + the index of a kind;
    captions, n tuples of sentences; prompts, n sentences; light, weather, n names; ids, n names.

    A warm body is a fact about the world, not a bright pixel, and the mask lies where the visible camera sees it:

    | kind | warm |
    |---|---|
    | person | yes, rucksack and clothes too |
    | fire | yes |
    | car | the whole car when its engine runs, no pixel of it when it does not |
    | smoke, bicycle, bag, barrier, bump, background | no |

    Raises ValueError as `simulate_pairs` does.

    >>> made = simulated(2, "test", seed=1, size=(48, 64))
    >>> made["visible"].shape, made["thermal"].dtype
    ((2, 48, 64), dtype('bool'))
    """
    from cmf.simulate import street

    made = street.simulate_pairs(n, split, seed, size, dials or street.Dials())
    colours = [luma_chroma(picture / np.float32(255)) for picture in made.visible]
    thermal = [_warm(scene, labels, boxes) for scene, labels, boxes in
               zip(made.scenes, made.labels, made.boxes, strict=True)]
    return {"visible": np.stack([luma for luma, _ in colours]), "chroma": np.stack([colour for _, colour in colours]),
            "infrared": made.infrared / np.float32(255), "thermal": np.stack(thermal), "labels": made.labels,
            "captions": made.captions, "prompts": made.prompts, "ids": made.ids,
            "light": tuple(street.LIGHTS[i] for i in made.truth["light"]),
            "weather": tuple(street.WEATHERS[i] for i in made.truth["weather"])}


def _warm(scene, labels: np.ndarray, boxes) -> np.ndarray:
    """bool (H, W), pixels of warm bodies. Labels tell kinds apart, not one car from another: where a running and a
    parked one are seen, the scene is painted again to learn whose each pixel is."""
    from cmf.simulate.street_actors import KINDS
    from cmf.simulate.street_render import paint

    warm = [actor.kind == "fire" or actor.kind in WARM and actor.running for actor in scene.actors]
    if any({warm[box.actor] for box in boxes if box.kind == kind} == {True, False} for kind in WARM):
        owner = paint(scene, labels.shape)[0].owner
        return np.array([False, *warm])[owner]
    kinds = {box.kind for box in boxes if warm[box.actor]}
    return np.isin(labels, [1 + KINDS.index(kind) for kind in kinds])
