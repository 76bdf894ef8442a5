"""Forms that are not one row at a time: pointwise labels, grouped by prompt, and files that must be joined with others.

Each turns a stream of rows into a stream of rows in the form "explicit", which `forms.py` then reads as any other.
These read a whole file into memory: the sets in such forms are small.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from assay.data.cells import BadRow, field_of, list_of, number_of, prompt_of, text_of
from assay.data.rows import Row, Rows, find_beside, read_rows
from assay.errors import DataError
from assay.records import Messages, prompt_key

TAG_COLUMNS = (
    "axis", "subset", "category", "category_path", "scenario", "dataset", "source", "domain", "language", "type", "judge",
)  # fmt: skip
"""Columns of text that become tags of the pairs: the slices of a report."""

DIRECTORY_FILES = ("preferences", "gpt4_reviews")
"""Which file of a directory holds its pairs; the others are joined to it."""

Gather: TypeAlias = Callable[[Rows, Path, int, int], Rows]


class FileForm(NamedTuple):
    """A form of whole file. gather(rows, folder of the file, max_pairs_per_prompt, seed) -> rows in the form "explicit"."""

    name: str
    columns: tuple[str, ...]
    what: str
    gather: Gather


class _Judged(NamedTuple):
    """One answer with its label; the row it came from stands for its tags."""

    number: int
    answer: str
    is_good: bool
    row: Row


def tags_of(row: Row) -> dict[str, str]:
    """The tag columns that the row has."""
    return {name: row[name] for name in TAG_COLUMNS if isinstance(row.get(name), str) and row[name]}


# Pointwise labels: every good answer of a prompt against every bad one, or a seeded sample of these pairs.


def _pair_up(rows: Rows, label: Callable[[Row], tuple[Any, Any, bool]], max_pairs_per_prompt: int, seed: int) -> Rows:
    groups: dict[Messages, dict[str, list[_Judged]]] = {}
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
            continue
        try:
            prompt_cell, answer, is_good = label(row)
            prompt = prompt_of(prompt_cell)
            judged = _Judged(number, text_of(answer), is_good, row)
        except BadRow as reason:
            yield number, str(reason)
            continue
        groups.setdefault(prompt, {}).setdefault(judged.answer.strip(), []).append(judged)
    for prompt, answers in groups.items():
        yield from _pairs_of_prompt(prompt, answers, max_pairs_per_prompt, seed)


def _pairs_of_prompt(prompt: Messages, answers: dict[str, list[_Judged]], max_pairs: int, seed: int) -> Rows:
    sides: dict[bool, list[_Judged]] = {True: [], False: []}
    for judged in answers.values():
        if len({one.is_good for one in judged}) == 2:
            yield from ((one.number, "label disputed") for one in judged)
            continue
        sides[judged[0].is_good].append(judged[0])
        yield from ((one.number, "repeated answer") for one in judged[1:])
    if not (sides[True] and sides[False]):
        yield from ((one.number, "no counterpart") for one in sides[True] + sides[False])
    pairs = list(product(sides[True], sides[False]))
    if len(pairs) > max_pairs:
        pairs = random.Random(f"{seed}:{prompt_key(prompt)}").sample(pairs, max_pairs)
    for good, bad in pairs:
        row = {"prompt": prompt, "chosen": good.answer, "rejected": bad.answer, "id": f"{good.number}-{bad.number}"}
        yield good.number, row | tags_of(good.row)


def _labelled_by(label: Callable[[Row], tuple[Any, Any, bool]]) -> Gather:
    return lambda rows, folder, max_pairs_per_prompt, seed: _pair_up(rows, label, max_pairs_per_prompt, seed)


def _truthful(row: Row) -> tuple[Any, Any, bool]:
    return row.get("question"), row.get("answer"), _yes_or_no(row.get("truthful"))


def _informative(row: Row) -> tuple[Any, Any, bool]:
    return row.get("question"), row.get("answer"), _yes_or_no(row.get("informative"))


def _unpaired(row: Row) -> tuple[Any, Any, bool]:
    completion = row.get("completion")
    if isinstance(completion, list) and len(completion) == 1:
        completion = field_of(completion[0], "content")
    return row.get("prompt"), completion, _yes_or_no(row.get("label"))


def _xstest(row: Row) -> tuple[Any, Any, bool]:
    """A "contrast" prompt is unsafe, and to refuse is the better answer; to the others, to comply."""
    label = str(row.get("final_label"))
    if label not in ("1_full_compliance", "2_full_refusal"):
        raise BadRow("neither complies nor refuses")
    is_unsafe = str(row.get("type")).startswith("contrast")
    return row.get("prompt"), row.get("completion"), (label == "2_full_refusal") == is_unsafe


def _yes_or_no(label: Any) -> bool:
    if not isinstance(label, bool):
        raise BadRow("unknown label")
    return label


# Joins: the texts lie in other files of the same folder.


def _alpaca_eval(rows: Rows, folder: Path, max_pairs_per_prompt: int, seed: int) -> Rows:
    """Soft labels p_model = P(model's output beats the reference's), joined with prompts and outputs."""
    prompts = {str(row["prompt_id"]): row for row in joined_rows(folder, "prompts", ("prompt_id", "instruction"))}
    outputs = {
        (str(row["model"]), str(row["prompt_id"])): row["output"]
        for row in joined_rows(folder, "outputs", ("model", "prompt_id", "output"))
    }
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
            continue
        prompt = prompts.get(str(row.get("prompt_id")), {})
        texts = [outputs.get((str(row.get(column)), str(row.get("prompt_id")))) for column in ("model", "reference")]
        joined = _ordered(prompt.get("instruction"), texts, row.get("p_model"))
        yield number, joined if isinstance(joined, str) else joined | tags_of(prompt) | tags_of(row)


def _vicuna_reviews(rows: Rows, folder: Path, max_pairs_per_prompt: int, seed: int) -> Rows:
    """Two scores of 1 to 10 for two answers, joined with questions and answers; the margin is in points, equal is a tie."""
    questions = {str(row["question_id"]): row for row in joined_rows(folder, "questions", ("question_id", "text"))}
    answers = {str(row["answer_id"]): row["text"] for row in joined_rows(folder, "answers", ("answer_id", "text"))}
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
            continue
        question = questions.get(str(row.get("question_id")), {})
        texts = [answers.get(str(row.get(column))) for column in ("answer1_id", "answer2_id")]
        try:
            scores = [number_of(score, "score") for score in list_of(row.get("score"))]
        except BadRow as reason:
            yield number, str(reason)
            continue
        match scores:
            case [float(first), float(second)] if min(first, second) >= 0:
                pass
            case _:  # the file has -1 where the review could not be parsed
                yield number, "score is not two numbers"
                continue
        joined = _ordered(question.get("text"), texts, 0.5 * (1 + (first > second) - (first < second)))
        yield number, joined if isinstance(joined, str) else joined | {"margin": abs(first - second)} | tags_of(question)


def _ordered(prompt: Any, texts: list[Any], first_wins: Any) -> dict[str, Any] | str:
    """A row in the form "explicit" in which the likelier answer is the chosen one."""
    if prompt is None or None in texts:
        return "text missing in the joined files"
    try:
        probability = number_of(first_wins, "preference")
    except BadRow as reason:
        return str(reason)
    if probability is None:
        return "preference is not a number"
    first, second = texts
    if probability < 0.5:
        first, second, probability = second, first, 1.0 - probability
    return {"prompt": prompt, "chosen": first, "rejected": second, "preference": probability}


def joined_rows(folder: Path, name: str, columns: tuple[str, ...]) -> list[Row]:
    """The rows of a joined file, all of which must have the columns."""
    path = find_beside(folder, name)
    if path is None:
        raise DataError(f"preferences of this form are joined with {name}.jsonl, which is missing in {folder}")
    rows = []
    for number, row in read_rows(path):
        if isinstance(row, str) or not row.keys() >= set(columns):
            reason = row if isinstance(row, str) else f"it must have the columns {', '.join(columns)}"
            raise DataError(f"{path}, row {number}: {reason}")
        rows.append(row)
    return rows


FILE_FORMS: tuple[FileForm, ...] = (
    FileForm(
        "unpaired", ("prompt", "completion", "label"), "TRL unpaired (KTO): good x bad answers of a prompt", _labelled_by(_unpaired)
    ),
    FileForm("truthful", ("question", "answer", "truthful"), "TruthfulQA: true x false answers", _labelled_by(_truthful)),
    FileForm(
        "informative", ("question", "answer", "informative"), "TruthfulQA: informative x other answers", _labelled_by(_informative)
    ),
    FileForm(
        "xstest",
        ("prompt", "completion", "type", "final_label"),
        "XSTest: compliance x refusal, the better one by the type of prompt",
        _labelled_by(_xstest),
    ),
    FileForm(
        "alpaca-eval",
        ("prompt_id", "model", "reference", "p_model"),
        "AlpacaEval: soft labels, joined with prompts and outputs beside the file",
        _alpaca_eval,
    ),
    FileForm(
        "vicuna-reviews",
        ("question_id", "answer1_id", "answer2_id", "score"),
        "FastChat's GPT-4 reviews: scores, joined with questions and answers beside the file",
        _vicuna_reviews,
    ),
)
