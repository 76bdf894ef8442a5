"""Everything before the loop: read, split and render the data, choose the depth, cache the frozen layers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from assay.console import progress, say
from assay.data.render import Renderer
from assay.data.table import SplitTable
from assay.files import digest
from assay.models.backbone import Backbone, can_cut, cut_depth, load_backbone
from assay.models.bases import Base, refuse_broken_weights
from assay.models.device import Compute, pick_compute
from assay.models.reward_model import RewardModel, new_head
from assay.records import PreferencePair
from assay.training import distributed
from assay.training.depth import DepthProbe
from assay.training.settings import Derived, TrainConfig, derive, parse_depth, parse_params
from assay.training.start import check_layers, starting_point
from assay.training.tasks.task import COUNTER_EXAMPLES, Built, Kind, kind_of
from assay.training.trained import Trained, trained_part
from assay.training.weight_decay import NUM_FITS, choose_decay

MAX_HELDOUT = 1000  # held-out rows evaluated during training


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready to be fitted. data: what was read of each file. saved_dtype: number format of the saved backbone.

    table, built: as the kind of training makes them. split_by_prompt: by the hash of the prompt, so that config.json can repeat it.
    probe: with --depth auto, what it found.
    """

    kind: Kind
    config: TrainConfig
    compute: Compute
    base: Base
    base_digest: str
    renderer: Renderer
    table: Any
    trained: Trained
    built: Built
    derived: Derived
    data: list[dict[str, Any]]
    saved_dtype: torch.dtype
    split_by_prompt: bool
    probe: DepthProbe | None = None

    @property
    def model(self) -> RewardModel:
        """What the loop trains."""
        return self.trained.model

    @property
    def task(self) -> Any:
        """What the loop asks, a `Task` of the kind."""
        return self.built.task

    @property
    def train_rows(self) -> np.ndarray:
        """Rows to train on: the training split, and the counter-examples made from it."""
        return training_rows(self.table)

    @property
    def heldout_rows(self) -> np.ndarray:
        """Rows to evaluate during training: at most 1,000 of the calibration split, drawn at random."""
        drawn = np.random.default_rng(self.config.seed).permutation(self.table.rows("calibration"))[:MAX_HELDOUT]
        return np.sort(drawn)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the task and of the loop, by name."""
        return {**self.built.settings, **asdict(self.derived.loop)}

    @property
    def reasons(self) -> dict[str, str]:
        """Why those settings that were not given are what they are."""
        return {**self.derived.reasons, **self.built.reasons}

    @property
    def identity(self) -> str:
        """Digest of data, base and settings. A run resumes only from checkpoints of the same identity."""
        parts = [self.table.fingerprint, self.base_digest, self.config.params, self.settings, str(self.compute.dtype)]
        return digest(json.dumps(parts, default=str))


def prepare(
    config: TrainConfig, *, split: Callable[[PreferencePair], str] | None = None, compute: Compute | None = None
) -> Prepared:
    """A run that is ready for the loop. What was read, chosen and derived is printed.

    split: the split of each pair, when it is not by the hash of the prompt. compute: a result of `pick_compute`, to measure once.
    """
    kind = kind_of(config.kind)
    kind.check_flags(config)
    torch.manual_seed(config.seed)
    compute = _compute(config, compute)
    with distributed.rank0_first():  # a base may have to be fetched or converted
        base, renderer, start = starting_point(config, kind.HEAD)
    say("base", f"{base.name}{f' ({base.note})' if base.note else ''}")
    config.out.mkdir(parents=True, exist_ok=True)
    table, data = kind.read_rows(config, renderer, split)
    backbone = start.backbone if start is not None else load_backbone(base.path)
    refuse_broken_weights(backbone, base.name)
    check_layers(backbone, config)
    backbone = cut_depth(backbone, depth) if (depth := parse_depth(config.depth_rule)) is not None else backbone
    derived = derive(config, len(training_rows(table)), backbone.hidden_size, compute.device)
    for name, reason in derived.reasons.items():
        say(name.replace("_", " "), f"{getattr(derived.loop, name):g}: {reason}")
    if len(renderer.tokenizer) > backbone.model.get_input_embeddings().num_embeddings:
        backbone.model.resize_token_embeddings(len(renderer.tokenizer))
    probe = _probe(kind, backbone, table, compute, config) if config.depth_rule == "auto" else None
    backbone = cut_depth(backbone, probe.depth) if probe is not None else backbone
    saved_dtype, base_digest = next(backbone.parameters()).dtype, _weights_digest(backbone)
    head = _first_head(kind, table, backbone, start, config)
    whole = RewardModel(backbone, head, outputs=kind.OUTPUTS, compute_dtype=compute.dtype).to(compute.device)
    trained, source = trained_part(config, whole, table, batch_tokens=derived.loop.batch_tokens, base_digest=base_digest)
    built = kind.build_task(config, table, source)
    if parse_params(config.params)[0] == "head" and config.regularization.weight_decay is None:
        derived = _with_weight_decay(derived, trained.model, built, table)
    if config.machine.shard:
        trained = trained.sharded()
    torch.manual_seed(config.seed + 1000 * distributed.rank())  # dropout is drawn anew in each process
    return Prepared(
        kind=kind,
        config=config,
        compute=compute,
        base=base,
        base_digest=base_digest,
        renderer=renderer,
        table=table,
        trained=trained,
        built=built,
        derived=derived,
        data=data,
        saved_dtype=saved_dtype,
        split_by_prompt=split is None,
        probe=probe,
    )


def _first_head(
    kind: Kind, table: SplitTable, backbone: Backbone, start: RewardModel | None, config: TrainConfig
) -> torch.nn.Linear:
    """The head of --init-from where it gives what the kind trains; else a fresh one, which is said."""
    num_outputs = kind.num_outputs(table)
    if start is not None and (start.outputs, start.head.out_features) == (kind.OUTPUTS, num_outputs):
        return start.head
    if start is not None:
        there, asked = f"{start.head.out_features} of {start.outputs}", f"{num_outputs} of {kind.OUTPUTS}"
        say("head", f"a fresh one: that of {config.init_from} has outputs {there}, --kind {config.kind} trains {asked}")
    return new_head(backbone.hidden_size, num_outputs, seed=config.seed)


def _compute(config: TrainConfig, compute: Compute | None) -> Compute:
    """Device and number format, those of rank 0 in every process."""
    if config.machine.shard and not distributed.is_launched():
        raise ValueError("--shard spreads the model over processes: start them with torchrun -m assay.cli train ...")
    compute = compute or pick_compute(config.machine.device, config.machine.dtype)
    formats = (torch.float32, torch.bfloat16)
    compute = compute._replace(dtype=formats[distributed.broadcast_from_rank0(formats.index(compute.dtype))])
    say("computing", f"on {compute.device} in {compute.name}: {compute.reason}; {torch.get_num_threads()} threads")
    return compute


def _probe(kind: Kind, backbone: Backbone, table: SplitTable, compute: Compute, config: TrainConfig) -> DepthProbe | None:
    """The kind's depth probe; rank 0's choice, and deep enough for the trained blocks.


    None for a base that cannot be cut; ValueError when --depth auto was given.
    """
    if not can_cut(backbone):
        if config.depth is not None:
            cut_depth(backbone, backbone.num_layers)  # which says why not
        say("depth", f"all {backbone.num_layers} layers: {type(backbone.model).__name__} cannot be cut between layers")
        return None
    probe = kind.probe_depth(backbone, table, compute, config)
    if probe is None:
        say("depth", f"all {backbone.num_layers} layers: --kind {config.kind} has no probe; --depth gives a number")
        return None
    mode, num_blocks = parse_params(config.params)
    least = min(num_blocks + 1, backbone.num_layers) if mode == "blocks" else 1  # trained blocks stand on a frozen one
    probe = replace(probe, depth=max(least, distributed.broadcast_from_rank0(probe.depth)))
    say("depth", probe.reason)
    return probe


def training_rows(table: SplitTable) -> np.ndarray:
    """Rows of the training split and of the counter-examples made from it, ascending."""
    return np.sort(np.concatenate([table.rows("train"), table.rows(COUNTER_EXAMPLES)]))


def _with_weight_decay(derived: Derived, model: RewardModel, built: Built, table: SplitTable) -> Derived:
    """With the weight decay of a linear head that has the lowest held-out loss."""
    rows = training_rows(table)
    with progress("weight decay", NUM_FITS, "fits") as advance:
        decay, why = choose_decay(model, built.task, rows, table.prompt[rows], derived.loop, on_fit=advance)
    say("weight decay", f"{decay:g}: {why}")
    loop, reasons = replace(derived.loop, weight_decay=decay), {**derived.reasons, "weight_decay": why}
    return derived._replace(loop=loop, reasons=reasons)


def _weights_digest(backbone: Backbone) -> str:
    """Digest of all weights: a base that was changed in place is another base."""
    digest = hashlib.sha256()
    for name, weight in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
