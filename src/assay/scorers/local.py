"""A reward model in this process: any number of completions in any order, prompts shared, packed by a token budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.data.packing import Group, PackedBatch, make_group, pack, siblings, split_group, stops
from assay.data.render import Rendered, Renderer
from assay.models.artifact import ENSEMBLE, fingerprint, load_artifact
from assay.models.device import Dtype, ScoringPlan, pick_compute, plan_scoring
from assay.models.members import SharedTrunk
from assay.models.prompt_states import PromptStates
from assay.models.reward_model import RewardModel
from assay.records import Completion, Rewards
from assay.scorers.base import Scope
from assay.scorers.ensemble import Combination

# Largest change of a reward between two layouts of the same text, as a share of the head's norm (rewards grow with it): what was
# measured on SmolLM2-135M, with room to spare.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.03}


PROMPT_BYTES = 1 << 28


class Trace(NamedTuple):
    """The tokens of an answer, as text, and the reward (T,) float32 that it would have if it stopped there."""

    tokens: tuple[str, ...]
    rewards: np.ndarray


class LocalScorer:
    """Scores with a `RewardModel`, or with K members at once.

    max_tokens: token budget of one forward, None for what the machine takes best. combination: of K members, whose std is a
    column then; for one member there is none. plan: the budget, and the memory that scoring takes at most. head_norm: largest norm
    of a head, which rewards grow with. tolerance: see `Scorer`; from dtype and head norm. prompt_bytes: memory for the keys and
    values of prompts, which an answer that arrives alone (`score` of one completion) does not compute again; 0 for none.
    """

    scope: Scope = "global"

    def __init__(
        self,
        model: RewardModel | SharedTrunk,
        renderer: Renderer,
        *,
        identity: str,
        max_tokens: int | None = None,
        combination: Combination | None = None,
        prompt_bytes: int = PROMPT_BYTES,
    ) -> None:
        self.model, self.renderer = model.eval(), renderer
        heads_KD, dtype = model.head_weights.detach(), model.compute_dtype
        self.num_members = len(heads_KD)
        self.combination = combination or Combination()
        parts = f"{identity}/{dtype}" + (f"/{self.combination}" if self.num_members > 1 else "")
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:32]
        self.head_norm = float(heads_KD.norm(dim=1).max())
        tolerance = _TOLERANCE.get(dtype, 0.15) * max(1.0, self.head_norm)
        self.tolerance = self.combination.tolerance(tolerance) if self.num_members > 1 else tolerance
        layout = model.backbone.layout
        suits = isinstance(model, RewardModel) and prompt_bytes > 0 and PromptStates.suits(model.backbone)
        self.prompts = PromptStates(model.backbone, prompt_bytes) if suits else None
        self.plan: ScoringPlan = plan_scoring(
            *model.backbone.activation_bytes(dtype),
            heads_KD.device,
            max_tokens=max_tokens,
            longest=renderer.max_length,
            cuts_groups=layout != "one row",
        )

    @property
    def closing(self) -> str:
        """See `closing_of`."""
        return self.renderer.closing

    @property
    def max_tokens(self) -> int:
        return self.plan.max_tokens

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, the raw output of the head; of K members their combination, with its std. Unrenderable
        items are NaN with the reason."""
        members_KN, errors = self._rewards(completions)
        value, std = (members_KN[0], None) if self.num_members == 1 else self.combination(members_KN)
        return Rewards(value=value, std=std, error=errors)

    def score_with_states(self, completions: Sequence[Completion]) -> tuple[Rewards, np.ndarray]:
        """As `score`, and (N, D) float32 hidden states that the head reads, of several members the first one's; NaN where there is
        no reward."""
        rendered = self.renderer.render(completions)
        width = self.num_members + self.model.head_weights.shape[1]

        def both(batch: PackedBatch) -> torch.Tensor:
            rewards_RK, states_RD = self.model.forward_with_states(batch)
            return torch.cat([rewards_RK, states_RD.to(rewards_RK)], dim=1)

        with torch.inference_mode():
            found = self._run(both, completions, rendered, width)
        members_NK, states_ND = found[:, : self.num_members], found[:, self.num_members :]
        errors = _reasons(members_NK, rendered)
        states_ND[np.isnan(members_NK).any(axis=1)] = np.nan
        value, std = (members_NK[:, 0], None) if self.num_members == 1 else self.combination(members_NK.T)
        return Rewards(value=value, std=std, error=errors), states_ND

    def states(self, completions: Sequence[Completion]) -> np.ndarray:
        """Hidden states (N, D) float32 at the rewarded tokens; see `score_with_states`."""
        return self.score_with_states(completions)[1]

    def trace(self, completion: Completion) -> Trace:
        """The reward that the answer would have if it stopped at each of its tokens, closed as the template closes an answer.

        One forward where the backbone can branch: each closing is a branch that sees the answer so far. The last reward is that of
        `score`, within tolerance. Raises ValueError for a completion that is not messages and response, or cannot be rendered.
        """
        answer = self.renderer.answer_tokens(completion)
        model = self.model
        if not (isinstance(model, RewardModel) and model.backbone.can_branch and self.num_members == 1):
            closing, ends = answer.tokens[answer.end :], range(answer.start + 1, answer.end + 1)
            prefixes = [np.concatenate([answer.tokens[:stop], closing]).tolist() for stop in ends]
            completions = [Completion(token_ids=tuple(prefix)) for prefix in prefixes]
            return Trace(answer.pieces, self.score(completions).value)
        batch, dtype = stops(answer.tokens, answer.start, answer.end), model.compute_dtype
        device = model.head.weight.device
        with torch.inference_mode():
            with torch.autocast(device.type, dtype, enabled=dtype != model.backbone.dtype):
                hidden_TD = model.backbone(batch, dense=True).flatten(0, 1)
            rewards_R1 = model.read(hidden_TD[torch.from_numpy(batch.reads).to(device)])
        return Trace(answer.pieces, rewards_R1[:, 0].float().cpu().numpy())

    def score_members(self, completions: Sequence[Completion]) -> np.ndarray:
        """N completions -> (K, N), what each member says."""
        return self._rewards(completions)[0]

    def _rewards(self, completions: Sequence[Completion]) -> tuple[np.ndarray, tuple[str | None, ...]]:
        rendered = self.renderer.render(completions)
        comes_alone = len(completions) == 1 and bool(completions[0].messages) and rendered[0].error is None
        with torch.inference_mode():
            if comes_alone and self.prompts is not None:
                members_NK = self._after_prompt(self.prompts, completions[0], rendered[0])[None]
            else:
                members_NK = self._run(self.model, completions, rendered, self.num_members)
        return members_NK.T, _reasons(members_NK, rendered)

    def _run(
        self,
        forward: Callable[[PackedBatch], torch.Tensor],
        completions: Sequence[Completion],
        rendered: Sequence[Rendered],
        width: int,
    ) -> np.ndarray:
        """(N, width) float32 of `forward`, which gives a row for each read, the rewards first; NaN where there is none.

        A token that is not seen has weight 0, and 0 times NaN is NaN: a sequence with NaN inside can spoil those in its batch. What
        is not finite is therefore run again in halves, down to each alone.
        """
        found = np.full((len(completions), width), np.nan, dtype=np.float32)
        for batch, index in self._batches(completions, rendered):
            found[index] = forward(batch).float().cpu().numpy()
            is_finite = np.isfinite(found[index, : self.num_members]).all(axis=1)
            if is_finite.all() or len(index) == 1:
                continue
            for part in np.array_split(index[~is_finite], 2):
                if len(part):
                    found[part] = self._run(forward, [completions[i] for i in part], [rendered[i] for i in part], width)
        return found

    def _after_prompt(self, prompts: PromptStates, completion: Completion, item: Rendered) -> np.ndarray:
        """(K,) rewards of one answer, behind its prompt's keys and values where they are still there."""
        model = self.model
        assert isinstance(model, RewardModel)
        dtype, device = model.compute_dtype, model.head.weight.device
        with torch.autocast(device.type, dtype, enabled=dtype != model.backbone.dtype):
            state_1D = prompts.last_state(completion.messages, item.tokens[: item.reads[-1] + 1])
        return model.read(state_1D)[0].float().cpu().numpy()

    def _batches(self, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> Iterator[tuple[PackedBatch, np.ndarray]]:
        """What is run, and which completions the reads of each batch are."""
        groups, places = self._groups(completions, rendered)
        for batch in pack(groups, self.max_tokens, pad_id=self.renderer.pad_id, layout=self.model.backbone.layout):
            yield batch, np.concatenate([places[index] for index in batch.order])

    def _groups(self, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> tuple[list[Group], list[list[int]]]:
        """Answers to one prompt as one group (in parts when over the budget), and which completions each group holds."""
        can_branch = self.model.backbone.can_branch
        by_prompt: dict[object, list[int]] = {}
        untold: list[int] = []
        for i, (completion, item) in enumerate(zip(completions, rendered, strict=True)):
            if item.error is None and (completion.response is not None or not can_branch):
                by_prompt.setdefault(completion.messages if can_branch else i, []).append(i)
            elif item.error is None:
                untold.append(i)
        alike = [[untold[k] for k in group] for group in siblings([rendered[i].tokens for i in untold])]
        groups, places = [], []
        for indices in [*by_prompt.values(), *alike]:
            tokens, reads = [rendered[i].tokens for i in indices], [rendered[i].reads[-1:] for i in indices]
            for part in split_group(tokens, reads, self.plan.group_tokens):
                groups.append(make_group([tokens[i] for i in part], [reads[i] for i in part]))
                places.append([indices[i] for i in part])
        return groups, places


def _reasons(members_NK: np.ndarray, rendered: Sequence[Rendered]) -> tuple[str | None, ...]:
    """Why each of N completions has no reward. What is not finite becomes NaN, in place."""
    is_finite = np.atleast_1d(np.isfinite(members_NK).all(axis=1))
    members_NK[~is_finite] = np.nan
    not_finite = "the model gave a reward that is not finite"
    return tuple(item.error or (None if ok else not_finite) for item, ok in zip(rendered, is_finite, strict=True))


def saved_combination(description: Mapping[str, Any]) -> Combination | None:
    """How the members of an artifact are combined, as it was saved; None for a single model."""
    ensemble = description.get(ENSEMBLE)
    return Combination(how=ensemble["combine"], penalty=ensemble["penalty"]) if ensemble else None


def load_local(
    path: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    combination: Combination | None = None,
) -> LocalScorer:
    """The scorer of an artifact directory with one backbone, uncalibrated; K members on it, if it has them, as `combination` says
    (as saved when left out). "auto" computes in bfloat16 where the machine gains by it."""
    compute = pick_compute(device, dtype)
    artifact = load_artifact(path, dtype=compute.dtype, device=compute.device)
    combination = combination or saved_combination(artifact.description)
    identity = fingerprint({**artifact.description, "calibration": None})  # a calibration leaves the rewards as they are
    return LocalScorer(artifact.model, artifact.renderer, identity=identity, max_tokens=max_tokens, combination=combination)
