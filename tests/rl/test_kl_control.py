"""KL estimates and controllers: hand-computed numbers, and what holds of any controller."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from assay.rl.kl_control import KLSettings, KLState, after_alarm, after_step, beta_of, first_state, kl_estimate, target_at


def test_estimates_by_hand():
    np.testing.assert_allclose(kl_estimate([[0.5, -0.5]], "k1"), [[0.5, -0.5]])
    np.testing.assert_allclose(kl_estimate([[0.5, -0.5]], "k2"), [[0.125, 0.125]])
    np.testing.assert_allclose(kl_estimate([[0.5, -0.5]], "k3"), [[math.exp(-0.5) - 0.5, math.exp(0.5) - 1.5]])
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_estimate([[0.0]], "k4")


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    rng = np.random.default_rng(0)
    policy, reference = np.array([0.9, 0.05, 0.05]), np.array([0.3, 0.3, 0.4])
    exact = float((policy * np.log(policy / reference)).sum())
    tokens = rng.choice(3, size=(1, 200_000), p=policy)
    log_ratio = np.log(policy / reference)[tokens]
    for kind in ("k1", "k3"):
        values = kl_estimate(log_ratio, kind)
        assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(values.size)
    assert abs(kl_estimate(log_ratio, "k2").mean() - exact) > 0.02
    assert (kl_estimate(log_ratio, "k3") >= 0).all()


def test_fixed_stays_and_ziegler_moves_by_hand():
    fixed = KLSettings(beta=0.05)
    assert beta_of(fixed, after_step(fixed, first_state(fixed), 100.0)) == 0.05
    ziegler = KLSettings(control="ziegler", beta=0.05, target=6.0, gain=0.1)
    state = after_step(ziegler, first_state(ziegler), 6.6)
    assert state.beta == pytest.approx(0.05 * (1 + 0.1 * 0.1))
    assert after_step(ziegler, first_state(ziegler), 60.0).beta == pytest.approx(0.05 * 1.02)  # clipped at .2
    assert after_step(ziegler, first_state(ziegler), 0.0).beta == pytest.approx(0.05 * 0.98)


def world(beta: float) -> float:
    """KL that a policy comes to at a factor: falls with it."""
    return 2.0 / beta


@pytest.mark.parametrize("control", ["ziegler", "pi"])
def test_controllers_bring_the_kl_to_its_target(control):
    settings = KLSettings(control=control, beta=0.05, target=8.0, gain=0.3, integral=0.05)
    state, kl = first_state(settings), world(0.05)
    for _ in range(400):
        kl += 0.3 * (world(beta_of(settings, state)) - kl)  # the policy follows slowly
        state = after_step(settings, state, kl)
    assert kl == pytest.approx(8.0, rel=0.05)


def test_the_sum_of_errors_stands_still_at_an_end_so_that_it_comes_back_at_once():
    settings = KLSettings(control="pi", beta=0.1, target=5.0, gain=0.0, integral=0.1, high=0.2)
    state = first_state(settings)
    for _ in range(500):
        state = after_step(settings, state, 50.0)
    assert state.beta == 0.2
    assert state.summed <= math.log(2) / 0.1 + 1.0
    for _ in range(3):
        state = after_step(settings, state, 0.0)
    assert state.beta < 0.2  # without it: some 500 steps later


def test_a_target_grows_by_its_schedule_up_to_its_end():
    settings = KLSettings(control="pi", target=2.0, schedule=0.5, highest_target=4.0)
    assert [target_at(settings, step) for step in (0, 1, 4, 100)] == [2.0, 2.5, 4.0, 4.0]


def test_an_alarm_raises_beta_at_once_and_fades():
    settings = KLSettings(beta=0.1, on_alarm=4.0, fades=10.0)
    state = after_alarm(settings, first_state(settings))
    assert beta_of(settings, state) == pytest.approx(0.4)
    for _ in range(10):
        state = after_step(settings, state, 1.0)
    assert beta_of(settings, state) == pytest.approx(0.1 * 4**0.5)
    for _ in range(200):
        state = after_step(settings, state, 1.0)
    assert beta_of(settings, state) == pytest.approx(0.1, rel=1e-4)


def test_a_kl_that_is_no_number_changes_nothing_and_the_state_is_json():
    settings = KLSettings(control="pi", target=5.0)
    state = after_step(settings, first_state(settings), 9.0)
    assert after_step(settings, state, math.nan).beta == state.beta
    assert KLState.of_saved(json.loads(json.dumps(state.saved()))) == state


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"control": "pid"}, "fixed, ziegler, pi"),
        ({"control": "pi"}, "needs a target"),
        ({"control": "pi", "target": 0.0}, "above 0"),
        ({"beta": -1.0}, "0 or more"),
        ({"control": "ziegler", "target": 5.0, "beta": 20.0}, "range"),
        ({"control": "ziegler", "target": 5.0, "on_alarm": 0.5}, "1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        KLSettings(**wrong)
