"""Comparisons in both orders: a judge that prefers a place gives ties, strengths stay finite, and what fails is NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.generation.endpoint import Endpoint
from assay.generation.generator import Generator, Limits
from assay.records import Completion, PreferencePair
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Criterion, Rubric
from assay.scorers.base import Comparer, prefer
from assay.scorers.checks import scorer_laws
from assay.scorers.judges.pairwise import PairwiseJudge, PromptJudge
from fake_chat import Request, fake_chat, said

RUBRIC = Rubric(criteria=(Criterion(name="good", text="Is it good?"),))
TEXT, TOKENS = JudgeSettings(reading="text", mode="pairwise"), JudgeSettings(reading="tokens", mode="pairwise")


def judge(chat, settings=TEXT):
    return PairwiseJudge(Generator(Endpoint(chat.url, "m"), limits=Limits(attempts=1, readings=1)), RUBRIC, settings=settings)


def shown(request: Request) -> tuple[int, int]:
    """The numbers in the two answers, in the order in which they are shown."""
    first, second = request.text.split("Answer A:")[1].split("Answer B:")
    return tuple(int("".join(filter(str.isdigit, part.split("worth ")[1].split(" ")[0]))) for part in (first, second))


def by_worth(request: Request):
    one, other = shown(request)
    return said(f"Because.\nVerdict: {'A' if one > other else 'B' if other > one else 'tie'}")


def answer(worth, prompt="Which?"):
    return Completion(messages=prompt, response=f"worth {worth} points")


def pair(chosen, rejected):
    return PreferencePair(prompt="Which?", chosen=f"worth {chosen} points", rejected=f"worth {rejected} points")


def test_both_orders_are_asked_and_a_place_that_is_preferred_makes_a_tie():
    with fake_chat(by_worth) as chat:
        made = judge(chat)
        assert made.compare([pair(3, 1), pair(1, 3), pair(2, 2)]).tolist() == [1.0, 0.0, 0.5]
        assert len(chat.requests) == 6
        assert made.consistency() == "both orders agreed on 3 of 3 pairs"
    with fake_chat(lambda request: said("Verdict: A")) as chat:
        made = judge(chat)
        assert made.compare([pair(3, 1)]).tolist() == [0.5]
        assert made.consistency() == "both orders agreed on 0 of 1 pairs"
        assert prefer(made, [pair(3, 1)]).tolist() == [0.5]
        assert isinstance(made, Comparer)


def test_probabilities_are_averaged_over_the_orders():
    def tokens(request: Request):
        one, other = shown(request)
        p = 0.9 if one > other else 0.4  # it leans to the place of A
        return said("A", tokens=[("A", {"A": math.log(p), "B": math.log(1 - p)})])

    with fake_chat(tokens, ("logprobs",)) as chat:
        made = judge(chat, TOKENS)
        (found,) = made.comparisons([(answer(3), answer(1))])
        assert made.outside() == PromptJudge(made).outside() == "0% of the probability lies outside of the verdicts (median of 2)"
        assert (found.forward, found.backward) == (pytest.approx(0.9), pytest.approx(0.6))
        assert found.probability == pytest.approx(0.75)
        assert found.agree


def test_an_order_without_a_verdict_leaves_no_probability():
    def half(request: Request):
        return said("no idea") if shown(request) == (1, 3) else by_worth(request)

    with fake_chat(half) as chat:
        (found,) = judge(chat).comparisons([(answer(3), answer(1))])
        assert math.isnan(found.probability)
        assert found.error == "the reply has no verdict"


def test_all_answers_to_a_prompt_get_finite_strengths_in_the_right_order():
    items = [
        answer(1),
        answer(5),
        answer(3),
        answer(9, prompt="Another?"),
        Completion(text="x"),
        answer(2, prompt="Two?"),
        answer(1, prompt="Two?"),
    ]
    with fake_chat(by_worth) as chat:
        rewards = judge(chat).score(items)
        assert len(chat.requests) == 3 * 2 + 1 * 2
        assert np.isfinite(rewards.value[:3]).all()
        assert np.argsort(rewards.value[:3]).tolist() == [0, 2, 1]
        assert rewards.value[:3].sum() == pytest.approx(0, abs=1e-5)
        assert rewards.error[3] == "there is no other answer to this prompt to compare with"
        assert rewards.error[4].startswith("a judge needs messages")
        strength = rewards.value[5]  # with one win d, the prior 0.5: sigma(2s) - 1 + 0.5 s = 0 for s = d / 2
        assert 1 / (1 + math.exp(-2 * strength)) - 1 + 0.5 * strength == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("mode", ["pairwise", "listwise"])
def test_the_laws_hold(mode):
    with fake_chat(by_worth) as chat:
        made = judge(chat)
        made = made if mode == "pairwise" else PromptJudge(made)
        items = [answer(1), answer(2), answer(1, prompt="Alone?"), Completion(text="x")]
        for law in scorer_laws(made, items):
            law.check()
        assert made.scope == "prompt"
        assert isinstance(made, Comparer) == (mode == "pairwise")
