"""Judges that answer from a record, juries and cascades of them: the laws of scorers, and verdicts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from assay.data.recorded import NOT_ASKED, RecordedPairs, RecordedRatings, Verdict, Verdicts, two_scores
from assay.evaluation.cascade_curve import Stage, cascade_curve, threshold_for
from assay.records import Completion, PreferencePair
from assay.scorers.cascade import Cascade, is_sure
from assay.scorers.checks import check_scorer
from assay.scorers.in_order import NO_OTHER, of_both_orders, win_shares
from assay.scorers.jury import Jury, fit_jury
from assay.scorers.load import load
from assay.scorers.recorded_judge import NOT_RECORDED, RecordedJudge, RecordedRater

NAN = np.nan
PAIRS = tuple(PreferencePair(prompt=f"Q{i}", chosen=f"good {i}", rejected=f"bad {i}") for i in range(5))


def recorded(**judges: list[tuple[float, float]]) -> RecordedPairs:
    found = {
        name: Verdicts(
            judge=name,
            first_N2=np.array(said),
            counted_N2=np.array(said),
            reasons=tuple(
                ("empty reply" if np.isnan(a) else None, (NOT_ASKED if name == "once" else "filtered") if np.isnan(b) else None)
                for a, b in said
            ),
        )
        for name, said in judges.items()
    }
    return RecordedPairs(source="made up", pairs=PAIRS[: len(next(iter(judges.values())))], gold_N=np.ones(5), judges=found)


SAID = [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, NAN), (NAN, 1.0)]
JUDGE = RecordedJudge(recorded(one=SAID), "one")
OTHERS = [
    RecordedJudge(recorded(**{name: said}), name) for name, said in {"two": [(1, 1)] * 5, "three": [(0, 0), *[(1, 1)] * 4]}.items()
]
COMPLETIONS = [completion for pair in PAIRS for completion in pair.completions()] + [
    Completion(messages="Q9", response="alone"),
    Completion(text="rendered"),
]


def turned(pair: PreferencePair) -> PreferencePair:
    return PreferencePair(prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen, preference=0.0)


def test_a_recorded_judge_keeps_the_laws_and_gives_no_number_where_nothing_was_said():
    check_scorer(JUDGE, COMPLETIONS)
    assert np.isnan(JUDGE.score(COMPLETIONS).value[-2:]).all()


def test_a_jury_keeps_the_laws_and_gives_no_number_where_nothing_was_said():
    check_scorer(Jury([JUDGE, *OTHERS]), COMPLETIONS)
    assert np.isnan(Jury([JUDGE, *OTHERS]).score(COMPLETIONS).value[-2:]).all()


def test_a_cascade_keeps_the_laws_and_gives_no_number_where_nothing_was_said():
    check_scorer(Cascade([JUDGE, OTHERS[0]], [1.0, 0.0]), COMPLETIONS)
    assert np.isnan(Cascade([JUDGE, OTHERS[0]], [1.0, 0.0]).score(COMPLETIONS).value[-2:]).all()


def test_a_verdict_that_was_not_given_is_nan_with_its_reason():
    assert np.array_equal(JUDGE.compare(PAIRS), [1, 0.5, 0, NAN, NAN], equal_nan=True)
    assert JUDGE.why_not(PAIRS) == [None, None, None, "filtered", "empty reply"]
    unknown = [PreferencePair(prompt="Q0", chosen="good 0", rejected="another")]
    assert JUDGE.why_not(unknown) == [NOT_RECORDED]


def test_the_same_pair_the_other_way_round_has_the_other_probability_and_the_other_order():
    pairs = [turned(pair) for pair in PAIRS]
    assert np.array_equal(JUDGE.compare(pairs), 1 - JUDGE.compare(PAIRS), equal_nan=True)
    assert np.array_equal(JUDGE.compare_in_order(pairs), 1 - JUDGE.compare_in_order(PAIRS)[:, ::-1], equal_nan=True)
    assert np.array_equal(JUDGE.compare_in_order(PAIRS), SAID, equal_nan=True)


def test_one_order_alone_and_a_judge_that_was_asked_once():
    assert np.array_equal(RecordedJudge(recorded(one=SAID), "one", order="given").compare(PAIRS), [1, 1, 0, 1, NAN], equal_nan=True)
    swapped = RecordedJudge(recorded(one=SAID), "one", order="swapped")
    assert np.array_equal(swapped.compare(PAIRS), [1, 0, 0, NAN, 1], equal_nan=True)
    once = RecordedJudge(recorded(once=[(1.0, NAN), (0.0, NAN), (NAN, NAN)]), "once")
    assert np.array_equal(once.compare(PAIRS[:3]), [1, 0, NAN], equal_nan=True)
    assert once.why_not(PAIRS[:3]) == [None, None, "empty reply"]


def test_rewards_are_shares_of_wins_among_the_answers_of_a_prompt():
    rewards = JUDGE.score(COMPLETIONS)
    assert rewards.value[:6] == pytest.approx([1, 0, 0.5, 0.5, 0, 1])
    assert np.isnan(rewards.value[6:]).all()
    assert rewards.error[-2] == NO_OTHER
    assert "rendered" in rewards.error[-1]


def test_three_answers_are_each_compared_with_the_two_others():
    answers = [Completion(messages="Q", response=text) for text in ("a", "bb", "ccc", "bb")]

    def longer(pairs):
        return np.array([float(len(pair.chosen) > len(pair.rejected)) for pair in pairs])

    assert win_shares(longer, answers).value == pytest.approx([0, 0.5, 1, 0.5]), "equal answers are one"


def test_both_orders_of_verdicts_that_differ_are_a_tie_and_of_probabilities_the_mean():
    assert of_both_orders(np.array([[1, 1], [1, 0], [1, 0.5], [0.9, 0.3], [NAN, 1]])) == pytest.approx(
        [1, 0.5, 0.5, 0.6, NAN], nan_ok=True
    )


def test_another_record_or_order_has_another_fingerprint():
    prints = {JUDGE.fingerprint, RecordedJudge(recorded(one=SAID), "one", order="given").fingerprint}
    prints.add(RecordedJudge(recorded(one=[(0.0, 1.0), *SAID[1:]]), "one").fingerprint)
    assert len(prints) == 3
    assert RecordedJudge(recorded(one=SAID), "one").fingerprint == JUDGE.fingerprint


def test_a_jury_votes_weighs_and_waits_for_enough_judges():
    assert np.array_equal(Jury([JUDGE, *OTHERS]).compare(PAIRS), [1, 1, 1, 1, 1])
    assert np.array_equal(Jury([JUDGE, *OTHERS], least=3).compare(PAIRS), [1, 1, 1, NAN, NAN], equal_nan=True)
    weighed = Jury([JUDGE, *OTHERS], weights=[3.0, 1.0, 1.0]).compare(PAIRS)
    assert weighed[2] == pytest.approx(1 / (1 + np.e)), "3 against 1 and 1"
    fitted = fit_jury([JUDGE, *OTHERS], PAIRS, how="accuracy")
    assert fitted.weights == pytest.approx([np.log(1.5 / 1.5), np.log(5.5 / 0.5), np.log(4.5 / 1.5)])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Jury([JUDGE]), "at least two judges, got 1"),
        (lambda: Jury([JUDGE, JUDGE]), "one vote would count twice"),
        (lambda: Jury([JUDGE, *OTHERS], weights=[1, 2]), "give a finite number for each"),
        (lambda: Jury([JUDGE, *OTHERS], least=4), "from 1 to 3"),
        (lambda: fit_jury([JUDGE, *OTHERS], [], how="accuracy"), "there are none"),
        (lambda: fit_jury([JUDGE, *OTHERS], PAIRS, how="mean"), "majority, accuracy or dawid-skene, not 'mean'"),
        (lambda: RecordedJudge(recorded(one=SAID), "two"), "no judge 'two': there are one"),
        (lambda: Cascade([JUDGE], [-1.0]), "a number from 0 on for each"),
        (lambda: Cascade([JUDGE, JUDGE], [0, 0]), "the second would say nothing new"),
        (lambda: Cascade([], []), "at least one scorer"),
        (lambda: Cascade([RATER], [0.0]), "calibrate it"),
        (lambda: threshold_for(np.array([0.5]), 1.5), "lies outside"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


RATER = RecordedRater(
    RecordedRatings(
        source="made up",
        judge="one",
        completions=tuple(COMPLETIONS[:3]),
        ratings_NR=np.array([[4, 5, NAN], [1, 1, 1], [NAN, NAN, NAN]]),
        reasons=(None, None, "no rating in the reply"),
        low=1,
        high=5,
    )
)


def test_a_recorded_rater_keeps_the_laws_and_gives_no_number_where_nothing_was_said():
    check_scorer(RATER, COMPLETIONS)
    assert np.isnan(RATER.score(COMPLETIONS).value[-2:]).all()


def test_a_recorded_rater_gives_means_and_deviations():
    rewards = RATER.score(COMPLETIONS[:4])
    assert rewards.value == pytest.approx([4.5, 1, NAN, NAN], nan_ok=True)
    assert rewards.std == pytest.approx([np.sqrt(0.5), 0, NAN, NAN], nan_ok=True)
    assert rewards.error[2:] == ("no rating in the reply", NOT_RECORDED)


def test_a_cascade_asks_each_stage_for_what_the_one_before_left():
    asked: list[int] = []

    class Watched(RecordedJudge):
        def compare(self, pairs):
            asked.append(len(pairs))
            return super().compare(pairs)

    cascade = Cascade(
        [Watched(recorded(one=SAID), "one"), Watched(recorded(two=[(1, 1), (0.5, 0.5), *[(1, 1)] * 3]), "two")], [1.0, 1.0]
    )
    p, stage = cascade.settled(PAIRS)
    assert asked == [5, 3]
    assert np.array_equal(p, [1, NAN, 0, 1, 1], equal_nan=True)
    assert stage.tolist() == [0, 2, 0, 1, 1]
    assert cascade.left_to_people(PAIRS) == [PAIRS[1]]


def test_sure_is_a_logit_at_or_above_the_threshold():
    p = np.array([0.5, 0.7, 0.9, 1.0, 0.0, NAN])
    assert is_sure(p, 0).tolist() == [True] * 5 + [False]
    assert is_sure(p, 1.0).tolist() == [False, False, True, True, True, False]
    assert not is_sure(p, np.inf).any()
    found = threshold_for(p, 1 / 3)
    assert is_sure(p, found).sum() == 4


def test_a_curve_by_hand():
    """Four pairs: the cheap stage is right and sure on two, and tosses on two, of which the dear one gets one."""
    gold, prompts = np.ones(4), np.arange(4)
    stages = [Stage("cheap", np.array([1, 1, 0.5, 0.5]), 1.0), Stage("dear", np.array([1, 1, 1, 0]), 10.0)]
    found = cascade_curve(stages, gold, prompts, shares=(0.0, 0.5, 1.0))
    assert [point.passed for point in found.points] == [(0.0,), (0.5,), (1.0,)]
    assert [point.cost for point in found.points] == [1.0, 6.0, 11.0]
    assert [point.accuracy.value for point in found.points] == [0.75, 0.75, 0.75]
    assert found.points[1].gain.value == pytest.approx(0.0), "half of .75 and half of .75"
    people = cascade_curve(stages, gold, prompts, person_cost=100.0, shares=(0.0, 0.5, 1.0))
    best = next(point for point in people.points if point.passed == (0.5, 1.0))
    assert (best.cost, best.accuracy.value) == (1 + 0.5 * 10 + 0.5 * 100, 1.0)
    assert best.settled == (0.5, 0.0, 0.5)


def test_the_curve_says_so_where_margins_do_not_help():
    rng = np.random.default_rng(0)
    gold = np.ones(400)
    unsure = [
        Stage(name, np.where(rng.random(400) < right, 0.9, 0.1) + rng.normal(0, 0.02, 400), cost)
        for name, right, cost in (("a", 0.7, 1), ("b", 0.9, 9))
    ]
    found = cascade_curve(unsure, gold, np.arange(400))
    router = found.findings[0]
    assert (router.level, "no gain to boast of" in router.why) == ("warn", True)
    confident = [Stage("a", np.where(rng.random(400) < 0.6, 0.95, 0.45), 1.0), unsure[1]]
    assert cascade_curve(confident, gold, np.arange(400)).findings[0].level == "ok"


def test_two_scores_are_the_whole_first_line_or_nothing():
    assert two_scores("9 8\nAssistant 1 is better.") == (9, 8)
    assert two_scores("8.5, 7\n") == (8.5, 7)
    assert two_scores("Assistant 1: 9 8") is None
    assert two_scores("Let us solve it.\n9 8") is None
    assert two_scores("") is None
    assert Verdict(1.0).reason is None


def test_a_record_is_named_on_the_command_line(tmp_path):
    with pytest.raises(ValueError, match="holds no recorded verdicts that are known"):
        load(f"recorded:{tmp_path}#one")
