"""The doctor names what is wrong and what mends it, and says nothing is wrong where nothing is."""

import sys

import pytest

from cmf import catalogue, cli, doctor
from cmf.doctor import Finding


def states(found):
    return {one.part: one.state for one in found}


def test_this_machine_can_run_the_project(capsys):
    status = cli.main(["doctor"])
    told = capsys.readouterr().out
    assert status == 0, told
    assert "packages" in told and "weights" in told and told.splitlines()[-1].endswith("can run")


def test_packages_are_compared_with_the_lock(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==0.1\nnosuchpackage==1\nother-absent==2 ; sys_platform == 'nowhere'\n")
    missing, other = doctor.packages(lock)
    assert missing == Finding("packages", "wrong", "not installed: nosuchpackage", "make setup")
    assert other.state == "absent" and other.found.startswith("of other versions: numpy ")
    assert other.found.endswith("locked 0.1")
    assert states(doctor.packages(tmp_path / "none")) == {"packages": "absent"}
    import numpy
    lock.write_text(f"numpy=={numpy.__version__} ; python_version > '3'\n")
    assert list(doctor.packages(lock)) == [Finding("packages", "well", "1 as locked")]


def test_tools_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = {one.part: one for one in doctor.tools()}
    assert found["make"].state == found["git"].state == "wrong"
    assert found["make"].mend.startswith("install GNU Make 4.3")
    assert found["python"].state == "well"


def test_a_torch_that_cannot_be_imported_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (found,) = doctor.device()
    assert found.part == "torch" and found.state == "wrong" and found.mend == "make distclean; make setup"


def test_weights_without_card_and_broken_ones(tmp_path):
    assert states(doctor.trained(tmp_path)) == {"weights": "wrong"}
    (tmp_path / "a.safetensors").write_bytes(b"not weights")
    (found,) = doctor.trained(tmp_path)
    assert found.state == "wrong" and "a.safetensors" in found.found and found.mend.startswith("git checkout")


def test_room_and_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a").write_bytes(bytes(2**20))
    cache, _ = doctor.room(tmp_path / "cache")
    assert cache.state == "well" and "1 MiB" in cache.found
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert states(doctor.room(tmp_path / "none" / "yet"))["cache"] == "wrong"


def test_data_are_optional_but_a_wrong_folder_is_not(monkeypatch, tmp_path):
    monkeypatch.delenv("CMF_DATA", raising=False)
    monkeypatch.setenv("CMF_CACHE", str(tmp_path))
    found = list(doctor.data())
    assert "wrong" not in states(found).values() and found[0].mend.startswith("export CMF_DATA")
    absent = [one for one in found if one.part in catalogue.ENTRIES]
    assert absent and all(one.mend for one in absent if one.state == "absent")
    monkeypatch.setenv("CMF_DATA", str(tmp_path / "no"))
    assert states(doctor.data())["CMF_DATA"] == "wrong"


def test_a_check_that_fails_is_itself_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("a bad day")
        yield

    monkeypatch.setattr(doctor, "tools", broken)
    first = next(doctor.findings())
    assert first == Finding("broken", "wrong", "could not look: a bad day")


@pytest.mark.parametrize(("state", "last"), [("wrong", "1 wrong"),
                                             ("absent", "`make figures` and `make test` can run")])
def test_report(state, last):
    told = doctor.report([Finding("thing", state, "so and so", "do this")])
    assert told.splitlines()[1].strip() == "-> do this" and told.splitlines()[-1] == last
