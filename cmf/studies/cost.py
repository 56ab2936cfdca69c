"""What the methods cost: parameters, multiply-adds, seconds, memory, throughput and energy on a CPU or a GPU.

Parameters, multiply-adds and the bytes of tensors are counted, the same on every machine. The others are measured, each
method in a process of its own (`cmf.studies.cost_measured`). Where that would take too long, seconds are those of a
smaller picture scaled by the number of pixels, and said to be.

Axes: B pairs at once, H, W rows and columns, L words.
"""

import json
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cmf import runs, weights
from cmf.methods import cmaf, cmfs, cmi_fusion, cmi_fusion_published, sacmf
from cmf.studies import classical

SIZES = ((256, 256), (480, 640), (1024, 1024))
TRAINED = Path(__file__).resolve().parents[1] / "trained"
WORDS = 16                       # of a sentence
SEGMENTS, CAPTIONS = 30, 120     # of a clip of 60 s: segments, and words of its captions
MOST = 5e10                      # multiply-adds that are run; where more are needed, seconds are scaled
COLUMNS = ("method", "input", "parameters", "multiply_adds", "seconds", "seconds_p95", "memory_mib", "tensors_mib",
           "per_second", "batch", "joules", "from_size")


def _shape() -> cmi_fusion.Shape:
    """The shape of the trained CMI-Fusion, or the default where there are no weights of it."""
    path = TRAINED / "cmi_fusion.safetensors"
    return cmi_fusion.Shape(**weights.facts(path)["config"]) if path.is_file() else cmi_fusion.Shape()


def _fusion(size):
    shape = _shape()
    return cmi_fusion.CMIFusion(shape), _pictures(size) | dict(
        text=torch.rand(1, WORDS, shape.text_width), text_mask=torch.ones(1, WORDS, dtype=torch.bool))


def _published(size):
    width = cmi_fusion_published.Config().text_width
    told = {f"text_{kind}": torch.rand(1, width) for kind in ("visible", "infrared", "fused")}
    return cmi_fusion_published.PublishedCMIFusion(), _pictures(size) | told


def _sacmf(_):
    stated = weights.facts(TRAINED / "sacmf_deepspace.safetensors")["config"]["network"]
    plain = lambda value: tuple(map(plain, value)) if isinstance(value, list) else value
    config = sacmf.Config(**{name: plain(value) for name, value in stated.items()})
    rows = lambda n: {name: torch.rand(n, tokens, c) for name, tokens, c in config.image + config.sequence}
    network = sacmf.SACMF(config).fit_inputs(rows(8))
    network.copula.table.fit(torch.rand(8, sum(network.copula.counts)))
    return network, rows(1)


def _cmaf(_):
    config = cmaf.Config(**weights.facts(TRAINED / "cmaf_surveillance.safetensors")["config"]["network"])
    return cmaf.CMAF(config), dict(
        visual=torch.rand(1, SEGMENTS, config.visual), motion=torch.rand(1, SEGMENTS, config.motion),
        text=torch.rand(1, CAPTIONS, config.text), text_mask=torch.ones(1, CAPTIONS, dtype=torch.bool),
        text_time=torch.linspace(0, 1, CAPTIONS)[None])


def _cmfs(make: Callable):
    """CMFS of a size, with the prompts of nine classes, and a colour picture with an infrared one."""
    def build(size):
        config = make()
        pair = dict(visible=torch.rand(1, 3, *size), infrared=torch.rand(1, 1, *size))
        return cmfs.CMFS(config, torch.randn(config.classes - 1, config.text_width)), pair
    return build


def _pictures(size):
    return dict(visible=torch.rand(1, 1, *size), infrared=torch.rand(1, 1, *size))


# a network and its batch by name, and what the batch is where it has no rows and columns
NETWORKS: dict[str, Callable] = {
    "CMI-Fusion": _fusion, "CMI-Fusion as published": _published, "SA-CMF": _sacmf, "CMAF": _cmaf,
    "CMFS, small": _cmfs(cmfs.small), "CMFS, tiny": _cmfs(cmfs.tiny)}
INPUTS = {"SA-CMF": "a target of 26 tokens", "CMAF": f"a clip of {SEGMENTS} segments and {CAPTIONS} words"}
CLASSICAL = {"pixel maximum": lambda h, w: 0, "Laplacian pyramid": classical.laplacian_multiply_adds}
METHODS = (*NETWORKS, *CLASSICAL)


def parameters(method: str) -> int:
    """Trainable numbers of a method; 0 of the classical ones. Raises ValueError for a method not in `METHODS`."""
    _check(method)
    if method in CLASSICAL:
        return 0
    network, _ = _built(method, (8, 8))
    return sum(p.numel() for p in network.parameters())


def multiply_adds(method: str, size: tuple[int, int]) -> int:
    """Multiplications with an addition, of one forward pass at batch 1.

    Those of matrix products and convolutions, as torch's FlopCounterMode counts them, a half of its operations; norms,
    activations, softmax, interpolation, comparisons and selective scans are not counted. Of the classical methods: of
    their filters.

    Args:
        method: one of `METHODS`.
        size: rows and columns; of no effect for those of `INPUTS`.

    Raises:
        ValueError: another method.

    >>> multiply_adds("pixel maximum", (480, 640))
    0
    """
    _check(method)
    if method in CLASSICAL:
        return CLASSICAL[method](*size)
    network, batch = _built(method, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(batch)
    return counter.get_total_flops() // 2


def tensors(method: str, size: tuple[int, int]) -> int:
    """Bytes of all tensors that exist at a time in one forward pass at batch 1, at most.

    Without weights and batch, and without what the operations themselves need for a while: a lower bound on memory,
    which may be twice as much. The published network meets its sentences in pieces, where no gradient is asked for.
    Arguments and errors: as `multiply_adds`, but networks only.
    """
    if method not in NETWORKS:
        raise ValueError(f"no network {method!r}; there are {', '.join(NETWORKS)}")
    network, batch = _built(method, size)
    there = {x.untyped_storage()._cdata for x in (*network.parameters(), *network.buffers(), *batch.values())}
    with torch.no_grad(), _Living(there) as living:
        network(batch)
    return living.most


class _Living(TorchDispatchMode):
    """Counts bytes of the storages that operations make, until they are freed; those of `there` do not count."""

    def __init__(self, there: set[int]):
        super().__init__()
        self.known, self.now, self.most = there, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                self._count(x.untyped_storage())
        self.most = max(self.most, self.now)
        return made

    def _count(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key, size) -> None:
        self.known.discard(key)
        self.now -= size


def measure(method: str, sizes: Sequence[tuple[int, int]] = SIZES, threads: int = 1, device: str = "cpu") -> list[dict]:
    """Seconds, memory, throughput and energy of forward passes at each size, in a new process.

    Args:
        method: one of `METHODS`.
        sizes: rows and columns, ascending.
        threads: of torch and OpenCV.
        device: "cpu" or "cuda"; of no effect on the classical methods, which run on the CPU.

    Returns:
        For each size a dict: seconds, the median, and seconds_p95, of 2 to 20 calls at batch 1 after one to warm up;
        memory_mib, the most that was held above what was held before the call, with network and batch in place: by the
        process, or on a GPU by torch's allocator. On Linux the process's is VmHWM of /proc/self/status, reset before
        the call: ru_maxrss, taken elsewhere, counts what the parent held when the process began. per_second: samples a
        second at the best batch of `cost_measured.BATCHES`, which is in batch; joules: energy of one sample there, of
        all processor packages or of the GPU, None where no counter can be read (`cmf.metrics.energy`).

    Raises:
        ValueError: another method.
        RuntimeError: the process failed, for want of a GPU for example.
    """
    _check(method)
    command = [sys.executable, "-m", "cmf.studies.cost_measured", method, str(threads), json.dumps(list(sizes)), device]
    number = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | number,
                          cwd=Path(__file__).resolve().parents[2])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise RuntimeError(f"{method} could not be measured, exit status {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def table(sizes: Sequence[tuple[int, int]] = SIZES, threads: int = 1, methods: Sequence[str] = METHODS,
          most: float = MOST, device: str = "cpu") -> pd.DataFrame:
    """Counts and measurements of methods at sizes, a row each; kept in the cache for this kind of processor or GPU.

    Args:
        sizes: rows and columns, ascending by pixels.
        threads: of torch and OpenCV.
        methods: some of `METHODS`.
        most: multiply-adds that are run. Beyond, seconds are those of a square below that number, times the ratio of
            pixels; its side is in the column from_size, which is 0 where nothing is scaled, and memory, throughput and
            energy are not given.
        device: "cpu" or "cuda".

    Returns:
        Columns `COLUMNS`, device and threads.

    Raises:
        ValueError: another method.
        RuntimeError: as `measure`.
    """
    def compute() -> dict:
        rows = [row for method in runs.progress(methods, "cost")
                for row in _rows(method, sizes, threads, most, device)]
        return dict(table=pd.DataFrame(rows, columns=COLUMNS))

    for method in methods:
        _check(method)
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    found = runs.cached("cost", compute, parameters=dict(
        sizes=[list(size) for size in sizes], threads=threads, methods=list(methods), most=most, device=name,
        shape=asdict(_shape())))
    return found["table"].assign(device=name, threads=threads)


def processor() -> str:
    """The kind of this machine's processor, with the number that the system sees."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _rows(method, sizes, threads, most, device="cpu") -> list[dict]:
    if method in INPUTS:
        sizes = sizes[:1]
    counted = [multiply_adds(method, size) for size in sizes]
    direct = [size for size, count in zip(sizes, counted, strict=True) if count <= most]
    scaled = [size for size in sizes if size not in direct]
    side = int((most * np.prod(sizes[-1]) / counted[-1]) ** 0.5) // 16 * 16 if scaled else 0
    run = sorted(direct + [(side, side)] * bool(scaled), key=np.prod)
    found = dict(zip(run, measure(method, run, threads, device), strict=True))
    rows = []
    for size, count in zip(sizes, counted, strict=True):
        values = found.get(size)
        if values is None:
            ratio = size[0] * size[1] / side**2
            values = {name: found[side, side][name] * ratio for name in ("seconds", "seconds_p95")}
        held = tensors(method, size) / 2**20 if method in NETWORKS else None
        rows.append(dict(method=method, input=INPUTS.get(method, f"{size[0]} x {size[1]}"),
                         parameters=parameters(method), multiply_adds=count, **values, tensors_mib=held,
                         from_size=0 if size in direct else side))
    return rows


def _built(method: str, size) -> tuple[nn.Module, dict]:
    """Network and batch; those whose batch are pictures take no memory and no time, they are shapes only."""
    with torch.device("cpu" if method in INPUTS else "meta"):
        network, batch = NETWORKS[method](size)
    return network.eval(), batch


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
