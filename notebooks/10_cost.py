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
# # What do the methods cost?
#
# **Question.** How many parameters, multiply-adds, seconds, bytes and joules does each method need for one answer, and
# how do they grow with the size of the pictures?
#
# **Answer.** CMI-Fusion has less than a twentieth of the parameters of the published network and needs less than a
# hundredth of its multiply-adds, because it works at a half, a quarter and an eighth of the size, where the published
# one keeps 512 channels at full size. A Laplacian pyramid needs a hundredth of CMI-Fusion's again. CMFS of published
# size needs some eight seconds a pair on one core and half of that on two. The selective scan in it, compiled when it
# first runs, takes a twelfth to a sixth of the time of the fastest in plain torch, and three to seven times what memory
# and exponentials alone would take.
#
# On a GPU of 2024 the small networks are limited by the starting of kernels and not by arithmetic: CMI-Fusion takes as
# long for 256 x 256 as for 1024 x 1024 pixels there, and SA-CMF and CMAF are no faster than on one core of a CPU.
#
# Four minutes on one CPU core when nothing is cached; no GPU, no download: the table of the GPU is committed. Weights
# of CMI-Fusion as published do not matter here: time does not depend on them.

# %% tags=["parameters"]
threads = 1    # of torch and OpenCV
most = 5e10    # multiply-adds that are run; where a picture needs more, seconds are scaled from a smaller one
repeats = 3    # of each selective scan

# %%
import matplotlib.pyplot as plt
import pandas as pd

from cmf import plots, runs
from cmf.studies import cost, cost_scan

INPUTS = ["cmf/trained/cmi_fusion.safetensors", "cmf/trained/sacmf_deepspace.safetensors",
          "cmf/trained/cmaf_surveillance.safetensors", "figures/demo/results/cost_gpu.csv"]
TIMINGS = ["cost", "scan_cost", "values.seconds", "values.memory", "values.device"]
FUSION = ("CMI-Fusion as published", "CMI-Fusion", "Laplacian pyramid", "pixel maximum", "CMFS, small", "CMFS, tiny")
runs.seed_everything(0)

# %% [markdown]
# ## Data
#
# None: pictures are random numbers of 256 x 256, 480 x 640 and 1024 x 1024 pixels, one pair at a time, with a sentence
# of 16 words. SA-CMF gets one target (26 tokens of pictures and sequence), CMAF one clip of a minute (30 segments, 120
# words of captions). CMFS, small (the demo's) and tiny (the published size), labels the pictures too. The frozen
# encoders before the methods are not counted, nor are the text encoders of CMI-Fusion and CMFS, which read a sentence
# once.
#
# ## Method
#
# * **Parameters**: trainable numbers.
# * **Multiply-adds** of matrix products and convolutions, counted from the shapes of what is multiplied. Norms,
#   activations, interpolation and CMFS's selective scans
#   are not counted.
# * **Tensors**: the most bytes of intermediate results that exist at a time, counted; memory cannot be less.
# * **Seconds**: median of single passes after one to warm up. **Memory**: the most that a process of its own held
#   above what it held before the pass, with weights and pictures in place. **Throughput**: pairs, targets or clips a
#   second at the best number of them at once, of 1, 4, 16 and 64. **Joules**: what the machine's own counter says that
#   one of them costs there, idle power included; a dash where no counter can be read. All four depend on the machine
#   and on what else it does; nothing is asserted of them.
#
# The published network is not run at these sizes. Every pixel costs the same there, so its seconds at 64 x 64 are
# scaled by the number of pixels.

# %% tags=["nbval-check-output"]
giga = lambda method: {f"{h} x {w}": cost.multiply_adds(method, (h, w)) / 1e9 for h, w in cost.SIZES}
counted = pd.DataFrame([dict(method=m, parameters=cost.parameters(m)) | giga(m) for m in cost.METHODS])
print("multiply-adds, in 10^9\n" + counted.to_string(index=False, float_format="{:,.4f}".format))

# %% [markdown]
# SA-CMF and CMAF do not look at pixels, hence their constant rows.
#
# ## Result

# %%
table = cost.table(threads=threads, most=most)
print(f"{table.device[0]}, {threads} thread(s); from_size: seconds scaled from a square of that side")
shown = table.drop(columns=["device", "threads", "parameters", "multiply_adds"])
print(shown.to_string(index=False, float_format="{:.3g}".format, na_rep="-"))

# %%
at = table.set_index(["method", "input"]).sort_index()
ours, theirs = (at.loc[name, "480 x 640"] for name in ("CMI-Fusion", "CMI-Fusion as published"))
fewer = theirs.multiply_adds / ours.multiply_adds
print(f"CMI-Fusion: {theirs.parameters / ours.parameters:.0f} times fewer parameters, {fewer:.0f} times fewer "
      "multiply-adds than published")
assert ours.parameters < 2e6 and theirs.parameters == 17_734_886
assert theirs.parameters > 20 * ours.parameters and fewer > 100, "CMI-Fusion has grown"
simple = at.loc["Laplacian pyramid", "480 x 640"].multiply_adds
assert ours.multiply_adds > 100 * simple, "a network should cost more than a pyramid, look at the counts"
growth = at.loc["CMI-Fusion", "1024 x 1024"].multiply_adds / ours.multiply_adds
assert abs(growth / (1024**2 / (480 * 640)) - 1) < 0.02, "multiply-adds do not follow the number of pixels"

# %%
fig, axes = plots.figure(1, 3, width=plots.PAGE, height=2.2)
pixels = [h * w for h, w in cost.SIZES]
for name, colour in zip(FUSION, plots.COLOURS, strict=False):
    rows = table[table.method == name]
    axes[0].plot(pixels, rows.multiply_adds.where(rows.multiply_adds > 0) / 1e9, "o-", color=colour, label=name)
    style = dict(color=colour, marker="o") | (dict(ls="--", fillstyle="none") if rows.from_size.any() else {})
    axes[1].plot(pixels, rows.seconds, **style)
    axes[2].plot(pixels, rows.memory_mib.fillna(rows.tensors_mib), **style)
for ax, label in zip(axes, ("multiply-adds (G)", "seconds", "memory (MiB)"), strict=True):
    ax.set(xscale="log", yscale="log", ylabel=label, xlabel="rows x columns")
    ax.set_xticks(pixels, [f"{h} x {w}" for h, w in cost.SIZES], fontsize=6)
    ax.minorticks_off()
fig.legend(loc="outside upper center", ncols=6)
claim = "CMI-Fusion needs less than a hundredth of the published multiply-adds."
plots.save(fig, "cost", table, simulated=False, claim=claim)
plt.show()

# %% [markdown]
# Open circles: not run. Their seconds are scaled from a smaller picture, their memory is that of the tensors, a lower
# bound. The pixel maximum multiplies nothing and is absent on the left.

# %% [markdown]
# ## On a GPU
#
# The same passes on the GPU that the table names, measured once and committed (`python -m cmf.results --only cost_gpu`
# measures anew where there is one). Float32, convolutions in TF32 as torch has it by default. Memory is that of torch's
# allocator. The counts of this machine must be those of the table.

# %%
card = runs.read_result("cost_gpu", "demo").set_index(["method", "input"])
counts = ["parameters", "multiply_adds"]
assert (card[counts] == at.loc[card.index, counts]).all().all(), "the table of the GPU is of other networks"
print(card.device.iloc[0])
columns = ["seconds", "memory_mib", "per_second", "batch", "joules"]
print(card[columns].to_string(float_format="{:.3g}".format))
faster = at.loc[card.index].seconds / card.seconds
print("one pass takes so many times as long here\n" + faster.to_string(float_format="{:.3g}".format))

# %%
fig, axes = plots.figure(1, 3, width=plots.PAGE, height=2.2)
for name, colour in zip(FUSION, plots.COLOURS, strict=False):
    if name in card.index:
        rows = card.loc[name].loc[[f"{h} x {w}" for h, w in cost.SIZES]]
        for ax, column in zip(axes, ("seconds", "per_second", "joules"), strict=True):
            ax.plot(pixels, rows[column], "o-", color=colour, label=name if ax is axes[0] else None)
labels = "seconds, one pair", "pairs a second, best batch", "joules a pair, best batch"
for ax, label in zip(axes, labels, strict=True):
    ax.set(xscale="log", yscale="log", ylabel=label, xlabel="rows x columns")
    ax.set_xticks(pixels, [f"{h} x {w}" for h, w in cost.SIZES], fontsize=6)
    ax.minorticks_off()
fig.legend(loc="outside upper center", ncols=4)
claim = "Parameters and multiply-adds of the measured networks are those counted here."
plots.save(fig, "cost_gpu", card.reset_index(), simulated=False, claim=claim)
plt.show()

# %% [markdown]
# ## The selective scan
#
# CMFS's encoders run recurrences whose coefficients depend on the input (`eq:cmfs-scan` of the paper). Published code
# compiles CUDA when it is installed; here Numba compiles the scan for the CPU when it first runs. Beside it scans in
# plain torch: step by step, in chunks, as a tree (Blelloch), and torch's own associative scan. Batch 1, float32,
# width 96 and 16 states as in the interaction of CMFS. The dashed line is what no scan on this machine goes below: the
# time to read and write its arguments, or to take its exponentials, whichever is longer (`cmf.studies.cost_scan`).

# %%
asked = dict(threads=threads, repeats=repeats, device=cost.processor())
scans = runs.cached("cost_scan", lambda: dict(table=cost_scan.table(cost_scan.SIZES[:3], threads, repeats)),
                    parameters=asked, code=[cost_scan])["table"]
print(scans.pivot_table(index=["length", "pass"], columns="scan", values="seconds", sort=False).round(4))
ratio = cost_scan.beside(scans).set_index(["length", "pass"])
print("compiled scan's time over that of the fastest in plain torch, and over the floor")
print(ratio[["plain", "floor"]].round(2).to_string())
grown = cost_scan.growth(scans)
print("time at four times the length, over time:", grown[grown.scan == "numba"].growth.round(2).tolist())
assert (ratio.plain < 1).all(), "a scan in plain torch is faster than the compiled one"

# %%
fig, axes = plots.figure(1, 2, width=plots.PAGE, height=2.2, sharey=True)
for ax, (kind, rows) in zip(axes, scans.groupby("pass", sort=False), strict=True):
    for name, line in rows.groupby("scan", sort=False):
        ax.plot(line["length"], line.seconds, "o-", label=name)
    least = rows.drop_duplicates("length")
    ax.plot(least["length"], least.floor, "k--", lw=0.8, label="floor")
    ax.set(xscale="log", yscale="log", xlabel="length of the sequence", title=kind)
    ax.set_xticks(least["length"], least["length"])
    ax.minorticks_off()
axes[0].set_ylabel("seconds")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
plots.save(fig, "scan_cost", scans, simulated=False, claim="The compiled scan is faster than every one in plain torch.")
plt.show()

# %%
plots.value("parameters", int(ours.parameters))
plots.value("parameters_published", int(theirs.parameters))
plots.value("multiply_adds", ours.multiply_adds / 1e9, "G")
plots.value("multiply_adds_published", theirs.multiply_adds / 1e12, "T")
plots.value("fewer", fewer, fmt=".0f")
plots.value("seconds", float(ours.seconds), "s")
plots.value("memory", float(ours.memory_mib), "MiB", fmt=".0f")
plots.value("threads", threads)
plots.value("device", table.device[0])
plots.value("gpu", card.device.iloc[0])
for name, key in (("CMI-Fusion", "cmi"), ("CMI-Fusion as published", "published"), ("CMFS, small", "cmfs")):
    plots.value(f"gpu_seconds_{key}", 1e3 * card.seconds[name, "480 x 640"], "ms", fmt=".0f")
    plots.value(f"gpu_joules_{key}", card.joules[name, "480 x 640"], "J", fmt=".2g")

# %% [markdown]
# ## What would change this
#
# * Kernels that are started together (CUDA graphs, torch.compile): on a GPU the small networks wait for their start.
# * Fewer channels at full size: nearly all the cost of the published network is in its 512 channels there.
# * Encoders: with the image encoders of SA-CMF and CMAF counted, both are dominated by them.
