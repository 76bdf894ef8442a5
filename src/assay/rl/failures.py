"""What a trainer gets for an answer without a reward: None, a group's mean or an error, never a made-up number.

Suffixes: N completions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import numpy as np

from assay.errors import RewardError
from assay.records import Rewards

OnFailure = Literal["raise", "none", "group-mean", "drop-group"]
ALONE: tuple[OnFailure, ...] = ("raise", "none")  # policies that need no other answers of the prompt


def resolve_failures(rewards: Rewards, groups: Sequence[Hashable], on_failure: OnFailure) -> list[float | None]:
    """N rewards as a trainer takes them: floats, and None for answers that it must leave out.

    groups: (N,) label of each answer's group, the answers to one prompt: the unit of GRPO's and RLOO's baselines.
    on_failure: what an answer without a reward gets. "raise": the step stops with the first reason. "none": None. "group-mean": the
    mean of the scored answers of its group, so that it is neither better nor worse than they are; None if there are none.
    "drop-group": None for its whole group.
    Raises RewardError under "raise", ValueError for an unknown policy or labels of another length.
    """
    check(on_failure)
    if len(groups) != len(rewards):
        raise ValueError(f"{len(groups)} group labels for {len(rewards)} rewards: give one each")
    value_N, ok_N = rewards.value.astype(np.float64), rewards.ok
    if ok_N.all():
        return [float(value) for value in value_N]
    if on_failure == "raise":
        raise RewardError(_reason(rewards))
    values: list[float | None] = [float(value) if ok else None for value, ok in zip(value_N, ok_N, strict=True)]
    if on_failure == "none":
        return values
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    for rows in members.values():
        scored = [i for i in rows if ok_N[i]]
        if len(scored) == len(rows):
            continue
        mean = float(value_N[scored].mean()) if scored and on_failure == "group-mean" else None
        for i in rows:
            if on_failure == "drop-group" or not ok_N[i]:
                values[i] = mean
    return values


def check(on_failure: str, allowed: Sequence[str] = get_args(OnFailure)) -> None:
    """Raises ValueError for a failure policy that is unknown, or that an adapter cannot apply."""
    if on_failure not in allowed:
        known = on_failure in get_args(OnFailure)
        why = "its trainer sends one answer at a time, so that siblings are not seen" if known else "no such failure policy"
        raise ValueError(f"on_failure={on_failure!r}: {why}; use one of {', '.join(allowed)}")


def _reason(rewards: Rewards) -> str:
    errors = [error for error in rewards.error or () if error is not None]
    return (
        f"{len(errors)} of {len(rewards)} answers could not be scored; the first: {errors[0]}. "
        "Give on_failure another value to train on without them"
    )
