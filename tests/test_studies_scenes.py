"""Scenes: whose sequence a candidate has, what the classifier answers, what is written, what is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cmf import cli, weights
from cmf.detection import Detections
from cmf.simulate.deepspace import CLASSES, simulate_scene, write_scene
from cmf.studies import overlay, scenes

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 256


@pytest.fixture(scope="module")
def model():
    return scenes.Classifier.load()


@pytest.fixture(scope="module")
def scene():
    return simulate_scene(5, SIDE, psnr=12.0, seed=3)


@pytest.fixture(scope="module")
def files(scene):
    return scenes.of_simulator(scene, "one")


@pytest.fixture(scope="module")
def found(model, files):
    return scenes.answer(files, model)


@pytest.fixture
def folders(tmp_path, scene):
    write_scene(tmp_path / "images", tmp_path / "sequences", scene, "one")
    return tmp_path


def detect_in(folder: Path, *more: str) -> int:
    return cli.main(["detect", "--images", str(folder / "images"), "--sequences", str(folder / "sequences"),
                     "--out", str(folder / "out"), *more])


def at(positions) -> Detections:
    """Detections at these places; only the positions in A matter."""
    places = np.asarray(positions, float)
    boxes = np.zeros((len(places), 4), int)
    return Detections(places, places, boxes, boxes, places, places, places, np.zeros(2), 1.3, places)


def test_rows_belong_by_position_within_reach_and_never_twice(files):
    given = replace(files, positions=np.array([[50.0, 50], [100, 100], [20, 20]]), temp=files.temp[:3],
                    rad=files.rad[:3])
    rows = scenes.sequence_rows(given, at([[100.5, 99], [52, 50], [50.5, 50], [20, 27], [200, 200]]))
    assert rows.tolist() == [1, -1, 0, -1, -1]
    assert scenes.sequence_rows(given, at(np.empty((0, 2)))).tolist() == []


def test_one_row_without_a_position_is_shared(files):
    shared = replace(files, positions=None, temp=files.temp[:1], rad=files.rad[:1])
    assert scenes.sequence_rows(shared, at([[1, 1], [99, 3], [7, 50]])).tolist() == [0, 0, 0]


def test_several_rows_without_positions_are_refused(files):
    with pytest.raises(ValueError, match="one: 5 sequences and no one_positions.npy that says whose they are"):
        scenes.sequence_rows(replace(files, positions=None), at([[1, 1]]))


def test_every_target_is_found_with_its_own_sequence(found, scene):
    table = scenes.judged(found, scene)
    assert len(found.boxes) == 5 and (table["row"] >= 0).all()
    assert found.boxes["sequence_row"].iloc[table["row"]].tolist() == [0, 1, 2, 3, 4]
    probabilities = found.boxes[[f"p_{name}" for name in CLASSES]].to_numpy()
    assert np.allclose(probabilities.sum(1), 1) and np.allclose(probabilities.max(1), found.boxes["score"])
    assert (np.diff(found.boxes["score"]) <= 0).all()
    assert np.allclose(found.importance.mean(1), 1, atol=1e-4) and np.allclose(found.attention.sum(-1), 1, atol=1e-4)
    assert found.importance.shape == (5, len(found.names)) and len(set(found.names)) == len(found.names)
    assert {"grid A 1,1", "grid B 3,3", "radiometric B", "motion", "patches 4", "summary"} <= set(found.names)


def test_a_missed_target_is_said_to_be_missed(found, scene):
    table = scenes.judged(replace(found, boxes=found.boxes.iloc[:3]), scene)
    assert (table["row"] < 0).sum() == 2 and (table["predicted"] == "").sum() == 2


def test_the_order_of_candidates_changes_nothing(model, files, found, monkeypatch):
    straight = scenes.detect

    def turned(frames, k):
        d = straight(frames, k=k)
        rows = ("positions_a", "positions_b", "boxes_a", "boxes_b", "snr", "flux", "displacement")
        return replace(d, **{name: getattr(d, name)[::-1] for name in rows})

    monkeypatch.setattr(scenes, "detect", turned)
    again = scenes.answer(files, model)
    pd.testing.assert_frame_equal(again.boxes, found.boxes, atol=1e-5)
    assert np.allclose(again.importance, found.importance, atol=1e-4)


def test_a_candidate_without_a_row_is_judged_by_its_pictures(model, files, found):
    far = files.positions.copy()
    far[2] += 60
    seen = []

    def look(temperature):
        temp = files.temp.copy()
        temp[2:] = temperature
        own = scenes.answer(replace(files, positions=far, temp=temp), model)
        seen.append(own.boxes[own.boxes["sequence_row"] < 0])

    look(200.0)
    look(300.0)
    assert len(seen[0]) == 1
    pd.testing.assert_frame_equal(*(s.reset_index(drop=True) for s in seen), atol=1e-5)
    assert "(no sequence)" in overlay._caption(seen[0].iloc[0], None)


def test_times_left_out_count_as_even(model, files, found):
    steps = np.broadcast_to(np.arange(16, dtype=np.float32) * 45, files.temp.shape)
    a, b = (scenes.answer(replace(files, times=t), model).boxes for t in (None, np.ascontiguousarray(steps)))
    pd.testing.assert_frame_equal(a, b, atol=1e-5)


def test_limits_overall_and_of_a_class(model, files, found):
    assert len(scenes.answer(files, model, overall=2).boxes) == 2
    few = scenes.answer(files, model, per_class=1).boxes
    assert few["label"].is_unique and set(few["label"]) == set(found.boxes["label"])


def test_weights_come_back_as_they_were_written(model, tmp_path):
    path = model.save(tmp_path / "own.safetensors", data="none")
    assert weights.facts(path)["data"] == "none" and [p.name for p in tmp_path.iterdir()] == ["own.safetensors"]
    again = scenes.Classifier.load(path)
    assert again.backbone == model.backbone and again.network.config == model.network.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_card_states_what_the_weights_state():
    card, stated = scenes.TRAINED.with_suffix(".md").read_text(), weights.facts(scenes.TRAINED)
    for fact in (stated["f1_macro_test"], stated["licence"], stated["backbone"].split(",")[0]):
        assert fact in card


def test_everything_is_written_aside_and_renamed(found, scene, tmp_path):
    paths = overlay.write(found, tmp_path, 3)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")) == sorted(
        p.relative_to(tmp_path).as_posix() for p in paths)
    assert len(list((tmp_path / "heatmaps").iterdir())) == 5
    table = pd.read_csv(tmp_path / "detections" / "one.csv", dtype={"label": str})
    records = json.loads((tmp_path / "detections" / "one.json").read_text())
    assert records["id"] == "one" and [r["label"] for r in records["targets"]] == table["label"].tolist()
    assert table["target"].tolist() == [0, 1, 2, 3, 4] and np.allclose(table["score"], found.boxes["score"], rtol=1e-5)
    tokens = pd.read_csv(tmp_path / "fusion_weights" / "one.csv")
    assert tokens.columns[0] == "target" and tuple(tokens.columns[1:]) == found.names


def test_a_write_that_fails_leaves_the_old_file(found, tmp_path, monkeypatch):
    overlay.write(found, tmp_path, 3)
    before = (tmp_path / "detections" / "one.csv").read_text()
    target = tmp_path / "detections" / "one.csv"

    def fails(self, path, **words):
        Path(path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fails)
    with pytest.raises(OSError, match="disk full"):
        overlay.write(found, tmp_path, 3)
    assert target.read_text() == before


def test_overlay_says_what_is_wrong_where_the_truth_is_known(found, scene):
    table, wrong = scenes.judged(found, scene), found.boxes.copy()
    wrong.loc[table["row"], "label"] = table["label"].to_numpy()
    wrong.loc[0, "label"] = next(name for name in CLASSES if name != wrong.loc[0, "label"])
    wrong.loc[1, scenes.BOX_A] += 100
    fig = overlay.draw_overlay(replace(found, boxes=wrong), scene)
    words = [t.get_text() for t in fig.axes[0].texts]
    assert sum("TRUE: " in w for w in words) == 1 and sum("NOT A TARGET" in w for w in words) == 1
    assert "missed: 1" in [t.get_text() for t in fig.legends[0].texts]


def test_labels_keep_clear_of_boxes_and_the_edge():
    boxes = np.array([[10.0, 10, 30, 30], [220, 100, 240, 120], [60, 2, 80, 22]])
    sizes = np.tile([70.0, 12], (3, 1))
    places = overlay._label_places(boxes, sizes, (SIDE, SIDE))
    taken = [*boxes, *np.concatenate([places, places + sizes], 1)]
    assert (places >= 0).all() and (places + sizes <= SIDE).all()
    assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
                   for i, a in enumerate(taken) for b in taken[:i])


def test_nothing_found_is_an_answer(model, files, tmp_path, scene):
    empty = scenes.answer(replace(files, frames=np.random.default_rng(0).normal(900, 9, (2, SIDE, SIDE))), model)
    assert len(empty.boxes) == 0 and len(overlay.write(empty, tmp_path, 3)) == 4
    assert json.loads((tmp_path / "detections" / "one.json").read_text())["targets"] == []
    assert (scenes.judged(empty, scene)["row"] == -1).all()


def test_command_writes_three_folders(folders, capsys, model, monkeypatch):
    monkeypatch.setattr(scenes.Classifier, "load", lambda path: model)  # its encoder is built already
    assert detect_in(folders) == 0
    told = capsys.readouterr().out
    assert told.startswith("one: 5 targets (") and "5 targets in 1 scenes" in told
    assert sorted(p.name for p in (folders / "out").iterdir()) == ["detections", "fusion_weights", "heatmaps"]


def _constant(folder):
    from PIL import Image
    Image.fromarray(np.full((SIDE, SIDE), 7, np.uint16)).save(folder / "images" / "one_A.png")


def _nan(folder):
    from PIL import Image
    Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)).save(folder / "images" / "one_A.tif")
    (folder / "images" / "one_A.png").unlink()


def _short(folder):
    for part in ("temp", "rad", "time"):
        path = folder / "sequences" / f"one_{part}.npy"
        np.save(path, np.load(path)[:, :12])


def _empty(folder):
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()


def _infinite(folder):
    path = folder / "sequences" / "one_rad.npy"
    np.save(path, np.where(np.load(path) > 0, np.inf, 1.0))


@pytest.mark.parametrize("spoil, words", [
    (lambda f: (f / "images" / "one_B.png").unlink(), "partner files missing: .*one_B.png"),
    (lambda f: (f / "sequences" / "one_rad.npy").unlink(), "partner files missing: .*one_rad.npy"),
    (lambda f: (f / "sequences" / "one_positions.npy").unlink(), "one: 5 sequences and no one_positions.npy"),
    (_empty, "the folder is empty, expected files .png"),
    (_constant, r"one: frame is constant \(7\): nothing can be detected"),
    (_nan, "one_A.tif: the picture holds NaN or infinite values"),
    (_infinite, "one_rad.npy: infinite values; mark a missing sample with NaN"),
    (_short, "one: sequences of 12 samples, but the classifier was trained on 16; resample them"),
    (lambda f: (f / "images" / "one_A.png").write_bytes((f / "images" / "one_A.png").read_bytes()[:3000]),
     "one_A.png: the picture cannot be read .* damaged or cut short"),
    (lambda f: (f / "out").write_text("a file"), "out cannot be written .*; give a folder of your own"),
])
def test_bad_folders_are_refused_in_one_line(folders, capsys, spoil, words):
    spoil(folders)
    assert detect_in(folders) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("cmf: ") and re.search(words, told), told


def test_a_folder_without_permission_is_refused(folders, capsys, monkeypatch):
    monkeypatch.setattr(scenes.os, "access", lambda *given: False)
    assert detect_in(folders) == 1
    assert "cannot be written (no permission); give a folder of your own" in capsys.readouterr().err


@pytest.mark.parametrize("words, told", [
    (["--threshold", "0"], "one: k is 0.0, expected a positive threshold"),
    (["--top", "0"], "overall and per_class must be at least 1, got 0 and 7"),
    (["--weights", "nowhere.safetensors"], "no weights at nowhere.safetensors; train them, or give the path"),
])
def test_bad_options_are_refused_in_one_line(folders, capsys, words, told):
    assert detect_in(folders, *words) == 1
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_weights_of_another_kind_or_damaged_are_refused(folders, capsys, tmp_path, model):
    other = weights.save(tmp_path / "other.safetensors", torch.nn.Linear(2, 2), {})
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(scenes.TRAINED.read_bytes()[:5000])
    strange = weights.save(tmp_path / "strange.safetensors", model, dict(network=dict(depth=3, colour=1)))
    for path, words in ((other, "holds weights of Linear, expected Classifier"), (torn, "no complete safetensors file"),
                        (strange, "states a configuration that cannot be built here")):
        assert detect_in(folders, "--weights", str(path)) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]
        with pytest.raises(ValueError, match=words):
            scenes.Classifier.load(path)


def test_candidates_of_a_level_are_those_of_the_detector():
    one, two = scenes.detected(20.0, [0, 1], targets=6)
    assert one["truth"].shape == (6, 4) and one["tp"] + one["fn"] == 6 and one["tp"] + one["fp"] == len(one["boxes"])
    assert not np.array_equal(one["truth"], two["truth"])
