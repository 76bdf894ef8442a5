"""Cells: from whatever a column holds to a checked pair, or to the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from assay.records import ROLES, Message, Messages, PreferencePair

Outcome: TypeAlias = PreferencePair | str
"""A pair, or the reason why there is none."""

_LARGEST = 1e300

TURN = re.compile(r"\n\n(Human|Assistant):")


class BadRow(ValueError):
    """A row that gives no pair; the message is the reason it is counted under."""


def checked_pair(
    prompt: Any,
    chosen: Any,
    rejected: Any,
    *,
    preference: float = 1.0,
    margin: float | None = None,
    weight: float = 1.0,
    tags: Mapping[str, str] | None = None,
    id: str = "",
) -> Outcome:
    """The pair that the cells make, or the reason why they make none.

    A prompt is text or messages; an answer is text, an assistant message, or a conversation that repeats the prompt.
    """
    try:
        shared = prompt_of(prompt)
        (before_chosen, chosen_text), (before_rejected, rejected_text) = _answer_of(chosen), _answer_of(rejected)
        full_prompt = _joined(shared, before_chosen)
        if full_prompt != _joined(shared, before_rejected):
            raise BadRow("prompts differ")
    except BadRow as reason:
        return str(reason)
    if chosen_text.strip() == rejected_text.strip():
        return "identical pair"
    if margin is not None and margin < 0:
        return "margin is negative"
    if not 0.0 <= preference <= 1.0:
        return "preference is not a probability"
    if weight < 0:
        return "weight is negative"
    return PreferencePair(
        prompt=full_prompt,
        chosen=chosen_text,
        rejected=rejected_text,
        preference=preference,
        margin=margin,
        weight=weight,
        tags=tags or {},
        id=id,
    )


def preferred_of_two(
    prompt: Any, first: Any, second: Any, first_wins: float, *, margin: float | None = None, tags: Mapping[str, str] | None = None
) -> Outcome:
    """The pair in which the likelier answer is the chosen one; `first_wins`: probability that the first is better."""
    if first_wins >= 0.5:
        return checked_pair(prompt, first, second, preference=first_wins, margin=margin, tags=tags)
    return checked_pair(prompt, second, first, preference=1.0 - first_wins, margin=margin, tags=tags)


def prompt_of(value: Any) -> Messages:
    """A prompt cell as messages: a string is one user turn, or a transcript where it is marked as one."""
    if isinstance(value, str):
        text = text_of(value)
        if text.startswith("\n\nHuman:") and text.rstrip().endswith("\n\nAssistant:"):
            return read_transcript(text.rstrip().removesuffix("\n\nAssistant:"))
        return (Message("user", text),)
    turns = turns_of(value)
    if not turns or not turns[-1].content.strip():
        raise BadRow("empty")
    return turns


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
    """A list of {role, content} as messages; one such object is a list of one; a tuple is messages already."""
    if isinstance(value, tuple):
        return value
    if value is None:
        raise BadRow("empty")
    if not isinstance(value, list | Mapping):
        raise BadRow("not text")
    turns = []
    for entry in [value] if isinstance(value, Mapping) else value:
        role, content = field_of(entry, "role"), field_of(entry, "content")
        if role not in ROLES:
            raise BadRow("unknown role")
        turns.append(Message(role, text_of(content, may_be_blank=True)))
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


def _answer_of(value: Any) -> tuple[Messages, str]:
    """The turns that an answer cell has before the answer, and the answer."""
    if value is None or isinstance(value, str):
        return (), text_of(value)
    turns = turns_of(value)
    if not turns:
        raise BadRow("empty")
    if turns[-1].role != "assistant":
        raise BadRow("no answer at the end")
    return turns[:-1], text_of(turns[-1].content)


def _joined(prompt: Messages, before: Messages) -> Messages:
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
