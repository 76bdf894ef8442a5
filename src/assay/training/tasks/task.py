"""What the loop asks of a training task; a new kind of training is a module in this folder that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from assay.models.reward_model import RewardModel


class BatchLoss(NamedTuple):
    """total: summed loss of a micro-batch, to go backward from. columns: (C,) sums for the log, without gradient."""

    total: torch.Tensor
    columns: torch.Tensor


class Task(Protocol):
    """Rows of a table as micro-batches, their loss, and figures of held-out rows.

    A row is one item of the task: a pair, a ranked list, a solution with its steps. The loop divides the loss and the columns of an
    optimiser step by its number of rows: a task whose rows hold several labels decides itself how they weigh.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what `loss` sums up for metrics.jsonl, "loss" among them."""
        ...

    def batches(self, rows: np.ndarray) -> Sequence[Any]:
        """Micro-batches that hold each of the rows once, within the token budget."""
        ...

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        """Loss of one micro-batch, summed over its rows."""
        ...

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        """Figures of held-out rows, "loss" among them: early stopping looks for its minimum. Every process gets the same ones."""
        ...
