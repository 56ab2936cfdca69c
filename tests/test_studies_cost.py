"""Costs: counts against hand counts, and measurements that are at least there and of the right order."""

import time

import pytest
import torch
from torch import nn

from cmf.studies import cost, cost_measured


@pytest.fixture
def convolution(monkeypatch):
    """A network of one convolution, 1 to 4 channels, then one back."""
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))

        def forward(self, batch):
            return self.layers(batch["visible"])

    monkeypatch.setitem(cost.NETWORKS, "CMI-Fusion", lambda size: (Two(), cost._pictures(size)))


def test_counts_of_two_convolutions_by_hand(convolution):
    assert cost.parameters("CMI-Fusion") == 4 * 9 + 4 + 4 * 9 + 1
    assert cost.multiply_adds("CMI-Fusion", (6, 10)) == 2 * 4 * 9 * 60
    assert cost.tensors("CMI-Fusion", (6, 10)) == (4 + 1) * 60 * 4            # both outputs, float32


def test_tensors_that_are_gone_count_no_longer():
    given = x = torch.zeros(100)
    with cost._Living({given.untyped_storage()._cdata}) as living:
        for _ in range(5):
            x = x + 1
        view = x[:50]
        assert living.now == 400 and living.most == 800
        del x, view
    assert living.now == 0


def test_the_methods_have_their_published_and_promised_sizes():
    assert cost.parameters("CMI-Fusion as published") == 17_734_886
    assert cost.parameters("CMI-Fusion") < 2_000_000
    assert cost.parameters("pixel maximum") == cost.parameters("Laplacian pyramid") == 0
    small, large = (cost.multiply_adds("CMI-Fusion as published", (n, n)) for n in (64, 128))
    assert large == pytest.approx(4 * small, rel=1e-3)                       # per pixel, so seconds can be scaled
    assert cost.multiply_adds("CMI-Fusion as published", (480, 640)) == pytest.approx(5.09e12, rel=0.01)
    assert cost.multiply_adds("Laplacian pyramid", (480, 640)) == 20_400_000


@pytest.mark.parametrize("method", cost.INPUTS)
def test_methods_without_pictures_cost_the_same_at_any_size(method):
    assert cost.multiply_adds(method, (8, 8)) == cost.multiply_adds(method, (512, 8)) > 1e6
    assert cost.parameters(method) > 1e5 and cost.tensors(method, (8, 8)) > 1e4


def test_a_measurement_in_a_process_of_its_own():
    small, large = cost.measure("Laplacian pyramid", [(64, 64), (1024, 1024)])
    assert set(small) == {"seconds", "seconds_p95", "memory_mib", "per_second", "batch", "joules"}
    assert small["per_second"] > large["per_second"] > 0 and small["batch"] in cost_measured.BATCHES
    assert small["joules"] is None or 0 < small["joules"] < large["joules"]
    assert 0 < small["seconds"] < large["seconds"] <= large["seconds_p95"]
    assert small["memory_mib"] < 8 < large["memory_mib"] < 200              # the picture itself: 4 MiB


def test_rows_measured_and_scaled(convolution, monkeypatch):
    asked = []

    def measure(method, sizes, threads, device):
        asked.extend(sizes)
        return [dict(seconds=h * w / 1000, seconds_p95=h * w / 500, memory_mib=1.0) for h, w in sizes]

    monkeypatch.setattr(cost, "measure", measure)
    most = 2 * 4 * 9 * 48 * 48
    rows = cost._rows("CMI-Fusion", [(32, 32), (96, 96)], 1, most)
    assert asked == [(32, 32), (48, 48)]                                     # the largest square that may be run
    assert [row["from_size"] for row in rows] == [0, 48]
    assert rows[1]["seconds"] == pytest.approx(96 * 96 / 1000) and "memory_mib" not in rows[1]
    assert rows[0]["memory_mib"] == 1.0 and rows[0]["input"] == "32 x 32"


def test_table_has_its_columns_and_says_where_it_was_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("CMF_CACHE_DIR", str(tmp_path))
    found = cost.table([(16, 16), (32, 32)], methods=["Laplacian pyramid"])
    assert list(found.columns) == [*cost.COLUMNS, "device", "threads"]
    assert list(found.input) == ["16 x 16", "32 x 32"] and (found.threads == 1).all()
    assert found.device.str.contains("cores").all() and (found.seconds > 0).all() and (found.from_size == 0).all()
    monkeypatch.setattr(cost, "measure", None)                               # from now on it is in the cache
    assert cost.table([(16, 16), (32, 32)], methods=["Laplacian pyramid"]).equals(found)


def test_unknown_methods_are_refused():
    for function in (cost.parameters, lambda m: cost.multiply_adds(m, (8, 8)), cost.measure,
                     lambda m: cost.table(methods=[m])):
        with pytest.raises(ValueError, match="no method 'mean'; there are CMI-Fusion, .*Laplacian pyramid"):
            function("mean")
    with pytest.raises(ValueError, match="no network 'pixel maximum'; there are CMI-Fusion, .*CMAF"):
        cost.tensors("pixel maximum", (8, 8))


def test_batches_are_the_sample_again_and_the_best_one_counts(convolution, monkeypatch):
    seen = []

    class Slow(nn.Module):
        def forward(self, batch):
            seen.append(len(batch["visible"]))
            assert torch.equal(batch["visible"][0], batch["visible"][-1])
            time.sleep(0.004 if seen[-1] < 64 else 0.6)

    monkeypatch.setitem(cost.NETWORKS, "CMI-Fusion", lambda size: (Slow(), cost._pictures(size)))
    counted = []

    def joules(work, device):
        began = len(seen)
        work()
        counted.extend(seen[began:])
        return 100.0 if len(seen) > began else 0.0

    monkeypatch.setattr(cost_measured, "_first", lambda call, on_gpu: (0.1, 1))
    monkeypatch.setattr(cost_measured, "joules", joules)
    found, = cost_measured.main("CMI-Fusion", torch.get_num_threads(), [(8, 8)])
    assert set(seen) == {1, 4, 16, 64} and found["batch"] == 16 and 1000 < found["per_second"] < 4000
    assert set(counted) == {16} and found["joules"] == pytest.approx(100 / sum(counted))


def test_a_process_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(cost.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="CMAF could not be measured, exit status 1: nothing was said"):
        cost.measure("CMAF")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: nothing is measured on one")
@pytest.mark.parametrize("method", cost.NETWORKS)
def test_networks_say_the_same_on_a_gpu(method, monkeypatch):
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", False)
    torch.manual_seed(0)
    network, batch = cost.NETWORKS[method]((64, 96))
    network = network.eval().requires_grad_(False)
    here = network(batch)
    there = network.cuda()({name: x.cuda() for name, x in batch.items()})
    for name, value in here.items():
        if torch.is_tensor(value) and value.is_floating_point():
            torch.testing.assert_close(there[name].cpu(), value, rtol=1e-3,
                                       atol=1e-3 * float(value.abs().max()) + 1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: nothing is measured on one")
def test_a_measurement_on_a_gpu():
    found, = cost.measure("CMI-Fusion", [(64, 64)], device="cuda")
    assert found["seconds"] > 0 and found["memory_mib"] > 0 and found["per_second"] >= 0.5 / found["seconds"]
