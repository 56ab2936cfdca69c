"""CMAF: the properties that the corrected method claims."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cmf.methods.cmaf import CMAF, Config, criterion, time_features
from cmf.training import Recipe, Tensors, fit

CONFIG = Config(visual=6, text=5, motion=2, width=16, heads=2)
TEXT = ("text", "text_mask", "text_time", "text_caption")


def batch(videos=3, segments=8, captions=4, words=3, seed=0):
    """Random videos with captions at even times, all of them complete."""
    draw = torch.Generator().manual_seed(seed)
    caption = torch.arange(captions).repeat_interleave(words).expand(videos, -1)
    tokens = captions * words
    return dict(
        visual=torch.randn(videos, segments, 6, generator=draw),
        motion=torch.randn(videos, segments, 2, generator=draw),
        segments=torch.ones(videos, segments, dtype=torch.bool),
        text=torch.randn(videos, tokens, 5, generator=draw), text_mask=torch.ones(videos, tokens, dtype=torch.bool),
        text_time=(caption + 0.5) / captions, text_caption=caption.clone(),
        labels=torch.arange(videos).remainder(2).float(), frame_labels=torch.rand(videos, segments, generator=draw))


def model(seed=0, gamma=1.0, **change):
    """A network in eval mode whose residual is open, as after training."""
    torch.manual_seed(seed)
    built = CMAF(replace(CONFIG, **change)).eval()
    built.gamma.data.fill_(gamma / 10)
    if built.back is not None:
        torch.nn.init.eye_(built.back.out.weight)
    return built


def same(a, b, names=("logits",)):
    for name in names:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5)


def test_untrained_network_is_its_own_visual_baseline():
    texts = model(gamma=0.0)
    visual = CMAF(replace(CONFIG, use="none")).eval()
    left = visual.load_state_dict(texts.state_dict(), strict=False)
    assert not left.missing_keys and all(k.split(".")[0] in "scale embed null kind back log_temperature"
                                         for k in left.unexpected_keys)
    same(texts(batch()), visual(batch()))
    assert (model()(batch())["logits"] - visual(batch())["logits"]).abs().max() > 1e-3


def test_shapes_attention_and_gate():
    out = model()(batch())
    assert out["logits"].shape == out["gate"].shape == (3, 8)
    assert out["attention"].shape == (3, 2, 8, 12) and out["back"].shape == (3, 2, 12, 8)
    assert out["video"].shape == out["words"].shape == (3, 16) and out["context"].shape == (3, 8, 16)
    for name in ("attention", "back"):
        torch.testing.assert_close(out[name].sum(-1), torch.ones(out[name].shape[:3]))
    assert (out["gate"] > 0).all() and (out["gate"] < 1).all()


def test_order_of_words_does_not_matter_but_their_time_and_video_do():
    some, net = batch(), model()
    before = net(some)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    permuted = net(some | {name: some[name][:, order] for name in TEXT})
    same(permuted, before, ("logits", "context", "words"))
    torch.testing.assert_close(permuted["attention"], before["attention"][..., order], rtol=0, atol=1e-6)
    in_time = net(some | dict(text_time=some["text_time"].flip(1)))
    between = net(some | {name: some[name].roll(1, 0) for name in TEXT})
    for other in (in_time, between):
        assert (other["logits"] - before["logits"]).abs().max() > 1e-3


def test_padded_words_get_no_weight_and_change_nothing():
    some, net = batch(), model()
    before = net(some)
    junk = dict(text=torch.full((3, 4, 5), torch.nan), text_mask=torch.zeros(3, 4, dtype=torch.bool),
                text_time=torch.full((3, 4), -7.0), text_caption=torch.zeros(3, 4, dtype=torch.long))
    after = net(some | {name: torch.cat([some[name], junk[name]], 1) for name in TEXT})
    assert (after["attention"][..., 12:] == 0).all()
    same(after, before, ("logits", "context", "words", "gate"))
    torch.testing.assert_close(after["attention"][..., :12], before["attention"])


def test_padded_segments_change_nothing_and_score_nothing():
    some, net = batch(), model()
    before = net(some)
    longer = some | dict(segments=torch.cat([some["segments"], torch.zeros(3, 5, dtype=torch.bool)], 1),
                         visual=torch.cat([some["visual"], torch.full((3, 5, 6), torch.nan)], 1),
                         motion=torch.cat([some["motion"], torch.full((3, 5, 2), 9.0)], 1),
                         frame_labels=torch.cat([some["frame_labels"], torch.ones(3, 5)], 1))
    after = net(longer)
    torch.testing.assert_close(after["logits"][:, :8], before["logits"], rtol=0, atol=1e-5)
    assert (after["logits"][:, 8:].sigmoid() < 1e-8).all() and (after["back"][..., 8:] == 0).all()
    same(after, before, ("video", "words"))
    loss = criterion(frames=0.5)
    mine, padded = loss(before, some), loss(after, longer)
    for name in mine:
        torch.testing.assert_close(padded[name], mine[name])


def test_a_video_does_not_depend_on_its_batch():
    some, net = batch(4), model()
    some["text_mask"][1] = False
    whole = net(some)
    for i in range(4):
        alone = net({name: x[i : i + 1] for name, x in some.items()})
        for name in ("logits", "gate", "attention", "video", "words", "context"):
            torch.testing.assert_close(alone[name], whole[name][i : i + 1], rtol=0, atol=1e-5)


def test_queries_have_a_gradient_and_all_gradients_are_finite():
    some, net = batch(4), model().train()
    some["text_mask"][1] = False
    timed, keys = torch.randn(2, 8, 16, requires_grad=True), torch.randn(2, 12, 16)
    mixed, _ = net.read(timed, keys, torch.ones(2, 12, dtype=torch.bool), torch.rand(2, 8, 12))
    assert torch.autograd.grad(mixed.square().sum(), timed)[0].abs().max() > 1e-4
    criterion(frames=0.5)(net(some), some)["loss"].backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


@pytest.mark.parametrize("use", ["v_from_x", "bidirectional"])
def test_videos_without_text(use):
    some, net = batch(), model(use=use)
    some["text_mask"][1] = False
    out = net(some)
    assert out["has_text"].tolist() == [True, False, True]
    torch.testing.assert_close(out["attention"][1, :, :, 0], torch.ones(2, 8))
    bare = net({name: x for name, x in some.items() if not name.startswith("text")})
    none = net(some | {name: some[name][:, :0] for name in TEXT})
    same(bare, none)
    torch.testing.assert_close(bare["logits"][1], out["logits"][1])
    assert not bare["has_text"].any()


def test_with_its_own_network_vision_answers_alone_and_text_adds():
    net, some = model(gamma=0.0, own=True), batch()
    out = net(some)
    assert out["verbal_logits"].std() < 1e-5, "untrained, the words add a constant"
    for part in (net, net.sight):
        part.gamma.data.fill_(0.1)
    out = net(some)
    torch.testing.assert_close(out["logits"], out["visual_logits"] + out["verbal_logits"])
    said = net(some | dict(text=torch.randn(3, 12, 5)))
    assert torch.equal(said["visual_logits"], out["visual_logits"])
    assert (said["verbal_logits"] - out["verbal_logits"]).abs().max() > 1e-3
    torch.testing.assert_close(out["visual_logits"], net.sight(some)["logits"])
    out["logits"].sum().backward()
    assert all(p.grad is None for p in net.sight.parameters()), "the sum does not train the network of vision"
    some["segments"][0, 5:] = False
    assert (net(some)["logits"][0, 5:].sigmoid() < 1e-8).all()
    criterion(frames=0.5)(net.train()(some), some)["loss"].backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


def test_trust_in_vision_is_the_best_of_a_few_and_no_parameter():
    net, some = model(own=True), batch()
    for part in (net, net.sight):
        part.gamma.data.fill_(0.1)
    out = net(some)
    wish = (out["verbal_logits"] + 0.25 * out["visual_logits"]).detach()
    out = {name: x.detach() for name, x in out.items()}
    assert net.choose_trust(out, lambda logits: -float((logits - wish).abs().max())) == 0 and net.trust == 0.25
    torch.testing.assert_close(net(some)["logits"], wish)
    assert net.choose_trust(out, lambda logits: 0.5) == 0.5 and net.trust == 1, "of equal ones the larger"
    assert "trust" in net.state_dict() and "trust" not in dict(net.named_parameters())
    plain = model()
    assert plain.choose_trust(plain(some), lambda logits: float(logits.mean())) == float(plain(some)["logits"].mean())


def test_each_answer_is_asked_the_same():
    torch.manual_seed(0)
    net, some = CMAF(replace(CONFIG, own=True)).eval(), batch()
    terms = criterion(instances=0.5, frames=2.0, alignment=0, diversity=0, smooth=0, sparse=0)(net(some), some)
    names = [f"{who}{what}" for who in ("", "visual_", "verbal_") for what in ("instances", "frames")]
    assert set(names) < set(terms)
    weigh = dict(instances=0.5, frames=2.0)
    torch.testing.assert_close(terms["loss"], sum(weigh[name.split("_")[-1]] * terms[name] for name in names))


def test_text_dropout_takes_the_text_of_the_stated_share():
    torch.manual_seed(0)
    net = CMAF(replace(CONFIG, text_dropout=0.5)).train()
    assert 0.4 < net(batch(400))["has_text"].float().mean() < 0.6
    assert net.eval()(batch(400))["has_text"].all()


def test_arms_read_only_what_they_may():
    some = batch()
    seen, said = some | dict(visual=torch.randn(3, 8, 6)), some | dict(text=torch.randn(3, 12, 5))
    visual, text = model(use="none"), model(vision=False)
    same(visual(some), visual(said))
    same(text(some), text(seen))
    assert "attention" not in visual(some) and (text(some)["logits"] - text(said)["logits"]).abs().max() > 1e-3
    for fusion in ("sum", "concat", "none"):
        out = model(fusion=fusion)(some)
        assert "gate" not in out and torch.isfinite(criterion()(out, some)["loss"])
    assert "back" not in model(use="v_from_x")(some)


def test_fresh_attention_prefers_words_near_in_time():
    some = batch(videos=64, segments=8, captions=8, words=2)
    mean = model()(some)["attention"].mean((0, 1)).unflatten(-1, (8, 2)).sum(-1)                   # (T, K)
    assert (mean.argmax(1) == torch.arange(8)).all() and (mean.diagonal() > 0.2).all()
    flat = model(nearness=0.0)(some)["attention"].mean((0, 1)).unflatten(-1, (8, 2)).sum(-1)
    assert (mean.diagonal() > flat.diagonal() + 0.05).all()
    features = time_features(torch.tensor([0.5, 0.51, 0.7]), 32)
    assert features[0] @ features[1] > features[0] @ features[2]


@pytest.mark.parametrize(("change", "words"), [
    (dict(visual=0), "visual must be at least 1, got 0"),
    (dict(motion=-1), "motion must be at least 0, got -1"),
    (dict(width=18, heads=4), "even and a multiple of 4 heads, got 18"),
    (dict(dropout=1.0), r"dropout is a share in \[0, 1\), got 1.0"),
    (dict(nearness=-1.0), "nearness must be at least 0, got -1.0"),
    (dict(use="x_from_v"), "one of none, v_from_x, bidirectional, got 'x_from_v'"),
    (dict(fusion="product"), "one of gate, sum, concat, none, got 'product'"),
    (dict(vision=False, use="none"), "without vision and without text nothing is left"),
    (dict(own=True, use="none"), "own gives vision a network beside that of the words"),
    (dict(window=4), "odd number of segments, got 4"),
])
def test_configurations_that_make_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **change)


@pytest.mark.parametrize(("change", "words"), [
    (dict(visual=None), r"the batch has no visual, only .*; give it as \(B, N, 6\)"),
    (dict(visual=torch.ones(3, 8, 7)), r"visual must be \(B, N, 6\), got \(3, 8, 7\); another encoder"),
    (dict(motion=torch.ones(3, 7, 2)), r"motion must cover \(3, 8\), got \(3, 7\)"),
    (dict(segments=torch.ones(3, 9, dtype=torch.bool)), r"segments must cover \(3, 8\), got \(3, 9\)"),
    (dict(segments=torch.arange(8).expand(3, 8) < 1), r"video 0 of the batch has 1 segment\(s\).*cut the clip"),
    (dict(text=torch.ones(3, 12)), r"text must be \(B, N, 5\), got \(3, 12\)"),
    (dict(text=torch.ones(2, 12, 5)), "text of 2 videos beside 3 videos"),
    (dict(text_mask=None), r"text comes without text_mask; give it with shape \(3, 12\)"),
    (dict(text_mask=torch.arange(12).expand(3, 12) < 1), r"video 0 of the batch has 1 text token\(s\).*whole caption"),
    (dict(text_time=torch.full((3, 12), 9.5)), r"share of the clip in \[0, 1\], got 9.5 to 9.5; divide seconds"),
])
def test_batches_that_make_no_sense(change, words):
    some = {name: x for name, x in (batch() | change).items() if x is not None}
    with pytest.raises(ValueError, match=words):
        model()(some)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def toy(videos, seed, in_time=True, segments=12, words=4, channels=16):
    """Half of the videos hold one anomaly, of 2 or 4 segments, of one of three kinds: a sight; a word; a sight and
    a word that are both common in normal life, but never together. A caption covers two segments.
    Returns the columns and the kind of each video, 0 for none. Without `in_time` captions are shuffled in time."""
    fixed, draw = np.random.default_rng(0), np.random.default_rng(seed)
    scenes, vocabulary = unit(fixed.normal(size=(6, channels))), unit(fixed.normal(size=(12, channels)))
    strange, common = unit(fixed.normal(size=(2, channels)))
    captions, kinds = segments // 2, draw.integers(1, 4, videos) * draw.integers(0, 2, videos)
    start, length = draw.integers(0, captions - 1, videos)[:, None], draw.integers(1, 3, videos)[:, None]
    place = np.arange(captions)
    event = (kinds[:, None] > 0) & (place >= start) & (place < start + length)                    # (B, K)
    seen, said = draw.random((2, videos, captions)) < 0.25
    joint = event & (kinds[:, None] == 3)
    seen, said = seen | joint, said & ~seen | joint
    token = draw.integers(2, 12, (videos, captions, words))
    token[..., 1][said] = 1
    token[..., 2][event & (kinds[:, None] == 2)] = 0
    sight = seen[..., None] * common + (event & (kinds[:, None] == 1))[..., None] * strange
    visual = scenes[draw.integers(0, 6, videos)][:, None] + np.repeat(sight, 2, 1)
    visual = visual + 0.5 * unit(draw.normal(size=visual.shape))
    text = vocabulary[token] + 0.3 * unit(draw.normal(size=(*token.shape, channels)))
    if not in_time:
        text = np.take_along_axis(text, draw.random((videos, captions)).argsort(1)[..., None, None], 1)
    time = np.repeat((place + 0.5) / captions, words)
    as_float = lambda x: torch.from_numpy(np.asarray(x, dtype=np.float32))
    tokens = captions * words
    return Tensors(
        visual=as_float(visual), segments=torch.ones(videos, segments, dtype=torch.bool),
        text=as_float(text.reshape(videos, tokens, channels)), text_mask=torch.ones(videos, tokens, dtype=torch.bool),
        text_time=as_float(np.tile(time, (videos, 1))), labels=as_float(kinds > 0),
        frame_labels=as_float(np.repeat(event, 2, 1))), kinds


def learned(in_time=True, **change):
    """Train on video labels alone; frame AUC on new videos over all kinds, and for each kind beside normal life."""
    torch.manual_seed(0)
    train = toy(400, seed=1, in_time=in_time)[0]
    net = CMAF(Config(visual=16, text=16, width=32, heads=2, **change)).fit_inputs(train.columns)
    hidden = Tensors(**{name: x for name, x in train.columns.items() if name != "frame_labels"})
    fit(net, hidden, criterion(), Recipe(epochs=14, batch=16, lr=4e-3))
    test, kinds = toy(300, seed=2, in_time=in_time)
    with torch.no_grad():
        score = net(test.columns)["logits"].numpy()
    truth = test.columns["frame_labels"].numpy()
    auc = lambda rows: roc_auc_score(truth[rows].ravel(), score[rows].ravel())
    return auc(kinds >= 0), [auc((kinds == 0) | (kinds == kind)) for kind in (1, 2, 3)]


def test_text_aligned_in_time_is_learned_from_video_labels():
    auc, (sight, word, joint) = learned()
    assert auc > 0.95 and sight > 0.97 and word > 0.93 and joint > 0.95


@pytest.mark.parametrize("change", [dict(in_time=False), dict(use="none")])
def test_without_text_or_its_time_only_sights_are_learned(change):
    auc, (sight, word, _) = learned(**change)
    assert auc < 0.9 and sight > 0.95 and word < 0.8


def test_relative_segments_do_not_know_place_and_light():
    config = Config(visual=6, text=5, motion=3, width=16, heads=4, relative=True)
    torch.manual_seed(0)
    model = CMAF(config).eval()
    batch = dict(visual=torch.randn(2, 5, 6), motion=torch.randn(2, 5, 3),
                 segments=torch.tensor([[True] * 5, [True] * 4 + [False]]))
    shifted = batch | dict(visual=batch["visual"] + torch.randn(2, 1, 6))
    with torch.no_grad():
        torch.testing.assert_close(model(shifted)["logits"], model(batch)["logits"], atol=1e-4, rtol=1e-4)


def test_scale_of_vision_bounds_its_share():
    torch.manual_seed(0)
    batch = dict(visual=torch.randn(2, 5, 6), text=torch.randn(2, 4, 5), text_mask=torch.ones(2, 4, dtype=torch.bool),
                 text_time=torch.linspace(0, 1, 4).expand(2, 4))
    moved = []
    for scale in (1.0, 0.05):
        torch.manual_seed(1)
        model = CMAF(Config(visual=6, text=5, width=16, heads=4, vision=scale)).eval()
        torch.nn.init.ones_(model.gamma)
        with torch.no_grad():
            other = model(batch | dict(visual=batch["visual"].flip(0)))["logits"]
            moved.append((other - model(batch)["logits"]).abs().mean())
    assert 0 < moved[1] < 0.3 * moved[0]
