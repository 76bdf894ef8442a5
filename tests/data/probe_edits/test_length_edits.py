"""Fewer words and more say the same: what is put in can be taken out, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest

from assay.data.probe_edits.length_edits import _LONG_OF, lengthened, rewording, shortened
from assay.messages import Message
from assay.records import Completion


@pytest.mark.parametrize("short", sorted(_LONG_OF))
def test_every_phrase_has_a_longer_form_that_leads_back(short):
    text = f"Well, {short} it went."
    longer = lengthened(text)
    assert len(longer) > len(text)
    assert shortened(longer) == text


def test_a_capital_letter_and_the_rest_of_the_text_stay():
    text = "You should stir it. It's hot, although you can’t see it."
    assert lengthened(text) == "What you should do is stir it. It is hot, despite the fact that you cannot see it."
    assert shortened(lengthened(text)) == text.replace("’", "'")


@pytest.mark.parametrize("text", ["That is what it is.", "A despite-all view", "don't", "unevery day", "nothing to change here"])
def test_nothing_changes_where_no_phrase_stands_whole_before_more_words(text):
    assert lengthened(text) == text


def test_an_answer_before_and_after_has_its_prompt_tools_and_calls():
    message = Message("assistant", "You can use it.", reasoning="hm")
    completion = Completion(messages="q", response_message=message, ground_truth={"answer": 4}, id="x")
    before, after = rewording(completion, np.random.default_rng(0))
    assert (before.response, after.response) == ("You can use it.", "You have the ability to use it.")
    assert before.messages == after.messages == completion.messages
    assert after.response_message.extras == message.extras
    assert after.ground_truth == {"answer": 4}


@pytest.mark.parametrize("text", ["```\nx = 1  # you can do that\n```", "you can see\n|a|b|", "Nothing.", ""])
def test_code_tables_and_texts_without_a_phrase_are_left_alone(text):
    assert rewording(Completion(messages="q", response=text), np.random.default_rng(0)) is None
