"""Published critiques of single answers, each with a score: Auto-J's and Prometheus'. The score is the gold.

The judge's whole prompt is taken apart where the set gives nothing else; its rubric and reference answer are left out. What a text
says of its own score at its end is taken off it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from assay.data.cases import Case, case_of
from assay.data.raw.cells import BadRow, list_of, number_of, text_of
from assay.data.raw.columns import RowView, plain
from assay.data.raw.rows import Row
from assay.data.sources.forms import Form, row_form

_AUTOJ = re.compile(
    r"\[BEGIN DATA\]\s*\*\*\*\s*\[Query\]:[ \t]?(?P<query>.*?)\n\*\*\*\n\[Response\]:[ \t]?(?P<response>.*)\n\*\*\*\n\[END DATA\]",
    re.DOTALL,
)
_RATING = re.compile(r"\s*\b(?:Final\s+)?Rating:?\s*\[\[(?P<score>\d+(?:\.\d+)?)\]\]\.?\s*\Z", re.IGNORECASE)
_ABSOLUTE = re.compile(
    r"###The instruction to evaluate:\s*(?P<query>.*?)\s*###Response to evaluate:\s*(?P<response>.*?)\s*"
    r"###(?:Reference Answer|Score Rubrics)",
    re.DOTALL,
)
_RESULT = re.compile(r"\s*\[RESULT\][^\n]*\s*\Z")
_HEAD = re.compile(r"\A\s*Feedback:\s*")


def auto_j_critique(row: Row) -> Case:
    """Auto-J's critiques: one answer out of the judge's prompt, its rating of 1 to 10, and what stands before the rating."""
    found = _AUTOJ.search(_text(row, "usrmsg"))
    if found is None:
        raise BadRow("no [Query] and [Response] in usrmsg")
    said = _text(row, "target_output")
    rating = _RATING.search(said)
    if rating is None:
        raise BadRow("no rating at the end of the critique")
    score = _on_scale(float(rating["score"]), 10)
    counted = number_of(row.get("pred_score"), "pred_score")
    if counted is not None and counted != score:
        raise BadRow("the rating in the critique is not pred_score")
    return _rated(found["query"], found["response"], score, said[: rating.start()])


def feedback_collection(row: Row) -> Case:
    """Prometheus' Feedback Collection: one answer, its score of 1 to 5 by a rubric that is left out, and the feedback."""
    score = number_of(row["orig_score"], "orig_score")
    if score is None:
        raise BadRow("missing score")
    return _rated(_text(row, "orig_instruction"), _text(row, "orig_response"), _on_scale(score, 5), _text(row, "orig_feedback"))


def feedback_absolute(row: Row) -> Case:
    """Prometheus-Eval's absolute grading: the mean of several scores of 1 to 5, and the feedback whose score is nearest to it."""
    found = _ABSOLUTE.search(_text(row, "instruction"))
    if found is None:
        raise BadRow("no ###Response to evaluate in the instruction")
    scores, texts = list_of(row["gpt4_score"]), list_of(row["gpt4_feedback"])
    if not scores or len(scores) != len(texts):
        raise BadRow("gpt4_score and gpt4_feedback differ in number")
    known = [number_of(score, "gpt4_score") for score in scores]
    given = np.array([_on_scale(score, 5) for score in known if score is not None])
    if len(given) != len(scores):
        raise BadRow("missing score")
    nearest = int(np.argmin(np.abs(given - given.mean())))  # the first of several
    return _rated(found["query"], found["response"], float(given.mean()), text_of(texts[nearest], may_be_blank=True))


def _text(row: Row, name: str) -> str:
    """A cell as it is: the conversations inside of a judge's prompt are not taken apart."""
    value: Any = plain(row)[name]
    if isinstance(row, RowView):
        row.mark(name)
    return text_of(value)


def _on_scale(score: float, high: int) -> float:
    if not 1 <= score <= high:
        raise BadRow(f"a score off the scale of 1 to {high}")
    return score


def _rated(prompt: str, answer: str, score: float, critique: str) -> Case:
    said = _RESULT.sub("", _HEAD.sub("", critique)).strip()
    return replace(case_of(prompt.strip(), [answer.strip()], [score]), is_scored=True, critiques=(said,))


_RUBRIC = ("orig_criteria", "orig_reference_answer", *(f"orig_score{n}_description" for n in range(1, 6)))
FORMS: tuple[Form, ...] = (
    row_form("auto-j-critiques", ("usrmsg", "target_output"), auto_j_critique, told=("source_dataset",)),
    row_form(
        "feedback-collection",
        ("orig_instruction", "orig_response", "orig_score", "orig_feedback"),
        feedback_collection,
        told=(*_RUBRIC, "instruction", "input", "output"),
    ),
    row_form("feedback-absolute", ("instruction", "gpt4_score", "gpt4_feedback"), feedback_absolute, told=("response_source",)),
)
GOLD: tuple[Form, ...] = FORMS
"""Those whose answers have scores."""
