"""What CMI-Fusion learns from: crops of pairs, a sentence for each, and the target that belongs to the sentence.

Axes: B pictures, H, W rows and columns, L text tokens, D text width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cmf.datasets import pairs
from cmf.datasets.crops import Crops
from cmf.simulate.prompts import FAMILIES, foreign, prompts
from cmf.studies.fusing import words

LIFT = 0.1        # by which warm things are to be brighter than in either source, when heat is asked for
REAL = ("roadscene", "msrs", "tno", "ct-mri", "pet-mri", "spect-mri")


@dataclass(frozen=True)
class Pictures:
    """Pairs as 8-bit luma in memory, with the pixels of warm things and sentences that ask for nothing."""

    visible: list[np.ndarray]       # uint8 (H, W) each
    infrared: list[np.ndarray]
    warm: list[np.ndarray]          # uint8 (H, W), 255 where a warm thing is
    captions: list[str]

    def __len__(self) -> int:
        return len(self.visible)

    def __add__(self, other: "Pictures") -> "Pictures":
        return Pictures(self.visible + other.visible, self.infrared + other.infrared, self.warm + other.warm,
                        self.captions + other.captions)


def simulated(n: int, split: str, seed: int, size: tuple[int, int] = (192, 256)) -> Pictures:
    """n simulated street pairs; their warm things are known."""
    made = pairs.simulated(n, split, seed, size)
    return Pictures([_bytes(x) for x in made["visible"]], [_bytes(x) for x in made["infrared"]],
                    [_bytes(x) for x in made["thermal"]], [text for several in made["captions"] for text in several])


def loaded(some: Sequence[pairs.Pair], warm: bool = True, align: str = "refuse") -> Pictures:
    """Pairs of files. Of their warm things nothing is known: where the infrared is bright for its own picture, above
    its mean by 1.5 to 2 standard deviations, counts by degrees; nowhere when `warm` is False, as in medical pairs.

    align: of `cmf.datasets.pairs.load`, and raises as that.
    """
    made = Pictures([], [], [], [])
    for pair in some:
        v, u = (picture.luma for picture in pairs.load(pair, align))
        bright = np.clip(2 * (u - u.mean()) / (u.std() + 1e-3) - 3, 0, 1) * warm
        for plane, column in ((v, made.visible), (u, made.infrared), (bright, made.warm)):
            column.append(_bytes(plane))
    return made


def real(names: Sequence[str] = REAL, split: str = "train") -> Pictures:
    """Real pairs of the sets `names`, see `loaded`."""
    made = [loaded(pairs.layout(name, split=split), not medical(name)) for name in names]
    return sum(made[1:], made[0])


def medical(name: str) -> bool:
    """Whether a set of pairs is medical, so that nothing in it is warm."""
    return name.endswith("-mri")


class Texts:
    """Sentences as an encoder tells them, by family; "other" (captions) and "foreign" (`prompts.foreign`)
    hold sentences that are to be taken as balanced.

    Args:
        encoder: a `cmf.encoders.clip.CLIP`. split: train, validation or test. captions: sentences about pictures.
        each: at most so many sentences of a family, six times as many foreign ones. seed: of their choice.
    """

    def __init__(self, encoder, split: str, captions: Sequence[str] = (), each: int = 300, seed: int = 0):
        rng = np.random.default_rng((61, seed))
        some = lambda found: [found[k] for k in rng.permutation(len(found))[:each]]
        self.sentences = {family: some(prompts(family, split)) for family in FAMILIES}
        self.sentences["foreign"] = foreign(6 * each, split, seed)
        self.sentences["other"] = some(list(captions)) or self.sentences["foreign"]
        self.told = {family: words(encoder, found) for family, found in self.sentences.items()}
        self.none = words(encoder, [""])

    def all(self) -> dict[str, Tensor]:
        """Columns of all sentences."""
        return self.column([(family, k) for family, found in self.sentences.items() for k in range(len(found))])

    def column(self, chosen: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
        """text (B, L, D), text_mask (B, L), pooled (B, D') of (family, number); number -1 is the empty sentence."""
        rows = [{k: v[max(n, 0)] for k, v in (self.told[f] if n >= 0 else self.none).items()} for f, n in chosen]
        length = max(1, *(int(row["text_mask"].nonzero().max()) + 1 if row["text_mask"].any() else 1 for row in rows))
        fit = lambda x: torch.cat([x[:length], x.new_zeros(max(length - len(x), 0), *x.shape[1:])])
        return {k: torch.stack([fit(row[k]) if k != "pooled" else row[k] for row in rows]) for k in rows[0]}


class Asked(Dataset):
    """Crops with a sentence each: some ask for nothing, the others for one family; sample i is the same in every run.

    A batch: visible, infrared (B, 1, h, w), the inputs; text, text_mask, pooled; source_visible, source_infrared
    (B, 1, h, w), what the fused picture is to keep, the inputs without the fault that is spoken of; warm (B, 1, h, w),
    where `wanted` (B, 1, h, w) is asked for; faulty (B,) bool, inputs that are to be repaired; family (B,), index into
    FAMILIES.

    Args:
        pictures, texts: see above. size: side of a crop, pixels. rounds: crops of each pair.
        seed: of crops, sentences and faults. shares: of samples that ask for heat, texture, brighten, denoise.
        augment: random crops; else the middle.
    """

    def __init__(self, pictures: Pictures, texts: Texts, size: int = 128, rounds: int = 1, seed: int = 0,
                 shares: Sequence[float] = (0.14, 0.14, 0.09, 0.13), augment: bool = True):
        self.crops = Crops(pictures.visible, pictures.infrared, size, seed, augment, rounds, warm=pictures.warm)
        self.texts, self.seed = texts, seed
        self.shares = np.array([1 - sum(shares), *shares])

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {k: v[0] for k, v in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        cut = self.crops.__getitems__(indices)
        visible, infrared = cut["visible"], cut["infrared"]
        warm = cut["warm"][:, None].float() / 255                                      # (B, 1, h, w)
        rows = [self._one(i, visible[k], infrared[k], warm[k]) for k, i in enumerate(indices)]
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "text"}
        return batch | self.texts.column([row["text"] for row in rows])

    def _one(self, i: int, visible: Tensor, infrared: Tensor, warm: Tensor) -> dict:
        rng = np.random.default_rng((67, self.seed, i))
        family = FAMILIES[rng.choice(len(FAMILIES), p=self.shares)]
        inputs = visible, infrared
        wanted = visible
        if family == "heat":
            wanted = (torch.maximum(visible, infrared) + LIFT).clamp(0, 1)
        elif family == "brighten":
            inputs = darkened(visible, rng), infrared
        elif family == "denoise" or family == "balanced" and rng.random() < 0.1:
            inputs = noisy(visible, rng), noisy(infrared, rng)
        kept = inputs if family == "balanced" else (visible, infrared)
        if family not in ("heat", "texture"):
            warm = torch.zeros_like(warm)
        says = family
        if family == "balanced":     # many of them say nothing at all, some say something else
            says = ("", "balanced", "other", "foreign")[rng.choice(4, p=(0.4, 0.24, 0.12, 0.24))]
        number = int(rng.integers(len(self.texts.sentences[says]))) if says else -1
        return dict(visible=inputs[0], infrared=inputs[1], source_visible=kept[0], source_infrared=kept[1], warm=warm,
                    wanted=wanted, faulty=torch.tensor(family in ("brighten", "denoise")),
                    family=torch.tensor(FAMILIES.index(family)), text=(says or "balanced", number))

    @staticmethod
    def collate(batch):
        """Batches come whole from `__getitems__`."""
        return batch


def darkened(visible: Tensor, rng) -> Tensor:
    """A picture as a camera gives it in too little light: power 1.4 to 2.6, gain .4 to 1, noise of 1 to 4 levels."""
    dark = rng.uniform(0.4, 1.0) * visible ** rng.uniform(1.4, 2.6)
    return (dark + rng.uniform(1, 4) / 255 * _normal(visible, rng)).clamp(0, 1)


def noisy(x: Tensor, rng) -> Tensor:
    """A picture with Gaussian noise of 4 to 25 grey levels."""
    return (x + rng.uniform(4, 25) / 255 * _normal(x, rng)).clamp(0, 1)


def _normal(x: Tensor, rng) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32))


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(x, np.float32) * 255).astype(np.uint8)
