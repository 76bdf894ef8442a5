"""K members in one run: each fitted from the same start, brought to one scale, saved as one artifact.

What the members share depends on what is trained: K heads on one backbone (--params head), last blocks over one frozen trunk
(blocks:K), or nothing (full). Suffixes: K members, P pairs, 2 chosen and rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.data.table import PairTable
from assay.evaluation.uncertainty import diversity
from assay.models.member_files import finish_ensemble, new_ensemble, save_member
from assay.models.reward_model import RewardModel, new_head
from assay.records import Report, Table
from assay.scorers.ensemble import Combination
from assay.train.loop import fit, reward_pairs
from assay.workflows.prepare import Prepared
from assay.workflows.settings import Members, parse_params
from assay.workflows.show import progress, say

MEMBER_RUNS = "members"  # of a run directory: metrics and checkpoints of each member


class Member(NamedTuple):
    """One fitted member. rows: of its metrics.jsonl; rewards_P2: of the rows that were asked for, on the common scale."""

    rows: list[dict[str, Any]]
    rewards_P2: np.ndarray


def combination_of(members: Members) -> Combination:
    return Combination(how=members.combine, penalty=members.penalty)


def fit_members(prepared: Prepared, train_rows: np.ndarray, heldout_rows: np.ndarray, looked_at: np.ndarray) -> Iterator[Member]:
    """Fit one member after another; while one is yielded, `prepared.whole` is that member.

    heldout_rows: looked at after each epoch, and what the scale is measured on; with none, the training pairs. looked_at: rows to
    reward. Every member starts from the same parameters with a head of its own and an order of its own; heads alone (--params
    head) differ too little by that, and each is fitted to its own bootstrap of the pairs. Margins are brought to the root mean
    square of the first member's, since the mean of members on unlike scales is that of the largest.
    """
    config, loop = prepared.config, prepared.derived.loop
    trained = {name: value for name, value in prepared.model.named_parameters() if value.requires_grad}
    start = {name: value.detach().clone() for name, value in trained.items()}
    scaled_on = heldout_rows if len(heldout_rows) else train_rows
    first_size = None
    for number in range(config.members.ensemble):
        seed = config.seed + number
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(start[name])
            if config.init_from is None:
                prepared.model.head.weight.copy_(new_head(prepared.model.head.in_features, seed=seed).weight)
        rows = train_rows
        if parse_params(config.params)[0] == "head":
            rows = np.sort(np.random.default_rng([seed, 11]).choice(train_rows, len(train_rows)))
        with progress(f"member {number}", loop.num_steps(len(rows)), "steps") as advance:
            reached = 0

            def on_step(row: dict[str, Any]) -> None:
                nonlocal reached
                advance(row["step"] - reached)
                reached = row["step"]

            log = fit(
                prepared.model,
                prepared.source,
                rows,
                replace(loop, seed=seed),
                heldout_rows=heldout_rows,
                run_dir=config.out / MEMBER_RUNS / str(number),
                resume=config.resume,
                identity=f"{prepared.identity}/{number}",
                on_step=on_step,
            )
        asked = np.union1d(scaled_on, looked_at)
        rewards_P2 = reward_pairs(prepared.model, prepared.source, asked)
        size = _size(rewards_P2[np.searchsorted(asked, scaled_on)])
        first_size = first_size or size
        scale = first_size / size if size > 0 else 1.0
        with torch.no_grad():
            prepared.model.head.weight.mul_(scale)
        yield Member(log, rewards_P2[np.searchsorted(asked, looked_at)] * scale)


def save_members(
    prepared: Prepared, path: Path, description: dict[str, Any], members: Iterator[Member], train_prompts: np.ndarray
) -> list[Member]:
    """Fit and save members that do not share a backbone, one at a time: only one is in memory."""
    mode, num_blocks = parse_params(prepared.config.params)
    backbone = prepared.whole.backbone.model
    own = [name for name, value in backbone.named_parameters() if value.requires_grad] if mode == "blocks" else None
    asked = prepared.config.members
    kept = []
    with new_ensemble(path) as work:
        for number, member in enumerate(members):
            save_member(work, number, prepared.whole, prepared.renderer, description, own=own, dtype=prepared.saved_dtype)
            kept.append(member)
        finish_ensemble(
            work,
            description,
            form="blocks" if own is not None else "models",
            num_members=asked.ensemble,
            combine=asked.combine,
            penalty=asked.penalty,
            num_blocks=num_blocks,
            train_prompts=train_prompts,
        )
    return kept


def gather_heads(prepared: Prepared, members: Iterator[Member]) -> tuple[RewardModel, list[Member]]:
    """Fit heads on one backbone; returns the model of all of them."""
    kept, heads = [], []
    for member in members:
        kept.append(member)
        heads.append(prepared.whole.head.weight.detach().clone())
    whole = prepared.whole
    head = torch.nn.Linear(whole.head.in_features, len(heads), bias=False, dtype=torch.float32).to(whole.head.weight.device)
    with torch.no_grad():
        head.weight.copy_(torch.cat(heads))
    return RewardModel(whole.backbone, head, compute_dtype=whole.compute_dtype), kept


def with_diversity(report: Report, members_KP2: np.ndarray, rows: np.ndarray, table: PairTable, asked: Members) -> Report:
    """The report with what the members of the ensemble say on the pairs at `rows` (the calibration split)."""
    parts = diversity(members_KP2, table.preference[rows], table.prompt[rows], combination_of(asked))
    say("ensemble", "; ".join(f"{metric.name} {metric.value:.3f}" for metric in parts.metrics[:5]))
    return replace(
        report,
        metrics=(*report.metrics, *parts.metrics),
        tables=(*report.tables, *parts.tables),
        findings=(*report.findings, *parts.findings),
    )


def member_curves(members: list[Member]) -> Table:
    """Held-out loss of each member by epoch."""
    looks = [{row["epoch"]: row["heldout_loss"] for row in member.rows if "heldout_loss" in row} for member in members]
    epochs = sorted(set().union(*looks))
    rows = tuple((epoch, *(look.get(epoch, float("nan")) for look in looks)) for epoch in epochs)
    columns = ("epoch", *(f"member {k}" for k in range(len(members))))
    return Table(title="held-out loss of each member", columns=columns, rows=rows, chart="line")


def _size(rewards_P2: np.ndarray) -> float:
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    return float(np.sqrt(np.mean(np.square(margins_P, dtype=np.float64)))) if len(margins_P) else 0.0
