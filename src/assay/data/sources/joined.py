"""Forms of which the texts lie in other files of the same folder."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from assay.data.cases import Case, of_two
from assay.data.critiques import FIRST_NAMES, SECOND_NAMES, by_label
from assay.data.raw.cells import BadRow, list_of, number_of
from assay.data.raw.rows import Row
from assay.data.sources.forms import Beside, Form, Read, file_form, tags_of

DIRECTORY_FILES = ("preferences", "gpt4_reviews")
"""Which file of a directory holds its pairs; the others are joined to it."""

MISSING = "text missing in the joined files"


def alpaca_eval(beside: Beside) -> Read:
    """AlpacaEval: soft labels, joined with prompts and outputs beside the file.

    p_model = P(the model's output beats the reference's).
    """
    prompts = {str(row["prompt_id"]): row for row in beside("prompts", ("prompt_id", "instruction"))}
    outputs = {
        (str(row["model"]), str(row["prompt_id"])): row["output"] for row in beside("outputs", ("model", "prompt_id", "output"))
    }

    def read(row: Row) -> Case:
        prompt, share = prompts.get(str(row["prompt_id"]), {}), number_of(row["p_model"], "preference")
        if share is None:
            raise BadRow("preference is not a number")
        first, second = (outputs.get((str(row[column]), str(row["prompt_id"]))) for column in ("model", "reference"))
        case = replace(_found(prompt.get("instruction"), first, second, share), tags=tags_of(prompt))
        best = next((str(one["model"]) for one in row.get("ordered_models") or [] if str(one.get("rank")) == "1"), "")
        return _explained(case, row.get("explanation"), (best,)) if best and share != 0.5 else case

    return read


def vicuna_reviews(beside: Beside) -> Read:
    """FastChat's GPT-4 reviews: scores, joined with questions and answers beside the file.

    Two scores of 1 to 10; the margin is in points, equal is a tie.
    """
    questions = {str(row["question_id"]): row for row in beside("questions", ("question_id", "text"))}
    answers = {str(row["answer_id"]): row["text"] for row in beside("answers", ("answer_id", "text"))}

    def read(row: Row) -> Case:
        question = questions.get(str(row["question_id"]), {})
        first, second = (answers.get(str(row[column])) for column in ("answer1_id", "answer2_id"))
        match [number_of(score, "score") for score in list_of(row["score"])]:
            case [float(points), float(others)] if min(points, others) >= 0:
                first_wins, margin = 0.5 * (1 + (points > others) - (points < others)), abs(points - others)
            case _:  # the file has -1 where the review could not be parsed
                raise BadRow("score is not two numbers")
        case = replace(_found(question.get("text"), first, second, first_wins, margin), tags=tags_of(question))
        better = FIRST_NAMES if first_wins > 0.5 else SECOND_NAMES
        return _explained(case, _behind_scores(row.get("text")), better) if first_wins != 0.5 else case

    return read


def _behind_scores(review: Any) -> str | None:
    """A review without its first line, where that is the two scores: they would tell the verdict before the reasons for it."""
    if not isinstance(review, str):
        return None
    first, _, rest = review.strip().partition("\n")
    return rest.strip() if re.fullmatch(r"[\d.]+[ ,/]+[\d.]+", first.strip()) else review


def _explained(case: Case, text: Any, better: Collection[str]) -> Case:
    """The case with its explanation as a critique. better: what the better answer is called in it."""
    if not isinstance(text, str) or not text.strip():
        return case
    return replace(case, ground_truth={**(case.ground_truth or {}), "critique": by_label(text, better)})


def _found(prompt: Any, first: Any, second: Any, first_wins: float, margin: float | None = None) -> Case:
    if prompt is None or first is None or second is None:
        raise BadRow(MISSING)
    return of_two(prompt, first, second, first_wins, margin=margin)


FORMS: tuple[Form, ...] = (
    file_form("alpaca-eval", ("prompt_id", "model", "reference", "p_model"), alpaca_eval),
    file_form("vicuna-reviews", ("question_id", "answer1_id", "answer2_id", "score"), vicuna_reviews, told=("text",)),
)
