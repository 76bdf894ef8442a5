"""`assay data rubric`: a rubric with weights from preferences, or in another form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from assay.commands.shared import Pairs, show
from assay.console import say
from assay.files import write_text
from assay.rubrics.formats import to_healthbench
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
    """Fit a rubric's weights to --data, or write it in another form (docs/rubrics.md)."""

    rubric: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUBRIC")]
    """A .toml or .json file, or the name of a shipped rubric."""
    out: Path
    """A .toml file for Assay's form; without --data also a .json file, for HealthBench's."""
    scores: Path | None = None
    """Values of the criteria: rows of prompt, response and criteria {name: value}; else a judge is asked."""
    test_share: float = 0.3
    """Of the prompts, held out for the figures."""
    pairs: Pairs = field(default_factory=Pairs)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    code: CodeFlags = field(default_factory=CodeFlags)

    def __post_init__(self) -> None:
        if self.out.suffix not in ((".toml",) if self.pairs.data else (".toml", ".json")):
            json_too = "" if self.pairs.data else " or .json (HealthBench)"
            raise ValueError(f"--out {self.out}: the rubric is written as .toml{json_too}")
        if not self.pairs.data and (self.scores is not None or self.judge != JudgeOptions()):
            raise ValueError("--scores and the flags of a judge are for fitting: give --data, pairs to fit the weights to")
        if self.scores is not None and self.judge != JudgeOptions():
            raise ValueError("--scores and the flags of a judge: the values come from one of them, leave the other out")


def run(config: Config) -> int:
    """Read the rubric, fit its weights where there are pairs, and write it."""
    rubric = find_rubric(config.rubric)
    rubric = _fitted(config, rubric) if config.pairs.data else rubric
    is_json = config.out.suffix == ".json"
    text = json.dumps(to_healthbench(rubric), indent=1, ensure_ascii=False) + "\n" if is_json else rubric_to_toml(rubric)
    write_text(config.out, text)
    say("rubric", f"{len(rubric.criteria)} criteria, formula {rubric.formula} -> {config.out}")
    return 0


def _fitted(config: Config, rubric: Rubric) -> Rubric:
    """The rubric with fitted weights; the figures are shown."""
    values = values_of_table(config.scores, rubric) if config.scores is not None else _judge(config, rubric)
    pairs = config.pairs.read().pairs
    learned = learn_rubric(rubric, pairs, values, test_share=config.test_share, seed=config.pairs.seed)
    show([learned.report()], verbose=True)
    for name, gain in learned.gains.items():
        decision = "dropped" if name in learned.dropped else f"weight {learned.rubric.criterion(name).weight:+.3f}"
        say("criterion", f"{name}: {decision}; the held-out log loss falls by {gain.value:.4f} (standard error {gain.error:.4f})")
    return learned.rubric


def _judge(config: Config, rubric: Rubric) -> Judge:
    ledger = config.out.with_suffix(".ledger.sqlite")
    judge = open_judge(rubric, config.judge, ledger=ledger, run_code=config.code.allowed)
    if isinstance(judge, PairwiseJudge | PromptJudge):
        raise ValueError("weights are fitted to criteria of each answer alone: give --judge-mode pointwise")
    return values_of_judge(judge)
