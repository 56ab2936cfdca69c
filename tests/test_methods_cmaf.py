"""CMAF: the properties that the corrected method claims, and the published arithmetic's lack of them."""

from dataclasses import replace

import pytest
import torch

from cmf.methods.cmaf import (
    CMAF,
    Config,
    PublishedBaseline,
    PublishedCMAF,
    criterion,
    first_caption,
    mean_frame,
    published_criterion,
    time_features,
)

CONFIG = Config(visual=6, text=5, motion=2, width=16, heads=2)
TEXT = ("text", "text_mask", "text_time", "text_caption")


def batch(videos=3, segments=8, captions=4, words=3, seed=0):
    """Random videos with captions at even times, all of them complete."""
    draw = torch.Generator().manual_seed(seed)
    caption = torch.arange(captions).repeat_interleave(words).expand(videos, -1)
    tokens = captions * words
    return dict(
        visual=torch.randn(videos, segments, 6, generator=draw), motion=torch.randn(videos, segments, 2, generator=draw),
        segments=torch.ones(videos, segments, dtype=torch.bool),
        text=torch.randn(videos, tokens, 5, generator=draw), text_mask=torch.ones(videos, tokens, dtype=torch.bool),
        text_time=(caption + 0.5) / captions, text_caption=caption.clone(),
        labels=torch.arange(videos).remainder(2).float(), frame_labels=torch.rand(videos, segments, generator=draw))


def model(seed=0, gamma=1.0, **change):
    """A network in eval mode whose residual is open, as after training."""
    torch.manual_seed(seed)
    built = CMAF(replace(CONFIG, **change)).eval()
    built.gamma.data.fill_(gamma)
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
