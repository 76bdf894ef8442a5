"""Prompts without answers, from any file of rows: what answers are to be written for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.data.cases import Case
from assay.data.raw.cells import BadRow, prompt_of
from assay.data.raw.columns import NO_NAMES
from assay.data.raw.rows import Row, slug, unit_of
from assay.data.sources.forms import named_form
from assay.data.sources.prompts import asked, has_prompt
from assay.data.sources.reading import ReadProblems, read_cases
from assay.messages import Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt to be answered: the messages up to the one that asks, its id, its tags, and what is known to be right."""

    messages: Messages
    id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    ground_truth: Mapping[str, Any] | None = None


def read_prompts(
    path: str | Path, *, limit: int | None = None, names: Mapping[str, str] = NO_NAMES
) -> tuple[list[Prompt], ReadProblems]:
    """The prompts of a file, each once, and what was set aside. A conversation has to end with the user's turn.

    limit: the first so many. names: what columns are, as `columns.renaming` gives it. Raises DataError as `read_cases`.
    """
    problems = ReadProblems(unit=unit_of(path), what="prompts")
    found: dict[Messages, Prompt] = {}
    rows = read_cases(
        path, [_FORM], problems, source=slug(str(path)), what="no prompt (prompt, instruction, question, messages ...)", names=names
    )
    for number, case in rows:
        if isinstance(case, str):
            problems.add(case, number)
        elif case.prompt in found:
            problems.add("repeated prompt", number)
        else:
            found[case.prompt] = Prompt(messages=case.prompt, id=case.id, tags=case.tags, ground_truth=case.ground_truth)
            problems.num_pairs += 1
        if limit is not None and len(found) >= limit:
            break
    return list(found.values()), problems


def _prompt(row: Row) -> Case:
    """A prompt, whose answers are to be written."""
    messages = prompt_of(asked(row))
    if messages[-1].role == "assistant":
        raise BadRow("the conversation ends with an answer")
    if all(turn.role == "system" for turn in messages):
        raise BadRow("nothing is asked")
    return Case(prompt=messages, candidates=(), gold=())


_ANSWERS = ("chosen", "rejected", "completion", "response", "responses", "answer", "answers", "output", "outputs", "completions")
_FORM = named_form("prompts", ("prompt",), _prompt, has_prompt)._replace(told=_ANSWERS)
"""Answers that stand beside the prompt are not read."""
