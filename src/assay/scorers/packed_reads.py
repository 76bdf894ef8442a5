"""Completions through a model in packed batches: what it gives at each place that is read.

Shapes: N completions, R reads of all of them, row after row (none of a completion that could not be rendered).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from assay.data.tokens.packing import Group, PackedBatch, make_group, pack, siblings, spans, split_group
from assay.data.tokens.render import LOST, Rendered
from assay.models.device import ScoringPlan
from assay.models.heads import Head
from assay.models.reward_model import RewardModel
from assay.records import Completion

Forward = Callable[[PackedBatch], torch.Tensor]


class KnownTexts(Protocol):
    """Texts of which a model's states were computed before."""

    def find(self, model: Any, rendered: Sequence[Rendered]) -> tuple[np.ndarray, np.ndarray]:
        """Which of N rendered completions are known, (n,), and what the head of the model reads of them at all their reward
        positions, one completion after another, (r, D) float32."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedReads:
    """Runs a model over completions. plan: its budgets. pad_id: of rows. known: texts whose states are at hand."""

    model: Any
    head: Head
    plan: ScoringPlan
    pad_id: int
    known: KnownTexts | None = None

    def read(
        self, forward: Forward, completions: Sequence[Completion], rendered: Sequence[Rendered], *, width: int, num_rewards: int
    ) -> np.ndarray:
        """(R, width) float32: what `forward` gives at each read, the rewards first; NaN where a read was cut off.

        A masked token has weight 0, and 0 times NaN is NaN: one sequence with NaN can spoil the others of its batch. Rewards that
        are not finite are therefore computed again in halves, down to single completions, and of these up to the last read that has
        one. A text that stands there twice is forwarded once.
        """
        sizes_N = num_reads(rendered)
        once, twin_N = distinct_texts(rendered)
        if len(once) < len(rendered):
            distinct = [completions[i] for i in once], [rendered[i] for i in once]
            found = self.read(forward, *distinct, width=width, num_rewards=num_rewards)
            return found[spans((np.cumsum(sizes_N[once]) - sizes_N[once])[twin_N], sizes_N)]
        first_N = np.cumsum(sizes_N) - sizes_N
        found = np.full((int(sizes_N.sum()), width), np.nan, dtype=np.float32)

        def again(part: np.ndarray) -> None:
            rest = [rendered[i] for i in part], [completions[i] for i in part]
            found[spans(first_N[part], sizes_N[part])] = self.read(forward, rest[1], rest[0], width=width, num_rewards=num_rewards)

        if self.known is not None and isinstance(self.model, RewardModel):
            index, states_rD = self.known.find(self.model, rendered)
            if len(index):
                states = torch.from_numpy(states_rD).to(self.model.head.weight.device)
                rewards = self.head.rewards(self.model.read(states))
                found[_present(rendered, first_N, index)] = torch.cat([rewards, states], dim=1)[:, :width].float().cpu().numpy()
                if len(rest := np.setdiff1d(np.arange(len(completions)), index)):
                    again(rest)
                return found
        for batch, members in self._batches(completions, rendered):
            places = [_present(rendered, first_N, [i]) for i in members]
            found[np.concatenate(places)] = forward(batch).float().cpu().numpy()
            bad = [i for i, own in zip(members, places, strict=True) if not np.isfinite(found[own, :num_rewards]).all()]
            if len(members) > 1:
                for part in np.array_split(np.array(bad, np.int64), 2):
                    if len(part):
                        again(part)
            elif bad and len(places[0]) > 1:
                start = self._finite_start(forward, completions[bad[0]], rendered[bad[0]], width, num_rewards)
                found[places[0][: len(start)]] = start
        return found

    def _finite_start(self, forward: Forward, completion: Completion, item: Rendered, width: int, num_rewards: int) -> np.ndarray:
        """(r, width): what `forward` gives at the first reads of one completion, as many as are finite without what stands behind
        them; found by halving."""
        reads = present_reads(item)
        found, num_fine, num_spoilt = np.empty((0, width), np.float32), 0, len(reads)
        while num_spoilt - num_fine > 1:
            num = (num_fine + num_spoilt) // 2
            begun = item._replace(tokens=item.tokens[: reads[num - 1] + 1], reward_positions=reads[:num])
            ((batch, _),) = self._batches([completion], [begun])
            rows = forward(batch).float().cpu().numpy()
            if np.isfinite(rows[:, :num_rewards]).all():
                found, num_fine = rows, num
            else:
                num_spoilt = num
        return found

    def _batches(self, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> Iterator[tuple[PackedBatch, list[int]]]:
        """The batches to run, each with the completions that its reads belong to, in their order."""
        groups, places = self.groups(completions, rendered)
        layout = self.model.backbone.layout
        for batch in pack(groups, self.plan.max_tokens, pad_id=self.pad_id, layout=layout):
            yield batch, [i for index in batch.order for i in places[index]]

    def groups(self, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> tuple[list[Group], list[list[int]]]:
        """Answers to one prompt as one group (in parts when over the budget), and the completions of each group."""
        can_branch = self.model.backbone.can_branch
        by_prompt: dict[object, list[int]] = {}
        rendered_alone: list[int] = []
        for i, (completion, item) in enumerate(zip(completions, rendered, strict=True)):
            if item.error is None and (completion.response is not None or not can_branch):
                by_prompt.setdefault(completion.messages if can_branch else i, []).append(i)
            elif item.error is None:
                rendered_alone.append(i)
        alike = [[rendered_alone[k] for k in group] for group in siblings([rendered[i].tokens for i in rendered_alone])]
        groups, places = [], []
        for indices in [*by_prompt.values(), *alike]:
            tokens, reads = [rendered[i].tokens for i in indices], [present_reads(rendered[i]) for i in indices]
            for part in split_group(tokens, reads, self.plan.group_tokens):
                groups.append(make_group([tokens[i] for i in part], [reads[i] for i in part]))
                places.append([indices[i] for i in part])
        return groups, places


def num_reads(rendered: Sequence[Rendered]) -> np.ndarray:
    """(N,): reads of each completion, those that were cut off among them."""
    return np.array([len(item.reward_positions) for item in rendered], dtype=np.int64)


def present_reads(item: Rendered) -> np.ndarray:
    """The reward positions of a completion that are read."""
    return item.reward_positions[item.reward_positions != LOST]


def distinct_texts(rendered: Sequence[Rendered]) -> tuple[np.ndarray, np.ndarray]:
    """Of N completions the M first ones of equal tokens and reads, in their order, (M,), and the place among them of each, (N,)."""
    place: dict[tuple[bytes, bytes], int] = {}
    twins = [place.setdefault((item.tokens.tobytes(), item.reward_positions.tobytes()), len(place)) for item in rendered]
    twin_N = np.array(twins, np.int64)
    return np.unique(twin_N, return_index=True)[1], twin_N


def at_last_read(found_RW: np.ndarray, rendered: Sequence[Rendered]) -> np.ndarray:
    """(N, W): what was found at the last read of each completion; NaN where there is none."""
    sizes_N = num_reads(rendered)
    found = np.full((len(rendered), found_RW.shape[1]), np.nan, dtype=np.float32)
    found[sizes_N > 0] = found_RW[np.cumsum(sizes_N)[sizes_N > 0] - 1]
    return found


def _present(rendered: Sequence[Rendered], first_N: np.ndarray, index: Sequence[int] | np.ndarray) -> np.ndarray:
    """Rows of the reads of some completions that were not cut off, one completion after another."""
    rows = [first_N[i] + np.flatnonzero(rendered[i].reward_positions != LOST) for i in index]
    return np.concatenate(rows) if rows else np.empty(0, np.int64)
