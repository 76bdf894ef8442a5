"""Layouts of published process models: what cannot be laid out as the publisher does has a reason, and no step is lost unsaid."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from assay.data.steps.step_layouts import StepRenderer, cut_at_lines
from assay.models.published.published_steps import FORMATS
from assay.records import Completion, Message
from process_models import QUESTION, STEPS, SYSTEM_CHATML, TRIMMED, chat_tokenizer, sentence_tokenizer, steps_of

TOKENIZERS = {
    "math-shepherd": sentence_tokenizer,
    "rlhflow": lambda: chat_tokenizer(TRIMMED),
    "qwen-math-prm": lambda: chat_tokenizer(SYSTEM_CHATML, mark="<extra_0>"),
    "skywork-o1": lambda: chat_tokenizer(None),
    "trl": lambda: chat_tokenizer(None),
    "reasoneval": lambda: sentence_tokenizer(pad="</s>"),
}


def renderer(form: str, *, max_length: int = 512, tokenizer=None, template: str | None = None) -> StepRenderer:
    made = TOKENIZERS[form]() if tokenizer is None else tokenizer
    return StepRenderer(made, FORMATS[form].layout, max_length=max_length, template=template)


def render(form: str, steps: tuple[str, ...] | None, *, question: object = QUESTION, **settings):
    response = "" if steps is None or not steps else None
    completion = Completion(messages=question, steps=steps, response=response)
    (item,) = renderer(form, **settings).render([completion])
    return item


@pytest.mark.parametrize("form", TOKENIZERS)
def test_no_steps_and_empty_ones_have_a_reason(form):
    assert render(form, None).error == render(form, ()).error == "there are no steps: the response is empty"
    found = render(form, ("Two eggs.\n", "  \n", "Six."))
    assert found.error == "step 2 is empty: leave it out, or join it to its neighbour"
    assert found.reads.tolist() == [*render(form, ("Two eggs.\n",)).reads, -1, -1]
    first = render(form, (" \n", "Six."))
    assert (first.reads.tolist(), len(first.tokens)) == ([-1, -1], 0)


@pytest.mark.parametrize("form", TOKENIZERS)
def test_one_step_is_read_once_at_the_last_token(form):
    found = render(form, steps_of(form)[:1])
    assert found.error is None
    assert found.reads.tolist() == [len(found.tokens) - 1]


@pytest.mark.parametrize("form", TOKENIZERS)
def test_steps_beyond_the_length_are_not_read_and_the_others_are_as_before(form):
    whole = render(form, steps_of(form))
    cut = render(form, steps_of(form), max_length=int(whole.reads[1]) + 1)
    assert cut.reads.tolist() == [*whole.reads[:2].tolist(), -1]
    np.testing.assert_array_equal(cut.tokens, whole.tokens[: whole.reads[1] + 1])
    why = f"{whole.reads[2] + 1} tokens are more than max_length {whole.reads[1] + 1}: 1 of 3 steps are not read"
    assert cut.error == why
    none = render(form, steps_of(form), max_length=8)
    assert len(none.tokens) == 0
    assert none.reads.tolist() == [-1, -1, -1]
    assert none.error is not None


@pytest.mark.parametrize("form", TOKENIZERS)
def test_a_control_token_in_a_step_or_the_question_is_refused(form):
    held = str(TOKENIZERS[form]().bos_token)
    why = f"holds {held!r}, which this tokenizer reads as a control token: take it out"
    assert render(form, ("Two.\n", f"So {held} three.")).error == f"step 2 {why}"
    assert render(form, ("Two.",), question=f"How {held} many?").error == f"the turn 1 of the prompt {why}"


@pytest.mark.parametrize(("form", "mark"), [("math-shepherd", "ки"), ("qwen-math-prm", "<extra_0>"), ("skywork-o1", "\n")])
def test_a_step_that_holds_its_own_separator_is_refused(form, mark):
    inside = render(form, ("Two eggs.\n", f"Three a {mark} more.\n", "Six.\n"))
    assert inside.error == f"step 2 holds the model's own separator {mark!r}: cut it there, or take it out"


@pytest.mark.parametrize(("form", "mark"), [("math-shepherd", "ки"), ("qwen-math-prm", "<extra_0>")])
def test_a_question_that_holds_the_separator_is_refused(form, mark):
    assert "holds the model's own separator" in render(form, steps_of(form), question=f"How a {mark} many?").error


def test_line_breaks_inside_of_a_step_stay_where_ids_are_joined_as_in_training():
    plain, broken = render("trl", ("Two eggs. Three more.\n",)), render("trl", ("Two eggs.\nThree more.\n",))
    assert broken.error is None
    newline = chat_tokenizer(None)("\n")["input_ids"][0]
    assert broken.tokens.tolist().count(newline) == plain.tokens.tolist().count(newline) + 1


def test_a_word_that_ends_like_the_tag_is_no_tag():
    found = render("math-shepherd", ("Step 1: Take the aки.\n", "Step 2: Eat."))
    assert found.error is None
    assert len(found.reads) == 2


def test_a_separator_that_is_tokenised_into_its_neighbour_is_refused():
    merging = sentence_tokenizer(splits_lines=False)
    assert "ки\n" in "".join(merging.tokenize("a ки\na ки")), "the trap is not set"
    found = render("math-shepherd", STEPS, tokenizer=merging)
    assert found.error == "the separator behind step 1 is tokenised into its neighbour, so that the step cannot be read"
    glued = chat_tokenizer(TRIMMED.replace("m['role'] + '\\n\\n'", "m['role'] + ' '").replace("'<|im_end|>'", "' egg'"))
    found = render("rlhflow", ("It is +", "Six."), tokenizer=glued)
    assert found.error is None or "tokenised into its neighbour" in found.error


def test_text_and_ids_are_joined_differently_where_a_break_merges_with_what_stands_before_it():
    """The trap of ProcessBench's pull request 12: one text gives other tokens than ids that are joined."""
    tokenizer = sentence_tokenizer(splits_lines=False)
    as_ids = StepRenderer(tokenizer, FORMATS["trl"].layout, max_length=512)
    (found,) = as_ids.render([Completion(messages="a", steps=("a ки\n", "a ки"))])
    as_text = tokenizer("aa ки\na ки\n")["input_ids"]
    assert found.tokens.tolist() != as_text
    assert [found.tokens[i] for i in found.reads] == [as_ids.mark_ids[-1]] * 2


def test_templates_that_change_a_turn_or_an_answer_are_refused():
    upper = TRIMMED.replace("| trim", "| upper")
    assert "does not write every step's turn" in render("rlhflow", STEPS, tokenizer=chat_tokenizer(upper)).error
    cut = SYSTEM_CHATML.replace("message['content']", "message['content'].split('<extra_0>')[0]")
    found = render("qwen-math-prm", STEPS, tokenizer=chat_tokenizer(cut, mark="<extra_0>"))
    assert found.error == "the chat template altered the answer: 0 separators stand there for 3 steps"


@pytest.mark.parametrize("form", ["math-shepherd", "trl", "reasoneval"])
def test_forms_without_a_chat_template_take_one_question_unless_a_template_writes_it(form, tmp_path):
    turns = (Message("system", "Count."), Message("user", QUESTION))
    found = render(form, STEPS, question=turns)
    assert found.error.startswith("this model's form has one question and no other turn, not system, user")
    file = tmp_path / "words.jinja"
    file.write_text("{{ messages[-1]['content'] }} Words. ")
    with_words = render(form, STEPS, question=turns, template=str(file))
    assert with_words.error is None
    plain = render(form, STEPS)
    assert len(with_words.tokens) > len(plain.tokens)


def test_a_completion_that_was_rendered_has_a_reason():
    for completion in (Completion(text="a"), Completion(token_ids=(1, 2))):
        (found,) = renderer("trl").render([completion])
        assert found.error == "steps are laid out from messages and response: this completion was rendered already"
        assert len(found.reads) == 0


def test_steps_that_are_not_the_response_and_broken_text_have_a_reason():
    twisted = Completion(messages=QUESTION, response="Six.", steps=("Two.", "Six."))
    broken = Completion(messages=QUESTION, steps=("Two \ud800.",))
    first, second = renderer("trl").render([twisted, broken])
    assert first.error == "the steps, joined, are not the response"
    assert second.error.startswith("step 1 is not valid Unicode")


def test_a_tokenizer_without_the_separator_is_another_models():
    with pytest.raises(ValueError, match="the separator '<extra_0>' is not one token of this tokenizer"):
        renderer("qwen-math-prm", tokenizer=chat_tokenizer(SYSTEM_CHATML))
    with pytest.raises(ValueError, match="no one chat template"):
        renderer("rlhflow", tokenizer=chat_tokenizer(None))
    with pytest.raises(ValueError, match="no padding token"):
        renderer("reasoneval", tokenizer=sentence_tokenizer())


@pytest.mark.parametrize("ends", ["line", "blank line"])
def test_pieces_of_a_response_join_to_it_and_none_is_blank(ends):
    texts = ["".join(letters) for length in range(7) for letters in itertools.product("a \n", repeat=length)]
    for text in texts:
        pieces = cut_at_lines(text, ends)
        assert "".join(pieces) == text
        assert all(piece.strip() for piece in pieces) or len(pieces) <= 1
    assert max(len(cut_at_lines(text, ends)) for text in texts) == (3 if ends == "line" else 2)


def test_a_response_is_cut_at_lines_or_paragraphs():
    text = "One.\n  Two.\n\n\nThree.\n"
    assert cut_at_lines(text, "line") == ("One.\n", "  Two.\n\n\n", "Three.\n")
    assert cut_at_lines(text, "blank line") == ("One.\n  Two.\n\n\n", "Three.\n")


def test_layouts_are_plain_values():
    layout = FORMATS["trl"].layout
    assert replace(layout, mark="\n\n") != layout
