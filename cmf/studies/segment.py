"""`python -m cmf segment`: pairs of pictures to labels, overlays and fused pictures, measured where labels are known.

The folder holds labels/ (PNG of class numbers, shown in the colours of the classes), overlays/, fused/, legend.png,
classes.csv (what share of each picture a class covers, and with --label its intersection over union), scores.csv
(with --label: over all pictures) and run.json. It is made aside as `<folder>.part` and renamed when it is complete.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmf import runs, sources
from cmf.datasets.pairs import Pair, load, match
from cmf.datasets.pictures import Picture, luma_chroma, to_rgb, write
from cmf.datasets.segmentation_classes import CLASSES, PALETTE, painted
from cmf.studies import folders

ABSENT = "not in truth or prediction"
OPAQUE = 0.55     # of a class's colour on an overlay; the background shows the picture as it is


@dataclass(frozen=True)
class Done:
    """One pair that was labelled. share: (K,) of the pixels. counts: (K, K) int64, rows the truth, or None."""

    pair: Pair
    size: tuple[int, int]
    share: np.ndarray
    counts: np.ndarray | None
    seconds: float


def palette(classes: Sequence[str]) -> np.ndarray:
    """Colours uint8 (K, 3) of classes: the project's where it has them, others evenly around the colour circle."""
    import colorsys

    known = {label: colour for name, labels in CLASSES.items()
             for label, colour in zip(labels, PALETTE[name], strict=True)}
    new = [label for label in classes if label not in known]
    wheel = {label: np.round(255 * np.array(colorsys.hsv_to_rgb(k / max(1, len(new)), 0.75, 0.95)))
             for k, label in enumerate(new)}
    return np.array([known.get(label, wheel.get(label)) for label in classes], np.uint8)


def overlay(picture: np.ndarray, label: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A picture uint8 (H, W, 3) with the colours of its classes laid over it but for class 0, edges in full colour."""
    colour = painted(label, colours)
    edge = np.zeros(label.shape, bool)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:] |= label[1:] != label[:-1]
    opaque = np.where(label > 0, np.where(edge, 1, OPAQUE), 0)[..., None]
    return np.rint(picture * (1 - opaque) + colour * opaque).astype(np.uint8)


def legend(classes: Sequence[str], colours: np.ndarray, path: Path) -> Path:
    """Draw the colours with their numbers and names, as PNG."""
    from PIL import Image, ImageDraw, ImageFont

    font, line, gap = ImageFont.load_default(14), 22, 8
    words = [f"{k}  {label}" for k, label in enumerate(classes)]
    wide = max(int(font.getlength(word)) for word in words)
    sheet = Image.new("RGB", (3 * gap + line + wide, 2 * gap + line * len(classes)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, word in enumerate(words):
        top = gap + k * line
        draw.rectangle((gap, top + 2, gap + line - 4, top + line - 2), tuple(int(c) for c in colours[k]), "black")
        draw.text((2 * gap + line, top + 2), word, "black", font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
    return path


def pictures(pair: Pair, align: str = "refuse", span: tuple[float, float] | None = None
             ) -> tuple[np.ndarray, np.ndarray]:
    """visible float32 (H, W, 3) and infrared float32 (H, W), both in [0, 1], of a pair.

    align: of `cmf.datasets.pairs.load`. span: (low, high), infrared counts as stored that become 0 and 1, such as raw
    16-bit thermal ones.

    Raises:
        ValueError: as `load`; an infrared picture in colour; a span that does not rise.
    """
    visible, infrared = load(pair, align)
    if infrared.chroma is not None:
        raise ValueError(f"{pair.infrared}: the infrared picture has colours (three channels that differ); expected "
                         "one channel, or three equal ones. Undo the false colours")
    thermal = infrared.luma
    if span is not None:
        if not span[0] < span[1]:
            raise ValueError(f"--span {span[0]:g} {span[1]:g}: expected two counts, the first smaller")
        counts = thermal * np.float32((1 << infrared.bits) - 1 if infrared.bits < 32 else 1)
        thermal = np.clip((counts - span[0]) / (span[1] - span[0]), 0, 1).astype(np.float32)
    return rgb(visible), thermal


def rgb(picture: Picture) -> np.ndarray:
    """float32 (H, W, 3) in [0, 1] of a picture, grey three times where it has no colour."""
    return np.stack([picture.luma] * 3, -1) if picture.chroma is None else to_rgb(picture.luma, picture.chroma)


def segment(pairs: Sequence[Pair], segmenter, folder: Path, views=None, labels: dict[str, Path] | None = None,
            align: str = "refuse", span: tuple[float, float] | None = None) -> tuple[list[Done], dict[str, str]]:
    """Label pairs and write labels/, overlays/ and fused/ into a folder.

    Args:
        pairs: of `cmf.datasets.pairs.match`. segmenter: a `cmf.studies.segmenter.Segmenter`. views: its `Views`.
        labels: label pictures by stem, of the pairs that have one. align, span: of `pictures`.

    Returns:
        what was labelled, and by stem the reason why a pair could not be read or labelled.

    Raises:
        OSError: the folder cannot be written.
    """
    from PIL import Image

    from cmf.metrics.segmentation import confusion
    from cmf.studies.segmenter import Views

    colours, done, failed = palette(segmenter.classes), [], {}
    for name in ("labels", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for pair in runs.progress(pairs, "segment") if len(pairs) > 1 else pairs:
        began = time.perf_counter()
        try:
            visible, infrared = pictures(pair, align, span)
            truth = _truth((labels or {}).get(pair.stem), segmenter.classes, infrared.shape)
            found = segmenter.segment(visible, infrared, views or Views())
        except (ValueError, OSError) as reason:
            failed[pair.stem] = folders.why(pair.stem, reason)
            continue
        indexed = Image.fromarray(found.label)
        indexed.putpalette(colours.reshape(-1).tolist())
        indexed.save(folder / "labels" / f"{pair.stem}.png", "PNG")
        shown = overlay(np.rint(visible * 255), found.label, colours)
        Image.fromarray(shown).save(folder / "overlays" / f"{pair.stem}.png", "PNG")
        write(folder / "fused" / f"{pair.stem}.png", *luma_chroma(found.fused))
        k = len(segmenter.classes)
        done.append(Done(pair, found.label.shape, np.bincount(found.label.reshape(-1), minlength=k) / found.label.size,
                         None if truth is None else confusion(truth, found.label, k), time.perf_counter() - began))
    return done, failed


def _truth(path: Path | None, classes: Sequence[str], size: tuple[int, int]) -> np.ndarray | None:
    from cmf.datasets.segmentation import IGNORED, _indices

    if path is None:
        return None
    label = _indices(path)
    if label.shape != size:
        raise ValueError(f"{path}: labels of {label.shape[0]} x {label.shape[1]} rows and columns for a picture of "
                         f"{size[0]} x {size[1]}; resize labels by the nearest pixel only")
    outside = (label >= len(classes)) & (label != IGNORED)
    if outside.any():
        values = ", ".join(map(str, np.unique(label[outside])[:10]))
        raise ValueError(f"{path}: label values {values}, outside the {len(classes)} classes 0 to {len(classes) - 1} "
                         f"({classes[0]} to {classes[-1]}); give weights of these classes, or label pixels to leave "
                         f"out {IGNORED}")
    return label


def table(done: Sequence[Done], classes: Sequence[str]):
    """A row a pair as a DataFrame: stem, rows, columns, share_<class>, and where labels were given iou_<class>, miou,
    miou_foreground and accuracy, NaN for pictures without."""
    import pandas as pd

    from cmf.metrics.segmentation import scores

    rows = []
    for one in done:
        row = dict(stem=one.pair.stem, rows=one.size[0], columns=one.size[1])
        row |= {f"share_{label}": share for label, share in zip(classes, one.share, strict=True)}
        if one.counts is not None and one.counts.sum():
            found = scores(one.counts)
            row |= {f"iou_{label}": value for label, value in zip(classes, found["iou"], strict=True)}
            row |= {name: found[name] for name in ("miou", "miou_foreground", "accuracy")}
        rows.append(row)
    return pd.DataFrame(rows)


def summary(counts: np.ndarray, classes: Sequence[str]):
    """Scores of counts (m, K, K) of pictures as a DataFrame: measure, value, low, high (95 % over pictures, NaN where
    there is no interval): miou, miou_foreground, accuracy, mean_accuracy, frequency_weighted, iou of each class."""
    import pandas as pd

    from cmf.metrics.segmentation import miou_interval, scores

    found, nothing = scores(counts.sum(0)), dict(low=np.nan, high=np.nan)
    rows = []
    for name, foreground in (("miou", False), ("miou_foreground", True)):
        spread = miou_interval(counts, foreground) if found[name] == found[name] else None
        rows.append(dict(measure=name, value=found[name],
                         **(nothing if spread is None else dict(low=spread.low, high=spread.high))))
    rows += [dict(measure=name, value=found[name], **nothing)
             for name in ("accuracy", "mean_accuracy", "frequency_weighted")]
    rows += [dict(measure=f"iou {label}", value=value, **nothing)
             for label, value in zip(classes, found["iou"], strict=True)]
    return pd.DataFrame(rows)


def views_arguments(parser) -> None:
    """--scales, --flip, --window, of `python -m cmf segment` and `evaluate cmfs`."""
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], metavar="S",
                        help="factors on the picture's size whose answers are averaged (default 1)")
    parser.add_argument("--flip", action="store_true", help="average with the answer to the mirrored pair")
    parser.add_argument("--window", type=int, nargs=2, metavar=("ROWS", "COLUMNS"),
                        help="slide a window of this size; default: the whole picture, up to 1.5 million pixels")


def arguments(parser) -> None:
    """`python -m cmf segment --visible PATH --infrared PATH --out DIR`."""
    parser.add_argument("--visible", required=True, metavar="PATH", help="a picture or a folder of them; gives names")
    parser.add_argument("--infrared", required=True, metavar="PATH", help="a picture, or a folder with the same names")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="folder to make: labels, overlays, fused, legend.png, classes.csv, run.json")
    parser.add_argument("--weights", metavar="FILE", help="of `train cmfs`; default: the project's own, street classes")
    parser.add_argument("--label", metavar="PATH", help="label pictures of the same names, to score by")
    parser.add_argument("--span", type=float, nargs=2, metavar=("LOW", "HIGH"),
                        help="infrared counts that are black and white, as of raw 16-bit thermal pictures")
    views_arguments(parser)
    folders.arguments(parser)
    parser.set_defaults(run=_run)


def _labels(path: str | None, pairs: Sequence[Pair]) -> dict[str, Path]:
    """Label pictures by stem. Raises as `match`, and ValueError where no pair has one."""
    if path is None:
        return {}
    if Path(path).is_file() and len(pairs) == 1:
        return {pairs[0].stem: Path(path)}
    found = {pair.stem: pair.visible for pair in match(path, path)}
    if not found.keys() & {pair.stem for pair in pairs}:
        raise ValueError(f"{path}: no label picture bears the name of a pair, such as {pairs[0].stem}.png")
    return found


def _run(options) -> int:
    pairs = match(options.visible, options.infrared)
    labels = _labels(options.label, pairs)
    from cmf.studies.segmenter import TRAINED, Segmenter, Views

    views = Views(tuple(options.scales), options.flip, options.window and tuple(options.window))
    segmenter = Segmenter.load(options.weights or TRAINED, options.device)
    out = Path(options.out).absolute()
    told = []
    with folders.aside(out) as part:
        done, failed = segment(pairs, segmenter, part, views, labels, options.align, options.span)
        if done:
            with folders.completed(part, out):
                told = _finish(done, failed, segmenter, views, part)
    return folders.closing(told, len(done), len(pairs), "labelled", failed, out)


def _finish(done, failed, segmenter, views, part) -> list[str]:
    """Write what goes beside the pictures; what to print."""
    told, frame = [], lambda made: made.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    runs.write_text(part / "classes.csv", frame(table(done, segmenter.classes)))
    counts = [one.counts for one in done if one.counts is not None and one.counts.sum()]
    if counts:
        found = summary(np.stack(counts), segmenter.classes)
        runs.write_text(part / "scores.csv", frame(found))
        from cmf.studies.commands import lines

        told += [f"{len(counts)} pictures with labels, 95 % intervals over pictures",
                 *lines(found, absent=ABSENT)]
    legend(segmenter.classes, palette(segmenter.classes), part / "legend.png")
    weights = segmenter.path and dict(file=segmenter.path.name, sha256=sources.sha256(segmenter.path))
    record = runs.provenance(weights=weights, classes=segmenter.classes, failed=failed, scales=views.scales,
                             flip=views.flip, window=views.window, network_device=str(segmenter.device),
                             pairs={one.pair.stem: round(one.seconds, 4) for one in done})
    runs.write_text(part / "run.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
    return told
