"""The loop: it learns, repeats itself, resumes exactly, and says what is wrong."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmf.training import EpochOrder, Recipe, Tensors, _generator, _groups, _schedule, fit, parameters


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
    device = next(model.parameters()).device
    test = {name: x.to(device) for name, x in data(seed=1).columns.items()}
    with torch.no_grad():
        return (model(test)["logits"].argmax(1) == test["labels"]).float().mean().item()


RECIPE = Recipe(epochs=12, batch=32, lr=1e-2)


def trained(run=None, recipe=RECIPE, score=accuracy):
    model = Net()
    return model, fit(model, data(), criterion, recipe, score=score, run=run)


@pytest.mark.gpu
def test_learns_and_repeats_itself():
    model, result = trained()
    again, other = trained()
    assert {p.device.type for p in model.parameters()} == {"cpu"}          # where it came from
    assert accuracy(model) > 0.85 and accuracy(model) == pytest.approx(result.best_score, abs=0.01)
    assert result.history.drop(columns="seconds").equals(other.history.drop(columns="seconds"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.gpu
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


@pytest.mark.parametrize("change, words", [
    (lambda kept: kept["best"].update({"layers.3.bias": torch.zeros(2)}), "is damaged: its content does not have"),
    (lambda kept: (kept.pop("sha256"), kept["config"]["recipe"].update(seed=7)), "belongs to another run, .*'seed': 7"),
])
def test_another_checkpoint_is_refused(tmp_path, change, words):
    fit(Net(), data(64), criterion, replace(RECIPE, epochs=1), run=tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    change(kept)
    torch.save(kept, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=words):
        fit(Net(), data(64), criterion, replace(RECIPE, epochs=1), run=tmp_path)


def test_bad_arguments():
    with pytest.raises(ValueError, match="one length, got {'x': 3, 'y': 2}"):
        Tensors(x=torch.zeros(3), y=torch.zeros(2))
    with pytest.raises(ValueError, match="epochs, batch and accumulate must be at least 1, got 0, 64 and 1"):
        Recipe(epochs=0)
    with pytest.raises(ValueError, match="one of auto, no, bf16, got 'half'"):
        Recipe(precision="half")
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 40, 64 and 0"):
        Recipe(accumulate=0)
    with pytest.raises(ValueError, match="ema must be at least 0 and below 1, got 1.0"):
        Recipe(ema=1.0)
    with pytest.raises(ValueError, match="schedule must be cosine or poly, got 'step'"):
        Recipe(schedule="step")
    with pytest.raises(ValueError, match="64 does not divide into 5 micro-batches on each of 1 processes; .* of 5"):
        fit(Net(), data(), criterion, Recipe(accumulate=5))
    with pytest.raises(ValueError, match="0 training samples for 1 processes"):
        fit(Net(), data().subset([]), criterion, RECIPE)


def test_parameters_counts_what_is_trained():
    model = Net()
    model.layers[0].requires_grad_(False)
    assert parameters(model) == 32 * 2 + 2


def test_every_trained_parameter_is_in_the_optimiser():
    net = Net()
    net.bare = nn.Parameter(torch.ones(3, 4))
    net.scales = nn.ParameterList([nn.Parameter(torch.ones(5)), nn.Parameter(torch.tensor(1.0))])
    net.norm, net.again = nn.LayerNorm(7), net.layers[0]
    net.layers[3].requires_grad_(False)
    matrices, vectors = _groups(net, 0.1)
    given = [p for group in (matrices, vectors) for p in group["params"]]
    assert sum(p.numel() for p in given) == parameters(net) == 6 * 32 + 32 + 12 + 5 + 1 + 14
    assert {id(p) for p in given} == {id(p) for p in net.parameters() if p.requires_grad}
    assert all(p.ndim > 1 for p in matrices["params"]) and vectors["weight_decay"] == 0


def still(**changes):
    model, recipe = Net(), replace(Recipe(epochs=3, batch=24, lr=1e-2), **changes)
    model.layers[2].p = 0.0
    return model, fit(model, data(45), criterion, recipe, score=accuracy)


@pytest.mark.parametrize("parts", [2, 3, 24])
def test_micro_batches_give_the_same_steps(parts):
    whole, result = still()
    model, found = still(accumulate=parts)
    torch.testing.assert_close(found.history.loss.tolist(), result.history.loss.tolist(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dict(model.state_dict()), dict(whole.state_dict()), rtol=1e-4, atol=1e-5)


def test_the_average_is_scored_and_kept():
    weights, judged = [], []

    def watched(outputs, batch):     # the weights before a step are those after the one before
        weights.append(net.layers[0].weight.detach().clone())
        return criterion(outputs, batch)

    def score(model):
        judged.append(model.layers[0].weight.detach().clone())
        return len(judged)

    net = Net()
    fit(net, data(64), watched, Recipe(epochs=3, batch=16, lr=1e-2, ema=0.25), score=score)
    average = weights[0]
    for step, now in enumerate(weights[1:9]):
        decay = min(0.25, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * now
        if step in (3, 7):
            torch.testing.assert_close(judged[step // 4], average)
            assert not torch.equal(judged[step // 4], now)
    assert torch.equal(net.layers[0].weight, judged[-1])


def test_schedules_rise_and_fall():
    cosine, poly = ([_schedule(k, 100, 0.1, name) for k in range(100)] for name in ("cosine", "poly"))
    assert cosine[:10] == poly[:10] == [(k + 1) / 10 for k in range(10)]
    assert poly[10] == cosine[10] == 1 and poly[55] == pytest.approx(0.5**0.9) and cosine[55] == pytest.approx(0.5)
    assert poly[99] == pytest.approx((1 / 90) ** 0.9) and poly[10:] == sorted(poly[10:], reverse=True)
    _, result = still(schedule="poly", epochs=4)
    assert result.history.lr.tolist() == [1e-2 * _schedule(k, 8, 0.1, "poly") for k in (1, 3, 5, 7)]  # 2 steps an epoch


def noisy(batch, generator):
    return batch | dict(x=batch["x"] + torch.randn(batch["x"].shape, generator=generator))


def test_resumes_average_micro_batches_schedule_and_augmentation(tmp_path):
    recipe = Recipe(epochs=6, batch=16, lr=1e-2, ema=0.9, accumulate=2, schedule="poly")
    train = lambda model, score=accuracy, run=None: fit(model, data(64), criterion, recipe, score=score, augment=noisy,
                                                        run=run)
    whole = Net()
    result = train(whole)
    scores = iter([accuracy] * 3)
    with pytest.raises(StopIteration):
        train(Net(), lambda model: next(scores)(model), tmp_path)
    model = Net()
    resumed = train(model, run=tmp_path)
    assert resumed.history.drop(columns="seconds").equals(result.history.drop(columns="seconds"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    assert not whole.state_dict().keys() - model.state_dict().keys()


def test_augmentation_draws_anew_each_step_and_is_told_its_place():
    seen = {_generator(*place).initial_seed() for place in [(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (0, 1, 0, 0, 0),
                                                            (0, 0, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 1)]}
    assert len(seen) == 6 and _generator(3, 1, 4).initial_seed() == _generator(3, 1, 4).initial_seed()
    first = []
    for _ in range(2):
        draws = []
        fit(Net(), data(64), criterion, Recipe(epochs=2, batch=32),
            augment=lambda batch, generator, kept=draws: kept.append(torch.rand(1, generator=generator)) or batch)
        first.append(torch.cat(draws).tolist())
    assert first[0] == first[1] and len(set(first[0])) == 4


def test_a_run_from_before_a_field_existed_is_resumed(tmp_path):
    trained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in ("accumulate", "ema", "schedule"):
        del config["recipe"][name]
    path.write_text(json.dumps(config))
    (tmp_path / "history.csv").unlink()
    _, result = trained(tmp_path)
    assert len(result.history) == 12 and (tmp_path / "history.csv").read_text().count("\n") == 13
    with pytest.raises(ValueError, match="holds another run"):
        trained(tmp_path, recipe=replace(RECIPE, ema=0.9))
