"""The report of an evaluation: figures by hand, verdicts that fire when they should and only then, and nothing that raises."""

import json
import math

import numpy as np
import pytest

from assay.evaluation.evaluate import (
    ACCURACY,
    BRIER,
    ECE,
    EXPECTED_ECE,
    LABEL_TIES,
    MEAN_MARGIN,
    SCORE_TIES,
    evaluate,
    evaluate_margins,
    gap_finding,
)
from assay.evaluation.rivals import BAG_OF_WORDS, LENGTH, baseline_accuracy
from assay.evaluation.slices import EQUAL_LENGTH, LENGTH_CONTROLLED
from assay.records import Metric, PreferencePair, Rewards
from assay.scorers.base import margins
from assay.scorers.baselines import BagOfWordsScorer, LengthScorer
from assay.scorers.wrappers.calibrated import Calibrated, fit_calibration
from assay.stats.metrics import sigmoid, wilson_interval
from assay.wire import report_from_json, report_to_json


def some_pairs(num_pairs, seed=0, **changes):
    """Pairs whose texts say nothing about the label: random words, random lengths."""
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(50)]

    def answer():
        return " ".join(rng.choice(words, int(rng.integers(3, 30))))

    return [
        PreferencePair(prompt=f"question {i}", chosen=answer(), rejected=answer(), id=str(i), **changes) for i in range(num_pairs)
    ]


def calibrated_margins(num_pairs, scale=2.0, seed=0):
    """Margins with P(chosen beats rejected) = sigmoid(margin) true."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(scale=scale, size=num_pairs)
    return np.where(rng.random(num_pairs) < sigmoid(margin), margin, -margin)


def finding(report, name):
    (found,) = [f for f in report.findings if f.name == name]
    return found


def table(report, title):
    (found,) = [t for t in report.tables if t.title == title]
    return found


def test_figures_by_hand():
    pairs = [
        PreferencePair(prompt="a", chosen="long answer", rejected="short"),
        PreferencePair(prompt="a", chosen="no", rejected="longer"),
        PreferencePair(prompt="b", chosen="x", rejected="y"),
        PreferencePair(prompt="c", chosen="x", rejected="yy", preference=0.5),
        PreferencePair(prompt="d", chosen="x", rejected="yy", preference=0.0),
        PreferencePair(prompt="e", chosen="x", rejected="yy"),
    ]
    margins_P = np.array([2.0, -1.0, 0.0, 1.0, -3.0, math.nan])
    report = evaluate_margins(margins_P, pairs, sigmoid(margins_P), title="by hand").report()
    accuracy = report.metric(ACCURACY)
    assert (accuracy.value, accuracy.n_scored, accuracy.n) == (0.5, 4, 5)
    assert report.metric(SCORE_TIES).value == 1
    assert report.metric(LABEL_TIES).value == 1
    assert report.metric(baseline_accuracy(LENGTH)).value == pytest.approx(2 / 5)  # the first, and the one whose label is 0
    assert report.metric(MEAN_MARGIN).value == pytest.approx((2 - 1 + 0 + 3) / 4)
    p = sigmoid(np.array([2.0, -1.0, 0.0, 1.0, -3.0]))
    assert report.metric(BRIER).value == pytest.approx(np.mean((p - [1, 1, 1, 0.5, 0]) ** 2))
    assert (report.metric(BRIER).n_scored, report.metric(BRIER).n) == (5, 6)
    assert report.facts["prompts"] == "5"
    worst, best = report.examples[0], report.examples[-1]
    assert (worst["kind"], worst["chosen"], worst["margin"]) == ("worst", "no", -1.0)
    assert [e["kind"] for e in report.examples] == ["worst", "worst", "best", "best"]
    assert best["margin"] == 2.0
    assert report.examples[2]["margin"] == -3.0  # most confidently right: the label prefers the rejected answer


def test_a_good_calibrated_model_gets_no_warning():
    pairs = some_pairs(1000)
    margins_P = calibrated_margins(1000)
    report = evaluate_margins(margins_P, pairs, sigmoid(margins_P), title="good").report()
    assert {f.level for f in report.findings} == {"ok"}
    assert report.metric(ACCURACY).low < np.mean(margins_P > 0) < report.metric(ACCURACY).high
    assert report.metric(ECE).value <= report.metric(EXPECTED_ECE).high
    assert report.metric(EXPECTED_ECE).low < report.metric(EXPECTED_ECE).value < report.metric(EXPECTED_ECE).high


def test_an_overconfident_model_is_warned_about_by_direction():
    pairs, margins_P = some_pairs(600), calibrated_margins(600)
    over = finding(evaluate_margins(margins_P, pairs, sigmoid(4 * margins_P), title="t", slices=False).report(), "calibration")
    under = finding(evaluate_margins(margins_P, pairs, sigmoid(margins_P / 5), title="t", slices=False).report(), "calibration")
    assert (over.level, under.level) == ("warn", "warn")
    assert "overconfident" in over.why
    assert "underconfident" in under.why
    assert over.value > over.threshold


@pytest.mark.parametrize(("sign", "why"), [(0, "does not exclude a coin"), (-1, "swapped")])
def test_chance_and_below_fail(sign, why):
    margins_P = np.random.default_rng(0).normal(size=400) if sign == 0 else -calibrated_margins(400)
    found = finding(evaluate_margins(margins_P, some_pairs(400), title="t").report(), "better than chance")
    assert found.level == "fail"
    assert why in found.why


@pytest.mark.parametrize(("equal", "why"), [(400, "same reward in 100.0% of the pairs"), (240, "in 60.0%"), (20, "swapped?")])
def test_below_chance_by_equal_rewards_is_not_called_swapped(equal, why):
    margins_P = np.where(np.arange(400) < equal, 0.0, np.where(np.arange(400) % 10 < 4, 1.0, -1.0))
    found = finding(evaluate_margins(margins_P, some_pairs(400), title="t").report(), "better than chance")
    assert found.level == "fail"
    assert why in found.why


def test_a_model_that_only_measures_length_is_not_better_than_length():
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(400):
        a, b = "x " * int(rng.integers(20, 60)), "y " * int(rng.integers(5, 40))
        pairs.append(PreferencePair(prompt=f"q{i}", chosen=a, rejected=b))
    report = evaluate(LengthScorer(), pairs, title="length").report()
    assert finding(report, "better than chance").level == "ok"
    assert finding(report, "better than the length baseline").level == "warn"
    assert finding(report, "better than the length baseline").value == 0.0
    assert finding(report, "length dependence").level == "warn"
    assert report.metric(ACCURACY)[1:4] == report.metric(baseline_accuracy(LENGTH))[1:4]
    shorter = [PreferencePair(prompt=p.prompt, chosen=p.rejected, rejected=p.chosen) for p in pairs]
    flipped = evaluate_margins(-margins(LengthScorer(), shorter), shorter, title="prefers short answers").report()
    assert finding(flipped, "better than chance").level == "ok"
    assert finding(flipped, "better than the length baseline").level == "warn"


def test_bag_of_words_is_cross_validated_here_unless_a_fitted_one_is_given():
    pairs = [PreferencePair(prompt=f"q{i}", chosen=f"thanks {i}", rejected=f"no {i}") for i in range(60)]
    name = baseline_accuracy(BAG_OF_WORDS)
    own = evaluate(LengthScorer(), pairs, title="t").report().metric(name)
    assert own.value == 1.0
    assert "cross-validated" in own.note
    given = BagOfWordsScorer(weights={"no": 1.0})
    report = evaluate(LengthScorer(), pairs, title="t", baselines={BAG_OF_WORDS: given, "older model": given}).report()
    assert report.metric(name).value == 0.0
    assert "fitted elsewhere" in report.metric(name).note
    assert report.metric(baseline_accuracy("older model")).value == 0.0
    broken = finding(report, "better than the older model baseline")
    assert (broken.level, math.isnan(broken.value)) == ("warn", True)
    assert "below chance: the baseline is broken" in broken.why or "is broken: its accuracy 0.000" in broken.why


def test_a_baseline_at_chance_is_beaten_and_one_below_chance_is_broken():
    """Words that are right on 50 of 100 pairs can be compared with; on 35 of 100 they know nothing of these pairs."""
    pairs = [PreferencePair(prompt=f"q{i}", chosen=f"yes {i}", rejected=f"no {i}") for i in range(100)]
    for num_right, level in ((50, "ok"), (35, "warn")):
        told = [
            pair if i < num_right else PreferencePair(prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen)
            for i, pair in enumerate(pairs)
        ]
        words = BagOfWordsScorer(weights={"yes": 1.0})
        report = evaluate_margins(np.ones(100), told, title="t", baselines={BAG_OF_WORDS: words}).report()
        found = finding(report, "better than the bag-of-words baseline")
        assert found.level == level
        assert ("broken" in found.why) == (level == "warn")


def test_margins_beyond_those_of_the_calibration_are_flagged():
    rng = np.random.default_rng(0)

    class Steep:
        """The first number in the text is the reward."""

        fingerprint, scope, tolerance = "steep", "global", 0.0

        def score(self, completions):
            return Rewards(value=[float(c.response) for c in completions])

    fitted = fit_calibration(rng.normal(size=200), split="s", scorer="steep", preference_P=rng.integers(2, size=200).astype(float))
    for factor, level in ((1.0, "ok"), (4.0, "warn")):
        pairs = [PreferencePair(prompt=f"q{i}", chosen=f"{factor * rng.normal():.6f}", rejected="0.0") for i in range(200)]
        report = evaluate(Calibrated(scorer=Steep(), calibration=fitted), pairs, title="t").report()
        found = finding(report, "margins beyond the calibration")
        assert found.level == level
        assert found.failure == "calibration"


def test_perfect_accuracy_has_an_honest_interval():
    report = evaluate_margins(np.ones(30), some_pairs(30), title="t", slices=False).report()
    assert report.metric(ACCURACY)[1:4] == (1.0, *wilson_interval(30, 30))


class Unscorable:
    fingerprint, scope, tolerance = "unscorable", "global", 0.0

    def score(self, completions):
        return Rewards(value=np.full(len(completions), np.nan))


def test_nothing_scored_is_nan_with_a_note_and_never_raises():
    report = evaluate(Unscorable(), some_pairs(10), title="t").report()
    for name in (ACCURACY, BRIER, ECE, EXPECTED_ECE, MEAN_MARGIN):
        metric = report.metric(name)
        assert math.isnan(metric.value)
        assert metric.n_scored == 0
        assert metric.note
    assert finding(report, "better than chance").level == "fail"
    assert finding(report, "unscored pairs").level == "warn"
    assert table(report, "reliability").rows == ()
    assert report.examples == ()
    for name in ("score ties", "length dependence", "weak slices", "calibration"):
        assert finding(report, name).level == "warn", f"{name}: what was not measured is not ok"
        assert math.isnan(finding(report, name).value)


def test_without_a_label_accuracy_is_not_measured_which_is_no_failure_of_the_scorer():
    found = finding(evaluate(LengthScorer(), some_pairs(3, preference=0.5), title="t").report(), "better than chance")
    assert (found.level, found.why) == ("warn", "not measured: every label is a tie")


@pytest.mark.parametrize(
    "pairs",
    [
        some_pairs(1),
        some_pairs(3, preference=0.5),
        [PreferencePair(prompt="q", chosen="", rejected="")] * 3,
        some_pairs(30, tags={"axis": "safety"}),
    ],
    ids=["one pair", "label ties", "empty answers", "one slice"],
)
def test_odd_sets_give_a_report_that_survives_json(pairs):
    report = evaluate(LengthScorer(), pairs, title="odd").report()
    back = report_from_json(report_to_json(report))
    assert [m.name for m in back.metrics] == [m.name for m in report.metrics]
    assert json.loads(report_to_json(report))["title"] == "odd"
    assert all(m.note or not math.isnan(m.value) for m in report.metrics)


def test_callers_mistakes_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        evaluate(LengthScorer(), [], title="t").report()
    with pytest.raises(ValueError, match="2 margins"):
        evaluate_margins(np.ones(2), some_pairs(3), title="t").report()
    with pytest.raises(ValueError, match="must lie in"):
        evaluate_margins(np.ones(2), some_pairs(2), np.array([0.5, 3.0]), title="t").report()


def test_slices_hold_every_labelled_pair_once():
    rng = np.random.default_rng(0)
    pairs = [
        PreferencePair(
            prompt=[("user", "a"), ("assistant", "b"), ("user", f"{i}")] if i % 3 == 0 else f"{i}",
            chosen="x" * int(rng.integers(1, 50)),
            rejected="x" * int(rng.integers(1, 50)),
            source="ab"[i % 2],
            tags={"axis": "safety" if i % 4 else "math", "many": f"value {i % 45}"},
        )
        for i in range(200)
    ]
    margins_P = calibrated_margins(200)
    margins_P[:5] = math.nan
    report = evaluate_margins(margins_P, pairs, sigmoid(margins_P), title="t").report()
    titles = ["by axis", "by many", "by source", "by turns", "by response length", "by which answer is longer"]
    for title in titles:
        rows = table(report, title).rows
        assert sum(row[1] for row in rows) == 200
        assert sum(row[2] for row in rows) == 195
        assert sum(row[3] * row[2] for row in rows) == pytest.approx(report.metric(ACCURACY).value * 195)
    assert [row[0] for row in table(report, "by axis").rows] == ["math", "safety"]
    assert len(table(report, "by many").rows) == 20
    assert table(report, "by many").rows[-1][0] == "(26 smaller slices)"
    assert len(table(report, "by response length").rows) == 4
    assert len(evaluate_margins(margins_P, pairs, title="t", slices=False).report().tables) == 2


def test_length_dependence_needs_a_gap_beyond_chance():
    pairs = some_pairs(300)
    longer_P = np.array([len(p.chosen) > len(p.rejected) for p in pairs])
    right_P = np.random.default_rng(0).random(300) < np.where(longer_P, 0.95, 0.6)
    report = evaluate_margins(np.where(right_P, 1.0, -1.0), pairs, title="t").report()
    assert finding(report, "length dependence").level == "warn"
    assert finding(report, "length dependence").value == pytest.approx(0.35, abs=0.1)
    few = evaluate_margins(np.where(right_P, 1.0, -1.0)[:12], pairs[:12], title="t").report()
    assert finding(few, "length dependence").level == "ok"


def pairs_of_lengths(lengths_P2):
    return [
        PreferencePair(prompt=f"q{i}", chosen="x" * int(chosen), rejected="y" * int(rejected))
        for i, (chosen, rejected) in enumerate(lengths_P2)
    ]


def test_the_report_of_the_length_baseline_says_that_nothing_is_left():
    lengths_P2 = np.random.default_rng(0).permutation(np.arange(1, 801)).reshape(400, 2)
    report = evaluate(LengthScorer(), pairs_of_lengths(lengths_P2), title="length", slices=False).report()
    metric = report.metric(LENGTH_CONTROLLED)
    assert metric.value == 0.5
    assert metric.low < 0.5 < metric.high
    assert (metric.n_scored, metric.n) == (400, 400)
    assert "100% of the margins' mean square" in metric.note


def test_accuracy_at_equal_length_by_hand():
    pairs = pairs_of_lengths([(100, 95), (90, 100), (100, 89), (10, 30), (50, 50), (20, 20)])
    margins_P = np.array([1.0, -1.0, 1.0, 1.0, 1.0, math.nan])
    report = evaluate_margins(margins_P, pairs, title="t", slices=False).report()
    metric = report.metric(EQUAL_LENGTH)  # the first, second, fifth and sixth differ by a tenth at most; the sixth has no margin
    assert (metric.value, metric.n_scored, metric.n) == (pytest.approx(2 / 3), 3, 4)
    few = report.metric(LENGTH_CONTROLLED)
    assert math.isnan(few.value)
    assert "fewer than 50" in few.note
    far = (
        evaluate_margins(np.ones(2), pairs_of_lengths([(10, 90), (90, 10)]), title="t", slices=False).report().metric(EQUAL_LENGTH)
    )
    assert math.isnan(far.value)
    assert "no scored pair" in far.note


def test_rounded_rewards_are_noticed():
    margins_P = np.round(calibrated_margins(300) * 2) / 2
    found = finding(evaluate_margins(margins_P, some_pairs(300), title="t").report(), "score ties")
    assert found.level == "warn"
    assert found.value == pytest.approx(np.mean(margins_P == 0))


def test_margin_histogram_holds_every_scored_pair():
    margins_P = np.append(calibrated_margins(300), [1e6, math.nan])
    rows = table(evaluate_margins(margins_P, some_pairs(302), title="t").report(), "margins").rows
    assert len(rows) == 20
    assert sum(row[1] for row in rows) == 301


def test_calibrated_probabilities_are_used_and_each_answer_is_scored_once():
    class Counting:
        fingerprint, scope, tolerance = "counting", "global", 0.0
        scored = 0

        def score(self, completions):
            self.scored += len(completions)
            return LengthScorer().score(completions)

    pairs, inner = some_pairs(100), Counting()
    fit = fit_calibration(margins(LengthScorer(), pairs), split="these very pairs")
    report = evaluate(Calibrated(scorer=inner, calibration=fit), pairs, title="t").report()
    assert inner.scored == 200
    assert "these very pairs" in report.facts["probabilities"]
    plain = evaluate(LengthScorer(), pairs, title="t").report()
    assert report.metric(BRIER).value < plain.metric(BRIER).value
    assert report.metric(ACCURACY) == plain.metric(ACCURACY)


def test_a_report_is_a_function_of_its_seed():
    pairs, margins_P = some_pairs(80), calibrated_margins(80)
    one, same, other = (
        report_to_json(evaluate_margins(margins_P, pairs, sigmoid(margins_P), title="t", seed=s).report()) for s in (0, 0, 1)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("train", "heldout", "level"), [(0.70, 0.69, "ok"), (0.72, 0.65, "ok"), (0.80, 0.70, "warn"), (0.95, 0.70, "fail")]
)
def test_gap_between_training_and_held_out(train, heldout, level):
    def metric(share):
        return Metric(ACCURACY, share, *wilson_interval(share * 1000, 1000), 1000, 1000)

    found = gap_finding(metric(train), metric(heldout))
    assert found.level == level
    assert found.value == pytest.approx(train - heldout)
    assert gap_finding(metric(0.9), Metric(ACCURACY, math.nan)).level == "warn"
