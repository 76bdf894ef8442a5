"""The relay world's writer: what it writes is a solution of the world, wrong as often as it was told to be, and repeats."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from assay.generation.generator import Generator
from assay.generation.replies import Ask, Sampling
from assay.messages import Message
from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.recipes.worlds.relay_writer import RelayWriter, num_tokens, passes_in, right_names

WORLD = WorldSettings(problems=40, lengths=(5, 6), solutions=1, names="second", seed=3)


def problems():
    return [(item.completion.messages, item.completion.ground_truth["answer"]) for item in relay_world(WORLD)]


def written(generator, messages, begun="", *, stop=(), sample=0, seed=0):
    asked = (*messages, Message("assistant", begun)) if begun else messages
    sampling = Sampling(temperature=1.0, stop=stop, seed=seed)
    (one,) = generator.ask([Ask(messages=asked, sampling=sampling, sample=sample)], lambda ask, reply: reply.text)
    return one


def test_a_pass_is_the_first_wrong_one_as_often_as_it_was_told_at_every_place():
    """Of 2,000 solutions; the tolerance is three standard errors of a share."""
    generator, firsts, right = Generator(RelayWriter(0.3)), Counter(), 0
    told = problems()
    for (messages, answer), replies in zip(told, generator.sample([one for one, _ in told], n=50, temperature=1.0), strict=True):
        names = right_names(messages[0].content)
        for reply in replies:
            wrong = [k for k, (own, true) in enumerate(zip(passes_in(reply.text), pairwise(names), strict=True)) if own != true]
            firsts[wrong[0] if wrong else None] += 1
            right += not wrong
            assert reply.text.endswith(f"Answer: {answer}") == (not wrong), "an error is never made good"
    left = 2000
    for place in range(5):
        assert firsts[place] / left == pytest.approx(0.3, abs=3 * (0.21 / left) ** 0.5)
        left -= firsts[place]
    assert right == firsts[None]


def test_behind_an_error_it_follows_the_question():
    generator, kinds = Generator(RelayWriter(0.5)), Counter()
    for messages, _ in problems():
        question = messages[0].content
        facts, names = dict(re.findall(r"(\w+) passed it to (\w+)\.", question)), right_names(question)
        for sample in range(10):
            passes = passes_in(written(generator, messages, sample=sample).verdict)
            wrong = next((k for k, (own, true) in enumerate(zip(passes, pairwise(names), strict=True)) if own != true), None)
            if wrong is None:
                continue
            giver, receiver = passes[wrong]
            kinds["wrong receiver" if facts[giver] != receiver else "skipped" if giver == names[wrong + 1] else "other chain"] += 1
            assert all(facts[giver] == receiver for giver, receiver in passes[wrong + 1 :])
            assert all(one.receiver == other.giver for one, other in pairwise(passes[wrong:]))
    assert min(kinds[one] for one in ("wrong receiver", "skipped", "other chain")) > 50


def test_it_goes_on_with_a_text_and_ends_at_a_step():
    (messages, answer), generator = problems()[0], Generator(RelayWriter(0.0))
    text, calls = "", 0
    while not text.endswith(answer):
        text += written(generator, messages, text, stop=("\n",)).verdict
        calls += 1
    assert calls == len(passes_in(text)) + 1
    assert text == written(generator, messages, text.splitlines(keepends=True)[0]).verdict.join([text.splitlines(True)[0], ""])
    assert written(generator, messages, text).verdict == "", "behind the answer nothing is written"


def test_draws_repeat_and_samples_and_seeds_differ():
    messages, _ = problems()[0]
    generator = Generator(RelayWriter(0.5))
    replies = [written(generator, messages, sample=k).verdict for k in range(20)]
    assert replies == [written(Generator(RelayWriter(0.5)), messages, sample=k).verdict for k in range(20)]
    assert len(set(replies)) > 5
    assert replies != [written(generator, messages, sample=k, seed=1).verdict for k in range(20)]


def test_tokens_are_words_marks_and_line_ends():
    assert num_tokens("1. Dan passes it to Ed.\nAnswer: Ed") == 2 + 6 + 1 + 3
    one = written(Generator(RelayWriter(0.0)), problems()[0][0])
    assert one.reply.output_tokens == num_tokens(one.verdict)


def test_what_is_no_question_of_the_world_has_an_error():
    generator = Generator(RelayWriter(0.3))
    assert "no question of the relay world" in written(generator, (Message("user", "2 + 2?"),)).error
    assert "is no pass" in written(generator, problems()[0][0], "So it is four.\n").error
    with pytest.raises(ValueError, match="error_rate 1"):
        RelayWriter(1.0)
