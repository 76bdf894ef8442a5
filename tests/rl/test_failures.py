import math

import numpy as np
import pytest

from assay.errors import RewardError
from assay.records import Rewards
from assay.rl.failures import ALONE, check, resolve_failures

REWARDS = Rewards(value=np.array([1.0, math.nan, 3.0, 5.0, math.nan]), error=(None, "too long", None, None, "timed out"))
GROUPS = ["a", "a", "a", "b", "b"]


def test_scored_rewards_pass_as_they_are():
    rewards = Rewards(value=np.array([0.5, -2.0]))
    for on_failure in ("raise", "none", "group-mean", "drop-group"):
        assert resolve_failures(rewards, [0, 0], on_failure) == [0.5, -2.0]


def test_raise_names_how_many_and_the_first_reason():
    with pytest.raises(RewardError, match=r"2 of 5 .*too long"):
        resolve_failures(REWARDS, GROUPS, "raise")


def test_none_leaves_out_the_answer_alone():
    assert resolve_failures(REWARDS, GROUPS, "none") == [1.0, None, 3.0, 5.0, None]


def test_group_mean_is_the_mean_of_the_scored_siblings():
    assert resolve_failures(REWARDS, GROUPS, "group-mean") == [1.0, 2.0, 3.0, 5.0, 5.0]


def test_a_group_without_any_reward_has_no_mean():
    unscored = Rewards(value=np.array([math.nan, math.nan, 4.0]))
    assert resolve_failures(unscored, ["a", "a", "b"], "group-mean") == [None, None, 4.0]


def test_drop_group_leaves_out_every_sibling_and_no_other_group():
    one = Rewards(value=np.array([1.0, math.nan, 3.0, 5.0, 6.0]))
    assert resolve_failures(one, GROUPS, "drop-group") == [None, None, None, 5.0, 6.0]


def test_a_policy_that_needs_siblings_is_refused_where_they_are_not_seen():
    with pytest.raises(ValueError, match="one answer at a time"):
        check("group-mean", ALONE)
    with pytest.raises(ValueError, match="no such failure policy"):
        check("zero")


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="4 group labels for 5"):
        resolve_failures(REWARDS, GROUPS[:4], "none")
