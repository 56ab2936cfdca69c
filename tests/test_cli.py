"""The command line as a user meets it."""

import subprocess
import sys

import pytest

from cmf import __version__, cli
from cmf.datasets.clips import read_captions, read_clips
from cmf.datasets.deepspace import read_inference, read_training


def test_help_is_quick_to_import_and_lists_commands(capsys):
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in cli.COMMANDS)
    heavy = "import sys, cmf.cli as c; c.main(['--help']); print({'torch', 'numpy', 'pooch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("set()\n")


def test_module_runs():
    run = subprocess.run([sys.executable, "-m", "cmf", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == __version__


def test_every_command_registers(capsys):
    for name in cli.COMMANDS:
        assert cli.main([name, "--help"]) == 0
        assert name in capsys.readouterr().out


def test_completion_knows_commands_and_options_and_bash_takes_it(tmp_path, capsys):
    assert cli.main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in cli.COMMANDS) and "--sequences" in script and "--checkpoints" in script
    path = tmp_path / "cmf"
    path.write_text(script + "COMP_WORDS=(cmf da); COMP_CWORD=1; _shtab_cmf; echo ${COMPREPLY[@]}\n")
    assert subprocess.run(["bash", str(path)], capture_output=True, text=True, check=True).stdout == "data\n"
    assert cli.main(["--completion", "zsh"]) == 0 and capsys.readouterr().out.startswith("#compdef cmf")
    assert cli.main(["--completion", "csh"]) == 2 and "invalid choice: 'csh'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["dta"], ["data"], ["data", "make", "deepspace"],
                                  ["data", "make", "surveillance"], ["score", "--out", "there"], ["train", "cmaf"],
                                  ["evaluate", "all", "--data", "x"]])
def test_bad_usage(argv, capsys):
    assert cli.main(argv) == 2
    assert "usage: python -m cmf" in capsys.readouterr().err


def test_errors_are_one_line(capsys):
    assert cli.main(["data", "get", "nothing"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("cmf: unknown name 'nothing'; known are ") and told.count("\n") == 1
    with pytest.raises(ValueError, match="unknown name 'nothing'"):
        cli.main(["--debug", "data", "get", "nothing"])


def test_warnings_are_one_line_and_debug_shows_their_place():
    warn = ("import sys, warnings, cmf.cli as c; c._data_list = lambda a: warnings.warn('two\\nlines'); "
            "c.main([*sys.argv[1:], 'data', 'list']); warnings.warn('after')")
    told = [subprocess.run([sys.executable, "-c", warn, *more], capture_output=True, text=True, check=True).stderr
            for more in ([], ["--debug"])]
    assert told[0].splitlines() == ["cmf: note: two lines", "<string>:1: UserWarning: after"]
    assert "UserWarning: two" in told[1]


def test_interrupt(monkeypatch, capsys):
    def stop(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_data_list", stop)
    assert cli.main(["data", "list"]) == 130
    assert capsys.readouterr().err == "cmf: stopped\n"


def test_data_list_get_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CMF_DATA", str(tmp_path))
    (tmp_path / "ztf_alerts").mkdir()
    assert cli.main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ztf_alerts") and str(tmp_path) in line for line in lines)
    assert cli.main(["data", "get", "ztf_alerts"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'ztf_alerts'}\n"
    assert cli.main(["data", "check", "ztf_alerts"]) == 0
    assert "no checksum is known" in capsys.readouterr().out


def test_data_make_writes_what_the_readers_take(tmp_path, capsys):
    out = tmp_path / "sim"
    arguments = ["data", "make", "deepspace", "--targets", "110", "--scenes", "1", "--seed", "4"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n" and sorted(p.name for p in tmp_path.iterdir()) == ["sim"]
    made = read_training(out / "train")
    (scene,) = read_inference(out / "images", out / "sequences")
    assert len(made) == 110 and scene.temp.shape == (20, 16) and scene.frames.shape == (2, 1024, 1024)
    assert cli.main([*arguments, "--out", str(out)]) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err
    again = cli.make_deepspace(tmp_path / "again", targets=110, scenes=0, seed=4)
    assert read_training(again / "train").digest() == made.digest()


def test_data_make_physical_scenes(tmp_path, capsys):
    arguments = ["data", "make", "deepspace", "--targets", "6", "--scenes", "1", "--psnr"]
    assert cli.main([*arguments, "physical", "--out", str(tmp_path / "a")]) == 0
    assert cli.main([*arguments, "8", "--out", str(tmp_path / "b")]) == 0
    peak = [(tmp_path / name / "images" / "scene00_A.png").read_bytes() for name in "ab"]
    assert peak[0] != peak[1], "their own ranges, not one brightness"
    assert cli.main([*arguments, "bright", "--out", str(tmp_path / "c")]) == 2
    assert "expected a number or physical, got 'bright'" in capsys.readouterr().err


@pytest.mark.parametrize("changes, words", [
    (["--targets", "0"], "n=0: expected a whole number of targets"),
    (["--seed", "-1"], "seed -1 and scenes 3: expected 0 or larger"),
    (["--psnr", "-2"], "psnr=-2.0: expected a positive number"),
])
def test_data_make_refuses_and_leaves_nothing(tmp_path, capsys, changes, words):
    assert cli.main(["data", "make", "deepspace", "--out", str(tmp_path / "x"), "--targets", "6", *changes]) == 1
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_data_make_writes_clips_that_the_readers_take(tmp_path, capsys):
    out = tmp_path / "clips"
    arguments = ["data", "make", "surveillance", "--clips", "1", "--size", "48x64", "--split", "shift", "--seed", "3"]
    assert cli.main([*arguments, "--out", str(out)]) == 0 and capsys.readouterr().out == f"{out}\n"
    (clip,) = read_clips(out)
    facts = clip.open().facts
    assert (facts.height, facts.width, facts.fps, facts.frames) == (48, 64, 25, clip.frames) and clip.split == "shift"
    assert read_captions(out / "captions.csv", [clip.id])[clip.id]
    assert cli.main([*arguments, "--out", str(out)]) == 1 and "exists; remove it" in capsys.readouterr().err
    for size in ("48", "49x64", "axb", "16x16"):
        assert cli.main(["data", "make", "surveillance", "--out", str(out), "--size", size]) == 2
        assert f"expected height x width in even pixels from 48 on, as 240x320, got '{size}'" in capsys.readouterr().err
