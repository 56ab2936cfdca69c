"""Two processes on a CPU: the numbers of one process, one writer, and what happens when one is killed."""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_training import Net, accuracy, criterion, data
from torch import nn

from cmf.training import EpochOrder, Recipe, fit
from cmf.training_processes import BatchNorm, Shares, share_batch_norm, start

SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_training_processes import work
work(*sys.argv[1:])
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
              "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0")


class Still(Net):
    """Without dropout, whose draws differ by process."""

    def __init__(self):
        super().__init__()
        self.layers[2].p = 0.0


class Normed(Still):
    """No bias before the norm: its gradient is rounding alone, which Adam would make steps of."""

    def __init__(self):
        super().__init__()
        self.layers[0].register_parameter("bias", None)
        self.layers.insert(1, nn.BatchNorm1d(32))


class Experts(Still):
    """A part that few samples reach, one that reaches no loss, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.rare, self.idle, self.absent = nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, batch):
        x, logits = batch["x"], self.layers(batch["x"])
        rare = x[:, 0] > 1.8
        if rare.any():
            logits = logits.index_add(0, rare.nonzero()[:, 0], self.rare(x[rare]))
        return dict(logits=logits, other=self.idle(x))


FAST = dict(epochs=3, lr=1e-2)
CASES = {  # model, samples, recipe
    "even": (Still, 192, Recipe(batch=32, **FAST)),
    "uneven last batch": (Still, 45, Recipe(batch=30, **FAST)),
    "last batch of one": (Still, 33, Recipe(batch=32, **FAST)),
    "micro-batches": (Still, 45, Recipe(batch=24, accumulate=3, **FAST)),
    "batch norm": (Normed, 45, Recipe(batch=30, **FAST)),
    "unused parameters": (Experts, 64, Recipe(batch=16, accumulate=2, **FAST)),
    "average, poly": (Still, 64, Recipe(batch=16, ema=0.9, schedule="poly", **FAST)),
}
DRAWS = Recipe(epochs=5, batch=16, lr=1e-2, ema=0.9, accumulate=2, schedule="poly")
REFUSED = {"one sample": (1, Recipe()), "odd batch": (64, Recipe(batch=30, accumulate=4))}


def noisy(batch, generator):
    return batch | dict(x=batch["x"] + 0.1 * torch.randn(batch["x"].shape, generator=generator))


def told(model, result):
    return dict(history=result.history.drop(columns="seconds").to_dict("list"), best=result.best_epoch,
                state=model.state_dict())


def train(case):
    make, n, recipe = CASES[case]
    model = make()
    sign = 1 if start().is_main_process else -1      # the main process's score counts
    return told(model, fit(model, data(n), criterion, recipe, score=lambda m: sign * accuracy(m)))


def draw(run=None, lethal=None):
    """A run with dropout, augmentation and all that a checkpoint must hold; process `lethal` kills itself."""
    model, calls = Net(), []

    def watched(outputs, batch):
        calls.append(0)
        if len(calls) == 2 * 4 * 2 + 3 and start().process_index == lethal:    # epoch 2, step 1
            os.kill(os.getpid(), signal.SIGKILL)
        return criterion(outputs, batch)

    return told(model, fit(model, data(64), watched, DRAWS, score=accuracy, augment=noisy, run=run))


def refusal(n, recipe, run=None):
    try:
        fit(Net(), data(n), criterion, recipe, run=run)
    except ValueError as error:
        return str(error)


def threads():
    """Names of this process's threads that belong to gloo; None where the system does not tell."""
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else None
    return names and [name for name in names if "gloo" in name]


def work(what, out, run="", lethal="-1"):
    """In a process of a test: what "cases" | "draw" | one case; each process writes out.<process>."""
    at_end = lambda: os.write(1, f"threads at the end: {threads()}\n".encode())    # whole, beside the other's
    atexit.register(at_end)                                                        # called after what start() registers
    torch.set_num_threads(1)
    process = start().process_index
    if what == "draw":
        found = draw(Path(run), int(lethal))
    elif what in CASES:
        found = train(what)
    else:
        found = {case: train(case) for case in CASES} | dict(draw=draw())
        found |= {name: refusal(*given) for name, given in REFUSED.items()}
        place = Path(out).parent / str(process)
        if process == 0:
            place.mkdir()
            (place / "checkpoint.pt").touch()
        found["apart"] = refusal(64, Recipe(batch=32), place)
    torch.save(found, f"{out}.{process}")


def launch(folder, *words, launcher=TORCHRUN):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return subprocess.run([*launcher, str(script), *map(str, words)], capture_output=True, text=True, timeout=120,
                          env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=os.getcwd()))


def both(out):
    return [torch.load(f"{out}.{process}", weights_only=True) for process in (0, 1)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    done = launch(folder, "cases", folder / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    return *both(folder / "out"), done


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(cases, case):
    one, two, _ = cases
    alone = train(case)
    for found in (one[case], two[case]):
        assert found["best"] == alone["best"]
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-4, atol=1e-5)
        for name, column in alone["history"].items():
            assert found["history"][name] == pytest.approx(column, rel=1e-4, abs=1e-6), name
    for name, value in one[case]["state"].items():
        assert torch.equal(value, two[case]["state"][name]), name


def test_refusals_and_one_bar(cases):
    one, two, done = cases
    for found in (one, two):
        assert found["one sample"] == "1 training samples for 2 processes; use fewer processes"
        assert found["odd batch"] == ("a batch of 30 does not divide into 4 micro-batches on each of 2 processes; "
                                      "give a multiple of 8")
        assert "only some processes see" in found["apart"] and "disk that all of them share" in found["apart"]
    assert done.stderr.count("training:   0%") == len(CASES) + 1


def test_the_group_and_its_threads_end_before_python_does(cases):
    said = cases[2].stdout
    if "threads at the end: None" in said:
        pytest.skip("this system does not list threads in /proc/self/task")
    assert said.count("threads at the end: []") == 2, said


@pytest.mark.parametrize("lethal", [0, 1])
def test_a_killed_process_ends_the_run_which_resumes_exactly(cases, tmp_path, lethal):
    began = time.monotonic()
    patient = (*TORCHRUN, "--monitor-interval=3")           # torchrun lets the other one speak first
    done = launch(tmp_path, "draw", tmp_path / "cut", tmp_path / "run", lethal, launcher=patient)
    assert done.returncode != 0 and time.monotonic() - began < 60
    assert f"process {1 - lethal} of 2 lost another one" in done.stderr and "to resume from it" in done.stderr
    assert torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["epoch"] == 2
    assert not list((tmp_path / "run").glob("*.part"))
    if lethal == 0:                                         # either may die; resuming is the same
        return
    done = launch(tmp_path, "draw", tmp_path / "out", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    for resumed, whole in zip(both(tmp_path / "out"), cases, strict=False):
        whole = whole["draw"]
        assert resumed["history"] == whole["history"] and resumed["best"] == whole["best"]
        assert all(torch.equal(value, whole["state"][name]) for name, value in resumed["state"].items())


def test_accelerate_launches_it_too(cases, tmp_path):
    done = launch(tmp_path, "even", tmp_path / "out", launcher=ACCELERATE)
    assert done.returncode == 0, done.stderr[-3000:]
    for found, same in zip(both(tmp_path / "out"), cases, strict=False):
        assert found["history"] == same["even"]["history"]
        assert all(torch.equal(value, same["even"]["state"][name]) for name, value in found["state"].items())


@pytest.mark.parametrize("n, batch, processes, parts", [(64, 16, 2, 2), (33, 32, 2, 1), (45, 24, 2, 3), (7, 8, 3, 2),
                                                        (130, 32, 4, 8), (5, 64, 1, 4)])
def test_shares_hand_out_every_sample_once(n, batch, processes, parts):
    shares = [Shares(EpochOrder(n, 1), batch, p, processes, parts) for p in range(processes)]
    plans, lists = [list(s.plan()) for s in shares], [list(s) for s in shares]
    assert all(len(s) == len(plan) == len(own) for s, plan, own in zip(shares, plans, lists, strict=True))
    assert len({tuple((step, part, last) for step, part, _, last in plan) for plan in plans}) == 1
    order = list(EpochOrder(n, 1))
    for step in range(shares[0].steps):
        entries = [(share, own) for plan, some in zip(plans, lists, strict=True)
                   for (k, _, share, _), own in zip(plan, some, strict=True) if k == step]
        given = [i for share, own in entries if share for i in own]
        whole = order[step * batch:(step + 1) * batch]
        assert sorted(given) == sorted(whole)
        assert all(share == 0 or share == len(own) / len(whole) for share, own in entries)
    assert shares[0].steps == (n // batch if n >= 2 * batch else -(-n // batch))


def test_processes_that_were_not_joined_are_refused(monkeypatch):
    start()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes on this machine for 1 GPUs; start one a GPU, or hide the GPUs"):
        start()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="WORLD_SIZE is 2, but Accelerate was started with 1 process; call .*start"):
        fit(Net(), data(), criterion, Recipe())


def test_own_batch_norm_is_the_usual_one(tmp_path):
    torch.manual_seed(0)
    x = (3 + torch.randn(6, 4, 5, 3, dtype=torch.float32)).requires_grad_()
    own, usual = share_batch_norm(nn.Sequential(nn.BatchNorm2d(4)), torch.device("cpu")), nn.BatchNorm2d(4)
    assert type(own[0]) is BatchNorm
    with pytest.raises(ValueError, match=r"takes \(B, C, ...\), got \(3,\)"):
        own(torch.zeros(3))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    with contextlib.closing(_Group()):
        for _ in range(3):
            a, b = own(x), usual(x)
            torch.testing.assert_close(a, b)
        weights = torch.randn(a.shape)
        for one, two in zip(torch.autograd.grad((a * weights).sum(), [x, *own.parameters()]),
                            torch.autograd.grad((b * weights).sum(), [x, *usual.parameters()]), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(own[0].state_dict()), dict(usual.state_dict()))
    torch.testing.assert_close(own.eval()(x), usual.eval()(x))


class _Group:
    def close(self):
        torch.distributed.destroy_process_group()
