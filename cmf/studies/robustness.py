"""How trained arms fare on targets seen by a worse sensor, or without one modality.

Axes: n targets.
"""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from cmf import runs
from cmf.datasets.deepspace import from_simulator
from cmf.encoders.features import Projection
from cmf.metrics.recognition import macro_f1
from cmf.simulate.deepspace import CLASSES, Dials, simulate_targets
from cmf.studies import deepspace
from cmf.training import Tensors

DIALS = dict(psnr=(3, 8, 15, 30, 60), sequence_noise=(0, 5, 15, 40), missing=(0, 0.15, 0.4, 0.7))
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def seen(dials: Dials, projection: Projection, backbone: deepspace.Backbone, n: int, split: str = "test",
         seed: int = 1) -> Tensors:
    """Features of `n` targets of `split` under these dials, as SA-CMF takes them, with labels; cached.

    The dial `psnr` makes the same bodies brighter or fainter in counts. A sensor's exposure is known, so frames are
    brought to the photometric scale of the default dials around their median; what remains is the noise.
    """
    targets = from_simulator(simulate_targets(n, split, seed, dials))
    level = np.median(targets.images, axis=(2, 3), keepdims=True)
    scaled = level + (targets.images - level) * (Dials().psnr / max(dials.psnr, 1e-3))
    targets = replace(targets, images=scaled.astype(np.float32))

    def compute() -> dict:
        columns = deepspace.image_features(targets, backbone.build(), projection)
        columns |= deepspace.sequence_features(targets)
        return {name: np.asarray(column, np.float32) for name, column in columns.items()}

    found = runs.cached("deepspace_dial", compute, inputs=dict(targets=targets.digest(), basis=projection.basis),
                        parameters=asdict(backbone))
    return Tensors(labels=torch.from_numpy(targets.labels), **{k: torch.as_tensor(v) for k, v in found.items()})


def score(model: nn.Module, table: Tensors, **presence: torch.Tensor) -> float:
    """Macro F1 of a model on a table."""
    predicted = deepspace.predict(model, table, **presence)["logits"].argmax(1).numpy()
    return macro_f1(table.columns["labels"].numpy(), predicted, len(CLASSES))


def sweep(models: dict[str, nn.Module], projection: Projection, dial: str, values, n: int = 300,
          backbone: deepspace.Backbone | None = None) -> pd.DataFrame:
    """Macro F1 of each model at each value of a dial of the simulator: columns dial, value, arm, macro_f1.

    Raises:
        TypeError: `Dials` has no such dial.
    """
    rows = []
    for value in runs.progress(list(values), f"dial {dial}"):
        table = seen(replace(Dials(), **{dial: value}), projection, backbone or deepspace.Backbone(), n)
        rows += [dict(dial=dial, value=value, arm=arm, macro_f1=score(model, table)) for arm, model in models.items()]
    return pd.DataFrame(rows)


def shares_missing(model: nn.Module, table: Tensors, shares, seed: int = 0) -> pd.DataFrame:
    """Macro F1 when a modality is withheld from a random share of the targets: columns missing, share, macro_f1."""
    draw = torch.rand(len(table), generator=torch.Generator().manual_seed(seed))
    return pd.DataFrame([dict(missing=name, share=share, macro_f1=score(model, table, **{f"has_{name}": draw >= share}))
                         for name in ("image", "sequence") for share in shares])
