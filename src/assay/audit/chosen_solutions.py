"""What choosing among recorded solutions to a problem is worth: by a model's rewards of steps, reduced in every way, beside another
model's reward, the majority, a random solution and the best that was there.

Suffixes: N solutions, P problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from assay.audit.best_of_n import sizes_up_to
from assay.audit.chosen_answers import MAJORITY, ORACLE, RANDOM, ChosenAnswers, chosen_answers
from assay.data.steps.labelled_steps import LabelledSteps
from assay.evaluation.steps.step_scores import meant
from assay.records import Finding, Level, Metric, PageResult, Report
from assay.report.remedies import SOLUTION_REMEDIES
from assay.scorers.base import ReadsSteps, Scorer, capability
from assay.stats.mean_intervals import change_interval
from assay.stats.metrics import mean
from assay.stats.steps.step_figures import reduced
from assay.stats.steps.step_reductions import REDUCED

OWN, BESIDE = "its own reward", "the model beside it"


class Solved(NamedTuple):
    """N solutions whose outcome is known. gold: (N,) 1 for a right final answer, 0 for a wrong one. answers: (N,) one number for
    equal answers of a problem, negative for none."""

    items: Sequence[LabelledSteps]
    gold: np.ndarray
    answers: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSolutionsResult(PageResult):
    """Curves over n of every way to choose one of n solutions; the findings hold the model's own reward at the largest n against
    the ways that do not need it, by problem."""

    curves: ChosenAnswers


def solution_rewards(scorer: Scorer, items: Sequence[LabelledSteps], *, beside: Scorer | None = None) -> dict[str, np.ndarray]:
    """(N,) of each way to make one number of a solution: the model's own reward, P(right) of its steps reduced in every way where
    it has any, and the reward of a model beside it. NaN where there is none."""
    completions = [item.completion for item in items]
    rewards = scorer.score(completions)
    found = {OWN: rewards.value.astype(np.float64)}
    if rewards.steps is not None:
        scores = meant(rewards.steps, found[OWN], capability(scorer, ReadsSteps))
        found |= {how: reduced(scores.probabilities, how) for how in REDUCED}
    return found if beside is None else found | {BESIDE: beside.score(completions).value.astype(np.float64)}


def choose_among(
    solved: Solved, rewards: Mapping[str, np.ndarray], *, title: str, max_n: int | None = None, seed: int = 0
) -> ChosenSolutionsResult:
    """Every way to choose, over n; max_n: as far as 80% of the problems have solutions when left out.

    Raises ValueError where fewer than two problems have two solutions whose outcome is known.
    """
    keys = np.array([item.prompt_key for item in solved.items])
    problem_N = np.unique(keys, return_inverse=True)[1] if len(keys) else np.empty(0, np.int64)
    by_problem = [np.flatnonzero(problem_N == p) for p in range(int(problem_N.max(initial=-1)) + 1)]
    by_problem = [index for index in by_problem if len(index) > 1]
    if len(by_problem) < 2:
        known = f"{len(by_problem)} problems have two solutions whose final answer is known to be right or wrong"
        raise ValueError(f"{known}: two are needed to choose")
    largest = max_n or int(np.quantile([len(index) for index in by_problem], 0.2, method="lower"))
    curves = chosen_answers(
        [solved.gold[index] for index in by_problem],
        {name: [value_N[index] for index in by_problem] for name, value_N in rewards.items()},
        [solved.answers[index] for index in by_problem],
        sizes_up_to(largest).tolist(),
        seed=seed,
    )
    curves = _without(curves, [f"weighted vote: {name}" for name in (OWN, BESIDE)])
    last = {name: metrics[-1] for name, metrics in curves.figures.items()}
    own, beside = last[f"best of n: {OWN}"], last.get(f"best of n: {BESIDE}")
    others = [*([beside] if beside else []), last[MAJORITY], last[RANDOM], last[ORACLE]]
    page = Report(
        title=title,
        metrics=tuple(last.values()),
        tables=(curves.table("choosing among n solutions"),),
        findings=(
            *(_ahead(curves, name) for name in (f"best of n: {BESIDE}", MAJORITY, RANDOM) if name in curves.figures),
            _unscored(rewards[OWN]),
        ),
        facts={
            "problems": f"{len(by_problem):,}",
            "solutions": f"{sum(map(len, by_problem)):,} with an outcome",
            "seed": str(seed),
        },
        lead=_lead(own, last, curves.sizes[-1]),
        key={own.name: tuple(one.name for one in others)},
    )
    return ChosenSolutionsResult(curves=curves, page=page)


def _without(curves: ChosenAnswers, names: Sequence[str]) -> ChosenAnswers:
    """Without ways that say little: a vote weighted by logarithms, or by rewards without a zero."""
    figures = {name: one for name, one in curves.figures.items() if name not in names}
    values = {name: one for name, one in curves.values.items() if name not in names}
    return ChosenAnswers(sizes=curves.sizes, figures=figures, values=values)


def _ahead(curves: ChosenAnswers, name: str) -> Finding:
    """The model's own reward against another way, paired by problem."""
    gain_P = curves.values[f"best of n: {OWN}"][:, -1] - curves.values[name][:, -1]
    gain, what = mean(gain_P), f"better than {name.removeprefix('best of n: ')}"
    if math.isnan(gain):
        return Finding("warn", what, math.nan, 0.0, "not measured: no problem has both")
    interval = change_interval(gain_P, np.arange(len(gain_P)))
    ends = f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    seen = f"at n = {curves.sizes[-1]} accuracy differs by {100 * gain:+.1f} points {ends}"
    level: Level = "ok" if interval.low > 0 else "warn"
    return Finding(level, what, gain, 0.0, seen, "baseline", SOLUTION_REMEDIES["baseline"])


def _unscored(own_N: np.ndarray) -> Finding:
    """Solutions without a reward, which are never chosen: those that are too long, most of all."""
    num = int(np.isnan(own_N).sum())
    why = f"{num:,} of {len(own_N):,} solutions have no reward and are never chosen" if num else f"all {len(own_N):,} have a reward"
    return Finding("warn" if num else "ok", "solutions without a reward", num, 0, why)


def _lead(own: Metric, last: Mapping[str, Metric], n: int) -> str:
    beside = f"the majority {last[MAJORITY].value:.1%}, a random one {last[RANDOM].value:.1%}, the best {last[ORACLE].value:.1%}"
    return f"Choosing among {n} solutions by its reward answers {own.value:.1%} of the problems rightly ({beside})."
