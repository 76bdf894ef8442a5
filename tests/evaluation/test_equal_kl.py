"""The factor for an equal pull: by hand, for skewed rewards where a ratio of spreads is wrong, refused where it cannot be seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.evaluation.equal_kl import corrected_kl, equal_kl_factor, plug_in_kl
from assay.evaluation.scale import FACTOR, SPREAD, measure_scale, scale_factor
from tiny import toy_pairs


def drawn(law, num_prompts=100, num_candidates=64, seed=0):
    rng = np.random.default_rng(seed)
    return [law(rng, num_candidates) for _ in range(num_prompts)]


LAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "right-skewed": lambda rng, n: rng.exponential(size=n),
    "left-skewed": lambda rng, n: -rng.exponential(size=n),
    "heavy": lambda rng, n: rng.standard_t(4, size=n),
    "right or wrong": lambda rng, n: (rng.random(n) < 0.2).astype(float),
}


def pull(rewards, factor, beta):
    return float(np.mean([corrected_kl(factor * r / beta)[0] for r in rewards]))


def test_the_kl_of_weights_by_hand():
    assert plug_in_kl(np.log([3.0, 1.0])) == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5)])
    assert plug_in_kl(np.zeros(5)) == pytest.approx([0.0], abs=1e-12)
    assert plug_in_kl(np.array([0.0, 1e6, 0.0, 0.0])) == pytest.approx([math.log(4)])
    assert plug_in_kl(np.array([[0.0, 1.0], [7.0, 8.0]])) == pytest.approx(plug_in_kl(np.array([0.0, 1.0])).repeat(2))


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("beta", [8.0, 4.0, 2.5])
def test_the_new_rewards_pull_as_far_as_the_old_ones(name, beta):
    """Old rewards are normal of spread 2; new ones of any law, five times as large."""
    old, new = drawn(lambda rng, n: 2 * rng.normal(size=n)), [5 * r for r in drawn(LAWS[name], seed=1)]
    found = equal_kl_factor(old, new, beta)
    assert pull(new, found.factor, beta) == pytest.approx(pull(old, 1.0, beta), rel=1e-6)
    assert found.nats == pytest.approx(np.mean([plug_in_kl(r / beta)[0] for r in old]))
    assert found.low < found.factor < found.high


def test_fresh_candidates_are_pulled_alike_where_the_ratio_of_spreads_is_off():
    for name in ("right-skewed", "left-skewed"):
        old, new = drawn(LAWS["normal"], 400, 128), drawn(LAWS[name], 400, 128, seed=1)
        factor, beta = equal_kl_factor(old, new, 1.0).factor, 1.0
        by_spread = scale_factor(*(np.concatenate([r - r[::-1] for r in rewards]) for rewards in (old, new)))
        fresh_old, fresh_new = drawn(LAWS["normal"], 400, 2048, seed=2), drawn(LAWS[name], 400, 2048, seed=3)
        wanted = pull(fresh_old, 1.0, beta)
        assert pull(fresh_new, factor, beta) == pytest.approx(wanted, rel=0.25)
        assert abs(pull(fresh_new, by_spread, beta) / wanted - 1) > 0.4


def test_leaving_out_each_candidate_takes_off_what_few_of_them_hide():
    """The pull of normal rewards at a coefficient of their spread is 1/2 nat."""
    rewards = np.random.default_rng(0).normal(size=(4000, 16))
    assert plug_in_kl(rewards).mean() == pytest.approx(0.43, abs=0.02)
    assert corrected_kl(rewards).mean() == pytest.approx(0.49, abs=0.02)
    by_hand = [plug_in_kl(np.delete([2.0, 0.0, 1.0], i))[0] for i in range(3)]
    assert corrected_kl(np.array([2.0, 0.0, 1.0]))[0] == pytest.approx(
        3 * plug_in_kl(np.array([2.0, 0, 1]))[0] - 2 * np.mean(by_hand)
    )
    alone = corrected_kl(np.array([1e5, 0.0, 0.0, 0.0]))[0]
    assert alone == pytest.approx(4 * math.log(4) - 3 * math.log(3))


def test_a_multiple_and_an_offset_a_prompt_change_nothing():
    old = drawn(LAWS["right-skewed"])
    shifted = [3.0 * r + 7.0 * i for i, r in enumerate(old)]
    assert equal_kl_factor(old, shifted, 2.0).factor == pytest.approx(1 / 3, rel=1e-6)
    there, back = equal_kl_factor(old, drawn(LAWS["heavy"], seed=4), 2.0), None
    new = [there.factor * r for r in drawn(LAWS["heavy"], seed=4)]
    back = equal_kl_factor(new, old, 2.0)
    assert back.factor == pytest.approx(1.0, rel=1e-5)


@pytest.mark.slow
def test_the_interval_holds_the_factor_of_many_prompts():
    truth = equal_kl_factor(drawn(LAWS["normal"], 5000, 32, 90), drawn(LAWS["right-skewed"], 5000, 32, 91), 1.5).factor
    normal, skewed = LAWS["normal"], LAWS["right-skewed"]
    found = [equal_kl_factor(drawn(normal, 60, 32, s), drawn(skewed, 60, 32, 1000 + s), 1.5) for s in range(60)]
    assert sum(one.low <= truth <= one.high for one in found) >= 51


def test_one_prompt_with_a_far_answer_widens_the_end_that_it_could_move():
    old, new = drawn(LAWS["normal"], 60), drawn(LAWS["normal"], 60, seed=1)
    plain = equal_kl_factor(old, new, 2.0)
    far = [np.r_[new[0][:-1], 12.0], *new[1:]]
    found = equal_kl_factor(old, far, 2.0)
    assert found.low < plain.low < plain.factor < plain.high
    assert plain.low / found.low > 1.1 * plain.high / found.high


def test_prompts_that_do_not_bound_the_factor_are_refused():
    new = [row * 1e-9 if number else row for number, row in enumerate(drawn(LAWS["normal"], 20, seed=1))]
    with pytest.raises(ValueError, match="20 prompts do not bound the factor from above"):
        equal_kl_factor(drawn(LAWS["normal"], 20), new, 4.0)


def test_unscored_candidates_are_left_out_of_both():
    old, new = drawn(LAWS["normal"], 30), drawn(LAWS["normal"], 30, seed=1)
    clean = equal_kl_factor([r[5:] for r in old], [r[5:] for r in new], 2.0)
    for rows in (old, new):
        for r in rows:
            r[: 5 if rows is old else 3] = np.nan
    assert equal_kl_factor(old, new, 2.0) == clean
    old[0][:] = np.nan
    assert equal_kl_factor(old, new, 2.0).num_scored == 29


@pytest.mark.parametrize(
    ("old", "new", "beta", "message"),
    [
        (drawn(LAWS["normal"]), drawn(LAWS["normal"]), 0.2, "more than half of the 4.16 that these candidates can show"),
        (drawn(LAWS["normal"], 10), drawn(LAWS["normal"], 10), 1.0, "10 of 10 prompts have candidates that both scored: 20"),
        (drawn(LAWS["normal"]), [np.ones(64)] * 100, 1.0, "NEW gives one reward to all candidates"),
        ([np.ones(64)] * 100, drawn(LAWS["normal"]), 1.0, "OLD gives one reward to all candidates"),
        (drawn(LAWS["normal"]), [np.r_[np.ones(60), np.zeros(4)]] * 100, 1.0, r"NEW cannot pull 0\.\d+ nats at any factor"),
        (drawn(LAWS["normal"]), drawn(LAWS["normal"]), 0.0, "beta 0 must be a positive number"),
    ],
)
def test_what_cannot_be_solved_is_refused(old, new, beta, message):
    with pytest.raises(ValueError, match=message):
        equal_kl_factor(old, new, beta)


def test_the_report_has_both_factors_and_says_which_is_which():
    pairs = toy_pairs(60)
    margins = np.random.default_rng(0).normal(size=(2, 60))
    solved = equal_kl_factor(drawn(LAWS["normal"]), drawn(LAWS["right-skewed"]), 2.0)
    result = measure_scale(*margins, pairs, equal_kl=solved)
    assert result.factor.value == result.report().metric(FACTOR).value == solved.factor
    assert result.report().metric(SPREAD).value == pytest.approx(scale_factor(*margins))
    assert result.num_pairs == 60
    plain = measure_scale(*margins, pairs)
    assert plain.factor.value == pytest.approx(scale_factor(*margins))
    assert "a tail of high rewards pulls further" in plain.factor.note
