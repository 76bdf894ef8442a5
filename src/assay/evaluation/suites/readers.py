"""From the rows of a suite's tables to its cases: a form of `data/sources`, and the section of the suite that a row belongs to.

A reader takes tables, label -> numbered rows, and gives cases, or the reason where a row has none. What is scored officially is
kept, blank and equal answers included, which no scorer can part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from assay.data.cases import Case, pairs_of
from assay.data.raw.cells import BadRow, UnknownLabel, number_of, text_of
from assay.data.raw.rows import Row, Rows
from assay.data.sources import chosen, joined, judged, labelled
from assay.data.sources.forms import Read, cases_of, own_id
from assay.messages import Messages

Tables: TypeAlias = Mapping[str, Rows]
Reader: TypeAlias = Callable[[Tables], Iterator[Case | str]]
Place: TypeAlias = Callable[[str, Row], tuple[str, str]]
"""place(label of the table, row): the section and the subset of a row."""


def _placed(tables: Tables, read: Read, place: Place) -> Iterator[Case | str]:
    for label, rows in tables.items():
        for number, row in rows:
            try:
                if isinstance(row, str):
                    raise BadRow(row)
                section, subset = place(label, row)
                for case in cases_of(row, read):
                    named = replace(case, section=section, subset=subset, id=own_id(row) or str(number))
                    yield case.fault or named
            except UnknownLabel as reason:
                yield f"unknown label {str(reason.label)[:40]!r}"
            except BadRow as reason:
                yield str(reason)
            except KeyError as column:
                yield f"no column {column}"


def each_row(read: Read, place: Place = lambda label, row: (label, "")) -> Reader:
    """A reader of rows that stand for themselves."""

    def reader(tables: Tables) -> Iterator[Case | str]:
        for case in _placed(tables, read, place):
            few = not isinstance(case, str) and len(case.candidates) < 2
            yield "fewer than two candidates" if few else case

    return reader


def judged_answers(read: Read, place: Place = lambda label, row: (label, ""), *, distinct: bool) -> Reader:
    """A reader of one judged answer a row, gathered into cases by prompt.

    distinct: a repeated answer is there once, and one that is judged both ways is set aside; else each is there as it is (those
    of several models). A prompt without both kinds of answer makes no case.
    """

    def reader(tables: Tables) -> Iterator[Case | str]:
        groups: dict[tuple[object, ...], list[Case]] = {}
        for case in _placed(tables, read, place):
            if isinstance(case, str):
                yield case
            else:
                groups.setdefault((case.section, case.prompt), []).append(case)
        for cases in groups.values():
            answers = [(case.candidates[0], case.gold[0]) for case in cases]
            if distinct:
                once = dict.fromkeys(answers)
                disputed = {text for text, gold in once if (text, 1 - gold) in once}
                yield from ["label disputed"] * len(disputed)
                answers = [(text, gold) for text, gold in once if text not in disputed]
            if len({gold for _, gold in answers}) < 2:
                yield "prompt without both kinds of answer"
            else:
                texts, golds = zip(*answers, strict=True)
                yield Case(prompt=cases[0].prompt, candidates=texts, gold=golds, section=cases[0].section)

    return reader


# What suites read otherwise than `data/sources`.


def reward_bench_2(row: Row) -> Case:
    """The right answers come first; "ref:n" and "tied:n" of the Ties are about one question, and are resampled together."""
    case, num_right = chosen.lists(row), int(number_of(row["num_correct"], "num_correct") or 0)
    if not 0 < num_right < len(case.candidates):
        raise BadRow("num_correct leaves no right or no wrong answer")
    gold = tuple(float(i < num_right) for i in range(len(case.candidates)))
    cluster = f"Ties {own_id(row).partition(':')[2]}" if row["subset"] == "Ties" else ""
    return replace(case, gold=gold, pairs=None, labels=(), cluster=cluster)


def either(column: str, read: Read, otherwise: Read) -> Read:
    """Rows that have the column are read in one way, the others in another."""
    return lambda row: read(row) if column in row else otherwise(row)


def hh(row: Row) -> Case:
    """Whole dialogues: those that make a pair."""
    case = chosen.anthropic(row)
    for outcome in pairs_of(case):
        if isinstance(outcome, str):
            raise BadRow(outcome)
    return case


def pandalm(row: Row) -> Case:
    """Where upstream's file has true or false for a text, the text was that word."""
    return labelled.pandalm({name: str(cell) if isinstance(cell, bool) else cell for name, cell in row.items()})


# Where a row belongs.


def by_subset(label: str, row: Row) -> tuple[str, str]:
    """The row's own subset; of HHH, a table of the hub for each."""
    return (label if "targets" in row else text_of(row["subset"])), ""


def by_domain(label: str, row: Row) -> tuple[str, str]:
    """Both safety parts of RM-Bench are one domain, as in the published means."""
    domain = str(row.get("domain") or label)
    return "safety" if domain.startswith("safety") else domain, domain


_SUBJECTS = {"mmlu-pro": "knowledge", "livebench-reasoning": "reasoning", "livebench-math": "math", "livecodebench": "coding"}


def by_subject(label: str, row: Row) -> tuple[str, str]:
    source = text_of(row["source"])
    return next((name for beginning, name in _SUBJECTS.items() if source.startswith(beginning)), "other"), source


def by_goal(label: str, row: Row) -> tuple[str, str]:
    """Goal and scenario of RMB stand in category_path."""
    _, goal, *scenario = text_of(row["category_path"]).split("/")
    return f"{label}: {goal.lower()}", f"{label}: {goal} / {scenario[0]}" if scenario else f"{label}: {goal}"


def by_safety(label: str, row: Row) -> tuple[str, str]:
    return "unsafe prompts" if judged.is_unsafe(row) else "safe prompts", ""


_JUDGES = {
    "alpaca_eval_gpt4": "GPT-4, hard labels (v1)",
    "weighted_alpaca_eval_gpt4_turbo": "GPT-4 turbo, soft labels (v2)",
    "alpaca_eval_cot_gpt4_turbo_fn": "GPT-4 turbo, explained",
}


def alpaca_eval(tables: Tables) -> Iterator[Case | str]:
    """For each judge and prompt: the reference's answer, and those of all models that were compared with it."""
    read = joined.alpaca_eval(lambda name, columns: [row for _, row in tables[name] if not isinstance(row, str)])
    preferences = {label: rows for label, rows in tables.items() if label not in ("prompts", "outputs")}
    groups: dict[tuple[str, Messages, str], list[Case]] = {}
    for case in _placed(preferences, read, lambda label, row: (_JUDGES.get(str(row["judge"]), str(row["judge"])), "")):
        if isinstance(case, str):
            yield "text missing in prompts or outputs" if case == joined.MISSING else case
        elif not 0 <= case.gold[0] <= 1:
            yield "p_model is not a probability"
        else:
            groups.setdefault((case.section, case.prompt, case.candidates[1]), []).append(case)
    for (section, prompt, reference), cases in groups.items():
        yield Case(
            prompt=prompt,
            candidates=(reference, *(case.candidates[0] for case in cases)),
            gold=(0.5, *(case.gold[0] for case in cases)),
            pairs=tuple((0, i + 1) for i in range(len(cases))),
            section=section,
            subset=f"{section}: {cases[0].tags.get('dataset', 'no data set')}",
        )
