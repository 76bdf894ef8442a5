"""Everything before the loop: read, split and render the data, choose the depth, cache the frozen layers."""

from __future__ import annotations

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

from assay.audit.probes.selection import failed_probes
from assay.console import console, progress, say
from assay.data.pairs import read_pairs
from assay.data.render import Renderer
from assay.data.run_data import run_data
from assay.data.split import refuse_overlap
from assay.data.table import PairTable, build_table
from assay.errors import DataError
from assay.files import digest, file_sha256
from assay.models.artifact import load_artifact
from assay.models.backbone import Backbone, can_cut, cut_depth, load_backbone
from assay.models.bases import Base, no_progress_bars, resolve_base
from assay.models.device import Compute, pick_compute, token_budget
from assay.models.reward_model import RewardModel, new_head
from assay.records import PreferencePair
from assay.run_files import ENSEMBLE, artifact_path, read_description
from assay.training import distributed
from assay.training.augment import AUGMENTED, augmented
from assay.training.depth import DepthProbe, layer_differences, probe_differences
from assay.training.settings import Derived, TrainConfig, derive, parse_depth, parse_params
from assay.training.tasks.pairs import PairTask, length_log_odds
from assay.training.trained import Trained, in_dtype, trained_part
from assay.training.weight_decay import NUM_FITS, choose_decay

MAX_HELDOUT = 1000  # held-out pairs evaluated during training
PROBED = 1000  # training pairs of the depth probe
REPLAY = "assay.replay"  # tag of a pair of an earlier run
COUNTER_EXAMPLES = "augmented"  # split of the pairs that --augment makes; they are trained on too


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready to be fitted. data: what was read of each file. saved_dtype: number format of the saved backbone.

    split_by_prompt: by the hash of the prompt, so that config.json can repeat it. probe: with --depth auto, what it found.
    """

    config: TrainConfig
    compute: Compute
    base: Base
    base_digest: str
    renderer: Renderer
    table: PairTable
    trained: Trained
    task: PairTask
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
    def train_rows(self) -> np.ndarray:
        """Rows to train on: the training split, and the counter-examples made from it."""
        return training_rows(self.table)

    @property
    def heldout_rows(self) -> np.ndarray:
        """Rows to evaluate during training: at most 1,000 of the calibration split."""
        return self.table.rows("calibration")[:MAX_HELDOUT]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the loss and of the loop, by name."""
        return {**asdict(self.config.objective), **asdict(self.derived.loop), "length_slope": self.derived.length_slope}

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
    torch.manual_seed(config.seed)
    compute = _compute(config, compute)
    with distributed.rank0_first():  # a base may have to be fetched or converted
        base, tokenizer, start = _starting_point(config)
    say("base", f"{base.name}{f' ({base.note})' if base.note else ''}")
    renderer = Renderer(tokenizer, max_length=config.max_length, overlong=config.overlong)
    for change in renderer.template_changes:
        say("template", change)
    config.out.mkdir(parents=True, exist_ok=True)
    table, data = read_table(config, renderer, split)
    backbone = start.backbone if start is not None else load_backbone(base.path, depth=parse_depth(config.depth_rule))
    derived = derive(config, len(training_rows(table)), backbone.hidden_size, compute.device)
    for name, reason in derived.reasons.items():
        say(name.replace("_", " "), f"{getattr(derived.loop, name):g}: {reason}")
    if config.objective.debias_length:
        derived = _with_length_slope(derived, table)
    if len(renderer.tokenizer) > backbone.model.get_input_embeddings().num_embeddings:
        backbone.model.resize_token_embeddings(len(renderer.tokenizer))
    probe = _probe(backbone, table, compute, config) if config.depth_rule == "auto" else None
    backbone = cut_depth(backbone, probe.depth) if probe is not None else backbone
    saved_dtype, base_digest = next(backbone.parameters()).dtype, _weights_digest(backbone)
    head = start.head if start is not None else new_head(backbone.hidden_size, seed=config.seed)
    whole = RewardModel(backbone, head, compute_dtype=compute.dtype).to(compute.device)
    trained, source = trained_part(config, whole, table, batch_tokens=derived.loop.batch_tokens, base_digest=base_digest)
    task = PairTask(table=table, source=source, objective=config.objective, length_slope=derived.length_slope)
    if parse_params(config.params)[0] == "head" and config.regularization.weight_decay is None:
        derived = _with_weight_decay(derived, trained.model, task)
    if config.machine.shard:
        trained = trained.sharded()
    torch.manual_seed(config.seed + 1000 * distributed.rank())  # dropout is drawn anew in each process
    return Prepared(
        config=config,
        compute=compute,
        base=base,
        base_digest=base_digest,
        renderer=renderer,
        table=table,
        trained=trained,
        task=task,
        derived=derived,
        data=data,
        saved_dtype=saved_dtype,
        split_by_prompt=split is None,
        probe=probe,
    )


def _compute(config: TrainConfig, compute: Compute | None) -> Compute:
    """Device and number format, those of rank 0 in every process."""
    if config.machine.shard and not distributed.is_launched():
        raise ValueError("--shard spreads the model over processes: start them with torchrun -m assay.cli train ...")
    compute = compute or pick_compute(config.machine.device, config.machine.dtype)
    formats = (torch.float32, torch.bfloat16)
    compute = compute._replace(dtype=formats[distributed.broadcast_from_rank0(formats.index(compute.dtype))])
    say("computing", f"on {compute.device} in {compute.name}: {compute.reason}; {torch.get_num_threads()} threads")
    return compute


@no_progress_bars()
def _starting_point(config: TrainConfig) -> tuple[Base, Any, RewardModel | None]:
    """The base, its tokenizer, and with --init-from the reward model to start from."""
    if config.init_from is None:
        base = resolve_base(str(config.base))
        return base, AutoTokenizer.from_pretrained(base.path, trust_remote_code=False), None
    path = artifact_path(config.init_from)
    if read_description(path).get(ENSEMBLE):
        raise ValueError(
            f"--init-from {config.init_from} is an ensemble: take a member out with assay model export, and go on from that"
        )
    loaded = load_artifact(path, dtype=getattr(torch, read_description(path)["dtype"]))
    name, note = loaded.description.get("base_model", path.name), f"from the reward model {config.init_from.name}"
    base = Base(str(path), str(name), note, str(loaded.description.get("base_license") or ""))
    return base, loaded.renderer.tokenizer, loaded.model


def _probe(backbone: Backbone, table: PairTable, compute: Compute, config: TrainConfig) -> DepthProbe | None:
    """The depth probe on up to `PROBED` training pairs; rank 0's choice, and deep enough for the trained blocks.

    None for a base that cannot be cut; ValueError when --depth auto was given.
    """
    if not can_cut(backbone):
        if config.depth is not None:
            cut_depth(backbone, backbone.num_layers)  # which says why not
        say("depth", f"all {backbone.num_layers} layers: {type(backbone.model).__name__} cannot be cut between layers")
        return None
    rows = np.sort(np.random.default_rng(config.seed).permutation(table.rows("train"))[:PROBED])
    frozen = in_dtype(backbone, compute.dtype).to(compute.device)
    with progress("depth probe", 2 * len(rows), "answers") as advance:
        budget = token_budget(compute.device)
        differences_LRPD = layer_differences(frozen, table, rows, max_tokens=budget, on_answers=advance)
    probe = probe_differences(differences_LRPD, table.preference[rows], table.prompt[rows], seed=config.seed)
    mode, num_blocks = parse_params(config.params)
    least = min(num_blocks + 1, backbone.num_layers) if mode == "blocks" else 1  # trained blocks stand on a frozen one
    probe = replace(probe, depth=max(least, distributed.broadcast_from_rank0(probe.depth)))
    say("depth", probe.reason)
    return probe


def training_rows(table: PairTable) -> np.ndarray:
    """Rows of the training split and of the counter-examples made from it, ascending."""
    return np.sort(np.concatenate([table.rows("train"), table.rows(COUNTER_EXAMPLES)]))


def _with_length_slope(derived: Derived, table: PairTable) -> Derived:
    """With the length slope of the training split."""
    rows = table.rows("train")
    slope = length_log_odds(table.length_gap[rows], table.preference[rows], table.weight[rows])
    why = f"what the length of the answer alone says of {len(rows):,} training labels, in logits for each unit of log length"
    say("length slope", f"{slope:g}: {why}")
    return derived._replace(length_slope=slope, reasons={**derived.reasons, "length_slope": why})


def _with_weight_decay(derived: Derived, model: RewardModel, task: PairTask) -> Derived:
    """With the weight decay of a linear head that has the lowest held-out loss."""
    rows = training_rows(task.table)
    with progress("weight decay", NUM_FITS, "fits") as advance:
        decay, why = choose_decay(model, task, rows, task.table.prompt[rows], derived.loop, on_fit=advance)
    say("weight decay", f"{decay:g}: {why}")
    loop, reasons = replace(derived.loop, weight_decay=decay), {**derived.reasons, "weight_decay": why}
    return derived._replace(loop=loop, reasons=reasons)


def read_table(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[PairTable, list[dict[str, Any]]]:
    """Read, split and tokenise the data once; what was read, set aside and cut is printed, and returned for reward.json."""
    rule = "hash of the prompt" if split is None else "whole groups"
    split_of_pair = split or (lambda pair: _split_with_added(config, pair))
    readers = [
        read_pairs(path, form=config.form, limit=config.limit, strict=config.strict, seed=config.seed) for path in config.data
    ]
    path = config.out / "cache" / "tokens.arrow"
    with distributed.rank0_first():
        if distributed.rank() != 0:
            return PairTable(path), []
        with console.status("reading and tokenising"):
            pairs = with_counter_examples(with_replay(itertools.chain.from_iterable(readers), config), config, split is None)
            table, count = build_table(pairs, renderer, path, split=split_of_pair)
    data = []
    for name, reader in zip(config.data, readers, strict=True):
        say("read", f"{name}: {reader.summary()}")
        entry = {"name": Path(name).name, "num_pairs": reader.problems.num_pairs, "note": reader.summary()}
        data.append(entry | ({"fingerprint": file_sha256(Path(name))[:32]} if Path(name).is_file() else {}))
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
        hashes = np.union1d(table.prompt, config.run_data.known_prompts)  # of the calibration split too
        tested = read_pairs(config.eval_data, form=config.form, strict=config.strict)
        refuse_overlap(hashes, tested, train_name=", ".join(config.data), eval_name=config.eval_data)
    return table, data


def with_replay(pairs: Iterable[PreferencePair], config: TrainConfig) -> Iterator[PreferencePair]:
    """The pairs, then a random sample of the training pairs of --init-from: the share --replay of all training pairs."""
    num_new = 0
    for pair in pairs:
        num_new += config.replay > 0 and config.run_data.split_of(pair) == "train"
        yield pair
    if not config.replay or config.init_from is None:
        return
    rng, drawn = np.random.default_rng(config.seed), []
    wanted = round(num_new * config.replay / (1 - config.replay))
    for number, pair in enumerate(run_data(config.init_from).pairs("train")):  # reservoir sampling: Vitter (1985), R
        if number < wanted:
            drawn.append(pair)
        elif (place := int(rng.integers(number + 1))) < wanted:
            drawn[place] = pair
    say("replay", f"{len(drawn):,} of the training pairs of {config.init_from} beside {num_new:,} new ones")
    yield from (replace(pair, tags={**pair.tags, REPLAY: "yes"}) for pair in drawn)


def with_counter_examples(pairs: Iterable[PreferencePair], config: TrainConfig, by_prompt: bool) -> Iterator[PreferencePair]:
    """The pairs; with --augment each training pair is followed by the counter-examples made from it."""
    regularization = config.regularization
    if regularization.augment is None:
        yield from pairs
        return
    if not by_prompt:
        raise ValueError(f"--augment {regularization.augment} goes with the split by prompt: leave it out here")
    only = None if regularization.augment == "probes" else failed_probes(Path(regularization.augment))
    if only == ():
        say("augment", f"no probe failed in {regularization.augment}: nothing is added")
        yield from pairs
        return
    share, is_source = regularization.augment_share, lambda pair: _split_with_added(config, pair) == "train"
    yield from augmented(pairs, share=share, seed=config.seed, only=only, is_source=is_source)


def _split_with_added(config: TrainConfig, pair: PreferencePair) -> str:
    """The split of a pair: by prompt; replayed pairs are in the training split, counter-examples in a split of their own."""
    name = "train" if REPLAY in pair.tags else config.run_data.split_of(pair)
    return COUNTER_EXAMPLES if name == "train" and AUGMENTED in pair.tags and config.regularization.augment is not None else name


def _weights_digest(backbone: Backbone) -> str:
    """Digest of all weights: a base that was changed in place is another base."""
    digest = hashlib.sha256()
    for name, weight in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
