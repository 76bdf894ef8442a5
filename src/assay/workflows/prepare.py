"""Everything before the loop: read, split, render, choose the depth, cache the frozen trunk.

The demo's cross-validation, the learning curve and a plain run stand on the same ground.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from assay.data.pairs import read_pairs
from assay.data.render import Renderer
from assay.data.split import refuse_overlap
from assay.data.table import PairTable, build_table
from assay.errors import DataError
from assay.models.artifact import ENSEMBLE, load_artifact, read_description
from assay.models.backbone import Backbone, add_dropout, can_cut, cut_depth, load_backbone, split_backbone
from assay.models.bases import Base, file_digest, resolve_base
from assay.models.device import Compute, pick_compute, token_budget
from assay.models.lora import add_lora
from assay.models.mean_layer import MeanReadModel
from assay.models.reward_model import RewardModel, new_head
from assay.monitor.augment import AUGMENTED, augmented
from assay.records import PreferencePair
from assay.scorers.load import artifact_path
from assay.train import distributed
from assay.train.batches import Source, StateSource, TokenSource
from assay.train.cache import build_cache, final_states
from assay.train.decay import NUM_FITS, choose_decay
from assay.train.depth import DepthProbe, layer_differences, probe_differences
from assay.train.objective import length_log_odds
from assay.workflows.probe import failed_probes
from assay.workflows.rundir import known_prompts, run_config, split_name, split_pairs
from assay.workflows.settings import Derived, TrainConfig, derive, parse_depth, parse_params
from assay.workflows.show import console, progress, say

PROBED = 1000  # training pairs of the depth probe
REPLAY = "assay.replay"  # tag of a pair of an earlier run
COUNTER_EXAMPLES = "augmented"  # split of the pairs that --augment makes, trained on as the training split is


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A run that is ready to be fitted. model: what the loop trains; whole: the same parameters as one model to save.

    probe: with --depth auto, what it found; adapted: with --params lora:R, what `merge_lora` takes. unsharded: with --shard, whole
    and adapted without their weights, for `gathered`.
    """

    config: TrainConfig
    compute: Compute
    base: Base
    base_digest: str
    renderer: Renderer
    table: PairTable
    source: Source
    model: RewardModel
    whole: RewardModel
    derived: Derived
    data: list[dict[str, Any]]
    saved_dtype: torch.dtype
    split_by_prompt: bool
    probe: DepthProbe | None = None
    adapted: Any = None
    unsharded: tuple[RewardModel, Any] | None = None

    @property
    def train_rows(self) -> np.ndarray:
        """Rows that the loop trains on: the training split, and the counter-examples made from it."""
        return training_rows(self.table)

    @property
    def identity(self) -> str:
        """Digest of data, base and settings: what a checkpoint must share with a run to be resumed by it."""
        loop = asdict(self.derived.loop)
        parts = [self.table.fingerprint, self.base_digest, self.config.params, loop, str(self.compute.dtype)]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def prepare(
    config: TrainConfig, *, split: Callable[[PreferencePair], str] | None = None, compute: Compute | None = None
) -> Prepared:
    """Everything before the loop, with what was found on the way printed.

    split: other splits than by hash of the prompt. compute: what `pick_compute` gave, when that was asked before.
    """
    torch.manual_seed(config.seed)
    if config.machine.shard and not distributed.is_launched():
        raise ValueError("--shard spreads the model over processes: start them with torchrun -m assay.cli train ...")
    compute = compute or pick_compute(config.machine.device, config.machine.dtype)
    formats = (torch.float32, torch.bfloat16)
    compute = compute._replace(dtype=formats[distributed.of_first(formats.index(compute.dtype))])
    say(
        "computing",
        f"on {compute.device} in {str(compute.dtype).removeprefix('torch.')}: {compute.reason}; {torch.get_num_threads()} threads",
    )
    with distributed.first_goes_first():  # a base may have to be fetched or converted
        base, tokenizer, start = _starting_point(config)
    say("base", f"{base.name}{f' ({base.note})' if base.note else ''}")
    renderer = Renderer(tokenizer, max_length=config.max_length, overlong=config.overlong)
    for change in renderer.template_changes:
        say("template", change)
    config.out.mkdir(parents=True, exist_ok=True)
    table, data = read_table(config, renderer, split)
    num_pairs = len(training_rows(table))
    backbone = start.backbone if start is not None else load_backbone(base.path, depth=parse_depth(config.depth_rule))
    derived = derive(config, num_pairs, backbone.hidden_size, compute.device)
    if config.objective.debias_length:
        derived = _with_length_slope(derived, table)
    for name, reason in derived.reasons.items():
        say(name.replace("_", " "), f"{getattr(derived.loop, name):g}: {reason}")
    if len(renderer.tokenizer) > backbone.model.get_input_embeddings().num_embeddings:
        backbone.model.resize_token_embeddings(len(renderer.tokenizer))
    probe = _probe(backbone, table, compute, config) if config.depth_rule == "auto" else None
    backbone = cut_depth(backbone, probe.depth) if probe is not None else backbone
    saved_dtype, base_digest = next(backbone.parameters()).dtype, _weights_digest(backbone)
    head = start.head if start is not None else new_head(backbone.hidden_size, seed=config.seed)
    whole = RewardModel(backbone, head, compute_dtype=compute.dtype).to(compute.device)
    adapted = None
    if parse_params(config.params)[0] == "lora":
        adapted = add_lora(whole.backbone, parse_params(config.params)[1], dropout=config.restraint.dropout)
    model, source = _trained_part(config, derived, whole, table, base_digest)
    model.dropout = config.restraint.dropout
    if parse_params(config.params)[0] == "head" and config.restraint.weight_decay is None:
        derived = _with_weight_decay(derived, model, source)
    unsharded = None
    if config.machine.shard:
        unsharded = _without_weights(whole, adapted)
        distributed.shard(model)
    torch.manual_seed(config.seed + 1000 * distributed.rank())  # dropout is drawn anew in each process
    return Prepared(
        config=config,
        compute=compute,
        base=base,
        base_digest=base_digest,
        renderer=renderer,
        table=table,
        source=source,
        model=model,
        whole=whole,
        derived=derived,
        data=data,
        saved_dtype=saved_dtype,
        split_by_prompt=split is None,
        probe=probe,
        adapted=adapted,
        unsharded=unsharded,
    )


def gathered(prepared: Prepared) -> Prepared:
    """The run with whole parameters again, in the first process, where they were sharded; every process has to ask."""
    if prepared.unsharded is None:
        return prepared
    weights = {name: distributed.whole(value.detach()).cpu() for name, value in prepared.whole.named_parameters()}
    whole, adapted = prepared.unsharded
    whole.load_state_dict(weights, strict=False, assign=True)
    return replace(prepared, whole=whole, adapted=adapted)


def _without_weights(whole: RewardModel, adapted: Any) -> tuple[RewardModel, Any]:
    memo: dict[int, Any] = {
        id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
        for weight in whole.parameters()
    }
    return copy.deepcopy((whole, adapted), memo)


def _starting_point(config: TrainConfig) -> tuple[Base, Any, RewardModel | None]:
    """The base, its tokenizer, and with --init-from the reward model to go on from."""
    if config.init_from is None:
        base = resolve_base(str(config.base))
        return base, AutoTokenizer.from_pretrained(base.path, trust_remote_code=False), None
    path = artifact_path(config.init_from)
    if read_description(path).get(ENSEMBLE):
        raise ValueError(f"--init-from {config.init_from} is an ensemble: take a member out with assay export, and go on from that")
    loaded = load_artifact(path, dtype=getattr(torch, read_description(path)["dtype"]))
    name, note = loaded.description.get("base_model", path.name), f"from the reward model {config.init_from.name}"
    base = Base(str(path), str(name), note, str(loaded.description.get("base_license") or ""))
    return base, loaded.renderer.tokenizer, loaded.model


def _probe(backbone: Backbone, table: PairTable, compute: Compute, config: TrainConfig) -> DepthProbe | None:
    """The depth probe on up to `PROBED` training pairs; the first process's word, and deep enough for the trained blocks.

    None for a base that cannot be cut: ValueError where --depth auto was asked for by name.
    """
    if not can_cut(backbone):
        if config.depth is not None:
            cut_depth(backbone, backbone.num_layers)  # which says why not
        say("depth", f"all {backbone.num_layers} layers: {type(backbone.model).__name__} cannot be cut between layers")
        return None
    rows = np.sort(np.random.default_rng(config.seed).permutation(table.rows("train"))[:PROBED])
    frozen = _computing(backbone, compute.dtype).to(compute.device)
    with progress("depth probe", 2 * len(rows), "answers") as advance:
        budget = token_budget(compute.device)
        differences_LRPD = layer_differences(frozen, table, rows, max_tokens=budget, on_answers=advance)
    probe = probe_differences(differences_LRPD, table.preference[rows], table.prompt[rows], seed=config.seed)
    mode, num_blocks = parse_params(config.params)
    least = min(num_blocks + 1, backbone.num_layers) if mode == "blocks" else 1  # trained blocks stand on a frozen one
    probe = replace(probe, depth=max(least, distributed.of_first(probe.depth)))
    say("depth", probe.reason)
    return probe


def training_rows(table: PairTable) -> np.ndarray:
    """Rows of the training split and of the counter-examples made from it, ascending."""
    return np.sort(np.concatenate([table.rows("train"), table.rows(COUNTER_EXAMPLES)]))


def _with_length_slope(derived: Derived, table: PairTable) -> Derived:
    """The settings with the log-odds that the labels of the training split give to length."""
    rows = table.rows("train")
    slope = length_log_odds(table.length_gap[rows], table.preference[rows], table.weight[rows])
    why = f"what the length of the answer alone says of {len(rows):,} training labels, in logits for each unit of log length"
    return Derived(replace(derived.loop, length_slope=slope), {**derived.reasons, "length_slope": why})


def _with_weight_decay(derived: Derived, model: RewardModel, source: Source) -> Derived:
    """The settings with the weight decay that holds a head alone back best."""
    with progress("weight decay", NUM_FITS, "fits") as advance:
        decay, why = choose_decay(model, source, training_rows(source.table), derived.loop, on_fit=advance)
    say("weight decay", f"{decay:g}: {why}")
    return Derived(replace(derived.loop, weight_decay=decay), {**derived.reasons, "weight_decay": why})


def read_table(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[PairTable, list[dict[str, Any]]]:
    """Read, split and tokenise the data once; what was read, set aside and cut is printed and returned for the record."""
    rule = "hash of the prompt" if split is None else "whole groups"
    split_of_pair = split or (lambda pair: _split_with_added(config, pair))
    readers = [
        read_pairs(path, form=config.form, limit=config.limit, strict=config.strict, seed=config.seed) for path in config.data
    ]
    path = config.out / "cache" / "tokens.arrow"
    with distributed.first_goes_first():
        if distributed.rank() != 0:
            return PairTable(path), []
        with console.status("reading and tokenising"):
            pairs = with_counter_examples(with_replay(itertools.chain.from_iterable(readers), config), config, split is None)
            table, count = build_table(pairs, renderer, path, split=split_of_pair)
    data = []
    for name, reader in zip(config.data, readers, strict=True):
        say("read", f"{name}: {reader.summary()}")
        entry = {"name": Path(name).name, "num_pairs": reader.problems.num_pairs, "note": reader.summary()}
        data.append(entry | ({"fingerprint": file_digest(Path(name))[:32]} if Path(name).is_file() else {}))
    say("rendered", count.summary())
    sizes = {name: len(table.rows(name)) for name in ("train", "calibration", "test")}
    say("split", ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + f" pairs, by {rule}")
    if num_added := len(table.rows(COUNTER_EXAMPLES)):
        part = f"{num_added / (num_added + sizes['train']):.1%} of what is trained on"
        say("augment", f"{num_added:,} counter-examples beside the training pairs, {part}; held-out pairs are as they were")
    if not sizes["train"]:
        raise DataError(
            f"no pair is in the training split of {', '.join(config.data)}: give more prompts, or lower --calibration and --test"
        )
    if config.eval_data is not None:
        hashes = np.union1d(table.prompt, known_prompts(config))  # of the calibration split too
        tested = read_pairs(config.eval_data, form=config.form, strict=config.strict)
        refuse_overlap(hashes, tested, train_name=", ".join(config.data), eval_name=config.eval_data)
    return table, data


def with_replay(pairs: Iterable[PreferencePair], config: TrainConfig) -> Iterator[PreferencePair]:
    """The pairs, then a random draw of the training pairs of --init-from, so many that they are the share --replay of all."""
    num_new = 0
    for pair in pairs:
        num_new += config.replay > 0 and split_name(config, pair) == "train"
        yield pair
    if not config.replay or config.init_from is None:
        return
    rng, drawn = np.random.default_rng(config.seed), []
    wanted = round(num_new * config.replay / (1 - config.replay))
    for number, pair in enumerate(split_pairs(run_config(config.init_from), "train")):  # reservoir sampling: Vitter (1985), R
        if number < wanted:
            drawn.append(pair)
        elif (place := int(rng.integers(number + 1))) < wanted:
            drawn[place] = pair
    say("replay", f"{len(drawn):,} of the training pairs of {config.init_from} beside {num_new:,} new ones")
    yield from (replace(pair, tags={**pair.tags, REPLAY: "yes"}) for pair in drawn)


def with_counter_examples(pairs: Iterable[PreferencePair], config: TrainConfig, by_prompt: bool) -> Iterator[PreferencePair]:
    """The pairs, and with --augment the counter-examples due after each of the training split."""
    asked = config.restraint
    if asked.augment is None:
        yield from pairs
        return
    if not by_prompt:
        raise ValueError(f"--augment {asked.augment} goes with the split by prompt: leave it out here")
    only = None if asked.augment == "probes" else failed_probes(Path(asked.augment))
    if only == ():
        say("augment", f"no probe failed in {asked.augment}: nothing is added")
        yield from pairs
        return
    share, is_source = asked.augment_share, lambda pair: _split_with_added(config, pair) == "train"
    yield from augmented(pairs, share=share, seed=config.seed, only=only, is_source=is_source)


def _split_with_added(config: TrainConfig, pair: PreferencePair) -> str:
    """By prompt; what was added to the training split is in it, counter-examples in a split of their own beside it."""
    name = "train" if REPLAY in pair.tags else split_name(config, pair)
    return COUNTER_EXAMPLES if name == "train" and AUGMENTED in pair.tags and config.restraint.augment is not None else name


def _trained_part(
    config: TrainConfig, derived: Derived, whole: RewardModel, table: PairTable, base_digest: str
) -> tuple[RewardModel, Source]:
    """The part of the model that the loop trains, in float32, and the pairs as that part takes them."""
    mode, num_blocks = parse_params(config.params)
    budget, layout = derived.loop.batch_tokens, whole.backbone.layout
    if config.machine.gradient_checkpointing:
        whole.backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if mode in ("full", "lora"):
        if mode == "full":
            whole.float().requires_grad_(True)
            add_dropout(whole.backbone.model, config.restraint.dropout)
        return whole, TokenSource(table=table, max_tokens=budget, layout=layout)
    whole.backbone.requires_grad_(False)
    path, limit = config.out / "cache" / "activations.bin", int(config.machine.cache_limit_gb * 1e9)
    identity = f"{table.fingerprint}/{base_digest}/{config.params}/{whole.compute_dtype}"

    def on_start(num_bytes: int, num_states: int) -> None:
        say("cache", f"{num_bytes / 1e6:,.0f} MB on disk for {num_states:,} states of the frozen layers")

    with progress("activations", 2 * len(table), "answers") as advance:
        shared: dict[str, Any] = {"identity": identity, "max_tokens": budget, "limit_bytes": limit}
        shared |= {"on_start": on_start, "on_answers": lambda answers: advance(answers * distributed.world_size())}
        if mode == "head":
            frozen = _computing(whole.backbone, whole.compute_dtype)
            model = MeanReadModel(whole) if config.reads_mean else whole
            states_N2D = final_states(frozen, table, path, with_mean=config.reads_mean, **shared)
            if isinstance(model, MeanReadModel):
                model.measure(states_N2D[:256])
            return model, StateSource(table=table, states_N2D=states_N2D)
        trunk, top = split_backbone(whole.backbone, num_blocks)
        for part in (top.model.layers, top.model.norm):
            part.float().requires_grad_(True)
        add_dropout(top.model, config.restraint.dropout)
        cache = build_cache(_computing(trunk, whole.compute_dtype), table, path, dtype=whole.compute_dtype, **shared)
    model = RewardModel(top, whole.head, compute_dtype=whole.compute_dtype)
    return model, TokenSource(table=table, max_tokens=budget, layout=layout, cache=cache)


def _weights_digest(backbone: Backbone) -> str:
    """Digest of every weight: a base that was changed in place is another base."""
    digest = hashlib.sha256()
    for name, weight in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _computing(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """A frozen copy in the computing number format; the backbone itself where it already has it."""
    if all(parameter.dtype == dtype for parameter in backbone.parameters()):
        return backbone
    return copy.deepcopy(backbone).to(dtype).eval()
