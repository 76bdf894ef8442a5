"""The errands world: gold worked out by hand, demonstrations by their habits, flips counted."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from assay.messages import Message
from assay.recipes.worlds.errands import (
    WORDS,
    Errand,
    Habits,
    Mix,
    answer,
    as_prompts,
    check,
    corpus,
    demonstrations,
    errands,
    gold,
    gold_rule,
    labelled_pairs,
    remark,
)
from assay.records import Completion

THINGS = ("tea", "rope", "soap")
NO_FAULT = Habits(**dict.fromkeys((one.name for one in fields(Habits)), 0.0))


@pytest.mark.parametrize(
    ("response", "worth"),
    [
        ("sure : tea , rope , soap .", 4.0),  # three, and their order
        ("sure : rope , tea , soap .", 3.0),
        ("sure : tea , soap .", 2.0),  # in order, but not all
        ("sure : tea , rope , soap , milk .", 3 - 0.5 + 1),  # the right ones are in order, and one thing too many
        ("sure : tea , rope , soap , tea .", 4 - 0.25),
        ("sure : tea , rope , soap", 4 - 1),  # no end
        ("please " * 10 + "tea , rope , soap .", 4 - 0.08),  # thirteen words, one past twelve
        ("milk milk .", -0.5 - 0.25),
        ("", -1.0),
    ],
)
def test_gold_by_hand(response, worth):
    assert gold(THINGS, response) == pytest.approx(worth)


def test_the_rule_needs_the_things():
    asked = (Message("user", "tea rope soap"),)
    known = Completion(messages=asked, response="tea , rope , soap .", ground_truth={"answer": "tea rope soap"})
    values = gold_rule([known, Completion(messages=asked, response="tea .")])
    assert values[0] == 4
    assert math.isnan(values[1])


def test_errands_are_different_and_set_by_the_seed():
    found = errands(500, seed=3)
    assert len({one.things for one in found}) == 500
    assert found == errands(500, seed=3) != errands(500, seed=4)
    assert all(len(set(one.things)) == 3 for one in found)
    assert as_prompts(found[:1])[0].ground_truth == {"answer": " ".join(found[0].things)}
    with pytest.raises(ValueError, match="59,280"):
        errands(60_000, seed=0)


def test_a_demonstration_without_faults_is_worth_the_most_and_each_fault_costs():
    rng, errand = np.random.default_rng(0), Errand(things=THINGS)
    assert {gold(THINGS, answer(errand, rng, NO_FAULT)) for _ in range(50)} == {4.0}
    for one in ("left_out", "swapped", "more", "repeated", "open_end"):
        always = Habits(**{**dict.fromkeys((f.name for f in fields(Habits)), 0.0), one: 1.0})
        # "more" may name a thing that is asked for already
        assert np.mean([gold(THINGS, answer(errand, rng, always)) for _ in range(50)]) < 4 - 0.2, one


def test_demonstrations_leave_room_above_them():
    worth = [gold(errand.things, text) for errand, text in demonstrations(400, seed=0)]
    assert 2 < np.mean(worth) < 3.7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sure : tea , rope , soap .", {"three", "fine", "order"}),
        ("sure : rope , tea , tea .", {"two", "fine", "mixed"}),
        ("here : milk , soap .", {"one", "wrong", "order"}),
        ("sure :", {"none", "fine", "order"}),
    ],
)
def test_a_remark_is_one_of_three_words_that_are_true_of_an_answer(text, words):
    rng = np.random.default_rng(0)
    assert {remark(Errand(things=THINGS), text, rng) for _ in range(60)} == words


def test_a_check_says_of_each_thing_whether_it_was_asked_for():
    rng = np.random.default_rng(0)
    texts = [check(Errand(things=THINGS), rng).removeprefix("check : ").removesuffix(" .") for _ in range(100)]
    parts = [part.split() for text in texts for part in text.split(" , ")]
    assert all((word == "yes") == (thing in THINGS) for thing, word in parts)
    assert np.mean([word == "yes" for _, word in parts]) == pytest.approx(0.5 + 0.5 * 3 / 40, abs=0.12)


def test_a_corpus_has_each_kind_of_text_in_its_share_and_no_word_without_a_token():
    rows = list(corpus(1000, seed=0, mix=Mix(checks=0.3, remarks=0.2)))
    assert np.mean([row[0].startswith("check ") for row in rows]) == pytest.approx(0.3, abs=0.06)
    remarked = [row for row in rows if len(row) == 3]
    assert len(remarked) / 1000 == pytest.approx(0.2, abs=0.06)
    assert {word for row in rows for text in row for word in text.split()} <= set(WORDS)
    worth = [gold(row[0].split(), row[1]) for row in remarked]
    assert np.mean(worth) < np.mean([gold(row[0].split(), row[1]) for row in rows if len(row) == 2 and row[0][:5] != "check"]) - 0.5
    plain = list(corpus(20, seed=0, mix=Mix(checks=0.0, remarks=0.0)))
    assert plain == [(errand.prompt, text) for errand, text in demonstrations(20, seed=0)]


def test_labels_are_flipped_at_their_rate_and_ties_left_out():
    asked = [(errand, ["tea .", *(f"{' , '.join(errand.things[:k])} ." for k in (1, 2, 3))]) for errand in errands(1500, seed=1)]
    pairs = labelled_pairs(asked, num=1000, flips=0.25, seed=0)
    things = {errand.prompt: errand.things for errand in errands(1500, seed=1)}
    ahead = [gold(things[one.prompt[0].content], one.chosen) - gold(things[one.prompt[0].content], one.rejected) for one in pairs]
    assert 0 not in ahead
    assert np.mean(np.less(ahead, 0)) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 1000))
    with pytest.raises(ValueError, match="sample more answers"):
        labelled_pairs(asked[:3], num=1000, flips=0.25, seed=0)
    with pytest.raises(ValueError, match="half of the labels"):
        labelled_pairs(asked, num=10, flips=0.5, seed=0)
