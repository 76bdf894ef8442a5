"""A rubric written as a file is the rubric that is read back."""

from __future__ import annotations

import pytest

from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Choice, Criterion, Rubric
from assay.rubrics.rubric_file import read_rubric
from assay.rubrics.rubric_text import rubric_to_toml
from assay.rubrics.shipped import find_rubric, shipped_names

FULL = Rubric(
    name='a "quoted" name',
    instructions='Grade.\n\nBe "strict": \\ é 😀 \x7f\t.',
    formula="threshold",
    threshold=0.25,
    reads_ground_truth=True,
    judge=JudgeSettings(
        backend="endpoint", url="http://127.0.0.1:1/v1", model="m", k=3, temperature=0.7, budget=1.5, reading="text"
    ),
    criteria=(
        Criterion(name="one", text="Is it?", weight=0.1, gate=0.5, tags=("a", "b"), negated=True, is_optional=True),
        Criterion(
            name="two", text="How?", kind="choices", choices=(Choice("no", 0.0, "not"), Choice("so so", 0.3), Choice("yes", 1.0))
        ),
        Criterion(
            name="three",
            text="How much?",
            kind="scale",
            low=0,
            high=1,
            whole_numbers=False,
            anchors={0: "no", 0.5: "half", 1: "a lot"},
        ),
        Criterion(name="four", kind="rule", rule="format", settings={"tags": ["think", "answer"], "whole": True, "odd key": 2}),
        Criterion(name="five", text="?", needs="one", not_applicable="does not arise", weight=-2),
    ),
)


@pytest.mark.parametrize("rubric", [FULL, Rubric(per_row=True), *map(find_rubric, shipped_names())], ids=lambda one: one.name)
def test_a_rubric_survives_its_file(tmp_path, rubric):
    file = tmp_path / f"{rubric.name.replace(chr(34), '') or 'rubric'}.toml"
    file.write_text(rubric_to_toml(rubric), encoding="utf-8")
    back = read_rubric(file)
    assert back.criteria == rubric.criteria
    assert back.digest == rubric.digest
    assert back.judge == rubric.judge
    assert back.name == (rubric.name or file.stem)


def test_a_scale_without_anchors_gets_its_ends(tmp_path):
    plain = Rubric(criteria=(Criterion(name="one", text="?", kind="scale"),))
    (tmp_path / "r.toml").write_text(rubric_to_toml(plain))
    assert read_rubric(tmp_path / "r.toml").criteria[0].anchors == {1.0: "the worst", 5.0: "the best"}
