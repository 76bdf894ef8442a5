"""Best-of-n with any Scorer: rank, pick, rejection-sample. `assay.audit.best_of_n` estimates the gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.records import Completion, Rewards
from assay.scorers.base import Scorer


def rank(scorer: Scorer, completions: Sequence[Completion]) -> tuple[np.ndarray, Rewards]:
    """Indices of the answers to one prompt from best to worst, those that could not be scored last; and their rewards.

    Raises ValueError for answers to several prompts: rewards of two prompts are not on one scale.
    """
    if len({completion.messages for completion in completions}) > 1:
        raise ValueError("these are answers to several prompts, whose rewards are not on one scale: rank each prompt's own")
    rewards = scorer.score(completions)
    return np.argsort(np.where(rewards.ok, -rewards.value, np.inf), kind="stable"), rewards


def pick(scorer: Scorer, completions: Sequence[Completion]) -> int | None:
    """Index of the best answer to a prompt, the first of equals; None when none could be scored."""
    order, rewards = rank(scorer, completions)
    return int(order[0]) if len(order) and rewards.ok[order[0]] else None


def rejection_sample(
    scorer: Scorer, completions: Sequence[Completion], *, num_kept: int, temperature: float, seed: int
) -> list[int]:
    """Indices of `num_kept` answers to a prompt, drawn without replacement with probability ~ exp(reward / temperature).

    Gumbel-top-k sampling (Kool et al. 2019): statistical rejection sampling from the policy that is optimal for these rewards at a
    KL coefficient of `temperature` (Liu et al. 2024). Fewer indices when fewer answers could be scored.
    """
    if not temperature > 0 or num_kept < 1:
        raise ValueError(f"temperature {temperature} and num_kept {num_kept} must be positive")
    order, rewards = rank(scorer, completions)
    scored = order[: int(rewards.ok.sum())]
    noise = np.random.default_rng(seed).gumbel(size=len(completions))
    keys = rewards.value.astype(np.float64) / temperature + noise
    return [int(i) for i in sorted(scored, key=lambda i: -keys[i])[:num_kept]]
