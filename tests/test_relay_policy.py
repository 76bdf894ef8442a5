"""benchmarks/relay_policy.py: what is right of a written solution, and what a table of replicates says of the claims."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.records import Completion

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from relay_policy import END, GAINED, HALF, OUTCOME, RULED, STEPS, WHOLE, answer_rule, compared, gold_rule


def written(change=lambda text: text) -> Completion:
    """A right solution of three passes, changed."""
    world = WorldSettings(problems=4, lengths=(3,), solutions=4, seed=5)
    right = next(item.completion for item in relay_world(world) if item.first_error is None)
    return Completion(messages=right.messages, response=change("".join(right.steps)), ground_truth=right.ground_truth)


@pytest.mark.parametrize(
    ("change", "answer", "gold"),
    [
        (lambda text: text, 1.0, 1.0),
        (lambda text: text.rpartition("Answer:")[0] + "Answer: Nobody", 0.0, 0.0),
        (lambda text: "\n".join(text.splitlines()[1:]), 1.0, 0.0),  # a pass is left out
        (lambda text: text.partition("\n")[0], 0.0, 0.0),  # and the answer
        (lambda text: "So it goes.\n" + text, 1.0, 0.0),  # a line that is no pass
        (lambda text: "", 0.0, 0.0),
    ],
)
def test_the_rule_sees_the_answer_and_gold_every_pass(change, answer, gold):
    one = [written(change)]
    assert answer_rule(one) == [answer]
    assert gold_rule(one) == [gold]


def test_claims_are_of_paired_replicates_and_none_where_an_arm_is_missing():
    ends = {RULED: 0.5, WHOLE: 0.6, STEPS: 0.8, OUTCOME: 0.3}  # the claims of the head, but the fifth
    table = {
        arm: {
            r: {GAINED: end - 0.2 + r / 100, HALF: end / 2 + r / 100, END: end + r * (1 + (arm == STEPS)) / 100} for r in range(3)
        }
        for arm, end in ends.items()
    }
    claims = list(compared(table)["claims"].values())
    assert claims == [True, True, True, False, None]
    assert list(compared({arm: of for arm, of in table.items() if arm == STEPS})["claims"].values()) == [None] * 5
