"""CMI-Fusion: what its shape alone guarantees, before and after training."""

from dataclasses import replace

import pytest
import small_fusion as small
import torch
from torch.nn import functional as F

from cmf.methods.cmi_fusion import BANDS, CMIFusion, DualAttention, Scene, Shape, activity, bands
from cmf.studies.fusing import MARGIN
from cmf.training import parameters

ARMS = (dict(text="single"), dict(text="none"), dict(attention=False), dict(film=False))


def batch(n=2, height=24, width=32, words=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return dict(visible=torch.rand(n, 1, height, width, generator=draw),
                infrared=torch.rand(n, 1, height, width, generator=draw),
                text=torch.randn(n, words, small.SHAPE.text_width, generator=draw),
                text_mask=torch.ones(n, words, dtype=torch.bool))


def network(seed=0, **change):
    """Untrained, in evaluation."""
    torch.manual_seed(seed)
    return CMIFusion(replace(small.SHAPE, **change)).eval()


def moved():
    """As after training: nothing is zero, and the words are heard."""
    net = small.network()
    for name, value in net.named_parameters():
        if ".out." in name or ".film." in name or name.startswith("head.4"):
            value.data.mul_(4)
    return net


def opened(net):
    """A head that reads what comes before it."""
    torch.nn.init.normal_(net.head[-1].weight, generator=torch.Generator().manual_seed(9))
    return net


def steps(net, number, rate=0.02):
    """Train on one batch: bright in the left half where the first word says so, dark where it does not."""
    given = batch(n=4)
    given["text"][:2, 0], given["text"][2:, 0] = 2.0, -2.0
    wanted = given["visible"].clone()
    wanted[:2, ..., :16], wanted[2:, ..., :16] = 1.0, 0.0
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=rate), []
    for _ in range(number):
        out = net.train()(given)
        loss = F.mse_loss(out["unclamped"], wanted)
        if out["understood"] is not None:
            loss = loss + 0.1 * F.cross_entropy(out["understood"], torch.tensor([0, 0, 1, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return given, losses


def same(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_below_two_million_parameters():
    assert 100_000 < parameters(CMIFusion()) < 2_000_000


@pytest.mark.parametrize("change", [{}, *ARMS], ids=str)
def test_untrained_network_is_the_classical_rule(change):
    """In each band the livelier source, on the mean of what is left of both."""
    given = batch(height=64, width=96)
    out = network(**change)(given)
    middle = 0.5 * (given["visible"].mean((2, 3), True) + given["infrared"].mean((2, 3), True))
    v, u = (bands(given[kind] - middle) for kind in ("visible", "infrared"))
    share = torch.cat([(4 * activity(v, u)[:, :5]).sigmoid(), torch.full_like(v[:, 5:], 0.5)], 1)
    same(out["unclamped"], middle + (share * v + (1 - share) * u).sum(1, True), 1e-5)
    same(out["weight"], share.mean(1, True), 1e-6)
    assert (out["residual"] == 0).all()


def test_untrained_network_gives_a_picture_back_that_is_fused_with_itself():
    given = batch(height=40, width=50)
    given["infrared"] = given["visible"]
    same(network()(given)["fused"], given["visible"], 1e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (32, 160)])
def test_bands_add_up_to_the_picture(size):
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    parts = bands(x)
    assert parts.shape == (2, BANDS, *size)
    same(parts.sum(1, True), x, 1e-5)
    flat = bands(torch.full((1, 1, *size), 0.3))
    assert flat[:, :-1].abs().max() < 1e-6 and (flat[:, -1] - 0.3).abs().max() < 1e-6
    fine = bands((x > 0.5).float())[:, 0].std()
    assert fine > bands((x > 0.5).float())[:, 4].std(), "noise is in the finest band"


def test_activity_is_opposite_when_the_sources_are_exchanged():
    v, u = (bands(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(k))) for k in range(2))
    same(activity(v, u), -activity(u, v))
    assert activity(v, u).abs().max() <= 1 and (activity(v, torch.zeros_like(v)) > 0.5).float().mean() > 0.9


def test_at_the_start_no_prompt_changes_the_picture():
    net, given = opened(network()), batch()
    first = net(given)["fused"]
    assert (first - network()(given)["fused"]).abs().max() > 0.01, "the head is open"
    for text in (torch.zeros_like(given["text"]), 5 * given["text"].flip(0)):
        assert torch.equal(net(given | dict(text=text))["fused"], first)
    assert torch.equal(net(given | dict(text_mask=torch.zeros(2, 5, dtype=torch.bool)))["fused"], first)


def test_a_trained_prompt_changes_the_picture():
    net, given = moved(), batch()
    other = net(given | dict(text=given["text"].flip(0)))["fused"]
    assert (net(given)["fused"] - other).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3), (8, 8), (33, 50)])
def test_any_size_from_one_pixel(size):
    out = moved()(batch(height=size[0], width=size[1]))
    for name in ("fused", "unclamped", "weight", "residual"):
        assert out[name].shape == (2, 1, *size) and out[name].isfinite().all()
    quarter = tuple(8 * -(-side // 32) for side in size)                 # of the picture as it is padded inside
    assert out["attention"].shape == (2, 2, *quarter, 6) and out["understood"].shape == (2, 5)


@pytest.mark.parametrize("change", ARMS, ids=str)
def test_arms_run_and_say_what_they_lack(change):
    out = opened(network(**change))(batch())
    assert out["fused"].shape == (2, 1, 24, 32)
    assert (out["attention"] is None) == (out["understood"] is None) == (change.get("text") == "none")


def test_the_parts_of_the_result():
    given, net = batch(), opened(small.network())
    net.head[-1].bias.data[-1] = 50.0                                    # a residual that wants to be large
    out = net(given)
    assert out["residual"].abs().max() <= 0.3 and out["residual"].max() > 0.29
    assert 0 <= out["weight"].min() and out["weight"].max() <= 1
    assert torch.equal(out["fused"], out["unclamped"].clamp(0, 1)) and out["unclamped"].max() > 1


def test_a_sample_is_fused_alike_alone_and_in_a_batch():
    net, given = moved(), batch(n=3)
    together = net(given)["fused"]
    for k in range(3):
        same(net({name: value[k:k + 1] for name, value in given.items()})["fused"], together[k:k + 1], 1e-5)


def test_weights_over_the_words_sum_to_one():
    given = batch()
    given["text_mask"][1, 2:] = False
    attention = moved()(given)["attention"]
    same(attention.sum(-1), torch.ones(attention.shape[:-1]), 1e-5)
    assert (attention[1, ..., 3:] == 0).all() and (attention[1, ..., :3] > 0).all()      # null word, two words


def test_words_that_do_not_exist_change_nothing():
    net, given = moved(), batch()
    given["text_mask"][:, 3:] = False
    expected = net(given)["fused"]
    noise, permuted = given["text"].clone(), given["text"].clone()
    noise[:, 3:] = 100.0
    permuted[:, 3:] = given["text"][:, [4, 3]]
    shorter = dict(text=given["text"][:, :3], text_mask=given["text_mask"][:, :3])
    for change in (dict(text=noise), dict(text=permuted), shorter):
        same(net(given | change)["fused"], expected, 1e-5)


def test_the_empty_prompt_is_read_from_the_null_word_alone():
    net, given = moved(), batch()
    given["text_mask"][:] = False
    out = net(given)
    assert (out["attention"][..., 0] == 1).all()
    same(net(given | dict(text=torch.randn(2, 5, 16)))["fused"], out["fused"], 0)
    assert torch.equal(out["understood"], net.understood.bias.expand(2, 5)), "the whole prompt is zero"


def test_pixels_choose_their_words_after_a_few_steps_and_cannot_with_one_token():
    choices = {}
    for text in ("tokens", "single"):
        net = network(text=text)
        given, losses = steps(net, 25)
        assert losses[-1] < 0.95 * losses[0]
        out = net.eval()(given)
        choices[text] = out["attention"].flatten(2, 3).std(2).max()                   # over the pixels
        told = {}
        net.interaction[0]["infrared"].attend.register_forward_hook(lambda m, i, o, told=told: told.update(out=o[0]))
        net(given)
        spread = (told["out"] - told["out"][:, :1]).abs().max()
        assert (spread == 0) == (text == "single"), "one token is one vector for all pixels"
    assert choices["single"] == 0 and choices["tokens"] > 0.001


def test_a_tile_that_knows_the_scene_equals_the_crop_of_the_whole():
    net, given = moved(), batch(n=1, height=256, width=320)
    given["visible"] = given["visible"] * torch.linspace(0, 1, 320) ** 4              # the tile is no fair sample
    whole = net(given)
    rows, columns = slice(64, 224), slice(96, 256)
    tile = given | {kind: given[kind][..., rows, columns] for kind in ("visible", "infrared")}
    inner = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    expected = whole["fused"][..., rows, columns][inner]
    same(net(tile, scene=whole["scene"])["fused"][inner], expected, 1e-4)
    same(net(tile, scene=whole["scene"])["fused"][inner], expected, 1e-4)             # a scene is read many times
    assert (net(tile)["fused"][inner] - expected).abs().max() > 1e-3, "without it the tile is another picture"


def test_a_scene_computes_once_and_reads_back_in_order():
    scene = Scene()
    assert [scene(lambda k=k: k) for k in (1, 2)] == [1, 2]
    again = scene.again()
    assert [again(lambda: 9), again(lambda: 9)] == [1, 2]
    assert scene.again()(lambda: 9) == 1


def test_after_three_steps_gradient_reaches_every_parameter():
    """The output layers that start at zero open one after the other."""
    net = network()
    for unit in (module for module in net.modules() if isinstance(module, DualAttention)):
        unit.channel[0].bias.data.fill_(1.0)                                          # no unit below its kink
    steps(net, 4, rate=0.002)
    assert not {name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()}


def test_two_networks_of_one_seed_train_to_equal_numbers():
    first, second = (steps(network(), 3)[1] for _ in range(2))
    assert first == second and first[2] < first[0]


def test_fit_text_takes_the_scale_of_the_words_that_exist():
    given = batch(n=6, words=7)
    given["text"] = 3 * given["text"] + 2
    given["text_mask"][:, 4:] = False
    given["text"][:, 4:] = 1e6
    net = network()
    assert net.fit_text(given) is net
    found = given["text"][:, :4].flatten(0, 1)
    same(net.words.centre, found.mean(0), 1e-5)
    same(net.words.spread, found.std(0), 1e-5)
    assert {"words.centre", "words.spread"} <= set(net.state_dict()), "kept with the weights"
    assert network(text="none").fit_text(given).words is None


def test_a_channel_that_never_changes_does_not_divide_by_zero():
    given = batch()
    given["text"][..., 0] = 4.0
    assert moved().fit_text(given)(given)["fused"].isfinite().all()


@pytest.mark.parametrize(("change", "words"), [
    (dict(text="token"), "one of tokens, single, none, got 'token'"),
    (dict(residual=1.5), r"residual must lie in \[0, 1\], got 1.5"),
    (dict(residual=-0.1), r"residual must lie in \[0, 1\], got -0.1"),
])
def test_shapes_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        Shape(**change)


def test_a_shape_from_a_file_equals_the_one_written():
    assert Shape(channels=[24, 48, 64]) == Shape()
