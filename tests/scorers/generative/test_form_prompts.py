"""The prompt of a form: files in publishers' spellings, digests that do not depend on them, and what is said where there is
none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay.messages import Message
from assay.records import Completion
from assay.scorers.generative.form_prompts import form_prompt, prompt_digest
from assay.scorers.generative.generative_forms import FORMS, generative_form

QUESTION = "How many eggs are {question} eggs?"
A, B = (Completion(messages=QUESTION, response=text) for text in ("Five, {answer_b}.", "Six."))
OURS = "Judge.\n\nQuestion: {question}\nOne: {answer_a}\nTwo: {answer_b}\nSay [[A]] or [[B]]."
SPELLED = {
    "python": OURS,
    "other names": OURS.replace("question}", "instruction}").replace("answer_a}", "response_A}").replace("answer_b}", "output_2}"),
    "jinja": OURS.replace("{", "{{ ").replace("}", " }}"),
    "other white space": OURS.replace("\n", "\n\n   "),
}


def saved(tmp_path, text: str, name: str = "prompt_of_mine.txt"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


@pytest.mark.parametrize("spelling", SPELLED)
def test_a_template_is_filled_in_one_pass_whatever_its_spelling(tmp_path, spelling):
    file = saved(tmp_path, SPELLED[spelling])
    (turn,) = form_prompt(generative_form("skywork-critic"), template=file).messages((A, B))
    assert turn.role == "user"
    expected = OURS.replace("{answer_a}", "\1").replace("{answer_b}", "Six.").replace("{question}", QUESTION)
    assert turn.content.split() == expected.replace("\1", "Five, {answer_b}.").split()  # what an answer holds is not filled again


def test_a_digest_tells_the_published_prompt_in_every_spelling(tmp_path):
    form = replace(generative_form("skywork-critic"), digests={prompt_digest(OURS): "its card"})
    for spelling, text in SPELLED.items():
        prompt = form_prompt(form, template=saved(tmp_path, text))
        assert prompt.is_published, spelling
        assert "the published prompt (its card)" in prompt.origin
    other = form_prompt(form, template=saved(tmp_path, OURS.replace("Judge.", "Judge well.")))
    assert not other.is_published
    assert "not the published prompt" in other.origin
    assert "the numbers are not the publisher's" in other.origin


def test_the_model_s_own_file_comes_before_our_own_words(tmp_path):
    form = generative_form("rm-r1")
    ours = form_prompt(form, checkpoint=tmp_path)
    assert ours.text is None
    assert "our own words, so that the numbers are not the publisher's" in ours.origin
    assert "demo/demo.ipynb" in ours.origin
    saved(tmp_path, OURS, "judge_prompt.txt")
    theirs = form_prompt(form, checkpoint=tmp_path)
    assert theirs.text == OURS
    assert theirs.fingerprint != ours.fingerprint


def test_turns_and_the_texts_of_other_fields_stand_behind_their_names(tmp_path):
    user = "{instruction}\n{response}\nRubric: {score_rubric}\n[Score 1]\n"
    text = f"[system]\nYou judge.\n[user]\n{user}[assistant]\n<think>\n[score_rubric]\nIs it {{right}}?\n"
    prompt = form_prompt(generative_form("prometheus"), template=saved(tmp_path, text))
    turns = [(turn.role, turn.content) for turn in prompt.messages((B,))]
    assert turns == [
        ("system", "You judge."),
        ("user", f"{QUESTION}\nSix.\nRubric: Is it {{right}}?\n[Score 1]"),
        ("assistant", "<think>"),
    ]
    assert prompt_digest(text) == prompt_digest(text.replace("Is it {right}?", "Is it nice?"))  # the rubric is the user's


def test_python_braces_are_read_as_python_reads_them(tmp_path):
    text = '{{"reason": "...", "choice": 1}} or {"choice": 2} for {question}: {answer1} {answer2}'
    (turn,) = form_prompt(generative_form("con-j"), template=saved(tmp_path, text)).messages((A, B))
    assert turn.content.startswith('{"reason": "...", "choice": 1} or {"choice": 2} for How')


def test_all_answers_of_a_list_are_shown(tmp_path):
    text = "{question}\n{responses}"
    (turn,) = form_prompt(generative_form("deepseek-grm"), template=saved(tmp_path, text)).messages((A, B))
    assert "[The Begin of Response 2]\nSix.\n[The End of Response 2]" in turn.content


def test_a_conversation_is_shown_with_its_roles():
    talk = (Message("user", "Two eggs?"), Message("assistant", "Two."), Message("user", "And three more?"))
    (turn,) = form_prompt(generative_form("rm-r1")).messages(
        [Completion(messages=talk, response=text) for text in ("Five.", "Six.")]
    )
    assert "user: Two eggs?\n\nassistant: Two.\n\nuser: And three more?" in turn.content


BAD = {
    "no such file": (None, "there is no such file"),
    "an unknown field": (
        "{question} {answer_a} {answer_b} {mood}",
        r"a field \{mood\}, which is not known: .* behind a line \[mood\]",
    ),
    "an answer that is not shown": ("{question} {answer_a}", "the second answer is not shown"),
    "no Jinja": ("{% if %}{{ question }} {{ answer_a }} {{ answer_b }}", "cannot be filled"),
    "an unknown name in Jinja": ("{{ question }} {{ answer_a }} {{ answer_b }} {{ mood }}", "'mood' is undefined"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_template_that_cannot_be_used_is_refused_at_once(tmp_path, case):
    text, why = BAD[case]
    file = tmp_path / "missing.txt" if text is None else saved(tmp_path, text)
    with pytest.raises(ValueError, match=why):
        form_prompt(generative_form("rm-r1"), template=file)


def test_assay_s_own_forms_have_no_other_template(tmp_path):
    with pytest.raises(ValueError, match="words of its own"):
        form_prompt(generative_form("assay-pairwise"), template=saved(tmp_path, OURS))


@pytest.mark.parametrize("form", [form for form in FORMS.values() if not form.is_own], ids=lambda form: form.name)
def test_every_published_form_says_where_its_prompt_is_and_can_be_asked_in_our_own_words(form):
    prompt = form_prompt(replace(form, roles=False))
    answers = (A,) if form.asks == "one" else (A, B)
    (turn,) = prompt.messages(answers)
    assert all(text in turn.content for text in [QUESTION, *(answer.response for answer in answers), form.spelled[0]])
    assert "give it with template=FILE" in prompt.origin


def test_answers_are_turns_where_the_model_s_own_template_has_a_place_for_them(tmp_path):
    form = generative_form("nemotron-genrm")
    assert not form_prompt(form, checkpoint=tmp_path).in_roles
    saved(tmp_path, "{% for m in messages %}{% if m['role'] == 'response_1' %}...{% endif %}{% endfor %}", "chat_template.jinja")
    prompt = form_prompt(form, checkpoint=tmp_path)
    turns = [(turn.role, turn.content) for turn in prompt.messages((A, B))]
    assert turns == [("user", QUESTION), ("response_1", "Five, {answer_b}."), ("response_2", "Six.")]
    assert prompt.is_published
