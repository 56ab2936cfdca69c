"""Motion columns: a moving texture gives its speed and direction; still frames none; times, streams and refusals."""

import time

import cv2
import numpy as np
import pytest

from cmf.encoders import motion as m


def texture(height=120, width=160, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 8, width // 8)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def moved(n=5, down=0, right=0, **size):
    return np.stack([np.roll(texture(**size), (down * k, right * k), (0, 1)) for k in range(n)])


def column(found, name, grid=m.GRID):
    return found[:, m.names(grid).index(name)]


@pytest.mark.parametrize("down, right, sector", [(0, 2, 0), (2, 2, 1), (2, 0, 2), (0, -2, 4), (-2, 0, 6)])
@pytest.mark.parametrize("span", [1, 2])
def test_a_moving_texture_gives_its_speed_and_direction(down, right, sector, span):
    found = m.motion(moved(down=down, right=right), rate=10.0, span=span)
    speed = np.hypot(down, right) / 120 * 10
    assert found.shape == (5, len(m.names())) and found.dtype == np.float32
    np.testing.assert_allclose(column(found, "speed q90"), speed, rtol=0.1)
    assert (column(found, f"direction {sector}") > 0.9).all()
    np.testing.assert_allclose(column(found, "cell 1,1 right"), right / 12, atol=0.02)
    np.testing.assert_allclose(column(found, "cell 1,1 down"), down / 12, atol=0.02)
    np.testing.assert_allclose(column(found, "area above 0.1"), 1.0, atol=0.1)


def test_the_flow_itself_is_in_pixels():
    frames = moved(2, right=3)
    flow = m.velocity(*frames)
    assert flow.shape == (120, 160, 2)
    np.testing.assert_allclose(np.median(flow, (0, 1)), [3, 0], atol=0.05)
    np.testing.assert_array_equal(flow, m.velocity(*frames))


def test_still_frames_do_not_move():
    found = m.motion(moved(4))
    assert not found.any()


def test_a_moving_patch_shows_in_its_cell_only():
    frames = np.repeat(texture()[None], 4, 0)
    patch = texture(seed=1)[:24, :24]
    for k, frame in enumerate(frames):
        frame[85:109, 20 + 2 * k:44 + 2 * k] = patch
    found = m.motion(frames, rate=10.0)
    assert (column(found, "cell 2,0 fastest") > 0.12).all() and (column(found, "cell 0,3 fastest") < 0.02).all()
    np.testing.assert_allclose(column(found, "fastest"), 2 / 12, rtol=0.35)


def test_growth_is_divergence():
    picture = texture()
    frames = [cv2.warpAffine(picture, cv2.getRotationMatrix2D((80, 60), 0, 1.02**k), (160, 120)) for k in range(4)]
    found = m.motion(frames, rate=10.0)
    np.testing.assert_allclose(column(found, "divergence"), 2 * 0.02 * 10, rtol=0.3)


def test_speed_is_per_second_whatever_the_steps_and_the_size():
    steps = np.array([0, 1, 3, 4, 6, 8])                             # px to the right, one px every tenth of a second
    frames = np.stack([np.roll(texture(), k, 1) for k in steps])
    for span in (1, 2, 3):
        found = m.motion(frames, times=steps / 10, span=span)
        np.testing.assert_allclose(column(found, "speed q90"), 1 / 12, rtol=0.15)
    large = np.stack([cv2.resize(f, (640, 480), interpolation=cv2.INTER_CUBIC) for f in moved(3, right=2)])
    np.testing.assert_allclose(column(m.motion(large, rate=10.0), "speed q90"), 2 / 12, rtol=0.1)


def test_colour_grey_stream_and_repetition_agree():
    frames = moved(4, right=1)
    once = m.motion(frames)
    np.testing.assert_array_equal(once, m.motion(iter(frames)))
    np.testing.assert_allclose(once, m.motion(np.repeat(frames[..., None], 3, -1)), atol=1e-6)


def test_speed_is_rounded_alike_at_every_pixel():
    flow = np.random.default_rng(0).standard_normal((2, 30, 41)).astype(np.float32)
    once = m._speed(*flow)
    for k in range(1, 16):
        np.testing.assert_array_equal(m._speed(*np.roll(flow, k, 2)), np.roll(once, k, 1))


def test_ends_of_the_video_take_the_nearest_whole_window():
    found = m.motion(moved(4, right=1))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[-1], found[-2])
    two = m.motion(moved(2, right=1), span=4)                        # shorter than its span: one window of all
    np.testing.assert_array_equal(two[0], two[1])
    np.testing.assert_allclose(column(two, "speed q90"), 25 / 120, rtol=0.1)


def test_the_grid_is_free_and_named():
    found = m.motion(moved(3, right=1), grid=(5, 7))
    assert found.shape == (3, len(m.names((5, 7)))) and len(set(m.names((5, 7)))) == found.shape[1]


def test_the_thread_count_of_opencv_is_left_as_it_was():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        m.motion(moved(3, right=1))
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_segments_hold_mean_and_maximum():
    columns = np.arange(12, dtype=np.float32).reshape(6, 2)
    found = m.segment(columns, [0, 4])
    np.testing.assert_array_equal(found, [[3, 4, 6, 7], [9, 10, 10, 11]])
    assert found.dtype == np.float32


@pytest.mark.parametrize("frames, more, words", [
    (np.zeros((3, 64, 64), np.float32), {}, r"frame 0 is float32 of shape \(64, 64\), expected uint8"),
    (np.zeros((3, 64, 64, 4), np.uint8), {}, r"shape \(64, 64, 4\), expected uint8 \(H, W\) or \(H, W, 3\)"),
    ([np.zeros((64, 64), np.uint8), np.zeros((64, 48), np.uint8)], {}, "frame 1 has shape .* one size"),
    (np.zeros((3, 16, 64), np.uint8), {}, "frames of 64x16 px are too small for optical flow"),
    (np.zeros((1, 64, 64), np.uint8), {}, "at least 2 frames, got 1"),
    ([], {}, "at least 2 frames, got 0"),
    (np.zeros((3, 64, 64), np.uint8), dict(times=[0, 1]), "2 times, but more frames"),
    (np.zeros((3, 64, 64), np.uint8), dict(times=[0, 1, 2, 3]), "4 times for 3 frames"),
    (np.zeros((3, 64, 64), np.uint8), dict(times=[0, 1, 1]), "rises from frame to frame"),
    (np.zeros((3, 64, 64), np.uint8), dict(span=0), "span is 0 frame intervals"),
    (np.zeros((3, 64, 64), np.uint8), dict(rate=0), "rate 0 frames per second; both must be positive"),
])
def test_refusals(frames, more, words):
    with pytest.raises(ValueError, match=words):
        m.motion(frames, **more)


def test_refusals_of_segments():
    with pytest.raises(ValueError, match=r"columns have shape \(3,\), expected \(n, D\)"):
        m.segment(np.zeros(3), [0])
    for starts in ([], [1], [0, 0], [0, 3]):
        with pytest.raises(ValueError, match="begin at 0, rise and stay below 3"):
            m.segment(np.zeros((3, 2)), starts)


def test_speed():
    frames = moved(60, right=1, height=160, width=240)
    m.motion(frames[:3])
    began = time.process_time()
    m.motion(frames)
    assert 60 / (time.process_time() - began) > 75                  # 150 a second and more on an idle core
