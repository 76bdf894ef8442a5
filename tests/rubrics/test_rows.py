"""Rubrics that come with each row: read from columns, carried by the ground truth, combined by the formula of their form."""

from __future__ import annotations

import json

import pytest

from assay.data.pairs import read_completions, read_pairs
from assay.rubrics.rows import rubric_for
from assay.rubrics.rubric import Rubric
from assay.rubrics.rubric_file import rubric_from

HEALTHBENCH = [{"criterion": "Says to rest", "points": 4, "tags": []}, {"criterion": "Is rude", "points": -2, "tags": []}]
RAR = [{"title": "Rest", "description": "Essential Criteria: Says to rest.", "weight": 5}]


@pytest.mark.parametrize(
    ("columns", "truth"),
    [
        ({"rubrics": HEALTHBENCH}, {"rubric": HEALTHBENCH}),
        ({"rubric": RAR, "ground_truth": "rest"}, {"answer": "rest", "rubric": RAR}),
        ({"rubric": json.dumps(RAR)}, {"rubric": RAR}),
        (
            {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
            {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        ),
    ],
)
def test_columns_beside_the_ground_truth_are_part_of_it(tmp_path, columns, truth):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "I am ill", "response": "Rest.", **columns}) + "\n")
    ((_, completion),) = read_completions(file)
    assert completion.ground_truth == truth
    file.write_text(json.dumps({"prompt": "I am ill", "chosen": "Rest.", "rejected": "Run.", **columns}) + "\n")
    (pair,) = read_pairs(file)
    assert pair.ground_truth == truth


def test_a_rubric_in_prose_is_no_criteria(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "I am ill", "response": "Rest.", "rubric": "Be kind."}) + "\n")
    ((_, completion),) = read_completions(file)
    assert completion.ground_truth is None


def test_each_answer_is_judged_by_the_rubric_of_its_row():
    per_row = rubric_from({"judge": {"per_row": True, "instructions": "Grade."}})
    assert per_row == Rubric(per_row=True, instructions="Grade.")
    first = rubric_for(per_row, {"rubric": HEALTHBENCH})
    assert (first.instructions, first.formula) == ("Grade.", "points")
    assert first.combine({"criterion 1": 1.0, "criterion 2": 1.0}).value == 0.5
    assert rubric_for(per_row, {"rubric": RAR}).formula == "mean"
    assert rubric_for(first, None) is first


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (None, "brings no rubric"),
        ({"answer": "x"}, "brings no rubric"),
        ({"rubric": "Be kind."}, "this is no rubric"),
        ({"rubric": [{"criterion": "x", "points": -1, "tags": []}]}, "no criterion has positive points"),
    ],
)
def test_a_row_without_a_rubric_gives_the_reason(truth, reason):
    with pytest.raises(ValueError, match=reason):
        rubric_for(Rubric(per_row=True), truth)
