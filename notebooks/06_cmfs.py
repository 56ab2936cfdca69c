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
# # CMFS: do two cameras and the names of classes label a street better than one camera?
#
# **Question.** One network fuses a visible and an infrared picture and labels every pixel. Is it better than with one
# of the two?
#
# **Answer.** Yes: over three seeds the mean intersection over union of nine classes is 0.35 with both, 0.30 with the
# infrared camera alone and 0.22 with the visible one; the difference to the better one is 0.05, in every seed, with an
# interval clear of zero. Whether the rest of CMFS is worth its cost against both cameras as four channels of one
# encoder (0.32) is not shown, and none of its parts shows a gain (notebook 08); without the names of the classes, whose
# gate is open everywhere, it is ahead. Bicycles and bags are not found at all. Another network labels the infrared
# pictures alone better than the pictures fused by any method. On real fields in red and near infrared a small U-Net on
# both bands (0.78) is ahead of CMFS (0.74).
#
# A minute on one CPU core; no GPU, no download. All pictures are simulated, but for the fields (`data = "cwfid"`),
# which need `CMF_DATA` and most of an hour.

# %% tags=["parameters"]
data = "simulated"        # which pictures; one of: simulated, cwfid
scenes = 64               # simulated test scenes, of those whose results are committed
shown = 5                 # of these, drawn
seed = 1                  # of the scenes; in fields, of training

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Patch

from cmf import plots, runs, sources
from cmf.datasets.segmentation import CLASSES, PALETTE, painted
from cmf.metrics.segmentation import scores
from cmf.studies import fields, inspected, segmenting
from cmf.studies.segmenter import TRAINED, Segmenter

INPUTS = ["cmf/trained/cmfs_street.safetensors", "cmf/trained/clip_small.safetensors",
          "figures/demo/results/cmfs_*.csv", "figures/demo/results/downstream*.csv",
          "$CMF_DATA/infrared_visible/manifest.csv"]
torch.set_num_threads(1)
simulated = data == "simulated"
STREET = CLASSES["street"]

# %% [markdown]
# ## Scenes
#
# Generated streets of places that training has not seen, 192 x 256 pixels, by day, dusk and night, with the label of
# every pixel, and with four times the usual number of people and things. The classes are like those of MFNet. Labels
# follow what the visible camera could see by day: who stands in smoke is labelled smoke, though the infrared shows him.

# %% tags=["nbval-check-output"]
if simulated:
    some = segmenting.sets(seed=seed)
    test = {name: column[:scenes] for name, column in some.test.items()}
    share = torch.bincount(test["label"].flatten().long(), minlength=len(STREET)).double()
    share = (share / share.sum()).numpy()
    print(pd.DataFrame(dict(label=STREET, share=(100 * share).round(3), pictures=[
        int((test["label"] == k).flatten(1).any(1).sum()) for k in range(len(STREET))])).to_string(index=False))

# %%
if simulated:
    segmenter = Segmenter.load(TRAINED, device="cpu")
    runs.used("CMFS", sources.sha256(TRAINED))
    print(f"{sum(p.numel() for p in segmenter.network.parameters()):,} parameters; trained on", segmenter.facts["data"])
    print("read in pieces by the text encoder:", ", ".join(segmenter.spelled) or "no class")
    rich = [len(torch.unique(label)) for label in test["label"]]
    chosen = sorted(np.argsort(rich)[::-1][:shown].tolist())
    colours = PALETTE["street"]
    legend = [Patch(color=np.array(colour) / 255, label=name) for name, colour in zip(STREET, colours, strict=True)]

# %%
if simulated:
    fig, axes = plots.figure(3, shown, width=plots.PAGE, height=3.4)
    for column, k in zip(axes.T, chosen, strict=True):
        visible, infrared = test["visible"][k].permute(1, 2, 0).numpy(), test["infrared"][k][0].numpy()
        plots.picture(column[0], visible)
        plots.picture(column[1], infrared, cmap="gray", vmin=0, vmax=255)
        plots.picture(column[2], painted(test["label"][k].numpy(), colours))
    for ax, name in zip(axes[:, 0], ("visible", "infrared", "label"), strict=True):
        ax.set_ylabel(name, fontsize=7)
    fig.legend(handles=legend, loc="outside lower center", ncols=len(STREET), fontsize=6, handlelength=1)
    table = pd.DataFrame([dict(scene=some.ids[k], label=name, share=float((test["label"][k] == c).double().mean()))
                          for k in chosen for c, name in enumerate(STREET)])
    assert (table.groupby("scene").share.sum() - 1).abs().max() < 1e-6
    plots.save(fig, "cmfs_scenes", table, claim="Labelled scenes in both bands.")
    plt.show()

# %% [markdown]
# ## Method
#
# Two encoders of the kind of VMamba (selective scans along four directions, `eq:cmfs-scan`), one for each camera.
# After each stage they exchange features region by region; a gate compares each region with the words of the classes.
# The first two stages are also scanned among their wavelet bands and filtered by frequency. What both know is joined,
# refined by low-rank experts, one for each region, and labelled; a second head mixes the two pictures and redraws a
# bounded part. The demo network has 2 M parameters, the published size 135 M.
#
# Arms, training and judging are those of `cmf.studies.segmenting`: all arms see the same windows for as long, the epoch
# is chosen on validation scenes. Their results are committed (`make results`); here the ready network, which is the
# first seed of the arm CMFS, is judged again.

# %%
if simulated:
    long = runs.read_result("cmfs_arms", "demo")
    said = segmenting.labelled(segmenter.network, test)
    counts = segmenting.counted(test["label"], said["label"], len(STREET))
    again = scores(counts.sum(0))
    kept = long[(long.arm == "CMFS") & (long.seed == seed)].iloc[0]
    print(f"ready network: mIoU {again['miou']:.4f}, of the foreground {again['miou_foreground']:.4f}; committed "
          f"{kept.miou:.4f}, {kept.miou_foreground:.4f}")
    if scenes == len(some.test["label"]):
        assert abs(again["miou"] - kept.miou) < 5e-3, "the ready network is not the arm whose results are committed"

# %%
if simulated:
    fig, axes = plots.figure(shown, 5, width=plots.PAGE, height=1.12 * shown + 0.3)
    for row, k in zip(axes, chosen, strict=True):
        first = k == chosen[0]
        plots.picture(row[0], test["visible"][k].permute(1, 2, 0).numpy(), "visible" if first else None)
        plots.picture(row[1], test["infrared"][k][0].numpy(), "infrared" if first else None, cmap="gray", vmin=0,
                      vmax=255)
        plots.picture(row[2], said["fused"][k].permute(1, 2, 0).numpy(), "fused" if first else None)
        plots.picture(row[3], painted(said["label"][k].numpy(), colours), "labelled by CMFS" if first else None)
        plots.picture(row[4], painted(test["label"][k].numpy(), colours), "truth" if first else None)
    fig.legend(handles=legend, loc="outside lower center", ncols=len(STREET), fontsize=6, handlelength=1)
    drawn = pd.DataFrame([dict(scene=some.ids[k], miou=scores(counts[k])["miou"]) for k in chosen])
    plots.save(fig, "cmfs_gallery", drawn, claim="Fused pictures and labels of unseen places, beside the truth.")
    plt.show()

# %% [markdown]
# ## Result
#
# Intersection over union of each class, counts added over the seeds, intervals over test scenes; a class that few
# scenes show has a wide one. The claim: both cameras beat the better single one by their mean over the classes.

# %%
if simulated:
    classes, compared = runs.read_result("cmfs_classes", "demo"), runs.read_result("cmfs_compare", "demo")
    whole, front = (compared[compared.foreground == one].set_index("arm") for one in (False, True))
    print(whole.drop(columns="foreground").round(3).to_string())
    better = max(("visible only", "infrared only"), key=lambda arm: whole.miou[arm])
    step = whole.loc[better]
    print(f"CMFS minus {better}: {step.difference:.3f} [{step.difference_low:.3f}, {step.difference_high:.3f}]")
    print("wanted, at least 0.03 with an interval clear of zero:", step.difference >= 0.03 and step.difference_low > 0)
    assert step.difference_low > 0 and step.seeds_low > 0, "two cameras are not better than one"

# %%
if simulated:
    main = [arm for arm in segmenting.MAIN if arm in set(classes.arm)]
    fig, ax = plots.figure(1, 1, width=plots.PAGE, height=2.3)
    for k, arm in enumerate(main):
        rows = classes[classes.arm == arm].set_index("label").loc[list(STREET)]
        at = np.arange(len(STREET)) + 0.16 * (k - 1.5)
        ax.errorbar(at, rows.iou, yerr=[(rows.iou - rows.low).clip(0), (rows.high - rows.iou).clip(0)], fmt="o",
                    ms=3, lw=0.9, label=arm)
    ax.set(xticks=range(len(STREET)), xticklabels=STREET, ylabel="intersection over union", ylim=(0, 1.02))
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    plots.save(fig, "cmfs_classes", classes[classes.arm.isin(main)], claim="What each camera knows of each class.")
    plt.show()

# %% [markdown]
# ## Bands before and after
#
# What the frequency-spatial blocks do to the maps of the first two stages: shares of energy in the bands of two Haar
# levels, and energy by spatial frequency. The blocks are meant to take noise away; nothing in the loss asks for it, and
# the share of what is fine falls by one or two hundredths in three of the four maps, and rises in the infrared one of
# the second stage by fourteen.

# %%
if simulated:
    few = {name: column[chosen] for name, column in test.items()}
    maps = inspected.maps(segmenter.network, few)
    bands, waves = inspected.energy(maps), inspected.spectrum(maps)
    print(bands.pivot_table(index=["stage", "stream", "when"], columns="band", values="share", sort=False).round(3))
    fig, axes = plots.figure(1, 4, width=plots.PAGE, height=2.0, sharey=True)
    for ax, ((stage, stream), rows) in zip(axes, waves.groupby(["stage", "stream"], sort=False), strict=True):
        for k, (when, line) in enumerate(rows.groupby("when", sort=False)):
            ax.plot(line.frequency, line.energy, ls="-" if k else "--", color=plots.COLOURS[k], label=when)
        ax.set(title=f"stage {stage}, {stream}", xlabel="cycles a pixel of the map", yscale="log")
    axes[0].set_ylabel("energy of coefficients")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    assert np.allclose(bands.groupby(["stage", "stream", "when"]).share.sum(), 1, atol=1e-5)
    plots.save(fig, "cmfs_bands", dict(bands=bands, spectrum=waves), claim="What the frequency blocks do to the maps.")
    plt.show()

# %% [markdown]
# ## Which expert saw what
#
# Each square of 32 x 32 pixels goes, at every stage, to one of three experts. An expert that sees nearly nothing would
# be dead weight. No label told the router anything, so classes may share an expert.

# %%
if simulated:
    routed = inspected.experts(segmenter.network, test, STREET)
    least = routed[routed.label == "all"].share.min()
    print(f"least share of all pixels that an expert sees: {least:.3f} (here), {long.least_load.min():.3f} (all arms)")
    stages = sorted(set(routed.stage))
    fig, axes = plots.figure(1, len(stages), width=plots.PAGE, height=2.3, sharey=True)
    for ax, stage in zip(axes, stages, strict=True):
        rows = routed[(routed.stage == stage) & (routed.block == 1)]
        wide = rows.pivot(index="label", columns="rank", values="share")
        wide = wide.reindex([name for name in ("all", *STREET) if name in wide.index])
        ax.imshow(wide, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        ax.set(title=f"stage {stage}", xlabel="rank of the expert", xticks=range(wide.shape[1]),
               xticklabels=wide.columns, yticks=range(len(wide)), yticklabels=wide.index)
        ax.grid(False)
        for (r, c), value in np.ndenumerate(wide.to_numpy()):
            ax.text(c, r, f"{value:.2f}", ha="center", va="center", fontsize=5, color="w" if value > 0.6 else "k")
    plots.save(fig, "cmfs_experts", routed, claim="Which expert saw the pixels of which class.")
    plt.show()

# %% [markdown]
# ## Gates
#
# For one scene and the first stage: the share of the exchange that the visible stream takes at every pixel, how much
# each of the 5 x 5 regions exchanges, and which class's words the region resembles most. The words come from the small
# CLIP, which knows few things (notebook 02). In 600 steps the gate by text has learnt to stay open: it says the same of
# every region, and what a region resembles means nothing.

# %%
if simulated:
    one = {name: column[chosen[0]:chosen[0] + 1] for name, column in test.items()}
    gate = inspected.gates(segmenter.network, one)[0]
    nearest = gate["similarity"].argmax(-1)
    fig, axes = plots.figure(1, 4, width=plots.PAGE, height=1.6)
    plots.picture(axes[0], one["visible"][0].permute(1, 2, 0).numpy(), "visible")
    plots.picture(axes[1], gate["pixel"], "share of the visible stream", cmap="PuOr_r", vmin=0, vmax=1)
    plots.picture(axes[2], gate["region"], "exchange of a region", cmap="viridis", vmin=0, vmax=1)
    plots.picture(axes[3], gate["region"] * 0 + nearest, "nearest words", cmap="tab10", vmin=0, vmax=9)
    for (r, c), k in np.ndenumerate(nearest):
        axes[3].text(c, r, STREET[1 + k], ha="center", va="center", fontsize=4.5, color="w")
        axes[2].text(c, r, f"{gate['region'][r, c]:.2f}", ha="center", va="center", fontsize=4.5, color="w")
    rows = [dict(row=r, column=c, exchange=float(gate["region"][r, c]), nearest=STREET[1 + k],
                 cosine=float(gate["similarity"][r, c, k])) for (r, c), k in np.ndenumerate(nearest)]
    assert (gate["pixel"] > 0).all() and (gate["pixel"] < 1).all()
    plots.save(fig, "cmfs_gates", pd.DataFrame(rows), claim="How much a region exchanges, and what it is like.")
    plt.show()

# %% [markdown]
# ## Noise in one of the two
#
# Gaussian noise added to one picture of test scenes, its spread as a share of white; training has met none. At a spread
# of 0.1 in the visible picture what two cameras brought is lost: the infrared one alone is then better. One seed.

# %%
if simulated:
    noise = runs.read_result("cmfs_noise", "demo")
    lines = noise.groupby(["arm", "noise_in", "level"], sort=False).miou.mean().reset_index()
    fig, axes = plots.figure(1, 2, width=plots.PAGE, height=2.1, sharey=True)
    for ax, (band, rows) in zip(axes, lines.groupby("noise_in", sort=False), strict=True):
        for arm, line in rows.groupby("arm", sort=False):
            ax.plot(line.level, line.miou, "o-", ms=3, label=arm)
        ax.set(title=f"noise in the {band} picture", xlabel="spread, white is 1")
    axes[0].set_ylabel("mIoU")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    wide = lines.pivot_table(index=["noise_in", "level"], columns="arm", values="miou", sort=False)
    print(wide.round(3))
    assert wide["visible only"].xs("infrared").nunique() == 1, "an arm sees what it should not"
    plots.save(fig, "cmfs_noise", lines, claim="What noise in one picture takes away.")
    plt.show()

# %% [markdown]
# ## What fused pictures are worth to another network
#
# Both papers claim that fused pictures help whoever reads them. Here one small U-Net learns to label the grey pictures
# of each method: the two cameras alone, fusion without learning, and the ready weights of CMI-Fusion and of CMFS, on
# the same windows, 960 steps, one seed each (`cmf.studies.downstream`). CMFS was trained to label such scenes, which no
# other method was. The mean rank is over ten measures of the same pictures, 1 is best; it asks how much of both sources
# a picture holds, and knows nothing of labels.
#
# Against the claim, and against us: the infrared picture alone is labelled better than every fused one. Only the mean
# and the pyramid, in which warm things stand out from a dulled street, are above the visible picture; CMI-Fusion and
# CMFS, which keep the visible street as it is, are below it. The better the measures rank a method, the worse its
# pictures are labelled.

# %%
if simulated:
    learnt = runs.read_result("downstream", "demo")
    ranks = runs.read_result("downstream_ranks", "demo")
    learnt = learnt.merge(ranks[["method", "mean_rank"]], on="method")
    print(learnt.drop(columns=[name for name in learnt if name.startswith("iou_")]).round(3).to_string(index=False))
    reader = learnt.set_index("method")
    behind = reader.mean_rank["CMFS"] - reader.mean_rank["CMI-Fusion"]
    print(f"mean rank of CMFS minus that of CMI-Fusion: {behind:.2f}; wanted, at most 1: {behind <= 1}")
    assert reader.low["infrared"] > reader.high.drop("infrared").max(), "a fused one is labelled as well"
    opposed = reader.mean_rank.corr(reader.miou, method="spearman")
    print(f"rank correlation of mIoU with the mean rank (large is bad) over {len(reader)} methods: {opposed:.2f}")
    assert opposed > 0.5, "measures and labels do not oppose each other"

# %%
if simulated:
    order = learnt.sort_values("miou")
    fig, axes = plots.figure(1, 2, width=plots.PAGE, height=2.3, sharey=True)
    reach = [(order.miou - order.low).clip(0), (order.high - order.miou).clip(0)]
    axes[0].errorbar(order.miou, order.method, xerr=reach, fmt="o")
    axes[1].plot(order.mean_rank, order.method, "o")
    axes[0].set_xlabel("mIoU of a U-Net, 95 % interval over scenes")
    axes[1].set_xlabel("mean rank by ten measures (1 is best)")
    plots.save(fig, "cmfs_downstream", learnt,
               claim="Infrared pictures are labelled better than any fused ones; measures of fusion say the opposite.")
    plt.show()

# %%
if simulated:
    for arm, short in (("visible only", "visible"), ("infrared only", "infrared"), ("early concatenation", "early"),
                       ("CMFS", "cmfs")):
        plots.value(f"{short}_miou", whole.miou[arm])
    plots.value("cmfs_low", whole.low["CMFS"])
    plots.value("cmfs_high", whole.high["CMFS"])
    plots.value("gain", step.difference)
    plots.value("gain_low", step.difference_low)
    plots.value("gain_high", step.difference_high)
    plots.value("least_expert", least, fmt=".2f")
    plots.value("seeds", long[long.arm == "CMFS"].seed.nunique())
    plots.value("train_scenes", segmenting.SCENES["train"])
    plots.value("test_scenes", segmenting.SCENES["test"])
    for method, short in (("visible", "visible"), ("infrared", "infrared"), ("pixel mean", "mean"),
                          ("pixel maximum", "maximum"), ("Laplacian pyramid", "pyramid"), ("CMI-Fusion", "cmi"),
                          ("CMFS", "cmfs")):
        plots.value(f"read_{short}", reader.miou[method])
        plots.value(f"rank_{short}", reader.mean_rank[method], fmt=".1f")
    for end in ("difference", "difference_low", "difference_high"):
        plots.value(f"read_cmi_{end}", reader[end]["CMI-Fusion"])
    plots.value("read_opposed", opposed, fmt=".2f")

# %% [markdown]
# ## Fields
#
# Real pictures: CWFID, fields in red and near infrared, whose pixels are soil, crop or weed. 32 pictures to train on, 8
# to choose by, 10 to judge on, none drawn here. Beside CMFS, which begins with the encoders of simulated streets: a
# threshold on a vegetation index, random forests on pixels, and small U-Nets, on each band alone and on both. The
# claim: two bands are better than either for the U-Net. Where CMFS stands among them is printed.

# %%
if not simulated:
    parts = fields.load()
    print(f"{len(parts.train)}, {len(parts.held)} and {len(parts.test)} pictures; shares of "
          f"{', '.join(fields.CLASSES)}:", (np.bincount(parts.test.label.ravel()) / parts.test.label.size).round(3))
    found = fields.table(parts, seed=seed)
    print(found.round(3).to_string(index=False))

# %%
if not simulated:
    table = found.drop(columns="seconds")
    at = table.set_index(["system", "bands"])
    both = at.xs("both", level="bands")
    assert both.miou["U-Net"] > at.loc["U-Net"].miou.drop("both").max(), "a second band brings the U-Net nothing"
    assert both.miou["CMFS"] > both.miou["NDVI threshold"], "CMFS is below a threshold"
    print("CMFS minus U-Net on both bands: {:.3f} [{:.3f}, {:.3f}]".format(
        *both.loc["U-Net", ["difference", "difference_low", "difference_high"]]))
    print("wanted, mIoU of CMFS at least 0.82:", both.miou["CMFS"] >= 0.82)

# %%
if not simulated:
    order = table.iloc[::-1]
    names = order.system + ", " + order.bands
    fig, axes = plots.figure(1, 2, width=plots.PAGE, height=2.4, sharey=True)
    axes[0].errorbar(order.miou, names, xerr=[order.miou - order.low, order.high - order.miou], fmt="o", label="mIoU")
    for label, mark in zip(fields.CLASSES, "sv^", strict=True):
        axes[0].plot(order[label], names, mark, mfc="none", ms=3, color="0.5", label=label)
    others = order[order.system != "CMFS"]
    axes[1].errorbar(others.difference, others.system + ", " + others.bands, fmt="o", xerr=[
        others.difference - others.difference_low, others.difference_high - others.difference])
    axes[1].axvline(0, color="black", lw=0.8)
    axes[0].set_xlabel("intersection over union, 95 % interval of the mean")
    axes[1].set_xlabel("mIoU, CMFS minus system")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    plots.save(fig, "cwfid_miou", table, simulated=False, claim="A second band helps the U-Net to tell crop from weed.")
    plt.show()

# %%
if not simulated:
    for (system, bands), row in at.iterrows():
        short = f"{system} {bands}".lower().replace("-", "").replace(" ", "_")
        plots.value(f"{short}_miou", row.miou)
    plots.value("cwfid_low", both.low["CMFS"])
    plots.value("cwfid_high", both.high["CMFS"])
    for end in ("difference", "difference_low", "difference_high"):
        plots.value(f"cwfid_unet_{end}", both[end]["U-Net"])
    for split, some in vars(parts).items():
        plots.value(f"cwfid_{split}", len(some))

# %% [markdown]
# ## What would change this
#
# * The published size with pretrained encoders on MFNet, FMB or PST900 (`python -m cmf train cmfs --data mfnet`), which
#   needs a GPU and days.
# * Words of a CLIP that has seen more than generated streets.
# * Labels that do not follow one of the two cameras.
