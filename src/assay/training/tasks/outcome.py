"""Outcome rewards: one number a solution, read at its end, for the final answer being right; the baseline of process rewards.

    --kind outcome               the outcomes of the data
    --kind outcome:all-steps     right where every labelled step is, wrong where one is not, for data without outcomes

Binary cross-entropy on the same solutions that --kind process reads, with the same rows and steps (tasks/process). What is saved is
a plain model of one reward, like any other. Its calibrated P(right) is in reward.json. Shapes: N solutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from assay.console import say
from assay.data.split import Split
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.tokens.problem_table import ProblemTable, num_items
from assay.data.tokens.render import Renderer
from assay.evaluation.steps.outcome_figures import measure_outcomes
from assay.evaluation.steps.step_findings import calibrated_on_few
from assay.models.backbone import Backbone
from assay.models.device import Compute
from assay.models.heads import SCALAR
from assay.models.reward_model import Outputs, RewardModel
from assay.records import Completion, PreferencePair, Report, extended
from assay.run_files import STEP_CALIBRATION, read_description
from assay.scorers.base import Scorer
from assay.scorers.local import load_local
from assay.training.batches import Source, outputs_at
from assay.training.losses import step_losses
from assay.training.objective import refuse_pair_flags
from assay.training.prepare import Prepared
from assay.training.record import curve, training_sample
from assay.training.rows.solution_figures import figures
from assay.training.rows.solution_rows import read_solution_table, solutions
from assay.training.rows.step_calibration import calibrate_steps, keep_problems
from assay.training.rows.step_probe import pairs_of_outcomes, probe_reads
from assay.training.settings import TrainConfig
from assay.training.states.depth import Probed
from assay.training.tasks.task import BatchLoss, Built, Finished, Measured, of_rows

OUTPUTS: Outputs = "members"
HEAD = SCALAR
ALL_STEPS = "all-steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeTask:
    """Train on outcomes. offset: log-odds of a right answer among the training solutions, which the reward is added to: a reward
    has no zero of its own, and a plain model of one reward no bias. per_row: see `process.ProcessTask`."""

    table: ProblemTable
    source: Source
    offset: float = 0.0
    per_row: float = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "reward_size")

    def batches(self, rows: np.ndarray) -> Sequence[Any]:
        return self.source.batches(rows)

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        columns_NC = self._of_solutions(self.source.outputs(model, batch)[:, 0].float(), batch.rows)
        return of_rows(columns_NC, self.table.num_solutions[batch.rows], self.per_row)

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        columns_C = self._of_solutions(torch.from_numpy(self.rewards(model, rows)), rows).mean(0)
        return dict(zip(self.columns[:2], columns_C.tolist(), strict=False))

    def rewards(self, model: RewardModel, rows: np.ndarray) -> np.ndarray:
        """Rewards (N,), float32, of the solutions of the rows. Every process gets all of them."""
        return outputs_at(model, self.source, rows)[:, 0]

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """(N,) P(final answer right) in the data."""
        return self.table.values[self.table.places(rows), 0]

    def _of_solutions(self, rewards_N: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """(N, 3): loss of each solution, whether it is right at one half, |reward|."""
        right_N = torch.from_numpy(self.labels(rows)).to(rewards_N.device)
        log_odds_N = rewards_N + self.offset
        loss_N = step_losses(log_odds_N, right_N, torch.ones(2, device=rewards_N.device))
        is_right_N = torch.where(right_N == 0.5, 0.5, ((log_odds_N.detach() > 0) == (right_N > 0.5)).float())
        return torch.stack([loss_N, is_right_N, rewards_N.detach().abs()], dim=1)


def check_flags(config: TrainConfig) -> None:
    refuse_pair_flags(config)
    if config.kind.partition(":")[2] not in ("", ALL_STEPS):
        raise ValueError(f"--kind {config.kind}: behind outcome stands nothing, or {ALL_STEPS}")


def outcome_of(config: TrainConfig, item: LabelledSteps) -> float | None:
    """P(final answer right) of a solution, None where it is not known."""
    if not config.kind.endswith(f":{ALL_STEPS}"):
        return item.outcome
    known = [label for label in item.right if label is not None]
    if any(label < 0.5 for label in known):
        return 0.0
    return 1.0 if len(known) == len(item.right) else None


def _numbers(config: TrainConfig) -> Callable[[LabelledSteps], np.ndarray | str]:
    def of(item: LabelledSteps) -> np.ndarray | str:
        outcome = outcome_of(config, item)
        why = "it is not known whether the final answer is right"
        fix = "" if config.kind.endswith(ALL_STEPS) else f" (--kind outcome:{ALL_STEPS} takes the steps for it)"
        return why + fix if outcome is None else np.array([outcome])

    return of


def read_rows(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[ProblemTable, list[dict[str, Any]]]:
    if split is not None:
        raise ValueError("--kind outcome is split by the hash of the problem alone")
    return read_solution_table(config, renderer, _numbers(config), names=("right",), reads_steps=False)


def num_outputs(table: ProblemTable) -> int:
    return 1


def probe_depth(backbone: Backbone, table: ProblemTable, compute: Compute, config: TrainConfig, least: int) -> Probed | None:
    """After every layer a linear model of right above wrong solutions; None where too few problems are there."""
    solutions = table.solutions
    pairs = pairs_of_outcomes(solutions, solutions.rows("train"), seed=config.seed)
    return probe_reads(backbone, solutions, pairs, compute, seed=config.seed, least=least)


def build_task(config: TrainConfig, table: ProblemTable, source: Source) -> Built:
    """Raises ValueError where all outcomes are one."""
    rows = table.rows("train")
    share = float(table.values[table.places(rows), 0].mean())
    if not 0 < share < 1:
        known = "right" if share == 1 else "wrong"
        raise ValueError(f"--kind {config.kind}: every training solution is {known}, so that there is nothing to learn")
    offset = math.log(share / (1 - share))
    say("labels", f"{share:.1%} of the training solutions have a right final answer")
    task = OutcomeTask(table=table, source=source, offset=offset, per_row=num_items(table, rows) / len(rows))
    why = f"log-odds of a right answer among the training solutions, {share:.1%} of them"
    return Built(task, {"loss": "binary cross-entropy", "offset": offset}, {"offset": why})


def training_report(prepared: Prepared, log: list[dict[str, Any]]) -> Report:
    """Figures of outcomes on the training sample and on the calibration split, and the training curve."""
    task: OutcomeTask = prepared.task
    metrics = []
    for split, rows in (("training", training_sample(prepared)), ("calibration", prepared.table.rows("calibration"))):
        log_odds_N = task.rewards(prepared.model, rows) + task.offset
        metrics += figures(f"{split} outcomes", log_odds_N, task.labels(rows), prepared.table, rows)
    tables = (curve(log, "loss"), curve(log, "accuracy"), *(() if prepared.probe is None else (prepared.probe.table(),)))
    num = f"{num_items(prepared.table, prepared.table.rows('train')):,}"
    facts = {"params": prepared.config.params, "base": prepared.base.name, "training solutions": num}
    return Report(title="Training", metrics=tuple(metrics), tables=tables, facts=facts)


def finish(prepared: Prepared, model: RewardModel) -> Finished:
    """The model, and how its rewards become P(right): fitted on the calibration split."""
    task: OutcomeTask = prepared.task
    rows = prepared.table.rows("calibration")
    rewards_N, labels_N = task.rewards(prepared.model, rows), task.labels(rows)
    fitted = calibrate_steps(
        rewards_N, labels_N, prepared.table, rows, seed=prepared.config.seed, what="outcomes", offset=task.offset
    )
    return Finished(model, {STEP_CALIBRATION: fitted.entry, "objective": "binary cross-entropy of outcomes"}, {})


def answers(config: TrainConfig, split: Split) -> Iterator[Completion]:
    return (_whole(item) for item in solutions(config, split))


def _whole(item: LabelledSteps) -> Completion:
    """The solution without its steps: it is read at its end."""
    return replace(item.completion, steps=None)


def training_pairs(config: TrainConfig) -> Iterator[PreferencePair]:
    return iter(())


def measure(config: TrainConfig, loaded: Scorer | None = None) -> Measured | None:
    """The outcomes of the test split by the saved model."""
    path, machine = config.out / "artifact", config.machine
    keep_problems(path, solutions(config, "calibration"))
    labelled = [(item, outcome_of(config, item)) for item in solutions(config, "test")]
    items = [(item, outcome) for item, outcome in labelled if outcome is not None]
    if not items:
        say("not evaluated", "no solution of the test split has a known outcome: raise --test")
        return None
    scorer = loaded if loaded is not None else load_local(path, dtype=machine.dtype, device=machine.device)
    rewards = scorer.score([_whole(item) for item, _ in items])
    line = read_description(path)[STEP_CALIBRATION]
    labels_N, problems = np.array([outcome for _, outcome in items]), [item.prompt_key for item, _ in items]
    title, seed = "Outcomes of the test split", config.seed
    result = measure_outcomes(rewards.value, labels_N, problems, title=title, scale=line["scale"], shift=line["shift"], seed=seed)
    few = calibrated_on_few(line)
    result = replace(result, page=extended(result.page, findings=() if few is None else (few,)))
    return Measured(result, "outcomes", ("assay", "audit", "verify"))
