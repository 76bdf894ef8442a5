"""Ranked lists: Plackett and Luce's model of the order of all answers to a prompt. The formula is in training/losses.py.

Shapes: P lists, K places in the longest, R answers of all of them. Rewards are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.data.split import Split
from assay.data.tokens.answer_lists import RANK, ranking_of
from assay.data.tokens.answer_table import AnswerTable, TwoOfEach
from assay.data.tokens.render import Renderer
from assay.evaluation.evaluate import gap_finding
from assay.models.backbone import Backbone
from assay.models.device import Compute
from assay.models.heads import SCALAR
from assay.models.reward_model import Outputs, RewardModel
from assay.records import Completion, Finding, Metric, PreferencePair, Report
from assay.stats.mean_intervals import mean_interval
from assay.training.batches import Source, outputs_at
from assay.training.losses import plackett_luce
from assay.training.objective import refuse_pair_flags
from assay.training.prepare import Prepared
from assay.training.record import curve, training_sample
from assay.training.rows.answer_rows import Reading, answers_in, read_answer_table
from assay.training.settings import TrainConfig
from assay.training.states.depth import LOOKS, Probed, probe_layers
from assay.training.tasks.pairs import measure as measure  # the saved model is one of pairs: calibrated and evaluated as such
from assay.training.tasks.pairs import training_pairs as training_pairs
from assay.training.tasks.task import BatchLoss, Built, Finished

OUTPUTS: Outputs = "members"
HEAD = SCALAR
LISTS = Reading(of_case=ranking_of, names=RANK, fewest=2, what="lists", is_single=False)


class Lists(NamedTuple):
    """P lists, each in a line of K places.

    index_PK: place of an answer among the R of all lists, 0 where there is none; present_PK: where there is one. below_PK: place of
    the first answer that is ranked below, K where there is none. above_PKK: whether the first is ranked above the second.
    """

    index_PK: np.ndarray
    present_PK: np.ndarray
    below_PK: np.ndarray
    above_PKK: np.ndarray


def lists_of(table: AnswerTable, rows: np.ndarray) -> Lists:
    """The lists at the rows of a table, whose answers lie from best to worst."""
    sizes_P = table.num_reward_positions[rows]
    starts_P, places_K = np.cumsum(sizes_P) - sizes_P, np.arange(int(sizes_P.max(initial=0)))
    present_PK = places_K < sizes_P[:, None]
    index_PK = np.where(present_PK, starts_P[:, None] + places_K, 0)
    ranks_PK = np.where(present_PK, table.values[table.places(rows), 0][index_PK], np.inf)
    both_PKK = present_PK[:, :, None] & present_PK[:, None, :]
    above_PKK = both_PKK & (ranks_PK[:, :, None] < ranks_PK[:, None, :])
    num_not_below_PK = (both_PKK & ~above_PKK).sum(2)
    below_PK = np.where(above_PKK.any(2), num_not_below_PK, len(places_K))
    return Lists(index_PK, present_PK, below_PK, above_PKK)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTask:
    """Train on ranked lists, a list a row. centring: coefficient of the penalty on the mean reward of a list."""

    table: AnswerTable
    source: Source
    centring: float = 0.01

    @property
    def columns(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "reward_size")

    def batches(self, rows: np.ndarray) -> Sequence[Any]:
        return self.source.batches(rows)

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        return list_loss(self.source.outputs(model, batch)[:, 0], lists_of(self.table, batch.rows), self.centring)

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        lists = lists_of(self.table, rows)
        rewards_R = self.rewards(model, rows)
        losses_P = list_losses(torch.from_numpy(rewards_R), lists)
        return {"loss": float(losses_P.mean()), "accuracy": float(accuracies(rewards_R, lists).mean())}

    def rewards(self, model: RewardModel, rows: np.ndarray) -> np.ndarray:
        """Rewards (R,), float32, of the answers of the lists at `rows`, list after list. Every process gets all of them."""
        return outputs_at(model, self.source, rows)[:, 0]


def list_losses(rewards_R: torch.Tensor, lists: Lists) -> torch.Tensor:
    """Negative log-likelihood of each list by the number of its choices, (P,): a long list weighs as a short one does."""
    index_PK, present_PK, below_PK = (torch.from_numpy(part).to(rewards_R.device) for part in lists[:3])
    num_choices_P = torch.from_numpy(lists.above_PKK.any(2).sum(1)).to(rewards_R.device)
    return plackett_luce(rewards_R.float()[index_PK], present_PK, below_PK) / num_choices_P.clamp_min(1)


def list_loss(rewards_R: torch.Tensor, lists: Lists, centring: float) -> BatchLoss:
    """Summed loss of P lists; columns are the sums of the loss without centring, of accuracies, and of mean |rewards|.

    centring: c in + c (2 x mean reward of the list)^2, which for two answers is `losses.centring`.
    """
    nll_P = list_losses(rewards_R, lists)
    present_PK = torch.from_numpy(lists.present_PK).to(rewards_R.device)
    rewards_PK = torch.where(present_PK, rewards_R.float()[torch.from_numpy(lists.index_PK).to(rewards_R.device)], 0.0)
    sizes_P = present_PK.sum(1)
    loss = nll_P.sum() + centring * (2 * rewards_PK.sum(1) / sizes_P).square().sum()
    right = float(accuracies(rewards_R.detach().float().cpu().numpy(), lists).sum())
    size = (rewards_PK.detach().abs().sum(1) / sizes_P).sum()
    return BatchLoss(loss, torch.stack([nll_P.detach().sum(), torch.tensor(right, device=size.device), size]))


def accuracies(rewards_R: np.ndarray, lists: Lists) -> np.ndarray:
    """Of each list, how many of its comparisons of unequal rank the rewards get right, (P,); a tie of the rewards is wrong."""
    rewards_PK = rewards_R[lists.index_PK]
    right_P = (lists.above_PKK & (rewards_PK[:, :, None] > rewards_PK[:, None, :])).sum((1, 2))
    return right_P / lists.above_PKK.sum((1, 2))


def check_flags(config: TrainConfig) -> None:
    if config.kind != "rankings":
        raise ValueError(f"--kind {config.kind}: nothing stands behind rankings")
    refuse_pair_flags(config)


def read_rows(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[AnswerTable, list[dict[str, Any]]]:
    if split is not None:
        raise ValueError("--kind rankings is split by the hash of the prompt alone")
    return read_answer_table(config, renderer, LISTS)


def num_outputs(table: AnswerTable) -> int:
    return 1


def probe_depth(backbone: Backbone, table: AnswerTable, compute: Compute, config: TrainConfig, least: int) -> Probed:
    """Linear Bradley-Terry models after every layer, on the best and the worst answer of as many training lists as are needed."""
    rows = np.random.default_rng(config.seed).permutation(table.rows("train"))[: LOOKS[-1]]
    two = TwoOfEach(table, rows, np.zeros(len(rows), np.int64), table.num_reward_positions[rows] - 1)
    places = np.arange(len(rows))
    found = probe_layers(backbone, two, places, np.ones(len(rows)), two.prompt, compute, seed=config.seed, least=least)
    return found._replace(known=None)


def build_task(config: TrainConfig, table: AnswerTable, source: Source) -> Built:
    centring = config.objective.centring
    return Built(RankTask(table=table, source=source, centring=centring), {"loss": "plackett-luce", "centring": centring}, {})


def training_report(prepared: Prepared, log: list[dict[str, Any]]) -> Report:
    """Accuracy within the lists of the training sample and of the calibration split, and the training curve."""
    task: RankTask = prepared.task
    train, heldout = (
        _accuracy(prepared, f"accuracy within {name} lists", task.rewards(prepared.model, rows), rows)
        for name, rows in (("training", training_sample(prepared)), ("calibration", prepared.table.rows("calibration")))
    )
    findings: tuple[Finding, ...] = (gap_finding(train, heldout),) if heldout.n_scored else ()
    tables = tuple(curve(log, name) for name in ("loss", "accuracy"))
    tables = tables if prepared.probe is None else (*tables, prepared.probe.table())
    num_lists = f"{len(prepared.table.rows('train')):,}"
    facts = {"params": prepared.config.params, "base": prepared.base.name, "training lists": num_lists}
    key = {train.name: (heldout.name,)}
    return Report(title="Training", metrics=(train, heldout), tables=tables, findings=findings, facts=facts, key=key)


def _accuracy(prepared: Prepared, name: str, rewards_R: np.ndarray, rows: np.ndarray) -> Metric:
    """Mean over the lists at `rows`, with an interval by prompt."""
    if not len(rows):
        return Metric(name, float("nan"), note="no lists")
    right_P = accuracies(rewards_R, lists_of(prepared.table, rows))
    interval = mean_interval(right_P, prepared.table.prompt[rows], seed=prepared.config.seed)
    return Metric(name, float(right_P.mean()), *interval, len(rows), len(rows), "mean share of comparisons in a list")


def finish(prepared: Prepared, model: RewardModel) -> Finished:
    return Finished(model, {"objective": "plackett-luce"}, {})


def answers(config: TrainConfig, split: Split) -> Iterator[Completion]:
    return answers_in(config, split, LISTS)
