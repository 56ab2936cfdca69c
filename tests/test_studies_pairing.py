"""`train cmi_fusion` and `evaluate cmi_fusion`: parts, folders and sets, resuming, what is refused."""

import json
import shutil
from functools import partial

import pandas as pd
import pytest
import small_asked
import small_fusion as small
import torch
from killing import killed_and_resumed
from PIL import Image

from cmf import cli, weights
from cmf.datasets import pairs
from cmf.datasets.pairs import Pair
from cmf.methods.cmi_fusion import CMIFusion
from cmf.studies import asked, fused, fusing, fusion, pairing

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return small_asked.encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def trained(reader, tmp_path_factory, tmp_path, monkeypatch):
    """A small network and few sentences in the place of the project's own."""
    monkeypatch.setenv("CMF_ROOT", str(tmp_path))
    for module in (fusing, fusion):
        monkeypatch.setattr(module, "CLIP", lambda *words, **more: reader)
    monkeypatch.setattr(fusion, "CMIFusion", lambda: CMIFusion(small.SHAPE))
    monkeypatch.setattr(fusion, "Texts", partial(asked.Texts, each=12))
    monkeypatch.setattr(pairing, "LOOKS", 4)
    return weights.save(tmp_path_factory.mktemp("start") / "w.safetensors", small.network(), small.SHAPE,
                        text_encoder=reader.fingerprint())


@pytest.fixture
def folder(tmp_path):
    """visible (JPEG in colour) and infrared (grey PNG) of six pairs."""
    root = tmp_path / "mine"
    for k in range(6):
        visible, infrared = small.pair(64, 80, seed=k)
        for kind, picture, suffix in (("visible", visible, "jpg"), ("infrared", infrared, "png")):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / kind / f"p{k}.{suffix}")
    return root


def command(what, *more):
    return cli.main([what, "cmi_fusion", *map(str, more)])


def train(data, out, start, *more):
    return command("train", "--data", data, "--out", out, "--start", start, "--crop", 48, "--steps", 1, "--batch", 4,
                   *more)


def test_pairs_are_divided_by_name():
    some = [Pair(f"{k:02d}", None, None) for k in (3, 1, 2, 0, 4, 6, 5)]
    stems = {part: [pair.stem for pair in own] for part, own in pairing.by_name(some).items()}
    assert stems == dict(train=["00", "01", "02", "03", "04"], validation=["05"], test=["06"])
    assert [len(own) for own in pairing.by_name(some[:2], ("train", "validation")).values()] == [1, 1]
    with pytest.raises(ValueError, match="2 pairs for train, validation, test; expected 3 or more"):
        pairing.by_name(some[:2])


def test_train_fuse_and_evaluate_a_folder(folder, tmp_path, trained, capsys):
    out = tmp_path / "w.safetensors"
    assert train(folder, out, trained) == 0
    told = capsys.readouterr().out
    assert "mine: 4 pairs for training, 0 of them simulated, 1 for validation; 2 crops of each" in told
    assert "before training" in told and "after epoch" in told
    facts = weights.facts(out)
    assert facts["start"] == "w.safetensors" and facts["data"].startswith("mine, 4 pairs") and facts["data_sha256"]
    assert command("evaluate", "--data", folder, "--weights", out, "--out", tmp_path / "e") == 0
    told = capsys.readouterr().out
    assert "mine, test: 1 pairs" in told and "not the pairs" not in told
    assert all(word in told for word in ("pixel maximum", "Laplacian pyramid", "CMI-Fusion", "VIF (up)"))
    table = pd.read_csv(tmp_path / "e" / "measures.csv").set_index("measure")
    record = json.loads((tmp_path / "e" / "measures.json").read_text())
    name = "mine, CMI-Fusion: VIF"
    assert table.value[name] == record["measures"][name]["value"] and record["pairs"] == 1
    assert set(pd.read_csv(tmp_path / "e" / "pairs.csv").stem) == {"p5"}
    both = ["--visible", folder / "visible", "--infrared", folder / "infrared"]
    assert cli.main(list(map(str, ["fuse", *both, "--weights", out, "--out", tmp_path / "f", "--no-measures"]))) == 0
    shutil.copy(folder / "visible" / "p0.jpg", folder / "visible" / "p5.jpg")
    assert command("evaluate", *both, "--weights", out, "--out", tmp_path / "e") == 0
    assert "these are not the pairs that the weights were trained on" in capsys.readouterr().out
    assert command("evaluate", *both, "--weights", out, "--out", tmp_path / "e", "--split", "all", "--most", 2) == 0
    assert "visible, all: 2 pairs" in capsys.readouterr().out


def test_killed_and_resumed_equals_uninterrupted(folder, tmp_path, monkeypatch, capsys, trained):
    run = lambda out, checkpoints, *more: train(folder, out, trained, "--checkpoints", checkpoints, *more)
    killed_and_resumed(run, tmp_path, monkeypatch, epoch=1)
    capsys.readouterr()
    assert run(tmp_path / "cut.safetensors", tmp_path / "cut", "--medical") == 1
    assert "holds a run with other data or settings" in capsys.readouterr().err


def test_an_untrained_network_learns_to_read_first(folder, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(fusion, "learn_to_read", lambda *words, **more: read.append(more["seed"]))
    assert train(folder, tmp_path / "w.safetensors", "none", "--seed", 3, "--epochs", 1) == 0
    assert read == [3] and weights.facts(tmp_path / "w.safetensors")["start"] == "none"


def test_a_training_that_does_not_help_says_so(folder, tmp_path, trained, capsys):
    assert train(folder, tmp_path / "w.safetensors", trained, "--lr", 0) == 0
    assert f"training did not help: {trained} is better on these validation pairs" in capsys.readouterr().out


def test_simulated_pairs_alone_and_beside_others(folder, tmp_path, trained, monkeypatch, capsys):
    monkeypatch.setattr(asked, "simulated", lambda n, *words: small_asked.pictures(n))
    out = tmp_path / "w.safetensors"
    assert train("street", out, trained, "--simulated", 5, "--epochs", 1) == 0
    assert "street: 5 pairs for training, 5 of them simulated, 4 for validation" in capsys.readouterr().out
    assert train(folder, out, trained, "--simulated", 5, "--epochs", 1) == 0
    assert "mine: 9 pairs for training, 5 of them simulated, 5 for validation" in capsys.readouterr().out
    monkeypatch.setattr(fused, "simulated", partial(fused.simulated, size=(64, 80)))
    assert command("evaluate", "--data", "street", "--simulated", 2, "--weights", out, "--out", tmp_path / "e") == 0
    assert "street, test: 2 pairs" in capsys.readouterr().out


def options(**words):
    return cli.argparse.Namespace(**dict(data=None, visible=None, infrared=None, folder=None) | words)


def test_folders_and_sets_with_parts_of_their_own(folder, tmp_path, monkeypatch):
    root = tmp_path / "split"
    for part in ("train", "test"):
        shutil.copytree(folder, root / part)
    found = pairing.parts(options(data=str(root)))
    assert {part: len(some) for part, some in found.items()} == dict(train=5, validation=1, test=6)
    some = {part: [Pair(f"{part}{k}", None, None) for k in range(5)] for part in ("train", "test", "validation")}

    def layout(name, root, split=None):
        known = dict(tno=some, msrs={part: some[part] for part in ("train", "test")}).get(name, {})
        if split and split not in known:
            raise ValueError(f"split {split!r} of {name}: expected other ones")
        return known[split] if split else some["train"]

    monkeypatch.setattr(pairs, "layout", layout)
    count = lambda name: {part: len(own) for part, own in pairing.parts(options(data=name)).items()}
    assert count("tno") == dict(train=5, validation=5, test=5) and count("msrs") == dict(train=4, validation=1, test=5)
    assert count("m3fd") == dict(train=3, validation=1, test=1)
    monkeypatch.setattr(pairs, "layout", lambda name, root, part: some[part])
    assert count("real") == dict(train=30, validation=10, test=30)
    assert pairing.parts(options(data="real"))["train"][-1][1] == "spect-mri"


def test_what_cannot_be_is_refused(folder, tmp_path, trained, capsys):
    def told(*words):
        assert command(*words) == 1, words
        return capsys.readouterr().err.splitlines()[-1]

    other = weights.save(tmp_path / "other.safetensors", torch.nn.Linear(2, 2), dict())
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    out, begin = tmp_path / "w.safetensors", ("--start", trained)
    data = ("--data", folder, *begin, "--out", out)
    for words, expected in (
            (("train",), "expected --data NAME, or --visible DIR with --infrared DIR"),
            (("train", "--data", folder, "--visible", folder), "expected --data NAME, or --visible"),
            (("evaluate", "--visible", folder, "--weights", trained), "expected --data NAME, or --visible"),
            (("train", "--data", tmp_path / "absent", *begin), "no such folder and no known set; known are street"),
            (("train", "--data", tmp_path / "empty", *begin), "visible: no such picture or folder"),
            (("train", *data), "p0: 80 x 64 pixels (width x height), smaller than crops of 128; leave it out"),
            (("train", *data, "--crop", 40), "--crop 40 and --steps 100: expected 48 and 1 or more"),
            (("train", *data, "--simulated", -1), "--simulated -1: expected 0 or more"),
            (("train", "--data", "street", "--simulated", 0, *begin), "leaves nothing to train with; expected 1 or"),
            (("train", "--data", folder, "--out", tmp_path), "expected a file to write, NAME.safetensors"),
            (("train", "--data", folder, "--out", tmp_path / "file" / "w.safetensors"), "cannot be written"),
            (("train", "--data", folder, "--start", other), "holds weights of Linear, expected CMIFusion"),
            (("train", "--data", folder, "--start", tmp_path / "absent"), "no weights at"),
            (("evaluate", "--data", folder, "--weights", other), "holds weights of Linear, expected CMIFusion"),
            (("evaluate", "--data", folder, "--weights", trained, "--most", 0), "--most 0: expected 1 or more")):
        assert expected in told(*words), expected
    shutil.copytree(folder, tmp_path / "split" / "train")
    assert "split has no pairs for test; there are train, validation, and --split all" in told(
        "evaluate", "--data", tmp_path / "split", "--weights", trained)
    shutil.move(tmp_path / "split" / "train", tmp_path / "split" / "validation")
    assert "split has no pairs for train; give some, or simulated ones with --simulated" in told(
        "train", "--data", tmp_path / "split", *begin, "--crop", 48)
    for path in sorted((folder / "infrared").iterdir()):
        path.rename(path.with_name(f"x{path.name}"))
    assert "no name is in both folders; in" in told("train", *data)
    for path in (folder / "infrared").iterdir():
        path.unlink()
    assert "infrared: no pictures in it" in told("train", *data)
    assert not out.exists()
