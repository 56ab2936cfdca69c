"""How good the small encoders are: retrieval, zero-shot classes, captions against the truth, masked words.

Axes: n pictures, m captions, C kinds.
"""


import numpy as np
import torch
from torch.nn import functional as F

from cmf.simulate import street, street_words


def retrieval(images: torch.Tensor, texts: torch.Tensor, captions: list[str], owner, ks=(1, 5)) -> dict[str, float]:
    """Share of queries whose right answer is among the nearest k, both ways.

    Args:
        images: (n, D) embeddings of the pictures, L2-normalised.
        texts: (m, D) embeddings of the captions, L2-normalised.
        captions: the m captions; one that is word for word a picture's own counts as right for it.
        owner: (m,) number of the picture that each caption was written for.
        ks: numbers of answers looked at.

    Returns:
        image_to_text_r1, ..., text_to_image_r1, ..., pictures (n), captions (m).

    Raises:
        ValueError: lengths that do not agree, or a picture without a caption.
    """
    owner = np.asarray(owner)
    if not len(texts) == len(captions) == len(owner):
        raise ValueError(f"{len(texts)} embeddings, {len(captions)} captions and {len(owner)} owners, expected as many "
                         "of each")
    if set(owner.tolist()) != set(range(len(images))):
        raise ValueError(f"captions belong to {len(set(owner.tolist()))} pictures, there are {len(images)}; every "
                         "picture needs one")
    number = {text: k for k, text in enumerate(dict.fromkeys(captions))}
    words = np.array([number[text] for text in captions])
    has = np.zeros((len(images), len(number)), bool)  # (n, different captions)
    has[owner, words] = True
    right = torch.from_numpy(has[:, words])  # (n, m)
    similarity = images @ texts.T  # (n, m)
    scores = {}
    for name, near, good in (("image_to_text", similarity, right), ("text_to_image", similarity.T, right.T)):
        order = near.topk(min(max(ks), near.shape[1]), dim=1).indices
        hit = good.gather(1, order)
        scores |= {f"{name}_r{k}": float(hit[:, :k].any(1).float().mean()) for k in ks}
    return scores | dict(pictures=len(images), captions=len(captions))


def area_under_curve(score, positive) -> float:
    """Probability that a positive scores above a negative, ties half (Mann-Whitney); nan with one class only."""
    from scipy.stats import rankdata

    positive = np.asarray(positive, bool)
    p, q = positive.sum(), (~positive).sum()
    if not p or not q:
        return float("nan")
    return float((rankdata(score)[positive].sum() - p * (p + 1) / 2) / (p * q))


@torch.no_grad()
def perplexity(bert, captions: list[str], seed: int = 0, batch: int = 256) -> float:
    """exp of the mean loss of masked tokens, 15 % of each caption by a seeded draw (all of them masked).

    Args:
        bert: cmf.encoders.distilbert.DistilBERT.
        captions: texts.
    """
    ids, mask, special = bert._tokenize(captions, bert.LONGEST)
    generator = torch.Generator().manual_seed(seed)
    asked = (torch.rand(ids.shape, generator=generator) < 0.15) & mask & ~special
    total, count = 0.0, 0
    for s in range(0, len(ids), batch):
        rows = slice(s, s + batch)
        hidden = ids[rows].masked_fill(asked[rows], bert.tokenizer.mask_token_id)
        logits = bert.model(input_ids=hidden, attention_mask=mask[rows].long()).logits
        total += float(F.cross_entropy(logits[asked[rows]], ids[rows][asked[rows]], reduction="sum"))
        count += int(asked[rows].sum())
    return float(np.exp(total / max(count, 1)))


def row(encoder: str, score: str, value: float, tolerance: float, chance: float, n: int) -> dict:
    """A row of the table of scores."""
    return dict(encoder=encoder, score=score, value=round(float(value), 4), tolerance=tolerance,
                chance=round(float(chance), 4), n=n)


LIGHT = {light: [f"a street {words}" for words in street_words.TIME[light]] for light in street.LIGHTS}
WEATHER = {sky: [f"a street {words}" for words in street_words.SKY[sky] if words] for sky in street.WEATHERS}


def zero_shot(clip, images: torch.Tensor, prompts: dict[str, list[str]]) -> np.ndarray:
    """Number (n,) of the class whose prompts, averaged, are nearest to each embedding (n, D)."""
    centres = torch.stack([F.normalize(clip.texts(texts).pooled.mean(0), dim=0) for texts in prompts.values()])
    return (images @ centres.T).argmax(1).numpy()


def of_clip(clip, data) -> list[dict]:
    """Rows of `measure` for CLIP: retrieval with one caption a picture, zero-shot light, weather and kinds.

    Light and weather: accuracy, the mean of the prompts of a class against those of the others; chance is the share
    of the commonest class. Kinds: area under the curve of cos(picture, "a car on a street") - cos(picture, "a street
    without people or cars"), mean over the kinds that at least ten pictures show and ten do not.
    """
    images = clip.images(data.pictures).pooled
    captions = [own[0] for own in data.captions]
    n = len(captions)
    found = retrieval(images, clip.texts(captions).pooled, captions, np.arange(n))
    rows = [row("clip", name, found[name], 0.02 if name.endswith("r1") else 0.05, int(name[-1]) / n, n)
            for name in found if "_r" in name]
    for name, prompts in (("light", LIGHT), ("weather", WEATHER)):
        truth = np.array([list(prompts).index(f[name]) for f in data.facts])
        rows.append(row("clip", f"zero_shot_{name}", (zero_shot(clip, images, prompts) == truth).mean(), 0.05,
                        np.bincount(truth).max() / n, n))
    counts = np.array([f["counts"] for f in data.facts])
    nothing = clip.texts(["a street without people or cars"]).pooled[0]
    areas = []
    for k, kind in enumerate(street.KINDS):
        shown = counts[:, k] > 0
        if 10 <= shown.sum() <= n - 10:
            texts = [f"a {table[kind][0]} on a street" for table in (street_words.NOUNS, street_words.OTHER)
                     if kind in table]
            areas.append(area_under_curve((images @ (clip.texts(texts).pooled.mean(0) - nothing)).numpy(), shown))
    return [*rows, row("clip", "zero_shot_kinds_auc", np.mean(areas), 0.05, 0.5, n)]


def of_blip(blip, data) -> list[dict]:
    """Rows of `measure` for BLIP: what greedy captions say against the truth.

    caption_light, caption_weather: share with the right words (chance: the commonest). caption_kinds_f1:
    harmonic mean of precision and recall of the kinds named, over all pictures (chance: naming people and cars
    always). caption_counts: among kinds that are there and named, share with the right number (chance: always
    one).
    """
    captions = blip.captions(data.pictures)
    n = len(captions)
    truth = np.array([f["counts"] for f in data.facts])  # (n, C)
    claimed = np.array([[street.counts_in(text).get(kind, 0) for kind in street.KINDS] for text in captions])
    lights = [f["light"] for f in data.facts]
    light = np.mean([any(words in text for words in street_words.TIME[true])
                     for text, true in zip(captions, lights, strict=True)])
    skies = [f["weather"] for f in data.facts]
    said = [next((sky for sky, options in street_words.SKY.items() if any(w and w in text for w in options)), "clear")
            for text in captions]  # no word about it is clear weather
    sky = np.mean([a == b for a, b in zip(said, skies, strict=True)])
    both = (claimed > 0) & (truth > 0)
    always = np.isin(street.KINDS, ("person", "car"))[None] & np.ones_like(truth, bool)
    commonest = lambda words: max(words.count(x) for x in set(words)) / n
    return [row("blip", "caption_light", light, 0.05, commonest(lights), n),
            row("blip", "caption_weather", sky, 0.05, commonest(skies), n),
            row("blip", "caption_kinds_f1", f1(claimed > 0, truth > 0), 0.06, f1(always, truth > 0), n),
            row("blip", "caption_counts", (claimed == truth)[both].mean(), 0.08, (truth[truth > 0] == 1).mean(),
                int(both.sum()))]


def f1(claimed: np.ndarray, true: np.ndarray) -> float:
    """2 |both| / (|claimed| + |true|) of two boolean arrays of one shape."""
    return float(2 * (claimed & true).sum() / max(claimed.sum() + true.sum(), 1))


def of_distilbert(bert, street_texts: list[str], onlooker_texts: list[str]) -> list[dict]:
    """Rows of `measure` for DistilBERT: perplexity of masked tokens in sentences of test places, both grammars."""
    size = len(bert.tokenizer)
    return [row("distilbert", f"perplexity_{name}", perplexity(bert, texts), 0.5, size, len(texts))
            for name, texts in (("street", street_texts), ("onlooker", onlooker_texts))]
