"""A short film, tiny encoders and an untrained CMAF for them."""

import numpy as np
import small_transformers as small
import torch

from cmf.datasets.video import write_video
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT
from cmf.methods.cmaf import CMAF, Config
from cmf.studies import watching
from cmf.studies.footage import Encoders
from cmf.studies.watching import Watcher


def film(path, frames=120, fps=10, size=(64, 96)):
    """A square that moves to the right over noise."""
    ground = np.random.default_rng(0).integers(0, 120, (*size, 3)).astype(np.uint8)

    def picture(k):
        frame = ground.copy()
        frame[20:36, k % 80:k % 80 + 14] = 255
        return frame

    return write_video(path, (picture(k) for k in range(frames)), fps)


def detector(encoders, seed=0, threshold=0.5):
    torch.manual_seed(seed)
    network = CMAF(Config(visual=44, text=16, motion=len(watching.motion_names()), width=16, heads=2, dropout=0.0))
    torch.nn.init.normal_(network.gamma, std=0.3)
    return Watcher.of(network, encoders, threshold)


def tiny(folder):
    """Untrained encoders of a few channels, as files in `folder`."""
    return Encoders(*(str(small.write(folder, kind)) for kind in (CLIP, DistilBERT, BLIP)))
