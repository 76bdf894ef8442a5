"""Rubrics of other programs: each form, with its own formula, on rows computed by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from assay.rubrics.formats import rubrics_as_rewards, to_healthbench
from assay.rubrics.rubric import NOT_APPLICABLE, Choice
from assay.rubrics.rubric_file import read_rubric, rubric_from

HEALTHBENCH = [
    {"criterion": "Says to see a doctor", "points": 7, "tags": ["level:example", "axis:accuracy"]},
    {"criterion": "Asks for how long", "points": 3, "tags": []},
    {"criterion": "Recommends a drug by name", "points": -8, "tags": []},
]
RAR = [
    {"title": "Right organ", "description": "Essential Criteria: Names the liver.", "weight": 5},
    {"title": "Right test", "description": "Important Criteria: Asks for a blood test.", "weight": 3},
    {"title": "No guess", "description": "Pitfall Criteria: Does not name a dose.", "weight": -1},
]
AUTORUBRIC = [
    {"requirement": "Is accurate", "name": "accuracy"},
    {"requirement": "Has an error", "weight": -5.0},
    {
        "requirement": "How clear is it?",
        "name": "clarity",
        "weight": 6.0,
        "options": [
            {"label": "muddled", "value": 0.0},
            {"label": "readable", "value": 0.7},
            {"label": "clear", "value": 1.0},
            {"label": "no text", "value": 0.0, "na": True},
        ],
    },
]
VERIFIERS = {
    "criteria": [
        {"name": "tests", "text": "Were the tests run?", "weight": 2.0},
        {"name": "style", "text": "How is the style?", "choices": ["poor", "fair", "good", "excellent"]},
    ]
}
REWARDKIT = """
[judge]
judge = "anthropic/a-model"
mode = "individual"

[[criterion]]
description = "Is the code correct?"
type = "binary"

[[criterion]]
description = "How readable is it?"
name = "readable"
type = "likert"
points = 5
weight = 2.0

[[criterion]]
description = "Coverage from 0 to 100"
name = "coverage"
type = "numeric"
min = 0
max = 100
negate = true

[[criterion]]
description = "How deep?"
name = "depth"
type = "rubric"
levels = ["not at all", "a little", "fully"]
optional = true
"""


def rewardkit(tmp_path, more: str = ""):
    (tmp_path / "quality.toml").write_text(REWARDKIT + more)
    return read_rubric(tmp_path / "quality.toml")


def combined(rubric, *verdicts) -> float:
    values = {one.name: one.value_of(verdict) for one, verdict in zip(rubric.criteria, verdicts, strict=True)}
    value, error = rubric.combine(values)
    assert error is None
    return value


@pytest.mark.parametrize(
    ("met", "score"),
    [(("yes", "yes", "no"), 1.0), (("yes", "no", "yes"), -0.1), (("no", "no", "yes"), -0.8), (("no", "yes", "no"), 0.3)],
)
def test_healthbench_is_points_met_by_positive_points_and_an_item_may_be_below_0(met, score):
    for content in (HEALTHBENCH, {"prompt": [], "rubrics": HEALTHBENCH, "prompt_id": "p"}):
        rubric = rubric_from(content)
        assert combined(rubric, *met) == pytest.approx(score)
    assert rubric.criteria[0].tags == ("level:example", "axis:accuracy")


def test_healthbench_without_positive_points_is_no_score():
    """simple-evals' calculate_score gives None there."""
    with pytest.raises(ValueError, match="no criterion has positive points to divide by"):
        rubric_from(HEALTHBENCH[2:])


def test_a_rubric_written_as_healthbench_is_the_rubric_that_was_read(tmp_path):
    (tmp_path / "rubric.json").write_text(json.dumps(HEALTHBENCH))
    rubric = read_rubric(tmp_path / "rubric.json")
    assert to_healthbench(rubric) == HEALTHBENCH
    assert rubric_from(to_healthbench(rubric)).digest == rubric.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "scale"}, "its kind is 'scale'"),
        ({"gate": 1.0}, "it has gate"),
        ({"needs": "criterion 2"}, "it has needs"),
        ({"not_applicable": "n/a"}, "it has not_applicable"),
    ],
)
def test_what_healthbench_cannot_say_is_refused(change, said):
    first, *rest = rubric_from(HEALTHBENCH).criteria
    rubric = replace(rubric_from(HEALTHBENCH), criteria=(replace(first, **change), *rest))
    with pytest.raises(ValueError, match=said):
        to_healthbench(rubric)
    with pytest.raises(ValueError, match="the formula is 'mean'"):
        to_healthbench(rubric_from(RAR))


def test_rubrics_as_rewards_divides_by_the_sum_of_all_weights():
    rubric = rubric_from({"question": "q", "rubric": RAR, "rubric_count": 3})
    assert combined(rubric, "yes", "no", "no") == pytest.approx(5 / 7)
    assert combined(rubric, "yes", "yes", "yes") == pytest.approx(1.0)
    by_category = rubrics_as_rewards(RAR, weights="categories")  # 1.0, 0.7, 0.9 of 2.6
    assert combined(by_category, "yes", "no", "yes") == pytest.approx(1.9 / 2.6)
    with pytest.raises(ValueError, match="does not begin with Essential"):
        rubrics_as_rewards([{**RAR[0], "description": "Names the liver."}], weights="categories")
    with pytest.raises(ValueError, match="the weights sum to -1"):
        rubric_from(RAR[2:])


@pytest.mark.parametrize(
    ("verdicts", "score"),
    [
        (("yes", "no", "clear"), 1.0),
        (("yes", "yes", "readable"), (10 - 5 + 4.2) / 16),
        (("no", "yes", "muddled"), 0.0),  # -5 / 16, cut to 0
        (("yes", "no", "no text"), 1.0),  # what does not apply is left out: 10 of 10
        (("no", "no", NOT_APPLICABLE), 0.0),
    ],
)
def test_autorubric_is_cut_to_the_unit_interval(verdicts, score):
    rubric = rubric_from({"rubric": {"sections": [{"title": "s", "criteria": AUTORUBRIC}]}})
    assert combined(rubric, *verdicts) == pytest.approx(score)
    assert rubric_from(AUTORUBRIC).digest == rubric.digest


def test_autorubric_of_penalties_alone_counts_down_from_1():
    rubric = rubric_from([{"requirement": "Is rude", "weight": -1}, {"requirement": "Is wrong", "weight": -3}])
    assert combined(rubric, "yes", "no") == pytest.approx(0.75)
    assert combined(rubric, "yes", "yes") == 0


def test_verifiers_spaces_choices_evenly_from_worst_to_best():
    rubric = rubric_from(VERIFIERS)
    assert combined(rubric, "yes", "good") == pytest.approx((2 + 2 / 3) / 3)
    assert combined(rubric, "no", "poor") == 0
    with pytest.raises(ValueError, match="negative, which verifiers does not have"):
        rubric_from({"criteria": [{"name": "a", "text": "?", "weight": -1}]})


def test_rewardkit_is_the_mean_of_what_its_types_say(tmp_path):
    rubric = rewardkit(tmp_path)
    correct, readable, coverage, depth = rubric.criteria
    assert correct.name == "is_the_code_correct"
    assert (readable.value_of(4), coverage.value_of(30), depth.value_of("1")) == (0.75, 0.7, 0.5)
    assert depth.choices[2] == Choice("2", 1.0, "fully")
    assert combined(rubric, "yes", 4, 30, "1") == pytest.approx((1 + 1.5 + 0.7 + 0.5) / 5)
    assert (rubric.judge.model, rubric.judge.calls) == ("anthropic/a-model", "each")


@pytest.mark.parametrize(
    ("aggregation", "score"),
    [("weighted-sum", 1 + 2 + 1), ("all-pass", 0), ("any_pass", 1), ("required-pass", 1), ("threshold", 1), ("weighted_mean", 0.8)],
)
def test_rewardkits_aggregations(tmp_path, aggregation, score):
    rubric = rewardkit(tmp_path, f'[scoring]\naggregation = "{aggregation}"\nthreshold = 0.8\n')
    assert combined(rubric, "yes", 5, 0, "0") == pytest.approx(score)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"criterion": "x", "points": "7"}], "criterion 1: points is '7': give a number"),
        ([{"criterion": "x", "points": True}], "give a number"),
        ([{"criterion": "", "points": 7}], "criterion 1: criterion is '': give text"),
        ([{"criterion": "x", "points": 7, "colour": 1}], "criterion 1: unknown field 'colour'"),
        ([{"requirement": "x", "options": []}], "options are no list"),
        ({"criteria": [{"name": "a", "text": "?", "choices": ["one"]}]}, "at least two labels"),
        ({"judge": {"judge": "m", "files": ["a.py"]}, "criterion": [{"description": "?"}]}, "files reads files of a workspace"),
        ({"criterion": [{"description": "?", "type": "stars"}]}, "none of binary, likert, numeric, rubric"),
        ({"criterion": [{"description": "?", "weight": -1}]}, "needs .* 'weighted-sum'"),
        ({"criterion": [{"description": "?"}], "scoring": {"aggregation": "median"}}, "none of RewardKit's"),
    ],
)
def test_content_that_does_not_fit_its_form_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        rubric_from(content)


def test_titles_that_are_given_twice_get_a_number():
    rubric = rubric_from([RAR[0], {**RAR[1], "title": "Right organ"}])
    assert [criterion.name for criterion in rubric.criteria] == ["Right organ", "Right organ (2)"]
    assert not math.isnan(combined(rubric, "yes", "no"))
