"""The training loop, in sight: no trainer class. It trains any `Task`, in one process or several.

The loss of an optimiser step is a sum over the step's rows divided by their number.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from assay.errors import CheckpointError, TrainingError
from assay.files import replacing, write_text
from assay.models.reward_model import RewardModel
from assay.run_files import METRICS
from assay.training import distributed
from assay.training.checkpoint import is_disk_full, latest_checkpoint, restore_checkpoint, save_checkpoint, trained_weights
from assay.training.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Everything that decides the course of a run, given model, task, data and machine.

    batch_size: rows an optimiser step. learning_rate: of the backbone's parameters; head_learning_rate: of the head. Both warm up
    linearly over `warmup` of all steps, then follow a cosine to zero. dropout: share of the head's inputs, and of what each trained
    block adds, that is dropped in training. evals_per_epoch: evaluations of the held-out rows in an epoch. patience: evaluations in
    a row without a lower held-out loss after which the run ends with the best parameters; 0 trains to the end and keeps the last.
    batch_tokens: budget of a micro-batch. checkpoint_every, log_every: in steps.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip_norm: float = 1.0
    dropout: float = 0.0
    evals_per_epoch: int = 1
    patience: int = 0
    seed: int = 0
    batch_tokens: int = 4096
    checkpoint_every: int = 200
    log_every: int = 1

    def num_steps(self, num_rows: int) -> int:
        return self.epochs * math.ceil(num_rows / self.batch_size)


def fit(
    model: RewardModel,
    task: Task,
    train_rows: np.ndarray,
    settings: LoopSettings,
    *,
    heldout_rows: np.ndarray | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    identity: str = "",
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    on_steps: Callable[[int], None] = lambda num_steps: None,
) -> list[dict[str, Any]]:
    """Train in place; returns the rows of metrics.jsonl.

    run_dir: where metrics.jsonl and checkpoints/ go; None keeps everything in memory. identity: digest of base, data and settings;
    a checkpoint of another identity is refused. With `resume` the newest whole checkpoint is taken up, and the result equals the
    uninterrupted run, bitwise on CPU with the same threads; without it the checkpoints of an earlier run are dropped. on_row: given
    each row of metrics.jsonl but the first; on_steps: how many steps were done since the last call. Raises TrainingError for a loss
    that is not finite or a full disk; the checkpoints written before are whole.
    """
    optimizer = _optimizer(model, settings)
    log = MetricsLog(run_dir, identity, resume)
    start = log.restore(model, optimizer)
    num_steps = settings.num_steps(len(train_rows))
    steps_per_epoch = num_steps // settings.epochs
    eval_every = math.ceil(steps_per_epoch / settings.evals_per_epoch)
    heldout_rows = heldout_rows if heldout_rows is not None and len(heldout_rows) else None
    if start == 0 and heldout_rows is not None:
        log.write({"step": 0, "epoch": 0.0, **_evaluation(model, task, heldout_rows)})
    on_steps(start)

    parameters = [p for p in model.parameters() if p.requires_grad]  # once: a walk over all layers costs as much as a head's step
    model.train()
    for step in range(start, num_steps):
        if settings.patience and evals_since_best(log.rows) >= settings.patience:
            break
        began = time.perf_counter()
        rows = step_rows(train_rows, settings, step)
        scale = schedule(step, num_steps, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        totals, norm = _step(model, task, rows, optimizer, parameters, settings.clip_norm)

        done = step + 1
        is_epoch_end = done % steps_per_epoch == 0
        is_eval = heldout_rows is not None and (is_epoch_end or (done % steps_per_epoch) % eval_every == 0)
        if done % settings.log_every == 0 or is_epoch_end or is_eval or done % settings.checkpoint_every == 0:
            row: dict[str, Any] = {"step": done, "epoch": done / steps_per_epoch}
            row |= dict(zip(task.columns, (totals / len(rows)).tolist(), strict=True))
            row |= {"grad_norm": distributed.full_tensor(norm).item(), "learning_rate": scale * settings.learning_rate}
            row["seconds"] = round(time.perf_counter() - began, 4)
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                raise TrainingError(log.explain_nan(row))
            if is_eval and heldout_rows is not None:
                row |= _evaluation(model, task, heldout_rows)
                model.train()
                if settings.patience and row["heldout_loss"] < best_loss(log.rows):
                    log.keep_best(model)
            log.write(row)
            on_row(row)
        on_steps(1)
        if run_dir is not None and (done % settings.checkpoint_every == 0 or is_epoch_end):
            log.checkpoint(done, model, optimizer)
    if settings.patience and heldout_rows is not None:
        log.restore_best(model)
    model.eval()
    return log.rows


def _step(
    model: RewardModel,
    task: Task,
    rows: np.ndarray,
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    clip_norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimiser step over all processes; returns the sums (C,) of the task's columns, and the norm of the gradient."""
    totals = _backward(model, task, rows)
    distributed.sum_gradients(parameters)
    distributed.sum_tensor(totals)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return totals, norm


def _backward(model: RewardModel, task: Task, rows: np.ndarray) -> torch.Tensor:
    """Add up the gradients of one optimiser step over this process's micro-batches; returns the sums (C,) of the task's columns."""
    totals = torch.zeros(len(task.columns), device=model.head.weight.device)
    for batch, weight in distributed.batches(model, task.batches, rows):
        loss = task.loss(model, batch)
        (loss.total * (weight / len(rows))).backward()
        totals += loss.columns * weight
    return totals


def _evaluation(model: RewardModel, task: Task, rows: np.ndarray) -> dict[str, float]:
    return {f"heldout_{name}": value for name, value in task.evaluate(model, rows).items()}


def best_loss(rows: list[dict[str, Any]]) -> float:
    """Lowest held-out loss after the first step; infinity before the first evaluation."""
    return min((row["heldout_loss"] for row in rows if row["step"] and "heldout_loss" in row), default=math.inf)


def evals_since_best(rows: list[dict[str, Any]]) -> int:
    """How many evaluations in a row have passed without a lower held-out loss."""
    losses = [row["heldout_loss"] for row in rows if row["step"] and "heldout_loss" in row]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def schedule(step: int, num_steps: int, warmup: float) -> float:
    """Factor on the learning rate at a step: linear warm-up over the first `warmup` of the steps, then a cosine to zero."""
    num_warm = max(1, round(warmup * num_steps))
    if step < num_warm:
        return (step + 1) / num_warm
    return 0.5 * (1 + math.cos(math.pi * (step - num_warm) / max(1, num_steps - num_warm)))


def step_rows(train_rows: np.ndarray, settings: LoopSettings, step: int) -> np.ndarray:
    """Table rows of one optimiser step: a fresh permutation each epoch, a function of seed and step alone."""
    steps_per_epoch = math.ceil(len(train_rows) / settings.batch_size)
    epoch, index = divmod(step, steps_per_epoch)
    order = _epoch_order(settings.seed, epoch, len(train_rows))
    return train_rows[order[index * settings.batch_size : (index + 1) * settings.batch_size]]


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
        file = self.run_dir / METRICS
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
            write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        self.rows = rows
        return resumed.step

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.run_dir is None or distributed.rank() != 0:
            return
        try:
            with (self.run_dir / METRICS).open("a") as file:
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
        self.best = trained_weights(model)
        if self.checkpoints is not None and distributed.rank() == 0:
            with replacing(self.checkpoints / "best.safetensors") as work:
                save_file({name: value.cpu().contiguous() for name, value in self.best.items()}, work)

    @torch.no_grad()
    def restore_best(self, model: torch.nn.Module) -> None:
        """Take up the parameters of the best evaluation; after a resume they come from the file."""
        file = self.checkpoints / "best.safetensors" if self.checkpoints else None
        best = self.best or (load_file(file) if file and file.is_file() else {})
        for name, parameter in model.named_parameters():
            if name in best:
                parameter.copy_(distributed.like(best[name], parameter))

    def explain_nan(self, row: dict[str, Any]) -> str:
        cause = f"loss {row['loss']}, gradient norm {row['grad_norm']} at step {row['step']}"
        if row["step"] == 1 and not math.isfinite(row["loss"]):  # nothing was changed yet: no learning rate is at fault
            return f"{cause}, before the first update: the base gives no finite values in this number format. Use --dtype float32"
        return f"{cause}; {self._last_good()}. Lower --learning-rate, or use --dtype float32"

    def _last_good(self) -> str:
        kept = latest_checkpoint(self.checkpoints) if self.checkpoints else None
        return f"the last good checkpoint is {kept.path}" if kept else "no checkpoint was written yet"


def _optimizer(model: RewardModel, settings: LoopSettings) -> torch.optim.Optimizer:
    head = {id(p) for p in model.head.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in head]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "peak": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "peak": settings.learning_rate, "weight_decay": 0.0},
        {"params": list(model.head.parameters()), "peak": settings.head_learning_rate, "weight_decay": settings.weight_decay},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, betas=(0.9, 0.999))
