"""`assay data rubric`: a rubric with weights, and perhaps criteria, from preferences, or in another form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from assay.commands.shared import Pairs, show
from assay.console import say
from assay.files import write_text
from assay.records import Completion, PreferencePair, Table
from assay.report.html import write_html
from assay.rubrics.formats import to_healthbench
from assay.rubrics.learned import Judge, LearnedRubric, Propose, Values, learn_rubric, refuse_too_few
from assay.rubrics.rubric import Criterion, Rubric
from assay.rubrics.rubric_text import rubric_to_toml
from assay.rubrics.shipped import find_rubric
from assay.scorers.judges.criterion_values import estimate_of_values, values_of_judge, values_of_table
from assay.scorers.judges.open_judge import open_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.judges.pairwise import PairwiseJudge, PromptJudge
from assay.scorers.judges.pointwise import PointwiseJudge
from assay.scorers.judges.proposer import AskedFor, Proposals, asks_for_criteria, propose_criteria
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
    propose: int | None = None
    """Criteria that the judge proposes from pairs; those that help on other pairs are kept."""
    test_share: float = 0.3
    """Of the prompts, held out for the figures."""
    pairs: Pairs = field(default_factory=Pairs)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    code: CodeFlags = field(default_factory=CodeFlags)

    def __post_init__(self) -> None:
        if self.out.suffix not in ((".toml",) if self.pairs.data else (".toml", ".json")):
            json_too = "" if self.pairs.data else " or .json (HealthBench)"
            raise ValueError(f"--out {self.out}: the rubric is written as .toml{json_too}")
        if not self.pairs.data and (self.scores is not None or self.propose is not None or self.judge != JudgeOptions()):
            raise ValueError(
                "--scores, --propose and the flags of a judge are for fitting: give --data, pairs to fit the weights to"
            )
        if self.propose is not None and self.propose < 1:
            raise ValueError(f"--propose {self.propose} must be at least 1, or left out")
        if self.propose is not None and self.scores is not None:
            raise ValueError(
                "--propose and --scores: a table has no values of new criteria; leave --scores out, and a judge is asked"
            )
        if self.scores is not None and self.judge != JudgeOptions():
            raise ValueError("--scores and the flags of a judge: the values come from one of them, leave the other out")


def run(config: Config) -> int:
    """Read the rubric, fit its weights where there are pairs, and write it."""
    rubric = find_rubric(config.rubric)
    rubric = _fitted(config, rubric) if config.pairs.data else rubric
    is_json = config.out.suffix == ".json"
    text = json.dumps(to_healthbench(rubric), indent=1, ensure_ascii=False) + "\n" if is_json else rubric_to_toml(rubric)
    write_text(config.out, text)
    count = len(rubric.criteria)
    say("rubric", f"{count} criteri{'on' if count == 1 else 'a'}, formula {rubric.formula} -> {config.out}")
    return 0


def _fitted(config: Config, rubric: Rubric) -> Rubric:
    """The rubric with fitted weights; the figures are shown. Too few prompts are refused before a model is loaded."""
    pairs = config.pairs.read().pairs
    refuse_too_few(pairs, proposes=config.propose is not None, test_share=config.test_share, seed=config.pairs.seed)
    if config.scores is not None:
        return _shown(config, _learned(config, rubric, pairs, values_of_table(config.scores, rubric)))
    ledger = config.out.with_suffix(".ledger.sqlite")
    judge = open_judge(rubric, config.judge, ledger=ledger, run_code=config.code.allowed)
    if isinstance(judge, PairwiseJudge | PromptJudge):
        raise ValueError("weights are fitted to criteria of each answer alone: give --judge-mode pointwise")
    if isinstance(judge, PointwiseJudge):
        return _asked(config, judge, pairs)
    if config.propose is not None:
        raise ValueError("--propose: the rubric has rules alone, and no judge that could propose: give it a criterion to ask")
    return _shown(config, _learned(config, rubric, pairs, values_of_judge(judge)))


def _asked(config: Config, judge: PointwiseJudge, pairs: Sequence[PreferencePair]) -> Rubric:
    """The same with a judge, which may propose criteria too: the price is said before each part, and all of it at the end."""
    found: list[Proposals] = []

    def values(criteria: Sequence[Criterion], completions: Sequence[Completion]) -> Sequence[Values]:
        asked = sum(criterion.kind != "rule" for criterion in criteria)
        say("judge", f"{asked} criteria: {estimate_of_values(judge, criteria, completions).summary()}")
        return values_of_judge(judge)(criteria, completions)

    def propose(rubric: Rubric, pairs: Sequence[PreferencePair]) -> Sequence[Criterion]:
        settings = AskedFor(most=config.propose or 1, max_tokens=judge.settings.max_tokens, seed=config.pairs.seed)
        say("propose", judge.generator.estimate(asks_for_criteria(rubric, pairs, settings)).summary())
        found.append(propose_criteria(judge.generator, rubric, pairs, settings))
        say("proposed", found[0].summary())
        for criterion in found[0].criteria:
            say("proposed", f"{criterion.name}: {criterion.text}")
        if not found[0].criteria:
            say("proposed", "nothing: only the weights of the rubric's own criteria are fitted. A larger model may do better")
        return found[0].criteria

    try:
        learned = _learned(config, judge.rubric, pairs, values, None if config.propose is None else propose)
    finally:
        say("bill", judge.bill())
    return _shown(config, learned, *found)


def _learned(
    config: Config, rubric: Rubric, pairs: Sequence[PreferencePair], values: Judge, propose: Propose | None = None
) -> LearnedRubric:
    return learn_rubric(rubric, pairs, values, propose=propose, test_share=config.test_share, seed=config.pairs.seed)


def _shown(config: Config, learned: LearnedRubric, proposals: Proposals | None = None) -> Rubric:
    """Print the figures and each criterion with its gain and what became of it, and keep a page of all of it beside the rubric."""
    report = learned.report()
    if proposals is not None:
        rows = tuple((one.name, one.text, learned.decision(one.name)) for one in proposals.criteria)
        table = Table(title="proposed criteria", columns=("criterion", "question", "decision"), rows=rows)
        report = replace(report, tables=(*report.tables, table), facts={**report.facts, "proposed": proposals.summary()})
    page = config.out.with_suffix(".html")
    write_html(page, [report], report.title)
    show([report], verbose=True, page=page)
    for name, gain in learned.gains.items():
        fall = f"the held-out log loss falls by {gain.value:.4f} (standard error {gain.error:.4f})"
        say("criterion", f"{name}: {learned.decision(name)}; {fall}")
    return learned.rubric
