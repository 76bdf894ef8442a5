"""Everything before the loop: read, split and render the data, choose the depth, cache the frozen layers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.console import progress, say
from assay.data.tokens.problem_table import num_items, up_to
from assay.data.tokens.render import Renderer
from assay.data.tokens.table import SplitTable
from assay.files import digest
from assay.models.backbone import Backbone, can_cut, cut_depth, load_backbone
from assay.models.bases import Base, refuse_broken_weights
from assay.models.device import Compute, pick_compute
from assay.models.reward_model import RewardModel, new_head
from assay.models.text_head import TextHead, load_text_head
from assay.records import PreferencePair
from assay.training import distributed
from assay.training.fits.choice import Candidate, Choice, KeptChoice, Options, choose, options
from assay.training.fits.neutral import Neutral
from assay.training.fits.weight_decay import NUM_FITS, choose_decay
from assay.training.settings import Derived, TrainConfig, derive, parse_depth, parse_params, top_blocks
from assay.training.start import check_layers, starting_point
from assay.training.states.cache import KnownStates
from assay.training.states.depth import DepthProbe, Probed
from assay.training.states.known_texts import KnownTexts, known_texts
from assay.training.tasks.task import COUNTER_EXAMPLES, Built, Kind, kind_of
from assay.training.text_reads import text_likelihoods
from assay.training.trained import Trained, head_above, trained_part

MAX_KNOWN = 50_000  # rows; of more, training texts are not looked up
MAX_HELDOUT = 1000  # held-out pairs, lists or solutions that are evaluated during training


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready to be fitted. data: what was read of each file. saved_dtype: number format of the saved backbone.

    table, built: as the kind of training makes them. split_by_prompt: by the hash of the prompt, so that config.json can repeat it.
    probe: with --depth auto, what it found. choice: with --params auto, what was chosen of what. neutral: labels that were
    found for the counter-examples of --augment.
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
    choice: Choice | None = None
    neutral: Neutral | None = None

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
        """Rows to evaluate during training: at most 1,000 pairs of the calibration split, drawn at random."""
        drawn = np.random.default_rng(self.config.seed).permutation(self.table.rows("calibration"))
        return np.sort(up_to(self.table, drawn, MAX_HELDOUT))

    def known_texts(self) -> KnownTexts | None:
        """The texts of the table whose states this run keeps, so that the saved model need not compute them again."""
        split_rows = [self.table.rows(name) for name in ("train", "calibration", "test")]
        rows = np.concatenate(split_rows if len(self.table) <= MAX_KNOWN else split_rows[1:])
        return known_texts(self.config, self.table, self.task.source, rows)

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
    config, asked = _settled(config, backbone)
    check_layers(backbone, config)
    depth = parse_depth(config.depth_rule, backbone.num_layers)
    backbone = cut_depth(backbone, depth) if depth is not None else backbone
    if len(renderer.tokenizer) > backbone.model.get_input_embeddings().num_embeddings:
        backbone.model.resize_token_embeddings(len(renderer.tokenizer))
    probed = _probe(kind, backbone, table, compute, config, asked) if config.depth_rule == "auto" else None
    probe, known = probed or (None, None)
    backbone = cut_depth(backbone, probe.depth) if probe is not None else backbone
    saved_dtype, base_digest = next(backbone.parameters()).dtype, _weights_digest(backbone)
    head = _first_head(kind, table, backbone, start, config)
    whole = RewardModel(
        backbone,
        head,
        outputs=kind.OUTPUTS,
        compute_dtype=compute.dtype,
        text_head=_text_head(config, base, backbone, renderer),
    ).to(compute.device)
    parts = _Parts(kind, table, whole, base_digest, compute, known)
    chosen, choice = _chosen(parts, config, asked)
    if parse_params(chosen.config.params)[0] == "head" and config.regularization.weight_decay is None:
        chosen = replace(chosen, derived=_with_weight_decay(chosen, table))
    for name, reason in chosen.derived.reasons.items():
        say(name.replace("_", " "), f"{getattr(chosen.derived.loop, name):g}: {reason}")
    trained = chosen.trained.sharded() if config.machine.shard else chosen.trained
    torch.manual_seed(config.seed + 1000 * distributed.rank())  # dropout is drawn anew in each process
    return Prepared(
        kind=kind,
        config=chosen.config,
        compute=compute,
        base=base,
        base_digest=base_digest,
        renderer=renderer,
        table=table,
        trained=trained,
        built=chosen.built,
        derived=chosen.derived,
        data=data,
        saved_dtype=saved_dtype,
        split_by_prompt=split is None,
        probe=probe,
        choice=choice,
    )


def _settled(config: TrainConfig, backbone: Backbone) -> tuple[TrainConfig, Options]:
    """With the --params to train where there is but one to choose from; and what there is to choose from."""
    asked = options(config, backbone)
    if asked.reason:
        say("params", f"{' or '.join(asked.params)}: {asked.reason}")
    return (config if len(asked.params) > 1 else replace(config, params=asked.params[0])), asked


class _Parts(NamedTuple):
    """What every candidate is made of. known: states of the probe's rows after the last layer."""

    kind: Kind
    table: Any
    whole: RewardModel
    base_digest: str
    compute: Compute
    known: KnownStates | None


def _candidate(parts: _Parts, config: TrainConfig) -> Candidate:
    derived = _derived(parts, config)
    trained, source = trained_part(
        config,
        parts.whole,
        parts.table,
        batch_tokens=derived.loop.batch_tokens,
        base_digest=parts.base_digest,
        known=parts.known,
    )
    built = parts.kind.build_task(config, parts.table, source)
    if config.objective.text_loss == "dpo:reference":
        with_reference = replace(built.task, reference=_reference(trained.model, source, parts.table))
        built = built._replace(task=with_reference)
    return Candidate(config=config, derived=derived, trained=trained, built=built)


def _text_head(config: TrainConfig, base: Base, backbone: Backbone, renderer: Renderer) -> TextHead | None:
    """The base's own head, where a loss on text asks for it. Raises ValueError where it does not know all tokens."""
    if config.objective.text_loss is None:
        return None
    head = load_text_head(base.path, base.name, backbone)
    if head.num_tokens < len(renderer.tokenizer):
        few = f"predicts {head.num_tokens:,} tokens, its tokenizer has {len(renderer.tokenizer):,}"
        raise ValueError(f"--text-loss {config.objective.text_loss}: the head of {base.name} {few}: leave --text-loss out")
    return head


def _reference(model: RewardModel, source: Any, table: Any) -> np.ndarray:
    """What the base, which is trained from here, gives the training answers."""
    return text_likelihoods(model, source, table, training_rows(table))


def _derived(parts: _Parts, config: TrainConfig) -> Derived:
    rows, width = training_rows(parts.table), parts.whole.backbone.hidden_size
    return derive(config, num_items(parts.table, rows), width, parts.compute.device, num_rows=len(rows))


def _chosen(parts: _Parts, config: TrainConfig, asked: Options) -> tuple[Candidate, Choice | None]:
    """What is trained; with --params auto also why. The states of the head are computed from those that the blocks start from."""
    if len(asked.params) == 1:
        choice = Choice(params=asked.params[0], reason=asked.reason, is_quick=config.machine.quick)
        return _candidate(parts, config), choice if asked.reason else None
    head_config, blocks_config = (replace(config, params=params) for params in asked.params)
    saved_dtype = next(parts.whole.backbone.parameters()).dtype
    blocks = _candidate(parts, blocks_config)
    below, num_blocks = blocks.built.task.source, parse_params(blocks_config.params)[1]
    trained, source = head_above(head_config, parts.whole, parts.table, below, num_blocks=num_blocks, base_digest=parts.base_digest)
    task = replace(blocks.built.task, source=source)
    head = Candidate(
        config=head_config, derived=_derived(parts, head_config), trained=trained, built=blocks.built._replace(task=task)
    )
    kept = KeptChoice(config, parts.table.fingerprint, parts.base_digest)
    choice = kept.read() or kept.write(choose((head, blocks), parts.table, training_rows(parts.table), seed=config.seed))
    say("params", f"{choice.params}: {choice.reason}")
    if choice.params == blocks_config.params:
        return blocks, choice
    parts.whole.backbone.requires_grad_(False).to(saved_dtype)
    return head, choice


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
    return new_head(backbone.hidden_size, num_outputs, seed=config.seed, bias=kind.HEAD.reads_steps)


def _compute(config: TrainConfig, compute: Compute | None) -> Compute:
    """Device and number format, those of rank 0 in every process."""
    if config.machine.shard and not distributed.is_launched():
        raise ValueError("--shard spreads the model over processes: start them with torchrun -m assay.cli train ...")
    compute = compute or pick_compute(config.machine.device, config.machine.dtype)
    formats = (torch.float32, torch.bfloat16)
    compute = compute._replace(dtype=formats[distributed.broadcast_from_rank0(formats.index(compute.dtype))])
    num_threads = torch.get_num_threads()
    say(
        "computing",
        f"on {compute.device} in {compute.name}: {compute.reason}; {num_threads} thread{'' if num_threads == 1 else 's'}",
    )
    return compute


def _probe(
    kind: Kind, backbone: Backbone, table: SplitTable, compute: Compute, config: TrainConfig, asked: Options
) -> Probed | None:
    """The kind's depth probe, deep enough for the blocks that may be trained.

    None for a base that cannot be cut; ValueError when --depth auto was given.
    """
    if not can_cut(backbone):
        if config.depth is not None:
            cut_depth(backbone, backbone.num_layers)  # which says why not
        say("depth", f"all {backbone.num_layers} layers: {type(backbone.model).__name__} cannot be cut between layers")
        return None
    num_blocks = max(map(top_blocks, asked.params))
    least = min(num_blocks + 1, backbone.num_layers)  # trained blocks stand on a frozen one
    probed = kind.probe_depth(backbone, table, compute, config, least)
    if probed is None:
        say("depth", f"all {backbone.num_layers} layers: --kind {config.kind} has no probe; --depth gives a number")
        return None
    say("depth", probed.probe.reason)
    return probed


def training_rows(table: SplitTable) -> np.ndarray:
    """Rows of the training split and of the counter-examples made from it, ascending."""
    return np.sort(np.concatenate([table.rows("train"), table.rows(COUNTER_EXAMPLES)]))


def _with_weight_decay(chosen: Candidate, table: SplitTable) -> Derived:
    """With the weight decay of a linear head that has the lowest held-out loss."""
    rows, derived = training_rows(table), chosen.derived
    with progress("weight decay", NUM_FITS, "fits") as advance:
        decay, why = choose_decay(chosen.trained.model, chosen.built.task, rows, table.prompt[rows], derived.loop, on_fit=advance)
    loop, reasons = replace(derived.loop, weight_decay=decay), {**derived.reasons, "weight_decay": why}
    return derived._replace(loop=loop, reasons=reasons)


def _weights_digest(backbone: Backbone) -> str:
    """Digest of all weights: a base that was changed in place is another base."""
    digest = hashlib.sha256()
    for name, weight in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
