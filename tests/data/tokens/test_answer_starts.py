"""Where an answer begins among its tokens: by the generation prompt, by its text, and after a cut."""

from __future__ import annotations

import pytest

from assay.data.tokens.answer_starts import UNLOCATED, with_answer_starts
from assay.records import Completion
from tiny import AGENT, CHATML, tiny_renderer

ANSWER = "It is four, not five."


def located(template, completion, **settings):
    renderer = tiny_renderer(template, **settings)
    (item,) = with_answer_starts(renderer, [completion], renderer.render([completion]))
    return renderer.tokenizer, item


@pytest.mark.parametrize("template", [CHATML, AGENT, None], ids=["chatml", "no generation prompt", "plain"])
def test_behind_the_prompt_stand_the_answer_and_its_closing(template):
    tokenizer, item = located(template, Completion(messages="What is two and two?", response=ANSWER))
    text = tokenizer.decode(item.tokens[item.answer_start :])
    assert text.strip().startswith(ANSWER)
    assert text.strip().removeprefix(ANSWER).strip() == "<|im_end|>"
    assert "two?" in tokenizer.decode(item.tokens[: item.answer_start])


def test_after_a_cut_of_the_front_the_answer_is_where_it_was():
    completion = Completion(messages="Please tell me a story. " * 9, response=ANSWER)
    _, whole = located(CHATML, completion)
    _, cut = located(CHATML, completion, max_length=len(whole.tokens) - 20)
    assert cut.is_cut
    assert list(cut.tokens[cut.answer_start :]) == list(whole.tokens[whole.answer_start :])
    _, short = located(CHATML, completion, max_length=8)
    assert short.answer_start == 1  # a part of the answer is all that is left: its first token is predicted by nothing


def test_an_answer_that_the_template_rewrites_is_an_error_and_the_others_keep_theirs():
    loud = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + m['content'] | upper + '<|im_end|>' }}{% endfor %}"
    renderer = tiny_renderer(loud)
    completions = [Completion(messages="q", response=text) for text in (ANSWER, "42", " ")]
    rewritten, kept, blank = with_answer_starts(renderer, completions, renderer.render(completions))
    assert rewritten.error == UNLOCATED
    assert kept.error is None
    assert kept.answer_start > 0
    assert blank.error == "the response is empty"
