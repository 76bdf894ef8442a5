"""What a run has computed of its texts, so that the saved model need not compute it again: calibration, test and drift reference.

The frozen layers of a saved model are those of the base. What lies on top of them is taken from the saved files.
Shapes: N completions, R reward positions of a table, D hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from assay.data.tokens.packing import spans
from assay.data.tokens.render import LOST, Rendered
from assay.data.tokens.table import SequenceTable
from assay.models.backbone import split_backbone
from assay.models.mean_layer import folded_states
from assay.models.reward_model import RewardModel
from assay.training.batches import Batch, Source, StateSource, TokenSource
from assay.training.settings import TrainConfig, top_blocks

StatesOf = Callable[[RewardModel, np.ndarray], np.ndarray]
"""What the head of the saved model reads at some reward positions of the table: (n, D) float32."""


class KnownTexts:
    """The texts of a table, found by their tokens and the places that are read; see `scorers.packed_reads.KnownTexts`.

    rows: of the table.
    """

    def __init__(self, table: SequenceTable, rows: np.ndarray, states_of: StatesOf) -> None:
        self._states_of = states_of
        self._place: dict[bytes, int] = {}
        for row in rows:
            place = int(table.first_reward_position[row])
            for group in table.groups(int(row), share=False):
                self._place[_digest(group.tokens, group.reward_positions)] = place
                place += len(group.reward_positions)

    def find(self, model: RewardModel, rendered: Sequence[Rendered]) -> tuple[np.ndarray, np.ndarray]:
        """Which of N rendered completions are known, (n,), and what the head of the model reads of them at all their reward
        positions, one completion after another, (r, D) float32."""
        reads = [item.reward_positions[item.reward_positions != LOST] for item in rendered]
        places = [
            -1 if item.error is not None else self._place.get(_digest(item.tokens, own), -1)
            for item, own in zip(rendered, reads, strict=True)
        ]
        index = np.flatnonzero(np.array(places) >= 0)
        if not len(index):
            return index, np.empty((0, model.backbone.hidden_size), np.float32)
        sizes = np.array([len(reads[i]) for i in index])
        return index, self._states_of(model, spans(np.array(places)[index], sizes))


def known_texts(config: TrainConfig, table: SequenceTable, source: Source, rows: np.ndarray) -> KnownTexts | None:
    """The texts of the rows whose states a run keeps; None where it keeps none, and for members with layers of their own."""
    if isinstance(source, StateSource):
        states_RD = source.states_RD
        if config.reads_mean:
            return KnownTexts(table, rows, lambda model, places: _folded(model, states_RD[places]))
        return KnownTexts(table, rows, lambda model, places: np.array(states_RD[places]))
    num_blocks = top_blocks(config.params)
    if isinstance(source, TokenSource) and source.cache is not None and config.members.ensemble == 1:
        return KnownTexts(table, rows, lambda model, places: _by_top(model, num_blocks, source, places))
    return None


def _folded(model: RewardModel, states_n2D: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return folded_states(model.backbone, torch.from_numpy(states_n2D).to(model.backbone.device)).cpu().numpy()


@torch.inference_mode()
def _by_top(model: RewardModel, num_blocks: int, source: TokenSource, places: np.ndarray) -> np.ndarray:
    """The last blocks of the saved model on the cached states of the rows that hold these reward positions."""
    table = source.table
    top = RewardModel(split_backbone(model.backbone, num_blocks)[1], model.head, compute_dtype=model.compute_dtype)
    rows = np.unique(np.searchsorted(table.first_reward_position, places, side="right") - 1)
    found_RD = np.full((int(table.num_reward_positions[rows].sum()), model.backbone.hidden_size), np.nan, np.float32)
    reads = spans(table.first_reward_position[rows], table.num_reward_positions[rows])
    for batch in source.batches(rows):
        states_RD = _states_in_order(top, source, batch)
        inside = spans(table.first_reward_position[batch.rows], table.num_reward_positions[batch.rows])
        found_RD[np.searchsorted(reads, inside)] = states_RD
    return found_RD[np.searchsorted(reads, places)]


def _states_in_order(top: RewardModel, source: TokenSource, batch: Batch) -> np.ndarray:
    assert source.cache is not None
    hidden_BLD = source.cache.gather(batch.packed, batch.groups).to(top.head.weight.device)
    states_RD = top.states(batch.packed, hidden_BLD).float()
    return torch.zeros_like(states_RD).index_copy(0, torch.from_numpy(batch.slots).to(states_RD.device), states_RD).cpu().numpy()


def _digest(tokens: np.ndarray, reward_positions: np.ndarray) -> bytes:
    reads = reward_positions.astype(np.int32).tobytes()
    return hashlib.blake2b(tokens.astype(np.int32).tobytes() + b"|" + reads, digest_size=16).digest()
