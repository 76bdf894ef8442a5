"""`assay compare`: two or more scorers on the same pairs. What changed from the first, and is that a regression?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from assay.commands.shared import Pairs, Where, show
from assay.console import print_error, progress, say
from assay.data.raw.rows import slug
from assay.evaluation.compare import ComparisonResult, Side, compare_margins
from assay.evaluation.pair_scores import score_pairs
from assay.records import Finding, extended
from assay.report.html import write_html
from assay.run_files import write_report
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import NamedPairs, Opened, overlap, refuse_seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Compare scorers on the same pairs; exit status 5 if one is worse than the first."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL")]
    """The scorer in use, then those that are to replace it: runs, artifacts, URLs or rules."""
    fdr: float = 0.05
    """B is worse if its accuracy is lower with p <= this over all pairs, or q <= this in a slice."""
    drop: float = 0.0
    """And lower by this or more: 0.01 is one point."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        for name, value in (("fdr", self.fdr), ("drop", self.drop)):
            if not 0 <= value <= 1:
                raise ValueError(f"--{name} {value:g} lies outside [0, 1]: it is a share, such as 0.05")
        if len(self.models) < 2:
            raise ValueError(f"{len(self.models)} model given: name the one in use and at least one to compare with it")
        if not self.pairs.data:
            raise ValueError("--data names no file: give pairs whose prompts none of the models was trained on")


def run(config: Config) -> int:
    """Score all pairs with each model, and compare each with the first; the page holds every comparison."""
    none_is = not any(map(is_judge, config.models))  # then the flags of a judge are refused with the first
    opened = [config.where.open(model, judge=config.judge if is_judge(model) or none_is else None) for model in config.models]
    beside = f"compare-{'-'.join(one.name for one in opened)}"
    out = config.where.out or opened[-1].report_home(None).parent / slug(beside)
    named = config.pairs.read()
    for one in opened:
        refuse_seen(one, named.pairs, named.name)
    opened = in_one_format(opened)
    sides = [_side(one, named, f"scoring {letter}") for one, letter in zip(opened, _letters(opened), strict=True)]
    results = [_against_first(config, opened, sides, i, named) for i in range(1, len(opened))]
    for i, result in enumerate(results, 1):
        write_report(out, "compare" if len(results) == 1 else f"compare-{opened[i].name}", result.report())
    reports = [result.report() for result in results]
    write_html(out / "report.html", reports, f"{opened[0].name} and what may replace it")
    say("report", str(out / "report.html"))
    for one in opened:
        one.say_bill()
    flags = config.judge.flags if is_judge(config.models[-1]) else ()
    then = ("assay", "audit", "all", config.models[-1], *flags, *config.pairs.flags)
    show(reports, verbose=config.where.verbose, page=out / "report.html", then=then)
    for one, result in zip(opened[1:], results, strict=True):
        if not result.whole.n_scored:
            print_error(f"{opened[0].label} and {one.label} scored no labelled pair both: nothing was compared", label="failed")
    if not all(result.whole.n_scored for result in results):
        return 3
    return 5 if any(result.is_worse for result in results) else 0


def in_one_format(opened: Sequence[Opened]) -> list[Opened]:
    """The same scorers, with one number format and device for all that are computed here: measured once, not once each."""
    if all(one.artifact is None for one in opened):
        return list(opened)
    from assay.models.device import pick_compute  # imports torch

    compute = pick_compute(opened[0].device, opened[0].dtype)
    return [replace(one, device=str(compute.device), dtype=compute.name) for one in opened]


def _side(opened: Opened, named: NamedPairs, label: str) -> Side:
    with progress(label, 2 * len(named.pairs), "answers") as advance:
        scores = score_pairs(opened.scorer, named.pairs, advance)
    return Side(scores.margins, scores.probabilities if scores.has_probabilities else None)


def _against_first(config: Config, opened: Sequence[Opened], sides: Sequence[Side], i: int, named: NamedPairs) -> ComparisonResult:
    a, b = opened[0], opened[i]
    title = f"{b.name} (B) against {a.name} (A)"
    result = compare_margins(sides[0], sides[i], named.pairs, title=title, fdr=config.fdr, drop=config.drop, seed=config.pairs.seed)
    seen = [overlap(one, named.pairs, named.name) for one in (a, b)]
    findings: list[Finding] = [
        finding._replace(why=f"{letter}: {finding.why}") for letter, one in zip("AB", seen, strict=True) for finding in one.findings
    ]
    facts = {"A": f"{a.name}, {a.fingerprint}", "B": f"{b.name}, {b.fingerprint}", "data": named.name, "computed in": a.dtype}
    return replace(result, page=extended(result.page, findings=findings, first=facts))


def _letters(opened: Sequence[Opened]) -> list[str]:
    return [chr(ord("A") + i) for i in range(len(opened))]
