"""The training loop, in sight: no callbacks, no trainer class. Reward models on packed pairs, in one process or several.

Shapes: P pairs of a micro-batch. The loss of an optimiser step is a sum over its pairs divided by their number.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from assay.data.table import PairTable
from assay.errors import CheckpointError, TrainingError
from assay.models.objectives import centring
from assay.models.reward_model import RewardModel
from assay.train import distributed
from assay.train.batches import Source
from assay.train.checkpoint import is_disk_full, latest_checkpoint, restore_checkpoint, save_checkpoint
from assay.train.objective import Objective, pair_losses


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Everything that decides the course of a run, given model, data and machine.

    learning_rate: of the backbone's parameters; head_learning_rate: of the head. Both warm up linearly over `warmup` of all steps
    and then follow a cosine to zero. batch_pairs: pairs an optimiser step. dropout: share of the head's inputs, and of what each
    trained block adds, that is dropped in training. early_stopping: held-out looks without a lower loss after which the run ends,
    with the best parameters restored; 0 trains to the end and keeps the last. looks: held-out looks an epoch. length_slope: what
    length alone says of the labels, which the reward need not (`batch_loss`).
    checkpoint_every, log_every: in steps.
    """

    epochs: int
    batch_pairs: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip_norm: float = 1.0
    objective: Objective = field(default_factory=Objective)
    dropout: float = 0.0
    early_stopping: int = 0
    looks: int = 1
    length_slope: float = 0.0
    seed: int = 0
    batch_tokens: int = 4096
    checkpoint_every: int = 200
    log_every: int = 1

    def num_steps(self, num_pairs: int) -> int:
        return self.epochs * math.ceil(num_pairs / self.batch_pairs)


class PairFigures(NamedTuple):
    """Mean loss, accuracy (ties in score count as wrong, label ties left out) and number of pairs of one pass over a set."""

    loss: float
    accuracy: float
    num_pairs: int


def fit(
    model: RewardModel,
    source: Source,
    train_rows: np.ndarray,
    settings: LoopSettings,
    *,
    heldout_rows: np.ndarray | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    identity: str = "",
    on_step: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Train in place; returns the rows of metrics.jsonl.

    run_dir: where metrics.jsonl and checkpoints/ go; None keeps everything in memory. identity: digest of base, data and settings;
    a checkpoint of another identity is refused. With `resume` the newest whole checkpoint is taken up, and the result equals the
    uninterrupted run, bitwise on CPU with the same threads; without it the checkpoints of an earlier run are dropped. Raises
    TrainingError for a loss that is not finite or a full disk; the checkpoints written before are whole.
    """
    optimizer = _optimizer(model, settings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    log = MetricsLog(run_dir, identity, resume)
    start = log.restore(model, optimizer)
    num_steps = settings.num_steps(len(train_rows))
    steps_per_epoch = num_steps // settings.epochs
    look_every = math.ceil(steps_per_epoch / settings.looks)
    heldout_rows = heldout_rows if heldout_rows is not None and len(heldout_rows) else None
    if start == 0 and heldout_rows is not None:
        log.write({"step": 0, "epoch": 0.0, **_heldout(model, source, heldout_rows)})

    model.train()
    for step in range(start, num_steps):
        if settings.early_stopping and looks_since_best(log.rows) >= settings.early_stopping:
            break
        began = time.perf_counter()
        rows = step_rows(train_rows, settings, step)
        scale = schedule(step, num_steps, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        totals = _backward(model, source, rows, settings)
        distributed.sum_gradients(parameters)
        distributed.sum_tensor(totals)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        done = step + 1
        is_epoch_end = done % steps_per_epoch == 0
        is_look = heldout_rows is not None and (is_epoch_end or (done % steps_per_epoch) % look_every == 0)
        if done % settings.log_every == 0 or is_epoch_end or is_look or done % settings.checkpoint_every == 0:
            row = _row(
                done, steps_per_epoch, totals / len(rows), distributed.whole(norm).item(), scale * settings.learning_rate, began
            )
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                raise TrainingError(log.explain_nan(done, row))
            if is_look and heldout_rows is not None:
                row |= _heldout(model, source, heldout_rows)
                model.train()
                if settings.early_stopping and row["heldout_loss"] < best_loss(log.rows):
                    log.keep_best(model)
            log.write(row)
            on_step(row)
        if run_dir is not None and (done % settings.checkpoint_every == 0 or is_epoch_end):
            log.checkpoint(done, model, optimizer)
    if settings.early_stopping and heldout_rows is not None:
        log.restore_best(model)
    model.eval()
    return log.rows


def _backward(model: RewardModel, source: Source, rows: np.ndarray, settings: LoopSettings) -> torch.Tensor:
    """Add up the gradients of one optimiser step over this process's micro-batches; returns the sums (4,) of `batch_loss`."""
    totals = torch.zeros(4, device=model.head.weight.device)
    for batch, counts in distributed.batches(model, source, rows):
        rewards_P2 = source.rewards(model, batch)
        loss, sums = batch_loss(rewards_P2, source.table, batch.rows, settings.objective, settings.length_slope)
        (loss * (counts / len(rows))).backward()
        totals += sums * counts
    return totals


def best_loss(rows: list[dict[str, Any]]) -> float:
    """Least held-out loss after the first step; infinity before the first look."""
    return min((row["heldout_loss"] for row in rows if row["step"] and "heldout_loss" in row), default=math.inf)


def looks_since_best(rows: list[dict[str, Any]]) -> int:
    """How many held-out looks in a row have passed without a lower loss."""
    losses = [row["heldout_loss"] for row in rows if row["step"] and "heldout_loss" in row]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def batch_loss(
    rewards_P2: torch.Tensor, table: PairTable, rows: np.ndarray, objective: Objective, length_slope: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss of P pairs, and for the log the sums (4,) of loss without centring, right pairs, margins and |rewards|.

    length_slope: b of `length_log_odds`; the loss is of d + b x length gap in place of d, so that the reward learns what the length
    does not say, and is used without it: a product of experts (Hinton 2002; Clark et al. 2019, equation 3, "Don't take the easy
    way out").
    """
    device = rewards_P2.device
    chosen_P, rejected_P = rewards_P2.float().unbind(1)
    preference_P = torch.from_numpy(table.preference[rows]).to(device)
    weight_P = torch.from_numpy(table.weight[rows]).to(device)
    margin_P = torch.from_numpy(np.nan_to_num(table.margin[rows])).to(device) if objective.use_margin else None
    if length_slope:
        known_P = torch.from_numpy(length_slope * table.length_gap[rows]).to(device)
        margin_P = -known_P if margin_P is None else margin_P - known_P
    nll_P = pair_losses(chosen_P, rejected_P, preference_P, margin_P, objective) * weight_P
    loss = nll_P.sum()
    if objective.centring:
        loss = loss + objective.centring * (centring(chosen_P, rejected_P) * weight_P).sum()
    difference_P = (chosen_P - rejected_P).detach()
    right = (difference_P * (preference_P - 0.5) > 0).sum()
    sums = torch.stack([nll_P.detach().sum(), right.float(), difference_P.sum(), rewards_P2.detach().abs().mean(1).sum()])
    return loss, sums


@torch.no_grad()
def reward_pairs(model: RewardModel, source: Source, rows: np.ndarray) -> np.ndarray:
    """Rewards (P, 2), float32, of the pairs at `rows`, in their order; each row once."""
    assert len(np.unique(rows)) == len(rows), "a row that is asked for twice would be answered once"
    model.eval()
    place = torch.zeros(len(source.table), dtype=torch.long)
    place[torch.from_numpy(rows)] = torch.arange(len(rows))
    rewards_P2 = torch.zeros(len(rows), 2, device=model.head.weight.device)
    for start in range(0, len(rows), 256):
        for batch, counts in distributed.batches(model, source, rows[start : start + 256]):
            rewards = source.rewards(model, batch).float()
            if counts:
                rewards_P2[place[torch.from_numpy(batch.rows)].to(rewards.device)] = rewards
    return distributed.sum_tensor(rewards_P2).cpu().numpy()


def pair_figures(rewards_P2: np.ndarray, preference_P: np.ndarray) -> PairFigures:
    """Loss (without margin, weight or centring) and accuracy of P pairs."""
    difference = (rewards_P2[:, 0] - rewards_P2[:, 1]).astype(np.float64)
    nll = preference_P * np.logaddexp(0, -difference) + (1 - preference_P) * np.logaddexp(0, difference)
    told = preference_P != 0.5
    right = difference[told] * (preference_P[told] - 0.5) > 0
    return PairFigures(float(nll.mean()), float(right.mean()) if told.any() else math.nan, len(difference))


def schedule(step: int, num_steps: int, warmup: float) -> float:
    """Factor on the learning rate at a step: linear warm-up over the first `warmup` of the steps, then a cosine to zero."""
    num_warm = max(1, round(warmup * num_steps))
    if step < num_warm:
        return (step + 1) / num_warm
    return 0.5 * (1 + math.cos(math.pi * (step - num_warm) / max(1, num_steps - num_warm)))


def step_rows(train_rows: np.ndarray, settings: LoopSettings, step: int) -> np.ndarray:
    """Table rows of one optimiser step: a fresh permutation each epoch, a function of seed and step alone."""
    steps_per_epoch = math.ceil(len(train_rows) / settings.batch_pairs)
    epoch, index = divmod(step, steps_per_epoch)
    order = _epoch_order(settings.seed, epoch, len(train_rows))
    return train_rows[order[index * settings.batch_pairs : (index + 1) * settings.batch_pairs]]


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


class MetricsLog:
    """metrics.jsonl and checkpoints of one run, kept in step: resuming cuts the log back to the checkpoint."""

    def __init__(self, run_dir: Path | None, identity: str, resume: bool) -> None:
        self.run_dir, self.identity, self.resume = run_dir, identity, resume
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def checkpoints(self) -> Path | None:
        return self.run_dir / "checkpoints" if self.run_dir else None

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """The step to go on from: 0 for a fresh run, which starts metrics.jsonl anew."""
        if self.run_dir is None or self.checkpoints is None:
            return 0
        self.run_dir.mkdir(parents=True, exist_ok=True)
        file = self.run_dir / "metrics.jsonl"
        resumed = latest_checkpoint(self.checkpoints) if self.resume else None
        if resumed is None:
            if distributed.rank() == 0:
                shutil.rmtree(self.checkpoints, ignore_errors=True)  # of an earlier run, which this one must never fall back to
                file.write_text("")
            return 0
        if resumed.state["identity"] != self.identity:
            raise CheckpointError(
                f"{resumed.path} belongs to a run with other data, base or settings: use another --out, or no --resume"
            )
        restore_checkpoint(resumed, model, optimizer)
        lines = file.read_text().splitlines()[: resumed.state["num_rows"]] if file.is_file() else []
        rows = [json.loads(line) for line in lines]
        if distributed.rank() == 0:
            work = file.with_suffix(".tmp")
            work.write_text("".join(json.dumps(row) + "\n" for row in rows))
            work.replace(file)
        self.rows = rows
        return resumed.step

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.run_dir is None or distributed.rank() != 0:
            return
        try:
            with (self.run_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            if is_disk_full(error):
                raise TrainingError(f"the disk is full while logging to {self.run_dir}; {self._last_good()}") from error
            raise

    def checkpoint(self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        assert self.checkpoints is not None
        save_checkpoint(self.checkpoints, step, model, optimizer, {"identity": self.identity, "num_rows": len(self.rows)})

    def keep_best(self, model: torch.nn.Module) -> None:
        """Keep the trained parameters beside those of the checkpoints, in checkpoints/best.safetensors."""
        self.best = {name: distributed.whole(p.detach()).clone() for name, p in model.named_parameters() if p.requires_grad}
        if self.checkpoints is not None and distributed.rank() == 0:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            save_file({name: value.cpu().contiguous() for name, value in self.best.items()}, self.checkpoints / ".best")
            (self.checkpoints / ".best").replace(self.checkpoints / "best.safetensors")

    @torch.no_grad()
    def restore_best(self, model: torch.nn.Module) -> None:
        """Take up the parameters of the best look; after a resume they come from the file."""
        file = self.checkpoints / "best.safetensors" if self.checkpoints else None
        best = self.best or (load_file(file) if file and file.is_file() else {})
        for name, parameter in model.named_parameters():
            if name in best:
                parameter.copy_(distributed.like(best[name], parameter))

    def explain_nan(self, step: int, row: dict[str, Any]) -> str:
        cause = f"loss {row['loss']}, gradient norm {row['grad_norm']} at step {step}"
        return f"{cause}; {self._last_good()}. Lower --learning-rate, or use --dtype float32"

    def _last_good(self) -> str:
        kept = latest_checkpoint(self.checkpoints) if self.checkpoints else None
        return f"the last good checkpoint is {kept.path}" if kept else "no checkpoint was written yet"


def _optimizer(model: RewardModel, settings: LoopSettings) -> torch.optim.Optimizer:
    head = {id(p) for p in model.head.parameters()}
    trained = [p for p in model.backbone.parameters() if p.requires_grad and id(p) not in head]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "peak": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "peak": settings.learning_rate, "weight_decay": 0.0},
        {"params": list(model.head.parameters()), "peak": settings.head_learning_rate, "weight_decay": settings.weight_decay},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, betas=(0.9, 0.999))


def _heldout(model: RewardModel, source: Source, rows: np.ndarray) -> dict[str, float]:
    figures = pair_figures(reward_pairs(model, source, rows), source.table.preference[rows])
    return {"heldout_loss": figures.loss, "heldout_accuracy": figures.accuracy}


def _row(step: int, steps_per_epoch: int, means: torch.Tensor, norm: float, rate: float, began: float) -> dict[str, Any]:
    loss, accuracy, margin, size = means.tolist()
    return {
        "step": step,
        "epoch": step / steps_per_epoch,
        "loss": loss,
        "accuracy": accuracy,
        "margin": margin,
        "reward_size": size,
        "grad_norm": norm,
        "learning_rate": rate,
        "seconds": round(time.perf_counter() - began, 4),
    }
