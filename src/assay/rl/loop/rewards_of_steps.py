"""Rewards of the steps of a policy's answers, each at the last token of its step.

Suffixes: N answers, T tokens of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from assay.data.steps.step_rules import StepRule, split_steps
from assay.generation.token_texts import token_ends
from assay.records import Completion, Rewards
from assay.rl.dense import step_ends, step_places
from assay.rl.loop.policy_model import PolicyTokens
from assay.rl.loop.rollouts import Rollouts


def steps_of(text: str, rule: StepRule | None) -> tuple[str, ...] | None:
    """The steps of an answer; None for a blank one, which has none, and without a rule."""
    return split_steps(text, rule) if rule is not None and text.strip() else None


def rewards_of_steps(rewards: Rewards, completions: Sequence[Completion], rollouts: Rollouts, tokens: PolicyTokens) -> np.ndarray:
    """(N, T) each step's reward at the token that holds its last character, the last step's at the token that ends the answer; NaN
    elsewhere. Steps that end in one token are added up there. An answer of which one step has no reward has none at all.

    Raises ValueError for a scorer that gives no rewards of steps.
    """
    if rewards.steps is None:
        raise ValueError("this scorer gives no rewards of steps: leave --step-rewards out, or give a process model")
    decode = partial(tokens.tokenizer.decode, skip_special_tokens=True)
    found_NT = np.full(tuple(rollouts.mask_NT.shape), np.nan)
    rows = zip(rollouts.answer_NT.tolist(), rollouts.mask_NT.sum(1).tolist(), strict=True)
    for n, (ids, length) in enumerate(rows):
        steps, rewards_S = completions[n].steps, rewards.steps[n]
        if steps is None or len(rewards_S) != len(steps) or np.isnan(rewards_S).any():
            continue
        ends_T = token_ends(decode, [one for one in ids[:length] if one not in tokens.ends])
        places_S = step_places(ends_T, step_ends(steps))
        places_S[-1] = length - 1  # that an answer ends is a part of its last step
        found_NT[n, places_S] = 0.0
        np.add.at(found_NT[n], places_S, rewards_S)
    return found_NT
