"""Rules as reward functions of TRL, verl and verifiers, and theirs as scorers: what one side says the other hears."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.errors import RewardError
from assay.records import Completion
from assay.rl.as_scorer import scorer_of_trl, scorer_of_verifiers, scorer_of_verl
from assay.rl.prime_verifiers import verifiers_reward
from assay.rl.trl import trl_reward
from assay.rl.verl import verl_reward
from assay.scorers.checks import check_scorer
from assay.scorers.load import load

USER = [{"role": "user", "content": "2 * 9?"}]
ITEMS = [
    Completion(messages="2 * 9?", response="18", ground_truth={"answer": "18"}),
    Completion(messages="2 * 9?", response="17", ground_truth={"answer": "18"}),
    Completion(messages="2 * 9?", response="18"),
]


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_trl_gives_a_rule_the_column_ground_truth():
    reward = trl_reward(load("rule:exact"), on_failure="none")
    assert reward([USER] * 3, [says("18"), says("17"), says("18")], ground_truth=["18", {"answer": "18"}, None]) == [1.0, 0.0, None]
    assert reward(["2 * 9?"] * 2, ["18", "17"], ground_truth=["18", "18"]) == [1.0, 0.0], "the answer begins behind the prompt"
    other = trl_reward(load("rule:exact"), ground_truth="solution")
    assert other([USER], [says("18")], solution=["18"]) == [1.0]
    with pytest.raises(RewardError, match="the ground truth has no answer"):
        other([USER], [says("18")])


def test_verl_gives_a_rule_its_ground_truth():
    reward = verl_reward(load("rule:exact"), prompt=None, on_failure="none")
    assert reward("gsm8k", "18", "18", {}) == {"score": 1.0}
    assert reward("gsm8k", "17", "18") == {"score": 0.0}
    assert math.isnan(reward("gsm8k", "17", "")["score"])


def test_verifiers_gives_a_rule_its_answer():
    reward = verifiers_reward(load("rule:exact"), on_failure="none")
    assert reward(prompt=USER, completion=says("18"), answer="18", state={}) == 1.0
    assert reward(prompt="2 * 9?", completion="17", answer="18", state={}) == 0.0
    assert reward(prompt=USER, completion=says("18"), answer="", state={"info": {"ground_truth": {"answer": "18"}}}) == 1.0
    assert math.isnan(reward(prompt=USER, completion=says("18"), answer="", state={}))
    assert reward.__name__ == "assay"


def trl_exact(prompts, completions, ground_truth, **columns):
    assert len(prompts) == len(completions)
    return [
        None if truth.get("answer") is None else float(answer[-1]["content"] == truth["answer"])
        for answer, truth in zip(completions, ground_truth, strict=True)
    ]


def trl_column(prompts, completions, answer, **columns):
    return [None if right is None else float(text == right) for text, right in zip(completions, answer, strict=True)]


def verl_exact(data_source, solution_str, ground_truth, extra_info=None):
    assert extra_info["prompt"] == USER
    return {"score": float(solution_str == ground_truth), "acc": 1}


def verifiers_exact(completion, answer, state):
    assert state["answer"] == answer
    return float(completion[-1]["content"] == answer)


def verifiers_all(**given):
    return float(given["info"].get("answer") == given["completion"][0]["content"])


def test_reward_functions_of_trainers_are_scorers():
    np.testing.assert_array_equal(scorer_of_trl(trl_exact).score(ITEMS).value, [1, 0, np.nan])
    np.testing.assert_array_equal(scorer_of_trl(trl_column, conversational=False).score(ITEMS).value, [1, 0, np.nan])
    np.testing.assert_array_equal(scorer_of_verl(verl_exact).score(ITEMS).value, [1, 0, 0])
    np.testing.assert_array_equal(scorer_of_verifiers(verifiers_exact).score(ITEMS).value, [1, 0, 0])
    np.testing.assert_array_equal(scorer_of_verifiers(verifiers_all).score(ITEMS).value, [1, 0, 0])
    for scorer in (scorer_of_trl(trl_exact), scorer_of_verl(verl_exact), scorer_of_verifiers(verifiers_exact)):
        check_scorer(scorer, ITEMS)


def test_there_and_back_again_gives_the_same_rewards():
    for back in (
        scorer_of_trl(trl_reward(load("rule:exact"), on_failure="none")),
        scorer_of_verl(verl_reward(load("rule:exact"), prompt=None, on_failure="none")),
        scorer_of_verifiers(verifiers_reward(load("rule:exact"), on_failure="none")),
    ):
        np.testing.assert_array_equal(back.score(ITEMS).value, [1, 0, np.nan])


def test_what_raises_is_no_reward_with_the_reason_and_loses_no_other():
    def breaks(completion, answer):
        return 1 / (answer == "18")

    rewards = scorer_of_verifiers(breaks).score(ITEMS)
    np.testing.assert_array_equal(rewards.value, [1, 1, np.nan])
    assert "raised ZeroDivisionError" in rewards.error[2]


def test_a_function_that_needs_what_is_not_there_is_refused():
    async def later(completion):
        return 1.0

    with pytest.raises(ValueError, match="is asynchronous"):
        scorer_of_verifiers(later)
    with pytest.raises(ValueError, match="needs 'parser'"):
        scorer_of_verifiers(lambda completion, parser: 1.0)


def test_the_fingerprint_is_of_the_functions_source():
    assert scorer_of_trl(trl_exact).fingerprint != scorer_of_trl(trl_column).fingerprint
    assert scorer_of_trl(trl_exact).fingerprint == scorer_of_trl(trl_exact).fingerprint
