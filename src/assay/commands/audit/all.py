"""`assay audit all`: everything that can be found out about a model from the data at hand, a verdict on each failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import tyro

from assay.audit.audits import attribute_pairs, choose_candidates, drift_of_sets, judge_pairs, probe_pairs
from assay.audit.judge_biases import is_asked
from assay.audit.verdicts import NOT_MEASURED, TrustResult, below_verdicts, verdicts
from assay.commands.shared import Model, Pairs, Where, keep, pairs_for, show
from assay.console import say
from assay.data.candidates import read_candidates
from assay.data.raw.rows import slug
from assay.data.sampling import draw_pairs
from assay.errors import DataError
from assay.evaluation.measure import evaluate_on_suite, evaluate_pairs
from assay.evaluation.suites.lookup import load_suite
from assay.records import Failure, Finding, Report, Result
from assay.report.html import write_html
from assay.run_files import read_report
from assay.scorers.ensemble import members_of
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import NamedPairs, Opened
from assay.scorers.wrappers.scored_before import scored_before

ATTRIBUTED = 1000  # pairs that are attributed, at most
KEPT = ("training", "verify")  # reports of other commands that decide a verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A verdict on each way in which a reward model fails (docs/trust.md); exit status 7 if it fails one."""

    model: Model
    suite: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also a benchmark by name (docs/suites.md) or a file. Several: give it again."""
    suite_folder: Path | None = None
    """Where the suites' files lie; else the environment's ASSAY_DATA, else the hub."""
    candidates: str | None = None
    """Also best-of-n on these recorded candidates with gold (docs/overoptimization.md)."""
    against: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also the drift of this new text from the training data. Several: give it again."""
    max_rows: int = 200
    """Answers that are edited by each probe."""
    prompts: int = 60
    """Prompts of the candidates that are scored."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)


class Refusal(NamedTuple):
    """Why a measure could not be taken, and the failures that it would have decided."""

    failures: tuple[Failure, ...]
    why: str


def run(config: Config) -> int:
    """Measure, keep each report under eval/, judge, and print the verdicts; trust.html shows them above every report."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    named = pairs_for(opened, config.pairs)
    kept, reports, unmeasured = kept_reports(opened), list[Report](), cannot_measure(opened)
    for name, result in measured(config, opened, named):
        if isinstance(result, Refusal):
            unmeasured |= dict.fromkeys(result.failures, result.why)
        else:
            reports.append(keep(result, home, name))
    reports += kept  # last, so that the page opens with what was measured now
    title = f"Can {opened.name} be trusted?"
    judged = verdicts(reports, title=title, unmeasured=unmeasured, notes=notes_on(opened))
    judged = replace(judged, facts={**opened.facts, **judged.facts})
    keep(judged, home, "trust")
    shown = [judged.report(), *map(below_verdicts, reports)]
    write_html(home / "trust.html", shown, title)
    say("page", str(home / "trust.html"))
    opened.say_bill()
    show(
        shown, verbose=config.where.verbose, page=home / "trust.html", then=next_of(config, opened, judged), rows=trust_rows(judged)
    )
    return 7 if judged.worst == "fail" else 0


def measured(config: Config, opened: Opened, named: NamedPairs) -> Iterator[tuple[str, Result | Refusal]]:
    """One result at a time, with the name of its report. The model is loaded once, and scores the pairs once, for the
    evaluation. What is given is read first, so that a mistake in it costs no time."""
    suites = [load_suite(spec, config.suite_folder, config.pairs.limit) for spec in dict.fromkeys(config.suite)]
    recorded = None if config.candidates is None else read_candidates(config.candidates)
    seed = config.pairs.seed
    few = named._replace(pairs=draw_pairs(named.pairs, ATTRIBUTED, seed=seed))
    evaluated = evaluate_pairs(opened, named, title=f"Evaluation on {named.name}", seed=seed)
    yield named.kept_as, evaluated
    scorer = scored_before(opened.scorer, named.pairs, evaluated.rewards)
    yield "attribution", attempt(("length", "surface"), lambda: attribute_pairs(opened, few, seed=seed, scorer=scorer))
    kept_as = "probes" if named.is_own else f"probes-{named.kept_as}"
    yield kept_as, probe_pairs(opened, named, max_rows=config.max_rows, seed=seed, scorer=scorer)
    if is_asked(opened.scorer):
        yield "judge" if named.is_own else f"judge-{named.kept_as}", judge_pairs(opened, named, seed=seed)
    if recorded is not None:
        name, prompts = recorded.source, config.prompts
        chosen = attempt(
            ("overoptimization",), lambda: choose_candidates(opened, recorded, name=name, num_prompts=prompts, seed=seed)
        )
        yield f"best-of-n-{slug(name)}", chosen
    if config.against and opened.artifact is not None:
        yield "drift", attempt(("drift",), lambda: drift_of_sets(opened, config.against, seed=seed, loaded=opened.scorer))
    for loaded in suites:
        yield f"suite-{slug(loaded.suite.name)}", evaluate_on_suite(opened, loaded, seed=seed)


def attempt(failures: tuple[Failure, ...], measure: Callable[[], Result]) -> Result | Refusal:
    """The result, or why the model or the data do not allow it: the other measures are taken all the same."""
    try:
        return measure()
    except DataError:  # a file that cannot be read is a mistake of the call
        raise
    except ValueError as error:
        return Refusal(failures, str(error))


def kept_reports(opened: Opened) -> list[Report]:
    """Reports of training and certificate that lie with the model, those of other weights or another calibration apart."""
    reports = [None if opened.home is None else read_report(opened.home, name) for name in KEPT]
    return [report for report in reports if report and report.facts.get("model", opened.fingerprint) == opened.fingerprint]


def cannot_measure(opened: Opened) -> dict[Failure, str]:
    """What needs the model's own files, where there are none."""
    if opened.artifact is not None:
        return {}
    if opened.checkpoint is not None:
        adopt = f"assay model adopt {opened.spec} --out DIRECTORY makes one"
        return {
            "overfitting": "it takes the report of the training, which another's checkpoint does not bring",
            "drift": "it takes states of the training data, which another's checkpoint does not bring",
            "parity": f"it takes an artifact with golden vectors: {adopt}",
        }
    no_files = f"and {opened.label} is not a run or an artifact on this machine"
    return {
        "overfitting": f"it takes the report of the training, {no_files}",
        "drift": f"it takes hidden states, {no_files}",
        "parity": f"it takes the saved files, {no_files}",
    }


def notes_on(opened: Opened) -> tuple[Finding, ...]:
    """What is not measured and decides no failure: the members of an ensemble that is known by a URL or a rule alone."""
    if opened.artifact is not None or opened.checkpoint is not None or members_of(opened.scorer) is not None:
        return ()
    why = f"{NOT_MEASURED}: {opened.label} shows no members; what an ensemble gains by its members is measured on its artifact"
    return (Finding("warn", "members", math.nan, math.nan, why),)


def next_of(config: Config, opened: Opened, judged: TrustResult) -> tuple[str, ...]:
    """The command that measures what is still missing and can be measured, never the one that was just run; else the service."""
    out = () if config.where.out is None else ("--out", str(config.where.out))
    if not (config.candidates or judged.of("overoptimization").measured_by):
        return ("assay", "audit", "best-of-n", config.model, *config.judge.flags, "--data", "CANDIDATES", *out)
    if opened.artifact is not None and not (config.against or judged.of("drift").measured_by):
        return ("assay", "audit", "drift", config.model, "--data", "NEW", *out)
    if opened.artifact is not None and not judged.of("parity").measured_by:
        return ("assay", "audit", "verify", config.model)
    return ("assay", "serve", config.model, *config.judge.flags)


def trust_rows(result: TrustResult) -> list[tuple[str, str, str]]:
    """The verdicts as rows of a table: failure, verdict, why and what to do."""
    rows: list[tuple[str, str, str]] = []
    for verdict in result.verdicts:
        why, todo = verdict.finding.why, verdict.remedy
        rows.append((verdict.mode.name, verdict.finding.level, why if not todo or todo in why else f"{why} -> {todo}"))
    return [*rows, *((note.name, note.level, note.why) for note in result.notes)]
