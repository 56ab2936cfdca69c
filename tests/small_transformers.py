"""Tiny untrained models of the three classes, as files that the encoders read."""

import torch

from cmf.encoders import vocabulary
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT

WORDS = vocabulary.words(["a person walks past two red cars on a wet street at night"])
PICTURE = dict(side=32, fit="squeeze")


def tokenizer():
    return vocabulary.wrap(vocabulary.build(WORDS))


def config(kind, **changes):
    """Configuration of a tiny CLIP, BLIP or DistilBERT; `changes` go to both towers."""
    import transformers as tf

    size = len(tokenizer())
    numbers = dict(pad_token_id=vocabulary.PAD, bos_token_id=vocabulary.CLS, eos_token_id=vocabulary.SEP)
    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2) | changes
    vision = dict(image_size=32, patch_size=8, **tower)
    if kind is CLIP:
        return tf.CLIPConfig(vision_config=vision, projection_dim=12, text_config=dict(
            vocab_size=size, max_position_embeddings=24, **numbers, **tower))
    if kind is BLIP:
        return tf.BlipConfig(vision_config=dict(initializer_range=0.02, **vision), text_config=dict(
            vocab_size=size, max_position_embeddings=48, sep_token_id=vocabulary.SEP, **numbers, **tower))
    return tf.DistilBertConfig(vocab_size=size, max_position_embeddings=48, n_layers=2, n_heads=2, dim=16,
                               hidden_dim=32, pad_token_id=vocabulary.PAD, **changes)


def model(kind, seed=0, **changes):
    import transformers as tf

    torch.manual_seed(seed)
    return getattr(tf, kind.MODEL)(config(kind, **changes)).eval()


def write(folder, kind, seed=0, **changes):
    """A tiny model as `kind.save` writes it; the path of its file."""
    picture = None if kind is DistilBERT else PICTURE
    path = folder / f"{kind.__name__.lower()}.safetensors"
    return kind.save(path, model(kind, seed, **changes), tokenizer(), picture)


def publish(folder, kind, seed=0, **changes):
    """A tiny model as the hub has it: a folder with config.json, tokenizer files and model.safetensors."""
    model(kind, seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
