"""Fine-tuning of a causal language model with TRL's trainers: on replies, and on right replies against wrong ones.

TRL computes losses and takes steps. Order of the rows, schedule, optimiser and checkpoints are ours, so that a run that was stopped
goes on from safetensors, step by step the same: transformers' own checkpoints are pickles.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from assay.errors import CheckpointError, TrainingError
from assay.models.backbone import Backbone, split_backbone
from assay.models.lora import add_lora, merge_lora
from assay.training.checkpoint import latest_checkpoint, restore_checkpoint, save_checkpoint
from assay.training.generative.examples import Contrast, Example
from assay.training.generative.labelled_tokens import IGNORED, Packed, learn_labelled_alone, reply_log_probs
from assay.training.loop import schedule
from assay.training.settings import parse_params

WARMUP = 0.1
_KEPT = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm", "mean_token_accuracy": "token_accuracy"}
_OF_CONTRASTS = {"rewards/accuracies": "accuracy", "rewards/margins": "margin"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How one stage is trained. batch_size: rows of a step. batch_tokens: of a micro-batch. compute_dtype: autocast runs in it
    where it is not float32. identity: digest of all that decides the stage, which a checkpoint must have to be gone on from."""

    params: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    batch_tokens: int
    compute_dtype: torch.dtype
    device: str
    checkpoint_every: int
    identity: str
    beta: float = 0.1
    gradient_checkpointing: bool = False


class _Rows(NamedTuple):
    """The rows of a stage as TRL takes them. order: of all steps, one after the other; micro: rows of a micro-batch."""

    columns: Mapping[str, list[Any]]
    order: np.ndarray
    batch_size: int
    micro: int

    @property
    def num_steps(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)


def fit_replies(
    causal: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: FitSettings,
    *,
    checkpoints: Path,
    resume: bool,
    on_row: Callable[[dict[str, Any]], None],
) -> None:
    """Supervised fine-tuning, in place: the loss is the mean over a step's learnt tokens of their weighted negative log-likelihood.

    on_row: called with the figures of each step. Raises ValueError without TRL, TrainingError where the loss is not finite.
    """
    columns: dict[str, list[Any]] = {
        "input_ids": [list(one.tokens) for one in examples],
        "labels": [[IGNORED] * one.start + list(one.tokens[one.start :]) for one in examples],
        "weights": [one.weights for one in examples],
    }
    keys = [one.key or f"row {number}" for number, one in enumerate(examples)]
    rows = _rows(columns, np.array([len(one.tokens) for one in examples]), settings, keys)
    _fit("sft", causal, tokenizer, rows, settings, checkpoints=checkpoints, resume=resume, on_row=on_row)


def fit_contrasts(
    causal: Any,
    tokenizer: Any,
    contrasts: Sequence[Contrast],
    settings: FitSettings,
    *,
    checkpoints: Path,
    resume: bool,
    on_row: Callable[[dict[str, Any]], None],
) -> None:
    """Direct preference optimisation of right replies against wrong ones, in place; the reference is the model as it came.

    Source: Rafailov et al. (2023), equation 7. Raises as `fit_replies`.
    """
    columns: dict[str, list[Any]] = {
        "prompt_ids": [list(one.prompt) for one in contrasts],
        "chosen_ids": [list(one.right) for one in contrasts],
        "rejected_ids": [list(one.wrong) for one in contrasts],
    }
    lengths = np.array([2 * len(one.prompt) + len(one.right) + len(one.wrong) for one in contrasts])
    rows = _rows(columns, lengths, settings)
    _fit("dpo", causal, tokenizer, rows, settings, checkpoints=checkpoints, resume=resume, on_row=on_row)


def _rows(
    columns: Mapping[str, list[Any]], lengths_N: np.ndarray, settings: FitSettings, keys: Sequence[str] | None = None
) -> _Rows:
    """Each epoch a permutation of the rows, a function of seed and epoch, in which rows of one key follow one another; inside of a
    step the longest come first, so that a micro-batch holds rows of about one length."""
    batch_size = min(settings.batch_size, settings.epochs * len(lengths_N))
    fits = max(1, settings.batch_tokens // max(1, int(np.percentile(lengths_N, 90))))
    micro = max(size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= fits)
    key_N = np.arange(len(lengths_N)) if keys is None else np.unique(np.array(keys), return_inverse=True)[1]
    stream = np.concatenate([_permutation(key_N, settings.seed, epoch) for epoch in range(settings.epochs)])
    longest_N = np.zeros(key_N.max() + 1, np.int64)
    np.maximum.at(longest_N, key_N, lengths_N)
    steps = [stream[start : start + batch_size] for start in range(0, len(stream), batch_size)]
    ordered = [step[np.argsort(-longest_N[key_N[step]], kind="stable")] for step in steps]
    return _Rows(columns, np.concatenate(ordered), batch_size, micro)


def _permutation(key_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The rows, key by key, the keys in an order drawn for the epoch."""
    place_K = np.random.default_rng([seed, epoch]).permutation(int(key_N.max()) + 1)
    return np.argsort(place_K[key_N], kind="stable")


def _fit(
    kind: str,
    causal: Any,
    tokenizer: Any,
    rows: _Rows,
    settings: FitSettings,
    *,
    checkpoints: Path,
    resume: bool,
    on_row: Callable[[dict[str, Any]], None],
) -> None:
    require_trl()
    torch.manual_seed(settings.seed)
    with training_parts(causal, settings) as trained:
        optimizer = torch.optim.AdamW(_groups(trained, settings.weight_decay), lr=settings.learning_rate)
        if kind == "dpo":  # before a checkpoint is loaded
            rows = rows._replace(columns={**rows.columns, **_reference(causal, rows.columns, settings)})
        done = _resumed(checkpoints, causal, optimizer, settings) if resume else 0
        if done < rows.num_steps:
            steps = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(done + step, rows.num_steps, WARMUP))
            keeper = _Keeper(causal, optimizer, settings, checkpoints, done, rows, on_row)
            with quiet_trainers():
                backbone = Backbone(causal.base_model)
                trainer = _trainer(kind, causal, tokenizer, rows, settings, done, (optimizer, steps), keeper, checkpoints, backbone)
                learn_labelled_alone(causal, backbone)
                trainer.train()
            restore_forward(causal)


@contextmanager
def training_parts(causal: Any, settings: FitSettings) -> Iterator[list[torch.nn.Parameter]]:
    """The parameters that --params names, in float32 and with gradients, inside of the block; behind it adapters are merged."""
    mode, number = parse_params(settings.params)
    causal.requires_grad_(False)
    adapters = None
    if mode == "full":
        causal.float().requires_grad_(True)
    elif mode == "lora":
        adapters = add_lora(Backbone(causal.base_model), number)
    else:
        split_backbone(Backbone(causal.base_model), number)  # refuses what cannot be cut
        for part in (causal.base_model.layers[-number:], causal.base_model.norm):
            part.float().requires_grad_(True)
    yield [parameter for parameter in causal.parameters() if parameter.requires_grad]
    if adapters is not None:
        merge_lora(adapters)
    causal.requires_grad_(False)


def _groups(parameters: Sequence[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay is of matrices."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _resumed(checkpoints: Path, causal: Any, optimizer: torch.optim.Optimizer, settings: FitSettings) -> int:
    """Finished steps of the newest checkpoint, which is loaded; 0 where there is none.

    Raises CheckpointError for one of another base, data or settings.
    """
    found = latest_checkpoint(checkpoints)
    if found is None:
        return 0
    if found.state.get("identity") != settings.identity:
        raise CheckpointError(
            f"{found.path} was made with other data, settings or another base: give what that run was given, or --overwrite"
        )
    restore_checkpoint(found, causal, optimizer)
    return found.step


class _Keeper(TrainerCallback):
    """Keeps checkpoints and figures of the steps. done: steps before this process."""

    def __init__(
        self,
        causal: Any,
        optimizer: torch.optim.Optimizer,
        settings: FitSettings,
        checkpoints: Path,
        done: int,
        rows: _Rows,
        on_row: Callable[[dict[str, Any]], None],
    ) -> None:
        self.causal, self.optimizer, self.settings, self.checkpoints = causal, optimizer, settings, checkpoints
        self.done, self.rows, self.on_row = done, rows, on_row

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = self.done + state.global_step
        if step % self.settings.checkpoint_every == 0 and step < self.rows.num_steps:
            save_checkpoint(self.checkpoints, step, self.causal, self.optimizer, {"identity": self.settings.identity})

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        step = self.done + state.global_step
        if not math.isfinite(float(logs["loss"])):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {step}: lower --learning-rate, or look at the data of that step"
            )
        epoch = step * self.rows.batch_size * self.settings.epochs / len(self.rows.order)
        names = _KEPT | _OF_CONTRASTS
        figures = {names[name]: float(value) for name, value in logs.items() if name in names}
        self.on_row({"step": step, "epoch": round(min(epoch, self.settings.epochs), 4), **figures})


def _trainer(
    kind: str,
    causal: Any,
    tokenizer: Any,
    rows: _Rows,
    settings: FitSettings,
    done: int,
    optimizers: tuple[Any, Any],
    keeper: _Keeper,
    checkpoints: Path,
    backbone: Backbone,
) -> Any:
    """TRL's trainer over the rows that are left."""
    import trl
    from datasets import Dataset

    left = rows.order[done * rows.batch_size :]
    data = Dataset.from_dict({name: [column[i] for i in left] for name, column in rows.columns.items()})
    shared: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": rows.micro,
        "gradient_accumulation_steps": rows.batch_size // rows.micro,
        "num_train_epochs": 1,
        "max_length": None,
        "bf16": settings.compute_dtype != torch.float32,
        "use_cpu": settings.device == "cpu",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": settings.device != "cpu",
        "seed": settings.seed,
    }
    if kind == "sft":
        arguments: Any = trl.SFTConfig(**shared, shuffle_dataset=False, completion_only_loss=False)
        make, pad_id = trl.SFTTrainer, tokenizer.pad_token_id
        # on a GPU rows are padded: TRL's kernel for the loss is faster there
        collate: Any = _Padded(pad_id) if settings.device == "cuda" else Packed(backbone, pad_id)
    else:
        arguments = trl.DPOConfig(**shared, beta=settings.beta, precompute_ref_log_probs=True)
        make, collate = _contrast_trainer(), None
    trainer = make(
        model=causal,
        args=arguments,
        train_dataset=data,
        data_collator=collate,
        processing_class=tokenizer,
        optimizers=optimizers,
        callbacks=[keeper],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _reference(causal: Any, columns: Mapping[str, list[Any]], settings: FitSettings) -> dict[str, list[float]]:
    """Log-probabilities of the replies by the model as it came."""
    device, half = causal.device.type, settings.compute_dtype
    with torch.autocast(device, half, enabled=half != torch.float32):
        return {
            f"ref_{side}_logps": reply_log_probs(causal, columns["prompt_ids"], columns[f"{side}_ids"])
            for side in ("chosen", "rejected")
        }


def _contrast_trainer() -> Any:
    """TRL's DPOTrainer for rows that are tokens already, with the reference's log-probabilities."""
    import trl

    class ContrastTrainer(trl.DPOTrainer):  # type: ignore[misc,name-defined]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return ContrastTrainer


class _Padded(NamedTuple):
    """Rows of a micro-batch as tensors, padded behind their ends."""

    pad_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, filler: int) -> torch.Tensor:
            return torch.tensor([[*row[name], *[filler] * (width - len(row[name]))] for row in rows])

        seen = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
        before = [[0.0] * row["labels"].count(IGNORED) + row["weights"] for row in rows]
        weights = torch.tensor([(one + [0.0] * (width - len(one)))[1:] for one in before], dtype=torch.float32)
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "attention_mask": seen,
            "labels": padded("labels", IGNORED),
            "weights": weights,
        }


def restore_forward(causal: Any) -> None:
    """Take off the forwards that TRL and `learn_labelled_alone` put over the model's own."""
    for name in ("forward", "_original_forward"):
        causal.__dict__.pop(name, None)


def require_trl() -> None:
    """Raises ValueError where TRL or peft is missing."""
    for name in ("trl", "peft"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--kind generative needs {name}: pip install '.[generative]' in Assay's clone")


@contextmanager
def quiet_trainers() -> Iterator[None]:
    """Nothing of the trainers' own notices and bars inside of the block; what matters is checked before."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar

    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "accelerate", "datasets")]
    levels = [one.level for one in loggers]
    disable_progress_bar()
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        enable_progress_bar()
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
