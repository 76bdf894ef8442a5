"""The clipped objectives of the three estimators, an answer a number; the loop sums them and divides by the answers of a step.

Suffixes: N answers, T tokens of answers. Log-probabilities are 0 where the mask is False.
"""

from __future__ import annotations

import torch


def rloo_losses(
    now_NT: torch.Tensor, then_NT: torch.Tensor, mask_NT: torch.Tensor, advantage_N: torch.Tensor, clip: float
) -> torch.Tensor:
    """(N,) -min(ratio A, clipped ratio A), with the ratio of the probabilities of the whole answer.

    Source: arXiv 2402.14740, and TRL's RLOOTrainer. now, then: log-probabilities of the policy that is trained, and of the one that
    drew the answers.
    """
    ratio_N = torch.exp(((now_NT - then_NT) * mask_NT).sum(1))
    return -clipped_gain(ratio_N, advantage_N, clip)


def grpo_losses(
    now_NT: torch.Tensor,
    then_NT: torch.Tensor,
    reference_NT: torch.Tensor,
    mask_NT: torch.Tensor,
    advantage_NT: torch.Tensor,
    clip: float,
    beta: float,
) -> torch.Tensor:
    """(N,) mean over an answer's tokens of -min(ratio A, clipped ratio A) + beta ratio k3, the KL to the reference.

    The ratio before k3 makes its gradient that of the KL ("unbiased KL estimate", DeepSeek-V3.2, arXiv 2512.02556); without it the
    gradient is that of the KL in the other direction. advantage: (N, 1) of answers, or (N, T) of tokens. Source of the rest: arXiv
    2402.03300, equation 3; TRL's GRPOTrainer with loss_type="grpo".
    """
    ratio_NT = torch.exp(now_NT - then_NT)
    gain_NT = clipped_gain(ratio_NT, advantage_NT, clip)
    difference_NT = reference_NT - now_NT
    k3_NT = torch.exp(difference_NT) - difference_NT - 1
    return ((beta * ratio_NT * k3_NT - gain_NT) * mask_NT).sum(1) / mask_NT.sum(1).clamp(min=1)


def ppo_losses(
    now_NT: torch.Tensor, then_NT: torch.Tensor, mask_NT: torch.Tensor, advantage_NT: torch.Tensor, clip: float
) -> torch.Tensor:
    """(N,) sum over an answer's tokens of -min(ratio A, clipped ratio A). Source: arXiv 1707.06347, equation 7."""
    return -(clipped_gain(torch.exp(now_NT - then_NT), advantage_NT, clip) * mask_NT).sum(1)


def value_losses(
    now_NT: torch.Tensor, then_NT: torch.Tensor, return_NT: torch.Tensor, mask_NT: torch.Tensor, clip: float
) -> torch.Tensor:
    """(N,) half the sum of squared errors of the values, the larger of the error and that of the value clipped around its old one.

    Source: arXiv 2403.17031, detail 20 ("value function loss clipping")."""
    clipped_NT = then_NT + (now_NT - then_NT).clamp(-clip, clip)
    error_NT = torch.maximum((now_NT - return_NT) ** 2, (clipped_NT - return_NT) ** 2)
    return 0.5 * (error_NT * mask_NT).sum(1)


def clipped_gain(ratio: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """min(ratio A, clipped ratio A): no gain from moving a probability by more than `clip` in one step."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
