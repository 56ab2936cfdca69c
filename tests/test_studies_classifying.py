"""`train sacmf` and `evaluate sacmf`: the division, own classes, lengths and frames, resuming, what is refused."""

import json
import shutil
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from killing import killed_and_resumed

from cmf import cli, weights
from cmf.datasets.deepspace import from_simulator
from cmf.datasets.targets import TargetSet
from cmf.simulate.deepspace import simulate_scene, simulate_targets, write_scene, write_training
from cmf.studies import classifying, commands, deepspace, scenes

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ("ball", "plate")
built = lru_cache(deepspace.Backbone.build)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory, tmp_path):
    """Small pictures for an encoder that is made once, and its features kept between tests."""
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "classifying_cache"))
    monkeypatch.setenv("CMF_ROOT", str(tmp_path))
    monkeypatch.setattr(deepspace.Backbone, "build", lambda self: built(self))
    monkeypatch.setattr(deepspace, "Backbone", partial(deepspace.Backbone, size=75, layer="Mixed_6e", grid=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 generated targets, under two labels of our own."""
    root = tmp_path_factory.mktemp("targets")
    write_training(root / "mine", simulate_targets(24, "train", 1))
    for k, path in enumerate(sorted((root / "mine" / "2D").glob("*.json"))):
        content = json.loads(path.read_text())
        content["shapes"][0]["label"] = KINDS[k % 2]
        path.write_text(json.dumps(content))
    return root / "mine"


@pytest.fixture
def own(folder, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(folder, tmp_path / "copy")


def command(what, data, *more):
    return cli.main([what, "sacmf", "--data", str(data), *map(str, more)])


def train(data, out, *more):
    return command("train", data, "--out", out, "--epochs", 2, "--batch", 8, *more)


def test_each_class_is_divided_and_a_seed_says_how():
    labels = [0] * 10 + [1] * 3 + [2] * 30
    found = commands.divided(labels, "abc", 1)
    counts = {part: np.bincount(np.take(labels, rows), minlength=3).tolist() for part, rows in found.items()}
    assert counts == dict(train=[6, 1, 18], validation=[2, 1, 6], test=[2, 1, 6])
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(43))
    again, other = (commands.divided(labels, "abc", seed) for seed in (1, 2))
    assert all(np.array_equal(found[part], again[part]) for part in found)
    assert not np.array_equal(found["test"], other["test"])
    with pytest.raises(ValueError, match="2 targets of class b; expected 3 or more, so that training, validation and"):
        commands.divided([0, 0, 0, 1, 1], "ab", 1)
    with pytest.raises(ValueError, match=r"1 class \(a\); expected two or more to tell apart"):
        commands.divided([0, 0, 0], "a", 1)


def test_few_targets_have_small_batches_and_as_many_steps():
    assert classifying.recipe_for(3000, 2) == deepspace.replace(deepspace.RECIPE, seed=2)
    few = classifying.recipe_for(36, 2)
    assert few.batch == 8 and few.epochs * 36 / 8 == pytest.approx(classifying.STEPS, rel=0.02)
    assert classifying.recipe_for(36, 2, epochs=3, lr=0.1).epochs == 3


def test_train_evaluate_and_detect_with_own_classes(folder, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    assert train(folder, out) == 0
    told = capsys.readouterr().out
    assert "mine: 2 classes; targets: 16 for train, 4 for validation, 4 for test; 2 epochs" in told
    printed = [line for line in told.splitlines() if line.startswith("  ")]
    assert printed[0].split()[:2] == ["f1", "macro"] and " to " in printed[0] and "f1 plate" in told
    facts = weights.facts(out)
    assert json.loads(facts["classes"]) == list(KINDS) and facts["data"] == "mine, 16 targets for training"
    assert command("evaluate", folder, "--weights", out, "--out", tmp_path / "e") == 0
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if line.startswith("  ")] == printed, "the part that training held out"
    assert "mine, test: 4 targets of 2 classes" in told and "not the targets" not in told
    table = pd.read_csv(tmp_path / "e" / "measures.csv").set_index("measure")
    record = json.loads((tmp_path / "e" / "measures.json").read_text())
    assert table.value["f1_macro"] == record["measures"]["f1_macro"]["value"] and record["run"]["versions"]
    write_scene(tmp_path / "images", tmp_path / "sequences", simulate_scene(3, 256, psnr=12.0, seed=3), "one")
    assert cli.main(["detect", "--images", str(tmp_path / "images"), "--sequences", str(tmp_path / "sequences"),
                     "--weights", str(out), "--out", str(tmp_path / "found")]) == 0
    boxes = json.loads(next((tmp_path / "found" / "detections").glob("*.json")).read_text())
    assert "p_ball" in json.dumps(boxes) and "p_fu" not in json.dumps(boxes)


def test_other_targets_are_said_to_be_others(folder, own, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    assert train(folder, out) == 0
    np.save(own / "1D" / f"{sorted(p.stem for p in (own / '2D').glob('*.json'))[0]}.npy", np.ones(32, np.float32))
    for split, count in (("test", 4), ("all", 24)):
        assert command("evaluate", own, "--weights", out, "--split", split, "--out", tmp_path / "e") == 0
        told = capsys.readouterr().out
        assert f"copy, {split}: {count} targets" in told
        assert ("these are not the targets that the weights were trained on" in told) == (split == "test")


def test_killed_and_resumed_equals_uninterrupted(folder, tmp_path, monkeypatch, capsys):
    run = lambda out, checkpoints, *more: train(folder, out, "--checkpoints", checkpoints, *more)
    assert len(killed_and_resumed(run, tmp_path, monkeypatch, epoch=1)) == 2
    capsys.readouterr()
    assert run(tmp_path / "cut.safetensors", tmp_path / "cut", "--seed", 2) == 1
    assert "holds a run with other data or settings; delete it, or give another folder" in capsys.readouterr().err


def test_one_frame_and_a_length_that_does_not_divide(own, tmp_path, capsys):
    for path in (own / "2D").glob("*_B.png"):
        path.unlink()
    for path in (own / "1D").glob("*.npy"):
        x = np.load(path)
        np.save(path, x[:14] if path.stem.endswith("_time") else np.concatenate([x[:14], x[16:30]]))
    out = tmp_path / "w.safetensors"
    assert train(own, out) == 0 and command("evaluate", own, "--weights", out, "--out", tmp_path / "e") == 0
    assert scenes.Classifier.load(out).steps == 14
    targets = from_simulator(simulate_targets(2, "train", 1))
    assert scenes.padded(targets) is targets
    more = scenes.padded(targets, 10)
    assert more.values.shape[1] == 20 and not more.observed[:, 16:].any()
    assert (more.times[:, 16:].T == more.times[:, 15]).all()


def three_frames(folder):
    """Targets of the form of the survey pack."""
    some = from_simulator(simulate_targets(18, "train", 1))
    return TargetSet(np.repeat(some.images, 2, 1)[:, :3], np.repeat(some.values, 3, 2), np.repeat(some.observed, 3, 2),
                     some.times, some.labels % 2, some.ids, ("agn", "star"), tuple("SMD"), tuple("abcdef"), "days")


def test_survey_targets_have_three_frames_and_are_nothing_for_scenes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifying, "read_ztf", three_frames)
    out = tmp_path / "w.safetensors"
    assert train("ztf", out, "--folder", tmp_path) == 0
    assert command("evaluate", "ztf", "--folder", tmp_path, "--weights", out, "--out", tmp_path / "e") == 0
    assert command("evaluate", "ztf", "--folder", tmp_path, "--out", tmp_path / "e") == 1
    assert "ztf has the classes, frames and channels agn, star; S, M, D" in capsys.readouterr().err
    files = scenes.of_simulator(simulate_scene(2, 256, psnr=12.0, seed=3), "one")
    with pytest.raises(ValueError, match="one: the classifier was trained on the frames S, M, D and the channels a, b"):
        scenes.answer(files, scenes.Classifier.load(out))


def test_simulated_targets(tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    assert train("deepspace", out, "--targets", 36) == 0
    assert "deepspace: 6 classes; targets: 36 for train, 30 for validation, 30 for test" in capsys.readouterr().out
    assert command("evaluate", "deepspace", "--targets", 12, "--weights", out, "--split", "all", "--out",
                   tmp_path / "e") == 0
    assert "deepspace, test: 12 targets of 6 classes" in capsys.readouterr().out


def test_what_cannot_be_is_refused(folder, own, tmp_path, capsys):
    def told(*words):
        assert command(*words) == 1
        return capsys.readouterr().err.splitlines()[-1]

    out = tmp_path / "w.safetensors"
    other = weights.save(tmp_path / "other.safetensors", torch.nn.Linear(2, 2), dict())
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    some = sorted((own / "1D").glob("*.npy"))[0]
    for words, expected in (
            (("train", tmp_path / "absent"), "no such folder and no known set; known are deepspace, ztf"),
            (("train", tmp_path / "empty"), "2D: no such folder"),
            (("train", folder, "--targets", 5), "--targets is of simulated targets, not of"),
            (("train", "deepspace", "--targets", 0), "--targets 0: expected 1 or more"),
            (("train", "deepspace", "--classes", "a,b"), "its classes are known; leave --classes out"),
            (("train", folder, "--classes", "a,a"), "expected different names separated by commas"),
            (("train", folder, "--classes", "ball,cube"), "unknown label 'plate'; known are ball, cube"),
            (("train", folder, "--classes", "ball,plate,cube"), "0 targets of class cube; expected 3 or more"),
            (("train", folder, "--out", tmp_path), "expected a file to write, NAME.safetensors"),
            (("train", folder, "--out", tmp_path / "file" / "w.safetensors"), "cannot be written"),
            (("train", folder, "--out", out, "--inception", tmp_path / "absent.pth"), "no such weights file"),
            (("train", folder, "--out", out, "--checkpoints", tmp_path / "file"), "cannot be written"),
            (("evaluate", folder, "--weights", other), "holds weights of Linear, expected Classifier"),
            (("evaluate", folder), "unknown label")):
        assert expected in told(*words), expected
    some.unlink()
    assert f"partner files missing: {some}" in told("train", own)
    for path in (own / "2D").iterdir():
        path.unlink()
    assert "the folder is empty" in told("train", own)
    assert not out.exists()


def test_sequences_of_another_length_are_refused(own, folder, tmp_path, capsys):
    out = tmp_path / "w.safetensors"
    assert train(folder, out) == 0
    for path in (own / "1D").glob("*.npy"):
        x = np.load(path)
        np.save(path, x[:8] if path.stem.endswith("_time") else np.concatenate([x[:8], x[16:24]]))
    assert command("evaluate", own, "--weights", out) == 1
    assert "copy: sequences of 8 samples, but the weights were trained on 16; resample" in capsys.readouterr().err
