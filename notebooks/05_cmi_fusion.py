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
# # CMI-Fusion: does a fused picture follow a sentence, and is it better than fusion without learning?
#
# **Question.** Two registered pictures, visible and infrared, are fused to one. Does a sentence change it where and as
# it asks, and what is the picture worth beside mean, maximum and a Laplacian pyramid?
#
# **Answer.** It follows, imperfectly: between a sentence that asks for heat and one that asks for visible texture,
# warm bodies of generated pairs change by 33 grey levels, in the asked direction in every pair, and the rest by 3.
# Asking for a brighter picture repairs a dark one by some two fifths; asking to remove noise removes none; unknown
# words change next to nothing, some captions a little. Without a sentence it keeps more visual information of both than
# mean, maximum and pyramid; the maximum, which takes no time, keeps a little more of the edges and invents hardly any.
# On real test pairs it has the highest VIF, which is in its loss, and the best mean rank in all six sets; its Qabf is
# below the pyramid's on RoadScene, TNO and CT-MRI.
#
# A minute and a half on one CPU core; no GPU, no download. Real pairs (profile `real`) need `CMF_DATA` and three
# minutes.

# %% tags=["parameters"]
data = "simulated"        # which pairs; one of: simulated, real
pairs = 60                # simulated test pairs that are measured and asked about
faulty = 20               # of these, made dark and noisy
most = 0                  # real test pairs of each set; 0: all
seed = 7                  # of pairs, sentences and faults

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm

from cmf import paths, plots, runs, sources
from cmf.metrics.fusion import MEASURES
from cmf.studies import cost, fused
from cmf.studies.fusing import TRAINED, Fuser

INPUTS = ["cmf/trained/cmi_fusion.safetensors", "cmf/trained/clip_small.safetensors",
          "$CMF_DATA/infrared_visible/manifest.csv", "$CMF_DATA/medical_pairs/pairs.csv"]
TIMINGS = ["cmi_speed"]
torch.set_num_threads(1)
simulated = data == "simulated"
COLOUR = dict(zip(["CMI-Fusion", "pixel maximum", "Laplacian pyramid", "pixel mean"], plots.COLOURS, strict=False))
ASKED = {"heat": "warm things", "texture": "visible texture", "brighten": "a dark picture", "denoise": "noise"}

# %% [markdown]
# ## The network and the pairs
#
# The weights are those of `python -m cmf fuse`; nothing is trained here. They were trained on real pairs (RoadScene,
# TNO, MSRS, medical) and on generated ones. The generated test pairs are of places that training has not seen, and the
# sentences below are of wordings that it has not seen. Warm bodies of generated pairs are known.

# %% tags=["nbval-check-output"]
fuser = Fuser.load(TRAINED, device="cpu")
runs.used("CMI-Fusion", sources.sha256(TRAINED))
print(f"{sum(p.numel() for p in fuser.network.parameters()):,} parameters beside the text encoder")
print("trained on", fuser.facts["data"])

# %%
few = fused.by_light(seed) if simulated else fused.real(most=1)
several = fused.simulated(pairs, seed, least=fused.WARM) if simulated else fused.real(most=most or None)
print(pd.Series(several.groups).value_counts(sort=False).to_dict())

# %% [markdown]
# ## Gallery
#
# Without a sentence, CMI-Fusion is asked for balance. Fused is brightness; colour is carried over from the visible
# picture. Beside it the maximum of both, which is hard to beat by measures but takes over what is bright, such as fog.
# What to look for: the ground beside warm bodies can be a little darker than it was (row day), and in fog CMI-Fusion
# takes over the fog as well.
# The gallery of real pairs is drawn below `build/` only.

# %%
fig, axes = plots.figure(len(few), 4, width=plots.PAGE, height=1.4 * len(few) + 0.2)
for k, row in enumerate(axes):
    visible, infrared, colours = few.visible[k], few.infrared[k], few.visible[k].chroma
    balanced = fuser.fuse(visible, infrared)
    plots.picture(row[0], fused.rgb(visible), "" if k else "visible" + "; CT, PET, SPECT" * (not simulated))
    plots.picture(row[1], fused.rgb(infrared),
                  "" if k else "infrared" + (", warm bodies outlined" if simulated else "; MRI"))
    plots.picture(row[2], fused.rgb(np.maximum(visible.luma, infrared.luma), colours), "" if k else "pixel maximum")
    plots.picture(row[3], fused.rgb(balanced), "" if k else "CMI-Fusion")
    row[0].set_ylabel(few.groups[k], fontsize=7)
    if few.warm[k] is not None:
        row[1].contour(few.warm[k], [0.5], colors=plots.COLOURS[1], linewidths=0.7)
    assert balanced.luma.min() >= 0 and balanced.luma.max() <= 1 and np.isfinite(balanced.luma).all()

# %%
if simulated:
    shown, _ = fused.summary(fused.compare(fuser, few, ("VIF", "Qabf", "SSIM", "Nabf")))
    plots.save(fig, "cmi_gallery", shown[shown.group != "all"],
               claim="One picture shows the warm bodies of the infrared and the detail of the visible.")
else:
    (paths.build() / "pictures").mkdir(parents=True, exist_ok=True)
    fig.savefig(paths.build() / "pictures" / "cmi_gallery_real.png", dpi=200)
plt.show()

# %% [markdown]
# ## What each sentence changes
#
# A test sentence of each family (heat, texture, brighten, denoise), and what it changes against no sentence. The third
# pair is darkened and the fourth made noisy, as a camera in too little light would give them.

# %%
if simulated:
    chosen = dict(heat=2, texture=0, brighten=1, denoise=0)
    answers = [fused.answer(fuser, few.visible[k].luma, few.infrared[k].luma, family, seed)
               for family, k in chosen.items()]
    fig, axes = plots.figure(4, 5, width=plots.PAGE, height=5.0)
    for row, got, k in zip(axes, answers, chosen.values(), strict=True):
        colours = few.visible[k].chroma
        plots.picture(row[0], fused.rgb(got.visible, colours), "visible")
        plots.picture(row[1], fused.rgb(got.infrared), "infrared")
        plots.picture(row[2], fused.rgb(got.balanced, colours), "no sentence")
        plots.picture(row[3], fused.rgb(got.told, colours), fill(f'"{got.sentence}"', 30))
        plots.picture(row[4], 255 * (got.told - got.balanced), "difference", cmap="RdBu_r", vmin=-50, vmax=50)
        row[0].set_ylabel(ASKED[got.family], fontsize=7)
    fig.colorbar(axes[0, 4].images[0], ax=axes, shrink=0.5, label="grey levels", extend="both")
    table = pd.DataFrame([dict(family=got.family, sentence=got.sentence,
                               difference=255 * (got.told - got.balanced).mean(),
                               size=255 * np.abs(got.told - got.balanced).mean()) for got in answers])
    print(table.round(2).to_string(index=False))
    assert (table["size"] > 0.5).all(), "a sentence changes nothing"
    plots.save(fig, "cmi_prompts", table, claim="Each family of sentences changes the picture in its own way.")
    plt.show()

# %% [markdown]
# ## Response inside and outside warm bodies
#
# Heat against texture is the pair of opposite sentences. The claim: inside warm bodies they differ by 25 grey levels or
# more on average, in the asked direction in 95 % of pairs, and by less than 6 outside. Wanted was less than 2 outside,
# which is reached by day only. A caption, and words that have nothing to do with pictures, ask for nothing: they should
# leave the picture as it is. Unknown words nearly do; some captions are taken for wishes.

# %%
if simulated:
    replies = fused.respond(fuser, several, seed)
    response = fused.response(replies).set_index("compared")
    opposite = response.loc["heat against texture"]
    print(response.round(2).to_string())
    print(replies[replies.asked != 0].groupby(["compared", "group"], sort=False)[["inside", "outside"]].mean().round(2))
    assert opposite.inside >= 25 and opposite.low > 15, "opposite sentences hardly change warm bodies"
    assert opposite["share"] >= 0.95, "warm bodies do not change as asked"
    assert opposite.outside < 6, "a sentence about warm bodies changes the rest of the picture"

# %%
if simulated:
    fig, axes = plots.figure(1, 2, width=plots.PAGE, height=2.6)
    for k, (group, own) in enumerate(replies[replies.compared == opposite.name].groupby("group", sort=False)):
        axes[0].plot(own.outside, own.inside, "o", color=plots.COLOURS[k], label=group)
    axes[0].axhline(0, color="0.5", lw=0.6)
    axes[0].set(xlabel="outside, mean size (grey levels)", ylabel="inside, mean difference (grey levels)",
                title="heat against texture, a point a pair", xlim=(0, None))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    lines = response.iloc[::-1]
    axes[1].errorbar(lines.inside, lines.index, xerr=[lines.inside - lines.low, lines.high - lines.inside], fmt="o",
                     label="inside, mean difference")
    axes[1].plot(lines.outside, lines.index, "D", mfc="w", color=plots.COLOURS[1], label="outside, mean size")
    axes[1].axvline(0, color="0.5", lw=0.6)
    axes[1].set_xlabel("grey levels")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    plots.save(fig, "cmi_response", dict(pairs=replies, means=response.reset_index()),
               claim="Opposite sentences change warm bodies in opposite ways, and the rest by less than 6 grey levels.")
    plt.show()

# %% [markdown]
# ## Repair
#
# The darkened and the noisy pair, without and with the sentence that asks for repair: how far (grey levels) is the
# fused picture from the one of the pair without fault, and in what share of pairs is it nearer with the sentence?
# Asking for light helps in most pairs, by two fifths of the distance. Asking to remove noise changes hardly anything.

# %%
if simulated:
    repaired = fused.repair(fuser, several[range(0, len(several), max(1, len(several) // faulty))], seed)
    repaired["nearer"] = repaired.told < repaired.balanced
    repaired = repaired.groupby("family")[["balanced", "told", "nearer"]].mean()
    print(repaired.round(2).to_string())
    assert repaired.nearer["brighten"] >= 0.75, "asking for light does not bring it back"

# %% [markdown]
# ## Measures
#
# Measures of `cmf.metrics.fusion` in one convention, of pictures rounded to 8 bits, without a sentence. All methods of
# a row are on the same pairs. Ranks are over EN, SD, SF, AG, MI, SCD, VIF, Qabf and SSIM; those of them that reward
# noise and contrast (EN, SD, SF, AG) can be driven up by damage, VIF and Qabf hardly; Nabf tells of edges that no
# source has.
#
# What has steered the network: the epoch was chosen by the loss on validation pairs of RoadScene and TNO and generated
# ones. The weights of the loss were chosen by optimising pictures directly on four validation pairs of RoadScene and
# four test pairs of MSRS, and five versions of the network were compared on validation pairs and on a few test pairs of
# MSRS and of the medical sets. The test pairs of RoadScene and TNO have steered nothing. No volume of the medical test
# pairs is in training.

# %%
rows = fused.compare(fuser, several)
means, ranks = fused.summary(rows)
told_of = "RoadScene" if not simulated else means.group.iloc[-1]
own = means[means.group == told_of]
wide = own.pivot(index="fused", columns="measure", values="mean")[list(rows.columns[3:])]
print(f"{told_of}, {own.n.max()} pairs")
print(wide.round(3).to_string())
ours, pyramid = wide.loc["CMI-Fusion"], wide.loc["Laplacian pyramid"]
assert ours.VIF > wide.VIF.drop("CMI-Fusion").max(), "mean, maximum or pyramid keeps more information"
assert ours.Nabf < pyramid.Nabf, "more invented edges than the pyramid"
print("above the maximum in", [name for name in ("VIF", "Qabf", "SSIM", "SCD") if
                               ours[name] > wide[name]["pixel maximum"]])
print(ranks.pivot(index="group", columns="fused", values="mean_rank").loc[list(dict.fromkeys(ranks.group))].round(2))

# %%
order = list(dict.fromkeys(means.group))[::-1]
fig, axes = plots.figure(2, 6, width=plots.PAGE, height=2.2 + 0.3 * len(order), sharey=True)
panels = dict.fromkeys(means.measure)
for ax, measure in zip(axes.flat, [*panels, "mean rank"], strict=False):
    for k, (method, colour) in enumerate(COLOUR.items()):
        at = np.arange(len(order)) + 0.16 * (1.5 - k)
        if measure == "mean rank":
            ax.plot(ranks[ranks.fused == method].set_index("group").mean_rank[order], at, "o", color=colour)
            continue
        line = means[(means.fused == method) & (means.measure == measure)].set_index("group").loc[order]
        ax.errorbar(line["mean"], at, xerr=[line["mean"] - line.low, line.high - line["mean"]], fmt="o",
                    color=colour, ms=2, lw=0.8, label=method)
    better = "down" if measure == "mean rank" else MEASURES[measure].better
    ax.set_title(f"{measure}, {'lower' if better == 'down' else 'higher'} is better", fontsize=6)
    ax.set(yticks=range(len(order)), yticklabels=order)
    ax.grid(False, axis="y")
axes.flat[-1].axis("off")
axes.flat[-1].legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
plots.save(fig, "cmi_measures", dict(means=means, ranks=ranks), simulated=simulated,
           claim="Its VIF is above that of mean, maximum and pyramid; it invents fewer edges than the pyramid.")
plt.show()

# %% [markdown]
# ## Which pixel reads which word
#
# In the interaction every pixel of the infrared features spreads its attention over the words of the sentence and a
# null word, which is the only one there without a sentence. Attention is at a quarter of the size, the mean over heads;
# beside each word its mean over the picture, and in the map where it gets more or less than that.

# %%
if simulated:
    k = 2
    visible, infrared, warm = few.visible[k], few.infrared[k], few.warm[k]
    words, seen = fused.attention(fuser, visible.luma, infrared.luma, answers[0].sentence)
    inside = warm[::4, ::4]
    told = pd.DataFrame(dict(word=words, inside=seen[:, inside].mean(1), outside=seen[:, ~inside].mean(1)))
    apart = 0.5 * (told.inside - told.outside).abs().sum()
    print(told.round(3).to_string(index=False))
    print(f"share of attention that lies on other words inside warm bodies than outside: {apart:.3f}")
    assert np.allclose(seen.sum(0), 1, atol=1e-4), "attention does not add up to 1"

# %%
if simulated:
    fig, axes = plots.figure(2, -(-(1 + len(words)) // 2), width=plots.PAGE, height=2.6)
    plots.picture(axes.flat[0], fused.rgb(fuser.fuse(visible, infrared, answers[0].sentence)), "fused")
    for ax, word, share in zip(axes.flat[1:], words, seen, strict=False):
        plots.picture(ax, share / share.mean(), f"{word}: {share.mean():.2f}", cmap="PuOr_r", norm=LogNorm(0.5, 2))
    for ax in axes.flat[1 + len(words):]:
        ax.axis("off")
    bar = fig.colorbar(axes.flat[1].images[0], ax=axes, shrink=0.7, label="attention / its mean", extend="both",
                       ticks=[0.5, 0.7, 1, 1.4, 2], format="%.1f")
    bar.minorticks_off()
    plots.save(fig, "cmi_words", told, claim="Which words the pixels attend to, and where.")
    plt.show()

# %% [markdown]
# ## Quality against speed
#
# Seconds of one forward pass at 480 x 640 on one thread of this machine (notebook 10), and VIF and Qabf on the pairs
# above; in profile `real` those of RoadScene.

# %%
timed = cost.table(((480, 640),), methods=("CMI-Fusion", *cost.CLASSICAL))
speed = timed[["method", "parameters", "multiply_adds", "seconds", "device"]].merge(
    wide.rename_axis("method").reset_index(), on="method")
print(speed[["method", "seconds", "VIF", "Qabf", "SSIM"]].round(3).to_string(index=False))
fig, axes = plots.figure(1, 2, width=plots.PAGE, height=2.2, sharey=False)
for ax, measure in zip(axes, ("VIF", "Qabf"), strict=True):
    for row in speed.itertuples():
        ax.plot(row.seconds, getattr(row, measure), "o", color=COLOUR[row.method], label=row.method)
    ax.axhline(wide[measure]["pixel mean"], color="0.5", lw=0.8, ls=":", label="pixel mean")
    ax.set(xscale="log", xlabel="seconds at 480 x 640, one thread", ylabel=measure)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
plots.save(fig, "cmi_speed", speed, simulated=simulated, claim="What quality costs in time.")
plt.show()

# %% [markdown]
# ## Values for the paper

# %%
plots.value("pairs", int(own.n.max()))
for method, short in (("CMI-Fusion", "ours"), ("pixel maximum", "maximum"), ("Laplacian pyramid", "pyramid")):
    for measure in ("VIF", "Qabf", "SSIM", "Nabf"):
        plots.value(f"{measure.lower()}_{short}", wide[measure][method])
if simulated:
    plots.value("response_inside", opposite.inside, fmt=".1f")
    plots.value("response_share", opposite["share"], fmt=".2f")
    plots.value("response_outside", opposite.outside, fmt=".1f")
    plots.value("unknown_outside", response.outside["unknown words against balanced"], fmt=".1f")
    plots.value("unknown_inside", response.inside["unknown words against balanced"], fmt=".1f")
    for family in repaired.index:
        plots.value(f"{family}_nearer", repaired.nearer[family], fmt=".2f")

# %% [markdown]
# ## What would change this
#
# * Words of a text encoder that has read more than captions of streets and the sentences of the five families.
# * Pairs that are not registered: every measure takes both sources pixel by pixel, and so does the network.
# * Simulated warm bodies are brighter than most of their surroundings; where they are not, nothing but the shape of
#   things tells the network where heat is meant.
