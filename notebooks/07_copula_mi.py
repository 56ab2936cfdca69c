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
# # Mutual information of the Gumbel copula
#
# **Question.** Can mutual information be read off a fitted Gumbel copula, how far off is it, and does the information
# map published with SA-CMF measure anything?
#
# **Answer.** From some hundred pairs of the family on, the closed form with maximum likelihood errs less than nearest
# neighbours and than a Gaussian copula; on other dependence it can be far too low; the published map is a constant.
# Where a dial of the simulators makes two modalities share more, fusing them gains less in SA-CMF, CMAF and CMI-Fusion;
# in CMFS no such order is seen. Learnt features of two modalities share little before they are fused, those of CMAF
# nothing that was found.
#
# **Time.** About a minute and a half on two CPU cores, seconds when the samples are cached. No GPU.

# %% tags=["parameters"]
seed = 0              # of all samples
theta = 2.0           # the parameter t at which accuracy is quoted in the text; above 1
pairs = 1000          # pairs a sample, for bias against t
repeats = 400         # samples a parameter, for bias against t
error_repeats = 40    # samples a point, for error against the number of pairs
rho = 0.6             # correlation of the Gaussian counter-example, 0 to 1
INPUTS = ["cmf/trained/sacmf_deepspace.safetensors", "cmf/trained/cmi_fusion.safetensors",
          "cmf/trained/cmaf_surveillance.safetensors", "cmf/trained/cmfs_street.safetensors",
          "cmf/trained/*_small.safetensors", "figures/demo/results/shared_information.csv"]

# %%
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from scipy.special import ndtr, ndtri

from cmf import cache, copula, plots, runs
from cmf.studies import copula as study
from cmf.studies import learnt as learnt_study
from cmf.studies import scenes, shared
from cmf.studies.trios import MODALITIES

runs.seed_everything(seed)
torch.set_num_threads(1)  # the number of threads changes features of untrained encoders

# %% [markdown]
# ## Data
# All pairs are drawn here. The sampler is exact and needs no stable law: with unit exponentials $\xi_1, \xi_2$ and
# uniform $\omega, w$, $A = \xi_1 + [\omega < 1/t]\,\xi_2$, $u = \exp(-A w^{1/t})$, $v = \exp(-A (1-w)^{1/t})$.

# %%
u, v = study.draw("gumbel", theta, pairs, seed)
print(f"{pairs} pairs at t = {theta:g}, sha256 {cache.digest({'u': u, 'v': v})}")

# %% [markdown]
# ## The copula
# With $x = -\ln u$, $y = -\ln v$ and $t \ge 1$ the Gumbel copula is $C_t(u, v) = e^{-A}$, $A = (x^t + y^t)^{1/t}$. Its
# mass gathers where both ranks are high. On normal margins (right column) the density is
# $c(\Phi(a), \Phi(b))\,\varphi(a)\,\varphi(b)$.

# %%
drawn_thetas = (1.5, 3.0)
middle = (np.arange(200) + 0.5) / 200
mass = {t: np.exp(copula.gumbel_logpdf(middle[:, None], middle, t)).mean() for t in drawn_thetas}
print({t: round(float(m), 2) for t, m in mass.items()})
assert all(abs(m - 1) < 0.01 for m in mass.values()), "a density holds the mass 1"

# %%
z = np.linspace(-3, 3, 200)
normal = np.exp(-(z[:, None] ** 2 + z**2) / 2) / (2 * np.pi)
fig, axes = plots.figure(2, 2, height=3.55)
for row, t in zip(axes, drawn_thetas, strict=True):
    a, b = study.draw("gumbel", t, 300, seed)
    flat = copula.gumbel_logpdf(middle[:, None], middle, t)
    bell = copula.gumbel_logpdf(ndtr(z)[:, None], ndtr(z), t) + np.log(normal)
    for ax, grid, log_density, points in ((row[0], middle, flat, (a, b)), (row[1], z, bell, (ndtri(a), ndtri(b)))):
        top = min(log_density.max(), 2.0)
        levels = np.linspace(top - 5, top, 11)
        ax.contourf(grid, grid, log_density.T, levels, cmap="Blues", extend="both")
        ax.contour(grid, grid, log_density.T, levels[::2], colors="0.3", linewidths=0.4, linestyles="solid")
        ax.plot(*points, ".", color=plots.COLOURS[1], ms=1.6, mew=0)
        ax.set(aspect="equal", xlim=(grid[0], grid[-1]), ylim=(grid[0], grid[-1]))
        ax.grid(False)
    row[0].set(title=f"t = {t:g}, uniform margins", xlabel="u", ylabel="v", xticks=(0.25, 0.5, 0.75),
               yticks=(0.25, 0.5, 0.75))
    row[1].set(title=f"t = {t:g}, normal margins", xlabel="normal score of u", ylabel="normal score of v",
               xticks=(-2, 0, 2), yticks=(-2, 0, 2))
plots.save(fig, "gumbel_density", claim="the density integrates to 1; the pairs follow it")
plt.show()

# %% [markdown]
# ## Ranks
# The copula sees ranks alone, $u_i = \mathrm{rank}(x_i) / (n + 1)$. Two skewed quantities, a log-normal and a squared
# exponential, keep their estimate to the last digit when their margins are made anything else.

# %%
x, y = np.exp(0.8 * ndtri(u)), (-np.log1p(-v)) ** 2
raw, ranked = copula.mutual_information(x, y), copula.mutual_information(u, v)
print(f"skewed margins {raw.mi:.4f}, uniform margins {ranked.mi:.4f}, truth {float(copula.gumbel_mi(theta)):.4f} nats")
assert raw.mi == ranked.mi, "increasing maps of the margins change nothing"

# %%
fig, axes = plots.figure(2, 2, height=3.3)
(before, curve), (after, flat) = axes
before.plot(x, y, ".", ms=1.5, mew=0)
before.set(xlabel="x", ylabel="y", title="before: skewed margins")
curve.plot(np.sort(x), copula.ecdf(np.sort(x)), color=plots.COLOURS[0])
curve.plot(np.sort(x), ndtr(np.log(np.sort(x)) / 0.8), color=plots.COLOURS[1], lw=0.8, ls="--")
curve.annotate("true, dashed", (0.97, 0.1), xycoords="axes fraction", ha="right", fontsize=7,
               color=plots.COLOURS[1])
curve.annotate("empirical, solid", (0.97, 0.24), xycoords="axes fraction", ha="right", fontsize=7,
               color=plots.COLOURS[0])
curve.set(xlabel="x", ylabel="u", title="the mapping")
after.plot(copula.ecdf(x), copula.ecdf(y), ".", ms=1.5, mew=0)
after.set(xlabel="u", ylabel="v", title="after: ranks", aspect="equal")
flat.hist([x / x.max(), copula.ecdf(x)], bins=20, range=(0, 1), histtype="stepfilled", alpha=0.6,
          color=[plots.COLOURS[1], plots.COLOURS[0]])
flat.annotate("x / largest x", (0.3, 0.8), xycoords="axes fraction", fontsize=7, color=plots.COLOURS[1])
flat.annotate("u", (0.6, 0.22), xycoords="axes fraction", fontsize=7, color=plots.COLOURS[0])
flat.set(xlabel="value", ylabel="pairs", title="margins")
plots.save(fig, "ecdf_mapping", claim="the estimate depends on ranks alone")
plt.show()

# %% [markdown]
# ## The closed form
# $$I(t) = \gamma - 1 + \frac1t + \ln(t-1) + \frac{e^{t-1} E_1(t-1)}{t},$$
# with Euler's $\gamma$ and the exponential integral $E_1$. It is compared with the double integral of $c \ln c$, by the
# trapezoid rule in $(\ln x + \ln y)/2$ and $\ln x - \ln y$; the lemma behind the closed form is not used there.

# %% tags=["nbval-check-output"]
tried = np.array([1.01, 1.05, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
closed = copula.gumbel_mi(tried)
integral = np.array([study.quadrature(t) for t in tried])
worst = float(np.abs(closed / integral - 1).max())
for t, mi in zip(tried, closed, strict=True):
    print(f"t = {t:5.2f}   I = {mi:.6f} nats")
assert worst < 1e-12, f"closed form and quadrature differ by {worst:.1e}"

# %% [markdown]
# ## Estimators on pairs of the family
# Maximum likelihood (ranks, free rotation) and inversion of Kendall's tau with the closed form; nearest neighbours with
# $k = 3$ (Kraskov et al. 2004); $-\ln(1 - r^2)/2$ from normal scores, the Gaussian copula.

# %%
thetas = sorted({1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, theta})
table = study.compare([("gumbel", t, pairs) for t in thetas], repeats, seed)
print(table.pivot(index="parameter", columns="estimator", values="bias")[list(study.ESTIMATORS)].round(4))

# %%
at = table[table.parameter == theta].set_index("estimator")
ratio = (table.bias.abs() / table.sd)[table.estimator == "likelihood"].max()
print(f"t = {theta:g}: bias {at.bias['likelihood']:.4f} with standard error {at.error['likelihood']:.4f}; "
      f"largest bias over t: {ratio:.2f} standard deviations of one sample")
assert abs(at.bias["likelihood"]) < 2 * at.error["likelihood"], "maximum likelihood is biased at the quoted t"
assert ratio < 0.35, "its bias is no longer small beside the spread of one sample"
assert at.rmse["likelihood"] < min(at.rmse["ksg"], at.rmse["gaussian"]), "the family's own estimator is no longer best"

# %% [markdown]
# The bias at the quoted $t$ cannot be told from zero. At the two ends it can: information cannot be negative, which
# lifts the estimate near independence, and pseudo-likelihood is a little low for strong dependence. Everywhere it is a
# fraction of the spread of a single sample. Inversion of tau has less bias and a little more spread.

# %%
LOOK = {"likelihood": (plots.COLOURS[0], "o"), "tau": (plots.COLOURS[5], "v"), "bound": (plots.COLOURS[3], "^"),
        "ksg": (plots.COLOURS[1], "s"), "gaussian": (plots.COLOURS[2], "D")}


def on_theta(ax):
    ax.set(xscale="log", xlabel="t")
    ax.xaxis.set(major_locator=FixedLocator([1, 1.5, 2, 3, 5, 8]), minor_locator=NullLocator(),
                 major_formatter=StrMethodFormatter("{x:g}"))


fine = np.geomspace(1, 9, 300)
fig, ax = plots.figure(height=2.5)
ax.plot(fine, copula.gumbel_mi(fine), color="0.2", lw=1)
for k, name in enumerate(("likelihood", "ksg", "gaussian")):
    part = table[table.estimator == name]
    ax.errorbar(part.parameter * 1.025 ** (k - 1), part["mean"], 2 * part.sd, fmt=LOOK[name][1], color=LOOK[name][0],
                ms=3, lw=0.9, capsize=1.5)
    ax.annotate(study.ESTIMATORS[name], (0.06, 0.78 - 0.09 * k), xycoords="axes fraction", color=LOOK[name][0])
ax.annotate("closed form", (0.06, 0.87), xycoords="axes fraction", color="0.2")
on_theta(ax)
ax.set_ylabel("mutual information / nats")
plots.save(fig, "mi_theta", table, claim="the closed form equals quadrature to 1e-12; estimates scatter around it")
plt.show()

# %%
fig, ax = plots.figure(height=2.5)
ax.axhline(0, color="0.2", lw=0.6)
for name, place in (("likelihood", (4.2, -0.013)), ("tau", (6.3, 0.006)), ("ksg", (3.9, 0.024)),
                    ("gaussian", (5.6, -0.075))):
    part = table[table.estimator == name]
    ax.errorbar(part.parameter, part.bias, 2 * part.error, fmt=f"-{LOOK[name][1]}", color=LOOK[name][0], ms=3, lw=0.9)
    ax.annotate(study.ESTIMATORS[name], place, color=LOOK[name][0], ha="center", va="center", fontsize=7)
on_theta(ax)
ax.set_ylabel("bias / nats")
plots.save(fig, "mi_bias", table, claim="at the quoted t the bias of maximum likelihood is within 2 standard errors")
plt.show()

# %% [markdown]
# ## Other dependence
# The mean log-density at the fitted $t$ bounds the truth from below whatever the family; the closed form at an inverted
# tau does not. For Gaussian pairs of correlation $\rho$ the truth is
# $-\ln(1 - \rho^2)/2$ and $\tau = 2\arcsin(\rho)/\pi$.

# %% tags=["nbval-check-output"]
truth = float(-0.5 * np.log1p(-(rho**2)))
tau_inverted = float(copula.gumbel_mi(1 / (1 - 2 * np.arcsin(rho) / np.pi)))
bound, bound_theta = study.gaussian_bound(rho)
print(f"Gaussian pairs, correlation {rho:g}: truth {truth:.3f}, closed form at inverted tau {tau_inverted:.3f}, "
      f"bound {bound:.3f} nats")
assert bound < truth < tau_inverted

# %% [markdown]
# Four families against the number of pairs: the Gumbel copula itself; the Gaussian; Clayton's, whose tail is the lower
# one, so that the fit must turn by 180 degrees; and a parabola with noise, where Kendall's tau is 0.

# %%
counts = (100, 300, 1000, 3000, 10000)
cases = {"gumbel": (theta, f"Gumbel, t = {theta:g}"), "gaussian": (rho, f"Gaussian, r = {rho:g}"),
         "clayton": (2.0, "Clayton, parameter 2"), "parabola": (0.2, "parabola with noise")}
errors = study.compare([(f, p, n) for f, (p, _) in cases.items() for n in counts], error_repeats, seed)
largest = errors[errors.n == counts[-1]].pivot(index="family", columns="estimator", values="mean").loc[list(cases)]
largest["truth"] = errors.groupby("family").truth.first()
print(largest[["truth", *study.ESTIMATORS]].round(3))

# %%
rmse = errors[errors.n == counts[-1]].pivot(index="family", columns="estimator", values="rmse")
best = rmse[["likelihood", "ksg", "gaussian"]].idxmin(axis=1).to_dict()
print(f"smallest error at {counts[-1]} pairs: {best}")
own = errors[(errors.family == "gumbel") & (errors.n >= 300)].pivot(index="n", columns="estimator", values="rmse")
assert (own[["likelihood", "ksg", "gaussian"]].idxmin(axis=1) == "likelihood").all(), "it is best on its own family"
assert (best["gaussian"], best["clayton"], best["parabola"]) == ("gaussian", "ksg", "ksg"), "elsewhere others are"
off = (largest.bound - largest.truth) / largest.truth
assert (off < 0.02).all(), "the mean log-density stays a lower bound"

# %%
fig, axes = plots.figure(2, 2, height=3.6, sharex=True)
for ax, (family, (_, title)) in zip(axes.flat, cases.items(), strict=True):
    for name in ("likelihood", "bound", "ksg", "gaussian"):
        part = errors[(errors.family == family) & (errors.estimator == name)]
        ax.plot(part.n, part.rmse, f"-{LOOK[name][1]}", color=LOOK[name][0], lw=0.9, label=study.ESTIMATORS[name])
    ax.set(xscale="log", yscale="log", title=title, ylim=(0.003, 1))
for ax in axes[1]:
    ax.set_xlabel("pairs")
for ax in axes[:, 0]:
    ax.set_ylabel("error / nats")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
axes[1, 1].annotate("all three copulas", (1000, 0.38), ha="center", va="top", fontsize=7)
plots.save(fig, "mi_error", errors, claim="likelihood errs least on Gumbel pairs, others elsewhere")
plt.show()

# %% [markdown]
# On Gaussian and Clayton pairs the Gumbel estimates stop improving at the error of the family; on the parabola every
# copula finds almost nothing. With 100 pairs even the Gaussian copula's wrong family errs less on Gumbel pairs, because
# it varies less. The mean log-density lies below the closed form at an inverted tau on Gaussian pairs and above it on
# Clayton's, so a gap betrays the family; on the parabola there is no gap, and only nearest neighbours tell.
#
# **Ties.** With ties the copula is not identified. Two copies of a variable with four equal levels share $\ln 4$ nats.
# The fit on average ranks runs into the largest $t$ it allows. The estimator refuses such data unless told not to.

# %% tags=["nbval-check-output"]
levels = np.repeat(np.arange(4.0), pairs // 4)
forced = copula.mutual_information(levels, levels, tie_limit=1.0)
counted = copula.mutual_information(levels, levels, discrete="plugin")
print(f"truth {np.log(4):.3f}, average ranks {forced.mi:.3f} at t = {forced.theta:g}, "
      f"plug-in {counted.mi:.3f} nats")
assert abs(counted.mi - np.log(4)) < 1e-12 < forced.mi - np.log(4)

# %% [markdown]
# ## The published map
# The published importances are shares of $\sum_{ij} C \ln C$, with $C$ the distribution function at $t = 2$, the ranks
# taken over the tokens of one sample and all pairs of positions summed. Ranks over $T$ tokens are always the same $T$
# numbers, so the sum is a constant of $T$.

# %% tags=["nbval-check-output"]
correlations = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
sums = study.published_sums((2, 4, 8, 16, 32, 64), correlations, samples=64, seed=seed)
for T, part in sums.groupby("tokens"):
    independent, copies = part[part.correlation == 0], part[part.correlation == 1]
    print(f"{T:3d} tokens: independent {independent.low.item():.6f}, copies {copies.low.item():.6f}")
spread = sums.groupby("tokens").high.max() - sums.groupby("tokens").low.min()
assert spread.max() < 1e-9, f"the published sums differ by {spread.max():.1e}"

# %%
facts = study.published_facts(samples=64, seed=seed)
print({name: f"{number:.4g}" for name, number in facts.items()})
assert facts["gradient"] == 0.0, "the published information term has a gradient after all"
assert 0 < facts["scalar"] < 1e-6, "before training, a token's scalar is rounding noise"

# %%
fig, (ax, right) = plots.figure(1, 2, height=2.0)
for (rho_drawn, label), marker, size in zip({0.0: "independent", 0.5: "correlation 0.5", 1.0: "copies"}.items(),
                                            "osx", (7, 4.5, 3.5), strict=True):
    part = sums[sums.correlation == rho_drawn]
    ax.plot(part.tokens, -part.low, marker, ms=size, mfc="none", mew=0.9, label=label)
ax.set(xscale="log", yscale="log", xlabel="tokens of a modality", ylabel="minus published sum")
ax.xaxis.set(major_locator=FixedLocator([2, 4, 8, 16, 32, 64]), minor_locator=NullLocator(),
             major_formatter=StrMethodFormatter("{x:g}"))
ax.legend(loc="upper left", handletextpad=0.1, borderaxespad=0)
ax.set_ylim(1, 2e4)
part = sums[(sums.tokens == 16) & (sums.correlation < 1)]
right.plot(part.correlation, part.copula, "-o", color=plots.COLOURS[2])
right.plot(sums[sums.tokens == 16].correlation, -sums[sums.tokens == 16].low / 16**2, "-s", color=plots.COLOURS[1])
right.annotate("fitted copula", (0.73, 0.6), color=plots.COLOURS[2], fontsize=7, ha="right")
right.annotate("minus published\nsum per pair", (0, 0.32), color=plots.COLOURS[1], fontsize=7)
right.set(xlabel="correlation of tokens", ylabel="nats")
plots.save(fig, "mi_published", sums, claim="the published sum is the same for independent and for copied modalities")
plt.show()

# %% [markdown]
# ## What a trained network has learnt
# The weights of the deep-space classifier carry the fitted copulas of all token pairs and the token scalars of recent
# training samples. From these follow the matrix of information and the mean importance of each token.

# %%
model = scenes.Classifier.load()
names = scenes.token_names(model.network.config)
learnt = study.learned(model.network.copula)
matrix, importance = learnt["information"], learnt["importance"]
Ti, To = matrix.shape
i, j = np.unravel_index(matrix.argmax(), matrix.shape)
print(f"largest {matrix.max():.3f} nats, {names[i]} with {names[Ti + j]}; median {np.median(matrix):.3f} nats")
assert (matrix >= 0).all() and np.isfinite(matrix).all(), "information is not negative"
assert abs(importance.mean() - 1) < 1e-5, "importances have mean 1"

# %%
fig, axes = plots.figure(2, 2, height=4.4, width_ratios=(1.5, 1), height_ratios=(1, 5))
(top, corner), (main, side) = axes
shown = main.imshow(matrix, aspect="auto", vmin=0, cmap="viridis")
main.set_xticks(range(To), names[Ti:], rotation=30, ha="right", fontsize=6)
main.set_yticks(range(Ti), names[:Ti], fontsize=6)
main.grid(False)
side.barh(range(Ti), importance[:Ti], color=plots.COLOURS[0])
side.set(ylim=(Ti - 0.5, -0.5), yticks=[], xlabel="importance")
top.bar(range(To), importance[Ti:], color=plots.COLOURS[0])
top.set(xlim=(-0.5, To - 0.5), xticks=[], title="importance")
corner.set_axis_off()
fig.colorbar(shown, ax=axes, location="bottom", shrink=0.6, aspect=30, label="mutual information / nats")
plots.save(fig, "mi_matrix", claim="information is not negative; importances have mean 1", data={
    "information": study.matrix_table(matrix, names), "importance": study.importance_table(learnt, names)})
plt.show()

# %% [markdown]
# ## What trained networks share before they fuse
# How much do the learnt features of two modalities share, before they are fused? Of each method the last features that
# know one modality only, by the weights in `cmf/trained`, on generated data of the split "test":
#
# * SA-CMF: the tokens after the attention within a modality, mean over the tokens; 150 targets.
# * CMAF: a segment's embedding, and the mean embedding of the words told in it; 16 clips.
# * CMI-Fusion: both stems at 1/8 of the size, no sentence, at 108 places of each of 12 streets.
# * CMFS: the first stage of both encoders, as features are exchanged from there on; the same streets, as many places.
#
# Eight principal components of either side give 64 pairs. Chance is the same with partners from another target, clip or
# picture, whole, so that a place in a picture meets the same place: what any two streets have in common by their layout
# is not counted as shared, what one street's light or class does to both sides is. Intervals leave out targets, clips
# or pictures. What takes more than one component of a side to tell is not seen.

# %%
matrices, shares = learnt_study.table()
print(shares.round(4).to_string(index=False))
above = shares.set_index("method").p <= 0.05 / len(shares)
print("above chance after a correction for four methods:", ", ".join(above.index[above]))
assert above[["SA-CMF", "CMI-Fusion", "CMFS"]].all(), "their features share more than by chance"
assert not above["CMAF"], "CMAF's features share something after all; the text says otherwise"

# %%
fig, axes = plots.figure(1, len(matrices), width=plots.PAGE, height=2.2)
top = max(x.max() for x in matrices.values())
for ax, row in zip(axes, shares.itertuples(), strict=True):
    shown = ax.imshow(matrices[row.method], norm=PowerNorm(0.5, 0, top), cmap="viridis")
    ax.set_title(f"{row.method}\nmean {row.mean:.4f}, chance {row.chance:.4f}", fontsize=7)
    first, second = MODALITIES[row.method]
    ax.set(xlabel=f"components, {second}", ylabel=f"components, {first}", xticks=range(8), yticks=range(8),
           xticklabels=range(1, 9), yticklabels=range(1, 9))
    ax.tick_params(labelsize=6, length=2)
    ax.grid(False)
fig.colorbar(shown, ax=axes, shrink=0.9, aspect=20, label="information / nats",
             ticks=[0, 0.01, 0.05, 0.1, 0.15, 0.2])
plots.save(fig, "learnt_information", claim="three methods' features share more than by chance, CMAF's do not show it",
           data={"methods": shares, "pairs": learnt_study.pairs_table(matrices)})
plt.show()

# %% [markdown]
# ## Does redundancy tell where fusion helps?
# If two modalities say the same, the second adds nothing; if they err together, fusing cannot mend it. So the gain of
# fusion, the measure of the fused network minus that of the better single modality, should fall where their mutual
# information rises. It is measured at settings of the simulators' dials, by `make results`, with one seed:
#
# * SA-CMF: calibration of the intensity (`redundancy`) and error of temperatures; log-odds of each class by the single
#   arms; macro F1. The three networks are trained anew at each setting; those of the other methods stay.
# * CMAF: captions that miss an event (`missed`), at random or where pictures see little too (`overlap`); logits of
#   segments by the single arms; ROC-AUC over segments.
# * CMI-Fusion: light and weather of a street; strength of edges in blocks of 8 x 8 pixels of either source; SCD. It has
#   no single arms: its single modality is a source, copied. The measure was changed after a first look: by Qabf a
#   copied source already has a high score, and no gain was seen; SCD is a measure by which a copy does not win.
# * CMFS: light and weather; log-odds of the foreground of pixels by the single arms; mean IoU.
#
# "plain" is the information over all things, "given" that within the true classes, where agreeing on the class does not
# count. One setting is measured again here and must agree.

# %%
found = runs.read_result("shared_information", "demo")
again = shared.measured(shared.cmi_fusion(light="night", weather="clear"))
stored = found[(found.method == "CMI-Fusion") & (found.setting == "night, clear")].iloc[0]
for name in ("gain", "plain", "given"):
    print(f"{name:<6} stored {stored[name]:.3f}, again {again[name]:.3f}")
    assert abs(stored[name] - again[name]) < 0.02, "the committed results do not hold"
print(found[["method", "setting", "fused", "one", "other", "gain", "plain", "given", "chance"]].round(3).to_string(
    index=False))

# %%
ranked = runs.read_result("shared_ranks", "demo")
assert np.allclose(ranked.rho, shared.ranks(found, 2).rho, atol=1e-3), "the ranks are of other settings"
print(ranked.round(3).to_string(index=False))
clear = ranked[ranked.p_holm < 0.05]
assert (clear.rho < 0).all() and set(clear.method) == {"SA-CMF", "CMAF", "CMI-Fusion"}, "the answer says otherwise"
print("correlations that outlast a correction for all rows:")
print(clear.round(2).to_string(index=False) if len(clear) else "none")

# %%
fig, axes = plots.figure(1, found.method.nunique(), width=plots.PAGE, height=2.2)
for ax, (method, own) in zip(axes, found.groupby("method", sort=False), strict=True):
    ax.axhline(0, color="0.2", lw=0.6)
    for name, marker, colour in (("plain", "o", plots.COLOURS[0]), ("given", "s", plots.COLOURS[1])):
        spread = lambda x, own=own: [own[x] - own[f"{x}_low"], own[f"{x}_high"] - own[x]]
        ax.errorbar(own[name], own.gain, spread("gain"), spread(name), fmt=marker, color=colour, ms=3, lw=0.6)
    order = ranked[ranked.method == method].set_index("predictor").rho
    ax.set_title(f"{method}\nrank correlation {order['plain']:.2f}, {order['given']:.2f}", fontsize=7)
    ax.set_xlabel("information / nats")
axes[0].set_ylabel("gain of fusion")
for k, (label, colour) in enumerate((("over all", plots.COLOURS[0]), ("within classes", plots.COLOURS[1]))):
    axes[0].annotate(label, (0.97, 0.93 - 0.1 * k), xycoords="axes fraction", ha="right", fontsize=7, color=colour)
plots.save(fig, "shared_information", dict(settings=found, ranks=ranked),
           claim="gains fall where more is shared, in three methods of four; one setting measured again agrees")
plt.show()

# %% [markdown]
# A dial changes more than redundancy: a better calibrated sensor shares more with the picture because it tells more by
# itself, and leaves less to be gained. What the order shows is that the information, which needs no fused network,
# foretells the gain; not that redundancy alone makes it small. Of CMAF's settings the first two are the same captions.

# %% [markdown]
# ## Values for the paper

# %%
plots.value("tau_theta2", float(copula.gumbel_tau(2.0)))
plots.value("mi_theta2", float(copula.gumbel_mi(2.0)), unit="nats", fmt=".4f")
plots.value("closed_form_error", worst, fmt=".0e")
plots.value("gaussian_rho", rho)
plots.value("gaussian_true", truth)
plots.value("gaussian_tau", tau_inverted)
plots.value("gaussian_bound", bound)
plots.value("ties_true", float(np.log(4)))
plots.value("ties_copula", forced.mi)
plots.value("accuracy_pairs", pairs)
for name, short in {"likelihood": "ml", "ksg": "ksg", "gaussian": "gaussian"}.items():
    plots.value(f"{short}_bias", float(at.bias[name]), fmt=".4f")
    plots.value(f"{short}_sd", float(at.sd[name]), fmt=".4f")
plots.value("published_weight_low", facts["weight_low"])
plots.value("published_weight_high", facts["weight_high"])
for T in (2, 16, 64):
    plots.value(f"published_sum_{T}", float(sums[sums.tokens == T].low.iloc[0]), fmt=".4g")
plots.value("published_scalar", facts["scalar"], fmt=".0e")
plots.value("published_importance_mean", facts["importance_mean"])
for row in shares.itertuples():
    for name in ("mean", "mean_low", "mean_high", "chance", "largest"):
        plots.value(f"learnt_{row.method.lower().replace('-', '_')}_{name}", getattr(row, name), fmt=".4f")
for row in ranked.itertuples():
    plots.value(f"rho_{row.method.lower().replace('-', '_')}_{row.predictor}", row.rho, fmt=".2f")
print(plots.value("published_gradient", int(facts["gradient"])))

# %% [markdown]
# ## What would change this
# * Pairs from another family: nearest neighbours make no assumption, and the goodness-of-fit test of `cmf.copula` tells
#   when the Gumbel copula does not describe the ranks.
# * Fewer than 200 pairs: the standard error is then of the size of what is sought, whatever the estimator.
# * Dependence that is not monotone: no rotation of the copula follows it; a learnt projection must straighten it first.
# * The matrices of trained networks are those of one training run; another seed gives other directions and other
#   matrices.
# * Sixteen clips are few: CMAF's segments could share less than they can show.
