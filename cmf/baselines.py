"""Linear and boosted baselines on hand-made features, and cross-validation that keeps every object once.

Axes: n objects, k features, c classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

SHRINKAGES = (0.1, 0.3, 0.5, 0.8)
LIMIT = 3.0  # standard deviations beyond which a feature is cut off


def logistic(seed: int = 0, c: float = 0.05) -> Pipeline:
    """Logistic regression with balanced classes on standardised features cut at 3 sigma; c is 1 / L2 weight."""
    return _linear(LogisticRegression(C=c, class_weight="balanced", max_iter=2000, random_state=seed))


def discriminant(seed: int = 0, shrinkage=SHRINKAGES) -> GridSearchCV:
    """Linear discriminant analysis; the covariance is shrunk towards its diagonal mean.

    shrinkage: values in [0, 1] to choose among by macro F1 over five inner folds of the training rows only,
    or one value to use as it is. Ledoit and Wolf's estimate ("auto") shrinks too little here.
    """
    choices = [shrinkage] if isinstance(shrinkage, int | float | str) else list(shrinkage)
    inner = StratifiedKFold(5, shuffle=True, random_state=seed)
    return GridSearchCV(_linear(LinearDiscriminantAnalysis(solver="lsqr")),
                        {"lineardiscriminantanalysis__shrinkage": choices}, scoring="f1_macro", cv=inner)


def boosting(seed: int = 0) -> HistGradientBoostingClassifier:
    """Histogram gradient boosting, small trees and strong penalties for a few hundred objects."""
    return HistGradientBoostingClassifier(max_iter=80, learning_rate=0.06, max_leaf_nodes=6, min_samples_leaf=8,
                                          l2_regularization=5.0, max_features=0.3, class_weight="balanced",
                                          random_state=seed)


def trees(seed: int = 0) -> ExtraTreesClassifier:
    """Extremely randomised trees (Geurts et al. 2006) with balanced classes."""
    return ExtraTreesClassifier(300, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=1)


MODELS: dict[str, Callable[..., ClassifierMixin | Pipeline | GridSearchCV]] = {
    "logistic": logistic, "discriminant": discriminant, "boosting": boosting, "trees": trees}


def cross_validate(features, labels, folds, model="logistic", seed: int = 0) -> np.ndarray:
    """Out-of-fold class probabilities, float64 (n, c) with c = labels.max() + 1.

    features: (n, k), finite. labels: int (n,), 0 to c - 1. folds: (n,) of any kind (numbers, source folders);
    each value is held out once, everything fitted, scaling too, sees the other rows only. A class absent from
    a training part has probability 0 there: compute measures once over all rows, never fold by fold.
    model: a name of MODELS or a function seed -> unfitted scikit-learn classifier.

    Raises ValueError for rows that disagree, values that are not finite, labels below 0, fewer than two folds,
    a fold whose training part has one class, and an unknown model.

    >>> x = np.random.default_rng(0).normal(size=(60, 3)) + np.repeat([[0.0], [3.0]], 30, axis=0)
    >>> p = cross_validate(x, np.repeat([0, 1], 30), np.arange(60) % 5)
    >>> bool((p.argmax(1) == np.repeat([0, 1], 30)).mean() > 0.9)
    True
    """
    features, labels, folds = np.asarray(features, dtype=np.float64), np.asarray(labels), np.asarray(folds)
    if features.ndim != 2 or labels.shape != features.shape[:1] or folds.shape != labels.shape:
        raise ValueError(f"features {features.shape}, labels {labels.shape}, folds {folds.shape}: expected (n, k), "
                         "(n,) and (n,)")
    if not np.isfinite(features).all():
        raise ValueError(f"{(~np.isfinite(features)).sum()} feature values are not finite; fill them first")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels start at {labels.min()}, expected 0 or more; leave unlabelled rows out")
    if len(np.unique(folds)) < 2:
        raise ValueError(f"{len(np.unique(folds))} different folds, expected at least 2")
    if isinstance(model, str) and model not in MODELS:
        raise ValueError(f"unknown model {model!r}; choose among {', '.join(MODELS)}")
    make = MODELS[model] if isinstance(model, str) else model
    out = np.zeros((len(labels), labels.max() + 1))  # (n, c)
    for fold in np.unique(folds):
        held = folds == fold
        if len(np.unique(labels[~held])) < 2:
            raise ValueError(f"without fold {fold!r} only class {labels[~held][0]} is left to train on; "
                             "merge folds")
        fitted = make(seed).fit(features[~held], labels[~held])
        out[np.ix_(held, fitted.classes_)] = fitted.predict_proba(features[held])
    return out


def average(*probabilities: np.ndarray, floor: float = 0.01) -> np.ndarray:
    """Geometric mean of several models' probabilities (n, c), normalised; floor keeps a 0 from being a veto.

    >>> average(np.array([[0.8, 0.2]]), np.array([[0.8, 0.2]]), floor=0.0).round(2)
    array([[0.8, 0.2]])
    """
    if not probabilities or any(p.shape != probabilities[0].shape for p in probabilities):
        raise ValueError(f"probabilities of shapes {[p.shape for p in probabilities]}: expected one shape, "
                         "at least one array")
    mean = np.exp(np.mean([np.log(np.asarray(p) + floor) for p in probabilities], axis=0))
    return mean / mean.sum(axis=1, keepdims=True)


def stratified_folds(labels, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Fold number of each row, (n,), each fold with about the same share of every class."""
    out = np.zeros(len(labels), dtype=np.int64)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)
    for number, (_, held) in enumerate(split):
        out[held] = number
    return out


def _linear(classifier) -> Pipeline:
    return make_pipeline(StandardScaler(), FunctionTransformer(_cut), classifier)


def _cut(x):
    return np.clip(x, -LIMIT, LIMIT)
