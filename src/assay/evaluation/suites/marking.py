"""The scoring rules, from rewards to marks: pairs, best of k, beats all, ties, styles, labels with ties. Pure functions.

A rule takes the cases, their rewards (one (N,) array each) and a seed. A comparison or a list that has an unscored answer in it
has no value: it is counted, not guessed. An equal reward is no win (RewardBench's `score_chosen > score_rejected`), unless the
official code of a suite says otherwise (`second_on_ties`).

Suffixes: N candidates of a case, P cases, I comparisons of a case, M margins that are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from assay.data.cases import Case, comparisons
from assay.evaluation.suites.marks import Mark
from assay.records import Table
from assay.stats.metrics import cluster_folds

Rule: TypeAlias = Callable[[Sequence[Case], Sequence[np.ndarray], int], list[Mark]]

STYLES = ("concise", "detailed", "markdown")
EASY, NORMAL, HARD = "easy", "normal", "hard"
TIED, REFERENCE, PREFERRED, PREFERRED_HARD, MARGIN = "tied", "reference", "preferred", "preferred hard", "margin"
WITHOUT_TIES, THREE_WAYS = "without ties", "three ways"


def best(section: str) -> str:
    """The part of `best_of` beside the pairs of a section."""
    return f"{section}, best of n"


def pairs(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """Share of comparisons in which the better answer has the higher reward."""
    return [_pairs_mark(case, rewards_N, case.section) for case, rewards_N in zip(cases, rewards, strict=True)]


def best_of(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """Gold of the answer with the highest reward; m equal ones share: 1/m if one of them is the right one (RewardBench 2)."""
    return [_best_mark(case, rewards_N, case.section) for case, rewards_N in zip(cases, rewards, strict=True)]


def pairs_and_best(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """Both of these: pairs as the section, the best of all candidates beside it."""
    beside = [_best_mark(case, r, best(case.section))._replace(subset="") for case, r in zip(cases, rewards, strict=True)]
    return pairs(cases, rewards, seed) + beside


def beats_all(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """1 where every comparison of a case is won: the chosen answer above each loser (RMB). With one loser that is `pairs`."""
    marks = []
    for case, rewards_N in zip(cases, rewards, strict=True):
        mark = _pairs_mark(case, rewards_N, case.section)
        scored = mark.num_scored == mark.num
        marks.append(mark._replace(total=float(scored and mark.total == mark.num), num_scored=int(scored), num=1))
    return marks


def second_on_ties(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """Two answers, A and B: "A>B" is said where A has the higher reward, else "B>A", also of equal rewards (JudgeBench)."""
    marks = []
    for case, rewards_N in zip(cases, rewards, strict=True):
        says_first, is_first = rewards_N[0] > rewards_N[1], case.gold[0] > case.gold[1]
        marks.append(_mark(case.section, case, rewards_N[0] - rewards_N[1], says_first == is_first)._replace(subset=case.subset))
    return marks


def styles(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """RM-Bench: three chosen, then three rejected answers, each in three styles; 9 comparisons a case.

    hard: the chosen answer has less style than the rejected one (3 comparisons), normal: the same, easy: more.
    """
    marks = []
    for case, rewards_N in zip(cases, rewards, strict=True):
        gap_33 = rewards_N[:3, None] - rewards_N[None, 3:]
        for kind, chosen_3, rejected_3 in _STYLE_CELLS:
            gaps_3 = gap_33[chosen_3, rejected_3]
            scored = int(np.sum(~np.isnan(gaps_3)))
            marks.append(Mark(f"{case.section}: {kind}", case.subset, case.cluster, float(np.sum(gaps_3 > 0)), scored, 3))
    return marks


def style_table(suite: str, cases: Sequence[Case], rewards: Sequence[np.ndarray]) -> Table:
    """The 3 x 3 matrix over all cases: rows the chosen answer's style, columns the rejected one's."""
    rewards_P6 = np.array(rewards).reshape(-1, 6)
    gap_P33 = rewards_P6[:, :3, None] - rewards_P6[:, None, 3:]
    scored_33 = np.sum(~np.isnan(gap_P33), axis=0)
    share_33 = np.sum(gap_P33 > 0, axis=0) / np.where(scored_33, scored_33, np.nan)
    rows = tuple((style, *(float(share) for share in share_33[i])) for i, style in enumerate(STYLES))
    heads = ("chosen \\ rejected", *STYLES)
    note = f"{len(cases):,} prompts pooled; below the diagonal easy, above it hard; at least {int(scored_33.min()):,} scored"
    return Table(title=f"{suite}: by style", columns=heads, rows=rows, note=note)


_STYLE_CELLS = ((EASY, *np.tril_indices(3, -1)), (NORMAL, *np.diag_indices(3)), (HARD, *np.triu_indices(3, 1)))


class _Spread(NamedTuple):
    """Of one case: lowest reward of a right answer less the highest of a wrong one; how far the right ones lie apart."""

    margin: float
    apart: float
    num_right: int


def tied_answers(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """RewardBench 2, Ties: questions with many right answers ("tied:n"), each beside one with a single right answer ("ref:n").

    Five parts, whose weights are in the catalog: both kinds accurate (every right answer above every wrong one); and for each
    question that has both: is the margin to the wrong answers larger than the spread of the right ones, is it so with the smaller
    of the two margins, and tanh(smaller margin / spread - 1). A spread of 0 makes the last one 1, -1 or 0 by the sign of the
    margin, as the division by 0 does in the official code.
    """
    spreads: dict[str, dict[str, _Spread]] = {TIED: {}, REFERENCE: {}}
    marks = []
    for case, rewards_N in zip(cases, rewards, strict=True):
        kind, number = _tied_id(case)
        spread = _spread(case, rewards_N)
        spreads[kind][number] = spread
        marks.append(_mark(kind, case, spread.margin, spread.margin > 0)._replace(subset=case.subset))
    for case in cases:
        kind, number = _tied_id(case)
        if kind == REFERENCE or number not in spreads[REFERENCE]:
            continue
        tied, smaller = spreads[TIED][number], min(spreads[TIED][number].margin, spreads[REFERENCE][number].margin)
        if math.isnan(tied.margin + spreads[REFERENCE][number].margin):
            smaller = math.nan
        if tied.num_right > 1:
            marks.append(_mark(PREFERRED, case, tied.margin, tied.margin > tied.apart))
            marks.append(_mark(PREFERRED_HARD, case, smaller, smaller > tied.apart))
            ratio = math.tanh(smaller / tied.apart - 1) if tied.apart else float(np.sign(smaller))
            marks.append(_mark(MARGIN, case, smaller, ratio))
    return marks


def _tied_id(case: Case) -> tuple[str, str]:
    kind, _, number = case.id.partition(":")
    return (TIED if kind == "tied" else REFERENCE), number


def _spread(case: Case, rewards_N: np.ndarray) -> _Spread:
    right_N = np.asarray(case.gold) > 0.5
    right, wrong = rewards_N[right_N], rewards_N[~right_N]
    return _Spread(float(right.min() - wrong.max()), float(right.max() - right.min()), len(right))


def _mark(part: str, case: Case, known: float, value: float) -> Mark:
    scored = not math.isnan(known)
    return Mark(part, "", case.cluster, float(value) if scored else 0.0, int(scored), 1)


def labels_with_ties(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
    """Two answers and a label that may be a tie. Two parts: pairs whose label is no tie; and agreement three ways.

    Three ways: a tie is said where the rewards differ by no more than a margin. The margin is the one with the most agreement on
    one half of the prompts (`seed` draws the halves), and is held against the other half; so for both halves.
    """
    gap_P = np.array([rewards_N[0] - rewards_N[1] for rewards_N in rewards])
    label_P = np.array([np.sign(case.gold[0] - case.gold[1]) for case in cases])
    half_P = cluster_folds(np.array([case.cluster for case in cases]), 2, seed=seed)
    said_P = np.full(len(cases), np.nan)
    for half in (0, 1):
        fitted, checked = (half_P != half) & ~np.isnan(gap_P), (half_P == half) & ~np.isnan(gap_P)
        margin = tie_margin(gap_P[fitted], label_P[fitted])
        said_P[checked] = np.where(np.abs(gap_P[checked]) <= margin, 0, np.sign(gap_P[checked]))
    marks = [
        _pairs_mark(c, r, WITHOUT_TIES)._replace(subset="") for c, r in zip(cases, rewards, strict=True) if c.gold[0] != c.gold[1]
    ]
    for case, said, label in zip(cases, said_P, label_P, strict=True):
        marks.append(_mark(THREE_WAYS, case, said, said == label)._replace(subset=case.subset))
    return marks


def tie_margin(gap_P: np.ndarray, label_P: np.ndarray) -> float:
    """The margin at which "a tie where |gap| <= margin, else the sign" agrees most with labels of -1, 0, 1; the least of equals."""
    size_M, place_P = np.unique(np.append(np.abs(gap_P), 0.0), return_inverse=True)
    gained_P = (label_P == 0).astype(np.float64) - (np.sign(gap_P) == label_P)  # by saying "a tie" of this pair
    return float(size_M[np.argmax(np.cumsum(np.bincount(place_P[:-1], weights=gained_P, minlength=len(size_M))))])


def by_section(rules: Mapping[str, Rule], otherwise: Rule) -> Rule:
    """One rule for the sections that are named, another for the rest."""

    def rule(cases: Sequence[Case], rewards: Sequence[np.ndarray], seed: int = 0) -> list[Mark]:
        marks: list[Mark] = []
        for section in dict.fromkeys(case.section for case in cases):
            of_it = [i for i, case in enumerate(cases) if case.section == section]
            marks += rules.get(section, otherwise)([cases[i] for i in of_it], [rewards[i] for i in of_it], seed)
        return marks

    return rule


def _pairs_mark(case: Case, rewards_N: np.ndarray, part: str) -> Mark:
    better_I, worse_I = comparisons(case).T
    gap_I = rewards_N[better_I] - rewards_N[worse_I]
    num_won, num_unscored = int(np.count_nonzero(gap_I > 0)), int(np.count_nonzero(np.isnan(gap_I)))
    return Mark(part, case.subset, case.cluster, float(num_won), len(gap_I) - num_unscored, len(gap_I))


def _best_mark(case: Case, rewards_N: np.ndarray, part: str) -> Mark:
    if np.isnan(rewards_N).any():
        return Mark(part, case.subset, case.cluster, 0.0, 0, 1)
    credit = float(np.asarray(case.gold, dtype=np.float64)[rewards_N == rewards_N.max()].mean())
    return Mark(part, case.subset, case.cluster, credit, 1, 1)
