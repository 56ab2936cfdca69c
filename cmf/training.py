"""The one training loop, on Hugging Face Accelerate: one CPU, one GPU, or many under torchrun.

It knows no method. A model maps a batch (a dict of tensors) to a dict of tensors, a criterion maps those to
a dict of loss terms with the total under "loss", and a score (higher is better) judges the model on
validation data. Checkpoints are written at epoch boundaries, aside and then renamed; a resumed run ends
with the same numbers as an uninterrupted one.

Start a script `torchrun --nproc_per_node=N script.py`, or with `accelerate launch`, for N processes. They share
each global batch, and their mean weighs every sample alike: a loss that is a mean over samples, and its gradient,
are those of one process. A loss that compares the samples of a batch, or whose mean is over a varying count (valid
pixels), sees one share at a time. Dropout and augmentation draw by process.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from cmf import runs, training_processes
from cmf.training_state import State

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How to train. Everything that changes the numbers is here, and is stored with the run."""

    epochs: int = 40             # passes over the training data
    batch: int = 64              # samples a step, over all processes
    lr: float = 1e-3             # peak learning rate of AdamW
    weight_decay: float = 0.05   # on matrices; biases, norms and vectors have none
    warmup: float = 0.1          # share of the steps with rising rate; then the schedule
    clip: float = 1.0            # largest gradient norm
    patience: int = 0            # epochs without a better score before stopping; 0: never
    seed: int = 0                # of the order of samples and of dropout
    precision: str = "auto"      # no | bf16 | auto (bf16 on a GPU that has it)
    accumulate: int = 1          # micro-batches into which each process splits its share of a batch
    ema: float = 0.0             # decay a step of the weights' moving average, which is scored and kept; 0: none
    schedule: str = "cosine"     # cosine | poly (power 0.9), from the peak to zero

    def __post_init__(self):
        if self.epochs < 1 or self.batch < 1 or self.accumulate < 1:
            raise ValueError("epochs, batch and accumulate must be at least 1, "
                             f"got {self.epochs}, {self.batch} and {self.accumulate}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, got {self.ema}")
        if self.schedule not in ("cosine", "poly"):
            raise ValueError(f"schedule must be cosine or poly, got {self.schedule!r}")
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


@training_processes.names_lost_processes
def fit(
    model: nn.Module,
    train: Dataset,
    criterion: Callable[[dict[str, Tensor], Batch], dict[str, Tensor]],
    recipe: Recipe,
    *,
    score: Callable[[nn.Module], float] | None = None,
    augment: Callable[[Batch, torch.Generator], Batch] | None = None,
    run: Path | None = None,
    label: str = "training",
) -> Result:
    """Train `model` in place and leave it in eval mode with the weights of its best epoch.

    On a GPU where there is one, in bfloat16 where the recipe allows; losses are taken in float32. At the end the model
    is on the device again that it came from, in its own precision.

    Args:
        model: maps a batch to a dict of outputs.
        train: data set of dicts of tensors; its `collate` is used when it has one.
        criterion: (outputs, batch) -> loss terms; the total stands under "loss".
        score: judged after every epoch on the model in eval mode, on validation data; higher is better.
            Without it the last epoch is the best. Every process calls it; the main one's value counts.
        augment: (batch, generator) -> batch, on the CPU; the generator depends on the recipe's seed, the epoch,
            the step, the micro-batch and the process alone.
        run: folder for config.json, history.csv and checkpoint.pt; a run found there is resumed.
        label: words beside the progress bar, which the main process shows.

    Raises:
        ValueError: no samples, fewer samples than processes, fewer GPUs than processes, a batch that does not divide
            into the micro-batches of all processes, or a run folder of another recipe, model or number of processes.
        FloatingPointError: a loss that is not finite, with epoch and step.
        RuntimeError: another process was killed or hangs, or the processes were not joined.
    """
    training_processes.start()
    accelerator = Accelerator(mixed_precision=_precision(recipe.precision))
    world, process = accelerator.num_processes, accelerator.process_index
    if len(train) < world:
        raise ValueError(f"{len(train)} training samples for {world} processes; use fewer processes")
    if recipe.batch % (world * recipe.accumulate):
        raise ValueError(f"a batch of {recipe.batch} does not divide into {recipe.accumulate} micro-batches on each of "
                         f"{world} processes; give a multiple of {world * recipe.accumulate}")
    torch.manual_seed(recipe.seed * 1_000_003 + process)
    home = next(model.parameters()).device
    order = EpochOrder(len(train), recipe.seed)
    shares = training_processes.Shares(order, recipe.batch, process, world, recipe.accumulate)
    loader = DataLoader(train, batch_sampler=shares, collate_fn=getattr(train, "collate", None))
    if world > 1:
        model = training_processes.share_batch_norm(model, accelerator.device)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr)
    model = accelerator.prepare_model(model, evaluation_mode=True)  # its precision and device; gradients are added here
    optimizer = accelerator.prepare_optimizer(optimizer)
    if world > 1:
        training_processes.send([*model.parameters(), *model.buffers()])
    facts = dict(model=type(model).__name__, parameters=parameters(model), processes=world)
    state = State(model, optimizer, recipe, run, accelerator, facts)
    trained = [p for p in model.parameters() if p.requires_grad]
    steps = recipe.epochs * shares.steps
    epochs = range(state.epoch, recipe.epochs)
    for epoch in runs.progress(epochs, label) if accelerator.is_main_process else epochs:
        began = time.perf_counter()
        model.train()
        order.set_epoch(epoch)
        totals: dict[str, float] = {}
        for (step, part, share, last), batch in zip(shares.plan(), loader, strict=True):
            done = epoch * shares.steps + step
            rate = recipe.lr * _schedule(done, steps, recipe.warmup, recipe.schedule)
            if augment:
                batch = augment(batch, _generator(recipe.seed, epoch, step, part, process))
            batch = send_to_device(batch, accelerator.device)
            terms = criterion(model(batch), batch)     # outputs are float32 again: losses want the digits
            if not torch.isfinite(terms["loss"]):
                values = {name: float(term.detach()) for name, term in terms.items()}
                raise FloatingPointError(f"the loss is not finite at epoch {epoch}, step {step}: {values}; "
                                         "lower the learning rate or look at this batch")
            accelerator.backward(terms["loss"] * share)
            for name, term in terms.items():
                totals[name] = totals.get(name, 0.0) + share * float(term.detach()) / shares.steps
            if last:
                if world > 1:
                    training_processes.add_gradients(trained)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                accelerator.clip_grad_norm_(trained, recipe.clip)
                optimizer.step()
                optimizer.zero_grad()
                if state.average:
                    state.average.update(done)
        if world > 1:
            training_processes.send(model.buffers())
        with state.scored():
            judged = training_processes.from_main(float(score(model)) if score else float(epoch), accelerator.device)
            state.judge(epoch, judged)
        state.close_epoch(dict(epoch=epoch, lr=rate, **training_processes.added(totals), score=judged,
                               seconds=time.perf_counter() - began))
        if recipe.patience and epoch - state.best_epoch >= recipe.patience:
            break
    model.load_state_dict(state.best)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval().to(home)
    accelerator.free_memory()
    history = pd.DataFrame(state.history)
    return Result(history, state.best_epoch, state.best_score, float(history.seconds.sum()))


def parameters(model: nn.Module) -> int:
    """How many numbers of `model` are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _precision(asked: str) -> str:
    if asked == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return asked


def _groups(model: nn.Module, decay: float) -> list[dict]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return [dict(params=[p for p in trained if p.ndim > 1], weight_decay=decay),
            dict(params=[p for p in trained if p.ndim <= 1], weight_decay=0.0)]


def _schedule(step: int, steps: int, warmup: float, name: str) -> float:
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if name == "poly":
        return (1 - (step - rising) / max(1, steps - rising)) ** 0.9
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _generator(*place: int) -> torch.Generator:
    """Random numbers that depend on `place` alone."""
    seed = np.random.SeedSequence([number % 2**32 for number in place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed) % 2**63)
