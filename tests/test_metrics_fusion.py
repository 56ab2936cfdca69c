"""Fusion measures: reference values, the same by slow obvious paths, invariances, limits, refusals."""

import doctest
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from fusion_pictures import mean, pair, triples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmf.metrics import fusion
from cmf.metrics.fusion import MEASURES, Triple, evaluate

REFERENCE = json.loads((Path(__file__).parent / "reference" / "fusion_metrics.json").read_text())
TRIPLES = triples()
# names of the shared reference for ours
THEIRS = {"MI_nats_sum": "MI", "VIF_sum": "VIF", "SSIM_mean": "SSIM", "MS_SSIM_mean": "MS-SSIM",
          "PSNR_mean_MSE": "PSNR", "NMI_Hossny": "NMI", "CE_bits": "CE", "FMI_pixel": "FMI"}


def agree(got, want, tolerances):
    wrong = {name: (got[name], value) for name, value in want.items()
             if not abs(got[name] / value - 1) <= tolerances[name]}
    assert not wrong, wrong


# ---- reference values

def test_example_in_docstring():
    result = doctest.testmod(fusion)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("case", ["mean", "max"])
def test_generated_pair_has_the_reference_values(case):
    infrared, visible, fused = TRIPLES[case]
    sums = REFERENCE["pixel_sums"]
    assert (infrared.sum(), visible.sum(), fused.sum()) == (sums["ir"], sums["vi"], sums[case])
    agree(evaluate(infrared, visible, fused), REFERENCE["values"][case], REFERENCE["rtol"])


@pytest.mark.parametrize("name", ["T480x640_mean", "FLIR_00452_mean", "FLIR_00452_max", "FLIR_05514_mean",
                                  "FLIR_05514_max"])
def test_real_pairs_have_the_reference_values(name):
    folder = Path(os.environ.get("CMF_DATA", "nowhere")).parent / "reference"
    if not (folder / "fusion_metrics.json").is_file():
        pytest.skip("the real pairs are not here: set CMF_DATA to the data folder beside which reference/ lies")
    reference = json.loads((folder / "fusion_metrics.json").read_text())
    read = lambda stem: np.asarray(Image.open(folder / "fusion_pairs" / f"{stem}.png"))
    scene = name.rpartition("_")[0]
    got = evaluate(read(f"{scene}_ir"), read(f"{scene}_vi"), read(name))
    want, rtol = ({THEIRS.get(key, key): value for key, value in table.items()}
                  for table in (reference["pairs"]["values"][name], reference["rtol"]))
    assert set(want) == set(MEASURES)
    agree(got, want, rtol)


def test_every_measure_is_described():
    assert list(MEASURES)[:6] == ["EN", "SD", "SF", "AG", "MI", "NMI"] and len(MEASURES) == 19
    for name, fact in MEASURES.items():
        assert fact.name == name and fact.better in ("up", "down") and fact.title and fact.source
        assert "better" in fact.compute.__doc__ or name == "FMI_gradient"
    assert [name for name, fact in MEASURES.items() if fact.better == "down"] == ["Nabf", "CE", "Qcv"]


def test_one_function_a_measure_equals_evaluate():
    everything = evaluate(*TRIPLES["max"])
    functions = [f for f in vars(fusion).values() if hasattr(f, "measure")]
    assert {f.measure.name for f in functions} == set(MEASURES)
    for function in functions:
        assert function(*TRIPLES["max"], 255) == everything[function.measure.name]
    assert evaluate(*TRIPLES["max"], names=("SSIM", "SD")) == {k: everything[k] for k in ("SSIM", "SD")}


# ---- range

@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "uint16"])
def test_the_same_picture_in_another_range_has_the_same_measures(kind):
    white = {"uint8": 255, "uint16": 65535}.get(kind, 1)
    scaled = [(picture / 255 * white).round(0 if white > 1 else 12).astype(kind) for picture in TRIPLES["max"]]
    assert evaluate(*scaled, data_range=white) == pytest.approx(evaluate(*TRIPLES["max"]), rel=1e-12)


def test_pictures_in_the_unit_range_without_its_range_are_warned_about():
    with pytest.warns(UserWarning, match=r"all values lie in \[0, 1\] but data_range is 255.*pass data_range=1"):
        evaluate(*(picture / 255 for picture in TRIPLES["max"]), names=("SD",))


def test_values_just_beyond_the_range_are_rounding():
    a, b, f = (picture / 255 for picture in TRIPLES["max"])
    assert fusion.deviation(a, b, f + 1e-9, 1) == pytest.approx(fusion.deviation(a, b, f, 1), rel=1e-6)


# ---- invariances and limits

def noise(seed, size=(45, 48)):
    return np.random.default_rng(seed).integers(0, 256, size).astype(float)


SMALL = [name for name in MEASURES if name != "MS-SSIM"]


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_sources_may_be_swapped(seed):
    a, b, f = (noise(seed + k) for k in range(3))
    one, two = evaluate(a, b, f, names=SMALL), evaluate(b, a, f, names=SMALL)
    assert one == pytest.approx(two, rel=1e-9, abs=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_information_does_not_know_which_level_is_which(seed):
    a, b, f = (noise(seed + k) // 32 for k in range(3))
    mixed = np.random.default_rng(seed).permutation(256).astype(float)
    names = ("EN", "MI", "NMI")
    assert evaluate(a, b, mixed[f.astype(int)], names=names) == pytest.approx(evaluate(a, b, f, names=names), rel=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.3, 0.9), st.floats(0, 20))
def test_contrast_and_offset(seed, gain, offset):
    a, b, f = (noise(seed + k) for k in range(3))
    names = ("SD", "SF", "AG", "CC")
    one, two = evaluate(a, b, f, names=names), evaluate(a, b, gain * f + offset, names=names)
    for name in names:
        assert two[name] == pytest.approx(one[name] * (gain if name != "CC" else 1), rel=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(0, 128))
def test_measures_after_the_eye_do_not_see_an_offset(seed, offset):
    first = [noise(seed + k) // 2 for k in range(3)]
    one, two = (evaluate(*(p + shift for p in first), names=("Qcb", "Qcv")) for shift in (0, offset))
    assert one == pytest.approx(two, rel=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_bounds(seed):
    got = evaluate(*(noise(seed + k) for k in range(3)), names=SMALL)
    for name, (low, high) in {"EN": (0, 8), "SD": (0, 127.5), "MI": (0, 11.1), "NMI": (0, 2), "CC": (-1, 1),
                              "SCD": (-2, 2), "VIF": (0, 2), "Qabf": (0, 1), "Nabf": (0, 1), "SSIM": (-1, 1),
                              "Qcb": (0, 1), "FMI": (0, 1), "FMI_gradient": (0, 1)}.items():
        assert low <= got[name] <= high, name


def test_limits_of_three_identical_pictures():
    same = evaluate(*[noise(0, (170, 164))] * 3)
    assert same == pytest.approx(same | {"NMI": 2, "CC": 1, "SCD": 0, "VIF": 2, "Nabf": 0, "SSIM": 1, "MS-SSIM": 1,
                                         "PSNR": math.inf, "CE": 0, "Qcb": 1, "Qcv": 0, "FMI": 1, "FMI_gradient": 1})
    assert same["MI"] == pytest.approx(2 * same["EN"] * math.log(2)) and 0.97 < same["Qabf"] < 0.9994


def test_noise_worsens_what_compares_with_the_sources():
    a, b = pair()
    series = [evaluate(a, b, np.clip(mean(a, b) + s * np.random.default_rng(0).normal(size=a.shape), 0, 255))
              for s in (0, 4, 8, 16, 32)]
    for name in ("MI", "NMI", "CC", "SCD", "VIF", "Qabf", "SSIM", "MS-SSIM", "PSNR", "Qcv", "Nabf", "FMI"):
        steps = np.diff([one[name] for one in series])
        assert (steps > 0 if MEASURES[name].better == "down" else steps < 0).all(), (name, series)
    for name in ("EN", "SD", "SF", "AG"):  # the ones that noise improves
        assert (np.diff([one[name] for one in series]) > 0).all(), name


@pytest.mark.parametrize("levels", [(0, 0, 0), (100, 100, 100), (0, 128, 255), (255, 0, 0)])
def test_constant_pictures_have_decided_values_and_no_warning(levels, recwarn):
    with np.errstate(all="raise", under="ignore"):
        got = evaluate(*(np.full((170, 165), float(v)) for v in levels))
    assert not recwarn.list and not any(map(math.isnan, got.values()))
    assert {k: got[k] for k in ("EN", "SD", "SF", "AG", "MI", "NMI", "CC", "SCD", "VIF", "Nabf", "CE", "Qcb", "Qcv")} \
        == {"EN": 0, "SD": 0, "SF": 0, "AG": 0, "MI": 0, "NMI": 2, "CC": 0, "SCD": 0, "VIF": 2, "Nabf": 0, "CE": 0,
            "Qcb": 1, "Qcv": 0}
    if levels == (0, 0, 0):
        assert got["Qabf"] == 0 and got["SSIM"] == got["MS-SSIM"] == got["FMI"] == 1 and got["PSNR"] == math.inf


def test_a_blind_source_adds_nothing(recwarn):
    a, black = noise(0), np.zeros((45, 48))
    with np.errstate(all="raise", under="ignore"):
        got = evaluate(black, a, a, names=SMALL)
    assert got["VIF"] == pytest.approx(1) and got["NMI"] == pytest.approx(1) and got["CC"] == pytest.approx(0.5)
    assert got["Qcb"] == pytest.approx(1) and not recwarn.list
    fused_black = evaluate(a, a[::-1], black, names=SMALL)
    assert fused_black["VIF"] == fused_black["NMI"] == fused_black["Qcb"] == 0 and fused_black["Qabf"] < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 300), (3, 3), (10, 40), (40, 200), (161, 161), (163, 164)])
def test_measures_say_nan_below_the_size_they_need(size):
    got = evaluate(*(noise(k, size) for k in range(3)))
    assert {name for name, value in got.items() if math.isnan(value)} == {
        name for name, fact in MEASURES.items() if min(size) < fact.smallest}
    assert {name: fact.smallest for name, fact in MEASURES.items() if fact.smallest > 1} == {
        "VIF": 41, "SSIM": 11, "MS-SSIM": 161, "FMI": 3, "FMI_gradient": 3}


def test_two_runs_and_any_memory_order_give_equal_numbers():
    a, b, f = TRIPLES["mean"]
    first = evaluate(a, b, f)
    assert first == evaluate(np.asfortranarray(a), b[::-1][::-1], f.copy()) == evaluate(a, b, f)


# ---- refusals

OK = noise(5, (12, 14))


@pytest.mark.parametrize("bad, error, words", [
    ((OK, OK, OK[:, 1:]), ValueError, r"infrared (12, 14), visible (12, 14), fused (12, 13); resize or crop them"),
    ((OK, OK, np.stack([OK] * 3, -1)), ValueError, "fused picture has shape (12, 14, 3); expected two axes"),
    ((OK[0], OK, OK), ValueError, "infrared picture has shape (14,); expected two axes"),
    ((OK[:0], OK[:0], OK[:0]), ValueError, "infrared picture has shape (0, 14): no pixel"),
    ((OK, np.where(OK > 200, np.nan, OK), OK), ValueError, "visible picture holds 40 values that are NaN or infinite"),
    ((OK, OK, np.where(OK > 250, np.inf, OK)), ValueError, "fused picture holds 2 values that are NaN or infinite"),
    ((OK, OK, OK - 10), ValueError, "fused picture has values -10..245, outside 0..255; pass the data_range"),
    ((OK * 2, OK, OK), ValueError, "infrared picture has values 0..510, outside 0..255"),
    ((OK, OK, OK.astype(str)), TypeError, "fused picture holds <U32; expected integers or floats"),
    ((OK, OK, OK + 1j), TypeError, "fused picture holds complex128; expected integers or floats"),
], ids=["sizes", "colour", "vector", "empty", "nan", "infinity", "negative", "above", "text", "complex"])
def test_bad_pictures_are_refused_in_words(bad, error, words):
    with pytest.raises(error, match=re.escape(words)):
        evaluate(*bad)


@pytest.mark.parametrize("white", [0, -1, math.nan, math.inf, (255, 255)])
def test_a_bad_range_is_refused(white):
    with pytest.raises(ValueError, match="data_range must be the value of white, a finite number above 0"):
        Triple(OK, OK, OK, white)


@pytest.mark.parametrize("names, words", [(("EN", "PSN"), "unknown measure 'PSN'; choose from EN, SD, SF"),
                                          ((), r"unknown measure \(none named\); choose from EN")])
def test_an_unknown_measure_is_refused(names, words):
    with pytest.raises(ValueError, match=words):
        evaluate(OK, OK, OK, names=names)
