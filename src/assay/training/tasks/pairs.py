"""Preference pairs: a Bradley-Terry model of the labels, or one of its kin. The formulas are in training/losses.py.

Shapes: P pairs; 2 is chosen, rejected. Rewards are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.console import say
from assay.data.split import Split
from assay.data.tokens.render import Renderer
from assay.data.tokens.table import PairTable
from assay.evaluation.calibrate import calibrate
from assay.evaluation.fit_posterior import MAX_PAIRS, fit_posterior
from assay.evaluation.measure import evaluate_pairs
from assay.models.backbone import Backbone
from assay.models.device import Compute
from assay.models.heads import SCALAR
from assay.models.reward_model import Outputs, RewardModel
from assay.records import Completion, PreferencePair, Report
from assay.run_files import read_description
from assay.scorers.base import Scorer
from assay.scorers.opened import Opened, open_scorer
from assay.scorers.wrappers.calibrated import MIN_PAIRS
from assay.stats.metrics import log_losses
from assay.training.batches import Batch, Source, TokenSource, outputs_at
from assay.training.objective import AnswerText, Objective, batch_loss, length_log_odds
from assay.training.prepare import Prepared
from assay.training.record import accuracy_report, training_sample
from assay.training.rows.pair_rows import read_table
from assay.training.settings import TrainConfig
from assay.training.states.depth import LOOKS, Probed, probe_layers
from assay.training.tasks.task import BatchLoss, Built, Finished, Measured
from assay.training.text_reads import num_text_tokens, outputs_and_text

OUTPUTS: Outputs = "members"
HEAD = SCALAR


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """Train on preference pairs, a pair a row. length_slope: b of `length_log_odds`; 0 without --debias-length. reference: of
    --text-loss dpo:reference, for all rows of the table, as `text_likelihoods` gives it."""

    table: PairTable
    source: Source
    objective: Objective = field(default_factory=Objective)
    length_slope: float = 0.0
    reference: np.ndarray | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        text = () if self.objective.text_loss is None else ("text_loss",)
        return ("loss", "accuracy", "margin", "reward_size", *text)

    def batches(self, rows: np.ndarray) -> Sequence[Any]:
        return self.source.batches(rows)

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        if self.objective.text_loss is not None:
            return self._loss_with_text(model, batch)
        rewards_P2 = self.source.outputs(model, batch)[:, 0].view(-1, 2)
        return batch_loss(rewards_P2, self.table, batch.rows, self.objective, self.length_slope)

    def _loss_with_text(self, model: RewardModel, batch: Batch) -> BatchLoss:
        """Of a plain label's rejected answer the text is read only where the loss compares the two."""
        assert isinstance(self.source, TokenSource), "a head alone has no states of the text"
        rows, device = batch.rows, model.head.weight.device
        preference_P = self.table.preference[rows]
        wanted_P2 = np.stack([preference_P > 0, preference_P < 1], axis=1) | self.objective.reads_rejected_text
        outputs_RK, likelihood_P2 = outputs_and_text(model, self.source, batch, self.table, wanted_P2)
        reference_P2 = None if self.reference is None else torch.from_numpy(self.reference[rows]).to(device)
        num_tokens_P2 = torch.from_numpy(num_text_tokens(self.table, rows)).to(device)
        text = AnswerText(likelihood_P2, num_tokens_P2, reference_P2)
        return batch_loss(outputs_RK[:, 0].view(-1, 2), self.table, rows, self.objective, self.length_slope, text)

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        figures = pair_figures(self.rewards(model, rows), self.table.preference[rows])
        return {"loss": figures.loss, "accuracy": figures.accuracy}

    def rewards(self, model: RewardModel, rows: np.ndarray) -> np.ndarray:
        """Rewards (P, 2), float32, of the pairs at `rows`, in their order; each row once. Every process gets all of them."""
        return outputs_at(model, self.source, rows)[:, 0].reshape(-1, 2)


class PairFigures(NamedTuple):
    """Mean loss, accuracy (a tie of the rewards is wrong, a tie of the labels is left out) and number of pairs."""

    loss: float
    accuracy: float
    num_pairs: int


def pair_figures(rewards_P2: np.ndarray, preference_P: np.ndarray) -> PairFigures:
    """Loss (without margin, weight or centring) and accuracy of P pairs."""
    difference = (rewards_P2[:, 0] - rewards_P2[:, 1]).astype(np.float64)
    is_decided = preference_P != 0.5
    right = difference[is_decided] * (preference_P[is_decided] - 0.5) > 0
    return PairFigures(
        float(log_losses(difference, preference_P).mean()), float(right.mean()) if is_decided.any() else math.nan, len(difference)
    )


def check_flags(config: TrainConfig) -> None:
    """Pairs take every flag."""
    if config.kind != "pairs":
        raise ValueError(f"--kind {config.kind}: nothing stands behind pairs")


def read_rows(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[PairTable, list[dict[str, Any]]]:
    return read_table(config, renderer, split)


def num_outputs(table: PairTable) -> int:
    return 1


def probe_depth(backbone: Backbone, table: PairTable, compute: Compute, config: TrainConfig, least: int) -> Probed:
    """Linear Bradley-Terry models after every layer, on as many training pairs as the decision needs."""
    rows = np.random.default_rng(config.seed).permutation(table.rows("train"))[: LOOKS[-1]]
    return probe_layers(backbone, table, rows, table.preference[rows], table.prompt[rows], compute, seed=config.seed, least=least)


def build_task(config: TrainConfig, table: PairTable, source: Source) -> Built:
    """With --debias-length, the length slope of the training split."""
    slope, reasons = 0.0, {}
    if config.objective.debias_length:
        rows = table.rows("train")
        slope = length_log_odds(table.length_gap[rows], table.preference[rows], table.weight[rows])
        why = f"what the length of the answer alone says of {len(rows):,} training labels, in logits for each unit of log length"
        say("length slope", f"{slope:g}: {why}")
        reasons = {"length_slope": why}
    task = PairTask(table=table, source=source, objective=config.objective, length_slope=slope)
    settings = {**asdict(config.objective), "length_slope": slope}
    if config.objective.text_loss is None:
        settings = {name: value for name, value in settings.items() if name not in ("text_loss", "text_weight")}
    return Built(task, settings, reasons)


def training_report(prepared: Prepared, log: list[dict[str, Any]]) -> Report:
    """Accuracy on the training sample and on the calibration split, and the training curve."""
    task: PairTask = prepared.task
    train_P2, heldout_P2 = (
        task.rewards(prepared.model, rows) for rows in (training_sample(prepared), prepared.table.rows("calibration"))
    )
    return accuracy_report(prepared, log, train_P2, heldout_P2)


def finish(prepared: Prepared, model: RewardModel) -> Finished:
    return Finished(model, {}, {})


def answers(config: TrainConfig, split: Split) -> Iterator[Completion]:
    return (completion for pair in config.run_data.pairs(split) for completion in pair.completions())


def training_pairs(config: TrainConfig) -> Iterator[PreferencePair]:
    return config.run_data.pairs("train")


def measure(config: TrainConfig, loaded: Scorer | None = None) -> Measured | None:
    """Calibrate on the calibration split, evaluate on the test split; one that is too small is said to be, and left out."""
    splits = read_description(config.out / "artifact")["splits"]
    if splits["calibration"]["num_pairs"] >= MIN_PAIRS:
        opened = _opened(config, loaded)
        calibrate(opened, opened.own_pairs("calibration"))
    else:
        few = f"the calibration split has {splits['calibration']['num_pairs']} pairs, {MIN_PAIRS} are needed"
        say("not calibrated", f"{few}: raise --calibration, or run assay model calibrate with --data")
    if config.members.laplace:
        opened = _opened(config, loaded)
        fit_posterior(opened, opened.own_pairs("train", MAX_PAIRS))
    if not (splits["test"]["num_pairs"] or config.eval_data is not None):
        say("not evaluated", "the test split is empty: raise --test, or run assay evaluate with --data")
        return None
    opened = _opened(config, loaded)
    named = opened.own_pairs("test")
    result = evaluate_pairs(opened, named, title=f"Evaluation on {named.name}", seed=config.seed)
    return Measured(result, named.kept_as)


def _opened(config: TrainConfig, loaded: Scorer | None) -> Opened:
    return replace(open_scorer(config.out, device=config.machine.device, dtype=config.machine.dtype), loaded=loaded)
