"""What of a reward model is trained, and how it becomes one whole model again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from assay.console import progress, say
from assay.data.tokens.table import SplitTable
from assay.models.backbone import Backbone, add_dropout, split_backbone
from assay.models.lora import add_lora, merge_lora
from assay.models.mean_layer import MeanReadModel
from assay.models.reward_model import RewardModel
from assay.training import distributed
from assay.training.batches import Source, StateSource, TokenSource
from assay.training.settings import LORA_ON_TOP, TrainConfig, parse_params, top_blocks
from assay.training.states.cache import ActivationCache, KnownStates, build_cache, final_states

NUM_MEASURED = 512  # reads from which the scale of the mean is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """model: what the loop trains. whole: the same parameters and the frozen ones as one model.

    adapters: with --params lora:R or lora:R:K, what `merge_lora` takes. unsharded: with --shard, whole and adapters without their
    weights.
    """

    model: RewardModel
    whole: RewardModel
    adapters: Any = None
    unsharded: tuple[RewardModel, Any] | None = None

    def sharded(self) -> Trained:
        """The same with parameters and optimiser state spread over the processes, in place."""
        memo: dict[int, Any] = {
            id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
            for weight in self.whole.parameters()
        }
        unsharded = copy.deepcopy((self.whole, self.adapters), memo)
        distributed.shard(self.model)
        return replace(self, unsharded=unsharded)

    def finish(self) -> RewardModel:
        """The model to save: sharded weights gathered, adapters merged, the mean read folded into a layer.

        Every process has to call it. Adapters are merged in place: nothing is trained after it.
        """
        whole, adapters = self.whole, self.adapters
        if self.unsharded is not None:
            weights = {name: distributed.full_tensor(value.detach()).cpu() for name, value in whole.named_parameters()}
            whole, adapters = self.unsharded
            whole.load_state_dict(weights, strict=False, assign=True)
        if adapters is not None:
            merge_lora(adapters)
        return self.model.folded() if isinstance(self.model, MeanReadModel) else whole

    def finished_copy(self) -> RewardModel:
        """As `finish`, where training goes on with another member: adapters are merged in a copy."""
        if self.adapters is None:
            return self.finish()
        whole, adapters = copy.deepcopy((self.whole, self.adapters))
        merge_lora(adapters)
        return whole


def trained_part(
    config: TrainConfig,
    whole: RewardModel,
    table: SplitTable,
    *,
    batch_tokens: int,
    base_digest: str,
    known: KnownStates | None = None,
) -> tuple[Trained, Source]:
    """The part of a model that --params names, in float32, and the rows of the table as it takes them.

    batch_tokens: budget of a micro-batch. base_digest: of the frozen weights, so that states of others are not taken from disk.
    known: states after the last layer that are there already; a head alone does not compute them again.
    """
    mode, number = parse_params(config.params)
    dropout = config.regularization.dropout
    adapters = add_lora(whole.backbone, number, dropout=dropout) if mode == "lora" else None
    tokens = TokenSource(table=table, max_tokens=batch_tokens, layout=whole.backbone.layout)
    if config.machine.gradient_checkpointing:
        whole.backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model, source = whole, cast(Source, tokens)
    if mode == "full":
        whole.float().requires_grad_(True)
        add_dropout(whole.backbone.model, dropout)
    if mode in ("head", "blocks", LORA_ON_TOP):
        whole.backbone.requires_grad_(False)
        with _cache_settings(config, whole, table, batch_tokens, base_digest) as settings:
            if mode == "head":
                model, source = _head_on_states(config, whole, table, settings, known)
            else:
                rank = number if mode == LORA_ON_TOP else 0
                model, cache, adapters = _blocks_on_trunk(whole, top_blocks(config.params), rank, dropout, table, settings)
                source = replace(tokens, cache=cache)
    if model.text_head is not None and mode != "full":
        model.text_head = model.text_head.frozen(whole.compute_dtype)
    model.dropout = dropout
    return Trained(model=model, whole=whole, adapters=adapters), source


def head_above(
    config: TrainConfig, whole: RewardModel, table: SplitTable, below: TokenSource, *, num_blocks: int, base_digest: str
) -> tuple[Trained, Source]:
    """As `trained_part` for a head alone, from the cached states of the layers below the last `num_blocks`."""
    assert below.cache is not None
    top = in_dtype(split_backbone(whole.backbone, num_blocks)[1], whole.compute_dtype)
    with _cache_settings(config, whole, table, below.max_tokens, base_digest, name="activations.head.bin") as settings:
        states_RD = final_states(top, table, with_mean=config.reads_mean, below=below.cache, **settings)
    model, source = _head_of(config, whole, table, states_RD)
    model.dropout = config.regularization.dropout
    return Trained(model=model, whole=whole), source


@contextmanager
def _cache_settings(
    config: TrainConfig,
    whole: RewardModel,
    table: SplitTable,
    batch_tokens: int,
    base_digest: str,
    name: str = "activations.bin",
) -> Iterator[dict[str, Any]]:
    """What `build_cache` and `final_states` are given alike, under a progress bar."""

    def on_start(num_bytes: int, num_states: int) -> None:
        say("cache", f"{num_bytes / 1e6:,.0f} MB on disk for {num_states:,} states of the frozen layers")

    with progress("activations", int(table.num_reward_positions.sum()), "states") as advance:
        yield {
            "path": config.out / "cache" / name,
            "identity": f"{table.fingerprint}/{base_digest}/{config.params}/{whole.compute_dtype}",
            "max_tokens": batch_tokens,
            "limit_bytes": int(config.machine.cache_limit_gb * 1e9),
            "on_start": on_start,
            "on_answers": lambda answers: advance(answers * distributed.world_size()),
        }


def _head_on_states(
    config: TrainConfig, whole: RewardModel, table: SplitTable, settings: dict[str, Any], known: KnownStates | None
) -> tuple[RewardModel, StateSource]:
    """The head alone, on what the frozen backbone gives at the rewarded tokens."""
    frozen = in_dtype(whole.backbone, whole.compute_dtype)
    return _head_of(config, whole, table, final_states(frozen, table, with_mean=config.reads_mean, known=known, **settings))


def _head_of(config: TrainConfig, whole: RewardModel, table: SplitTable, states_RD: np.ndarray) -> tuple[RewardModel, StateSource]:
    model = MeanReadModel(whole) if config.reads_mean else whole
    if isinstance(model, MeanReadModel):
        prompt_R = np.repeat(table.prompt, table.num_reward_positions)[:NUM_MEASURED]
        model.measure(states_RD[:NUM_MEASURED], prompt_R)
    return model, StateSource(table=table, states_RD=states_RD)


def _blocks_on_trunk(
    whole: RewardModel, num_blocks: int, rank: int, dropout: float, table: SplitTable, settings: dict[str, Any]
) -> tuple[RewardModel, ActivationCache, Any]:
    """The last blocks, the final norm and the head, on what the frozen blocks below give; with a rank adapters in those blocks, and
    the head. Third: what `merge_lora` takes, None without a rank."""
    trunk, top = split_backbone(whole.backbone, num_blocks)
    adapters = add_lora(top, rank, dropout=dropout) if rank else None
    for part in () if rank else (top.model.layers, top.model.norm):
        part.float().requires_grad_(True)
    if not rank:
        add_dropout(top.model, dropout)
    cache = build_cache(in_dtype(trunk, whole.compute_dtype), table, dtype=whole.compute_dtype, **settings)
    top_model = RewardModel(top, whole.head, outputs=whole.outputs, compute_dtype=whole.compute_dtype, text_head=whole.text_head)
    return top_model, cache, adapters


def in_dtype(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """A frozen copy in another number format; the backbone itself where it has that already."""
    if all(parameter.dtype == dtype for parameter in backbone.parameters()):
        return backbone
    return copy.deepcopy(backbone).to(dtype).eval()
