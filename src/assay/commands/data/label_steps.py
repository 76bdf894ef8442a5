"""`assay data label-steps`: solutions in, labelled steps out: by roll-outs with a verifier, by a judge, or by what both agree
on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from assay.bulk.label import Ledgered
from assay.bulk.label_steps import (
    Rollouts,
    StepLabels,
    beginnings,
    consensus,
    label_by_judge,
    label_by_rollouts,
    relabelled,
    rollout_asks,
)
from assay.commands.shared import Ignored
from assay.console import print_error, say
from assay.data.raw.rows import slug
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.solutions import read_solutions
from assay.data.steps.step_rows import write_labelled_steps
from assay.data.steps.step_rules import StepRule
from assay.files import write_text
from assay.generation.generator import Generator, Limits
from assay.generation.ledger import Ledger
from assay.generation.policy import Policy
from assay.generation.prices import dollars
from assay.records import Dtype
from assay.rubrics.shipped import why_no_rubric
from assay.scorers.base import Scorer
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import open_scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Labels of steps by roll-outs of --policy, by --judge, or with both by what they agree on.

    A run that was stopped goes on. Exit status 2 when no step gets a label (docs/process-data.md).
    """

    solutions: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOLUTIONS")]
    """File of solutions: labelled steps, or prompt with response or steps; ground_truth where the verifier needs it."""
    out: Path
    """jsonl or jsonl.gz of labelled steps; beside it the ledger of all calls, and what came of them as .labels.json."""
    rule: StepRule = "lines"
    """How responses without steps are cut."""
    policy: Policy = field(default_factory=Policy)
    verifier: str = "rule:answer"
    """What says whether an answer is right: a rule (docs/rules.md) or any scorer of 0 to 1."""
    n: int = 8
    """Roll-outs of a step."""
    target: Literal["hard", "soft"] = "hard"
    """hard: right when any roll-out is; soft: the share that is."""
    until_error: bool = False
    """Leave the steps behind the first wrong one unknown, and spare their roll-outs."""
    temperature: float = 0.7
    """Of the roll-outs."""
    max_tokens: int = 512
    """Of a roll-out; one that is cut off is unknown."""
    judge: str | None = None
    """Rubric, as last-step, or any scorer of 0 to 1 that is shown each beginning of a solution."""
    form: str | None = None
    """Form of the rows (docs/process-data.md); found when left out."""
    ignore: Ignored = ()
    """Columns to leave out."""
    limit: int | None = None
    """Take the first so many solutions."""
    dry_run: bool = False
    """Say what it would cost and stop."""
    seed: int = 0
    """Of the roll-outs."""
    device: str = "auto"
    """Such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Number format of models in this process; auto measures which is faster."""
    judging: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if not self.out.name.endswith((".jsonl", ".jsonl.gz")):
            raise ValueError(f"--out {self.out}: labelled steps are written as .jsonl or .jsonl.gz")
        if self.policy.policy is None and self.judge is None:
            raise ValueError("nothing labels the steps: give --policy for roll-outs, --judge, or both for what they agree on")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")

    @property
    def rollouts(self) -> Rollouts:
        return Rollouts(
            n=self.n,
            target=self.target,
            until_error=self.until_error,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )

    @property
    def by(self) -> str:
        """What labels, as the tags say it."""
        rolled = "" if self.policy.policy is None else f"{self.target} roll-outs of {self.policy.policy}, n={self.n}"
        return " and ".join(part for part in (rolled, f"judge {self.judge}" if self.judge else "") if part)


def run(config: Config) -> int:
    """Read, say the price, label, write, and say what it came to."""
    rollouts = config.rollouts
    solutions, summary = read_solutions(
        config.solutions, rule=config.rule, form=config.form, limit=config.limit, ignore=config.ignore
    )
    say("read", f"{config.solutions}: {summary}")
    if not solutions:
        print_error(f"there is no solution in {config.solutions} that can be cut into steps")
        return 2
    ledger = Ledger(config.judging.ledger or config.out.with_name(f"{config.out.name}.ledger.sqlite"))
    judge = None if config.judge is None else _judge(config, config.judge, ledger)
    policy = None
    if config.policy.policy is not None:
        backend = config.policy.backend(dtype=config.dtype, device=config.device)
        policy = Generator(backend, ledger=ledger, limits=Limits(budget=config.policy.policy_budget))
        say("policy", f"{policy.backend.model}: {policy.estimate(rollout_asks(solutions, rollouts)).summary()}")
    if isinstance(judge, Ledgered):
        say("judge", judge.estimate(beginnings(solutions)).summary())
    if config.dry_run:
        return 0
    found: list[StepLabels] = []
    if policy is not None:
        verifier = open_scorer(config.verifier, device=config.device, dtype=config.dtype).scorer
        found.append(label_by_rollouts(policy, verifier, solutions, rollouts))
        say("roll-outs", found[-1].summary())
    if judge is not None:
        found.append(label_by_judge(judge, solutions))
        say("judged", found[-1].summary())
    labels = found[0] if len(found) == 1 else consensus(*found)
    return _keep(config, solutions, labels, ledger)


def _keep(config: Config, solutions: Sequence[LabelledSteps], labels: StepLabels, ledger: Ledger) -> int:
    """Write the labels, and what came of all of it."""
    num_known = sum(label is not None for row in labels.right for label in row)
    write_labelled_steps(config.out, relabelled(solutions, labels, source=slug(config.solutions), by=config.by))
    bill = ledger.bill()
    price = None if bill.num_unpriced else bill.price
    content: dict[str, Any] = {
        "solutions": len(solutions),
        "labelled by": config.by,
        "verifier": config.verifier if config.policy.policy else None,
        "steps": sum(len(row) for row in labels.right),
        "steps with a label": num_known,
        "unknown": dict(labels.reasons),
        "roll-outs": labels.num_rollouts,
        "roll-outs spared": labels.num_saved,
        "calls": bill.num_calls,
        "tokens read": bill.input_tokens,
        "tokens written": bill.output_tokens,
        "price in US dollars": price,
        "price of a label": None if price is None or not num_known else price / num_known,
        "agreement with labels that were there": agreement(solutions, labels),
    }
    write_text(config.out.with_name(f"{config.out.name}.labels.json"), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    say("labelled", labels.summary())
    if (before := agreement(solutions, labels)) is not None:
        say("before", f"{before['same']:,} of {before['both known']:,} labels are those that the file had")
    each = "" if not price or not num_known else f"; {dollars(price / num_known)} for a label"
    say("bill", f"{bill.summary()}{each}")
    say("written", str(config.out))
    if not num_known:
        print_error("no step got a label: see the reasons above; a longer --max-tokens, or a ground_truth, may be what is missing")
    return 0 if num_known else 2


def agreement(solutions: Sequence[LabelledSteps], labels: StepLabels) -> dict[str, int] | None:
    """How many steps have the label that the file had, of those that both know; None where there are none."""
    both = [
        (old >= 0.5) == (new >= 0.5)
        for one, row in zip(solutions, labels.right, strict=True)
        for old, new in zip(one.right, row, strict=True)
        if old is not None and new is not None
    ]
    return {"same": sum(both), "both known": len(both)} if both else None


def _judge(config: Config, spec: str, ledger: Ledger) -> Scorer:
    judging = None
    if is_judge(spec):
        judging = replace(config.judging, ledger=ledger.path)
    elif config.judging != JudgeOptions(ledger=config.judging.ledger):
        raise ValueError(f"--judge {why_no_rubric(spec)}")
    return open_scorer(spec, device=config.device, dtype=config.dtype, judge=judging).scorer
