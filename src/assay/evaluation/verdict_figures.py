"""Figures of a judge of pairs that was asked in both orders, and what they become when missing verdicts are counted as something.

Verdicts are P(the first answer is better), NaN where none was given.

Suffixes: N pairs; 2: shown in the order of the file, and swapped.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from assay.records import Metric
from assay.stats.agreement import Agreement, cohens_kappa
from assay.stats.mean_intervals import mean_interval
from assay.stats.votes import right_of_two

Missing = Literal["left out", "wrong", "tie", "second"]
"""What a verdict that was not given counts as: nothing (the honest way), a wrong answer, a tie, a vote for the second answer."""


class OrderFigures(NamedTuple):
    """Shares with 95% intervals by prompt. given, swapped: right in the order of the file and in the other; average of both; both:
    right in both; equal: the same verdict in both orders; flips: another one. kappa: agreement of the verdicts in the two orders.
    num_missing: verdicts of the 2N that were not given. A tie is half right in `given`, `swapped` and `average`."""

    given: Metric
    swapped: Metric
    average: Metric
    both: Metric
    equal: Metric
    flips: Metric
    kappa: Agreement
    num_missing: int


def filled(first_N2: np.ndarray, missing: Missing) -> np.ndarray:
    """The verdicts with what is counted where there is none; "left out" and "wrong" leave NaN."""
    return np.where(np.isnan(first_N2), {"tie": 0.5, "second": 0.0}.get(missing, np.nan), first_N2)


def order_figures(
    first_N2: np.ndarray, gold_N: np.ndarray, prompts_N: np.ndarray, *, missing: Missing = "left out", seed: int = 0
) -> OrderFigures:
    """What a judge that was asked in both orders got right, and how often the order decided. gold_N: as `Label.preference`.

    "wrong" counts a missing verdict as wrong where there is a label, and two missing ones as equal, as LLMBar's statistics do.
    Zeng et al. (2024), "Evaluating Large Language Models at Evaluating Instruction Following".
    """
    counted_N2 = filled(first_N2, missing)
    right_N2 = np.stack([right_of_two(counted_N2[:, order], gold_N) for order in (0, 1)], axis=1)
    side_N2, gave_N2 = np.sign(counted_N2 - 0.5), ~np.isnan(counted_N2)
    equal_N = np.where(gave_N2.all(1), (side_N2[:, 0] == side_N2[:, 1]).astype(np.float64), np.nan)
    if missing == "wrong":
        right_N2 = np.where(gave_N2 | (gold_N == 0.5)[:, None], right_N2, 0.0)
        equal_N = np.where(gave_N2.all(1), equal_N, (~gave_N2.any(1)).astype(np.float64))
    both_N = np.where(np.isnan(right_N2).any(1), np.nan, (right_N2 == 1).all(1).astype(np.float64))

    def share(name: str, values_N: np.ndarray) -> Metric:
        scored = int(np.sum(~np.isnan(values_N)))
        value = float(np.nanmean(values_N)) if scored else float("nan")
        return Metric(name, value, *mean_interval(values_N, prompts_N, seed=seed), scored, len(values_N))

    labels = [[None if np.isnan(side) else float(side) for side in side_N2[:, order]] for order in (0, 1)]
    return OrderFigures(
        given=share("right as given", right_N2[:, 0]),
        swapped=share("right when swapped", right_N2[:, 1]),
        average=share("right on average", right_N2.mean(1)),
        both=share("right in both orders", both_N),
        equal=share("same verdict in both orders", equal_N),
        flips=share("flips on swap", 1 - equal_N),
        kappa=cohens_kappa(*labels, clusters_N=prompts_N),
        num_missing=int(np.isnan(first_N2).sum()),
    )


class LabelFigures(NamedTuple):
    """Verdicts against people's labels with ties as a third label: accuracy with its interval, kappa, and precision, recall and F1,
    each the mean over the three labels."""

    accuracy: Metric
    kappa: Agreement
    precision: float
    recall: float
    f1: float


def label_figures(
    first_N: np.ndarray, gold_N: np.ndarray, prompts_N: np.ndarray, *, missing: Missing = "left out", seed: int = 0
) -> LabelFigures:
    """A judge against people, tie being an answer of its own. Pairs without a label are left out."""
    said_N = np.sign(filled(first_N, missing) - 0.5)
    side_N = np.sign(np.asarray(gold_N, dtype=np.float64) - 0.5)
    right_N = np.where(np.isnan(said_N) | np.isnan(side_N), np.nan, (said_N == side_N).astype(np.float64))
    if missing == "wrong":
        right_N = np.where(np.isnan(said_N) & ~np.isnan(side_N), 0.0, right_N)
    scored = int(np.sum(~np.isnan(right_N)))
    value = float(np.nanmean(right_N)) if scored else float("nan")
    known_N = ~(np.isnan(said_N) | np.isnan(side_N))
    parts = np.array([_precision_recall_f1(said_N[known_N] == label, side_N[known_N] == label) for label in (1, -1, 0)])
    columns = [[None if np.isnan(side) else float(side) for side in column] for column in (said_N, side_N)]
    return LabelFigures(
        Metric(
            "accuracy, ties a label", value, *mean_interval(right_N, prompts_N, seed=seed), scored, int(np.sum(~np.isnan(side_N)))
        ),
        cohens_kappa(*columns, clusters_N=prompts_N),
        *(float(mean) for mean in parts.mean(0)),
    )


def _precision_recall_f1(said_N: np.ndarray, is_N: np.ndarray) -> tuple[float, float, float]:
    hit = int(np.sum(said_N & is_N))
    precision, recall = hit / max(1, int(said_N.sum())), hit / max(1, int(is_N.sum()))
    return precision, recall, 2 * precision * recall / (precision + recall) if hit else 0.0
