"""Rewards at hand are given back, and the inner scorer is asked for the rest alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import margins
from assay.scorers.wrappers.scored_before import ScoredBefore, scored_before


@dataclass
class Asked:
    """The length of the answer, NaN for "unreadable"; with the answers that it was asked for."""

    scope: str = "global"
    reads_ground_truth: bool = False
    answers: list[str] = field(default_factory=list)
    fingerprint: str = "asked"
    tolerance: float = 0.0

    def score(self, completions) -> Rewards:
        self.answers += [completion.response for completion in completions]
        bad = [completion.response == "unreadable" for completion in completions]
        value = [np.nan if one else float(len(c.response)) for c, one in zip(completions, bad, strict=True)]
        return Rewards(value=value, error=tuple("cannot be read" if one else None for one in bad))


PAIRS = [
    PreferencePair(prompt="q", chosen="long", rejected="a"),
    PreferencePair(prompt="r", chosen="unreadable", rejected="longer"),
]


def test_what_was_scored_is_not_asked_for_again_and_gets_the_same_reward():
    scorer = Asked()  # would give 4, not 7
    known = scored_before(scorer, PAIRS, np.array([[7.0, 1.0], [np.nan, 6.0]]))
    asked = [
        Completion(messages=[("user", "q")], response="new"),
        *PAIRS[0].completions(),
        Completion(messages=[("user", "r")], response="long"),
    ]
    assert known.score(asked).value.tolist() == [3.0, 7.0, 1.0, 4.0]
    assert scorer.answers == ["new", "long"], "the last one stands under another prompt"
    assert known.score(asked[1:3]).error == (None, None)
    assert len(known.score([])) == 0
    assert len(scorer.answers) == 2


def test_what_had_no_reward_is_asked_for_again_and_says_why():
    scorer = Asked()
    known = scored_before(scorer, PAIRS, np.array([[4.0, 1.0], [np.nan, 6.0]]))
    found = known.score([completion for pair in PAIRS for completion in pair.completions()])
    np.testing.assert_array_equal(found.value, np.float32([4, 1, np.nan, 6]))
    assert found.error == (None, None, "cannot be read", None)
    assert scorer.answers == ["unreadable"]
    np.testing.assert_array_equal(margins(known, PAIRS), [3.0, np.nan])


def test_another_ground_truth_is_another_question_where_the_scorer_reads_it():
    scorer = Asked(reads_ground_truth=True)
    pair = PreferencePair(prompt="q", chosen="long", rejected="a", ground_truth={"answer": 1})
    other = PreferencePair(prompt="q", chosen="long", rejected="a", ground_truth={"answer": 2})
    known = scored_before(scorer, [pair], np.array([[4.0, 1.0]]))
    known.score([*pair.completions(), *other.completions()])
    assert scorer.answers == ["long", "a"]


@pytest.mark.parametrize(("scope", "rewards"), [("prompt", np.ones((2, 2))), ("global", None)])
def test_rewards_that_cannot_be_taken_over_are_not(scope, rewards):
    scorer = Asked(scope=scope)
    assert scored_before(scorer, PAIRS, rewards) is scorer
    assert isinstance(scored_before(Asked(), PAIRS, np.ones((2, 2))), ScoredBefore)
