"""`cmf segment`, `train cmfs` and `evaluate cmfs`: what is written, what is refused, runs that are resumed."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from killing import killed_and_resumed
from PIL import Image
from torch import nn

from cmf import cli, weights
from cmf.datasets.segmentation import CLASSES, PALETTE, street
from cmf.encoders.clip import CLIP
from cmf.methods.cmfs import CMFS, small
from cmf.studies import labelling, segment
from cmf.studies.segmenter import Segmenter, Views, starts

LITTLE = dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), embed=8, full=4)


@pytest.fixture(scope="module")
def encoder():
    return CLIP("small", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def segmenter(encoder):
    torch.manual_seed(0)
    return Segmenter(CMFS(small(9, encoder.texts(["a"]).pooled.shape[1], **LITTLE)), CLASSES["street"], encoder, "cpu")


@pytest.fixture(scope="module")
def file(segmenter, tmp_path_factory):
    return segmenter.save(tmp_path_factory.mktemp("weights") / "little.safetensors", data="nothing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three scenes as pictures with labels; the third of an odd size."""
    root, made = tmp_path_factory.mktemp("scenes"), street(3, "test", 2, (48, 64))
    for name in ("Visible", "Infrared", "Label"):
        (root / name).mkdir()
        for k in range(3):
            plane = made[name.lower()][k][:37, :51] if k == 2 else made[name.lower()][k]
            Image.fromarray(plane).save(root / name / f"s{k}.png")
    return root


def command(folder, *more):
    return ["segment", "--visible", str(folder / "Visible"), "--infrared", str(folder / "Infrared"), *map(str, more)]


def test_segment_writes_labels_overlays_fused_and_scores(folder, file, segmenter, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(folder, "--out", out, "--weights", file, "--label", folder / "Label")) == 0
    assert "3 of 3 pairs labelled" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["classes.csv", "fused", "labels", "legend.png", "overlays",
                                                     "run.json", "scores.csv"]
    found = np.asarray(Image.open(out / "labels" / "s2.png"))
    visible, infrared = (np.asarray(Image.open(folder / name / "s2.png")) for name in ("Visible", "Infrared"))
    own = segmenter.segment(visible, infrared)
    assert found.shape == (37, 51) and (found == own.label).mean() > 0.99
    assert Image.open(out / "labels" / "s2.png").getpalette()[:27] == PALETTE["street"].reshape(-1).tolist()
    fused = np.asarray(Image.open(out / "fused" / "s2.png").convert("RGB")) / 255
    assert np.abs(fused - own.fused).max() < 0.02
    table = pd.read_csv(out / "classes.csv")
    assert list(table.stem) == ["s0", "s1", "s2"] and table.miou.between(0, 1).all()
    np.testing.assert_allclose(table.filter(like="share_").sum(axis=1), 1, rtol=1e-5)
    assert "miou_foreground" in list(pd.read_csv(out / "scores.csv").measure)
    assert json.loads((out / "run.json").read_text())["weights"]["file"] == "little.safetensors"


def test_one_pair_of_files_and_views(folder, file, tmp_path):
    one = ["segment", "--visible", str(folder / "Visible" / "s0.png"), "--infrared",
           str(folder / "Infrared" / "s0.png"), "--weights", str(file), "--label", str(folder / "Label" / "s0.png")]
    more = ["--flip", "--scales", "0.75", "1", "--window", "40", "48"]
    assert cli.main([*one, "--out", str(tmp_path / "a"), *more]) == 0
    assert [p.name for p in (tmp_path / "a" / "overlays").iterdir()] == ["s0.png"]


def test_bad_pairs_are_named_and_the_others_done(folder, file, tmp_path, capsys):
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    Image.fromarray(np.full((48, 64), 30, np.uint8)).save(bad / "Label" / "s0.png")
    Image.fromarray(np.zeros((20, 64), np.uint8)).save(bad / "Label" / "s1.png")
    colour = np.random.default_rng(0).integers(0, 255, (37, 51, 3), dtype=np.uint8)
    Image.fromarray(colour).save(bad / "Infrared" / "s2.png")
    shutil.copy(bad / "Visible" / "s0.png", bad / "Visible" / "s3.png")
    shutil.copy(bad / "Infrared" / "s0.png", bad / "Infrared" / "s3.png")
    out = tmp_path / "out"
    assert cli.main(command(bad, "--out", out, "--weights", file, "--label", bad / "Label")) == 1
    told = capsys.readouterr()
    assert "label values 30, outside the 9 classes 0 to 8" in told.err
    assert "labels of 20 x 64 rows and columns for a picture of 48 x 64" in told.err
    assert "the infrared picture has colours" in told.err and "1 of 4 pairs labelled" in told.out
    assert [p.name for p in (out / "labels").iterdir()] == ["s3.png"]


def test_refusals_before_the_work(folder, file, tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    (tmp_path / "none").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "none" / "other.png")
    for more, words in ((("--out", full, "--weights", file), "is not an empty folder"),
                        (("--out", tmp_path / "o", "--weights", tmp_path / "no.safetensors"), "no weights at"),
                        (("--out", tmp_path / "o", "--label", tmp_path / "none"), "no label picture bears the name"),
                        (("--out", tmp_path / "o", "--scales", "0"), "scales (0.0,): expected one or more factors"),
                        (("--out", tmp_path / "o", "--window", "8", "90"), "a window of 8 x 90: expected 32 rows"),
                        (("--out", tmp_path / "o", "--weights", file, "--device", "abacus"), "'abacus' cannot be")):
        assert cli.main(command(folder, *more)) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    pair = segment.match(folder / "Visible", folder / "Infrared")[0]
    with pytest.raises(ValueError, match="--span 9 9: expected two counts, the first smaller"):
        segment.pictures(pair, span=(9, 9))


def test_raw_thermal_counts(tmp_path):
    counts = np.linspace(20000, 30000, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(counts).save(tmp_path / "t.png")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "v.png")
    pair = segment.match(tmp_path / "v.png", tmp_path / "t.png")[0]
    _, thermal = segment.pictures(pair, span=(20000, 30000))
    assert thermal.min() == 0 and thermal.max() == pytest.approx(1, abs=1e-4)


def test_weights_state_what_they_are(file, segmenter, encoder, tmp_path):
    again = Segmenter.load(file, "cpu", encoder)
    assert again.classes == segmenter.classes and again.network.config == segmenter.network.config
    assert "text" not in segmenter.network.state_dict() and again.network.text is not None
    other = weights.save(tmp_path / "other.safetensors", nn.Linear(2, 2), {})
    with pytest.raises(ValueError, match="holds weights of Linear, expected CMFS; give weights of `python -m cmf tr"):
        Segmenter.load(other, "cpu", encoder)
    network = segmenter.network
    for config, words in ((dict(vars(network.config), widths=[8]), "states a configuration that cannot be built"),
                          (dict(vars(network.config), depth=3), "states a configuration that cannot be built"),
                          (dict(vars(network.config), embed=16), "does not fit this CMFS: ")):
        path = weights.save(tmp_path / "x.safetensors", network, config, classes=json.dumps(segmenter.classes),
                            text_encoder=encoder.fingerprint())
        with pytest.raises(ValueError, match=words):
            Segmenter.load(path, "cpu", encoder)
    path = weights.save(tmp_path / "x.safetensors", network, network.config, classes=json.dumps(segmenter.classes),
                        text_encoder="f" * 64)
    with pytest.raises(ValueError, match="trained with the text encoder ffffffffffff, and"):
        Segmenter.load(path, "cpu", encoder)
    with pytest.raises(ValueError, match="3 names for a network of 9 classes"):
        Segmenter(network, CLASSES["cwfid"], encoder)
    with pytest.raises(ValueError, match="the network reads text of width 7,"):
        Segmenter(CMFS(small(9, 7, **LITTLE)), CLASSES["street"], encoder)


def test_large_weights_are_kept_in_half(segmenter, tmp_path, monkeypatch, encoder):
    from cmf.studies import segmenter as module

    monkeypatch.setattr(module, "HALF", 1000)
    network = segmenter.network
    network.join[1].norm.running_var[0] = 1e6
    path = segmenter.save(tmp_path / "half.safetensors")
    again = Segmenter.load(path, "cpu", encoder)
    assert next(again.network.parameters()).dtype == torch.float32 == next(segmenter.network.parameters()).dtype
    x = np.random.default_rng(0).random((40, 48, 3), np.float32)
    a, b = (s.segment(x, x[..., 0]).share for s in (segmenter, again))
    assert 0 < np.abs(a - b).max() < 0.02
    assert again.network.join[1].norm.running_var[0] == 1e6, "statistics keep their range"
    weight = network.join[1].short.weight
    kept = weight.data.clone()
    weight.data += 1e5
    with pytest.raises(ValueError, match="join.1.short.weight has values beyond 65504 or NaN; train with a small"):
        segmenter.save(tmp_path / "large.safetensors")
    weight.data.copy_(kept)
    network.join[1].norm.running_var[0] = 1


def test_any_size_whole_or_in_windows(segmenter):
    rng = np.random.default_rng(1)
    for size in ((1, 1), (5, 70), (33, 47), (64, 96)):
        found = segmenter.segment(rng.random((*size, 3), np.float32), rng.random(size, np.float32))
        assert found.label.shape == size and found.fused.shape == (*size, 3) and found.share.shape == (9, *size)
        np.testing.assert_allclose(found.share.sum(0), 1, rtol=1e-4)
    x, u = rng.random((64, 96, 3), np.float32), rng.random((64, 96), np.float32)
    whole, same = segmenter.segment(x, u), segmenter.segment(x, u, Views(window=(64, 96)))
    np.testing.assert_array_equal(whole.share, same.share)
    parts = segmenter.segment(x, u, Views(window=(48, 48)))
    assert np.isfinite(parts.fused).all() and 0 <= parts.fused.min() and parts.fused.max() <= 1
    assert np.abs(parts.fused - whole.fused).mean() < 0.1
    turned = segmenter.segment(x[:, ::-1].copy(), u[:, ::-1].copy(), Views(flip=True)).share[..., ::-1]
    np.testing.assert_allclose(segmenter.segment(x, u, Views(flip=True)).share, turned, atol=1e-5)
    assert starts(100, 60) == [0, 40] and starts(60, 60) == [0] and starts(200, 60)[-1] == 140


def test_pictures_that_are_none(segmenter):
    grey, colour = np.zeros((40, 40), np.float32), np.zeros((40, 40, 3), np.float32)
    for visible, infrared, words in (
            (grey, grey, r"the visible picture has shape \(40, 40\), expected \(rows, columns, 3\)"),
            (colour, colour, r"the infrared picture has shape \(40, 40, 3\), expected \(rows, columns\)"),
            (colour, grey[:20], "the visible picture is 40 x 40 and the infrared one 20 x 40"),
            (colour + np.nan, grey, "the visible picture has values from nan to nan"),
            (colour, grey + 200, "the infrared picture has values from 200 to 200, expected")):
        with pytest.raises(ValueError, match=words):
            segmenter.segment(visible, infrared)


def test_colours_of_any_classes():
    found = segment.palette(("soil", "one", "two"))
    assert found[0].tolist() == PALETTE["cwfid"][0].tolist() and len(np.unique(found, axis=0)) == 3
    shown = segment.overlay(np.full((4, 4, 3), 100.0), np.array([[0, 0, 1, 1]] * 4), found)
    assert (shown[:, :2] == 100).all() and (shown[0, 2] == found[1]).all() and (shown[0, 3] != 100).any()


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Training in seconds: a little network, few windows."""
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CMF_ROOT", str(tmp_path))
    monkeypatch.setattr(labelling.segmenting.cmfs, "small", lambda *a, **more: small(*a, **LITTLE | more))
    monkeypatch.setattr(labelling.segmenting, "WINDOWS", 8)
    demo = labelling.Profile("small", (32, 48), (1.0,), dict(epochs=3, batch=4, lr=2e-3))
    monkeypatch.setitem(labelling.PROFILES, "demo", demo)
    monkeypatch.setattr(labelling, "SCENES", dict(train=4, validation=4, test=2))


def test_train_killed_and_resumed_equals_uninterrupted(quick, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed, so that no curves can be told")

    def train(out, run):
        return cli.main(["train", "cmfs", "--data", "street", "--profile", "demo", "--out", str(out), "--run", str(run),
                         "--track", "tensorboard"])

    assert len(killed_and_resumed(train, tmp_path, monkeypatch, epoch=2)) == 3
    assert "foreground mIoU" in capsys.readouterr().out
    assert list((tmp_path / "build" / "tracked" / "whole").glob("events.*")), "its curves are not told"


def test_train_and_evaluate_a_folder(quick, folder, tmp_path, capsys):
    names = ",".join(CLASSES["street"])
    told = ["--data", str(folder), "--classes", names]
    (folder / "train.txt").write_text("s0\ns1\n")
    (folder / "test.txt").write_text("s2\n")
    assert cli.main(["train", "cmfs", *told, "--epochs", "1", "--out", str(tmp_path / "f.safetensors")]) == 0
    assert cli.main(["evaluate", "cmfs", *told, "--weights", str(tmp_path / "f.safetensors"), "--out",
                     str(tmp_path / "e")]) == 0
    assert "1 pictures, 95 % intervals" in capsys.readouterr().out
    measures = json.loads((tmp_path / "e" / "measures.json").read_text())["measures"]
    assert 0 <= measures["miou"]["value"] <= 1 and len(measures) == 5 + 9
    for argv, words in (
            (["evaluate", "cmfs", "--data", str(folder), "--weights", str(tmp_path / "f.safetensors")],
             "give weights that were trained on such labels"),
            (["train", "cmfs", "--data", "street", "--classes", "a,b"], "--classes beside --data street"),
            (["train", "cmfs", "--data", str(folder), "--classes", "a,a"], "two or more different names"),
            (["train", "cmfs", "--data", str(folder), "--scenes", "3"], "--scenes is of simulated streets"),
            (["train", "cmfs", "--data", str(tmp_path / "absent")], "no such folder and no known set; known are mfnet"),
            (["train", "cmfs", "--data", "street", "--out", str(tmp_path)], "expected a file to write"),
            (["train", "cmfs", "--data", "street", "--arm", "late"], "no arm 'late'"),
            (["train", "cmfs", "--data", "street", "--pretrained", str(tmp_path / "no.pth")], "no such file")):
        assert cli.main(argv) == 1
        assert words in capsys.readouterr().err
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"x")
    assert cli.main(["train", "cmfs", "--data", "street", "--pretrained", str(broken)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_encoders_start_from_vmamba_weights(segmenter, tmp_path):
    state = {name: torch.randn_like(x) for name, x in segmenter.network.encoders[0].state_dict().items()}
    torch.save(dict(model=state), tmp_path / "v.pth")
    network = CMFS(segmenter.network.config)
    labelling.started(network, tmp_path / "v.pth")
    for encoder in network.encoders:
        assert all(torch.equal(x, state[name]) for name, x in encoder.state_dict().items())
