"""Labelled pairs: layouts of folders, what is refused and with which words, CWFID, and simulated streets."""

import csv
import doctest
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmf.datasets import segmentation, segmentation_classes
from cmf.datasets.augment import Joint, Views
from cmf.datasets.segmentation import (
    CLASSES,
    PALETTE,
    Sample,
    columns,
    divide,
    folder,
    layout,
    load,
    painted,
    street,
    tensors,
)
from cmf.simulate.street_actors import KINDS

RNG = np.random.default_rng(8)
SIZE = (12, 16)


def store(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)
    return path


def colours():
    return RNG.integers(0, 256, (*SIZE, 3), np.uint8)


def grey():
    return RNG.integers(0, 256, SIZE, np.uint8)


def put(root, *stems, names=("RGB", "Modal", "Label"), classes=9):
    """Pictures of three folders; a colour, a grey and a label picture for each name."""
    for stem in stems:
        store(root / names[0] / f"{stem}.png", colours())
        store(root / names[1] / f"{stem}.png", grey())
        store(root / names[2] / f"{stem}.png", RNG.integers(0, classes, SIZE, np.uint8))
    return root


def lists(root, **parts):
    for part, names in parts.items():
        (root / f"{part}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture
def sample(tmp_path):
    """One sample whose files a test spoils."""
    return folder(put(tmp_path, "a"))[0]


@pytest.mark.parametrize("names", [("RGB", "Modal", "Label"), ("Visible", "Infrared", "Label"),
                                   ("rgb", "thermal", "labels"), ("vi", "ir", "Segmentation_labels")])
def test_folders_with_lists(tmp_path, names):
    put(tmp_path, "a", "b", "c", "d", names=names)
    lists(tmp_path, train=["c", "", "a.png"], val=["RGB/b.png"], test=["d"])
    found = folder(tmp_path, "train", CLASSES["msrs"])
    assert [one.stem for one in found] == ["c", "a"], "in the order of the list, suffix or not"
    assert found[0] == Sample("c", *(tmp_path / name / "c.png" for name in names), CLASSES["msrs"])
    assert [one.stem for one in folder(tmp_path, "validation")] == ["b"]
    assert [one.stem for one in folder(tmp_path)] == ["a", "b", "c", "d"]
    assert layout("msrs", tmp_path, "test") == folder(tmp_path, "test", CLASSES["msrs"])


@pytest.mark.parametrize("name, names", [("fmb", ("Visible", "Infrared", "Label")), ("msrs", ("vi", "ir", "label")),
                                         ("pst900", ("rgb", "thermal", "labels"))])
def test_splits_that_are_folders(tmp_path, name, names):
    put(tmp_path / "train", "1", "2", names=names, classes=5)
    put(tmp_path / "test", "1", names=names, classes=5)
    assert [one.stem for one in layout(name, tmp_path, "train")] == ["1", "2"]
    assert layout(name, tmp_path, "test")[0].visible == tmp_path / "test" / names[0] / "1.png"
    assert len(layout(name, tmp_path)) == 3 and layout(name, tmp_path)[0].classes == CLASSES[name]
    with pytest.raises(FileNotFoundError, match="no list val.txt or .* splits that are there: train, test. Write"):
        layout(name, tmp_path, "validation")


def test_pictures_without_labels(tmp_path):
    put(tmp_path / "train", "1", names=("vi", "ir", "mask"))
    with pytest.raises(FileNotFoundError, match="train: no folder of label pictures; expected one named label or "
                                                "labels or segmentation_labels, the folders there are: ir, mask, vi"):
        layout("msrs", tmp_path, "train")


def test_mfnet_of_four_channels_and_its_mirrored_names(tmp_path):
    four = RNG.integers(0, 256, (*SIZE, 4), np.uint8)
    label = RNG.integers(0, 9, SIZE, np.uint8)
    store(tmp_path / "images" / "00001D.png", four)
    store(tmp_path / "labels" / "00001D.png", label)
    lists(tmp_path, train=["00001D", "00001D_flip"])
    plain, mirrored = layout("mfnet", tmp_path, "train")
    visible, infrared, found = load(plain)
    np.testing.assert_array_equal(visible, four[..., 2::-1], "blue, green, red as OpenCV writes them")
    np.testing.assert_array_equal(np.rint(infrared * 255), four[..., 3])
    np.testing.assert_array_equal(found, label)
    assert visible.dtype == np.uint8 and infrared.dtype == np.float32 and found.dtype == np.uint8
    assert mirrored.mirrored and mirrored.visible == plain.visible
    for one, other in zip(load(mirrored), load(plain), strict=True):
        np.testing.assert_array_equal(one, other[:, ::-1])
    store(tmp_path / "images" / "00001D_flip.png", four[:, ::-1])
    store(tmp_path / "labels" / "00001D_flip.png", label[:, ::-1])
    own = layout("mfnet", tmp_path, "train")[1]
    assert not own.mirrored, "a file of that name is read as it is"
    np.testing.assert_array_equal(load(own)[0], visible[:, ::-1])


def test_three_channels_where_four_are_expected(tmp_path):
    store(tmp_path / "images" / "a.png", colours())
    store(tmp_path / "labels" / "a.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(ValueError, match=r"a.png: expected four channels, red, green, blue and infrared"):
        load(layout("mfnet", tmp_path)[0])


@pytest.mark.parametrize("split, error, words", [
    ("train", ValueError, r"train.txt: named twice: b; name each picture once"),
    ("validation", ValueError, r"val.txt: the list is empty; write a name of a picture in each line"),
    ("test", FileNotFoundError, r"of 3 names in test.txt some have no picture of each kind, missing: infrared of "
                                r"c, x \(in Modal\); visible of x \(in RGB\); label of x \(in Label\). Add the files"),
    ("mine", ValueError, "unknown split 'mine'; expected train, validation, test, or None for all"),
    (None, FileNotFoundError, r"of 3 names some have no picture of each kind, missing: infrared of c \(in Modal\)"),
])
def test_bad_lists(tmp_path, split, error, words):
    put(tmp_path, "a", "b", "c")
    (tmp_path / "Modal" / "c.png").unlink()
    lists(tmp_path, train=["a", "b", "b"], val=["", " "], test=["a", "c", "x"])
    with pytest.raises(error, match=words):
        folder(tmp_path, split)


def test_bad_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder; expected one with visible"):
        folder(tmp_path / "none")
    put(tmp_path, "a")
    with pytest.raises(FileNotFoundError, match="no list train.txt .*splits that are there: none. Write train.txt, a"):
        folder(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="splits that are there: test. Write"):
        folder(lists(tmp_path, test=["a"]), "train")
    (tmp_path / "Modal").rename(tmp_path / "heat")
    with pytest.raises(FileNotFoundError, match="no folder of infrared pictures; expected one named modal or infrared "
                                                "or thermal or ir, the folders there are: Label, RGB, heat"):
        folder(tmp_path)
    (tmp_path / "heat").rename(tmp_path / "Modal")
    store(tmp_path / "Modal" / "a.jpg", grey())
    with pytest.raises(ValueError, match="Modal: one name twice: a.jpg and a.png; keep one of each"):
        folder(tmp_path)
    with pytest.raises(ValueError, match="0 classes, expected 1 to 255: the name of each"):
        folder(tmp_path, classes=())


def test_unknown_and_absent_sets(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown set 'street'; expected one of mfnet, msrs, fmb, pst900, cwfid, or"):
        layout("street")
    monkeypatch.setenv("CMF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CMF_CACHE", str(tmp_path / "cache"))
    for name, place in (("cwfid", "infrared_visible"), ("mfnet", "mfnet"), ("fmb", "fmb"), ("pst900", "pst900")):
        with pytest.raises(FileNotFoundError, match=f"{place} is not here.*To obtain it: .*Layout: "):
            layout(name)


def test_label_values_outside_the_classes(sample):
    label = np.full(SIZE, 255, np.uint8)
    store(sample.label, label)
    assert (load(sample)[2] == 255).all(), "255 is ignored"
    label[0, :3], label[5, 5] = 9, 77
    store(sample.label, label)
    with pytest.raises(ValueError, match=r"a.png: label values 9, 77 in 4 pixels, outside the 9 classes 0 to 8 "
                                         r"\(background to bump\); give the right classes"):
        load(sample)
    assert load(replace(sample, classes=tuple(map(str, range(78)))))[2].max() == 255


def test_label_of_another_size(sample):
    store(sample.label, np.zeros((6, 8), np.uint8))
    with pytest.raises(ValueError, match=r"a: visible 16 x 12, infrared 16 x 12, label 8 x 6 pixels \(width x height\)"
                                         r", expected one size; .*Label/a.png\) by the nearest pixel only"):
        load(sample)


def test_labels_with_a_palette_and_in_colour(sample):
    from PIL import Image

    label = RNG.integers(0, 9, SIZE, np.uint8)
    image = Image.fromarray(label, "P")
    image.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(sample.label)
    np.testing.assert_array_equal(load(sample)[2], label, "indices, not colours")
    store(sample.label, np.repeat(label[..., None], 3, 2))
    np.testing.assert_array_equal(load(sample)[2], label)
    store(sample.label, colours())
    with pytest.raises(ValueError, match=r"a label picture of shape \(12, 16, 3\) and uint8, expected one channel"):
        load(sample)
    store(sample.label, np.full(SIZE, 300, np.uint16))
    with pytest.raises(ValueError, match="label values from 300 to 300, expected 0 to 255"):
        load(sample)
    sample.label.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot be read as a label picture \(UnidentifiedImageError\)"):
        load(sample)
    sample.label.unlink()
    with pytest.raises(FileNotFoundError, match="no such label picture; check the name"):
        load(sample)


def test_thermal_of_three_channels(sample):
    plane = grey()
    store(sample.infrared, np.repeat(plane[..., None], 3, 2))
    np.testing.assert_array_equal(np.rint(load(sample)[1] * 255), plane)
    store(sample.infrared, colours())
    with pytest.raises(ValueError, match=r"Modal/a.png: the infrared picture has colours .*; expected one channel, or "
                                         "three equal ones. Undo the false colours"):
        load(sample)


def test_thermal_of_sixteen_bits(sample):
    counts = RNG.integers(20000, 30001, SIZE, np.uint16)
    counts[0, :2] = 10000, 40000
    store(sample.infrared, counts)
    np.testing.assert_allclose(load(sample)[1], counts / 65535, atol=1e-6)
    infrared = load(sample, span=(20000, 30000))[1]
    np.testing.assert_allclose(infrared, np.clip((counts - 20000.0) / 10000, 0, 1), atol=1e-5)
    assert infrared.dtype == np.float32 and infrared[0, 0] == 0 and infrared[0, 1] == 1
    with pytest.raises(ValueError, match="span 5 to 5: expected two counts, the first smaller"):
        load(sample, span=(5, 5))
    store(sample.infrared, np.full(SIZE, 100, np.uint8))
    assert load(sample, span=(0, 200))[1][0, 0] == pytest.approx(0.5)


def test_grey_visible_and_colours_to_the_last_bit(sample):
    plane, bright = grey(), colours()
    store(sample.visible, plane)
    np.testing.assert_array_equal(load(sample)[0], np.repeat(plane[..., None], 3, 2))
    store(sample.visible, bright)
    np.testing.assert_array_equal(load(sample)[0], bright[..., ::-1])


def test_tensors(tmp_path):
    samples = folder(put(tmp_path, "a", "b"))
    made = tensors(samples)
    assert {name: (tuple(x.shape), str(x.dtype)) for name, x in made.items()} == {
        "visible": ((2, 3, 12, 16), "torch.uint8"), "infrared": ((2, 1, 12, 16), "torch.uint8"),
        "label": ((2, 12, 16), "torch.uint8")}
    visible, infrared, label = load(samples[1])
    np.testing.assert_array_equal(made["visible"][1].permute(1, 2, 0), visible)
    np.testing.assert_allclose(made["infrared"][1, 0] / 255, infrared)
    np.testing.assert_array_equal(made["label"][1], label)
    for kind, values in (("RGB", colours()), ("Modal", grey()), ("Label", np.zeros(SIZE, np.uint8))):
        store(tmp_path / kind / "b.png", values[:6])
    with pytest.raises(ValueError, match="picture 0 has 12 x 16 rows and columns, picture 1 6 x 16; expected one size"):
        tensors(samples)
    lists_of = tensors(samples, stack=False)
    assert [tuple(one.shape) for one in lists_of["visible"]] == [(3, 12, 16), (3, 6, 16)]
    views = Views(**lists_of, joint=Joint((8, 8)), rounds=2)
    assert views[[0, 1, 2, 3]]["visible"].shape == (4, 3, 8, 8)
    with pytest.raises(ValueError, match="0 visible, 0 infrared and 0 label pictures; expected one number, at least 1"):
        tensors([])
    with pytest.raises(ValueError, match="2 visible, 2 infrared and 1 label pictures"):
        columns([colours()] * 2, [grey()] * 2, [grey()])


def test_divide():
    samples = [Sample(f"{k:02}", *[Path("x")] * 3, ("soil",)) for k in (3, 0, 4, 1, 2)]
    kept, held = divide(samples, 0.4)
    assert [one.stem for one in kept] == ["00", "01", "02"] and [one.stem for one in held] == ["03", "04"]
    for share in (0, 1, 0.01, 0.99):
        with pytest.raises(ValueError, match=f"a share of {share} of 5 samples leaves a side empty"):
            divide(samples, share)


def test_names_and_colours():
    assert CLASSES["street"] == ("background", *KINDS), "the order of the simulator's labels"
    assert [len(CLASSES[name]) for name in ("mfnet", "msrs", "fmb", "pst900", "cwfid")] == [9, 9, 15, 5, 3]
    assert CLASSES["pst900"][1:] == ("fire extinguisher", "backpack", "hand drill", "survivor")
    for name, colours_of in PALETTE.items():
        assert colours_of.shape == (len(CLASSES[name]), 3) and len({tuple(c) for c in colours_of}) == len(colours_of)
    assert (painted(np.array([[0, 255]]), PALETTE["fmb"])[0, 1] == 255).all()
    with pytest.raises(ValueError, match="labels 3, 9 have no colour, expected 0 to 2"):
        painted(np.array([[0, 3, 9]]), PALETTE["cwfid"])


def test_street_labels_agree_with_pictures():
    made = street(24, "train", 5, (96, 128))
    assert made["visible"].shape == (24, 96, 128, 3) and made["infrared"].dtype == made["label"].dtype == np.uint8
    assert len(made["light"]) == len(made["weather"]) == len(made["ids"]) == 24
    shares = np.bincount(made["label"].ravel(), minlength=9) / made["label"].size
    assert len(shares) == 9 and 0.8 < shares[0] < 0.99 and shares[1] > 0.003 and shares[2] > 0.005
    clear = np.array(made["weather"]) == "clear"
    warmer = [infrared[label == 1].mean() > infrared[label == 0].mean() + 5 for infrared, label in
              zip(made["infrared"][clear], made["label"][clear], strict=True) if (label == 1).sum() > 20]
    assert len(warmer) > 5 and np.mean(warmer) > 0.8, "people are warm where their labels lie"
    again = street(24, "train", 5, (96, 128))
    assert all(np.array_equal(made[name], again[name]) for name in ("visible", "infrared", "label"))


def here():
    root = Path(os.environ.get("CMF_DATA", "")) / "infrared_visible"
    if not os.environ.get("CMF_DATA") or not (root / "cwfid").is_dir():
        pytest.skip("CMF_DATA names no folder with infrared_visible/cwfid")
    return root


def test_cwfid():
    here()
    train, test = layout("cwfid", split="train"), layout("cwfid", split="test")
    assert len(train) == 40 and len(test) == 10 and len(layout("cwfid")) == 50
    assert not {one.stem for one in train} & {one.stem for one in test}
    visible, infrared, label = load(train[0])
    assert visible.shape == (483, 648, 3) and (visible == visible[..., :1]).all(), "the red band three times"
    leaves = label > 0
    assert infrared[leaves].mean() > infrared[~leaves].mean() + 0.1, "leaves are bright in the near infrared"
    assert visible[leaves].mean() < 255 * infrared[leaves].mean(), "and dark in red"
    made = tensors(test)
    shares = np.bincount(made["label"].numpy().ravel(), minlength=3) / made["label"].numel()
    assert made["label"].max() == 2 and shares[0] > 0.85 and (shares[1:] > 0.005).all()
    with pytest.raises(ValueError, match="split 'validation' of cwfid: expected test, train; set some of train aside"):
        layout("cwfid", split="validation")


def test_cwfid_with_files_missing(tmp_path):
    with open(tmp_path / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("set", "derived_split", "name", "ir", "vi", "label"),
                          ("cwfid", "train", "001", "cwfid/ir/1.png", "cwfid/vi/1.png", "cwfid/label/1.png")])
    with pytest.raises(FileNotFoundError, match=r"3 files of cwfid are missing \(.*vi/1.png.*\); obtain the pack"):
        layout("cwfid", tmp_path)


def test_examples():
    for module, attempted in ((segmentation, 4), (segmentation_classes, 1)):
        result = doctest.testmod(module)
        assert result.attempted == attempted and result.failed == 0


def test_a_split_that_the_pack_does_not_have_is_refused_with_those_it_has(tmp_path):
    (tmp_path / "manifest.csv").write_text("set,name,vi,ir,label,derived_split\ncwfid,a,a.png,b.png,c.png,train\n"
                                           "tno,b,a.png,b.png,,test\n")
    with pytest.raises(ValueError, match="split 'validation' of cwfid: expected train; set some of train aside with"):
        segmentation._packed(tmp_path, "validation")
