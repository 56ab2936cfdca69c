"""What the training loop needs with several processes: shares of a batch, sums of gradients, one batch norm.

Gradients are added once a step, after backward, and not while it runs. That costs the overlap of computing and
sending, and is exact where the usual wrapper is not: for parameters that only some processes or micro-batches use
(experts), and for a resumed run, whose sums keep their order. A parameter that no process used keeps no gradient,
as in one process.

Axes: B samples of a batch, C channels.
"""

import atexit
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Sampler

TIMEOUT = timedelta(minutes=10)   # a process that hangs ends the others after so long; one that dies, at once
BUCKET = 2**23                    # numbers sent at once


def start() -> PartialState:
    """Join the processes of this launch, once; its `is_main_process` says who writes and prints.

    Processes without a GPU talk through gloo on the CPU, which Accelerate does only when told to.

    Raises:
        RuntimeError: this launch has several processes, but Accelerate was started before as one.
        ValueError: this machine has GPUs, but fewer than processes of this launch.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    here, cards = int(os.environ.get("LOCAL_WORLD_SIZE", launched)), torch.cuda.device_count()
    if 0 < cards < here:
        raise ValueError(f"{here} processes on this machine for {cards} GPUs; start one a GPU, or hide the GPUs to "
                         "train on the CPU: CUDA_VISIBLE_DEVICES= torchrun ...")
    if launched > 1:      # imported later, as Accelerate does, the defaults of its functions would keep the group open
        from torch.distributed.nn import functional  # noqa: F401
    device = torch.accelerator.current_accelerator(check_available=True)
    state = PartialState(cpu=launched > 1 and (device is None or device.type == "mps"), timeout=TIMEOUT)
    if state.num_processes != launched:
        raise RuntimeError(f"WORLD_SIZE is {launched}, but Accelerate was started with {state.num_processes} process; "
                           "call cmf.training_processes.start() before any Accelerator or PartialState")
    if launched > 1:
        atexit.unregister(leave)
        atexit.register(leave)
    return state


def leave() -> None:
    """Close the group of processes and end its threads: one that frees a tensor while Python ends aborts the process.

    They end with the last reference to the group, see `start`.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


class Shares(Sampler):
    """The indices of one process: its part of every micro-batch of every global batch.

    A last global batch that is not full is left out when there are at least two batches, as one process does it.
    Otherwise it is shared as evenly as can be, in fewer micro-batches where it must. A process without a sample
    of it is given the first one with weight 0: it counts in no loss, but in the statistics of batch norm.

    Args:
        order: indices of all samples of an epoch; iterated anew for each epoch.
        batch: samples of a global batch.
        process, processes: this one, 0 <= process < processes, of how many.
        parts: micro-batches of a global batch.
    """

    def __init__(self, order: Sequence[int] | Sampler, batch: int, process: int = 0, processes: int = 1,
                 parts: int = 1):
        self.order, self.batch, self.parts = order, batch, parts
        self.process, self.processes = process, processes
        whole, rest = divmod(len(order), batch)
        self.sizes = [batch] * whole + ([rest] if rest and len(order) < 2 * batch else [])

    @property
    def steps(self) -> int:
        """Global batches an epoch."""
        return len(self.sizes)

    def plan(self) -> Iterator[tuple[int, int, float, bool]]:
        """For each micro-batch: step, part, its share of the samples of the global batch, is it the last one?"""
        for step, size in enumerate(self.sizes):
            cuts = self._cuts(size)
            for part, (low, high) in enumerate(cuts):
                yield step, part, (high - low) / size, part == len(cuts) - 1

    def __len__(self) -> int:
        return sum(len(self._cuts(size)) for size in self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.order)
        for step, size in enumerate(self.sizes):
            whole = order[step * self.batch: step * self.batch + size]
            for low, high in self._cuts(size):
                yield whole[low:high] or whole[:1]

    def _cuts(self, size: int) -> list[tuple[int, int]]:
        parts = min(self.parts, max(1, size // self.processes))
        pieces = parts * self.processes
        own = range(self.process, pieces, self.processes)
        return [(size * k // pieces, size * (k + 1) // pieces) for k in own]


class BatchNorm(_BatchNorm):
    """Batch norm over the samples of all processes, on any device; torch's own knows no CPU.

    Mean and variance are of B times the places of a channel, over the processes; the running variance is unbiased.
    In eval mode, or without processes, it is the usual one. x: (B, C, ...).
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"batch norm takes (B, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        axes, wide = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        total = _Sum.apply(torch.cat([x.float().sum(axes), x.new_full((1,), x[:, 0].numel()).float()]))  # (C + 1,)
        n = total[-1].detach()
        mean = total[:-1] / n                                                                            # (C,)
        centred = x.float() - mean.view(wide)
        variance = _Sum.apply(centred.square().sum(axes)) / n                                            # (C,)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * n / (n - 1).clamp(min=1), share)
        out = centred * (variance + self.eps).rsqrt().view(wide)
        if self.affine:
            out = out * self.weight.view(wide) + self.bias.view(wide)
        return out.to(x.dtype)


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with every batch norm taken over all processes: torch's SyncBatchNorm on CUDA, else `BatchNorm`."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = BatchNorm
    return model


def send(tensors: Iterable[Tensor]) -> None:
    """Give every process the main one's values, in place."""
    for tensor in tensors:
        if tensor.numel():
            sent = tensor.detach().contiguous()
            distributed.broadcast(sent, src=0)
            with torch.no_grad():
                tensor.copy_(sent)


def add_gradients(parameters: Sequence[Tensor]) -> None:
    """Add the gradients of all processes, in place; one that no process has stays None."""
    found = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    distributed.all_reduce(found)
    used = [p for p, count in zip(parameters, found.tolist(), strict=True) if count]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    while used:
        sizes = torch.tensor([p.numel() for p in used]).cumsum(0)
        n = max(1, int((sizes <= BUCKET).sum()))
        some, used = [p.grad for p in used[:n]], used[n:]
        flat = torch.cat([gradient.flatten() for gradient in some])
        distributed.all_reduce(flat)
        for gradient, piece in zip(some, flat.split([g.numel() for g in some]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def added(values: dict[str, float]) -> dict[str, float]:
    """Numbers by name, added over the processes in their order."""
    if not distributed.is_initialized():
        return values
    everyone = gather_object([values])
    return {name: math.fsum(one[name] for one in everyone) for name in values}


def from_main(value: float, device: torch.device) -> float:
    """The main process's value, in all processes."""
    if not distributed.is_initialized():
        return value
    kept = torch.tensor([value], dtype=torch.float64, device=device)
    send([kept])
    return float(kept)


def names_lost_processes(function: Callable) -> Callable:
    """`function`, which says what to do when another process was killed or hangs."""
    @functools.wraps(function)
    def told(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            if not distributed.is_initialized() or not (
                    isinstance(error, distributed.DistError) or "gloo" in str(error).lower()):
                raise
            raise RuntimeError(
                f"process {distributed.get_rank()} of {distributed.get_world_size()} lost another one, which was "
                "killed or failed (its own message says why); the last checkpoint is whole: start the same command "
                "again to resume from it") from error
    return told


class _Sum(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient.contiguous())
