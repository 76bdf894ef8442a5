"""A Laplace posterior over a Bradley-Terry head: by hand, against autograd, its growth, its prior, and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.stats.head_posterior import curvature, posterior_of, prior_by_evidence
from assay.stats.linear import bradley_terry_weights
from assay.stats.metrics import sigmoid


def test_two_pairs_by_hand():
    differences_PD, margins_P = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0.0, math.log(3.0)])
    # sigmoid(0) (1 - sigmoid(0)) = 1/4, times 2^2; sigmoid(log 3) = 3/4, so 3/16; the second pair weighs 2
    hessian_DD = curvature(differences_PD, margins_P, np.array([1.0, 2.0]))
    np.testing.assert_allclose(hessian_DD, [[1.0, 0.0], [0.0, 0.375]])
    posterior = posterior_of(hessian_DD, prior=0.5)
    # precisions 1.5 and 0.875
    std_N = posterior.std(np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0], [math.nan, 0.0]]))
    expected = [1 / 1.5, 4 / 0.875, 1 / 1.5 + 1 / 0.875, 0.0, math.nan]
    np.testing.assert_allclose(std_N, np.sqrt(expected))
    np.testing.assert_allclose(posterior.std_in_prompt(np.array([[5.0, 7.0], [3.0, 7.0]])), np.sqrt([1 / 1.5] * 2))
    assert posterior.std_in_prompt(np.array([[5.0, 7.0]])).tolist() == [0.0]
    with pytest.raises(ValueError, match="must be above 0"):
        posterior_of(hessian_DD, prior=0.0)


def test_the_curvature_is_the_hessian_that_autograd_finds_whatever_the_labels():
    rng = np.random.default_rng(0)
    differences_PD, weight_D, weight_P = rng.normal(size=(30, 6)), rng.normal(size=6), rng.uniform(0.2, 2.0, size=30)
    found_DD = curvature(differences_PD, differences_PD @ weight_D, weight_P)
    d, of_pair = torch.from_numpy(differences_PD), torch.from_numpy(weight_P)
    for labels_P in (np.ones(30), rng.uniform(size=30)):
        labels = torch.from_numpy(labels_P)

        def loss(w: torch.Tensor, labels: torch.Tensor = labels) -> torch.Tensor:
            margin = d @ w
            return (of_pair * torch.nn.functional.binary_cross_entropy_with_logits(margin, labels, reduction="none")).sum()

        brute_DD = torch.autograd.functional.hessian(loss, torch.from_numpy(weight_D)).numpy()
        np.testing.assert_allclose(found_DD, brute_DD, rtol=1e-9, atol=1e-9)


def test_it_grows_away_from_the_data_as_far_as_the_prior():
    rng = np.random.default_rng(1)
    seen_PD = np.hstack([rng.normal(size=(400, 3)), np.zeros((400, 1))])  # no pair differs in the last direction
    posterior = posterior_of(curvature(seen_PD, np.zeros(400), np.ones(400)), prior=0.25)
    inside, outside = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0])
    steps = np.linspace(0, 1, 6)[:, None]
    turned_N = posterior.std((1 - steps) * inside + steps * outside)
    assert (np.diff(turned_N) > 0).all()
    assert turned_N[-1] == pytest.approx(1 / math.sqrt(0.25)), "nothing is known there: the prior's own"
    np.testing.assert_allclose(posterior.std(np.array([3 * inside, 3 * outside])), 3 * turned_N[[0, -1]])
    fewer = posterior_of(curvature(seen_PD[:100], np.zeros(100), np.ones(100)), prior=0.25)
    assert fewer.std(inside[None])[0] / turned_N[0] == pytest.approx(2, rel=0.15), "a quarter of the pairs: twice the std"


def test_the_evidence_has_its_maximum_where_it_is_said_to_be():
    rng = np.random.default_rng(2)
    true_D = rng.normal(size=5)
    differences_PD = rng.normal(size=(300, 5))
    hessian_DD = curvature(differences_PD, differences_PD @ true_D, np.ones(300))
    prior = prior_by_evidence(hessian_DD, true_D)

    def evidence(prior: float) -> float:
        log_det = np.linalg.slogdet(hessian_DD + prior * np.eye(5))[1]
        return 5 / 2 * math.log(prior) - prior / 2 * float(true_D @ true_D) - log_det / 2

    assert evidence(prior) > max(evidence(prior * 1.02), evidence(prior / 1.02))
    one = prior_by_evidence(np.array([[3.0]]), np.array([2.0]))
    assert one * 4 == pytest.approx(3 / (3 + one)), "of one weight by hand"
    for hessian, weight, why in (
        (np.zeros((2, 2)), np.ones(2), "equal states"),
        (np.eye(2), np.zeros(2), "weights of the head are 0"),
    ):
        with pytest.raises(ValueError, match=why):
            prior_by_evidence(hessian, weight)


def test_its_intervals_cover_on_a_logistic_law():
    """Weights from the prior, labels from their law: 95% intervals of differences that were not seen cover in 95% of worlds."""
    rng, prior, covered = np.random.default_rng(3), 1.0, []
    for _ in range(300):
        true_D, differences_PD, fresh_ND = rng.normal(size=6), rng.normal(size=(80, 6)), rng.normal(size=(20, 6))
        labels_P = (rng.uniform(size=80) < sigmoid(differences_PD @ true_D)).astype(np.float64)
        fitted_D = bradley_terry_weights(differences_PD, labels_P, np.ones(80), l2=prior)
        posterior = posterior_of(curvature(differences_PD, differences_PD @ fitted_D, np.ones(80)), prior)
        covered.append(np.abs(fresh_ND @ (fitted_D - true_D)) < 1.96 * posterior.std(fresh_ND))
    assert 0.93 < np.mean(covered) < 0.97
