"""Linear fits by hand, and predictions that never saw what they predict."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from assay.stats.linear import bradley_terry_weights, clustered_errors, cross_fitted, least_squares
from assay.stats.metrics import cluster_folds
from assay.stats.significance import clustered_error


def test_least_squares_by_hand_and_with_columns_that_say_the_same():
    x_P = np.array([0.0, 1.0, 2.0])
    assert least_squares(np.stack([np.ones(3), x_P], axis=1), np.array([0.0, 1.0, 5.0])) == pytest.approx((-0.5, 2.5))
    assert least_squares(np.stack([x_P, x_P], axis=1), 3 * x_P) == pytest.approx((1.5, 1.5))


def test_the_error_of_a_mean_is_that_of_significance():
    rng = np.random.default_rng(0)
    values_P, clusters_P = rng.normal(size=90), rng.integers(30, size=90)
    errors = clustered_errors(np.ones((90, 1)), values_P - values_P.mean(), clusters_P)
    assert errors == pytest.approx([clustered_error(values_P, clusters_P)])


def test_clustered_errors_are_those_of_many_draws():
    rng, found, errors = np.random.default_rng(1), [], []
    clusters_P = np.repeat(np.arange(100), 3)
    for _ in range(300):
        x_P = np.repeat(rng.normal(size=100), 3)
        design_P2 = np.stack([np.ones(300), x_P], axis=1)
        values_P = 2 * x_P + np.repeat(rng.normal(size=100), 3) + rng.normal(size=300)
        weights_2 = least_squares(design_P2, values_P)
        found.append(weights_2)
        errors.append(clustered_errors(design_P2, values_P - design_P2 @ weights_2, clusters_P))
    assert np.mean(found, axis=0) == pytest.approx((0, 2), abs=0.03)
    assert np.mean(errors, axis=0) == pytest.approx(np.std(found, axis=0), rel=0.12)


@pytest.mark.parametrize("form", [np.asarray, csr_matrix])
def test_bradley_terry_weights_by_hand(form):
    labels_P = np.array([1.0, 1.0, 1.0, 0.0])
    ones_P1, equal = form(np.ones((4, 1))), np.ones(4)
    assert bradley_terry_weights(ones_P1, labels_P, equal, l2=0.0) == pytest.approx([math.log(3)], abs=1e-5)
    assert bradley_terry_weights(ones_P1, labels_P, np.array([1.0, 1, 1, 3]), l2=0.0) == pytest.approx([0], abs=1e-5)
    (held,) = bradley_terry_weights(ones_P1, labels_P, equal, l2=2.0)
    assert 4 / (1 + math.exp(-held)) - 3 + 2 * held == pytest.approx(0, abs=1e-4)  # the gradient
    assert bradley_terry_weights(form(np.zeros((4, 2))), labels_P, equal, l2=1.0).tolist() == [0, 0]
    assert bradley_terry_weights(form(np.zeros((4, 0))), labels_P, equal, l2=1.0).tolist() == []


def test_a_prediction_is_made_without_what_it_predicts():
    values_P = np.arange(20.0)
    folds_P = cluster_folds(np.arange(20), 5, seed=0)
    predicted_P = cross_fitted(lambda fit_P, held_P: np.full(int(held_P.sum()), values_P[fit_P].sum()), folds_P)
    assert predicted_P.tolist() == [values_P.sum() - values_P[folds_P == fold].sum() for fold in folds_P]
