"""Cells: from whatever a column holds to text, messages, a number or a label, or to the reason why it holds none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from assay.messages import ROLES, Message, Messages, as_ground_truth, as_message, as_tools

_LARGEST = 1e300

TURN = re.compile(r"\n\n(Human|Assistant):")


class BadRow(ValueError):
    """A row or a cell that cannot be used; the message is the reason it is counted under."""


class UnknownLabel(BadRow):
    """A label that is none of those of its form."""

    def __init__(self, label: Any, reason: str = "unknown label") -> None:
        super().__init__(reason)
        self.label = label


def look_up(label: Any, meanings: Mapping[str, float], unknown: str = "unknown label") -> float:
    """What a label means. Raises UnknownLabel, with the reason `unknown`."""
    try:
        return meanings[str(label)]
    except KeyError:
        raise UnknownLabel(label, unknown) from None


def prompt_of(value: Any, *, may_end_blank: bool = False) -> Messages:
    """A prompt cell as messages: a string is one user turn, or a transcript where it is marked as one."""
    if isinstance(value, str):
        text = text_of(value)
        if text.startswith("\n\nHuman:") and text.rstrip().endswith("\n\nAssistant:"):
            return read_transcript(text.rstrip().removesuffix("\n\nAssistant:"))
        return (Message("user", text),)
    turns = turns_of(value)
    if not turns or (turns[-1].is_blank and not may_end_blank):
        raise BadRow("empty")
    return turns


def answer_of(value: Any, *, may_be_blank: bool = False) -> Message:
    """An answer cell: text, or the assistant's message, alone or as a list of one."""
    if value is None or isinstance(value, str):
        return Message("assistant", text_of(value, may_be_blank=may_be_blank))
    turns = turns_of(value)
    if len(turns) != 1:
        raise BadRow("not text")
    if turns[0].is_blank and not may_be_blank:
        raise BadRow("empty")
    return turns[0]


def stripped(answer: Message) -> Message:
    """The answer without white space around its text: what two answers are compared by."""
    return answer._replace(content=answer.content.strip())


def tools_of(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The functions that the row's column `tools` describes: a list, or JSON text of one."""
    try:
        return as_tools(row.get("tools"))
    except ValueError:
        raise BadRow("tools cannot be read") from None


def ground_truth_of(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The column `ground_truth`, or verl's `reward_model` with a field of that name: see `as_ground_truth`."""
    verl = row.get("reward_model")
    return as_ground_truth(row.get("ground_truth", verl.get("ground_truth") if isinstance(verl, Mapping) else None))


def read_transcript(text: str) -> Messages:
    r"""The turns of a text marked "\n\nHuman:" and "\n\nAssistant:" (Bai et al. 2022); it must end with a human turn."""
    before, *parts = TURN.split("\n\n" + text.lstrip())
    turns = tuple(
        Message("user" if role == "Human" else "assistant", content.strip())
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    )
    if before.strip() or not turns or turns[-1].role != "user":
        raise BadRow("not a transcript")
    return turns


def turns_of(value: Any) -> Messages:
    """A list of {role, content, ...} as messages; one such object is a list of one; a tuple is messages already."""
    if isinstance(value, tuple):
        return value
    if value is None:
        raise BadRow("empty")
    if not isinstance(value, list | Mapping):
        raise BadRow("not text")
    turns = []
    for entry in [value] if isinstance(value, Mapping) else value:
        if field_of(entry, "role") not in ROLES:
            raise BadRow("unknown role")
        content = field_of(entry, "content")
        try:
            turns.append(as_message(entry if content is None else {**entry, "content": text_of(content, may_be_blank=True)}))
        except BadRow:
            raise
        except ValueError:
            raise BadRow("empty" if content is None else "tool calls or reasoning cannot be read") from None
    return tuple(turns)


def text_of(value: Any, *, may_be_blank: bool = False) -> str:
    """A text cell. Raises BadRow: "empty" for nothing or white space, "not text" for other types and broken Unicode."""
    if value is None:
        raise BadRow("empty")
    if not isinstance(value, str) or not _is_unicode(value):
        raise BadRow("not text")
    if not may_be_blank and not value.strip():
        raise BadRow("empty")
    return value


def number_of(value: Any, name: str) -> float | None:
    """A number cell, None where it is missing."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        raise BadRow(f"{name} is not a number")
    return float(value)


def field_of(value: Any, name: str) -> Any:
    """A field of an object cell, None where it is missing."""
    if not isinstance(value, Mapping):
        raise BadRow("not text")
    return value.get(name)


def list_of(value: Any) -> list[Any]:
    """A list cell."""
    if value is None:
        raise BadRow("empty")
    if not isinstance(value, list):
        raise BadRow("not a list")
    return value


def split_answer(value: Any) -> tuple[Messages, Message]:
    """The turns that an answer cell has before the answer, and the answer, which may be blank."""
    if value is None or isinstance(value, str):
        return (), answer_of(value, may_be_blank=True)
    turns = turns_of(value)
    if not turns:
        raise BadRow("empty")
    if turns[-1].role != "assistant":
        raise BadRow("no answer at the end")
    return turns[:-1], turns[-1]


def joined(prompt: Messages, before: Messages) -> Messages:
    """The whole prompt, when an answer cell repeats it, wholly or (prompt column: one question) as one of its turns."""
    if not before:
        return prompt
    is_one_of_them = len(prompt) == 1 and prompt[0].content.strip() in {
        turn.content.strip() for turn in before if turn.role == "user"
    }
    if before[: len(prompt)] != prompt and not is_one_of_them:
        raise BadRow("prompts differ")
    return before


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no tokenizer takes
        return False
    return True
