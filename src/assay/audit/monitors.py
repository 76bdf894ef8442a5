"""Has a policy lost ground against its own past: an alarm with a guarantee, for one training run.

A policy that learns moves, so "nothing changed" is no test of health. What a healthy policy does not do is lose to its own earlier
checkpoint: by an anchor (gold, a judge, another reward model, people) today's answer beats the earlier one's to the same prompt
with probability at least 1/2 - delta. Betting against that (stats/betting) gives P(a false alarm, ever) <= alpha.

What the guarantee asks for: fresh prompts, or fresh answers of both policies to a fixed set; a stored answer is used in one
comparison only, since one that was lucky stays lucky. Opponents are fixed by a schedule, never by how well they did. The answers
to one prompt make one comparison (their mean), so that their dependence does not count as evidence. Part of the capital joins the
bets at every look, so that a loss is seen that begins after long gains, in a run of any length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from assay.records import Finding, Rewards
from assay.stats.betting import Evidence, checked_alpha, mean_evidence

DELTA = 0.05
"""A harmless policy may win 45 in 100: KL control, stepping back and noise cost a few points for a while."""
ALPHA = 0.05
START, HALF = "the start", "halfway"


@dataclass(frozen=True, kw_only=True)
class GroundLost:
    """The evidence against each opponent, of which the mean capital decides. delta: points below one half that are harmless.

    since: the step at which it alarmed, None before; it stays alarmed.
    """

    delta: float = DELTA
    alpha: float = ALPHA
    against: Mapping[str, Evidence] = field(default_factory=dict)
    highest: float = 0.0
    since: int | None = None

    def __post_init__(self) -> None:
        checked_alpha(self.alpha)
        if not 0 <= self.delta < 0.5:
            raise ValueError(f"delta {self.delta:g} must lie in [0, 0.5): points below one half that a healthy policy may lose")

    @property
    def alarmed(self) -> bool:
        return self.since is not None

    def seen(self, step: int, results: Mapping[str, Sequence[float]]) -> Self:
        """The evidence after comparisons at a step: of each opponent, results of today's answers in [0, 1], NaN without one.

        Every opponent has to be there from the first step: one that is added later would be chosen by what was seen.
        """
        before = self.against or {name: Evidence(bound=0.5 - self.delta) for name in results}
        if before.keys() != results.keys():
            raise ValueError(f"opponents {sorted(results)} are not those of before, {sorted(before)}: they are fixed at the start")
        against = {name: before[name].seen(results[name]) for name in before}
        # Between looks each opponent's capital has a maximum of its own; the mean is looked at here, at the end of the batch.
        highest = max(self.highest, mean_evidence(list(against.values())))
        fires = self.since is None and highest >= math.log(1 / self.alpha)
        return replace(self, against=against, highest=highest, since=step if fires else self.since)

    def findings(self, what: str = "the anchor") -> tuple[Finding, ...]:
        capital = math.exp(min(self.highest, 700.0))
        num = sum(one.num for one in self.against.values())
        missing = sum(one.num_missing for one in self.against.values())
        unread = f" {missing:,} more had no result." if missing else ""
        if not num:
            return (Finding("warn", "ground lost", math.nan, 1 / self.alpha, f"no comparison by {what} has a result.{unread}"),)
        why = (
            f"By {what} the policy loses to its own earlier answers: evidence {capital:,.3g} from {num:,} comparisons, alarm at "
            f"step {self.since}. A healthy run, which wins at least {0.5 - self.delta:.0%}, alarms at any time with probability at "
            f"most {self.alpha:g}. Go back to a checkpoint before that step.{unread}"
            if self.alarmed
            else f"In {num:,} comparisons by {what} the policy did not lose to its own earlier answers beyond {self.delta:.0%} "
            f"below one half (evidence {capital:,.3g}, an alarm needs {1 / self.alpha:g}). No alarm does not prove health.{unread}"
        )
        return (Finding("fail" if self.alarmed else "ok", "ground lost", capital, 1 / self.alpha, why),)

    def saved(self) -> dict[str, Any]:
        against = {name: one.state for name, one in self.against.items()}
        return {"delta": self.delta, "alpha": self.alpha, "highest": self.highest, "since": self.since, "against": against}

    @classmethod
    def of_saved(cls, saved: Mapping[str, Any]) -> Self:
        return cls(**{**saved, "against": {name: Evidence.of_state(one) for name, one in saved["against"].items()}})


def wins(today: Rewards, earlier: Rewards, prompts: Sequence[object]) -> np.ndarray:
    """(P,) how often today's answer beats the earlier one by the anchor, a mean for each prompt in the order of its first answer;
    ties count half, NaN where a reward is missing on either side.

    prompts: a label of each answer's prompt; today's and the earlier answers stand in the same order.
    """
    if not len(today) == len(earlier) == len(prompts):
        raise ValueError(f"{len(today)} answers of today, {len(earlier)} earlier ones and {len(prompts)} prompts: give as many")
    rewards = [one.value.astype(np.float64) for one in (today, earlier)]
    difference_N = rewards[0] - rewards[1]
    result_N = np.where(np.isnan(difference_N), np.nan, (np.sign(difference_N) + 1) / 2)
    by_prompt: dict[object, list[float]] = {}
    for prompt, result in zip(prompts, result_N.tolist(), strict=True):
        by_prompt.setdefault(prompt, []).append(result)
    return np.array([np.mean([one for one in row if not math.isnan(one)] or [math.nan]) for row in by_prompt.values()])
