"""Rewards of steps at the policy's tokens: each at the last token of its step, found by characters.

The policy's tokenizer is another than the process model's, so that token numbers mean nothing; where a step ends in the text does.

    ends_T = token_ends(policy_tokenizer.decode, response_ids)         # characters that are written after each token
    rewards_T = dense_rewards(ends_T, step_ends(steps), rewards.steps[0])

What trainers take: verl's `rm_scores` have a place for each token, and a reward manager of one's own may fill them
(`rl/verl_steps`); its `custom_reward_function`, and the reward functions of TRL and OpenRLHF, give one number an answer, which the
trainer puts at the last token. There the reward of the whole solution is what can be trained on.

Suffixes: T tokens of a response, S steps of it, B responses, L tokens of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from assay.errors import RewardError
from assay.generation.token_texts import token_ends
from assay.records import Completion
from assay.scorers.base import Scorer, turn_of


def step_ends(steps: Sequence[str]) -> np.ndarray:
    """(S,) characters of the response at the end of each step; steps joined are the response. Blanks at its end are left to the
    next step, since most vocabularies have them at the head of a word: the token that holds them says nothing of this one."""
    ends_S = np.cumsum([len(step) for step in steps]).astype(np.int64)
    return ends_S - np.array([len(step) - len(step.rstrip(" \t")) for step in steps], np.int64)


def dense_rewards(ends_T: np.ndarray, ends_S: np.ndarray, rewards_S: np.ndarray) -> np.ndarray:
    """(T,) float32: each step's reward at the token that holds its last character, 0 elsewhere; NaN where a step has none.

    Steps that end in one token, since the policy has one for both ends, are added up there. Raises ValueError for rewards of
    another number of steps, ends that fall, and a step that ends behind the last token: then text and tokens are not of one
    response.
    """
    ends_T, ends_S, rewards_S = np.asarray(ends_T, np.int64), np.asarray(ends_S, np.int64), np.asarray(rewards_S, np.float32)
    if len(ends_S) != len(rewards_S):
        raise ValueError(f"{len(rewards_S)} rewards for {len(ends_S)} steps: give one for each, NaN where there is none")
    for name, ends in (("tokens", ends_T), ("steps", ends_S)):
        if (np.diff(ends) < 0).any():
            raise ValueError(f"the ends of {name} must not fall: give them in the order of the text")
    last = int(ends_T[-1]) if len(ends_T) else 0
    if len(ends_S) and ends_S[-1] > last:
        raise ValueError(
            f"the tokens end at character {last:,} and a step at {int(ends_S[-1]):,}: were steps cut from another text?"
        )
    found_T = np.zeros(len(ends_T), np.float32)
    np.add.at(found_T, step_places(ends_T, ends_S), rewards_S)
    return found_T


def step_places(ends_T: np.ndarray, ends_S: np.ndarray) -> np.ndarray:
    """(S,) the token that holds the last character of each step."""
    return np.searchsorted(ends_T, ends_S, side="left")


class PolicyResponse(NamedTuple):
    """A response as the policy wrote it: the prompt's messages with the steps of its text, and its token ids."""

    completion: Completion
    token_ids: Sequence[int]


def policy_token_rewards(
    scorer: Scorer,
    responses: Sequence[PolicyResponse],
    decode: Callable[[list[int]], str],
    *,
    on_failure: Literal["raise", "none"] = "raise",
) -> list[np.ndarray]:
    """B responses -> for each (T,) float32 rewards at its tokens, from one call of the scorer.

    A completion without steps is one step. on_failure: of steps without a reward; "raise", or "none" for NaN at their tokens.
    Raises RewardError for these, ValueError for a scorer without rewards of steps and for a text that the tokens do not spell.
    """
    if on_failure not in ("raise", "none"):
        raise ValueError(f"on_failure={on_failure!r}: use raise, or none for NaN at the tokens of steps without a reward")
    with turn_of(scorer):
        rewards = scorer.score([one.completion for one in responses])
    if rewards.steps is None:
        raise ValueError("this scorer gives no rewards of steps: its one reward belongs to the last token")
    found = []
    for one, rewards_S, error in zip(responses, rewards.steps, rewards.error or (), strict=True):
        steps, ends_T = _steps_of(one.completion), token_ends(decode, one.token_ids)
        text, written = "".join(steps), int(ends_T[-1]) if len(ends_T) else 0
        if written != len(text):
            raise ValueError(f"the tokens spell {written:,} characters and the steps {len(text):,}: decode as the text was decoded")
        if len(rewards_S) != len(steps):
            rewards_S = np.full(len(steps), math.nan, np.float32)
        if on_failure == "raise" and np.isnan(rewards_S).any():
            raise RewardError(f"a step has no reward: {error or 'the scorer gave none'}. Give on_failure='none' for NaN there")
        found.append(dense_rewards(ends_T, step_ends(steps), rewards_S))
    return found


def padded(rewards: Sequence[Sequence[float] | np.ndarray], length: int) -> np.ndarray:
    """(B, L) float32: rows of token rewards filled up with 0 behind the response, as verl's `token_level_scores`. Raises ValueError
    for a response that is longer."""
    if longest := [len(one) for one in rewards if len(one) > length]:
        raise ValueError(f"a response has {longest[0]:,} tokens and the rows {length:,}: nothing is cut off")
    found_BL = np.zeros((len(rewards), length), np.float32)
    for row, one in zip(found_BL, rewards, strict=True):
        row[: len(one)] = one
    return found_BL


def _steps_of(completion: Completion) -> tuple[str, ...]:
    return completion.steps if completion.steps is not None else (completion.answer.content,)
