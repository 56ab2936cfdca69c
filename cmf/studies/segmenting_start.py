"""Where the encoders of CMFS `small` start: a VMamba that learned to label single pictures, visible or infrared.

The published encoders start from ImageNet. Here one encoder saw windows of simulated street scenes of a world of its
own, each window once as its visible and once as its infrared picture; both streams of every arm start from it.
"""

from pathlib import Path

import torch

from cmf import weights
from cmf.blocks.vmamba import VMamba, load
from cmf.methods.cmfs import CMFS

START = Path(__file__).resolve().parents[1] / "trained" / "vmamba_small.safetensors"
WINDOWS, EPOCHS = 2400, 2       # of scenes, each as two single pictures; passes over them


def single(columns: dict) -> dict:
    """Columns of pairs, visible (n, 3, H, W), infrared (n, 1, H, W), label (n, H, W), as 2 n single pictures: the
    visible ones, then the infrared ones in three equal channels, both under "visible"."""
    visible, infrared, label = (columns[name] for name in ("visible", "infrared", "label"))
    return dict(visible=torch.cat([visible, infrared.expand(-1, 3, -1, -1)]), infrared=torch.cat([infrared] * 2),
                label=torch.cat([label] * 2))


def fits(network: CMFS, path: Path = START) -> bool:
    """Whether the encoders of `network` have the widths and depths of those in the file."""
    shape = weights.facts(path)["config"]
    return all(tuple(shape.get(name, ())) == getattr(network.config, name) for name in ("widths", "depths"))


def begin(network: CMFS, path: Path = START) -> CMFS:
    """Fill the encoders of `network`, in place.

    An encoder of four channels takes the sum of the kernels of three for its last one, all halved, so that equal
    pictures give what they gave; one without scans leaves their parameters out.

    Raises:
        FileNotFoundError: no file. ValueError: no encoder's weights, or of another size.
    """
    stated = weights.facts(path)
    if stated["architecture"] != VMamba.__name__:
        raise ValueError(f"{path} holds weights of {stated['architecture']}, expected {VMamba.__name__}; give an "
                         "encoder's")
    state = weights.load(path, VMamba(**stated["config"])).state_dict()
    for encoder in network.encoders:
        own, first = encoder.state_dict(), "patch_embed.0.weight"
        fitting = {name: value for name, value in state.items() if network.config.scan or name in own}
        if own[first].shape[1] == 4:
            three = fitting[first]
            fitting[first] = torch.cat([three, three.sum(1, True)], 1) / 2
        load(encoder, fitting)
    return network
