"""Read recorded answers to a prompt, each with its gold: what best-of-n and overoptimisation are measured on.

    recorded = read_candidates("candidates.jsonl")     # or .json, .parquet, hub:org/name, the directory of AlpacaEval
    print(recorded.note)                               # 24 rows -> 768 answers; to 24 prompts

A row that cannot be used is counted with its reason. Candidates that say the same are kept: each was one draw of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from assay.data.cells import BadRow, field_of, list_of, number_of, prompt_of, text_of
from assay.data.gather import joined_rows
from assay.data.pairs import ReadProblems
from assay.data.rows import Row, find_beside, is_hub, read_rows, stem, unit_of
from assay.errors import DataError
from assay.records import Completion, Messages

GOLD_JUDGE = "weighted_alpaca_eval_gpt4_turbo"
"""Whose preferences are the gold of AlpacaEval: version 2, soft labels against one reference."""

MIN_CANDIDATES = 2


class Candidates(NamedTuple):
    """Recorded answers to one prompt. gold: (N,) float64, what each is really worth, in any unit; NaN where it is not known."""

    prompt: Messages
    answers: tuple[str, ...]
    gold: np.ndarray

    def completions(self) -> list[Completion]:
        """The answers as things to score."""
        return [Completion(messages=self.prompt, response=answer) for answer in self.answers]


class Recorded(NamedTuple):
    """The candidates of one file. note: what was read and set aside, in one line."""

    groups: tuple[Candidates, ...]
    source: str
    note: str


class _Answer(NamedTuple):
    prompt: Messages
    text: str
    gold: float


_Read: TypeAlias = Callable[[Row], list[_Answer]]


def read_candidates(path: str | Path) -> Recorded:
    """The candidates of a file or hub data set, or of a directory whose files are joined; answers to one prompt are one group.

    The form is told by the columns of the first row. A prompt with a single candidate is set aside. Raises DataError for a file
    that is missing or damaged, for unknown columns, and when nothing is left.
    """
    file = _file_of(path)
    problems = ReadProblems(unit=unit_of(file), what="answers")
    read: _Read | None = None
    found: dict[Messages, list[tuple[int, _Answer]]] = {}
    for number, row in read_rows(file):
        problems.num_rows += 1
        if isinstance(row, str):
            problems.add(row, number)
            continue
        read = read or _reader_of(file, row)
        try:
            for answer in read(row):
                found.setdefault(answer.prompt, []).append((number, answer))
        except BadRow as reason:
            problems.add(str(reason), number)
    for number, _ in chain.from_iterable(answers for answers in found.values() if len(answers) < MIN_CANDIDATES):
        problems.add("only candidate of its prompt", number)
    groups = tuple(
        Candidates(prompt, tuple(answer.text for _, answer in answers), np.array([answer.gold for _, answer in answers]))
        for prompt, answers in found.items()
        if len(answers) >= MIN_CANDIDATES
    )
    problems.num_pairs = sum(len(group.answers) for group in groups)
    if not groups:
        raise DataError(f"{path} has no prompt with {MIN_CANDIDATES} candidates: {problems.summary()}")
    return Recorded(groups, stem(path), f"{problems.summary()}; to {len(groups):,} prompts")


def _reader_of(file: str | Path, row: Row) -> _Read:
    for columns, reader in _FORMS:
        if row.keys() >= set(columns):
            return reader
    for columns, reader_with_state in _JOINED_FORMS:
        if row.keys() >= set(columns):
            return reader_with_state(Path(file).parent)
    accepted = "".join(f"\n  {', '.join(columns)}" for columns, _ in (*_FORMS, *_JOINED_FORMS))
    raise DataError(f"{file} has the columns {', '.join(row)}: no candidates with gold. Accepted:{accepted}")


def _file_of(path: str | Path) -> str | Path:
    """The path itself, or in a directory the file that the others are joined to."""
    if is_hub(path) or not Path(path).is_dir():
        return path
    file = find_beside(Path(path), "preferences")
    if file is None:
        raise DataError(f"{path} is a directory without preferences: name one of its files")
    return file


def _plain(row: Row) -> list[_Answer]:
    """One row a prompt: candidates (texts), and as many numbers in gold (null: not known)."""
    prompt, texts, golds = prompt_of(row["prompt"]), list_of(row["candidates"]), list_of(row["gold"])
    if len(texts) != len(golds):
        raise BadRow("candidates and gold differ in number")
    return [_Answer(prompt, text_of(text, may_be_blank=True), _gold(gold)) for text, gold in zip(texts, golds, strict=True)]


def _rmb(folder: Path) -> _Read:
    """The best answer is worth 1, the others 0, within a list: of several lists with one prompt the first is kept."""
    seen: set[Messages] = set()

    def read(row: Row) -> list[_Answer]:
        prompt, losers = prompt_of(row["conversation_input"]), list_of(row["loser_list"])
        texts = [field_of(answer, "answer") for answer in (row["bon_best"], *losers)]
        answers = [_Answer(prompt, text_of(text, may_be_blank=True), float(i == 0)) for i, text in enumerate(texts)]
        if prompt in seen:
            raise BadRow("another list of its prompt")
        seen.add(prompt)
        return answers

    return read


def _gsm8k(row: Row) -> list[_Answer]:
    """Every column that holds a solution and whether it is correct."""
    prompt = prompt_of(row["question"])
    solutions = [cell for cell in row.values() if isinstance(cell, dict) and cell.keys() >= {"is_correct", "solution"}]
    return [_Answer(prompt, text_of(cell["solution"], may_be_blank=True), _gold(cell["is_correct"])) for cell in solutions]


def _truthful(row: Row) -> list[_Answer]:
    return [_Answer(prompt_of(row["question"]), text_of(row["answer"], may_be_blank=True), _gold(row["truthful"]))]


def _pointwise(row: Row) -> list[_Answer]:
    return [_Answer(prompt_of(row["prompt"]), text_of(row["response"], may_be_blank=True), _gold(row["gold"]))]


def _alpaca_eval(folder: Path) -> _Read:
    """P(the model's output beats the reference's), joined with prompts and outputs."""
    prompts = {str(row["prompt_id"]): row["instruction"] for row in joined_rows(folder, "prompts", ("prompt_id", "instruction"))}
    outputs = {
        (str(row["model"]), str(row["prompt_id"])): row["output"]
        for row in joined_rows(folder, "outputs", ("model", "prompt_id", "output"))
    }

    def read(row: Row) -> list[_Answer]:
        if row.get("judge", GOLD_JUDGE) != GOLD_JUDGE:
            raise BadRow("another judge")
        prompt, output = prompts.get(str(row["prompt_id"])), outputs.get((str(row["model"]), str(row["prompt_id"])))
        if prompt is None or output is None:
            raise BadRow("text missing in the joined files")
        return [_Answer(prompt_of(prompt), text_of(output, may_be_blank=True), _gold(row["p_model"]))]

    return read


def _gold(value: Any) -> float:
    number = float(value) if isinstance(value, bool) else number_of(value, "gold")
    return math.nan if number is None else number


_FORMS: tuple[tuple[tuple[str, ...], _Read], ...] = (
    (("prompt", "candidates", "gold"), _plain),
    (("prompt", "response", "gold"), _pointwise),
    (("question", "ground_truth"), _gsm8k),
    (("question", "answer", "truthful"), _truthful),
)
_JOINED_FORMS: tuple[tuple[tuple[str, ...], Callable[[Path], _Read]], ...] = (
    (("conversation_input", "bon_best", "loser_list"), _rmb),
    (("prompt_id", "model", "reference", "p_model"), _alpaca_eval),
)
