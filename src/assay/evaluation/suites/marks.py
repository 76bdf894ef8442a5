"""From marks to figures: what a rule found in each case, added up by part, and figures that combine parts, with intervals.

Suffixes: C clusters (prompts), K parts, T terms of a figure, V values of the marks of a term.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from assay.records import Metric, Table
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import CHANGE, UNIT

OVERALL = "overall"


class Mark(NamedTuple):
    """What one case gave to one part: the sum of its values, how many there were, how many there should have been."""

    part: str
    subset: str
    cluster: str
    total: float
    num_scored: int
    num: int


class Section(NamedTuple):
    """A figure: the sum over `terms` of weight x mean of all values of the term's parts.

    counted: the parts whose values are its n; those of all terms when left out.
    """

    name: str
    terms: tuple[tuple[float, tuple[str, ...]], ...]
    note: str = ""
    counted: tuple[str, ...] = ()


def parts_of(marks: Iterable[Mark]) -> tuple[str, ...]:
    """The parts in order of appearance."""
    return tuple(dict.fromkeys(mark.part for mark in marks))


def mean_of(name: str, sections: Sequence[Section], note: str = "") -> Section:
    """The plain mean of sections."""
    terms = tuple((weight / len(sections), parts) for section in sections for weight, parts in section.terms)
    counted = tuple(part for section in sections for part in (section.counted or _all_parts(section)))
    return Section(name, terms, note, counted)


def renamed(section: Section, prefix: str) -> Section:
    """The same figure of the parts whose names begin with `prefix`."""
    terms = tuple((weight, tuple(prefix + part for part in parts)) for weight, parts in section.terms)
    return Section(section.name, terms, section.note, tuple(prefix + part for part in section.counted))


def difference(name: str, a: Section, b: Section, note: str = "") -> Section:
    """a - b, prompt by prompt where they share prompts; its n is that of a."""
    return Section(name, (*a.terms, *((-weight, parts) for weight, parts in b.terms)), note, a.counted or _all_parts(a))


def section_metrics(suite: str, marks: Sequence[Mark], sections: Sequence[Section]) -> tuple[Metric, ...]:
    """A metric "suite: section" for each section, with its 95% interval by prompt. A figure of nothing is NaN, with a note.

    Each term has the interval of its mean (`mean_interval`), and those of several terms are joined by the variance that their ends
    stand for, with the correlation of the terms over prompts: Zou & Donner (2008), "Construction of confidence limits about effect
    measures", eq. 13. Where a term cannot vary (every prompt right, say) and shares prompts with another, they count as moving
    together.
    """
    sums = _Sums(marks)
    return tuple(_metric(f"{suite}: {section.name}", section, sums) for section in sections)


def subset_table(suite: str, marks: Sequence[Mark]) -> Table | None:
    """A row for each subset, in order of name; None when there is one only."""
    renamed = [mark._replace(part=mark.subset) for mark in marks if mark.subset]
    names = sorted(parts_of(renamed))
    if len(names) < 2:
        return None
    metrics = section_metrics("", renamed, [Section(name, ((1.0, (name,)),)) for name in names])
    rows = tuple((name, m.n, m.n_scored, m.value, m.low, m.high) for name, m in zip(names, metrics, strict=True))
    heads = ("subset", "n", "n scored", "value", "low", "high")
    return Table(title=f"{suite}: by subset", columns=heads, rows=rows, note="95% intervals, by prompt")


class _Sums:
    """Marks with their parts and clusters as numbers, and what they sum to by part."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        self.parts = {part: k for k, part in enumerate(parts_of(marks))}
        self.part_V = np.array([self.parts[mark.part] for mark in marks], dtype=np.int64)
        self.cluster_V = np.unique([mark.cluster for mark in marks], return_inverse=True)[1]
        self.total_V = np.array([mark.total for mark in marks], dtype=np.float64)
        self.scored_V = np.array([mark.num_scored for mark in marks], dtype=np.int64)
        self.num_K = np.bincount(self.part_V, weights=[mark.num for mark in marks], minlength=len(self.parts))
        self.scored_K = np.bincount(self.part_V, weights=self.scored_V, minlength=len(self.parts))
        self.num_clusters = int(self.cluster_V.max(initial=-1)) + 1

    def columns(self, parts: Iterable[str]) -> list[int]:
        return [self.parts[part] for part in parts if part in self.parts]

    def term(self, parts: Iterable[str]) -> _Term:
        """The values of the marks of some parts. A whole total of several values is that many ones, any other is spread evenly."""
        kept_V = np.isin(self.part_V, self.columns(parts)) & (self.scored_V > 0)
        total_V, scored_V, cluster_V = self.total_V[kept_V], self.scored_V[kept_V], self.cluster_V[kept_V]
        place_P = np.arange(scored_V.sum()) - np.repeat(np.cumsum(scored_V) - scored_V, scored_V)
        total_P, is_whole_P = np.repeat(total_V, scored_V), np.repeat((total_V % 1 == 0) & (total_V >= 0), scored_V)
        values_P = np.where(is_whole_P, place_P < total_P, total_P / np.repeat(scored_V, scored_V))
        return _term_of(values_P, np.repeat(cluster_V, scored_V), self.num_clusters)


class _Term(NamedTuple):
    """A mean with its interval, how its clusters pull on it (C,), and which have a value (C,)."""

    mean: float
    low: float
    high: float
    pull_C: np.ndarray
    has_C: np.ndarray


def _term_of(values_P: np.ndarray, cluster_P: np.ndarray, num_clusters: int) -> _Term:
    has_C = np.bincount(cluster_P, minlength=num_clusters) > 0
    if not len(values_P):
        return _Term(math.nan, math.nan, math.nan, np.zeros(num_clusters), has_C)
    mean = float(values_P.mean())
    interval = mean_interval(values_P, cluster_P, support=UNIT if values_P.min() >= 0 else CHANGE, seed=0)
    return _Term(mean, *interval, np.bincount(cluster_P, weights=values_P - mean, minlength=num_clusters), has_C)


def _metric(name: str, section: Section, sums: _Sums) -> Metric:
    counted = sums.columns(section.counted or _all_parts(section))
    num_scored, num = int(sums.scored_K[counted].sum()), int(sums.num_K[counted].sum())
    terms = [sums.term(parts) for _, parts in section.terms]
    if not terms or any(math.isnan(term.mean) for term in terms):
        unscored = [" + ".join(parts) for (_, parts), term in zip(section.terms, terms, strict=True) if math.isnan(term.mean)]
        return Metric(name, math.nan, n_scored=num_scored, n=num, note=f"nothing could be scored in {', '.join(unscored) or 'it'}")
    weight_T = np.array([weight for weight, _ in section.terms])
    value = float(weight_T @ [term.mean for term in terms])
    below_T = [weight * (term.mean - (term.low if weight > 0 else term.high)) for weight, term in zip(weight_T, terms, strict=True)]
    above_T = [weight * ((term.high if weight > 0 else term.low) - term.mean) for weight, term in zip(weight_T, terms, strict=True)]
    correlation_TT = _correlations(terms, np.sign(weight_T))
    low, high = value - _joined(np.array(below_T), correlation_TT), value + _joined(np.array(above_T), correlation_TT)
    return Metric(name, value, low, high, num_scored, num, section.note)


def _correlations(terms: Sequence[_Term], sign_T: np.ndarray) -> np.ndarray:
    """(T, T) of weighted terms over prompts; 1 where that is not known of terms that share prompts, 0 where they share none."""
    pull_TC = np.stack([sign * term.pull_C for sign, term in zip(sign_T, terms, strict=True)])
    has_TC = np.stack([term.has_C for term in terms]).astype(np.float64)
    size_T = np.sqrt(np.square(pull_TC).sum(axis=1))
    scale_TT, shared_TT = np.outer(size_T, size_T), (has_TC @ has_TC.T > 0).astype(np.float64)
    known_TT = np.divide(pull_TC @ pull_TC.T, scale_TT, out=shared_TT, where=scale_TT > 1e-12)
    np.fill_diagonal(known_TT, 1.0)
    return known_TT


def _joined(width_T: np.ndarray, correlation_TT: np.ndarray) -> float:
    return math.sqrt(max(0.0, float(width_T @ correlation_TT @ width_T)))


def _all_parts(section: Section) -> tuple[str, ...]:
    return tuple(part for _, parts in section.terms for part in parts)
