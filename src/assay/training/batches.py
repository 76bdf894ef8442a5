"""From rows of a token table to what one forward takes: micro-batches under a token budget, and the outputs put back in order.

Shapes: N rows, G groups, R reward positions, K outputs of the head, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from assay.data.tokens.packing import Group, PackedBatch, RowLayout, pack, spans
from assay.data.tokens.table import SequenceTable
from assay.models.reward_model import RewardModel
from assay.training import distributed
from assay.training.states.cache import CHUNK_ROWS, ActivationCache


class Batch(NamedTuple):
    """Whole rows of a table in one forward.

    rows: (N,) table rows. slots: (R,) place of each packed reward position among those of the rows, row after row. groups: (G, 2)
    of each packed group its table row, and its number among the groups of that row."""

    packed: PackedBatch
    rows: np.ndarray
    slots: np.ndarray
    groups: np.ndarray


def row_batches(table: SequenceTable, rows: np.ndarray, max_tokens: int, *, layout: RowLayout, pad_id: int = 0) -> list[Batch]:
    """Lay the rows into micro-batches of at most `max_tokens` tokens; a row is never split over two.

    layout: that of the backbone; in "plain" rows the sequences of a row do not share their prompt.
    """
    share = layout != "plain"
    groups_N = [table.groups(int(row), share=share) for row in rows]
    batches = []
    for chunk in [np.arange(len(rows))] if share else _chunks_by_width(groups_N, max_tokens):
        owners = np.array([(place, k) for place, i in enumerate(chunk) for k in range(len(groups_N[i]))])
        groups = [group for i in chunk for group in groups_N[i]]
        for packed in pack(groups, max_tokens if share else 2**62, pad_id=pad_id, layout=layout):
            place_G, number_G = owners[packed.order].T
            num_reward_positions_G = np.array([len(groups[i].reward_positions) for i in packed.order])
            by_row_G, first_G = np.argsort(packed.order), np.empty_like(num_reward_positions_G)
            first_G[by_row_G] = np.cumsum(num_reward_positions_G[by_row_G]) - num_reward_positions_G[by_row_G]
            inside = np.stack([rows[chunk[place_G]], number_G], axis=1)
            batches.append(Batch(packed, rows[chunk[np.unique(place_G)]], spans(first_G, num_reward_positions_G), inside))
    return batches


def _chunks_by_width(groups_N: Sequence[Sequence[Group]], max_tokens: int) -> Iterator[np.ndarray]:
    """Places of the rows, those of most tokens first, so many at a time as fit when every sequence is padded to the longest."""
    order = np.argsort([-sum(len(group.tokens) for group in groups) for groups in groups_N], kind="stable")
    start = 0
    while start < len(order):
        width, num_sequences, end = 0, 0, start
        while end < len(order):
            groups = groups_N[order[end]]
            width = max(width, *(len(group.tokens) for group in groups))
            num_sequences += len(groups)
            if end > start and num_sequences * width > max_tokens:
                break
            end += 1
        yield order[start:end]
        start = end


class Source(Protocol):
    """What a task trains on: rows of a table as micro-batches, and a model's outputs at their reward positions."""

    @property
    def table(self) -> SequenceTable: ...
    def batches(self, rows: np.ndarray) -> Sequence[Any]: ...
    def outputs(self, model: RewardModel, batch: Any) -> torch.Tensor:
        """(R, K), float32: the reward positions of the batch's first row, then those of the next."""
        ...


@dataclass(slots=True, kw_only=True)
class TokenSource:
    """Rows as tokens, or, with a cache, as the frozen trunk's hidden states: what a full or a blocks:K model trains on."""

    table: SequenceTable
    max_tokens: int
    layout: RowLayout
    pad_id: int = 0
    cache: ActivationCache | None = None

    def batches(self, rows: np.ndarray) -> list[Batch]:
        return row_batches(self.table, rows, self.max_tokens, layout=self.layout, pad_id=self.pad_id)

    def outputs(self, model: RewardModel, batch: Batch) -> torch.Tensor:
        return self._in_order(model(batch.packed, self._hidden(model, batch)), batch)

    def outputs_and_states(self, model: RewardModel, batch: Batch, places_S: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As `outputs`; and the last hidden states (S, D) at further places, flat indices into the batch's tokens, where the last
        layer is run too."""
        read = replace(batch.packed, reward_positions=np.concatenate([batch.packed.reward_positions, places_S]), round_tokens=0)
        states_SD = model.states(read, self._hidden(model, batch))
        num_rewards = len(batch.packed.reward_positions)
        return self._in_order(model.read(states_SD[:num_rewards]), batch), states_SD[num_rewards:]

    def _hidden(self, model: RewardModel, batch: Batch) -> torch.Tensor | None:
        return None if self.cache is None else self.cache.gather(batch.packed, batch.groups).to(model.head.weight.device)

    @staticmethod
    def _in_order(outputs_RK: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.zeros_like(outputs_RK).index_copy(0, torch.from_numpy(batch.slots).to(outputs_RK.device), outputs_RK)


class StateBatch(NamedTuple):
    """Rows whose final hidden states are at hand. rows: (N,) table rows."""

    rows: np.ndarray


@dataclass(slots=True, kw_only=True)
class StateSource:
    """Rows as final hidden states at their reward positions, (R, D) for the whole table: what a head alone trains on."""

    table: SequenceTable
    states_RD: np.ndarray

    def batches(self, rows: np.ndarray) -> list[StateBatch]:
        return [StateBatch(rows)]

    def outputs(self, model: RewardModel, batch: StateBatch) -> torch.Tensor:
        reward_positions = spans(self.table.first_reward_position[batch.rows], self.table.num_reward_positions[batch.rows])
        return model.read(torch.from_numpy(self.states_RD[reward_positions]).to(model.head.weight.device))


@torch.no_grad()
def outputs_at(model: RewardModel, source: Source, rows: np.ndarray) -> np.ndarray:
    """Outputs (R, K), float32, at the reward positions of the rows, row after row. Every process gets all of them."""
    assert len(np.unique(rows)) == len(rows), "a row that is requested twice would be answered once"
    model.eval()
    num_reads_N = source.table.num_reward_positions[rows]
    first = np.zeros(len(source.table), np.int64)
    first[rows] = np.cumsum(num_reads_N) - num_reads_N
    found_RK = torch.zeros(int(num_reads_N.sum()), model.head.out_features, device=model.head.weight.device)
    for start in range(0, len(rows), CHUNK_ROWS):
        for batch, counts in distributed.batches(model, source.batches, rows[start : start + CHUNK_ROWS]):
            outputs_RK = source.outputs(model, batch).float()
            if counts:
                places = spans(first[batch.rows], source.table.num_reward_positions[batch.rows])
                found_RK[torch.from_numpy(places).to(found_RK.device)] = outputs_RK
    return distributed.sum_tensor(found_RK).cpu().numpy()
