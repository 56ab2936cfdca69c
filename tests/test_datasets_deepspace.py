"""Target sets and the dual-folder contract."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cmf.datasets import deepspace
from cmf.datasets.deepspace import (
    TargetDataset,
    TargetSet,
    from_simulator,
    read_inference,
    read_picture,
    read_training,
)
from cmf.simulate.deepspace import CLASSES, simulate_scene, simulate_targets, write_scene, write_training


@pytest.fixture(scope="module")
def simulated():
    return simulate_targets(12, seed=3)


@pytest.fixture
def folder(tmp_path, simulated):
    write_training(tmp_path, simulated)
    return tmp_path


@pytest.fixture
def scenes(tmp_path):
    scene = simulate_scene(n_targets=3, size=128, seed=5)
    write_scene(tmp_path / "images", tmp_path / "sequences", scene, "s1")
    return scene, tmp_path / "images", tmp_path / "sequences"


def plain_folder(folder, n=3, steps=4, label="0.3", size=8, names=None):
    """A training folder without second frames and times, 8-bit."""
    (folder / "2D").mkdir()
    (folder / "1D").mkdir()
    rng = np.random.default_rng(0)
    for name in names or [str(i + 1) for i in range(n)]:
        Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).save(folder / f"2D/{name}.png")
        shape = {"label": label, "points": [[1, 2], [3, 4]]}
        (folder / f"2D/{name}.json").write_text(json.dumps({"shapes": [shape]}))
        np.save(folder / f"1D/{name}.npy", rng.normal(size=2 * steps).astype(np.float32))
    return folder


def small_set(n=4) -> TargetSet:
    return TargetSet(images=np.ones((n, 1, 3, 3), np.float32), values=np.ones((n, 2, 1), np.float32),
                     observed=np.ones((n, 2, 1), bool), times=np.zeros((n, 2), np.float32),
                     labels=np.zeros(n, np.int64), ids=tuple("abcdefgh"[:n]), classes=("x", "y"), frames=("A",),
                     channels=("c",), time_unit="s", groups={"fold": np.arange(n)})


def test_written_contract_reads_back_as_the_simulator_gave_it(folder, simulated):
    read, made = read_training(folder), from_simulator(simulated)
    np.testing.assert_allclose(read.images, np.clip(np.rint(made.images), 0, 65535), atol=0)
    np.testing.assert_array_equal(read.values, made.values)
    np.testing.assert_array_equal(read.observed, made.observed)
    np.testing.assert_array_equal(read.labels, made.labels)
    np.testing.assert_allclose(read.times, made.times)
    assert (read.ids, read.frames, read.time_unit, read.classes) == (made.ids, ("A", "B"), "s", CLASSES)
    assert 0 < (~read.observed).mean() < 0.5, "missing samples must arrive as unobserved"


def test_plain_contract_has_one_frame_and_steps_for_times(tmp_path):
    read = read_training(plain_folder(tmp_path, names=["10", "2", "1"]))
    assert read.ids == ("1", "2", "10") and read.frames == ("A",) and read.time_unit == "step"
    np.testing.assert_array_equal(read.times[0], [0, 1, 2, 3])
    second = np.load(tmp_path / "1D/2.npy")
    np.testing.assert_array_equal(read.values[1], second.reshape(2, 4).T)


def test_dataset_collates_dicts(simulated):
    batch = next(iter(torch.utils.data.DataLoader(TargetDataset(from_simulator(simulated)), batch_size=4)))
    assert {name: tuple(part.shape) for name, part in batch.items()} == {
        "frames": (4, 2, 32, 32), "values": (4, 16, 2), "observed": (4, 16, 2), "times": (4, 16),
        "labels": (4,), "index": (4,)}
    assert batch["observed"].dtype == torch.bool and batch["index"].tolist() == [0, 1, 2, 3]


def test_subset_and_digest(simulated):
    whole = from_simulator(simulated)
    part = whole.subset([3, 1])
    assert part.ids == (whole.ids[3], whole.ids[1])
    np.testing.assert_array_equal(part.groups["truth_range"], whole.groups["truth_range"][[3, 1]])
    assert len(whole.subset(whole.labels == 0)) == 2
    assert whole.digest() == from_simulator(simulate_targets(12, seed=3)).digest()
    altered = replace(whole, labels=np.roll(whole.labels, 1))
    assert len({whole.digest(), part.digest(), altered.digest(), whole.subset(slice(3)).digest()}) == 4


@pytest.mark.parametrize("change, words", [
    (dict(values=np.ones((4, 2, 2), np.float32)), r"values has shape \(4, 2, 2\), expected \(4, 2, 1\)"),
    (dict(images=np.ones((4, 1, 3, 3))), "images is float64, expected float32"),
    (dict(images=np.full((4, 1, 3, 3), np.nan, np.float32)), "images of a, b, c, d not finite"),
    (dict(observed=np.zeros((4, 2, 1), bool)), "values must be 0 where observed is False"),
    (dict(ids=("a", "b", "a", "d")), "two rows with one id: a"),
    (dict(labels=np.full(4, 2)), r"labels run from 2 to 2, expected -1 \(unlabelled\) to 1"),
    (dict(groups={"fold": np.zeros(3)}), "group 'fold' has 3 rows, expected 4"),
])
def test_set_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        replace(small_set(), **change)


def test_pictures_of_every_depth(tmp_path):
    ramp = np.arange(48, dtype=np.uint16).reshape(6, 8)
    Image.fromarray((ramp * 1000).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "grey.png")
    colour = np.stack([ramp, 2 * ramp, 3 * ramp], axis=-1).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "float.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png"), ramp * 1000.0)
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), ramp)
    np.testing.assert_allclose(read_picture(tmp_path / "colour.png"), ramp * (0.299 + 2 * 0.587 + 3 * 0.114), rtol=1e-6)
    assert read_picture(tmp_path / "float.tif").max() == 0.5


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_cut_short_picture_is_named(tmp_path, suffix):
    path = plain_folder(tmp_path) / f"2D/2.{suffix}"
    (tmp_path / "2D/2.png").unlink()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=rf"2D/2\.{suffix}: the picture cannot be read"):
        read_training(tmp_path)


def test_picture_with_nan_is_refused(tmp_path):
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: the picture holds NaN or infinite values"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("lost, words", [
    ("1D/2.npy", r"1D/2\.npy"), ("2D/2.json", r"2D/2\.json"), ("2D/2.png", r"2D/2\.png \(or \.jpg\)")])
def test_missing_partner_is_named(tmp_path, lost, words):
    (plain_folder(tmp_path) / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"partner files missing: \S*{words}"):
        read_training(tmp_path)


def test_many_missing_partners_are_counted(tmp_path):
    plain_folder(tmp_path, n=14)
    for i in range(1, 14):
        (tmp_path / f"1D/{i}.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"and 3 more; every target needs"):
        read_training(tmp_path)


@pytest.mark.parametrize("lost", ["2D/00004_B.png", "1D/00004_time.npy"])
def test_second_frames_and_times_are_all_or_none(folder, lost):
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{lost.split('.')[0]}\S* .*all or none|{lost}.*all or none"):
        read_training(folder)


@pytest.mark.parametrize("values, words", [
    (np.zeros(7), r"2\.npy: 7 values, an odd number"),
    (np.zeros(10), r"2\.npy: 10 values, expected 8 \(as most other files have\)"),
    (np.full(8, np.nan), r"2\.npy: every value is NaN"),
    (np.array([np.inf] + [0.0] * 7), r"2\.npy: infinite values"),
    (np.zeros((2, 4)), r"2\.npy: shape \(2, 4\), expected 1 dimensions"),
    (np.array(["a", "b"]), r"2\.npy: expected an array of numbers"),
    (np.array([{}], dtype=object), r"2\.npy: not a readable \.npy file"),
])
def test_bad_sequence_is_named(tmp_path, values, words):
    np.save(plain_folder(tmp_path) / "1D/2.npy", values)
    with pytest.raises(ValueError, match=words):
        read_training(tmp_path)


def test_cut_short_sequence_and_stated_length(tmp_path):
    path = plain_folder(tmp_path) / "1D/2.npy"
    with pytest.raises(ValueError, match=r"1\.npy: 8 values, expected 6 \(2 x length\)"):
        read_training(tmp_path, length=3)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"2\.npy: not a readable \.npy file"):
        read_training(tmp_path)


def test_bad_times_are_named(folder):
    np.save(folder / "1D/00004_time.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"00004_time\.npy: shape \(3,\), expected \(16,\) seconds"):
        read_training(folder)


@pytest.mark.parametrize("text, words", [
    ('{"shapes": [{"label": "9.9", "points": [[0, 0]]}]}', r"2\.json: unknown label '9\.9'; known are 0\.3, 0\.6"),
    ('{"shapes": []}', r"2\.json: expected a LabelMe file with shapes\[0\]\.label"),
    ('{"version": 1}', r"2\.json: expected a LabelMe file"),
    ("{", r"2\.json: expected a LabelMe file"),
])
def test_bad_label_file_is_named(tmp_path, text, words):
    (plain_folder(tmp_path) / "2D/2.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_training(tmp_path)


def test_labels_are_a_parameter(tmp_path):
    read = read_training(plain_folder(tmp_path, label="comet"), classes=("rock", "comet"))
    assert read.classes == ("rock", "comet") and read.labels.tolist() == [1, 1, 1]


def test_folder_faults_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="2D: no such folder"):
        read_training(tmp_path)
    plain_folder(tmp_path)
    stray = tmp_path / "2D/notes.txt"
    stray.write_text("x")
    with pytest.raises(ValueError, match=r"notes\.txt: does not belong here; expected \.png"):
        read_training(tmp_path)
    stray.unlink()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "2D/2.jpg")
    with pytest.raises(ValueError, match=r"2\.png: the same id as 2\.jpg"):
        read_training(tmp_path)
    for path in (tmp_path / "2D").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="2D: the folder is empty"):
        read_training(tmp_path)


def test_chips_around_the_shape_and_unequal_pictures(tmp_path):
    plain_folder(tmp_path)
    picture = np.zeros((20, 30), np.uint8)
    picture[3, 2] = 200  # the middle of the shape (1, 2) to (3, 4) is x = 2, y = 3
    Image.fromarray(picture).save(tmp_path / "2D/2.png")
    with pytest.raises(ValueError, match=r"2\.png: \(20, 30\) pixels, but 1\.png has \(8, 8\); pass size="):
        read_training(tmp_path)
    read = read_training(tmp_path, size=6)
    assert read.images.shape == (3, 1, 6, 6) and read.images[1, 0, 3, 3] == 200


def test_scene_reads_back(scenes):
    scene, images, sequences = scenes
    (read,) = read_inference(images, sequences)
    np.testing.assert_array_equal(read.frames, np.clip(np.rint(scene.frames), 0, 65535))
    assert read.id == "s1" and read.temp.shape == read.rad.shape == read.times.shape == (3, 16)
    row = json.loads((images / "s1_truth.json").read_text())["row"]
    np.testing.assert_allclose(read.positions, scene.positions_a[row], rtol=1e-6)
    values, observed = read.sequences()
    np.testing.assert_array_equal(observed, np.isfinite(scene.sequences[row]))
    assert values.shape == (3, 16, 2) and (values[~observed] == 0).all()


def test_shared_sequence_is_one_row(scenes):
    _, images, sequences = scenes
    for role in ("positions", "time"):
        (sequences / f"s1_{role}.npy").unlink()
    for role in ("temp", "rad"):
        np.save(sequences / f"s1_{role}.npy", np.arange(16.0))
    (read,) = read_inference(images, sequences)
    assert read.temp.shape == (1, 16) and read.positions is None and read.times is None


@pytest.mark.parametrize("role, values, words", [
    ("rad", np.ones((2, 16)), r"s1_rad\.npy: shape \(2, 16\), but s1_temp\.npy has \(3, 16\)"),
    ("positions", np.ones((2, 2)), r"s1_positions\.npy: shape \(2, 2\), expected \(3, 2\)"),
    ("time", np.ones((3, 4)), r"s1_time\.npy: shape \(3, 4\), expected \(3, 16\) seconds"),
    ("temp", np.full((3, 16), np.inf), r"s1_temp\.npy: infinite values"),
])
def test_bad_scene_arrays_are_named(scenes, role, values, words):
    _, images, sequences = scenes
    np.save(sequences / f"s1_{role}.npy", values)
    with pytest.raises(ValueError, match=words):
        read_inference(images, sequences)


def test_scene_row_without_numbers_is_named(scenes):
    _, images, sequences = scenes
    for role in ("temp", "rad"):
        array = np.load(sequences / f"s1_{role}.npy")
        array[1] = np.nan
        np.save(sequences / f"s1_{role}.npy", array)
    with pytest.raises(ValueError, match=r"s1_temp\.npy: row 1 holds no number"):
        read_inference(images, sequences)


def test_scene_partners_and_names(scenes):
    _, images, sequences = scenes
    Image.fromarray(np.zeros((128, 64), np.uint8)).save(images / "s1_B.png")
    with pytest.raises(ValueError, match=r"s1_B\.png: \(128, 64\) pixels, but frame A has \(128, 128\)"):
        read_inference(images, sequences)
    (images / "s1_B.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"partner files missing: \S*s1_B\.png"):
        read_inference(images, sequences)
    (images / "s1_A.png").rename(images / "s1.png")
    with pytest.raises(ValueError, match=r"s1\.png: expected a name that ends with one of _A, _B"):
        read_inference(images, sequences)


def test_a_picture_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.png"):
        deepspace.read_picture(tmp_path / "absent.png")
