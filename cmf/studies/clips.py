"""What surveillance clips can tell at best: ceilings of pictures, of words and of both, and how dials move them.

Axes: n segments of all clips, d features, w words. A segment is a T-th of a clip.
The pictures' ceiling is a strong simple classifier on the true facts that a small camera can see (who is where,
how fast, in which posture), each blurred as pixels blur it; the words' ceiling is the same classifier on the bag
of words of the segment's caption. Neither sees other segments. Everything here is simulated.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cmf.simulate.surveillance import CLASSES, SIZE, Clip, Dials, simulate_clips

FACTS = ("people", "cars", "bicycles", "smoke", "fire", "flash", "night", "rain", "fast people", "speed",
         "runner against stream", "walkers against runner", "speed of runner", "size of runner", "stream", "walkers",
         "arms", "arms close", "unrest", "closest", "lying", "lying from edge", "crouching", "other lane",
         "speed in other lane", "standing cars", "cars in other lane", "bags", "bag to people",
         "bag to standing people")
HIGH = {"person": 1.7, "bicycle": 1.2, "bag": 0.9}      # m; a bag stands out by its colour
DARK = {"day": 1.0, "dusk": 1.2, "night": 1.8}          # how much larger things must be
GOOD = 8.0                        # pixels of height at which half of the postures and bags are seen right


def facts(clip: Clip, segments: int, rng: np.random.Generator, blur: float = 1.0) -> np.ndarray:
    """What a small camera sees in each segment: (segments, len(FACTS)).

    Two instants a segment. blur: pixels by which places are off, and the factor on mistakes about small things.
    """
    edges = np.linspace(0.0, clip.seconds, segments + 1)
    rows = [[_look(clip, a + u * (b - a), rng, blur) for u in (0.25, 0.75)]
            for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return np.array(rows).mean(axis=1)


def _look(clip, t, rng, blur) -> list[float]:
    place, focal = clip.layout.place, clip.layout.place.focal * SIZE[0]
    people, cars, bags, bicycles, smoke, fire = [], [], [], 0, 0.0, 0.0
    for track in clip.present(t):
        state = track.state(t)
        pixels, axis = place.project([(state["x"], 0.6, state["z"])], SIZE)
        if not (4 < pixels[0, 0] < SIZE[1] - 5 and 2 < pixels[0, 1] < SIZE[0] - 2):
            continue
        axis = float(axis[0])
        tall = state["size"] * focal / axis * HIGH.get(track.kind, 1.5)
        sees = rng.uniform() < 1.0 / (1.0 + (blur * DARK[clip.light] * GOOD / tall) ** 2.5)
        if not sees and clip.light == "night" and track.kind == "person" and rng.uniform() < 0.5:
            continue                                                                      # lost in the dark
        off = blur * axis / focal                                                         # m, one pixel across
        x = state["x"] + off * rng.normal()
        z = state["z"] + off * axis / place.height * rng.normal()
        across, _ = place.road_point(x, z)
        speed = max(state["speed"] + 0.2 * blur * rng.normal() * (axis / 10.0), 0.0)
        away = (1.0 if track.moves_away(t) else -1.0) * (1.0 if rng.uniform() < 0.97 or not sees else -1.0)
        if track.kind == "person":
            pose = state["pose"] if sees else str(rng.choice(["stand", "walk", "walk", "run", "strike", "crouch"]))
            people.append((x, z, speed, away, state["size"] * (1 + 0.1 * blur * rng.normal()), pose, across,
                           state["unrest"] + 0.3 * blur * rng.normal() * axis / 10.0))
        elif track.kind == "car":
            cars.append((across, speed, away))
        elif track.kind == "bicycle":
            bicycles += 1
        elif track.kind == "bag" and sees:
            bags.append((x, z))
        elif track.kind == "smoke":
            smoke += tall * state["strength"] * np.exp(0.2 * blur * rng.normal())
        elif track.kind == "fire":
            fire += tall * state["strength"] * np.exp(0.2 * blur * rng.normal())
    return [len(people), len(cars), bicycles, smoke, fire, clip.gain(t), clip.light == "night", clip.weather == "rain",
            *_people(people, clip.layout, rng, blur), *_cars(cars), *_bags(bags, people)]


def _people(people, where, rng, blur) -> list[float]:
    walkers = [p[3] for p in people if 0.4 < p[2] < 2.2]
    stream = sum(walkers) / max(len(walkers), 1)
    fast = [p for p in people if p[2] > 2.0]
    odd = max(fast, key=lambda p: (-p[3] * stream, p[2]), default=None)   # the runner who is most against the others
    gaps = [(np.hypot(a[0] - b[0], a[1] - b[1]), a, b) for i, a in enumerate(people) for b in people[:i]]
    gap = min((g[0] for g in gaps), default=9.0)
    arms = sum(p[5] == "strike" for p in people)
    close = max((2.0 - g for g, a, b in gaps if "strike" in (a[5], b[5])), default=-5.0)
    lying = [p for p in people if p[5] == "lie"]
    edge = where.place.road + where.place.pavement
    return [len(fast), max((p[2] for p in people), default=0.0), -odd[3] * stream if odd else -2.0,
            sum(w != odd[3] for w in walkers) if odd else -1.0, odd[2] if odd else 0.0, odd[4] if odd else 1.5,
            abs(stream), len(walkers), arms, close,
            max((max(a[7], b[7]) for g, a, b in gaps if g < 2.0), default=-1.0), gap, len(lying),
            max((edge - abs(p[6]) for p in lying), default=-9.0), sum(p[5] == "crouch" for p in people)]


def _cars(cars) -> list[float]:
    odd = [(-away * across, speed) for across, speed, away in cars if speed > 0.7]    # positive: in the others' lane
    side, speed = max(odd, default=(-9.0, 0.0))
    return [side, speed if side > 0 else -1.0, sum(s < 0.7 for _, s, _ in cars), sum(s > 0 for s, _ in odd)]


def _bags(bags, people) -> list[float]:
    near = [min((np.hypot(x - p[0], z - p[1]) for p in people), default=20.0) for x, z in bags]
    still = [min((np.hypot(x - p[0], z - p[1]) for p in people if p[2] < 0.5), default=20.0) for x, z in bags]
    return [len(bags), max(near, default=-1.0), max(still, default=-1.0)]


def words(clip: Clip, segments: int, every: float = 2.0) -> list[str]:
    """The caption that covers the middle of each segment, empty where there is none."""
    captions, middles = clip.captions(every), (np.arange(segments) + 0.5) * clip.seconds / segments
    return [next((c.text for c in captions if c.start <= m < c.end), "") for m in middles]


def shares(clip: Clip, segments: int) -> np.ndarray:
    """Share of each segment that lies in an event: (segments,)."""
    edges, out = np.linspace(0.0, clip.seconds, segments + 1), np.zeros(segments)
    for start, end in clip.events:
        out += np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0.0, None)
    return out * segments / clip.seconds


def frame_auc(score: np.ndarray, share: np.ndarray, seconds: np.ndarray) -> float:
    """ROC-AUC over frames where each frame has the score of its segment; all (n,), seconds: length of a segment."""
    target, weight = np.repeat([1, 0], len(share)), np.concatenate([share * seconds, (1 - share) * seconds])
    keep = weight > 0
    return float(roc_auc_score(target[keep], np.tile(score, 2)[keep], sample_weight=weight[keep]))


def _table(clips, segments, seed, blur):
    rng = np.random.default_rng([seed, 11])
    table = np.concatenate([facts(clip, segments, rng, blur) for clip in clips])           # (n, d)
    texts = [text for clip in clips for text in words(clip, segments)]
    share = np.concatenate([shares(clip, segments) for clip in clips])
    seconds = np.repeat([clip.seconds / segments for clip in clips], segments)
    return table, texts, share, seconds, np.repeat([clip.label for clip in clips], segments)


def _logit(p):
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


def _fit(train, target, test, max_iter) -> np.ndarray:
    model = HistGradientBoostingClassifier(max_iter=max_iter, max_leaf_nodes=15, learning_rate=0.07,
                                           min_samples_leaf=15, l2_regularization=1.0, random_state=0)
    return model.fit(train, target).predict_proba(test)


def _boost(train, target, test) -> np.ndarray:
    return _logit(_fit(train, target, test, max_iter=120)[:, 1])


def ceilings(n_train: int = 360, n_test: int = 240, seed: int = 0, dials: Dials | None = None, segments: int = 16,
             blur: float = 1.0) -> dict[str, float]:
    """Frame AUC on held-out clips of another world of facts a small camera sees, of words, and of both.

    Gradient boosting for each segment by itself; for words the mean with logistic regression, for both with Bayes'
    rule on the single ones, class by class. Keys:
    visual, words, both, and base (share of anomalous frames); `visual:fight` and so on: frames of one class
    of events against all frames without one.
    """
    dials = Dials() if dials is None else dials
    a = _table(simulate_clips(n_train, "train", seed, dials), segments, seed, blur)
    b = _table(simulate_clips(n_test, "test", seed, dials), segments, seed + 1, blur)
    target = (a[2] > 0.5).astype(int)
    bag = CountVectorizer(binary=True, ngram_range=(1, 1), min_df=3, token_pattern=r"\b\w+\b").fit(a[1])
    said = [bag.transform(texts).toarray().astype(np.float32) for texts in (a[1], b[1])]   # (n, w)
    scores = {"visual": _boost(a[0], target, b[0])}
    line = LogisticRegression(C=0.3, max_iter=1000).fit(said[0], target)
    # both: Bayes' rule with a class's pictures and words independent of each other, and a joint classifier
    labels = np.where(target == 1, a[4], 0)
    prior = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
    seen = _fit(a[0], labels, b[0], max_iter=50)                                           # (n, classes)
    told = LogisticRegression(C=0.3, max_iter=1000).fit(said[0], labels).predict_proba(said[1])
    product = seen * told / prior
    product = _logit(1.0 - product[:, 0] / product.sum(axis=1))
    scores["words"] = 0.5 * (_boost(said[0], target, said[1]) + line.decision_function(said[1]))
    joint = _boost(np.hstack([a[0], said[0]]), target, np.hstack([b[0], said[1]]))
    scores["both"] = product + 0.5 * joint
    out = {"base": float(np.average(b[2], weights=b[3]))}
    for name, score in scores.items():
        out[name] = frame_auc(score, b[2], b[3])
        for label in range(1, len(CLASSES)):
            keep = (b[4] == label) | (b[2] == 0)
            out[f"{name}:{CLASSES[label]}"] = frame_auc(score[keep], b[2][keep], b[3][keep])
    return out


def sweep(dial: str, values, **options) -> list[dict[str, float]]:
    """`ceilings` at each value of a dial; every row also holds the value under the dial's name."""
    dials = options.pop("dials", None) or Dials()
    return [{dial: float(v)} | ceilings(dials=replace(dials, **{dial: float(v)}), **options) for v in values]
