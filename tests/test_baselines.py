"""Baselines: every row is predicted once, by models that did not see its fold."""

import numpy as np
import pytest

from cmf.baselines import MODELS, average, cross_validate, stratified_folds


def blobs(n=90, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return rng.normal(size=(n, 4)) + 3 * np.eye(4)[labels], labels


@pytest.mark.parametrize("model", MODELS)
def test_separable_classes_are_found_and_runs_repeat(model):
    x, y = blobs()
    folds = stratified_folds(y, 3, seed=1)
    p = cross_validate(x, y, folds, model)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == y).mean() > 0.8
    np.testing.assert_array_equal(p, cross_validate(x, y, folds, model))


def test_held_out_labels_are_not_seen():
    x, y = blobs()
    folds = stratified_folds(y, 3)
    changed = np.where(folds == 0, (y + 1) % 3, y)
    np.testing.assert_array_equal(cross_validate(x, y, folds)[folds == 0],
                                  cross_validate(x, changed, folds)[folds == 0])


def test_class_absent_from_a_training_part_has_probability_zero():
    x, y = blobs()
    folds = np.where(y == 2, "only here", np.where(np.arange(90) < 45, "a", "b"))
    p = cross_validate(x, y, folds)
    assert p.shape == (90, 3) and (p[y == 2, 2] == 0).all() and (p[y != 2, 2] > 0).all()


def test_stratified_folds_share_classes():
    labels = np.repeat([0, 1], [20, 80])
    folds = stratified_folds(labels, 5, seed=4)
    assert [(labels[folds == k] == 0).sum() for k in range(5)] == [4] * 5


def test_average_of_probabilities():
    mean = average(np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]]), floor=0.0)
    np.testing.assert_allclose(mean, [[0.75, 0.25]])
    with pytest.raises(ValueError, match="expected one shape, at least one array"):
        average(np.zeros((2, 2)), np.zeros((2, 3)))


@pytest.mark.parametrize("change, words", [
    (lambda x, y, f: (x[:5], y, f), "expected \\(n, k\\), \\(n,\\) and \\(n,\\)"),
    (lambda x, y, f: (np.where(x == x[0, 0], np.nan, x), y, f), "1 feature values are not finite"),
    (lambda x, y, f: (x, y - 1, f), "leave unlabelled rows out"),
    (lambda x, y, f: (x, y, f * 0), "1 different folds, expected at least 2"),
    (lambda x, y, f: (x, y, (y == 0) * 1), "only class 0 is left to train on"),
])
def test_bad_input_is_refused(change, words):
    x, y = blobs()
    with pytest.raises(ValueError, match=words):
        cross_validate(*change(x, y, stratified_folds(y, 3)))


def test_unknown_model_is_refused():
    x, y = blobs()
    with pytest.raises(ValueError, match="unknown model 'forest'; choose among logistic"):
        cross_validate(x, y, stratified_folds(y, 3), "forest")
