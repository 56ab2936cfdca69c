"""Folders of clips with their truth, and captions files."""

import os
from dataclasses import dataclass, field

import numpy as np
import pytest

from cmf.datasets.clips import Caption, read_captions, read_clips, write_clips


@dataclass
class Clip:
    """A grey clip that brightens."""

    id: str
    label: object = "normal"
    seconds: float = 2.0
    fps: float = 10.0
    events: tuple = ()
    told: tuple = field(default=((0.0, 2.0, "a street, and nobody"),))

    def captions(self):
        return self.told

    def frame(self, t, size):
        return np.full((*size, 3), int(60 * t), np.uint8)


CLIPS = (Clip("n1"), Clip("a2", "fall", events=((0.5, 0.95),)),
         Clip("a3", 1, events=((0.0, 0.3, "fight"), (1.5, 2.0, "fight")),
              told=(Caption(1.0, 2.0, 'he says "stop", twice'),)))


def test_written_clips_read_back(tmp_path):
    out = write_clips(CLIPS, tmp_path / "made", size=(32, 48), split="test", classes=("normal", "fight"))
    assert sorted(os.listdir(tmp_path)) == ["made"]
    items = read_clips(out)
    assert [(item.id, item.label, item.split, item.events) for item in items] == [
        ("n1", "normal", "test", ()), ("a2", "fall", "test", ((5, 10),)), ("a3", "fight", "test", ((0, 3), (15, 20)))]
    for item in items:
        video = item.open()
        assert len(video.times) == item.frames == 20 and video.facts.fps == pytest.approx(10)
        assert [round(picture.mean()) for _, picture in video.frames()] == pytest.approx(
            [int(60 * t) for t in video.times], abs=3)
    times = items[1].open().times
    assert (items[1].mask(20) == (times > 0.499) & (times < 0.949)).all()
    captions = read_captions(out / "captions.csv", {item.id: item.open().seconds for item in items})
    assert captions["n1"] == (Caption(0.0, 2.0, "a street, and nobody"),)
    assert captions["a3"] == (Caption(1.0, 2.0, 'he says "stop", twice'),)
    write_clips(CLIPS[:1], tmp_path / "slow", size=(32, 48), fps=5)
    assert read_clips(tmp_path / "slow")[0].frames == 10 and read_clips(tmp_path / "slow")[0].split is None


def test_clips_of_the_simulator_are_written(tmp_path):
    surveillance = pytest.importorskip("cmf.simulate.surveillance", reason="needs the simulator of surveillance clips")
    pytest.importorskip("cmf.simulate.street", reason="needs the street's renderer")
    clip = next(clip for clip in surveillance.simulate_clips(12, "test") if clip.label)
    item = read_clips(write_clips([clip], tmp_path / "made", size=(48, 64), fps=1.0))[0]
    assert (item.id, item.split, item.label) == (clip.id, "test", surveillance.CLASSES[clip.label])
    n = len(item.open().times)
    np.testing.assert_array_equal(item.mask(n), clip.frame_labels(1.0)[:n].astype(bool))
    told = read_captions(tmp_path / "made/captions.csv", [clip.id])[clip.id]
    assert [caption.text for caption in told] == [caption.text for caption in clip.captions()]


@pytest.mark.parametrize("clips, words", [
    ((), "no clips to write"), ((CLIPS[0], CLIPS[0]), "clip id 'n1' twice"),
    ((Clip("a/b"),), "clip id 'a/b' twice, or no"), ((Clip("x", "fall"),), "label 'fall' with 0 events"),
    ((Clip("x", events=((0, 1),)),), "label 'normal' with 1 events")])
def test_clips_that_cannot_be_written_leave_nothing(tmp_path, clips, words):
    with pytest.raises(ValueError, match=words):
        write_clips(clips, tmp_path / "made", size=(32, 48))
    assert not os.listdir(tmp_path)
    (tmp_path / "made").mkdir()
    with pytest.raises(FileExistsError, match="made exists; remove it"):
        write_clips(CLIPS, tmp_path / "made")


def test_clip_folder_complaints(tmp_path):
    out = write_clips(CLIPS[:2], tmp_path / "made", size=(32, 48))
    table = out / "annotations.csv"
    text = table.read_text()
    for old, new, words in (("0.5000,0.9500", "0.95,0.5", "from 0.95 to 0.5 s, reversed or empty"),
                            ("0.5000,0.9500", "-1,0.5", "start '-1', expected a number of 0 or more"),
                            (",10,20,fall", ",ten,20,fall", "fps 'ten', expected a number"),
                            ("label", "lable", "columns video, split, lable.*; expected video, split, label"),
                            (",fall,0.5000,0.9500", ",fall,0.5", "expected 8 fields")):
        assert old in text
        table.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=words):
            read_clips(out)
    table.write_text(text)
    (out / "videos/n1.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 of annotations\.csv are missing: n1;"):
        read_clips(out)
    with pytest.raises(FileNotFoundError, match=r"annotations\.csv: no such file"):
        read_clips(tmp_path)


def written(folder, *rows, head="video,start,end,caption"):
    (folder / "captions.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder / "captions.csv"


def test_captions_are_sorted_clipped_and_empty_where_there_are_none(tmp_path):
    path = written(tmp_path, "a.mp4,4,8,later", 'a,0,4,"earlier, with a comma"', "a,9,12,beyond")
    with pytest.warns(UserWarning, match=r"2 captions beyond the video's end, clipped: a at 4 s, a at 9 s"):
        read = read_captions(path, {"a": 6.0, "b": 5.0})
    assert read == {"a": (Caption(0, 4, "earlier, with a comma"), Caption(4, 6, "later")), "b": ()}
    assert len(read_captions(path, ["a"])["a"]) == 3, "without lengths nothing is clipped"
    assert read_captions(written(tmp_path, "x,été,0,1", head="video,caption,start,end"), ["x"])["x"][0].text == "été"


@pytest.mark.parametrize("row, words", [
    ("c,0,1,x\nd,0,1,y\nc,1,2,z", "captions of 2 videos that are not there: c, d; add the videos"),
    ("a,4,2,x", r"captions\.csv:2: from 4 to 2 s, reversed or empty"), ("a,1,1,x", "reversed or empty"),
    ("a,-1,2,x", "start '-1', expected a number"), ("a,0,soon,x", "end 'soon', expected a number"),
    ("a,0,nan,x", "end 'nan', expected a number"), ("a,0,1,  ", "empty caption of a; write one"),
    ("a,0,1,one, two", "expected 4 fields; quote text with commas"), ("a,0,1", "expected 4 fields")])
def test_caption_complaints(tmp_path, row, words):
    with pytest.raises(ValueError, match=words):
        read_captions(written(tmp_path, row), ["a", "b"])


def test_captions_need_their_columns_and_their_file(tmp_path):
    for head in ("video,start,end,text", "video,start,end,caption,mood", "video,caption"):
        with pytest.raises(ValueError, match=rf"columns {head.replace(',', ', ')}; expected video, start, end, cap"):
            read_captions(written(tmp_path, head=head), ["a"])
    (tmp_path / "captions.csv").write_text("")
    with pytest.raises(ValueError, match="columns none; expected"):
        read_captions(tmp_path / "captions.csv", ["a"])
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        read_captions(tmp_path / "none.csv", ["a"])
