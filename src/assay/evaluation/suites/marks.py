"""From marks to figures: what a rule found in each case, added up by part, and figures that combine parts, with intervals.

Suffixes: C clusters (prompts), K parts, S bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from assay.records import Metric, Table
from assay.stats.bootstrap import cluster_bootstrap, percentile_interval, resampled_sums
from assay.stats.metrics import CHANGE, UNIT, Interval

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


def section_metrics(
    suite: str, marks: Sequence[Mark], sections: Sequence[Section], *, seed: int, num_samples: int = 2000
) -> tuple[Metric, ...]:
    """A metric "suite: section" for each section. Intervals: 95%, whole clusters drawn anew, for all sections alike.

    Where no term can vary (every prompt right, say) the interval is that of `cluster_bootstrap` for each term; those of several are
    joined as independent ones (Zou & Donner 2008), or added up where they share prompts. A figure of nothing is NaN, with a note.
    """
    sums = _Sums(marks)
    columns_CK2 = np.stack([sums.total_CK, sums.size_CK], axis=2)
    drawn = resampled_sums(columns_CK2.reshape(len(columns_CK2), -1), seed=seed, num_samples=num_samples)
    draws_SK2 = drawn.reshape(num_samples, -1, 2)
    return tuple(_metric(f"{suite}: {section.name}", section, sums, draws_SK2, seed) for section in sections)


def subset_table(suite: str, marks: Sequence[Mark], *, seed: int) -> Table | None:
    """A row for each subset, in order of name; None when there is one only."""
    renamed = [mark._replace(part=mark.subset) for mark in marks if mark.subset]
    names = sorted(parts_of(renamed))
    if len(names) < 2:
        return None
    metrics = section_metrics("", renamed, [Section(name, ((1.0, (name,)),)) for name in names], seed=seed)
    rows = tuple((name, m.n, m.n_scored, m.value, m.low, m.high) for name, m in zip(names, metrics, strict=True))
    heads = ("subset", "n", "n scored", "value", "low", "high")
    return Table(title=f"{suite}: by subset", columns=heads, rows=rows, note="95% intervals, resampled by prompt")


class _Sums:
    """Sums and counts by cluster and part."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        self.parts = {part: k for k, part in enumerate(parts_of(marks))}
        part_V = np.array([self.parts[mark.part] for mark in marks], dtype=np.int64)
        clusters, cluster_V = np.unique([mark.cluster for mark in marks], return_inverse=True)
        shape = (len(clusters), len(self.parts))
        self.total_CK, self.size_CK = np.zeros(shape), np.zeros(shape)
        np.add.at(self.total_CK, (cluster_V, part_V), [mark.total for mark in marks])
        np.add.at(self.size_CK, (cluster_V, part_V), [mark.num_scored for mark in marks])
        self.num_K = np.bincount(part_V, weights=[mark.num for mark in marks], minlength=len(self.parts))

    def columns(self, parts: Iterable[str]) -> list[int]:
        return [self.parts[part] for part in parts if part in self.parts]


def _metric(name: str, section: Section, sums: _Sums, draws_SK2: np.ndarray, seed: int) -> Metric:
    counted = sums.columns(section.counted or _all_parts(section))
    num_scored, num = int(sums.size_CK[:, counted].sum()), int(sums.num_K[counted].sum())
    value, value_S = 0.0 if section.terms else math.nan, np.zeros(len(draws_SK2))
    for weight, parts in section.terms:
        columns = sums.columns(parts)
        value += weight * _ratio(sums.total_CK[:, columns].sum(), sums.size_CK[:, columns].sum())
        with np.errstate(invalid="ignore"):
            value_S += weight * draws_SK2[:, columns, 0].sum(axis=1) / draws_SK2[:, columns, 1].sum(axis=1)
    if math.isnan(value):
        unscored = [" + ".join(parts) for _, parts in section.terms if not sums.size_CK[:, sums.columns(parts)].sum()]
        return Metric(name, math.nan, n_scored=num_scored, n=num, note=f"nothing could be scored in {', '.join(unscored) or 'it'}")
    low, high = percentile_interval(value_S)
    if high - low < 1e-12:
        low, high = _constant_interval(section, sums, seed) or (low, high)
    return Metric(name, value, low, high, num_scored, num, section.note)


def _constant_interval(section: Section, sums: _Sums, seed: int) -> Interval | None:
    """Of terms each of which has the same mean in every cluster; None where one of them varies."""
    value = 0.0
    below: list[float] = []
    above: list[float] = []
    present: list[np.ndarray] = []
    for weight, parts in section.terms:
        columns = sums.columns(parts)
        size_C = sums.size_CK[:, columns].sum(axis=1)
        share_C = sums.total_CK[:, columns].sum(axis=1)[size_C > 0] / size_C[size_C > 0]
        if np.ptp(share_C) > 1e-12:
            return None
        mean = float(share_C[0])
        support = UNIT if mean >= 0 else CHANGE
        low, high = cluster_bootstrap(share_C, np.arange(len(share_C)), seed=seed, support=support)
        value += weight * mean
        down, up = abs(weight) * (mean - low), abs(weight) * (high - mean)
        below.append(down if weight > 0 else up)
        above.append(up if weight > 0 else down)
        present.append(size_C > 0)
    shared = bool(np.any(np.sum(present, axis=0) > 1))
    return Interval(value - _joined(below, shared), value + _joined(above, shared))


def _joined(widths: Sequence[float], shared: bool) -> float:
    return math.fsum(widths) if shared else math.hypot(*widths)


def _all_parts(section: Section) -> tuple[str, ...]:
    return tuple(part for _, parts in section.terms for part in parts)


def _ratio(total: float, size: float) -> float:
    return float(total / size) if size else math.nan
