"""Cells: from whatever a column holds to text, messages, a number or a label, or to the reason why it holds none."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from decimal import Decimal
from typing import Any

from assay.data.raw.column_names import is_prose, is_told
from assay.messages import REASONING_FIELDS, Message, MessageError, Messages, as_ground_truth, as_message, as_tools, role_in

_LARGEST = 1e300
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d{1,2}")  # with three digits behind it the comma may part thousands
_MISSING = ("", "n/a", "na", "nan", "none", "null")
_ANSWER_FIELDS = ("content", "text", "value", "response", "answer", "output", "completion", "summary", "generated_text")

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
    """The functions that the row's column `tools` or `functions` describes: a list, or JSON text of one."""
    try:
        return as_tools(row.get("tools") or row.get("functions"))
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
    return tuple(_turn(entry) for entry in ([value] if isinstance(value, Mapping) else value))


def _turn(entry: Any) -> Message:
    if isinstance(entry, str) and entry.lstrip().startswith("{"):  # a message that was written as JSON
        try:
            entry = json.loads(entry)
        except ValueError:
            raise BadRow("not text") from None
    if not isinstance(entry, Mapping):
        raise BadRow("not text")
    try:
        turn = as_message(entry)
    except MessageError as error:
        raise BadRow(error.reason) from None
    text_of(turn.content, may_be_blank=True)
    return turn


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
    """A number cell, which may be written as text; None where it is missing."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _MISSING:
            return None
        text = text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text
        value = float(text) if _NUMBER.fullmatch(text) else value
    if isinstance(value, Decimal):
        value = float(value)
    if value is None or value != value:  # NaN is how data frames write what is missing
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
    value = _said(value)
    if value is None or isinstance(value, str):
        return (), answer_of(value, may_be_blank=True)
    turns = turns_of(value)
    if not turns:
        raise BadRow("empty")
    if turns[-1].role != "assistant":
        raise BadRow("no answer at the end")
    return turns[:-1], turns[-1]


def _said(value: Any) -> Any:
    """The text of an object that names no role, such as {"text": ...}, and of a list of one text; every other value as it is."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | tuple):
        return value[0]
    if isinstance(value, Mapping) and role_in(value) is None:
        name = next((name for name in _ANSWER_FIELDS if isinstance(value.get(name), str)), None)
        refuse_fields(value, {name, *REASONING_FIELDS, "tool_calls"})
        if any(value.get(extra) for extra in (*REASONING_FIELDS, "tool_calls")):
            extras = {extra: value.get(extra) for extra in (*REASONING_FIELDS, "tool_calls")}
            return {"role": "assistant", "content": value[name] if name else None, **extras}
        return value if name is None else value[name]
    return value


def refuse_fields(answer: Mapping[str, Any], known: Container[str | None]) -> None:
    """Raises BadRow for text in an answer's object that is not known to be no part of the answer."""
    for name, value in answer.items():
        if name not in known and isinstance(value, str) and is_prose(value) and not is_told(name):
            raise BadRow(f"unknown field {name[:20]!r} of an answer")


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
