"""From rows of a token table to what one forward eats: micro-batches under a token budget.

Shapes: P pairs, R reads, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from assay.data.packing import PackedBatch, RowLayout, pack
from assay.data.table import PairTable
from assay.models.reward_model import RewardModel
from assay.train.cache import ActivationCache


class PairBatch(NamedTuple):
    """P pairs in one forward. slots: (R,) where each read goes in the flattened (P, 2) rewards. rows: (P,) table rows."""

    packed: PackedBatch
    slots: np.ndarray
    rows: np.ndarray


def pair_batches(table: PairTable, rows: np.ndarray, max_tokens: int, *, layout: RowLayout, pad_id: int = 0) -> list[PairBatch]:
    """Lay the pairs at `rows` into micro-batches of at most `max_tokens` tokens; a pair is never split over two.

    layout: that of the backbone; in "plain" rows the two answers do not share their prompt.
    """
    share = layout != "plain"
    sizes = table.lengths[rows].sum(axis=1)
    batches = []
    chunks = [rows] if share else _chunks_by_width(table, rows[np.argsort(-sizes, kind="stable")], max_tokens)
    for chunk in chunks:
        groups = [group for row in chunk for group in table.groups(int(row), share=share)]
        num_per_pair = 1 if share else 2
        budget = max_tokens if share else 2**62
        for packed in pack(groups, budget, pad_id=pad_id, layout=layout):
            pairs, inverse = np.unique(packed.order // num_per_pair, return_inverse=True)
            if share:
                slots = (2 * inverse[:, None] + np.arange(2)).reshape(-1)
            else:
                slots = 2 * inverse + packed.order % 2
            batches.append(PairBatch(packed, slots, chunk[pairs]))
    return batches


def _chunks_by_width(table: PairTable, rows: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    start = 0
    while start < len(rows):
        width, end = 0, start
        while end < len(rows):
            width = max(width, int(table.lengths[rows[end]].max()))
            if end > start and 2 * (end + 1 - start) * width > max_tokens:
                break
            end += 1
        yield rows[start:end]
        start = end


def rewards_of_pairs(rewards_RK: torch.Tensor, batch: PairBatch) -> torch.Tensor:
    """(P, 2) rewards of chosen and rejected, from the reads of one forward of a single-member model."""
    slots_R = torch.from_numpy(batch.slots).to(rewards_RK.device)
    return torch.zeros(2 * len(batch.rows), device=rewards_RK.device).index_copy(0, slots_R, rewards_RK[:, 0]).view(-1, 2)


@dataclass(slots=True, kw_only=True)
class TokenSource:
    """Pairs as tokens, or, with a cache, as the frozen trunk's hidden states: what a full or a blocks:K model trains on."""

    table: PairTable
    max_tokens: int
    layout: RowLayout
    pad_id: int = 0
    cache: ActivationCache | None = None

    def batches(self, rows: np.ndarray) -> list[PairBatch]:
        return pair_batches(self.table, rows, self.max_tokens, layout=self.layout, pad_id=self.pad_id)

    def rewards(self, model: RewardModel, batch: PairBatch) -> torch.Tensor:
        hidden_BLD = None
        if self.cache is not None:
            num_per_pair = 2 if self.layout == "plain" else 1
            chunk_groups = _group_ids(batch, num_per_pair)
            hidden_BLD = self.cache.gather(batch.packed, chunk_groups).to(model.head.weight.device)
        return rewards_of_pairs(model(batch.packed, hidden_BLD), batch)


def _group_ids(batch: PairBatch, num_per_pair: int) -> np.ndarray:
    """Table-wide group numbers of the groups in a batch, in the batch's order."""
    if num_per_pair == 1:
        return batch.rows[batch.slots[::2] // 2]
    return 2 * batch.rows[batch.slots // 2] + batch.slots % 2


class StateBatch(NamedTuple):
    """P pairs whose final hidden states are at hand. rows: (P,) table rows."""

    rows: np.ndarray


@dataclass(slots=True, kw_only=True)
class StateSource:
    """Pairs as final hidden states (N, 2, D): what a head alone trains on."""

    table: PairTable
    states_N2D: np.ndarray

    def batches(self, rows: np.ndarray) -> list[StateBatch]:
        return [StateBatch(rows)]

    def rewards(self, model: RewardModel, batch: StateBatch) -> torch.Tensor:
        states = torch.from_numpy(self.states_N2D[batch.rows]).to(model.head.weight.device)
        return model.read(states.flatten(0, 1))[:, 0].view(-1, 2)


class Source(Protocol):
    """What the loop trains on: rows of a table as micro-batches, and a model's rewards (P, 2) for one of them."""

    @property
    def table(self) -> PairTable: ...
    def batches(self, rows: np.ndarray) -> Sequence[Any]: ...
    def rewards(self, model: RewardModel, batch: Any) -> torch.Tensor: ...
