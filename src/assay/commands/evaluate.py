"""`assay evaluate`: what a scorer is worth on pairs, or on published suites."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from assay.commands.shared import Model, Pairs, Where, keep, pairs_for, show
from assay.data.rows import slug
from assay.evaluation.measure import evaluate_on_suite, evaluate_pairs
from assay.evaluation.suites.lookup import load_suite
from assay.scorers.judges.options import JudgeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Accuracy with intervals, baselines, calibration, slices; suites (docs/evaluation.md)."""

    model: Model
    suite: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Instead of pairs: a benchmark by name (docs/suites.md), or a file of pairs or of lists. Several: give it again."""
    suite_folder: Path | None = None
    """Where the suites' files lie; else the environment's ASSAY_DATA, else the hub."""
    name: str | None = None
    """Name of the evaluation; that of the data when left out."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if self.suite and (self.pairs.data or self.pairs.form or self.pairs.strict):
            raise ValueError("--suite goes without --data, --form and --strict: evaluate pairs in a call of their own")
        if self.name and len(self.suite) > 1:
            raise ValueError(f"--name {self.name} is one name for {len(self.suite)} suites: leave it out, or give one suite a call")


def run(config: Config) -> int:
    """Evaluate, keep each report under eval/, and show it."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    if not config.suite:
        named = pairs_for(opened, config.pairs)
        kept_as = slug(config.name) if config.name else named.kept_as
        result = evaluate_pairs(opened, named, title=f"Evaluation on {config.name or named.name}", seed=config.pairs.seed)
        show(keep(result, home, kept_as))
        opened.say_bill()
        return 0
    suites = [load_suite(spec, config.suite_folder, config.pairs.limit) for spec in dict.fromkeys(config.suite)]
    for loaded in suites:
        found = evaluate_on_suite(opened, loaded, seed=config.pairs.seed)
        show(keep(found, home, f"suite-{slug(config.name or loaded.suite.name)}"))
    opened.say_bill()
    return 0
