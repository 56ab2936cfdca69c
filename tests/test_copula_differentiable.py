"""The Gumbel copula in torch: against the array version, gradients, descent of the information, stored quantiles."""

import numpy as np
import pytest
import torch

from cmf import copula
from cmf.copula import differentiable as D
from cmf.copula.soft_ranks import QuantileTable, own_ecdf, soft_ecdf

THETAS = [1.0, 1 + 1e-6, 1.001, 1.5, 2 - 1e-9, 2.0, 5.0, 20.0, 100.0]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def dependent(n, Ti, To, seed, dtype=torch.float64):
    """Scalars of two modalities with a shared cause of both signs and both tails."""
    rng = np.random.default_rng(seed)
    cause = rng.exponential(size=(n, 1))
    x = cause * rng.uniform(-1, 1, (1, Ti)) + rng.normal(size=(n, Ti)) * 0.4
    y = cause * rng.uniform(-1, 1, (1, To)) + rng.normal(size=(n, To)) * 0.4
    return torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)


# ---- closed form and density

def test_closed_form_equals_the_array_version_in_both_precisions():
    theta = torch.tensor(THETAS, dtype=torch.float64, requires_grad=True)
    mi = D.gumbel_mi(theta)
    mi.sum().backward()
    np.testing.assert_allclose(mi.detach().numpy(), copula.gumbel_mi(THETAS), rtol=1e-11)
    np.testing.assert_allclose(theta.grad.numpy(), copula.gumbel_mi_derivative(THETAS), rtol=1e-11)
    single = torch.tensor(THETAS, dtype=torch.float32)
    np.testing.assert_allclose(D.gumbel_mi(single).numpy(), copula.gumbel_mi(single.double().numpy()), rtol=1e-6)


def test_closed_form_gradcheck():
    theta = torch.tensor([1.01, 1.4, 2.0, 2.6, 9.0, 60.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(D.gumbel_mi, (theta,))


def test_log_density_equals_the_array_version_and_gradcheck():
    g = generator(0)
    u, v = (torch.rand(40, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    theta = (1 + 8 * torch.rand(40, generator=g, dtype=torch.float64)).requires_grad_()
    expected = copula.gumbel_logpdf(u.detach().numpy(), v.detach().numpy(), theta.detach().numpy())
    np.testing.assert_allclose(D.gumbel_logpdf(u, v, theta).detach().numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(D.gumbel_logpdf, (u, v, theta))
    same = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)          # the kink of |ln x - ln y|
    half = torch.autograd.grad(D.gumbel_logpdf(same, same.detach(), theta[:2].detach()).sum(), same)[0]
    both = torch.autograd.grad(D.gumbel_logpdf(same, same, theta[:2].detach()).sum(), same)[0]
    torch.testing.assert_close(2 * half, both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_density_is_finite_at_the_edges_with_finite_gradients(dtype):
    edge = torch.tensor([0.0, 1e-12, 0.5, 1 - 1e-12, 1.0], dtype=dtype)               # in float32 1 - 1e-12 is 1
    u, v = (z.reshape(-1).clone().requires_grad_() for z in torch.meshgrid(edge, edge, indexing="ij"))
    for t in (1.0, 2.0, 10.0, 30.0, 100.0):
        value = D.gumbel_logpdf(u, v, torch.tensor(t, dtype=dtype))
        value.sum().backward()
        assert value.isfinite().all() and not u.grad.isnan().any() and not v.grad.isnan().any()


def test_float32_log_density_agrees_with_float64_at_the_same_inputs():
    g = generator(1)
    u, v = torch.rand(2, 100_000, generator=g).clamp(1e-7, 1 - 1e-7)
    for t in (1.0, 1.25, 2.0, 5.0, 10.0, 50.0):
        single, double = (D.gumbel_logpdf(u.to(d), v.to(d), torch.tensor(t, dtype=d)) for d in (u.dtype, torch.float64))
        assert ((single - double).abs() / double.abs().clamp(min=1)).max() < 1e-4


# ---- all pairs at once

def test_pairs_equal_the_fit_one_by_one():
    x, y = dependent(3000, 5, 4, 0)
    u, v = (torch.tensor(copula.ecdf(z.numpy())) for z in (x, y))
    theta, rotation = D.pairwise_theta(u, v)
    plain, zero = D.pairwise_theta(u, v, rotations=False)
    assert set(rotation.unique().tolist()) >= {0, 90} or set(rotation.unique().tolist()) >= {180, 270}
    assert (zero == 0).all()
    for i in range(5):
        for j in range(4):
            fit = copula.fit_gumbel(u[:, i].numpy(), v[:, j].numpy())
            assert (fit.rotation, float(theta[i, j])) == (int(rotation[i, j]), pytest.approx(fit.theta, abs=1e-4))
            fit = copula.fit_gumbel(u[:, i].numpy(), v[:, j].numpy(), rotation=0)
            assert float(plain[i, j]) == pytest.approx(fit.theta, abs=1e-4)


def test_float32_pairs_agree_with_float64():
    x, y = dependent(2500, 6, 6, 1)
    u, v = soft_ecdf(x, x), soft_ecdf(y, y)
    (double, a), (single, b) = D.pairwise_theta(u, v), D.pairwise_theta(u.float(), v.float())
    assert single.dtype == torch.float32 and (a == b).all()
    assert (double - single).abs().max() < 1e-4


def test_pairs_of_strong_absent_and_perfect_dependence():
    rng = np.random.default_rng(2)
    a, b = copula.gumbel_sample(4000, 12.0, 3)
    x = torch.tensor(np.stack([a, rng.random(4000)], 1))
    y = torch.tensor(np.stack([b, a, np.full(4000, 0.5)], 1))
    theta, _ = D.pairwise_theta(soft_ecdf(x, x), soft_ecdf(y, y))
    assert theta[0, 0] == pytest.approx(12, rel=0.05) and theta[0, 1] == D.THETA_MAX
    assert (theta[1, :2] < 1.05).all() and (theta[:, 2] < 1.01).all()
    mi = D.pairwise_mi(x, y)
    assert (mi[1, :2] < 2e-3).all() and (mi[:, 2] < 1e-4).all() and (mi[0, :2] > 2).all()


def test_pairwise_log_density_is_the_density_of_the_rotated_pair():
    g = generator(3)
    u, v = (torch.rand(7, T, generator=g, dtype=torch.float64).requires_grad_() for T in (2, 2))
    theta = torch.tensor([[1.5, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    rotation = torch.tensor([[0, 90], [180, 270]])
    value = D.pairwise_logpdf(u, v, theta, rotation)
    for i in range(2):
        for j in range(2):
            a, b = copula.rotate(u[:, i].detach().numpy(), v[:, j].detach().numpy(), int(rotation[i, j]))
            np.testing.assert_allclose(value[:, i, j].detach(), copula.gumbel_logpdf(a, b, theta[i, j].item()))
    assert torch.autograd.gradcheck(lambda u, v, t: D.pairwise_logpdf(u, v, t, rotation), (u, v, theta))


def test_mean_over_pairs_equals_the_plain_path_and_gradcheck():
    g = generator(4)
    u, v = (torch.rand(9, T, generator=g, dtype=torch.float64).requires_grad_() for T in (2, 3))
    theta = torch.tensor([[1.5, 2.0, 7.0], [3.0, 4.0, 1.0]], dtype=torch.float64)
    rotation = torch.tensor([[0, 90, 180], [180, 270, 0]])
    fast = D._PairMean.apply(u, v, theta, rotation)
    torch.testing.assert_close(fast, D.pairwise_logpdf(u, v, theta, rotation).mean(0))
    assert fast[1, 2] == 0
    assert torch.autograd.gradcheck(lambda u, v: D._PairMean.apply(u, v, theta, rotation), (u, v))


def test_detached_theta_leaves_the_gradient_exact():
    x, y = dependent(400, 1, 1, 5)
    u, v = (torch.tensor(copula.ecdf(z.numpy())).clamp(0.01, 0.99).requires_grad_() for z in (x, y))
    theta, rotation = D.pairwise_theta(u.detach(), v.detach())
    grad = torch.autograd.grad(D._PairMean.apply(u, v, theta, rotation).sum(), u)[0]
    direction = torch.randn(u.shape, generator=generator(5), dtype=u.dtype) * 1e-4

    def refitted(sign):
        moved = (u + sign * direction).detach()
        return D._PairMean.apply(moved, v.detach(), D.pairwise_theta(moved, v.detach())[0], rotation)

    difference = (refitted(1) - refitted(-1)) / 2
    assert float((grad * direction).sum()) == pytest.approx(float(difference), rel=1e-3)


def test_chunks_do_not_change_the_answer(monkeypatch):
    x, y = dependent(300, 4, 3, 6)
    results = []
    for chunk in (1, 1 << 30):
        monkeypatch.setattr(D, "_CHUNK", chunk)
        a = x.clone().requires_grad_()
        mi = D.pairwise_mi(a, y)
        results.append((mi.detach(), torch.autograd.grad(mi.sum(), a)[0]))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_pairwise_information_and_its_memory():
    x, y = dependent(600, 3, 2, 7)
    x.requires_grad_()
    mi = D.pairwise_mi(x, y)
    assert mi.shape == (3, 2) and (mi >= 0).all()
    assert float(mi[0, 0].detach()) == pytest.approx(
        copula.mutual_information(x[:, 0].detach().numpy(), y[:, 0].numpy()).lower_bound, abs=1e-6)
    parted = D.pairwise_mi(x[:100], y[:100], x[100:], y[100:])
    torch.testing.assert_close(parted, mi)
    grad = torch.autograd.grad(parted.sum(), x)[0]
    assert (grad[:100] != 0).any() and (grad[100:] == 0).all()
    monotone = D.pairwise_mi(torch.sinh(x.detach()), y)
    torch.testing.assert_close(monotone, mi.detach())


def test_descending_the_information_lowers_an_independent_estimate():
    rng = np.random.default_rng(8)
    cause = rng.normal(size=(6000, 1))
    X, Y = (torch.tensor(cause * rng.uniform(0.5, 1.5, 5) + 0.8 * rng.normal(size=(6000, 5)), dtype=torch.float32)
            for _ in range(2))
    g = generator(8)
    p, q = ((1 + 0.3 * torch.randn(5, 1, generator=g)).requires_grad_() for _ in range(2))

    def nearest_neighbours():
        a, b = ((Z[4000:] @ w).detach().numpy()[:, 0] for Z, w in ((X, p), (Y, q)))
        return copula.ksg_mutual_information(a, b)

    before = nearest_neighbours()
    optimiser = torch.optim.Adam([p, q], lr=0.03)
    for _ in range(60):
        chosen = torch.randint(0, 4000, (256,), generator=g)
        loss = D.pairwise_mi(X[chosen] @ p, Y[chosen] @ q).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert before > 0.4 and nearest_neighbours() < 0.2 * before


# ---- ranks

def test_soft_ecdf_values_are_ranks():
    x = torch.tensor([[3.0], [1.0], [3.0], [2.0]])
    np.testing.assert_allclose(soft_ecdf(x, x).numpy(), copula.ecdf(x.numpy()), rtol=1e-6)
    np.testing.assert_allclose(soft_ecdf(torch.tensor([[0.0], [2.5], [9.0]]), x)[:, 0], torch.tensor([.1, .5, .9]))


def test_soft_ecdf_gradient_is_that_of_the_kernel_distribution_function():
    g = generator(9)
    x, r = (torch.randn(n, 2, generator=g, dtype=torch.float64).requires_grad_() for n in (6, 11))
    h = 0.3 * r.detach().std(0, correction=0)
    weight = torch.randn(6, 2, generator=g, dtype=torch.float64)
    smooth = torch.special.ndtr((x[:, None] - r[None]) / h).sum(1) / (len(r) + 1)      # (6, 2)
    expected = torch.autograd.grad((smooth * weight).sum(), (x, r))
    got = torch.autograd.grad((soft_ecdf(x, r, 0.3) * weight).sum(), (x, r))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_constant_scalar_has_no_gradient():
    x, y = dependent(200, 2, 2, 16, torch.float32)
    x[:, 1] = 0.1
    x.requires_grad_()
    D.pairwise_mi(x, y).sum().backward()
    assert (x.grad[:, 0] != 0).any() and (x.grad[:, 1] == 0).all()


def test_own_ecdf_is_soft_ecdf_with_the_gradient_of_the_first_rows():
    g = generator(15)
    x = torch.randn(12, 3, generator=g, dtype=torch.float64).requires_grad_()
    weight = torch.randn(12, 3, generator=g, dtype=torch.float64)
    own, soft = own_ecdf(x, 5), soft_ecdf(x, x)
    torch.testing.assert_close(own, soft)
    a, b = (torch.autograd.grad((u * weight).sum(), x)[0] for u in (own, soft))
    torch.testing.assert_close(a[:5], b[:5])
    assert (a[5:] == 0).all() and (b[5:] != 0).all()


def test_quantile_table_does_not_depend_on_the_batch():
    x = torch.randn(5000, 3, generator=generator(10), dtype=torch.float64)
    table = QuantileTable(3).double().fit(x)
    u = table(x)
    assert (u - soft_ecdf(x, x)).abs().max() < 5e-3
    torch.testing.assert_close(table(x[:1]), u[:1])
    far = table(torch.tensor([[-1e6, -5.0, -4.0], [4.0, 5.0, 1e6]], dtype=torch.float64))
    assert (far > 0).all() and (far < 1).all() and far[0, 1] < far[0, 2] and far[1, 0] < far[1, 1]
    assert far.min() >= 0.5 / 5001 and far.max() <= 1 - 0.5 / 5001
    line = torch.linspace(-5, 5, 2001, dtype=torch.float64)[:, None].expand(-1, 3)
    assert (table(line).diff(dim=0) >= 0).all()
    inner = x[:20].clone().requires_grad_()
    assert (torch.autograd.grad(table(inner).sum(), inner)[0] > 0).all()
    again = QuantileTable(3).double()
    again.load_state_dict(table.state_dict())
    torch.testing.assert_close(again(x), u)


def test_quantile_table_puts_a_repeated_value_in_the_middle_of_its_ranks():
    x = torch.cat([torch.zeros(500, 1), torch.rand(500, 1, generator=generator(11)) + 0.1])
    assert float(QuantileTable(1).fit(x)(torch.zeros(1, 1))) == pytest.approx(0.25, abs=0.02)


def test_half_precision_is_taken_up_and_autocast_changes_nothing():
    x, y = dependent(300, 3, 3, 14, torch.float32)
    a = x.bfloat16().requires_grad_()
    mi = D.pairwise_mi(a, y.bfloat16())
    mi.sum().backward()
    assert mi.dtype == torch.float32 and a.grad.isfinite().all() and QuantileTable(3).fit(x)(a).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = D.pairwise_mi(x, y)
    torch.testing.assert_close(inside, D.pairwise_mi(x, y), rtol=0, atol=0)


# ---- refusals

X = torch.rand(8, 2, generator=generator(12))
BAD = torch.where(torch.arange(16).reshape(8, 2) == 5, torch.nan, X)


@pytest.mark.parametrize("call, message", [
    (lambda: D.gumbel_mi(torch.tensor([2.0, 0.5])), "theta must be at least 1 everywhere, got .* 0.5"),
    (lambda: D.gumbel_logpdf(X - 1, X, 2.0), r"u must lie in \(0, 1\), got 16 values outside or NaN"),
    (lambda: D.pairwise_theta(X, BAD), r"v must lie in \(0, 1\), got 1 values outside or NaN"),
    (lambda: D.pairwise_theta(X, X[:3]), r"one n >= 2, got \(8, 2\) and \(3, 2\)"),
    (lambda: D.pairwise_mi(BAD, X), "x has 1 NaN of 16 values: the projections"),
    (lambda: D.pairwise_mi(X, X[:3]), r"with one B, got \(8, 2\) and \(3, 2\)"),
    (lambda: D.pairwise_mi(X, X, X), "must be given together"),
    (lambda: D.pairwise_mi(X, X, X, X[:3]), "must pair up, got 8 and 3 rows"),
    (lambda: D.pairwise_logpdf(X, X, torch.ones(3, 2), torch.zeros(3, 2)), r"must be \(Ti, To\) = \(2, 2\)"),
    (lambda: soft_ecdf(X, X[:, :1]), "one number of scalars, got 2 and 1"),
    (lambda: soft_ecdf(X[0], X), r"x must be \(rows, scalars\) with at least one row, got \(2,\)"),
    (lambda: soft_ecdf(X, X, 0.0), "bandwidth must be positive, got 0"),
    (lambda: QuantileTable(2, levels=2), "levels must be at least 3, got 2"),
    (lambda: QuantileTable(2).fit(X * torch.tensor([1.0, 0.0])), r"scalars \[1\] are constant over 8 rows"),
    (lambda: QuantileTable(3).fit(X), r"x must be \(n >= 2, 3\), got \(8, 2\)"),
    (lambda: QuantileTable(2).fit(BAD), "x has 1 NaN of 16 values"),
    (lambda: QuantileTable(2).fit(X)(X[:, :1]), "x must have 2 scalars, got 1"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_empty_table_is_refused():
    with pytest.raises(RuntimeError, match=r"this QuantileTable is empty: call fit\(x\)"):
        QuantileTable(2)(X)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu():
    x, y = dependent(3000, 6, 5, 13, torch.float32)
    here, there = D.pairwise_mi(x, y), D.pairwise_mi(x.cuda(), y.cuda()).cpu()
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)
