"""A Scorer as a reward function of Prime Intellect's verifiers: `vf.Rubric(funcs=[verifiers_reward(scorer)])`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from assay.messages import as_ground_truth, as_messages
from assay.records import Completion
from assay.rl.failures import ALONE, OnFailure, check, resolve_failures
from assay.rl.trl import as_completion
from assay.scorers.base import Scorer, reads_ground_truth, turn_of

Turns = str | Sequence[Mapping[str, Any]]


def verifiers_reward(scorer: Scorer, *, on_failure: OnFailure = "raise", name: str = "assay") -> Callable[..., float]:
    """A function with the arguments that verifiers passes by name: (prompt, completion, answer, state) -> a reward.

    answer is the ground truth, for scorers that read one; where it is empty, `state["info"]` is looked at for `ground_truth`.
    on_failure: "raise", or "none" for NaN: verifiers 0.1 turns an exception into a reward of 0.0, and a NaN is noticed.
    Raises ValueError for a completion without an answer of the assistant, RewardError for an answer without a reward.
    """
    check(on_failure, ALONE)
    reads_truth = reads_ground_truth(scorer)

    def reward(prompt: Turns, completion: Turns, answer: Any = "", state: Mapping[str, Any] | None = None) -> float:
        item = _completion(prompt, completion)
        if reads_truth:
            info = (state or {}).get("info")
            told = info.get("ground_truth") if isinstance(info, Mapping) else None
            item = Completion(
                messages=item.messages,
                response=item.response,
                response_message=item.response_message,
                ground_truth=as_ground_truth(answer) or as_ground_truth(told),
            )
        with turn_of(scorer):
            rewards = scorer.score([item])
        value = resolve_failures(rewards, (0,), on_failure)[0]
        return math.nan if value is None else value

    reward.__name__ = reward.__qualname__ = name
    return reward


def _completion(prompt: Turns, completion: Turns) -> Completion:
    if isinstance(completion, str):
        return Completion(messages=as_messages(prompt), response=completion)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return as_completion(turns, completion)
