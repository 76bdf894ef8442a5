"""One packed batch, for training and scoring alike.

A prompt and its k answers form one group: the prompt's tokens stand once, the answers branch off it. What is shared is found,
not assumed: the longest common prefix of the whole sequences, capped so that every rewarded token stays in a branch. Groups are
laid into rows of nearly equal length; one visibility rule serves all: a token sees an earlier token of its own group when that
one is in the prompt or in its own branch.

Shapes: B rows, L columns, R reward positions (rewarded tokens), G tokens of a group, S sequences of a group.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

GROUP_FACTOR = 4  # computing a prompt twice costs more than a forward over the fastest budget
LEAST_SHARED = 16  # tokens that sequences whose prompt is not known have in common before they are laid out as one group
RowLayout = Literal["rows", "one row", "plain"]


class Group(NamedTuple):
    """S sequences with a shared prefix, as they lie in a row: the prefix, then branch 1, 2, ... S.

    tokens, positions, branch: (G,) int32; branch is 0 in the prefix. reads: (R,) int32 indices into the group, branch by branch.
    """

    tokens: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    reward_positions: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """B rows of L tokens that hold whole groups.

    tokens, positions, group, branch: (B, L) int32; group is -1 and the token `pad_id` where a row is not filled.
    reads: (R,) int64 indices into the flattened (B * L) tokens. order: which of the groups given to `pack` are inside, in the
    order of their reads. starts: for each of them the flat index of its first token; sizes: its number of tokens.
    is_plain: every row is one sequence from column 0, so that ordinary causal attention is right without a mask. round_tokens:
    a single group of more tokens may run in rounds (`rounds_of`); 0 for any number at once.
    """

    tokens: np.ndarray
    positions: np.ndarray
    group: np.ndarray
    branch: np.ndarray
    reward_positions: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    is_plain: bool
    round_tokens: int = 0


def make_group(sequences: Sequence[np.ndarray], reward_positions: Sequence[np.ndarray], *, share: bool = True) -> Group:
    """Lay S token sequences out as a prefix and S branches. `share=False` keeps the prefix empty."""
    num_shared = shared_prefix(sequences, reward_positions) if share else 0
    tokens, positions, branch, places = [sequences[0][:num_shared]], [np.arange(num_shared)], [np.zeros(num_shared)], []
    offset = num_shared
    for number, (sequence, read) in enumerate(zip(sequences, reward_positions, strict=True), start=1):
        tokens.append(sequence[num_shared:])
        positions.append(np.arange(num_shared, len(sequence)))
        branch.append(np.full(len(sequence) - num_shared, number))
        places.append(read - num_shared + offset)
        offset += len(sequence) - num_shared
    return Group(*(np.concatenate(part).astype(np.int32) for part in (tokens, positions, branch, places)))


def shared_prefix(sequences: Sequence[np.ndarray], reward_positions: Sequence[np.ndarray]) -> int:
    """Length of the longest common token prefix that holds no rewarded token; 0 for a lone sequence."""
    if len(sequences) == 1:
        return 0
    limit = min(min(len(sequence) for sequence in sequences), min(int(read.min()) for read in reward_positions))
    first = sequences[0][:limit]
    for sequence in sequences[1:]:
        first = first[: num_common(first, sequence)]
    return len(first)


def siblings(sequences: Sequence[np.ndarray]) -> list[list[int]]:
    """Groups of sequences that have so much of their beginning in common that they are worth laying out as one: lists of indices.

    For rendered text, whose prompt is not known. Sorted, neighbours share most: one joins the group before it when they share 16
    tokens and a quarter of it, not less than it shares with the one after it, and more than the group's prefix loses by that.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">i4").tobytes())
    common = [0, *(num_common(sequences[i], sequences[j]) for i, j in itertools.pairwise(order)), 0]
    groups: list[list[int]] = []
    shared = 0
    for place, index in enumerate(order):
        size, here = len(groups[-1]) if groups else 0, common[place]
        is_near = here >= LEAST_SHARED and 4 * here >= len(sequences[index])
        if is_near and (here >= common[place + 1] if size == 1 else (shared - here) * (size - 1) < here):
            groups[-1].append(index)
            shared = here if size == 1 else min(shared, here)
        else:
            groups.append([index])
    return groups


def num_common(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the longest common beginning."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(first[:length] != second[:length])
    return int(differs[0]) if len(differs) else length


def split_group(sequences: Sequence[np.ndarray], reward_positions: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
    """Cut a group that is over the budget into parts that each fit (a single sequence may still exceed it): lists of indices."""
    num_shared = shared_prefix(sequences, reward_positions)
    parts: list[list[int]] = []
    room = 0
    for index, sequence in enumerate(sequences):
        size = len(sequence) - num_shared
        if not parts or size > room:
            parts.append([])
            room = max_tokens - num_shared
        parts[-1].append(index)
        room -= size
    return parts


def pack(groups: Sequence[Group], max_tokens: int, *, pad_id: int = 0, layout: RowLayout = "rows") -> list[PackedBatch]:
    """Lay whole groups into batches of at most `max_tokens` (B * L) tokens, longest first; one larger group is a batch alone.

    layout: "rows", as long as a batch's longest group, so that no dense mask or padding is computed for a length that no group
    has; "one row" a batch, without any padding, for attention that costs what is seen; "plain", a group a row: with lone
    sequences padded rows, for backbones that cannot branch, and as the reference for the rest.
    Every group is in exactly one batch. Raises ValueError for a budget that is not positive.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens {max_tokens} must be at least 1")
    sizes = np.array([len(group.tokens) for group in groups], dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    if layout == "one row":
        bins = _bins(order, sizes, max_tokens)
        return [replace(_lay(groups, [row], int(sizes[row].sum()), pad_id), round_tokens=GROUP_FACTOR * max_tokens) for row in bins]
    batches: list[PackedBatch] = []
    rows: list[list[int]] = []
    room: list[int] = []
    width = 0
    for index in order:
        size = int(sizes[index])
        row = next((r for r, free in enumerate(room) if free >= size), None)
        if row is None:
            if rows and (len(rows) + 1) * width > max_tokens:
                batches.append(_lay(groups, rows, width, pad_id))
                rows, room = [], []
            if not rows:
                width = size
            row = len(rows)
            rows.append([])
            room.append(0 if layout == "plain" else width)
        rows[row].append(int(index))
        room[row] -= size
    if rows:
        batches.append(_lay(groups, rows, width, pad_id))
    return batches


def predictors(batch: PackedBatch) -> np.ndarray:
    """(R,) flat index of the token before each reward position in its own sequence: what a language model predicts it from. That of
    the first token of a branch ends the prefix. No reward position may be the first token of a sequence."""
    branch, found = batch.branch.reshape(-1), []
    for start, size in zip(batch.starts, batch.sizes, strict=True):
        own = batch.reward_positions[(batch.reward_positions >= start) & (batch.reward_positions < start + size)]
        prefix_end = start + int(np.searchsorted(branch[start : start + size], 1)) - 1
        found.append(np.where(branch[own - 1] == branch[own], own - 1, prefix_end))
    return np.concatenate(found)


def rounds_of(batch: PackedBatch) -> list[PackedBatch]:
    """A group of more than `round_tokens` in rounds of about equal size, each its prompt and some of its answers, in their order.

    The prompt counts in the first round alone: behind it only the answers are computed. Empty for a batch that is not one group
    of several answers and so many tokens, or takes a single round.
    """
    size = batch.tokens.size
    is_over = 0 < batch.round_tokens < size and len(batch.order) == 1 == len(batch.tokens)
    branch_G = batch.branch[0]
    sizes_S = np.bincount(branch_G)[1:] if is_over and not batch.is_plain else np.zeros(0, np.int64)
    if len(sizes_S) < 2:
        return []
    num_prompt = size - int(sizes_S.sum())
    num_rounds = -(-size // batch.round_tokens)
    # an answer belongs to the round in which its middle lies
    middles_S = num_prompt + np.cumsum(sizes_S) - sizes_S / 2
    round_S = np.minimum((middles_S * num_rounds / size).astype(np.int64), num_rounds - 1)
    numbers = [np.flatnonzero(round_S == k) + 1 for k in np.unique(round_S)]
    return [_with_answers(batch, num_prompt, each) for each in numbers] if len(numbers) > 1 else []


def _with_answers(batch: PackedBatch, num_prompt: int, numbers: np.ndarray) -> PackedBatch:
    """The batch of one group with only some of its branches, which follow one another."""
    branch_G = batch.branch[0]
    start, stop = np.searchsorted(branch_G, [numbers[0], numbers[-1] + 1])
    kept = np.r_[0:num_prompt, start:stop]
    reads = batch.reward_positions[(batch.reward_positions >= start) & (batch.reward_positions < stop)]
    return PackedBatch(
        tokens=batch.tokens[:, kept],
        positions=batch.positions[:, kept],
        group=batch.group[:, kept],
        branch=np.maximum(batch.branch[:, kept] - (numbers[0] - 1), 0),
        reward_positions=reads - (start - num_prompt),
        order=batch.order,
        starts=batch.starts,
        sizes=np.array([len(kept)], np.int64),
        is_plain=False,
    )


def spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each span, int64, one span after another."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))


def pack_prefixes(tokens: np.ndarray, start: int, end: int) -> PackedBatch:
    """One sequence whose answer stops at each of its tokens: one row, one reward position for each of the tokens start..end.

    Behind every token of the answer stands a branch of its own with the tokens that close an answer (those from `end` on; without
    any, the token itself is read). What a branch sees is what stands before it outside of branches: the answer so far. The
    branches are not behind one prompt, so it runs with a dense mask.
    """
    num_tail, steps = len(tokens) - end, np.arange(start, end)
    columns_SA = np.concatenate([steps[:, None], np.broadcast_to(np.arange(end, len(tokens)), (len(steps), num_tail))], axis=1)
    positions_SA = steps[:, None] + np.arange(num_tail + 1)
    branch_SA = np.concatenate([np.zeros((len(steps), 1)), np.repeat(steps[:, None] - start + 1, num_tail, axis=1)], axis=1)
    whole = [
        np.concatenate([before, within.reshape(-1)]).astype(np.int32)[None]
        for before, within in (
            (tokens[:start], tokens[columns_SA]),
            (np.arange(start), positions_SA),
            (np.zeros(start), branch_SA),
        )
    ]
    size = whole[0].shape[1]
    return PackedBatch(
        tokens=whole[0],
        positions=whole[1],
        group=np.zeros((1, size), np.int32),
        branch=whole[2],
        reward_positions=start + num_tail + (num_tail + 1) * np.arange(len(steps), dtype=np.int64),
        order=np.zeros(1, np.int64),
        starts=np.zeros(1, np.int64),
        sizes=np.array([size], np.int64),
        is_plain=num_tail == 0,
    )


def _bins(order: np.ndarray, sizes: np.ndarray, max_tokens: int) -> list[list[int]]:
    """Indices in bins of at most `max_tokens`, each put where it first fits; a larger one is a bin alone."""
    bins: list[list[int]] = []
    room = np.zeros(len(order), np.int64)
    for index in order:
        fits = np.flatnonzero(room[: len(bins)] >= sizes[index])
        if len(fits) == 0:
            room[len(bins)] = max_tokens
            bins.append([])
        place = fits[0] if len(fits) else len(bins) - 1
        bins[place].append(int(index))
        room[place] -= sizes[index]
    return bins


def _lay(groups: Sequence[Group], rows: list[list[int]], width: int, pad_id: int) -> PackedBatch:
    shape = (len(rows), width)
    tokens, positions = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32)
    group_number, branch = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    reward_positions: list[np.ndarray] = []
    order: list[int] = []
    starts: list[int] = []
    for row, members in enumerate(rows):
        column = 0
        for index in members:
            group = groups[index]
            place = slice(column, column + len(group.tokens))
            tokens[row, place], positions[row, place], branch[row, place] = group.tokens, group.positions, group.branch
            group_number[row, place] = len(order)
            reward_positions.append(group.reward_positions.astype(np.int64) + row * width + column)
            order.append(index)
            starts.append(row * width + column)
            column += len(group.tokens)
    is_plain = all(len(members) == 1 and int(groups[members[0]].branch.max(initial=0)) <= 1 for members in rows)
    return PackedBatch(
        tokens=tokens,
        positions=positions,
        group=group_number,
        branch=branch,
        reward_positions=np.concatenate(reward_positions),
        order=np.array(order, np.int64),
        starts=np.array(starts, np.int64),
        sizes=np.array([len(groups[index].tokens) for index in order], np.int64),
        is_plain=is_plain,
    )
