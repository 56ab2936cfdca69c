"""Video files and folders of frames: frames, times, segments, and what is said of broken files."""

import contextlib
import os
import struct
import subprocess
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from cmf.datasets.video import Video, frames, frames_at, probe, segment, write_video

N, FPS = 120, 25
IDENTITY = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
TURNED = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)  # a quarter turn clockwise


def numbered(n=N, height=48, width=64):
    """Frames that bear their number as eight light or dark blocks."""
    for i in range(n):
        frame = np.full((height, width, 3), 40, np.uint8)
        for bit in range(8):
            if i >> bit & 1:
                frame[8:24, 8 * bit : 8 * bit + 8] = 220
        frame[30:40, (i * 3) % 58 : (i * 3) % 58 + 6] = (255, 0, 0)
        yield frame


def number(frame) -> int:
    return sum(1 << bit for bit in range(8) if frame[16, 8 * bit + 4].mean() > 130)


def corners() -> np.ndarray:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32], frame[:24, 32:], frame[24:, 32:], frame[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return frame


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One video with B-frames and several keyframes in five containers, and one of a variable frame rate."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi"):
        write_video(folder / name, numbered(), FPS, g="24", bf="3")
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.2, 100))
    write_video(folder / "variable.mp4", numbered(100), FPS, times=times - times[0], g="12", bf="3")
    np.save(folder / "times.npy", times - times[0])
    return folder


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi"])
def test_sought_frames_equal_decoded_frames(made, name):
    video = Video(made / name)
    facts = video.facts
    assert (facts.frames, facts.height, facts.width, facts.variable, facts.codec) == (N, 48, 64, False, "h264")
    assert facts.fps == pytest.approx(FPS) and facts.seconds == pytest.approx(N / FPS)
    whole = [picture for _, picture in video.frames()]
    assert [number(picture) for picture in whole] == list(range(N))
    for t in np.random.default_rng(1).uniform(0, N / FPS, 20):
        np.testing.assert_array_equal(next(video.frames_at(t)), whole[int(t * FPS)])
    times = np.arange(N) / FPS
    assert [number(picture) for picture in video.frames_at(times)] == list(range(N)), "a frame shows from its begin"
    sparse = np.array([0.1, 0.1, 0.11, 2.0, 2.03, 4.79])
    assert [number(picture) for picture in video.frames_at(sparse)] == [2, 2, 2, 50, 50, 119]


def test_the_test_file_has_frames_out_of_order_and_keyframes(made):
    with av.open(str(made / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert sum(packet.is_keyframe for packet in packets) >= 4
    assert [packet.pts for packet in packets] != sorted(packet.pts for packet in packets)


def test_variable_frame_rate_goes_by_timestamps(made):
    video, times = Video(made / "variable.mp4"), np.load(made / "times.npy")
    assert video.facts.variable and video.facts.frames == 100
    np.testing.assert_allclose(video.times, times, atol=1e-4)
    asked = np.sort(np.random.default_rng(2).uniform(0, times[-1], 60))
    assert [number(picture) for picture in video.frames_at(asked)] == \
        (np.searchsorted(times, asked, side="right") - 1).tolist()


def test_a_frame_rate_that_drops_is_not_taken_for_a_cut_file(tmp_path):
    times = np.concatenate([np.arange(60) / 50, 1.2 + np.arange(10) / 2])
    write_video(tmp_path / "drops.mkv", numbered(70), 50, times=times)
    video = Video(tmp_path / "drops.mkv")
    np.testing.assert_allclose(video.times, times, atol=1e-3)
    assert video.facts.variable and [number(picture) for picture in video.frames_at([0.01, 1.7, 5.0])] == [0, 61, 67]


def test_part_of_a_video_every_few_frames_resized(made):
    got = list(frames(made / "a.mp4", size=(24, 32), every=10, start=1.0, end=3.0))
    assert [round(t * FPS) for t, _ in got] == [25, 35, 45, 55, 65]
    assert {picture.shape for _, picture in got} == {(24, 32, 3)}
    assert next(frames_at(made / "a.mp4", 0, size=(96, 128))).shape == (96, 128, 3)
    with pytest.raises(ValueError, match=r"every=0, expected 1"):
        next(frames(made / "a.mp4", every=0))


def test_folder_of_frames_is_read_like_a_file_in_numeric_order(tmp_path):
    pictures = list(numbered(12))
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"f{i}.png")
    (tmp_path / ".f3.png").write_text("left by another system")
    video = Video(tmp_path, fps=10)
    assert (video.facts.frames, video.facts.fps, video.facts.codec) == (12, pytest.approx(10), "pictures")
    assert video.seconds == pytest.approx(1.2)
    for (t, read), i in zip(video.frames(), range(12), strict=True):
        assert t == pytest.approx(i / 10)
        np.testing.assert_array_equal(read, pictures[i])
    assert [number(picture) for picture in video.frames_at([0.0, 0.35, 1.15])] == [0, 3, 11]


def test_folder_complaints(tmp_path):
    with pytest.raises(ValueError, match=r"zero frames, the folder holds no pictures"):
        Video(tmp_path, fps=10)
    for i in (0, 1, 2, 5):
        Image.fromarray(corners()).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"fps=None; a folder of frames has no clock"):
        Video(tmp_path)
    with pytest.warns(UserWarning, match=r"frame numbers jump between 2 and 5"):
        video = Video(tmp_path, fps=10)
    Image.fromarray(corners()[:40]).save(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"frame 2 has \(40, 64\) pixels, frames before it \(48, 64\); pass size="):
        list(video.frames())
    assert len(list(video.frames(size=(20, 30)))) == 4
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1\.png: frame 1 of 4 cannot be read"):
        list(video.frames())
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"mode I;16, expected 8 bit"):
        next(video.frames())
    Image.fromarray(corners()).save(tmp_path / "1.bmp")
    with pytest.raises(ValueError, match="two pictures named 1; keep one"):
        Video(tmp_path, fps=10)


def test_rotation_of_the_file_is_applied(tmp_path):
    data = write_video(tmp_path / "plain.mp4", [corners()] * 3, FPS).read_bytes()
    at = data.index(IDENTITY, data.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(data[:at] + TURNED + data[at + len(IDENTITY):])
    facts = probe(tmp_path / "turned.mp4")
    assert (facts.height, facts.width) == (64, 48)
    oblique = struct.pack(">9i", 56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30)  # 30 degrees
    (tmp_path / "oblique.mp4").write_bytes(data[:at] + oblique + data[at + len(IDENTITY):])
    with pytest.warns(UserWarning, match="rotation by -29 degrees is left out"):
        assert next(frames_at(tmp_path / "oblique.mp4", 0)).shape == (48, 64, 3)
    expected = np.rot90(corners(), -1).astype(int)
    assert np.abs(next(frames_at(tmp_path / "turned.mp4", 0)) - expected)[5:25, 5:20].max() < 12
    assert np.abs(next(frames_at(tmp_path / "turned.mp4", 0)) - expected)[40:60, 30:45].max() < 12


def test_grey_and_palette_become_rgb(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (5, 48, 64), dtype=np.uint8)
    with av.open(str(tmp_path / "grey.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        for picture in grey:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())
    for (_, read), picture in zip(frames(tmp_path / "grey.mkv"), grey, strict=True):
        np.testing.assert_array_equal(read, np.repeat(picture[..., None], 3, axis=2))
    rolled = [np.roll(corners(), 8 * i, axis=1) for i in range(4)]
    images = [Image.fromarray(picture).convert("P", palette=Image.Palette.ADAPTIVE) for picture in rolled]
    images[0].save(tmp_path / "palette.gif", save_all=True, append_images=images[1:], duration=40)
    for (_, read), picture in zip(frames(tmp_path / "palette.gif"), rolled, strict=True):
        assert np.abs(read.astype(int) - picture).max() <= 2


def readable(path) -> int:
    """How many frames come before the error."""
    count = 0
    with pytest.raises(ValueError, match=r"frames readable, then it is cut short or damaged; obtain it again"):
        for count, _ in enumerate(Video(path).frames(), start=1):  # noqa: B007
            pass
    return count


def test_cut_and_damaged_files_are_refused_with_the_readable_count(made, tmp_path):
    for name in ("a.mkv", "a.avi"):
        data = (made / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=rf"{name}: \d+ of 120 frames readable, then it is cut short or damaged"):
            Video(tmp_path / name)
    data = bytearray((made / "a.mp4").read_bytes())
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"0 frames readable, \d+ bytes cannot be opened as a video .*obtain it again"):
        Video(tmp_path / "cut.mp4")
    middle = (data.index(b"mdat") + data.index(b"moov")) // 2
    data[middle : middle + 400] = np.random.default_rng(1).integers(0, 256, 400, dtype=np.uint8).tobytes()
    (tmp_path / "bad.mp4").write_bytes(data)
    assert 20 < readable(tmp_path / "bad.mp4") < 100
    intact = list(frames(made / "a.mp4", end=0.5))
    for (_, got), (_, want) in zip(frames(tmp_path / "bad.mp4", end=0.5), intact, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_damaged_file_without_timestamps_is_refused(made, tmp_path):
    data = bytearray((made / "a.avi").read_bytes())
    at = data.index(b"movi") + 2000
    data[at : at + 1500] = np.random.default_rng(1).integers(0, 256, 1500, dtype=np.uint8).tobytes()
    (tmp_path / "bad.avi").write_bytes(data)
    assert readable(tmp_path / "bad.avi") < 100
    reader = Video(made / "a.avi")._reader
    reader.rate = None
    with pytest.raises(ValueError, match="neither timestamps nor a frame rate"):
        reader._counted()


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("a line of text\n" * 50)
    (tmp_path / "note.mp4").write_text("a line of text\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.ass").write_text("[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Start, End, Text\n"
                                        "Dialogue: 0:00:00.00,0:00:01.00,words\n")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "zero.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    for name, words in (("note.txt", "not a video but text"), ("note.mp4", "0 frames readable, 750 bytes"),
                        ("empty.mp4", "0 frames readable, 0 bytes"), ("sound.mp4", "audio only"),
                        ("zero.avi", "zero frames"), ("words.ass", "no video stream")):
        with pytest.raises(ValueError, match=words):
            Video(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such video"):
        Video(tmp_path / "none.mp4")


def test_fps_belongs_to_folders_and_times_to_the_video(made):
    with pytest.raises(ValueError, match=r"fps=30 for a video file, which has its own timestamps"):
        Video(made / "a.mp4", fps=30)
    for times in ([1.0, 0.5], [-0.1], [4.9], [np.nan]):
        with pytest.raises(ValueError, match=r"expected ascending times in \[0, 4\.8\]"):
            next(frames_at(made / "a.mp4", times))


def test_segments_cover_the_video(made):
    cut = segment(made / "a.mp4", 8)
    np.testing.assert_allclose(cut.edges, np.arange(9) * 0.6)
    np.testing.assert_allclose(cut.centres, np.arange(8) * 0.6 + 0.3)
    np.testing.assert_allclose(cut.times[:, 0], cut.centres)
    three = Video(made / "a.mp4").segment(8, k=3)
    np.testing.assert_allclose(three.times[0], [0.1, 0.3, 0.5])
    assert len(list(frames_at(made / "a.mp4", three.times.ravel()))) == 24
    mask, times = np.arange(N) < 20, Video(made / "a.mp4").times
    np.testing.assert_allclose(cut.mean(mask, times), [1, 1 / 3, 0, 0, 0, 0, 0, 0])
    assert cut.of([0, 0.59, 0.61, 4.8, 9]).tolist() == [0, 0, 1, 7, 7]
    clip = SimpleNamespace(id="c1", seconds=2.0, fps=2.0)
    assert segment(clip, 4).centres.tolist() == [0.25, 0.75, 1.25, 1.75]


def test_a_segment_without_a_frame_takes_the_one_shown(tmp_path):
    write_video(tmp_path / "gap.mp4", numbered(4), FPS, times=[0, 0.1, 3.0, 3.1])
    video = Video(tmp_path / "gap.mp4")
    assert video.segment(4).mean([0, 1, 0, 0], video.times)[1:3].tolist() == [1, 1]


def test_short_videos_get_fewer_segments_and_one_frame_none(tmp_path):
    write_video(tmp_path / "three.mp4", numbered(3), FPS)
    with pytest.warns(UserWarning, match="3 frames for 8 segments; it gets 3 segments"):
        cut = segment(tmp_path / "three.mp4", 8)
    assert [number(picture) for picture in frames_at(tmp_path / "three.mp4", cut.centres)] == [0, 1, 2]
    write_video(tmp_path / "one.mp4", numbered(1), FPS)
    one = Video(tmp_path / "one.mp4")
    assert (one.facts.frames, one.facts.variable) == (1, False) and one.seconds == pytest.approx(1 / FPS)
    assert len(list(one.frames())) == 1 and segment(one, 1).times.shape == (1, 1)
    with pytest.raises(ValueError, match=r"one\.mp4: one frame cannot be cut into 8 segments"):
        segment(one, 8)
    with pytest.raises(ValueError, match="T=0 segments of k=1 frames"):
        segment(one, 0)


def test_written_video_is_equal_on_every_run_and_keeps_grey(tmp_path):
    grey = [frame[..., 0] for frame in numbered(10)]
    first = write_video(tmp_path / "new/1.mp4", grey, 12.5).read_bytes()
    assert write_video(tmp_path / "2.mp4", grey, 12.5).read_bytes() == first
    assert probe(tmp_path / "2.mp4").fps == pytest.approx(12.5)
    for (_, read), frame in zip(frames(tmp_path / "2.mp4"), grey, strict=True):
        assert np.abs(read.mean(axis=2) - frame).mean() < 4
    assert sorted(os.listdir(tmp_path)) == ["2.mp4", "new"]


@pytest.mark.parametrize("given, fps, words", [
    ([], 25, "no frames to write"), ([np.zeros((48, 64))], 25, r"a frame of shape \(48, 64\) and float64"),
    ([np.zeros((47, 64), np.uint8)], 25, "frames of 47 x 64 pixels.*crop or pad"),
    ([np.zeros((48, 64), np.uint8), np.zeros((48, 66), np.uint8)], 25, r"frame 1 is \(48, 66\) uint8"),
    ([np.zeros((48, 64), np.uint8)], 0, "fps=0, expected a number above 0")])
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, given, fps, words):
    with pytest.raises(ValueError, match=words):
        write_video(tmp_path / "x.mp4", given, fps)
    assert not os.listdir(tmp_path)


def test_times_must_ascend_and_suffice(tmp_path):
    for times, words in (([0.0, 0.1], "more frames than the 2 times given"),
                         ([0, 0.2, 0.1], "ascending seconds from 0"), ([-1, 0, 1], "ascending seconds from 0")):
        with pytest.raises(ValueError, match=words):
            write_video(tmp_path / "x.mp4", numbered(3), FPS, times=times)
    assert not os.listdir(tmp_path)


def test_a_long_file_is_read_in_constant_memory(tmp_path):
    """Peak memory of reading 300 and 3000 frames differs by less than 100 frames' worth."""
    program = ("import resource, sys; from cmf.datasets.video import Video\n"
               "n = sum(1 for _ in Video(sys.argv[1]).frames()); "
               "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    peaks = {}
    for n in (300, 3000):
        still = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
        path = write_video(tmp_path / f"{n}.mp4", (still for _ in range(n)), FPS, crf=40, preset="ultrafast")
        told = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        count, peaks[n] = map(int, told.stdout.split())
        assert count == n
    assert peaks[3000] - peaks[300] < 100 * 120 * 160 * 3 / 1024


@contextlib.contextmanager
def pretended(*decoded, packets=(), error=None):
    """A container and its stream that give these frames, then end or fail."""
    def decode(stream):
        yield from decoded
        if error:
            raise error

    stream = SimpleNamespace(frames=0, metadata={})
    yield SimpleNamespace(decode=decode, demux=lambda stream: packets, seek=lambda *_, **__: None,
                          format=SimpleNamespace(name="mp4")), stream


def test_what_a_decoder_may_do_to_a_file_that_opened(made):
    """Each way in which frames fail to come ends in the same words, with the count of those that came."""
    broken = av.error.InvalidDataError(1, "broken")
    frame = SimpleNamespace(pts=0, is_corrupt=True)
    uncounted, sought = Video(made / "a.avi")._reader, Video(made / "a.mp4")._reader
    late = SimpleNamespace(pts=10**9, is_corrupt=False)  # every seek lands too late
    packet = SimpleNamespace(size=1, is_corrupt=False, is_discard=False, pts=0, dts=0, is_keyframe=False)

    def unkeyed():
        with sought._opened() as given:
            sought._packets(*given)

    for reader, opened, call, count in (
            (uncounted, pretended(frame, error=broken), uncounted._counted, 1),
            (uncounted, pretended(), uncounted._counted, 0),
            (sought, pretended(frame), lambda: list(sought.read([0])), 0),
            (sought, pretended(late), lambda: list(sought.read([N - 1])), 0),
            (sought, pretended(packets=[packet]), unkeyed, 0)):
        reader._opened = lambda opened=opened: opened
        with pytest.raises(ValueError, match=rf"{count} of \d+ frames readable, then it is cut short or damaged"):
            call()
