"""Shaping of rewards: hand-computed numbers, and that nothing is invented for what was not scored."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from assay.rl.shaping import CostState, bounded, centred, clipped, combined, robust


def test_centred_by_hand_and_a_prompt_without_reference_rewards_has_none():
    rewards = centred(np.array([[1.0, 3.0], [5.0, np.nan]]), np.array([[0.0, 1.0], [np.nan, np.nan]]))
    np.testing.assert_allclose(rewards[0], [0.5, 2.5])
    assert np.isnan(rewards[1]).all()
    np.testing.assert_allclose(centred(np.array([[1.0]]), np.array([[np.nan, 2.0]])), [[-1.0]])
    with pytest.raises(ValueError, match="of 1 prompts for 2"):
        centred(np.zeros((2, 3)), np.zeros((1, 3)))


def test_clipped_and_bounded_by_hand():
    np.testing.assert_allclose(clipped(np.array([[-5.0, 0.5, 9.0]]), -1, 1), [[-1, 0.5, 1]])
    np.testing.assert_allclose(bounded(np.array([[0.0, math.log(3), -1000.0]])), [[0.5, 0.75, 0.0]], atol=1e-12)
    assert np.isnan(bounded(np.array([[np.nan]])))[0, 0]
    with pytest.raises(ValueError, match="below high"):
        clipped(np.zeros((1, 1)), 1, 1)


def test_a_sum_without_one_of_its_parts_is_no_reward():
    columns = {"helpful": np.array([[1.0, np.nan]]), "safe": np.array([[2.0, 2.0]])}
    found = combined(columns, {"helpful": 1.0, "safe": 0.5})
    assert found[0, 0] == 2.0
    assert np.isnan(found[0, 1])
    with pytest.raises(ValueError, match="name the same scorers"):
        combined(columns, {"helpful": 1.0})
    with pytest.raises(ValueError, match="other answers"):
        combined({"a": np.zeros((1, 2)), "b": np.zeros((2, 2))}, {"a": 1.0, "b": 1.0})


def test_a_cost_comes_to_its_limit_and_the_multiplier_is_0_where_it_is_below():
    state = CostState(limit=0.3, rate=0.5)
    for _ in range(2000):
        cost = 1 / (1 + state.multiplier)  # a policy that avoids the cost the more, the more it is worth
        state = state.after_step(np.array([[cost]]))
    assert cost == pytest.approx(0.3, abs=0.01)
    assert CostState(limit=0.3, multiplier=0.1).after_step(np.array([[0.0]])).multiplier == pytest.approx(0.085)
    assert CostState(limit=0.3, multiplier=0.01).after_step(np.array([[0.0]])).multiplier == 0.0
    assert CostState(**json.loads(json.dumps(state.saved()))) == state


def test_less_cost_by_hand_and_no_cost_no_reward():
    found = CostState(limit=1.0, multiplier=2.0).less_cost(np.array([[3.0, 3.0]]), np.array([[1.5, np.nan]]))
    assert found[0, 0] == 2.0
    assert np.isnan(found[0, 1])
    kept = CostState(limit=1.0, multiplier=2.0)
    assert kept.after_step(np.array([[np.nan]])) == kept


def test_the_robust_reward_goes_from_the_mean_to_the_least_member():
    members = np.random.default_rng(0).normal(size=(4, 3, 5))
    members -= members.mean(2, keepdims=True)
    np.testing.assert_allclose(robust(members, 1e5), members.mean(0), atol=1e-4)
    np.testing.assert_allclose(robust(members, 1e-3), members.min(0), atol=2e-3)
    beta = 30.0
    np.testing.assert_allclose(robust(members, beta), members.mean(0) - members.var(0) / (2 * beta), atol=1e-3)


def test_the_robust_reward_does_not_see_the_units_zero_of_a_member():
    members = np.random.default_rng(1).normal(size=(3, 2, 4))
    np.testing.assert_allclose(robust(members + np.array([5.0, -3.0, 0.0])[:, None, None], 0.5), robust(members, 0.5))
    members[1, 0, 2] = np.nan
    found = robust(members, 0.5)
    assert np.isnan(found[0, 2])
    assert np.isfinite(found[1]).all()
    with pytest.raises(ValueError, match="beta 0 must"):
        robust(members, 0.0)
    with pytest.raises(ValueError, match="shape"):
        robust(members[0], 1.0)
