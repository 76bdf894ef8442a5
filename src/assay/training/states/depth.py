"""After which layer to cut the backbone: a linear Bradley-Terry probe after every layer, on as many pairs as the decision needs.

The last layer of a language model is trained to predict the next token, not to judge the text before it. A model cut earlier is
often the better reward model, and always cheaper (measured in benchmarks/results). Shapes: L layers, P pairs, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from assay.console import progress
from assay.data.tokens.table import SequenceTable
from assay.models.backbone import Backbone, cut_depth
from assay.models.device import Compute, token_budget
from assay.records import Table
from assay.stats.metrics import cluster_folds, log_losses
from assay.training import distributed
from assay.training.states.cache import KnownStates
from assay.training.states.layer_states import LayerStates, at_depth, differences, layer_states
from assay.training.trained import in_dtype

LOOKS = (125, 250, 500, 1000)  # pairs after which the probe asks whether it may stop
TOLERABLE = 0.03  # nats of log loss, one to two points of accuracy: by so much another layer may be better when the probe stops
DECIDED = 1.64  # standard errors that are added to what was seen, before it is compared with `TOLERABLE`
OUT = 2.5  # standard errors behind the best at which a layer is out; some twenty are compared at each look
NUM_FOLDS = 5
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3)  # on features of root mean square 1, beside a mean loss
READS = ("last", "mean")
USUAL = 2 / 3  # of the depth: best on the data sets of benchmarks/results

DifferencesOf = Callable[[int, int, int], np.ndarray]
"""(start, stop, top) -> (top, 2, stop - start, D): chosen less rejected of those pairs, after each of the first `top` layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthProbe:
    """losses_LR, accuracies_LR: held-out log loss and accuracy after each layer, at the last token and of the mean over the text.

    depth: the chosen number of layers. reason: why, in a sentence. num_pairs_L: that each layer was tried on, fewer where it was
    out early.
    """

    losses_LR: np.ndarray
    accuracies_LR: np.ndarray
    depth: int
    reason: str
    num_pairs_L: np.ndarray

    def table(self) -> Table:
        """For the report: accuracy of the frozen model's probe by depth."""
        rows = tuple((layer, *map(float, accuracies_R)) for layer, accuracies_R in enumerate(self.accuracies_LR, start=1))
        most, early_L = int(self.num_pairs_L.max()), np.flatnonzero(self.num_pairs_L < self.num_pairs_L.max())
        out = f", those above layer {early_L[0]} on fewer, as they could not win" if len(early_L) else ""
        error = math.sqrt(0.25 / max(1, most))
        note = f"linear probe on {most:,} pairs{out}; {NUM_FOLDS}-fold by prompt; standard error about {error:.3f}; {self.reason}"
        return Table(title="where the reward is read best", columns=("after layer", *READS), rows=rows, chart="line", note=note)


class Probed(NamedTuple):
    """What a probe found, and the states after the chosen layer of the rows that it looked at; None where those are no whole rows
    of the table."""

    probe: DepthProbe
    known: KnownStates | None


def probe_layers(
    backbone: Backbone,
    table: SequenceTable,
    rows: np.ndarray,
    preference_P: np.ndarray,
    prompt_P: np.ndarray,
    compute: Compute,
    *,
    least: int = 1,
    seed: int = 0,
) -> Probed:
    """`probe_depth` on rows of a table of pairs, which are run as far as they are asked for, in their order.

    rows: in random order. preference_P, prompt_P: of these rows. compute: where and in which number format they are run.
    """
    frozen, parts = in_dtype(backbone, compute.dtype).to(compute.device), list[LayerStates]()
    with progress("depth probe", 2 * len(rows), "answers") as advance:

        def differences_of(start: int, stop: int, top: int) -> np.ndarray:
            kept = frozen if top == frozen.num_layers else cut_depth(frozen, top)
            max_tokens = token_budget(compute.device)
            parts.append(layer_states(kept, table, rows[start:stop], max_tokens=max_tokens, on_answers=advance))
            return np.stack([differences(parts[-1:], layer, kept) for layer in range(top)])

        probe = probe_depth(differences_of, preference_P, prompt_P, num_layers=frozen.num_layers, least=least, seed=seed)
    return Probed(probe, at_depth(parts, probe.depth))


def probe_depth(
    differences_of: DifferencesOf, preference_P: np.ndarray, prompt_P: np.ndarray, *, num_layers: int, least: int = 1, seed: int = 0
) -> DepthProbe:
    """Held-out linear Bradley-Terry models after every layer, on growing numbers of pairs until `decide` has decided.

    Layers above those that can still win are not asked for again. least: the fewest layers that may be kept. With fewer prompts
    than folds the figures are NaN, and the depth is two thirds of the layers.
    """
    losses_LR, accuracies_LR = np.full((2, num_layers, len(READS)), math.nan)
    num_pairs_L, size, top = np.zeros(num_layers, int), 0, num_layers
    parts_LRPD: list[np.ndarray] = []
    for look in (*(n for n in LOOKS if n < len(prompt_P)), len(prompt_P)):
        parts_LRPD.append(differences_of(size, look, top))
        found_LRPD = np.concatenate([part[:top] for part in parts_LRPD], axis=2)
        size = look
        labels_P, prompts_P = preference_P[:size].astype(np.float64), prompt_P[:size]
        if len(np.unique(prompts_P)) < NUM_FOLDS:
            continue
        folds_P = cluster_folds(prompts_P, NUM_FOLDS, seed=seed)
        margins_LP = np.stack([held_out_margins(layer[0], labels_P, folds_P) for layer in found_LRPD])
        decision = _of_rank0(decide(log_losses(margins_LP, labels_P), prompts_P, num_layers=num_layers, least=least))
        is_end = decision.is_decided or size == len(prompt_P)
        last = slice(0 if is_end else decision.top, top)  # layers that are fitted for the last time
        means_LP = [held_out_margins(layer[1], labels_P, folds_P) for layer in found_LRPD[last]]
        for read, margins in enumerate((margins_LP[last], np.reshape(means_LP, (-1, size)))):
            losses_LR[last, read] = log_losses(margins, labels_P).mean(-1)
            is_decided_P = labels_P != 0.5
            accuracies_LR[last, read] = (margins[:, is_decided_P] * (labels_P[is_decided_P] - 0.5) > 0).mean(-1)
        num_pairs_L[last], top = size, decision.top
        if is_end:
            return DepthProbe(
                losses_LR=losses_LR,
                accuracies_LR=accuracies_LR,
                depth=decision.depth,
                reason=f"{decision.reason}; {size:,} pairs" + (" decided it" if size < len(prompt_P) else ""),
                num_pairs_L=num_pairs_L,
            )
    reason = f"{len(np.unique(prompt_P))} prompts are too few to probe: two thirds of {num_layers} layers"
    depth = max(least, 1, round(USUAL * num_layers))
    return DepthProbe(
        losses_LR=losses_LR, accuracies_LR=accuracies_LR, depth=depth, reason=reason, num_pairs_L=num_pairs_L + len(prompt_P)
    )


class Decision(NamedTuple):
    """depth: the number of layers chosen so far, and the reason in a sentence. top: the layers that can still win lie among so many
    first ones. is_decided: whether more pairs could gain no more than `TOLERABLE`."""

    depth: int
    reason: str
    top: int
    is_decided: bool


def decide(losses_LP: np.ndarray, prompt_P: np.ndarray, *, num_layers: int | None = None, least: int = 1) -> Decision:
    """From held-out losses by layer and pair: of the layers as good as the best, the one nearest to two thirds of the depth.

    As good: the layer's mean loss, averaged with its neighbours', lies within one standard error of the paired difference from
    the lowest (Breiman et al. 1984), prompts drawn whole. With noisy labels that can be most layers, also shallow ones. The lowest
    loss, or the middle of them, would then change from sample to sample, and what is trained on top of a shallow layer is worse
    (dev/LOG.md).

    It is decided when no layer is seen better than the chosen one by more than `TOLERABLE` less `DECIDED` standard errors. A stop
    at any of the looks then leaves a layer that is worse than the best by more than `TOLERABLE` in at most 5% of samples, for
    losses whose paired differences are near normal (simulated in tests/training/states/test_depth.py). A layer can still win
    within `OUT` standard errors of the best. num_layers: of the base, where the losses are of its first layers alone. least: of
    the layers kept.
    """
    num_layers = num_layers or len(losses_LP)
    smooth_LP = np.stack([losses_LP[max(0, i - 1) : i + 2].mean(0) for i in range(len(losses_LP))])
    means_L = smooth_LP.mean(1)
    best = int(means_L.argmin())
    behind_L, error_L = means_L - means_L[best], _errors(smooth_LP - smooth_LP[best], prompt_P)
    good = np.flatnonzero(behind_L <= error_L + 1e-9)
    good = np.unique(np.maximum(good, least - 1))
    place = int(good[np.abs(good + 1 - USUAL * num_layers).argmin()])
    can_win = np.flatnonzero(behind_L <= OUT * error_L + 1e-9)
    top = min(len(losses_LP), max(can_win[-1], place) + 2)  # with the neighbour that its loss is averaged with
    ahead_L = means_L[place] - means_L + DECIDED * _errors(smooth_LP[place] - smooth_LP, prompt_P)
    seen = f"held-out log loss {means_L[place]:.3f} after layer {place + 1} of {num_layers}"
    seen += f", {means_L[-1]:.3f} after the last" if len(means_L) == num_layers else f"; above layer {len(means_L)} none could win"
    good_ones = f"of the {len(good)} as good as the best ({good[0] + 1} to {good[-1] + 1}) the one nearest to two thirds"
    return Decision(place + 1, f"{seen}; {good_ones}", top, bool(ahead_L[can_win].max() <= TOLERABLE))


def _of_rank0(decision: Decision) -> Decision:
    """Rank 0's decision, in every process: they forward the next pairs together, or none does."""
    depth, top, is_decided = map(distributed.broadcast_from_rank0, (decision.depth, decision.top, int(decision.is_decided)))
    return decision._replace(depth=depth, top=top, is_decided=bool(is_decided))


def _errors(differences_LP: np.ndarray, prompt_P: np.ndarray) -> np.ndarray:
    """Standard errors (L,) of means over P pairs whose prompts are drawn whole."""
    _, place_P = np.unique(prompt_P, return_inverse=True)
    centred_LP = differences_LP - differences_LP.mean(1, keepdims=True)
    sums_LC = np.stack([np.bincount(place_P, row) for row in centred_LP])
    num_clusters = sums_LC.shape[1]
    return np.sqrt((sums_LC**2).sum(1) * num_clusters / max(1, num_clusters - 1)) / differences_LP.shape[1]


def held_out_margins(difference_PD: np.ndarray, preference_P: np.ndarray, folds_P: np.ndarray) -> np.ndarray:
    """(P,) margins of linear Bradley-Terry models, each pair's by the model fitted on the other folds.

    The penalty is the one with the lowest held-out loss; features are scaled to a root mean square of 1 on the other folds.
    """
    margins = np.zeros((len(PENALTIES), len(preference_P)))
    for fold in np.unique(folds_P):
        inside, outside = folds_P == fold, folds_P != fold
        scale_D = np.sqrt((difference_PD[outside] ** 2).mean(0)) + 1e-6
        train, test = (difference_PD[outside] / scale_D).astype(np.float32), difference_PD[inside] / scale_D
        weights_D = np.zeros(train.shape[1])
        for number, penalty in reversed(list(enumerate(PENALTIES))):  # the strongest first: each fit starts near its end
            weights_D = fit_linear(train, preference_P[outside], penalty, start=weights_D)
            margins[number, inside] = test @ weights_D
    return margins[int(np.argmin([log_losses(row, preference_P).mean() for row in margins]))]


def fit_linear(difference_PD: np.ndarray, preference_P: np.ndarray, penalty: float, *, start: np.ndarray) -> np.ndarray:
    """Weights (D,) that minimise the mean Bradley-Terry loss plus penalty / 2 times their squared norm, by L-BFGS."""
    target_P = preference_P.astype(np.float32)

    def loss(weights_D: np.ndarray) -> tuple[float, np.ndarray]:
        margins_P = difference_PD @ weights_D.astype(np.float32)
        value = log_losses(margins_P, target_P).mean()
        slope_P = (0.5 * (1 + np.tanh(margins_P / 2)) - target_P) / len(target_P)
        return float(value + penalty / 2 * weights_D @ weights_D), (slope_P @ difference_PD).astype(
            np.float64
        ) + penalty * weights_D

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-6}).x
