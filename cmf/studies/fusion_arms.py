"""CMI-Fusion on simulated pairs: the arms, their training and judging, and the controls that show whether text is used.

All arms learn from the same crops with the same sentences and targets, and are judged on pairs of other places: the
measures of a picture fused without a sentence, and what a sentence changes inside warm things and outside.

Axes: n pairs, H, W rows and columns, D text width. Grey levels are of 255.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cmf import runs
from cmf.encoders.clip import CLIP
from cmf.methods import cmi_fusion_published as published
from cmf.methods.cmi_fusion import CMIFusion, Shape
from cmf.metrics.intervals import bootstrap_interval, paired_bootstrap
from cmf.studies import asked, fusion
from cmf.studies.asked import Asked, Pictures, Texts
from cmf.studies.classical import CLASSICAL
from cmf.studies.fusing import words
from cmf.studies.measured import measure_arrays
from cmf.training import Recipe, parameters

PAIRS = dict(train=200, validation=24, test=60)
SIZE, CROP, ROUNDS = (96, 128), 64, 4      # of pictures and crops, pixels; crops of each pair
SHARES = (0.25, 0.25, 0.06, 0.06)          # of samples that ask for heat, texture, brighten, denoise
SHAPE = dict(channels=(16, 32, 48), full=12, width=32)                   # half of CMI-Fusion's work a pixel
PUBLISHED = dict(shallow=8, width=24, decoder=(16, 8, 8), heads=4)       # twice that
RECIPE = Recipe(epochs=4, batch=8, lr=2.5e-3, weight_decay=0.01, warmup=0.1, clip=0.5)
MEASURES = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "Nabf", "SSIM")
LEAST = 30         # pixels of warm things in a picture, for the response inside them to be counted
CLEAR = 8          # grey levels: a response that one sees
EACH = 60          # test sentences of a family
OPPOSITES = ("heat", "texture")


@dataclass(frozen=True)
class Arm:
    """What sets an arm apart: changes of the shape, weights of the loss, are sentences read, the published network."""

    shape: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)
    told: bool = True
    published: bool = False


ARMS: dict[str, Arm] = {
    "CMI-Fusion": Arm(),
    "without text": Arm(dict(text="none")),
    "constant prompt": Arm(told=False),
    "single token": Arm(dict(text="single")),
    "without FiLM": Arm(dict(film=False)),
    "without dual attention": Arm(dict(attention=False)),
    "without visual information": Arm(weights=dict(information=0.0)),
    "without difference correlation": Arm(weights=dict(difference=0.0)),
    "without SSIM": Arm(weights=dict(similarity=0.0)),
    "without calm": Arm(weights=dict(calm=0.0)),
    "as published": Arm(published=True),
}


@dataclass(frozen=True)
class Sets:
    """What the arms share: crops to learn from and to choose the epoch by, pictures and sentences to judge with."""

    train: Asked
    held: Asked
    test: Pictures
    texts: Texts
    sources: Tensor       # (2, D): the published sentences of the visible and the infrared picture, unit scale


class Silent:
    """Sentences that are never told: every column holds the empty one."""

    def __init__(self, texts: Texts):
        self.texts, self.sentences, self.all = texts, texts.sentences, texts.all

    def column(self, chosen: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
        """As `Texts.column`, of as many empty sentences."""
        return self.texts.column([(family, -1) for family, _ in chosen])


class Published(nn.Module):
    """The published network on a batch of `Asked`: its sentence for the fused picture is what is asked for.

    A sentence's vector has unit length here and is brought to unit scale: times the root of its width.
    """

    def __init__(self, sources: Tensor):
        super().__init__()
        self.register_buffer("sources", sources)                                         # (2, D)
        self.network = published.PublishedCMIFusion(narrow(sources.shape[1]))

    def fit_text(self, batch) -> "Published":
        """Nothing is fitted to sentences here."""
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pooled = batch["pooled"]
        told = {f"text_{kind}": vector.expand_as(pooled)
                for kind, vector in zip(published.SOURCES, self.sources, strict=True)}
        return self.network(batch | told | dict(text_fused=unit(pooled)))


def narrow(width: int) -> published.Config:
    """The published network's slim copy, narrowed further to what can be trained here in a minute or two."""
    return replace(published.Config(text_width=width).slim(), **PUBLISHED)


def unit(pooled: Tensor) -> Tensor:
    """Vectors (n, D) of length 1 at unit scale."""
    return pooled * pooled.shape[-1] ** 0.5


def sets(train: int = PAIRS["train"], validation: int = PAIRS["validation"], test: int = PAIRS["test"], seed: int = 0,
         size: tuple[int, int] = SIZE, crop: int = CROP, rounds: int = ROUNDS, encoder=None) -> Sets:
    """Simulated pairs of the three splits, each from places of its own, with sentences of each split."""
    encoder = encoder or CLIP("small", device="cpu", precision="float32")
    made = {split: asked.simulated(n, split, seed, size)
            for split, n in dict(train=train, validation=validation, test=test).items()}
    texts = {split: Texts(encoder, split, some.captions, seed=seed, **({} if split == "train" else dict(each=EACH)))
             for split, some in made.items()}
    sources = words(encoder, [published.INFRARED_PROMPTS[kind] for kind in published.SOURCES])["pooled"]
    return Sets(Asked(made["train"], texts["train"], crop, rounds, seed, SHARES),
                Asked(made["validation"], texts["validation"], crop, 1, seed + 1, SHARES),
                made["test"], texts["test"], unit(sources))


def build(arm: str, some: Sets, seed: int) -> tuple[nn.Module, fusion.Criterion]:
    """The untrained network of an arm and its loss.

    Raises:
        ValueError: no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm {arm!r}; there are {', '.join(ARMS)}")
    runs.seed_everything(seed)
    its = ARMS[arm]
    shape = dict(text_width=some.texts.none["text"].shape[-1]) | SHAPE | its.shape
    network = Published(some.sources) if its.published else CMIFusion(Shape(**shape))
    return network, fusion.Criterion(fusion.WEIGHTS | its.weights)


def train(arm: str, some: Sets, seed: int, recipe: Recipe = RECIPE):
    """Train an arm; the epoch is chosen on the validation crops by the arm's own loss. Returns model and result."""
    network, criterion = build(arm, some, seed)
    data, held = (some.train, some.held) if ARMS[arm].told else map(silenced, (some.train, some.held))
    result = fusion.train(network, data, held, replace(recipe, seed=seed), criterion,
                          label=f"{arm}, seed {seed}")
    return network, result


def silenced(data: Asked) -> Asked:
    """The same crops and targets, without a sentence."""
    other = copy(data)
    other.texts = Silent(data.texts)
    return other


def stacked(pictures: Pictures) -> tuple[Tensor, Tensor, np.ndarray]:
    """visible, infrared (n, 1, H, W) in [0, 1] and warm (n, H, W) bool."""
    one = lambda planes: torch.from_numpy(np.stack(planes))[:, None].float() / 255
    return one(pictures.visible), one(pictures.infrared), np.stack(pictures.warm) > 127


@torch.no_grad()
def fuse(model: nn.Module, visible: Tensor, infrared: Tensor, told: dict[str, Tensor]) -> np.ndarray:
    """Fused pictures (n, H, W) in grey levels of pairs (n, 1, H, W) with a sentence each."""
    parts = [dict(visible=visible[k:k + 20], infrared=infrared[k:k + 20], **{x: t[k:k + 20] for x, t in told.items()})
             for k in range(0, len(visible), 20)]
    return torch.cat([model.eval()(part)["fused"][:, 0] for part in parts]).numpy() * 255.0


def drawn(texts: Texts, family: str, n: int, seed: int = 0) -> list[tuple[str, int]]:
    """n sentences of a family, to be given to `Texts.column`. Of "caption" and "nonsense" too."""
    rng = np.random.default_rng((71, seed, n))
    family = dict(caption="other", nonsense="foreign").get(family, family)
    return [(family, int(k)) for k in rng.integers(0, len(texts.sentences[family]), n)]


def silence(n: int) -> list[tuple[str, int]]:
    """n times the empty sentence."""
    return [("balanced", -1)] * n


def measures(fused: np.ndarray, pictures: Pictures) -> pd.DataFrame:
    """MEASURES of fused pictures (n, H, W) in grey levels, a row a pair."""
    triples = list(zip(pictures.infrared, pictures.visible, fused, strict=True))
    return measure_arrays(triples, MEASURES).rename_axis("pair").reset_index()


def within(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Means (n,) of values (n, H, W) where `where`, NaN of pictures with fewer than LEAST pixels there."""
    count = where.sum((1, 2))
    return np.where(count >= LEAST, (values * where).sum((1, 2)) / np.maximum(count, 1), np.nan)


def judge(model: nn.Module, some: Sets) -> pd.DataFrame:
    """A row a test pair: pair, MEASURES of the picture fused without a sentence; inside, what asking for heat instead
    of texture adds within warm things, grey levels (NaN where there are none); outside, the mean size of the change
    elsewhere."""
    visible, infrared, warm = stacked(some.test)
    made = lambda chosen: fuse(model, visible, infrared, some.texts.column(chosen))
    hot, rough = (made(drawn(some.texts, family, len(visible))) for family in OPPOSITES)
    table = measures(made(silence(len(visible))), some.test)
    return table.assign(inside=within(hot - rough, warm), outside=within(np.abs(hot - rough), ~warm))


def trained(arm: str, some: Sets, seed: int, recipe: Recipe = RECIPE) -> tuple[nn.Module, dict]:
    """An arm, trained once for the same pairs, seed, recipe and code, and then read from the cache.

    Returns the model in eval mode and a record: history, best_epoch, seconds, parameters, table (of `judge`).
    """
    def compute() -> dict:
        model, result = train(arm, some, seed, recipe)
        state = {f"state/{name}": value for name, value in model.state_dict().items()}
        return dict(history=result.history.drop(columns="seconds"), best_epoch=result.best_epoch,
                    seconds=result.seconds, parameters=parameters(model), table=judge(model, some)) | state

    pictures = lambda crops: {name: crops.columns[name] for name in ("visible", "infrared", "warm")}
    inputs = dict(train=pictures(some.train.crops), held=pictures(some.held.crops),
                  test=[some.test.visible, some.test.infrared, some.test.warm], sources=some.sources,
                  texts=[texts.all() for texts in (some.train.texts, some.held.texts, some.texts)])
    record = runs.cached("fusion_arm", compute, inputs=inputs, parameters=dict(
        arm=arm, what=str(ARMS.get(arm)), seed=seed, recipe=asdict(recipe), crop=list(some.train.crops.size),
        rounds=some.train.crops.rounds, world=some.train.seed))
    model, _ = build(arm, some, seed)
    model.load_state_dict({name.removeprefix("state/"): torch.as_tensor(record.pop(name))
                           for name in list(record) if name.startswith("state/")})
    return model.eval(), record


def arms(names: Sequence[str], some: Sets, seeds: Sequence[int]) -> pd.DataFrame:
    """A row an arm, seed and test pair: arm, seed, epoch, seconds, parameters and the columns of `judge`.

    Fusion without learning is added with seed 0; it hears no sentence, so that inside and outside are 0.
    """
    rows = []
    for arm, seed in runs.progress([(a, s) for s in seeds for a in names], "arms"):
        record = trained(arm, some, seed)[1]
        rows.append(record["table"].assign(arm=arm, seed=seed, epoch=record["best_epoch"], seconds=record["seconds"],
                                           parameters=record["parameters"]))
    visible, infrared, warm = stacked(some.test)
    for name, function in CLASSICAL.items():
        made = np.stack([function(v, u) for v, u in zip(visible[:, 0].numpy(), infrared[:, 0].numpy(), strict=True)])
        nothing = np.zeros_like(made)
        rows.append(measures(made * 255.0, some.test).assign(
            inside=within(nothing, warm), outside=within(nothing, ~warm), arm=name, seed=0, epoch=0, seconds=0.0,
            parameters=0))
    first = ["arm", "seed", "epoch", "seconds", "parameters"]
    return pd.concat(rows, ignore_index=True)[[*first, *(c for c in rows[0] if c not in first)]]


def compare(table: pd.DataFrame, measure: str, to: str = "CMI-Fusion", by: str = "arm") -> pd.DataFrame:
    """Means over seeds and pairs with bootstrap intervals over pairs, and the paired difference `to` minus each.

    Columns: arm (or `by`), the measure, low, high, difference, difference_low, difference_high (over pairs),
    seeds_low, seeds_high (least and largest mean difference of a seed). Pairs without the measure are left out.
    """
    wide = table.pivot_table(index="pair", columns=[by, "seed"], values=measure, sort=False).dropna()
    rows = []
    for name in dict.fromkeys(wide.columns.get_level_values(0)):
        own, best = wide[name].mean(axis=1), wide[to].mean(axis=1)
        mean, gap = bootstrap_interval(own.to_numpy()), paired_bootstrap(best.to_numpy(), own.to_numpy())
        each = [float((wide[to][seed] - wide[name].get(seed, own)).mean()) for seed in wide[to]]
        rows.append({by: name, measure: mean.estimate, "low": mean.low, "high": mean.high, "difference": gap.estimate,
                     "difference_low": gap.low, "difference_high": gap.high, "seeds_low": min(each),
                     "seeds_high": max(each)})
    return pd.DataFrame(rows)


def obeyed(table: pd.DataFrame) -> pd.Series:
    """Does the picture change in the asked direction by more than CLEAR grey levels? 1 or 0, NaN without warm things.
    """
    return (table.inside > CLEAR).astype(float).where(table.inside.notna())


def said(name: str, texts: Texts, n: int, seed: int = 0) -> dict[str, list[tuple[str, int]]]:
    """What n pairs are told, in place of a sentence for heat and of one for texture, by a control of CONTROLS.

    Raises:
        ValueError: no such control.
    """
    if name not in CONTROLS:
        raise ValueError(f"no control {name!r}; there are {', '.join(CONTROLS)}")
    true = {family: drawn(texts, family, n) for family in OPPOSITES}
    return dict(zip(OPPOSITES, CONTROLS[name](true, texts, n, np.random.default_rng((73, seed))), strict=True))


def _shuffled(true, texts, n, rng):
    """Sentences change places between pairs and between what is asked."""
    both = [sentence for family in OPPOSITES for sentence in true[family]]
    mixed = [both[k] for k in rng.permutation(2 * n)]
    return mixed[:n], mixed[n:]


CONTROLS = {
    "own sentence": lambda true, texts, n, rng: (true["heat"], true["texture"]),
    "no sentence": lambda true, texts, n, rng: (silence(n), silence(n)),
    "one sentence for all": lambda true, texts, n, rng: ([true["heat"][0]] * n, [true["heat"][0]] * n),
    "of another pair": _shuffled,
    "opposite sentence": lambda true, texts, n, rng: (true["texture"], true["heat"]),
    "a caption": lambda true, texts, n, rng: (drawn(texts, "caption", n, 0), drawn(texts, "caption", n, 1)),
    "nonsense words": lambda true, texts, n, rng: (drawn(texts, "nonsense", n, 0), drawn(texts, "nonsense", n, 1)),
}


def controls(models: Mapping[int, nn.Module], some: Sets, seed: int = 0) -> pd.DataFrame:
    """What trained models, by seed, make of other sentences: a row a control, seed and pair.

    Columns: control, seed, pair; response, grey levels that asking for heat instead of texture adds within warm
    things; error, mean distance there from what is asked for, over both; change, mean distance of the whole picture
    from the one without a sentence, over both. For degraded inputs, once with the sentence that asks for its repair
    and once without: psnr, dB, against the picture that the same model makes of the clean pair.
    """
    visible, infrared, warm = stacked(some.test)
    n, rows = len(visible), []
    wanted = dict(heat=255 * (torch.maximum(visible, infrared) + asked.LIFT).clamp(0, 1)[:, 0].numpy(),
                  texture=255 * visible[:, 0].numpy())
    worse = {family: degraded(family, visible, infrared, seed) for family in ("brighten", "denoise")}
    for own, model in runs.progress(models.items(), "controls", len(models)):
        told = lambda inputs, chosen, model=model: fuse(model, *inputs, some.texts.column(chosen))
        plain = told((visible, infrared), silence(n))
        for name in CONTROLS:
            made = {family: told((visible, infrared), chosen)
                    for family, chosen in said(name, some.texts, n, seed).items()}
            rows.append(pd.DataFrame(dict(
                control=name, seed=own, pair=range(n), response=within(made["heat"] - made["texture"], warm),
                error=np.mean([within(np.abs(made[f] - wanted[f]), warm) for f in OPPOSITES], axis=0),
                change=np.mean([np.abs(made[f] - plain).mean((1, 2)) for f in OPPOSITES], axis=0))))
        for family, inputs in worse.items():
            for what, chosen in (("asked", drawn(some.texts, family, n)), ("not asked", silence(n))):
                off = np.square(told(inputs, chosen) - plain).mean((1, 2))
                rows.append(pd.DataFrame(dict(control=f"{family}, {what}", seed=own, pair=range(n),
                                              psnr=10 * np.log10(255**2 / np.maximum(off, 1e-9)))))
    return pd.concat(rows, ignore_index=True)


def degraded(family: str, visible: Tensor, infrared: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pairs as training shows them where repair is asked for: a dark visible picture, or both with noise."""
    rngs = [np.random.default_rng((79, seed, i)) for i in range(len(visible))]
    if family == "brighten":
        return torch.stack([asked.darkened(x, rng) for x, rng in zip(visible, rngs, strict=True)]), infrared
    return tuple(torch.stack([asked.noisy(x, rng) for x, rng in zip(some, rngs, strict=True)])
                 for some in (visible, infrared))
