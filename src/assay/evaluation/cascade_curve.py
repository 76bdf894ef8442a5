"""What a cascade costs and how often it is right, replayed from what every stage said of every pair.

Suffixes: P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from assay.records import Finding, Metric, Report, Table
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import CHANGE
from assay.stats.votes import right_of_two

SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


class Stage(NamedTuple):
    """A stage: its name, its P(chosen beats rejected) of all P pairs (NaN without a verdict), and what one pair costs."""

    name: str
    p_P: np.ndarray
    cost: float


class CascadePoint(NamedTuple):
    """One setting. passed: share of the pairs that each stage but the last hands on; settled: share settled by each stage, people
    last. accuracy: ties of the last word half right. cost: of a pair, every stage asked for what reaches it. gain: accuracy less
    that of handing as many pairs on at random."""

    passed: tuple[float, ...]
    settled: tuple[float, ...]
    cost: float
    accuracy: Metric
    gain: Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeResult:
    """The points of a curve, from the cheapest. findings: whether handing on by margin gains anything over doing so at random, and
    whether the best point is right more often than the dearest stage alone."""

    title: str
    points: tuple[CascadePoint, ...]
    findings: tuple[Finding, ...]
    facts: Mapping[str, str]

    def report(self) -> Report:
        heads = (
            "passed on",
            "settled by each",
            "cost of a pair",
            "accuracy",
            "low",
            "high",
            "gain over random",
            "gain low",
            "gain high",
        )
        rows = tuple(
            (
                ", ".join(f"{share:.0%}" for share in point.passed),
                ", ".join(f"{share:.0%}" for share in point.settled),
                point.cost,
                *point.accuracy[1:4],
                *point.gain[1:4],
            )
            for point in self.points
        )
        note = "people are right by definition; intervals by prompt"
        table = Table(title="cost and accuracy", columns=heads, rows=rows, note=note)
        return Report(title=self.title, tables=(table,), findings=self.findings, facts=self.facts)


def cascade_curve(
    stages: Sequence[Stage],
    gold_P: np.ndarray,
    prompts_P: np.ndarray,
    *,
    person_cost: float | None = None,
    shares: Sequence[float] = SHARES,
    title: str = "Cascade",
    seed: int = 0,
) -> CascadeResult:
    """Every combination of shares that the stages hand on, the least sure pairs first, what has no verdict before all.

    gold_P: P(chosen beats rejected) of the labels, ties left out. person_cost: of a pair that a person settles, who is right by
    definition; None for no person, where the last stage settles all. Raises ValueError for no stage or no labelled pair.
    """
    labelled_P = np.asarray(gold_P, dtype=np.float64) != 0.5
    if not stages or not labelled_P.any():
        raise ValueError(f"{len(stages)} stages and {int(labelled_P.sum())} pairs with a label that is no tie: give some of each")
    kept = [stage._replace(p_P=np.asarray(stage.p_P, dtype=np.float64)[labelled_P]) for stage in stages]
    gold_P, prompts_P = np.asarray(gold_P)[labelled_P], np.asarray(prompts_P)[labelled_P]
    num_gates = len(kept) - (person_cost is None)
    points = [_point(kept, passed, gold_P, prompts_P, person_cost, seed) for passed in _grid([sorted(set(shares))] * num_gates)]
    points.sort(key=lambda point: (point.cost, point.accuracy.value))
    findings = (_router(points), _beside_last(kept, points, gold_P, prompts_P, person_cost, seed))
    facts = {
        "pairs": str(len(gold_P)),
        "stages": " -> ".join([*(s.name for s in kept), *(["person"] if person_cost is not None else [])]),
    }
    facts["cost of each"] = ", ".join(f"{stage.name} {stage.cost:g}" for stage in kept)
    facts |= {} if person_cost is None else {"cost of a person": f"{person_cost:g}"}
    return CascadeResult(title=title, points=tuple(points), findings=findings, facts=facts)


def _grid(axes: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    found: list[tuple[float, ...]] = [()]
    for axis in axes:
        found = [(*before, share) for before in found for share in axis]
    return found


def _point(
    stages: Sequence[Stage],
    passed: tuple[float, ...],
    gold_P: np.ndarray,
    prompts_P: np.ndarray,
    person_cost: float | None,
    seed: int,
) -> CascadePoint:
    """One setting: at each gate the share of what arrives there that is least sure goes on."""
    num_pairs, left = len(gold_P), np.random.default_rng(seed).permutation(len(gold_P))  # equally sure ones go on in random order
    right_P, mixed_P, mass, cost = np.zeros(num_pairs), np.zeros(num_pairs), 1.0, 0.0
    settled = []
    for number, stage in enumerate(stages):
        cost += stage.cost * len(left) / num_pairs
        right_of_stage_P = np.nan_to_num(right_of_two(stage.p_P, gold_P), nan=0.5)  # without a verdict one has to toss
        share = passed[number] if number < len(passed) else 0.0
        sure = np.nan_to_num(np.abs(stage.p_P[left] - 0.5), nan=-1.0)
        order = left[np.argsort(sure, kind="stable")]
        on = order[: round(share * len(left))]
        stays = np.setdiff1d(left, on)
        right_P[stays] = right_of_stage_P[stays]
        mixed_P += mass * (1 - share) * right_of_stage_P
        mass *= share
        settled.append(len(stays) / num_pairs)
        left = on
    right_P[left] = 1.0
    mixed_P += mass
    if person_cost is not None:
        cost += person_cost * len(left) / num_pairs
        settled.append(len(left) / num_pairs)
    interval, gain = mean_interval(right_P, prompts_P, seed=seed), right_P - mixed_P
    return CascadePoint(
        passed=passed,
        settled=tuple(settled),
        cost=cost,
        accuracy=Metric("accuracy", float(right_P.mean()), *interval, num_pairs, num_pairs),
        gain=Metric("gain", float(gain.mean()), *mean_interval(gain, prompts_P, seed=seed, support=CHANGE), num_pairs, num_pairs),
    )


def _router(points: Sequence[CascadePoint]) -> Finding:
    """Whether pairs that are handed on by margin are those that the stage gets wrong: at the middle of the curve, named before."""
    name = "handing on by margin"
    mixed = [point for point in points if any(0 < share < 1 for share in point.passed)]
    if not mixed:
        return Finding("warn", name, math.nan, 0, "not measured: no point hands on a part of the pairs")
    middle = min(mixed, key=lambda point: sum(abs(share - 0.3) for share in point.passed))
    gain = middle.gain
    at = ", ".join(f"{share:.0%}" for share in middle.passed)
    seen = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over handing on as many at random, at {at}"
    if gain.low > 0:
        return Finding("ok", name, gain.value, 0, seen)
    return Finding("warn", name, gain.value, 0, f"{seen}: no gain to boast of")


def _beside_last(
    stages: Sequence[Stage],
    points: Sequence[CascadePoint],
    gold_P: np.ndarray,
    prompts_P: np.ndarray,
    person_cost: float | None,
    seed: int,
) -> Finding:
    """What the cheapest point costs that is no less often right than the last stage alone."""
    last = stages[-1]
    right_P = np.nan_to_num(right_of_two(last.p_P, gold_P), nan=0.5)
    alone, name = float(right_P.mean()), f"cost beside {last.name} alone"
    low, high = mean_interval(right_P, prompts_P, seed=seed)
    as_good = [point for point in points if point.accuracy.value >= alone - 1e-12]
    said = f"{last.name} alone is right in {alone:.3f} [{low:.3f}, {high:.3f}] at {last.cost:g} a pair"
    if not as_good or as_good[0].cost >= last.cost:
        return Finding("warn", name, as_good[0].cost if as_good else math.nan, last.cost, f"{said}; no point does as well for less")
    best = as_good[0]
    passed = ", ".join(f"{share:.0%}" for share in best.passed)
    why = f"{said}; {passed} passed on does as well ({best.accuracy.value:.3f}) at {best.cost:.3g}"
    return Finding("ok", name, best.cost, last.cost, f"{why}, the best of {len(points)} points on these pairs: try it on others")


def threshold_for(p_P: np.ndarray, passed: float) -> float:
    """The threshold of `Cascade` at which about that share of these pairs is handed on: |logit of P|, for the next pairs."""
    if not 0 <= passed <= 1:
        raise ValueError(f"the share {passed:g} lies outside [0, 1]: it is the part of the pairs that is handed on")
    held_P = np.clip(np.asarray(p_P, dtype=np.float64), 1e-9, 1 - 1e-9)
    sizes = np.sort(np.nan_to_num(np.abs(np.log(held_P) - np.log1p(-held_P)), nan=-1.0))
    number = round(passed * len(sizes))
    if number == 0:
        return 0.0
    return math.inf if number >= len(sizes) else float(max(0.0, sizes[number]))
