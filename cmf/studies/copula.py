"""The copula's mutual information against quadrature, other estimators, other families, and the published map.

Axes: n pairs, B samples, T tokens of a modality, Ti image and To sequence tokens, d channels. All information in nats.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr

from cmf import copula, runs
from cmf.copula.differentiable import gumbel_mi as gumbel_mi_torch
from cmf.copula.differentiable import pairwise_logpdf
from cmf.methods.sacmf import PublishedSACMF, TokenInformation, normalised, published_criterion, published_importance

ESTIMATORS = {"likelihood": "Gumbel, likelihood", "tau": "Gumbel, tau", "bound": "Gumbel, lower bound",
              "ksg": "nearest neighbours", "gaussian": "Gaussian copula"}


def _log_density(log_x: np.ndarray, log_y: np.ndarray, theta: float) -> np.ndarray:
    """ln c term by term from ln x and ln y, x = -ln u and y = -ln v: the plain form, for quadrature."""
    log_a = np.logaddexp(theta * log_x, theta * log_y) / theta
    return (-np.exp(log_a) + np.exp(log_x) + np.exp(log_y) + (theta - 1) * (log_x + log_y)
            + (1 - 2 * theta) * log_a + np.log(np.exp(log_a) + theta - 1))


def quadrature(theta: float) -> float:
    """Mutual information of the Gumbel copula as the double integral of c ln c, without the closed form's lemma.

    Trapezoid rule in r = (ln x + ln y) / 2 and s = ln x - ln y, in which the integrand is analytic and dies
    exponentially, so that the error falls exponentially with the step. theta: above 1. About 1e-12 relative at 2.

    >>> abs(quadrature(2.0) - 0.375389346063) < 1e-11
    True
    """
    s = np.arange(-180, 181)[None] * (0.25 / theta)
    r = np.arange(-900, 121)[:, None] * 0.08
    log_x, log_y = r + s / 2, r - s / 2
    value = _log_density(log_x, log_y, theta)
    weight = np.exp(value - np.exp(log_x) - np.exp(log_y) + log_x + log_y)               # density of (r, s)
    return float((weight * value).sum() * 0.08 * 0.25 / theta)


def gaussian_bound(rho: float) -> tuple[float, float]:
    """The largest mean of ln c_t under a Gaussian copula of correlation rho in (0, 1), and its t, by quadrature."""
    z = np.linspace(-9, 9, 721)
    a, b = z[:, None], z[None]
    weight = np.exp(-(a * a - 2 * rho * a * b + b * b) / (2 * (1 - rho**2)))
    weight /= weight.sum()
    log_x = np.log(-log_ndtr(z))
    mean = lambda t: float((weight * _log_density(log_x[:, None], log_x[None], t)).sum())
    found = minimize_scalar(lambda t: -mean(t), bounds=(1.0, 20.0), method="bounded", options=dict(xatol=1e-6))
    return -float(found.fun), float(found.x)


def _gaussian(n, rho, rng):
    x = rng.standard_normal(n)
    return x, rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(n)


def _clayton(n, theta, rng):
    u, p = rng.random(n), rng.random(n)
    return u, (u**-theta * (p ** (-theta / (1 + theta)) - 1) + 1) ** (-1 / theta)


def _parabola(n, noise, rng):
    x = rng.uniform(-1, 1, n)
    return x, x**2 + noise * rng.standard_normal(n)


def _parabola_truth(noise):
    """Entropy of y = x^2 + noise e, by quadrature, minus that of noise e."""
    x = (np.arange(4000) + 0.5) / 4000
    y = np.linspace(-9 * noise, 1 + 9 * noise, 3001)
    p = np.exp(-(((y[:, None] - x**2) / noise) ** 2) / 2).mean(1) / (noise * np.sqrt(2 * np.pi))
    return float(-(p * np.log(p)).sum() * (y[1] - y[0]) - 0.5 * np.log(2 * np.pi * np.e * noise**2))


@dataclass(frozen=True)
class Family:
    """A bivariate family of one parameter: sample(n, parameter, rng) -> x, y, each (n,); truth(parameter) in nats."""

    sample: Callable
    truth: Callable


FAMILIES = {
    "gumbel": Family(copula.gumbel_sample, lambda t: float(copula.gumbel_mi(t))),
    "gaussian": Family(_gaussian, lambda rho: float(-0.5 * np.log1p(-(rho**2)))),
    "clayton": Family(_clayton, lambda t: float(np.log1p(t) - t / (1 + t))),
    "parabola": Family(_parabola, _parabola_truth),
}


def draw(family: str, parameter: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n pairs of a family of FAMILIES: theta for gumbel and clayton, correlation for gaussian, noise for parabola
    (y = x^2 + noise e, x uniform on (-1, 1)). Equal arguments give equal pairs.

    Raises:
        ValueError: an unknown family.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}; there are {', '.join(FAMILIES)}")
    rng = np.random.default_rng([seed, n, list(FAMILIES).index(family), round(1e6 * parameter)])
    return FAMILIES[family].sample(n, parameter, rng)


def estimate(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Mutual information of x and y, (n,) each, by every estimator of ESTIMATORS."""
    u, v = copula.ecdf(x), copula.ecdf(y)
    fit = copula.fit_gumbel(u, v)
    return {"likelihood": float(copula.gumbel_mi(fit.theta)),
            "tau": float(copula.gumbel_mi(copula.fit_gumbel(u, v, "tau").theta)),
            "bound": fit.log_likelihood / fit.n,
            "ksg": copula.ksg_mutual_information(x, y), "gaussian": copula.gaussian_mutual_information(x, y)}


def _estimates(cases, repeats, seed):
    todo = [(family, parameter, n, k) for family, parameter, n in cases for k in range(repeats)]
    rows = [dict(family=family, parameter=parameter, n=n, repeat=k, **estimate(*draw(family, parameter, n, seed + k)))
            for family, parameter, n, k in runs.progress(todo, "samples")]
    return dict(estimates=pd.DataFrame(rows))


def compare(cases: Iterable[tuple[str, float, int]], repeats: int, seed: int = 0) -> pd.DataFrame:
    """Every estimator on repeated samples of every case, computed once and kept.

    Args:
        cases: (family, parameter, n); see `draw`.
        repeats: samples a case, at least 2, from seeds `seed`, `seed` + 1, ...

    Returns:
        A row a case and estimator: family, parameter, n, truth, estimator, mean, sd (one sample's standard
        deviation), bias, error (standard error of the bias), rmse.

    Raises:
        ValueError: fewer than 2 repeats.
    """
    cases = [(str(family), float(parameter), int(n)) for family, parameter, n in cases]
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2 to show a spread, got {repeats}")
    settings = dict(cases=cases, repeats=repeats, seed=seed)
    kept = runs.cached("copula_estimates", lambda: _estimates(**settings), parameters=settings,
                       code=[sys.modules[__name__]])["estimates"]
    rows = []
    for (family, parameter, n), group in kept.groupby(["family", "parameter", "n"], sort=False):
        truth = FAMILIES[family].truth(parameter)
        for name in ESTIMATORS:
            values = group[name]
            sd = values.std()
            rows.append(dict(family=family, parameter=parameter, n=n, truth=truth, estimator=name, mean=values.mean(),
                             sd=sd, bias=values.mean() - truth, error=sd / np.sqrt(len(values)),
                             rmse=float(np.sqrt(((values - truth) ** 2).mean()))))
    return pd.DataFrame(rows)


def published_sums(counts: Iterable[int], correlations: Iterable[float], samples: int, seed: int = 0) -> pd.DataFrame:
    """The published sum of C ln C for modalities whose token scalars are correlated.

    Tokens of d = 8 equal channels, float64, standard normal scalars. Correlation 0: independent modalities; 1: copies.

    Args:
        counts: T, the tokens of either modality.
        correlations: from 0 to 1.
        samples: B.

    Returns:
        A row a T and correlation: tokens, correlation, low and high (smallest and largest sum over the samples),
        copula (the corrected estimate from the same B T pairs of scalars; infinite for copies).
    """
    rows = []
    for T in counts:
        for rho in correlations:
            x, y = _gaussian(samples * T, rho, np.random.default_rng([seed, T]))
            tokens = (torch.from_numpy(z).view(samples, T, 1).expand(-1, -1, 8) for z in (x, y))
            sums = published_importance(*tokens)[2].sum((1, 2))
            ours = np.inf if rho == 1 else copula.mutual_information(x, y).mi
            rows.append(dict(tokens=T, correlation=rho, low=sums.min().item(), high=sums.max().item(), copula=ours))
    return pd.DataFrame(rows)


def published_facts(samples: int, seed: int = 0, classes: int = 5, length: int = 32) -> dict[str, float]:
    """What the published network's information does before training, on random inputs in float32.

    Returns:
        weight_low, weight_high: smallest and largest weight of a token in the fused vector; importance_mean: mean
        of the importances; gradient: norm of the gradient of the information term in all parameters; scalar:
        mean magnitude of the sequence tokens' scalars, channel means after layer normalisation.
    """
    torch.manual_seed(seed)
    network = PublishedSACMF(classes, length).eval()
    shapes = dict(pooled=(2, 2048), grey=(3,), difference=(1,), flat=(2 * (length // 2),))
    batch = {name: torch.randn(samples, *shape) for name, shape in shapes.items()}
    batch["labels"] = torch.arange(samples) % classes
    tokens = []
    hook = network.encoder.register_forward_hook(lambda module, given, out: tokens.append(out.detach()))
    outputs = network(batch)
    hook.remove()
    weights = torch.cat([outputs["share_image"].softmax(1), outputs["share_sequence"].softmax(1)])   # (2 B, 2)
    # a term without a graph cannot be differentiated: zero times the logits gives it one
    term = published_criterion(outputs, batch)["information"] + 0 * outputs["logits"].sum()
    gradients = torch.autograd.grad(term, list(network.parameters()), allow_unused=True)
    norm = sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5
    return dict(weight_low=weights.min().item(), weight_high=weights.max().item(),
                importance_mean=torch.cat([outputs["share_image"], outputs["share_sequence"]]).mean().item(),
                gradient=norm, scalar=tokens[0].mean(-1).abs().mean().item())


@torch.no_grad()
def learned(information: TokenInformation) -> dict[str, np.ndarray]:
    """What a trained network has learnt about its tokens, from the recent training samples stored with its weights.

    Returns:
        information (Ti, To): mutual information of the fitted copulas; theta and rotated (Ti, To), rotated in degrees;
        importance (T,): its mean over the stored samples; relevance (T,), nats; ranks (n, T) of the stored scalars.

    Raises:
        ValueError: weights without stored samples.
    """
    if not bool(information.filled > 1):
        raise ValueError("these weights hold no recent samples; train with memory above 0")
    ranks = information.table(information.memory[: int(information.filled)])             # (n, T)
    u, v = ranks.split(information.counts, 1)
    matrix = gumbel_mi_torch(information.theta)                                          # (Ti, To)
    pointwise = pairwise_logpdf(u, v, information.theta, information.rotated)            # (n, Ti, To)
    redundancy = information._redundancy(matrix, pointwise)                              # (n, T)
    score = (information.relevance - redundancy) / information.config.temperature
    importance = normalised(score, torch.ones_like(score, dtype=torch.bool)).mean(0)
    found = dict(information=matrix, theta=information.theta, rotated=information.rotated, importance=importance,
                 relevance=information.relevance, ranks=ranks)
    return {name: value.numpy() for name, value in found.items()}


def matrix_table(matrix: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """A matrix (Ti, To) over tokens as rows image, sequence, value; names: of all Ti + To tokens."""
    Ti, To = matrix.shape
    return pd.DataFrame(dict(image=np.repeat(names[:Ti], To), sequence=np.tile(names[Ti:], Ti), value=matrix.ravel()))


def importance_table(found: dict[str, np.ndarray], names: tuple[str, ...]) -> pd.DataFrame:
    """Relevance (nats) and mean importance of every token, as `learned` found them."""
    return pd.DataFrame(dict(token=names, relevance=found["relevance"], importance=found["importance"]))
