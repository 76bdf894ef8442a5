"""`assay audit judge`: what a judge goes by beside the answers, and whether an answer can tell it what to say."""

from __future__ import annotations

from dataclasses import dataclass, field

from assay.audit.audits import judge_pairs, probe_pairs
from assay.audit.probes.battery import INJECTIONS, battery
from assay.audit.probes.selection import chosen
from assay.commands.shared import Model, Pairs, Where, keep, pairs_for, show
from assay.console import say
from assay.report.html import write_html
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
    """Measure the biases, try the injections, keep both reports and one page, and print the summary."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    named = pairs_for(opened, config.pairs)
    probes = chosen((*battery(named.pairs), *INJECTIONS), config.only)
    end = "" if named.is_own else f"-{named.kept_as}"
    judged = judge_pairs(opened, named, own=config.own, seed=config.pairs.seed)
    reports, is_bad = [keep(judged, home, f"judge{end}")], judged.is_biased
    if config.max_rows:
        say("probes", f"{len(probes)} on up to {config.max_rows:,} answers to prompts of {named.name}")
        probed = probe_pairs(opened, named, probes=probes, max_rows=config.max_rows, seed=config.pairs.seed)
        reports.append(keep(probed, home, f"judge-probes{end}"))
        is_bad = is_bad or probed.is_exploitable
    opened.say_bill()
    page = home / f"judge{end}.html"
    write_html(page, reports, f"The judge {opened.name}")
    then = ("assay", "evaluate", config.model, *config.judge.flags, *config.pairs.flags)
    show(reports, verbose=config.where.verbose, page=page, then=then)
    return 8 if is_bad else 0
