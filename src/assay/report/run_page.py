"""The page of a run, from the reports under its eval/ directory, and the card of its model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from assay.files import write_text
from assay.records import Finding, Report
from assay.report.card import render_card
from assay.report.html import write_html
from assay.run_files import artifact_path, read_description, write_report
from assay.wire import report_from_json


def write_run_page(directory: Path) -> Path:
    """Write report.html of a run directory or an artifact, and the artifact's model card; returns the page's path.

    Figures that were made with other weights or another calibration are marked. Raises ValueError when there are no reports.
    """
    if not (directory / "eval").is_dir():
        raise ValueError(f"{directory} holds no eval/ directory: run assay train or assay evaluate first")
    files = sorted((directory / "eval").glob("*.json"), key=lambda file: (file.stem != "test", file.stem == "training", file.stem))
    reports = [report_from_json(file.read_text(encoding="utf-8")) for file in files]
    path = artifact_path(directory)
    description = read_description(path)
    reports = [_with_staleness(report, str(description["fingerprint"])) for report in reports]
    write_text(path / "README.md", render_card(description, reports))
    for file, report in zip(files, reports, strict=True):
        if path != directory:  # the figures travel with the model, the rows of the data do not
            write_report(path, file.stem, replace(report, examples=()))
    page = directory / "report.html"
    write_html(page, reports, str(description.get("title", directory.name)))
    return page


def _with_staleness(report: Report, fingerprint: str) -> Report:
    if report.facts.get("model", fingerprint) == fingerprint:
        return report
    why = "these figures were made with other weights or another calibration: evaluate again"
    return replace(report, findings=(Finding("warn", "stale figures", math.nan, math.nan, why), *report.findings))
