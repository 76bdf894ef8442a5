"""A suite's Report: one scoring call for all of its answers, the suite's rule, figures with intervals, and findings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.data.cases import Case, comparisons
from assay.evaluation.suites import marking as rules
from assay.evaluation.suites.answers import Scored, lengths, score_cases
from assay.evaluation.suites.lookup import LoadedSuite
from assay.evaluation.suites.marks import OVERALL, Mark, difference, parts_of, renamed, section_metrics, subset_table
from assay.records import Finding, Metric, PageResult, Report, Table, extended
from assay.scorers.base import Scorer

MAX_TIES = 0.01
LONGER, GAP = f"{OVERALL}, the longer answer wins", f"{OVERALL}, less the longer answer's"
_BY_LENGTH = "by length: "


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult(PageResult):
    """Figures of a suite; the findings decide "suites".

    overall: its published figure; above_length: that less the figure of the rule that the longer answer wins, paired.
    """

    overall: Metric
    above_length: Metric


def evaluate_suite(scorer: Scorer, loaded: LoadedSuite, *, skipped: Collection[int] = (), seed: int = 0) -> SuiteResult:
    """Score a suite: a metric "suite: section" each, the overall one, and that of the rule that the longer answer wins.

    skipped: numbers of cases whose prompts the model was trained on: they are not scored, and are counted as skipped.
    Never raises for what cannot be scored.
    """
    scored = score_cases(scorer, loaded.cases, skipped)
    result = suite_result(loaded, scored, seed=seed)
    return replace(result, page=extended(result.page, first={"scorer": scorer.fingerprint}))


def suite_result(loaded: LoadedSuite, scored: Scored, *, seed: int = 0) -> SuiteResult:
    """The figures of a suite from the rewards of its cases. Pure: the same rewards and seed give the same result."""
    suite, cases = loaded.suite, loaded.cases
    marks = suite.rule(cases, scored.rewards, seed)
    scored_lengths = [np.where(np.isnan(r), np.nan, n) for n, r in zip(lengths(cases), scored.rewards, strict=True)]
    by_length = suite.rule(cases, scored_lengths, seed)
    sections = suite.sections(parts_of(marks))
    longer = renamed(suite.sections(parts_of(by_length))[-1], _BY_LENGTH)
    longer = longer._replace(name=LONGER, note="the rule to beat; in characters")
    gap = difference(GAP, sections[-1], longer, "paired")
    both = [*marks, *(mark._replace(part=_BY_LENGTH + mark.part) for mark in by_length)]
    metrics = section_metrics(suite.name, both, [*sections, longer, gap])
    facts = {
        "suite": suite.name,
        "source": loaded.source,
        "cases": f"{len(cases):,}",
        "prompts": f"{len({case.cluster for case in cases}):,}",
        "answers scored": f"{scored.num_completions:,}",
        "seed": str(seed),
    }
    page = Report(
        title=f"{suite.name}: {suite.what}",
        metrics=metrics,
        tables=_tables(loaded, scored, marks),
        findings=(_completeness(loaded), _unscored(scored), _score_ties(cases, scored.rewards), _above_length(metrics[-1])),
        facts=facts,
        lead=_lead(suite.name, metrics[-3], metrics[-2]),
        key={metrics[-3].name: (metrics[-2].name,), **{metric.name: () for metric in metrics[:-3]}},
    )
    return SuiteResult(overall=metrics[-3], above_length=metrics[-1], page=page)


def _lead(suite: str, overall: Metric, longer: Metric) -> str:
    """The published figure beside that of the rule to beat."""
    if math.isnan(overall.value):
        return f"Its figure on {suite} is not known: {overall.note}."
    return f"{overall.value:.3f} on {suite}; preferring the longer answer gives {longer.value:.3f}."


def _tables(loaded: LoadedSuite, scored: Scored, marks: Sequence[Mark]) -> tuple[Table, ...]:
    suite = loaded.suite
    matrix = rules.style_table(suite.name, loaded.cases, scored.rewards) if suite.rule is rules.styles else None
    tables = [matrix, subset_table(suite.name, marks)]
    if loaded.set_aside:
        rows = tuple(Counter(loaded.set_aside).most_common())
        tables.append(Table(title=f"{suite.name}: set aside", columns=("reason", "rows or answers"), rows=rows))
    return tuple(table for table in tables if table is not None)


def _completeness(loaded: LoadedSuite) -> Finding:
    """Published figures are of the whole suite: fewer cases are another benchmark."""
    name, n, size = "complete", len(loaded.cases), loaded.suite.size or loaded.num_found
    aside = sum(loaded.set_aside.values())
    notes = [f"{', '.join(loaded.missing)} not found"] if loaded.missing else []
    notes += [f"{aside:,} rows or answers set aside"] if aside else []
    if size and n != size:
        why = "; ".join([f"{n:,} of {size:,} {'published ' if loaded.suite.size else ''}cases", *notes])
        return Finding("warn", name, n, size, f"{why}: not comparable with published figures")
    if loaded.missing:
        return Finding("warn", name, n, size, f"{'; '.join(notes)}: not comparable with published figures")
    return Finding("ok", name, n, size, "; ".join([f"{n:,} cases", *notes]))


def _unscored(scored: Scored) -> Finding:
    """Cases with an answer that has no reward; the reasons, the most frequent first."""
    unscored = sum(bool(np.isnan(rewards_N).any()) for rewards_N in scored.rewards)
    if not unscored:
        return Finding("ok", "unscored cases", 0, 0, f"all {len(scored.rewards):,} cases are scored whole")
    why = "; ".join(f"{reason} ({n:,})" for reason, n in Counter(scored.reasons).most_common(3))
    return Finding("warn", "unscored cases", unscored, 0, f"of {len(scored.rewards):,}: {why}")


def _score_ties(cases: Sequence[Case], rewards: Sequence[np.ndarray]) -> Finding:
    """Different answers with the same reward, among those that are compared: a sign of a head computed in half precision."""
    ties, compared = 0, 0
    for case, rewards_N in zip(cases, rewards, strict=True):
        better_I, worse_I = comparisons(case).T
        gap_I = rewards_N[better_I] - rewards_N[worse_I]
        equal_I = gap_I == 0
        compared += len(gap_I) - int(np.count_nonzero(np.isnan(gap_I)))
        if equal_I.any():
            texts = zip(better_I[equal_I], worse_I[equal_I], strict=True)
            ties += sum(case.candidates[i] != case.candidates[j] for i, j in texts)
    if not compared:
        return Finding("warn", "score ties", math.nan, MAX_TIES, "not measured: no two answers of a case could be scored")
    share = ties / compared
    why = f"{ties:,} of {compared:,} comparisons of different answers have equal rewards, which are not won"
    return Finding("warn" if share > MAX_TIES else "ok", "score ties", share, MAX_TIES, why)


def _above_length(gap: Metric) -> Finding:
    """The overall figure less that of the rule that the longer answer wins."""
    name, seen = "above the length rule", f"overall {gap.value:+.3f} above it, interval [{gap.low:+.3f}, {gap.high:+.3f}]"
    if gap.low > 0:
        return Finding("ok", name, gap.value, 0.0, seen, "suites")
    why = gap.note if math.isnan(gap.value) else f"{seen}: it may have learnt no more than this"
    return Finding("warn", name, gap.value, 0.0, why, "suites")
