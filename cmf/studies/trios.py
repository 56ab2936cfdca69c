"""Both modalities and each alone: three networks of each method with the test sets of a dial's settings.

SA-CMF's trio is trained anew, on few targets, at each setting: a calibrated sensor is of no use to a network that has
learnt not to trust it. The other networks stay, and only what they are shown changes: other onlookers' captions for
CMAF, streets by other light and weather for CMI-Fusion and CMFS, of a kind that training had too. CMI-Fusion's "alone"
is a source, copied.

Axes: n targets, clips or pictures.
"""

from dataclasses import replace

import torch
from torch import nn

from cmf import runs, sources
from cmf.datasets import segmentation
from cmf.simulate import deepspace as bodies
from cmf.simulate import street, surveillance
from cmf.studies import anomaly, deepspace, fusing, segmenting
from cmf.studies.anomaly import Footage
from cmf.studies.footage import Encoders, told
from cmf.training import Tensors

WORLD, SEED = 1, 1                                       # of the data, of the networks
TARGETS = dict(train=1000, validation=300, test=1000)
SCENES = 24                                              # pictures of a setting
ALONE = {"SA-CMF": ("image only", "sequence only"), "CMAF": ("visual only", "text only"),
         "CMI-Fusion": ("visible", "infrared"), "CMFS": ("visible only", "infrared only")}
MODALITIES = {"SA-CMF": ("image", "sequence"), "CMAF": ("vision", "words"),
              "CMI-Fusion": ("visible", "infrared"), "CMFS": ("visible", "infrared")}


def targets(redundancy: float = 0.0, sequence_noise: float = 5.0) -> dict[str, Tensors]:
    """Features of simulated targets of the three splits; the dials change the sequences, the frames are the same."""
    base = deepspace.features(deepspace.simulated(**TARGETS, seed=WORLD))[0]
    dials = bodies.Dials(redundancy=redundancy, sequence_noise=sequence_noise)
    if dials == bodies.Dials():
        return base
    turned = deepspace.simulated(**TARGETS, seed=WORLD, dials=dials)
    new = {split: {name: torch.as_tensor(x, dtype=torch.float32)
                   for name, x in deepspace.sequence_features(some).items()} for split, some in turned.items()}
    return {split: Tensors(**base[split].columns | new[split]) for split in base}


def sacmf(sets: dict[str, Tensors]) -> dict[str, nn.Module]:
    """SA-CMF and either modality alone, trained on these features; the image's on the first ones, as it sees no more.
    """
    first, second = ALONE["SA-CMF"]
    return {"SA-CMF": deepspace.trained("SA-CMF", sets, SEED)[0],
            first: deepspace.trained(first, targets(), SEED)[0], second: deepspace.trained(second, sets, SEED)[0]}


def clips(missed: float = 0.2, overlap: float = 0.0) -> Footage:
    """Simulated test clips; the dials change what their captions tell, the pictures are the same."""
    test, dials = _footage()["test"], surveillance.Dials(missed=missed, overlap=overlap)
    if dials == surveillance.Dials():
        return test
    return test.with_text([told(replace(clip, dials=dials)) for clip in test.clips], Encoders())


def _footage() -> dict[str, Footage]:
    return anomaly.footage(**anomaly.CLIPS, seed=WORLD, encoders=Encoders())


def cmaf() -> dict[str, nn.Module]:
    """CMAF and either modality alone, trained on clips at the usual dials."""
    sets = _footage()
    return {arm: anomaly.trained(arm, sets, SEED)[0] for arm in ("CMAF", *ALONE["CMAF"])}


def scenes(light: str | None = None, weather: str | None = None, n: int = SCENES) -> dict[str, torch.Tensor]:
    """The first n test streets, all by one light (day, dusk, night) and in one weather (clear, rain, fog), or mixed.

    visible uint8 (n, 3, H, W), infrared (n, 1, H, W), label (n, H, W). Those of `segmenting` when mixed.

    Raises:
        ValueError: no such light or weather, from the simulator's names.
    """
    if (light, weather) != (None, None) and (light not in street.LIGHTS or weather not in street.WEATHERS):
        raise ValueError(f"light {light!r} and weather {weather!r}: expected one of {', '.join(street.LIGHTS)} and one "
                         f"of {', '.join(street.WEATHERS)}")
    usual = street.Dials(crowd=segmenting.CROWD)
    dials = usual if light is None else replace(usual, day=float(light == "day"), dusk=float(light == "dusk"),
                                                rain=float(weather == "rain"), fog=float(weather == "fog"))

    def compute() -> dict:
        made = segmentation.street(n, "test", WORLD, segmenting.SIZE, dials)
        return segmentation.columns(*(made[k] for k in ("visible", "infrared", "label")))

    return runs.cached("street_setting", compute, code=[segmentation.street],
                       parameters=dict(n=n, light=light, weather=weather, crowd=segmenting.CROWD, world=WORLD))


def fuser() -> fusing.Fuser:
    """CMI-Fusion with its ready weights, on the CPU."""
    runs.used("CMI-Fusion", sources.sha256(fusing.TRAINED))
    return fusing.Fuser.load(device="cpu")


def cmfs() -> dict[str, nn.Module]:
    """CMFS and either camera alone, of the arms' first seed."""
    some = segmenting.sets(seed=WORLD)
    return {arm: segmenting.trained(arm, some, SEED)[0] for arm in ("CMFS", *ALONE["CMFS"])}
