"""`python -m cmf score`: which videos, their captions and truth, the files written, and every bad input in one line."""

import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import torch
from small_footage import detector, film, tiny

from cmf import cli
from cmf.datasets.video import Video, write_video
from cmf.studies import score, watching

HEAD = "video,start,end,caption\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return detector(tiny(folder)).save(folder / "w.safetensors", data="random numbers")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "footage_cache"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clips(tmp_path):
    """A folder as `data make surveillance` writes it: two films, one with an event from 4 to 6 s."""
    folder = tmp_path / "clips"
    (folder / "videos").mkdir(parents=True)
    for name in ("a", "b"):
        film(folder / "videos" / f"{name}.mp4")
    (folder / "annotations.csv").write_text("video,split,label,fps,frames,event,start,end\n"
                                            "a,test,fight,10,120,fight,4.0,6.0\nb,test,normal,10,120,,,\n")
    (folder / "captions.csv").write_text(HEAD + "a,0,6,a person walks\na,6,12,two red cars\nb,0,12,a street at night\n")
    return folder


def run(weights, *words, out=None):
    return cli.main(["score", "--weights", str(weights), "--out", str(out), *map(str, words)])


def test_a_folder_of_clips_with_captions_and_truth(clips, weights, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(weights, clips, out=out) == 0
    assert "2 videos; open" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["a.html", "a.png", "b.html", "b.png", "events.json", "index.html",
                                                     "scores.csv"]
    table = pd.read_csv(out / "scores.csv")
    assert table.video.tolist() == ["a"] * 6 + ["b"] * 6 and table.end.max() == 12 and table.score.between(0, 1).all()
    truth = {record["video"]: record["truth"] for record in json.loads((out / "events.json").read_text())}
    assert truth == {"a": [[4.0, 6.0]], "b": []}
    page = (out / "a.html").read_text()
    assert "captions given (2)" in page and ">walks<" in page and "trained on random numbers" in page
    before = (out / "scores.csv").read_bytes()
    assert run(weights, clips / "videos" / "b.mp4", clips / "videos" / "a.mp4", clips, out=out) == 0
    assert sorted((out / "scores.csv").read_text().splitlines()) == sorted(before.decode().splitlines())


def test_captions_are_written_given_or_left_out(clips, weights, tmp_path):
    (clips / "captions.csv").rename(tmp_path / "words.csv")
    found = {}
    for words in ("blip", "none", str(tmp_path / "words.csv")):
        assert run(weights, clips / "videos", "--captions", words, "--threshold", "0.99", out=tmp_path / "out") == 0
        found[words] = pd.read_csv(tmp_path / "out" / "scores.csv").score.to_numpy()
        said = {"blip": "captions written by BLIP", "none": "no captions"}.get(words, "captions given (2)")
        assert said in (tmp_path / "out" / "a.html").read_text()
        assert json.loads((tmp_path / "out" / "events.json").read_text())[0]["threshold"] == 0.99
    assert len({tuple(scores) for scores in found.values()}) == 3
    assert run(weights, clips, out=tmp_path / "out") == 0                    # no captions.csv is left: BLIP again
    assert np.array_equal(pd.read_csv(tmp_path / "out" / "scores.csv").score, found["blip"])


def test_a_folder_of_frames_needs_its_rate(clips, weights, tmp_path, capsys):
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for k, (_, picture) in enumerate(Video(clips / "videos" / "a.mp4").frames()):
        Image.fromarray(picture).save(folder / f"{k:03d}.png")
    assert run(weights, folder, "--fps", "10", out=tmp_path / "out") == 0
    assert len(pd.read_csv(tmp_path / "out" / "scores.csv")) == 6
    assert run(weights, folder, out=tmp_path / "o") == 1
    assert "a folder of frames has no clock" in capsys.readouterr().err
    assert run(weights, clips, "--fps", "10", out=tmp_path / "o") == 1
    assert "--fps 10: frames a second of folders of frames, above 0; there is none" in capsys.readouterr().err


def test_names_are_told_apart(clips, tmp_path):
    for name in ("x", "y", "z/x"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(clips / "videos" / "a.mp4", tmp_path / name)
    found = score.requests([tmp_path / "x", tmp_path / "y" / "a.mp4", tmp_path / "x" / "a.mp4"])
    assert [one.name for one in found] == ["x/a", "y/a"]
    with pytest.raises(ValueError, match="several videos are called x/a; score them apart, or rename them"):
        score.requests([tmp_path / "x", tmp_path / "z" / "x"])


def truncated(folder):
    path = film(folder / "cut.mp4")
    path.write_bytes(path.read_bytes()[:-1500])
    return path


def damaged(folder):
    path = film(folder / "damaged.mp4")
    data = bytearray(path.read_bytes())
    middle = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 3
    data[middle:middle + 4000] = bytes(4000)
    path.write_bytes(data)
    return path


def text(folder):
    path = folder / "notes.mp4"
    path.write_text("this is no video")
    return path


def sound(folder):
    import av

    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(("make", "words"), [
    (truncated, r"cut\.mp4: .*(cut short|not a video|no readable)"),
    (damaged, r"damaged\.mp4: \d+ of 120 frames readable, then it is cut short or damaged"),
    (text, r"notes\.mp4: .*video"), (sound, r"sound\.mp4: .*audio"),
    (empty, r"empty: no videos in it and no pictures"),
    (lambda folder: film(folder / "one.mp4", 1), r"one\.mp4: one frame cannot be cut into 2 segments"),
    (lambda folder: folder / "nothing.mp4", r"nothing\.mp4: no such video or folder"),
], ids=["truncated", "damaged", "text", "sound", "empty", "one frame", "absent"])
def test_bad_videos_get_one_line_and_leave_nothing(make, words, weights, tmp_path, capsys):
    path, good = make(tmp_path), film(tmp_path / "good.mp4")
    assert run(weights, good, path, out=tmp_path / "out") == 1
    told = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("cmf:")]
    assert len(told) == 1 and re.search(words, told[0]), told
    assert not (tmp_path / "out").exists()


def test_bad_captions_and_weights_get_one_line(clips, weights, tmp_path, capsys):
    words = tmp_path / "words.csv"

    def told(*more):
        assert run(weights, clips, *more, out=tmp_path / "out") == 1 and not (tmp_path / "out").exists()
        return capsys.readouterr().err

    words.write_text(HEAD + "a,0,6,a person\nstranger,0,2,a car\n")
    assert "captions of 1 videos that are not there: stranger" in told("--captions", words)
    words.write_text("video,caption\na,a person\n")
    assert "columns video, caption; expected video, start, end, caption" in told("--captions", words)
    assert "no such file" in told("--captions", tmp_path / "none.csv")
    assert "no weights at" in told("--weights", tmp_path / "none.safetensors")
    assert "weights of another encoder" in told("--encoders", "small")
    (tmp_path / "file").write_text("")
    assert run(weights, clips, out=tmp_path / "file") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_captions_file_may_know_the_neighbours(clips, weights, tmp_path):
    assert run(weights, clips / "videos" / "b.mp4", out=tmp_path / "out") == 0
    words = tmp_path / "words.csv"
    words.write_text(HEAD + "a.mp4,0,6,a person walks\n")
    with pytest.warns(UserWarning, match="no captions of b; it is scored from its pictures alone"):
        assert run(weights, clips / "videos" / "b.mp4", "--captions", words, out=tmp_path / "out") == 0


def test_an_annotation_beyond_the_end_is_clipped_with_a_warning(clips, weights, tmp_path):
    table = clips / "annotations.csv"
    table.write_text(table.read_text().replace("120,fight,4.0,6.0", "150,fight,11.0,15.0"))
    with pytest.warns(UserWarning, match="a: annotation up to frame 150, beyond the video's end at 120; clipped"):
        assert run(weights, clips, out=tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "events.json").read_text())[0]["truth"] == [[11.0, 12.0]]


def test_a_variable_frame_rate_is_scored_by_its_own_clock(weights, tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(0.03, 0.2, 90)) - 0.03
    pictures = np.random.default_rng(1).integers(0, 255, (90, 64, 96, 3)).astype(np.uint8)
    path = write_video(tmp_path / "vfr.mp4", pictures, 10, times=times - times[0])
    assert Video(path).facts.variable and run(weights, path, out=tmp_path / "out") == 0
    assert pd.read_csv(tmp_path / "out" / "scores.csv").end.max() == pytest.approx(Video(path).seconds, rel=1e-4)


@pytest.mark.benchmarks
def test_scoring_is_four_times_faster_than_the_video_lasts(tmp_path, monkeypatch):
    """Decoding, encoding and scoring of 60 s of 320x240 at 25 frames/s on one core, with the small encoders."""
    rng = np.random.default_rng(0)
    ground = np.repeat(np.repeat(rng.integers(0, 160, (60, 80, 3)).astype(np.uint8), 4, 0), 4, 1)

    def picture(k):
        frame = ground.copy()
        for one in range(6):
            x, y = (k * (one + 1) // 2 + 50 * one) % 300, 30 * one + 20
            frame[y:y + 24, x:x + 16] = 40 * one
        return np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)

    path = write_video(tmp_path / "minute.mp4", (picture(k) for k in range(1500)), 25, crf=23)
    torch.set_num_threads(1)
    try:
        encoders = watching.ENCODERS["small"]
        watcher = watching.Watcher.load()
        assert encoders.writer and encoders.eye
    except FileNotFoundError as reason:
        pytest.skip(f"trained weights are not there: {reason}")
    given = [(2.0 * k, 2.0 * k + 2, "a person walks on the pavement towards the camera") for k in range(30)]
    print(f"\n{'captions':<10}{'video, s':>10}{'core, s':>10}{'times real time':>17}")
    for name, captions in (("given", given), ("blip", None)):
        monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path / name))
        began = time.process_time()
        videos = score.score(score.requests([path]), watcher, encoders, {"minute": captions})
        spent = time.process_time() - began
        print(f"{name:<10}{videos[0].end:>10.1f}{spent:>10.2f}{videos[0].end / spent:>17.1f}")
        assert videos[0].end / spent >= 4


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(score.os, "access", lambda *given: False)
    with pytest.raises(OSError, match=r"out cannot be written \(no permission\); give a folder of your own"):
        score.writable(tmp_path / "out")
