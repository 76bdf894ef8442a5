"""An ensemble in one run: K members fitted from the same start, brought to one scale, saved as one artifact.

The members are K heads on one backbone (--params head), last blocks over one frozen trunk (blocks:K and lora:R:K; one layer for
head:mean), or whole models (full; lora:R, which leaves no layer as it was).
Suffixes: K members, P pairs, 2 chosen and rejected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.console import progress, say
from assay.data.tokens.table import PairTable
from assay.evaluation.disagreement import diversity
from assay.files import new_directory
from assay.models.reward_model import RewardModel, new_head
from assay.models.saved.ensemble_files import finish_ensemble, save_member
from assay.records import Report, Table, extended
from assay.run_files import MemberScale
from assay.scorers.ensemble import Combination
from assay.training.checkpoint import trained_weights
from assay.training.loop import fit
from assay.training.prepare import Prepared
from assay.training.settings import Members, parse_params, top_blocks

MEMBER_RUNS = "members"  # of a run directory: metrics and checkpoints of each member
SCALED_BY = "margins and levels on the run's held-out pairs"


class Member(NamedTuple):
    """One fitted member. rows: of its metrics.jsonl. rewards_P2: of the reported pairs, margins on the common scale. level: mean
    reward where the scale was measured."""

    rows: list[dict[str, Any]]
    rewards_P2: np.ndarray
    level: float


def combination_of(members: Members) -> Combination:
    return Combination(how=members.combine, penalty=members.penalty, beta=members.robust_beta)


def fit_members(prepared: Prepared, report_rows: np.ndarray) -> Iterator[Member]:
    """Fit one member after another; while one is yielded, the prepared run holds that member.

    report_rows: pairs whose rewards are reported. Every member starts from the same parameters, with a head and an order of the
    pairs of its own. Heads alone (--params head) would differ too little by that: each is fitted to its own bootstrap of the pairs.
    Margins are brought to the root mean square of the first member's on the held-out pairs (without any, on the training pairs):
    else the mean of the members would be that of the largest.
    """
    config, loop, train_rows = prepared.config, prepared.derived.loop, prepared.train_rows
    start = trained_weights(prepared.model)
    scaled_on = prepared.heldout_rows if len(prepared.heldout_rows) else train_rows
    first_size = None
    for number in range(config.members.ensemble):
        seed = config.seed + number
        prepared.model.load_state_dict(start, strict=False)
        if config.init_from is None:
            _renew_head(prepared.model, seed)
        renew_adapters(prepared.model, seed)
        rows = train_rows
        if parse_params(config.params)[0] == "head":
            rows = np.sort(np.random.default_rng([seed, 11]).choice(train_rows, len(train_rows)))
        with progress(f"member {number}", loop.num_steps(len(rows)), "steps") as advance:
            log = fit(
                prepared.model,
                prepared.task,
                rows,
                replace(loop, seed=seed),
                heldout_rows=prepared.heldout_rows,
                run_dir=config.out / MEMBER_RUNS / str(number),
                resume=config.machine.resume,
                identity=f"{prepared.identity}/{number}",
                on_steps=advance,
            )
        scored = np.union1d(scaled_on, report_rows)
        rewards_P2 = prepared.task.rewards(prepared.model, scored)
        measured_P2 = rewards_P2[np.searchsorted(scored, scaled_on)]
        size = _size(measured_P2)
        first_size = first_size or size
        scale = first_size / size if size > 0 else 1.0
        with torch.no_grad():
            prepared.model.head.weight.mul_(scale)
        level = scale * float(np.nanmean(measured_P2))
        yield Member(log, rewards_P2[np.searchsorted(scored, report_rows)] * scale, level)


def scales_of(members: Sequence[Member]) -> list[MemberScale]:
    """The members' levels brought to their mean, which leaves the mean of the rewards as it is. Their heads have one unit already.

    A level is no knowledge (the data fix differences within a prompt alone), and unlike levels would add to the std everywhere.
    """
    centre = float(np.mean([member.level for member in members]))
    return [MemberScale(centre=member.level - centre) for member in members]


def rewards_of(members: Sequence[Member]) -> np.ndarray:
    """Rewards of the reported pairs (K, P, 2) on one scale, as the saved ensemble gives them."""
    return np.stack([member.rewards_P2 - scale.centre for member, scale in zip(members, scales_of(members), strict=True)])


def save_members(
    prepared: Prepared, path: Path, description: dict[str, Any], members: Iterator[Member], train_prompts: np.ndarray
) -> list[Member]:
    """Fit and save members that have their own weights in the backbone as it is saved, one after another: only one is in memory."""
    own, num_blocks = _own_weights(prepared)
    settings = prepared.config.members
    kept = []
    with new_directory(path) as work:
        for number, member in enumerate(members):
            save_member(
                work, number, prepared.trained.finished_copy(), prepared.renderer, description, own=own, dtype=prepared.saved_dtype
            )
            kept.append(member)
        finish_ensemble(
            work,
            description,
            form="blocks" if own is not None else "models",
            num_members=settings.ensemble,
            combination=combination_of(settings).entry,
            num_blocks=num_blocks,
            scales=scales_of(kept),
            scaled_by=SCALED_BY,
            train_prompts=train_prompts,
        )
    return kept


def _own_weights(prepared: Prepared) -> tuple[list[str] | None, int]:
    """Names of the saved backbone's parameters in which members differ, all in its last layers, and how many layers those are;
    None, 0 where they may differ in all."""
    num_layers, num_blocks = prepared.trained.whole.backbone.num_layers, top_blocks(prepared.config.params)
    if prepared.config.reads_mean:  # the mean read is a layer more in what is saved
        num_layers, num_blocks = num_layers + 1, 1
    if not num_blocks:
        return None, 0
    has_own_norm = parse_params(prepared.config.params)[0] == "blocks"
    starts = tuple(f"layers.{number}." for number in range(num_layers - num_blocks, num_layers))
    names = [name for name, _ in prepared.trained.finished_copy().backbone.model.named_parameters()]
    return [name for name in names if name.startswith(starts) or (has_own_norm and name.startswith("norm."))], num_blocks


def gather_heads(prepared: Prepared, members: Iterator[Member]) -> tuple[RewardModel, list[Member]]:
    """Fit heads on one backbone; returns the model with all of them."""
    kept, heads = [], []
    for member in members:
        kept.append(member)
        heads.append(prepared.model.head.weight.detach().clone())
    whole = prepared.trained.finish()
    head = torch.nn.Linear(whole.head.in_features, len(heads), bias=False, dtype=torch.float32).to(whole.head.weight.device)
    with torch.no_grad():
        head.weight.copy_(torch.cat(heads))
    return RewardModel(whole.backbone, head, compute_dtype=whole.compute_dtype), kept


def with_diversity(report: Report, members_KP2: np.ndarray, rows: np.ndarray, table: PairTable, settings: Members) -> Report:
    """The report, and how the members agree on the pairs at `rows` (the calibration split)."""
    parts = diversity(members_KP2, table.preference[rows], table.prompt[rows], combination_of(settings))
    say("ensemble", "; ".join(f"{metric.name} {metric.value:.3f}" for metric in parts.metrics[:5]))
    return extended(report, *parts)


def member_curves(members: list[Member]) -> Table:
    """Held-out loss of each member by epoch."""
    losses = [{row["epoch"]: row["heldout_loss"] for row in member.rows if "heldout_loss" in row} for member in members]
    epochs = sorted(set().union(*losses))
    rows = tuple((epoch, *(by_epoch.get(epoch, float("nan")) for by_epoch in losses)) for epoch in epochs)
    columns = ("epoch", *(f"member {k}" for k in range(len(members))))
    return Table(title="held-out loss of each member", columns=columns, rows=rows, chart="line")


@torch.no_grad()
def renew_adapters(model: RewardModel, seed: int) -> None:
    """Other adapters to begin with: their A drawn anew, as peft draws it; B stays 0, so that the model is still the base's."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)


@torch.no_grad()
def _renew_head(model: RewardModel, seed: int) -> None:
    """A fresh head; the weights of the mean, where it is read, start at zero."""
    width = model.backbone.hidden_size
    model.head.weight.zero_()[:, :width].copy_(new_head(width, seed=seed).weight)


def _size(rewards_P2: np.ndarray) -> float:
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    return float(np.sqrt(np.mean(np.square(margins_P, dtype=np.float64)))) if len(margins_P) else 0.0
