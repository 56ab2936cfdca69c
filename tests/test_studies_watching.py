"""Watching videos with a trained CMAF: windows, columns, captions, reports, weights and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import small_transformers as small
from small_footage import detector, film, tiny

from cmf import weights
from cmf.datasets.video import Video
from cmf.encoders.blip import BLIP
from cmf.encoders.distilbert import DistilBERT
from cmf.studies import footage, watching
from cmf.studies.watching import Watcher

TEXTS = ("two red cars on a wet street", "a person walks", "a street at night")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "footage_cache"))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return film(tmp_path_factory.mktemp("film") / "one.mp4")


def columns(count, seed=0):
    """Columns of `count` segments of 2 s, as `look` gives them."""
    rng = np.random.default_rng(seed)
    jpeg = [watching._jpeg(rng.integers(0, 255, (120, 160, 3)).astype(np.uint8)) for _ in range(3)]
    each = [jpeg[k % 3] for k in range(count)]
    return dict(edges=2.0 * np.arange(count + 1), visual=rng.normal(size=(count, 44)).astype(np.float32),
                motion=rng.normal(size=(count, len(watching.motion_names()))).astype(np.float32),
                jpeg=np.concatenate(each), ends=np.cumsum([len(x) for x in each]), aspect=2.0)


def told(count):
    return [(2.0 * k, 2.0 * k + 2, TEXTS[k % 3]) for k in range(count)]


@pytest.mark.parametrize("count", [2, 30, 31, 44, 45, 46, 100, 1801])
def test_windows_score_every_segment_once_and_are_whole(count):
    found = watching.windows(count)
    assert [k for _, _, a, b in found for k in range(a, b)] == list(range(count))
    for start, stop, first, last in found:
        assert stop - start == min(count, watching.WINDOW) and start <= first < last <= stop
        assert first == 0 or first - start >= 7                              # seen with what went before


def test_captions_belong_to_the_windows_they_lie_in():
    captions = [(0, 100, "all"), (9, 11, "half"), (9.5, 11.5, "mostly behind"), (12, 14, "after")]
    assert watching.within(captions, 0, 10) == [(0, (0, 10, "all")), (1, (9, 10, "half"))]
    assert [k for k, _ in watching.within(captions, 10, 20)] == [0, 1, 2, 3]


def test_a_long_video_is_scored_like_its_windows(encoders):
    seen, watcher = columns(45), detector(encoders)
    answer = watcher.watch(seen, told(45), encoders)
    part = lambda a, b: dict(edges=seen["edges"][:b - a + 1], visual=seen["visual"][a:b], motion=seen["motion"][a:b])
    first = watcher.watch(part(0, 30), told(30), encoders)
    last = [(a - 30, b - 30, text) for a, b, text in told(45)[15:]]
    assert np.allclose(answer.scores[:22], first.scores[:22], atol=1e-5)
    assert np.allclose(answer.scores[22:], watcher.watch(part(15, 45), last, encoders).scores[7:], atol=1e-5)


def test_words_change_the_scores_and_a_report_holds_them(encoders):
    seen, watcher = columns(40), detector(encoders)
    answer, mute = watcher.watch(seen, told(40), encoders), watcher.watch(seen, [], encoders)
    assert not np.allclose(answer.scores, mute.scores, atol=1e-4) and mute.read == ()
    report = answer.report("one", seen, told(40), 0.5, np.array([[3.0, 9.0]]), "a note")
    assert " ".join(report.words[:7]) == TEXTS[0] and report.attention.shape == (1, 40, len(report.words))
    assert np.allclose(report.attention.sum(-1), 1, atol=1e-4)
    assert report.thumbnails.shape == (40, 120, 240, 3) and report.truth.tolist() == [[3, 9]]
    silent = mute.report("one", seen, [], 0.5)
    assert silent.words == () and silent.attention is None and silent.captions == ()


def test_reports_of_long_videos_stay_small(encoders, monkeypatch):
    monkeypatch.setattr(watching, "PICTURES", 10)
    monkeypatch.setattr(watching, "WEIGHTS", 50 * 40)
    seen, watcher = columns(50), detector(encoders)
    answer = watcher.watch(seen, told(50), encoders)
    report = answer.report("one", seen, told(50), 0.5)
    assert len(report.captions) == 50 and 30 < len(report.words) <= 40
    assert report.note == f"Words are weighed in the {len(set(report.caption))} captions at the highest scores."
    assert len(report.shown) <= 10 and {0, 49, int(answer.scores.argmax())} <= set(report.shown.tolist())
    assert int(answer.scores.argmax()) in report.caption.tolist()


def test_one_word_cannot_be_attended_to(encoders):
    with pytest.warns(UserWarning, match="clip 7: a caption of one word-piece cannot be attended to and is left out"):
        detector(encoders).watch(columns(3), [(0, 2, "street")], encoders, "clip 7")


def test_columns_come_in_blocks_and_from_the_cache(encoders, video, monkeypatch):
    monkeypatch.setattr(watching, "BLOCK", 4)
    seen = watching.look(video, None, encoders)
    whole = footage.look(Video(video), encoders)
    assert np.allclose(seen["visual"], whole["visual"], atol=1e-5) and np.allclose(seen["motion"], whole["motion"])
    assert seen["edges"].tolist() == np.linspace(0, 12, 7).tolist() and seen["aspect"] == 1.5
    pictures = watching.shots(seen, range(6))
    assert np.abs(pictures.astype(int) - whole["pictures"]).mean() < 6
    captions = watching.written(seen, encoders)
    assert [c[:2] for c in captions] == [(2.0 * k, 2.0 * k + 2) for k in range(6)]

    def refuse(*_, **__):
        raise AssertionError("not from the cache")

    monkeypatch.setattr(footage, "look", refuse)
    monkeypatch.setattr(footage, "written", refuse)
    assert np.array_equal(watching.look(video, None, encoders)["visual"], seen["visual"])
    assert watching.written(seen, encoders) == captions


@pytest.mark.parametrize(("fps", "step"), [(10, 0.2), (25, 0.16), (2, 0.5)])
def test_motion_is_between_frames_that_exist(tmp_path, fps, step):
    found = footage.moments(Video(film(tmp_path / "a.mp4", 5 * fps, fps)))
    assert np.allclose(np.diff(found, axis=1), step, atol=1e-3) and np.allclose(found * fps, np.round(found * fps))
    assert np.array_equal(footage.moments(Video(tmp_path / "a.mp4"), slice(1, 2)), found[1:2])


def test_two_frames_are_enough(tmp_path, encoders):
    seen = watching.look(film(tmp_path / "two.mp4", 2), None, encoders)
    assert np.isfinite(detector(encoders).watch(seen, [], encoders).scores).all()


def test_weights_come_back(tmp_path, encoders):
    watcher = detector(encoders, threshold=0.37)
    back = Watcher.load(watcher.save(tmp_path / "w.safetensors", data="random numbers"))
    assert back.settings == watcher.settings and back.facts["data"] == "random numbers"
    back.encoders()
    assert np.array_equal(back.watch(columns(5), told(5), encoders).scores,
                          watcher.watch(columns(5), told(5), encoders).scores)


def test_weights_of_another_encoder_are_refused(tmp_path, encoders):
    saved = detector(encoders).save(tmp_path / "w.safetensors")
    folder = tmp_path / "other"
    folder.mkdir()
    other = replace(encoders, distilbert=str(small.write(folder, DistilBERT, seed=5)))
    with pytest.raises(ValueError, match=r"was trained with distilbert .* weights of another encoder; use the same"):
        Watcher.load(saved).encoders(other)
    other = replace(encoders, blip=str(small.write(folder, BLIP, seed=5)))
    assert Watcher.load(saved).encoders(other) == other


def test_precision_is_no_other_encoder(encoders):
    before = watching.fingerprints(encoders)
    encoders.eye.mixed = not encoders.eye.mixed
    try:
        assert watching.fingerprints(encoders) == before
    finally:
        encoders.eye.mixed = not encoders.eye.mixed


def test_other_files_are_refused(tmp_path, encoders):
    with pytest.raises(ValueError, match="holds weights of CLIPModel, expected Watcher; give a file written by"):
        Watcher.load(encoders.clip)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        Watcher.load(tmp_path / "none.safetensors")
    watcher = detector(encoders)
    watcher.settings = replace(watcher.settings, segment=5.0)
    with pytest.raises(ValueError, match=r"trained on columns with another segment \(5.0\), this version"):
        Watcher.load(watcher.save(tmp_path / "w.safetensors"))
    weights.save(tmp_path / "x.safetensors", watcher, dict(settings=dict(threshold=0.5)))
    with pytest.raises(ValueError, match="states a configuration that cannot be built here"):
        Watcher.load(tmp_path / "x.safetensors")
