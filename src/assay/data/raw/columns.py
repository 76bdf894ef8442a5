"""What the columns of a row are called, which of them were read, and what is said of those that were not.

A `RowView` is what a form reads: it knows columns by all their usual names, takes conversations out of text, and remembers what was
read. Of what is left over, numbers and names are listed; text of which nobody knows what it is stops the reading.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from assay.data.raw.cells import BadRow
from assay.data.raw.column_names import MEANINGS, NAMES, PROMPT_NAMES, is_told
from assay.data.raw.column_names import is_prose as is_prose
from assay.data.raw.embedded import conversation_in
from assay.data.raw.text_rows import Row
from assay.errors import DataError
from assay.messages import media_kind

NO_NAMES: Mapping[str, str] = {}
SPLIT = "no column of the prompt: it is what both texts begin with"
_NUM_SHOWN = 40


class Unclear(ValueError):
    """A row of which something must be told before any row is read; the message says what, and how to tell."""


class RowView(Mapping[str, Any]):
    """A row as a form reads it. The names of `NAMES` stand for the first of theirs that has a value.

    Cells that hold a conversation as text are messages. `unread` are the columns that nobody asked for; notes: what a form has to
    say of how it read the row; ignored: what it did not read of an object in the row -> an example.
    """

    __slots__ = ("_names", "_read", "_taken", "ignored", "notes", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.notes: list[str] = []
        self.ignored: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._read: set[str] = set()
        self._taken: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        column = self.column(name)
        if column is None:
            raise KeyError(name)
        self._read.add(column)
        if column not in self._taken:
            self._taken[column] = _taken_apart(self.row[column])
        return self._taken[column]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.column(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)

    def column(self, name: str) -> str | None:
        """What the column of that meaning is called in this row, None where there is none."""
        if name not in NAMES:
            return name if name in self.row else None
        if name not in self._names:
            self._names[name] = column_of(self.row, name) or ""
        return self._names[name] or None

    def has_read(self, name: str) -> bool:
        return self.column(name) in self._read

    def mark(self, *names: str) -> None:
        """Count columns as read."""
        self._read.update(names)

    @property
    def unread(self) -> list[str]:
        return [name for name in self.row if name not in self._read]


def plain(row: Row) -> Row:
    """The row itself, to look at without counting it as read."""
    return row.row if isinstance(row, RowView) else row


def column_of(row: Row, name: str) -> str | None:
    """The first of the usual names that the row has a value under, else the first that it has."""
    if name in row and not is_blank(row[name]):
        return name  # most of them, and often
    names = _present(tuple(row), name)
    return next((known for known in names if not is_blank(row[known])), names[0] if names else None)


@lru_cache(maxsize=2048)
def _present(columns: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(known for known in NAMES.get(name, (name,)) if known in columns)


def is_blank(value: Any) -> bool:
    """Whether a cell says nothing: null, no text, an empty list."""
    return value is None or value == [] or value == {} or (isinstance(value, str) and not value.strip()) or value != value  # NaN


def _taken_apart(value: Any) -> Any:
    """A cell with the conversations that it holds as text taken apart."""
    if isinstance(value, str):
        return conversation_in(value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [conversation_in(text) if isinstance(text, str) else text for text in value]
    if isinstance(value, Mapping) and value.keys() & _TURN_FIELDS and all(isinstance(part, list) for part in value.values()):
        return [
            dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=False)
        ]  # a list by columns, as datasets has it
    return value


_TURN_FIELDS = {"role", "from", "text", "content", "value", "answer", "response", "completion"}


# What columns are called.


def usual(row: Row) -> Row:
    """The row with known names in their usual spelling: "Chosen Response" and chosenResponse are chosen_response."""
    spelled = _spellings(tuple(row))
    return {spelled.get(name, name): value for name, value in row.items()} if spelled else row


@lru_cache(maxsize=256)
def _spellings(columns: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in columns:
        snake = re.sub(r"[\s\-.]+", "_", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.strip())).lower()
        if snake in _KNOWN_NAMES and snake not in columns and snake not in found.values():
            found[name] = snake
    return found


_KNOWN_NAMES = frozenset((*PROMPT_NAMES, *[name for names in NAMES.values() for name in names], "tools", "id"))


# What a caller says about the columns.


def renaming(columns: Mapping[str, str] | Sequence[str], ignore: Sequence[str]) -> Mapping[str, str]:
    """column -> what it is, "" for one that is left out, from `--columns` and `--ignore`.

    columns: meaning -> column, or "meaning=column" each. Raises DataError for an unknown meaning and for one that is given twice.
    """
    given = columns.items() if isinstance(columns, Mapping) else [tuple(text.partition("=")[::2]) for text in columns]
    found = dict.fromkeys(ignore, "")
    for meaning, column in given:
        if meaning not in MEANINGS or not column:
            raise DataError(
                f"columns {meaning}={column}: give MEANING=COLUMN, as prompt=instruction, with one of {', '.join(MEANINGS)}"
            )
        if column in found or meaning in found.values():
            raise DataError(f"columns {meaning}={column}: {column} or {meaning} is given twice")
        found[column] = meaning
    return found


def renamed(row: Row, names: Mapping[str, str]) -> Row:
    """The row with columns called as `renaming` says; a column that has the meaning's own name gives way."""
    if not names:
        return row
    for column in _NESTED:
        if isinstance(row.get(column), Mapping):
            row = {**row, column: renamed(row[column], names)}
    taken = {meaning for meaning in names.values() if meaning}
    kept = {name: value for name, value in row.items() if name not in names and name not in taken}
    called = kept | {meaning: row[column] for column, meaning in names.items() if meaning and column in row}
    if isinstance(called.get("winner"), str):  # a vote may name a column, which is called otherwise now
        called["winner"] = names.get(called["winner"]) or called["winner"]
    return called


_NESTED = ("data", "fields")  # where tools of annotation keep the columns


_LIKE_AN_ANSWER = re.compile(
    r"chosen|reject|good|bad|better|worse|win|los|prefer|respon|answer|complet|output|repl|summar|accept|choice|generat",
    re.IGNORECASE,
)


def suggestion(row: Row) -> str:
    """How the columns of a row could be told: --columns prompt=... chosen=... rejected=..., with its own columns of text."""
    texts = [name for name, value in row.items() if any(_texts(value)) and not is_told(name)]
    prompt = next((name for name in PROMPT_NAMES if name in texts), "")
    others = [name for name in texts if name != prompt]
    answers = [name for name in others if _LIKE_AN_ANSWER.search(name)]
    if len(answers) < 2:
        answers = others
        prompt = prompt or (answers.pop(0) if len(answers) > 2 else "")
    elif not prompt:
        prompt = next((name for name in others if name not in answers), "")
    chosen, rejected = answers[:2] if len(answers) > 1 else ("COLUMN_OF_THE_BETTER", "COLUMN_OF_THE_WORSE")
    prompts = f"prompt={prompt} " if prompt else ""
    return f"--columns {prompts}chosen={chosen} rejected={rejected} (also {', '.join(MEANINGS[3:])})"


# What is said about columns that nobody read.


def refuse_media(row: Row) -> None:
    """Raises BadRow where a row comes with images, audio or video."""
    for name, value in row.items():
        if (
            not is_blank(value)
            and (kind := media_kind(name)) in ("image", "audio", "video")
            and not isinstance(value, bool | int | float)
        ):
            raise BadRow(f"{kind} in the column {name} (--ignore {name}: the text alone)")


def left_over(view: RowView, texts: Sequence[str], answers: Sequence[str], known: Container[str]) -> dict[str, str]:
    """Column -> an example of it, for the columns that were not read and say something.

    texts: what was read of the row, which a column may repeat. answers: those of them that a list of candidates may have been
    chosen from. known: columns with a use of their own.
    Raises Unclear, which names all such columns, for text of several words that is not known; where the prompt was only guessed,
    for any text.
    """
    is_guessed = SPLIT in view.notes
    found: dict[str, str] = {}
    unclear: dict[str, str] = {}
    told = ""
    for name in view.unread:
        value = view.row[name]
        if is_blank(value) or (name in known and not (is_guessed and _could_ask(value))):
            continue
        parts = list(_texts(value))
        if parts and (not is_told(name) or (is_guessed and _could_ask(value))):
            told = told or _squeezed(" ".join(texts))
            is_repeated = all(_squeezed(part) in told for part in parts)
            if not (is_repeated or _are_candidates(value, answers)):
                unclear[name] = parts[0]
            continue
        found[name] = _shown(value)
    if unclear:
        raise Unclear(_unclear(unclear))
    return found


def _could_ask(value: Any) -> bool:
    return isinstance(value, str) and is_prose(value) and (len(value.split()) > 2 or not value.isascii())


def _are_candidates(value: Any, answers: Sequence[str]) -> bool:
    """Whether a list has all the answers, which were then chosen from it."""
    if not isinstance(value, list) or len(answers) < 2:
        return False
    texts = {_squeezed(text) for text in _texts(value)}
    return all(_squeezed(answer) in texts for answer in answers)


def _unclear(texts: Mapping[str, str]) -> str:
    """texts: column -> what stands in it, for each column whose meaning is not known."""
    shown = [f"the column {name!r} holds text, {text if len(text) <= 60 else text[:60] + '...'!r}" for name, text in texts.items()]
    names = [shlex.quote(name) for name in texts]
    is_not_known, them = ("what it is", "it") if len(texts) == 1 else ("what they are", "them")
    return (
        f"{'; '.join(shown)}, and {is_not_known} to the answers is not known. Leave {them} out with --ignore {' '.join(names)}"
        f", or say what the columns are, as in --columns prompt={names[0]} chosen=... rejected=... (also {', '.join(MEANINGS[3:])})"
    )


def shown_row(row: Row) -> str:
    """A row on one line, each cell cut."""
    return "{" + ", ".join(f"{name}: {_shown(value)}" for name, value in row.items()) + "}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= _NUM_SHOWN else text[:_NUM_SHOWN] + "..."


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts of several words in a cell, however deep."""
    if isinstance(value, str):
        if is_prose(value):
            yield value
    elif depth < 6 and isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part, depth + 1)
    elif depth < 6 and isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part, depth + 1)


def _squeezed(text: str) -> str:
    return " ".join(text.split())
