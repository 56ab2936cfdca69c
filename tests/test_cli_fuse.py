"""`python -m cmf fuse`: the folder it makes, names, colours and depths kept, and every bad input in one line."""

import errno
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import small_fusion as small
from PIL import Image

from cmf import cli
from cmf.datasets.pairs import match
from cmf.datasets.pictures import read, write
from cmf.studies import fuse, fusing
from cmf.studies.fusing import Fuser

FILES = ["measures.csv", "measures_means.csv", "run.json", "sheet"]


@pytest.fixture(autouse=True)
def weights(tmp_path_factory, monkeypatch):
    """A small untrained network in the place of the project's own."""
    path, encoder = small.trained(tmp_path_factory.mktemp("small"))
    monkeypatch.setattr(fusing, "CLIP", lambda *words, **more: encoder)
    monkeypatch.setattr(fusing, "TRAINED", path)
    return path


@pytest.fixture
def data(tmp_path):
    """Folders vi (JPEG in colour) and ir (grey PNG) of three pairs."""
    for k, name in enumerate(("a", "b", "c")):
        visible, infrared = small.pair(64, 80, seed=k)
        for folder, picture, suffix in (("vi", visible, "jpg"), ("ir", infrared, "png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{name}.{suffix}")
    return tmp_path


def run(data, *words, out="out", visible="vi", infrared="ir"):
    return cli.main(["fuse", "--visible", str(data / visible), "--infrared", str(data / infrared), "--out",
                     str(data / out), *map(str, words)])


def told(capsys):
    return [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("cmf:")]


def nothing_left(data, out="out"):
    return not (data / out).exists() and not (data / f"{out}.part").exists()


def test_folders(data, capsys, weights):
    assert run(data, "--prompt", "a person walks") == 0
    out, printed = data / "out", capsys.readouterr().out
    assert "3 of 3 pairs fused; see" in printed and "Qabf" in printed
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "c.png", *FILES]
    table = pd.read_csv(out / "measures.csv")
    assert table.stem.tolist() == ["a", "b", "c"] and table.EN.between(1, 8).all() and (table.fused == "out").all()
    facts = json.loads((out / "run.json").read_text())
    assert [one["stem"] for one in facts["pairs"]] == ["a", "b", "c"] and facts["weights"]["file"] == weights.name
    assert len(facts["weights"]["sha256"]) == 64 and facts["pairs"][0]["prompt"] == "a person walks"
    assert facts["pairs"][0]["seconds"].keys() == {"read", "fuse", "write"} and facts["network_device"]
    one, source = read(out / "a.png"), read(data / "vi" / "a.jpg")
    inner = (one.luma > 0.3) & (one.luma < 0.7)     # at the ends of the range not every chroma is a colour
    assert one.bits == 8 and np.abs(one.chroma[inner].mean(0) - source.chroma[inner].mean(0)).max() < 0.002
    assert inner.mean() > 0.5
    sheet = Image.open(out / "sheet" / "contact_sheet.png")
    assert sheet.size[0] > 3 * 80 and np.ptp(np.asarray(sheet)) == 255
    assert cli.main(["measure", "--visible", str(data / "vi"), "--infrared", str(data / "ir"), "--fused", str(out),
                     "--out", str(data / "again.csv")]) == 0
    again = pd.read_csv(data / "again.csv")
    assert np.allclose(again.drop(columns=["fused", "stem"]), table.drop(columns=["fused", "stem"]), equal_nan=True)


def test_what_the_library_says_is_what_the_file_holds(data, weights):
    assert run(data, "--no-measures", "--jobs", "1", visible="vi/a.jpg", infrared="ir/a.png") == 0
    assert sorted(p.name for p in (data / "out").iterdir()) == ["a.png", "run.json", "sheet"]
    found = Fuser.load(weights).fuse(read(data / "vi" / "a.jpg"), read(data / "ir" / "a.png"))
    assert np.abs(read(data / "out" / "a.png").luma - found.luma).max() < 1.5 / 255


def test_sixteen_bits_tiff_and_alpha_are_kept(data):
    rng = np.random.default_rng(0)
    luma, alpha = rng.uniform(0.2, 0.8, (2, 40, 50)).astype(np.float32)
    for folder in ("vi16", "ir16"):
        write(data / folder / "t.tif", luma, bits=16)
    write(data / "vi16" / "p.png", luma, alpha=alpha)
    write(data / "ir16" / "p.png", luma, bits=16)
    assert run(data, "--no-measures", visible="vi16", infrared="ir16") == 0
    tiff, png = read(data / "out" / "t.tif"), read(data / "out" / "p.png")
    assert tiff.bits == png.bits == 16 and tiff.chroma is None and tiff.alpha is None
    assert len(np.unique(tiff.luma)) > 256 and np.abs(png.alpha - alpha).max() < 1 / 255


def test_prompts_of_a_table(data):
    table = data / "prompts.csv"
    table.write_text('stem,prompt\na,"two\nred cars"\nc,\n', encoding="utf-8-sig")
    with pytest.warns(UserWarning, match="no prompt for 1 of 3 pairs, first b; they are balanced"):
        assert run(data, "--prompts", table, "--no-measures") == 0
    facts = json.loads((data / "out" / "run.json").read_text())
    assert [one["prompt"] for one in facts["pairs"]] == ["two\nred cars", "", ""]
    pairs = match(data / "vi", data / "ir")
    for text, words in (("stem,prompt\na,x\na,y\n", "several prompts for a; expected one line a pair"),
                        ("stem,prompt\nz,x\n", "prompts for pairs that are not here: z"),
                        ("name,prompt\na,x\n", "has the columns name, prompt; expected stem and prompt"),
                        ("", "cannot be read .*expected a CSV in UTF-8")):
        table.write_text(text)
        with pytest.raises(ValueError, match=words):
            fuse.prompts_of(pairs, table=table)
    with pytest.raises(FileNotFoundError, match="no such file; expected a CSV with the columns stem and prompt"):
        fuse.prompts_of(pairs, table=data / "none.csv")


def test_a_prompt_of_two_thousand_words_is_cut_with_a_warning(data):
    with pytest.warns(UserWarning, match="longer than 24 tokens and are cut there"):
        assert run(data, "--prompt", "red cars " * 1000, "--no-measures") == 0
    assert (data / "out" / "sheet" / "contact_sheet.png").is_file()


def test_one_bad_pair_is_told_and_the_others_are_done(data, capsys):
    (data / "ir" / "b.png").write_bytes((data / "ir" / "b.png").read_bytes()[:300])
    assert run(data, "--no-measures") == 1
    (line,) = told(capsys)
    assert "b.png: cannot be read" in line
    assert sorted(p.name for p in (data / "out").iterdir()) == ["a.png", "c.png", "run.json", "sheet"]
    assert "b" in json.loads((data / "out" / "run.json").read_text())["failed"]


@pytest.mark.parametrize(("picture", "words"), [
    (np.zeros((64, 70), np.uint8), "b: visible 80 x 64, infrared 70 x 64 pixels"),
    (np.full((64, 80), np.nan, np.float32), "5120 of 5120 values are not finite"),
    (b"no picture at all", "no picture that can be read"), (b"", "the file is empty"),
], ids=["size", "nan", "text", "empty"])
def test_pairs_that_cannot_be_fused(data, capsys, picture, words):
    target = data / "ir" / "b.png"
    target.unlink()
    if isinstance(picture, bytes):
        target.write_bytes(picture)
    else:
        Image.fromarray(picture).save(target.with_suffix(".tif"))
    assert run(data, "--no-measures") == 1
    assert [words in line for line in told(capsys)] == [True]
    only = next((data / "ir").glob("b.*"))
    assert run(data, "--no-measures", out="one", visible="vi/b.jpg", infrared=f"ir/{only.name}") == 1
    assert words in told(capsys)[0] and nothing_left(data, "one")


def test_another_size_is_resized_when_asked(data):
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(data / "ir" / "b.png")
    assert run(data, "--align", "resize") == 0
    assert read(data / "out" / "b.png").size == (64, 80) and len(pd.read_csv(data / "out" / "measures.csv")) == 3


@pytest.mark.parametrize(("size", "level"), [((1, 1), 90), ((64, 80), 0), ((64, 80), 255)])
def test_odd_pictures(data, size, level):
    for folder in ("vi", "ir"):
        shutil.rmtree(data / folder)
        (data / folder).mkdir()
        Image.fromarray(np.full(size, level, np.uint8)).save(data / folder / "x.png")
    assert run(data) == 0
    assert read(data / "out" / "x.png").size == size and len(pd.read_csv(data / "out" / "measures.csv")) == 1


def test_cmyk_palette_and_turned_pictures(data):
    visible = Image.open(data / "vi" / "a.jpg")
    shutil.rmtree(data / "ir")
    shutil.copytree(data / "vi", data / "ir")
    visible.convert("CMYK").save(data / "vi" / "a.jpg")
    visible.quantize(16).save(data / "vi" / "b.png")
    (data / "vi" / "b.jpg").unlink()
    turned = Image.Exif()
    turned[0x0112] = 6
    for folder in ("vi", "ir"):
        Image.open(data / folder / "c.jpg").save(data / folder / "c.jpg", exif=turned)
    with pytest.warns(UserWarning, match="both pictures are coloured"):
        assert run(data, "--no-measures") == 0
    assert [read(data / "out" / f"{name}.png").size for name in "abc"] == [(64, 80), (64, 80), (80, 64)]


def test_names_that_do_not_match(data, capsys):
    (data / "ir" / "c.png").rename(data / "ir" / "d.png")
    with pytest.warns(UserWarning, match="in .*vi only: c; in .*ir only: d"):
        assert run(data, "--no-measures") == 0
    for name in ("a", "b"):
        (data / "ir" / f"{name}.png").unlink()
    assert run(data, out="none") == 1 and nothing_left(data, "none")
    assert "no name is in both folders" in told(capsys)[0]
    assert run(data, out="none", visible="nowhere") == 1
    assert "nowhere: no such picture or folder" in told(capsys)[0]


def test_where_it_cannot_be_written(data, capsys, monkeypatch):
    (data / "full").mkdir()
    (data / "full" / "mine.txt").write_text("keep")
    assert run(data, out="full") == 1
    assert "full exists and is not an empty folder; remove it" in told(capsys)[0]
    assert [p.name for p in (data / "full").iterdir()] == ["mine.txt"] and not (data / "full.part").exists()
    assert run(data, out="full/mine.txt/below") == 1
    assert "below cannot be written (Not a directory)" in told(capsys)[0]
    (data / "empty").mkdir()
    assert run(data, "--no-measures", out="empty") == 0 and (data / "empty" / "a.png").is_file()


@pytest.mark.parametrize("place", ["cmf.datasets.pictures.os.replace", "cmf.studies.measured.write",
                                   "cmf.studies.fuse.contact_sheet", "cmf.runs.write_text"])
def test_a_full_disk_leaves_nothing(data, capsys, monkeypatch, place):
    def full(*words, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, full)
    assert run(data) == 1 and nothing_left(data)
    (line,) = told(capsys)
    assert "cannot be written" in line and ("disk is full" in line or "No space left" in line)


def test_bad_arguments(data, capsys, weights):
    assert run(data, "--jobs", 0) == 1
    assert "--jobs 0: expected 1 or more" in told(capsys)[0]
    assert run(data, "--device", "abacus") == 1
    assert "device 'abacus' cannot be used here" in told(capsys)[0]
    assert run(data, "--weights", data / "none.safetensors") == 1
    assert "no weights at" in told(capsys)[0]
    weights.write_bytes(weights.read_bytes()[:200])
    assert run(data) == 1 and "is no complete safetensors file" in told(capsys)[0]
    assert run(data, "--prompt", "x", "--prompts", "y") == 2 and run(data, "--align", "stretch") == 2
    assert nothing_left(data)


def test_a_large_picture_is_not_measured(data, monkeypatch):
    monkeypatch.setattr(fuse, "LARGE", 1000)
    with pytest.warns(UserWarning, match="a, b, c: larger than 0.001 million pixels and not measured"):
        assert run(data) == 0
    assert pd.read_csv(data / "out" / "measures.csv").EN.isna().all()


def test_a_sheet_shows_at_most_twelve_pairs(data):
    for k in range(13):
        for folder, suffix in (("vi", "jpg"), ("ir", "png")):
            shutil.copy(data / folder / f"a.{suffix}", data / folder / f"n{k:02d}.{suffix}")
    assert run(data, "--no-measures", "--prompt", "a very long sentence " * 3) == 0
    sheet = Image.open(data / "out" / "sheet" / "contact_sheet.png")
    assert sheet.size[1] == 26 + 12 * (64 + 26) and len(list((data / "out").glob("*.png"))) == 16
