"""A file of labelled steps is told from one of pairs, and its labels are counted."""

from __future__ import annotations

import json

from assay.cli import main
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_check import check_steps, holds_steps
from assay.data.steps.step_rows import write_labelled_steps
from assay.records import Completion


def solution(number: int, right, outcome=None) -> LabelledSteps:
    steps = tuple(f"{i}\n" for i in range(len(right)))
    return LabelledSteps(completion=Completion(messages=f"q{number}", steps=steps), right=right, outcome=outcome, id=str(number))


def test_labels_are_counted_by_what_they_say(tmp_path, capsys):
    path = tmp_path / "steps.jsonl"
    write_labelled_steps(path, [solution(0, (1, 0, None, None), 1), solution(0, (1, 0.75), 0), solution(1, (0.25, None))])
    found = check_steps(str(path))
    assert (found.num_solutions, found.num_prompts, found.right, found.wrong, found.unknown, found.num_soft) == (3, 2, 3, 2, 3, 2)
    assert (found.outcomes, found.lucky, found.first_error) == ((1, 1, 1), 1, 0.5)
    assert main(["data", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "labelled steps, form assay-steps (3)" in said
    assert "3 right, 2 wrong, 3 unknown (2 soft); 40.0% of the known are wrong; first error at 50%" in said


def test_files_of_steps_are_told_from_pairs_by_columns_or_by_the_name_of_a_form(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "q", "completions": ["a b", "c d"], "labels": [True, False]}) + "\n")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "q", "chosen": "a b", "rejected": "c d"}) + "\n")
    assert not holds_steps(str(pairs), None)
    assert holds_steps(str(path), None)
    assert holds_steps(str(path), "trl-stepwise")
    assert holds_steps(str(path), "trl-stepwise?neutral=wrong")
    assert not holds_steps(str(pairs), "?originals=true")
    assert main(["data", "check", str(path), "--form", "trl-stepwise"]) == 0
    assert "1 right, 1 wrong" in capsys.readouterr().out
    steps = tmp_path / "steps.jsonl"
    write_labelled_steps(steps, [solution(0, (1, 0))])
    assert main(["data", "check", str(pairs), str(steps)]) == 2
    assert "holds labelled steps" in capsys.readouterr().err
    assert main(["data", "check", str(steps), "--base", "x"]) == 2


def test_a_file_without_a_usable_solution_has_exit_status_2(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "q", "steps": ["a", " "], "right": [1, 0]}) + "\n")
    assert main(["data", "check", str(path)]) == 2
    assert "1 an empty step (line 1)" in capsys.readouterr().out
