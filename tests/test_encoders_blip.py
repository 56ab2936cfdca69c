"""BLIP: captions alone and in a batch, greedy and with beams; patch tokens."""

import numpy as np
import pytest
import small_transformers as small
import torch

from cmf.encoders.blip import BLIP

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return BLIP(small.write(tmp_path_factory.mktemp("blip"), BLIP), precision="float32", device="cpu", batch=2)


def test_tokens(blip):
    out = blip.images(PICTURES)
    assert out.tokens.shape == (5, 17, 16) and torch.equal(out.pooled, out.tokens[:, 0])
    assert torch.allclose(out.tokens[4:], blip.images(PICTURES[4:]).tokens, atol=1e-5)
    assert out.ordinary.sum(1).tolist() == [16] * 5


@pytest.mark.parametrize("beams", (1, 3))
def test_captions_in_a_batch_and_alone(blip, beams):
    together = blip.captions(PICTURES, beams=beams, longest=12)
    assert together == [blip.captions([p], beams=beams, longest=12)[0] for p in PICTURES]
    assert together == blip.captions(PICTURES, beams=beams, longest=12)
    assert len(together) == 5 and not any("[" in text for text in together)


def test_greedy_takes_the_likeliest_token(blip):
    from cmf.encoders.frozen import pixels

    x = pixels(PICTURES[:1], 32)
    ids = torch.tensor([[blip.model.config.text_config.bos_token_id]])
    for _ in range(6):
        step = blip.model(pixel_values=x, input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, step], 1)
    slow = blip.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert blip.captions(PICTURES[:1], longest=6) == [" ".join(slow.split())]


def test_numbers_below_one_are_refused(blip):
    with pytest.raises(ValueError, match="beams and longest must be at least 1, got 0 and 40"):
        blip.captions(PICTURES, beams=0)
    with pytest.raises(ValueError, match=r"expected uint8 \(n, H, W, 3\)"):
        blip.captions(PICTURES[:0])
