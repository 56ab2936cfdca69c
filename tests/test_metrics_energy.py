"""Energy counters: packages added up, one that begins again, and none that can be read."""

import pytest
import torch

from cmf.metrics import energy


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages of 1000 microjoules' range at 100 and 990; the cores within one are no package."""
    for name, kind, spent in (("intel-rapl:0", "package-0", 100), ("intel-rapl:1", "package-1", 990),
                              ("intel-rapl:0:0", "core", 7)):
        folder = tmp_path / name
        folder.mkdir()
        for file, content in (("name", kind), ("energy_uj", spent), ("max_energy_range_uj", 1000)):
            (folder / file).write_text(f"{content}\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return lambda name, spent: (tmp_path / name / "energy_uj").write_text(f"{spent}\n")


def test_packages_are_added_and_a_counter_may_begin_again(packages):
    def work():
        packages("intel-rapl:0", 350)
        packages("intel-rapl:1", 15)
        packages("intel-rapl:0:0", 900)

    assert energy.joules(work) == pytest.approx((250 + 25) * 1e-6)


def test_work_is_done_where_nothing_counts(tmp_path, monkeypatch, packages):
    done = []
    packages("intel-rapl:0", "no number")
    assert energy.joules(lambda: done.append(1)) is None
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "absent")
    assert energy.joules(lambda: done.append(2)) is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert energy.joules(lambda: done.append(3), "cuda") is None
    assert done == [1, 2, 3]


def test_a_gpu_without_its_library(monkeypatch):
    class Card:
        uuid = "0"

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda k: Card)
    monkeypatch.setattr(energy, "NVML", "libabsent.so")
    assert energy.joules(lambda: None, "cuda") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: its energy is not counted")
def test_a_gpu_spends_more_the_longer_it_works():
    x = torch.randn(4096, 4096, device="cuda")

    def work(n):
        for _ in range(n):
            x @ x
        torch.cuda.synchronize()

    work(10)
    short, long = (energy.joules(lambda n=n: work(n), "cuda") for n in (200, 4000))
    assert 0 < short < long


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="no energy of device 'mps' is counted; give cpu or cuda"):
        energy.joules(lambda: None, "mps")
