"""Steps join to their text, none is blank, none is cut inside of code or mathematics; each rule cuts where its docstring says."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.data.steps.step_rules import NO_TEXT, STEP_RULES, join_steps, split_steps, trajectory_steps, with_steps
from assay.messages import Message, ToolCall
from assay.records import Completion

PARTS = st.sampled_from([
    "a", "b c", " ", "\n", "\n\n", "\r\n", "\t", "```", "````", "$$", "\\[", "\\]", "\\\\[2pt]", ".", "! ", "? ", "Step 1: ",
    "\nStep 12: ", "3.5",
    "e.g. ", "x = 1", "</tool_call>", "<tool_call>", "。", "\u2028", "\x0b",
])  # fmt: skip
TEXTS = st.one_of(st.lists(PARTS, max_size=30).map("".join), st.text(max_size=60))


@given(text=TEXTS, rule=st.sampled_from(STEP_RULES))
@settings(max_examples=300, deadline=None)
@example(text="\n\n a", rule="lines")
@example(text="a\n\n", rule="blank-lines")
def test_the_pieces_join_to_the_text_and_none_is_blank(text, rule):
    if not text.strip():
        with pytest.raises(ValueError, match=NO_TEXT):
            split_steps(text, rule)
        return
    steps = split_steps(text, rule)
    assert "".join(steps) == text
    assert all(step.strip() for step in steps)
    assert split_steps("".join(steps), rule) == steps


@given(before=TEXTS, inner=st.text(alphabet="ab. \nS", max_size=20), after=TEXTS, rule=st.sampled_from(STEP_RULES[:4]))
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize(("opening", "closing"), [("\n```py\n", "\n```\n"), ("$$", "$$"), ("\\[", "\\]")])
def test_what_is_code_or_mathematics_is_never_cut(opening, closing, before, inner, after, rule):
    marks = ("```", "$$", "\\[", "\\]", "\\")
    if any(mark in before for mark in marks):
        return
    whole = opening + inner + closing
    steps = split_steps(before + whole + after, rule)
    assert any(whole.strip() in step for step in steps)


def test_each_rule_cuts_where_it_says():
    text = "First, 2 + 2 = 4.\nThen\n\n```\ncode\n\nmore\n```\n\nStep 2: so it is 4. Dr. Who says 4.5 is wrong! The end."
    assert split_steps(text, "lines") == (
        "First, 2 + 2 = 4.\n", "Then\n\n", "```\ncode\n\nmore\n```\n\n", "Step 2: so it is 4. Dr. Who says 4.5 is wrong! The end.",
    )  # fmt: skip
    assert split_steps(text, "blank-lines") == (
        "First, 2 + 2 = 4.\nThen\n\n", "```\ncode\n\nmore\n```\n\n", "Step 2: so it is 4. Dr. Who says 4.5 is wrong! The end.",
    )  # fmt: skip
    assert split_steps(text, "sentences")[3:] == ("Step 2: so it is 4. ", "Dr. Who says 4.5 is wrong! ", "The end.")


def test_numbered_steps_begin_at_their_lines_and_what_stands_before_is_part_of_the_first():
    text = "Let us see.\n**Step 1:** add, as in step 2: no.\nmore\nStep 2. multiply\n### Step 10: end\nThe answer is 5."
    assert split_steps(text, "numbered") == (
        "Let us see.\n**Step 1:** add, as in step 2: no.\nmore\n", "Step 2. multiply\n", "### Step 10: end\nThe answer is 5.",
    )  # fmt: skip
    assert split_steps("no number", "numbered") == ("no number",)


def test_a_line_break_of_latex_opens_no_mathematics():
    assert split_steps("a \\\\[2pt]\nb\n\\]", "lines") == ("a \\\\[2pt]\n", "b\n", "\\]")


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(ValueError, match="'words' is no rule for steps: use one of lines"):
        split_steps("a", "words")  # type: ignore[arg-type]


def test_a_completion_gets_steps_once():
    whole = Completion(messages="q", response="a\nb")
    assert with_steps(whole, "lines").steps == ("a\n", "b")
    cut = Completion(messages="q", steps=("a\n", "b\n", "c"))
    assert with_steps(cut, "blank-lines") is cut


def test_joined_steps_keep_their_text_and_are_parted():
    assert join_steps(["a", "b\n\n", "c", " d", "e"], "\n") == ("a\n", "b\n\n", "c", " d\n", "e")


CALL = ToolCall("add", '{"a": 2, "note": "</tool_call> ```"}')
TURNS = (
    Message("system", "Use the tools."),
    Message("user", "2 + 3?"),
    Message("assistant", "", (CALL, ToolCall("look_up", '{"name": "x"}')), reasoning="hm"),
    Message("tool", "5"),
    Message("tool", "none"),
    Message("assistant", "It is 5.", (ToolCall("check"),)),
    Message("tool", "ok"),
    Message("assistant", "So 5."),
)


def test_a_turn_with_tool_calls_is_a_step_that_ends_with_its_last_call():
    prompt, steps = trajectory_steps(TURNS)
    assert prompt == TURNS[:2]
    assert len(steps) == 3
    assert steps[0].startswith("<think>\nhm\n</think>\n<tool_call>")
    assert steps[1].startswith(
        "<tool_response>\n5\n</tool_response>\n<tool_response>\nnone\n</tool_response>\nIt is 5.\n<tool_call>"
    )
    assert steps[2] == "<tool_response>\nok\n</tool_response>\nSo 5."
    assert all(step.rstrip().endswith("</tool_call>") for step in steps[:2])
    assert split_steps("".join(steps), "tool-calls") == steps


def test_a_trajectory_without_a_turn_of_the_assistant_has_no_step():
    with pytest.raises(ValueError, match="there is no step"):
        trajectory_steps(TURNS[:2])
    with pytest.raises(ValueError, match="blank"):
        trajectory_steps((*TURNS[:2], Message("assistant", " ")))


@pytest.mark.parametrize(
    "text", ["-" * 50_000, "\\[" * 30_000, "$$" * 30_001, "`" * 3 + "a" * 50_000, "# " * 30_000, "1." * 30_000, "\n" * 30_000 + "a"]
)
@pytest.mark.parametrize("rule", STEP_RULES)
def test_no_text_takes_long(text, rule):
    began = time.process_time()
    assert "".join(split_steps(text, rule)) == text
    assert time.process_time() - began < 1.0


def test_a_full_stop_before_a_small_letter_or_behind_a_number_of_a_list_ends_no_sentence():
    assert split_steps("Cut 3 cm. of rope. Then stop.", "sentences") == ("Cut 3 cm. of rope. ", "Then stop.")
    assert split_steps("1. Add it up.\n2. So 4...\nIs it? Yes.", "sentences") == (
        "1. Add it up.\n",
        "2. So 4...\n",
        "Is it? ",
        "Yes.",
    )
    assert split_steps("是的。对！", "sentences") == ("是的。", "对！")
