"""Published collections and plain folders of videos, on small files of the published formats; Ped2 on its pack."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmf.datasets.anomaly import (
    VideoItem,
    events_of,
    read_folder,
    read_ped2,
    read_shanghaitech,
    read_ucf_crime,
    read_xd_violence,
)
from cmf.datasets.video import write_video

TEMPORAL = "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """One grey video of 20 frames, copied under many names."""
    frames = [np.full((32, 32), 9 * i, np.uint8) for i in range(20)]
    return write_video(tmp_path_factory.mktemp("one") / "v.mp4", frames, 25)


def place(video: Path, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)


def shots(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i:03d}.jpg")


def test_intervals_of_a_mask():
    assert events_of([0, 1, 1, 0, 1]) == ((1, 3), (4, 5)) and events_of([1, 1]) == ((0, 2),) and events_of([]) == ()


def test_item_gives_its_mask_and_clips_with_a_warning():
    item = VideoItem("a", Path("a.mp4"), "Abuse", "test", ((2, 4), (8, 30)))
    np.testing.assert_array_equal(np.flatnonzero(item.mask(40)[:10]), [2, 3, 8, 9])
    with pytest.warns(UserWarning, match=r"a: annotation up to frame 30, beyond the video's end at 10; clipped"):
        np.testing.assert_array_equal(np.flatnonzero(item.mask(10)), [2, 3, 8, 9])
    with pytest.raises(ValueError, match="of the whole video only, its frames are not annotated"):
        VideoItem("a", Path("a.mp4"), "Abuse", "train", None).mask(10)
    with pytest.raises(ValueError, match="10 frames in a.mp4, but the annotation covers 8; .* do not belong together"):
        VideoItem("a", Path("a.mp4"), "x", None, (), frames=8).mask(10)
    assert VideoItem("a", Path("a"), None, None, None).anomalous is None
    assert item.anomalous and not VideoItem("a", Path("a"), "normal", None, ()).anomalous


@pytest.fixture
def ucf(tmp_path, video) -> Path:
    place(video, *(tmp_path / name for name in (
        "Part1/Abuse/Abuse001_x264.mp4", "Part1/Abuse/Abuse028_x264.mp4",
        "Part2/RoadAccidents/RoadAccidents002_x264.mp4", "Normal/Normal_Videos_003_x264.mp4",
        "Normal/Normal_Videos001_x264.mp4")))
    (tmp_path / "Anomaly_Train.txt").write_text(
        "Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n")
    (tmp_path / "Anomaly_Test.txt").write_text(
        "Abuse/Abuse028_x264.mp4\nRoadAccidents/RoadAccidents002_x264.mp4\n"
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\n\n")
    (tmp_path / TEMPORAL).write_text(
        "Abuse028_x264.mp4  Abuse  5  8  -1  -1  \nRoadAccidents002_x264.mp4  RoadAccidents  1  1  18  40\n"
        "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n")
    return tmp_path


def test_ucf_crime_counts_from_one_and_includes_the_last(ucf):
    items = {item.id: item for item in read_ucf_crime(ucf, "test")}
    assert list(items) == ["Abuse028_x264", "RoadAccidents002_x264", "Normal_Videos_003_x264"]
    abuse, road, normal = items.values()
    assert (abuse.label, abuse.events, normal.label, normal.events) == ("Abuse", ((4, 8),), "normal", ())
    n = len(abuse.open().times)
    assert n == 20 and np.flatnonzero(abuse.mask(n)).tolist() == [4, 5, 6, 7], "y[s-1 .. e-1] = 1"
    with pytest.warns(UserWarning, match="beyond the video's end at 20"):
        assert np.flatnonzero(road.mask(n)).tolist() == [0, 17, 18, 19]
    train = read_ucf_crime(ucf, "train")
    assert [(item.label, item.events, item.split) for item in train] == [
        ("Abuse", None, "train"), ("normal", (), "train")]


def test_ucf_crime_names_all_missing_videos(ucf):
    for path in (ucf / "Part1/Abuse/Abuse028_x264.mp4", ucf / "Normal/Normal_Videos_003_x264.mp4"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 3 of .*Anomaly_Test\.txt are missing: Abuse028_x264\.mp4, "
                                                r"Normal_Videos_003_x264\.mp4; put them there"):
        read_ucf_crime(ucf)
    (ucf / "Anomaly_Train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no Anomaly_Train\.txt in it or below"):
        read_ucf_crime(ucf, "train")
    with pytest.raises(ValueError, match="split 'val', expected train or test"):
        read_ucf_crime(ucf, "val")


@pytest.mark.parametrize("old, new, words", [
    ("Abuse  5  8", "Abuse  8  5", "from 8 to 5 .* expected 1 <= start <= end"),
    ("Abuse  5  8", "Abuse  0  8", "from 0 to 8"), ("Abuse  5  8", "Abuse  5  x", "expected whole numbers in pairs"),
    ("Abuse  5  8", "Abuse  -1  -1", "class Abuse with 0 intervals"), ("Abuse  5", "5", "expected 6 columns"),
    ("Abuse  5  8", "Arson  5  8", "class Arson, but the test list says Abuse"),
    ("Normal  -1  -1", "Normal  3  4", "class Normal with 1 intervals"),
    ("Abuse028", "Abuse029", r"2 videos in one of the annotation and the test list only: Abuse028.*, Abuse029")])
def test_ucf_crime_annotation_complaints(ucf, old, new, words):
    text = (ucf / TEMPORAL).read_text()
    assert old in text
    (ucf / TEMPORAL).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=words):
        read_ucf_crime(ucf)


def test_ucf_crime_refuses_an_unknown_class_and_an_empty_list(ucf):
    (ucf / "Anomaly_Test.txt").write_text("Abuse/Abuse028_x264.mp4\nPicnic/Picnic001_x264.mp4\n")
    with pytest.raises(ValueError, match=r"Anomaly_Test\.txt:2: unknown class 'Picnic' .* one of Abuse, Arrest"):
        read_ucf_crime(ucf)
    (ucf / "Anomaly_Test.txt").write_text("\n")
    with pytest.raises(ValueError, match="the list is empty"):
        read_ucf_crime(ucf)


XD = ("Bad.Boys.1995__#01-33-51_01-34-37_label_B2-0-0", "v=abc__#1_label_B1-G-0", "Quiet.Film__#00-01_label_A")


@pytest.fixture
def xd(tmp_path, video) -> Path:
    place(video, *(tmp_path / f"videos/{name}.mp4" for name in XD))
    (tmp_path / "annotations.txt").write_text(f"{XD[0]} 3 6 10 12\n{XD[1]}.mp4 0 5\n")
    return tmp_path


def test_xd_violence_reads_names_and_annotations(xd):
    items = {item.id: item for item in read_xd_violence(xd / "videos", xd / "annotations.txt")}
    assert [items[name].label for name in XD] == ["shooting", "fighting", "normal"]
    assert items[XD[1]].also == ("explosion",) and items[XD[2]].events == () and items[XD[0]].split == "test"
    assert items[XD[0]].events == ((3, 6), (10, 12))
    assert items[XD[0]].mask(len(items[XD[0]].open().times)).sum() == 5, "a name with # opens"
    train = {item.id: item for item in read_xd_violence(xd / "videos")}
    assert train[XD[0]].events is None and train[XD[2]].events == ()


@pytest.mark.parametrize("text, kind, words", [
    (f"{XD[0]} 3 6 10\n", ValueError, "expected whole numbers in pairs"),
    (f"{XD[0]} 6 6\n{XD[1]} 0 5\n", ValueError, "from 6 to 6 .* expected 0 <= start < end"),
    (f"{XD[0]} 3 6\n", ValueError, "violent videos without a line, or normal ones with one: v=abc"),
    (f"{XD[0]} 3 6\n{XD[1]} 0 5\n{XD[2]} 1 2\n", ValueError, "violent videos without a line.*Quiet"),
    ("gone_label_G-0-0 1 2\nlost_label_G-0-0 1 2\n", FileNotFoundError, "2 of 2 of .* missing: gone.*, lost")])
def test_xd_violence_annotation_complaints(xd, text, kind, words):
    (xd / "annotations.txt").write_text(text)
    with pytest.raises(kind, match=words):
        read_xd_violence(xd / "videos", xd / "annotations.txt")


def test_xd_violence_refuses_unknown_classes_and_an_empty_folder(xd, video, tmp_path):
    for name in ("x_label_B9-0-0.mp4", "nolabel.mp4", "y_label_A-B1-0.mp4", "z_label_0-0-0.mp4"):
        place(video, xd / "videos" / name)
        with pytest.raises(ValueError, match=r"unknown class; expected a name that ends with _label_ and A, or up to"):
            read_xd_violence(xd / "videos")
        (xd / "videos" / name).unlink()
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos in it or below"):
        read_xd_violence(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no\.txt: no such file"):
        read_xd_violence(xd / "videos", xd / "no.txt")


@pytest.fixture
def shanghai(tmp_path, video) -> Path:
    place(video, tmp_path / "training/videos/01_001.avi", tmp_path / "training/videos/01_002.avi")
    (tmp_path / "testing/test_frame_mask").mkdir(parents=True)
    for name, mask in (("01_0014", [0, 0, 1, 1, 0]), ("03_0031", [0, 0, 0])):
        shots(tmp_path / "testing/frames" / name, len(mask))
        np.save(tmp_path / f"testing/test_frame_mask/{name}.npy", np.array(mask, np.uint8))
    return tmp_path


def test_shanghaitech_one_class_and_weak_splits(shanghai):
    train, test = read_shanghaitech(shanghai, "train"), read_shanghaitech(shanghai, "test")
    assert [(item.id, item.label, item.events) for item in train] == [
        ("01_001", "normal", ()), ("01_002", "normal", ())]
    assert [(item.id, item.label, item.events) for item in test] == [
        ("01_0014", "anomalous", ((2, 4),)), ("03_0031", "normal", ())]
    assert len(test[0].open().times) == 5 and test[0].open().facts.fps == pytest.approx(24)
    assert test[0].mask(5).tolist() == [False, False, True, True, False] and not train[0].mask(20).any()
    (shanghai / "SH_Train.txt").write_text("01_0014,1\n01_002.avi 0\n03_0031\n")
    weak = read_shanghaitech(shanghai, "train", shanghai / "SH_Train.txt")
    assert [(item.id, item.label, item.split) for item in weak] == [
        ("01_002", "normal", "train"), ("01_0014", "anomalous", "train"), ("03_0031", "normal", "train")]


def test_shanghaitech_complaints(shanghai):
    listing, masks = shanghai / "list.txt", shanghai / "testing/test_frame_mask"
    for text, kind, words in (("01_0014,0\n", ValueError, "01_0014 has label 0, but its frames say 1"),
                              ("01_0014,yes\n", ValueError, "'01_0014,yes', expected a name, or a name and 0 or 1"),
                              ("09_1\n01_001\n09_2\n", FileNotFoundError, "2 of 3 of .* missing: 09_1, 09_2")):
        listing.write_text(text)
        with pytest.raises(kind, match=words):
            read_shanghaitech(shanghai, "test", listing)
    np.save(masks / "03_0031.npy", np.array([0, 2, 0]))
    with pytest.raises(ValueError, match=r"03_0031\.npy: expected \(n,\) values of 0 and 1"):
        read_shanghaitech(shanghai)
    (masks / "03_0031.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="not a readable .npy file"):
        read_shanghaitech(shanghai)
    (masks / "03_0031.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 of the test part are missing: 03_0031\.npy"):
        read_shanghaitech(shanghai)
    with pytest.raises(ValueError, match="split 'val', expected train or test"):
        read_shanghaitech(shanghai, "val")


def test_any_folder_with_classes_without_and_with_splits(tmp_path, video):
    place(video, *(tmp_path / name for name in ("a/Normal/n1.mp4", "a/fight/f10.mp4", "a/fight/f2.mp4", "b/x.mp4",
                                                "c/train/normal/x.mp4", "c/test/normal/y.mp4", "c/test/fall/z.mkv")))
    shots(tmp_path / "a/fight/frames7", 4)
    (tmp_path / "a/captions.csv").write_text("video,start,end,caption\n")
    items = read_folder(tmp_path / "a", fps=5)
    assert [(item.id, item.label, item.events) for item in items] == [
        ("Normal/n1", "normal", ()), ("fight/f2", "fight", None), ("fight/f10", "fight", None),
        ("fight/frames7", "fight", None)]
    assert [len(item.open().times) for item in items] == [20, 20, 20, 4]
    assert [(item.label, item.events, item.anomalous) for item in read_folder(tmp_path / "b")] == [(None, None, None)]
    assert [(item.id, item.label, item.split) for item in read_folder(tmp_path / "c")] == [
        ("test/fall/z", "fall", "test"), ("test/normal/y", "normal", "test"), ("train/normal/x", "normal", "train")]
    alone = read_folder(tmp_path / "a/fight/frames7", fps=5)
    assert [(item.id, item.label) for item in alone] == [("frames7", None)]


def test_any_folder_complaints(tmp_path, video):
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        read_folder(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="0 videos at depths"):
        read_folder(tmp_path)
    place(video, tmp_path / "cam1/a.mp4")
    with pytest.raises(ValueError, match="folders cam1 and no normal/; a class folder needs normal videos"):
        read_folder(tmp_path)
    place(video, tmp_path / "b.mp4")
    with pytest.raises(ValueError, match=r"2 videos at depths \[1, 2\]; expected them all in the folder, or all in"):
        read_folder(tmp_path)
    shutil.rmtree(tmp_path / "cam1")
    (tmp_path / "tape.dav").write_bytes(b"?")
    with pytest.warns(UserWarning, match="neither video nor picture, left out: tape.dav"):
        assert len(read_folder(tmp_path)) == 1


def test_ped2_has_its_counts_and_frames():
    folder = Path(os.environ.get("CMF_DATA", "")) / "ucsd_ped2"
    if not os.environ.get("CMF_DATA") or not folder.is_dir():
        pytest.skip("needs ucsd_ped2 in the folder that CMF_DATA names")
    items = read_ped2()
    assert [sum(item.split == split for item in items) for split in ("train", "test")] == [16, 12]
    assert all(item.label == ("normal" if item.split == "train" else "anomalous") for item in items)
    lengths = [len(item.open().times) for item in items]
    assert sum(lengths) == 4560 and sum(item.mask(n).sum() for item, n in zip(items, lengths, strict=True)) == 1648
    first = next(item for item in items if item.id == "test/01")
    assert first.events == ((60, 180),) and first.open().facts.height == 160
    t, picture = next(first.open().frames(start=5.0))
    assert t == 5.0 and picture.shape == (160, 240, 3) and (picture[..., 0] == picture[..., 2]).all()


def ped2(folder: Path, clips=(16, 12), frames=(2550, 2010), anomalous=1648) -> Path:
    """frames.csv with those counts and without pictures."""
    rows, left = ["split,clip,frame,path,anomalous"], anomalous
    for split, many, n in zip(("train", "test"), clips, frames, strict=True):
        for i in range(n):
            bad = int(split == "test" and left > 0)
            left -= bad
            rows.append(f"{split},{i % many:02d},{i // many},{split}/{i % many:02d}/{i // many}.jpg,{bad}")
    (folder / "frames.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_ped2_complaints(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no frames\.csv; frames\.csv; train and test clips"):
        read_ped2(tmp_path)
    for counts, words in (({"clips": (15, 12)}, "train has 15 clips, 2550 frames, 0 anomalous; expected 16, 2550, 0"),
                          ({"frames": (2550, 2000)}, "test has 12 clips, 2000 frames"),
                          ({"anomalous": 1636}, "1636 anomalous; expected 12, 2010, 1648")):
        with pytest.raises(ValueError, match=words):
            read_ped2(ped2(tmp_path, **counts))
    with pytest.raises(FileNotFoundError, match=r"4560 of 4560 of frames\.csv are missing: train/00/0\.jpg"):
        read_ped2(ped2(tmp_path))
    (tmp_path / "frames.csv").write_text("clip,frame\n1,2\n")
    with pytest.raises(ValueError, match="columns clip, frame, expected split, clip, frame, path and anomalous"):
        read_ped2(tmp_path)
