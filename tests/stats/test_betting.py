"""Sequential tests by betting: hand-computed capital, the level they promise, and tests that are broken on purpose beside it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from assay.stats.betting import SIZES_G, Evidence, gains, mean_evidence, mean_of_logs


def test_capital_of_two_looks_by_hand():
    """A half is bet from the first look on, a sixth joins at the second, a third is at rest."""
    first = Evidence(bound=0.5).seen([0, 1])
    assert first.log_evidence == pytest.approx(math.log(0.5 * np.mean([(1 + s) * (1 - s) for s in SIZES_G]) + 0.5))
    assert first.highest == pytest.approx(math.log(0.5 * np.mean([1 + s for s in SIZES_G]) + 0.5))
    second = first.seen([0])
    bet = np.mean([(0.5 * (1 + s) * (1 - s) + 1 / 6) * (1 + s) for s in SIZES_G])
    assert second.log_evidence == pytest.approx(math.log(bet + 1 / 3))
    assert (second.looks, second.num) == (2, 3)


def test_what_is_bet_and_what_rests_is_all_of_the_capital_while_nothing_is_compared():
    evidence = Evidence(bound=0.45)
    assert evidence.log_evidence == 0
    for _ in range(50):
        evidence = evidence.seen([math.nan])
        assert evidence.log_evidence == pytest.approx(0, abs=1e-12)


def test_capital_is_at_least_half_of_what_betting_all_of_it_at_once_would_have():
    rng = np.random.default_rng(0)
    for won in (0.2, 0.45, 0.6):
        evidence, all_at_once_G = Evidence(bound=0.45), np.zeros(len(SIZES_G))
        for _ in range(30):
            results = (rng.random(8) < won).astype(float)
            evidence = evidence.seen(results)
            all_at_once_G = all_at_once_G + np.log(gains(results, 0.45)).sum(0)
            assert evidence.log_evidence >= mean_of_logs(all_at_once_G) - math.log(2)


def test_no_bet_gains_where_the_claim_is_just_true():
    for share in (0.3, 0.45, 0.7):
        won_G, lost_G = gains(np.array([1.0, 0.0]), share)
        np.testing.assert_allclose(share * won_G + (1 - share) * lost_G, 1)


def test_a_tie_counts_as_half_a_win():
    tied, both = gains(np.array([0.5]), 0.45)[0], gains(np.array([0.0, 1.0]), 0.45)
    np.testing.assert_allclose(tied, both.mean(0))


@pytest.mark.parametrize("endless", [False, True])
def test_a_state_that_was_saved_goes_on_bit_for_bit(endless):
    rng = np.random.default_rng(0)
    looks = [rng.random(size) for size in (13, 0, 1, 26)]
    whole = part = Evidence(bound=0.45, endless=endless)
    for look in looks:
        whole = whole.seen(look)
        part = Evidence.of_state(json.loads(json.dumps(part.state))).seen(look)
    assert part == whole
    assert (part.num, part.looks) == (40, 4)


def test_comparisons_without_a_result_are_counted_and_change_nothing_else():
    evidence = Evidence(bound=0.45).seen([1, 0, 0.5])
    missing = Evidence(bound=0.45).seen([math.nan, 1, math.nan, 0, 0.5])
    assert missing.log_bet == evidence.log_bet
    assert (missing.num, missing.num_missing) == (3, 2)
    assert Evidence(bound=0.45).seen([math.nan]).num_missing == 1


def share_of_alarms(won: float, bound: float, *, runs: int, length: int, alpha: float = 0.05, seed: int = 0) -> float:
    """Of runs that are looked at every 25 comparisons."""
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(runs):
        evidence = Evidence(bound=bound)
        for _ in range(0, length, 25):
            evidence = evidence.seen(rng.random(25) < won)
        alarms += evidence.alarmed(alpha)
    return alarms / runs


def test_false_alarms_stay_within_alpha_at_the_boundary_and_below_it():
    assert share_of_alarms(0.45, 0.45, runs=400, length=400) <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
    assert share_of_alarms(0.5, 0.45, runs=200, length=400) <= 0.03


def test_a_bound_of_a_half_alarms_where_policies_lose_two_points_without_harm():
    assert share_of_alarms(0.48, 0.5, runs=60, length=3000) > 0.15  # why the margin delta is there


def test_a_policy_that_wins_a_fifth_is_found():
    rng = np.random.default_rng(1)
    assert all(Evidence(bound=0.45).seen(rng.random(200) < 0.2).alarmed(0.05) for _ in range(50))


def test_dependent_comparisons_keep_the_level():
    """Runs of luck: the share won swings from .2 to .7 as a whole, its conditional mean is never below the bound."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        won, evidence = 0.45, Evidence(bound=0.45)
        for _ in range(20):
            results = rng.random(15) < won
            evidence = evidence.seen(results)
            won = 0.45 if results.mean() > 0.5 else 0.6
        alarms += evidence.alarmed(0.05)
    assert alarms / 300 <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 300)


def test_looking_every_time_at_a_test_of_fixed_size_does_not_keep_the_level():
    """What betting is for: a z test at 5% after every comparison alarms in most runs without any change."""
    rng = np.random.default_rng(3)
    n = np.arange(1, 1001)
    alarms = 0
    for _ in range(100):
        z = (np.cumsum(rng.random(1000) < 0.45) - 0.45 * n) / np.sqrt(n * 0.45 * 0.55)
        alarms += bool((z[20:] < -1.645).any())
    assert alarms / 100 > 0.25


def test_a_loss_after_long_gains_is_found_where_a_gambler_who_bet_all_at_once_is_ruined():
    rng = np.random.default_rng(4)
    looks = [rng.random(32) < won for won in (*[0.6] * 40, *[0.25] * 8)]
    evidence, at_once_G = Evidence(bound=0.45), np.zeros(len(SIZES_G))
    for i, look in enumerate(looks):
        evidence = evidence.seen(look)
        at_once_G = at_once_G + np.log(gains(look.astype(float), 0.45)).sum(0)
        assert i >= 40 or not evidence.alarmed(0.05)
    assert evidence.alarmed(0.05)
    assert mean_of_logs(at_once_G) < -2


def test_putting_a_whole_capital_in_at_every_look_does_not_keep_the_level():
    """Why the parts sum to 1: the endless form, taken for a test at alpha, accuses most runs at the boundary."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(60):
        evidence = Evidence(bound=0.45, endless=True)
        for _ in range(60):
            evidence = evidence.seen(rng.random(10) < 0.45)
        alarms += evidence.alarmed(0.05)
    assert alarms / 60 > 0.5


def test_endless_by_hand_and_it_finds_a_change_late_in_a_stream():
    endless = Evidence(bound=0.5, endless=True).seen([0.0]).seen([1.0])
    by_hand = [((1 + s) + 1) * (1 - s) for s in SIZES_G]
    assert endless.log_evidence == pytest.approx(math.log(np.mean(by_hand)))
    rng = np.random.default_rng(4)
    healthy = Evidence(bound=0.45, endless=True)
    for _ in range(100):
        healthy = healthy.seen(rng.random(20) < 0.6)
    assert not healthy.alarmed(0.001)
    assert healthy.seen(rng.random(150) < 0.2).alarmed(0.001)


def test_looks_to_a_false_alarm_of_the_endless_form_are_at_least_one_over_alpha():
    rng = np.random.default_rng(5)
    times = []
    for _ in range(200):
        evidence, num = Evidence(bound=0.45, endless=True), 0
        while not evidence.alarmed(0.02) and num < 5000:
            evidence, num = evidence.seen(rng.random(1) < 0.45), num + 1
        times.append(num)
    assert np.mean(times) >= 50


def test_the_mean_over_opponents_is_a_mean_of_capitals():
    one, other = Evidence(bound=0.45).seen([0, 0, 0]), Evidence(bound=0.45).seen([1])
    assert mean_evidence([one, other]) == pytest.approx(math.log((math.exp(one.log_evidence) + math.exp(other.log_evidence)) / 2))
    with pytest.raises(ValueError, match="at least one"):
        mean_evidence([])


@pytest.mark.parametrize("results", [[1.2], [-0.1], [math.inf]])
def test_results_outside_of_the_unit_interval_are_refused(results):
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        Evidence(bound=0.45).seen(results)


def test_bounds_alphas_and_states_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="bound 1 must"):
        Evidence(bound=1.0)
    with pytest.raises(ValueError, match="bound 0 must"):
        Evidence(bound=0.0)
    with pytest.raises(ValueError, match="alpha 0 must"):
        Evidence(bound=0.45).alarmed(0.0)
    with pytest.raises(ValueError, match="another version"):
        Evidence(bound=0.45, log_bet=(0.0,))
    with pytest.raises(ValueError, match=r"log_capital, .* another version"):
        Evidence.of_state({"bound": 0.45, "log_capital": [0.0] * 6, "highest": 0.0, "num": 1, "num_missing": 0})
