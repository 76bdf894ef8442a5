"""How the capital of the alarm may be spread over the gamblers of a run: the form in use beside others, on the same comparisons.

A form says which part of a capital of 1 joins the bets before which comparison. Every form is a supermartingale from 1 at the
boundary, so that all keep alpha at the threshold 1 / alpha; they differ in what they see. Suffixes: K opponents, N comparisons of
a run, in order, G sizes of bets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from assay.audit.monitors import ALPHA, DELTA, GroundLost
from assay.stats.betting import gains

IN_USE = "alarm: ground lost"
Look = tuple[int, Mapping[str, Sequence[float]]]
"""Step, and results by opponent."""


def at_once(looks: int, size: int) -> np.ndarray:
    """(N,) all of it before the first comparison: the alarm as it was."""
    return np.eye(1, looks * size).ravel()


def each_comparison(looks: int, size: int) -> np.ndarray:
    """(N,) as much before each comparison of a run whose length is known: a threshold of n / alpha for the sum of n capitals."""
    return np.full(looks * size, 1 / (looks * size))


def each_look(looks: int, size: int) -> np.ndarray:
    """(N,) as much before each look of a run whose number of looks is known."""
    joins = np.zeros((looks, size))
    joins[:, 0] = 1 / looks
    return joins.ravel()


FORMS: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "alarm, all at once": at_once,
    "alarm, n comparisons known": each_comparison,
    "alarm, n looks known": each_look,
}


def first_alarms(looks: Sequence[Look]) -> dict[str, int | None]:
    """Step at which each form alarms, looked at after every look; None where it does not. NaN is not expected."""
    ground = GroundLost()
    for step, results in looks:
        ground = ground.seen(step, results)
    names = list(looks[0][1])
    results_KN = np.array([[one for _, results in looks for one in results[name]] for name in names], dtype=np.float64)
    size = results_KN.shape[1] // len(looks)
    found = {IN_USE: ground.since}
    for name, joins in FORMS.items():
        capital_N = np.mean([capital(one_N, joins(len(looks), size)) for one_N in results_KN], axis=0)
        rings = np.flatnonzero(capital_N[size - 1 :: size] >= 1 / ALPHA)
        found[name] = int(looks[rings[0]][0]) if len(rings) else None
    return found


def capital(results_N: np.ndarray, joins_N: np.ndarray) -> np.ndarray:
    """(N,) capital after each comparison, what is at rest included."""
    sums_NG = np.cumsum(np.log(gains(results_N, 0.5 - DELTA)), axis=0)
    before_NG = np.vstack([np.zeros((1, sums_NG.shape[1])), sums_NG[:-1]])
    with np.errstate(divide="ignore"):
        logs_NG = sums_NG + np.logaddexp.accumulate(np.log(joins_N)[:, None] - before_NG, axis=0)
    return np.exp(logs_NG).mean(1) + np.maximum(1 - np.cumsum(joins_N), 0)
