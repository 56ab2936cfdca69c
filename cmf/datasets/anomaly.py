"""Collections of videos with anomalies, each read to `VideoItem` records: published layouts and plain folders.

| reader | what lies in the folder |
|---|---|
| `read_ucf_crime` | Anomaly_Train.txt, Anomaly_Test.txt, the temporal annotation, videos at any depth |
| `read_xd_violence` | videos named `..._label_B1-0-0.mp4` or `..._label_A.mp4`; annotations.txt for the test part |
| `read_shanghaitech` | training/videos/*.avi, testing/frames/ID/*.jpg, testing/test_frame_mask/ID.npy |
| `read_ped2` | frames.csv, train/01/000.jpg ... (catalogue entry ucsd_ped2) |
| `read_folder` | videos or folders of frames, in normal/ and one folder a class, or without labels |

A list's videos that are missing are named in one error; a class that is not known is refused. Video-level labels
and frame-level events are kept apart: `events` is None where the collection gives none.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmf import catalogue
from cmf.datasets import anomaly_files as files
from cmf.datasets.video import Video
from cmf.datasets.video_decode import natural

NORMAL = "normal"
UCF_CLASSES = ("Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "RoadAccidents", "Robbery",
               "Shooting", "Shoplifting", "Stealing", "Vandalism")
XD_CLASSES = {"A": NORMAL, "B1": "fighting", "B2": "shooting", "B4": "riot", "B5": "abuse", "B6": "car accident",
              "G": "explosion"}
TEMPORAL = "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"
PED2 = {"train": (16, 2550, 0), "test": (12, 2010, 1648)}  # clips, frames, anomalous frames


@dataclass(frozen=True)
class VideoItem:
    """One video and what is known of it.

    id: name, unique in its collection. source: file or folder of frames. label: "normal", a class, or None where
    it is not known. split: "train", "test", ... or None. events: half-open intervals of frame numbers
    (first, one past the last) that are anomalous, () for none, None where frames are not annotated.
    fps: frames a second of a folder of frames, None for a file. frames: how many frames the annotation covers
    where it says so. also: further classes of a video with several.
    """

    id: str
    source: Path
    label: str | None
    split: str | None
    events: tuple[tuple[int, int], ...] | None
    fps: float | None = None
    frames: int | None = None
    also: tuple[str, ...] = ()

    @property
    def anomalous(self) -> bool | None:
        """Video-level truth; None where it is not known."""
        return None if self.label is None else self.label != NORMAL

    def open(self) -> Video:
        """The video. Raises like `cmf.datasets.video.Video`."""
        return Video(self.source, self.fps)

    def mask(self, n: int) -> np.ndarray:
        """Anomalous frames, bool (n,), of a video of n frames; what lies beyond its end is clipped with a warning.

        Raises ValueError where frames are not annotated, or fewer than n are.
        """
        if self.events is None:
            raise ValueError(f"{self.id}: label {self.label!r} of the whole video only, its frames are not annotated; "
                             "use item.anomalous")
        if self.frames is not None and self.frames < n:
            raise ValueError(f"{self.id}: {n} frames in {self.source}, but the annotation covers {self.frames}; "
                             "annotation and video do not belong together")
        last = max((end for _, end in self.events), default=0)
        if max(last, self.frames or 0) > n:
            warnings.warn(f"{self.id}: annotation up to frame {max(last, self.frames or 0)}, beyond the video's end at "
                          f"{n}; clipped", stacklevel=2)
        mask = np.zeros(n, dtype=bool)
        for start, end in self.events:
            mask[start:end] = True
        return mask


def events_of(mask) -> tuple[tuple[int, int], ...]:
    """Half-open intervals of a 0/1 mask of frames (n,): [0, 1, 1, 0, 1] -> ((1, 3), (4, 5))."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask).astype(np.int8), [0]])))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def read_ucf_crime(folder, split: str = "test") -> list[VideoItem]:
    """UCF-Crime (Sultani, Chen and Shah 2018, CVPR): labels of the training videos, events of the test videos.

    The annotation counts frames from 1 and includes the last; here intervals are half-open from 0.
    Videos are found by their file names at any depth below the folder.

    Raises:
        FileNotFoundError: a list, or videos of the list (all of them are named).
        ValueError: a split other than train and test, an unknown class, a damaged line, a test video without line
            in the annotation or the reverse.
    """
    folder = Path(folder)
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r}, expected train or test")
    listing = files.listing(folder, f"Anomaly_{split.title()}.txt")
    classes = {}
    for number, line in files.lines(listing):
        parent, _, name = line.rpartition("/")
        label = NORMAL if "Normal" in parent else parent.rpartition("/")[2]
        if label not in (NORMAL, *UCF_CLASSES):
            raise ValueError(f"{listing}:{number}: unknown class {label!r} in {line!r}; expected Class/Name.mp4 with "
                             f"one of {', '.join(UCF_CLASSES)}, or a folder of normal videos")
        classes[name] = label
    events = _ucf_events(files.listing(folder, TEMPORAL), classes) if split == "test" else {}
    found = files.by_name(folder, classes, listing)
    return [VideoItem(Path(name).stem, found[name], label, split, events.get(name, () if label == NORMAL else None))
            for name, label in classes.items()]


def read_xd_violence(folder, annotations=None) -> list[VideoItem]:
    """XD-Violence (Wu et al. 2020, ECCV): classes from the file names; with annotations it is the test part.

    folder: the videos of one part. annotations: annotations.txt with lines `name start end start end ...` in
    frames, taken as half-open; only videos with violence are in it.

    Raises:
        FileNotFoundError: no videos, or annotated videos that are not there (all are named).
        ValueError: a file name without known classes, a damaged line, a violent video without line.
    """
    folder, split = Path(folder), "train" if annotations is None else "test"
    paths, labels = {path.stem: path for path in files.videos(folder)}, {}
    for stem, path in paths.items():
        codes = re.fullmatch(r".*_label_([A-Z0-9-]+)", stem)
        codes = [code for code in codes[1].split("-") if code != "0"] if codes else []
        if not codes or set(codes) - set(XD_CLASSES) or len(codes) > 1 and "A" in codes:
            raise ValueError(f"{path}: unknown class; expected a name that ends with _label_ and A, or up to three of "
                             f"{', '.join(list(XD_CLASSES)[1:])} joined by - (0 for none)")
        labels[stem] = [XD_CLASSES[code] for code in codes]
    events = {}
    for number, line in files.lines(Path(annotations)) if annotations is not None else ():
        name, *values = line.split()
        events[name.removesuffix(".mp4")] = files.intervals(annotations, number, line, values, first=0)
    if set(events) - set(paths):
        files.missing(folder, sorted(set(events) - set(paths)), len(events), annotations)
    items = [VideoItem(stem, paths[stem], labels[stem][0], split, () if labels[stem] == [NORMAL] else events.get(stem),
                       also=tuple(labels[stem][1:])) for stem in sorted(paths, key=natural)]
    wrong = [item.id for item in items if split == "test" and (item.events is None) or
             item.label == NORMAL and item.id in events]
    if wrong:
        raise ValueError(f"{annotations}: violent videos without a line, or normal ones with one: {', '.join(wrong)}")
    return items


def read_shanghaitech(folder, split: str = "test", listing=None, fps: float = 24.0) -> list[VideoItem]:
    """ShanghaiTech Campus (Liu et al. 2018, CVPR): its one-class split, or the weak re-split by a list of names.

    Args:
        folder: with training/videos, testing/frames and testing/test_frame_mask.
        split: "train" (all normal in the one-class split) or "test"; with `listing` only the name given to the items.
        listing: file of the re-split (Zhong et al. 2019, CVPR), one video a line, `01_0014` or `01_0014,1` with its
            label, from either part of the collection.
        fps: frames a second of the folders of frames.

    Raises:
        FileNotFoundError: videos or masks that are missing (all are named).
        ValueError: a mask that is not 0/1 in one dimension, a label that contradicts its mask, a damaged line.
    """
    folder = Path(folder)
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r}, expected train or test")
    clips = {path.stem: path for path in files.videos(folder / "training" / "videos", may_be_empty=True)}
    shots = {path.name: path for path in (folder / "testing" / "frames").glob("*") if path.is_dir()}
    labels: dict[str, str | None] = dict.fromkeys(clips if split == "train" else shots)
    if listing is not None:
        labels = {}
        for number, line in files.lines(Path(listing)):
            name, *rest = re.split(r"[,\s]+", line)
            if len(rest) > 1 or rest and rest[0] not in "01":
                raise ValueError(f"{listing}:{number}: {line!r}, expected a name, or a name and 0 or 1")
            labels[re.sub(r"\.(avi|mp4)$", "", name)] = rest[0] if rest else None
    absent = [name for name in labels if name not in clips and name not in shots]
    absent += [f"{name}.npy" for name in labels if name in shots
               and not (folder / "testing" / "test_frame_mask" / f"{name}.npy").is_file()]
    if absent or not labels:
        files.missing(folder, sorted(absent), len(labels), listing or f"the {split} part")
    items = []
    for name in sorted(labels, key=natural):
        mask = files.mask(folder / "testing" / "test_frame_mask" / f"{name}.npy") if name in shots else np.zeros(0)
        if labels[name] not in (None, str(int(mask.any()))):
            raise ValueError(f"{listing}: {name} has label {labels[name]}, but its frames say {int(mask.any())}")
        items.append(VideoItem(name, shots.get(name) or clips[name], "anomalous" if mask.any() else NORMAL, split,
                               events_of(mask), fps if name in shots else None, len(mask) if name in shots else None))
    return items


def read_ped2(folder=None, fps: float = 10.0) -> list[VideoItem]:
    """UCSD Ped2 (Mahadevan et al. 2010, CVPR): 16 normal training clips, 12 test clips with frame labels.

    folder: with frames.csv; None asks the catalogue. fps: nominal, the frames have no clock.

    Raises:
        FileNotFoundError: the folder, frames.csv or pictures (all are named).
        ValueError: other columns or values, or not 16 + 12 clips, 2550 + 2010 frames, 1648 of them anomalous.
    """
    import pandas as pd

    folder = Path(folder) if folder is not None else catalogue.find("ucsd_ped2")
    if not (folder / "frames.csv").is_file():
        raise FileNotFoundError(f"{folder}: no frames.csv; {catalogue.entry('ucsd_ped2').layout}")
    table = pd.read_csv(folder / "frames.csv", dtype={"clip": str})
    if not {"split", "clip", "frame", "path", "anomalous"} <= set(table) or not table["anomalous"].isin([0, 1]).all():
        raise ValueError(f"{folder / 'frames.csv'}: columns {', '.join(table)}, expected split, clip, frame, path and "
                         "anomalous (0 or 1)")
    for split, wanted in PED2.items():
        part = table[table["split"] == split]
        counts = (part["clip"].nunique(), len(part), int(part["anomalous"].sum()))
        if counts != wanted:
            raise ValueError(f"{folder}: {split} has {counts[0]} clips, {counts[1]} frames, {counts[2]} anomalous; "
                             f"expected {wanted[0]}, {wanted[1]}, {wanted[2]}; obtain the set again")
    absent = [path for path in table["path"] if not (folder / path).is_file()]
    if absent:
        files.missing(folder, absent, len(table), "frames.csv")
    items = []
    for (split, clip), part in table.groupby(["split", "clip"], sort=False):
        mask = part.sort_values("frame")["anomalous"].to_numpy()
        items.append(VideoItem(f"{split}/{clip}", (folder / part["path"].iloc[0]).parent,
                               "anomalous" if mask.any() else NORMAL, split, events_of(mask), fps, len(mask)))
    return items


def read_folder(folder, fps: float | None = None) -> list[VideoItem]:
    """Videos of any folder: without labels when they lie in it directly, else labelled by the folders they lie in.

    Layouts: folder/a.mp4; folder/normal/a.mp4 and folder/fight/b.mp4; the same below train, validation or test. A
    folder that holds pictures is a video of frames. Frames are not annotated (`events` is None; () for normal).

    Raises:
        FileNotFoundError: no such folder, or no video in it.
        ValueError: videos both in the folder and in folders below, or labelled folders without normal/.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    splits = [path for path in sorted(folder.iterdir()) if path.name in ("train", "validation", "test")]
    items = []
    for root, split in [(path, path.name) for path in splits] or [(folder, None)]:
        sources = files.sources(root)
        depths = {len(path.relative_to(root).parts) for path in sources}
        if not sources or depths - {0, 1, 2} or len(depths) > 1:
            kind = ValueError if sources else FileNotFoundError
            raise kind(f"{root}: {len(sources)} videos at depths {sorted(depths)}; expected them all in the folder, "
                       "or all in normal/ and one folder a class")
        classes = {path.parent.name for path in sources} if depths == {2} else set()
        if classes and not any(name.lower() == NORMAL for name in classes):
            raise ValueError(f"{root}: folders {', '.join(sorted(classes))} and no normal/; a class folder needs "
                             "normal videos beside it, or put unlabelled videos directly into the folder")
        for path in sources:
            label = path.parent.name if classes else None
            label = NORMAL if label and label.lower() == NORMAL else label
            name = path.relative_to(folder).as_posix() if path != folder else folder.name
            items.append(VideoItem(name if path.is_dir() else name.removesuffix(path.suffix), path, label, split,
                                   () if label == NORMAL else None, fps if path.is_dir() else None))
    return items


def _ucf_events(path: Path, classes: dict[str, str]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Events of the test videos by file name, held against the classes of the test list."""
    events = {}
    for number, line in files.lines(path):
        name, *rest = line.split()
        if len(rest) != 5:
            raise ValueError(f"{path}:{number}: {line!r}, expected 6 columns: file, class, start, end, start, end")
        events[name] = files.intervals(path, number, line, rest[1:], first=1)
        label = NORMAL if rest[0].lower() == NORMAL else rest[0]
        if name in classes and classes[name] != label:
            raise ValueError(f"{path}:{number}: class {rest[0]}, but the test list says {classes[name]} of {name}")
        if bool(events[name]) != (label != NORMAL):
            raise ValueError(f"{path}:{number}: class {rest[0]} with {len(events[name])} intervals in {line!r}; "
                             "expected none for a normal video, one or two for another")
    odd = sorted(set(events) ^ set(classes))
    if odd:
        raise ValueError(f"{path}: {len(odd)} videos in one of the annotation and the test list only: {', '.join(odd)}")
    return events
