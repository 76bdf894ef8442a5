"""Learned rubrics: weights that were planted are found, what says nothing is dropped, and luck is not taken for help."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from assay.records import PreferencePair
from assay.rubrics.learned import _is_drawn, learn_rubric
from assay.rubrics.rubric import NOT_APPLICABLE, Criterion, Rubric

TRUE = {"right": 3.0, "kind": 1.5, "rude": -2.0, "long": 0.0}
RUBRIC = Rubric(
    name="support",
    criteria=(
        Criterion(name="right", text="Is it right?", weight=1, gate=1.0),
        Criterion(name="kind", text="Is it kind?", weight=1),
        Criterion(name="rude", text="Is it rude?", weight=-1),
        Criterion(name="long", text="Is it long?", weight=5),
    ),
)


def world(num_pairs: int, seed: int, extra: str = "", extra_weight: float = 0.0):
    """Pairs whose labels are drawn from Bradley-Terry on planted weights, and a judge that knows the values."""
    rng = np.random.default_rng(seed)
    weights = {**TRUE, **({extra: extra_weight} if extra else {})}
    values: dict[tuple[str, str], dict[str, float]] = {}
    pairs = []
    for i in range(num_pairs):
        drawn = {side: {name: float(rng.integers(0, 5)) / 4 for name in weights} for side in ("a", "b")}
        margin = sum(weight * (drawn["a"][name] - drawn["b"][name]) for name, weight in weights.items())
        a_wins = rng.random() < 1 / (1 + math.exp(-margin))
        pairs.append(PreferencePair(prompt=f"q{i // 2}", chosen=f"{'ab'[not a_wins]}{i}", rejected=f"{'ab'[a_wins]}{i}"))
        values |= {(f"q{i // 2}", f"{side}{i}"): drawn[side] for side in "ab"}

    def judge(criteria, completions):
        return [{c.name: values[item.messages[0].content, item.response][c.name] for c in criteria} for item in completions]

    return pairs, judge


def test_planted_weights_are_found_and_what_says_nothing_is_dropped():
    pairs, judge = world(2000, seed=1)
    learned = learn_rubric(RUBRIC, pairs, judge)
    assert learned.dropped == ("long",)
    found = {criterion.name: criterion.weight for criterion in learned.rubric.criteria}
    assert found == {name: pytest.approx(TRUE[name], abs=0.4) for name in ("right", "kind", "rude")}
    assert learned.rubric.formula == "sum"
    assert learned.rubric.criteria[0].gate is None
    assert learned.gains["right"].helps
    assert not learned.gains["long"].helps
    assert learned.change.low > 0, "the old weights were mostly those of a criterion that says nothing"
    differences = [judge(RUBRIC.criteria, pair.completions()) for pair in pairs]
    margins = [sum(weight * (a[name] - b[name]) for name, weight in TRUE.items()) for a, b in differences]
    best = np.mean([1 / (1 + math.exp(-abs(margin))) for margin in margins])  # of whoever knows the planted weights
    assert learned.accuracy.value == pytest.approx(best, abs=0.04)
    assert (learned.n_fit, learned.n_test, learned.n_incomplete) == (1400, 600, 0)
    assert learned.rubric.combine({"right": 1.0, "kind": 0.0, "rude": 0.0}).value == pytest.approx(found["right"])


@pytest.mark.parametrize(("weight", "is_taken"), [(2.0, True), (0.0, False)])
def test_a_proposed_criterion_is_taken_only_if_it_helps_held_out(weight, is_taken):
    pairs, judge = world(1200, seed=2, extra="cited", extra_weight=weight)
    seen = []

    def propose(rubric, some):
        seen.extend(some)
        return [Criterion(name="cited", text="Does it name its sources?")]

    learned = learn_rubric(RUBRIC, pairs, judge, propose=propose)
    assert (learned.accepted == ("cited",)) == is_taken
    assert (learned.refused == ("cited",)) == (not is_taken)
    assert len(seen) == pytest.approx(0.3 * learned.n_fit, rel=0.2)
    asked = {pair.prompt_key for pair, is_test in zip(pairs, _is_drawn(pairs, 0.3, 0), strict=True) if is_test}
    assert len(asked) > 100
    assert not asked & {pair.prompt_key for pair in seen}, "who proposes sees no prompt that is held out"
    assert ("cited" in [criterion.name for criterion in learned.rubric.criteria]) == is_taken


def test_a_criterion_that_fits_what_the_proposer_was_shown_alone_is_refused():
    """It is right on every pair that was shown, and a coin elsewhere: chosen on all pairs it would look like help."""
    pairs, judge = world(400, seed=7)
    rng, right = np.random.default_rng(8), {}

    def propose(rubric, some):
        right.update({side.key: float(i == 0) for pair in some for i, side in enumerate(pair.completions())})
        return [Criterion(name="shown", text="Is it like what was shown?")]

    def also(criteria, completions):
        known = judge([c for c in criteria if c.name != "shown"], completions)
        return [{**row, "shown": right.get(item.key, float(rng.integers(2)))} for row, item in zip(known, completions, strict=True)]

    learned = learn_rubric(RUBRIC, pairs, also, propose=propose)
    assert learned.refused == ("shown",)
    assert len(right) > 100


def test_criteria_that_say_nothing_are_seldom_kept():
    """One-sided 5% for one criterion that is looked at once."""
    alone = Rubric(criteria=(RUBRIC.criteria[0], replace(RUBRIC.criteria[3], weight=1)))
    kept = 0
    for seed in range(20):
        pairs, judge = world(200, seed=100 + seed)
        kept += "long" not in learn_rubric(alone, pairs, judge, seed=seed).dropped
    assert kept <= 4  # P(more than 4 of 20 at 5%) is 0.3%


def test_nothing_is_learned_from_criteria_that_say_nothing():
    pairs, judge = world(400, seed=3)
    with pytest.raises(ValueError, match="nothing is learned: long"):
        learn_rubric(Rubric(criteria=RUBRIC.criteria[3:]), pairs, judge)


def test_missing_verdicts_are_counted_and_what_does_not_apply_says_nothing():
    pairs, judge = world(600, seed=4)

    def patchy(criteria, completions):
        values = judge(criteria, completions)
        values[0] = {**values[0], "kind": math.nan}
        values[3] = {name: value for name, value in values[3].items() if name != "rude"}
        values[5] = {**values[5], "kind": NOT_APPLICABLE}
        return values

    may_lack = tuple(replace(c, not_applicable=NOT_APPLICABLE, gate=None) for c in RUBRIC.criteria)
    learned = learn_rubric(replace(RUBRIC, criteria=may_lack), pairs, patchy)
    assert learned.n_incomplete == 2
    assert learned.n_fit + learned.n_test == 598


def test_the_report_has_a_row_for_each_criterion():
    pairs, judge = world(600, seed=5)
    report = learn_rubric(RUBRIC, pairs, judge).report()
    assert [row[0] for row in report.tables[0].rows] == list(TRUE)
    assert report.metric("accuracy").n == report.metric("change").n == 180
    assert report.title == "weights of support"


@pytest.mark.parametrize(
    ("rubric", "num_pairs", "settings", "said"),
    [
        (Rubric(per_row=True), 100, {}, "has no criteria of its own"),
        (RUBRIC, 30, {}, "of 15, 4 are held out first, which leaves 11; 20 are needed .* give pairs of 65 prompts"),
        (RUBRIC, 100, {"test_share": 1.0}, "must lie between 0 and 1"),
        (RUBRIC, 140, {"propose": lambda *_: [Criterion(name="kind", text="?")]}, "two criteria are called 'kind'"),
    ],
)
def test_mistakes_name_the_value_and_the_fix(rubric, num_pairs, settings, said):
    pairs, judge = world(num_pairs, seed=6)
    with pytest.raises(ValueError, match=said):
        learn_rubric(rubric, pairs, judge, **settings)
