"""`assay audit best-of-n`: what choosing by a model gains in gold, where gold peaks, and what the model promises meanwhile; of
solutions with labelled steps, how often the chosen one is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from assay.audit.audits import choose_candidates
from assay.audit.chosen_solutions import Solved, choose_among, solution_rewards
from assay.commands.shared import Columns, Ignored, Model, Where, keep, show
from assay.console import progress, say
from assay.data.candidates import read_candidates
from assay.data.raw.columns import renaming
from assay.data.raw.rows import slug
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_check import holds_steps
from assay.evaluation.measure import read_named_steps
from assay.records import extended
from assay.rl.search.final_votes import answer_classes
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import Opened, refuse_seen
from assay.scorers.wrappers.counted import Counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What choosing by a model gains in gold, and where the gold reward peaks (docs/overoptimization.md)."""

    model: Model
    data: str
    """Candidates with gold: a file (prompt, candidates, gold), one of docs/overoptimization.md, or labelled steps with outcomes."""
    beside: str | None = None
    """Of labelled steps: another model, by whose reward is chosen too, such as an outcome model."""
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
    if holds_steps(config.data, None):
        return _of_solutions(config, opened, home)
    if config.beside is not None:
        raise ValueError(f"--beside {config.beside} is of labelled steps, and {config.data} holds none (docs/process.md)")
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


def _of_solutions(config: Config, opened: Opened, home: Path) -> int:
    """Choose among the solutions to problems that the model was not trained on. Raises DataError where it was."""
    names = renaming(config.columns, config.ignore)
    named = read_named_steps([config.data], seed=config.seed, names=names)
    items = [item for item in named.items if item.outcome in (0.0, 1.0)]
    if len(items) < len(named.items):
        say("left out", f"{len(named.items) - len(items):,} solutions: it is not known whether the final answer is right")
    keys = list(dict.fromkeys(item.prompt_key for item in items))
    drawn = {keys[i] for i in np.random.default_rng(config.seed).permutation(len(keys))[: config.prompts]}
    items = [item for item in items if item.prompt_key in drawn]
    beside = None if config.beside is None else config.where.open(config.beside)
    for each in (opened, *([beside] if beside else [])):
        refuse_seen(each, items, named.name)
    with progress("choosing", None, "solutions") as advance:
        scorers = [Counted(scorer=each.scorer, advance=advance) for each in (opened, *([beside] if beside else []))]
        rewards = solution_rewards(scorers[0], items, beside=scorers[1] if beside else None)
    solved = Solved(items, np.array([item.outcome for item in items], np.float64), _answers(items))
    name = config.name or named.name
    result = choose_among(solved, rewards, title=f"Best of n on {name}", max_n=config.max_n, seed=config.seed)
    opened.say_bill()
    facts = {"data": named.name, **({} if beside is None else {"beside": beside.label}), **opened.facts}
    result = replace(result, page=extended(result.page, facts=facts))
    kept_as = f"best-of-n-{slug(name)}"
    report = keep(result, home, kept_as, page=result.page.title)
    then = ("assay", "search", config.model, "PROMPTS", "--policy", "LANGUAGE_MODEL", "--answers", "ANSWERS.jsonl")
    show([report], verbose=config.where.verbose, page=home / f"{kept_as}.html", then=then)
    return 0


def _answers(items: Sequence[LabelledSteps]) -> np.ndarray:
    """(N,): one number for equal answers of a problem, negative for none."""
    keys, found_N = np.array([item.prompt_key for item in items]), np.full(len(items), -1)
    for key in np.unique(keys):
        index = np.flatnonzero(keys == key).tolist()
        found_N[index] = answer_classes([items[i].completion.response or "" for i in index])
    return found_N
