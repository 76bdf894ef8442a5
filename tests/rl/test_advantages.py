"""Advantages of the three estimators, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from assay.rl.advantages import gae, grpo, grpo_of_steps, rloo, whitened

NAN = np.nan


def test_rloo_by_hand_and_what_was_not_scored_leaves_its_group():
    np.testing.assert_allclose(rloo(np.array([[1.0, 2.0, 6.0]])), [[-3.0, -1.5, 4.5]])
    np.testing.assert_allclose(rloo(np.array([[1.0, NAN, 6.0]])), [[-5.0, NAN, 5.0]])
    assert np.isnan(rloo(np.array([[1.0, NAN, NAN]]))).all()


def test_rloo_sums_to_zero_and_does_not_see_a_prompts_zero():
    rewards = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(rloo(rewards).sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(rloo(rewards + np.arange(5.0)[:, None]), rloo(rewards))


def test_grpo_by_hand():
    np.testing.assert_allclose(grpo(np.array([[1.0, 3.0]]), floor=0.0), [[-(0.5**0.5), 0.5**0.5]])
    found = grpo(np.array([[2.0, 2.0, NAN], [5.0, NAN, NAN]]))
    np.testing.assert_allclose(found[0, :2], 0)
    assert np.isnan(found[0, 2])
    assert np.isnan(found[1]).all()


def test_grpo_of_steps_by_hand():
    """Two answers: steps of reward 1 and 3 end at tokens 1 and 2, one of 2 at token 0; mean 2, std 1."""
    found = grpo_of_steps(np.array([[[NAN, 1.0, 3.0], [2.0, NAN, NAN], [NAN, NAN, NAN]]]), floor=0.0)
    np.testing.assert_allclose(found[0, :2], [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], atol=1e-12)
    assert np.isnan(found[0, 2]).all()
    assert np.isnan(grpo_of_steps(np.array([[[NAN, 4.0], [NAN, NAN]]]))).all()
    with pytest.raises(ValueError, match="prompts, answers, tokens"):
        grpo_of_steps(np.zeros((2, 3)))


def test_one_step_an_answer_is_grpo_at_every_token():
    rewards_PK = np.random.default_rng(0).normal(size=(3, 5))
    rewards_PKT = np.full((3, 5, 4), NAN)
    rewards_PKT[:, :, -1] = rewards_PK
    np.testing.assert_allclose(grpo_of_steps(rewards_PKT), np.repeat(grpo(rewards_PK)[:, :, None], 4, axis=2))


def test_more_steps_of_a_usual_reward_are_worth_nothing():
    """Ten steps of the mean reward have an advantage of 0, as one has: length alone is not rewarded."""
    rewards_PKT = np.full((1, 3, 10), NAN)
    rewards_PKT[0, 0] = 0.5
    rewards_PKT[0, 1, 0] = 0.2
    rewards_PKT[0, 2, 0] = 0.8
    np.testing.assert_allclose(grpo_of_steps(rewards_PKT)[0, 0], 0, atol=1e-12)


def test_gae_by_hand():
    rewards, values = np.array([[0.0, 1.0, 9.0]]), np.array([[0.5, 0.25, 9.0]])
    mask = np.array([[True, True, False]])
    found = gae(rewards, values, mask, decay=0.5)
    np.testing.assert_allclose(found, [[(0.25 - 0.5) + 0.5 * 0.75, 0.75, 0.0]])
    np.testing.assert_allclose(gae(rewards, values, mask, decay=1.0)[0, 0], 1.0 - 0.5)  # the return less the value


def test_whitened_numbers_have_mean_0_and_std_1_where_the_mask_is():
    values, mask = np.random.default_rng(0).normal(3, 2, (4, 6)), np.arange(24).reshape(4, 6) % 3 > 0
    found = whitened(values, mask)
    assert found[mask].mean() == pytest.approx(0, abs=1e-12)
    assert found[mask].std() == pytest.approx(1)
    assert (found[~mask] == 0).all()
    assert (whitened(np.ones((2, 2)), np.ones((2, 2), bool)) == 0).all()
    assert (whitened(np.ones((2, 2)), np.zeros((2, 2), bool)) == 0).all()


def test_tables_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="prompts, answers"):
        rloo(np.zeros(3))
