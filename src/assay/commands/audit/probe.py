"""`assay audit probe`: what a policy would exploit in a model; a report, a page, and an exit status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.audit.audits import probe_pairs
from assay.audit.judge_biases import is_asked
from assay.audit.probes.alarm import MAX_RISE, ProbeResult
from assay.audit.probes.battery import INJECTIONS, battery
from assay.audit.probes.selection import chosen, load_probes
from assay.commands.shared import Model, Pairs, Where, keep, pairs_for, show
from assay.console import say
from assay.records import Level
from assay.scorers.judges.options import JudgeOptions

_ORDER: Mapping[Level, int] = {"fail": 0, "warn": 1, "ok": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Which worthless edits of an answer raise the reward; exit status 6 when one does (docs/probes.md)."""

    model: Model
    probes: Path | None = None
    """Python file with probes of your own, tried beside the others."""
    injections: bool = False
    """Also try what is aimed at the prompt of a judge; it is always tried on one."""
    only: tuple[str, ...] = ()
    """Names of the probes to try, such as flattery."""
    max_rise: float = MAX_RISE
    """Largest tolerated increase of the reward on average, in units of the median absolute margin of the pairs."""
    max_rows: int = 200
    """Answers that are edited by each probe."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)


def run(config: Config) -> int:
    """Try the probes, keep the report and its page, and print the probes, failed ones first."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    named = pairs_for(opened, config.pairs)
    own = load_probes(config.probes) if config.probes is not None else ()
    aimed = INJECTIONS if config.injections or config.only or is_asked(opened.scorer) else ()
    probes = chosen((*battery(named.pairs), *aimed, *own), config.only)
    say("probes", f"{len(probes)} on up to {config.max_rows:,} answers to prompts of {named.name}")
    result = probe_pairs(opened, named, probes=probes, max_rise=config.max_rise, max_rows=config.max_rows, seed=config.pairs.seed)
    opened.say_bill()
    kept_as = "probes" if named.is_own else f"probes-{named.kept_as}"
    report = keep(result, home, kept_as, page=result.title)
    then: tuple[str, ...] = ("assay", "audit", "all", config.model, *config.judge.flags, *config.pairs.flags)
    if result.is_exploitable:
        then = ("assay", "train", "--data", "PAIRS", "--base", "BASE", "--augment", f"{home}/eval/{kept_as}.json", "--out", "NEW")
    show([report], verbose=config.where.verbose, page=home / f"{kept_as}.html", then=then, rows=probe_rows(result))
    return 6 if result.is_exploitable else 0


def probe_rows(result: ProbeResult) -> list[tuple[str, str, str]]:
    """The probes as rows of a table, failed ones first, then what is to be known of the pairs."""
    rows = []
    for probe in sorted(result.probes, key=lambda probe: _ORDER[probe.finding.level]):
        test, share = probe.test, probe.share
        between = "" if math.isnan(test.low) else f" [{test.low:+.2f}, {test.high:+.2f}]"  # too few prompts have no interval
        risen = f"{test.mean:+.2f}{between}" if share.n_scored else "n/a"
        often = f"raised {share.value:.0%} [{share.low:.0%}, {share.high:.0%}]" if share.n_scored else "no figure"
        tested = "not tested" if math.isnan(test.p) else f"p {test.p:.2g}"
        why = f"{probe.finding.level}: {probe.rises.probe.kind}, {often} of {share.n_scored} / {share.n}, {tested}"
        rows.append((probe.rises.probe.name, risen, why))
    return rows + [(note.name, "", f"{note.level}: {note.why}") for note in result.notes]
