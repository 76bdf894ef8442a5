"""What every layer says of a sample of answers: the states at the rewarded token and the mean over the text, from one forward.

The depth probe fits on them; the chosen layer's are kept, so that these texts are not run again. Shapes: L layers, N rows of two
answers, A = 2N answers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.data.tokens.table import SequenceTable
from assay.models.backbone import Backbone
from assay.models.mean_layer import MeanRead
from assay.training import distributed
from assay.training.batches import Batch, row_batches
from assay.training.states.cache import CHUNK_ROWS, KnownStates, normed


class LayerStates(NamedTuple):
    """rows: (N,) of the table. last_LAD: after each layer the state at the rewarded token, before the final norm; mean_LAD: the
    mean of the normed states over the text. float32, answers row after row."""

    rows: np.ndarray
    last_LAD: np.ndarray
    mean_LAD: np.ndarray


@torch.no_grad()
def layer_states(
    backbone: Backbone,
    table: SequenceTable,
    rows: np.ndarray,
    *,
    max_tokens: int,
    on_answers: Callable[[int], None] = lambda num_answers: None,
) -> LayerStates:
    """One forward over the rows of a table of pairs, two sequences a row.

    Several processes each run their share of the rows, and all get the result.
    """
    place = {int(row): i for i, row in enumerate(rows)}
    out = np.zeros((2, backbone.num_layers, len(rows), 2, backbone.hidden_size), np.float32)
    states: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(_keeping(states)) for layer in backbone.model.layers]
    chunk = min(CHUNK_ROWS, -(-len(rows) // distributed.world_size()))
    try:
        for start in range(chunk * distributed.rank(), len(rows), chunk * distributed.world_size()):
            for batch in row_batches(table, rows[start : start + chunk], max_tokens, layout=backbone.layout):
                states.clear()
                backbone(batch.packed)
                where = [place[int(row)] for row in batch.rows]
                for part, found_LN2D in zip(out, _reads(states, batch, backbone.model.norm), strict=True):
                    part[:, where] = found_LN2D
                on_answers(2 * len(batch.rows))
    finally:
        for hook in hooks:
            hook.remove()
    distributed.sum_tensor(torch.from_numpy(out))
    last_LAD, mean_LAD = out.reshape(2, backbone.num_layers, 2 * len(rows), -1)
    return LayerStates(rows, last_LAD, mean_LAD)


def differences(parts: Sequence[LayerStates], layer: int, backbone: Backbone) -> np.ndarray:
    """What chosen has more than rejected after a layer, counted from 0: (2, N, D) float32, normed last token, then mean."""
    last_AD, mean_AD = (np.concatenate([part[k][layer] for part in parts]) for k in (1, 2))
    both_2N2D = np.stack([normed(last_AD, backbone), mean_AD]).reshape(2, len(last_AD) // 2, 2, -1)
    return both_2N2D[:, :, 0] - both_2N2D[:, :, 1]


def at_depth(parts: Sequence[LayerStates], depth: int) -> KnownStates:
    """The states after `depth` layers of all parts together."""
    rows = np.concatenate([part.rows for part in parts])
    return KnownStates(rows, *(np.concatenate([part[k][depth - 1] for part in parts]) for k in (1, 2)))


def _keeping(states: list[torch.Tensor]) -> Callable[[Any, Any, Any], None]:
    def keep(module: Any, inputs: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    return keep


def _reads(states: Sequence[torch.Tensor], batch: Batch, norm: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """(L, N, 2, D) of chosen and rejected: states at the last token before the norm, and means of the normed ones."""
    device = states[0].device
    positions_R = torch.from_numpy(batch.packed.reward_positions).to(device)
    mean_of = MeanRead(batch.packed, device)
    flat = [state.flatten(0, 1) for state in states]
    last_LRD = torch.stack([state.index_select(0, positions_R).float() for state in flat])
    mean_LRD = torch.stack([mean_of(norm(state)) for state in flat])
    order_R = np.argsort(batch.slots)
    last, mean = (part.cpu().numpy()[:, order_R].reshape(len(states), len(batch.rows), 2, -1) for part in (last_LRD, mean_LRD))
    return last, mean
