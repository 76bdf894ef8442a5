"""What a look at held-out answers leaves in the run's files."""

from __future__ import annotations

import math
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


def listed(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON: None where there is none."""
    return [None if math.isnan(one) else round(float(one), 6) for one in values]


def nan_mean(values: np.ndarray) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None
