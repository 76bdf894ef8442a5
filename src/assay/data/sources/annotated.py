"""Exports of annotation tools, and messages that are rows of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from assay.data.cases import Case, of_ranking, of_two
from assay.data.raw.cells import BadRow, UnknownLabel, field_of, list_of, number_of, text_of
from assay.data.raw.columns import RowView, Unclear, is_blank, left_over, plain
from assay.data.raw.rows import Row
from assay.data.sources.forms import ID_COLUMNS, TAG_COLUMNS, Form, gathered_form, named_form, row_form
from assay.data.sources.prompts import asked, has_prompt, opened
from assay.data.sources.two_answers import Sides, sides_of, voted
from assay.messages import Message, Messages


def label_studio(row: Row) -> Case:
    """Label Studio, pairwise or ranked: what most annotations that were not cancelled say; evenly split is a tie."""
    annotations = list_of(row["annotations"])
    if not isinstance(row["data"], Mapping) or not has_prompt(row["data"]):
        raise BadRow("no prompt in the task")
    task = RowView(row["data"])
    kept = [annotation for annotation in annotations if not field_of(annotation, "was_cancelled")]
    results = [result for annotation in kept for result in annotation.get("result") or []]
    ranks = [field_of(result.get("value"), "ranker") for result in results if result.get("type") == "ranker"]
    if ranks and ranks[0]:
        return _whole(_label_studio_ranked(task, ranks), task, row)
    sides = sides_of(task)
    if sides is None:
        raise BadRow("no two answers in the task")
    chosen = [result.get("value") for result in results if result.get("type") in ("pairwise", "choices")]
    votes = [voted(value, "selected", sides, task)[0] for value in chosen if not is_blank(value)]
    return _whole(of_two(asked(task), task[sides.first], task[sides.second], _decided(votes)), task, row)


def _whole(case: Case, task: RowView, row: Row) -> Case:
    """The case with what else its task or fields say. Raises Unclear for text of which it is not known what it is."""
    case = opened(case, system=task.get("system"), history=task.get("history"))
    texts = [turn.content for turn in (*case.prompt, *case.answers)]
    found = left_over(task, texts, case.candidates, (*ID_COLUMNS, *TAG_COLUMNS))
    if isinstance(row, RowView):
        row.ignored.update(found)
    return case


def _label_studio_ranked(task: RowView, ranks: list[Any]) -> Case:
    """The items of a task in the mean order of its annotators."""
    lists = [name for name, cell in task.row.items() if isinstance(cell, list) and cell and isinstance(cell[0], Mapping)]
    items = task[lists[0]] if lists else []
    orders = [list(map(str, rank.get("rank") or [] if isinstance(rank, Mapping) else rank)) for rank in ranks]
    worth = []
    for item in items:
        places = [order.index(str(item.get("id"))) for order in orders if str(item.get("id")) in order]
        worth.append(-sum(places) / len(places) if places else None)
    texts = [next((item[name] for name in ("body", "text", "content", "html") if name in item), None) for item in items]
    return of_ranking(asked(task), texts, worth, "missing rank")


def _decided(votes: list[float]) -> float:
    """1, 0 or a tie, as most votes have it."""
    if not votes:
        raise BadRow("missing label")
    lead = sum(votes) - len(votes) / 2
    return 0.5 * (1 + (lead > 0) - (lead < 0))


def argilla(row: Row) -> Case:
    """Argilla's export (to_dict, to_json, the hub): fields, and the annotators' submitted answers, or else the suggestion."""
    nested = row.get("fields")
    fields = RowView(nested) if isinstance(nested, Mapping) else row
    sides = sides_of(fields)
    if sides is None or not has_prompt(plain(fields)):
        raise BadRow("no prompt and two answers in the fields")
    votes = _argilla_votes(row, sides, fields)
    case = of_two(asked(fields), fields[sides.first], fields[sides.second], _decided(votes))
    return _whole(case, fields, row) if isinstance(fields, RowView) and fields is not row else case


def _argilla_votes(row: Row, sides: Sides, fields: Mapping[str, Any]) -> list[float]:
    """What was said in answer to the first question that compares the two; none where nobody did."""
    for values in _argilla_questions(row):
        try:
            if values:
                return [_argilla_vote(value, sides, fields) for value in values]
        except (UnknownLabel, Unclear):  # a rating, or a comment
            continue
    return []


def _argilla_questions(row: Row) -> Iterator[list[Any]]:
    """The submitted values of each question, else what was suggested, in the three forms of exports."""
    responses, suggestions = row.get("responses"), row.get("suggestions")
    if isinstance(responses, Mapping) or isinstance(suggestions, Mapping):
        responses, suggestions = responses or {}, suggestions or {}
        for name in {**responses, **suggestions}:
            given = [entry.get("value") for entry in responses.get(name) or [] if _is_submitted(entry)]
            suggested = suggestions.get(name)
            yield given or ([suggested.get("value")] if isinstance(suggested, Mapping) else [])
        return
    for name, cell in plain(row).items():
        question = name.removesuffix(".responses")
        if question != name:
            statuses = row.get(f"{name}.status") or []
            given = [value for i, value in enumerate(row[name] or []) if i >= len(statuses) or statuses[i] == "submitted"]
            suggested = row.get(f"{question}.suggestion")
            yield given or ([] if suggested is None else [suggested])
        elif _are_responses(cell):
            given, suggested = [entry.get("value") for entry in row[name] if _is_submitted(entry)], row.get(f"{name}-suggestion")
            yield given or ([] if is_blank(suggested) else [suggested])


def _are_responses(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and all(isinstance(e, Mapping) and e.keys() >= {"user_id", "value"} for e in cell)


def _is_submitted(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("status", "submitted") == "submitted" and not is_blank(entry.get("value"))


def _argilla_vote(value: Any, sides: Sides, fields: Mapping[str, Any]) -> float:
    """P(the first is better) of a label, of the text of one answer, or of a ranking."""
    if isinstance(value, Mapping):  # {"rank": [1, 2], "value": [names]}
        value = [
            {"rank": rank, "value": name} for rank, name in zip(value.get("rank") or [], value.get("value") or [], strict=False)
        ]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        ranks = {str(entry.get("value")): number_of(entry.get("rank"), "rank") for entry in value}
        first, second = ranks.get(sides.first), ranks.get(sides.second)
        if first is None or second is None:
            raise BadRow("missing rank")
        return 0.5 * (1 + (first < second) - (first > second))
    return voted(value, "response", sides, fields)[0]


def _is_argilla(row: Row) -> bool:
    if isinstance(row.get("fields"), Mapping) and ("responses" in row or "suggestions" in row):
        return True
    return sides_of(row) is not None and any(name.endswith(".responses") or _are_responses(cell) for name, cell in row.items())


def open_assistant_rows(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, Case | str]]:
    """OpenAssistant, one message a row: all pairs of ranked sibling replies, after the turns that lead to them."""
    numbered = list(rows)
    by_id = {row["message_id"]: row for _, row in numbered}
    replies: dict[Any, list[tuple[int, Row]]] = {}
    for number, row in numbered:
        if row["role"] == "assistant" and not row.get("deleted"):
            replies.setdefault(row["parent_id"], []).append((number, row))
    for parent, answers in replies.items():
        number = answers[0][0]
        if len(answers) < 2:
            continue
        try:
            turns = _turns_to(by_id, parent)
            ranks = [number_of(row.get("rank"), "rank") for _, row in answers]
            worth = [None if rank is None or math.isnan(rank) else -rank for rank in ranks]
            case = of_ranking(turns, [row["text"] for _, row in answers], worth, "missing rank")
            tags = {name: str(answers[0][1][name]) for name in ("lang",) if answers[0][1].get(name)}
            yield number, replace(case, id=str(parent), tags=tags)
        except BadRow as reason:
            yield number, str(reason)


def _turns_to(by_id: Mapping[Any, Row], parent: Any) -> Messages:
    turns: list[Message] = []
    while parent is not None:
        row = by_id.get(parent)
        if row is None:
            raise BadRow("the message before it is missing")
        turns.append(Message("user" if row["role"] == "prompter" else "assistant", text_of(row["text"])))
        parent = row["parent_id"]
        if len(turns) > len(by_id):
            raise BadRow("messages that answer each other in a circle")
    return tuple(reversed(turns))


FORMS: tuple[Form, ...] = (
    row_form("label-studio", ("data", "annotations"), label_studio),
    named_form("argilla", ("fields", "responses"), argilla, _is_argilla),
    gathered_form("oasst-rows", ("message_id", "parent_id", "role", "text"), open_assistant_rows),
)
