"""Stop a policy at a distance that was fixed on other runs: a rule that does not look at gold. Pure functions.

Gao et al. (2022, "Scaling Laws for Reward Model Overoptimization", section 3) found that a KL penalty acts as an early stop;
whatever else is done against overoptimisation has to be better than this. Suffix: E evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from assay.stats.metrics import mean


def stop_at(kl_E: np.ndarray | Sequence[float], budget: float) -> int:
    """Place of the first evaluation whose mean KL, in nats an answer, is at the budget or above; the last one where none is. A KL
    of NaN is not at it. Raises ValueError for no evaluation."""
    kl_E = np.asarray(kl_E, dtype=np.float64)
    if not len(kl_E):
        raise ValueError("there is no evaluation to stop at")
    reached = np.flatnonzero(kl_E >= budget)
    return int(reached[0]) if len(reached) else len(kl_E) - 1


def best_budget(kl: Sequence[np.ndarray | Sequence[float]], gold: Sequence[np.ndarray | Sequence[float]]) -> float:
    """The budget at which the runs would have had the highest mean gold, had each stopped there (`stop_at`): for a run that is not
    among them.

    kl, gold: of each run, its means at its evaluations. Budgets that are tried: every KL that was seen, and infinity (never stop);
    the lowest of the best is taken. A run without gold where it would stop does not count. Raises ValueError for no run, and for
    runs without any gold.
    """
    if not kl or len(kl) != len(gold):
        raise ValueError(f"KL of {len(kl)} runs and gold of {len(gold)}: give both of at least one run")
    known = np.concatenate([np.asarray(one, dtype=np.float64) for one in kl])
    budgets = [*np.unique(known[~np.isnan(known)]).tolist(), math.inf]
    means = [mean(np.array([g[stop_at(k, budget)] for k, g in zip(kl, gold, strict=True)], np.float64)) for budget in budgets]
    if np.isnan(means).all():
        raise ValueError("no run has gold: a budget is fixed where what is right is known")
    return budgets[int(np.nanargmax(means))]
