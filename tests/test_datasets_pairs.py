"""Pairs: matching, loading, the splits of named sets, simulated pairs and crops."""

import csv
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from cmf.datasets import pairs
from cmf.datasets.crops import Crops
from cmf.datasets.pairs import BLOCKS, HELD_OUT, SETS, Pair, layout, load, match, simulated
from cmf.datasets.pictures import write
from cmf.simulate import street
from cmf.simulate.street_actors import KINDS
from cmf.simulate.street_render import paint
from cmf.training import EpochOrder

RNG = np.random.default_rng(5)
COUNTS = {"roadscene": {"train": 124, "validation": 16, "test": 31}, "tno": {"train": 11, "validation": 2, "test": 4},
          "tno_salient": {"train": 4, "test": 2}, "msrs": {"train": 260, "test": 60},
          "ct-mri": {"train": 113, "test": 36}, "pet-mri": {"train": 74, "test": 40},
          "spect-mri": {"train": 64, "test": 39}}


def put(folder, *names, size=(8, 10)):
    for name in names:
        write(folder / name, RNG.random(size))
    return folder


def pack_here(name):
    folder = Path(os.environ.get("CMF_DATA", "")) / SETS[name][0]
    if not os.environ.get("CMF_DATA") or not folder.is_dir():
        pytest.skip(f"CMF_DATA names no folder with {SETS[name][0]}")


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CMF_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_match_files_and_folders(tmp_path):
    vi, ir = put(tmp_path / "vi", "b.png", "a.jpg"), put(tmp_path / "ir", "a.png", "b.tif")
    (vi / "notes.txt").write_text("")
    (vi / ".hidden.png").write_text("")
    (vi / "deeper.png").mkdir()
    assert match(vi, ir) == [Pair("a", vi / "a.jpg", ir / "a.png"), Pair("b", vi / "b.png", ir / "b.tif")]
    assert match(vi / "b.png", str(ir / "a.png")) == [Pair("b", vi / "b.png", ir / "a.png")]


def test_some_without_partner_are_named(tmp_path):
    vi, ir = put(tmp_path / "vi", "a.png", "b.png"), put(tmp_path / "ir", "a.png", "c.png", "d.png")
    with pytest.warns(UserWarning, match="without a partner are left out; in .*vi only: b; in .*ir only: c, d"):
        assert [pair.stem for pair in match(vi, ir)] == ["a"]


@pytest.mark.parametrize("visible, infrared, kind, words", [
    ("vi", "none", FileNotFoundError, "none: no such picture or folder; give two pictures or two folders"),
    ("vi", "other/x.png", ValueError, "are a picture and a folder; give two pictures or two folders"),
    ("vi", "other", ValueError, "no name is in both folders; in .*vi only: a, b; in .*other only: x. Partners"),
    ("vi", "empty", FileNotFoundError, "empty: no pictures in it; expected files that end in .png"),
    ("vi", "twice", ValueError, "twice: one name twice: a.jpg and a.png; keep one of each"),
])
def test_not_matched(tmp_path, visible, infrared, kind, words):
    put(tmp_path / "vi", "a.png", "b.png")
    put(tmp_path / "other", "x.png")
    put(tmp_path / "twice", "a.png", "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(kind, match=words):
        match(tmp_path / visible, tmp_path / infrared)


def test_different_sizes(tmp_path):
    write(tmp_path / "v.png", RNG.random((20, 30)))
    write(tmp_path / "i.png", RNG.random((10, 15)))
    pair = match(tmp_path / "v.png", tmp_path / "i.png")[0]
    words = r"v: visible 30 x 20, infrared 15 x 10 pixels \(width x height\); expected one size.*--align resize"
    with pytest.raises(ValueError, match=words):
        load(pair)
    with pytest.raises(ValueError, match="align 'stretch': expected refuse or resize"):
        load(pair, "stretch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visible, infrared = load(pair, "resize")
    assert visible.size == infrared.size == (20, 30) and infrared.luma.min() >= 0 and infrared.luma.max() <= 1


def test_resizing_averages_down_and_interpolates_up(tmp_path):
    fine = RNG.integers(0, 256, (16, 24)) / 255
    colour = np.repeat(RNG.random((1, 1, 2)) * .1, 16, 0).repeat(24, 1)
    write(tmp_path / "fine.png", fine, colour, alpha=np.ones((16, 24)))
    write(tmp_path / "coarse.png", np.linspace(0, 1, 96).reshape(8, 12))
    _, small = load(Pair("x", tmp_path / "coarse.png", tmp_path / "fine.png"), "resize")
    np.testing.assert_allclose(small.luma, fine.reshape(8, 2, 12, 2).mean((1, 3)), atol=1e-2)
    assert small.chroma.shape == (8, 12, 2) and small.alpha.min() == 1
    _, large = load(Pair("x", tmp_path / "fine.png", tmp_path / "coarse.png"), "resize")
    assert (np.diff(large.luma[8]) > -1e-6).all(), "a ramp stays one"
    write(tmp_path / "tall.png", RNG.random((30, 12)))
    with pytest.warns(UserWarning, match="infrared 12 x 30 pixels .*: the shapes differ, resizing distorts"):
        load(Pair("x", tmp_path / "coarse.png", tmp_path / "tall.png"), "resize")


def test_originals_as_published(tmp_path):
    for folder in ("crop_LR_visible", "cropinfrared"):
        put(tmp_path / "roadscene" / folder, "FLIR_00006.jpg", "FLIR_08749.jpg", "FLIR_09999.jpg", "FLIR_video_1.jpg")
    for folder in ("Vis", "Ir"):
        put(tmp_path / "m3fd" / folder, "00000.png")
    for part, name in (("train", "1.png"), ("test", "2.png")):
        for folder in (f"msrs/{part}/vi", f"msrs/{part}/ir", f"llvip/visible/{part}", f"llvip/infrared/{part}"):
            put(tmp_path / folder, name)
        for kind in ("PET", "MRI"):
            put(tmp_path / "harvard" / "PET-MRI" / part / kind, f"2501{len(part)}.png", f"3001{len(part)}.png")
    found = lambda name, split, root=None: [p.stem for p in layout(name, tmp_path / (root or name), split)]
    assert found("roadscene", "test") == ["FLIR_08749", "FLIR_09999"]
    assert found("roadscene", "train") == ["FLIR_00006"] and found("roadscene", "validation") == ["FLIR_video_1"]
    assert found("m3fd", None) == ["00000"]
    assert found("msrs", "train") == found("llvip", "train") == ["1"] and found("msrs", None) == ["1", "2"]
    assert found("pet-mri", "test", "harvard") == ["25014", "25015"], "whole volumes, whatever the published part"
    assert layout("llvip", tmp_path / "llvip", "test")[0].infrared == tmp_path / "llvip/infrared/test/2.png"


@pytest.mark.parametrize("name", SETS)
def test_absent_set_says_how_to_obtain_it(nothing_here, name):
    how = "place the packed folder" if SETS[name][0] else "download|ask for it"
    with pytest.raises(FileNotFoundError, match=f"is not here; looked for .*To obtain it: .*({how})"):
        layout(name)


def test_refused_sets(tmp_path):
    with pytest.raises(ValueError, match="unknown set 'flir'; expected one of roadscene, tno,"):
        layout("flir")
    (tmp_path / "Vis").mkdir()
    with pytest.raises(FileNotFoundError, match="m3fd: no folder .*Ir; to obtain the set: download M3FD_Fusion"):
        layout("m3fd", tmp_path)
    with pytest.raises(FileNotFoundError, match="no manifest.csv; tno_salient is part of the pack infrared_visible"):
        layout("tno_salient", tmp_path)
    put(tmp_path / "Vis", "1.png")
    put(tmp_path / "Ir", "1.png")
    with pytest.raises(ValueError, match="split 'train' of m3fd: expected none, the set has no splits"):
        layout("m3fd", tmp_path, "train")


def test_pack_that_lacks_files(tmp_path):
    (tmp_path / "manifest.csv").write_text("set,derived_split,name,ir,vi,note\ntno,,05,tno/ir/05.png,tno/vi/05.png,\n")
    with pytest.raises(FileNotFoundError, match="2 files of tno are missing .*vi/05.png.*; obtain the pack again"):
        layout("tno", tmp_path)
    with pytest.raises(FileNotFoundError, match="the pack's table names no pair of msrs"):
        layout("msrs", tmp_path)
    put(tmp_path / "tno" / "ir", "05.png")
    put(tmp_path / "tno" / "vi", "05.png")
    with pytest.raises(ValueError, match="split 'train' of tno: expected test"):
        layout("tno", tmp_path, "train")


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_packs(name):
    pack_here(name)
    assert {split: len(layout(name, split=split)) for split in COUNTS[name]} == COUNTS[name]
    every = [pair.stem for split in COUNTS[name] for pair in layout(name, split=split)]
    assert sorted(every) == [pair.stem for pair in layout(name)] and len(set(every)) == len(every)


@pytest.mark.parametrize("name", COUNTS)
def test_every_real_pair_loads_with_one_size(name):
    pack_here(name)
    for pair in layout(name):
        visible, infrared = load(pair)
        assert visible.size == infrared.size and infrared.chroma is None, pair.stem


def test_no_volume_in_two_splits():
    pack_here("ct-mri")
    split = {name: {part: {int(pair.stem) // 1000 for pair in layout(name, split=part)} for part in ("train", "test")}
             for name in HELD_OUT}
    train, test = (set().union(*(split[name][part] for name in HELD_OUT)) for part in ("train", "test"))
    assert not train & test, "also not between the sets: they may show one patient"
    for name, volumes in HELD_OUT.items():
        assert split[name]["test"] <= set(volumes) and not split[name]["train"] & set(volumes)


def test_no_scene_in_two_splits():
    pack_here("tno")
    where = {pair.stem: part for part in ("train", "validation", "test") for pair in layout("tno", split=part)}
    root = Path(os.environ["CMF_DATA"]) / "infrared_visible"
    with open(root / "manifest.csv", newline="", encoding="utf-8") as stream:
        scenes = {row["name"]: row["note"][-2:] for row in csv.DictReader(stream) if row["set"] == "tno_salient"}
    for part in ("train", "test"):
        assert {where[scenes[pair.stem]] for pair in layout("tno_salient", split=part)} == {part}
    for one, same in (("09", "10"), ("16", "18"), ("22", "27"), ("23", "33")):      # looked at: one view
        assert where[one] == where[same]
    assert BLOCKS["roadscene"][2] == ("FLIR_video", "validation")


def test_simulated_pairs():
    made = simulated(6, "train", 3, (48, 64))
    again = simulated(6, "train", 3, (48, 64))
    assert made["visible"].shape == made["infrared"].shape == made["thermal"].shape == (6, 48, 64)
    assert made["visible"].dtype == made["chroma"].dtype == made["infrared"].dtype == np.float32
    assert made["chroma"].shape == (6, 48, 64, 2) and made["thermal"].dtype == bool
    assert len(made["prompts"]) == len(made["captions"]) == len(made["ids"]) == 6
    assert set(made["light"]) <= set(street.LIGHTS) and set(made["weather"]) <= set(street.WEATHERS)
    for name, values in made.items():
        np.testing.assert_array_equal(values, again[name])
    source = street.simulate_pairs(6, "train", 3, (48, 64))
    np.testing.assert_array_equal(np.rint(made["infrared"] * 255), source.infrared)
    with pytest.raises(ValueError, match="n=0: expected at least 1"):
        simulated(0, "train", 3)


def test_warm_bodies_are_the_world_s_not_the_picture_s():
    """Against the slow way: who owns each pixel, painted anew for every scene."""
    made, source = simulated(40, "train", 2, (60, 80)), street.simulate_pairs(40, "train", 2, (60, 80))
    mixed = 0
    for mask, scene, labels in zip(made["thermal"], source.scenes, source.labels, strict=True):
        owner, expected = paint(scene, (60, 80))[0].owner, np.zeros((60, 80), bool)
        for number, actor in enumerate(scene.actors, 1):
            if actor.kind in ("person", "fire") or actor.kind == "car" and actor.running:
                expected |= owner == number
        np.testing.assert_array_equal(mask, expected)
        cars = labels == 1 + KINDS.index("car")
        mixed += (mask & cars).any() and (~mask & cars).any()
    assert mixed >= 3, "running and parked cars in one picture are told apart"
    assert simulated(40, "train", 2, (60, 80), street.Dials(infrared_noise=8))["thermal"].tolist() \
        == made["thermal"].tolist(), "noise of the camera changes no fact"


def arrays(n=5, size=(40, 50)):
    """Pictures whose pixels all differ between visible and infrared by the same rule, to see what is cut alike."""
    visible = RNG.integers(0, 200, (n, *size), dtype=np.uint8)
    return visible, visible + 55


def test_crops_are_cut_alike_and_repeat():
    visible, infrared = arrays()
    crops = Crops(visible, infrared, 24, seed=3, rounds=4, thermal=visible > 99,
                  chroma=np.stack([visible, infrared], -1))
    batch = crops[list(range(20))]
    assert len(crops) == 20 and batch["visible"].shape == (20, 1, 24, 24) and batch["chroma"].shape == (20, 2, 24, 24)
    torch.testing.assert_close(batch["infrared"] - batch["visible"], torch.full((20, 1, 24, 24), 55 / 255))
    levels = (batch["visible"] * 255).round()
    assert torch.equal(batch["thermal"], levels[:, 0] > 99) and torch.equal(batch["chroma"][:, :1], levels.byte())
    assert batch["pair"].tolist() == [*range(5)] * 4
    some = Crops(visible, infrared, 24, seed=3, rounds=4)[[17, 2]]
    assert torch.equal(some["visible"], batch["visible"][[17, 2]]), "a sample does not depend on the batch"
    assert torch.equal(crops[17]["visible"], batch["visible"][17])
    assert len({batch["visible"][i].numpy().tobytes() for i in range(0, 20, 5)}) == 4, "rounds differ"
    assert not torch.equal(Crops(visible, infrared, 24, seed=4)[0]["visible"], batch["visible"][0])


def test_crops_cover_the_picture_and_flip_each_way():
    ramp = np.arange(12 * 16, dtype=np.uint8).reshape(1, 12, 16)
    crops = Crops(ramp, ramp, (8, 8), rounds=300)
    seen = (crops[list(range(300))]["visible"][:, 0] * 255).round()
    assert set(seen.unique().tolist()) == set(range(192))
    turns = {(bool(cut[0, 1] < cut[0, 0]), bool(cut[1, 0] < cut[0, 0])) for cut in seen}
    assert len(turns) == 4
    plain = Crops(ramp, ramp, (8, 8), augment=False, rounds=2)
    assert (plain[1]["visible"][0] * 255).round().int().tolist() == ramp[0, 2:10, 4:12].tolist()


def test_crops_in_a_loader_and_from_files(tmp_path):
    for folder in ("vi", "ir"):
        put(tmp_path / folder, "a.png", size=(30, 40))
        put(tmp_path / folder, "b.png", "c.png", size=(50, 33))
    read = [[picture.luma for picture in load(pair)] for pair in match(tmp_path / "vi", tmp_path / "ir")]
    crops = Crops(*zip(*read, strict=True), (24, 32))
    loader = lambda: torch.utils.data.DataLoader(crops, batch_size=2, sampler=EpochOrder(len(crops), 1),
                                                 collate_fn=crops.collate)
    first, second = list(loader()), list(loader())
    assert [len(batch["visible"]) for batch in first] == [2, 1]
    assert all(torch.equal(one["visible"], two["visible"]) for one, two in zip(first, second, strict=True))
    assert crops.columns["visible"][1].dtype == np.uint8 and crops.columns["visible"][1].shape == (50, 33)


@pytest.mark.parametrize("how, words", [
    (dict(infrared=np.zeros((2, 40, 50))), r"numbers of pictures {'visible': 3, 'infrared': 2}, expected one number"),
    (dict(visible=[], infrared=[]), "expected one number, at least 1, for all"),
    (dict(rounds=0), "rounds=0: expected at least 1 crop"),
    (dict(infrared=np.zeros((3, 40, 51))), r"pair 0 has sizes {'visible': \(40, 50\), 'infrared': \(40, 51\)}"),
    (dict(thermal=np.zeros((3, 4, 5))), "pair 0 has sizes .*'thermal'"),
    (dict(size=48), "pair 0 of 40 x 50 pixels is smaller than crops of 48 x 48; use smaller crops"),
    (dict(visible=np.full((3, 40, 50), 3.0)), r"visible 0 from 3 to 3, expected \[0, 1\] or uint8"),
    (dict(infrared=np.zeros((3, 40, 50, 3))), r"infrared 0 of shape \(40, 50, 3\), expected luma"),
])
def test_refused_crops(how, words):
    with pytest.raises(ValueError, match=words):
        Crops(**({"visible": np.zeros((3, 40, 50)), "infrared": np.zeros((3, 40, 50)), "size": 24} | how))


def test_sample_outside():
    with pytest.raises(IndexError, match="sample 3, expected 0 to 2"):
        Crops(*arrays(3), 24)[3]


def test_every_set_has_its_catalogue_entries():
    for pack, _, originals in SETS.values():
        assert all(pairs.catalogue.entry(name).how for name in (pack, originals) if name)
