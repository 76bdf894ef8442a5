"""Answers that were judged alone as questions to a pointwise model: `--kind generative:pointwise,good=6`. No torch.

A score of at least `good` is a Yes, a lower one a No; a label (good, bad) is what it says. Each answer is asked once, in no pair:
in pairs the same answer would be the better one of some and the worse one of others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from assay.data.cases import Case
from assay.errors import DataError
from assay.messages import Messages
from assay.records import Completion
from assay.scorers.generative.own_forms import OwnForm
from assay.training.generative.questions import LeftOut, PairQuestion, usable

JUDGED_BOTH_WAYS = "an answer that is both good and bad"
REPEATED = "an answer that stands there twice with one critique"


class RatedAnswer(NamedTuple):
    """An answer, whether it is good, and what was said of it; None where nothing was. score: what it was
    given, 1 or 0 where it has a label."""

    prompt: Messages
    prompt_key: str
    completion: Completion
    is_good: bool
    critique: str | None
    score: float


def rated_answer(case: Case, good: float) -> RatedAnswer | None:
    """The answer of a case that was judged alone; None for other cases, and where answer or score is missing."""
    if case.pairs is not None or len(case.candidates) != 1 or case.fault or math.isnan(case.gold[0]):
        return None
    if case.answers[0].is_blank or case.prompt[-1].is_blank:
        return None
    is_good = case.gold[0] >= good if case.is_scored else case.gold[0] > 0.5
    said = case.critiques[0] if case.critiques and case.critiques[0].strip() else None
    return RatedAnswer(case.prompt, case.prompt_key, case.completions()[0], is_good, said, case.gold[0])


def once(answers: Sequence[RatedAnswer], left_out: LeftOut) -> list[RatedAnswer]:
    """Each answer with each of its critiques once; those that are called good here and bad there are left out, and counted."""
    verdicts: dict[str, set[bool]] = {}
    for one in answers:
        verdicts.setdefault(one.completion.key, set()).add(one.is_good)
    kept: dict[tuple[str, str | None], RatedAnswer] = {}
    for one in answers:
        place = one.completion.key, one.critique
        if len(verdicts[one.completion.key]) > 1:
            left_out.add(JUDGED_BOTH_WAYS)
        elif place in kept:
            left_out.add(REPEATED)
        else:
            kept[place] = one
    return list(kept.values())


def check_verdicts(answers: Sequence[RatedAnswer], good: float) -> None:
    """Raises DataError where no answer was judged alone, or all of them alike."""
    if not answers:
        raise DataError(f"good={good:g} is of answers that were judged alone, one a row, and no training row is one: leave it out")
    num_good = sum(one.is_good for one in answers)
    if num_good in (0, len(answers)):
        low, high = min(one.score for one in answers), max(one.score for one in answers)
        raise DataError(
            f"good={good:g} makes {'all' if num_good else 'none'} of the {len(answers):,} answers good (scores of {low:g} to "
            f"{high:g}): a model learns nothing from one verdict; give a score between them"
        )


def questions_of_answers(answers: Sequence[RatedAnswer], own: OwnForm, left_out: LeftOut, *, first: int) -> list[PairQuestion]:
    """A question about each answer. first: the number of the first one, behind those of the pairs."""
    good, bad = own.words
    found = []
    for number, one in enumerate(answers, start=first):
        if (why := own.why_not(one.completion)) is not None:
            left_out.add(why)
            continue
        right, wrong = (good, bad) if one.is_good else (bad, good)
        critique = usable(one.critique, {"yes": good, "no": bad}, right, left_out) if own.critique else None
        answer = (one.completion,)
        found.append(PairQuestion(number, one.prompt_key, answer, own.prompt(*answer), right, wrong, critique, 1.0))
    return found
