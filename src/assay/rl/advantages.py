"""What an answer was worth beside what was to be expected: one pure function for each estimator, in numpy.

An answer without a reward (NaN) leaves its group: it is in no baseline and has no advantage (NaN). Where a baseline cannot be had
(one scored answer of a prompt) the advantage is NaN too.

Suffixes: P prompts, K answers of a prompt, B answers, T tokens.
"""

from __future__ import annotations

import numpy as np


def rloo(rewards_PK: np.ndarray) -> np.ndarray:
    """(P, K) reward less the mean of the prompt's other answers: unbiased, since the baseline does not depend on the answer.

    Source: Ahmadian et al. 2024, "Back to Basics", arXiv 2402.14740, equation 6.
    """
    rewards_PK, scored_PK = _scored(rewards_PK)
    total_P1 = np.where(scored_PK, rewards_PK, 0).sum(1, keepdims=True)
    others_P1 = scored_PK.sum(1, keepdims=True) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        found_PK = rewards_PK - (total_P1 - rewards_PK) / others_P1
    return np.where(scored_PK & (others_P1 > 0), found_PK, np.nan)


def grpo(rewards_PK: np.ndarray, *, floor: float = 1e-4) -> np.ndarray:
    """(P, K) (reward - mean) / (std + floor) of the prompt's answers, std with n - 1.

    Source: Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300, section 4.1.2; floor as in TRL.
    """
    rewards_PK, scored_PK = _scored(rewards_PK)
    num_P1 = scored_PK.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_P1 = np.where(scored_PK, rewards_PK, 0).sum(1, keepdims=True) / num_P1
        squares_PK = np.where(scored_PK, (rewards_PK - mean_P1) ** 2, 0)
        std_P1 = np.sqrt(squares_PK.sum(1, keepdims=True) / (num_P1 - 1))
        found_PK = (rewards_PK - mean_P1) / (std_P1 + floor)
    return np.where(scored_PK & (num_P1 > 1), found_PK, np.nan)


def grpo_of_steps(rewards_PKT: np.ndarray, *, floor: float = 1e-4) -> np.ndarray:
    """(P, K, T) advantages of tokens from rewards of steps: what stands at a step's last token, NaN at every other.

    Each reward less the mean of all steps of the prompt's answers, over their std (n - 1) and floor; a token has the sum of those
    at it and behind it. NaN at every token of an answer without a reward, and where a prompt has fewer than two steps. Source: Shao
    et al. 2024, "DeepSeekMath", arXiv 2402.03300, section 4.1.3 (process supervision).
    """
    rewards_PKT = np.asarray(rewards_PKT, dtype=np.float64)
    if rewards_PKT.ndim != 3:
        raise ValueError(f"rewards of steps have the shape (prompts, answers, tokens), not {rewards_PKT.shape}")
    is_end_PKT = ~np.isnan(rewards_PKT)
    num_P11 = is_end_PKT.sum((1, 2), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_P11 = np.where(is_end_PKT, rewards_PKT, 0).sum((1, 2), keepdims=True) / num_P11
        squares_PKT = np.where(is_end_PKT, (rewards_PKT - mean_P11) ** 2, 0)
        std_P11 = np.sqrt(squares_PKT.sum((1, 2), keepdims=True) / (num_P11 - 1))
        alike_PKT = np.where(is_end_PKT, (rewards_PKT - mean_P11) / (std_P11 + floor), 0.0)
    behind_PKT = np.flip(np.cumsum(np.flip(alike_PKT, 2), 2), 2)
    counted_PK1 = is_end_PKT.any(2, keepdims=True) & (num_P11 > 1)
    return np.where(counted_PK1, behind_PKT, np.nan)


def gae(
    rewards_BT: np.ndarray, values_BT: np.ndarray, mask_BT: np.ndarray, *, gamma: float = 1.0, decay: float = 0.95
) -> np.ndarray:
    """(B, T) generalised advantages of tokens, 0 behind the end of an answer.

    A_t = delta_t + gamma decay A_(t+1), delta_t = r_t + gamma V_(t+1) - V_t, with V = 0 behind the last token. Source: Schulman et
    al. 2016, arXiv 1506.02438, equation 16. mask_BT: True at the answer's tokens. Add the values for the returns.
    """
    mask_BT = np.asarray(mask_BT, bool)
    rewards_BT, values_BT = np.where(mask_BT, rewards_BT, 0.0), np.where(mask_BT, values_BT, 0.0)
    found_BT = np.zeros_like(values_BT)
    running_B, next_B = np.zeros(len(values_BT)), np.zeros(len(values_BT))
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_B - values_BT[:, t]
        running_B = np.where(mask_BT[:, t], delta_B + gamma * decay * running_B, 0.0)
        found_BT[:, t], next_B = running_B, values_BT[:, t]
    return found_BT


def whitened(values_BT: np.ndarray, mask_BT: np.ndarray) -> np.ndarray:
    """The masked numbers less their mean, over their standard deviation; 0 elsewhere, and everywhere where all are alike."""
    mask_BT = np.asarray(mask_BT, bool)
    kept = values_BT[mask_BT]
    if not len(kept) or kept.std() == 0:
        return np.zeros_like(values_BT)
    return np.where(mask_BT, (values_BT - kept.mean()) / kept.std(), 0.0)


def _scored(rewards_PK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rewards_PK = np.asarray(rewards_PK, dtype=np.float64)
    if rewards_PK.ndim != 2:
        raise ValueError(f"rewards have the shape (prompts, answers), not {rewards_PK.shape}")
    return rewards_PK, ~np.isnan(rewards_PK)
