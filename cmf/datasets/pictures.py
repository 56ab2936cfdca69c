"""One picture to numbers and back: brightness apart from colour, 8 and 16 bit, with what cannot be read refused.

Axes: H, W rows and columns; 3 colours R, G, B; 2 chroma planes Cb, Cr.
Brightness and colour: ITU-R BT.601 luma and chroma over the full range, as in JPEG (ITU-T T.871):
Y = .299 R + .587 G + .114 B, Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402, for R, G, B in [0, 1].
"""
from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF", "JPEG2000")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".webp", ".gif", ".jp2")
WRITTEN = {".png": (8, 16), ".tif": (8, 16, 32), ".tiff": (8, 16, 32), ".jpg": (8,), ".jpeg": (8,)}
LUMA = np.array([.299, .587, .114], np.float32)
SLACK = 1e-4           # beyond [0, 1], taken for rounding and cut


class _Refused(ValueError):
    """A file that can be decoded but is not taken."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as numbers. luma: float32 (H, W) in [0, 1]; chroma: float32 (H, W, 2), Cb and Cr in [-.5, .5], None
    of a grey picture; alpha: float32 (H, W) in [0, 1] or None; bits: 8, 16, or 32 of floats; path: where it came from.
    """

    luma: np.ndarray
    chroma: np.ndarray | None = None
    alpha: np.ndarray | None = None
    bits: int = 8
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.luma.shape


def read(path) -> Picture:
    """The picture in a file.

    White is 255 of 8 bit, 65535 of 16 bit and 1 of floats. PNG, JPEG, TIFF, BMP, PGM, PPM, WebP, GIF and JPEG 2000; 16
    bit in grey and colour of PNG and TIFF and in PGM (other 16-bit colour is read as 8). EXIF rotation is applied; a
    palette and CMYK become RGB, without colour profiles; alpha is kept beside; a colour file whose three
    channels are equal is grey.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a folder, an empty, damaged or cut file, no picture, several pictures in one file, numbers that
            are not finite (how many, where), floats outside [0, 1], whole numbers of more than 16 bits.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such picture; check the name")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected one picture")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: the file is empty; copy it again")
    values, bits = _decode(path, data)
    values = _scaled(path, values, bits)
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values, alpha = values[..., :-1], np.ascontiguousarray(values[..., -1])
    if values.ndim == 3 and (values.shape[2] == 1 or (values == values[..., :1]).all()):
        values = np.ascontiguousarray(values[..., 0])
    luma, chroma = (values, None) if values.ndim == 2 else luma_chroma(values)
    return Picture(luma, chroma, alpha, bits, path)


def _decode(path: Path, data: bytes) -> tuple[np.ndarray, int]:
    """Values (H, W) or (H, W, 1 to 4) as they are stored, upright, and their bits."""
    import io

    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pages = getattr(image, "n_frames", 1)
            if pages > 1 and image.format != "MPO":
                raise _Refused(f"{path} holds {pages} pictures; expected one, save the one that is meant")
            deep = _deep(image, data) or image.format == "PPM" and image.mode == "I"
            image.load()                                  # TIFF is turned upright by the reader itself
            if deep and image.mode in ("RGB", "RGBA", "LA"):
                turn = image.getexif().get(0x0112, 1) if image.format == "PNG" else 1
                return _upright(_decode_deep(data), turn), 16
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                if not (deep or image.mode.startswith("I;16")):
                    raise _Refused(f"{path}: whole numbers of 32 bits have no agreed white; save it as 16 bit or "
                                   "as floats in [0, 1]")
                return np.asarray(image), 16
            if image.mode == "F":
                return np.asarray(image), 32
            seen = image.has_transparency_data
            grey = image.mode in ("1", "L", "LA", "La")
            wanted = ("LA" if seen else "L") if grey else "RGBA" if seen else "RGB"
            return np.asarray(image if image.mode == wanted else image.convert(wanted)), 8
    except _Refused:
        raise
    except UnidentifiedImageError as reason:
        raise ValueError(f"{path}: no picture that can be read, or a damaged one; expected "
                         f"{', '.join(FORMATS)}") from reason
    except Exception as reason:      # damaged files make the decoders raise almost anything; none may pass unnamed
        raise ValueError(f"{path}: cannot be read ({reason or type(reason).__name__}); copy it again or save it "
                         "as PNG") from reason


def _deep(image, data: bytes) -> bool:
    """Whether a PNG or TIFF holds 16 bits a channel."""
    if image.format == "PNG":
        return struct.unpack(">B", data[24:25])[0] == 16
    return image.format == "TIFF" and set(np.atleast_1d(image.tag_v2.get(258, 1)).tolist()) == {16}


def _decode_deep(data: bytes) -> np.ndarray:
    """16-bit colour, which the usual reader cuts to 8 bits: uint16 (H, W, 3 or 4), R, G, B first."""
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("16-bit colour that cannot be decoded")
    if values.ndim == 2:
        return values
    return values[..., [2, 1, 0, 3][:values.shape[2]]]


def _upright(values: np.ndarray, turn: int) -> np.ndarray:
    """An array turned as EXIF orientation 1 to 8 asks."""
    if turn in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        values = values[::-1]
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _scaled(path: Path, values: np.ndarray, bits: int) -> np.ndarray:
    """float32 in [0, 1]."""
    if bits == 32:
        wrong = ~np.isfinite(values)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(f"{path}: {wrong.sum()} of {wrong.size} values are not finite, the first in row {row}, "
                             f"column {column}; fill them before fusing")
        if values.min() < -SLACK or values.max() > 1 + SLACK:
            raise ValueError(f"{path}: floats from {values.min():g} to {values.max():g}, expected [0, 1]; scale them, "
                             "or save whole numbers of 8 or 16 bits")
        return np.clip(values, 0, 1, dtype=np.float32)
    if values.min() < 0 or values.max() >= 1 << bits:
        raise ValueError(f"{path}: values from {values.min()} to {values.max()}, expected 0 to {(1 << bits) - 1}")
    return values.astype(np.float32) / np.float32((1 << bits) - 1)


def luma_chroma(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma float32 (H, W) in [0, 1] and chroma float32 (H, W, 2), Cb and Cr in [-.5, .5], of colours (H, W, 3) in
    [0, 1]. Formula: see the module. Raises ValueError for another shape.

    >>> luma, chroma = luma_chroma(np.array([[[1.0, 0.0, 0.0]]]))
    >>> print(luma[0, 0].round(3), chroma[0, 0].round(3))
    0.299 [-0.169  0.5  ]
    """
    rgb = np.asarray(rgb, np.float32)
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"colours of shape {rgb.shape}, expected (H, W, 3)")
    luma = rgb @ LUMA                                     # (H, W)
    return luma, np.stack([(rgb[..., 2] - luma) / 1.772, (rgb[..., 0] - luma) / 1.402], -1)


def to_rgb(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Colours float32 (H, W, 3) in [0, 1] of luma (H, W) in [0, 1] and chroma (H, W, 2) in [-.5, .5].

    Where a channel would leave [0, 1], chroma is scaled down about the luma, so that brightness and hue are kept and
    only saturation is lost; cutting the channel off would change both. Raises ValueError for shapes that disagree.
    """
    luma, chroma = np.asarray(luma, np.float32), np.asarray(chroma, np.float32)
    if luma.ndim != 2 or chroma.shape != (*luma.shape, 2):
        raise ValueError(f"luma of shape {luma.shape} and chroma {chroma.shape}, expected (H, W) and (H, W, 2)")
    blue, red = 1.772 * chroma[..., 0], 1.402 * chroma[..., 1]
    away = np.stack([red, -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1], blue], -1)      # (H, W, 3) channel less luma
    rgb = luma[..., None] + away
    out = (rgb.min(-1) < 0) | (rgb.max(-1) > 1)
    if out.any():
        y, a = luma[out][:, None], away[out]              # (n, 1), (n, 3)
        room = np.where(a > 0, 1 - y, y) / np.maximum(np.abs(a), 1e-12)
        rgb[out] = y + np.clip(room.min(-1, keepdims=True), 0, 1) * a
    return np.clip(rgb, 0, 1, out=rgb)


def write(path, luma: np.ndarray, chroma: np.ndarray | None = None, bits: int = 8,
          alpha: np.ndarray | None = None) -> Path:
    """Write a picture aside, then rename it; its folder is made when absent. Nothing half-written is left.

    Args:
        path: .png or .tif (8 or 16 bit; .tif also 32: grey floats) or .jpg (8 bit, quality 95).
        luma: (H, W) in [0, 1]. chroma: (H, W, 2), see `to_rgb`; None: grey. bits: 8, 16 or 32.
        alpha: (H, W) in [0, 1], in PNG only; a grey picture with it is written as colour.

    Raises:
        ValueError: another suffix or depth, shapes that disagree, values that are not finite or outside [0, 1].
        OSError: a folder that cannot be written, or a full disk.

    >>> import tempfile
    >>> file = write(Path(tempfile.mkdtemp()) / "grey.png", np.full((4, 6), 0.2))
    >>> read(file).size
    (4, 6)
    """
    path, luma = Path(path), np.asarray(luma, np.float32)
    suffix = path.suffix.lower()
    if bits not in WRITTEN.get(suffix, ()):
        known = "; ".join(f"{name} {', '.join(map(str, depths))}" for name, depths in WRITTEN.items())
        raise ValueError(f"{path.name} in {bits} bits cannot be written; suffixes and bits are: {known}")
    if alpha is not None and suffix != ".png" or bits == 32 and chroma is not None:
        raise ValueError(f"{path.name} in {bits} bits holds no {'alpha' if alpha is not None else 'colour'}; write PNG")
    if luma.ndim != 2 or not luma.size:
        raise ValueError(f"luma of shape {luma.shape}, expected (H, W) with at least one pixel")
    for name, plane in (("luma", luma), ("alpha", alpha)):
        if plane is not None and np.shape(plane) != luma.shape:
            raise ValueError(f"{name} of shape {np.shape(plane)}, expected {luma.shape}")
        if plane is not None and not (np.min(plane) >= -SLACK and np.max(plane) <= 1 + SLACK):
            raise ValueError(f"{name} from {np.min(plane):g} to {np.max(plane):g}, expected finite values in [0, 1]")
    planes = luma if chroma is None else to_rgb(luma, chroma)[..., ::-1]
    if alpha is not None:
        planes = np.dstack([*([luma] * 3 if chroma is None else np.moveaxis(planes, 2, 0)), alpha])
    _store(path, _encode(suffix, planes, bits))
    return path


def _encode(suffix: str, planes: np.ndarray, bits: int) -> bytes:
    """A file's content of (H, W) or (H, W, 3 or 4), B, G, R first."""
    import cv2

    if bits < 32:
        white = (1 << bits) - 1
        planes = np.rint(np.clip(planes, 0, 1) * np.float32(white)).astype(np.uint8 if bits == 8 else np.uint16)
    how = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    fine, content = cv2.imencode(suffix, np.ascontiguousarray(planes), how if suffix.startswith(".j") else [])
    assert fine, f"OpenCV encodes {suffix}"
    return content.tobytes()


def _store(path: Path, content: bytes) -> None:
    """Bytes to a file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as reason:
        why = "the disk is full" if reason.errno in (errno.ENOSPC, errno.EDQUOT) else reason.strerror or reason
        raise OSError(f"{path.parent} cannot be written ({why}), {path.name} was not kept; make room or give a folder "
                      "of your own") from reason
