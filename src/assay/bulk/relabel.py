"""Pairs that are there already with a teacher's labels in place of their own: what a judge knows, for a scalar model to learn.

A teacher is any scorer; one of pairs is asked in both orders. Its probability becomes the label, which training takes as a soft
target. What it says differently in the two orders, or not at all, is counted and not written.

Suffixes: P pairs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from assay.bulk.label import Said, judged
from assay.records import Metric, PreferencePair
from assay.scorers.base import Scorer
from assay.stats.mean_intervals import mean_interval

GIVEN = "label"  # tag: the label that a pair had before


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelled:
    """pairs: what is written. agreement: with the labels that were there, ties of either apart. unwritten: pairs that are not
    written, by reason. seconds: wall time of all judgements."""

    pairs: tuple[PreferencePair, ...]
    agreement: Metric
    num_judged: int
    seconds: float
    unwritten: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for people."""
        each = f", {1000 * self.seconds / self.num_judged:,.1f} ms a pair" if self.num_judged else ""
        named = ", ".join(f"{number:,} {reason}" for reason, number in sorted(self.unwritten.items(), key=lambda item: -item[1]))
        left_out = f"; pairs not written: {named}" if named else ""
        return f"{self.num_judged:,} pairs judged in {self.seconds:.1f} s{each} -> {len(self.pairs):,} written{left_out}"


def relabel(teacher: Scorer, pairs: Sequence[PreferencePair], *, hard: bool = False, seed: int = 0) -> Relabelled:
    """The pairs with the teacher's labels: `preference` is its probability that the answer it prefers is the better one.

    hard: 1 in place of the probability. seed: of the interval. Of a scorer of single answers the probability is its calibrated one
    where it has a calibration, else the sigmoid of its margin.
    """
    began = time.perf_counter()
    said = judged(teacher, pairs)
    seconds = time.perf_counter() - began
    written, unwritten = [], Counter[str]()
    for pair, one in zip(pairs, said, strict=True):
        if one.why_not is not None:
            unwritten[one.why_not] += 1
        else:
            written.append(_with_label(pair, one, teacher.fingerprint, hard))
    return Relabelled(
        pairs=tuple(written),
        agreement=_agreement(pairs, said, seed),
        num_judged=len(pairs),
        seconds=seconds,
        unwritten=dict(unwritten),
    )


def _with_label(pair: PreferencePair, said: Said, teacher: str, hard: bool) -> PreferencePair:
    """The pair as the teacher sees it, its answers in the order of the new label."""
    if said.p < 0.5:
        pair = replace(
            pair,
            chosen=pair.rejected,
            rejected=pair.chosen,
            chosen_message=pair.rejected_message,
            rejected_message=pair.chosen_message,
            preference=1 - pair.preference,
        )
    tags = {**pair.tags, "judge": teacher, GIVEN: f"{pair.preference:g}"}
    margin = None if said.margin is None else abs(said.margin)
    return replace(pair, preference=1.0 if hard else max(said.p, 1 - said.p), margin=margin, tags=tags)


def _agreement(pairs: Sequence[PreferencePair], said: Sequence[Said], seed: int) -> Metric:
    """How often the teacher prefers the answer that the label does, by prompt; of verdicts that were given."""
    name, note = "agreement with the labels", "verdicts that stand, ties of the labels left out"
    both = [(pair, one) for pair, one in zip(pairs, said, strict=True) if one.why_not is None and not pair.is_tie]
    if not both:
        return Metric(name, float("nan"), n=len(pairs), note="no verdict stands on a pair with a label")
    right_P = np.array([(one.p > 0.5) == (pair.preference > 0.5) for pair, one in both], np.float64)
    interval = mean_interval(right_P, np.array([pair.prompt_key for pair, _ in both]), seed=seed)
    return Metric(name, float(right_P.mean()), *interval, len(both), len(pairs), note)
