# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the methods look at: features of frames, sequences, pictures and sentences
#
# **Question.** What reaches the fusion network of each modality, and how much of the class does a simple reader find in
# each family of features?
#
# **Answer.** Every family says something and none says all: numbers measured from both modalities together say far more
# than any family, and the tokens of a backbone that was never trained say little. The small encoders of pictures and
# sentences know simulated streets, as far as the last section says.
#
# Two minutes on two CPU cores when nothing is cached, seconds afterwards; no GPU. All data here are simulated.

# %% tags=["parameters"]
train_targets = 3000     # targets of the split "train"; the same set as in notebook 03
validation_targets = 600 # targets of the split "validation"
test_targets = 1000      # targets of the split "test"
seed = 1                 # of all targets
timed_images = 64        # frames behind the seconds per image
street_pictures = 160    # pictures of unseen streets that the small encoders see again here

# %%
import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer
from threadpoolctl import threadpool_limits

from cmf import baselines, plots, runs
from cmf.encoders.blip import BLIP
from cmf.encoders.clip import CLIP
from cmf.encoders.distilbert import DistilBERT
from cmf.encoders.features import MOTION, RADIOMETRIC, stretch
from cmf.encoders.sequence import SUMMARY
from cmf.simulate.deepspace import CLASSES, NAMES
from cmf.studies import deepspace, twins_data, twins_scores, worlds

INPUTS = ["figures/demo/results/encoders.csv", "cmf/trained/*_small.safetensors"]
torch.set_num_threads(1)  # as in notebook 03, so that both make the same features

# %% [markdown]
# ## Data

# %%
runs.seed_everything(seed)
sets = deepspace.simulated(train_targets, validation_targets, test_targets, seed=seed)
for split, targets in sets.items():
    print(f"{split:<11} {len(targets):>5} targets, sha256 {targets.digest()}")

# %% [markdown]
# ## From frames to tokens
#
# Counts are first **stretched**: $z = (x - \mathrm{median}) / (1.4826\,\mathrm{MAD})$ of each frame, then
# $y = (\mathrm{arsinh}\,z - \mathrm{arsinh}\,z_0) / (\mathrm{arsinh}\,z_1 - \mathrm{arsinh}\,z_0)$ with $z_0 = -3$ and
# $z_1 = 100$, clipped to the unit interval: linear near the noise, logarithmic above it (Lupton, Gunn and Szalay 1999).
#
# The stretched frames go through a **frozen InceptionV3**. Its last spatial map is averaged to 3 x 3 tokens a frame
# (*grid*, projected to 24 channels by a principal component analysis of training targets) and to one vector a frame
# (*pooled*). Weights trained on ImageNet are used where they are at hand; the embedded default has none: its
# convolutions are random by a seed, its batch norms calibrated, and it is labelled so.
#
# What a photometrist would measure stands beside the tokens: *radiometric* columns of each frame and *motion* columns
# of the pair, from the counts and not from the stretched frames.

# %% tags=["nbval-check-output"]
backbone = deepspace.Backbone()
encoder = backbone.build()
print("backbone:", encoder.label)
print("layer", backbone.layer, "at", backbone.size, "pixels,", backbone.grid, "x", backbone.grid, "tokens a frame")
print("radiometric:", ", ".join(RADIOMETRIC))
print("motion:", ", ".join(MOTION))
plots.value("backbone", encoder.label)

# %%
# Seconds an image: printed, not asserted, for it belongs to the machine
frames = torch.from_numpy(stretch(sets["test"].images[:timed_images // 2]).reshape(-1, 1, 32, 32))
device = next(encoder.parameters()).device
with torch.inference_mode():
    encoder(frames[:4].to(device))
    began = time.perf_counter()
    encoder(frames.to(device))[0].cpu()
print(f"{(time.perf_counter() - began) / len(frames):.4f} s an image on {runs.device()}, {encoder.dtype}")

# %% [markdown]
# ## From sequences to tokens
#
# A sequence of 16 irregular samples of temperature and intensity is cut into four *patches* of samples, flags of what
# was observed and the patch's middle in time; one *summary* token describes each channel by the numbers below.

# %% tags=["nbval-check-output"]
print("summary of each channel:", ", ".join(SUMMARY), "; and the correlation of the residuals")

# %%
table, projection = deepspace.features(sets, backbone)
FAMILIES = {"grid": "image", "pooled": "image", "radiometric": "image", "motion": "image", "patches": "sequence",
            "summary": "sequence"}
print(pd.DataFrame([(name, side, *table["train"].columns[name].shape[1:]) for name, side in FAMILIES.items()],
                   columns=["family", "modality", "tokens", "width"]).to_string(index=False))


# %% [markdown]
# ## What simple readers find
#
# Each family alone, then the measured ones of each modality, of both, and everything. The *linear* reader is logistic
# regression with its penalty chosen on the split "validation", on columns mapped to a normal distribution by their
# ranks among training targets, for fluxes span orders of magnitude; *boosting* is the classifier of the ceilings in
# notebook 01, which can also multiply. Both learn on "train" and are judged on "test" (other background, optics and
# orbits). The 4096 numbers of *pooled* are first reduced to 48 principal components of training targets. More columns
# are not better when most of them are noise: compare "everything" with "measured, both".


# %%
def rows(split, names):
    found = [table[split].columns[name].flatten(1).double().numpy() for name in names]
    found = [components.transform(x) if name == "pooled" else x for name, x in zip(names, found, strict=True)]
    return np.concatenate(found, axis=1)


def score(split, predicted):
    return f1_score(labels[split], predicted, average="macro")


def ranks():
    return QuantileTransformer(n_quantiles=200, output_distribution="normal", random_state=seed)


def linear(names):
    data = {split: rows(split, names) for split in deepspace.SPLITS}
    models = [make_pipeline(ranks(), baselines.logistic(seed, c)).fit(data["train"], labels["train"])
              for c in (0.01, 0.1, 1.0, 10.0)]
    best = max(models, key=lambda model: score("validation", model.predict(data["validation"])))
    return score("test", best.predict(data["test"]))


def boosting(names):
    found = worlds.classify(rows("train", names), labels["train"], rows("test", names), seed)
    return score("test", found.argmax(1))


labels = {split: found.columns["labels"].numpy() for split, found in table.items()}
image, sequence = ("radiometric", "motion"), ("summary",)
groups = {name: (name,) for name in FAMILIES} | {"measured, image": image, "measured, sequence": sequence,
                                                 "measured, both": image + sequence, "everything": tuple(FAMILIES)}
with threadpool_limits(1):  # small matrices: threads would wait for one another
    flat = table["train"].columns["pooled"].flatten(1).double().numpy()
    components = PCA(48, svd_solver="randomized", random_state=seed).fit(flat)
    scores = pd.DataFrame([(group, linear(names), boosting(names))
                           for group, names in runs.progress(list(groups.items()), "readers")],
                          columns=["family", "linear", "boosting"]).set_index("family")
chance = 1 / len(CLASSES)
print(f"macro F1, chance {chance:.2f}; {encoder.label}")
print(scores.round(2).to_string())

# %%
assert (scores > chance + 0.03).all(axis=None), "a family says nothing of the class"
single = scores.loc[list(FAMILIES)].max()
assert (scores.loc["measured, both"] > single + 0.05).all(), "one family says as much as both modalities"
if backbone.weights == "untrained":
    tokens, numbers = scores.loc[["grid", "pooled"]].max(), scores.loc[["measured, image"]].max()
    assert (numbers > tokens).all(), "tokens of an untrained backbone say more than measured columns"

# %% [markdown]
# ## Two dimensions
#
# Each family is projected to the two directions that separate the classes best on training targets (linear
# discriminants of the rank-mapped columns, covariance shrunk after Ledoit and Wolf); test targets are shown. What
# overlaps here is not lost: a view is two of five discriminants.


# %%
def view(name):
    model = make_pipeline(ranks(), LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto"))
    model.fit(rows("train", (name,)), labels["train"])
    return model.transform(rows("test", (name,)))[:, :2]


def drawable(places):
    """Limits that hold all but the outermost hundredth."""
    low, high = np.quantile(places, [0.005, 0.995], axis=0)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


with threadpool_limits(1):
    views = {name: view(name) for name in FAMILIES}
kept = pd.concat([pd.DataFrame(dict(family=name, first=places[:, 0], second=places[:, 1],
                                    label=[CLASSES[k] for k in labels["test"]])) for name, places in views.items()])
assert len(kept) == len(FAMILIES) * len(labels["test"]) and np.isfinite(kept[["first", "second"]]).all(axis=None)

# %%
fig, axes = plots.figure(3, 2, height=5.0)
for ax, (name, places) in zip(axes.flat, views.items(), strict=True):
    for k, label in enumerate(CLASSES):
        chosen = places[labels["test"] == k]
        ax.scatter(*chosen.T, s=3, alpha=0.55, linewidths=0, color=plots.COLOURS[k],
                   label=NAMES[label] if ax is axes[0, 0] else None)
    (left, bottom), (right, top) = drawable(places)
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    ax.set_title(f"{name} ({FAMILIES[name]}), F1 {scores.linear[name]:.2f}", loc="left", fontsize=7)
fig.supxlabel("first discriminant", fontsize=8)
fig.supylabel("second discriminant", fontsize=8)
fig.legend(loc="outside upper center", ncols=3, markerscale=3, columnspacing=1, handletextpad=0.2)
claim = "Every family says something of the class, none says all."
plots.save(fig, "features_2d", dict(places=kept, scores=scores.reset_index()), claim=claim)
plt.show()

# %% [markdown]
# ## Pictures and sentences: the small CLIP, BLIP and DistilBERT
#
# CMAF (notebook 04) looks at pictures through CLIP and reads captions through DistilBERT; BLIP writes captions where
# there are none. The published weights go in by name; the embedded default are small networks of the same classes,
# trained from scratch on generated streets with captions from a grammar (`make encoders`). They have seen no
# photograph. Their scores on pictures of places that training did not see are a long result; a part is measured again.

# %%
clip, blip, bert = CLIP(), BLIP(), DistilBERT()
for encoder in (clip, blip, bert):
    runs.used(encoder.label, encoder.fingerprint())
    size = sum(p.numel() for p in encoder.model.parameters()) / 1e6
    print(f"{encoder.label}: {size:.1f} million parameters, sha256 {encoder.fingerprint()[:16]}")
long = runs.read_result("encoders", "demo")
print(long.to_string(index=False))

# %%
streets = twins_data.scenes("test", street_pictures)
own = [captions[0] for captions in streets.captions]
seen, said = clip.images(streets.pictures).pooled, clip.texts(own).pooled
found = twins_scores.retrieval(seen, said, own, np.arange(len(own)))
light = (twins_scores.zero_shot(clip, seen, twins_scores.LIGHT) ==
         [list(twins_scores.LIGHT).index(f["light"]) for f in streets.facts]).mean()
stored = long[long.encoder == "clip"].set_index("score")
print(f"again, among {street_pictures} pictures (there {stored.n.max()}):",
      {k: round(v, 3) for k, v in found.items() if "_r" in k}, "zero-shot light", round(light, 3))
assert abs(light - stored.value["zero_shot_light"]) < 0.1, "the committed scores do not hold here"
for way in ("image_to_text_r5", "text_to_image_r5"):
    assert stored.value[way] > 3 * stored.chance[way], f"{way} is hardly above chance"
    assert found[way] > stored.value[way] - 0.1, "among fewer pictures retrieval must not be harder"

# %%
chosen = [next(i for i, f in enumerate(streets.facts) if f["light"] == light and sum(f["counts"]) >= least)
          for light, least in (("day", 3), ("day", 1), ("dusk", 2), ("night", 2))]
texts = blip.captions(streets.pictures[chosen])
nearest = [own[k] for k in (seen[chosen] @ said.T).argmax(1)]
examples = pd.DataFrame(dict(picture=chosen, true=[own[i] for i in chosen], written_by_blip=texts,
                             nearest_by_clip=nearest))
for row in examples.itertuples():
    print(f"true: {row.true}\n  BLIP writes: {row.written_by_blip}\n  nearest by CLIP: {row.nearest_by_clip}")

# %%
scores = stored.loc[["image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5"]]
fig, axes = plots.figure(5, 1, height=4.9)
fig.set_layout_engine(None)
axes[0].set_position([0.38, 0.76, 0.58, 0.22])
axes[0].barh(np.arange(4), scores.value, color=[plots.COLOURS[0], plots.COLOURS[5]] * 2)
axes[0].vlines(scores.chance, np.arange(4) - 0.4, np.arange(4) + 0.4, color="k", lw=1.2, ls=":")
axes[0].set(yticks=np.arange(4), yticklabels=["picture to sentence, R@1", "R@5", "sentence to picture, R@1", "R@5"],
            xlabel=f"share of {stored.n.max()} queries found", xlim=(0, 1))
axes[0].invert_yaxis()
axes[0].annotate("dotted: chance", (1, 3), ha="right", va="center", fontsize=6.5)
for k, (ax, row) in enumerate(zip(axes[1:], examples.itertuples(), strict=True)):
    ax.set_position([0.01, 0.51 - 0.162 * k, 0.21, 0.15])
    ax.imshow(streets.pictures[row.picture].numpy(), aspect="auto")
    beside = {"written by BLIP": row.written_by_blip, "nearest by CLIP": row.nearest_by_clip, "true": row.true}
    parts = [textwrap.shorten(f"{name}: {text}", 128) for name, text in beside.items()]
    lines = [line for part in parts for line in textwrap.wrap(part, 66)]
    ax.text(1.05, 0.98, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=5.4)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
plots.save(fig, "encoders_retrieval", dict(scores=long, examples=examples),
           claim="Pictures and sentences of unseen streets find each other far above chance.")
plt.show()

# %% [markdown]
# ## What would change this
#
# * Weights trained on pictures (`Backbone(weights="imagenet")`) may put more into the tokens; a point source of three
#   pixels has little texture to offer to any backbone.
# * A reader that multiplies finds more: the size of a sphere is a product of flux, squared range and the inverse of a
#   radiance. Notebook 01 gives the ceilings.
# * Stars near a target mislead the motion columns; a less sensitive sensor (`psnr`) misleads them more often.
