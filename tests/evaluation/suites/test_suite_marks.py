"""Figures of parts and of their combinations: values, counts and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.evaluation.suites.marks import Mark, Section, difference, mean_of, section_metrics, subset_table
from assay.stats.mean_intervals import share_interval


def marks_of(part: str, values: list[float], *, subset: str = "") -> list[Mark]:
    """One value a prompt; NaN is unscored."""
    marks = []
    for i, value in enumerate(values):
        scored = not math.isnan(value)
        marks.append(Mark(part, subset, f"{part} {i}", value if scored else 0.0, int(scored), 1))
    return marks


A, B = Section("a", ((1.0, ("a",)),)), Section("b", ((1.0, ("b",)),))


def test_values_and_counts_by_hand():
    marks = [*marks_of("a", [1, 0, math.nan, 1]), *marks_of("b", [1, 1])]
    pooled = Section("pooled", ((1.0, ("a", "b")),))
    a, b, whole, mean = section_metrics("s", marks, [A, B, pooled, mean_of("mean", [A, B])])
    assert (a.name, a.value, a.n_scored, a.n) == ("s: a", pytest.approx(2 / 3), 3, 4)
    assert (b.value, whole.value) == (1.0, 0.8)
    assert (mean.value, mean.n_scored, mean.n) == (pytest.approx(5 / 6), 5, 6)
    assert mean.low < mean.value < mean.high


def test_a_part_of_which_nothing_is_scored_makes_the_figure_nan_and_is_named():
    marks = [*marks_of("a", [1, 0]), *marks_of("b", [math.nan])]
    mean = section_metrics("s", marks, [mean_of("mean", [A, B])])[0]
    assert math.isnan(mean.value)
    assert math.isnan(mean.low)
    assert mean.note == "nothing could be scored in b"
    assert (mean.n_scored, mean.n) == (2, 3)
    assert math.isnan(section_metrics("s", marks, [mean_of("none", [])])[0].value)


def test_a_figure_of_one_part_has_the_interval_of_its_mean():
    rng = np.random.default_rng(0)
    clusters = rng.integers(80, size=400)
    values = (rng.random(400) < 0.3 + 0.4 * (clusters % 2)).astype(float)
    marks = [Mark("a", "", str(c), v, 1, 1) for c, v in zip(clusters, values, strict=True)]
    metric = section_metrics("s", marks, [A])[0]
    assert (metric.low, metric.high) == pytest.approx(tuple(share_interval(values, clusters)))


def test_where_every_prompt_is_right_the_interval_is_wilson_s_and_terms_are_joined():
    """10 of 10: Wilson's lower end is 10 / (10 + 1.96^2) = .7225; the mean of two such: 1 - sqrt(2 (.2775 / 2)^2) = .8038."""
    marks = [*marks_of("a", [1.0] * 10), *marks_of("b", [1.0] * 10)]
    a, mean = section_metrics("s", marks, [A, mean_of("mean", [A, B])])
    assert (a.low, a.high) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert (mean.low, mean.high) == pytest.approx((0.8038, 1.0), abs=1e-4)


def test_prompts_that_two_parts_share_move_them_together():
    """Two parts that are each other's opposite on the same prompts: their mean is 1/2 whatever the prompts are."""
    values = [float(i % 2) for i in range(40)]
    opposite = [1 - value for value in values]
    apart = [*marks_of("a", values), *marks_of("b", opposite)]
    same = [mark._replace(cluster=mark.cluster.partition(" ")[2]) for mark in apart]
    mean = mean_of("mean", [A, B])
    assert section_metrics("s", apart, [mean])[0].high > 0.57
    alone, together = section_metrics("s", same, [A, mean])
    assert alone.high > 0.6
    assert (together.low, together.value, together.high) == pytest.approx((0.5, 0.5, 0.5))


def test_constant_parts_of_the_same_prompts_have_the_interval_of_one():
    marks = [mark._replace(cluster=mark.cluster.partition(" ")[2]) for part in "ab" for mark in marks_of(part, [1.0] * 10)]
    a, mean = section_metrics("s", marks, [A, mean_of("mean", [A, B])])
    assert (mean.low, mean.high) == pytest.approx((a.low, a.high))


def test_a_difference_of_constant_parts_has_the_ends_of_both():
    """10 of 10 less 0 of 10 other prompts: 1 - sqrt(.2775^2 + .2775^2) = .6076."""
    marks = [*marks_of("a", [1.0] * 10), *marks_of("b", [0.0] * 10)]
    gap = section_metrics("s", marks, [difference("gap", A, B)])[0]
    assert (gap.value, gap.n) == (1.0, 10)
    assert (gap.low, gap.high) == pytest.approx((0.6076, 1.0), abs=1e-4)


def test_the_values_of_a_case_are_as_many_as_its_comparisons():
    """Marks of 2 of 3 and 1 of 1 are three ones and a zero; half a credit is one value of a half."""
    marks = [Mark("a", "", "p", 2.0, 3, 3), Mark("a", "", "q", 1.0, 1, 1)]
    marks += [Mark("b", "", "p", 0.5, 1, 1), Mark("b", "", "q", 0.0, 1, 1)]
    a, b = section_metrics("s", marks, [A, B])
    assert (a.low, a.high) == pytest.approx(tuple(share_interval(np.array([1, 1, 0, 1.0]), np.array([0, 0, 0, 1]))))
    assert (b.low, b.high) == pytest.approx(tuple(share_interval(np.array([0.5, 0.0]), np.arange(2))))


def test_the_table_has_a_row_for_each_subset_and_none_for_one_alone():
    marks = [*marks_of("a", [1, 0], subset="y"), *marks_of("b", [1, 1, math.nan], subset="x"), *marks_of("a", [1.0])]
    table = subset_table("s", marks)
    assert table is not None
    assert [row[:4] for row in table.rows] == [("x", 3, 2, 1.0), ("y", 2, 2, 0.5)]
    assert subset_table("s", marks_of("a", [1, 0], subset="y")) is None
