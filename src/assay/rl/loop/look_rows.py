"""What the answers of a step, and of a look at held-out prompts, leave in the run's files."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from assay.rl.loop.policy_step import Drawn


def kept_answers(step: int, drawn: Drawn, gold_N: np.ndarray, keep: int) -> list[dict[str, Any]]:
    """The best and the worst answers of an evaluation by the scorer, and one that was not scored, as rows."""
    value_N = drawn.value_PK.reshape(-1)
    order = [int(i) for i in np.argsort(value_N, kind="stable") if not math.isnan(value_N[i])]
    worst, best = order[: min(keep, len(order) // 2)], order[::-1][: min(keep, len(order) - len(order) // 2)]
    silent = [int(i) for i in np.flatnonzero(np.isnan(value_N))[:1]]
    rows = []
    for kind, places in (("best", best), ("worst", worst), ("not scored", silent)):
        for i in places:
            one = drawn.completions[i]
            rows.append(
                {
                    "step": step,
                    "kind": kind,
                    "prompt": [turn.as_dict() for turn in one.messages or ()],
                    "response": one.response,
                    "reward": None if math.isnan(value_N[i]) else float(value_N[i]),
                    "gold": None if math.isnan(gold_N[i]) else float(gold_N[i]),
                    "error": drawn.rewards.error[i] if drawn.rewards.error else None,
                }
            )
    return rows


def all_answers(step: int, drawn: Drawn) -> list[dict[str, Any]]:
    """Every answer of a step with what the scorer gave, as rows of a log that `assay audit watch` reads."""
    rewards = drawn.rewards
    rows = []
    for i, one in enumerate(drawn.completions):
        row = {
            "step": step,
            "prompt": [turn.as_dict() for turn in one.messages or ()],
            "response": one.response,
            "reward": float(rewards.value[i]) if rewards.ok[i] else None,
        }
        if rewards.std is not None and rewards.ok[i]:
            row["std"] = float(rewards.std[i])
        if not rewards.ok[i]:
            row["error"] = rewards.error[i] if rewards.error else None
        rows.append(row)
    return rows


def why_unscored(drawn: Drawn) -> dict[str, str]:
    """The most frequent reason for which answers of a step have no reward; nothing where all have one."""
    reasons = Counter(error or "no reason given" for error in drawn.rewards.error or () if error is not None)
    return {"why_unscored": reasons.most_common(1)[0][0]} if reasons else {}


def listed(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON: None where there is none."""
    return [None if math.isnan(one) else round(float(one), 6) for one in values]


def nan_mean(values: np.ndarray) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None
