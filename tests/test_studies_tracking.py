"""`--track`: what trackers are told, when, and what happens without them or when they fail."""

import json
import time

import pandas as pd
import pytest

from cmf import cli
from cmf.studies import tracking

ROWS = pd.DataFrame(dict(epoch=[0, 1, 2], loss=[0.9, 0.5, 0.4], score=[0.2, 0.6, 0.7]))


class Fake:
    """A tracker that notes what it is told."""

    told = []

    def __init__(self, **settings):
        self.told.append(settings)

    def start(self):
        self.told.append("start")

    def store_init_configuration(self, values):
        self.told.append(values)

    def log(self, values, step):
        self.told.append((step, values))

    def finish(self):
        self.told.append("finish")


@pytest.fixture
def fake(monkeypatch):
    """Fake in the place of Weights & Biases; a look every 10 ms."""
    from accelerate import tracking as theirs

    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(Fake, "told", [])
    monkeypatch.setattr(tracking, "SECONDS", 0.01)
    return Fake


def write(run, rows):
    (run / "config.json").write_text(json.dumps(dict(recipe=dict(epochs=3))))
    rows.to_csv(run / "history.part", index=False)
    (run / "history.part").replace(run / "history.csv")


def test_rows_are_told_once_while_training_goes_on(tmp_path, fake):
    with tracking.followed(["wandb"], tmp_path, "mine", tmp_path / "tracked"):
        write(tmp_path, ROWS[:1])
        end = time.monotonic() + 10
        while len(fake.told) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        assert fake.told[3:] == [(0, dict(loss=0.9, score=0.2))]
        write(tmp_path, ROWS)
    assert fake.told == [dict(run_name="cmf", name="mine", dir=str(tmp_path / "tracked")), "start", dict(epochs=3),
                         *((k, dict(loss=row.loss, score=row.score)) for k, row in ROWS.iterrows()), "finish"]


def test_an_error_of_training_passes_and_what_was_reached_is_told(tmp_path, fake):
    with pytest.raises(FloatingPointError, match="not finite"), tracking.followed(["wandb"], tmp_path, "m", tmp_path):
        write(tmp_path, ROWS[:2])
        raise FloatingPointError("the loss is not finite")
    assert fake.told[-2:] == [(1, dict(loss=0.5, score=0.6)), "finish"]


def test_a_tracker_that_fails_does_not_stop_training(tmp_path, fake, monkeypatch, capsys):
    def fails(self, values, step):
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(Fake, "log", fails)
    with tracking.followed(["wandb"], tmp_path, "mine", tmp_path):
        write(tmp_path, ROWS)
    assert capsys.readouterr().err == "cmf: --track stopped at epoch 0: no network\n"


def test_without_trackers_nothing_is_started(tmp_path, fake):
    with tracking.followed([], tmp_path, "mine", tmp_path / "tracked"):
        write(tmp_path, ROWS)
    assert fake.told == [] and not (tmp_path / "tracked").exists()


def test_tensorboard_shows_the_rows(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed, so that nothing can be read back")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = tracking.Curves(["tensorboard"], "mine", tmp_path)
    curves.tell(ROWS[:0], {})
    assert list(tmp_path.iterdir()) == []
    curves.tell(ROWS, dict(epochs=3, schedule="cosine"))
    curves.close()
    found = EventAccumulator(str(tmp_path / "mine")).Reload()
    assert [(e.step, round(e.value, 5)) for e in found.Scalars("score")] == [(0, 0.2), (1, 0.6), (2, 0.7)]


def test_an_absent_tracker_is_refused_before_anything_is_done(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--track mlflow: not installed; pip install mlflow wandb"):
        tracking.check(["mlflow", "wandb"])
    out = str(tmp_path / "new" / "w.safetensors")
    for method, data in (("cmaf", "surveillance"), ("cmfs", "street")):
        assert cli.main(["train", method, "--data", data, "--track", "mlflow", "--out", out]) == 1
        assert "--track mlflow: not installed; pip install mlflow" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert cli.main(["train", "cmfs", "--data", "street", "--track", "paper"]) == 2
    assert "invalid choice: 'paper'" in capsys.readouterr().err
