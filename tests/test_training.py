"""The loop: it learns, repeats itself, resumes exactly, and says what is wrong."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmf.training import EpochOrder, Recipe, Tensors, fit, parameters


def data(n=600, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return Tensors(x=x, labels=(x[:, 0] * x[:, 1] > 0).long())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))

    def forward(self, batch):
        return dict(logits=self.layers(batch["x"]))


def criterion(outputs, batch):
    return dict(loss=F.cross_entropy(outputs["logits"], batch["labels"]))


def accuracy(model):
    test = data(seed=1).columns
    with torch.no_grad():
        return (model(test)["logits"].argmax(1) == test["labels"]).float().mean().item()


RECIPE = Recipe(epochs=12, batch=32, lr=1e-2)


def trained(run=None, recipe=RECIPE, score=accuracy):
    model = Net()
    return model, fit(model, data(), criterion, recipe, score=score, run=run)


def test_learns_and_repeats_itself():
    model, result = trained()
    again, other = trained()
    assert accuracy(model) > 0.85 and accuracy(model) == result.best_score
    assert result.history.drop(columns="seconds").equals(other.history.drop(columns="seconds"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_resumed_equals_uninterrupted(tmp_path):
    whole, result = trained(tmp_path / "whole")

    class Stop(Exception):
        pass

    calls = []

    def interrupting(model):
        calls.append(0)
        if len(calls) == 6:
            raise Stop
        return accuracy(model)

    with pytest.raises(Stop):
        trained(tmp_path / "cut", score=interrupting)
    assert json.loads((tmp_path / "cut/config.json").read_text())["recipe"]["epochs"] == 12
    model, resumed = trained(tmp_path / "cut")
    assert resumed.history.drop(columns="seconds").equals(result.history.drop(columns="seconds"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_stops_early_and_keeps_the_best():
    scores = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    _, result = trained(recipe=Recipe(epochs=12, batch=32, patience=3), score=lambda model: next(scores))
    assert len(result.history) == 5 and result.best_epoch == 1 and result.best_score == 0.9


def test_order_depends_on_seed_and_epoch_alone():
    order = EpochOrder(50, seed=3)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first and sorted(order) == sorted(first)
    order.set_epoch(0)
    assert list(order) == first


def test_loss_that_is_not_finite_is_named():
    broken = lambda outputs, batch: dict(loss=outputs["logits"].sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="not finite at epoch 0, step 0"):
        fit(Net(), data(), broken, RECIPE)


def test_another_run_in_the_folder_is_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match="holds another run .*'epochs': 12.*choose another folder"):
        trained(tmp_path, recipe=Recipe(epochs=3))


def test_damaged_checkpoint_is_named(tmp_path):
    trained(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="checkpoint.pt cannot be read .*delete it"):
        trained(tmp_path)


def test_bad_arguments():
    with pytest.raises(ValueError, match="one length, got {'x': 3, 'y': 2}"):
        Tensors(x=torch.zeros(3), y=torch.zeros(2))
    with pytest.raises(ValueError, match="epochs, batch and accumulate must be at least 1, got 0, 64 and 1"):
        Recipe(epochs=0)
    with pytest.raises(ValueError, match="one of auto, no, bf16, got 'half'"):
        Recipe(precision="half")
    with pytest.raises(ValueError, match="0 training samples for 1 processes"):
        fit(Net(), data().subset([]), criterion, RECIPE)


def test_parameters_counts_what_is_trained():
    model = Net()
    model.layers[0].requires_grad_(False)
    assert parameters(model) == 32 * 2 + 2


SCRIPT = """
import sys, torch
sys.path.insert(0, "tests")
from test_training import Net, Recipe, criterion, data, fit
model = Net()
model.layers[2].p = 0.0
result = fit(model, data(192), criterion, Recipe(epochs=2, batch=32, lr=1e-2))
from accelerate import PartialState
if PartialState().is_main_process:
    torch.save([p.detach() for p in model.parameters()], sys.argv[1])
"""


def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = {1: [sys.executable], 2: [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]}
    found = []
    for n, command in launch.items():
        out = tmp_path / f"{n}.pt"
        done = subprocess.run([*command, str(script), str(out)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(torch.load(out, weights_only=True))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
