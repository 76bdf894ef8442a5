"""What a text loss reads: log-probabilities of the answers' tokens, in the forward that gives the rewards.

Shapes: N rows (pairs), 2 is chosen, rejected, S places whose states are read, T tokens of answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from assay.data.tokens.table import PairTable
from assay.models.reward_model import RewardModel
from assay.training import distributed
from assay.training.batches import Batch, TokenSource
from assay.training.states.cache import CHUNK_ROWS


class TextPlaces(NamedTuple):
    """Where the tokens of answers lie in a batch.

    states: (S,) flat indices of the tokens that predict them, each once. predictor: (T,) which of those predicts each token;
    targets: (T,) ids of the tokens; owner: (T,) 2 x the number of the row in the batch, plus 1 for the rejected answer.
    """

    states: np.ndarray
    predictor: np.ndarray
    targets: np.ndarray
    owner: np.ndarray


def text_places(batch: Batch, table: PairTable, wanted_N2: np.ndarray) -> TextPlaces:
    """The tokens of those answers of the batch's rows that are wanted, (N, 2) bool."""
    if int(table.answer_starts[batch.rows].min()) < 1:
        raise ValueError("the table does not say where answers begin: make it with build_table(..., with_starts=True)")
    packed = batch.packed
    tokens, branch = packed.tokens.reshape(-1), packed.branch.reshape(-1)
    number = {int(row): n for n, row in enumerate(batch.rows)}
    before, targets, owner = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start, size, (row, group) in zip(packed.starts, packed.sizes, batch.groups, strict=True):
        branch_G = branch[start : start + size]
        is_pair = int(branch_G.max()) == 2
        for side in (0, 1) if is_pair else (int(group),):
            n = number[int(row)]
            if not wanted_N2[n, side]:
                continue
            own = start + np.flatnonzero((branch_G == 0) | (branch_G == (side + 1 if is_pair else 1)))
            first = int(table.answer_starts[row, side])
            before.append(own[first - 1 : -1])
            targets.append(tokens[own[first:]].astype(np.int64))
            owner.append(np.full(len(own) - first, 2 * n + side))
    states, predictor = np.unique(np.concatenate(before), return_inverse=True)
    return TextPlaces(states, predictor, np.concatenate(targets), np.concatenate(owner))


def outputs_and_text(
    model: RewardModel, source: TokenSource, batch: Batch, table: PairTable, wanted_N2: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs_RK, likelihood_N2): as `TokenSource.outputs`, and the sum of log p of each wanted answer's tokens, float32; 0 of the
    others."""
    assert model.text_head is not None, "the model was prepared without the head of a text loss"
    places = text_places(batch, table, wanted_N2)
    outputs_RK, states_SD = source.outputs_and_states(model, batch, places.states)
    device = states_SD.device
    predictor_T, targets_T, owner_T = (
        torch.from_numpy(part).to(device) for part in (places.predictor, places.targets, places.owner)
    )
    logprobs_T = model.text_head(states_SD.index_select(0, predictor_T), targets_T, model.compute_dtype)
    sums = torch.zeros(2 * len(batch.rows), device=device).index_add(0, owner_T, logprobs_T)
    return outputs_RK, sums.view(-1, 2)


def num_text_tokens(table: PairTable, rows: np.ndarray) -> np.ndarray:
    """(N, 2) tokens of the answers, with what the template closes them with."""
    return table.lengths[rows] - table.answer_starts[rows]


@torch.no_grad()
def text_likelihoods(model: RewardModel, source: TokenSource, table: PairTable, rows: np.ndarray) -> np.ndarray:
    """(N of the whole table, 2) float32: sums of log p of the answers' tokens of some rows, NaN for the others. Every process gets
    all of them."""
    was_training = model.training
    model.eval()
    found = torch.zeros(len(table), 2, device=model.head.weight.device)
    for start in range(0, len(rows), CHUNK_ROWS):
        for batch, counts in distributed.batches(model, source.batches, rows[start : start + CHUNK_ROWS]):
            _, sums_N2 = outputs_and_text(model, source, batch, table, np.ones((len(batch.rows), 2), bool))
            if counts:
                found[torch.from_numpy(batch.rows).to(found.device)] = sums_N2
    model.train(was_training)
    values = distributed.sum_tensor(found).cpu().numpy()
    values[np.setdiff1d(np.arange(len(table)), rows)] = np.nan
    return values
