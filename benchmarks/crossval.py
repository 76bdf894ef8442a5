"""Grouped cross-validation of a prepared run: every pair is scored by a model that saw neither its prompt nor its answers.

The frozen trunk's activations are computed once for all folds. That is no leak: the trunk never sees a label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from assay.data.split import group_keys
from assay.records import PreferencePair
from assay.stats.metrics import cluster_folds, is_right
from assay.training.loop import fit
from assay.training.prepare import Prepared


class OutOfFold(NamedTuple):
    """margins: (P,) of the held-out fold's model for each pair. train_right: (P,) share of the folds that trained on a pair and
    then rank it right (NaN for label ties)."""

    margins: np.ndarray
    train_right: np.ndarray


def cross_validate(
    prepared: Prepared,
    pairs: Sequence[PreferencePair],
    *,
    num_folds: int = 5,
    on_fold: Callable[[int], None] = lambda num_folds: None,
) -> OutOfFold:
    """Train `num_folds` models from the same start, each on the pairs outside of one fold. The model is left as it was.

    pairs: those of the prepared table, in its order. Folds are whole groups (`group_keys`). Raises ValueError when pairs and table
    differ in number.
    """
    if len(pairs) != len(prepared.table):
        raise ValueError(
            f"{len(pairs)} pairs for a table of {len(prepared.table)}: some were set aside; give those that were rendered"
        )
    folds = cluster_folds(np.array(group_keys(pairs)), num_folds, seed=prepared.config.seed)
    start = {name: parameter.detach().clone() for name, parameter in prepared.model.named_parameters() if parameter.requires_grad}
    margins, right = np.full(len(pairs), np.nan), np.zeros(len(pairs))
    for fold in range(num_folds):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        fit(prepared.model, prepared.task, outside, prepared.derived.loop)
        margins[inside] = _margins(prepared, inside)
        right[outside] += is_right(_margins(prepared, outside), prepared.table.preference[outside])
        _restore(prepared.model, start)
        on_fold(1)
    return OutOfFold(margins, right / (num_folds - 1))


def _margins(prepared: Prepared, rows: np.ndarray) -> np.ndarray:
    rewards = prepared.task.rewards(prepared.model, rows).astype(np.float64)
    return rewards[:, 0] - rewards[:, 1]


@torch.no_grad()
def _restore(model: torch.nn.Module, start: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in start:
            parameter.copy_(start[name])
