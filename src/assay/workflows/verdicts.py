"""One verdict for each way in which a reward model fails, from the findings of any reports.

The reports are those of `evaluate`, training, `run_probes`, `attribution_report`, `drift_report`, `overoptimization` and suites. A
way to fail that none of them looked at is not passed over: it is a warning that says how to measure it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from assay.records import Finding, Report, Table

LEVELS = ("fail", "warn", "ok")


class Mode(NamedTuple):
    """A way to fail. decided_by: how the names of the findings that decide it begin; remedy: what to do; measure: how to look."""

    name: str
    decided_by: tuple[str, ...]
    remedy: str
    measure: str


MODES = (
    Mode(
        "knows no more than a baseline",
        ("better than",),
        "more or cleaner pairs, trained blocks instead of a head alone, a stronger base; look at which pairs it gets wrong",
        "assay evaluate MODEL --data PAIRS",
    ),
    Mode(
        "overfitting",
        ("train / held-out gap",),
        "--early-stopping, fewer epochs or blocks, --label-smoothing where labels are noisy, more prompts (assay curve)",
        "assay train measures it; keep the run directory beside the artifact",
    ),
    Mode(
        "its probabilities are wrong",
        ("calibration", "prompts that it was calibrated on"),
        "assay calibrate MODEL --data PAIRS, on pairs like those it will judge",
        "assay evaluate MODEL --data PAIRS",
    ),
    Mode(
        "pays for length",
        ("length",),
        "--debias-length in training, or a Debiased wrapper around the model",
        "assay attribute MODEL --data PAIRS",
    ),
    Mode(
        "pays for surface and openers",
        ("surface", "openers"),
        "counter-examples for what the attribution names: --augment, or a probe of your own",
        "assay attribute MODEL --data PAIRS",
    ),
    Mode(
        "can be hacked",
        ("probe: ",),
        "train again with --augment eval/probes.json, and probe again",
        "assay probe MODEL --data PAIRS",
    ),
    Mode(
        "is overoptimised",
        ("overoptimisation", "gain over a random choice"),
        "choose among fewer, hold the policy closer (a higher KL coefficient), or train on the policy's own answers",
        "assay best-of-n MODEL --data CANDIDATES, or --candidates here",
    ),
    Mode(
        "is far from what it was trained on",
        ("drift: ",),
        "label some of the new text and train on it; until then watch the signal that assay drift names",
        "assay drift MODEL --data NEW, or --against NEW here",
    ),
    Mode(
        "is weak on published suites",
        ("above the length rule",),
        "see which sections are at chance before it is used for them",
        "assay evaluate MODEL --suite NAME, or --suite here",
    ),
)


def verdicts(reports: Sequence[Report], *, title: str) -> Report:
    """A finding for each mode of failure: the worst of what decides it, with what to do about it.

    Of equally bad findings the first is named, and how many there are. A mode is looked up by the names of findings alone.
    """
    findings, rows = [], []
    for mode in MODES:
        finding, origin = _verdict(mode, reports)
        findings.append(finding)
        todo = "" if finding.level == "ok" else mode.remedy if origin else mode.measure
        rows.append((mode.name, finding.level, finding.value, finding.threshold, finding.why, todo, origin or "not measured"))
    heads = ("failure", "verdict", "value", "threshold", "why", "what to do", "measured by")
    worst = min((finding.level for finding in findings), key=LEVELS.index)
    facts = {"worst verdict": worst, "reports": ", ".join(report.title for report in reports) or "none"}
    table = Table(title="verdicts", columns=heads, rows=tuple(rows))
    return Report(title=title, tables=(table,), findings=tuple(findings), facts=facts)


def below_verdicts(report: Report) -> Report:
    """The report as it stands below the verdicts: its findings that did not pass as a table, the others counted among its facts."""
    rows = tuple(tuple(finding) for finding in report.findings if finding.level != "ok")
    heads = ("level", "check", "value", "threshold", "why")
    checks = (Table(title="checks that did not pass", columns=heads, rows=rows),) if rows else ()
    facts = {**report.facts, "checks passed": str(len(report.findings) - len(rows))}
    return replace(report, findings=(), tables=(*checks, *report.tables), facts=facts)


def _verdict(mode: Mode, reports: Sequence[Report]) -> tuple[Finding, str]:
    """The worst finding of a mode under the mode's name, and the title of its report; a warning where there is none."""
    found = [(f, r.title) for r in reports for f in r.findings if f.name.startswith(mode.decided_by)]
    if not found:
        return Finding("warn", mode.name, math.nan, math.nan, f"not measured: {mode.measure}"), ""
    found.sort(key=lambda item: LEVELS.index(item[0].level))
    worst, origin = found[0]
    alike = [f for f, _ in found if f.level == worst.level]
    if worst.level == "ok":
        why = worst.why if len(found) == 1 else f"all {len(found)} checks passed, among them {worst.name}: {worst.why}"
    else:
        others = f"; {len(alike) - 1} more: {', '.join(f.name for f in alike[1:4])}" if len(alike) > 1 else ""
        why = f"{worst.name}: {worst.why}{others}"
    return Finding(worst.level, mode.name, worst.value, worst.threshold, why), origin
