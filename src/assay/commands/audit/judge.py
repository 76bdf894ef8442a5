"""`assay audit judge`: what a judge goes by beside the answers, and whether an answer can tell it what to say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from assay.audit.audits import judge_pairs, probe_pairs
from assay.audit.probes.battery import INJECTIONS, battery
from assay.audit.probes.selection import chosen
from assay.commands.shared import Model, Pairs, Where, keep, pairs_for, show
from assay.console import say
from assay.records import Report
from assay.scorers.judges.options import JudgeOptions

AIMED = (*(probe.name for probe in INJECTIONS), "verdict letter", "verdict score", "verdict json", "master key", "master key alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Biases of a judge, and injections; exit status 8 when one is found (docs/judges_evidence.md)."""

    model: Model
    own: str | None = None
    """Part of the name of the judge's own model, for self-preference: the tags chosen_model and rejected_model are searched."""
    only: tuple[str, ...] = AIMED
    """Names of the probes to try."""
    max_rows: int = 50
    """Answers that are edited by each probe; 0 tries none."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if self.max_rows < 0:
            raise ValueError(f"--max-rows {self.max_rows} must be 0 or more")


def run(config: Config) -> int:
    """Measure the biases, try the injections, keep both reports and one page, and print the figures."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    named = pairs_for(opened, config.pairs)
    probes = chosen((*battery(named.pairs), *INJECTIONS), config.only)
    judged = judge_pairs(opened, named, own=config.own, seed=config.pairs.seed)
    page = f"The judge {opened.name}"
    keep(judged, home, "judge" if named.is_own else f"judge-{named.kept_as}", page=page)
    show(judged.report())
    if not config.max_rows:
        opened.say_bill()
        return 8 if judged.is_biased else 0
    say("probes", f"{len(probes)} on up to {config.max_rows:,} answers to prompts of {named.name}")
    probed = probe_pairs(opened, named, probes=probes, max_rows=config.max_rows, seed=config.pairs.seed)
    keep(probed, home, "judge-probes" if named.is_own else f"judge-probes-{named.kept_as}", page=probed.title)
    show(without_shares(probed.report()))
    opened.say_bill()
    return 8 if judged.is_biased or probed.is_exploitable else 0


def without_shares(report: Report) -> Report:
    """The report with the mean rises alone: one line a probe."""
    return replace(report, metrics=tuple(metric for metric in report.metrics if metric.name.endswith("mean rise")))
