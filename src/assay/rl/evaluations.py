"""What a policy's run kept of its held-out answers at each evaluation.

Suffixes: E evaluations, P held-out prompts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EVALUATIONS = "evaluations.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluations:
    """steps: (E,), -1 before the first. kl_EP, reward_EP, gold_EP: of the same held-out prompts; NaN where there is none."""

    steps: np.ndarray
    kl_EP: np.ndarray
    reward_EP: np.ndarray
    gold_EP: np.ndarray

    @property
    def distance_E(self) -> np.ndarray:
        """Square root of the mean KL of an answer; an estimate below 0 counts as 0."""
        return np.sqrt(np.maximum(np.nanmean(self.kl_EP, axis=1), 0.0))

    @property
    def has_gold(self) -> bool:
        return not np.isnan(self.gold_EP).all()


def read_evaluations(out: Path) -> Evaluations:
    """The evaluations of a run. Raises ValueError for a directory without any."""
    path = out / EVALUATIONS
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    if not rows:
        raise ValueError(f"{out} has no evaluations: name a directory that assay rl train made, with held-out prompts")
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in ("kl", "reward", "gold")}
    return Evaluations(
        steps=np.array([row["step"] for row in rows]), kl_EP=columns["kl"], reward_EP=columns["reward"], gold_EP=columns["gold"]
    )
