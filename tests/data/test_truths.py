"""Rubrics and instructions that come with each row: read from columns, and carried by the ground truth."""

from __future__ import annotations

import json

import pytest

from assay.data.pairs import read_completions, read_pairs
from assay.data.raw.columns import renaming

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


def test_the_column_of_the_ground_truth_can_be_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "2 * 9?", "chosen": "18", "rejected": "17", "gold": "18"}) + "\n")
    (pair,) = read_pairs(file, names=renaming(["ground_truth=gold"], ()))
    assert pair.ground_truth == {"answer": "18"}


def test_a_rubric_in_prose_is_no_criteria(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "I am ill", "response": "Rest.", "rubric": "Be kind."}) + "\n")
    ((_, completion),) = read_completions(file)
    assert completion.ground_truth is None
