"""Empirical ranks, the Gumbel copula and mutual information in nats.

Here on NumPy arrays, for analysis; cmf.copula.differentiable and cmf.copula.soft_ranks are the torch side, for
training, and are imported by name so that this package stays light.
"""

from .comparisons import gaussian_mutual_information, ksg_mutual_information, plugin_mutual_information
from .estimate import GumbelFit, MutualInformation, fit_gumbel, goodness_of_fit, mutual_information, rotate
from .gumbel import (
    ecdf,
    gumbel_cdf,
    gumbel_logpdf,
    gumbel_mi,
    gumbel_mi_derivative,
    gumbel_sample,
    gumbel_tail_dependence,
    gumbel_tau,
)

__all__ = [
    "GumbelFit", "MutualInformation", "ecdf", "fit_gumbel", "gaussian_mutual_information", "goodness_of_fit",
    "gumbel_cdf", "gumbel_logpdf", "gumbel_mi", "gumbel_mi_derivative", "gumbel_sample", "gumbel_tail_dependence",
    "gumbel_tau", "ksg_mutual_information", "mutual_information", "plugin_mutual_information", "rotate",
]
