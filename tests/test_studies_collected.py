"""Collections of videos: parts, labels, columns, training, measures, and the commands `train` and `evaluate`."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from small_footage import detector, film, tiny

from cmf import cli
from cmf.datasets.anomaly import VideoItem
from cmf.datasets.video import write_video
from cmf.simulate.surveillance import simulate_clips
from cmf.studies import anomaly, collected, footage, tracking, watching
from cmf.training import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, encoders):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "footage_cache"))
    monkeypatch.setitem(watching.ENCODERS, "small", encoders)


def burst(path, odd):
    """Ten seconds of noise; an odd one flickers from 4 to 8 s."""
    rng = np.random.default_rng(len(str(path.stem)) + ord(path.stem[-1]))
    ground = rng.integers(0, 90, (64, 96, 3)).astype(np.uint8)
    flash = lambda k: 90 * (k % 2) * (odd and 40 <= k < 80)
    return write_video(path, (np.roll(ground, flash(k) // 6, 1) + np.uint8(flash(k)) for k in range(100)), 10)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder of 8 training and 4 test clips with annotations and captions, half of them odd."""
    folder = tmp_path_factory.mktemp("set") / "clips"
    (folder / "videos").mkdir(parents=True)
    rows, words = ["video,split,label,fps,frames,event,start,end"], ["video,start,end,caption"]
    for k in range(12):
        name, split, odd = f"clip{k:02d}", "train" if k < 8 else "test", k % 2
        burst(folder / "videos" / f"{name}.mp4", odd)
        rows.append(f"{name},{split},{'flash,10,100,flash,4.0,8.0' if odd else 'normal,10,100,,,'}")
        words += [f"{name},{t},{t + 2},a {'car' if odd and t == 4 else 'person'} at night" for t in range(0, 10, 2)]
    (folder / "annotations.csv").write_text("\n".join(rows) + "\n")
    (folder / "captions.csv").write_text("\n".join(words) + "\n")
    return folder


def seen(count, seed=0):
    rng = np.random.default_rng(seed)
    return dict(edges=2.0 * np.arange(count + 1), visual=rng.normal(size=(count, 44)).astype(np.float32),
                motion=rng.normal(size=(count, 4)).astype(np.float32))


def item(name, label, events=()):
    return VideoItem(name, None, label, "train", events)


def test_columns_of_a_collection(clips, encoders):
    train = collected.collect(collected.find(str(clips), "train"), encoders)
    table = train.table(encoders, "frames").columns
    assert table["visual"].shape == (8, 5, 44) and table["labels"].tolist() == [0, 1] * 4
    assert table["frame_labels"][1].tolist() == [0, 0, 1, 1, 0] and table["frame_labels"][0].sum() == 0
    assert table["text_time"][0, 0] == pytest.approx(0.1) and table["segments"].all()
    assert "frame_labels" not in train.table(encoders).columns
    scores, labels = train.frames(detector(encoders), encoders)
    assert [len(s) for s in scores] == [100] * 8 and [y.sum() for y in labels] == [0, 40] * 4


def test_long_videos_are_averaged_and_their_captions_thinned():
    whole = seen(500)
    part = collected.shortened(whole, 96)
    assert part["visual"].shape == (96, 44)
    for name in ("visual", "motion"):
        assert np.allclose(part[name][0], whole[name][:5].mean(0), atol=1e-6)
    assert part["edges"][0] == 0 and part["edges"][-1] == 1000 and (np.diff(part["edges"]) >= 10).all()
    assert collected.shortened(seen(96))["visual"].shape == (96, 44)
    captions = [(2.0 * k, 2.0 * k + 2, str(k)) for k in range(500)]
    thin = collected.nearest(captions, part["edges"])
    assert len(thin) == 96 and [c[0] for c in thin] == sorted(c[0] for c in thin)
    assert collected.nearest(captions[:3], part["edges"]) == captions[:3]


def test_validation_is_held_out_by_video_and_class():
    items = [item(f"n{k}", "normal") for k in range(10)] + [item(f"o{k}", "fight") for k in range(5)]
    train, validation = collected.held_out(items, 3)
    assert sorted(i.id for i in train + validation) == sorted(i.id for i in items)
    assert [i.anomalous for i in validation] == [False, False, True]
    assert [i.id for i in collected.held_out(items, 3)[1]] == [i.id for i in validation]
    with pytest.raises(ValueError, match="1 anomalous videos for training; expected at least 2, so that one can be"):
        collected.held_out(items[:11], 0)


def test_labels_of_frames_must_exist(encoders):
    part = collected.Collected([item("a", "fight", None), item("b", "normal")], [seen(3), seen(3)], [[], []])
    with pytest.raises(ValueError, match=r"1 of 2 videos have no labels of frames \(a, ...\); train with"):
        part.table(encoders, "frames")


def test_validation_by_videos_where_frames_have_no_labels(encoders, monkeypatch):
    part = collected.Collected([item("a", "fight", None), item("b", "normal")], [seen(3), seen(3, 1)], [[], []])
    table = part.table(encoders)
    for first, auc in ((2.0, 1.0), (-2.0, 0.0)):
        logits = torch.tensor([[0.0, first, -3.0], [-1.0, -0.5, -2.0]]) if first > 0 else torch.full((2, 3), -3.0)
        logits[1, 0] += 1.0 * (first < 0)
        monkeypatch.setattr(anomaly, "predict", lambda model, table, logits=logits: dict(logits=logits))
        assert anomaly.validate(None, table, collected.judge) == auc


def test_named_collections_are_found_or_missed(tmp_path, monkeypatch):
    monkeypatch.setenv("CMF_DATA", str(tmp_path))
    for name in ("ucf-crime", "xd-violence", "shanghaitech"):
        with pytest.raises(FileNotFoundError, match=f"no folder of {name}; give it with --folder, or set CMF_DATA"):
            collected.find(name, "train")
    folder = tmp_path / "ucf_crime"
    (folder / "Fighting").mkdir(parents=True)
    film(folder / "Fighting" / "Fighting001_x264.mp4", 10)
    (folder / "Anomaly_Train.txt").write_text("Fighting/Fighting001_x264.mp4\n")
    assert [i.label for i in collected.find("ucf-crime", "train")] == ["Fighting"]
    assert collected.find("ucf-crime", "validation") == []
    xd = tmp_path / "xd_violence" / "train"
    xd.mkdir(parents=True)
    film(xd / "v1_label_B1-0-0.mp4", 10)
    assert [i.label for i in collected.find("xd-violence", "train")] == ["fighting"]
    (tmp_path / "shanghaitech").mkdir()
    with pytest.raises(FileNotFoundError, match="SHANGHAI_train.txt"):
        collected.find("shanghaitech", "train")


def test_folders_need_labels(tmp_path):
    film(tmp_path / "a.mp4", 10)
    with pytest.raises(ValueError, match="videos without labels; put them into normal/ and one folder a class"):
        collected.find(str(tmp_path), "train")
    (tmp_path / "normal").mkdir()
    (tmp_path / "fight").mkdir()
    (tmp_path / "a.mp4").rename(tmp_path / "normal" / "a.mp4")
    film(tmp_path / "fight" / "b.mp4", 10)
    assert [i.label for i in collected.find(str(tmp_path), "train")] == ["fight", "normal"]
    assert collected.find(str(tmp_path), "validation") == []


def test_a_collection_over_seeds(clips, encoders):
    table = collected.over_seeds(str(clips), encoders, 2, Recipe(epochs=1, batch=8))
    assert list(table) == ["seed", "measure", "value", "low", "high"]
    auc = table[table.measure == "roc_auc"]
    assert auc.seed.tolist() == [1, 2] and auc.value.between(0, 1).all() and auc.value.nunique() == 2
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        collected.over_seeds(str(clips), encoders, 0)


def test_ped2_takes_a_weak_split(monkeypatch):
    items = [VideoItem(f"train/{k:02d}", None, "normal", "train", ()) for k in range(1, 17)]
    items += [VideoItem(f"test/{k:02d}", None, "anomalous", "test", ((0, 9),)) for k in range(1, 13)]
    monkeypatch.setattr(collected.readers, "read_ped2", lambda folder: items)
    train, test = (collected.find("ped2", split, seed=2) for split in ("train", "test"))
    assert sum(i.anomalous for i in train) == 6 and len(train) == 10 and len(test) == 18
    assert not {i.id for i in train} & {i.id for i in test} and collected.find("ped2", "validation") == []


def test_measures_have_intervals_and_a_base_rate():
    rng = np.random.default_rng(0)
    labels = [(np.arange(50) > 30).astype(int) * (k % 2) for k in range(30)]
    scores = [np.clip(0.5 * y + rng.uniform(0, 0.6, 50), 0, 1) for y in labels]
    table = collected.evaluation(scores, labels, None, 0.5).set_index("measure")
    assert table.value["base_rate"] == pytest.approx(0.19) and table.value["frames"] == 1500
    for name in ("roc_auc", "average_precision", "ano_auc", "macro_auc"):
        assert table.low[name] <= table.value[name] <= table.high[name] and table.low[name] < table.high[name]
    assert 0 <= table.value["event_recall_0.5"] <= table.value["event_recall_0.1"] <= 1


@pytest.mark.parametrize("labels", ["videos", "frames"])
def test_train_and_evaluate_a_folder(clips, tmp_path, monkeypatch, capsys, labels):
    told = []
    monkeypatch.setattr(tracking, "check", lambda names: None)
    monkeypatch.setattr(tracking.Curves, "tell", lambda self, rows, recipe: told.append((len(rows), recipe["epochs"])))
    out = tmp_path / "w.safetensors"
    words = ["cmaf", "--data", str(clips)]
    assert cli.main(["train", *words, "--out", str(out), "--epochs", "12", "--labels", labels, "--track", "wandb"]) == 0
    assert "threshold" in capsys.readouterr().out and told[-1] == (12, 12)
    watcher = watching.Watcher.load(out)
    assert watcher.facts["labels"] == labels and watcher.facts["data"] == "clips, 6 videos for training"
    assert cli.main(["evaluate", *words, "--weights", str(out), "--out", str(tmp_path / "e")]) == 0
    told = capsys.readouterr().out
    assert "clips: 4 videos, 400 frames, 20.0% anomalous" in told and "roc auc" in told
    table = pd.read_csv(tmp_path / "e" / "measures.csv").set_index("measure")
    record = json.loads((tmp_path / "e" / "measures.json").read_text())
    assert table.value["roc_auc"] == record["measures"]["roc_auc"]["value"] and record["weights"]["labels"] == labels
    assert labels == "videos" or table.value["roc_auc"] > 0.9         # six labels of videos teach nothing reliable


def test_the_bundle_of_simulated_clips(encoders, tmp_path, monkeypatch):
    noise = lambda clip, times, size=(120, 160): np.random.default_rng(len(times)).integers(
        0, 255, (len(times), *size, 3)).astype(np.uint8)
    monkeypatch.setattr(footage, "pictures", noise)                     # rendering is slow and not what is tested
    clips = dict(train=3, validation=12, test=12)
    path = tmp_path / "w.safetensors"
    found = collected.train_bundle(path, clips, 0, 1, encoders, Recipe(epochs=1, batch=8))
    watcher = watching.Watcher.load(path)
    assert watcher.facts["frame_auc_test"] == f"{found['roc_auc']:.4f}" and watcher.facts["labels"] == "frames"
    assert list(found["history"].epoch) == [0]
    assert watcher.settings.threshold == found["threshold"] and watcher.encoders() == encoders
    scores, labels, odd = collected.simulated(watcher, encoders, 12, 0)
    assert anomaly.anomaly.frame_auc(scores, labels) == pytest.approx(found["roc_auc"])
    assert odd == [clip.label > 0 for clip in simulate_clips(12, "test", 0)]


def test_commands_refuse_what_cannot_be(clips, encoders, tmp_path, capsys):
    def told(*words):
        assert cli.main(list(map(str, words))) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "expected a file to write, NAME.safetensors" in told("train", "cmaf", "--data", clips, "--out", tmp_path)
    weights = detector(encoders).save(tmp_path / "w.safetensors")
    for folder, label in (("normal", "x"), ("fight", "y")):
        (tmp_path / "set" / folder).mkdir(parents=True)
        film(tmp_path / "set" / folder / f"{label}.mp4", 10)
    assert "2 test videos, 1 without annotated frames (fight/y); measures over frames need" in told(
        "evaluate", "cmaf", "--data", tmp_path / "set", "--weights", weights, "--out", tmp_path / "e")
    out = tmp_path / "v.safetensors"
    assert "expected at least 2" in told("train", "cmaf", "--data", tmp_path / "set", "--out", out) and not out.exists()
