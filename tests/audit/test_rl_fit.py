"""Gao's form for reinforcement learning: known curves come back, a curve of another form is refused, the level is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.audit.rl_fit import fit_rl

DISTANCE = np.sqrt(np.array([0.0, 0.5, 1, 2, 4, 6, 9, 12]))


def gao(d: np.ndarray, alpha: float = 0.6, beta: float = 0.35) -> np.ndarray:
    return np.where(d > 0, d * (alpha - beta * np.log(np.maximum(d, 1e-9))), 0.0)


def bent(d: np.ndarray) -> np.ndarray:
    return np.where(d < 1.5, 0.6 * d, 0.9 - 1.2 * (d - 1.5))


def seen(form, *, prompts: int = 64, noise: float = 0.8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 0.5, (1, prompts)) * np.minimum(DISTANCE, 1.5)[:, None]
    gain = form(DISTANCE)[:, None] + own + rng.normal(0, noise, (len(DISTANCE), prompts))
    gain[0] = 0
    return gain


def test_a_curve_without_noise_comes_back():
    gain = np.repeat(gao(DISTANCE)[:, None], 16, axis=1)
    fit = fit_rl(DISTANCE, gain, seed=0)
    assert fit.alpha == pytest.approx(0.6)
    assert fit.beta == pytest.approx(0.35)
    np.testing.assert_allclose(fit.at_E, gao(DISTANCE), atol=1e-9)
    assert fit.peak == pytest.approx(math.exp(0.6 / 0.35 - 1))
    best = np.linspace(0.1, 3, 3000)
    assert fit.peak == pytest.approx(best[gao(best).argmax()], abs=2e-3)


def test_a_form_that_holds_is_rarely_refused_and_its_intervals_cover():
    fits = [fit_rl(DISTANCE, seen(gao, seed=seed), seed=seed, num=300) for seed in range(200)]
    assert np.mean([not fit.holds for fit in fits]) <= 0.07 + 2.6 * math.sqrt(0.07 * 0.93 / 200)
    assert np.mean([fit.alpha_interval.low <= 0.6 <= fit.alpha_interval.high for fit in fits]) >= 0.88
    assert np.mean([fit.beta_interval.low <= 0.35 <= fit.beta_interval.high for fit in fits]) >= 0.88


def test_a_curve_of_another_form_is_refused_and_has_no_peak():
    fits = [fit_rl(DISTANCE, seen(bent, prompts=128, seed=seed), seed=seed, num=300) for seed in range(20)]
    assert sum(not fit.holds for fit in fits) >= 19
    assert all(math.isnan(fit.peak) for fit in fits if not fit.holds)


def test_a_gain_that_only_rises_has_no_peak():
    fit = fit_rl(DISTANCE, seen(lambda d: gao(d, 1.0, 0.05), noise=0.1), seed=0)
    assert fit.holds
    assert math.isnan(fit.peak)  # exp(19) is not where anything was measured


def test_prompts_without_gold_are_left_out_and_too_little_says_so():
    gain = seen(gao)
    whole = fit_rl(DISTANCE, gain[:, 4:], seed=0)
    gain[3, :4] = np.nan
    assert fit_rl(DISTANCE, gain, seed=0).alpha == pytest.approx(whole.alpha)
    assert "too few" in fit_rl(DISTANCE[:4], gain[:4], seed=0).caveat
    assert "8 are needed" in fit_rl(DISTANCE, gain[:, 4:10], seed=0).caveat
    assert math.isnan(fit_rl(DISTANCE[:4], gain[:4], seed=0).alpha)
