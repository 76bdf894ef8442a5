"""Why a file gives no pairs: each reason with its count, its first lines, a row that shows it, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from assay.data.pairs import PairReader
from assay.data.raw.rows import read_rows
from assay.report.text import shorten

NUM_REASONS = 4  # of a file
_ROW_SHOWN, _CELL_SHOWN = 600, 120  # characters
_REMEDIES = (
    ("not JSON", "each line of .jsonl must be one whole JSON object; a file that is one array of rows is named .json"),
    ("not an object", "a row must be an object with named columns"),
    ("column", "rename the columns, or name the form of the rows with --form"),
    ("form", "leave --form out to go by the columns"),
    ("identical", "chosen and rejected say the same, so nothing can be learnt from them"),
    ("prompts differ", "both conversations must begin with the same turns: put the prompt that they share into a column `prompt`"),
    ("no shared prompt", "two plain texts must begin alike: put the prompt into a column `prompt`"),
    ("no answer at the end", "a conversation must end with the assistant's turn"),
    ("no counterpart", "single answers with a label are paired by prompt: each prompt needs a good answer and a bad one"),
    ("label", "see which values of the label the form knows"),
    ("preference", "preference is the probability that chosen is better: a number from 0 to 1"),
    ("negative", "the rejected answer has the higher score: swap the columns if the scores are right"),
    ("role", "the roles of messages are system, user, assistant and tool"),
    ("tool", "write calls and tools as in OpenAI's API"),
    ("empty", "the prompt and both answers must have text"),
    ("not text", "a prompt or an answer is a text, a message, or a list of messages with role and content"),
    ("rank", "every answer of a list needs its rank"),
    ("score", "every answer of a list needs its score"),
)


def why_no_pairs(readers: Iterable[PairReader]) -> str:
    """What was read of each file, and why its rows were set aside, as lines of text. The files are opened again."""
    return "\n".join(line for reader in readers for line in _lines(reader))


def _lines(reader: PairReader) -> list[str]:
    problems = reader.problems
    forms = ", ".join(f"{form} ({count:,} rows)" for form, count in problems.forms.items()) or "none"
    lines = [f"{reader.path}: {problems.num_rows:,} rows -> {problems.num_pairs:,} pairs; form: {forms}"]
    by_count = sorted(problems.reasons.items(), key=lambda item: -item[1][0])
    for reason, (count, numbers) in by_count[:NUM_REASONS]:
        lines.append(f"  {count:,} set aside: {reason} ({problems.places(reason)}){remedy(reason)}")
        lines.append(f"    {problems.unit} {numbers[0]}: {row_at(reader, numbers[0])}")
    if not problems.num_rows:
        lines.append("  the file has no rows")
    return lines


def remedy(reason: str) -> str:
    """What to do about rows that were set aside for a reason, after a colon; "" where the reason says it all."""
    found = next((advice for word, advice in _REMEDIES if word in reason), "")
    return f": {found}" if found and found not in reason else ""


def row_at(reader: PairReader, number: int) -> str:
    """A row of the file on one line, long cells cut short."""
    found = next((row for at, row in read_rows(reader.path, reader.split) if at == number), "the row is gone")
    if isinstance(found, str):
        return _line_at(reader.path, number) or found
    return shorten(json.dumps({name: _short(cell) for name, cell in found.items()}, ensure_ascii=False, default=str), _ROW_SHOWN)


def _line_at(path: str | Path, number: int) -> str:
    """The line itself where a file has lines; "" elsewhere."""
    if not str(path).endswith(".jsonl"):
        return ""
    with Path(path).open("rb") as file:
        line = next(islice(file, number - 1, None), b"")
    return shorten(line[: 4 * _ROW_SHOWN].decode("utf-8", "replace"), _ROW_SHOWN)


def _short(cell: Any) -> Any:
    """The cell with its texts cut short, in lists and objects too."""
    if isinstance(cell, str):
        return shorten(cell, _CELL_SHOWN)
    if isinstance(cell, dict):
        return {name: _short(value) for name, value in cell.items()}
    return [_short(value) for value in cell] if isinstance(cell, list) else cell
