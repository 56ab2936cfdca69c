"""ZTF and LSST packs, alert packets, FITS cutouts."""

import gzip
import os
from pathlib import Path

import fastavro
import numpy as np
import pytest

from cmf.datasets.survey import ZTF_CHANNELS, lsst_steps, read_alerts, read_fits, read_lsst, read_ztf, ztf_steps

PACK = Path(os.environ.get("CMF_DATA", "")) / "deepspace"
needs_pack = pytest.mark.skipif(not os.environ.get("CMF_DATA") or not (PACK / "ztf.npz").is_file(),
                                reason="CMF_DATA names no folder with deepspace/ztf.npz, the packed survey alerts")

OPTIONAL = [{"name": name, "type": ["null", "float"], "default": None} for name in ("diffmaglim", "sigmapsf")]
POINT = [{"name": "jd", "type": "double"}, {"name": "fid", "type": "int"},
         {"name": "magpsf", "type": ["null", "float"], "default": None},
         {"name": "isdiffpos", "type": ["null", "string"], "default": None}, *OPTIONAL]
CUTOUT = {"name": "cutout", "type": "record",
          "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}]}
SCHEMA = fastavro.parse_schema({"name": "alert", "type": "record", "fields": [
    {"name": "objectId", "type": "string"}, {"name": "candid", "type": "long"},
    {"name": "candidate", "type": {"name": "candidate", "type": "record", "fields": POINT}},
    {"name": "prv_candidates", "default": None,
     "type": ["null", {"type": "array", "items": {"name": "prv_candidate", "type": "record", "fields": POINT}}]},
    {"name": "cutoutScience", "type": ["null", CUTOUT], "default": None},
    {"name": "cutoutTemplate", "type": ["null", "cutout"], "default": None},
    {"name": "cutoutDifference", "type": ["null", "cutout"], "default": None}]})


def fits(image, **changes) -> bytes:
    """A gzip-compressed FITS file of a float image; changes replace cards."""
    height, width = image.shape
    cards = {"SIMPLE": "T", "BITPIX": -32, "NAXIS": 2, "NAXIS1": width, "NAXIS2": height} | changes
    header = "".join(f"{key:<8}= {value:>20} / made by a test".ljust(80) for key, value in cards.items())
    header += "COMMENT a card without a value".ljust(80) + "END".ljust(80)
    header = header.ljust(-(-len(header) // 2880) * 2880)
    body = image.astype(">f4").tobytes()
    return gzip.compress(header.encode() + body.ljust(-(-len(body) // 2880) * 2880, b"\0"), mtime=0)


def stamp(level: float, size: int = 63) -> np.ndarray:
    return level + np.arange(size * size, dtype=np.float32).reshape(size, size) / 1000


def point(jd, fid=1, mag=None, limit=20.5, positive="t"):
    return {"jd": jd, "fid": fid, "magpsf": mag, "sigmapsf": None if mag is None else 0.1, "diffmaglim": limit,
            "isdiffpos": positive if mag is not None else None}


def packet(name="ZTF20abc", jd=2459000.0, mag=18.0, history=(), candid=1, **changes):
    return {"objectId": name, "candid": candid, "candidate": point(jd, mag=mag),
            "prv_candidates": list(history) or None,
            **{f"cutout{kind}": {"fileName": "x.fits.gz", "stampData": fits(stamp(level))}
               for kind, level in (("Science", 100), ("Template", 50), ("Difference", 0))}} | changes


def write(path, *packets):
    with open(path, "wb") as stream:
        fastavro.writer(stream, SCHEMA, packets, codec="deflate")
    return path


def test_one_packet(tmp_path):
    history = [point(2458999.0, 2, mag=20.0, positive="f"), point(2458998.0, 1), point(2458997.0, 3, limit=-999.0)]
    read = read_alerts([write(tmp_path / "a.avro", packet(history=history))])
    assert read.ids == ("ZTF20abc",) and read.channels == ZTF_CHANNELS and read.labels.tolist() == [-1]
    np.testing.assert_allclose(read.images[0, 1], stamp(50))
    np.testing.assert_allclose(read.times[0], [-3, -2, -1, 0])
    assert read.observed[0].tolist() == [
        [False] * 6, [False, False, False, True, False, False],
        [False, True, False, False, True, False], [True, False, False, True, False, False]]
    limit = np.arcsinh(10 ** (-0.4 * 0.5))
    np.testing.assert_allclose(read.values[0, 2], [0, -np.arcsinh(1), 0, 0, limit, 0], rtol=1e-6)
    np.testing.assert_allclose(read.values[0, 3, 0], np.arcsinh(10 ** 0.8), rtol=1e-6)
    assert read.groups["detections"].tolist() == [2] and read.groups["packets"].tolist() == [1]


def test_packets_of_one_object_are_merged_by_time(tmp_path):
    late = packet(jd=2459005.0, mag=17.0, candid=2, history=[point(2459000.0, 1), point(2459001.0, 2, mag=19.0)],
                  cutoutScience={"fileName": "y", "stampData": fits(stamp(7))})
    write(tmp_path / "b.avro", late)
    write(tmp_path / "c.avro", packet(history=[point(2458990.0, 2)]), packet("ZTF20zzz"))
    read = read_alerts(tmp_path, labels={"ZTF20abc": "agn", "other": "rock"})
    assert read.ids == ("ZTF20abc", "ZTF20zzz") and read.labels.tolist() == [0, -1]
    np.testing.assert_allclose(read.times[0], [-15, -5, -4, 0])
    assert read.observed[0, 1, 0], "the detection of 2459000.0 stands before the limit the later packet tells"
    np.testing.assert_allclose(read.images[0, 0], stamp(7))
    assert read.groups["packets"].tolist() == [2, 1] and not read.observed[1, 1:].any()
    assert read.digest() == read_alerts([tmp_path / "c.avro", tmp_path / "b.avro"],
                                        labels={"ZTF20abc": "agn", "other": "rock"}).digest()
    short = read_alerts(tmp_path, length=2)
    np.testing.assert_allclose(short.times[0], [-4, 0])


def test_missing_pixels_and_small_stamps(tmp_path):
    holes = stamp(3)
    holes[0], holes[1] = np.nan, -3.4e38
    changes = {"cutoutScience": {"fileName": "x", "stampData": fits(holes)},
               "cutoutTemplate": {"fileName": "x", "stampData": fits(stamp(5, 31))},
               "cutoutDifference": {"fileName": "x", "stampData": fits(np.full((63, 63), np.nan))}}
    read = read_alerts([write(tmp_path / "a.avro", packet(**changes))])
    np.testing.assert_allclose(read.images[0, 0, :2], np.median(holes[2:]))
    np.testing.assert_allclose(read.images[0, 1, 16:47, 16:47], stamp(5, 31))
    assert (read.images[0, 2] == 0).all()
    np.testing.assert_allclose(read.groups["missing_pixels"][0], [2 / 63, 1 - 31**2 / 63**2, 1], rtol=1e-6)


def test_truncated_and_foreign_avro_are_named(tmp_path):
    path = write(tmp_path / "a.avro", packet())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"a\.avro: not a whole avro file"):
        read_alerts(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.avro: not a whole avro file"):
        read_alerts(tmp_path)
    with open(path, "wb") as stream:
        other = {"name": "other", "type": "record", "fields": [{"name": "x", "type": "int"}]}
        fastavro.writer(stream, other, [{"x": 1}])
    with pytest.raises(ValueError, match=r"a\.avro: not a ZTF alert packet, without objectId, candidate,"):
        read_alerts(tmp_path)


def test_bad_packets_are_named(tmp_path):
    path = tmp_path / "a.avro"
    write(path, packet(cutoutTemplate=None))
    with pytest.raises(ValueError, match=r"a\.avro: ZTF20abc has no cutoutTemplate"):
        read_alerts([path])
    write(path, packet(history=[point(2458999.0, 7)]))
    with pytest.raises(ValueError, match=r"a\.avro: an exposure with jd 2458999\.0 and fid 7; expected"):
        read_alerts([path])
    write(path, packet(cutoutScience={"fileName": "x", "stampData": b"JPEG"}))
    with pytest.raises(ValueError, match=r"a\.avro: cutoutScience of ZTF20abc: the FITS header has no END card|"
                                         r"a\.avro: cutoutScience of ZTF20abc: not a FITS"):
        read_alerts([path])
    write(path, packet(cutoutScience={"fileName": "x", "stampData": fits(stamp(0, 64))}))
    with pytest.raises(ValueError, match=r"a\.avro: cutoutScience has \(64, 64\) pixels, expected at most 63 x 63"):
        read_alerts([path])
    write(path, packet())
    with pytest.raises(ValueError, match="length is 0, expected at least 1 step"):
        read_alerts([path], length=0)


def test_no_packets(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.avro file there"):
        read_alerts(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.avro"):
        read_alerts([tmp_path / "gone.avro"])


def test_fits_scale_and_faults():
    image = stamp(2, 5)[:, :4]
    np.testing.assert_array_equal(read_fits(fits(image)), image)
    np.testing.assert_allclose(read_fits(gzip.decompress(fits(image, BSCALE=2.0, BZERO=1.0))), 2 * image + 1)
    for data, words in [
        (fits(image, BITPIX=16), "BITPIX 16 and NAXIS 2, expected -32 and 2"),
        (fits(image, NAXIS=3), "BITPIX -32 and NAXIS 3"),
        (fits(image, NAXIS2=900), r"2880 bytes of pixels, expected 14400: cut short"),
        (gzip.decompress(fits(image))[:160], "the FITS header has no END card"),
        (fits(image)[:-20], "the gzip stream is damaged"),
        (b"not fits" * 400, "not a FITS file, it starts with 'not fitsn'"),
    ]:
        with pytest.raises(ValueError, match=f"made: .*{words}"):
            read_fits(data, "made")


def test_flux_is_odd_in_sign_and_rises_with_brightness():
    curve = np.array([[0, 1, m, 0.1, 21, positive, 1] for positive in (1, 0) for m in (15, 18, 20, 23)], float)
    values, observed = ztf_steps(curve)
    assert (np.diff(values[:4, 0]) < 0).all() and observed[:, 0].all()
    np.testing.assert_array_equal(values[:4, 0], -values[4:, 0])


def test_lsst_channels():
    values, observed = lsst_steps(np.array([[-1.0, 2, -1000, 500, 1], [0, 5, np.nan, 10, 0]]))
    assert np.argwhere(observed).tolist() == [[0, 2], [0, 8], [1, 11]]
    np.testing.assert_allclose(values[0, [2, 8]], [-np.arcsinh(1), np.arcsinh(0.5)])


def small_pack(folder, names=("a", "b"), rows=("a", "b")):
    np.savez(folder / "ztf.npz", stamps_u16=np.zeros((2, 3, 63, 63), np.uint16),
             stamp_offset=np.ones((2, 3), np.float32), stamp_scale=np.ones((2, 3), np.float32),
             seq_values=np.array([[0, 1, 18, 0.1, 20, 1, 1]] * 3, np.float32),
             seq_offsets=np.array([0, 1, 3]), object_id=np.array(names))
    header = "object_id,coarse_class,fine_class,n_det,origin,fold\n"
    lines = [f"{name},{kind},{kind},1,repo/{kind}/x.avro,0\n"
             for name, kind in zip(rows, ("agn", "unlabelled"), strict=True)]
    (folder / "ztf_targets.csv").write_text(header + "".join(lines))
    return folder


def test_small_pack(tmp_path):
    read = read_ztf(small_pack(tmp_path), labelled_only=False, drop=())
    assert read.labels.tolist() == [0, -1] and read.classes == ("agn",)
    assert read.groups["origin"].tolist() == ["repo/agn", "repo/unlabelled"] and (read.images == 1).all()
    assert read_ztf(tmp_path, drop=()).ids == ("a",)


def test_pack_faults_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ztf\.npz: no such file; the folder needs"):
        read_ztf(tmp_path)
    small_pack(tmp_path)
    with pytest.raises(ValueError, match="cannot drop galaxy; classes here are agn, unlabelled"):
        read_ztf(tmp_path)
    small_pack(tmp_path, rows=("b", "a"))
    with pytest.raises(ValueError, match=r"ztf_targets\.csv: 2 objects that differ from the 2 of ztf\.npz"):
        read_ztf(tmp_path)
    small_pack(tmp_path, rows=("a", "a"))
    with pytest.raises(ValueError, match=r"ztf_targets\.csv: two rows with one id: a"):
        read_ztf(tmp_path)


@needs_pack
def test_ztf_pack():
    read = read_ztf(PACK)
    assert len(read) == 223 and read.classes == ("agn", "solar_system", "transient", "variable_star")
    assert np.bincount(read.labels).tolist() == [25, 23, 56, 119]
    assert read.images.shape == (223, 3, 63, 63) and read.values.shape == (223, 181, 6)
    np.testing.assert_array_equal(read.observed[..., :3].sum((1, 2)), read.groups["detections"])
    assert (read.times <= 0).all() and set(read.groups["fold"]) <= set(range(5))
    assert 1 < len(set(read.groups["origin"])) < 30, "folders, not files"
    assert read.digest() == read_ztf(PACK).digest()
    without = read_ztf(PACK, drop=("galaxy", "solar_system"), length=30)
    assert len(without) == 200 and without.values.shape[1] == 30 and len(without.classes) == 3
    assert len(read_ztf(PACK, labelled_only=False, drop=())) == 529


@needs_pack
def test_lsst_pack():
    read = read_lsst(PACK, labelled_only=False)
    assert len(read) == 73 and read.values.shape[2] == 12 and read.classes == ("agn", "solar_system", "variable_star")
    assert read.groups["missing_pixels"].max() > 0.5
