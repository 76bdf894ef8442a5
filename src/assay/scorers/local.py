"""A reward model in this process. Completions are packed by a token budget; answers to one prompt share its computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from assay.console import say
from assay.data.packing import Group, PackedBatch, make_group, pack, pack_prefixes, siblings, split_group
from assay.data.render import Rendered, Renderer, warn_of_left_out
from assay.data.text_pair import TextPath
from assay.files import digest
from assay.models.artifact import load_artifact, verify_digest
from assay.models.checkpoints import load_published
from assay.models.device import ScoringPlan, pick_compute, plan_scoring
from assay.models.encoder import EncoderModel
from assay.models.ensemble_files import load_blocks, member_paths
from assay.models.kept_prompt import kept_bytes
from assay.models.prompt_states import PromptStates
from assay.models.reward_model import RewardModel
from assay.models.shared_trunk import SharedTrunk
from assay.records import Completion, Dtype, Rewards
from assay.run_files import ENSEMBLE, MemberScale, read_description, saved_scales, uncalibrated_fingerprint
from assay.scorers.base import Scope, Scorer, TokenCount
from assay.scorers.ensemble import Combination, Ensemble
from assay.scorers.wrappers.scaled import Scaled

# Largest change of a reward between two layouts of the same text, as a share of the head's norm (rewards grow with it): measured on
# SmolLM2-135M, with a margin. In bfloat16 five standard deviations: at 0.15 one answer in a hundred was outside.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.03}


PROMPT_BYTES = 1 << 28


class Trace(NamedTuple):
    """The tokens of an answer, as text, and the reward (T,) float32 of the answer up to each token."""

    tokens: tuple[str, ...]
    rewards: np.ndarray


class KnownTexts(Protocol):
    """Texts of which a model's states were computed before."""

    def find(self, model: Any, rendered: Sequence[Rendered]) -> tuple[np.ndarray, np.ndarray]:
        """Which of N rendered completions are known, (n,), and what the head of the model reads of them, (n, D) float32."""
        ...


class LocalScorer:
    """Scores with a `RewardModel`, or with K members at once.

    max_tokens: token budget of one forward, None for the fastest on this machine. combination: how K members become one reward;
    the rewards then have a std, which one member has not. plan: the budget, and the memory that scoring takes at most. head_norm:
    largest norm of a head; rewards grow with it. tolerance: see `Scorer`; from dtype and head norm. prompt_bytes: memory for the
    keys and values of earlier prompts, which `score` of a single completion reuses; 0 for none. assumed: of another's checkpoint,
    what -> how it is read. known: texts whose states are at hand; only the others are forwarded.
    """

    scope: Scope = "global"

    def __init__(
        self,
        model: RewardModel | SharedTrunk | EncoderModel,
        renderer: TextPath,
        *,
        identity: str,
        max_tokens: int | None = None,
        combination: Combination | None = None,
        scales: Sequence[MemberScale] = (),
        prompt_bytes: int = PROMPT_BYTES,
        assumed: Mapping[str, str] | None = None,
        known: KnownTexts | None = None,
    ) -> None:
        self.model, self.renderer, self.assumed, self.known = model.eval(), renderer, dict(assumed or {}), known
        heads_KD, dtype = model.head_weights.detach(), model.compute_dtype
        self.num_members = model.num_members
        self.combination = combination or Combination()
        self.scales_K2 = np.array(scales or [MemberScale()] * self.num_members, np.float32)
        parts = f"{identity}/{dtype}" + (f"/{self.combination}" if self.num_members > 1 else "")
        self.fingerprint = digest(parts)
        self.head_norm = float(heads_KD.norm(dim=1).max())
        tolerance = _TOLERANCE.get(dtype, 0.25) * max(1.0, self.head_norm) / float(self.scales_K2[:, 0].min())
        self.tolerance = self.combination.tolerance(tolerance) if self.num_members > 1 else tolerance
        layout = model.backbone.layout
        self.prompts: PromptStates | None = None
        if isinstance(model, RewardModel) and prompt_bytes > 0 and PromptStates.suits(model.backbone):
            self.prompts = PromptStates(model.backbone, prompt_bytes)
        in_rounds = isinstance(model, RewardModel) and model.backbone.keeps_prompts()
        self._last: tuple[Sequence[Completion], list[Rendered]] = ((), [])
        self.plan: ScoringPlan = plan_scoring(
            *model.backbone.activation_bytes(dtype),
            heads_KD.device,
            max_tokens=max_tokens,
            longest=renderer.max_length,
            cuts_groups=layout != "one row",
            kept_bytes=kept_bytes(model.backbone.config, dtype) if in_rounds else 0,
        )

    @property
    def closing(self) -> str:
        """See `closing_of`."""
        return self.renderer.closing

    @property
    def padding(self) -> tuple[str, ...]:
        """See `padding_of`."""
        return self.renderer.ends.marks if isinstance(self.renderer, Renderer) else ()

    @property
    def config(self) -> Any:
        """The model's configuration in transformers."""
        return self.model.backbone.config

    @property
    def computed_in(self) -> str:
        """Number format of the backbone, such as "float32"."""
        return str(self.model.compute_dtype).removeprefix("torch.")

    @property
    def max_tokens(self) -> int:
        return self.plan.max_tokens

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, the raw output of the head; of K members their combination, with its std. What cannot be
        rendered is NaN with the reason."""
        return self._combined(*self._rewards(completions))

    def score_with_states(self, completions: Sequence[Completion]) -> tuple[Rewards, np.ndarray]:
        """As `score`, and the (N, D) float32 hidden states that the head reads (of several members: the first one's head). They are
        NaN where there is no reward."""
        rendered = self.renderer.render(completions)
        warn_of_left_out(rendered)
        width = self.num_members + self.model.head_weights.shape[1]

        def both(batch: PackedBatch) -> torch.Tensor:
            rewards_RK, states_RD = self.model.forward_with_states(batch)
            return torch.cat([rewards_RK, states_RD.to(rewards_RK)], dim=1)

        with torch.inference_mode():
            found = self._run(both, completions, rendered, width)
        members_NK, states_ND = found[:, : self.num_members], found[:, self.num_members :]
        errors = _reasons(members_NK, rendered)
        states_ND[np.isnan(members_NK).any(axis=1)] = np.nan
        return self._combined(members_NK.T, errors), states_ND

    def states(self, completions: Sequence[Completion]) -> np.ndarray:
        """Hidden states (N, D) float32 at the rewarded tokens; see `score_with_states`."""
        return self.score_with_states(completions)[1]

    def trace(self, completion: Completion) -> Trace:
        """The reward of the answer up to each of its tokens, ended as the template ends an answer.

        It takes one forward where the backbone can branch: each end is a branch that sees the answer up to there. The last reward
        is that of `score`, within tolerance. Raises ValueError for a completion that is not messages and response, or cannot be
        rendered.
        """
        answer = self.renderer.answer_tokens(completion)
        model = self.model
        if not (isinstance(model, RewardModel) and model.backbone.can_branch and self.num_members == 1):
            closing, ends = answer.tokens[answer.end :], range(answer.start + 1, answer.end + 1)
            prefixes = [np.concatenate([answer.tokens[:stop], closing]).tolist() for stop in ends]
            completions = [Completion(token_ids=tuple(prefix)) for prefix in prefixes]
            return Trace(answer.pieces, self.score(completions).value)
        batch = pack_prefixes(answer.tokens, answer.start, answer.end)
        with torch.inference_mode():
            with model.backbone.autocast(model.compute_dtype):
                hidden_TD = model.backbone(batch, dense=True).flatten(0, 1)
            rewards_R1 = model.read(hidden_TD[torch.from_numpy(batch.reward_positions).to(hidden_TD.device)])
        return Trace(answer.pieces, rewards_R1[:, 0].float().cpu().numpy())

    def token_counts(self, completions: Sequence[Completion]) -> list[TokenCount]:
        """Tokens of N completions. Those of the last call of `score` are not rendered again."""
        known = {id(completion): item for completion, item in zip(*self._last, strict=True)}
        missing = [completion for completion in completions if id(completion) not in known]
        known |= {id(completion): item for completion, item in zip(missing, self.renderer.render(missing), strict=True)}
        found = [known[id(completion)] for completion in completions]
        return [TokenCount(len(item.tokens), item.is_cut) for item in found]

    def score_members(self, completions: Sequence[Completion]) -> np.ndarray:
        """N completions -> (K, N), the rewards of each member, on one scale."""
        return self._on_scale(self._rewards(completions)[0])

    def _on_scale(self, members_KN: np.ndarray) -> np.ndarray:
        return (members_KN - self.scales_K2[:, 1:]) / self.scales_K2[:, :1]

    def _combined(self, members_KN: np.ndarray, errors: tuple[str | None, ...]) -> Rewards:
        members_KN = self._on_scale(members_KN)
        value, std = (members_KN[0], None) if self.num_members == 1 else self.combination(members_KN)
        return Rewards(value=value, std=std, error=errors)

    def _rewards(self, completions: Sequence[Completion]) -> tuple[np.ndarray, tuple[str | None, ...]]:
        rendered = self.renderer.render(completions)
        self._last = (tuple(completions), rendered)
        warn_of_left_out(rendered)
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
        """(N, width) float32: a row of `forward` for each completion, the rewards first; NaN where there is none.

        A masked token has weight 0, and 0 times NaN is NaN: one sequence with NaN can spoil the others of its batch. Rewards that
        are not finite are therefore computed again in halves, down to single completions.
        """
        found = np.full((len(completions), width), np.nan, dtype=np.float32)
        if self.known is not None and isinstance(self.model, RewardModel):
            index, states_nD = self.known.find(self.model, rendered)
            states = torch.from_numpy(states_nD).to(self.model.head.weight.device)
            found[index] = torch.cat([self.model.read(states), states], dim=1)[:, :width].float().cpu().numpy()
            if len(index) and len(rest := np.setdiff1d(np.arange(len(completions)), index)):
                found[rest] = self._run(forward, [completions[i] for i in rest], [rendered[i] for i in rest], width)
            if len(index):
                return found
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
        """(K,) rewards of one answer; its prompt's keys and values are reused if they are still in memory."""
        model = self.model
        assert isinstance(model, RewardModel)
        with model.backbone.autocast(model.compute_dtype):
            state_1D = prompts.last_state(completion.messages, item.tokens[: item.reward_positions[-1] + 1])
        return model.read(state_1D)[0].float().cpu().numpy()

    def _batches(self, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> Iterator[tuple[PackedBatch, np.ndarray]]:
        """The batches to run, each with the completions that its reward positions belong to."""
        groups, places = self._groups(completions, rendered)
        for batch in pack(groups, self.max_tokens, pad_id=self.renderer.pad_id, layout=self.model.backbone.layout):
            yield batch, np.concatenate([places[index] for index in batch.order])

    def _groups(self, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> tuple[list[Group], list[list[int]]]:
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
            tokens, reward_positions = [rendered[i].tokens for i in indices], [rendered[i].reward_positions[-1:] for i in indices]
            for part in split_group(tokens, reward_positions, self.plan.group_tokens):
                groups.append(make_group([tokens[i] for i in part], [reward_positions[i] for i in part]))
                places.append([indices[i] for i in part])
        return groups, places


def _reasons(members_NK: np.ndarray, rendered: Sequence[Rendered]) -> tuple[str | None, ...]:
    """Why each of N completions has no reward. Rewards that are not finite become NaN, in place."""
    is_finite = np.atleast_1d(np.isfinite(members_NK).all(axis=1))
    members_NK[~is_finite] = np.nan
    not_finite = "the model gave a reward that is not finite"
    return tuple(item.error or (None if ok else not_finite) for item, ok in zip(rendered, is_finite, strict=True))


def saved_combination(description: Mapping[str, Any]) -> Combination | None:
    """The saved combination of an artifact's members; None for a single model."""
    ensemble = description.get(ENSEMBLE)
    return Combination(how=ensemble["combine"], penalty=ensemble["penalty"]) if ensemble else None


def load_local(
    path: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    combination: Combination | None = None,
    known: KnownTexts | None = None,
) -> LocalScorer:
    """The scorer of an artifact directory with one backbone, uncalibrated. Its K heads, if it has several, are combined by
    `combination` (as saved when left out). "auto" computes in bfloat16 where that is faster on this machine. known: see
    `LocalScorer`."""
    compute = pick_compute(device, dtype)
    artifact = load_artifact(path, dtype=compute.dtype, device=compute.device)
    combination = combination or saved_combination(artifact.description)
    return LocalScorer(
        artifact.model,
        artifact.renderer,
        identity=uncalibrated_fingerprint(path),
        max_tokens=max_tokens,
        combination=combination,
        scales=saved_scales(artifact.description),
        known=known,
    )


def load_unadopted(path: Path, *, dtype: Dtype = "auto", device: str = "auto", max_tokens: int | None = None) -> LocalScorer:
    """The scorer of another's checkpoint as it lies there. What had to be assumed is printed, and kept as `assumed`.

    Raises ValueError as `load_published`.
    """
    compute = pick_compute(device, dtype)
    loaded = load_published(path, dtype=compute.dtype, device=compute.device)
    for what, how in loaded.assumed.items():
        say(what, how)
    return LocalScorer(loaded.model, loaded.renderer, identity=loaded.identity, max_tokens=max_tokens, assumed=loaded.assumed)


def load_raw(
    path: Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    combination: Combination | None = None,
) -> LocalScorer | Ensemble:
    """The scorer of an artifact directory without its calibration: one model, K heads, or an ensemble."""
    description = read_description(path)
    if description.get("kind") != ENSEMBLE:
        return load_local(path, dtype=dtype, device=device, max_tokens=max_tokens, combination=combination)
    combination = combination or saved_combination(description)
    if description[ENSEMBLE]["form"] == "models":
        verify_digest(path)
        members = [load_local(member, dtype=dtype, device=device, max_tokens=max_tokens) for member in member_paths(path)]
        scaled = [_scaled(*both) for both in zip(members, saved_scales(description), strict=True)]
        return Ensemble(scaled, combination)
    compute = pick_compute(device, dtype)
    loaded = load_blocks(path, dtype=compute.dtype, device=compute.device)
    return LocalScorer(
        loaded.model,
        loaded.renderer,
        identity=uncalibrated_fingerprint(path),
        max_tokens=max_tokens,
        combination=combination,
        scales=saved_scales(description),
    )


def _scaled(member: LocalScorer, scale: MemberScale) -> Scorer:
    return member if scale == MemberScale() else Scaled(scorer=member, factor=1 / scale.unit, centre=scale.centre)
