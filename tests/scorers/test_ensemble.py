"""Ensembles: the combination by hand, the laws, one failing member."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.records import Completion, Rewards
from assay.rl.shaping import robust
from assay.scorers.checks import check_scorer
from assay.scorers.ensemble import Combination, Ensemble, HasMembers, members_as_scorers, robust_mean


class Fixed:
    """Rewards by the response's length, times a factor; a response that says `bad` cannot be scored."""

    scope, tolerance = "global", 0.0

    def __init__(self, factor: float, bad: str = "") -> None:
        self.factor, self.bad, self.fingerprint = factor, bad, f"fixed {factor} {bad}"

    def score(self, completions):
        value = [math.nan if self.bad and self.bad in c.response else self.factor * len(c.response) for c in completions]
        error = [f"says {self.bad}" if math.isnan(v) else None for v in value]
        return Rewards(value=np.array(value), error=tuple(error))


ANSWERS = [Completion(messages="egg?", response=text) for text in ("ab", "abcd", "four", "a bad one")]


def test_mean_minus_penalty_times_the_sample_deviation_by_hand():
    members_KN = np.array([[1.0, 0.0], [2.0, 0.0], [6.0, math.nan]])
    value, std = Combination(penalty=0.5)(members_KN)
    # mean 3; deviations -2, -1, 3: sum of squares 14, over K - 1 = 2: 7
    assert value[0] == pytest.approx(3 - 0.5 * math.sqrt(7))
    assert std[0] == pytest.approx(math.sqrt(7))
    assert np.isnan(value[1])
    assert np.isnan(std[1])
    assert Combination(how="min")(members_KN)[0][0] == 1.0
    assert Combination(penalty=0.0)(members_KN)[0][0] == 3.0


def test_the_tolerance_bounds_what_small_changes_of_members_do():
    rng = np.random.default_rng(0)
    for how, penalty, beta in (("mean", 0.0, 1), ("mean", 1.0, 1), ("mean", 3.0, 1), ("min", 1.0, 1), ("robust", 1.0, 0.1)):
        combination = Combination(how=how, penalty=penalty, beta=beta)
        for num_members in (2, 3, 5):
            members_KN = rng.normal(size=(num_members, 500))
            moved = members_KN + rng.choice([-0.01, 0.01], size=members_KN.shape)
            change = np.abs(combination(moved)[0] - combination(members_KN)[0]).max()
            assert change <= combination.tolerance(0.01) + 1e-6


def test_an_ensemble_keeps_the_laws_and_one_member_that_fails_makes_it_nan():
    ensemble = Ensemble([Fixed(1.0), Fixed(2.0, bad="bad"), Fixed(6.0)], Combination(penalty=1.0))
    check_scorer(ensemble, ANSWERS)
    rewards = ensemble.score(ANSWERS)
    np.testing.assert_allclose(rewards.value[:3], np.array([2, 4, 4]) * (3 - math.sqrt(7)), rtol=1e-6)
    assert np.isnan(rewards.value[3])
    assert rewards.error[3] == "member 1: says bad"
    assert isinstance(ensemble, HasMembers)
    assert ensemble.score_members(ANSWERS)[:, 0].tolist() == [2.0, 4.0, 12.0]


def test_what_would_feign_certainty_is_refused():
    with pytest.raises(ValueError, match="at least two members, got 1"):
        Ensemble([Fixed(1.0)])
    with pytest.raises(ValueError, match="the same model"):
        Ensemble([Fixed(1.0), Fixed(1.0)])
    relative = Fixed(2.0)
    relative.scope = "prompt"
    with pytest.raises(ValueError, match="prompt-scoped"):
        Ensemble([Fixed(1.0), relative])
    with pytest.raises(ValueError, match="at least two members"):
        Combination()(np.zeros((1, 3)))


def test_the_fingerprint_follows_members_and_combination():
    prints = {
        Ensemble([Fixed(1.0), Fixed(2.0)]).fingerprint,
        Ensemble([Fixed(1.0), Fixed(3.0)]).fingerprint,
        Ensemble([Fixed(1.0), Fixed(2.0)], Combination(penalty=0.5)).fingerprint,
        Ensemble([Fixed(1.0), Fixed(2.0)], Combination(how="min")).fingerprint,
    }
    assert len(prints) == 4
    assert Ensemble([Fixed(1.0), Fixed(2.0)]).fingerprint in prints


def test_members_as_scorers_say_what_each_says_and_share_what_was_computed():
    class Counting(Ensemble):
        asked = 0

        def score_members(self, completions):
            self.asked += len(completions)
            return super().score_members(completions)

    together = Counting([Fixed(1.0), Fixed(2.0, bad="bad")])
    first, second = members_as_scorers(together, 2, fingerprint=together.fingerprint, tolerance=together.tolerance)
    assert first.score([*ANSWERS, ANSWERS[0]]).value.tolist() == [2, 4, 4, 9, 2]
    assert second.score(ANSWERS).value[:3].tolist() == [4, 8, 8]
    assert second.score(ANSWERS).error == (None, None, None, "this member could not score it")
    assert together.asked == len(ANSWERS), "each content is computed once, for both"
    assert first.fingerprint != second.fingerprint
    for scorer in (first, second):
        check_scorer(scorer, ANSWERS)


def test_robust_by_hand_and_its_three_limits():
    members_KN = np.array([[0.0, 1.0], [math.log(3.0), 1.0]])
    # beta 1: the mean of e^0 and e^-log 3 is 2/3; equal members are their own value
    value, std = Combination(how="robust")(members_KN)
    np.testing.assert_allclose(value, [math.log(1.5), 1.0], rtol=1e-6)
    np.testing.assert_allclose(std, [math.log(3.0) / math.sqrt(2), 0.0], rtol=1e-6)
    rng = np.random.default_rng(0)
    members_KN = rng.normal(size=(5, 200))
    mean_N, var_N = members_KN.mean(axis=0), members_KN.var(axis=0)
    np.testing.assert_allclose(Combination(how="robust", beta=1e6)(members_KN)[0], mean_N, atol=1e-5)
    np.testing.assert_allclose(Combination(how="robust", beta=1e-4)(members_KN)[0], members_KN.min(axis=0), atol=2e-4)
    assert np.isfinite(Combination(how="robust", beta=1e-300)(members_KN)[0]).all(), "no exponent overflows"
    errors = []
    for beta in (20.0, 40.0):
        second = mean_N - var_N / (2 * beta)
        errors.append(np.abs(robust_mean(members_KN, beta) - second).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1), "what is left over is of the third order: 1 / beta^2"


def test_robust_never_leaves_min_and_mean_and_a_shift_of_a_prompt_moves_no_margin():
    rng = np.random.default_rng(1)
    members_KN = rng.normal(size=(4, 6))
    shift_N = np.repeat([3.0, -50.0], 3)  # two prompts of three answers
    values = []
    for beta in (0.05, 1.0, 30.0):
        value_N, shifted_N = (robust_mean(members, beta) for members in (members_KN, members_KN + shift_N))
        np.testing.assert_allclose(shifted_N - shift_N, value_N, atol=1e-9)
        assert (members_KN.min(axis=0) - 1e-12 <= value_N).all()
        assert (value_N <= members_KN.mean(axis=0) + 1e-12).all()
        values.append(value_N)
    assert (np.diff(values, axis=0) > 0).all(), "it grows with beta"
    assert np.isnan(robust_mean(np.array([[1.0], [math.nan]]), 1.0)).all()
    # members that differ by their levels in a prompt alone say the same of its answers, once they are centred there
    levels_M11 = np.array([0.0, 2.0, -7.0]).reshape(3, 1, 1)
    one_PK = rng.normal(size=(1, 4))
    np.testing.assert_allclose(robust(one_PK + levels_M11, 0.3), one_PK - one_PK.mean(), atol=1e-12)


def test_the_beta_of_robust_is_part_of_what_is_saved_and_of_nothing_else():
    for combination in (Combination(), Combination(how="min"), Combination(how="robust", beta=0.25)):
        assert Combination.from_entry(combination.entry) == combination
    assert Combination().entry == {"combine": "mean", "penalty": 1.0}, "as before there was a beta: fingerprints stay"
    members = [Fixed(1.0), Fixed(2.0)]
    prints = {Ensemble(members, Combination(how="robust", beta=beta)).fingerprint for beta in (0.5, 1.0)}
    assert len(prints) == 2
    check_scorer(Ensemble(members, Combination(how="robust", beta=0.5)), ANSWERS)
    for mistake in ({"how": "robust", "beta": 0.0}, {"how": "mean", "beta": 2.0}, {"how": "max"}):
        with pytest.raises(ValueError, match=r"beta|combined by mean, min or robust"):
            Combination(**mistake)
