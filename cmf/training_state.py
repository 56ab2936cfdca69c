"""What a training run carries from epoch to epoch: history, best weights, their average, and the checkpoint."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from cmf import cache


class Average:
    """Exponential moving average of the trained parameters; buffers are not averaged.

    After step t (from 0) the average moves to the weights by 1 - min(decay, (1 + t) / (10 + t)), so that the
    first weights are soon forgotten.

    Args:
        model: whose parameters with a gradient are averaged.
        decay: 0 < decay < 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, p in self.trained.items():
            self.values[name].lerp_(p, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again after."""
        own = {name: p.detach().clone() for name, p in self.trained.items()}
        self._give(self.values)
        try:
            yield
        finally:
            self._give(own)

    def load(self, values: dict[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def _give(self, values: dict[str, Tensor]) -> None:
        for name, p in self.trained.items():
            p.copy_(values[name])


class State:
    """Epoch, history and best weights of a run, with its checkpoint.

    Args:
        recipe: a dataclass whose fields all have defaults; kept in config.json. ema > 0 asks for an `Average`.
        run: folder of the run, on a disk that all processes share, or None to keep nothing.
        facts: further facts to keep in config.json; a run found in the folder must have the same.

    Raises:
        ValueError: the folder holds another run, a damaged checkpoint, or one that only some processes see.
    """

    def __init__(self, model: nn.Module, optimizer, recipe, run: Path | None, accelerator: Accelerator, facts: dict):
        self.model, self.optimizer, self.accelerator = model, optimizer, accelerator
        self.run = None if run is None else Path(run)
        self.epoch, self.history = 0, []
        self.best_epoch, self.best_score, self.best = -1, -math.inf, None
        self.average = Average(model, recipe.ema) if recipe.ema else None
        self.config = dict(recipe=asdict(recipe)) | facts
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
            self._check_config(asdict(type(recipe)()))
            there = (self.run / "checkpoint.pt").exists()
            if len(set(gather_object([there]) if accelerator.num_processes > 1 else [there])) == 2:
                raise ValueError(f"only some processes see {self.run / 'checkpoint.pt'}; "
                                 "give a folder on a disk that all of them share")
            if there:
                self._load()

    @contextmanager
    def scored(self) -> Iterator[None]:
        """Inside, the model is in eval mode and has the weights that are judged and kept."""
        self.model.eval()
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield

    def judge(self, epoch: int, score: float) -> None:
        """Keep the weights if they are the best so far; to be called inside `scored`."""
        if score > self.best_score:
            self.best_epoch, self.best_score = epoch, score
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def close_epoch(self, row: dict) -> None:
        self.history.append(row)
        self.epoch = row["epoch"] + 1
        if self.run is not None:
            self._save()

    def _check_config(self, defaults: dict) -> None:
        path = self.run / "config.json"
        if path.exists():
            found = json.loads(path.read_text())
            found["recipe"] = defaults | found.get("recipe", {})   # a run from before a field had its default
            if found != self.config:
                differing = [f"{k}: {found.get(k)} there, {v} here"
                             for k, v in self.config.items() if found.get(k) != v]
                raise ValueError(f"{self.run} holds another run ({'; '.join(differing)}); choose another folder")
        elif self.accelerator.is_main_process:
            _write(path, lambda part: part.write_text(json.dumps(self.config, indent=1)))
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        device = self.accelerator.device
        random = [dict(cpu=torch.get_rng_state(),
                       device=torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0))]
        random = gather_object(random) if self.accelerator.num_processes > 1 else random
        if self.accelerator.is_main_process:
            content = dict(config=self.config, epoch=self.epoch, history=self.history, best_epoch=self.best_epoch,
                           best_score=self.best_score, best=self.best, model=self.model.state_dict(),
                           average=self.average.values if self.average else None,
                           optimizer=self.optimizer.state_dict(), random=random)
            content["sha256"] = cache.digest(content)
            _write(self.run / "checkpoint.pt", lambda part: torch.save(content, part))
            self._write_history()
        self.accelerator.wait_for_everyone()

    def _load(self) -> None:
        path = self.run / "checkpoint.pt"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} cannot be read ({error}); delete it to start this run anew") from error
        if content.pop("sha256", None) not in (None, cache.digest(content)):  # older ones have none
            raise ValueError(f"{path} is damaged: its content does not have the sha256 that it states; "
                             "delete it to start this run anew")
        there = content.get("config", {}).get("recipe", {})
        if there.items() - self.config["recipe"].items():
            raise ValueError(f"{path} belongs to another run, {there}; delete it to start this run anew")
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average:
            self.average.load(content["average"])
        self.epoch, self.history = content["epoch"], content["history"]
        self.best_epoch, self.best_score, self.best = content["best_epoch"], content["best_score"], content["best"]
        own = content["random"][self.accelerator.process_index]
        torch.set_rng_state(own["cpu"])
        if own["device"].numel():
            torch.cuda.set_rng_state(own["device"], self.accelerator.device)
        if self.accelerator.is_main_process:   # a process killed between the two files left a row out
            self._write_history()

    def _write_history(self) -> None:
        _write(self.run / "history.csv", lambda part: pd.DataFrame(self.history).to_csv(part, index=False))


def _write(path: Path, writer: Callable[[Path], object]) -> None:
    part = path.with_name(path.name + ".part")
    writer(part)
    os.replace(part, path)
