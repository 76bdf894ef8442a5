"""The value of each criterion: asked of a judge one by one, computed by rules, or looked up in a table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from assay.errors import DataError
from assay.generation.endpoint import Endpoint
from assay.generation.generator import Generator, Limits
from assay.records import Completion
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import NOT_APPLICABLE, Criterion, Rubric
from assay.scorers.judges.criterion_values import values_of_judge, values_of_table
from assay.scorers.judges.pointwise import PointwiseJudge
from fake_chat import Request, fake_chat, said

GOOD = Criterion(name="good", text="Is it good?", weight=-3, not_applicable="does not arise")
POLITE = Criterion(name="polite", kind="scale", text="How polite?", low=1, high=5, gate=0.5, needs="good", weight=2)
SHORT = Criterion(name="short", kind="rule", rule="length", settings={"max_words": 2})
KIND = Criterion(name="kind", text="Is it kind?")
RUBRIC = Rubric(criteria=(GOOD, POLITE, SHORT, KIND), instructions="You grade.")
ANSWERS = [Completion(messages="q", response=text) for text in ("fine", "one two three", "odd")]


def verdicts(request: Request):
    if "Is it kind?" in request.text:
        return said("I cannot tell.") if "odd" in request.text else said("Verdict: yes")
    if "How polite?" in request.text:
        return said("Verdict: 4")
    return said("Verdict: does not arise" if "one two" in request.text else "Verdict: yes")


def test_a_judge_gives_each_criterion_a_value_of_its_own():
    with fake_chat(verdicts) as chat:
        generator = Generator(Endpoint(chat.url, "m"), limits=Limits(attempts=1, readings=1))
        judge = PointwiseJudge(generator, RUBRIC, settings=JudgeSettings(reading="text", calls="each"))
        first, second, third = values_of_judge(judge)(RUBRIC.criteria, ANSWERS)
    assert first == {"good": 1.0, "polite": 0.75, "short": 1.0, "kind": 1.0}
    assert second == {"good": NOT_APPLICABLE, "polite": 0.75, "short": 0.0, "kind": 1.0}
    assert (third["good"], third["short"]) == (1.0, 1.0)
    assert np.isnan(third["kind"]), "no verdict is no value"


def test_a_table_holds_values_or_verdicts(tmp_path):
    rows = [
        {"prompt": "q", "response": "fine", "criteria": {"good": "yes", "polite": 4, "short": 0.25, "kind": True}},
        {"prompt": "q", "response": "odd", "criteria": {"good": "not applicable", "kind": None, "polite": 1}},
    ]
    file = tmp_path / "values.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fine, unknown, odd = values_of_table(file, RUBRIC)(RUBRIC.criteria, ANSWERS)
    assert fine == {"good": 1.0, "polite": 0.75, "short": 0.25, "kind": 1.0}
    assert unknown == {}
    assert (odd["good"], odd["polite"]) == (NOT_APPLICABLE, 0.0)
    assert np.isnan(odd["kind"])
    file.write_text(json.dumps({"prompt": "q", "response": "a", "criteria": {"polite": 6}}) + "\n")
    with pytest.raises(DataError, match="line 1: the verdict of 'polite' is 6, and must be one of: a number from 1 to 5"):
        values_of_table(file, RUBRIC)
