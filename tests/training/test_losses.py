"""Objectives, against numbers worked out by hand: log sigmoid(0) = -ln 2, log sigmoid(ln 3) = ln(3/4)."""

from __future__ import annotations

import math

import pytest
import torch

from assay.training.losses import (
    bradley_terry,
    centring,
    davidson,
    flipped_bradley_terry,
    masked_regression,
    plackett_luce,
    rao_kupper,
    smooth_labels,
    unflip_labels,
)

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


# Wrong labels


def test_smoothing_by_hand():
    """0.9 ln(4/3) + 0.1 ln 4 at a difference of ln 3; least where sigmoid is 0.9, at ln 9 = 2 ln 3."""
    labels = smooth_labels(rewards(1.0, 0.0, 0.5), 0.1)
    check_values(labels, 0.9, 0.1, 0.5)
    check_values(bradley_terry(rewards(LN3), rewards(0.0), labels[:1]), 0.9 * math.log(4 / 3) + 0.1 * math.log(4))
    difference = rewards(2 * LN3).requires_grad_()
    bradley_terry(difference, rewards(0.0), labels[:1]).sum().backward()
    assert difference.grad is not None
    check_values(difference.grad, 0.0)
    assert torch.equal(smooth_labels(rewards(0.3, 1.0), 0.0), rewards(0.3, 1.0))


def test_unflipped_labels_by_hand():
    """e = 0.2: (1 - 0.2) / 0.6 = 4/3 and (0 - 0.2) / 0.6 = -1/3; the loss is (0.8 ln(4/3) - 0.2 ln 4) / 0.6 at ln 3."""
    labels = unflip_labels(rewards(1.0, 0.0, 0.5), 0.2)
    check_values(labels, 4 / 3, -1 / 3, 0.5)
    wanted = (0.8 * math.log(4 / 3) - 0.2 * math.log(4)) / 0.6
    check_values(bradley_terry(rewards(LN3), rewards(0.0), labels[:1]), wanted)


@pytest.mark.parametrize("flip_rate", [0.05, 0.2, 0.45])
def test_over_the_flips_the_unflipped_loss_is_the_loss_of_the_true_labels(flip_rate):
    generator = torch.Generator().manual_seed(0)
    difference, true = torch.randn(50, generator=generator), torch.rand(50, generator=generator)
    zero = torch.zeros(50)
    kept, turned = (bradley_terry(difference, zero, unflip_labels(label, flip_rate)) for label in (true, 1 - true))
    mean = (1 - flip_rate) * kept + flip_rate * turned
    torch.testing.assert_close(mean, bradley_terry(difference, zero, true), atol=1e-4, rtol=1e-5)


def test_the_likelihood_of_flipped_labels_by_hand():
    """sigmoid(ln 3) = 3/4: q = 0.8 * 3/4 + 0.2 * 1/4 = 0.65."""
    found = flipped_bradley_terry(rewards(LN3, LN3), rewards(0.0, 0.0), rewards(1.0, 0.0), 0.2)
    check_values(found, -math.log(0.65), -math.log(0.35))
    margin = flipped_bradley_terry(rewards(2 * LN3), rewards(0.0), rewards(1.0), 0.2, rewards(LN3))
    check_values(margin, -math.log(0.65))
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, labels = torch.randn(20, generator=generator), torch.randn(20, generator=generator), torch.rand(20)
    torch.testing.assert_close(
        flipped_bradley_terry(chosen, rejected, labels, 0.0), bradley_terry(chosen, rejected, labels), atol=0, rtol=0
    )


def test_a_pair_that_is_surely_mislabelled_costs_a_bounded_amount_and_pulls_no_more():
    chosen = rewards(-30.0, -1e4).requires_grad_()
    loss = flipped_bradley_terry(chosen, rewards(0.0, 0.0), rewards(1.0, 1.0), 0.2)
    check_values(loss.detach(), -math.log(0.2), -math.log(0.2))
    loss.sum().backward()
    assert chosen.grad is not None
    check_values(chosen.grad, 0.0, 0.0)


@pytest.mark.parametrize("rate", [-0.1, 0.5, 1.0, math.nan])
def test_rates_that_make_no_sense_are_named(rate):
    for call in (
        lambda: smooth_labels(rewards(1.0), rate),
        lambda: unflip_labels(rewards(1.0), rate),
        lambda: flipped_bradley_terry(rewards(1.0), rewards(0.0), rewards(1.0), rate),
    ):
        with pytest.raises(ValueError, match=f"{rate} must be at least 0 and below 0.5"):
            call()


# Ties


def test_rao_kupper_by_hand():
    """theta = 3 (w = ln 3), equal answers: win 1/4, tie 8 / 16. At d = ln 3: win 3/6, loss 1/10, tie 8 * 3 / 60 = 2/5."""
    labels = rewards(1.0, 0.5, 0.0)
    zero = torch.zeros(3)
    check_values(rao_kupper(zero, zero, labels, LN3), math.log(4), LN2, math.log(4))
    check_values(rao_kupper(zero + LN3, zero, labels, LN3), LN2, -math.log(0.4), math.log(10))
    check_values(rao_kupper(rewards(0.0), rewards(0.0), rewards(0.25), LN3), math.log(4))


def test_davidson_by_hand():
    """n = 1, d = 2 ln 2: weights 2 : 1 : 1/2, in sevenths 4 : 2 : 1. n = 2 and equal answers: 1 : 2 : 1."""
    labels = rewards(1.0, 0.5, 0.0)
    zero = torch.zeros(3)
    check_values(davidson(zero + 2 * LN2, zero, labels, 0.0), math.log(7 / 4), math.log(7 / 2), math.log(7))
    check_values(davidson(zero, zero, labels, LN2), math.log(4), LN2, math.log(4))


@pytest.mark.parametrize("size", [0.0, 0.3, 5.0, 80.0, 1e4])
def test_win_tie_and_loss_add_up_to_one_and_nothing_overflows(size):
    for loss, setting in ((rao_kupper, 1.1), (davidson, 0.4)):
        chosen = torch.full((3,), size, requires_grad=True)
        found = loss(chosen, torch.zeros(3), rewards(1.0, 0.5, 0.0), setting)
        assert torch.exp(-found).sum().item() == pytest.approx(1, abs=1e-5)
        found.sum().backward()
        assert chosen.grad is not None
        assert torch.isfinite(chosen.grad).all()


def test_with_hardly_any_ties_both_become_bradley_terry():
    chosen, rejected, labels = rewards(1.0, -2.0), rewards(0.5, 0.5), rewards(1.0, 0.0)
    wanted = bradley_terry(chosen, rejected, labels)
    torch.testing.assert_close(rao_kupper(chosen, rejected, labels, 1e-6), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(davidson(chosen, rejected, labels, -30.0), wanted, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"tie_width 0\.0"):
        rao_kupper(chosen, rejected, labels, 0.0)
    with pytest.raises(ValueError, match="tie_log_weight -inf"):
        davidson(chosen, rejected, labels, -math.inf)


# Rankings and attributes


def test_plackett_luce_by_hand():
    """Rewards ln 3, ln 2, 0: 3/6 * 2/3 = 1/3. Two answers: Bradley-Terry. One answer, or none: nothing to rank."""
    ranked = torch.tensor([[LN3, LN2, 0.0], [LN3, 0.0, 99.0], [5.0, 7.0, 7.0], [1.0, 1.0, 1.0]])
    present = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    check_values(plackett_luce(ranked, present), math.log(3), math.log(4 / 3), 0.0, 0.0)


def test_plackett_luce_is_blind_to_a_shift_and_to_padding_and_sums_to_one_over_orders():
    rewards_K = torch.tensor([0.3, -1.2, 2.0])
    present = torch.ones(6, 3, dtype=torch.bool)
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    found = plackett_luce(rewards_K[orders], present)
    assert torch.exp(-found).sum().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(plackett_luce(rewards_K[orders] + 50, present), found, atol=1e-4, rtol=0)
    padded = torch.tensor([[1.0, 0.0, 3.0]], requires_grad=True)
    plackett_luce(padded, torch.tensor([[True, True, False]])).sum().backward()
    assert padded.grad is not None
    assert padded.grad[0, 2] == 0
    assert torch.isfinite(padded.grad).all()
    with pytest.raises(ValueError, match=r"must both be \(P, K\)"):
        plackett_luce(rewards_K, present)


def test_masked_regression_by_hand():
    """(1 - 0)^2 and (3 - 1)^2 over two attributes: 2.5; only the second: 4; none: 0. With weights 3 and 1: (3 + 4) / 4."""
    predicted = torch.tensor([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]], requires_grad=True)
    target = torch.tensor([[0.0, 1.0], [math.nan, 1.0], [math.nan, math.nan]])
    found = masked_regression(predicted, target)
    check_values(found.detach(), 2.5, 4.0, 0.0)
    found.sum().backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, torch.tensor([[1.0, 2.0], [0.0, 4.0], [0.0, 0.0]]))
    check_values(masked_regression(predicted.detach()[:1], target[:1], rewards(3.0, 1.0)), 7 / 4)
    with pytest.raises(ValueError, match=r"must both be \(N, A\)"):
        masked_regression(predicted, target[:2])


def test_answers_of_one_rank_are_compared_with_those_below_alone():
    """Ranks 1, 1, 2: each of the first two against the third, -log of 3/4 and of 2/3; a strict order as without; all equal: 0."""
    ranked = torch.tensor([[LN3, LN2, 0.0]] * 3)
    present = torch.ones(3, 3, dtype=torch.bool)
    below = torch.tensor([[2, 2, 3], [1, 2, 3], [3, 3, 3]])
    check_values(plackett_luce(ranked, present, below), math.log(4 / 3) + math.log(3 / 2), math.log(3), 0.0)
    padded = torch.tensor([[1.0, 0.0, 3.0]], requires_grad=True)
    plackett_luce(padded, torch.tensor([[True, True, False]]), torch.tensor([[1, 3, 3]])).sum().backward()
    assert padded.grad is not None
    assert padded.grad[0, 2] == 0
    assert torch.isfinite(padded.grad).all()
    assert padded.grad[0, 0] == pytest.approx(-1 / (1 + math.e), abs=1e-6)
