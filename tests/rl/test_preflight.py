"""Preflight: each figure by hand on answers that are made for it, and the command from end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest

from assay.cli import main
from assay.messages import Message
from assay.records import Completion, Rewards
from assay.rl.preflight import Answers, best_and_worst, preflight
from tiny import save_tiny_base


def answers_of(*texts: str, prompt: str = "p", finished: bool = True) -> Answers:
    completions = tuple(Completion(messages=(Message("user", prompt),), response=text) for text in texts)
    return Answers(completions=completions, finished=(finished,) * len(texts))


def rewards_of(*values: float) -> Rewards:
    error = tuple("lost" if np.isnan(one) else None for one in values)
    return Rewards(value=np.array(values, np.float32), error=error)


def finding(result, name: str):
    return next(one for one in result.findings if one.name == name)


def test_variance_within_prompts_by_hand():
    answers = [answers_of("a", "b", prompt="1"), answers_of("a", "b", prompt="2")]
    result = preflight(answers, [rewards_of(0, 2), rewards_of(10, 12)])
    within, between = 2.0, 50.0
    assert result.page.metric("variance within prompts").value == pytest.approx(within / (within + between))
    assert finding(result, "variance within prompts").level == "warn"
    even = preflight(answers, [rewards_of(0, 2), rewards_of(0, 2)])
    assert even.page.metric("variance within prompts").value == pytest.approx(1.0)


def test_prompts_whose_answers_are_all_alike_or_not_scored_have_no_gradient():
    answers = [answers_of("a", "b", prompt=str(i)) for i in range(4)]
    result = preflight(answers, [rewards_of(1, 1), rewards_of(np.nan, 3), rewards_of(np.nan, np.nan), rewards_of(0, 1)])
    assert result.page.metric("prompts without a gradient").value == 0.75
    assert result.page.metric("answers without a reward").value == pytest.approx(3 / 8)
    assert "lost" in finding(result, "answers without a reward").why


def test_rewards_that_bfloat16_makes_equal_are_counted():
    answers = [answers_of("a", "b", prompt=str(i)) for i in range(2)]
    result = preflight(answers, [rewards_of(100.0, 100.1), rewards_of(0.0, 0.1)])
    assert result.page.metric("ties in bfloat16").value == 0.5


def test_length_explains_all_of_a_reward_that_is_the_length_and_nothing_of_one_that_is_not():
    rng = np.random.default_rng(0)
    answers = [answers_of(*("x" * int(n) for n in rng.integers(1, 200, 8)), prompt=str(i)) for i in range(30)]
    by_length = [rewards_of(*np.log1p([len(one.response) for one in each.completions])) for each in answers]
    result = preflight(answers, by_length)
    assert result.page.metric("explained by length").value == pytest.approx(1.0, abs=1e-4)
    assert finding(result, "explained by length").level == "warn"
    other = preflight(answers, [rewards_of(*rng.normal(size=8)) for _ in answers])
    assert other.page.metric("explained by length").value < 0.1
    assert finding(other, "explained by length").level == "ok"


def test_a_reward_that_orders_as_gold_passes_and_one_that_does_not_fails():
    rng = np.random.default_rng(1)
    answers = [answers_of(*"abcdef", prompt=str(i)) for i in range(40)]
    gold = [rewards_of(*rng.normal(size=6)) for _ in answers]
    same = preflight(answers, [rewards_of(*(2 * one.value + 1)) for one in gold], gold=gold)
    assert same.page.metric("agrees with gold").value == 1.0
    assert not same.fails
    unlike = preflight(answers, [rewards_of(*rng.normal(size=6)) for _ in answers], gold=gold)
    assert unlike.page.metric("agrees with gold").value == pytest.approx(0.5, abs=0.06)
    assert unlike.fails


def test_answers_that_were_cut_off_are_told():
    answers = [answers_of("a", "b", prompt=str(i), finished=i > 0) for i in range(2)]
    result = preflight(answers, [rewards_of(0, 1)] * 2)
    assert result.page.metric("answers that were cut off").value == 0.5
    assert finding(result, "answers that were cut off").level == "warn"


def test_best_and_worst_are_pairs_of_unlike_reward():
    answers = [answers_of("a", "b", "c", prompt="1"), answers_of("a", "b", prompt="2")]
    (pair,) = best_and_worst(answers, [rewards_of(1, 3, np.nan), rewards_of(2, 2)])
    assert (pair.chosen, pair.rejected) == ("b", "a")


def test_too_few_prompts_are_refused():
    with pytest.raises(ValueError, match="at least 2 are needed"):
        preflight([answers_of("a", "b")], [rewards_of(0, 1)])


def test_the_command_from_a_policy_to_verdicts(tmp_path, capsys):
    base = save_tiny_base(tmp_path / "base")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"How do I boil egg {i}?"}) + "\n" for i in range(12)))
    out = tmp_path / "out"
    words = ["rl", "preflight", "rule:length?max_words=5", str(prompts), "--policy", str(base), "--out", str(out)]
    status = main([*words, "--num-prompts", "10", "--samples", "4", "--max-tokens", "12", "--device", "cpu"])
    said = capsys.readouterr().out
    assert status in (0, 6)
    assert "Before this policy is trained" in said
    assert (out / "preflight.html").is_file()
    assert main([*words[:3], str(tmp_path / "nothing.jsonl"), *words[4:]]) != 0
