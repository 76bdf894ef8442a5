"""Votes by hand, and Dawid and Skene's model on judges whose habits are known."""

from __future__ import annotations

import numpy as np
import pytest

from assay.stats.metrics import sigmoid
from assay.stats.votes import dawid_skene, log_odds_agreed, log_odds_right, majority, right_of_two, weighted

NAN = np.nan
VOTES = np.array([[1, 1, 0], [1, 0, 0.5], [NAN, 0.2, 0], [NAN, NAN, NAN], [0.5, 0.5, NAN]])


def test_majority_by_hand():
    assert np.array_equal(majority(VOTES), [1, 0.5, 0, NAN, 0.5], equal_nan=True)


def test_weighted_votes_by_hand():
    found = weighted(VOTES, np.array([2.0, 1.0, 0.5]))
    assert found == pytest.approx(np.array([sigmoid(2.5), sigmoid(1.0), sigmoid(-1.5), NAN, 0.5]), nan_ok=True)


def test_right_of_two_halves_ties_of_the_vote_and_leaves_ties_of_the_label_out():
    found = right_of_two(np.array([1, 0, 0.5, 0.9, NAN]), np.array([1, 1, 0, 0.5, 1]))
    assert np.array_equal(found, [1, 0, 0.5, NAN, NAN], equal_nan=True)


def test_log_odds_right_by_hand():
    votes = np.array([[1, 1], [1, 0], [1, NAN], [0, 0.5]])
    gold = np.array([1, 1, 1, 1])
    assert log_odds_right(votes, gold) == pytest.approx([np.log(3.5 / 1.5), np.log(1.5 / 1.5)])


def judged(num_items: int, rights: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold = rng.integers(2, size=num_items).astype(float)
    is_right = rng.random((num_items, len(rights))) < np.array(rights)
    return np.where(is_right, gold[:, None], 1 - gold[:, None]), gold


def test_dawid_and_skene_find_classes_and_habits_without_a_label():
    votes, gold = judged(3000, [0.9, 0.75, 0.6, 0.55])
    found = dawid_skene(votes, num_classes=2)
    assert found.has_converged
    assert found.confusion_JKL[:, 0, 0] == pytest.approx([0.9, 0.75, 0.6, 0.55], abs=0.05)
    right = np.mean((found.posterior_NK[:, 1] > 0.5) == (gold == 1))
    assert right > np.mean(right_of_two(majority(votes), gold)) + 0.05
    assert np.allclose(found.posterior_NK.sum(1), 1)


def test_dawid_and_skene_with_a_judge_who_always_says_one():
    votes, gold = judged(2000, [0.85, 0.85, 0.85])
    found = dawid_skene(np.column_stack([votes, np.ones(len(votes))]), num_classes=2)
    assert np.mean((found.posterior_NK[:, 1] > 0.5) == (gold == 1)) > 0.9
    assert found.confusion_JKL[3, :, 1] == pytest.approx([1, 1], abs=1e-3)


def test_an_item_that_nobody_labelled_has_the_prior():
    votes, _ = judged(500, [0.9, 0.9, 0.9])
    found = dawid_skene(np.vstack([votes, np.full(3, NAN)]), num_classes=2)
    assert found.posterior_NK[-1] == pytest.approx(found.prior_K, abs=1e-3)


def test_weights_without_labels_do_not_see_which_answer_is_called_chosen():
    """In data of preferences the first answer is the better one in every pair: a model with a prior would learn that alone."""
    votes, gold = judged(2000, [0.8, 0.7, 0.6])
    chosen_first = np.where(gold[:, None] == 1, votes, 1 - votes)
    assert log_odds_agreed(chosen_first) == pytest.approx(log_odds_agreed(votes))
    shares = [0.8, 0.7, 0.6]
    assert log_odds_agreed(votes) == pytest.approx([np.log(share / (1 - share)) for share in shares], abs=0.35)
    # a judge without any skill has no weight, though every pair's first answer is right
    noise = (np.random.default_rng(5).random((2000, 1)) < 0.5).astype(float)
    assert abs(log_odds_agreed(np.column_stack([chosen_first, noise]))[-1]) < 0.2


def test_ties_and_gaps_weigh_nothing():
    votes, _ = judged(1000, [0.8, 0.7, 0.6])
    with_rest = np.vstack([votes, np.full((50, 3), 0.5), np.full((50, 3), NAN)])
    assert log_odds_agreed(with_rest) == pytest.approx(log_odds_agreed(votes), abs=0.02)


def test_what_cannot_be_known_is_refused():
    with pytest.raises(ValueError, match="2 judges: votes without labels say who is right from three judges on"):
        log_odds_agreed(np.ones((4, 2)))
    with pytest.raises(ValueError, match="labels are numbers from 0 to 1, not 0 to 2"):
        dawid_skene(np.array([[0.0, 2.0]]), num_classes=2)
