"""One verdict for each way in which a reward model fails (`records.Failure`), from the findings of any results.

The results are those of `evaluate`, `run_probes`, `attribute`, `measure_drift`, `overoptimization`, suites and the parity
certificate; the report of a training counts too. A failure that none of them measured is a warning that says how to measure it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from assay.records import Failure, Finding, Level, Report, Table
from assay.report.remedies import REMEDIES

LEVELS: tuple[Level, ...] = ("fail", "warn", "ok")
NOT_MEASURED = "not measured"


class Mode(NamedTuple):
    """A way to fail. name: as a page says it of a model; remedy: what to do about it; measure: how it is measured."""

    failure: Failure
    name: str
    remedy: str
    measure: str


MODES = (
    Mode(
        "baseline",
        "knows no more than a baseline",
        REMEDIES["baseline"],
        "assay evaluate MODEL --data PAIRS",
    ),
    Mode(
        "overfitting",
        "overfitting",
        REMEDIES["overfitting"],
        "assay train measures it; keep the run directory beside the artifact",
    ),
    Mode(
        "calibration",
        "its probabilities are wrong",
        REMEDIES["calibration"],
        "assay evaluate MODEL --data PAIRS",
    ),
    Mode(
        "length",
        "rewards length",
        REMEDIES["length"],
        "assay audit attribute MODEL --data PAIRS",
    ),
    Mode(
        "surface",
        "rewards format, tone or opening phrases",
        REMEDIES["surface"],
        "assay audit attribute MODEL --data PAIRS",
    ),
    Mode(
        "hacking",
        "rewards or fines worthless edits",
        REMEDIES["hacking"],
        "assay audit probe MODEL --data PAIRS",
    ),
    Mode(
        "overoptimization",
        "is overoptimised",
        REMEDIES["overoptimization"],
        "assay audit best-of-n MODEL --data CANDIDATES, or --candidates here",
    ),
    Mode(
        "drift",
        "is used far from its training data",
        REMEDIES["drift"],
        "assay audit drift MODEL --data NEW, or --against NEW here",
    ),
    Mode(
        "suites",
        "is weak on published suites",
        REMEDIES["suites"],
        "assay evaluate MODEL --suite NAME, or --suite here",
    ),
    Mode(
        "parity",
        "gives other rewards in other engines",
        REMEDIES["parity"],
        "assay audit verify MODEL",
    ),
)


class Verdict(NamedTuple):
    """The verdict of a mode: a finding under its name, and the title of the report that decides it ("": none measured it)."""

    mode: Mode
    finding: Finding
    measured_by: str

    @property
    def remedy(self) -> str:
        """What to do: nothing when it passed, else the remedy, or how to measure it."""
        if self.finding.level == "ok":
            return ""
        return (self.finding.remedy or self.mode.remedy) if self.measured_by else self.mode.measure


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustResult:
    """Can a model be trusted: a verdict for every failure. notes: findings that decide none of them."""

    title: str
    verdicts: tuple[Verdict, ...]
    notes: tuple[Finding, ...] = ()
    facts: Mapping[str, str]

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*(verdict.finding for verdict in self.verdicts), *self.notes)

    @property
    def worst(self) -> Level:
        """The worst level of all verdicts."""
        return min((verdict.finding.level for verdict in self.verdicts), key=LEVELS.index)

    def of(self, failure: Failure) -> Verdict:
        """The verdict on a failure."""
        return next(verdict for verdict in self.verdicts if verdict.mode.failure == failure)

    def report(self) -> Report:
        rows = tuple(
            (v.mode.name, f.level, f.value, f.threshold, f.why, v.remedy, v.measured_by or NOT_MEASURED)
            for v, f in ((verdict, verdict.finding) for verdict in self.verdicts)
        )
        heads = ("failure", "verdict", "value", "threshold", "why", "what to do", "measured by")
        facts = {"worst verdict": self.worst, **self.facts}
        table = Table(title="verdicts", columns=heads, rows=rows)
        return Report(title=self.title, tables=(table,), findings=self.findings, facts=facts, lead=self._lead())

    def _lead(self) -> str:
        """Which failures were found, and how many could not be looked for."""
        failed = [v.mode.name for v in self.verdicts if v.finding.level == "fail"]
        unknown = sum(not v.measured_by for v in self.verdicts)
        found = f"This model {', '.join(_clause(name) for name in failed)}" if failed else "No failure was found"
        return f"{found}; {unknown} of {len(self.verdicts)} were not measured." if unknown else f"{found}."


def verdicts(
    reports: Sequence[Report],
    *,
    title: str,
    unmeasured: Mapping[Failure, str] | None = None,
    notes: Iterable[Finding] = (),
) -> TrustResult:
    """A verdict on each failure: the worst of the findings that decide it, with what to do about it.

    unmeasured: of failures that could not be measured, why; it is said where no report decides the failure.
    """
    return TrustResult(
        title=title,
        verdicts=tuple(_verdict(mode, reports, (unmeasured or {}).get(mode.failure)) for mode in MODES),
        notes=tuple(notes),
        facts={"reports": ", ".join(report.title for report in reports) or "none"},
    )


def below_verdicts(report: Report) -> Report:
    """The report as it stands below the verdicts: its findings that did not pass as a table, the others counted among its facts."""
    rows = tuple(tuple(finding[:5]) for finding in report.findings if finding.level != "ok")
    heads = ("level", "check", "value", "threshold", "why")
    checks = (Table(title="checks that did not pass", columns=heads, rows=rows),) if rows else ()
    facts = {**report.facts, "checks passed": str(len(report.findings) - len(rows))}
    return replace(report, findings=(), tables=(*checks, *report.tables), facts=facts)


def _clause(name: str) -> str:
    """The name of a failure as what a model does."""
    return {"overfitting": "overfits", "its probabilities are wrong": "gives wrong probabilities"}.get(name, name)


def _verdict(mode: Mode, reports: Sequence[Report], reason: str | None) -> Verdict:
    """The worst finding of a mode under the mode's name; of equally bad ones the first that has a value, and how many there are."""
    found = [(f, report.title) for report in reports for f in report.findings if f.failure == mode.failure]
    if all(math.isnan(finding.value) and finding.level == "ok" for finding, _ in found):  # nothing was seen, so nothing passed
        why = reason or next((finding.why for finding, _ in found), mode.measure)
        return Verdict(mode, Finding("warn", mode.name, math.nan, math.nan, f"{NOT_MEASURED}: {why}", mode.failure), "")
    found.sort(key=lambda item: (LEVELS.index(item[0].level), math.isnan(item[0].value)))
    worst, measured_by = found[0]
    alike = [finding for finding, _ in found if finding.level == worst.level]
    if worst.level == "ok":
        why = worst.why if len(found) == 1 else f"all {len(found)} checks passed, among them {worst.name}: {worst.why}"
    else:
        named = ", ".join(f.name for f in alike[1:4]) + (", ..." if len(alike) > 4 else "")
        others = f"; {len(alike) - 1} more: {named}" if len(alike) > 1 else ""
        why = f"{worst.name}: {worst.why}{others}"
    return Verdict(mode, worst._replace(name=mode.name, why=why), measured_by)
