"""Levels of the figures of process reward models: how often each 95% interval misses the truth, by problem. See levels.py.

A problem has 1 to some solutions, a solution 2 to 8 steps. Problems differ in how hard they are and in how well they are scored.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from levels_frame import Level, Simulate
from levels_laws import each, misses, prompts, right, shared_noise

from assay.stats.auroc_intervals import auroc_gain_interval
from assay.stats.calibration_error import ece, expected_ece
from assay.stats.metrics import sigmoid
from assay.stats.steps.platt import MIN_PROBLEMS, fit_platt
from assay.stats.steps.step_figures import StepLabels, prm_score, prm_score_gain, process_f1

MISSES = 0.08
MANY = 20_000  # problems that the truth of a figure without a formula is computed on


def f1(on_wrong: float, on_right: float, num_problems: int, most: int, correlation: float) -> Simulate:
    """Solutions are wrong with chance 1/2; a first error is found with one chance, none with another."""
    truth = 2 * on_wrong * on_right / (on_wrong + on_right)

    def one(rng: np.random.Generator) -> bool:
        problem_N = prompts(rng, num_problems, 1, most)
        exact_N = [right(rng, share, problem_N, correlation) for share in (on_wrong, on_right)]
        is_wrong_N = rng.random(len(problem_N)) < 0.5
        is_wrong_N[:2] = True, False  # both kinds are there
        labels = StepLabels(right=tuple(np.array([1.0, 1.0 - wrong]) for wrong in is_wrong_N), problem=problem_N)
        missed_N = np.where(is_wrong_N, 0.0, 1.0)  # the place of an error that is none, and of a right step
        found_N = np.where(np.where(is_wrong_N, *exact_N) > 0, labels.first_error_N, missed_N)
        return misses(process_f1(found_N, labels, seed=int(rng.integers(1 << 31))).interval, truth)

    return each(one)


def steps(
    rng: np.random.Generator, num_problems: int, most: int, correlation: float, apart: float, rival: float
) -> tuple[StepLabels, list[np.ndarray], list[np.ndarray]]:
    """Labels, scores and a rival's scores: normal values that move together in a problem, higher on right steps."""
    problem_N = prompts(rng, num_problems, 1, most)
    size_N = rng.integers(2, 9, size=len(problem_N))
    problem_T = np.repeat(problem_N, size_N)
    right_T = rng.random(len(problem_T)) < 0.8
    shared_T = shared_noise(rng, problem_T, correlation)
    scores = [shared_T + by * right_T + rng.normal(size=len(problem_T)) / 2 for by in (apart, rival)]
    cuts = np.cumsum(size_N)[:-1]
    labels = StepLabels(right=tuple(np.split(right_T.astype(np.float64), cuts)), problem=problem_N)
    return labels, np.split(scores[0], cuts), np.split(scores[1], cuts)


@cache
def true_score(correlation: float, apart: float) -> float:
    labels, scores, _ = steps(np.random.default_rng(7), MANY, 3, correlation, apart, 0.0)
    return prm_score(scores, labels, 0.0, seed=0).value


def score(num_problems: int, correlation: float, apart: float) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        labels, scores, _ = steps(rng, num_problems, 3, correlation, apart, 0.0)
        interval = prm_score(scores, labels, 0.0, seed=int(rng.integers(1 << 31))).interval
        return misses(interval, true_score(correlation, apart))

    return each(one)


def gain(num_problems: int, correlation: float, *, ranking: bool) -> Simulate:
    """Two scorers that are equally good: how often one is called better or worse."""

    def one(rng: np.random.Generator) -> bool:
        labels, scores, rival = steps(rng, num_problems, 3, correlation, 1.0, 1.0)
        if ranking:
            gained = auroc_gain_interval(labels.scores_T(scores), labels.scores_T(rival), labels.right_T, labels.problem_T)
            return misses(gained, 0.0)
        return misses(prm_score_gain(scores, rival, labels, (0.0, 0.0), seed=int(rng.integers(1 << 31))).interval, 0.0)

    return each(one)


def accused(num_problems: int, correlation: float) -> Simulate:
    """How often P(right) of steps is called off where it is exact: most steps right, some sure to be wrong."""

    def one(rng: np.random.Generator) -> bool:
        problem_T = prompts(rng, num_problems, 2, 8)
        p_T = rng.beta(2.0, 0.5, size=len(problem_T))
        luck_C = rng.random(num_problems)
        draw_T = np.where(rng.random(len(problem_T)) < correlation, luck_C[problem_T], rng.random(len(problem_T)))
        right_T = (draw_T < p_T).astype(np.float64)
        return ece(p_T, right_T) > expected_ece(p_T, right_T, problem_T, seed=int(rng.integers(1 << 31)), num_samples=400).high

    return each(one)


def labelled(
    rng: np.random.Generator, num_problems: int, law: tuple[float, float, float, int, int], scale: float, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds, labels up to the first error, and problems of steps. law: see `off`."""
    middle, spread, between, most, longest = law
    problem_N = prompts(rng, num_problems, 1, most)
    size_N = rng.integers(1, longest + 1, size=len(problem_N))
    problem_T = np.repeat(problem_N, size_N)
    logit_T = middle + spread * shared_noise(rng, problem_T, 0.3)
    right_T = (rng.random(len(problem_T)) < sigmoid(logit_T + between * rng.normal(size=num_problems)[problem_T])).astype(float)
    ends = np.cumsum(size_N)
    wrong_before_T = np.cumsum(right_T == 0) - (right_T == 0)
    is_known_T = wrong_before_T == np.repeat(wrong_before_T[ends - size_N], size_N)
    return ((logit_T - shift) / scale)[is_known_T], right_T[is_known_T], problem_T[is_known_T]


def off(law: tuple[float, float, float, int, int], num_of_rarer: int, by: float) -> Simulate:
    """How often P(right) of a line that was fitted where so many problems hold a step of the rarer kind is farther from that of the
    best line than `by`, in the mean over steps.

    law: the logits of steps are normal around a middle with a spread, problems differ by another one and have 1 to so many
    solutions of 1 to so many steps. A model's log-odds are a line in them, of log scale -0.3 +- 0.5 and shift 0 +- 0.8: often too
    sure.
    """

    def one(rng: np.random.Generator) -> bool:
        line = float(np.exp(rng.normal(-0.3, 0.5))), float(rng.normal(0, 0.8))
        x_T, right_T, problem_T = labelled(rng, 20 * num_of_rarer, law, *line)
        holds_CK = np.stack([np.bincount(problem_T[right_T == kind], minlength=20 * num_of_rarer) > 0 for kind in (0, 1)], axis=1)
        num_C = np.cumsum(holds_CK, axis=0).min(axis=1)
        kept_T = problem_T <= np.searchsorted(num_C, num_of_rarer)
        fitted = fit_platt(x_T[kept_T], right_T[kept_T], problem_T[kept_T])
        new_T, new_right_T, new_problem_T = labelled(rng, 600, law, *line)
        best = fit_platt(new_T, new_right_T, new_problem_T)
        found, wanted = (sigmoid(one.scale * new_T + one.shift) for one in (fitted, best))
        return float(np.abs(found - wanted).mean()) > by

    return each(one)


STEP_LAWS = ((1.0, 1.0, 0.5, 1, 5), (1.5, 1.5, 0.7, 4, 3), (2.0, 2.0, 0.7, 4, 8), (1.0, 2.0, 1.0, 4, 3), (0.5, 1.5, 0.7, 1, 8))
LEVELS: tuple[Level, ...] = (
    *(
        Level(
            name="process_f1 misses",
            law=f"exact on {a:g} of the wrong and {b:g} of the right, {n} problems of 1 to {m} solutions, correlation {c:g}",
            count=f1(a, b, n, m, c),
            most=MISSES,
        )
        for a, b, n, m, c in ((0.4, 0.8, 100, 1, 0.0), (0.3, 0.9, 60, 4, 0.3), (0.1, 0.5, 200, 2, 0.3), (0.6, 0.6, 60, 8, 0.6))
    ),
    *(
        Level(
            name="prm_score misses",
            law=f"{n} problems of 1 to 3 solutions, correlation {c:g}, right steps {d:g} higher",
            count=score(n, c, d),
            most=MISSES,
        )
        for n, c, d in ((60, 0.3, 1.5), (200, 0.6, 0.5), (60, 0.0, 3.0))
    ),
    *(
        Level(
            name=f"{name} tells equal scorers apart",
            law=f"{n} problems of 1 to 3 solutions, correlation {c:g}",
            count=gain(n, c, ranking=ranking),
            most=MISSES,
        )
        for name, ranking in (("prm_score_gain", False), ("auroc_gain_interval", True))
        for n, c in ((60, 0.3), (200, 0.6))
    ),
    *(
        Level(
            name="expected_ece calls exact probabilities of steps off",
            law=f"{n} problems of 2 to 8 steps, {c:g} of the steps by one draw",
            count=accused(n, c),
            most=0.05,
        )
        for n, c in ((60, 0.3), (200, 0.6))
    ),
    *(
        Level(
            name=f"fit_platt is off by more than {by:g}",
            law=f"{num} problems with a step of the rarer kind, logits {m:g} +- {d:g}, problems +- {b:g}, {n} solutions to {k}",
            count=off((m, d, b, n, k), num, by),
            **claim,
        )
        for m, d, b, n, k in STEP_LAWS
        for num, by, claim in ((MIN_PROBLEMS, 0.1, {"most": 0.1}), (3, 0.1, {"least": 0.2}))
        if (num, m) != (3, 2.0)  # steps that are nearly sure are hardly ever off by so much
    ),
)
