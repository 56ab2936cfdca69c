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
# # One world, several renderings: simulated targets, streets and surveillance clips
#
# **Question.** Do the modalities of a simulated world each tell only a part of what is to be found, so that a claim
# about fusion can fail on these data?
#
# **Answer.** Yes. Of deep-space targets a macro F1 above 0.95 is within reach from both renderings and less than 0.85
# from either; of surveillance clips, pictures and words tell more together than alone; and nothing that should be
# silent about the class speaks.
#
# Two minutes on two CPU cores; no GPU, no download. All data here are simulated.

# %% tags=["parameters"]
train_targets = 1500     # targets of the split "train" behind each ceiling
test_targets = 800       # targets of the split "test" on which it is measured
seeds = 3                # repetitions with new targets, behind each ceiling
sweep_targets = 1200     # training targets at each setting of a dial
seed = 0                 # of the targets, streets and clips that are shown
street_pairs = 48        # street scenes from which six are shown
measured_pairs = 24      # and behind the statistics, by day and by night each
train_clips = 240        # surveillance clips behind their ceilings, split "train"
test_clips = 160         # and split "test"

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap

from cmf import cache, plots, runs
from cmf.encoders.features import stretch
from cmf.simulate import deepspace as simulator
from cmf.simulate import street
from cmf.studies import clips as surveillance
from cmf.studies import worlds

COLOUR = dict(zip(simulator.CLASSES, plots.COLOURS, strict=False))

# %% [markdown]
# ## The world
#
# A body is drawn first: its shape and size, emissivity, absorptance, heat capacity, internal heat, spin, orbit and
# range. Its temperature follows the heat balance (equation `eq:heat` of the paper; semi-implicit Euler steps of
# 6 s), its irradiance equation `eq:flux` with Planck's law from 8 to 12 µm. Both renderings are made from these facts:
#
# * **frames** A and B, 4 s apart: a Gaussian point source at sub-pixel places, among stars that move together, with
#   shot noise, read noise and a fixed pattern. They measure the flux $\epsilon A_p L(T) / r^2$ and the angular motion
#   $v / r$;
# * **the sequence**: temperature, and an intensity whose gain and range are unknown, at 16 irregular instants within
#   720 s, some of them missing.
#
# The class is a fact about the body; no renderer takes it as an input.

# %% tags=["nbval-check-output"]
train = simulator.simulate_targets(train_targets, "train", seed)
test = simulator.simulate_targets(test_targets, "test", seed)
print("frames", train.images.shape, "in counts; sequences", train.sequences.shape, "in K and W/sr")
print("targets of each class:", dict(zip(simulator.NAMES.values(), np.bincount(train.labels).tolist(), strict=True)))
print(f"missing samples: {np.isnan(train.sequences[..., 0]).mean():.2f}")

# %%
for split, targets in (("train", train), ("test", test)):
    content = dict(images=targets.images, times=targets.times, sequences=targets.sequences, labels=targets.labels)
    print(split, "sha256", cache.digest(content))

# %% [markdown]
# ## Splits are worlds
#
# Training, validation and test differ in sensor, background and orbits as well as in their random numbers; `shift` lies
# outside the range of the training world: higher and more often in the shadow, blurred and noisier.

# %% tags=["nbval-check-output"]
from cmf.simulate.deepspace_sensor import WORLDS

columns = ["background", "slope", "psf", "column", "altitude", "edge", "entering", "noise"]
print(pd.DataFrame({name: {c: getattr(world, c) for c in columns} for name, world in WORLDS.items()}).to_string())

# %% [markdown]
# ## Frames
#
# Three targets of each class in frames A and B, contrast stretched as for the encoder (arcsinh of counts above the
# background in units of the noise). The circle marks the target. Size hardly shows: a large
# sphere far away and a small one near by give the same light. The motion, which is larger near by, and the change of
# a tumbling plate between the frames say something.

# %%
chips = stretch(train.images)
shown = {k: np.flatnonzero(train.labels == k)[:3] for k in range(len(simulator.CLASSES))}
rows = [(simulator.CLASSES[k], train.ids[i], frame, *train.truth[f"position_{frame.lower()}"][i],
         train.truth["snr"][i, "AB".index(frame)], train.truth["range"][i] / 1e3)
        for k, chosen in shown.items() for i in chosen for frame in "AB"]
contact = pd.DataFrame(rows, columns=["class", "id", "frame", "x_px", "y_px", "peak_snr", "range_km"])
flux = train.truth["flux"][:, 0]
brighter = np.mean(flux[train.labels == 1][:, None] < flux[train.labels == 2])
print(f"share of pairs in which the sphere of 0.9 m is brighter than that of 0.6 m: {brighter:.2f} (0.5 is chance)")
assert 0.5 < brighter < 0.8, "flux alone would tell the largest spheres"

# %%
fig, axes = plots.figure(3, 12, width=plots.PAGE, height=2.2)
fig.set_layout_engine(None)
for k, chosen in shown.items():
    for row, i in enumerate(chosen):
        for f, frame in enumerate("AB"):
            ax = axes[row, 2 * k + f]
            ax.imshow(chips[i, f], cmap="gray", vmin=0.2, vmax=1, origin="lower")
            place = train.truth[f"position_{frame.lower()}"][i]
            ax.add_patch(plt.Circle(place, 4.5, fill=False, color=plots.COLOURS[4], lw=0.7))
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
            if row == 2:
                ax.set_xlabel(frame, labelpad=2)
    title = axes[0, 2 * k].annotate(simulator.NAMES[simulator.CLASSES[k]], (1.02, 1.08), xycoords="axes fraction",
                                    ha="center", annotation_clip=False)
    title.set_in_layout(False)
fig.subplots_adjust(left=0.005, right=0.995, top=0.90, bottom=0.11, wspace=0.05, hspace=0.05)
plots.save(fig, "sim_targets", contact, claim="Flux alone does not tell a sphere of 0.9 m from one of 0.6 m.")
plt.show()

# %% [markdown]
# ## A scene
#
# Several targets stand in one pair of frames. Stars share one displacement from A to B, each target has its own.

# %%
scene = simulator.simulate_scene(20, 1024, psnr=8.0, split="test", seed=seed)
own = np.hypot(*(scene.positions_b - scene.positions_a - scene.drift).T)
print(f"{len(scene.labels)} targets, {len(scene.stars)} stars; stars move {np.hypot(*scene.drift):.2f} pixels, "
      f"targets {own.min():.1f} to {own.max():.1f} pixels beyond that")
assert own.min() > 2.4, "a target would move with the stars"

# %%
SIDE = 110
apart = np.hypot(*(scene.positions_a[:, None] - scene.positions_a).transpose(2, 0, 1)) + 1e9 * np.eye(len(own))
near = np.unravel_index(apart.argmin(), apart.shape)                                       # the closest two
x0, y0 = np.clip(scene.positions_a[list(near)].mean(0) - SIDE / 2, 0, 1024 - SIDE).astype(int)
picture = stretch(scene.frames[None])[0]
coarse = picture[0].reshape(512, 2, 512, 2).max((1, 3))

fig, axes = plots.figure(2, 2, height=5.15, height_ratios=[1.95, 1])
grid = axes[0, 0].get_gridspec()
axes[0, 0].remove(), axes[0, 1].remove()
whole = fig.add_subplot(grid[0, :])
whole.imshow(coarse, cmap="gray", vmin=0.25, vmax=1, origin="lower", extent=(-0.5, 1023.5, -0.5, 1023.5))
whole.add_patch(plt.Rectangle((x0, y0), SIDE, SIDE, fill=False, color="w", lw=0.8))
whole.scatter(*scene.positions_a.T, s=45, facecolors="none", edgecolors=plots.COLOURS[4], linewidths=0.9)
whole.set_title("frame A, 1024 x 1024 pixels; targets circled")
for f, ax in enumerate(axes[1]):
    ax.imshow(picture[f, y0:y0 + SIDE, x0:x0 + SIDE], cmap="gray", vmin=0.25, vmax=1, origin="lower",
              extent=(x0 - 0.5, x0 + SIDE - 0.5, y0 - 0.5, y0 + SIDE - 0.5))
    for i in near:
        dashed = ":" if f else "-"
        ax.add_patch(plt.Circle(scene.positions_a[i], 6, fill=False, color=plots.COLOURS[4], lw=0.9, ls=dashed))
        if f:
            ax.add_patch(plt.Circle(scene.positions_b[i], 6, fill=False, color=plots.COLOURS[4], lw=0.9))
    ax.set_title("square in B; dotted: as in A" if f else "square in A", fontsize=7)
for ax in (whole, *axes[1]):
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
table = pd.DataFrame(dict(label=[simulator.CLASSES[k] for k in scene.labels], x_a=scene.positions_a[:, 0],
                          y_a=scene.positions_a[:, 1], x_b=scene.positions_b[:, 0], y_b=scene.positions_b[:, 1]))
plots.save(fig, "sim_scene", table, claim="Every target moves otherwise than the stars.")
plt.show()

# %% [markdown]
# ## Sequences
#
# Temperature and intensity of three bodies of each class that cross the edge of the Earth's shadow within the window
# (a body that stays in sunlight keeps its temperature whatever its heat capacity). Dots are samples, lines the truth.
# A light float follows the sunlight at once, a heated platform hardly cools, a tumbling plate's intensity flickers.
# Spheres of the three sizes cool alike, and the unknown gain hides the size in the intensity.

# %%
entry, leave = train.truth["shadow_entry"], train.truth["shadow_exit"]
crossing = ((entry > 120) & (entry < 480)) | ((leave > 120) & (leave < 480))
fall = np.ptp(train.truth["temperature"], axis=1)
swing = {c: np.median(fall[crossing & (train.labels == k)]) for k, c in enumerate(simulator.CLASSES)}
print("median range of temperature in K:", {c: round(float(v)) for c, v in swing.items()})
assert swing["tai"] < min(swing[c] for c in ("0.3", "0.6", "0.9")) and swing["fu"] > 2 * swing["0.9"]

# %%
fig, axes = plots.figure(6, 2, height=5.6, sharex=True, sharey="col")
kept = []
for k, name in enumerate(simulator.CLASSES):
    for j, i in enumerate(np.flatnonzero(crossing & (train.labels == k))[:3]):
        pairs = ((train.sequences[i, :, 0], train.truth["temperature"][i]),
                 (train.sequences[i, :, 1], train.truth["apparent_intensity"][i]))
        for ax, (seen, truth) in zip(axes[k], pairs, strict=True):
            ax.plot(train.times[i], truth, color=plots.COLOURS[j], lw=0.8)
            ax.plot(train.times[i], seen, "o", color=plots.COLOURS[j], ms=2)
        kept.append(pd.DataFrame(dict(label=name, id=train.ids[i], seconds=train.times[i], kelvin=pairs[0][0],
                                      kelvin_truth=pairs[0][1], intensity=pairs[1][0], intensity_truth=pairs[1][1])))
    axes[k, 0].set_title(simulator.NAMES[name], loc="left", pad=2)
    axes[k, 1].set_yscale("log")
axes[0, 0].set_ylim(150, 330)
axes[0, 0].set_xlim(0, 720)
for ax in axes[-1]:
    ax.set(xlabel="time / s", xticks=[0, 240, 480, 720])
fig.supylabel("temperature / K", fontsize=8)
axes[0, 1].set_title("apparent intensity / (W/sr)", loc="right", pad=2)
plots.save(fig, "sim_sequences", pd.concat(kept), claim="Heat capacity and internal heat show in the temperature.")
plt.show()

# %% [markdown]
# ## Ceilings
#
# How far could a classifier get? Gradient boosting is trained on one world and judged on another, on a few physical
# columns: flux in A and B, motion and their combinations for the frames; level, slope, curvature, scatter and extremes
# of temperature and of intensity over radiance for the sequence; and for both also the flux at a common range over
# the radiance of the sequence's temperature, which is emissivity times area. *Latent* columns come from the
# noise-free quantities that the modality carries (range, gain and emissivity stay hidden), *measured* ones from pixels
# and samples at the default dials. The latent ones are the ceilings of the paper.

# %%
scores, pairs = worlds.ceilings(train_targets, test_targets, range(seeds))
mean = scores.pivot_table(index="columns", columns="modality", values="macro_f1")[list(worlds.MODALITIES)]
print(mean.round(3).to_string())
for kind, row in mean.iterrows():
    single = max(row["image"], row["sequence"])
    assert 0.80 < row["both"] < 0.98, f"{kind}: saturated or hopeless"
    assert worlds.CHANCE + 0.15 < single < 0.90, f"{kind}: one modality suffices, or none helps"
    assert row["both"] - single >= 0.1, f"{kind}: fusion adds too little"
assert mean.loc["latent", "both"] > 0.95 and mean.loc["latent", ["image", "sequence"]].max() < 0.85
for name in worlds.MODALITIES:
    plots.value(f"ceiling_{name}", float(mean.loc["latent", name]), fmt=".2f")

# %% [markdown]
# ### What separates whom
#
# No class is a code made of both modalities: for each pair a physical reason says where the difference shows.
#
# | pair | what separates it | where |
# |---|---|---|
# | two spheres | area = flux times range squared over radiance | flux and motion in frames, temperature in sequence |
# | sphere, plate | tumbling modulates the projected area | intensity; flux of A against B |
# | sphere, platform | inside heat and heat capacity hold the temperature; size | temperature; flux with motion |
# | sphere, float | a tiny heat capacity follows the light at once | temperature, near the shadow's edge |
# | plate, platform | strength of modulation; steadiness of temperature; size | sequence; flux with motion |
# | plate, float | strength of modulation; speed of cooling | sequence |
# | platform, float | heat capacity; internal heat; size | temperature; flux with motion |
#
# Measured on the latent columns: the share of targets of the two classes whose own class got the higher probability
# (0.5 is chance).

# %%
told = pairs.pivot(index=["one", "other"], columns="modality", values="accuracy")[list(worlds.MODALITIES)]
print(told.round(2).to_string())
sizes = told.loc[[("0.3", "0.6"), ("0.6", "0.9")]]
assert (sizes["sequence"] < 0.75).all(), "the sequence would tell neighbouring sizes"
assert (sizes["both"] - sizes["image"] > 0.05).all(), "the temperature would not help to tell sizes"
assert (told["sequence"].drop([("0.3", "0.6"), ("0.3", "0.9"), ("0.6", "0.9")]) > 0.9).all()

# %% [markdown]
# ### Dials
#
# Peak signal-to-noise moves the frames, the error of the temperatures and the share of missing samples move the
# sequence. At redundancy 1 the intensity is calibrated and tells the size by itself: the frames then add little, as it
# must be.

# %%
curves = worlds.sweep(sweep_targets, test_targets, seed)
at = curves.set_index(["dial", "setting", "modality"]).macro_f1
assert at["psnr", 120.0, "image"] - at["psnr", 1.5, "image"] > 0.1
assert at["sequence_noise", 0.0, "sequence"] - at["sequence_noise", 40.0, "sequence"] > 0.15
assert at["missing", 0.0, "sequence"] - at["missing", 0.95, "sequence"] > 0.05
assert at["redundancy", 1.0, "both"] - at["redundancy", 1.0, "sequence"] < 0.05
print(curves.pivot_table(index=["dial", "setting"], columns="modality", values="macro_f1").round(2).to_string())

# %%
AXES = dict(psnr="peak signal-to-noise", sequence_noise="temperature error / K", missing="share of samples missing",
            redundancy="redundancy of intensity")
colours = dict(zip(worlds.MODALITIES, plots.COLOURS, strict=False))
default = simulator.Dials()
fig, axes = plots.figure(3, 2, height=5.0, height_ratios=[0.75, 1, 1])
grid = axes[0, 0].get_gridspec()
axes[0, 0].remove(), axes[0, 1].remove()
top = fig.add_subplot(grid[0, :])
for y, name in enumerate(reversed(worlds.MODALITIES)):
    for kind, face in (("measured", "w"), ("latent", colours[name])):
        found = scores[(scores["columns"] == kind) & (scores.modality == name)]
        top.plot(found.macro_f1, np.full(len(found), y), "o", color=colours[name], mfc=face, ms=4.5)
        if y == 2:
            top.annotate(kind, (found.macro_f1.mean(), y), (0, 6), textcoords="offset points", ha="center", fontsize=7)
top.set(yticks=range(3), yticklabels=reversed(worlds.MODALITIES), ylim=(-0.5, 2.8), xlim=(0, 1), xlabel="macro F1")
for ax, (dial, label) in zip(axes[1:].flat, AXES.items(), strict=True):
    for name in worlds.MODALITIES:
        line = curves[(curves.dial == dial) & (curves.modality == name)]
        ax.plot(line.setting, line.macro_f1, "o-", color=colours[name], ms=2.5)
        if dial == "missing":
            ax.annotate(name, (0.18, line.macro_f1.iloc[0]), (0, -9 if name == "image" else 3), color=colours[name],
                        textcoords="offset points", fontsize=7)
    ax.axvline(getattr(default, dial), color="0.5", lw=0.7, ls=":")
    ax.axhline(worlds.CHANCE, color="0.5", lw=0.7, ls="--")
    ax.set(xlabel=label, ylim=(0, 1.02))
axes[1, 0].annotate("chance", (1.5, worlds.CHANCE), (0, -8), textcoords="offset points", fontsize=6, color="0.4")
axes[1, 0].annotate("default", (default.psnr, 0.02), (2, 0), textcoords="offset points", fontsize=6, color="0.4")
axes[1, 0].set_title("measured columns", loc="left")
axes[1, 0].set(xscale="log", xticks=[1.5, 5, 15, 30, 120], xticklabels=["1.5", "5", "15", "30", "120"])
axes[1, 0].minorticks_off()
for ax in axes[1:, 0]:
    ax.set_ylabel("macro F1")
plots.save(fig, "sim_ceilings", dict(ceilings=scores, dials=curves), claim="Neither modality suffices; both do.")
plt.show()

# %% [markdown]
# ## Leaks
#
# Things that must not speak of the class: the order of the targets, the background with the target masked, one pixel in
# a corner, which and how many samples are missing, and when they were taken. Each must stay within 5 points of chance.

# %%
leaks = worlds.probes(train, test, seed).set_index("probe").accuracy
print(f"chance {worlds.CHANCE:.3f}")
print(leaks.round(3).to_string())
assert (leaks - worlds.CHANCE).abs().max() < 0.05, "something silent speaks of the class"

# %% [markdown]
# ## Streets, visible and infrared
#
# A street is a set of facts in metres and kelvin: camera, road, buildings, light and weather; people, cars and things
# with their pose and warmth. The visible picture follows from reflectance and light, the infrared one from temperature
# and emissivity; labels, boxes and captions from the facts. A running car is warm at bonnet and tyres and a parked one
# is not; paint shows only in the visible, people in the dark mostly in the infrared.

# %%
pairs = street.simulate_pairs(street_pairs, "test", seed, size=(192, 256))
facts = pd.DataFrame(dict(light=[street.LIGHTS[k] for k in pairs.truth["light"]], place=pairs.truth["place"],
                          weather=[street.WEATHERS[k] for k in pairs.truth["weather"]],
                          actors=pairs.truth["counts"].sum(1), caption=[own[0] for own in pairs.captions]))
busy = facts.sort_values("actors", ascending=False, kind="stable").drop_duplicates(["light", "place"])
chosen = pd.concat([busy[busy.light == light].head(2) for light in ("day", "dusk", "night")])
for row in chosen.itertuples():
    print(f"{row.light:<6}{row.caption}")
assert (chosen.actors > 1).all(), "a street is empty"

# %%
fig, axes = plots.figure(3, len(chosen), width=plots.PAGE, height=3.2)
paints = ListedColormap(plots.COLOURS)
for column, i in zip(axes.T, chosen.index, strict=True):
    column[0].imshow(pairs.visible[i])
    column[1].imshow(pairs.infrared[i], cmap="gray", vmin=0, vmax=160)
    labels = np.ma.masked_equal(pairs.labels[i], 0)
    column[2].imshow(labels, cmap=paints, vmin=0.5, vmax=8.5, interpolation="nearest")
    column[0].set_title(f"{facts.light[i]}, {facts.weather[i]}", pad=2, fontsize=7)
for ax, name in zip(axes[:, 0], ("visible", "infrared", "labels"), strict=True):
    ax.set_ylabel(name, fontsize=7)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(visible=True, linewidth=0.3)
keys = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in plots.COLOURS]
fig.legend(keys, street.KINDS, loc="outside lower center", ncols=8, handlelength=0.8, columnspacing=1.2, fontsize=6.5)
plots.save(fig, "sim_streets", chosen, claim="Visible and infrared pictures show different things of one street.")
plt.show()

# %% [markdown]
# ### Beside real pictures
#
# Medians over pictures of what can be measured without labels: mean, deviation and entropy of grey levels, slope of log
# power against log frequency, mean size and kurtosis of horizontal differences, and how much the two bands have in
# common. MSRS is a set of real street pictures, of which a test part (182 by night, 138 by day) was measured; here are
# clear nights and days of the split "test", at the same 320 x 240 pixels.

# %%
measured = {}
for light in runs.progress(("night", "day"), "street statistics"):
    made = street.simulate_pairs(measured_pairs, "test", seed, (240, 320),
                                 street.Dials(day=float(light == "day"), dusk=0, rain=0, fog=0))
    rows = [street.statistics(v @ [0.299, 0.587, 0.114], i) for v, i in zip(made.visible, made.infrared, strict=True)]
    measured[f"simulated, {light}"] = pd.DataFrame(rows).median()
names = [f"{band}_{what}" for band in ("infrared", "visible")
         for what in ("mean", "sd", "entropy", "slope", "dx", "kurtosis")] + ["correlation", "correlation_of_gradients"]
real = pd.DataFrame([[18, 14, 5.1, -2.8, 2.2, 91, 27, 30, 5.8, -2.8, 2.7, 92, 0.11, 0.12],
                     [30, 18, 5.5, -2.8, 2.7, 66, 101, 53, 7.3, -2.5, 6.2, 26, 0.00, 0.17]],
                    ["MSRS, night", "MSRS, day"], names)
beside = pd.concat([pd.DataFrame(measured).T[names], real]).T
print(beside.round(2).to_string())
levels = [name for name in names if name.endswith(("mean", "sd", "entropy", "dx"))]
times = {light: np.exp(np.abs(np.log(beside.loc[levels, f"simulated, {light}"] / beside.loc[levels, f"MSRS, {light}"])))
         for light in ("night", "day")}
for light, factor in times.items():
    print(f"{light}: beyond a factor of 1.5:", factor[factor > 1.5].round(2).to_dict() or "none")
assert all(np.median(factor) < 1.5 for factor in times.values()), "pictures are not like real ones"

# %% [markdown]
# ## Surveillance clips
#
# A clip is a story in a street (notebook 04 shows some). What could be told of an event at best? *Pictures*: gradient
# boosting on the facts that a small camera sees (who is where, how fast, in which posture, blurred as pixels blur it);
# *words*: the same on the words of the segment's caption; *both*. Each segment by itself, trained on clips of the
# places of "train" and judged on frames of "test".

# %%
def limits():
    found = surveillance.ceilings(train_clips, test_clips, seed)
    parts = [(*name.split(":"), value) if ":" in name else (name, "all", value)
             for name, value in found.items() if name != "base"]
    return dict(table=pd.DataFrame(parts, columns=["modality", "event", "auc"]), base=found["base"])


kept = runs.cached("clips_ceilings", limits, code=[surveillance],
                   parameters=dict(train=train_clips, test=test_clips, seed=seed))
best = kept["table"].pivot(index="event", columns="modality", values="auc")[["visual", "words", "both"]]
print(f"frame AUC; share of anomalous frames {kept['base']:.3f}")
print(best.round(3).to_string())
assert best.loc["all", "both"] > best.loc["all", ["visual", "words"]].max(), "words and pictures tell the same"
assert 0.65 < best.loc["all", ["visual", "words"]].max() < best.loc["all", "both"] < 0.99, "too easy, or hopeless"

# %%
titles = dict(all="all events", explosion="explosion", fight="fight", fall="fall", counter_run="run against the stream",
              wrong_way="wrong lane", abandoned="bag left behind")
fig, ax = plots.figure(height=2.7)
for k, (name, label) in enumerate(dict(visual="pictures", words="words", both="both").items()):
    ax.plot(best.loc[list(titles), name], np.arange(len(titles)), "osD"[k], label=label, color=plots.COLOURS[k], ms=4.5)
ax.axhline(0.5, color="0.5", lw=0.6)
ax.set(yticks=np.arange(len(titles)), yticklabels=titles.values(), xlim=(0.48, 1.01), xlabel="frame AUC")
ax.invert_yaxis()
fig.legend(loc="outside upper center", ncols=3)
plots.save(fig, "sim_clips_ceilings", kept["table"], claim="Pictures and words together tell more than either.")
plt.show()

# %% [markdown]
# ## What would change this
#
# * Real sensors: their calibration, jitter, stray light and artefacts are missing here; a point source is Gaussian.
# * The names of the last three classes are this project's reading of label strings; other bodies would move
#   every number.
# * The ceilings are those of one strong classifier on columns chosen by hand. A better one may pass the measured ones;
#   the latent ones leave little room.
# * A calibrated radiometer (redundancy 1) makes the frames superfluous, and 40 K of temperature error
#   takes most of what the sequence adds.
