"""Conversations inside of text are taken apart, whoever wrote them; what cannot be is refused; other text is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assay.data.pairs import PairReader, read_pairs
from assay.data.raw.cells import BadRow
from assay.data.raw.embedded import LARGEST_LITERAL, conversation_in, parsed_text, transcript_in
from assay.messages import Message
from assay.records import PreferencePair

QUESTION, GOOD, BAD = "Why does bread go stale?", "The starch slowly crystallises again.", "The starch runs away at night."
TURNS = (Message("user", QUESTION), Message("assistant", GOOD))
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

RENDERED = {
    "ChatML": "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n",
    "Phi 4": "<|im_start|>user<|im_sep|>{q}<|im_end|><|im_start|>assistant<|im_sep|>{a}<|im_end|>",
    "Llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n" + DATES + "<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\n{q}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{a}<|eot_id|>",
    "Llama 2": "<s>[INST] {q} [/INST] {a}</s>",
    "Gemma": "<bos><start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n{a}<end_of_turn>\n",
    "Zephyr": "<|user|>\n{q}</s>\n<|assistant|>\n{a}</s>\n",
    "Phi 3": "<|user|>\n{q}<|end|>\n<|assistant|>\n{a}<|end|>\n<|endoftext|>",
    "DeepSeek": "<｜begin▁of▁sentence｜><｜User｜>{q}<｜Assistant｜>{a}<｜end▁of▁sentence｜>",
    "OpenChat": "GPT4 Correct User: {q}<|end_of_turn|>GPT4 Correct Assistant: {a}<|end_of_turn|>",
    "Command R": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>{q}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    "{a}<|END_OF_TURN_TOKEN|>",
}  # fmt: skip
IN_WORDS = {
    "Alpaca": "### Instruction:\n{q}\n\n### Response:\n{a}",
    "Alpaca, whole": ALPACA + "\n\n### Instruction:\n{q}\n\n### Response:\n{a}",
    "Guanaco": "### Human: {q}### Assistant: {a}",
    "transcript": "Human: {q}\n\nAssistant: {a}",
    "user": "User: {q}\nAssistant: {a}",
    "Vicuna": "USER: {q} ASSISTANT: {a}</s>",
}


@pytest.fixture
def read(tmp_path: Path):
    def run(row: Any) -> tuple[list[PreferencePair], PairReader]:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        reader = read_pairs(path)
        return list(reader), reader

    return run


@pytest.mark.parametrize("template", RENDERED.values(), ids=RENDERED)
def test_rendered_text_is_taken_apart(template):
    assert conversation_in(template.format(q=QUESTION, a=GOOD)) == TURNS


@pytest.mark.parametrize("template", IN_WORDS.values(), ids=IN_WORDS)
def test_marks_in_words_are_taken_apart_only_where_it_is_asked_for(template):
    text = template.format(q=QUESTION, a=GOOD)
    assert conversation_in(text) == text.removesuffix("</s>")
    assert transcript_in(text) == TURNS


@pytest.mark.parametrize("template", (RENDERED | IN_WORDS).values(), ids=RENDERED | IN_WORDS)
def test_rendered_columns_give_the_pair_that_was_rendered(read, template):
    """Whole texts; the prompt with the head of the answer and answers with what ends them; the prompt beside whole texts."""
    chosen, rejected = (template.format(q=QUESTION, a=answer) for answer in (GOOD, BAD))
    head = chosen[: chosen.index(GOOD)]
    rows = [
        {"chosen": chosen, "rejected": rejected},
        {"prompt": head, "chosen": chosen.removeprefix(head), "rejected": rejected.removeprefix(head)},
        {"prompt": head, "chosen": chosen, "rejected": rejected},
        {"prompt": QUESTION, "chosen": chosen, "rejected": rejected},
    ]
    for row in rows:
        (pair,), _ = read(row)
        assert (pair.prompt, pair.chosen, pair.rejected) == ((TURNS[0],), GOOD, BAD)


def test_system_turns_and_inputs_are_kept():
    system = Message("system", "Be brief.")
    assert conversation_in(f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{QUESTION} [/INST]") == (system, TURNS[0])
    assert conversation_in(f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>") == (system, TURNS[0])
    assert transcript_in(f"Be brief. USER: {QUESTION} ASSISTANT:") == (system, TURNS[0])
    text = f"### Instruction:\nAnswer.\n\n### Input:\n{QUESTION}\n\n### Response:"
    assert transcript_in(text) == (Message("user", f"Answer.\n\n{QUESTION}"),)
    steer = f"Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\n{QUESTION}"
    assert conversation_in(steer) == (Message("user", "Hi"), Message("assistant", "Hello"), TURNS[0])


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD}<|im_end|>\n<|im_start|>user\nThanks<|im_end|>",
        f"<|start|>user<|message|>{QUESTION}<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}<|return|>",
        "<|im_start|>narrator\nOnce upon a time<|im_end|>",
        "[INST] never closed",
        '[{"role": "user", "content": "never closed',
    ],
)
def test_what_cannot_be_taken_apart_is_refused(text):
    with pytest.raises(BadRow):
        conversation_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD,
        "a < b and <b>bold</b>",
        "<s>struck out</s>",
        "[1, 2, 3]",
        '{"name": "a", "content": "b"}',
        '[{"role": "admin", "level": 3}]',
        "{x}",
        "### A heading\n\nand text",
        "Human: what are you?",
    ],
)
def test_other_text_is_left_alone(text):
    assert conversation_in(text) == text
    assert transcript_in(text) is None


def test_a_mark_at_the_end_of_an_answer_is_no_part_of_it():
    for end in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<|end|>\n", "<|im_end|>\n<|endoftext|>"):
        assert conversation_in(GOOD + end) == GOOD


def written(*turns: Message) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(written(*TURNS)),
        repr(written(*TURNS)),
        f"[{written(TURNS[0])[0]!r}\n {written(TURNS[1])[0]!r}]",
        f"array([{written(TURNS[0])[0]!r},\n       {written(TURNS[1])[0]!r}], dtype=object)",
        json.dumps([{"from": "human", "value": QUESTION}, {"from": "gpt", "value": GOOD}]),
    ],
    ids=["JSON", "Python", "numpy without commas", "numpy", "ShareGPT"],
)
def test_conversations_written_as_text_are_parsed(text):
    assert conversation_in(text) == TURNS


def test_python_text_is_a_literal_within_bounds_and_is_never_run(tmp_path):
    mark = tmp_path / "run"
    assert parsed_text(f"__import__('pathlib').Path({str(mark)!r}).touch()") is None
    assert not mark.exists()
    assert parsed_text("['a'" + " " * LARGEST_LITERAL + "]") is None
    assert parsed_text("[" * 100_000) is None
    assert parsed_text("[(1).__class__]") is None


def test_answers_that_repeat_the_prompt_are_cut_and_it_is_said(read):
    (pair,), reader = read({"prompt": QUESTION, "chosen": f"{QUESTION} {GOOD}", "rejected": f"{QUESTION}\n{BAD}"})
    assert (pair.prompt, pair.chosen, pair.rejected) == ((TURNS[0],), GOOD, BAD)
    assert "answers repeated the prompt, which was cut from them (1 rows)" in reader.summary()
    hh = f"\n\nHuman: {QUESTION}\n\nAssistant:"
    (pair,), _ = read({"prompt": hh, "chosen": f"{hh} {GOOD}", "rejected": f"{hh} {BAD}"})
    assert (pair.prompt, pair.chosen, pair.rejected) == ((TURNS[0],), GOOD, BAD)
    whole = f"\n\nHuman: Hi\n\nAssistant: Hello{hh}"
    (pair,), _ = read({"prompt": QUESTION, "chosen": f"{whole} {GOOD}", "rejected": f"{whole} {BAD}"})
    assert (len(pair.prompt), pair.chosen, pair.rejected) == (3, GOOD, BAD)


def test_a_list_of_one_transcript_is_that_transcript(read):
    row = {side: [f"human: {QUESTION}\nassistant: {text}"] for side, text in (("chosen", GOOD), ("rejected", BAD))}
    (pair,), _ = read(row)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((TURNS[0],), GOOD, BAD)


def test_an_answer_that_repeats_a_question_on_purpose_is_kept(read):
    (pair,), _ = read({"prompt": QUESTION, "chosen": f"{QUESTION} {GOOD}", "rejected": BAD})
    assert pair.chosen == f"{QUESTION} {GOOD}"
    (pair,), _ = read({"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi you"})
    assert (pair.chosen, pair.rejected) == ("Hi there", "Hi you")
    talk = "Human: Hi\n\nAssistant: Hello"
    (pair,), _ = read({"prompt": "Write a talk.", "chosen": talk, "rejected": BAD})
    assert pair.chosen == talk
