"""A tiny text encoder that knows the words of prompts, generated pairs with warm bodies, and sentences."""

import numpy as np
import small_fusion as small
import small_transformers as tiny
import torch

from cmf.encoders import vocabulary
from cmf.encoders.clip import CLIP
from cmf.simulate import prompts
from cmf.studies.asked import Pictures

SIDE = 48
CAPTIONS = ["a car in the street", "two people walk"]


def encoder(folder):
    """It reads sentences of random letters to their end."""
    import transformers as tf

    known = vocabulary.wrap(vocabulary.build(vocabulary.words([" ".join(prompts.words()), *CAPTIONS])))
    config = tiny.config(CLIP)
    config.text_config.max_position_embeddings, config.text_config.vocab_size = 80, len(known)
    torch.manual_seed(0)
    path = CLIP.save(folder / "clip.safetensors", tf.CLIPModel(config).eval(), known, tiny.PICTURE)
    return CLIP(path, device="cpu", precision="float32")


def pictures(n=3, height=56, width=64):
    """n generated pairs; what is bright in the infrared is warm."""
    visible, infrared = zip(*(small.pair(height, width, seed) for seed in range(n)), strict=True)
    return Pictures([v[..., 1] for v in visible], list(infrared), [np.uint8(255) * (u > 150) for u in infrared],
                    list(CAPTIONS))
