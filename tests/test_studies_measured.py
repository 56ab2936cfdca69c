"""`python -m cmf measure`: rows, means, ranks, the files written, and every bad input in one line."""

import doctest

import numpy as np
import pandas as pd
import pytest
from fusion_pictures import mean, pair
from PIL import Image

from cmf import cli
from cmf.metrics.fusion import MEASURES, evaluate
from cmf.studies import measured

FEW = "EN,SD,VIF,Qabf,Nabf"
RULES = {"mean": mean, "max": np.maximum, "infrared": lambda a, b: a}


def save(folder, stem, picture, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture).astype(np.uint8)).save(folder / f"{stem}{suffix}")


@pytest.fixture
def sets(tmp_path):
    """Three pairs of 60 x 70 and three folders of pictures fused from them."""
    a, b = pair()
    for k, (y, x) in enumerate(((0, 0), (60, 80), (120, 150))):
        own = [p[y:y + 60, x:x + 70] for p in (a, b)]
        for name, picture in zip(("ir", "vi"), own, strict=True):
            save(tmp_path / name, f"p{k}", picture)
        for name, rule in RULES.items():
            save(tmp_path / name, f"p{k}", rule(*own))
    return tmp_path


def run(root, *fused, out="out/t.csv", more=("--measures", FEW, "--jobs", "1")):
    folders = [part for name in fused for part in ("--fused", str(root / name))]
    return cli.main(["measure", "--infrared", str(root / "ir"), "--visible", str(root / "vi"), *folders,
                     "--out", str(root / out), *more])


def read(path):
    return np.asarray(Image.open(path)).astype(float)


def test_examples_in_docstrings():
    result = doctest.testmod(measured)
    assert result.attempted > 0 and result.failed == 0


def test_rows_means_and_ranks_of_three_methods(sets, capsys):
    assert run(sets, *RULES) == 0
    rows = pd.read_csv(sets / "out" / "t.csv")
    assert list(rows) == ["fused", "stem", *FEW.split(",")]
    assert list(rows.fused) == [name for name in RULES for _ in range(3)] and list(rows.stem) == ["p0", "p1", "p2"] * 3
    want = evaluate(*(read(sets / name / "p1.png") for name in ("ir", "vi", "max")), names=FEW.split(","))
    assert rows.iloc[4][list(want)].to_dict() == pytest.approx(want, rel=1e-8)
    average = pd.read_csv(sets / "out" / "t_means.csv")
    assert list(average) == ["fused", "measure", "better", "unit", "mean", "low", "high", "n"] and len(average) == 15
    one = average[(average.fused == "max") & (average.measure == "SD")].iloc[0]
    values = rows[rows.fused == "max"].SD
    assert one["mean"] == pytest.approx(values.mean()) and one.better == "up" and one.n == 3
    assert values.min() <= one.low <= one["mean"] <= one.high <= values.max()
    ranks = pd.read_csv(sets / "out" / "t_ranks.csv").set_index("fused")
    assert list(ranks) == ["mean_rank", *FEW.split(",")] and ranks.mean_rank.is_monotonic_increasing
    best = average[average.measure == "VIF"].sort_values("mean").fused.iloc[-1]
    assert ranks.VIF[best] == 1 and (ranks[FEW.split(",")].mean(axis=1) == ranks.mean_rank).all()
    clean = average[average.measure == "Nabf"].sort_values("mean").fused.iloc[0]
    assert ranks.Nabf[clean] == 1  # the smallest is the best
    said = capsys.readouterr().out
    assert "VIF (up)" in said and "SD (up, grey level)" in said and "Nabf (down)" in said
    assert "Ranks of the means, 1 the best, ties shared" in said and "3 pictures; written to" in said
    assert sorted(path.name for path in (sets / "out").iterdir()) == ["t.csv", "t_means.csv", "t_ranks.csv"]


def test_one_method_has_no_ranks_and_all_measures_by_default(sets, capsys):
    assert run(sets, "max", more=()) == 0
    assert list(pd.read_csv(sets / "out" / "t.csv"))[2:] == list(MEASURES)
    assert not (sets / "out" / "t_ranks.csv").exists()
    average = pd.read_csv(sets / "out" / "t_means.csv").set_index("measure")
    assert average.n["MS-SSIM"] == 0 and np.isnan(average["mean"]["MS-SSIM"]) and average.n["SD"] == 3
    assert "Ranks" not in capsys.readouterr().out


def test_processes_give_the_same_rows_in_the_same_order(sets):
    args = (sets / "ir", sets / "vi", [sets / "max", sets / "mean"], ["SD", "VIF"])
    pd.testing.assert_frame_equal(measured.measure_folders(*args, jobs=1), measured.measure_folders(*args, jobs=2))


def test_arrays_in_memory(sets):
    triples = [[read(sets / name / f"p{k}.png") / 255 for name in ("ir", "vi", "max")] for k in range(3)]
    table = measured.measure_arrays(triples, ["SD", "Qabf"], data_range=1)
    rows = measured.measure_folders(sets / "ir", sets / "vi", [sets / "max"], ["SD", "Qabf"], jobs=1)
    pd.testing.assert_frame_equal(table, rows[["SD", "Qabf"]])
    with pytest.raises(ValueError, match="0 processes: expected 1 or more"):
        measured.measure_arrays(triples, ["SD"], jobs=0)


def test_ties_share_a_rank_and_incomplete_measures_are_left_out():
    table = pd.DataFrame({"fused": ["a", "b", "c"] * 2, "measure": ["SD"] * 3 + ["VIF"] * 3, "n": 4,
                          "mean": [3.0, 5.0, 5.0, 1.0, np.nan, 2.0]})
    ranks = measured.ranks(table)
    assert list(ranks) == ["fused", "mean_rank", "SD"]
    assert ranks.set_index("fused").SD.to_dict() == {"b": 1.5, "c": 1.5, "a": 3.0}


def test_colour_counts_by_its_luma_and_files_work_like_folders(sets):
    rgb = np.dstack([read(sets / "vi" / "p0.png"), read(sets / "ir" / "p0.png"), read(sets / "max" / "p0.png")])
    save(sets, "colour", rgb)
    rows = measured.measure_folders(sets / "ir" / "p0.png", sets / "vi" / "p0.png", [sets / "colour.png"], ["SD"])
    assert rows.SD[0] == pytest.approx(np.rint(rgb @ [.299, .587, .114]).std(), rel=1e-3)
    assert rows.fused[0] == "colour" and rows.stem[0] == "p0"


def test_folders_of_one_name_are_told_apart_by_the_folder_above(sets):
    for method in ("x", "y"):
        for path in (sets / "max").iterdir():
            save(sets / method / "out", path.stem, read(path))
    rows = measured.measure_folders(sets / "ir", sets / "vi", [sets / "x" / "out", sets / "y" / "out"], ["SD"], jobs=1)
    assert list(dict.fromkeys(rows.fused)) == ["x/out", "y/out"]


def test_fused_pictures_of_some_pairs_are_enough(sets, recwarn):
    (sets / "max" / "p1.png").unlink()
    assert run(sets, "max") == 0 and len(pd.read_csv(sets / "out" / "t.csv")) == 2
    assert not recwarn.list


def refused(capsys, *words):
    said = capsys.readouterr().err
    assert all(word in said for word in words) and said.count("\n") <= 3, said


def test_fused_pictures_without_sources_are_listed(sets, capsys):
    save(sets / "max", "stray", np.zeros((60, 70)))
    assert run(sets, "max") == 1 and not (sets / "out" / "t.csv").exists()
    refused(capsys, "fused pictures without sources: stray", "bears the name of its sources, such as p0")


def test_folders_of_different_pictures_are_not_ranked(sets, capsys):
    (sets / "max" / "p1.png").unlink()
    assert run(sets, "mean", "max") == 1
    refused(capsys, "max lacks pictures that other folders have: p1; means over different pictures")


def test_sources_without_a_common_name(sets, capsys):
    for path in (sets / "ir").iterdir():
        path.rename(path.with_stem(f"x{path.stem}"))
    assert run(sets, "max") == 1
    refused(capsys, "no name is in both folders", "xp0, xp1, xp2")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_sizes_that_differ_are_named(sets, capsys, jobs):
    save(sets / "max", "p1", np.zeros((60, 64)))
    assert run(sets, "max", more=("--measures", FEW, "--jobs", jobs)) == 1
    refused(capsys, "p1.png: 64 x 60 pixels (width x height), but its sources have 70 x 60")
    save(sets / "ir", "p0", np.zeros((30, 70)))
    assert run(sets, "max") == 1
    refused(capsys, "p0: visible 70 x 60, infrared 70 x 30 pixels")


def test_unknown_measure_processes_and_a_folder_given_twice(sets, capsys):
    assert run(sets, "max", more=("--measures", "EN,PSNR2")) == 1
    refused(capsys, "unknown measure 'PSNR2'; choose from EN, SD, SF")
    assert run(sets, "max", more=("--jobs", "0")) == 1
    refused(capsys, "0 processes: expected 1 or more")
    assert run(sets, "max", "max") == 1
    refused(capsys, "a fused folder is given twice")
    assert run(sets, "absent") == 1
    refused(capsys, "absent: no such picture or folder")


def test_an_out_that_cannot_be_written_is_refused_before_the_work(sets, capsys, monkeypatch):
    monkeypatch.setattr(measured, "measure_folders", lambda *_: pytest.fail("the work began"))
    (sets / "file").write_text("")
    assert run(sets, "max", out="file/t.csv") == 1
    refused(capsys, "file cannot be written", "give a folder of your own")
    assert run(sets, "max", out="ir") == 1
    refused(capsys, "ir is a folder; name a file, such as")


def test_a_full_disk_leaves_nothing(sets, capsys, monkeypatch):
    def full(path, *_, **__):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measured.Path, "write_text", full)
    assert run(sets, "max") == 1
    refused(capsys, "No space left on device")
    assert list((sets / "out").iterdir()) == []


def test_many_methods_are_shown_without_intervals(sets, capsys):
    assert run(sets, *RULES, more=("--measures", "SD", "--jobs", "1")) == 0
    assert "[" in capsys.readouterr().out
    assert run(sets, *RULES, "vi", more=("--measures", "SD", "--jobs", "1")) == 0
    assert "[" not in capsys.readouterr().out
