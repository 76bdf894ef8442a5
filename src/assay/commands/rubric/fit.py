"""`assay rubric fit`: weights of a rubric's criteria from preferences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from assay.commands.shared import Pairs, show
from assay.console import say
from assay.files import write_text
from assay.rubrics.learned import Judge, learn_rubric
from assay.rubrics.rubric import Rubric
from assay.rubrics.rubric_text import rubric_to_toml
from assay.rubrics.shipped import find_rubric
from assay.scorers.judges.criterion_values import values_of_judge, values_of_table
from assay.scorers.judges.open_judge import open_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.judges.pairwise import PairwiseJudge, PromptJudge
from assay.scorers.verifiers.confined import CodeFlags


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Fit a rubric's weights to pairs, and drop the criteria that do not help on held-out prompts (docs/rubrics.md)."""

    rubric: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUBRIC")]
    """A .toml or .json file, or the name of a shipped rubric."""
    out: Path
    """The .toml file of the fitted rubric."""
    scores: Path | None = None
    """Values of the criteria: rows of prompt, response and criteria {name: value}. A judge is asked when left out."""
    test_share: float = 0.3
    """Of the prompts, held out for the figures."""
    pairs: Pairs = field(default_factory=Pairs)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    code: CodeFlags = field(default_factory=CodeFlags)

    def __post_init__(self) -> None:
        if self.out.suffix != ".toml":
            raise ValueError(f"--out {self.out}: the fitted rubric is a .toml file")
        if not self.pairs.data:
            raise ValueError("--data names no file: give pairs to fit the weights to")
        if self.scores is not None and self.judge != JudgeOptions():
            raise ValueError("--scores and the flags of a judge: the values come from one of them, leave the other out")


def run(config: Config) -> int:
    """Read the pairs, ask for the values, fit, and write the rubric."""
    rubric = find_rubric(config.rubric)
    values = values_of_table(config.scores, rubric) if config.scores is not None else _judge(config, rubric)
    pairs = config.pairs.read().pairs
    learned = learn_rubric(rubric, pairs, values, test_share=config.test_share, seed=config.pairs.seed)
    show([learned.report()], verbose=True)
    for name, gain in learned.gains.items():
        decision = "dropped" if name in learned.dropped else f"weight {learned.rubric.criterion(name).weight:+.3f}"
        say("criterion", f"{name}: {decision}; the held-out log loss falls by {gain.value:.4f} (standard error {gain.error:.4f})")
    write_text(config.out, rubric_to_toml(learned.rubric))
    say("rubric", f"{len(learned.rubric.criteria)} criteria -> {config.out}")
    return 0


def _judge(config: Config, rubric: Rubric) -> Judge:
    ledger = config.out.with_suffix(".ledger.sqlite")
    judge = open_judge(rubric, config.judge, ledger=ledger, run_code=config.code.allowed)
    if isinstance(judge, PairwiseJudge | PromptJudge):
        raise ValueError("weights are fitted to criteria of each answer alone: give --judge-mode pointwise")
    return values_of_judge(judge)
