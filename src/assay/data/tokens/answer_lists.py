"""From cases to lists of answers with numbers: ranked lists as lists, and attributes as attributes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from assay.data.cases import Case
from assay.records import Completion

RANK = ("rank",)
"""Name of the one number of an answer in a ranked list: 0 is the best, equal answers have equal ones."""

NO_RANKS = "no two answers of unequal rank"


def ranking_of(case: Case) -> tuple[list[Completion], np.ndarray] | str:
    """The answers of a case from best to worst with their ranks, (answers, 1); or the reason why they are no ranking.

    The order is that of gold; answers without any, and those that cannot be used, are left out.
    """
    if case.prompt[-1].is_blank:
        return "empty"
    usable = [i for i in _usable(case) if not math.isnan(case.gold[i])]
    worths = sorted({case.gold[i] for i in usable}, reverse=True)
    if len(worths) < 2:
        return case.fault or NO_RANKS
    ranks = {worth: float(rank) for rank, worth in enumerate(worths)}
    order = sorted(usable, key=lambda i: ranks[case.gold[i]])
    completions = case.completions()
    return [completions[i] for i in order], np.array([[ranks[case.gold[i]]] for i in order])


def rated_answers(case: Case, names: Sequence[str]) -> tuple[list[Completion], np.ndarray] | str:
    """The answers of a case with their attributes of these names, (answers, attributes), NaN where one is not known; or the reason.

    Answers of which none of the attributes is known are left out.
    """
    if case.prompt[-1].is_blank:
        return "empty"
    known = attributes_of(case)
    values = np.array([known.get(name, [math.nan] * len(case.candidates)) for name in names], dtype=np.float64).T
    usable = [i for i in _usable(case) if not np.isnan(values[i]).all()]
    if not usable:
        return case.fault or f"none of {', '.join(names)}"
    completions = case.completions()
    return [completions[i] for i in usable], values[usable]


def attributes_of(case: Case) -> Mapping[str, Sequence[float]]:
    """What was rated of each candidate; its score too, as "score", where that is none of them."""
    scored = {"score": case.gold} if case.is_scored and tuple(case.gold) not in map(tuple, case.attributes.values()) else {}
    return {**scored, **case.attributes}


def attributes_in(cases: Iterator[tuple[int, Case | str]]) -> Counter[str]:
    """Name of an attribute -> answers for which it is known."""
    counts: Counter[str] = Counter()
    for _, case in cases:
        for name, values in ({} if isinstance(case, str) else attributes_of(case)).items():
            counts[name] += sum(not math.isnan(value) for value in values)
    return counts


def _usable(case: Case) -> list[int]:
    return [i for i, answer in enumerate(case.answers) if i not in case.faults and not answer.is_blank]
