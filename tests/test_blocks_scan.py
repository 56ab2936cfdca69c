"""The selective scan: every backend against the recurrence in NumPy, in value and gradient, and its visiting orders."""

import importlib.util

import numpy as np
import pytest
import torch

from cmf.blocks import scan
from cmf.blocks.scan import cross_merge, cross_scan, inverse_order, selective_scan, visiting_order

pytestmark = pytest.mark.usefixtures("one_thread")
NUMBA = pytest.param("numba", marks=pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="Numba is not installed: the compiled scan is not tested"))
FAST = ["chunked", NUMBA]


def given(batch=2, channels=6, length=11, states=3, groups=None, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    tensor = lambda x: torch.tensor(x, dtype=dtype)
    shape = (batch, states, length) if groups is None else (batch, groups, states, length)
    return {
        "u": tensor(rng.normal(size=(batch, channels, length))),
        "delta": tensor(rng.uniform(0.01, 0.4, (batch, channels, length))),
        "A": -tensor(rng.uniform(0.2, 4, (channels, states))),
        "B": tensor(rng.normal(size=shape)), "C": tensor(rng.normal(size=shape)),
        "D": tensor(rng.normal(size=channels)),
    }


def plainly(u, delta, A, B, C, D):
    """The recurrence in NumPy, one number at a time as far as that is readable."""
    u, delta, A, B, C, D = (x.double().numpy() for x in (u, delta, A, B, C, D))
    if B.ndim == 3:
        B, C = B[:, None], C[:, None]
    y = np.empty_like(u)
    for z in range(u.shape[0]):
        for d in range(u.shape[1]):
            g, h = d * B.shape[1] // u.shape[1], np.zeros(A.shape[1])
            for t in range(u.shape[2]):
                h = np.exp(delta[z, d, t] * A[d]) * h + delta[z, d, t] * u[z, d, t] * B[z, g, :, t]
                y[z, d, t] = C[z, g, :, t] @ h + D[d] * u[z, d, t]
    return y


def gradients(inputs, backend):
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y = selective_scan(**leaves, backend=backend)
    weight = torch.cos(torch.arange(y.numel())).view(y.shape).to(y)
    return dict(zip(leaves, torch.autograd.grad((y * weight).sum(), list(leaves.values())), strict=True))


@pytest.mark.parametrize("groups", [None, 1, 2, 6])
@pytest.mark.parametrize("length", [1, 2, 11, 30])
@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_scan_is_the_recurrence(backend, length, groups):
    inputs = given(length=length, groups=groups)
    got = selective_scan(**inputs, backend=backend).numpy()
    np.testing.assert_allclose(got, plainly(**inputs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("length", [1, 7, 23])
@pytest.mark.parametrize("backend", FAST)
def test_gradients_are_those_of_the_reference(backend, length, groups):
    inputs = given(length=length, groups=groups)
    slow, fast = gradients(inputs, "reference"), gradients(inputs, backend)
    for name in inputs:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("backend", FAST)
def test_gradcheck(backend):
    inputs = [x.requires_grad_() for x in given(1, 2, 5, 2, groups=2).values()]
    bias = torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
    run = lambda u, delta, A, B, C, D, bias: selective_scan(u, delta, A, B, C, D, bias, True, backend)
    assert torch.autograd.gradcheck(run, (*inputs, bias))


@pytest.mark.parametrize("backend", FAST)
def test_single_precision_is_close_to_double(backend):
    inputs = given(1, 16, 4800, 8, dtype=torch.float32)
    wide = {name: x.double() for name, x in inputs.items()}
    pairs = {"y": (selective_scan(**inputs, backend=backend), selective_scan(**wide, backend="reference"))}
    slow, fast = gradients(wide, "reference"), gradients(inputs, backend)
    for name, (got, expected) in (pairs | {n: (fast[n], slow[n]) for n in inputs}).items():
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() <= 2e-6 * expected.abs().max(), name


@pytest.mark.parametrize("backend", FAST)
def test_blocks_of_channels_add_up(backend, monkeypatch):
    monkeypatch.setattr("cmf.blocks.scan_chunked.BLOCK", 200)
    inputs = given(2, 100, 9, 2)
    slow, fast = gradients(inputs, "reference"), gradients(inputs, backend)
    for name in inputs:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-9, atol=1e-11)


@NUMBA.marks[0]
@pytest.mark.parametrize("channels, groups", [(70, None), (200, 2)])
def test_threads_do_not_change_a_digit_of_the_compiled_scan(channels, groups):
    inputs, found = given(1, channels, 70, 4, groups, dtype=torch.float32), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(gradients(inputs, "numba") | {"y": selective_scan(**inputs, backend="numba")})
    torch.set_num_threads(1)
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name]) and torch.equal(found[0][name], found[2][name]), name


@NUMBA.marks[0]
def test_compiled_scan_takes_no_more_threads_than_torch(monkeypatch):
    from cmf.blocks import scan_numba

    pools, jobs = [], scan_numba._blocks(3, 200)
    pool = scan_numba.ThreadPoolExecutor
    monkeypatch.setattr(scan_numba, "ThreadPoolExecutor", lambda workers: pools.append(workers) or pool(workers))
    for threads in (1, 2, 50):
        torch.set_num_threads(threads)
        done = []
        scan_numba.each(lambda *job, done=done: done.append(job), jobs)
        assert sorted(map(str, done)) == sorted(map(str, jobs))
    torch.set_num_threads(1)
    assert pools == [1, len(jobs) - 1]  # beside the caller; none for one thread
    wide = [p for q, r, p in jobs if r == 0]
    assert [i for p in wide for i in range(200)[p]] == list(range(200))


@NUMBA.marks[0]
def test_an_error_in_a_thread_is_raised():
    from cmf.blocks import scan_numba

    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        scan_numba.each(lambda x: 1 / x, [(1,), (0,), (2,)])
    torch.set_num_threads(1)


@NUMBA.marks[0]
def test_compiled_softplus_keeps_its_digits():
    x = torch.cat([torch.linspace(-15, 30, 5001), torch.linspace(-2, 2, 999)])[None, :, None]
    one, delta, wide = torch.ones(1, 1, 1), x.clone().requires_grad_(), x.double().requires_grad_()
    y = selective_scan(torch.ones_like(x), delta, -torch.ones(6000, 1), one, one, None, None, True, "numba")
    expected = torch.nn.functional.softplus(wide, threshold=100)
    assert (y / expected - 1).abs().max() < 1e-6  # a single step's output is the step
    got, = torch.autograd.grad(y.sum(), delta)
    slope, = torch.autograd.grad(expected.sum(), wide)
    assert (got / slope - 1).abs().max() < 1e-6


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_bias_softplus_and_no_direct_path(backend):
    inputs = given()
    inputs["delta"] -= 0.3
    bias = torch.linspace(-1, 1, 6, dtype=torch.float64)
    got = selective_scan(**inputs | {"D": None}, delta_bias=bias, delta_softplus=True, backend=backend)
    step = torch.log1p(torch.exp(inputs["delta"] + bias[:, None]))
    expected = plainly(**inputs | {"delta": step, "D": torch.zeros(6, dtype=torch.float64)})
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_half_precision_keeps_a_float32_state(backend):
    inputs = given(1, 2, 400, 2, dtype=torch.bfloat16)
    inputs["A"], inputs["D"] = -torch.full((2, 2), 0.01), torch.ones(2)
    y = selective_scan(**inputs, backend=backend)
    assert y.dtype == torch.bfloat16
    expected = torch.from_numpy(plainly(**inputs))
    assert (y.double() - expected).abs().max() < 0.005 * expected.abs().max()


def test_unchosen_backend_is_a_fast_one(monkeypatch):
    monkeypatch.setattr(scan, "FOUND", {"numba": False, "triton": False})
    for device in ("cpu", "cuda", "mps"):
        assert scan._backend(None, torch.device(device)) is scan.scan_chunked.scan
    monkeypatch.setattr(scan, "FOUND", {"numba": True, "triton": True})
    assert scan._backend(None, torch.device("mps")) is scan.scan_chunked.scan


@NUMBA.marks[0]
def test_unchosen_backend_on_the_cpu_is_the_compiled_one():
    from cmf.blocks import scan_numba
    assert scan._backend(None, torch.device("cpu")) is scan_numba.scan


def test_backends_that_cannot_be_used_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="'cuda' is unknown; choose one of reference, chunked, numba, triton, or None"):
        selective_scan(**given(), backend="cuda")
    monkeypatch.setattr(scan, "FOUND", {"numba": True, "triton": True})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'triton' runs on CUDA, and u is on cpu; move it, use 'chunked', or set"):
        selective_scan(**given(), backend="triton")
    with pytest.raises(ValueError, match="runs on the CPU, and u is on meta; move it or use 'chunked'"):
        selective_scan(**{name: x.to("meta") for name, x in given().items()}, backend="numba")
    monkeypatch.setattr(scan, "FOUND", {"numba": False, "triton": False})
    for name in ("numba", "triton"):
        with pytest.raises(ValueError, match=f"needs the package {name}, which is not installed; use 'chunked'"):
            selective_scan(**given(), backend=name)


@pytest.mark.parametrize("name, value, words", [
    ("u", torch.ones(2, 6), r"u has shape \(2, 6\)"),
    ("u", torch.ones(2, 6, 0), r"u has shape \(2, 6, 0\)"),
    ("delta", torch.ones(2, 6, 10), r"delta \(2, 6, 10\); give both as"),
    ("A", torch.ones(5, 3), r"A has shape \(5, 3\); give \(6, states\)"),
    ("B", torch.ones(2, 3, 10), r"B has shape \(2, 1, 3, 10\).*give \(2, groups, 3, 11\)"),
    ("C", torch.ones(2, 2, 3, 11), r"C \(2, 2, 3, 11\)"),
    ("D", torch.ones(5), r"D has shape \(5,\); give \(6,\)"),
    ("delta_bias", torch.ones(1), r"delta_bias has shape \(1,\)"),
])
def test_shapes_that_do_not_belong_together_are_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        selective_scan(**given() | {name: value})


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="6 channels do not divide into the 4 groups"):
        selective_scan(**given(groups=4))


ORDERS = [(None, False), (4, False), (4, True), (3, False), (50, True)]


@pytest.mark.parametrize("tile, dilated", ORDERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (5, 9), (13, 6)])
def test_cross_merge_undoes_cross_scan(size, tile, dilated):
    x = torch.arange(2.0 * 3 * size[0] * size[1]).view(2, 3, *size)
    y = cross_scan(x, tile, dilated)
    assert y.shape == (2, 4, 3, size[0] * size[1])
    torch.testing.assert_close(cross_merge(y, size, tile, dilated), 4 * x)
    for k in range(4):  # each direction alone lands where it came from
        only = torch.zeros_like(y)
        only[:, k] = y[:, k]
        torch.testing.assert_close(cross_merge(only, size, tile, dilated), x)


def test_directions_are_rows_columns_and_their_reverses():
    y = cross_scan(torch.arange(6.0).view(1, 1, 2, 3))[0, :, 0].tolist()
    assert y == [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]


def test_windows_are_visited_one_after_the_other_and_lattices_too():
    assert visiting_order(4, 4, 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert visiting_order(4, 4, 2, dilated=True).tolist() == [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
    assert visiting_order(2, 3, 2, transposed=True).tolist() == [0, 3, 1, 4, 2, 5]
    order = visiting_order(7, 10, 4)
    assert torch.equal(order[inverse_order(order)], torch.arange(70))


def test_orders_and_directions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="picture of 4x4 cannot be cut into tiles of 0"):
        visiting_order(4, 4, 0)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3, 4\); give \(batch, 4, channels, 6\) for a picture of 2x3"):
        cross_merge(torch.ones(1, 2, 3, 4), (2, 3))


def test_an_order_first_asked_for_in_inference_serves_training():
    with torch.inference_mode():
        cross_merge(cross_scan(torch.randn(1, 1, 9, 11), 4), (9, 11), 4)
    x = torch.randn(1, 1, 9, 11, requires_grad=True)
    cross_merge(cross_scan(x, 4).square(), (9, 11), 4).sum().backward()
    assert torch.allclose(x.grad, 8 * x)
