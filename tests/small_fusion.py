"""A small untrained CMIFusion that reads words, and a generated pair of pictures."""

import cv2
import numpy as np
import small_transformers as small
import torch

from cmf import weights
from cmf.encoders.clip import CLIP
from cmf.methods.cmi_fusion import CMIFusion, Shape
from cmf.studies.fusing import Fuser

SHAPE = Shape(text_width=16, channels=(8, 8, 8), full=8, width=8, heads=2)


def network(seed=0):
    """Untrained, but with every part at work: nothing starts at zero."""
    torch.manual_seed(seed)
    net = CMIFusion(SHAPE)
    for name, value in net.named_parameters():
        if name.startswith("head.4") or ".out." in name or ".film." in name:
            torch.nn.init.normal_(value, std=0.3)
    return net.eval()


def encoder(folder):
    return CLIP(small.write(folder, CLIP), device="cpu", precision="float32")


def fuser(folder, net=None):
    return Fuser(net or network(), encoder(folder), "cpu")


def trained(folder):
    """A weights file of the network above, and its text encoder."""
    read = encoder(folder)
    return weights.save(folder / "w.safetensors", network(), SHAPE, text_encoder=read.fingerprint()), read


def pair(height=96, width=128, seed=0):
    """Colours (H, W, 3) uint8 with texture, and heat (H, W) uint8 with two warm bodies."""
    rng = np.random.default_rng(seed)
    rough = rng.uniform(0, 1, (max(2, height // 12), max(2, width // 12), 3)).astype(np.float32)
    colours = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC) * 120 + 60
    colours = colours + rng.normal(0, 6, (height, width, 3))
    heat = np.full((height, width), 60.0) + rng.normal(0, 4, (height, width))
    for top, left in ((0.2, 0.3), (0.5, 0.7)):
        heat[int(top * height):int((top + 0.3) * height) + 1, int(left * width):int((left + 0.1) * width) + 1] = 230
    return (np.rint(x).clip(0, 255).astype(np.uint8) for x in (colours, heat))
