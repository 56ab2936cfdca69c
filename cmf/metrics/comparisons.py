"""Many paired comparisons in one table: p values that allow for their number, and sizes of effects.

Axes: n pairs (seeds or objects), m comparisons.
"""

import numpy as np
from scipy import stats

from cmf.metrics.intervals import paired_bootstrap


def holm(p):
    """Adjusted p values of m tests: rejecting where one is at most a makes any false rejection no likelier than a.

    The k-th smallest (k from 1) becomes max over j <= k of min(1, (m - j + 1) p_(j)) (Holm 1979, Scandinavian Journal
    of Statistics 6). The tests may depend on each other in any way.

    Arguments
        p   (m,), from 0 to 1, of one family of tests
    Returns (m,), in the order of `p`. Raises ValueError for an empty or other shape, NaN or values outside 0 to 1.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, float)
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected p values from 0 to 1 in one row, got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def paired_effect(a, b):
    """Standardised paired difference, Cohen's d_z = mean(a - b) / s(a - b), s the standard deviation with n - 1.

    (Cohen 1988, Statistical Power Analysis, section 2.3.5.) It says how steady a difference is over the pairs, not how
    large; it grows when pairs agree. sqrt(n) d_z is the t of the paired test. 0 where all differences are 0, infinite
    where they are equal and not 0.

    Arguments
        a, b    (n,), n of at least 2: row i of both is the same object or seed
    Returns a float. Raises ValueError for other shapes, NaN or infinity.

    >>> round(paired_effect([3., 5., 4.], [1., 2., 3.]), 6)
    2.0
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"expected two rows of one length of at least 2, got shapes {a.shape} and {b.shape}")
    gap = a - b
    if not np.isfinite(gap).all():
        raise ValueError("values hold NaN or infinity: leave these pairs out first")
    mean, spread = gap.mean(), gap.std(ddof=1)
    if spread > 1e-12 * np.abs(np.concatenate([a, b])).max():
        return float(mean / spread)
    return float(np.sign(mean) * np.inf) if mean else 0.0


def family(table, values, to, by="arm"):
    """A table of arms against one of them, with sizes of effects and p values for the whole table.

    Swapping n pairs gives no p below 2 / 2^n: with five seeds and two arms or more, p_holm is at least 0.125. t_holm
    is finer, and holds where the differences are near to normal.

    Arguments
        table   DataFrame, a row an arm; its column "p" is used where it has one, else p is that of `paired_bootstrap`
        values  DataFrame (n, arms) of what is compared, a row a pair, a column for each arm and for `to`
        to      the arm that the others are compared to; its own row has NaN
        by      the table's column of names
    Returns the table with, as its last columns, effect (d_z of `to` minus arm), p, p_holm and t_holm (of the paired
    t tests, two-sided). Raises ValueError for arms without values.
    """
    absent = {to, *table[by]} - set(values.columns)
    if absent:
        raise ValueError(f"no values of {', '.join(sorted(absent))}; there are {', '.join(map(str, values.columns))}")
    own, others = values[to].to_numpy(), table[by] != to
    effect = np.array([paired_effect(own, values[arm].to_numpy()) for arm in table[by]])
    p = table["p"] if "p" in table else [paired_bootstrap(own, values[arm].to_numpy()).p for arm in table[by]]
    t = 2 * stats.t.sf(np.abs(effect) * np.sqrt(len(own)), len(own) - 1)
    told = table.drop(columns="p", errors="ignore").assign(effect=effect, p=p, p_holm=p, t_holm=t)
    for name in ("p_holm", "t_holm"):
        if others.any():
            told.loc[others, name] = holm(told.loc[others, name])
    told.loc[~others, ["effect", "p", "p_holm", "t_holm"]] = np.nan
    return told
