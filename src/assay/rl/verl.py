"""A Scorer as verl's custom reward function: `reward.custom_reward_function.path=reward.py`.

# reward.py
import assay
from assay.rl.verl import verl_reward

compute_score = verl_reward(assay.load("http://127.0.0.1:8000"))
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from assay.messages import Message, as_ground_truth
from assay.records import Completion
from assay.rl.failures import ALONE, OnFailure, check, resolve_failures
from assay.scorers.base import Scorer, reads_ground_truth, turn_of

Prompt = str | Iterable[Message | Mapping[str, str]]


def verl_reward(
    scorer: Scorer,
    *,
    prompt: str | Callable[[Mapping[str, Any]], Prompt] | None = "prompt",
    on_failure: OnFailure = "raise",
) -> Callable[..., dict[str, float]]:
    """A function with the signature that verl 0.9 calls: (data_source, solution_str, ground_truth, extra_info) -> score and extras.

    verl passes only the answer. The data set's `extra_info` must hold the prompt (a string, or messages), under the key `prompt` or
    where the function `prompt` finds it; None is for a rule, which needs no prompt. verl's ground_truth goes to scorers that read
    one. Calls from several threads take turns, except for a served model, which scores them in one
    batch. The result is {"score", "reward_std"}: verl requires the same keys for every answer; reward_std is there if the scorer
    has a std. on_failure: "raise", or "none" for NaN. verl's rate-limited manager turns an exception into a reward of 0.0: use
    "none" there, since a NaN is noticed. Raises ValueError for an `extra_info` without the prompt, RewardError for an answer
    without a reward.
    """
    check(on_failure, ALONE)
    reads_truth = reads_ground_truth(scorer)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
    ) -> dict[str, float]:
        found: Prompt = () if prompt is None else _prompt(extra_info or {}, prompt)
        truth = as_ground_truth(ground_truth) if reads_truth else None
        with turn_of(scorer):
            rewards = scorer.score([Completion(messages=found, response=solution_str, ground_truth=truth)])  # type: ignore[arg-type]
        value = resolve_failures(rewards, (0,), on_failure)[0]
        extras = {} if rewards.std is None else {"reward_std": float(rewards.std[0])}
        return {"score": math.nan if value is None else value, **extras}

    return compute_score


def verl_reward_async(scorer: Scorer, **settings: Any) -> Callable[..., Any]:
    """`verl_reward` as a coroutine function: verl's reward loop goes on while the scorer runs in another thread."""
    compute_score = verl_reward(scorer, **settings)

    async def compute_score_async(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **columns: Any
    ) -> dict[str, float]:
        return await asyncio.to_thread(compute_score, data_source, solution_str, ground_truth, extra_info, **columns)

    return compute_score_async


def _prompt(extra_info: Mapping[str, Any], where: str | Callable[[Mapping[str, Any]], Prompt]) -> Prompt:
    if callable(where):
        return where(extra_info)
    if where not in extra_info:
        raise ValueError(
            f"extra_info has no {where!r} (it has {sorted(extra_info)}): put the prompt there when the data set is made, "
            "or give verl_reward a function that finds it"
        )
    return extra_info[where]  # type: ignore[no-any-return]
