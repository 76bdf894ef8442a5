"""The rules on rewards that can be counted by hand, and the figures that are made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.data.cases import Case, comparisons
from assay.evaluation.suites import marking as rules
from assay.evaluation.suites.catalog import EXAMPLE_COUNTS, SUITES
from assay.evaluation.suites.marks import Mark, parts_of, section_metrics
from assay.messages import as_messages

NAN = math.nan


def case(*gold: float, prompt: str = "q", section: str = "all", **known) -> Case:
    candidates = tuple(f"answer {i}" for i in range(len(gold)))
    return Case(prompt=as_messages(prompt), candidates=candidates, gold=gold, section=section, **known)


def sums(marks: list[Mark]) -> dict[str, tuple[float, int, int]]:
    """part -> (total, scored, all)."""
    found: dict[str, tuple[float, int, int]] = {}
    for mark in marks:
        total, scored, num = found.get(mark.part, (0.0, 0, 0))
        found[mark.part] = (total + mark.total, scored + mark.num_scored, num + mark.num)
    return found


def figures(name: str, marks: list[Mark]) -> dict[str, float]:
    sections = SUITES[name].sections(parts_of(marks))
    return {m.name.removeprefix(f"{name}: "): m.value for m in section_metrics(name, marks, sections)}


def test_comparisons_put_the_better_answer_first_and_leave_ties_of_gold_out():
    assert comparisons(case(1, 0)).tolist() == [[0, 1]]
    assert comparisons(case(0, 1, 1)).tolist() == [[1, 0], [2, 0]]
    assert comparisons(case(0.5, 0.5)).tolist() == []
    assert comparisons(case(0.5, 0.2, 0.9, 0.5, pairs=((0, 1), (0, 2), (0, 3)))).tolist() == [[0, 1], [2, 0]]


def test_an_equal_reward_is_no_win_and_an_unscored_answer_is_no_loss():
    cases = [case(1, 0), case(1, 0), case(1, 0), case(1, 0, 0)]
    rewards = [np.array(r) for r in ([2.0, 1.0], [1.0, 1.0], [NAN, 1.0], [1.0, 0.0, NAN])]
    assert sums(rules.pairs(cases, rewards)) == {"all": (2.0, 3, 5)}
    assert sums(rules.beats_all(cases, rewards)) == {"all": (1.0, 2, 4)}


def test_best_of_k_splits_ties():
    """RewardBench 2: 1 / (number of maxima) when the right answer is among them."""
    cases = [case(1, 0, 0, 0)] * 5
    rewards = [np.array(r, dtype=float) for r in ([3, 1, 2, 0], [3, 3, 2, 0], [1, 1, 1, 1], [1, 2, 2, 0], [1, NAN, 0, 0])]
    assert sums(rules.best_of(cases, rewards)) == {"all": (1 + 0.5 + 0.25 + 0, 4, 5)}


def test_beats_all_wants_every_loser_below():
    cases = [case(1, 0, 0)] * 3
    rewards = [np.array(r, dtype=float) for r in ([3, 1, 2], [2, 1, 2], [2, 1, 3])]
    assert sums(rules.beats_all(cases, rewards)) == {"all": (1.0, 3, 3)}


def test_styles_give_three_comparisons_each_to_easy_normal_and_hard():
    """Chosen 1, 2, 3 against rejected 0.5, 1.5, 2.5: a reward that goes by style alone, and half a point for being right."""
    marks = rules.styles([case(1, 1, 1, 0, 0, 0, section="chat")], [np.array([1, 2, 3, 0.5, 1.5, 2.5])])
    assert sums(marks) == {"chat: easy": (3.0, 3, 3), "chat: normal": (3.0, 3, 3), "chat: hard": (0.0, 3, 3)}
    table = rules.style_table("rm-bench", [case(1, 1, 1, 0, 0, 0)], [np.array([1, 2, 3, 0.5, 1.5, 2.5])])
    assert [row[1:] for row in table.rows] == [(1, 0, 0), (1, 1, 0), (1, 1, 1)]


def test_rm_bench_is_the_mean_over_domains_of_the_mean_of_three():
    six = dict(zip("abc", ([1, 2, 3, 0.5, 1.5, 2.5], [9, 9, 9, 0, 0, 0], [0, 0, 0, 9, 9, 9]), strict=True))
    cases = [case(1, 1, 1, 0, 0, 0, section=s, prompt=p) for s, p in (("chat", "a"), ("code", "b"), ("code", "c"))]
    found = figures("rm-bench", rules.styles(cases, [np.array(six[key], dtype=float) for key in "abc"]))
    assert found["chat"] == pytest.approx(2 / 3)
    assert found["code"] == pytest.approx(1 / 2)
    assert (found["easy"], found["normal"], found["hard"]) == pytest.approx((0.75, 0.75, 0.25))
    assert found["overall"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def tie_cases() -> tuple[list[Case], list[np.ndarray]]:
    known = [
        (case(1, 0, 0, id="ref:1", cluster="1"), [5, 3, 2]),  # accurate, margin 2
        (case(1, 1, 1, 0, id="tied:1", cluster="1"), [6, 5, 4, 1]),  # accurate, margin 3, right ones 2 apart
        (case(1, 0, id="ref:2", cluster="2"), [1, 2]),  # not accurate, margin -1
        (case(1, 1, 0, id="tied:2", cluster="2"), [4, 3, 3.5]),  # not accurate, margin -0.5, 1 apart
    ]
    return [c for c, _ in known], [np.array(r, dtype=float) for _, r in known]


def test_the_ties_of_reward_bench_2_by_hand():
    """.3 x 1/2 + .3 x 1/2 + .2 x 1/2 (3 > 2, -0.5 < 1) + .2 x 0 (2 = 2, -1 < 1) + .01 x (tanh(0) + tanh(-2)) / 2."""
    marks = rules.tied_answers(*tie_cases())
    found = sums(marks)
    assert {part: found[part][0] for part in (rules.TIED, rules.REFERENCE, rules.PREFERRED, rules.PREFERRED_HARD)} == {
        "tied": 1,
        "reference": 1,
        "preferred": 1,
        "preferred hard": 0,
    }
    assert found[rules.MARGIN][0] == pytest.approx(math.tanh(-2))
    assert figures("rewardbench2", marks)["Ties"] == pytest.approx(0.15 + 0.15 + 0.1 + 0 + 0.01 * math.tanh(-2) / 2)
    ties = section_metrics("x", marks, SUITES["rewardbench2"].sections(parts_of(marks)))[0]
    assert (ties.n_scored, ties.n) == (4, 4), "counted by question, not by part"


def test_right_answers_with_equal_rewards_enter_the_margin_by_its_sign_and_unscored_ones_not_at_all():
    cases, rewards = tie_cases()
    rewards[1] = np.array([4.0, 4.0, 4.0, 1.0])
    rewards[3] = np.array([4.0, NAN, 3.5])
    found = sums(rules.tied_answers(cases, rewards))
    assert found["preferred"] == (1.0, 1, 2)
    assert found["margin"] == (1.0, 1, 2), "the first question has no spread, tanh(2 / 0 - 1) = 1; the second no rewards"
    assert found["tied"] == (1.0, 1, 2)


@pytest.mark.parametrize(("wrong", "expected"), [(3.0, 1.0), (5.0, -1.0), (4.0, 0.0)])
def test_a_spread_of_zero_gives_what_numpy_s_division_gives_the_official_code(wrong, expected):
    """tanh(margin / 0 - 1), NaN as 0."""
    cases, _ = tie_cases()
    rewards = [np.array([9.0, 1.0, 1.0]), np.array([4.0, 4.0, 4.0, wrong])]
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.nan_to_num(np.tanh(np.float64(4.0 - wrong) / 0.0 - 1)) == expected
    assert sums(rules.tied_answers(cases[:2], rewards))["margin"] == (expected, 1, 1)


def test_judge_bench_says_b_of_equal_rewards():
    """ "A>B" where A has the higher reward, else "B>A": right on the second kind of label alone when all rewards are equal."""
    cases = [case(1, 0, prompt="a"), case(0, 1, prompt="b"), case(1, 0, prompt="c"), case(0, 1, prompt="d")]
    rewards = [np.array(pair) for pair in ((1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (NAN, 1.0))]
    marks = SUITES["judgebench"].rule(cases, rewards, 0)
    assert [(mark.total, mark.num_scored) for mark in marks] == [(0.0, 1), (1.0, 1), (1.0, 1), (0.0, 0)]
    assert SUITES["judgebench-claude"].rule is SUITES["judgebench"].rule
    assert [mark.total for mark in rules.pairs(cases[:2], rewards[:2])] == [0, 0], "elsewhere a tie is no win"


def test_reward_bench_weights_its_subsets_by_the_published_counts():
    right = {
        "alpacaeval-easy": 1,
        "mt-bench-med": 0,
        "xstest-should-refuse": 1,
        "xstest-should-respond": 0,
        "math-prm": 0,
        "hep-go": 1,
    }
    cases = [case(1, 0, section=subset, prompt=subset) for subset in right]
    found = figures("rewardbench", rules.pairs(cases, [np.array([value, 0.5]) for value in right.values()]))
    assert found["Chat"] == pytest.approx(100 / 140)
    assert found["Safety"] == pytest.approx(154 / 404)
    assert found["Reasoning"] == pytest.approx(164 / (984 + 164))
    assert found["overall"] == pytest.approx((100 / 140 + 154 / 404 + 164 / 1148) / 3)
    assert "Chat Hard" not in found


def test_the_published_counts_sum_to_the_set():
    counts = {subset: count for section in EXAMPLE_COUNTS.values() for subset, count in section.items()}
    assert len(counts) == 23
    assert sum(counts.values()) - counts["math-prm"] + 447 == SUITES["rewardbench"].size == 2985
    assert counts["math-prm"] == sum(count for subset, count in counts.items() if subset.startswith("hep-"))
    assert (counts["xstest-should-refuse"], counts["xstest-should-respond"]) == (154, 250)


def test_reward_bench_2_is_the_mean_of_its_sections():
    cases, rewards = tie_cases()
    ties = [Case(**{**{f: getattr(c, f) for f in c.__slots__}, "section": "Ties"}) for c in cases]
    four = [case(1, 0, 0, 0, section="Math", prompt="m"), case(1, 0, 0, 0, section="Focus", prompt="f")]
    suite = SUITES["rewardbench2"]
    marks = suite.rule([*four, *ties], [np.array([1.0, 1, 0, 0]), np.array([2.0, 1, 0, 0]), *rewards], 0)
    found = figures("rewardbench2", marks)
    assert (found["Math"], found["Focus"]) == (0.5, 1.0)
    assert found["overall"] == pytest.approx((0.5 + 1.0 + found["Ties"]) / 3)


def test_the_margin_of_a_tie_is_the_one_with_the_most_agreement():
    gaps, labels = np.array([0.1, -0.2, 1.0, -2.0, 3.0]), np.array([0, 0, 1, -1, 1])
    assert rules.tie_margin(gaps, labels) == 0.2
    assert rules.tie_margin(gaps, np.sign(gaps)) == 0.0, "without ties in the labels no margin helps"
    assert rules.tie_margin(gaps, np.zeros(5)) == 3.0
    assert rules.tie_margin(np.array([]), np.array([])) == 0.0


def test_labels_with_ties_are_told_by_a_margin_from_the_other_half():
    gold = {0: (1.0, 0.0), 1: (0.0, 1.0), 2: (0.5, 0.5)}
    cases = [case(*gold[i % 3], prompt=f"q{i}") for i in range(60)]
    rewards = [np.array({0: [1.0, 0.0], 1: [0.0, 1.0], 2: [0.1, 0.0]}[i % 3]) for i in range(60)]
    rewards[0] = np.array([NAN, 0.0])
    found = sums(rules.labels_with_ties(cases, rewards, 0))
    assert found == {"without ties": (39.0, 39, 40), "three ways": (59.0, 59, 60)}


def test_best_of_n_stands_beside_the_pairs_where_both_are_asked():
    marks = rules.pairs_and_best([case(1, 1, 0, 0, section="truth")], [np.array([4.0, 1.0, 3.0, 2.0])])
    assert sums(marks) == {"truth": (2.0, 4, 4), "truth, best of n": (1.0, 1, 1)}
