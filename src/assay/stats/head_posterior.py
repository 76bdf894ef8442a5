"""How sure pairs make a linear reward: a Laplace posterior over the weights of a Bradley-Terry head. Pure functions.

The loss of a pair is log(1 + e^-m) with m = w . d, d the state of the chosen answer less that of the rejected one. Its Hessian in w
is sigmoid(m) (1 - sigmoid(m)) d d^T, whatever the label says. With a normal prior of precision prior x I, the posterior is taken
as normal around the trained weights, its precision the sum of both (MacKay 1992, "The evidence framework applied to classification
networks"; of last layers Daxberger et al. 2021, "Laplace redux"). Trained weights need not be the mode: only the width is taken.

Pairs tell differences alone. The std of a reward as such has the prompt's level in it, which no pair says anything of: ask for the
std of a difference of two answers to one prompt, or of an answer less the mean of its prompt's.

Suffixes: P pairs, N differences, K answers of a prompt, D size of a state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import brentq

from assay.stats.metrics import sigmoid


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadPosterior:
    """factor_DD: lower Cholesky factor of the posterior's precision. prior: precision of the prior, in 1 / weight squared."""

    factor_DD: np.ndarray
    prior: float

    @property
    def num_determined(self) -> float:
        """How many of the D weights the pairs determine: D - prior x trace of the covariance (MacKay 1992)."""
        inverse_DD = solve_triangular(self.factor_DD, np.eye(len(self.factor_DD)), lower=True)
        return len(self.factor_DD) - self.prior * float(np.square(inverse_DD).sum())

    def std(self, differences_ND: np.ndarray) -> np.ndarray:
        """(N,) float64: std of the reward of one answer less that of another, from the difference of their states; NaN stays NaN.

        0 where the states are equal, |d| / sqrt(prior) at most: that where no pair differed in this direction.
        """
        differences_ND = np.asarray(differences_ND, np.float64)
        is_known_N = np.isfinite(differences_ND).all(axis=1)
        std_N = np.full(len(differences_ND), np.nan)
        solved_DN = solve_triangular(self.factor_DD, differences_ND[is_known_N].T, lower=True)
        std_N[is_known_N] = np.sqrt(np.square(solved_DN).sum(axis=0))
        return std_N

    def std_in_prompt(self, states_KD: np.ndarray) -> np.ndarray:
        """(K,): std of each answer's reward less the mean reward of its prompt's answers. 0 for an answer that is alone."""
        states_KD = np.asarray(states_KD, np.float64)
        return self.std(states_KD - states_KD.mean(axis=0))


def curvature(differences_PD: np.ndarray, margins_P: np.ndarray, weight_P: np.ndarray) -> np.ndarray:
    """(D, D) float64: Hessian of the summed Bradley-Terry loss of P pairs in the weights of the head, at these margins. That of
    more pairs is the sum of theirs."""
    differences_PD, margins_P = np.asarray(differences_PD, np.float64), np.asarray(margins_P, np.float64)
    slope_P = np.asarray(weight_P, np.float64) * sigmoid(margins_P) * sigmoid(-margins_P)
    return np.asarray(differences_PD.T @ (slope_P[:, None] * differences_PD))


def posterior_of(curvature_DD: np.ndarray, prior: float) -> HeadPosterior:
    """The posterior for a prior precision. Raises ValueError for a prior that is not above 0."""
    if not 0 < prior < math.inf:
        raise ValueError(f"prior precision {prior} must be above 0: without one, directions that no pair has would be infinite")
    return HeadPosterior(factor_DD=cholesky(curvature_DD + prior * np.eye(len(curvature_DD)), lower=True), prior=prior)


def prior_by_evidence(curvature_DD: np.ndarray, weight_D: np.ndarray) -> float:
    """The prior precision of the highest marginal likelihood, the trained weights held:

    D/2 log prior - prior/2 |w|^2 - 1/2 log det(H + prior I), with H the curvature

    Its maximum is where prior |w|^2 = sum over j of h_j / (h_j + prior), the number of weights that the pairs determine, for the
    eigenvalues h of H (MacKay 1992). Raises ValueError where pairs or weights say nothing: then there is no maximum.
    """
    values_D, size = np.maximum(np.linalg.eigvalsh(curvature_DD), 0.0), float(np.square(weight_D, dtype=np.float64).sum())
    if not (values_D[-1] > 0 and size > 0):
        none = "all weights of the head are 0" if size == 0 else "the two answers of every pair have equal states"
        raise ValueError(f"{none}: the pairs do not say how precise the prior is; give it as a number")

    def slope(log_prior: float) -> float:
        prior = math.exp(log_prior)
        return float((values_D / (values_D + prior)).sum()) - prior * size

    highest = math.log(len(values_D) / size)  # no more weights than there are can be determined
    lowest = highest - 1.0
    while slope(lowest) < 0:
        lowest -= 1.0
    return math.exp(float(brentq(slope, lowest, highest, xtol=1e-9)))
