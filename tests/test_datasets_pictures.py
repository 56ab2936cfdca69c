"""One picture in and out: depths, colour, rotation, and everything that must be refused with a reason."""

import errno
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from cmf.datasets import pictures
from cmf.datasets.pictures import luma_chroma, read, to_rgb, write

RNG = np.random.default_rng(4)
COLOUR = RNG.integers(0, 256, (9, 7, 3), np.uint8)
GREY = RNG.integers(0, 256, (9, 7), np.uint8)


def saved(path, picture, format=None, **how):
    """A picture written by Pillow."""
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, format, **how)
    return path


def levels(picture, white=255):
    """Stored values of a picture that was read."""
    return np.rint((picture.luma if picture.chroma is None else to_rgb(picture.luma, picture.chroma)) * white)


def png16(path, values):
    """A 16-bit PNG of grey with alpha (H, W, 2), which no writer at hand makes."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 4, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
                     + chunk(b"IEND", b""))
    return path


def encoded(format):
    stream = io.BytesIO()
    Image.fromarray(COLOUR).save(stream, format)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_round_trip_is_exact(tmp_path, suffix, bits, colour):
    white = (1 << bits) - 1
    stored = RNG.integers(0, white + 1, (31, 40, 3) if colour else (31, 40))
    values = (stored / white).astype(np.float32)
    luma, chroma = luma_chroma(values) if colour else (values, None)
    found = read(write(tmp_path / f"a{suffix}", luma, chroma, bits))
    assert found.bits == bits and found.size == (31, 40) and (found.chroma is not None) == colour
    np.testing.assert_array_equal(levels(found, white), stored)


def test_floats_and_alpha_survive(tmp_path):
    luma, alpha = RNG.random((5, 6), np.float32), RNG.random((5, 6), np.float32)
    found = read(write(tmp_path / "a.tiff", luma, bits=32))
    assert found.bits == 32
    np.testing.assert_array_equal(found.luma, luma)
    for bits in (8, 16):
        found = read(write(tmp_path / "a.png", luma, bits=bits, alpha=alpha))
        assert found.chroma is None and np.abs(found.alpha - alpha).max() <= 0.51 / ((1 << bits) - 1)


def test_jpeg_keeps_colour(tmp_path):
    y, x = np.mgrid[0:1:32j, 0:1:32j]
    luma, chroma = luma_chroma(np.stack([x, y, 1 - x], -1))
    found = read(write(tmp_path / "a.jpg", luma, chroma))
    assert np.abs(to_rgb(found.luma, found.chroma) - to_rgb(luma, chroma)).max() < 8 / 255


@given(arrays(np.uint8, (4, 5, 3)))
def test_colour_round_trip_within_a_level(rgb):
    back = to_rgb(*luma_chroma(rgb / np.float32(255)))
    assert np.abs(back * 255 - rgb).max() < 1e-2


@given(arrays(np.uint8, (4, 5, 3)), arrays(np.uint8, (4, 5)))
def test_another_luma_keeps_hue_and_its_own_value(rgb, other):
    """What fusion does: chroma carried to another luma. Cutting channels off would change the luma."""
    _, chroma = luma_chroma(rgb / np.float32(255))
    luma, kept = luma_chroma(to_rgb(other / np.float32(255), chroma))
    assert np.abs(luma * 255 - other).max() < 1e-2
    share = (kept * chroma).sum(-1) / np.maximum((chroma**2).sum(-1), 1e-9)
    assert share.min() > -1e-3 and share.max() < 1 + 1e-3
    assert np.abs(kept - share[..., None] * chroma).max() < 1e-3, "the direction of chroma is the hue"


def test_luma_of_bt601():
    luma, chroma = luma_chroma(np.array([[[1., 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]]))
    np.testing.assert_allclose(luma[0], [.299, .587, .114, 1], atol=1e-6)
    np.testing.assert_allclose(chroma[0], [[-.168736, .5], [-.331264, -.418688], [.5, -.081312], [0, 0]], atol=1e-6)
    jpeg = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"), float)
    luma, chroma = luma_chroma(COLOUR / np.float32(255))
    assert np.abs(luma * 255 - jpeg[..., 0]).max() < 1 and np.abs(chroma * 255 + 128 - jpeg[..., 1:]).max() < 1.1


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_rotation_is_applied(tmp_path, turn, format):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = saved(tmp_path / "a", COLOUR, format, exif=exif)
    np.testing.assert_array_equal(levels(read(path)), np.asarray(ImageOps.exif_transpose(Image.open(path))))


@pytest.mark.parametrize("turn", range(1, 9))
def test_rotation_of_16_bit_grey(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = saved(tmp_path / "a.png", GREY.astype(np.uint16) * 257, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(saved(tmp_path / "b.png", GREY, exif=exif)))
    np.testing.assert_array_equal(levels(read(path)), np.asarray(upright))


@pytest.mark.parametrize("turn", range(1, 9))
def test_rotation_of_16_bit_colour(tmp_path, turn):
    import cv2

    deep = RNG.integers(0, 65536, (4, 6, 3)).astype(np.uint16)
    image = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([turn]) + b"\0" * 7
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    (tmp_path / "a.png").write_bytes(image[:33] + chunk + image[33:])
    small = Image.fromarray((deep >> 8).astype(np.uint8))
    small.getexif()[0x0112] = turn
    found = levels(read(tmp_path / "a.png"), 65535).astype(int)
    np.testing.assert_array_equal(found >> 8, np.asarray(ImageOps.exif_transpose(small)))


def test_palette_transparency_cmyk_and_16_bit_alpha(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(8)
    found = read(saved(tmp_path / "a.png", palette))
    np.testing.assert_array_equal(levels(found), np.asarray(palette.convert("RGB")))
    found = read(saved(tmp_path / "b.png", palette, transparency=0))
    np.testing.assert_array_equal(found.alpha == 0, np.asarray(palette) == 0)
    four = Image.fromarray(COLOUR).convert("CMYK")
    found = read(saved(tmp_path / "c.jpg", four, quality=100))
    assert found.bits == 8 and np.abs(levels(found) - COLOUR).max() < 60 and found.chroma is not None
    deep = RNG.integers(0, 65536, (3, 4, 2))
    found = read(png16(tmp_path / "d.png", deep))
    np.testing.assert_array_equal(np.rint(np.dstack([found.luma, found.alpha]) * 65535), deep)
    assert found.bits == 16 and found.chroma is None


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "gif", "jp2", "ppm"])
def test_other_formats(tmp_path, suffix):
    how = {"webp": {"lossless": True}}.get(suffix, {})
    found = read(saved(tmp_path / f"a.{suffix}", np.dstack([GREY] * 3), **how))
    assert found.chroma is None, "equal channels are grey"
    np.testing.assert_array_equal(levels(found), GREY)
    assert f".{suffix}" in pictures.SUFFIXES


def test_small_black_and_one_bit(tmp_path):
    found = read(saved(tmp_path / "a.png", np.zeros((1, 1), np.uint8)))
    assert found.size == (1, 1) and found.luma.dtype == np.float32 and found.luma[0, 0] == 0
    assert read(saved(tmp_path / "b.png", Image.fromarray(GREY > 99))).luma.max() == 1
    deep = np.array([[0, 65535, 300]], np.uint16)
    (tmp_path / "c.pgm").write_bytes(b"P5 3 1 65535\n" + deep.astype(">u2").tobytes())
    found = read(tmp_path / "c.pgm")
    np.testing.assert_array_equal(levels(found, 65535), deep)
    assert found.bits == 16


def not_finite(path):
    values = np.full((4, 5), .5, np.float32)
    values[2, 3], values[3, 0] = np.nan, np.inf
    saved(path, values, "TIFF")


@pytest.mark.parametrize("make, words", [
    (lambda p: None, "no such picture; check the name"),
    (lambda p: p.mkdir(), "is a folder; expected one picture"),
    (lambda p: p.write_bytes(b""), "the file is empty"),
    (lambda p: p.write_text("a, b, c"), "no picture that can be read, or a damaged one; expected PNG, JPEG"),
    (lambda p: p.write_bytes(encoded("PNG")[:-60]), "cannot be read .*; copy it again"),
    (lambda p: p.write_bytes(encoded("JPEG")[:-60]), "cannot be read .*truncated.*; copy it again"),
    (lambda p: p.write_bytes(b"P5 0 4 255\n"), "no picture that can be read"),
    (lambda p: saved(p, COLOUR, "GIF", save_all=True, append_images=[Image.new("RGB", (7, 9))]),
     "holds 2 pictures; expected one"),
    (not_finite, "2 of 20 values are not finite, the first in row 2, column 3"),
    (lambda p: saved(p, np.array([[0, 1.5]], np.float32), "TIFF"), r"floats from 0 to 1.5, expected \[0, 1\]; scale"),
    (lambda p: saved(p, np.array([[0, 255]], np.float32), "TIFF"), "floats from 0 to 255, expected"),
    (lambda p: saved(p, np.array([[0, 70000]], np.int32), "TIFF"), "whole numbers of 32 bits have no agreed white"),
])
def test_refused(tmp_path, make, words):
    path = tmp_path / "odd.file"
    make(path)
    with pytest.raises(ValueError if path.exists() else FileNotFoundError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_negative_16_bit_is_refused(tmp_path):
    tags = [(256, 1), (257, 2), (258, 16), (259, 1), (262, 1), (273, 8 + 2 + 12 * 9 + 4), (277, 1), (279, 4), (339, 2)]
    body = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + b"\0" * 4
                                     + np.array([-5, 7], "<i2").tobytes())
    with pytest.raises(ValueError, match="values from -5 to 7, expected 0 to 65535"):
        read(tmp_path / "a.tif")


def outcome(path):
    """A file is read or refused by name, whatever is in it."""
    try:
        found = read(path)
        assert np.isfinite(found.luma).all() and 0 <= found.luma.min() and found.luma.max() <= 1 and found.luma.size
    except ValueError as reason:
        assert str(path) in str(reason)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"GIF89a", b"P5 ", b"P6 ",
                             b"BM", b"RIFF"]), body=st.binary(max_size=300))
def test_random_bytes(tmp_path, head, body):
    (tmp_path / "a.png").write_bytes(head + body)
    outcome(tmp_path / "a.png")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(["PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP", "PPM"]), data=st.data())
def test_damaged_pictures(tmp_path, format, data):
    content = bytearray(encoded(format))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.png").write_bytes(content[:data.draw(st.integers(1, len(content)))])
    outcome(tmp_path / "a.png")


@pytest.mark.parametrize("how, words", [
    (dict(path="a.gif"), "a.gif in 8 bits cannot be written; suffixes and bits are: .png 8, 16"),
    (dict(path="a.jpg", bits=16), "a.jpg in 16 bits cannot be written"),
    (dict(path="a.jpg", alpha=np.ones((2, 3))), "a.jpg in 8 bits holds no alpha; write PNG"),
    (dict(path="a.tif", bits=32, chroma=np.zeros((2, 3, 2))), "a.tif in 32 bits holds no colour"),
    (dict(luma=np.zeros((2, 3, 1))), r"luma of shape \(2, 3, 1\), expected \(H, W\)"),
    (dict(luma=np.zeros((0, 3))), "with at least one pixel"),
    (dict(alpha=np.zeros((3, 2))), r"alpha of shape \(3, 2\), expected \(2, 3\)"),
    (dict(luma=np.full((2, 3), 1.1)), "luma from 1.1 to 1.1, expected finite values"),
    (dict(luma=np.full((2, 3), np.nan)), "luma from nan to nan, expected finite values"),
    (dict(chroma=np.zeros((2, 3))), r"chroma \(2, 3\), expected \(H, W\) and \(H, W, 2\)"),
])
def test_not_written(tmp_path, how, words):
    arguments = {"path": "a.png", "luma": np.zeros((2, 3))} | how
    with pytest.raises(ValueError, match=words):
        write(tmp_path / arguments.pop("path"), **arguments)
    assert not list(tmp_path.iterdir())


def test_colours_of_another_shape():
    with pytest.raises(ValueError, match=r"colours of shape \(4, 5\), expected \(H, W, 3\)"):
        luma_chroma(np.zeros((4, 5)))


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file cannot be written \(.*\), a.png was not kept; make room or give a folder"):
        write(tmp_path / "file" / "a.png", np.zeros((2, 3)))


def test_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    old = write(tmp_path / "a.png", np.zeros((2, 3))).read_bytes()

    def full(path, content):
        with open(path, "wb") as stream:
            stream.write(content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pictures.Path, "write_bytes", full)
    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match=rf"the disk is full\), {name} was not kept; make room"):
            write(tmp_path / name, np.ones((2, 3)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes() == old


def test_writing_makes_the_folder_and_same_bytes(tmp_path):
    luma = RNG.random((20, 30))
    first, second = write(tmp_path / "new" / "deep" / "a.png", luma), write(tmp_path / "b.png", luma)
    assert first.read_bytes() == second.read_bytes() and [p.name for p in first.parent.iterdir()] == ["a.png"]


def test_deep_colour_that_the_second_decoder_refuses():
    for data in (b"no picture", encoded("PNG")):
        with pytest.raises(ValueError, match="16-bit colour that cannot be decoded"):
            pictures._decode_deep(data)
