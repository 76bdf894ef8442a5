"""What the loop asks of a training task, and what a run asks of a kind of training: a module in this folder that answers both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
import torch

from assay.data.split import Split
from assay.data.tokens.render import Renderer
from assay.data.tokens.table import SplitTable
from assay.models.backbone import Backbone
from assay.models.heads import Head
from assay.models.reward_model import Outputs, RewardModel
from assay.records import Completion, PreferencePair, Report, Result
from assay.scorers.base import Scorer

if TYPE_CHECKING:
    from assay.models.device import Compute
    from assay.training.batches import Source
    from assay.training.prepare import Prepared
    from assay.training.settings import TrainConfig
    from assay.training.states.depth import Probed

COUNTER_EXAMPLES = "augmented"  # split of the rows that --augment makes; they are trained on too
CHECKED = "augmented-check"  # of contrasts made from calibration pairs, on which is seen what the edits are worth in the end


class BatchLoss(NamedTuple):
    """total: summed loss of a micro-batch, to go backward from. columns: (C,) sums for the log, without gradient."""

    total: torch.Tensor
    columns: torch.Tensor


def of_rows(columns_NC: torch.Tensor, sizes_M: np.ndarray, per_row: float) -> BatchLoss:
    """The loss of M rows that hold several items each, whose columns are given item after item, the loss in the first.

    sizes_M: items of each row. per_row: of a row of the training split on average: the loss is summed over items and divided by it,
    so that every item weighs alike. The columns of the log are means over the items of a row, summed over the rows.
    """
    row_N = torch.repeat_interleave(torch.arange(len(sizes_M)), torch.from_numpy(sizes_M))
    share_N = (1.0 / torch.from_numpy(sizes_M))[row_N].to(columns_NC)
    return BatchLoss(columns_NC[:, 0].sum() / per_row, (columns_NC.detach() * share_N[:, None]).sum(0))


class Task(Protocol):
    """Rows of a table as micro-batches, their loss, and figures of held-out rows.

    A row is one item of the task (a pair, a ranked list) or some (solutions to one problem). The loop divides the loss and the
    columns of an optimiser step by its number of rows: a task whose rows hold several labels decides itself how they weigh.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what `loss` sums up for metrics.jsonl, "loss" among them."""
        ...

    def batches(self, rows: np.ndarray) -> Sequence[Any]:
        """Micro-batches that hold each of the rows once, within the token budget."""
        ...

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        """Loss of one micro-batch, summed over its rows."""
        ...

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        """Figures of held-out rows, "loss" among them: early stopping looks for its minimum. Every process gets the same ones."""
        ...


class Built(NamedTuple):
    """A task for a table, with the settings that it was given or found in the data, and the reason of each that was found."""

    task: Any
    settings: dict[str, Any]
    reasons: dict[str, str]


class Finished(NamedTuple):
    """model: what is saved. description: further entries of reward.json. files: path in the artifact -> tensors of a safetensors
    file beside the model."""

    model: RewardModel
    description: Mapping[str, Any]
    files: Mapping[str, Mapping[str, torch.Tensor]]


class Measured(NamedTuple):
    """A result on the test split, and the name under which the run keeps its report. then: what to type next, before the run."""

    result: Result
    kept_as: str
    then: tuple[str, ...] = ("assay", "audit", "all")


class Kind(Protocol):
    """A kind of training, as a module of this folder: `assay train --kind NAME` imports `training/tasks/NAME.py`.

    OUTPUTS: what the trained head gives (`RewardModel.outputs`). HEAD: how the artifact keeps the finished one (`models/heads.py`).
    """

    OUTPUTS: Outputs
    HEAD: Head

    def check_flags(self, config: TrainConfig) -> None:
        """Raises ValueError for flags that this kind does not know, naming them."""
        ...

    def read_rows(
        self, config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
    ) -> tuple[SplitTable, list[dict[str, Any]]]:
        """The rows as tokens, in splits; what was read of each file, for reward.json. split: a rule of the caller."""
        ...

    def num_outputs(self, table: Any) -> int:
        """Outputs of a fresh head."""
        ...

    def probe_depth(self, backbone: Backbone, table: Any, compute: Compute, config: TrainConfig, least: int) -> Probed | None:
        """After which layer to cut, with `least` layers or more; None where the kind has no probe: all layers are then kept."""
        ...

    def build_task(self, config: TrainConfig, table: Any, source: Source) -> Built:
        """The task that the loop trains."""
        ...

    def training_report(self, prepared: Prepared, log: list[dict[str, Any]]) -> Report:
        """Figures of training and calibration rows by the fitted model. log: of metrics.jsonl. Every process calls it."""
        ...

    def finish(self, prepared: Prepared, model: RewardModel) -> Finished:
        """What is saved of the fitted model, whole and with its adapters merged."""
        ...

    def answers(self, config: TrainConfig, split: Split) -> Iterator[Completion]:
        """The answers of a split, read again: for the check of the saved model, and for what drift is compared with."""
        ...

    def training_pairs(self, config: TrainConfig) -> Iterator[PreferencePair]:
        """The training split as pairs, for the baseline of words that is kept beside the model; none where there are no pairs."""
        ...

    def measure(self, config: TrainConfig, loaded: Scorer | None = None) -> Measured | None:
        """Calibrate the saved model and measure it on the test split; None, having said why, where there is too little of it.

        loaded: its scorer without a calibration, where it is loaded already.
        """
        ...


def kind_of(spec: str) -> Kind:
    """The kind of training that --kind names; behind a colon stands what the kind itself reads. Raises ValueError naming the kinds
    that there are."""
    name = spec.partition(":")[0]
    package = __name__.rpartition(".")[0]
    names = sorted({module.name for module in iter_modules(import_module(package).__path__)} - {__name__.rpartition(".")[2]})
    if name == "generative":
        raise ValueError(f"--kind {spec} is trained by assay train alone (docs/generative.md): leave it out here")
    if name not in names:
        raise ValueError(f"--kind {name} is not known: use {' or '.join(sorted([*names, 'generative']))}")
    return cast(Kind, import_module(f"{package}.{name}"))
