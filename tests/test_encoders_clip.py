"""CLIP: shapes, independence of the batch, pooling, zero-shot."""

import numpy as np
import pytest
import small_transformers as small
import torch

from cmf.encoders.clip import CLIP

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)
TEXTS = ["a person", "two red cars on a wet street at night", "a zebra"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return CLIP(small.write(tmp_path_factory.mktemp("clip"), CLIP), precision="float32", device="cpu", batch=2)


def test_pictures(clip):
    out = clip.images(PICTURES)
    assert out.tokens.shape == (5, 17, 16) and out.pooled.shape == (5, 12)
    assert torch.allclose(out.pooled.norm(dim=-1), torch.ones(5), atol=1e-6)
    assert out.mask.all() and out.special.sum(1).eq(1).all() and out.ordinary[:, 1:].all()
    alone = clip.images([PICTURES[3]])
    assert torch.allclose(out.tokens[3:4], alone.tokens, atol=1e-5)
    assert torch.allclose(out.pooled[3:4], alone.pooled, atol=1e-6)


def test_texts_do_not_depend_on_padding(clip):
    out = clip.texts(TEXTS)
    assert out.pooled.shape == (3, 12) and torch.allclose(out.pooled.norm(dim=-1), torch.ones(3), atol=1e-6)
    for k, text in enumerate(TEXTS):
        alone = clip.texts([text])
        length = alone.ids.shape[1]
        assert torch.allclose(out.tokens[k, :length], alone.tokens[0], atol=1e-5)
        assert torch.allclose(out.pooled[k], alone.pooled[0], atol=1e-6)
        assert not out.mask[k, length:].any() and not out.tokens[k, length:].any()
    assert clip.strings(out)[0] == ["[CLS]", "a", "person", "[SEP]"]
    assert out.ordinary.sum(1).tolist() == [2, 9, 6]


def test_agrees_with_transformers(clip):
    made = small.model(CLIP).half().float()
    ids = clip.texts(["a wet street"]).ids
    from cmf.encoders.frozen import pixels

    x = pixels(PICTURES, 32)
    out = made(input_ids=ids, pixel_values=x)
    assert torch.allclose(out.image_embeds, clip.images(PICTURES).pooled, atol=1e-5)
    assert torch.allclose(out.text_embeds, clip.texts(["a wet street"]).pooled, atol=1e-5)
    expected = (out.logits_per_image @ torch.ones(1, 1)).flatten()
    cosine = clip.images(PICTURES).pooled @ clip.texts(["a wet street"]).pooled.T
    assert torch.allclose(expected, (cosine * made.logit_scale.exp()).flatten(), atol=1e-4)


def test_zero_shot_shares_sum_to_one(clip):
    share = clip.probabilities(PICTURES, TEXTS)
    assert share.shape == (5, 3) and torch.allclose(share.sum(1), torch.ones(5), atol=1e-6)
    assert share.std(1).max() > 0


def test_long_texts_are_cut_with_a_warning(clip):
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 24 tokens"):
        out = clip.texts(["a person", "a red car " * 20])
    assert out.ids.shape[1] == 24 and out.ids[1, -1] == clip.tokenizer.sep_token_id


@pytest.mark.parametrize("wrong", ("a person", [], [3]))
def test_other_texts_are_refused(clip, wrong):
    with pytest.raises(ValueError, match="expected a list of strings"):
        clip.texts(wrong)
