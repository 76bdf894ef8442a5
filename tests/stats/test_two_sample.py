"""Figures of two samples by hand, and p-values adjusted for all of them."""

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from assay.stats.two_sample import adjusted, decile_edges, ks_exchanged, mmd_exchanged, psi_exchanged


def pooled(first, second):
    """Both samples, and which rows are the second's, not exchanged."""
    return np.concatenate([first, second]), np.repeat([0.0, 1.0], [len(first), len(second)])[None]


def test_adjusted_p_by_hand():
    """20 draws, two figures: what was seen is the largest of its row in the first, the smallest in the second."""
    values = {"a": np.array([99.0, *range(19)]), "b": np.array([-1.0, *range(19)])}
    first, second = adjusted(values, 0.05)
    # the smallest p of both is 1/20 in what was seen and in the draw that is largest in b: 2 of 20
    assert (first.p, second.p) == (0.1, 1.0)
    assert math.isnan(first.threshold), "with 20 draws no figure can reach 5%"
    assert [test.threshold for test in adjusted(values, 0.1)] == [99.0, 18.0]


def test_mmd_is_the_unbiased_estimate_over_couples_of_different_prompts():
    first, second = np.random.default_rng(0).normal(size=(6, 3)), np.random.default_rng(1).normal(size=(4, 3)) + 1
    prompts, others = np.array([0, 0, 1, 2, 3, 4]), np.array([0, 1, 2, 2])
    pooled, labels = np.concatenate([first, second]), [*((0, p) for p in prompts), *((1, p) for p in others)]
    square = ((pooled[:, None] - pooled[None]) ** 2).sum(-1)
    apart = np.array([[a != b for b in labels] for a in labels])
    kernel = np.exp(-square / (2 * np.median(square[apart])))
    is_new = np.array([label[0] == 1 for label in labels])

    def mean(rows, columns):
        kept = apart & rows[:, None] & columns[None]
        return kernel[kept].mean()

    expected = mean(is_new, is_new) + mean(~is_new, ~is_new) - 2 * mean(is_new, ~is_new)
    _, prompt_N = np.unique([f"{sample} {prompt}" for sample, prompt in labels], return_inverse=True)
    assign_1C = np.array([[False] * 5 + [True] * 3])
    assert mmd_exchanged(pooled, prompt_N, assign_1C)[0] == pytest.approx(expected, rel=1e-5)


def test_ks_is_that_of_scipy_ties_included():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 9, 50).astype(float), rng.integers(2, 12, 70).astype(float)
    assert ks_exchanged(*pooled(first, second))[0] == pytest.approx(ks_2samp(first, second).statistic)


def test_psi_by_hand():
    # bins: below 5 and from 5 on; shares with half an answer added: 4.5/10, 5.5/10 against 1.5/5, 3.5/5
    first, second = np.array([0, 0, 0, 0, 6, 6, 6, 6, 6.0]), np.array([0, 7, 7, 7.0])
    p, q = np.array([0.45, 0.55]), np.array([0.3, 0.7])
    assert psi_exchanged(*pooled(first, second), np.array([5.0]))[0] == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert len(decile_edges(np.ones(10))) == 1
