"""`assay audit best-of-n`: what choosing by a model gains in gold, where gold peaks, and what the model promises meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from assay.audit.audits import choose_candidates
from assay.commands.shared import Columns, Ignored, Model, Where, keep, show
from assay.console import say
from assay.data.candidates import read_candidates
from assay.data.columns import renaming
from assay.data.rows import slug
from assay.scorers.judges.options import JudgeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What choosing by a model gains in gold, and where the gold reward peaks (docs/overoptimization.md)."""

    model: Model
    data: str
    """Candidates with gold: a file (prompt, candidates, gold), or one of docs/overoptimization.md."""
    columns: Columns = ()
    """Such as prompt=instruction responses=texts (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    prompts: int = 60
    """At most so many prompts, drawn by the seed: every candidate of each is scored."""
    max_n: int | None = None
    """Largest n; as far as 80% of the prompts have candidates when left out."""
    name: str | None = None
    """Name of the evaluation; that of the data when left out."""
    seed: int = 0
    """Of draws and intervals."""
    where: Where = field(default_factory=Where)
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if self.prompts < 2:
            raise ValueError(f"--prompts {self.prompts}: two are needed, and about 60 for an interval that says something")
        if self.max_n is not None and self.max_n < 2:
            raise ValueError(f"--max-n {self.max_n} must be at least 2")


def run(config: Config) -> int:
    """Score the candidates to prompts that the model was not trained on, keep the report and its page, and show it."""
    opened = config.where.open(config.model, judge=config.judge)
    home = opened.report_home(config.where.out)
    recorded = read_candidates(config.data, renaming(config.columns, config.ignore))
    say("read", f"{config.data}: {recorded.note}")
    name = config.name or recorded.source
    result = choose_candidates(opened, recorded, name=name, num_prompts=config.prompts, max_n=config.max_n, seed=config.seed)
    opened.say_bill()
    kept_as = f"best-of-n-{slug(name)}"
    report = keep(result, home, kept_as, page=result.page.title)
    then = ("assay", "audit", "all", config.model, *config.judge.flags, "--candidates", config.data)
    show([report], verbose=config.where.verbose, page=home / f"{kept_as}.html", then=then)
    return 0
