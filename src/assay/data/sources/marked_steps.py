"""Published forms of labelled steps whose steps or labels are told inside of text: turns that are answered by a verdict, steps with
a tag behind them, lists that were written as Python.

See `stepwise`, which has the other forms and the table of all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from assay.data.raw.cells import BadRow, list_of, prompt_of, text_of, turns_of
from assay.data.raw.columns import RowView
from assay.data.raw.rows import Row
from assay.data.sources.step_labels import (
    Right,
    Solution,
    StepReading,
    cell,
    each_label,
    first_error,
    label_of,
    whole_number,
    yes_or_no,
)
from assay.messages import Message, as_ground_truth

TAG = "ки"
FIRST_STEP = re.compile(r"\bstep 1\s*:", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{\s*(Yes|No)\s*\}")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


def answered_turns(row: RowView, reading: StepReading) -> list[Solution]:
    """Conversation (RLHFlow, GenPRM): a user's turn a step, the first behind the question; each is answered by + or -, or by a text
    that ends in \\boxed{Yes} or \\boxed{No}. A system turn is the judge's, and is left out"""
    turns = [turn for turn in turns_of(cell(row, "conversations")) if turn.role != "system"]
    asked, answers = turns[::2], turns[1::2]
    if len(asked) != len(answers) or any(one.role != "user" for one in asked):
        raise BadRow("a step's turn has no verdict behind it")
    labels = [_verdict(one) for one in answers]
    if None in labels:
        raise BadRow("a turn of the assistant is no verdict: neither + nor -, nor a box with Yes or No")
    question, first = _question_and_step(asked[0].content, row)
    steps = [one.removesuffix(TAG).strip() for one in (first, *(turn.content.strip() for turn in asked[1:]))]
    return [Solution(prompt=prompt_of(question), steps=steps, right=labels)]


def are_answered(row: Row) -> bool:
    """Whether every turn of a conversation's assistant is a verdict on the turn before it."""
    try:
        turns = turns_of(row["conversations"])
    except BadRow:
        return False
    answers = [turn for turn in turns if turn.role == "assistant"]
    return bool(answers) and all(_verdict(turn) is not None for turn in answers)


def _verdict(turn: Message) -> float | None:
    text = turn.content.strip()
    if text in ("+", "-"):
        return float(text == "+")
    found = _BOXED.findall(text)
    return float(found[-1] == "Yes") if found else None


def _question_and_step(text: str, row: RowView) -> tuple[str, str]:
    """The question and the first step of a turn that holds both. Raises BadRow where nothing tells them apart."""
    text = text.strip().removesuffix(TAG).strip().removeprefix("Question:").strip()
    if begin := FIRST_STEP.search(text):
        at = begin.start()
    elif parts := list(_BLANK_LINE.finditer(text)):
        at = parts[-1].end()
        row.notes.append("without 'Step 1:': the question ends with its last blank line")
    else:
        at = text.rfind("?", 0, len(text) - 1) + 1
        row.notes.append("without 'Step 1:': the question ends with its last question mark")
    if not text[:at].strip():
        raise BadRow("neither 'Step 1:', a blank line nor a question mark tells the question from the first step")
    return text[:at].strip(), text[at:].strip()


OPENR_TAG = "\n\n\n\n\n"


def openr(row: RowView, reading: StepReading) -> list[Solution]:
    """OpenR (MATH-APS and its copy of PRM800K): five line breaks stand behind each step of the process, + or - for each in the
    label"""
    pieces = text_of(cell(row, "process")).split(OPENR_TAG)
    steps = [piece.strip() for piece in pieces if piece.strip()]
    return [Solution(prompt=prompt_of(cell(row, "question")), steps=steps, right=each_label(cell(row, "label"), steps, label_of))]


def is_openr(row: Row) -> bool:
    return isinstance(row["process"], str) and isinstance(row["label"], list)


def versa_prm(row: RowView, reading: StepReading) -> list[Solution]:
    """VersaPRM (MMLU-Pro-CoT-Train-Labeled): steps and labels, 1 or -1, are lists written as Python; behind the first -1 labels are
    taken for unknown"""
    steps, labels = _written_list(cell(row, "chain_of_thoughts")), _written_list(cell(row, "labels"))
    given = each_label(labels, steps, _sign)
    right: Right = first_error(given.index(0.0) if 0.0 in given else None, len(steps))
    outcome = yes_or_no(row.row.get("parsed_answer_correctness"), "parsed_answer_correctness")
    row.mark("parsed_answer_correctness", "parsed_answer", "answer", "category", "src", "cot_id", "answer_index", "options")
    name = "-".join(str(row.row[one]) for one in ("id", "cot_id") if row.row.get(one) is not None)
    tags = {"category": str(row.row["category"])} if row.row.get("category") else {}
    truth = as_ground_truth(row.row.get("answer"))
    prompt = prompt_of(cell(row, "question"))
    return [Solution(prompt=prompt, steps=steps, right=right, outcome=outcome, id=name, tags=tags, truth=truth)]


def _sign(value: Any) -> float | None:
    if isinstance(value, bool) or value not in (-1, 1):
        raise BadRow("a label is neither 1 nor -1")
    return float(value == 1)


def _written_list(value: Any) -> list[Any]:
    """A list, or one that was written as a Python literal. Raises BadRow for what is neither."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise BadRow("a list cannot be read") from None
    return list_of(value)


_MR = "Model_Solution_"


def mr_ben(row: RowView, reading: StepReading) -> list[Solution]:
    """MR-Ben: the first wrong step, counted from 1, and N/A where the solution is right"""
    steps, said = list_of(cell(row, f"{_MR}Steps")), cell(row, f"{_MR}First_Error_Step")
    is_right = yes_or_no(cell(row, f"{_MR}Correctness"), f"{_MR}Correctness")
    asked = text_of(cell(row, "question" if "question" in row.row else "Question"))
    options = next((row.row[name] for name in ("options", "Options") if isinstance(row.row.get(name), str)), "")
    asked = f"{asked}\n{options.strip()}" if options.strip() else asked
    row.mark(
        "options", "Options", "Subject", "Sampled_Model", "Question_UUID", "Ground_Truth_Answer", "Ground_Truth_Answer_Modified"
    )
    right = first_error(None if is_right else whole_number(said, "first_error_step") - 1, len(steps))
    tags = {name: str(row.row[column]) for name, column in _MR_TAGS.items() if row.row.get(column)}
    truth = as_ground_truth(row.row.get("Ground_Truth_Answer_Modified") or row.row.get("Ground_Truth_Answer"))
    name = str(row.row.get("Question_UUID") or "")
    return [Solution(prompt=prompt_of(asked), steps=steps, right=right, id=name, tags=tags, truth=truth)]


_MR_TAGS: Mapping[str, str] = {"subject": "Subject", "generator": "Sampled_Model"}
MR_BEN_COLUMNS: Sequence[str] = (f"{_MR}Steps", f"{_MR}Correctness", f"{_MR}First_Error_Step")
MR_BEN_TOLD = ("Ground_Truth_Solution", f"{_MR}Error_Reason", f"{_MR}Rectified_First_Error_Step")
