"""Objectives, against numbers worked out by hand: log sigmoid(0) = -ln 2, log sigmoid(ln 3) = ln(3/4)."""

from __future__ import annotations

import math

import torch

from assay.models.objectives import bradley_terry, centring

LN2, LN3 = math.log(2), math.log(3)


def rewards(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def check_values(found: torch.Tensor, *wanted: float) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rewards(*wanted), atol=1e-6, rtol=1e-6)


def test_bradley_terry_by_hand():
    chosen, rejected = rewards(2.0, LN3, 0.0, 5 + LN3), rewards(2.0, 0.0, LN3, 5.0)
    check_values(bradley_terry(chosen, rejected, torch.ones(4)), LN2, math.log(4 / 3), math.log(4), math.log(4 / 3))


def test_a_tie_pulls_the_rewards_together():
    check_values(bradley_terry(rewards(1.0), rewards(1.0), rewards(0.5)), LN2)
    check_values(bradley_terry(rewards(LN3), rewards(0.0), rewards(0.5)), 0.5 * math.log(4 / 3) + 0.5 * math.log(4))
    chosen = rewards(0.0).requires_grad_()
    bradley_terry(chosen, rewards(0.0), rewards(0.5)).sum().backward()
    assert chosen.grad is not None
    check_values(chosen.grad, 0.0)


def test_a_soft_label_has_its_least_loss_at_its_own_log_odds():
    difference = rewards(LN3).requires_grad_()
    loss = bradley_terry(difference, rewards(0.0), rewards(0.75))
    check_values(loss.detach(), 0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    loss.sum().backward()
    assert difference.grad is not None
    check_values(difference.grad, 0.0)


def test_a_margin_is_taken_off_the_difference():
    margin = rewards(LN3, 0.0, 2.0)
    check_values(
        bradley_terry(rewards(2 * LN3, LN3, 2.0), rewards(0.0, 0.0, 0.0), torch.ones(3), margin),
        math.log(4 / 3),
        math.log(4 / 3),
        LN2,
    )
    check_values(bradley_terry(rewards(0.0), rewards(0.0), rewards(0.0), rewards(LN3)), math.log(4 / 3))


def test_swapping_the_answers_and_the_label_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, preference = torch.randn(20, generator=generator), torch.randn(20, generator=generator), torch.rand(20)
    torch.testing.assert_close(bradley_terry(chosen, rejected, preference), bradley_terry(rejected, chosen, 1 - preference))


def test_large_rewards_do_not_overflow():
    chosen, rejected = rewards(1000.0, -1000.0, 1000.0).requires_grad_(), rewards(-1000.0, 1000.0, -1000.0)
    loss = bradley_terry(chosen, rejected, rewards(1.0, 1.0, 0.5))
    check_values(loss.detach(), 0.0, 2000.0, 1000.0)
    loss.sum().backward()
    assert chosen.grad is not None
    check_values(chosen.grad, 0.0, -1.0, 0.5)


def test_centring_by_hand():
    check_values(centring(rewards(1.0, 3.0, -2.0), rewards(-1.0, 1.0, -0.5)), 0.0, 16.0, 6.25)
