"""A Scorer as a reward function of TRL's trainers (GRPO, RLOO): `reward_funcs=[trl_reward(scorer)]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from assay.messages import Message, as_ground_truth, as_messages
from assay.records import Completion
from assay.rl.failures import OnFailure, check, resolve_failures
from assay.scorers.base import Scorer, closed, closing_of, padding_of, reads_ground_truth, turn_of

Turns = Sequence[Mapping[str, Any]]


def trl_reward(
    scorer: Scorer, *, on_failure: OnFailure = "raise", name: str = "assay", ground_truth: str = "ground_truth"
) -> Callable[..., list[float | None]]:
    """A function with the signature that TRL 1.16 calls: (prompts, completions, completion_ids, **columns) -> N rewards.

    Conversational prompts are rendered with the reward model's own chat template. Plain strings count as rendered: prompt and
    answer are joined, as TRL does for its own reward models, and the template's end of an answer is added (TRL skips end tokens).
    All answers of the batch are scored in one call.
    A scorer that reads the ground truth, as a rule or a judge does, gets it from the data set's column `ground_truth`, and plain
    strings as prompt and answer: it renders nothing, and has to know where the answer begins.
    on_failure: see `resolve_failures`. TRL gives a row without any reward an advantage of 0 and leaves it out of the baseline.
    Where other reward functions score the row, None counts as 0 in their sum: use "group-mean" together with other reward
    functions. When a group is split over several ranks, each rank handles its own part.
    name: the name in TRL's logs. Also logged: NAME/unscored, the share without a reward, and NAME/std, an ensemble's mean std.
    """
    check(on_failure)
    closing, padding, reads_truth = closing_of(scorer), padding_of(scorer), reads_ground_truth(scorer)

    def reward(
        prompts: Sequence[str | Turns],
        completions: Sequence[str | Turns],
        completion_ids: Any = None,
        *,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        if reads_truth:
            truths = columns.get(ground_truth) or [None] * len(prompts)
            rows = zip(prompts, completions, truths, strict=True)
            items = [_with_truth(prompt, completion, truth) for prompt, completion, truth in rows]
        else:
            items = [as_completion(*row, closing, padding) for row in zip(prompts, completions, strict=True)]
        with turn_of(scorer):
            rewards = scorer.score(items)
        if log_metric is not None and len(items):
            log_metric(f"{name}/unscored", float(1 - rewards.ok.mean()))
            if rewards.std is not None and rewards.ok.any():
                log_metric(f"{name}/std", float(np.nanmean(rewards.std)))
        return resolve_failures(rewards, [_group(prompt) for prompt in prompts], on_failure)

    reward.__name__ = reward.__qualname__ = name
    return reward


def as_completion(prompt: str | Turns, completion: str | Turns, closing: str = "", padding: tuple[str, ...] = ()) -> Completion:
    """One of TRL's rows as a completion. Raises ValueError when only one of the two is conversational, or the answer is missing."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return Completion(text=closed(prompt + completion, closing, padding))
    if isinstance(prompt, str) or isinstance(completion, str):
        raise ValueError("prompt and completion must both be conversational or both plain strings")
    turns = [*_messages(prompt), *_messages(completion)]
    if not completion or turns[-1].role != "assistant":
        raise ValueError("the completion's last message is not the assistant's: there is no answer to score")
    return Completion(messages=tuple(turns[:-1]), response_message=turns[-1])


def _with_truth(prompt: str | Turns, completion: str | Turns, truth: Any) -> Completion:
    """One of TRL's rows as prompt, answer and ground truth."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return Completion(messages=as_messages(prompt), response=completion, ground_truth=as_ground_truth(truth))
    return replace(as_completion(prompt, completion), ground_truth=as_ground_truth(truth))


def _messages(turns: Turns) -> tuple[Message, ...]:
    return as_messages([{**turn, "content": turn.get("content") or ""} for turn in turns])


def _group(prompt: str | Turns) -> object:
    return prompt if isinstance(prompt, str) else tuple((turn["role"], turn.get("content")) for turn in prompt)
