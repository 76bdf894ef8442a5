"""What a judge goes by beside the answers: their place, their length, their format, and who wrote them.

Each bias is a difference of two shares that is zero for a judge who errs alike everywhere. A finding asks for size and for
evidence: fail above `LARGE`, warn above `SMALL`, to either side, and the interval at `DECIDES` must not hold zero, so that an
unbiased judge is accused of any of the four in at most 5% of data sets (benchmarks/levels.py).

Suffixes: P pairs; 2: chosen shown first, chosen shown second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from assay.audit.attribution.features import FEATURES
from assay.records import Failure, Finding, Metric, PreferencePair, Report
from assay.scorers.base import HasBill, Scorer, capability, own_comparer, prefer
from assay.scorers.in_order import ComparesInOrder, TellsOrders, of_both_orders
from assay.stats.agreement import cohens_kappa
from assay.stats.mean_intervals import groups_interval, mean_interval
from assay.stats.metrics import CHANGE, Interval
from assay.stats.votes import right_of_two

SMALL, LARGE = 0.05, 0.15
MANY_FLIPS = 0.10
DECIDES = 1 - 0.05 / 4  # four biases, one in twenty for all of them
POSITION, FLIPS, LENGTH, FORMAT, OWN = "position", "flips on swap", "verbosity", "format", "self-preference"
WRITERS = ("chosen_model", "rejected_model")
"""Tags that say which model wrote which answer."""
_FORMATS = ("bullets", "bold", "headings", "code", "emoji")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeResult:
    """The biases of a judge: a metric for each that could be measured, a finding for each of the four."""

    title: str
    metrics: tuple[Metric, ...]
    findings: tuple[Finding, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_biased(self) -> bool:
        return any(finding.level == "fail" for finding in self.findings)

    def report(self) -> Report:
        return Report(title=self.title, metrics=self.metrics, findings=self.findings, facts=self.facts)


class _Bias(NamedTuple):
    metrics: tuple[Metric, ...]
    finding: Finding


def judge_biases(
    scorer: Scorer, pairs: Sequence[PreferencePair], *, own: str | None = None, title: str = "Biases of the judge", seed: int = 0
) -> JudgeResult:
    """Measure a judge's biases on labelled pairs; ties of the label count for the place alone.

    own: part of the name of the judge's own model, for self-preference; the tags chosen_model and rejected_model then say who wrote
    what. A scorer of single answers is asked for its rewards and has no bias of place. Raises ValueError for no pairs.
    """
    pairs = list(pairs)
    if not pairs:
        raise ValueError("no pairs to judge: give at least one")
    prompts_P = np.unique([pair.prompt_key for pair in pairs], return_inverse=True)[1]
    preference_P = np.array([pair.preference for pair in pairs], dtype=np.float64)
    in_order_P2, asked = verdicts_in_order(scorer, pairs)
    p_P = prefer(scorer, pairs) if in_order_P2 is None else _as_given(in_order_P2)
    right_P = right_of_two(p_P, preference_P)
    biases = [
        _position(in_order_P2, preference_P, prompts_P, asked, seed),
        _contrast(LENGTH, _better_has_more(pairs, preference_P, len), right_P, prompts_P, "is longer", "length"),
        _contrast(FORMAT, _better_has_more(pairs, preference_P, marks), right_P, prompts_P, "has more markup", "surface"),
        _own(pairs, own, preference_P, right_P, prompts_P),
    ]
    scored = int(np.sum(~np.isnan(p_P)))
    accuracy = Metric(
        "accuracy, ties half right",
        float(np.nanmean(right_P)) if np.any(~np.isnan(right_P)) else math.nan,
        *mean_interval(right_P, prompts_P, seed=seed),
        int(np.sum(~np.isnan(right_P))),
        int(np.sum(preference_P != 0.5)),
    )
    facts = {"judge": scorer.fingerprint, "pairs": str(len(pairs)), "pairs with a verdict": str(scored), "asked": asked}
    return JudgeResult(
        title=title,
        metrics=(accuracy, _kappa(pairs, p_P, preference_P, prompts_P), *(metric for bias in biases for metric in bias.metrics)),
        findings=tuple(bias.finding for bias in biases),
        facts=facts,
    )


def verdicts_in_order(scorer: Scorer, pairs: Sequence[PreferencePair]) -> tuple[np.ndarray | None, str]:
    """P(chosen beats rejected) with chosen shown first, and second: (P, 2), and how it was asked for; None of a scorer that does
    not compare. A judge that does not tell its verdicts apart is asked for every pair both ways round."""
    in_order = capability(scorer, ComparesInOrder, of_same_rewards=True)
    if in_order is not None:
        return in_order.compare_in_order(pairs), "both orders, as the judge tells them"
    tells = capability(scorer, TellsOrders, of_same_rewards=True)
    if tells is not None:
        said = tells.comparisons([pair.completions() for pair in pairs])
        return np.array([(one.forward, one.backward) for one in said], np.float64), "both orders, as the judge tells them"
    comparer = own_comparer(scorer)
    if comparer is None:
        return None, "one answer at a time: it sees no order"
    turned = [_turned(pair) for pair in pairs]
    return np.stack([comparer.compare(pairs), 1 - comparer.compare(turned)], axis=1), "every pair, and every pair turned"


def _kappa(pairs: Sequence[PreferencePair], p_P: np.ndarray, preference_P: np.ndarray, prompts_P: np.ndarray) -> Metric:
    """Agreement with the labels beyond chance, a tie being a verdict of its own.

    Which answer a pair calls chosen is the label itself: the first one is taken by the texts, else chance would agree always.
    """
    turn_P = np.array([-1.0 if pair.chosen > pair.rejected else 1.0 for pair in pairs])
    said, labels = (
        [None if np.isnan(side) else float(side) for side in turn_P * np.sign(column_P - 0.5)] for column_P in (p_P, preference_P)
    )
    found = cohens_kappa(said, labels, clusters_N=prompts_P)
    note = f"Cohen's, ties a verdict of their own; the same verdict in {found.share:.3f}"
    return Metric("kappa with the labels", found.value, found.low, found.high, found.num_items, len(pairs), note)


def is_asked(scorer: Scorer) -> bool:
    """Whether the scorer is a judge: one that compares by itself, or whose verdicts are calls to a language model."""
    return own_comparer(scorer) is not None or capability(scorer, HasBill) is not None


def marks(text: str) -> float:
    """How much markup a text has: bullets, bold, headings, code and emoji, each as log(1 + count)."""
    return sum(FEATURES[name](text.lower()) for name in _FORMATS)


def _as_given(in_order_P2: np.ndarray) -> np.ndarray:
    """The mean of both orders, or the verdict of the one that was given."""
    both_P = of_both_orders(in_order_P2)
    one_P = np.where(np.isnan(in_order_P2[:, 0]), in_order_P2[:, 1], in_order_P2[:, 0])
    return np.where(np.isnan(both_P), one_P, both_P)


def _position(in_order_P2: np.ndarray | None, preference_P: np.ndarray, prompts_P: np.ndarray, asked: str, seed: int) -> _Bias:
    """How much more often the answer shown first wins than the one shown second, over both orders of each pair."""
    if in_order_P2 is None:
        return _Bias((), Finding("ok", POSITION, 0.0, LARGE, asked))
    both_P = ~np.isnan(in_order_P2).any(1)
    if not both_P.any():
        why = "not measured: no pair has a verdict in both orders"
        return _Bias((), Finding("warn", POSITION, math.nan, LARGE, why))
    lead_P = in_order_P2[:, 0] - in_order_P2[:, 1]  # P(first shown wins) in one order and in the other, less 1
    flip_P = np.where(both_P, (np.sign(in_order_P2[:, 0] - 0.5) != np.sign(in_order_P2[:, 1] - 0.5)).astype(np.float64), np.nan)
    number, n = int(both_P.sum()), len(both_P)
    flips = Metric(FLIPS, float(np.nanmean(flip_P)), *mean_interval(flip_P, prompts_P, seed=seed), number, n)
    shown = mean_interval(lead_P, prompts_P, seed=seed, support=CHANGE)
    note = "wins of the answer shown first, less those of the one shown second, over both orders"
    lead = Metric(POSITION, float(np.nanmean(lead_P)), *shown, number, n, note)
    surely = mean_interval(lead_P, prompts_P, seed=seed, support=CHANGE, level=DECIDES)
    finding = _finding(POSITION, lead, surely, "the answer shown first" if lead.value > 0 else "the answer shown second", None)
    if finding.level == "ok" and flips.value > MANY_FLIPS:
        why = f"{flips.value:.1%} of {number} verdicts turn with the order, to neither side: ask in both orders and take the mean"
        finding = Finding("warn", POSITION, flips.value, MANY_FLIPS, why)
    return _Bias((flips, lead), finding)


def _contrast(
    name: str, more_P: np.ndarray, right_P: np.ndarray, prompts_P: np.ndarray, what: str, failure: Failure | None
) -> _Bias:
    """How much more often the judge is right where the better answer has more of something than where it has less."""
    with_more_P, with_less_P = more_P > 0, more_P < 0
    scored_P = ~np.isnan(right_P)
    sizes = [int(np.sum(scored_P & side_P)) for side_P in (with_more_P, with_less_P)]
    if min(sizes) == 0:
        why = f"not measured: the better answer {what} in {sizes[0]} judged pairs, and the other one in {sizes[1]}"
        return _Bias((), Finding("warn", name, math.nan, LARGE, why, failure))
    shares = [float(right_P[scored_P & side_P].mean()) for side_P in (with_more_P, with_less_P)]
    note = f"right in {shares[0]:.3f} of {sizes[0]} pairs whose better answer {what}, {shares[1]:.3f} of {sizes[1]} others"
    shown = groups_interval(right_P, with_more_P, with_less_P, prompts_P)
    metric = Metric(name, shares[0] - shares[1], *shown, sum(sizes), len(right_P), note)
    surely = groups_interval(right_P, with_more_P, with_less_P, prompts_P, level=DECIDES)
    to = f"the answer that {what}" if metric.value > 0 else "the other answer"
    return _Bias((metric,), _finding(name, metric, surely, to, failure))


def _finding(name: str, metric: Metric, surely: Interval, to: str, failure: Failure | None) -> Finding:
    """By size and evidence, to either side. surely: the interval that decides."""
    size, seen = abs(metric.value), f"{metric.value:+.3f} [{metric.low:+.3f}, {metric.high:+.3f}], {metric.note}"
    if size <= SMALL or surely.low <= 0 <= surely.high:
        return Finding("ok", name, size, LARGE, f"{seen}: no pull beyond chance and {SMALL:g}", failure)
    return Finding("fail" if size > LARGE else "warn", name, size, LARGE, f"{seen}: it pulls to {to}", failure)


def _own(
    pairs: Sequence[PreferencePair], own: str | None, preference_P: np.ndarray, right_P: np.ndarray, prompts_P: np.ndarray
) -> _Bias:
    """Whether the judge is right more often where its own model's answer is the better one."""
    if own is None:
        why = "not measured: name the judge's own model (own), and tag pairs with chosen_model and rejected_model"
        return _Bias((), Finding("warn", OWN, math.nan, LARGE, why))
    is_own_P2 = np.array([[own.lower() in pair.tags.get(tag, "").lower() for tag in WRITERS] for pair in pairs], dtype=np.float64)
    better_P = (is_own_P2[:, 0] - is_own_P2[:, 1]) * np.sign(preference_P - 0.5)
    return _contrast(OWN, better_P, right_P, prompts_P, f"is {own}'s own", None)


def _better_has_more(pairs: Sequence[PreferencePair], preference_P: np.ndarray, amount: Callable[[str], float]) -> np.ndarray:
    """1 where the answer that the label prefers has more, -1 where it has less, 0 where equal or a label tie: (P,)."""
    gap_P = np.array([amount(pair.chosen) - amount(pair.rejected) for pair in pairs], dtype=np.float64)
    return np.sign(gap_P) * np.sign(preference_P - 0.5)


def _turned(pair: PreferencePair) -> PreferencePair:
    return PreferencePair(
        prompt=pair.prompt,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_message=pair.rejected_message,
        rejected_message=pair.chosen_message,
        preference=1 - pair.preference,
        tools=pair.tools,
        ground_truth=pair.ground_truth,
        source=pair.source,
        id=pair.id,
    )
