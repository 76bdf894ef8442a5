"""Answers that a policy draws, and the log-probabilities of their tokens.

A prompt is computed once for all of its answers, in drawing, and on a CPU in log-probabilities and their gradient too; rows that
are finished leave the batch. Draws are set by a generator, so that a
step that is repeated draws the same. Suffixes: P prompts, N answers, L columns of prompts (padded at the left), T columns of
answers (padded at the right), V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from assay.data.tokens.packing import make_group, pack, predictors
from assay.models.backbone import Backbone

LEAST_SAVED = 0.2  # share of a batch's tokens; below it, and below LEAST_WORK, attention group by group costs more than is saved
LEAST_WORK = 2e7  # weights of the layers times tokens that are saved in a group: 64 tokens of four answers, with 100,000 weights
_LOGIT_BYTES = 256e6  # of a forward's logits in float32
_TRIED: WeakKeyDictionary[Any, tuple[Backbone, int]] = WeakKeyDictionary()  # of causal models, with the weights of their layers


class Rollouts(NamedTuple):
    """prompt_NL, answer_NT: token ids; prompt_mask_NL, mask_NT: bool, what is no padding (the token that ends an answer is a part
    of it). finished_N: whether it ended by itself."""

    prompt_NL: torch.Tensor
    prompt_mask_NL: torch.Tensor
    answer_NT: torch.Tensor
    mask_NT: torch.Tensor
    finished_N: torch.Tensor

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.answer_NT)

    def rows(self, places: torch.Tensor) -> Rollouts:
        """Some of the answers, without columns that are all padding."""
        some = Rollouts(*(one[places] for one in self))
        first = int(some.prompt_mask_NL.any(0).nonzero()[0, 0])
        last = int(some.mask_NT.any(0).nonzero()[-1, 0]) + 1
        return Rollouts(
            some.prompt_NL[:, first:],
            some.prompt_mask_NL[:, first:],
            some.answer_NT[:, :last],
            some.mask_NT[:, :last],
            some.finished_N,
        )


@torch.no_grad()
def sample(
    causal: Any,
    prompts: Sequence[np.ndarray],
    samples: int,
    *,
    ends: Sequence[int],
    pad_id: int,
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> Rollouts:
    """`samples` answers to each prompt, (P * samples) rows, those of a prompt side by side.

    ends: tokens that end an answer. generator: of the draws, on the CPU.
    """
    device = causal.device
    prompt_PL, prompt_mask_PL = padded_left(prompts, pad_id, device)
    places_PL = (prompt_mask_PL.long().cumsum(1) - 1).clamp(min=0)
    out = causal(
        input_ids=prompt_PL, attention_mask=prompt_mask_PL.long(), position_ids=places_PL, use_cache=True, logits_to_keep=1
    )
    num, cache = len(prompts) * samples, out.past_key_values
    cache.batch_repeat_interleave(samples)
    logits_AV = out.logits[:, -1].repeat_interleave(samples, 0)
    mask_AL = prompt_mask_PL.repeat_interleave(samples, 0)
    place_A = places_PL[:, -1].repeat_interleave(samples) + 1
    active_A = torch.arange(num, device=device)
    answer_NT = torch.full((num, max_tokens), pad_id, dtype=torch.long, device=device)
    length_N = torch.full((num,), max_tokens, dtype=torch.long, device=device)
    finished_N = torch.zeros(num, dtype=torch.bool, device=device)
    ends_E = torch.tensor(sorted(ends), device=device)
    for t in range(max_tokens):
        tokens_A = drawn(logits_AV, temperature, generator)
        answer_NT[active_A, t] = tokens_A
        ended_A = torch.isin(tokens_A, ends_E)
        finished_N[active_A[ended_A]] = True
        length_N[active_A[ended_A]] = t + 1
        if bool(ended_A.all()) or t == max_tokens - 1:
            break
        if bool(ended_A.any()):
            kept = (~ended_A).nonzero()[:, 0]
            active_A, mask_AL, place_A, tokens_A = active_A[kept], mask_AL[kept], place_A[kept], tokens_A[kept]
            cache.batch_select_indices(kept)
        mask_AL = torch.cat([mask_AL, mask_AL.new_ones(len(mask_AL), 1)], 1)
        out = causal(
            input_ids=tokens_A[:, None],
            attention_mask=mask_AL.long(),
            position_ids=place_A[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits_AV, place_A = out.logits[:, -1], place_A + 1
    mask_NT = torch.arange(max_tokens, device=device)[None] < length_N[:, None]
    longest = int(length_N.max())
    return Rollouts(
        prompt_PL.repeat_interleave(samples, 0),
        prompt_mask_PL.repeat_interleave(samples, 0),
        answer_NT[:, :longest],
        mask_NT[:, :longest],
        finished_N,
    )


def drawn(logits_AV: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """A token of each row, by inverse transform of one uniform number a row: cheap for large vocabularies, equal on every device
    up to rounding."""
    shares_AV = torch.softmax(logits_AV.float() / temperature, 1).cumsum(1)
    uniform_A = torch.rand(len(logits_AV), generator=generator).to(logits_AV.device) * shares_AV[:, -1]
    return torch.searchsorted(shares_AV, uniform_A[:, None]).clamp(max=logits_AV.shape[1] - 1)[:, 0]


def padded_left(prompts: Sequence[np.ndarray], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, L) prompts with padding before them, and which tokens are none."""
    longest = max(map(len, prompts))
    prompt_PL = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask_PL = torch.zeros((len(prompts), longest), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        prompt_PL[row, longest - len(prompt) :] = torch.from_numpy(np.asarray(prompt, np.int64))
        mask_PL[row, longest - len(prompt) :] = True
    return prompt_PL.to(device), mask_PL.to(device)


def states_of(causal: Any, rollouts: Rollouts) -> torch.Tensor:
    """(N, T, D) last states from which each token of the answers was drawn; where prompts are shared, 0 behind an answer's end."""
    if (backbone := sharing(causal, rollouts)) is not None:
        return _shared_states(backbone, rollouts)
    ids = torch.cat([rollouts.prompt_NL, rollouts.answer_NT], 1)
    mask = torch.cat([rollouts.prompt_mask_NL, rollouts.mask_NT], 1)
    places = (mask.long().cumsum(1) - 1).clamp(min=0)
    states = causal.base_model(input_ids=ids, attention_mask=mask.long(), position_ids=places, use_cache=False).last_hidden_state
    start = rollouts.prompt_NL.shape[1] - 1
    return states[:, start : start + rollouts.answer_NT.shape[1]]


def sharing(causal: Any, rollouts: Rollouts) -> Backbone | None:
    """What runs a prompt once for all of its answers: on a CPU, for a model that was loaded with `backbone.attention_for`, where
    that saves `LEAST_SAVED` of all tokens and `LEAST_WORK` in a group. None for all else: rows are padded."""
    if causal.device.type != "cpu":
        return None
    if causal not in _TRIED:
        embeddings = causal.get_input_embeddings().weight.numel()
        weights = sum(one.numel() for one in causal.base_model.parameters()) - embeddings
        _TRIED[causal] = Backbone(causal.base_model), weights
    backbone, weights = _TRIED[causal]
    prompt_tokens_N = rollouts.prompt_mask_NL.sum(1).numpy()
    firsts_P = np.unique(prompt_numbers(rollouts), return_index=True)[1]
    saved = int(prompt_tokens_N.sum() - prompt_tokens_N[firsts_P].sum())
    all_tokens = int(prompt_tokens_N.sum()) + int(rollouts.mask_NT.sum())
    if saved < LEAST_SAVED * all_tokens or saved / len(firsts_P) * weights < LEAST_WORK:
        return None
    return backbone if backbone.layout == "one row" else None


def _shared_states(backbone: Backbone, rollouts: Rollouts) -> torch.Tensor:
    prompt_N = prompt_numbers(rollouts)
    length_N = rollouts.mask_NT.sum(1).tolist()
    prompts = [row[kept].numpy() for row, kept in zip(rollouts.prompt_NL, rollouts.prompt_mask_NL, strict=True)]
    answers = [row[:length].numpy() for row, length in zip(rollouts.answer_NT, length_N, strict=True)]
    groups, members = [], []
    for number in range(int(prompt_N.max()) + 1):
        rows = np.flatnonzero(prompt_N == number)
        sequences = [np.concatenate([prompts[i], answers[i]]).astype(np.int32) for i in rows]
        groups.append(make_group(sequences, [np.arange(len(prompts[i]), len(one)) for i, one in zip(rows, sequences, strict=True)]))
        members.append(rows)
    (batch,) = pack(groups, sum(len(group.tokens) for group in groups), layout="one row")
    order = np.concatenate([members[number] for number in batch.order])
    states_RD = backbone(batch).flatten(0, 1).index_select(0, torch.from_numpy(predictors(batch)))
    found_NTD = states_RD.new_zeros(*rollouts.answer_NT.shape, states_RD.shape[-1])
    rows_R = torch.from_numpy(np.repeat(order, [length_N[i] for i in order]))
    columns_R = torch.from_numpy(np.concatenate([np.arange(length_N[i]) for i in order]))
    return found_NTD.index_put((rows_R, columns_R), states_RD)


def prompt_numbers(rollouts: Rollouts) -> np.ndarray:
    """(N,) a number for each answer, the same for those to one prompt."""
    shown_NL = torch.where(rollouts.prompt_mask_NL, rollouts.prompt_NL + 1, 0).cpu().numpy()
    rows_NL = np.ascontiguousarray(shown_NL.astype(">u4"))  # bytes in the order of the numbers: a row is one value to sort by
    return np.unique(rows_NL.view(f"V{rows_NL.itemsize * rows_NL.shape[1]}")[:, 0], return_inverse=True)[1]


def log_probabilities(causal: Any, states_NTD: torch.Tensor, rollouts: Rollouts, temperature: float) -> torch.Tensor:
    """(N, T) log-probability of each token of the answers in float32, at the temperature they were drawn at; 0 at padding."""
    kept_M = rollouts.mask_NT
    logits_MV = causal.get_output_embeddings()(states_NTD[kept_M]).float() / temperature
    found = torch.zeros(kept_M.shape, dtype=torch.float32, device=kept_M.device)
    return found.masked_scatter(kept_M, -cross_entropy(logits_MV, rollouts.answer_NT[kept_M], reduction="none"))


def parts(rollouts: Rollouts, vocabulary: int, *, shared: bool = False) -> Iterator[torch.Tensor]:
    """Places of answers whose logits fit into memory, so that each part is one forward: of about one length, or with `shared` those
    to one prompt side by side."""
    length_N = rollouts.mask_NT.sum(1)
    order = torch.argsort(length_N, stable=True)
    if shared:
        order = torch.from_numpy(np.argsort(prompt_numbers(rollouts), kind="stable")).to(length_N.device)
    budget = max(int(_LOGIT_BYTES / (4 * vocabulary)), 1)
    begin, longest = 0, 0
    for end in range(1, len(order) + 1):
        longest = max(longest, int(length_N[order[end - 1]]))
        following = max(longest, int(length_N[order[end]])) if end < len(order) else 0
        if end == len(order) or following * (end + 1 - begin) > budget:
            yield order[begin:end]
            begin, longest = end, 0
