"""After which layer to cut the backbone: one forward over a sample of pairs, a linear Bradley-Terry probe after every layer.

The last layer of a language model is trained to predict the next token, not to judge the text before it. A model cut earlier is
often the better reward model, and always cheaper (measured in benchmarks/results). Shapes: L layers, P pairs, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from assay.data.table import SequenceTable
from assay.models.backbone import Backbone
from assay.models.mean_layer import mean_states
from assay.records import Table
from assay.stats.metrics import cluster_folds, log_losses
from assay.training import distributed
from assay.training.batches import Batch, row_batches

NUM_FOLDS = 5
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3)  # on features of root mean square 1, beside a mean loss
READS = ("last", "mean")
USUAL = 2 / 3  # of the depth: best on the data sets of benchmarks/results


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthProbe:
    """losses_LR, accuracies_LR: held-out log loss and accuracy after each layer, at the last token and of the mean over the text.

    depth: the chosen number of layers. reason: why, in a sentence. num_pairs: in the sample.
    """

    losses_LR: np.ndarray
    accuracies_LR: np.ndarray
    depth: int
    reason: str
    num_pairs: int

    def table(self) -> Table:
        """For the report: accuracy of the frozen model's probe by depth."""
        rows = tuple((layer, *map(float, self.accuracies_LR[layer - 1])) for layer in range(1, len(self.accuracies_LR) + 1))
        error = math.sqrt(0.25 / max(1, self.num_pairs))
        note = (
            f"linear probe on {self.num_pairs:,} pairs, {NUM_FOLDS}-fold by prompt; standard error about {error:.3f}; {self.reason}"
        )
        return Table(title="where the reward is read best", columns=("after layer", *READS), rows=rows, chart="line", note=note)


def probe_differences(differences_LRPD: np.ndarray, preference_P: np.ndarray, prompt_P: np.ndarray, *, seed: int = 0) -> DepthProbe:
    """Held-out linear Bradley-Terry models after every layer; `choose_depth` chooses by their losses at the last token.

    With fewer prompts than folds the figures are NaN, and the depth is two thirds of the layers.
    """
    num_prompts, num_layers = len(np.unique(prompt_P)), len(differences_LRPD)
    if num_prompts < NUM_FOLDS:
        unknown_LR = np.full((num_layers, len(READS)), math.nan)
        depth = max(1, round(USUAL * num_layers))
        reason = f"{num_prompts} prompts are too few to probe: two thirds of {num_layers} layers"
        return DepthProbe(losses_LR=unknown_LR, accuracies_LR=unknown_LR, depth=depth, reason=reason, num_pairs=len(prompt_P))
    folds_P = cluster_folds(prompt_P, NUM_FOLDS, seed=seed)
    preference_P = preference_P.astype(np.float64)
    margins = np.stack([[held_out_margins(layer[r], preference_P, folds_P) for r in range(2)] for layer in differences_LRPD])
    losses_LRP = log_losses(margins, preference_P)
    is_decided_P = preference_P != 0.5
    right = margins[..., is_decided_P] * (preference_P[is_decided_P] - 0.5) > 0
    depth, reason = choose_depth(losses_LRP[:, 0])
    return DepthProbe(
        losses_LR=losses_LRP.mean(-1), accuracies_LR=right.mean(-1), depth=depth, reason=reason, num_pairs=len(prompt_P)
    )


def choose_depth(losses_LP: np.ndarray) -> tuple[int, str]:
    """(depth, reason) from held-out losses by layer and pair: of the layers that are as good as the best, the one nearest to two
    thirds of the depth.

    As good: the layer's mean loss, averaged with its neighbours', lies within one standard error of the paired difference from the
    lowest (Breiman et al. 1984). With noisy labels that can be most layers, also shallow ones. The lowest loss, or the middle of
    them, would then change from sample to sample, and what is trained on top of a shallow layer is worse (dev/LOG.md).
    """
    smooth_LP = np.stack([losses_LP[max(0, i - 1) : i + 2].mean(0) for i in range(len(losses_LP))])
    means_L = smooth_LP.mean(1)
    best = int(means_L.argmin())
    error_L = (smooth_LP - smooth_LP[best]).std(1, ddof=1) / math.sqrt(losses_LP.shape[1])
    good = np.flatnonzero(means_L - means_L[best] <= error_L + 1e-9)
    depth = int(good[np.abs(good + 1 - USUAL * len(means_L)).argmin()]) + 1
    seen = f"held-out log loss {means_L[depth - 1]:.3f} after layer {depth} of {len(means_L)}, {means_L[-1]:.3f} after the last"
    return depth, f"{seen}; of the {len(good)} as good as the best ({good[0] + 1} to {good[-1] + 1}) the one nearest to two thirds"


@torch.no_grad()
def layer_differences(
    backbone: Backbone,
    table: SequenceTable,
    rows: np.ndarray,
    *,
    max_tokens: int,
    on_answers: Callable[[int], None] = lambda num_answers: None,
) -> np.ndarray:
    """State of chosen minus state of rejected after each layer and the final norm: (L, 2, P, D) float32, last token then mean.

    table: of pairs, two sequences a row.

    Several processes each run their share of the pairs, and all get the result.
    """
    place = {int(row): i for i, row in enumerate(rows)}
    out = np.zeros((backbone.num_layers, 2, len(rows), backbone.hidden_size), np.float32)
    states: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(
            lambda module, inputs, output: states.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in backbone.model.layers
    ]
    try:
        for start in range(256 * distributed.rank(), len(rows), 256 * distributed.world_size()):
            for batch in row_batches(table, rows[start : start + 256], max_tokens, layout=backbone.layout):
                states.clear()
                backbone(batch.packed)
                where = [place[int(row)] for row in batch.rows]
                for number, state in enumerate(states):
                    normed = backbone.model.norm(state).flatten(0, 1).float()
                    for read, states_P2D in enumerate(read_states(normed, batch)):
                        out[number, read, where] = (states_P2D[:, 0] - states_P2D[:, 1]).cpu().numpy()
                on_answers(2 * len(batch.rows))
    finally:
        for hook in hooks:
            hook.remove()
    distributed.sum_tensor(torch.from_numpy(out))
    return out


def read_states(states_TD: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, 2, D) of chosen and rejected: the states at the last token, and the means over the text, of the pairs of a batch."""
    last_RD = states_TD[torch.from_numpy(batch.packed.reward_positions).to(states_TD.device)]
    order_R = torch.from_numpy(np.argsort(batch.slots)).to(states_TD.device)
    last, mean = (part[order_R].view(len(batch.rows), 2, -1) for part in (last_RD, mean_states(states_TD, batch.packed)))
    return last, mean


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
