"""What choosing among n answers is worth, from answers that were recorded: by rewards, by votes, at random, and at best.

Suffixes: P prompts, N answers of a prompt, S draws, n answers of a draw, M values of n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from assay.audit.best_of_n import expected_best
from assay.records import Metric, Table
from assay.stats.mean_intervals import share_interval
from assay.stats.metrics import mean

RANDOM, ORACLE, MAJORITY = "a random answer", "oracle", "majority"
NUM_DRAWS = 400
"""Draws of n answers that votes are counted on, where not all can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenAnswers:
    """Share of prompts that are answered rightly at M values of n. figures: M metrics of each way to choose, by its name. values:
    (P, M) of each way, the chance that each prompt is answered rightly, NaN where it has not so many answers."""

    sizes: tuple[int, ...]
    figures: Mapping[str, tuple[Metric, ...]]
    values: Mapping[str, np.ndarray]

    def table(self, title: str) -> Table:
        """A line for each way to choose, over n."""
        rows = tuple((n, *(metrics[k].value for metrics in self.figures.values())) for k, n in enumerate(self.sizes))
        there = ", ".join(f"{metric.n_scored:,} at {n}" for n, metric in zip(self.sizes, self.figures[RANDOM], strict=True))
        note = f"share of prompts answered rightly, over all draws of n answers; of prompts that have so many: {there}"
        return Table(title=title, columns=("n", *self.figures), rows=rows, chart="line", note=note)


def chosen_answers(
    gold: Sequence[np.ndarray],
    rewards: Mapping[str, Sequence[np.ndarray]],
    classes: Sequence[np.ndarray],
    sizes: Sequence[int],
    *,
    seed: int = 0,
) -> ChosenAnswers:
    """Curves over n of each way to choose one of n answers to each of P prompts.

    gold: (N,) of each prompt, 1 for a right answer and 0 for a wrong one. rewards: by name of the scorer (a process model, the
    outcome model beside it), (N,) of each prompt, NaN where there is none. classes: (N,) of each prompt, one number for equal
    answers, negative for none. sizes: values of n; a prompt with fewer answers is left out there, of a scorer one with fewer
    rewards.

    "best of n: NAME" takes the highest reward, "weighted vote: NAME" the answer with the largest sum of rewards, "majority" that of
    most answers; ties are shared, no answer at all is wrong. A weighted vote is left out where a reward is negative. Raises
    ValueError for columns of other lengths.
    """
    sizes = tuple(sizes)
    if len(classes) != len(gold) or any(len(c) != len(g) for c, g in zip(classes, gold, strict=False)):
        raise ValueError("gold and classes must have the same prompts, each with the same answers")
    for name, column in rewards.items():
        if [len(one) for one in column] != [len(one) for one in gold]:
            raise ValueError(f"the rewards of {name!r} must have the prompts of gold, each with the same answers")
    ways: dict[str, list[list[float]]] = {RANDOM: [], MAJORITY: [], ORACLE: []}
    weighted = [name for name, column in rewards.items() if not any((one < 0).any() for one in column)]
    ways |= {f"best of n: {name}": [] for name in rewards} | {f"weighted vote: {name}": [] for name in weighted}
    for p, gold_N in enumerate(gold):
        gold_N, class_N = np.asarray(gold_N, np.float64), np.asarray(classes[p])
        rng = np.random.default_rng([seed, p])
        draws = {n: draws_of(len(gold_N), n, rng) for n in sizes}
        ways[RANDOM].append([mean(gold_N) if n <= len(gold_N) else math.nan for n in sizes])
        ways[ORACLE].append([expected_best(gold_N, gold_N, n) for n in sizes])
        ways[MAJORITY].append([expected_vote(class_N, np.ones(len(gold_N)), gold_N, draws[n]) for n in sizes])
        for name, column in rewards.items():
            reward_N = np.asarray(column[p], np.float64)
            ways[f"best of n: {name}"].append([expected_best(reward_N, gold_N, n) for n in sizes])
            if name in weighted:
                scored_N = np.where(np.isnan(reward_N), -1, class_N)
                weight_N = np.where(np.isnan(reward_N), 0.0, reward_N)
                ways[f"weighted vote: {name}"].append([expected_vote(scored_N, weight_N, gold_N, draws[n]) for n in sizes])
    values = {name: np.clip(np.array(rows).reshape(-1, len(sizes)), 0.0, 1.0) for name, rows in ways.items()}
    return ChosenAnswers(
        sizes=sizes,
        figures={name: share_metrics([f"accuracy at n = {n}: {name}" for n in sizes], rows_PM) for name, rows_PM in values.items()},
        values=values,
    )


def draws_of(num: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """(S, n) indices of n of `num` answers: all choices where there are at most `NUM_DRAWS`, else so many at random; none for fewer
    answers than n."""
    if n > num:
        return np.empty((0, n), np.int64)
    if math.comb(num, n) <= NUM_DRAWS:
        return np.array(list(combinations(range(num), n)), np.int64).reshape(-1, n)
    return rng.permuted(np.tile(np.arange(num), (NUM_DRAWS, 1)), axis=1)[:, :n]


def expected_vote(class_N: np.ndarray, weight_N: np.ndarray, gold_N: np.ndarray, draws_Sn: np.ndarray) -> float:
    """Mean gold of the answer with the largest sum of weights, over the draws; equals share. 0 where no answer was given; NaN
    without draws."""
    if not len(draws_Sn):
        return math.nan
    kinds = max(int(class_N.max(initial=-1)) + 1, 1)
    index_Sn, has_Sn = np.maximum(class_N[draws_Sn], 0), class_N[draws_Sn] >= 0
    rows = np.arange(len(draws_Sn))[:, None] * kinds + index_Sn
    shape = (len(draws_Sn), kinds)

    def by_class(values_Sn: np.ndarray) -> np.ndarray:
        return np.bincount(rows.reshape(-1), weights=(values_Sn * has_Sn).reshape(-1), minlength=shape[0] * kinds).reshape(shape)

    weights, counts, golds = (by_class(one) for one in (weight_N[draws_Sn], np.ones(draws_Sn.shape), gold_N[draws_Sn]))
    given = counts > 0
    wins = given & (weights >= np.where(given, weights, -np.inf).max(axis=1, keepdims=True) - 1e-9)
    means = np.divide(golds, counts, out=np.zeros(shape), where=given)
    return float(((means * wins).sum(axis=1) / np.maximum(wins.sum(axis=1), 1)).mean())


def share_metrics(names: Sequence[str], values_PM: np.ndarray) -> tuple[Metric, ...]:
    """For each column the mean over prompts of a chance to be right, with its interval; NaN where a prompt has none."""
    prompts_P = np.arange(len(values_PM))
    return tuple(
        Metric(
            name,
            mean(values_P),
            *share_interval(values_P, prompts_P),
            int((~np.isnan(values_P)).sum()),
            len(values_P),
        )
        for name, values_P in zip(names, values_PM.T, strict=True)
    )
