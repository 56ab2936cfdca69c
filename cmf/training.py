"""The one training loop, on Hugging Face Accelerate: one CPU, one GPU, or many under torchrun.

It knows no method. A model maps a batch (a dict of tensors) to a dict of tensors, a criterion maps those to
a dict of loss terms with the total under "loss", and a score (higher is better) judges the model on
validation data. Checkpoints are written at epoch boundaries, aside and then renamed; a resumed run ends
with the same numbers as an uninterrupted one.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from cmf import runs

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How to train. Everything that changes the numbers is here, and is stored with the run."""

    epochs: int = 40             # passes over the training data
    batch: int = 64              # samples a step, over all processes
    lr: float = 1e-3             # peak learning rate of AdamW
    weight_decay: float = 0.05   # on matrices; biases, norms and vectors have none
    warmup: float = 0.1          # share of the steps with rising rate; then a cosine to zero
    clip: float = 1.0            # largest gradient norm
    patience: int = 0            # epochs without a better score before stopping; 0: never
    seed: int = 0                # of the order of samples and of dropout
    precision: str = "auto"      # no | bf16 | auto (bf16 on a GPU that has it)

    def __post_init__(self):
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs and batch must be at least 1, got {self.epochs} and {self.batch}")
        if self.precision not in ("auto", "no", "bf16"):
            raise ValueError(f"precision must be one of auto, no, bf16, got {self.precision!r}")


@dataclass(frozen=True)
class Result:
    """What a training run leaves: the model holds the weights of the best epoch."""

    history: pd.DataFrame        # a row an epoch: epoch, lr, loss terms, score, seconds
    best_epoch: int
    best_score: float
    seconds: float               # of all epochs, resumed ones included


class Tensors(Dataset):
    """Columns of equal length as a data set that hands out whole batches.

    Raises:
        ValueError: no column, or columns of different lengths.
    """

    def __init__(self, **columns: Tensor):
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns must have one length, got {lengths or 'no column'}")
        self.columns = {name: torch.as_tensor(column) for name, column in columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int | Sequence[int] | Tensor) -> Batch:
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: list[int]) -> Batch:
        return self[torch.as_tensor(indices)]

    def subset(self, indices) -> "Tensors":
        """The rows `indices`, as a data set of the same columns."""
        index = torch.as_tensor(indices)
        return Tensors(**self[index if index.dtype == torch.bool else index.long()])

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """Batches come whole from `__getitems__`."""
        return batch


class EpochOrder(Sampler):
    """A permutation that depends on the seed and the epoch alone, so that a resumed run sees the same order."""

    def __init__(self, length: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())


def fit(
    model: nn.Module,
    train: Dataset,
    criterion: Callable[[dict[str, Tensor], Batch], dict[str, Tensor]],
    recipe: Recipe,
    *,
    score: Callable[[nn.Module], float] | None = None,
    run: Path | None = None,
    label: str = "training",
) -> Result:
    """Train `model` in place and leave it in eval mode with the weights of its best epoch.

    Args:
        model: maps a batch to a dict of outputs.
        train: data set of dicts of tensors; its `collate` is used when it has one.
        criterion: (outputs, batch) -> loss terms; the total stands under "loss".
        score: judged after every epoch on the model in eval mode, on validation data; higher is better.
            Without it the last epoch is the best.
        run: folder for config.json, history.csv and checkpoint.pt; a run found there is resumed.
        label: words beside the progress bar.

    Raises:
        ValueError: no samples, fewer samples than processes, or a run folder of another recipe or model.
        FloatingPointError: a loss that is not finite, with epoch and step.
    """
    accelerator = Accelerator(mixed_precision=_precision(recipe.precision))
    world = accelerator.num_processes
    if len(train) < world:
        raise ValueError(f"{len(train)} training samples for {world} processes; use fewer processes")
    torch.manual_seed(recipe.seed * 1_000_003 + accelerator.process_index)
    order = EpochOrder(len(train), recipe.seed)
    per_process = max(1, recipe.batch // world)
    loader = DataLoader(train, batch_size=per_process, sampler=order,
                        collate_fn=getattr(train, "collate", None),
                        drop_last=len(train) >= 2 * recipe.batch)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model = accelerator.unwrap_model(wrapped)
    state = _State(model, optimizer, recipe, run, accelerator)
    steps = recipe.epochs * len(loader)
    for epoch in runs.progress(range(state.epoch, recipe.epochs), label):
        began = time.perf_counter()
        wrapped.train()
        loader.set_epoch(epoch)
        totals: dict[str, float] = {}
        for k, batch in enumerate(loader):
            rate = recipe.lr * _schedule(epoch * len(loader) + k, steps, recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with accelerator.autocast():
                terms = criterion(wrapped(batch), batch)
            if not torch.isfinite(terms["loss"]):
                values = {name: float(term.detach()) for name, term in terms.items()}
                raise FloatingPointError(f"the loss is not finite at epoch {epoch}, step {k}: {values}; "
                                         "lower the learning rate or look at this batch")
            accelerator.backward(terms["loss"])
            accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            for name, term in terms.items():
                totals[name] = totals.get(name, 0.0) + float(term.detach()) / len(loader)
        model.eval()
        judged = float(score(model)) if score else float(epoch)
        state.close_epoch(dict(epoch=epoch, lr=rate, **totals, score=judged,
                               seconds=time.perf_counter() - began))
        if recipe.patience and epoch - state.best_epoch >= recipe.patience:
            break
    model.load_state_dict(state.best)
    model.eval()
    accelerator.free_memory()
    history = pd.DataFrame(state.history)
    return Result(history, state.best_epoch, state.best_score, float(history.seconds.sum()))


def parameters(model: nn.Module) -> int:
    """How many numbers of `model` are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class _State:
    """Epoch, history and best weights of a run, with its checkpoint."""

    def __init__(self, model, optimizer, recipe, run, accelerator):
        self.model, self.optimizer, self.accelerator = model, optimizer, accelerator
        self.run = None if run is None else Path(run)
        self.epoch, self.history = 0, []
        self.best_epoch, self.best_score, self.best = -1, -math.inf, None
        self.config = dict(recipe=asdict(recipe), model=type(model).__name__, parameters=parameters(model),
                           processes=accelerator.num_processes)
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
            self._check_config()
            if (self.run / "checkpoint.pt").exists():
                self._load()

    def close_epoch(self, row: dict) -> None:
        self.history.append(row)
        self.epoch = row["epoch"] + 1
        if row["score"] > self.best_score:
            self.best_epoch, self.best_score = row["epoch"], row["score"]
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if self.run is not None:
            self._save()

    def _check_config(self) -> None:
        path = self.run / "config.json"
        if path.exists():
            found = json.loads(path.read_text())
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
            content = dict(epoch=self.epoch, history=self.history, best_epoch=self.best_epoch,
                           best_score=self.best_score, best=self.best, model=self.model.state_dict(),
                           optimizer=self.optimizer.state_dict(), random=random)
            _write(self.run / "checkpoint.pt", lambda part: torch.save(content, part))
            _write(self.run / "history.csv", lambda part: pd.DataFrame(self.history).to_csv(part, index=False))
        self.accelerator.wait_for_everyone()

    def _load(self) -> None:
        path = self.run / "checkpoint.pt"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} cannot be read ({error}); delete it to start this run anew") from error
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.history = content["epoch"], content["history"]
        self.best_epoch, self.best_score, self.best = content["best_epoch"], content["best_score"], content["best"]
        own = content["random"][self.accelerator.process_index]
        torch.set_rng_state(own["cpu"])
        if own["device"].numel():
            torch.cuda.set_rng_state(own["device"], self.accelerator.device)


def _write(path: Path, writer: Callable[[Path], object]) -> None:
    part = path.with_name(path.name + ".part")
    writer(part)
    os.replace(part, path)


def _precision(asked: str) -> str:
    if asked == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return asked


def _groups(model: nn.Module, decay: float) -> list[dict]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return [dict(params=[p for p in trained if p.ndim > 1], weight_decay=decay),
            dict(params=[p for p in trained if p.ndim <= 1], weight_decay=0.0)]


def _schedule(step: int, steps: int, warmup: float) -> float:
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
