"""`assay audit attribute`: how much of the margins length, format, tone and opening phrases explain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from assay.audit.attribution.attribute import check_openers
from assay.audit.audits import attribute_pairs
from assay.commands.shared import Model, Pairs, Where, keep, pairs_for, show
from assay.scorers.judges.options import JudgeOptions

NUM_PAIRS = 1000  # read of each set when --limit is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How much of the margins length, format, tone and opening phrases explain (docs/drift.md)."""

    model: Model
    openers: int = 8
    """How many of the most frequent opening phrases are moved to other answers; 0: none."""
    edits: int = 300
    """Most answers that are edited and scored again for that."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        check_openers(self.openers, self.edits)


def run(config: Config) -> int:
    """Attribute the margins, keep the report as eval/attribution.json and as a page, and show it."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    named = pairs_for(opened, replace(config.pairs, limit=config.pairs.limit or NUM_PAIRS))
    result = attribute_pairs(opened, named, num_openers=config.openers, num_edits=config.edits, seed=config.pairs.seed)
    opened.say_bill()
    report = keep(result, home, "attribution", page=f"Attribution of {opened.name}")
    then = ("assay", "audit", "probe", config.model, *config.judge.flags, *config.pairs.flags)
    show([report], verbose=config.where.verbose, page=home / "attribution.html", then=then)
    return 0
