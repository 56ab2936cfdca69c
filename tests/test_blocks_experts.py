"""Experts: one product equals expert by expert, where tokens go, and balancing keeps every expert in use."""

import pytest
import torch

from cmf.blocks.experts import PER, Experts, Router, Routing, balance_loss, load


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def experts(channels=5, seed=0, spread=1.0, **options):
    torch.manual_seed(seed)
    mixture = Experts(channels, **options).double()
    torch.nn.init.normal_(mixture.router.weight, std=spread)  # an untrained router hardly tells tokens apart
    return mixture


def slowly(mixture, x, k):
    """Token by token: its mean, the experts it goes to, and their answers for its own pixels alone."""
    router = mixture.router
    side = {"image": max(x.shape[-2:]), "region": router.region, "pixel": 1}[router.per]
    ends = torch.tensor(mixture.ranks).cumsum(0).tolist()
    y = x.clone()
    for b in range(x.shape[0]):
        for top in range(0, x.shape[-2], side):
            for left in range(0, x.shape[-1], side):
                place = (b, slice(None), slice(top, top + side), slice(left, left + side))
                probabilities = (router.weight @ x[place].mean((-2, -1))).softmax(0)
                for e in probabilities.topk(router.top).indices.tolist():
                    own = slice(ends[e] - mixture.ranks[e], ends[e])
                    key, query = (torch.einsum("rc,chw->rhw", conv.weight[own, :, 0, 0], z[place])
                                  + conv.bias[own, None, None] for conv, z in ((mixture.key, k), (mixture.query, x)))
                    answer = torch.einsum("cr,rhw->chw", mixture.out.weight[:, own, 0, 0], key * query)
                    bias = mixture.out.weight[:, ends[-1] + e, 0, 0]
                    y[place] = y[place] + probabilities[e] * (answer + bias[:, None, None])
    return y


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("top", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)], ids=str)
def test_one_product_equals_expert_by_expert(per, top, size):
    mixture = experts(per=per, top=top, region=3)
    x, k = maps(2, 5, *size).requires_grad_(), maps(2, 5, *size, seed=1).requires_grad_()
    fast, slow = mixture(x, k)[0], slowly(mixture, x, k)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    weights = [x, k, *mixture.parameters()]
    seen = maps(*fast.shape, seed=2)
    for name, a, b in zip(["x", "k", *dict(mixture.named_parameters())],
                          *(torch.autograd.grad((y * seen).sum(), weights) for y in (fast, slow)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("per", PER)
def test_gradcheck(per):
    mixture = experts(3, per=per, region=2, ranks=(1, 2))
    x, k = maps(2, 3, 3, 4).requires_grad_(), maps(2, 3, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, k: mixture(x, k)[0], (x, k))


def test_parameters_are_those_of_separate_convolutions_with_bias():
    mixture = Experts(96, (2, 4, 8))
    separate = sum(2 * (96 * r + r) + (r * 96 + 96) for r in (2, 4, 8))
    assert sum(p.numel() for p in mixture.parameters()) == separate + 3 * 96


def test_tokens_have_the_size_asked_for():
    x = maps(2, 5, 10, 13)
    shapes = {per: tuple(experts(per=per, region=4)(x, x)[1].chosen.shape) for per in PER}
    assert shapes == {"image": (2, 3, 1, 1), "region": (2, 3, 3, 4), "pixel": (2, 3, 10, 13)}
    for top in (1, 2, 3):
        routing = experts(per="pixel", top=top)(x, x)[1]
        assert (routing.chosen.sum(1) == top).all()
        torch.testing.assert_close(routing.probabilities.sum(1), torch.ones(2, 10, 13, dtype=torch.float64))
        least = routing.probabilities.where(routing.chosen, 2.0).amin(1)
        assert (routing.probabilities.where(~routing.chosen, -1.0).amax(1) <= least).all()


def test_experts_that_were_not_chosen_get_no_gradient_and_the_router_does():
    mixture = experts(per="image")
    x = maps(1, 5, 4, 4)
    y, routing = mixture(x, maps(1, 5, 4, 4, seed=1))
    y.square().sum().backward()
    chosen = routing.chosen.flatten()
    for e, rows in enumerate(mixture.key.weight.grad.split(mixture.ranks)):
        assert bool(rows.abs().max() > 0) == bool(chosen[e])
    assert mixture.router.weight.grad.abs().max() > 0


def routing_of(shares, probabilities):
    """Routing of 20 tokens of one image with the given shares and the same probabilities for all."""
    which = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(shares))
    chosen = torch.nn.functional.one_hot(which, len(shares)).T.bool()[None, :, None]
    return Routing(torch.tensor(probabilities)[None, :, None, None].expand(chosen.shape), chosen)


def test_balance_loss_by_hand():
    even = routing_of([10, 10], [0.5, 0.5])
    one = routing_of([20, 0], [1.0, 0.0])
    other = routing_of([15, 5], [0.6, 0.4])
    assert balance_loss(even).item() == pytest.approx(1)
    assert balance_loss(one).item() == pytest.approx(2)
    assert balance_loss(other).item() == pytest.approx(2 * (0.75 * 0.6 + 0.25 * 0.4))


def test_load_adds_up_over_batches():
    assert load(routing_of([15, 5], [0.5, 0.5])).tolist() == [0.75, 0.25]
    assert load(routing_of([15, 5], [0.5, 0.5]), routing_of([5, 15], [0.5, 0.5])).tolist() == [0.5, 0.5]
    both = experts(top=3)(maps(2, 5, 4, 4), maps(2, 5, 4, 4))[1]
    assert load(both).tolist() == pytest.approx([1 / 3] * 3)
    assert balance_loss(both).item() == pytest.approx(1)


def trained(per, weight, steps=80, seed=0):
    """Load over the last ten of some steps on maps of eight textures; the router starts out fond of the first expert.
    """
    mixture = experts(6, seed, per=per, region=4, spread=0.1).float()
    textures = torch.sign(maps(8, 6, 1, 1, seed=5, dtype=torch.float32))
    textures[:, 0] = 1.5
    with torch.no_grad():
        mixture.router.weight[0, 0] += 2.0
    optimiser = torch.optim.Adam(mixture.parameters(), 0.01)
    seen = []
    for step in range(steps):
        x = textures.repeat(2, 1, 8, 8) + 0.5 * maps(16, 6, 8, 8, seed=10 + step, dtype=torch.float32)
        y, routing = mixture(x, x)
        loss = (y - x.square()).square().mean() + weight * balance_loss(routing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(routing)
    return load(*seen[-10:])


@pytest.mark.parametrize("per", PER)
def test_balancing_revives_experts_that_die_without(per):
    without, balanced = trained(per, 0.0), trained(per, 0.5)
    assert without.min() < 0.01, f"an expert dies without balancing: {without.tolist()}"
    assert balanced.min() > 0.05, f"no expert is below five per cent with balancing: {balanced.tolist()}"


def test_same_seed_gives_the_same_training():
    assert torch.equal(trained("region", 0.1, steps=5), trained("region", 0.1, steps=5))


@pytest.mark.parametrize("per", PER)
def test_half_precision_routes_as_float32_does(per):
    mixture = experts(16, per=per).float()
    x, k = maps(2, 16, 9, 11, dtype=torch.float32), maps(2, 16, 9, 11, seed=1, dtype=torch.float32)
    y, routing = mixture(x, k)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, same = mixture(x, k)
    assert torch.equal(same.chosen, routing.chosen) and same.probabilities.dtype == torch.float32
    assert (mixed - y).abs().max() < 0.1
    half = mixture.to(torch.bfloat16)
    narrow, routed = half(x.to(torch.bfloat16), k.to(torch.bfloat16))
    (narrow.float().square().mean() + 0.1 * balance_loss(routed)).backward()
    assert narrow.dtype == torch.bfloat16 and routed.probabilities.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in half.parameters())


def test_refusals():
    with pytest.raises(ValueError, match=r"ranks are \(\); give one rank"):
        Experts(4, ())
    with pytest.raises(ValueError, match=r"ranks are \(2, 0\)"):
        Experts(4, (2, 0))
    with pytest.raises(ValueError, match="top is 4; a token goes to 1 to 3 of 3 experts"):
        Experts(4, top=4)
    with pytest.raises(ValueError, match="routing per 'row' is not known; choose one of image, region, pixel"):
        Router(4, 3, per="row")
    with pytest.raises(ValueError, match="a side of 1 pixel or more, not 0"):
        Router(4, 3, per="region", region=0)
    with pytest.raises(ValueError, match=r"shape \(B, 4, H, W\), not \(1, 4, 2, 2\) and \(1, 4, 2, 3\)"):
        Experts(4)(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 3))
    with pytest.raises(ValueError, match="load needs one routing or more"):
        load()
