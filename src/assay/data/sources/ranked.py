"""Forms with several answers in a row, which are ranked, scored, or marked as right and wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from assay.data.cases import Case, case_of, of_ranking
from assay.data.raw.cells import BadRow, field_of, list_of, look_up, number_of, refuse_fields, text_of
from assay.data.raw.columns import column_of
from assay.data.raw.embedded import parsed_text
from assay.data.raw.rows import Row
from assay.data.sources.forms import Form, named_form, row_form
from assay.data.sources.prompts import asked, has_prompt
from assay.messages import Message, Messages

_TEXTS = ("completion", "response", "answer", "text", "content", "output", "generation", "summary", "message", "value", "reply")
_RANKS = ("rank", "ranking", "position", "place")
_SCORES = ("score", "rating", "reward", "overall_score", "points", "votes", "quality", "pm_score", "value")


def ranked(row: Row) -> Case:
    """A ranked list, the lowest rank is best: all pairs, equal is a tie."""
    return _by_rank(asked(row), listed(row["responses"]), listed(row["ranks"]))


def has_ranks(row: Row) -> bool:
    return has_prompt(row) and _has_lists(row, "responses", "ranks")


def scored(row: Row) -> Case:
    """A scored list: all pairs, with margins."""
    scores = [number_of(score, "score") for score in listed(row["scores"])]
    return of_ranking(asked(row), listed(row["responses"]), scores, "missing score", has_margins=True)


def has_scores(row: Row) -> bool:
    return has_prompt(row) and _has_lists(row, "responses", "scores")


def _has_lists(row: Row, *names: str) -> bool:
    columns = [column_of(row, name) for name in names]
    return all(column is not None and (row[column] is None or _is_list(row[column])) for column in columns)


def _is_list(cell: Any) -> bool:
    return isinstance(cell, list) or (isinstance(cell, str) and cell.lstrip().startswith("["))


def listed(cell: Any) -> list[Any]:
    """A list cell, which may be written as JSON or Python text."""
    return list_of(parsed_text(cell) if isinstance(cell, str) and cell.lstrip().startswith("[") else cell)


def objects(row: Row) -> Case:
    """A list of objects, each an answer and its rank (NeMo RL) or its score: all pairs, scores have margins."""
    entries = listed(row["responses"])
    text = next(name for name in _TEXTS if name in entries[0])
    answers = [field_of(entry, text) for entry in entries]
    for entry in entries:
        refuse_fields(entry, (text, *_RANKS, *_SCORES))
    if (rank := next((name for name in _RANKS if name in entries[0]), None)) is not None:
        return _by_rank(asked(row), answers, [field_of(entry, rank) for entry in entries])
    score = next(name for name in _SCORES if name in entries[0] and name != text)
    scores = [number_of(field_of(entry, score), "score") for entry in entries]
    return of_ranking(asked(row), answers, scores, "missing score", has_margins=True)


def has_objects(row: Row) -> bool:
    column = column_of(row, "responses")
    cell = row[column] if column else None
    if not has_prompt(row) or not isinstance(cell, list) or not cell or not isinstance(cell[0], Mapping):
        return False
    texts = [name for name in _TEXTS if name in cell[0]]
    return bool(texts) and any(name in cell[0] and name != texts[0] for name in (*_RANKS, *_SCORES))


def nectar(row: Row) -> Case:
    """Nectar: a ranked list of {answer, rank}."""
    answers = list_of(row["answers"])
    return _by_rank(row["prompt"], *([field_of(answer, name) for answer in answers] for name in ("answer", "rank")))


def _has_ranks_within(row: Row) -> bool:
    answers = row["answers"]
    return isinstance(answers, list) and all(isinstance(entry, Mapping) and "rank" in entry for entry in answers[:1])


def open_assistant(row: Row) -> list[Case]:
    """OpenAssistant trees: all pairs of ranked sibling replies.

    They follow the turns that lead to them; rank 0 is the best.
    """
    cases: list[Case] = []
    waiting: list[tuple[Messages, Any]] = [((), row["prompt"])]
    while waiting:
        before, node = waiting.pop()
        role = "user" if field_of(node, "role") == "prompter" else "assistant"
        turns = (*before, Message(role, text_of(field_of(node, "text"))))
        replies = list_of(field_of(node, "replies") or [])
        answers = [reply for reply in replies if field_of(reply, "role") == "assistant"]
        if len(answers) > 1:
            case = _by_rank(turns, *([field_of(answer, name) for answer in answers] for name in ("text", "rank")))
            cases.append(replace(case, id=str(field_of(node, "message_id"))))
        waiting.extend((turns, reply) for reply in reversed(replies))
    return cases


def _by_rank(prompt: Any, answers: list[Any], ranks: list[Any]) -> Case:
    """The lowest rank is the best."""
    numbers = [number_of(rank, "rank") for rank in ranks]
    return of_ranking(prompt, answers, [None if rank is None else -rank for rank in numbers], "missing rank")


def ppe_correctness(row: Row) -> Case:
    """PPE: response_1 ... response_k, right or not, and the pairs that were drawn."""
    right_or_not = {"True": 1.0, "1": 1.0, "1.0": 1.0, "False": 0.0, "0": 0.0, "0.0": 0.0}
    scores = [look_up(score, right_or_not) for score in list_of(row["scores"])]
    drawn: list[Any] = [tuple(list_of(pair)) for pair in list_of(row["sampled_conflict_pairs"])]
    if any(len(pair) != 2 or not set(pair) <= set(range(len(scores))) for pair in drawn):
        raise BadRow("sampled_conflict_pairs are not two numbers of answers")
    return case_of(row["prompt"], [row[f"response_{i + 1}"] for i in range(len(scores))], scores, pairs=drawn)


def choices(row: Row) -> Case:
    """Right x wrong candidates: a flag for each, or the number of the right one from 0."""
    candidates, correct = list_of(row["candidates"]), row["correct"]
    if isinstance(correct, int) and not isinstance(correct, bool):
        if not 0 <= correct < len(candidates):
            raise BadRow("correct is no number of a candidate")
        gold = [float(i == correct) for i in range(len(candidates))]
    else:
        gold = [float(flag) for flag in list_of(correct) if flag in (0, 1)]
    if not 0 < sum(gold) < len(gold):
        raise BadRow("no right candidate, or no wrong one")
    return case_of(row["prompt"], candidates, gold)


FORMS: tuple[Form, ...] = (
    row_form("nectar", ("prompt", "answers"), nectar, _has_ranks_within),
    row_form("oasst", ("message_tree_id", "prompt"), open_assistant),
    row_form("ppe-correctness", ("prompt", "scores", "sampled_conflict_pairs"), ppe_correctness),
    row_form("choices", ("prompt", "candidates", "correct"), choices),
)
GENERAL: tuple[Form, ...] = (
    named_form("ranked", ("prompt", "responses", "ranks"), ranked, has_ranks),
    named_form("scored", ("prompt", "responses", "scores"), scored, has_scores),
    named_form("objects", ("prompt", "responses"), objects, has_objects),
)
GOLD: tuple[Form, ...] = (named_form("scored", ("prompt", "responses", "scores"), scored, has_scores),)
"""Those whose answers have scores."""
