"""The flags of `assay train`, and the loop settings derived from them: each derived value comes with its reason."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
import tyro

from assay.data.raw.columns import renaming
from assay.data.run_data import NO_PROMPTS, RunData, known_prompts
from assay.models.device import token_budget
from assay.records import Dtype
from assay.scorers.ensemble import Combination, How
from assay.training.loop import LoopSettings
from assay.training.objective import Objective, refuse_text_loss

ModelPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]  # the first word after a command
Columns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="A=B")]
Ignored = Annotated[tuple[str, ...], tyro.conf.arg(metavar="COL")]
Tracker = Literal["tensorboard", "wandb", "trackio"]
AUTO = "auto"  # of --params: the head of both reads or the last blocks, whichever is better on held-out training prompts
LORA_ON_TOP = "lora-on-top"  # what `parse_params` calls lora:R:K: adapters in the last K blocks, over a frozen trunk
HEAD_OF_BOTH = "head:mean"  # of --params: the head alone, on the last token and the mean over the text
PARAMS = "blocks:4"
QUICK_DEPTH = "1/3"  # of the layers, with --quick
EVALS_PER_EPOCH = 4  # with early stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Regularization:
    """Against overfitting, and against rewards that are easy to hack."""

    weight_decay: Annotated[float | None, tyro.conf.arg(metavar="N")] = None
    """Of all weight matrices and of the head."""
    dropout: float = 0.0
    """On the inputs of the head and on what trained blocks add."""
    early_stopping: int = 0
    """Stop after N evaluations without a lower held-out loss; 0: off."""
    augment: str | None = None
    """Counter-examples: probes (all), or a report of audit probe."""
    augment_share: Annotated[float, tyro.conf.arg(metavar="N")] = 0.25
    """Share of counter-examples among the training pairs."""
    augment_label: Annotated[float | None, tyro.conf.arg(metavar="N")] = None
    """Label against worthless edits; found when left out."""
    replay: float = 0.0
    """Share of training pairs drawn from those of --init-from."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout {self.dropout} must be at least 0 and below 1")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"--weight-decay {self.weight_decay} must be 0 or more")
        if self.early_stopping < 0:
            raise ValueError(f"--early-stopping {self.early_stopping} must be 0 (off) or a number of evaluations")
        if not 0 < self.augment_share < 1:
            raise ValueError(f"--augment-share {self.augment_share} must lie between 0 and 1; leave --augment out for none")
        if self.augment_label is not None and not 0.5 <= self.augment_label <= 1:
            raise ValueError(
                f"--augment-label {self.augment_label} must lie between 0.5 (a tie) and 1 (the plain answer wins surely)"
            )
        if self.augment_label is not None and self.augment is None:
            raise ValueError(f"--augment-label {self.augment_label} is of the counter-examples of --augment: give that too")

    @property
    def finds_labels(self) -> bool:
        """Whether labels of counter-examples are looked for that leave the edits worth nothing."""
        return self.augment is not None and self.augment_label is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """An ensemble in place of one model: its disagreement is the uncertainty of the reward."""

    ensemble: int = 1
    """Number of members; 3 to 5 is usual (docs/scorers.md)."""
    combine: Annotated[How, tyro.conf.arg(metavar="HOW")] = "mean"
    """mean - penalty x standard deviation, min or robust."""
    penalty: float = 1.0
    """Of mean: standard deviations that are taken off."""
    robust_beta: Annotated[float, tyro.conf.arg(metavar="N")] = 1.0
    """Of robust: near the mean where large, near min where small."""
    laplace: bool = False
    """Of one model: std by a posterior of its head."""

    def __post_init__(self) -> None:
        if self.ensemble < 1:
            raise ValueError(f"--ensemble {self.ensemble} must be 1 (a single model) or more members")
        if self.laplace and self.ensemble > 1:
            raise ValueError(
                f"--laplace is of one model's head, and --ensemble {self.ensemble} has a std already: give one of the two"
            )
        Combination(how=self.combine, penalty=self.penalty, beta=self.robust_beta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How the run is computed and kept. But for `quick` it changes what is learnt by rounding only."""

    quick: bool = False
    """A first look in a minute: a head on a third of the layers."""
    device: str = "auto"
    """Such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Number format of the backbone; auto measures which is faster."""
    batch_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Token budget of a micro-batch."""
    cache_limit_gb: float = 20.0
    """Maximum disk space for the activations of frozen layers."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    shard: bool = False
    """With torchrun: shard parameters and optimiser state (FSDP2)."""
    resume: bool = False
    """Continue from the newest checkpoint in --out."""
    checkpoint_every: int = 200
    """Steps between checkpoints; one more at the end of each epoch."""
    reference: int = 1000
    """Answers kept for assay audit drift; 0: none."""
    strict: bool = False
    """Stop at the first bad row."""
    overwrite: bool = False
    """Begin anew in an --out that holds a run."""
    verbose: bool = False
    """Print every figure at the end."""
    track: tuple[Tracker, ...] = ()
    """Also log to these trackers."""

    def __post_init__(self) -> None:
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"--batch-tokens {self.batch_tokens} must be at least 1")
        if self.checkpoint_every < 1:
            raise ValueError(f"--checkpoint-every {self.checkpoint_every} must be at least 1")
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with the run in --out, --overwrite begins anew: give one of the two")
        if self.reference < 0:
            raise ValueError(f"--reference {self.reference} must be a number of answers, or 0 for none")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Train a reward model on preference pairs, calibrate, evaluate, report. None: chosen, and said why."""

    kind: Annotated[str, tyro.conf.arg(metavar="NAME[:..]")] = "pairs"
    """pairs, rankings, process, outcome, attributes:, generative:"""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SET")]
    """Pairs: files, folders, globs or hub:org/name#split (docs/data.md)."""
    base: str | None = None
    """Instruct model to start from: hub id, directory or .gguf."""
    init_from: Path | None = None
    """Reward model (run or artifact) to start from instead."""
    out: Path
    """Run directory."""
    eval_data: str | None = None
    """Pairs to test on, instead of a test split of --data."""
    form: str | None = None
    """Form of the rows (docs/data.md); detected when left out."""
    columns: Columns = ()
    """Such as prompt=instruction chosen=good (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    limit: int | None = None
    """At most N pairs of each file, drawn by whole prompts."""
    params: str = PARAMS
    """auto, full, head, head:mean, blocks:K or lora:R[:K]."""
    depth: str | None = None
    """Layers kept: full, N, a share (1/3), or auto (probed)."""
    epochs: int | None = None
    """Passes over the training pairs."""
    batch_pairs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Pairs an optimiser step."""
    learning_rate: Annotated[float | None, tyro.conf.arg(metavar="N")] = None
    """Peak rate of the backbone; the head's follows from it."""
    max_length: int = 1024
    """Maximum tokens of prompt and answer."""
    overlong: Literal["keep_end", "set_aside"] = "keep_end"
    """Longer ones: cut at the front, or set aside."""
    template: str | None = None
    """Chat template: a name of several (tool_use, ...), or a file."""
    calibration: Annotated[float, tyro.conf.arg(metavar="N")] = 0.1
    """Share of prompts to calibrate on."""
    test: float = 0.1
    """Share of prompts to test on."""
    seed: int = 0
    """Of splits, new weights and order."""
    objective: Objective = field(default_factory=Objective)
    regularization: Regularization = field(default_factory=Regularization)
    members: Members = field(default_factory=Members)
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        parse_params(self.params)
        parse_depth(self.depth_rule, 1)
        refuse_text_loss(self)
        if self.machine.shard and parse_params(self.params)[0] == "head":
            raise ValueError(f"--shard spreads trained layers over the processes, --params {self.params} trains none: leave it out")
        if self.members.laplace and self.kind != "pairs":
            raise ValueError(f"--laplace is of the loss of pairs: leave it out with --kind {self.kind}")
        if self.members.ensemble > 1 and self.kind != "pairs":
            raise ValueError(f"--ensemble {self.members.ensemble} is of models of pairs: leave it out with --kind {self.kind}")
        if self.members.ensemble > 1 and self.machine.shard:
            fix = "train each member by itself (--seed 0, 1, ...) and join them with assay model ensemble"
            raise ValueError(f"--ensemble {self.members.ensemble} cannot be joined with --shard: {fix}")
        if self.machine.shard and parse_params(self.params)[0] == LORA_ON_TOP:
            raise ValueError(f"--shard cannot be joined with --params {self.params}: leave it out, or use lora:R")
        is_head = self.params == PARAMS or parse_params(self.params)[0] == "head"
        if self.machine.quick and (self.depth or self.init_from or not is_head or self.members.ensemble > 1):
            others = "--params (but for head and head:mean), --depth, --ensemble and --init-from"
            raise ValueError(f"--quick says itself what is trained: leave out {others}")
        if not self.data:
            raise ValueError("--data names no file: give at least one file of preference pairs")
        for name in ("epochs", "batch_pairs", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")
        if (self.base is None) == (self.init_from is None):
            raise ValueError("give --base (an instruct model) or --init-from (a reward model), one of the two")
        if self.init_from is not None and self.depth_rule != "full":
            raise ValueError(f"--depth {self.depth} cannot be joined with --init-from: a reward model is not cut again")
        replay = self.regularization.replay
        if not 0 <= replay < 1 or (replay and self.init_from is None):
            raise ValueError(f"--replay {replay} must be a share below 1 of the pairs of --init-from")
        if not (0 < self.calibration < 1 and 0 <= self.test < 1 and self.calibration + self.test < 1):
            raise ValueError(
                f"--calibration {self.calibration} and --test {self.test} must be shares that leave some pairs to train on"
            )
        if self.learning_rate is not None and not (0 < self.learning_rate < 1):
            raise ValueError(f"--learning-rate {self.learning_rate} must lie between 0 and 1")

    @property
    def run_data(self) -> RunData:
        """Which pair is in which split."""
        return RunData(
            files=self.data,
            form=self.form,
            names=renaming(self.columns, self.ignore),
            strict=self.machine.strict,
            limit=self.limit,
            seed=self.seed,
            calibration=self.calibration,
            test=self.test,
            eval_data=self.eval_data,
            known_prompts=NO_PROMPTS if self.init_from is None else known_prompts(self.init_from),
        )

    @property
    def reads_mean(self) -> bool:
        return self.params == HEAD_OF_BOTH

    @property
    def depth_rule(self) -> str:
        """`depth`; when it is left out, auto for a frozen trunk (measured: benchmarks/results/real), else full."""
        if self.depth is not None:
            return self.depth
        if self.machine.quick:
            return QUICK_DEPTH
        if self.objective.text_loss is not None:  # read from the base's own last layer
            return "full"
        return (
            "auto" if self.init_from is None and parse_params(self.params)[0] in (AUTO, "head", "blocks", LORA_ON_TOP) else "full"
        )


class Derived(NamedTuple):
    """loop: its settings. reasons: why those that were not given are what they are."""

    loop: LoopSettings
    reasons: dict[str, str]


class _Defaults(NamedTuple):
    epochs: int
    batch_size: int
    learning_rate: float
    head_factor: float
    weight_decay: float
    why: str


# Rates of the backbone were tuned at this width and shrink as 1 / width for wider bases (Yang et al. 2022, section 3).
TRIED_WIDTH = 576
_LORA = _Defaults(2, 32, 5e-4, 4.0, 0.0, "about ten times the rate of full fine-tuning, which adapters bear")
_BY_MODE = {
    "full": _Defaults(1, 64, 5e-5, 10.0, 0.01, "a quarter of what the last blocks alone take"),
    "blocks": _Defaults(2, 32, 2e-4, 10.0, 0.01, "the best of those tried on the starter set"),
    "lora": _LORA,
    LORA_ON_TOP: _LORA,
    "head": _Defaults(30, 64, 3e-3, 1.0, 1.0, "a linear head over fixed states: many cheap epochs, regularized by weight decay"),
}
_BATCH_WHY = "below the usual 128 of supervised fine-tuning: small sets need the steps (at least 30 an epoch)"


def parse_params(params: str) -> tuple[str, int]:
    """("auto", 0), ("full", 0), ("head", 0), ("blocks", K), ("lora", R), or for lora:R:K (LORA_ON_TOP, R): `top_blocks` says K.
    Raises ValueError naming the forms."""
    mode, _, count = params.partition(":")
    if mode == "lora" and (rank := re.fullmatch(r"([1-9]\d*):[1-9]\d*", count)):
        return LORA_ON_TOP, int(rank[1])
    if params in (AUTO, "full", "head", HEAD_OF_BOTH):
        return mode, 0
    if mode in ("blocks", "lora") and count.isdigit() and int(count) >= 1:
        return mode, int(count)
    forms = "auto, full, head, head:mean, blocks:K with K >= 1, or lora:R with R >= 1"
    raise ValueError(f"--params {params!r}: use {forms} (lora:R:K: in the last K blocks alone)")


def top_blocks(params: str) -> int:
    """How many last blocks are trained over a frozen trunk, whose states are cached: K of blocks:K and lora:R:K; 0 for others."""
    mode, number = parse_params(params)
    if mode == LORA_ON_TOP:
        return int(params.rpartition(":")[2])
    return number if mode == "blocks" else 0


def parse_depth(depth: str, num_layers: int) -> int | None:
    """The number of layers to keep of a base's; None for full and auto. Raises ValueError naming the forms."""
    if depth in ("full", "auto"):
        return None
    if depth.isdigit() and int(depth) >= 1:
        return int(depth)
    part, is_share, whole = depth.partition("/")
    if is_share and part.isdigit() and whole.isdigit() and 1 <= int(part) <= int(whole):
        return max(1, round(num_layers * int(part) / int(whole)))
    raise ValueError(f"--depth {depth!r}: use full, auto, a number of layers of at least 1, or a share of them such as 1/3")


def derive(config: TrainConfig, num_pairs: int, hidden_size: int, device: torch.device, *, num_rows: int | None = None) -> Derived:
    """Loop settings for `num_pairs` training pairs and a base of that width: the flags, else defaults with reasons.

    num_rows: of the table, where a row holds several (solutions to one problem): a step takes as many rows as hold its pairs.
    """
    mode, _ = parse_params(config.params)
    default = _BY_MODE[mode]
    shrink = 1.0 if mode == "head" else min(1.0, TRIED_WIDTH / hidden_size)
    reasons = {}
    if config.learning_rate is None:
        usual = f"; below the 3e-4 to 1e-3 usual for fine-tuning small models, and less for bases wider than {TRIED_WIDTH}"
        reasons["learning_rate"] = default.why + ("" if mode == "head" else usual)
    if config.batch_pairs is None:
        reasons["batch_size"] = _BATCH_WHY
    if config.epochs is None:
        reasons["epochs"] = (
            "reward models overfit within one or two passes" if mode != "head" else "a pass over cached states takes moments"
        )
    rate = config.learning_rate or default.learning_rate * shrink
    batch_pairs = config.batch_pairs or min(default.batch_size, max(8, num_pairs // 30))
    per_row = 1.0 if num_rows is None else num_pairs / num_rows
    if per_row > 1:
        why = f"{batch_pairs} a step, {per_row:.3g} in a row"
        reasons["batch_size"] = f"{reasons['batch_size']}; {why}" if "batch_size" in reasons else why
    loop = LoopSettings(
        epochs=config.epochs or default.epochs,
        batch_size=max(1, round(batch_pairs / per_row)),
        learning_rate=rate,
        head_learning_rate=rate * default.head_factor,
        dropout=config.regularization.dropout,
        evals_per_epoch=EVALS_PER_EPOCH if config.regularization.early_stopping else 1,
        patience=config.regularization.early_stopping,
        seed=config.seed,
        batch_tokens=config.machine.batch_tokens or token_budget(device),
        weight_decay=default.weight_decay if config.regularization.weight_decay is None else config.regularization.weight_decay,
        checkpoint_every=config.machine.checkpoint_every,
        log_every=1 if num_pairs <= 20_000 else 10,
    )
    if not math.isfinite(loop.head_learning_rate):
        raise ValueError(f"--learning-rate {config.learning_rate} is not finite")
    return Derived(loop, reasons)
