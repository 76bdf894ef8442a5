"""Forms with several answers in a row, which are ranked, scored, or marked as right and wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from assay.data.cases import Case, case_of, of_ranking
from assay.data.cells import BadRow, field_of, list_of, look_up, number_of, text_of
from assay.data.rows import Row
from assay.data.sources.forms import Form, row_form
from assay.messages import Message, Messages


def ranked(row: Row) -> Case:
    """A ranked list, the lowest rank is best: all pairs, equal is a tie."""
    return _by_rank(row["prompt"], list_of(row["responses"]), list_of(row["ranks"]))


def scored(row: Row) -> Case:
    """A scored list: all pairs, with margins."""
    scores = [number_of(score, "score") for score in list_of(row["scores"])]
    return of_ranking(row["prompt"], list_of(row["responses"]), scores, "missing score", has_margins=True)


def nectar(row: Row) -> Case:
    """Nectar: a ranked list of {answer, rank}."""
    answers = list_of(row["answers"])
    return _by_rank(row["prompt"], *([field_of(answer, name) for answer in answers] for name in ("answer", "rank")))


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
    row_form("ranked", ("prompt", "responses", "ranks"), ranked),
    row_form("scored", ("prompt", "responses", "scores"), scored),
    row_form("nectar", ("prompt", "answers"), nectar),
    row_form("oasst", ("message_tree_id", "prompt"), open_assistant),
    row_form("ppe-correctness", ("prompt", "scores", "sampled_conflict_pairs"), ppe_correctness),
    row_form("choices", ("prompt", "candidates", "correct"), choices),
)
