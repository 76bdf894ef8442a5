"""Criteria, their values, and how they become one number: computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from assay.rubrics.formulas import Weighted, apply_formula
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import NOT_APPLICABLE, Choice, Criterion, Rubric

YES_NO = Criterion(name="complete", text="Is all of it done?")
SCALE = Criterion(name="polite", text="How polite?", kind="scale", low=1, high=5, anchors={1: "rude", 5: "warm"})
CHOICES = Criterion(
    name="depth", text="How deep?", kind="choices", choices=(Choice("shallow", 0.0), Choice("fair", 0.5), Choice("deep", 1.0))
)


@pytest.mark.parametrize(
    ("criterion", "verdict", "value"),
    [
        (YES_NO, "yes", 1.0),
        (YES_NO, " No ", 0.0),
        (YES_NO, True, 1.0),
        (YES_NO, "false", 0.0),
        (YES_NO, 1, 1.0),
        (SCALE, 4, 0.75),
        (SCALE, "2", 0.25),
        (replace(SCALE, whole_numbers=False), 1.5, 0.125),
        (replace(SCALE, low=0, high=10, anchors={}), "10", 1.0),
        (CHOICES, "Fair", 0.5),
        (replace(YES_NO, negated=True), "yes", 0.0),
        (replace(YES_NO, not_applicable="does not arise"), "does not arise", NOT_APPLICABLE),
        (replace(YES_NO, not_applicable="does not arise"), NOT_APPLICABLE, NOT_APPLICABLE),
        (Criterion(name="short", kind="rule", rule="length"), 0.25, 0.25),
    ],
)
def test_a_verdict_has_a_value(criterion, verdict, value):
    assert criterion.value_of(verdict) == value


@pytest.mark.parametrize(
    ("criterion", "verdict", "said"),
    [
        (YES_NO, "perhaps", "no | yes"),
        (YES_NO, 0.5, "no | yes"),
        (YES_NO, NOT_APPLICABLE, "no | yes"),
        (SCALE, 11, "a number from 1 to 5"),
        (SCALE, 2.5, "a number from 1 to 5"),
        (SCALE, math.nan, "a number from 1 to 5"),
        (SCALE, True, "a number from 1 to 5"),
        (SCALE, "", "a number from 1 to 5"),
        (CHOICES, "1", "shallow | fair | deep"),
        (Criterion(name="short", kind="rule", rule="length"), 12, r"a number in \[0, 1\]"),
    ],
)
def test_what_is_no_verdict_is_refused_and_never_cut_to_the_scale(criterion, verdict, said):
    with pytest.raises(ValueError, match=said):
        criterion.value_of(verdict)


def test_a_judge_may_give_these_from_worst_to_best():
    assert [option.label for option in YES_NO.options] == ["no", "yes"]
    assert SCALE.options[0] == Choice("1", 0.0, "rude")
    assert [option.value for option in SCALE.options] == [0, 0.25, 0.5, 0.75, 1]
    assert CHOICES.options == CHOICES.choices
    assert replace(SCALE, whole_numbers=False).options == ()


PARTS = [Weighted(5, 1.0), Weighted(3, 0.5), Weighted(-4, 1.0)]


@pytest.mark.parametrize(
    ("formula", "parts", "value"),
    [
        ("points", PARTS, 2.5 / 8),  # 5 + 1.5 - 4 of 8 positive points
        ("points", [Weighted(5, 0.0), Weighted(-4, 1.0)], -0.8),  # an item may be below 0
        ("mean", PARTS, 2.5 / 4),
        ("mean", [Weighted(1, 1.0), Weighted(3, 0.5)], 0.625),
        ("clipped", PARTS, 2.5 / 8),
        ("clipped", [Weighted(5, 0.0), Weighted(-4, 1.0)], 0.0),
        ("clipped", [Weighted(-1, 1.0), Weighted(-3, 0.0)], 0.75),  # penalties alone: 1 - 1/4
        ("sum", PARTS, 2.5),
        ("all-pass", [Weighted(1, 1.0), Weighted(1, 0.9)], 0.0),
        ("any-pass", [Weighted(1, 1.0), Weighted(1, 0.9)], 1.0),
        ("required-pass", [Weighted(1, 1.0), Weighted(1, 0.9, True)], 1.0),
        ("threshold", [Weighted(1, 1.0), Weighted(1, 0.0)], 1.0),
        ("threshold", [Weighted(1, 1.0), Weighted(2, 0.0)], 0.0),
    ],
)
def test_formulas(formula, parts, value):
    assert apply_formula(formula, parts) == pytest.approx(value)


def rubric(**changes) -> Rubric:
    return Rubric(**{"criteria": (YES_NO, SCALE, CHOICES), **changes})


def test_values_are_combined():
    assert rubric().combine({"complete": 1.0, "polite": 0.5, "depth": 0.0}) == (0.5, None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"complete": 1.0, "polite": 0.5}, "the criterion 'depth' has no value"),
        ({"complete": 1.0, "polite": math.nan, "depth": 1.0}, "the criterion 'polite' has no value"),
        ({"complete": 1.0, "polite": None, "depth": 1.0}, "the criterion 'polite' has no value"),
        ({"complete": 1.0, "polite": 4.0, "depth": 1.0}, r"the criterion 'polite' has the value 4.0, outside of \[0, 1\]"),
        ({"complete": 1.0, "polite": NOT_APPLICABLE, "depth": 1.0}, "the criterion 'polite' has the value not applicable"),
    ],
)
def test_a_value_that_is_missing_makes_the_whole_nan_with_the_reason(values, reason):
    value, error = rubric().combine(values)
    assert math.isnan(value)
    assert error is not None
    assert reason.replace("\\", "") in error


def test_what_does_not_apply_is_left_out_and_is_not_missing():
    may_lack = tuple(replace(one, not_applicable=NOT_APPLICABLE) for one in (YES_NO, SCALE, CHOICES))
    values = {"complete": 1.0, "polite": NOT_APPLICABLE, "depth": 0.5}
    assert rubric(criteria=may_lack).combine(values) == (0.75, None)
    value, error = rubric(criteria=may_lack).combine(dict.fromkeys(values, NOT_APPLICABLE))
    assert (math.isnan(value), error) == (True, "no criterion of the rubric applies")
    penalty = replace(YES_NO, name="rude", weight=-1)
    value, error = Rubric(criteria=(may_lack[0], penalty)).combine({"complete": NOT_APPLICABLE, "rude": 1.0})
    assert (math.isnan(value), error) == (True, "of the criteria that apply no criterion has positive points to divide by")


def test_below_a_gate_the_reward_is_no_more_than_the_gates_value():
    gated = rubric(criteria=(replace(YES_NO, gate=1.0), SCALE, replace(CHOICES, gate=0.5)))
    assert gated.combine({"complete": 0.0, "polite": 1.0, "depth": 1.0}).value == 0
    assert gated.combine({"complete": 1.0, "polite": 1.0, "depth": 0.25}).value == 0.25
    assert gated.combine({"complete": 1.0, "polite": 1.0, "depth": 0.5}).value == pytest.approx(2.5 / 3)
    with_penalty = rubric(criteria=(replace(YES_NO, gate=1.0), replace(SCALE, weight=-2)))
    assert with_penalty.combine({"complete": 0.0, "polite": 1.0}).value == -2  # a gate never raises a reward


def test_a_criterion_that_needs_another_counts_as_0_until_that_is_met():
    chain = rubric(criteria=(replace(CHOICES, needs="polite"), replace(SCALE, needs="complete"), YES_NO))
    assert chain.combine({"complete": 1.0, "polite": 1.0, "depth": 0.5}).value == pytest.approx(2.5 / 3)
    assert chain.combine({"complete": 0.0, "polite": 1.0, "depth": 1.0}).value == 0
    assert chain.combine({"complete": 0.0}).value == 0  # what cannot count need not be judged
    assert chain.combine({"complete": 1.0, "polite": 0.75, "depth": 1.0}).value == pytest.approx(1.75 / 3)
    lacking = rubric(criteria=(replace(YES_NO, not_applicable=NOT_APPLICABLE), replace(SCALE, needs="complete"), CHOICES))
    assert lacking.combine({"complete": NOT_APPLICABLE, "depth": 0.5}) == (0.5, None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": " "}, "has no name"),
        ({"text": ""}, "there is no text"),
        ({"weight": math.inf}, "must be finite"),
        ({"kind": "stars"}, "none of binary, choices, scale, rule"),
        ({"gate": 2.0}, "at most 1"),
        ({"kind": "choices"}, "at least two"),
        ({"kind": "choices", "choices": (Choice("a", 0), Choice("A ", 1))}, "given twice"),
        ({"kind": "choices", "choices": (Choice("a", 0), Choice("b", 2))}, r"value in \[0, 1\]"),
        ({"kind": "choices", "choices": (Choice("a", 1), Choice("b", 1))}, "none would matter"),
        ({"choices": (Choice("a", 0), Choice("b", 1))}, "choices are for"),
        ({"kind": "scale", "low": 5, "high": 5}, "low must be below high"),
        ({"kind": "scale", "low": 0.5, "high": 5.0}, "whole numbers cannot end"),
        ({"kind": "scale", "low": 1.0, "high": 5.0, "anchors": {9: "?"}}, "the anchor 9 is not on the scale"),
        ({"kind": "rule", "rule": "os:system"}, "no built-in rule"),
        ({"rule": "answer"}, "for the kind 'rule'"),
    ],
)
def test_a_criterion_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Criterion(**{"name": "one", "text": "?", **fields})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"criteria": ()}, "has no criteria"),
        ({"criteria": (YES_NO, YES_NO)}, "two criteria are called 'complete'"),
        ({"criteria": (replace(YES_NO, weight=-1),)}, "no criterion has positive points"),
        ({"criteria": (replace(YES_NO, weight=0),)}, "no criterion has positive points"),
        ({"criteria": (YES_NO, replace(SCALE, weight=-1)), "formula": "mean"}, "the weights sum to 0"),
        ({"criteria": (replace(YES_NO, weight=0),), "formula": "sum"}, "all weights are 0"),
        ({"criteria": (replace(YES_NO, is_optional=True),), "formula": "required-pass"}, "every criterion is optional"),
        ({"formula": "median"}, "formula 'median'"),
        ({"criteria": (replace(YES_NO, needs="kind"),)}, "needs 'kind', and there is none"),
        ({"criteria": (replace(YES_NO, needs="polite"), replace(SCALE, needs="complete"))}, "in a circle"),
        ({"criteria": (replace(YES_NO, needs="complete"),)}, "in a circle"),
        ({"per_row": True}, "each prompt brings its own"),
    ],
)
def test_a_rubric_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        rubric(**changes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "tournament"}, "pointwise, pairwise, listwise"),
        ({"k": 0}, "at least 1"),
        ({"temperature": -1.0}, "not negative"),
        ({"budget": 0.0}, "must be finite and positive"),
        ({"price_in": -1.0}, "must be finite and positive"),
        ({"k": 3, "reading": "text"}, "one sample 3 times"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        JudgeSettings(**settings)


def test_the_digest_is_of_what_is_asked_and_not_of_how():
    first = rubric()
    assert rubric(name="other", judge=JudgeSettings(model="m", k=5)).digest == first.digest
    changed = [
        rubric(criteria=(YES_NO, SCALE)),
        rubric(criteria=(SCALE, YES_NO, CHOICES)),
        rubric(criteria=(replace(YES_NO, weight=0.0), SCALE, CHOICES)),
        rubric(criteria=(replace(YES_NO, text="Is all of it done"), SCALE, CHOICES)),
        rubric(criteria=(YES_NO, replace(SCALE, low=0.0), CHOICES)),
        rubric(criteria=(YES_NO, replace(SCALE, anchors={1: "rude", 5: "very warm"}), CHOICES)),
        rubric(formula="sum"),
        rubric(instructions="Be strict."),
    ]
    assert len({first.digest, *(one.digest for one in changed)}) == len(changed) + 1


def test_a_name_that_the_rubric_does_not_have_is_a_mistake():
    with pytest.raises(ValueError, match="there is no criterion 'tone'"):
        rubric().combine({"tone": 1.0})
    with pytest.raises(KeyError, match="no criterion 'tone'"):
        rubric().criterion("tone")
    assert rubric().criterion("polite") is SCALE
