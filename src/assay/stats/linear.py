"""Linear fits, and predictions by fits that did not see what they predict. Pure functions.

Suffixes: P pairs, C clusters (prompts), K columns of a design, V features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from assay.stats.metrics import sigmoid


def least_squares(design_PK: np.ndarray, values_P: np.ndarray) -> np.ndarray:
    """The weights (K,) of least squared error; where columns say the same, the smallest of them."""
    return np.linalg.lstsq(design_PK, values_P, rcond=1e-10)[0]


def clustered_errors(design_PK: np.ndarray, residuals_P: np.ndarray, clusters_P: np.ndarray) -> np.ndarray:
    """Standard errors (K,) of the weights of `least_squares` when clusters are the units drawn.

    Source: the sandwich of Liang & Zeger (1986), with C / (C - 1) for few clusters; of a mean it is `significance.clustered_error`.
    """
    index_P = np.unique(clusters_P, return_inverse=True)[1]
    scores_CK = np.zeros((int(index_P.max()) + 1, design_PK.shape[1]))
    np.add.at(scores_CK, index_P, design_PK * residuals_P[:, None])
    bread_KK = np.linalg.inv(design_PK.T @ design_PK)
    variance_KK = bread_KK @ (scores_CK.T @ scores_CK) @ bread_KK * len(scores_CK) / max(1, len(scores_CK) - 1)
    return np.sqrt(np.diag(variance_KK))


def bradley_terry_weights(
    differences_PV: csr_matrix | np.ndarray, preference_P: np.ndarray, weight_P: np.ndarray, *, l2: float
) -> np.ndarray:
    """The weights w (V,) of least cross-entropy of sigmoid(differences @ w) against the labels, plus l2 / 2 x |w|^2.

    differences_PV: features of chosen less those of rejected. preference_P: P(chosen beats rejected), soft labels and ties as they
    are. weight_P: of each pair. Logistic regression without an intercept, by L-BFGS from 0.
    """

    def loss(w_V: np.ndarray) -> tuple[float, np.ndarray]:
        margins_P = differences_PV @ w_V
        losses_P = np.logaddexp(0.0, margins_P) - preference_P * margins_P
        gradient_V = differences_PV.T @ (weight_P * (sigmoid(margins_P) - preference_P)) + l2 * w_V
        return float(weight_P @ losses_P + l2 / 2 * (w_V @ w_V)), gradient_V

    start_V = np.zeros(differences_PV.shape[1])
    if not len(start_V):
        return start_V
    return np.asarray(minimize(loss, start_V, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x)


def cross_fitted(predict: Callable[[np.ndarray, np.ndarray], np.ndarray], folds_P: np.ndarray) -> np.ndarray:
    """(P,) predictions, each by a fit on the other folds (see `metrics.cluster_folds`).

    predict: from masks (P,) of the pairs to fit on and of those held out to predictions for the latter.
    """
    predicted_P = np.full(len(folds_P), np.nan)
    for fold in np.unique(folds_P):
        held_P = folds_P == fold
        predicted_P[held_P] = predict(~held_P, held_P)
    return predicted_P
