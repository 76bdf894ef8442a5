"""One evaluator for all suites: what is scored, how often, and what the report says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from assay.data.cases import Case
from assay.evaluation.suites import marking as rules
from assay.evaluation.suites.answers import NOT_ASKED, Scored, score_cases
from assay.evaluation.suites.catalog import OWN_PAIRS, SUITES, pooled
from assay.evaluation.suites.lookup import LoadedSuite
from assay.evaluation.suites.summary import evaluate_suite, suite_result
from assay.messages import Message, as_messages
from assay.records import Completion, Rewards
from assay.scorers.baselines import LengthScorer


class Recorded:
    """Rewards by the text of the answer, and every call."""

    fingerprint, tolerance = "recorded", 0.0
    scope = "global"

    def __init__(self, **rewards: float) -> None:
        self.rewards, self.calls = rewards, []

    def score(self, completions: Sequence[Completion]) -> Rewards:
        self.calls.append(list(completions))
        values = [self.rewards.get(completion.response or "", math.nan) for completion in completions]
        return Rewards(value=np.array(values), error=tuple("unknown answer" if math.isnan(v) else None for v in values))


def pair(prompt: str, chosen: str, rejected: str, gold: tuple[float, float] = (1, 0), subset: str = "") -> Case:
    return Case(prompt=as_messages(prompt), candidates=(chosen, rejected), gold=gold, section="pairs", subset=subset)


def suite_of(*cases: Case, **known) -> LoadedSuite:
    return LoadedSuite(OWN_PAIRS._replace(name="mine"), cases, known.pop("set_aside", {}), "made up", num_found=len(cases), **known)


def test_every_distinct_answer_is_scored_once_in_one_call_with_those_to_its_prompt():
    scorer = Recorded(a=1, b=2, c=3)
    cases = [pair("p", "a", "b"), pair("q", "a", "b"), pair("p", "b", "c"), pair("q", "a", "b")]
    scored = score_cases(scorer, cases)
    assert len(scorer.calls) == 1
    assert [(c.messages[0].content, c.response) for c in scorer.calls[0]] == [
        ("p", "a"),
        ("p", "b"),
        ("p", "c"),
        ("q", "a"),
        ("q", "b"),
    ]
    assert [rewards_N.tolist() for rewards_N in scored.rewards] == [[1, 2], [1, 2], [2, 3], [1, 2]]
    assert scored.num_completions == 5


def test_equal_texts_are_told_apart_by_calls_and_by_the_ground_truth_where_the_scorer_reads_it():
    thought = (Message("assistant", "a", reasoning="hm"), Message("assistant", "a"))
    cases = [
        replace(pair("p", "a", "a"), messages=thought, tools=({"name": "f"},)),
        *(replace(pair("q", "a", "b"), ground_truth={"answer": answer}) for answer in "xy"),
    ]
    blind, reading = Recorded(a=1, b=2), Recorded(a=1, b=2)
    reading.reads_ground_truth = True
    assert score_cases(blind, cases).num_completions == 2 + 2
    assert score_cases(reading, cases).num_completions == 2 + 4
    assert [c.answer for c in blind.calls[0][:2]] == list(thought)
    assert [len(c.tools) for c in blind.calls[0]] == [1, 1, 0, 0]
    assert [(c.ground_truth or {}).get("answer") for c in reading.calls[0]] == [None, None, "x", "x", "y", "y"]


def test_a_report_by_hand():
    """a > b > c: 2 of 3 comparisons won, one of them unscored; the longer answer, of equals, never wins."""
    cases = [
        pair("p", "a", "b", subset="x"),
        pair("q", "b", "c", subset="x"),
        pair("r", "c", "a", subset="y"),
        pair("s", "a", "?", subset="y"),
    ]
    report = evaluate_suite(Recorded(a=3, b=2, c=1), suite_of(*cases, set_aside={"not JSON": 2})).report()
    overall = report.metric("mine: overall")
    assert (overall.value, overall.n_scored, overall.n) == (pytest.approx(2 / 3), 3, 4)
    assert 0 <= overall.low < overall.value < overall.high <= 1
    assert report.metric("mine: overall, the longer answer wins").value == 0
    findings = {finding.name: finding for finding in report.findings}
    assert findings["unscored cases"].level == "warn"
    assert findings["unscored cases"].why == "of 4: unknown answer (1)"
    assert "2 rows or answers set aside" in findings["complete"].why
    tables = {table.title: table for table in report.tables}
    assert [row[:4] for row in tables["mine: by subset"].rows] == [("x", 2, 2, 1.0), ("y", 2, 1, 0.0)]
    assert tables["mine: set aside"].rows == (("not JSON", 2),)
    assert report.facts["scorer"] == "recorded"
    assert report.facts["answers scored"] == "8"


def test_a_scorer_that_knows_nothing_gives_nan_and_never_raises():
    report = evaluate_suite(Recorded(), suite_of(pair("p", "a", "b"), pair("q", "a", "b"))).report()
    overall = report.metric("mine: overall")
    assert math.isnan(overall.value)
    assert (overall.n_scored, overall.n) == (0, 2)
    assert "nothing could be scored" in overall.note
    ties = next(finding for finding in report.findings if finding.name == "score ties")
    assert (ties.level, math.isnan(ties.value)) == ("warn", True)


def test_prompts_that_the_model_was_trained_on_are_not_scored_and_count_as_that():
    scorer = Recorded(a=1, b=0)
    report = evaluate_suite(scorer, suite_of(pair("p", "a", "b"), pair("q", "a", "b")), skipped={0}).report()
    assert [completion.messages[0].content for completion in scorer.calls[0]] == ["q", "q"]
    overall = report.metric("mine: overall")
    assert (overall.value, overall.n_scored, overall.n) == (1.0, 1, 2)
    assert any(NOT_ASKED in finding.why for finding in report.findings)


def test_label_ties_are_left_out_of_the_pairs():
    report = evaluate_suite(Recorded(a=1, b=0), suite_of(pair("p", "a", "b"), pair("q", "a", "b", gold=(0.5, 0.5)))).report()
    assert report.metric("mine: overall").n == 1


def test_equal_rewards_of_different_answers_are_a_warning_and_those_of_equal_answers_are_none():
    cases = [pair("p", "a", "b"), pair("q", "a", "a")]
    ties = {f.name: f for f in evaluate_suite(Recorded(a=1, b=1), suite_of(*cases)).report().findings}["score ties"]
    assert (ties.level, ties.value) == ("warn", 0.5)


def test_fewer_cases_than_published_are_a_warning():
    suite = SUITES["judgebench"]._replace(size=3)
    loaded = LoadedSuite(suite, (pair("p", "a", "b"), pair("q", "a", "b")), {}, "made up")
    finding = evaluate_suite(Recorded(a=1, b=0), loaded).report().findings[0]
    assert (finding.level, finding.value, finding.threshold) == ("warn", 2, 3)
    assert "2 of 3 published cases: not comparable with published figures" in finding.why


def test_a_limit_is_a_warning_where_no_size_is_published():
    loaded = suite_of(pair("p", "a", "b"))._replace(num_found=3)
    finding = evaluate_suite(Recorded(a=1, b=0), loaded).report().findings[0]
    assert (finding.level, finding.why) == ("warn", "1 of 3 cases: not comparable with published figures")


def test_the_gap_to_the_length_rule_is_paired():
    """A scorer that is right where length is and on 4 prompts more: the gap is 4 of 40, whatever prompts are drawn about 1/2."""
    cases = [pair(f"p{i}", "aa" if i < 20 else "b", "b" if i < 20 else "aa") for i in range(40)]
    rewards = {**{f"p{i}": 1.0 for i in range(24)}}
    report = suite_result(
        suite_of(*cases), Scored([np.array([rewards.get(f"p{i}", 0.0), 0.5]) for i in range(40)], 80, {})
    ).report()
    assert report.metric("mine: overall").value == 0.6
    assert report.metric("mine: overall, the longer answer wins").value == 0.5
    gap = report.metric("mine: overall, less the longer answer's")
    assert gap.value == pytest.approx(0.1)
    assert 0 < gap.low < 0.1 < gap.high < 0.21
    assert (gap.n_scored, gap.n) == (40, 40)
    assert {f.name: f.level for f in report.findings}["above the length rule"] == "ok"


def test_the_longer_answer_is_the_rule_that_the_length_scorer_keeps():
    cases = [pair(f"p{i}", "x" * (i + 1), "y" * (7 - i)) for i in range(7)]
    report = evaluate_suite(LengthScorer(), suite_of(*cases)).report()
    assert (
        report.metric("mine: overall").value == report.metric("mine: overall, the longer answer wins").value == pytest.approx(3 / 7)
    )
    assert {f.name: f.level for f in report.findings}["above the length rule"] == "warn"


def test_a_report_is_a_function_of_the_rewards():
    loaded = LoadedSuite(
        OWN_PAIRS._replace(name="n", rule=rules.pairs, sections=pooled), (pair("p", "a", "b"), pair("q", "b", "a")), {}, ""
    )
    assert (
        evaluate_suite(Recorded(a=1, b=0), loaded, seed=1).report() == evaluate_suite(Recorded(a=5, b=2), loaded, seed=1).report()
    )
