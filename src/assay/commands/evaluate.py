"""`assay evaluate`: what a scorer is worth on pairs, on solutions with labelled steps, or on published suites."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from assay.commands.shared import Model, Pairs, Where, keep, pairs_for, show
from assay.data.raw.columns import renaming
from assay.data.raw.rows import slug
from assay.data.steps.step_check import holds_steps
from assay.evaluation.measure import (
    NamedSteps,
    evaluate_on_suite,
    evaluate_outcomes,
    evaluate_pairs,
    evaluate_solutions,
    gives_one_reward,
    own_steps,
    read_named_steps,
)
from assay.evaluation.suites.lookup import load_suite
from assay.report.html import write_html
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import Opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Accuracy with intervals, baselines, calibration; suites, labelled steps (docs/evaluation.md)."""

    model: Model
    suite: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Instead of pairs: a benchmark by name (docs/suites.md), or a file of pairs or of lists. Several: give it again."""
    suite_folder: Path | None = None
    """Where the suites' files lie; else the environment's ASSAY_DATA, else the hub."""
    name: str | None = None
    """Name of the evaluation; that of the data when left out."""
    threshold: float | None = None
    """Of labelled steps (docs/process.md): a step is right above it, in units of step rewards; the model's own when left out."""
    threshold_data: tuple[str, ...] = ()
    """Of labelled steps: other solutions, on which the threshold is chosen."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if self.suite and (self.pairs.data or self.pairs.form or self.pairs.strict):
            raise ValueError("--suite goes without --data, --form and --strict: evaluate pairs in a call of their own")
        if self.name and len(self.suite) > 1:
            raise ValueError(f"--name {self.name} is one name for {len(self.suite)} suites: leave it out, or give one suite a call")
        if self.threshold is not None and self.threshold_data:
            raise ValueError("--threshold and --threshold-data are two thresholds: give one of them")


def run(config: Config) -> int:
    """Evaluate, keep each report under eval/, and show it."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    of_steps = [name for name in config.pairs.data if holds_steps(name, config.pairs.form)]
    if of_steps or (not config.pairs.data and not config.suite and opened.home is not None and opened.own_data.has_steps):
        return _on_steps(config, opened, home, of_steps)
    if config.threshold is not None or config.threshold_data:
        raise ValueError("--threshold and --threshold-data are of labelled steps: give such files to --data (docs/process.md)")
    if not config.suite:
        named = pairs_for(opened, config.pairs)
        kept_as = slug(config.name) if config.name else named.kept_as
        result = evaluate_pairs(opened, named, title=f"Evaluation on {config.name or named.name}", seed=config.pairs.seed)
        opened.say_bill()
        report = keep(result, home, kept_as, page=f"{opened.name} on {config.name or named.name}")
        show([report], verbose=config.where.verbose, page=home / f"{kept_as}.html", then=next_of(config))
        return 0
    suites = [load_suite(spec, config.suite_folder, config.pairs.limit) for spec in dict.fromkeys(config.suite)]
    reports = []
    for loaded in suites:
        found = evaluate_on_suite(opened, loaded, seed=config.pairs.seed)
        reports.append(keep(found, home, f"suite-{slug(config.name or loaded.suite.name)}"))
    page = home / f"suite-{slug(config.name or suites[0].suite.name)}.html" if len(suites) == 1 else home / "suites.html"
    write_html(page, reports, f"{opened.name} on published suites")
    opened.say_bill()
    show(reports, verbose=config.where.verbose, page=page, then=next_of(config))
    return 0


def _on_steps(config: Config, opened: Opened, home: Path, of_steps: list[str]) -> int:
    """Evaluate on labelled steps. Raises ValueError for pairs beside them."""
    if others := [name for name in config.pairs.data if name not in of_steps]:
        raise ValueError(f"{of_steps[0]} holds labelled steps and {others[0]} does not: evaluate on them apart")
    named = _solutions(config, config.pairs.data) if of_steps else own_steps(opened, limit=config.pairs.limit)
    name, kept_as = config.name or named.name, slug(config.name) if config.name else named.kept_as
    if gives_one_reward(opened):
        return _on_outcomes(config, opened, home, named._replace(name=name, kept_as=kept_as))
    chosen_on = _solutions(config, config.threshold_data) if config.threshold_data else None
    result = evaluate_solutions(
        opened,
        named,
        title=f"Steps of {name}",
        threshold=config.threshold,
        threshold_from=chosen_on,
        seed=config.pairs.seed,
    )
    opened.say_bill()
    kept_as = f"steps-{kept_as}"
    report = keep(result, home, kept_as, page=f"{opened.name} on {name}")
    then = ("assay", "search", config.model, "PROMPTS", "--policy", "LANGUAGE_MODEL", "--answers", "ANSWERS.jsonl")
    show([report], verbose=config.where.verbose, page=home / f"{kept_as}.html", then=then)
    return 0


def _on_outcomes(config: Config, opened: Opened, home: Path, named: NamedSteps) -> int:
    """Evaluate a model of one reward a solution on whether their final answers are right."""
    if config.threshold is not None or config.threshold_data:
        raise ValueError(f"--threshold and --threshold-data are of steps, and {opened.label} gives one reward for a whole solution")
    result = evaluate_outcomes(opened, named, title=f"Outcomes of {named.name}", seed=config.pairs.seed)
    opened.say_bill()
    kept_as = f"outcomes-{named.kept_as}"
    report = keep(result, home, kept_as, page=f"{opened.name} on {named.name}")
    show([report], verbose=config.where.verbose, page=home / f"{kept_as}.html", then=("assay", "audit", "verify", config.model))
    return 0


def _solutions(config: Config, data: tuple[str, ...]) -> NamedSteps:
    pairs = config.pairs
    names = renaming(pairs.columns, pairs.ignore)
    return read_named_steps(data, form=pairs.form, strict=pairs.strict, limit=pairs.limit, seed=pairs.seed, names=names)


def next_of(config: Config) -> tuple[str, ...]:
    """What tells whether a policy can be trained on it."""
    return ("assay", "audit", "all", config.model, *config.judge.flags, *config.pairs.flags, *_out(config))


def _out(config: Config) -> tuple[str, ...]:
    return () if config.where.out is None else ("--out", str(config.where.out))
