"""The shipped rubrics: all can be read, and what they reward and punish has the sign that it should have."""

from __future__ import annotations

import pytest

from assay.rubrics.rubric import NOT_APPLICABLE
from assay.rubrics.shipped import find_rubric, rubric_file_of, shipped_names

NAMES = ("concision", "correctness", "helpfulness", "instruction-following", "last-step", "safety")


def test_six_are_shipped():
    assert shipped_names() == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_verdicts_give_1_and_the_worst_no_more_than_0(name):
    rubric = find_rubric(name)
    assert rubric.instructions.strip()
    best = {c.name: float(c.weight > 0) for c in rubric.criteria}
    worst = {c.name: float(c.weight < 0) for c in rubric.criteria}
    assert rubric.combine(best) == (1.0, None)
    assert rubric.combine(worst).value <= 0
    may_lack = {c.name: NOT_APPLICABLE if c.not_applicable else best[c.name] for c in rubric.criteria}
    assert rubric.combine(may_lack) == (1.0, None)


def test_only_correctness_is_shown_the_ground_truth():
    assert [name for name in NAMES if find_rubric(name).reads_ground_truth] == ["correctness"]


def test_another_name_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ValueError, match="or one that is shipped: concision, correctness"):
        find_rubric("kindness")
    assert rubric_file_of(tmp_path / "own.toml") == tmp_path / "own.toml"
