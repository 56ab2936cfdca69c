"""What a trained CMI-Fusion makes of pairs it has not seen: beside fusion without learning, and asked by sentences.

Axes: n pairs, H, W rows and columns, h, w those of the attention, L words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cmf import runs
from cmf.datasets import pairs
from cmf.datasets.pictures import Picture, to_rgb
from cmf.metrics.intervals import bootstrap_interval
from cmf.simulate.prompts import FAMILIES, prompts
from cmf.simulate.street import Dials
from cmf.studies import asked, measured
from cmf.studies.classical import CLASSICAL
from cmf.studies.scored import join_pieces

OURS = "CMI-Fusion"
MEASURES = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM")   # those that rank
ARTEFACTS = "Nabf"
GROUPS = ("day", "dusk", "night", "fog")
MIXED = Dials(day=0.35, dusk=0.3, rain=0.1, fog=0.2)
ALONE = dict(day=Dials(day=1, dusk=0, rain=0, fog=0), dusk=Dials(day=0, dusk=1, rain=0, fog=0),
             night=Dials(day=0, dusk=0, rain=0, fog=0), fog=Dials(day=1, dusk=0, rain=0, fog=1))
REAL = dict(roadscene="RoadScene", msrs="MSRS", tno="TNO", **{"ct-mri": "CT-MRI", "pet-mri": "PET-MRI",
                                                             "spect-mri": "SPECT-MRI"})
WARM = 0.004          # share of a picture that is warm, at least, where warm things are asked for
UNKNOWN = ("the stock market closed lower on tuesday", "qzx vrrm plk wub", "two spoons of sugar and a little salt",
           "he plays the piano in the evening", "3 + 4 = 7", "lorem ipsum dolor sit amet")
# what is compared: two sentences' families, and the sign that is asked for inside warm things (0: no change)
COMPARED = {"heat against texture": ("heat", "texture", 1), "heat against balanced": ("heat", "balanced", 1),
            "texture against balanced": ("texture", "balanced", -1),
            "caption against balanced": ("caption", "balanced", 0),
            "unknown words against balanced": ("unknown", "balanced", 0)}


@dataclass(frozen=True)
class Several:
    """n pairs in memory, each one of a group. warm: bool (H, W), pixels of warm bodies; None where that is unknown.
    caption: a sentence that tells what a simulated pair shows."""

    names: list[str]
    groups: list[str]
    visible: list[Picture]
    infrared: list[Picture]
    warm: list[np.ndarray | None]
    caption: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen) -> "Several":
        """The pairs of these numbers."""
        return Several(*([getattr(self, name)[k] for k in chosen] for name in self.__dataclass_fields__))

    def __add__(self, other: "Several") -> "Several":
        return Several(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def simulated(n: int, seed: int, size: tuple[int, int] = (144, 192), dials: Dials = MIXED, least: float = 0.0,
              ) -> Several:
    """The first n simulated test pairs in which a share of at least `least` is warm, sorted by group: fog or the light.

    Raises:
        ValueError: not so many among 3 n + 3 pairs; and as `cmf.datasets.pairs.simulated`.
    """
    made = pairs.simulated(n if least <= 0 else 3 * n + 3, "test", seed, size, dials)
    found = [k for k in range(len(made["ids"])) if made["thermal"][k].mean() >= least][:n]
    if len(found) < n:
        raise ValueError(f"{len(found)} of {3 * n + 3} pairs are warm in a share of {least:g} or more, expected {n}; "
                         "ask for fewer, or for a smaller share")
    group = ["fog" if made["weather"][k] == "fog" else made["light"][k] for k in range(len(made["ids"]))]
    found.sort(key=lambda k: GROUPS.index(group[k]))
    return Several([made["ids"][k] for k in found], [group[k] for k in found],
                   [Picture(made["visible"][k], made["chroma"][k]) for k in found],
                   [Picture(made["infrared"][k]) for k in found], [made["thermal"][k] for k in found],
                   [made["captions"][k][0] for k in found])


def by_light(seed: int, size: tuple[int, int] = (240, 320), of: int = 4) -> Several:
    """One simulated test pair by day, at dusk, by night and in fog: of several (`of`) each the one with the largest
    share of warm pixels, so that there is something to see."""
    found = [simulated(of, seed + k, size, ALONE[group]) for k, group in enumerate(GROUPS)]
    found = [some[[int(np.argmax([warm.mean() for warm in some.warm]))]] for some in found]
    return sum(found[1:], found[0])


def real(names: Sequence[str] = tuple(REAL), most: int | None = None) -> Several:
    """The test pairs of real sets, all or at most so many of each, evenly over their sorted names.

    Raises FileNotFoundError where a set is not here, and ValueError, as `cmf.datasets.pairs.layout`.
    """
    return loaded([(pair, name) for name in names for pair in pairs.layout(name, split="test")], most)


def loaded(some: Sequence[tuple[pairs.Pair, str]], most: int | None = None, align: str = "refuse") -> Several:
    """Pairs of files with the name of the set of each, all or at most so many of each set, evenly over its order.

    align: of `cmf.datasets.pairs.load`, and raises as that.
    """
    found = []
    for name in dict.fromkeys(name for _, name in some):
        own = [pair for pair, of in some if of == name]
        if most is not None and most < len(own):
            own = [own[k] for k in np.linspace(0, len(own) - 1, most).round().astype(int)]
        found += [(REAL.get(name, name), pair, *pairs.load(pair, align)) for pair in own]
    groups, own, visible, infrared = map(list, zip(*found, strict=True))
    return Several([pair.stem for pair in own], groups, visible, infrared, [None] * len(own), [""] * len(own))


def rgb(picture, chroma=None) -> np.ndarray:
    """(H, W, 3) in [0, 1] of anything with luma and chroma, or of a luma (H, W) and the chroma given."""
    luma, chroma = (picture, chroma) if isinstance(picture, np.ndarray) else (picture.luma, picture.chroma)
    return np.repeat(luma[..., None], 3, -1) if chroma is None else to_rgb(luma, chroma)


def levels(luma: np.ndarray) -> np.ndarray:
    """Luma as the 8-bit grey levels of a written picture, (H, W) float64."""
    return np.rint(np.asarray(luma, np.float64).clip(0, 1) * 255)


def compare(fuser, several: Several, names: Sequence[str] = (*MEASURES, ARTEFACTS)) -> pd.DataFrame:
    """Measures of each pair fused by each classical method and by CMI-Fusion without a sentence.

    Returns a row for each pair and method: group, fused (the method), stem, then the measures `names` of
    `cmf.metrics.fusion`, of pictures rounded to 8 bits.
    """
    methods = CLASSICAL | {OURS: lambda v, u: fuser.fuse(v, u).luma}
    rows = []
    for method, function in methods.items():
        made = ((v.luma, u.luma, function(v.luma, u.luma)) for v, u in
                zip(several.visible, several.infrared, strict=True))
        triples = [tuple(map(levels, (u, v, f))) for v, u, f in runs.progress(made, method, len(several))]
        found = measured.measure_arrays(triples, names)
        rows.append(pd.DataFrame(dict(group=several.groups, fused=method, stem=several.names)).join(found))
    return pd.concat(rows, ignore_index=True)


def summary(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of `compare`'s rows, by group and over all pairs: means with 95 % intervals, and ranks.

    Returns two tables: group, fused, measure, better, unit, mean, low, high, n; and group, fused, mean_rank over
    `MEASURES`, then each measure's rank. The group "all" is left out where there is one only.
    """
    groups = list(rows.groupby("group", sort=False))
    groups += [("all", rows)] if len(groups) > 1 else []
    average = [(name, measured.means(own.drop(columns="group"))) for name, own in groups]
    ranked = [(name, measured.ranks(table[table.measure.isin(MEASURES)])) for name, table in average]
    joined = lambda tables: pd.concat([table.assign(group=name) for name, table in tables], ignore_index=True)
    first = lambda table: table[["group", *table.columns.drop("group")]]
    return first(joined(average)), first(joined(ranked))


def respond(fuser, several: Several, seed: int = 0) -> pd.DataFrame:
    """What opposite and foreign sentences change, inside warm bodies and outside them.

    Each pair gets a heat and a texture sentence that training has not seen, its own caption, and unknown words.
    Returns a row for each pair and comparison of `COMPARED`: stem, group, compared, asked (the sign), inside, the mean
    of the difference over warm pixels, outside, the mean of its size over all others (grey levels), and the sentence.

    Raises:
        ValueError: pairs of which warm bodies are not known, or without any.
    """
    wrong = [name for name, warm in zip(several.names, several.warm, strict=True) if warm is None or not warm.any()]
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(several)} pairs have no pixels that are known to be warm, first "
                         f"{wrong[0]}; take simulated pairs with a warm share above 0")
    said = {family: prompts(family, "test") for family in ("heat", "texture")}
    rows = []
    for k in runs.progress(range(len(several)), "sentences"):
        rng = np.random.default_rng((71, seed, k))
        sentence = {family: found[rng.integers(len(found))] for family, found in said.items()}
        sentence |= dict(balanced="", caption=several.caption[k], unknown=UNKNOWN[k % len(UNKNOWN)])
        made = {name: 255.0 * fuser.fuse(several.visible[k].luma, several.infrared[k].luma, text).luma
                for name, text in sentence.items()}
        warm = several.warm[k]
        for compared, (one, other, sign) in COMPARED.items():
            difference = made[one] - made[other]                                       # (H, W)
            rows.append((several.names[k], several.groups[k], compared, sign, difference[warm].mean(),
                         np.abs(difference[~warm]).mean(), sentence[one]))
    return pd.DataFrame(rows, columns=["stem", "group", "compared", "asked", "inside", "outside", "sentence"])


def response(rows: pd.DataFrame) -> pd.DataFrame:
    """Of `respond`'s rows a row for each comparison: means inside (with its 95 % interval) and outside, and the share
    of pairs that change inside in the direction asked for; NaN where none is."""
    out = []
    for compared, own in rows.groupby("compared", sort=False):
        inside = bootstrap_interval(own.inside.to_numpy())
        sign = own.asked.iloc[0]
        share = float((own.inside * sign > 0).mean()) if sign else np.nan
        out.append((compared, *inside, own.outside.mean(), own.outside.max(), share, len(own)))
    return pd.DataFrame(out, columns=["compared", "inside", "low", "high", "outside", "outside_most", "share", "n"])


@dataclass(frozen=True)
class Answer:
    """A pair as the network got it, fused without a sentence and with one of a family."""

    family: str
    sentence: str
    visible: np.ndarray          # (H, W) luma in [0, 1], with the fault that the sentence speaks of
    infrared: np.ndarray
    balanced: np.ndarray
    told: np.ndarray
    wanted: np.ndarray           # without a sentence, of the pair without that fault


def answer(fuser, visible: np.ndarray, infrared: np.ndarray, family: str, seed: int = 0) -> Answer:
    """Fuse a pair (H, W) of luma with a test sentence of a family; of brighten a darkened one, of denoise a noisy one.

    The faults are those of training, see `cmf.studies.asked`. Raises ValueError for a family that asks for nothing.
    """
    if family not in FAMILIES[1:]:
        raise ValueError(f"family {family!r}: expected one that asks for something, {', '.join(FAMILIES[1:])}")
    rng = np.random.default_rng((73, seed))
    found = prompts(family, "test")
    sentence = found[int(rng.integers(len(found)))]
    whole = visible, infrared
    faulty = lambda fault, x: fault(torch.from_numpy(np.array(x, np.float32)), rng).numpy()
    if family == "brighten":
        visible = faulty(asked.darkened, visible)
    elif family == "denoise":
        visible, infrared = (faulty(asked.noisy, x) for x in (visible, infrared))
    balanced, told, wanted = (fuser.fuse(*pair, text).luma for pair, text in
                              (((visible, infrared), ""), ((visible, infrared), sentence), (whole, "")))
    return Answer(family, sentence, visible, infrared, balanced, told, wanted)


def repair(fuser, several: Several, seed: int = 0) -> pd.DataFrame:
    """Does asking repair? A row for each pair and family, brighten and denoise: stem, family, balanced and told, the
    root mean square distance (grey levels) of the pictures fused of the faulty pair, without and with the sentence,
    from the one of the pair without fault."""
    rms = lambda x, y: 255 * float(np.sqrt(np.mean((x.astype(np.float64) - y) ** 2)))
    rows = []
    for k in runs.progress(range(len(several)), "faults"):
        for family in ("brighten", "denoise"):
            got = answer(fuser, several.visible[k].luma, several.infrared[k].luma, family, seed + k)
            rows.append((several.names[k], family, rms(got.balanced, got.wanted), rms(got.told, got.wanted)))
    return pd.DataFrame(rows, columns=["stem", "family", "balanced", "told"])


@torch.inference_mode()
def attention(fuser, visible: np.ndarray, infrared: np.ndarray, sentence: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Words of a sentence behind the null word "(null)", and each infrared pixel's attention on them.

    Args:
        visible, infrared: (H, W) luma in [0, 1], at once through the network. sentence: one word or more.

    Returns:
        words (1 + L), and attention (1 + L, h, w) at a quarter of the size, rounded up: the mean over the heads, adding
        up to 1 at each pixel.

    Raises:
        ValueError: a sentence without words.
    """
    from cmf.studies.fusing import plain

    told = fuser.read(sentence)
    mask = told["text_mask"][0].cpu()                                                  # (L,)
    if not mask.any():
        raise ValueError(f"the sentence {sentence!r} has no words, expected one or more")
    ids = fuser.encoder.texts([plain(sentence)]).ids[0]
    pieces = fuser.encoder.tokenizer.convert_ids_to_tokens(ids[mask].tolist())
    one = lambda x: torch.from_numpy(np.array(x, np.float32))[None, None].to(fuser.device)
    seen = fuser.network(dict(visible=one(visible), infrared=one(infrared), **told))["attention"][0]
    seen = seen.mean(0).float().cpu().numpy()                                          # (h', w', 1 + L), with borders
    seen = seen[:-(-visible.shape[0] // 4), :-(-visible.shape[1] // 4)]                # (h, w, 1 + L)
    null, own = seen[..., :1], seen[..., 1:][..., mask.numpy()]
    words, _, share = join_pieces(pieces, np.zeros(len(pieces), int), own)             # (h, w, L')
    return ("(null)", *words), np.moveaxis(np.concatenate([null, share], -1), -1, 0)
