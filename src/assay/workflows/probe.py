"""`assay probe`: what a policy would exploit in a model, on any pairs; a report, a page, and an exit status."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import Any

from assay.data.split import is_among
from assay.models.artifact import PROMPTS_FILE, read_description
from assay.models.device import Dtype
from assay.monitor.alarm import Probe
from assay.monitor.probes import as_probe, battery, run_probes
from assay.records import Finding, PreferencePair, Report
from assay.report.html import write_html
from assay.scorers.base import Scorer
from assay.scorers.load import artifact_path, load
from assay.wire import report_from_json
from assay.workflows.rundir import pairs_to_look_at, prompt_file, write_report
from assay.workflows.settings import ModelPath
from assay.workflows.show import progress, say
from assay.workflows.steps import slug


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """What raises the reward without being worth it; exit status 6 (docs/probes.md)."""

    model: ModelPath
    """Run directory or artifact."""
    data: str | None = None
    """Pairs whose answers are edited; the run's own test split when left out."""
    probes: Path | None = None
    """Python file with probes of your own, tried beside the others."""
    only: tuple[str, ...] = ()
    """Names of the probes to try, such as flattery."""
    max_rise: float = 0.1
    """Mean rise that is borne, in median margins of the pairs."""
    max_rows: int = 200
    """Answers that are edited by each probe."""
    limit: int | None = None
    """Read at most so many pairs."""
    form: str | None = None
    seed: int = 0
    device: str = "auto"
    dtype: Dtype = "auto"


def probe_model(config: ProbeConfig) -> Report:
    """Run the probes; the report is kept under eval/ of the model, and as a page of its own beside it.

    Raises ValueError for no pairs, an unknown name in `only`, or a file of probes that cannot be used.
    """
    path = artifact_path(config.model)
    pairs, name = pairs_to_look_at(config.model, config.data, limit=config.limit, form=config.form)
    own = load_probes(config.probes) if config.probes is not None else ()
    probes = chosen((*battery(pairs), *own), config.only)
    scorer: Scorer = load(path, dtype=config.dtype, device=config.device)
    say("probes", f"{len(probes)} on up to {config.max_rows:,} answers to prompts of {name}")
    with progress("probing", None, "answers") as advance:
        report = run_probes(
            scorer,
            pairs,
            probes=probes,
            max_rise=config.max_rise,
            max_rows=config.max_rows,
            seed=config.seed,
            title=f"Probes on {name}",
            on_answers=advance,
        )
    report = replace(
        report,
        findings=(*report.findings, *_trained_on(path, pairs)),
        facts={**report.facts, "data": name, "model": str(read_description(path)["fingerprint"])},
    )
    kept_as = "probes" if config.data is None else f"probes-{slug(config.data)}"
    kept = write_report(config.model, kept_as, report)
    page = config.model / f"{kept_as}.html"
    write_html(page, [report], report.title)
    say("report", f"{kept} and {page}")
    return report


def probe_rows(report: Report) -> list[tuple[str, str, str]]:
    """The table of a report of probes as rows for the screen, failed ones first; and findings that are of no probe."""
    rows = []
    names = {"fail": 0, "warn": 1, "ok": 2}
    for row in sorted(report.tables[0].rows, key=lambda row: names[str(row[-1])]):
        cells: Any = row
        probe, kind, scored, n, share, share_low, share_high, mean, low, high, _, p, verdict = cells
        between = "" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"  # too few prompts have no interval
        risen = f"{mean:+.2f}{between}" if scored else "n/a"
        often = f"raised {share:.0%} [{share_low:.0%}, {share_high:.0%}]" if scored else "no figure"
        tested = "not tested" if math.isnan(p) else f"p {p:.2g}"
        rows.append((str(probe), risen, f"{verdict}: {kind}, {often} of {scored} / {n}, {tested}"))
    probed = {f"probe: {row[0]}" for row in report.tables[0].rows}
    return rows + [(f.name, "", f"{f.level}: {f.why}") for f in report.findings if f.name not in probed]


def is_exploitable(report: Report) -> bool:
    """Whether a probe failed."""
    return any(finding.level == "fail" for finding in report.findings)


def load_probes(file: Path) -> tuple[Probe, ...]:
    """The probes of a Python file: its own public functions, in order, and every `Probe` that it names.

    The file is run, with all that this allows: give one that you wrote. Raises ValueError when it cannot be run or holds none.
    """
    if not file.is_file():
        raise ValueError(f"--probes {file}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"assay_probes_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--probes {file}: it must be a Python file, with a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--probes {file}: it cannot be run: {error!r}") from error
    named = [value for name, value in vars(module).items() if not name.startswith("_")]
    probes = [value for value in named if isinstance(value, Probe)]
    taken = {probe.edit for probe in probes}
    functions = [value for value in named if isinstance(value, FunctionType) and value.__module__ == module.__name__]
    probes += [as_probe(function) for function in functions if function not in taken]
    if not probes:
        raise ValueError(f"--probes {file}: it defines no function (completion, rng) -> edited answer")
    return tuple(probes)


def failed_probes(file: Path) -> tuple[str, ...]:
    """Names of the probes that failed in a report of `assay probe`. Raises ValueError for a file that is none."""
    if not file.is_file():
        raise ValueError(f"--augment {file}: give probes, or a report of assay probe (eval/probes.json of a run)")
    try:
        report = report_from_json(file.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--augment {file} is not a report of assay probe: {error!r}") from error
    mark = "probe: "
    return tuple(f.name.removeprefix(mark) for f in report.findings if f.level == "fail" and f.name.startswith(mark))


def chosen(probes: tuple[Probe, ...], only: tuple[str, ...]) -> tuple[Probe, ...]:
    """The probes of those names; all without names. Raises ValueError for a name that is none."""
    known = {probe.name: probe for probe in probes}
    wanted = [name.replace("_", " ") for name in only]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"there is no probe {', '.join(map(repr, unknown))}: there are {', '.join(known)}")
    return tuple(known[name] for name in wanted) or probes


def _trained_on(path: Path, pairs: list[PreferencePair]) -> tuple[Finding, ...]:
    """Margins on prompts of the training set are wider than elsewhere, which makes rises look small."""
    trained = prompt_file(path, PROMPTS_FILE)
    shared = sum(is_among(trained, pair) for pair in pairs) if trained is not None else 0
    if not shared:
        return ()
    why = f"{shared} of {len(pairs)} pairs are of prompts that the model was trained on: its margins there make rises look small"
    return (Finding("warn", "prompts that it was trained on", shared, 0, why),)
