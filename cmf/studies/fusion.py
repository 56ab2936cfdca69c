"""CMI-Fusion: its loss, its arms, and their training.

Axes: B pictures, H, W rows and columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn import functional as F

from cmf import fusion_losses as terms
from cmf import runs, weights
from cmf.encoders.clip import CLIP
from cmf.methods.cmi_fusion import CMIFusion
from cmf.simulate.prompts import FAMILIES
from cmf.studies import asked
from cmf.studies.asked import Asked, Pictures, Texts
from cmf.studies.fusing import TRAINED
from cmf.training import Recipe, Result, fit

WEIGHTS = dict(intensity=1.0, gradient=5.5, similarity=0.5, information=1.6, difference=0.4, artefacts=8.0, beyond=4.0,
               asked=2.5, calm=8.0, repaired=6.0, range=2.0, understood=0.3)
RECIPE = Recipe(epochs=2, batch=8, lr=1e-3, weight_decay=0.01, warmup=0.05, clip=0.5)
START = TRAINED.with_name("cmi_fusion_start.safetensors")


@dataclass(frozen=True)
class Criterion:
    """The loss of CMI-Fusion: a weighted sum of terms, see `cmf.fusion_losses`; a weight of 0 leaves a term out.

    intensity: distance from the pixelwise maximum of the sources, outside what is asked for; gradient: from the longer
    gradient; similarity: 1 - SSIM; information: 1 - visual information fidelity, the mean over both sources;
    difference: 1 - half the sum of correlations of differences; artefacts: edges no source has; beyond: what is
    brighter or darker than the surroundings in both sources. These are of faultless pairs. asked: distance from the
    target of the sentence, inside warm things; calm: where nothing is asked for, distance from what the same network
    gives without a sentence; repaired: of a pair whose fault the sentence speaks of, distance from what it gives
    without a sentence of the pair without that fault; range: what lies outside [0, 1]; understood: cross-entropy of
    the family of the sentence.
    """

    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    network: torch.nn.Module | None = None       # that is trained; without it nothing is calm

    def __post_init__(self):
        unknown = set(self.weights) - set(WEIGHTS)
        if unknown:
            raise ValueError(f"no loss term {sorted(unknown)}; there are {', '.join(WEIGHTS)}")

    def __call__(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        whole, faulty = outputs["unclamped"], batch["faulty"]
        sources = (batch[name] for name in ("source_infrared", "source_visible", "warm"))
        f, a, b, warm = (x[~faulty] for x in (whole, *sources))                        # of faultless pairs
        still = self._still(outputs, batch)
        made = dict(
            intensity=lambda: terms.intensity(f, torch.maximum(a, b), 1 - warm),
            gradient=lambda: terms.gradient(f, a, b, 1 - warm),
            similarity=lambda: 1 - 0.5 * (terms.ssim(f, a) + terms.ssim(f, b)).mean(),
            information=lambda: 1 - 0.5 * (terms.visual_information(a, f) + terms.visual_information(b, f)).mean(),
            difference=lambda: 1 - 0.5 * terms.difference_correlation(f, a, b).mean(),
            artefacts=lambda: terms.artefacts(f, a, b),
            beyond=lambda: terms.beyond(f, a, b),
            asked=lambda: terms.intensity(f, batch["wanted"][~faulty], warm),
            calm=lambda: terms.intensity(f, still[~faulty], 1 - warm),
            repaired=lambda: terms.intensity(whole[faulty], still[faulty]),
            range=lambda: (whole - whole.clamp(0, 1)).abs().mean(),
            understood=lambda: F.cross_entropy(outputs["understood"], batch["family"]))
        left_out = {"understood"} if outputs.get("understood") is None else set()
        left_out |= {"calm", "repaired"} if still is None else set() if faulty.any() else {"repaired"}
        left_out |= set(made) - {"range", "understood", "repaired"} if faulty.all() else set()
        found = {name: made[name]() for name, weight in self.weights.items() if weight and name not in left_out}
        found |= {name: whole.new_zeros(()) for name in left_out & set(self.weights)}
        return dict(loss=sum(self.weights[name] * value for name, value in found.items())) | found

    @torch.no_grad()
    def _still(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor | None:
        """What the network gives of the faultless pairs without a sentence, (B, 1, h, w)."""
        if self.network is None or outputs.get("understood") is None:
            return None
        told = batch["text_mask"].any(1)                                               # (B,)
        still = outputs["unclamped"].detach().clone()
        if told.any():
            silent = {k: batch[k][told] for k in ("text", "pooled")}
            silent |= {k: batch[f"source_{k}"][told] for k in ("visible", "infrared")}
            silent["text_mask"] = torch.zeros_like(batch["text_mask"][told])
            still[told] = self.network(silent)["unclamped"]
        return still


def train(network, data: Asked, held: Asked, recipe: Recipe = RECIPE, criterion: Criterion | None = None,
          run=None, label: str = "CMI-Fusion") -> Result:
    """Train a network; the epoch of the least loss on `held` counts."""
    criterion = replace(criterion or Criterion(), network=network)
    network.fit_text(data.texts.all())
    return fit(network, data, criterion, recipe, score=judge(criterion, held), run=run, label=label)


def judge(criterion: Criterion, held: Asked) -> Callable[[torch.nn.Module], float]:
    """The score of a network: less the mean loss over batches of `held`."""
    batches = [held.__getitems__(list(range(k, min(k + 8, len(held))))) for k in range(0, len(held), 8)]

    @torch.no_grad()
    def score(model) -> float:
        device = next(model.parameters()).device
        here = (send_to_device(batch, device) for batch in batches)
        return -float(sum(criterion(model(batch), batch)["loss"] for batch in here)) / len(batches)

    return score


def learn_to_read(network, texts: Texts, rounds: int = 16, lr: float = 2e-3, seed: int = 0) -> float:
    """Teach the words of a network to tell the families apart, from the sentences alone; what asks for nothing is
    balanced. A tenth of the word pieces is left out at random. Returns the share of sentences it takes rightly."""
    keys = [(family, k) for family, found in texts.sentences.items() for k in range(len(found))]
    batch = texts.column(keys)
    truth = torch.tensor([FAMILIES.index(family) if family in FAMILIES else 0 for family, _ in keys])
    network.fit_text(batch)
    draw = torch.Generator().manual_seed(seed)
    taught = [*network.words.parameters(), *network.understood.parameters()]
    optimizer = torch.optim.AdamW(taught, lr, weight_decay=0.05)
    understood = lambda text, mask: network.understood(network.words(dict(text=text, text_mask=mask))[2])
    for k in runs.progress(range(rounds), "sentences"):
        optimizer.param_groups[0]["lr"] = 0.5 * lr * (1 + math.cos(math.pi * k / rounds))
        for some in torch.randperm(len(keys), generator=draw).split(64):
            long = int(batch["text_mask"][some].any(0).nonzero().max()) + 1
            left = torch.rand(len(some), long, generator=draw) > 0.1
            logits = understood(batch["text"][some, :long], batch["text_mask"][some, :long] & left)
            optimizer.zero_grad()
            F.cross_entropy(logits, truth[some], label_smoothing=0.02).backward()
            optimizer.step()
    with torch.no_grad():
        return float((understood(batch["text"], batch["text_mask"]).argmax(1) == truth).float().mean())


def teach(pictures: Pictures, held: Pictures, recipe: Recipe = RECIPE, rounds: int = 2, start: Path | None = START,
          read: bool = True, size: int = 128, looks: int = 1, run: Path | None = None, label: str = "CMI-Fusion"):
    """Train a network on crops of pairs with sentences.

    Args:
        pictures, held: to learn from, and to choose the epoch by. rounds: crops of each pair. size: their side.
        looks: crops of each pair of `held`, each with a sentence of its own.
        start: weights to begin with; None: an untrained network. read: learn the words first, see `learn_to_read`.
        run, label: as of `cmf.training.fit`.

    Returns the network, its text encoder, the `Result`, and the loss on `held` before the first step.

    Raises FileNotFoundError, ValueError: no weights to begin with, or of another shape, as `cmf.weights.load`.
    """
    encoder = CLIP("small", device="cpu", precision="float32")
    data = Asked(pictures, Texts(encoder, "train", pictures.captions), size, rounds, recipe.seed)
    other = Asked(held, Texts(encoder, "validation", held.captions, each=60), size, looks, recipe.seed + 1)
    runs.seed_everything(recipe.seed)
    network = CMIFusion()
    if start is not None:
        weights.load(start, network)
    if read:
        learn_to_read(network, data.texts, seed=recipe.seed)
    network.fit_text(data.texts.all())
    before = -judge(Criterion(network=network), other)(network.eval())
    return network, encoder, train(network, data, other, recipe, run=run, label=label), before


def ready(path: Path = TRAINED, simulated_pairs: int = 250, recipe: Recipe = RECIPE, rounds: int = 2,
          run: Path | None = None, start: Path | None = START) -> Result:
    """Train the network of `python -m cmf fuse` on simulated and real training pairs and write its weights.

    Args:
        path: of the weights. simulated_pairs: how many. rounds: crops of each pair. run: folder of checkpoints.
        start: weights to begin with, see its card; None: an untrained network.

    Raises:
        FileNotFoundError: real pairs are not here (what and where is said); nothing is trained without them.
        FileNotFoundError, ValueError: no weights to begin with, or of another shape, as `cmf.weights.load`.
    """
    train_set = asked.real() + asked.simulated(simulated_pairs, "train", recipe.seed)
    held_set = asked.real(("roadscene", "tno"), "validation") + asked.simulated(24, "validation", recipe.seed)
    network, encoder, result, _ = teach(train_set, held_set, recipe, rounds, start, run=run)
    weights.save(path, network, network.shape, text_encoder=encoder.fingerprint(), licence="MIT",
                 data=f"{len(train_set) - simulated_pairs} real pairs ({', '.join(asked.REAL)}) and {simulated_pairs} "
                      "simulated ones",
                 epoch=str(result.best_epoch), validation_loss=f"{-result.best_score:.4f}",
                 seconds=f"{result.seconds:.0f}")
    return result
