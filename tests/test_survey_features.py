"""Features of made-up stamps and light curves whose truth is known."""

import os
from pathlib import Path

import numpy as np
import pytest

from cmf.datasets.survey_features import (
    IMAGE_GROUPS,
    SEQUENCE_GROUPS,
    join,
    sequence_features,
    stamp_features,
    survey_features,
)

SIZE = 63


def source(flux, dy=0.0, dx=0.0, sigma=1.1):
    """A Gaussian source of total counts `flux` at an offset from the stamp's centre, (63, 63)."""
    yy, xx = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    return flux * np.exp(-((yy - dy) ** 2 + (xx - dx) ** 2) / (2 * sigma ** 2)) / (2 * np.pi * sigma ** 2)


def stamps(difference, template=0.0, seed=0):
    noise = np.random.default_rng(seed).normal(100, 5, size=(1, 3, SIZE, SIZE))
    return noise + np.stack([template + difference, template + np.zeros((SIZE, SIZE)), difference])


def column(groups, group, name):
    return groups[group].values[:, groups[group].columns.index(name)]


def curve(days, band, magnitude, sign=1.0, limit=20.5, missed=(), missed_limit=20.5):
    """times (1, T), values and observed (1, T, 6) of detections in one filter and of steps that saw nothing."""
    days = np.concatenate([np.atleast_1d(days), missed]).astype(float)
    magnitude = np.broadcast_to(magnitude, (len(days) - len(missed),))
    values, observed = np.zeros((1, len(days), 6)), np.zeros((1, len(days), 6), dtype=bool)
    values[0, :len(magnitude), band] = np.arcsinh(sign * 10 ** (-0.4 * (magnitude - 20)))
    observed[0, :len(magnitude), band] = True
    limits = np.r_[np.full(len(magnitude), limit), np.full(len(missed), missed_limit)]
    values[0, :, 3 + band] = np.arcsinh(10 ** (-0.4 * (limits - 20)))
    observed[0, :, 3 + band] = True
    return days[None], values, observed


def together(*curves):
    return [np.concatenate(parts, axis=1) for parts in zip(*curves, strict=True)]


# stamps

def test_offset_of_a_displaced_template_source():
    for truth in (0.5, 1.4, 3.0, 6.3):
        groups = stamp_features(stamps(source(3000), template=source(20000, dy=0.6 * truth, dx=0.8 * truth)))
        assert np.expm1(column(groups, "host", "distance"))[0] == pytest.approx(truth, abs=0.15)
        assert column(groups, "host", "on_source")[0] == (truth < 1.45)


def test_offset_of_the_difference_itself():
    groups = stamp_features(stamps(source(20000, dy=1.2, dx=-0.9)))
    assert column(groups, "shape", "difference_offset")[0] == pytest.approx(1.5, abs=0.25)


def test_signal_to_noise_of_a_known_source():
    groups = stamp_features(stamps(source(2000)))
    weight = np.clip(2.5 - np.hypot(*(np.mgrid[:SIZE, :SIZE] - SIZE // 2)), 0, 1)
    truth = (source(2000) * weight).sum() / (5 * np.sqrt((weight ** 2).sum()))
    assert np.sinh(column(groups, "difference", "snr_2"))[0] == pytest.approx(truth, rel=0.15)
    assert np.exp(column(groups, "difference", "noise"))[0] == pytest.approx(5, rel=0.1)


def test_extended_host_is_told_from_a_star():
    star = stamp_features(stamps(source(2000), template=source(20000)))
    galaxy = stamp_features(stamps(source(2000), template=source(60000, sigma=3.0)))
    assert column(galaxy, "host", "share")[0] < column(star, "host", "share")[0] - 0.2
    assert column(galaxy, "shape", "template_size")[0] > column(star, "shape", "template_size")[0]


def test_dipole_is_told_from_a_point_source():
    clean = stamp_features(stamps(source(3000)))
    dipole = stamp_features(stamps(source(3000, dx=1.5) - source(3000, dx=-1.5)))
    for name in ("dipole", "negative", "psf_residual_share"):
        assert column(dipole, "residual", name)[0] > column(clean, "residual", name)[0] + 0.3


def test_nothing_in_the_template():
    groups = stamp_features(stamps(source(2000)))
    assert np.expm1(column(groups, "host", "distance"))[0] == pytest.approx(20)
    assert column(groups, "context", "sources")[0] == 0


@pytest.mark.parametrize("change", [
    lambda x: x + np.array([7.0, -300.0, 20.0])[:, None, None],
    lambda x: np.rot90(x, axes=(2, 3)),
    lambda x: x[..., ::-1],
])
def test_background_turns_and_mirrors_change_nothing(change):
    made = stamps(source(3000, dy=0.4), template=source(9000, dy=3.2, dx=2.1) + source(4000, dy=-9, dx=12))
    for name, group in stamp_features(made).items():
        np.testing.assert_allclose(stamp_features(change(made))[name].values, group.values, atol=1e-6)


def test_missing_pixels_and_empty_stamps_stay_finite():
    made = np.concatenate([stamps(source(3000), template=source(5000))] * 3)
    made[0, :, :, 50:] = np.nan
    made[1, 1] = np.nan
    made[2] = 0
    groups = stamp_features(made)
    assert tuple(groups) == IMAGE_GROUPS
    for group in groups.values():
        assert group.values.shape == (3, len(group.columns)) and np.isfinite(group.values).all()


@pytest.mark.parametrize("shape", [(2, 2, 63, 63), (3, 63, 63), (1, 3, 62, 62), (1, 3, 63, 61), (1, 3, 21, 21)])
def test_wrong_stamps_are_refused(shape):
    with pytest.raises(ValueError, match="expected \\(n, 3, H, H\\) with H odd and at least 31"):
        stamp_features(np.zeros(shape))


# light curves

def test_amplitude_of_a_sine():
    days = -np.linspace(0, 28, 200)
    groups = sequence_features(*curve(days, 1, 18 + 0.4 * np.sin(2 * np.pi * days / 0.9)))
    assert column(groups, "variation", "scatter")[0] == pytest.approx(0.4 / np.sqrt(2), rel=0.03)
    assert column(groups, "variation", "range")[0] == pytest.approx(0.8, rel=0.02)
    assert abs(column(groups, "variation", "slope")[0]) < 0.05
    assert column(groups, "level", "median")[0] == pytest.approx(18, abs=0.05)


def test_slope_of_a_fading_source():
    days = -np.linspace(0, 28, 50)
    groups = sequence_features(*curve(days, 0, 19 + 0.1 * days))
    assert column(groups, "variation", "slope")[0] == pytest.approx(1.0, rel=0.02)  # mag in 10 days
    assert column(groups, "variation", "scatter_detrended")[0] < 0.03
    assert column(groups, "limits", "fade")[0] == pytest.approx(2.8)
    assert column(groups, "limits", "rise")[0] == pytest.approx(0)


def test_colour_and_signs():
    days = -np.arange(0, 20, 2.0)
    groups = sequence_features(*together(curve(days, 0, 18.7), curve(days - 0.1, 1, 18.0, sign=-1.0)))
    assert column(groups, "colour", "gr")[0] == pytest.approx(0.7)
    assert column(groups, "colour", "gr_night")[0] == pytest.approx(0.7)
    assert column(groups, "sign", "mean")[0] == 0
    assert column(groups, "sign", "last")[0] == 1
    assert column(groups, "sign", "changes")[0] == 1
    assert column(groups, "variation", "scatter")[0] == pytest.approx(0, abs=1e-9)


def test_rise_out_of_the_dark():
    groups = sequence_features(*curve([-2.0, 0.0], 1, [19.0, 18.0], missed=(-9.0, -5.0), missed_limit=20.8))
    assert column(groups, "limits", "age")[0] == pytest.approx(np.log1p(2))
    assert column(groups, "limits", "gap")[0] == pytest.approx(np.log1p(3))
    assert column(groups, "limits", "rise_from_deepest")[0] == pytest.approx(2.8)
    assert column(groups, "limits", "rise_from_last")[0] == pytest.approx(1.8)
    assert column(groups, "counts", "share")[0] == 0.5


def test_one_detection_has_no_variation():
    groups = sequence_features(*curve(0.0, 1, 19.0))
    assert (groups["variation"].values == 0).all()
    assert column(groups, "counts", "once")[0] == 1
    assert column(groups, "level", "last")[0] == pytest.approx(19)


def test_only_limits_and_nothing_at_all():
    times, values, observed = curve([], 1, [], missed=(-3.0, 0.0), missed_limit=20.9)
    groups = sequence_features(times, values, observed)
    assert tuple(groups) == SEQUENCE_GROUPS
    assert column(groups, "level", "last")[0] == pytest.approx(20.9)
    assert column(groups, "counts", "limits")[0] == pytest.approx(np.log1p(2))
    assert (groups["limits"].values == 0).all()
    nothing = sequence_features(times, np.zeros_like(values), np.zeros_like(observed))
    assert all(np.isfinite(group.values).all() for group in nothing.values())


def test_no_object_gives_no_row_but_all_columns():
    empty = sequence_features(np.zeros((0, 4)), np.zeros((0, 4, 6)), np.zeros((0, 4, 6), dtype=bool))
    full = sequence_features(*curve(0.0, 1, 19.0))
    for name, group in full.items():
        assert empty[name].columns == group.columns and empty[name].values.shape == (0, len(group.columns))


def test_order_of_steps_padding_and_old_history_change_nothing():
    times, values, observed = together(curve(-np.arange(8.0), 0, 18 + 0.1 * np.arange(8)),
                                       curve(-np.arange(6.0) - 0.3, 1, 18.5, missed=(-12.0,)))
    plain = sequence_features(times, values, observed)
    mixed = np.random.default_rng(3).permutation(times.shape[1])
    shuffled = sequence_features(times[:, mixed], values[:, mixed], observed[:, mixed])
    old = curve(-400.0, 1, 16.0)
    longer = sequence_features(*together((times, values, observed), old))
    padding = (np.zeros((1, 5)), np.zeros((1, 5, 6)), np.zeros((1, 5, 6), dtype=bool))
    padded = sequence_features(*together((times, values, observed), padding))
    for name, group in plain.items():
        for other in (shuffled, longer, padded):
            np.testing.assert_allclose(other[name].values, group.values, atol=1e-12)
    assert column(sequence_features(*together((times, values, observed), old), window=None),
                  "level", "brightest")[0] == pytest.approx(16)


def test_wrong_sequences_are_refused():
    times, values, observed = curve([-1.0, 0.0], 1, 19.0)
    with pytest.raises(ValueError, match="three fluxes and three limits a step"):
        sequence_features(times, values[..., :3], observed[..., :3])
    with pytest.raises(ValueError, match="count back from the last exposure"):
        sequence_features(times + 5, values, observed)


def test_join_names_its_columns_and_leaves_out_groups():
    groups = survey_features(stamps(source(2000)), *curve([-1.0, 0.0], 1, 19.0))
    x, names = join(groups, drop=("counts",))
    assert x.shape == (1, len(names)) and len(set(names)) == len(names)
    assert "limits.age" in names and not any(name.startswith("counts.") for name in names)
    assert join(groups, ("sign",))[1] == ("sign.last", "sign.mean", "sign.changes")
    with pytest.raises(ValueError, match="feature groups .'colours'. asked for; choose among"):
        join(groups, ("colours",))
    with pytest.raises(ValueError, match="feature groups none asked for"):
        join(groups, ())


def test_real_survey_objects_give_finite_features():
    folder = Path(os.environ.get("CMF_DATA", "")) / "deepspace"
    if "CMF_DATA" not in os.environ or not (folder / "ztf.npz").exists():
        pytest.skip("CMF_DATA names no folder with deepspace/ztf.npz, the packed survey objects")
    from cmf.datasets.survey import read_ztf
    made = read_ztf(folder).subset(np.arange(40))
    groups = survey_features(made.images, made.times, made.values, made.observed)
    x, _ = join(groups)
    assert np.isfinite(x).all() and np.abs(x).max() < 50
    once = column(groups, "counts", "once") == 1
    assert (once == (made.groups["detections"] == 1)).all()
