"""Packing: every group in exactly one batch, the budget kept, every read on its token, positions that go on from the prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.tokens.packing import (
    Group,
    PackedBatch,
    RowLayout,
    make_group,
    pack,
    rounds_of,
    shared_prefix,
    siblings,
    split_group,
)

PAD = 7


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def last(sequence: np.ndarray) -> np.ndarray:
    return np.array([len(sequence) - 1], np.int32)


def group_of(*sequences: np.ndarray, share: bool = True) -> Group:
    return make_group(sequences, [last(sequence) for sequence in sequences], share=share)


@st.composite
def answers_to_one_prompt(draw: st.DrawFn) -> list[np.ndarray]:
    """1..8 sequences over few token ids, so that shared beginnings, prefixes of one another and copies all occur."""
    prompt = draw(st.lists(st.integers(0, 3), max_size=12))
    answers = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8))
    return [np.array(prompt + answer, np.int32) for answer in answers]


def test_a_group_laid_out_by_hand():
    group = group_of(tokens(1, 2, 3, 4), tokens(1, 2, 5), tokens(1, 2, 3, 6, 7))
    assert group.tokens.tolist() == [1, 2, 3, 4, 5, 3, 6, 7]
    assert group.positions.tolist() == [0, 1, 2, 3, 2, 2, 3, 4]
    assert group.branch.tolist() == [0, 0, 1, 1, 2, 3, 3, 3]
    assert group.reward_positions.tolist() == [3, 4, 7]
    assert all(part.dtype == np.int32 for part in group)


def test_a_rewarded_token_is_never_shared():
    answer = tokens(1, 2, 3)
    assert shared_prefix([answer, answer], [last(answer)] * 2) == 2
    longer = tokens(1, 2, 3, 4)
    assert shared_prefix([answer, longer], [last(answer), last(longer)]) == 2, "an answer that is a prefix of another"
    assert shared_prefix([longer, longer], [tokens(1, 3)] * 2) == 1, "the first of several steps"
    assert shared_prefix([tokens(9), tokens(9)], [tokens(0)] * 2) == 0
    assert shared_prefix([answer], [last(answer)]) == 0, "a lone sequence has nothing to share"


def test_without_sharing_every_branch_is_the_whole_sequence():
    group = group_of(tokens(1, 2, 3), tokens(1, 2, 4), share=False)
    assert group.tokens.tolist() == [1, 2, 3, 1, 2, 4]
    assert group.positions.tolist() == [0, 1, 2, 0, 1, 2]
    assert group.branch.tolist() == [1, 1, 1, 2, 2, 2]


def test_process_reads_stay_with_their_branch():
    group = make_group([tokens(1, 2, 3, 4), tokens(1, 2, 5, 6, 7)], [tokens(2, 3), tokens(2, 3, 4)])
    assert group.tokens[group.reward_positions].tolist() == [3, 4, 5, 6, 7]


def test_a_batch_laid_out_by_hand():
    (batch,) = pack([group_of(tokens(1, 2)), group_of(tokens(3, 4, 5, 6)), group_of(tokens(8))], 8, pad_id=PAD)
    assert batch.tokens.tolist() == [[3, 4, 5, 6], [1, 2, 8, PAD]]
    assert batch.group.tolist() == [[0, 0, 0, 0], [1, 1, 2, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert batch.order.tolist() == [1, 0, 2]
    assert batch.reward_positions.tolist() == [3, 5, 6]
    assert (batch.starts.tolist(), batch.sizes.tolist()) == ([0, 4, 6], [4, 2, 1])
    assert not batch.is_plain


def test_lone_sequences_one_to_a_row_are_plain():
    groups = [group_of(tokens(1, 2)), group_of(tokens(3, 4, 5, 6))]
    (batch,) = pack(groups, 8, pad_id=PAD, layout="plain")
    assert batch.is_plain
    assert batch.tokens.tolist() == [[3, 4, 5, 6], [1, 2, PAD, PAD]]
    assert not pack([group_of(tokens(1, 2), tokens(1, 3))], 8, layout="plain")[0].is_plain


def test_a_budget_must_be_positive():
    with pytest.raises(ValueError, match="max_tokens 0"):
        pack([group_of(tokens(1))], 0)
    assert pack([], 8) == []


def check_rows(batch: PackedBatch, groups: list[Group], sequences: list[list[np.ndarray]]) -> None:
    """Each group stands whole at its place, and following the visibility rule back from a read gives its sequence."""
    width = batch.tokens.shape[1]
    flat = {name: getattr(batch, name).reshape(-1) for name in ("tokens", "positions", "group", "branch")}
    filled, read = 0, 0
    for number, index in enumerate(batch.order):
        start, size = int(batch.starts[number]), int(batch.sizes[number])
        place = slice(start, start + size)
        assert start // width == (start + size - 1) // width, "a group is never broken over rows"
        assert (flat["group"][place] == number).all()
        assert flat["tokens"][place].tolist() == groups[index].tokens.tolist()
        for branch, sequence in enumerate(sequences[index], start=1):
            seen = [i for i in range(start, int(batch.reward_positions[read]) + 1) if flat["branch"][i] in (0, branch)]
            assert flat["tokens"][seen].tolist() == sequence.tolist()
            assert flat["positions"][seen].tolist() == list(range(len(sequence)))
            read += 1
        filled += size
    assert read == len(batch.reward_positions)
    assert (flat["group"] >= 0).sum() == filled
    assert (flat["tokens"][flat["group"] < 0] == PAD).all()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(answers_to_one_prompt(), min_size=1, max_size=10),
    st.integers(1, 120),
    st.booleans(),
    st.sampled_from(get_args(RowLayout)),
)
def test_whatever_is_packed(sequences, max_tokens, share, layout):
    groups = [group_of(*group, share=share) for group in sequences]
    batches = pack(groups, max_tokens, pad_id=PAD, layout=layout)
    assert sorted(np.concatenate([batch.order for batch in batches])) == list(range(len(groups)))
    for batch in batches:
        assert batch.tokens.size <= max_tokens or len(batch.order) == 1
        if layout == "one row":
            assert batch.tokens.shape == (1, batch.sizes.sum()), "a row without padding"
        else:
            assert batch.tokens.shape[1] == batch.sizes.max(), "no row is longer than the longest group"
        check_rows(batch, groups, sequences)


@settings(max_examples=150, deadline=None)
@given(answers_to_one_prompt(), st.integers(1, 60))
def test_a_split_group_fits_and_loses_no_answer(sequences, max_tokens):
    reward_positions = [last(sequence) for sequence in sequences]
    parts = split_group(sequences, reward_positions, max_tokens)
    assert [i for part in parts for i in part] == list(range(len(sequences)))
    for part in parts:
        group = make_group([sequences[i] for i in part], [reward_positions[i] for i in part])
        assert len(group.tokens) <= max_tokens or len(part) == 1


def test_a_group_within_the_budget_is_not_split():
    sequences = [tokens(1, 2, 3, 4), tokens(1, 2, 3, 5), tokens(1, 2, 3, 6)]
    reward_positions = [last(sequence) for sequence in sequences]
    assert split_group(sequences, reward_positions, 6) == [[0, 1, 2]]
    assert split_group(sequences, reward_positions, 5) == [[0, 1], [2]]
    assert split_group(sequences, reward_positions, 1) == [[0], [1], [2]], "a prompt over the budget: each answer alone"


def test_siblings_are_found_by_their_beginnings():
    rng = np.random.default_rng(0)
    system = rng.integers(0, 50, 20)
    prompts = [np.concatenate([system, rng.integers(50, 99, 60)]) for _ in range(3)]
    texts = [np.concatenate([prompts[i % 3], [100 + i], rng.integers(0, 99, 30)]).astype(np.int32) for i in range(9)]
    texts += [rng.integers(100, 200, 40).astype(np.int32), np.array([7], np.int32)]  # alike to nobody
    found = siblings(texts)
    assert sorted(sorted(group) for group in found) == [[0, 3, 6], [1, 4, 7], [2, 5, 8], [9], [10]]
    assert siblings([]) == []


def test_siblings_leave_alone_what_shares_little():
    start = np.arange(20, dtype=np.int32)
    ends = [np.full(size, 100 + size, np.int32) for size in (200, 201, 50, 51)]
    long, other_long, short, other_short = (np.concatenate([start, end]) for end in ends)
    assert len(siblings([long, other_long])) == 2, "20 of 220 tokens are not worth it"
    assert len(siblings([short, other_short])) == 1
    assert len(siblings([short[5:], other_short[5:]])) == 2, "15 tokens are too few"
    assert len(siblings([short, short, short])) == 1


def test_rounds_laid_out_by_hand():
    group = group_of(*(tokens(1, 2, 3, 10 + i, 20 + i) for i in range(4)))  # 3 tokens of a prompt, then 2 for each answer
    (packed,) = pack([group], 6, layout="one row")
    assert packed.round_tokens == 24
    batch = replace(packed, round_tokens=6)
    first, second = rounds_of(batch)
    assert first.tokens.tolist() == [[1, 2, 3, 10, 20]]
    assert second.tokens.tolist() == [[1, 2, 3, 11, 21, 12, 22, 13, 23]], "of which 6 are computed"
    assert first.branch.tolist() == [[0, 0, 0, 1, 1]]
    assert second.branch.tolist() == [[0, 0, 0, 1, 1, 2, 2, 3, 3]]
    assert second.positions.tolist() == [[0, 1, 2, 3, 4, 3, 4, 3, 4]]
    assert (first.reward_positions.tolist(), second.reward_positions.tolist()) == ([4], [4, 6, 8])
    assert rounds_of(replace(batch, round_tokens=11)) == [], "few enough tokens"
    assert rounds_of(replace(batch, round_tokens=0)) == []
    assert rounds_of(replace(pack([group, group], 99, layout="one row")[0], round_tokens=6)) == [], "two groups"
    (alone,) = pack([group_of(tokens(*range(9)))], 4, layout="one row")
    assert rounds_of(replace(alone, round_tokens=4)) == [], "a lone sequence"


@given(sequences=answers_to_one_prompt(), max_tokens=st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_rounds_lose_no_answer_and_keep_the_budget_but_for_one(sequences, max_tokens):
    reads = [last(sequence) for sequence in sequences]
    (packed,) = pack([make_group(sequences, reads)], 60, layout="one row")
    batch = replace(packed, round_tokens=max_tokens)
    found, num_prompt = [], shared_prefix(sequences, reads)
    longest = max(len(sequence) for sequence in sequences) - num_prompt
    for part in rounds_of(batch):
        (row,), (branch,) = part.tokens, part.branch
        for k in range(1, branch.max() + 1):
            found.append(row[(branch == 0) | (branch == k)].tolist())
        assert row[part.reward_positions].tolist() == [sequence[-1] for sequence in found[-branch.max() :]]
        assert len(row) - num_prompt <= max_tokens + longest
    assert found in ([], [sequence.tolist() for sequence in sequences])
    if batch.tokens.size > 2 * max(max_tokens, num_prompt) + 2 * longest and len(sequences) > 1:
        assert found, "so large a group runs in rounds"
