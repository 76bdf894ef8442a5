"""A case gives the pairs that its gold and labels mean, and a reason for each that cannot be made."""

from __future__ import annotations

import math

import pytest

from assay.data.cases import Case, Label, case_of, comparisons, of_ranking, of_sides, of_two, pairs_of
from assay.data.raw.cells import BadRow
from assay.messages import Message, as_messages
from assay.records import PreferencePair


def sides(case: Case) -> list[tuple[str, str, float]]:
    """(chosen, rejected, preference) of each pair; a reason stands for itself."""
    found = pairs_of(case)
    assert all(isinstance(pair, PreferencePair) for pair in found), found
    return [(pair.chosen, pair.rejected, pair.preference) for pair in found if isinstance(pair, PreferencePair)]


@pytest.mark.parametrize(
    ("first_wins", "expected"),
    [(1.0, ("a", "b", 1.0)), (0.75, ("a", "b", 0.75)), (0.5, ("a", "b", 0.5)), (0.25, ("b", "a", 0.75)), (0.0, ("b", "a", 1.0))],
)
def test_of_two_answers_the_likelier_one_is_chosen_and_suites_see_the_same_order(first_wins, expected):
    case = of_two("q", "a", "b", first_wins)
    assert sides(case) == [expected]
    assert case.gold == (first_wins, 1 - first_wins)
    better = comparisons(case).tolist()
    assert better == ([] if first_wins == 0.5 else [[0, 1]] if first_wins > 0.5 else [[1, 0]])


def test_each_right_answer_is_compared_with_each_wrong_one_and_with_no_other():
    case = of_sides("q", ["a", "b"], ["c", "d"])
    assert [pair[:2] for pair in sides(case)] == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert comparisons(case).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert [label.name for label in case.labels] == ["0-0", "0-1", "1-0", "1-1"]


def test_a_ranking_is_every_two_answers_with_ties_and_margins_and_says_who_has_no_worth():
    case = of_ranking("q", ["a", "b", "c", "d"], [1.0, 3.0, 1.0, None], "missing score", has_margins=True)
    missing, *pairs = pairs_of(case)
    assert missing == "missing score"
    assert [(p.chosen, p.rejected, p.preference, p.margin, p.id) for p in pairs if isinstance(p, PreferencePair)] == [
        ("b", "a", 1.0, 2.0, "1-0"),
        ("b", "c", 1.0, 2.0, "1-2"),
        ("a", "c", 0.5, 0.0, "0-2"),
    ]
    assert [math.isnan(value) for value in case.gold] == [False, False, False, True]


def test_without_labels_the_gold_decides_and_equal_or_unknown_gold_makes_no_pair():
    case = case_of("q", ["a", "b", "c", "d"], [0, 1, 0, math.nan])
    assert sides(case) == [("b", "a", 1.0), ("b", "c", 1.0)]
    assert sides(case_of("q", ["a", "b", "c"], [0, 1, 0], pairs=[(0, 1)])) == [("b", "a", 1.0)]


def test_a_pair_is_named_after_its_case_and_only_where_there_are_several_by_its_candidates():
    case = Case(prompt=as_messages("q"), candidates=("a", "b", "c"), gold=(1, 0, 0), id="7", source="s", tags={"subset": "x"})
    named = [(p.id, p.source, p.tags) for p in pairs_of(case) if isinstance(p, PreferencePair)]
    assert named == [("7:0-1", "s", {"subset": "x"}), ("7:0-2", "s", {"subset": "x"})]
    alone = Case(prompt=as_messages("q"), candidates=("a", "b"), gold=(1, 0), id="7")
    assert [p.id for p in pairs_of(alone) if isinstance(p, PreferencePair)] == ["7"]


def test_what_cannot_be_read_is_a_fault_of_its_candidate_and_costs_only_its_pairs():
    case = of_sides("q", ["a", None], ["b", " ", "a"])
    assert (case.faults, case.fault) == ({1: "empty"}, "empty")
    found = pairs_of(case)
    assert [pair if isinstance(pair, str) else pair.rejected for pair in found] == ["b", "empty", "identical pair", *["empty"] * 3]
    unread = of_sides(" ", ["a"], ["b", "c"])
    assert pairs_of(unread) == ["empty", "empty"], "a prompt that cannot be read is the fault of all"


def test_a_fault_of_a_candidate_in_no_pair_is_told_once():
    case = case_of("q", ["a", 5, "b"], [1, 0, 0], pairs=[(0, 2)])
    reason, pair = pairs_of(case)
    assert reason == "not text"
    assert isinstance(pair, PreferencePair)


def test_answers_that_repeat_the_prompt_share_it_or_differ():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "so"}, {"role": "user", "content": "why"}]
    answer = {"role": "assistant", "content": "a"}
    case = case_of("q", [[*turns, answer], [*turns, {**answer, "content": "b"}], "c"], [1, 0, 0])
    assert case.prompt == as_messages(turns)
    assert (case.candidates, case.faults) == (("a", "b", "c"), {2: "prompts differ"})


def test_a_prompt_may_end_blank_for_suites_and_makes_no_pair():
    case = of_two([{"role": "user", "content": " "}], "a", "", 1.0)
    assert (case.candidates, case.fault) == (("a", ""), "")
    assert pairs_of(case) == ["empty"]


def test_messages_beside_text_reach_the_pair_and_the_completions():
    thought = {"role": "assistant", "content": "a", "reasoning": "hm"}
    case = of_two("q", thought, "a", 1.0)
    (pair,) = pairs_of(case)
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen_message, pair.rejected_message) == (Message("assistant", "a", reasoning="hm"), None)
    assert [completion.answer for completion in case.completions()] == [pair.chosen_message, Message("assistant", "a")]
    assert of_two("q", "a", "b", 1.0).messages == ()


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (Label(margin=-1.0), "margin is negative"),
        (Label(preference=1.5), "preference is not a probability"),
        (Label(weight=-1.0), "weight is negative"),
    ],
)
def test_a_label_that_means_nothing_is_a_reason(label, reason):
    assert pairs_of(case_of("q", ["a", "b"], [1, 0], pairs=[(0, 1)], labels=[label])) == [reason]


def test_gold_and_candidates_must_match():
    with pytest.raises(BadRow, match="not one label for each candidate"):
        case_of("q", ["a", "b"], [1])
    with pytest.raises(BadRow, match="no candidates"):
        case_of("q", [], [])
