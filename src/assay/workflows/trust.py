"""`assay trust`: everything that can be found out about a model from the data at hand, on one page with one verdict a failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from assay.models.artifact import read_description
from assay.models.device import Dtype
from assay.records import Report
from assay.report.html import write_html
from assay.scorers.load import artifact_path
from assay.wire import report_from_json
from assay.workflows.attribute import AttributeConfig, attribute
from assay.workflows.bestofn import BestOfNConfig, best_of_n
from assay.workflows.drift import DriftConfig, drift
from assay.workflows.probe import ProbeConfig, probe_model
from assay.workflows.rundir import write_report
from assay.workflows.settings import ModelPath
from assay.workflows.show import say
from assay.workflows.steps import EvaluateConfig, evaluate_model
from assay.workflows.suites import evaluate_suites
from assay.workflows.verdicts import below_verdicts, verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustConfig:
    """A verdict for each way in which a reward model fails; exit status 7."""

    model: ModelPath
    """Run directory or artifact."""
    data: str | None = None
    """Pairs to judge it on; the run's own test split when left out."""
    suite: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also a benchmark by name (docs/suites.md) or a file. Several: give it again."""
    suite_folder: Path | None = None
    """Where the suites' files lie; else the environment's ASSAY_DATA, else the hub."""
    candidates: str | None = None
    """Also best-of-n on these recorded candidates with gold (docs/best_of_n.md)."""
    against: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also drift of this new text from the training data. Several: give it again."""
    limit: int | None = None
    """Read at most so many pairs, and cases of a suite."""
    max_rows: int = 200
    """Answers that are edited by each probe."""
    prompts: int = 60
    """Prompts of the candidates that are scored."""
    form: str | None = None
    """Form of the pairs; found when left out."""
    seed: int = 0
    device: str = "auto"
    dtype: Dtype = "auto"


def trust(config: TrustConfig) -> Report:
    """Measure, then judge: the verdicts are kept as eval/trust.json, and trust.html shows them above every report.

    The gap between training and held-out accuracy is the training's own, where the run directory holds it. Raises as the steps do.
    """
    path = artifact_path(config.model)
    reports = [*_of_training(config.model), *_measured(config)]
    title = f"Can {config.model.name} be trusted?"
    judged = verdicts(reports, title=title)
    facts = {"model": str(read_description(path)["fingerprint"]), **judged.facts}
    judged = Report(title=title, tables=judged.tables, findings=judged.findings, facts=facts)
    write_report(config.model, "trust", judged)
    page = config.model / "trust.html"
    write_html(page, [judged, *map(below_verdicts, reports)], title)
    say("page", str(page))
    return judged


def trust_rows(report: Report) -> list[tuple[str, str, str]]:
    """The verdicts as rows for the screen: failure, verdict, why and what to do."""
    return [
        (str(failure), str(level), str(why) if not todo or str(todo) in str(why) else f"{why} -> {todo}")
        for failure, level, _, _, why, todo, _ in report.tables[0].rows
    ]


def _of_training(model: Path) -> list[Report]:
    file = model / "eval" / "training.json"
    return [report_from_json(file.read_text(encoding="utf-8"))] if file.is_file() else []


def _measured(config: TrustConfig) -> Iterator[Report]:
    """A report at a time, each kept by its own step."""
    where: dict[str, Any] = {"model": config.model, "seed": config.seed, "device": config.device, "dtype": config.dtype}
    pairs: dict[str, Any] = {"data": config.data, "form": config.form}
    yield evaluate_model(EvaluateConfig(**where, **pairs, limit=config.limit))
    yield attribute(AttributeConfig(**where, **pairs, limit=min(config.limit or 1000, 1000)))
    yield probe_model(ProbeConfig(**where, **pairs, limit=config.limit, max_rows=config.max_rows))
    if config.candidates is not None:
        yield best_of_n(BestOfNConfig(**where, data=config.candidates, prompts=config.prompts))
    if config.against:
        found = drift(DriftConfig(**where, data=config.against))
        assert found is not None, "only --fit gives no report"
        yield found
    if config.suite:
        yield from evaluate_suites(
            EvaluateConfig(**where, suite=config.suite, suite_folder=config.suite_folder, limit=config.limit)
        )
