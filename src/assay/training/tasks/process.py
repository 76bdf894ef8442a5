"""Process rewards: P(right) of every step of a solution, by binary cross-entropy on labelled steps.

    --kind process[:WORD,...]    a reduction (min, product, last, mean), a rule for steps (blank-lines, lines, ...), balanced

Soft labels are targets as they are; steps of which nothing is known are not trained on. The loss is a mean over the steps of a
solution, so that a long one weighs as a short one does, and every solution weighs alike, however many its problem has. A row is
some solutions to one problem, whose question is computed once (data/tokens/problem_table): a step takes whole rows, as many as hold
about --batch-pairs solutions on average, in a new order each epoch. What is saved is a plain token-classification model; how steps
are cut, calibrated and reduced is in reward.json (models/saved/step_policy).

Shapes: R steps, K = 2 outputs (wrong, right), N solutions, M rows of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from assay.console import say
from assay.data.split import Split
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rules import STEP_RULES, StepRule
from assay.data.tokens.problem_table import ProblemTable, num_items
from assay.data.tokens.render import Renderer
from assay.evaluation.steps.evaluate_steps import evaluate_steps
from assay.evaluation.steps.step_findings import calibrated_on_few
from assay.models.backbone import Backbone
from assay.models.device import Compute
from assay.models.heads import PROCESS
from assay.models.reward_model import Outputs, RewardModel
from assay.models.saved.step_policy import StepPolicy
from assay.records import Completion, PreferencePair, Report, extended
from assay.run_files import STEP_CALIBRATION, STEPS, read_description
from assay.scorers.base import Scorer
from assay.scorers.local import load_local
from assay.stats.steps.step_reductions import REDUCTIONS, STATISTICS, Reduction, learn_reduction
from assay.training.batches import Source, outputs_at
from assay.training.losses import step_losses
from assay.training.objective import refuse_pair_flags
from assay.training.prepare import Prepared
from assay.training.record import curve, training_sample
from assay.training.rows.solution_figures import figures
from assay.training.rows.solution_rows import read_solution_table, solutions
from assay.training.rows.step_calibration import calibrate_steps, keep_problems
from assay.training.rows.step_probe import pairs_of_steps, probe_reads
from assay.training.settings import TrainConfig
from assay.training.states.depth import Probed
from assay.training.tasks.task import BatchLoss, Built, Finished, Measured, of_rows

OUTPUTS: Outputs = "steps"
HEAD = PROCESS
BALANCED = "balanced"
LEARNED: Reduction = "learned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What stands behind --kind process: in its own words. policy: as far as it is asked for. is_learned: the reduction is learned.
    is_balanced: whether wrong and right steps count alike, however many there are of each."""

    policy: StepPolicy
    is_balanced: bool = False
    is_learned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTask:
    """Train on labelled steps. weight_2: of the classes wrong and right in the loss. per_row: solutions of a training row, on
    average: the loop divides by rows, and a solution is to weigh as if it were divided by solutions."""

    table: ProblemTable
    source: Source
    weight_2: tuple[float, float] = (1.0, 1.0)
    per_row: float = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "reward_size")

    def batches(self, rows: np.ndarray) -> Sequence[Any]:
        return self.source.batches(rows)

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        log_odds_R = _log_odds(self.source.outputs(model, batch).float())
        columns_NC = self._of_solutions(log_odds_R, batch.rows)
        return of_rows(columns_NC, self.table.num_solutions[batch.rows], self.per_row)

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        columns_C = self._of_solutions(torch.from_numpy(self.rewards(model, rows)), rows).mean(0)
        return dict(zip(self.columns[:2], columns_C.tolist(), strict=False))

    def rewards(self, model: RewardModel, rows: np.ndarray) -> np.ndarray:
        """Log-odds (R,), float32, of the steps of the rows, row after row. Every process gets all of them."""
        return _log_odds(torch.from_numpy(outputs_at(model, self.source, rows))).numpy()

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """(R,) P(right) of the same steps in the data, NaN where nothing is known."""
        return self.table.values[self.table.places(rows), 0]

    def _of_solutions(self, log_odds_R: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """(N, 3): of each solution the mean loss of its labelled steps, the share that is right at one half, mean |reward|."""
        device = log_odds_R.device
        right_R = torch.from_numpy(self.labels(rows)).to(device)
        known_R = ~torch.isnan(right_R)
        sizes_N = torch.from_numpy(self.table.reads_of_solutions(rows)).to(device)
        solution_R = torch.repeat_interleave(torch.arange(len(sizes_N), device=device), sizes_N)
        num_N = torch.zeros(len(sizes_N), device=device).index_add(0, solution_R, known_R.float()).clamp_min(1)
        loss_R = step_losses(log_odds_R, right_R, torch.tensor(self.weight_2, device=device))
        seen_R = log_odds_R.detach()
        is_right_R = torch.where(right_R == 0.5, 0.5, ((seen_R > 0) == (right_R > 0.5)).float())
        columns_RC = torch.stack([loss_R, is_right_R, seen_R.abs()], dim=1) * (known_R / num_N[solution_R])[:, None]
        return torch.zeros(len(sizes_N), columns_RC.shape[1], device=device).index_add(0, solution_R, columns_RC)


def _log_odds(outputs_R2: torch.Tensor) -> torch.Tensor:
    return PROCESS.rewards(outputs_R2)[:, 0]


def asked(config: TrainConfig) -> Asked:
    """What stands behind --kind process:. Raises ValueError for a word that is none, or stands twice."""
    found: dict[str, Any] = {}
    for word in filter(None, (part.strip() for part in config.kind.partition(":")[2].split(","))):
        name = "reduction" if word in REDUCTIONS else "rule" if word in STEP_RULES else "balanced" if word == BALANCED else ""
        if not name or name in found:
            known = ", ".join((*REDUCTIONS, *STEP_RULES, BALANCED))
            wrong = "stands beside another of its kind" if name else "is none"
            raise ValueError(f"--kind {config.kind}: {word!r} {wrong}; words are {known}, as in process:product,balanced")
        found[name] = word
    policy = StepPolicy(
        rule=cast(StepRule, found.get("rule", StepPolicy().rule)),
        reduction=cast(Reduction, found["reduction"]) if found.get("reduction", LEARNED) != LEARNED else StepPolicy().reduction,
    )
    return Asked(policy=policy, is_balanced=BALANCED in found, is_learned=found.get("reduction") == LEARNED)


def check_flags(config: TrainConfig) -> None:
    refuse_pair_flags(config)
    asked(config)


def labels_of(item: LabelledSteps) -> np.ndarray | str:
    """(S, 2): of each step the label, and the outcome of the solution, NaN where nothing is known; or why a solution is not trained
    on."""
    if all(label is None for label in item.right):
        return "no step is labelled"
    outcome = math.nan if item.outcome is None else item.outcome
    return np.array([[math.nan if label is None else label, outcome] for label in item.right])


def read_rows(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[ProblemTable, list[dict[str, Any]]]:
    if split is not None:
        raise ValueError("--kind process is split by the hash of the problem alone")
    return read_solution_table(config, renderer, labels_of, names=("right", "outcome"), reads_steps=True)


def num_outputs(table: ProblemTable) -> int:
    return 2


def probe_depth(backbone: Backbone, table: ProblemTable, compute: Compute, config: TrainConfig, least: int) -> Probed | None:
    """After every layer a linear model of right above wrong steps of one solution; None where too few problems have both."""
    solutions = table.solutions
    pairs = pairs_of_steps(solutions, solutions.rows("train"), seed=config.seed)
    return probe_reads(backbone, solutions, pairs, compute, seed=config.seed, least=least)


def build_task(config: TrainConfig, table: ProblemTable, source: Source) -> Built:
    """With `balanced`, weights by which wrong and right training steps count alike. Raises ValueError where all labels are one."""
    rows = table.rows("train")
    task = ProcessTask(table=table, source=source, per_row=num_items(table, rows) / len(rows))
    share = _share_right(task, rows)
    if not 0 < share < 1:
        known = "right" if share == 1 else "wrong"
        raise ValueError(f"--kind {config.kind}: every labelled training step is {known}, so that there is nothing to learn")
    say("labels", f"{share:.1%} of the labelled training steps are right, each solution counted alike")
    settings, reasons = {"loss": "binary cross-entropy", "weight_wrong": 1.0, "weight_right": 1.0}, {}
    if asked(config).is_balanced:
        weights = (0.5 / (1 - share), 0.5 / share)
        settings |= {"weight_wrong": weights[0], "weight_right": weights[1]}
        why = f"{share:.1%} of the training steps are right: wrong and right ones count alike"
        reasons = {"weight_wrong": why, "weight_right": why}
        task = replace(task, weight_2=weights)
    return Built(task, settings, reasons)


def _share_right(task: ProcessTask, rows: np.ndarray) -> float:
    """Mean over the solutions of the mean label of their labelled steps."""
    sizes_N = task.table.reads_of_solutions(rows)
    labels_N = np.split(task.labels(rows), np.cumsum(sizes_N)[:-1])
    return float(np.mean([np.nanmean(labels_S) for labels_S in labels_N if not np.isnan(labels_S).all()] or [math.nan]))


def training_report(prepared: Prepared, log: list[dict[str, Any]]) -> Report:
    """Figures of steps on the training sample and on the calibration split, and the training curve."""
    task: ProcessTask = prepared.task
    metrics = []
    for split, rows in (("training", training_sample(prepared)), ("calibration", prepared.table.rows("calibration"))):
        metrics += figures(f"{split} steps", task.rewards(prepared.model, rows), task.labels(rows), prepared.table, rows)
    tables = (curve(log, "loss"), curve(log, "accuracy"), *(() if prepared.probe is None else (prepared.probe.table(),)))
    facts = {
        "params": prepared.config.params,
        "base": prepared.base.name,
        "training solutions": f"{num_items(prepared.table, prepared.table.rows('train')):,}",
        "steps without a label": f"{int(np.isnan(prepared.table.values[:, 0]).sum()):,} of {len(prepared.table.values):,}",
    }
    return Report(title="Training", metrics=tuple(metrics), tables=tables, facts=facts)


def finish(prepared: Prepared, model: RewardModel) -> Finished:
    """The model with its policy: calibrated on the calibration split by the fitted model."""
    task: ProcessTask = prepared.task
    rows = prepared.table.rows("calibration")
    log_odds_R, wanted = task.rewards(prepared.model, rows), asked(prepared.config)
    fitted = calibrate_steps(log_odds_R, task.labels(rows), prepared.table, rows, seed=prepared.config.seed)
    policy = replace(wanted.policy, scale=fitted.scale, shift=fitted.shift)
    policy = _with_learned(policy, log_odds_R, prepared.table, rows) if wanted.is_learned else policy
    entries = {STEPS: policy.entry(), STEP_CALIBRATION: fitted.entry, "objective": "binary cross-entropy of steps"}
    return Finished(model, entries, {})


def _with_learned(policy: StepPolicy, log_odds_R: np.ndarray, table: ProblemTable, rows: np.ndarray) -> StepPolicy:
    """The policy with a reduction that is learned from the outcomes of the calibration split, or, having said why not, as it
    was."""
    ends = np.cumsum(table.reads_of_solutions(rows))
    steps_N = np.split(policy.scale * log_odds_R.astype(np.float64) + policy.shift, ends[:-1])
    weights = learn_reduction(steps_N, table.values[table.places(rows), 1][ends - 1])
    if isinstance(weights, str):
        say("note", f"no reduction is learned from {weights}; the reward is the {policy.reduction} of the steps")
        return policy
    said = ", ".join(f"{name} {weight:+.3g}" for name, weight in zip(STATISTICS, weights[1:], strict=True))
    say("reduction", f"learned from outcomes of the calibration split: {said}")
    return replace(policy, reduction=LEARNED, weights=weights)


def answers(config: TrainConfig, split: Split) -> Iterator[Completion]:
    return (item.completion for item in solutions(config, split))


def training_pairs(config: TrainConfig) -> Iterator[PreferencePair]:
    return iter(())


def measure(config: TrainConfig, loaded: Scorer | None = None) -> Measured | None:
    """The steps of the test split by the saved model, beside chance, place, length and the second half."""
    path, machine = config.out / "artifact", config.machine
    keep_problems(path, solutions(config, "calibration"))
    items = list(solutions(config, "test"))
    if not items:
        say("not evaluated", "the test split is empty: raise --test")
        return None
    scorer = loaded if loaded is not None else load_local(path, dtype=machine.dtype, device=machine.device)
    result = evaluate_steps(scorer, items, title="Steps of the test split", seed=config.seed)
    description = read_description(path)
    facts = {"data": ", ".join(config.data), "policy": str(asdict(StepPolicy.from_description(description)))}
    few = calibrated_on_few(description.get(STEP_CALIBRATION))
    page = extended(result.page, findings=() if few is None else (few,), facts=facts)
    return Measured(replace(result, page=page), "steps", ("assay", "audit", "verify"))
