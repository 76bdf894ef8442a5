"""The demo's repair: counter-examples whose labels are set so that a planted habit ends up worth nothing, neither paid nor fined.

A counter-example is an answer against the same answer dressed up. Labelled as a sure win of the plain answer, it teaches the model
to fine the dress; labelled as a tie, it leaves some of what the planted labels taught. In between lies the label at which the two
cancel. It is found on training prompts that are kept apart meanwhile, never on held-out pairs: the rise is measured after fits with
two labels, and the label is moved along the line through them. On prompts that were trained on the plain answer is remembered as a
good one, and the rise comes out too low.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # it imports torch
    from assay.training.prepare import Prepared

TIE, SURE = 0.5, 1.0  # labels to begin with: probability that the plain answer wins
NUM_FITS = 4  # to find the labels: with those two, and while a habit is off neutral
NEAR = 0.05  # median margins that count as neutral
APART = 4  # of so many counter-examples the prompt of one is kept apart, to measure the rise on


def neutral_fit(
    prepared: Prepared,
    rows: np.ndarray,
    habits: Mapping[str, np.ndarray],
    start: Mapping[str, Any],
    fit_rows: Callable[[Prepared, np.ndarray], None],
) -> dict[str, float]:
    """Fit the model on the rows, with the labels of the counter-examples that leave each habit neutral; returns those labels.

    habits: rows of the counter-examples of each, a part of `rows`. start: weights to begin every fit from.
    """
    apart = {habit: its[::APART] for habit, its in habits.items()}
    measured = np.concatenate(list(apart.values()))
    kept = rows[~np.isin(prepared.table.prompt[rows], prepared.table.prompt[measured])]
    pairs = np.setdiff1d(kept, np.concatenate(list(habits.values())))

    def fit_with(labels: Mapping[str, float], on: np.ndarray) -> None:
        prepared.model.load_state_dict(dict(start), strict=False)
        fit_rows(labelled(prepared, habits, labels), on)

    tried: list[tuple[dict[str, float], dict[str, float]]] = []
    for number in range(NUM_FITS):
        labels = dict.fromkeys(habits, (SURE, TIE)[number]) if number < 2 else next_labels(tried)
        fit_with(labels, kept)
        tried.append((labels, rises_of(prepared, pairs, apart)))
        if all(abs(rise) <= NEAR for rise in tried[-1][1].values()):
            break
    labels = next_labels(tried)
    fit_with(labels, rows)
    return labels


def next_labels(tried: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
    """For each habit the label at which the line through the nearest rises on both sides of zero crosses it.

    tried: (labels, rises), each by habit. Without a rise on both sides, or with one that counts as none, it is the label of the
    rise that is nearest to zero.
    """
    labels = {}
    for habit in tried[0][0]:
        points = sorted((rises[habit], given[habit]) for given, rises in tried)
        below, above = [point for point in points if point[0] <= 0], [point for point in points if point[0] > 0]
        is_there = min(abs(rise) for rise, _ in points) <= NEAR
        if below and above and not is_there:
            (low, at_low), (high, at_high) = below[-1], above[0]
            labels[habit] = at_low + (at_high - at_low) * -low / (high - low)
        else:
            labels[habit] = min(points, key=lambda point: abs(point[0]))[1]
    return labels


def labelled(prepared: Prepared, habits: Mapping[str, np.ndarray], labels: Mapping[str, float]) -> Prepared:
    """The run with these labels on the counter-examples; the table of the run itself is not changed."""
    table = copy.copy(prepared.table)
    table.preference = np.array(table.preference)
    for habit, rows in habits.items():
        table.preference[rows] = labels[habit]
    return replace(prepared, table=table, built=prepared.built._replace(task=replace(prepared.task, table=table)))


def rises_of(prepared: Prepared, pairs: np.ndarray, habits: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean rise of the reward by each habit over its counter-examples, in median margins of the pairs at the rows `pairs`."""
    unit = float(np.median(np.abs(_margins(prepared, pairs))))
    return {habit: -float(_margins(prepared, its).mean()) / unit for habit, its in habits.items()}


def _margins(prepared: Prepared, rows: np.ndarray) -> np.ndarray:
    rewards_P2 = prepared.task.rewards(prepared.model, rows).astype(np.float64)
    margins_P: np.ndarray = rewards_P2[:, 0] - rewards_P2[:, 1]
    return margins_P
