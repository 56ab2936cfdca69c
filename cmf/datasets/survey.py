"""Survey alerts as targets: the packed ZTF and LSST files and raw ZTF alert packets (avro).

Axes: n targets, F frames, H rows, W columns, T steps of a sequence, C channels, L rows of a light curve.

Frames are science, template and difference. Missing pixels take the stamp's median and a stamp without any
valid pixel is 0; the share of missing pixels is in groups["missing_pixels"], (n, F). Pixels of -3.4e38, which
the survey writes for "no value", are missing; in the packed file such a stamp has lost all its other levels.
One step of a sequence is one exposure, so one filter is observed in it.

ZTF channels: flux_g, flux_r, flux_i = sign * asinh(10 ** (-0.4 * (m - 20))) with m the magnitude of the
difference and sign -1 where the source is fainter than in the template (unknown counts as brighter); and
limit_g, limit_r, limit_i, the same function of the 5-sigma limiting magnitude, of every exposure. asinh is
linear in flux around m = 20 and logarithmic for brighter sources (Lupton, Gunn and Szalay 1999).
LSST channels: flux_u ... flux_y = asinh(flux / 1000 nJy), error_u ... error_y the same of the error.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from cmf.datasets.names import listed
from cmf.datasets.targets import TargetSet

FRAMES = ("science", "template", "difference")
ZTF_CHANNELS = ("flux_g", "flux_r", "flux_i", "limit_g", "limit_r", "limit_i")
LSST_CHANNELS = tuple(f"{kind}_{band}" for kind in ("flux", "error") for band in "ugrizy")
ZERO = 20.0  # magnitude of flux 1
STAMP = 63  # pixels of a side
HUGE = 1e30  # counts beyond which a pixel holds no value
CARD, BLOCK = 80, 2880  # bytes of a FITS header card and of a FITS block


def read_ztf(folder, labelled_only: bool = True, drop=("galaxy",), length: int | None = None) -> TargetSet:
    """Objects of ztf.npz and ztf_targets.csv in `folder` (module docstring for frames and channels).

    labelled_only: leave unlabelled objects out; otherwise their label is -1. drop: coarse classes left
    out. length: keep only the last `length` steps of each sequence; None keeps all.
    Classes are the coarse ones that remain, in alphabetical order. groups: origin (the source folder),
    fold (0-4), detections (count), fine (fine class), missing_pixels.

    Raises FileNotFoundError for a missing file, ValueError where the two files disagree, an id comes twice
    or a class to drop does not exist.
    """
    arrays, rows = _read_pack(folder, "ztf")
    origin = np.array([row["origin"].rpartition("/")[0] for row in rows])
    return _pack_targets(arrays, rows, ztf_steps, ZTF_CHANNELS, labelled_only, drop, length, origin=origin)


def read_lsst(folder, labelled_only: bool = True, drop=(), length: int | None = None) -> TargetSet:
    """Objects of lsst.npz and lsst_targets.csv; arguments, groups (but origin) and errors as `read_ztf`."""
    arrays, rows = _read_pack(folder, "lsst")
    return _pack_targets(arrays, rows, lsst_steps, LSST_CHANNELS, labelled_only, drop, length)


def read_alerts(paths, labels: dict[str, str] | None = None, length: int | None = None) -> TargetSet:
    """ZTF alert packets in avro, one target an object: several packets of one object are merged by time.

    paths: a folder (its *.avro, at any depth) or a list of files. labels: objectId -> class; without it, and
    for objects it does not name, the label is -1. length: keep the last `length` steps.
    Stamps are those of the object's last packet, days count from it; an exposure that several packets tell
    (same time and filter) counts once, a detection before a limit. groups: detections, packets (counts) and
    missing_pixels.

    Raises FileNotFoundError without files, ValueError with the path for a truncated or foreign file, a
    missing field, an unknown filter, a missing cutout or a bad FITS image.
    """
    source = Path(paths) if isinstance(paths, str | Path) else None
    files = [source] if source and source.is_file() else sorted(source.rglob("*.avro")) if source else paths
    files = [Path(path) for path in files]
    if not files:
        raise FileNotFoundError(f"{source or 'paths'}: no .avro file there")
    packets: dict[str, list[tuple[Path, dict]]] = {}
    for path in files:
        for packet in _read_avro(path):
            packets.setdefault(packet["objectId"], []).append((path, packet))
    ids = sorted(packets)
    stamps, curves = [], []
    for key in ids:
        merged = sorted(packets[key], key=lambda pair: pair[1]["candidate"]["jd"])
        path, last = merged[-1]
        stamps.append([_cutout(last, name, path) for name in ("Science", "Template", "Difference")])
        curves.append(_merge([packet for _, packet in merged], last["candidate"]["jd"]))
    images, missing = _fill(np.array(stamps, dtype=np.float32))
    values, observed, times = _pad(curves, ztf_steps, len(ZTF_CHANNELS), length)
    labels = labels or {}
    classes = tuple(sorted(set(labels.values())))
    return TargetSet(
        images=images, values=values, observed=observed, times=times,
        labels=np.array([classes.index(labels[key]) if key in labels else -1 for key in ids], dtype=np.int64),
        ids=tuple(ids), classes=classes, frames=FRAMES, channels=ZTF_CHANNELS, time_unit="days",
        groups={"detections": np.array([int(curve[:, 6].sum()) for curve in curves]),
                "packets": np.array([len(packets[key]) for key in ids]), "missing_pixels": missing})


def ztf_steps(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Channels of one ZTF light curve.

    curve: (L, 7) days, filter (1 g, 2 r, 3 i), magnitude (NaN for an upper limit), its error, limiting
    magnitude, positive difference (1, 0 or NaN), detection (1 or 0). Limits outside 5 to 30 mag are the
    survey's placeholders and count as not observed. Returns values and observed, (L, 6) each.
    """
    values = np.zeros((len(curve), 6))
    observed = np.zeros((len(curve), 6), dtype=bool)
    row, band = np.arange(len(curve)), curve[:, 1].astype(int) - 1
    detected = (curve[:, 6] == 1) & np.isfinite(curve[:, 2])
    limited = (curve[:, 4] > 5) & (curve[:, 4] < 30)
    sign = np.where(curve[:, 5] == 0, -1.0, 1.0)
    for offset, magnitude, factor, seen in ((0, curve[:, 2], sign, detected), (3, curve[:, 4], 1.0, limited)):
        flux = np.arcsinh(10 ** (-0.4 * (np.where(seen, magnitude, ZERO) - ZERO))) * factor
        values[row, band + offset] = np.where(seen, flux, 0)
        observed[row, band + offset] = seen
    return values, observed  # (L, 6)


def lsst_steps(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Channels of one LSST light curve (L, 5): days, band 0-5, flux and error in nJy, source flag.

    Returns values and observed, (L, 12) each.
    """
    values = np.zeros((len(curve), 12))
    observed = np.zeros((len(curve), 12), dtype=bool)
    row, band = np.arange(len(curve)), curve[:, 1].astype(int)
    for offset, column in ((0, 2), (6, 3)):
        seen = np.isfinite(curve[:, column])
        values[row, band + offset] = np.where(seen, np.arcsinh(curve[:, column] / 1000), 0)
        observed[row, band + offset] = seen
    return values, observed  # (L, 12)


def read_fits(data: bytes, name: str = "FITS image") -> np.ndarray:
    """A two-dimensional FITS image of 32-bit floats (BITPIX -32, NAXIS 2) as float32 (H, W).

    data: the bytes, gzip-compressed or not. name: what errors call it. BSCALE and BZERO are applied.
    Raises ValueError for other kinds of FITS and for damaged data. Layout: FITS standard 4.0, parts 3 and 4.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as reason:
            raise ValueError(f"{name}: the gzip stream is damaged ({reason})") from reason
    cards = {}
    for start in range(0, len(data) - CARD + 1, CARD):
        card = data[start:start + CARD].decode("ascii", errors="replace")
        if start == 0 and not card.startswith("SIMPLE  ="):
            raise ValueError(f"{name}: not a FITS file, it starts with {card[:9]!r}")
        if card[:8].strip() == "END":
            break
        if card[8:10] == "= ":
            cards[card[:8].strip()] = card[10:].split("/")[0].strip()
    else:
        raise ValueError(f"{name}: the FITS header has no END card; the data are cut short")
    kind = (cards.get("BITPIX"), cards.get("NAXIS"))
    if kind != ("-32", "2"):
        raise ValueError(f"{name}: BITPIX {kind[0]} and NAXIS {kind[1]}, expected -32 and 2, a float32 image")
    shape = int(cards["NAXIS2"]), int(cards["NAXIS1"])
    begin = -(-(start + CARD) // BLOCK) * BLOCK  # data start at the next block
    body = data[begin:begin + 4 * shape[0] * shape[1]]
    if len(body) < 4 * shape[0] * shape[1]:
        raise ValueError(f"{name}: {len(body)} bytes of pixels, expected {4 * shape[0] * shape[1]}: cut short")
    image = np.frombuffer(body, dtype=">f4").reshape(shape).astype(np.float32)
    return image * np.float32(cards.get("BSCALE", 1)) + np.float32(cards.get("BZERO", 0))


def _read_pack(folder, survey: str) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    packed, table = Path(folder) / f"{survey}.npz", Path(folder) / f"{survey}_targets.csv"
    for path in (packed, table):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; the folder needs {packed.name} and {table.name}")
    with np.load(packed, allow_pickle=False) as store:
        arrays = {name: store[name] for name in store.files}
    with open(table, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    names = [row["object_id"] for row in rows]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{table}: two rows with one id: {listed(twice)}")
    if names != arrays["object_id"].tolist():
        raise ValueError(f"{table}: {len(names)} objects that differ from the {len(arrays['object_id'])} of "
                         f"{packed.name} in number or order; take both files from one pack")
    return arrays, rows


def _pack_targets(arrays, rows, steps, channels, labelled_only, drop, length, **groups) -> TargetSet:
    coarse = np.array([row["coarse_class"] for row in rows])
    unknown = sorted(set(drop) - set(coarse))
    if unknown:
        raise ValueError(f"cannot drop {', '.join(unknown)}; classes here are {', '.join(sorted(set(coarse)))}")
    keep = ~np.isin(coarse, [*drop, "unlabelled"] if labelled_only else list(drop))
    classes = tuple(sorted(set(coarse[keep].tolist()) - {"unlabelled"}))
    index = np.flatnonzero(keep)
    ids = tuple(rows[i]["object_id"] for i in index)
    stamps = arrays["stamps_u16"][index]
    scale, offset = (arrays[name][index][..., None, None] for name in ("stamp_scale", "stamp_offset"))
    stamps = np.where((stamps == 65535) | (offset < -HUGE), np.nan, stamps * scale.astype(float) + offset)
    images, missing = _fill(stamps)
    ends = arrays["seq_offsets"]
    curves = [arrays["seq_values"][ends[i]:ends[i + 1]] for i in index]
    values, observed, times = _pad(curves, steps, len(channels), length)
    groups = {name: array[index] for name, array in groups.items()}
    groups |= {"fold": np.array([int(rows[i]["fold"]) for i in index]),
               "detections": np.array([int(rows[i]["n_det"]) for i in index]),
               "fine": np.array([rows[i]["fine_class"] for i in index]), "missing_pixels": missing}
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers.get(coarse[i], -1) for i in index], dtype=np.int64)
    return TargetSet(images=images, values=values, observed=observed, times=times, labels=labels, ids=ids,
                     classes=classes, frames=FRAMES, channels=channels, time_unit="days", groups=groups)


def _fill(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stamps (n, F, H, W) with missing pixels at the stamp's median, and the share of missing ones (n, F)."""
    bad = ~(np.abs(stamps) < HUGE)  # NaN counts as bad
    share = bad.mean(axis=(2, 3), dtype=np.float32)
    empty = (share == 1)[..., None, None]
    median = np.nanmedian(np.where(empty, 0, np.where(bad, np.nan, stamps)), axis=(2, 3), keepdims=True)
    return np.where(bad, median, stamps).astype(np.float32), share


def _pad(curves, steps, channels: int, length: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """values (n, T, C), observed (n, T, C), times (n, T); padding stands at the end with times 0."""
    if length is not None:
        if length < 1:
            raise ValueError(f"length is {length}, expected at least 1 step")
        curves = [curve[-length:] for curve in curves]
    longest = max((len(curve) for curve in curves), default=1)
    values = np.zeros((len(curves), longest, channels), dtype=np.float32)
    observed = np.zeros(values.shape, dtype=bool)
    times = np.zeros(values.shape[:2], dtype=np.float32)
    for i, curve in enumerate(curves):
        values[i, :len(curve)], observed[i, :len(curve)] = steps(curve)
        times[i, :len(curve)] = curve[:, 0]
    return values, observed, times


def _read_avro(path: Path) -> list[dict]:
    import fastavro

    try:
        with open(path, "rb") as stream:
            packets = list(fastavro.reader(stream))
    except FileNotFoundError:
        raise
    except Exception as reason:  # fastavro raises struct, zlib, index and its own errors for damaged files
        raise ValueError(f"{path}: not a whole avro file ({type(reason).__name__}: {reason})") from reason
    for packet in packets:
        fields = packet if isinstance(packet, dict) else {}
        candidate = fields.get("candidate") if isinstance(fields.get("candidate"), dict) else {}
        absent = [name for name in ("objectId", "candidate") if not fields.get(name)]
        absent += [f"candidate.{name}" for name in ("jd", "fid", "magpsf") if candidate.get(name) is None]
        if absent:
            raise ValueError(f"{path}: not a ZTF alert packet, without {', '.join(absent)}")
        for entry in [candidate, *(fields.get("prv_candidates") or [])]:
            if entry.get("jd") is None or entry.get("fid") not in (1, 2, 3):
                raise ValueError(f"{path}: an exposure with jd {entry.get('jd')} and fid {entry.get('fid')}; "
                                 "expected a date and filter 1, 2 or 3")
    return packets


def _cutout(packet: dict, name: str, path: Path) -> np.ndarray:
    """One stamp (63, 63), smaller ones centred in NaN."""
    cutout = packet.get(f"cutout{name}")
    if not cutout or not cutout.get("stampData"):
        raise ValueError(f"{path}: {packet['objectId']} has no cutout{name}; fetch the packet with its stamps")
    image = read_fits(cutout["stampData"], f"{path}: cutout{name} of {packet['objectId']}")
    if max(image.shape) > STAMP:
        raise ValueError(f"{path}: cutout{name} has {image.shape} pixels, expected at most {STAMP} x {STAMP}")
    stamp = np.full((STAMP, STAMP), np.nan, dtype=np.float32)
    top, left = ((STAMP - extent) // 2 for extent in image.shape)
    stamp[top:top + image.shape[0], left:left + image.shape[1]] = image
    return stamp


def _merge(packets: list[dict], origin: float) -> np.ndarray:
    """Light curve (L, 7) of one object in the columns of `ztf_steps`, days counted from jd `origin`."""
    found: dict[tuple[float, int], list[float]] = {}
    for packet in packets:
        for entry in [*(packet.get("prv_candidates") or []), packet["candidate"]]:
            magnitude, error, limit = (np.nan if entry.get(name) is None else entry[name]
                                       for name in ("magpsf", "sigmapsf", "diffmaglim"))
            detection = float(np.isfinite(magnitude))
            sign = {"t": 1.0, "1": 1.0, "f": 0.0, "0": 0.0}.get(str(entry.get("isdiffpos")), np.nan)
            key = (round(entry["jd"], 6), entry["fid"])
            if key not in found or detection >= found[key][6]:
                found[key] = [entry["jd"] - origin, entry["fid"], magnitude, error, limit, sign, detection]
    return np.array([found[key] for key in sorted(found)])
