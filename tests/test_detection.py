"""Detection on small scenes made here, and on the simulated ones."""

import time

import numpy as np
import pytest

from cmf import detection
from cmf.metrics.boxes import box_matching

DRIFT = np.array([0.8, -0.4])


def picture(positions, peaks, shape=(256, 256), psf=1.3, noise=1.0, level=100.0, seed=0):
    """Gaussian sources of the given peaks on a sloping background with Gaussian noise."""
    y, x = np.mgrid[:shape[0], :shape[1]]
    frame = level + 0.1 * x + np.random.default_rng(seed).normal(0, noise, shape)
    for (px, py), peak in zip(positions, peaks, strict=True):
        frame += peak * np.exp(-((x - px)**2 + (y - py)**2) / (2 * psf**2))
    return frame


def scene(stars=25, seed=0, snr=12.0):
    """Two frames with `stars` stars and four targets; also the targets' positions in A and B."""
    rng = np.random.default_rng(seed)
    cells = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2)  # one source each: no blends
    places = 24 + 42 * rng.permutation(cells)[:stars + 4] + rng.uniform(-5, 5, (stars + 4, 2))
    sky, a = places[4:], places[:4]
    b = a + np.array([[6.3, 2.1], [-5.2, 4.4], [0.3, -7.7], [-3.6, -3.1]])
    bright = rng.uniform(8, 60, stars)
    frames = [picture(np.vstack([at, where]), np.append(np.full(4, snr), bright), seed=seed + 10 + f)
              for f, (at, where) in enumerate(((a, sky), (b, sky + DRIFT)))]
    return np.array(frames), a, b, sky


def nearest(found, truth):
    return np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1))


def test_targets_are_told_from_stars():
    frames, a, b, sky = scene()
    out = detection.detect(frames)
    order = nearest(out.positions_a, a).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert np.abs(out.positions_a - a[order]).max() < 0.4 and np.abs(out.positions_b - b[order]).max() < 0.4
    assert np.abs(out.drift - DRIFT).max() < 0.15
    assert np.allclose(out.displacement, out.positions_b - out.positions_a)
    assert len(out.stars) >= 23 and nearest(out.stars, sky).min(1).max() < 1
    assert out.psf == pytest.approx(1.3, abs=0.15)
    assert (np.diff(out.scores) <= 0).all()
    assert set(out.rows()[0]) >= {"x_a", "y_b", "snr_a", "dx", "x0_a", "y1_b"} and len(out.rows()) == 4


def test_two_runs_and_another_gain_give_the_same():
    frames, *_ = scene(seed=1)
    first, again, scaled = (detection.detect(f) for f in (frames, frames, 40 * frames + 900))
    assert np.array_equal(first.snr, again.snr)
    assert np.allclose(first.positions_a, scaled.positions_a, atol=1e-2)


def test_positions_are_sub_pixel_and_widths_are_the_psf():
    truth = np.array([[40.3, 50.7], [100.0, 90.5], [200.75, 120.25]])
    out = detection.candidates(picture(truth, [80, 80, 80], psf=1.6), psf=1.3)
    order = nearest(out.positions, truth).argmin(1)
    assert len(out) == 3 and np.abs(out.positions - truth[order]).max() < 0.06
    assert np.abs(out.widths - 1.6).max() < 0.15
    flux = detection.candidates(picture(truth, [80, 80, 80])).flux
    assert np.allclose(flux, 80 * 2 * np.pi * 1.3**2, rtol=0.06)


def test_errors_are_those_observed():
    truth = np.stack(np.meshgrid(np.arange(20, 500, 24.3), np.arange(20, 500, 24.3)), -1).reshape(-1, 2)
    out = detection.candidates(picture(truth, np.full(len(truth), 5.0), (512, 512)), k=6)
    gap = (out.positions[:, None] - truth[None])[np.arange(len(out)), nearest(out.positions, truth).argmin(1)]
    assert np.std(gap / out.errors[:, None]) == pytest.approx(1, abs=0.25)


def test_noise_alone_gives_next_to_nothing_at_any_level():
    found = [len(detection.candidates(picture([], [], (512, 512), noise=n, level=v, seed=s)))
             for s, (n, v) in enumerate([(1, 10), (30, 1000), (0.01, 1), (200, 20000)])]
    assert sum(found) <= 2


def test_background_follows_the_frame():
    frame = picture([], [], (300, 200))
    level, noise = detection.background(frame)
    x = np.arange(200)
    assert np.abs(level - (100 + 0.1 * x)).max() < 0.3
    assert noise.mean() == pytest.approx(1, abs=0.05)
    assert level.shape == noise.shape == frame.shape


def test_a_hot_pixel_and_a_cut_source_are_left_out():
    frame = picture([(0.5, 120)], [60])
    frame[60, 70] += 200
    assert len(detection.candidates(frame)) == 0


def test_close_peaks_are_one_candidate():
    frame = picture([(80, 80), (82.2, 80)], [50, 45])
    assert len(detection.candidates(frame)) == 1
    assert len(detection.candidates(picture([(80, 80), (88, 80)], [50, 45]))) == 2


def test_grey_values_of_a_clean_picture_are_enough():
    clean = np.round(picture([(40, 40)], [100], (96, 96), noise=0) - 0.1 * np.arange(96)).astype(np.uint8)
    out = detection.candidates(clean)
    assert len(out) == 1 and np.allclose(out.positions, 40, atol=0.1)


def test_without_stars_nothing_is_called_one():
    a = picture([(60, 60)], [20], seed=1), picture([(66, 63)], [20], seed=2)
    out = detection.detect(np.array(a))
    assert len(out) == 1 and len(out.stars) == 0 and np.isnan(out.drift).all()
    still = picture([(60, 60)], [20], seed=1), picture([(60.1, 60)], [20], seed=2)
    assert len(detection.detect(np.array(still), drift=(0, 0))) == 0


def test_an_empty_scene_gives_an_empty_table():
    out = detection.detect([picture([], [], seed=1), picture([], [], seed=2)], k=7)
    assert len(out) == 0 and out.rows() == [] and out.boxes_a.shape == (0, 4)


def test_boxes_and_crops():
    assert detection.boxes_around([[10.4, 20.6]]).tolist() == [[5, 16, 16, 27]]
    frame = np.arange(40 * 50.).reshape(40, 50)
    boxes = detection.boxes_around([[25, 20], [0, 0]])
    chips = detection.crops(np.stack([frame, -frame]), boxes, 8)
    assert chips.shape == (2, 2, 8, 8)
    assert np.array_equal(chips[0, 0], frame[16:24, 21:29]) and np.array_equal(chips[0, 1], -chips[0, 0])
    inside = frame[:4, :4]
    assert np.array_equal(chips[1, 0, 4:, 4:], inside) and (chips[1, 0, :4] == np.median(inside)).all()
    assert detection.crops(frame, boxes, 8).shape == (2, 8, 8)
    assert detection.crops(frame, np.empty((0, 4), int)).shape == (0, 32, 32)


def test_top_k_limits_each_label_and_the_whole():
    scores = np.linspace(1, 0, 20)
    assert detection.top_k(scores, np.arange(20) % 2, overall=5, per_class=2).tolist() == [0, 1, 2, 3]
    assert detection.top_k(scores, np.arange(20), overall=3).tolist() == [0, 1, 2]
    assert len(detection.top_k([], np.array([], int))) == 0


@pytest.mark.parametrize("call, words", [
    (lambda f: detection.detect(f[:1]), "got 1 frames, expected two"),
    (lambda f: detection.detect([f[0], f[1][:-1]]), r"frame A has shape \(256, 256\) but B \(255, 256\)"),
    (lambda f: detection.candidates(np.full((64, 64), 3.0)), r"frame is constant \(3\)"),
    (lambda f: detection.candidates(np.where(f[0] == f[0].max(), np.nan, f[0])), "1 pixels that are NaN"),
    (lambda f: detection.candidates(f), r"shape \(2, 256, 256\), expected \(H, W\)"),
    (lambda f: detection.candidates(f[0], k=0), "expected a positive threshold"),
    (lambda f: detection.detect(f, drift=(0,)), r"expected the stars' motion \(dx, dy\)"),
    (lambda f: detection.detect(f, max_shift=0.5), "expected 0 < tolerance < max_shift, got 0.7 and 0.5"),
    (lambda f: detection.crops(f[0], [[900, 900, 911, 911]]), "lies outside the frame of 256x256 pixels"),
    (lambda f: detection.crops(f[None], []), r"expected \(H, W\) or \(F, H, W\)"),
    (lambda f: detection.top_k([1.], [1, 2]), r"shape \(1,\) and labels \(2,\)"),
    (lambda f: detection.top_k([1.], [1], overall=0), "must be at least 1, got 0 and 7"),
])
def test_bad_input_is_named(call, words):
    frames, *_ = scene()
    with pytest.raises(ValueError, match=words):
        call(frames)


def score(psnr, seeds, split="test"):
    from cmf.simulate.deepspace import simulate_scene
    counts, seconds = np.zeros(3), []
    for seed in seeds:
        truth = simulate_scene(psnr=psnr, seed=seed, split=split)
        start = time.process_time()
        out = detection.detect(truth.frames)
        seconds.append(time.process_time() - start)
        result = box_matching(out.boxes_a, truth.boxes_a, out.scores)
        counts += result["tp"], result["fp"], result["fn"]
    tp, fp, fn = counts
    print(f"{split}, peak signal-to-noise {psnr}: F1 {2 * tp / (2 * tp + fp + fn):.3f}, "
          f"{max(seconds):.2f} s of processor a scene")
    return 2 * tp / (2 * tp + fp + fn)


def test_simulated_scenes_of_twenty_targets():
    assert score(8.0, range(3)) >= 0.95
    assert score(8.0, range(2), "shift") >= 0.95


def test_score_rises_with_signal_to_noise():
    faint, middle, clear = (score(s, range(2)) for s in (2.0, 3.0, 6.0))
    assert faint < middle < clear and clear >= 0.95


def test_a_frame_that_is_constant_but_for_the_last_digit_is_refused():
    frame = np.full((64, 64), 1e6)
    frame[30, 30] += 1e-3
    with pytest.raises(ValueError, match="frame is constant after filtering: nothing can be detected"):
        detection.candidates(frame)
