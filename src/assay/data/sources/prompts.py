"""The prompt of a row from all the columns that belong to it: question, input, context, history and system prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from assay.data.cases import Case
from assay.data.raw.cells import BadRow, turns_of
from assay.data.raw.column_names import PROMPT_NAMES, is_prose, is_told
from assay.data.raw.columns import is_blank
from assay.data.raw.embedded import parsed_text, transcript_in
from assay.data.raw.rows import Row
from assay.messages import Message, Messages, role_in

_HEADS = PROMPT_NAMES[: PROMPT_NAMES.index("messages")]
_BODIES = ("text", "body", "selftext", "post", "content", "article")
_ASKED = ("prompt", "question", "query", "input", "user", "human", "instruction", "request")
_ANSWERED = ("response", "answer", "output", "assistant", "completion", "bot", "reply")


def has_prompt(row: Row) -> bool:
    """Whether a column that may be a prompt has something in it."""
    return prompt_column(row) is not None


def prompt_column(row: Row) -> str | None:
    """The first of the usual names of a prompt that the row has something under."""
    return next((name for name in PROMPT_NAMES if name in row and not is_blank(row[name])), None)


def asked(row: Row) -> Any:
    """The prompt as text or messages, as `case_of` takes it; the system's and earlier turns in columns of their own apart.

    An instruction is followed by its input, a question by what stands before it as context; a title by its text.
    Raises BadRow for an empty prompt, and for one of another kind.
    """
    name = prompt_column(row)
    if name is None:
        raise BadRow("empty")
    cell = told(row[name])
    if not isinstance(cell, str):
        return cell
    parts = [cell]
    if name in _HEADS:
        parts += _text_under(row, "input")
        context = _text_under(row, "context")
        parts = parts + context if name == "instruction" else context + parts
        return ("\n" if len(parts) == 2 and not context else "\n\n").join(parts)
    if name == "title" or (name == "post" and "title" in row):
        parts = _text_under(row, "title") + next((text for body in _BODIES if (text := _text_under(row, body))), [])
        return "\n\n".join(parts)
    return cell


def _text_under(row: Row, name: str) -> list[str]:
    """The text of a column as a list of one, none where it says nothing or is no text."""
    if name not in row or is_blank(row[name]):
        return []
    return [row[name]] if isinstance(row[name], str) else []


def told(cell: Any) -> Any:
    """A prompt's cell as text or messages: of an object its messages or its text, of exchanges their turns."""
    if isinstance(cell, Mapping):
        if isinstance(cell.get("messages"), list):
            return turns_of(cell["messages"])
        return cell if role_in(cell) is not None else _told_object(cell)
    if isinstance(cell, list) and cell:
        if all(isinstance(text, str) for text in cell):
            if len(cell) > 1:
                raise BadRow("the prompt is a list of texts")
            return cell[0]
        if (turns := _exchanges(cell)) is not None:
            return turns
    return cell


def _told_object(cell: Mapping[str, Any]) -> Any:
    """The prompt that an object's fields are, as columns would be. Raises BadRow for text in it that would be lost."""
    name = next((name for name in ("full_text", "content", "value") if isinstance(cell.get(name), str)), None)
    prompt = asked(cell) if has_prompt(cell) else cell[name] if name else cell
    if isinstance(prompt, str):
        for field, value in cell.items():
            if isinstance(value, str) and is_prose(value) and value.strip() not in prompt and not is_told(field):
                raise BadRow(f"unknown field {field[:20]!r} of the prompt")
    return prompt


def _exchanges(cell: list[Any]) -> Messages | None:
    """The turns of [question, answer] pairs, or of objects with both; None for another list. The last answer may lack."""
    turns: list[Message] = []
    for entry in cell:
        if isinstance(entry, Mapping) and "role" not in entry and "from" not in entry:
            asked_of = next((entry[name] for name in _ASKED if name in entry), None)
            answered = next((entry[name] for name in _ANSWERED if name in entry), None)
        elif isinstance(entry, list | tuple) and len(entry) == 2:
            asked_of, answered = entry
        else:
            return None
        if not isinstance(asked_of, str) or not isinstance(answered, str | None):
            return None
        turns.append(Message("user", asked_of))
        turns += [Message("assistant", answered)] if answered else []
    return tuple(turns)


def opened(case: Case, *, system: Any, history: Any) -> Case:
    """The case with earlier turns and the system's text before its prompt. Raises BadRow where they cannot be put there."""
    before: Messages = ()
    if not is_blank(history):
        before = _history(history)
    if not is_blank(system):
        said = system if isinstance(system, str) else _system_text(system)
        if case.prompt[:1] and case.prompt[0].role == "system":
            if case.prompt[0].content.strip() != said.strip():
                raise BadRow("two system prompts")
        else:
            before = (Message("system", said), *before)
    if not before or case.prompt[: len(before)] == before or not case.prompt:
        return case
    if case.prompt[0].role == "system" and not is_blank(history):
        return replace(case, prompt=(case.prompt[0], *before, *case.prompt[1:]))
    return replace(case, prompt=(*before, *case.prompt))


def _history(cell: Any) -> Messages:
    """Earlier turns: pairs of question and answer, messages, or JSON text or a transcript of them."""
    if isinstance(cell, str):
        parsed = parsed_text(cell)
        cell = parsed if isinstance(parsed, list) else transcript_in(cell)
    if isinstance(cell, tuple):
        return cell
    if not isinstance(cell, list):
        raise BadRow("history cannot be read")
    turns = _exchanges(cell)
    return turns_of(cell) if turns is None else turns


def _system_text(cell: Any) -> str:
    turns = turns_of(cell)
    if len(turns) != 1:
        raise BadRow("the system prompt is no text")
    return turns[0].content
