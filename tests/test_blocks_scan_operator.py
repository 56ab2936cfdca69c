"""The selective scan as an operator of torch: schema, fake kernels, torch.compile, and Triton's kernels.

Triton's interpreter must be asked for before Triton is imported: those tests run in a process of their own, with the
smallest sizes, since it takes a tenth of a millisecond for a number.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_blocks_scan import FAST, given, gradients

from cmf.blocks.scan import selective_scan

ROOT = Path(__file__).resolve().parents[1]
TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None,
                            reason="Triton is not installed (it is for Linux only): its kernels are not tested")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: kernels are not run on one")


class Block(torch.nn.Module):
    """A scan between two linear maps, as a network has it."""

    def __init__(self, backend, channels=4, states=3):
        super().__init__()
        torch.manual_seed(0)
        self.backend, self.states = backend, states
        self.project = torch.nn.Linear(channels, 2 * channels + 2 * states)
        self.A = torch.nn.Parameter(-torch.rand(channels, states))
        self.D, self.bias = torch.nn.Parameter(torch.ones(channels)), torch.nn.Parameter(torch.randn(channels))

    def forward(self, x):
        channels = x.shape[-1]
        sizes = (channels, channels, self.states, self.states)
        u, delta, B, C = self.project(x).mT.split(sizes, 1)
        return selective_scan(u, delta, self.A, B, C, self.D, self.bias, True, self.backend).mT.tanh()


@pytest.mark.parametrize("backend", ["reference", *FAST, None])
def test_compiled_block_is_the_eager_one(backend):
    block, x = Block(backend), torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    found = []
    for run in (block, compiled):
        y = run(x)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])))
    for eager, got in zip(*found, strict=True):
        torch.testing.assert_close(got, eager, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), found[0][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("backend", FAST)
def test_operator_is_registered_soundly(backend, extras):
    selective_scan(**given(), backend=backend)
    run = getattr(torch.ops.cmf, f"scan_{backend}").default
    inputs = given(groups=2, dtype=torch.float32)
    given_extras = (inputs.pop("D"), torch.zeros(6)) if extras else (None, None)
    tensors = [x if x is None else x.requires_grad_() for x in (*list(inputs.values())[:5], *given_extras)]
    torch.library.opcheck(run, (*tensors, extras, True))


@pytest.mark.parametrize("backend", FAST)
def test_fake_kernel_knows_shape_and_type(backend):
    inputs = {name: x if name in "AD" else x.bfloat16() for name, x in given(dtype=torch.float32).items()}
    inputs["A"].requires_grad_()
    with torch._subclasses.FakeTensorMode() as mode:
        y = selective_scan(**{name: mode.from_tensor(x) for name, x in inputs.items()}, backend=backend)
    assert y.shape == inputs["u"].shape and y.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", FAST)
def test_states_are_kept_for_gradients_only(backend):
    selective_scan(**given(), backend=backend)
    run, inputs = getattr(torch.ops.cmf, f"scan_{backend}"), given(groups=1)
    assert run(*inputs.values(), None, False, False)[1].numel() == 0
    assert run(*inputs.values(), None, False, True)[1].shape == (2, 1, 3, 6)


def _alone(function: str, **environment) -> None:
    """Run a function of this file in a process of its own."""
    done = subprocess.run([sys.executable, "-c", f"import test_blocks_scan_operator as t; t.{function}()"], cwd=ROOT,
                          capture_output=True, text=True, timeout=300,
                          env=os.environ | environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
                                                          "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


INTERPRETED = [dict(batch=1, channels=3, length=1, states=1), dict(batch=1, channels=1, length=11, states=16),
               dict(batch=2, channels=4, length=9, states=3, groups=4),
               dict(batch=1, channels=1, length=70, states=1, groups=1)]  # more chunks than are carried at once


def agree(device="cpu", shapes=INTERPRETED, tolerance=1e-10):
    """The Triton kernels against the recurrence: values and gradients in several shapes, with and without extras."""
    for shape in shapes:
        inputs = {name: x.to(device) for name, x in given(**shape).items()}
        slow, fast = gradients(inputs, "reference"), gradients(inputs, "triton")
        for name in inputs:
            torch.testing.assert_close(fast[name], slow[name], rtol=tolerance, atol=tolerance,
                                       msg=lambda m, at=(shape, name): f"{at}: {m}")
    inputs = {name: x.to(device) for name, x in given(1, 3, 10, 2).items()}
    inputs["delta_bias"] = torch.tensor([-3.0, 0, 1], dtype=torch.float64, device=device)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items() if name != "D"}
    found = []
    for backend in ("reference", "triton"):
        y = selective_scan(**leaves, D=None, delta_softplus=True, backend=backend)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(leaves.values()))])
    for slow, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)


def narrow(device="cpu", length=17):
    """float32 and bfloat16 through the Triton kernels: the state is float32."""
    inputs = given(1, 2, length, 2, dtype=torch.float32)
    inputs["A"] = -torch.full((2, 2), 0.01)
    inputs = {name: x.to(device) for name, x in inputs.items()}
    half = {name: x if name in "AD" else x.bfloat16() for name, x in inputs.items()}
    for now, tolerance in ((inputs, 1e-6 if device == "cpu" else 4e-6), (half, 0.005)):
        y = selective_scan(**now, backend="triton")
        expected = selective_scan(**{name: x.double() for name, x in now.items()}, backend="reference")
        assert y.dtype == now["u"].dtype
        assert (y - expected).abs().max() <= tolerance * expected.abs().max()
        fast = gradients(now, "triton")
        slow = gradients({name: x.double() for name, x in now.items()}, "reference")
        for name, g in fast.items():
            assert g.dtype == now[name].dtype
            assert (g - slow[name]).abs().max() <= 4 * tolerance * slow[name].abs().max(), name


def compiled():
    """The Triton operator under torch.compile, and its registration."""
    test_compiled_block_is_the_eager_one("triton")
    test_fake_kernel_knows_shape_and_type("triton")
    inputs = given(1, 2, 5, 1, groups=1)
    torch.library.opcheck(torch.ops.cmf.scan_triton.default,
                          (*(x.requires_grad_() for x in inputs.values()), None, True, True))


def built():
    """Every kernel as machine code for a card of compute capability 9.0; no device is needed for that."""
    import triton
    from triton.backends.compiler import GPUTarget

    from cmf.blocks import scan_triton as s

    pointers = set("u delta A B C D bias ends total carried starts y grad pulls du ddelta dA dB dC dD dbias".split())
    types = {name: "*bf16" for name in ("u", "delta", "B", "C", "y", "grad", "du", "ddelta")}
    facts = dict(direct=True, biased=True, softplus=True, reverse=True, kind=s.tl.float32, T=32, W=8, M=32)
    for kernel in (s._ends, s._carry, s._outputs, s._pulls, s._gradients):
        fixed = {name: facts[name] for name in kernel.arg_names if name in facts}
        signature = {name: "constexpr" if name in fixed else types.get(name, "*fp32") if name in pointers else "i32"
                     for name in kernel.arg_names}
        source = triton.compiler.ASTSource(kernel, signature, constexprs=fixed)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"], kernel


@TRITON
@pytest.mark.parametrize("function", ["agree", "narrow", "compiled"])
def test_triton_kernels_are_the_recurrence(function):
    _alone(function, TRITON_INTERPRET="1")


@TRITON
def test_triton_kernels_compile():
    _alone("built", TRITON_INTERPRET="0")


@pytest.mark.gpu
@TRITON
@CUDA
def test_triton_kernels_on_the_device():
    shapes = [dict(channels=c, length=n, states=s, groups=g)
              for c, n, s, g in ((8, 1, 1, 1), (20, 128, 3, 4), (20, 129, 16, 4), (33, 1000, 5, None), (2, 9000, 2, 2))]
    agree("cuda", shapes, 1e-8)
    narrow("cuda", 3000)


def test_importing_the_scan_imports_no_compiler():
    code = "import sys, cmf.blocks.scan; sys.exit(bool({'triton', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
