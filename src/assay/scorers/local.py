"""A reward model in this process. Completions are packed by a token budget; answers to one prompt share its computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.console import say
from assay.data.tokens.packing import PackedBatch, pack_prefixes
from assay.data.tokens.render import LOST, Rendered, Renderer, read_at_end, warn_of_left_out
from assay.data.tokens.text_pair import TextPath
from assay.files import digest
from assay.models.device import ScoringPlan, pick_compute, plan_scoring
from assay.models.encoder import EncoderModel
from assay.models.growing_states import GrowingStates
from assay.models.heads import head_of
from assay.models.kept_prompt import kept_bytes
from assay.models.prompt_states import PromptStates
from assay.models.published.checkpoints import load_published
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import load_artifact, verify_digest
from assay.models.saved.ensemble_files import load_blocks, member_paths
from assay.models.saved.step_policy import StepPolicy
from assay.models.shared_trunk import SharedTrunk
from assay.records import Completion, Dtype, Rewards
from assay.run_files import ENSEMBLE, MemberScale, read_description, saved_scales, uncalibrated_fingerprint
from assay.scorers.base import Scope, Scorer, TokenCount
from assay.scorers.ensemble import Combination, Ensemble
from assay.scorers.packed_reads import Forward, KnownTexts, PackedReads, at_last_read, num_reads, present_reads
from assay.scorers.steps.step_rewards import step_rewards, without_rendered
from assay.scorers.wrappers.scaled import Scaled
from assay.stats.steps.step_meaning import StepMeaning

# Largest change of a reward between two layouts of the same text, as a share of the head's norm (rewards grow with it): measured on
# SmolLM2-135M, with a margin. In bfloat16 five standard deviations: at 0.15 one answer in a hundred was outside.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.03}


PROMPT_BYTES = 1 << 28


class Trace(NamedTuple):
    """The tokens of an answer, as text, and the reward (T,) float32 of the answer up to each token."""

    tokens: tuple[str, ...]
    rewards: np.ndarray


class LocalScorer:
    """Scores with a `RewardModel`, or with K members at once; with one that reads steps, all steps of a solution in one forward.

    max_tokens: token budget of one forward, None for the fastest on this machine. combination: how K members become one reward;
    the rewards then have a std, which one member has not. plan: the budget, and the memory that scoring takes at most. head_norm:
    largest norm of a head; rewards grow with it. tolerance: see `Scorer`; from dtype and head norm. prompt_bytes: memory for the
    keys and values of earlier prompts, which `score` of a single completion reuses; 0 for none. assumed: of another's checkpoint,
    what -> how it is read. known: texts whose states are at hand; only the others are forwarded. policy: of a model that reads
    steps, how; the steps of its rewards are log-odds.
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
        policy: StepPolicy | None = None,
    ) -> None:
        self.model, self.renderer, self.assumed, self.known = model.eval(), renderer, dict(assumed or {}), known
        self.head, self.policy = head_of(model.outputs), policy or StepPolicy()
        heads_KD, dtype = self.head.slopes(model.head_weights.detach()), model.compute_dtype
        self.num_members = len(heads_KD)
        self.combination = combination or Combination()
        self.scales_K2 = np.array(scales or [MemberScale()] * self.num_members, np.float32)
        parts = f"{identity}/{dtype}" + (f"/{self.combination.entry}" if self.num_members > 1 else "")
        self.fingerprint = digest(parts + (f"/{self.policy}" if self.head.reads_steps else ""))
        self.head_norm = float(heads_KD.norm(dim=1).max())
        tolerance = _TOLERANCE.get(dtype, 0.25) * max(1.0, self.head_norm) / float(self.scales_K2[:, 0].min())
        self.step_tolerance = tolerance
        if self.head.reads_steps:
            self.tolerance = self.policy.tolerance(tolerance)
        else:
            self.tolerance = self.combination.tolerance(tolerance) if self.num_members > 1 else tolerance
        layout = model.backbone.layout
        self.prompts: PromptStates | GrowingStates | None = None
        if isinstance(model, RewardModel) and prompt_bytes > 0 and PromptStates.suits(model.backbone):
            keeping = GrowingStates if self.head.reads_steps else PromptStates
            self.prompts = keeping(model.backbone, prompt_bytes)
        self.grows_faster = isinstance(self.prompts, GrowingStates) and heads_KD.device.type == "cpu"
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
        """N completions -> N rewards, the raw output of the head; of K members their combination, with its std; of steps the
        log-odds of each, and their reduction. What cannot be rendered is NaN with the reason."""
        completions, rendered = self._render(completions)
        comes_alone = len(completions) == 1 and bool(completions[0].messages) and rendered[0].error is None
        with torch.inference_mode():
            if comes_alone and self.prompts is not None:
                found_RM = self._after_prompt(self.prompts, completions[0], rendered[0])
            else:
                found_RM = self._read(self._forward, completions, rendered, self.num_members)
        return self._rewards(found_RM, completions, rendered)

    def grow(self, completions: Sequence[Completion]) -> Rewards:
        """As `score`, one after another, each from where it leaves a solution that was scored so before: for search, whose
        candidates are those with one more step. Where the backbone keeps no states it is `score`."""
        if self.prompts is None or not self.head.reads_steps:
            return self.score(completions)
        completions, rendered = self._render(completions)
        parts = [np.empty((0, self.num_members), np.float32)]
        with torch.inference_mode():
            for completion, item in zip(completions, rendered, strict=True):
                if item.error is None:
                    parts.append(self._after_prompt(self.prompts, completion, item))
        return self._rewards(np.concatenate(parts), completions, rendered)

    @property
    def step_threshold(self) -> float:
        """Log-odds above which a step is taken to be right: its calibrated probability is above one half. NaN where the head reads
        no steps."""
        return self.policy.threshold if self.head.reads_steps else float("nan")

    @property
    def step_meaning(self) -> StepMeaning | None:
        """Log-odds, and how they were calibrated."""
        policy = self.policy
        return StepMeaning(True, policy.scale, policy.shift, policy.threshold) if self.head.reads_steps else None

    def step_probability(self, rewards_S: np.ndarray) -> np.ndarray:
        """Calibrated P(right) of the rewards of steps, (S,) float64 in [0, 1]; NaN stays NaN."""
        return self.policy.right(rewards_S)

    @property
    def token_labels(self) -> tuple[str, ...]:
        """Names of what the model says of a token; () for a model that gives one reward."""
        return tuple(self.head.labels(len(self.model.head_weights))) if self.head.reads_steps else ()

    def token_logits(self, completions: Sequence[Completion]) -> list[np.ndarray | str]:
        """Of each of N completions, in whatever form, the logits (T, labels) float32 of all its tokens, as plain transformers gives
        them; or why there are none, as for one that is longer than the limit."""
        rendered = self.renderer.render([replace(one, steps=None) if one.response is not None else one for one in completions])
        longest = f"more than the limit of {self.renderer.max_length} tokens: give the beginning alone"
        errors = [item.error or (longest if item.is_cut else None) for item in rendered]
        none = np.empty(0, np.int32)
        whole = [
            item._replace(reward_positions=np.arange(len(item.tokens), dtype=np.int32))
            if error is None
            else Rendered(none, none, error=error)
            for item, error in zip(rendered, errors, strict=True)
        ]
        width = len(self.token_labels)
        with torch.inference_mode():
            found = replace(self.packed, known=None).read(self.model, completions, whole, width=width, num_rewards=width)
        parts = np.split(found, np.cumsum(num_reads(whole))[:-1]) if completions else []
        return [part if error is None else error for part, error in zip(parts, errors, strict=True)]

    def score_with_states(self, completions: Sequence[Completion]) -> tuple[Rewards, np.ndarray]:
        """As `score`, and the (N, D) float32 hidden states that the head reads (of several members: the first one's head; of steps:
        of the last one). They are NaN where there is no reward."""
        completions, rendered = self._render(completions)
        width = self.num_members + self.model.head_weights.shape[1]

        def both(batch: PackedBatch) -> torch.Tensor:
            outputs_RK, states_RD = self.model.forward_with_states(batch)
            return torch.cat([self.head.rewards(outputs_RK), states_RD.to(outputs_RK)], dim=1)

        with torch.inference_mode():
            found = self._read(both, completions, rendered, width)
        rewards = self._rewards(found[:, : self.num_members], completions, rendered)
        states_ND = at_last_read(found[:, self.num_members :], rendered)
        states_ND[~rewards.ok] = np.nan
        return rewards, states_ND

    def states(self, completions: Sequence[Completion]) -> np.ndarray:
        """Hidden states (N, D) float32 at the rewarded tokens; see `score_with_states`."""
        return self.score_with_states(completions)[1]

    def trace(self, completion: Completion) -> Trace:
        """The reward of the answer up to each of its tokens, ended as the template ends an answer; of a model that reads steps the
        log-odds of a step that ends there, without an end.

        It takes one forward where the backbone can branch: each end is a branch that sees the answer up to there. The last reward
        is that of `score`, within tolerance. Raises ValueError for a completion that is not messages and response, or cannot be
        rendered.
        """
        answer = self.renderer.answer_tokens(completion)
        model = self.model
        if self.head.reads_steps:
            answer = answer._replace(tokens=answer.tokens[: answer.end])
        if not (isinstance(model, RewardModel) and model.backbone.can_branch and self.num_members == 1):
            closing, ends = answer.tokens[answer.end :], range(answer.start + 1, answer.end + 1)
            prefixes = [np.concatenate([answer.tokens[:stop], closing]).tolist() for stop in ends]
            completions = [Completion(token_ids=tuple(prefix)) for prefix in prefixes]
            rendered = self.renderer.render(completions)
            with torch.inference_mode():
                found_RM = self._read(self._forward, completions, rendered, self.num_members)
            return Trace(answer.pieces, self._combined(at_last_read(found_RM, rendered), rendered).value)
        batch = pack_prefixes(answer.tokens, answer.start, answer.end)
        with torch.inference_mode():
            with model.backbone.autocast(model.compute_dtype):
                hidden_TD = model.backbone(batch, dense=True).flatten(0, 1)
            outputs_RK = model.read(hidden_TD[torch.from_numpy(batch.reward_positions).to(hidden_TD.device)])
        return Trace(answer.pieces, self.head.rewards(outputs_RK)[:, 0].float().cpu().numpy())

    def token_counts(self, completions: Sequence[Completion]) -> list[TokenCount]:
        """Tokens of N completions. Those of the last call of `score` are not rendered again."""
        known = {id(completion): item for completion, item in zip(*self._last, strict=True)}
        missing = [completion for completion in completions if id(completion) not in known]
        known |= {id(completion): item for completion, item in zip(missing, self.renderer.render(missing), strict=True)}
        found = [known[id(completion)] for completion in completions]
        return [TokenCount(len(item.tokens), item.is_cut) for item in found]

    def score_members(self, completions: Sequence[Completion]) -> np.ndarray:
        """N completions -> (K, N), the rewards of each member, on one scale."""
        completions, rendered = self._render(completions)
        with torch.inference_mode():
            found_RM = self._read(self._forward, completions, rendered, self.num_members)
        members_NM = at_last_read(found_RM, rendered)
        _reasons(members_NM, rendered)
        return self._on_scale(members_NM.T)

    def _on_scale(self, members_KN: np.ndarray) -> np.ndarray:
        return (members_KN - self.scales_K2[:, 1:]) / self.scales_K2[:, :1]

    def _rewards(self, found_RM: np.ndarray, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> Rewards:
        if self.head.reads_steps:
            return step_rewards(found_RM[:, 0], completions, rendered, self.policy)
        return self._combined(at_last_read(found_RM, rendered), rendered)

    def _combined(self, members_NK: np.ndarray, rendered: Sequence[Rendered]) -> Rewards:
        errors = _reasons(members_NK, rendered)
        members_KN = self._on_scale(members_NK.T)
        value, std = (members_KN[0], None) if self.num_members == 1 else self.combination(members_KN)
        return Rewards(value=value, std=std, error=errors)

    def _render(self, completions: Sequence[Completion]) -> tuple[list[Completion], list[Rendered]]:
        """The completions, in steps where the head reads steps, and their tokens with the places that it reads."""
        given = tuple(completions)
        cut = self.policy.in_steps(given) if self.head.reads_steps else list(given)
        rendered = self.renderer.render(cut)
        self._last = (given, rendered)
        warn_of_left_out(rendered)
        return cut, without_rendered(cut, rendered) if self.head.reads_steps else [read_at_end(item) for item in rendered]

    def _forward(self, batch: PackedBatch) -> torch.Tensor:
        return self.head.rewards(self.model(batch))

    @property
    def packed(self) -> PackedReads:
        """What runs its model over completions."""
        return PackedReads(model=self.model, head=self.head, plan=self.plan, pad_id=self.renderer.pad_id, known=self.known)

    def _read(self, forward: Forward, completions: Sequence[Completion], rendered: Sequence[Rendered], width: int) -> np.ndarray:
        """(R, width) of what `forward` gives; see `PackedReads.read`."""
        return self.packed.read(forward, completions, rendered, width=width, num_rewards=self.num_members)

    def _after_prompt(self, prompts: PromptStates | GrowingStates, completion: Completion, item: Rendered) -> np.ndarray:
        """(R, M) rewards of one answer; its prompt's keys and values are reused if they are still in memory, or of a solution in
        steps those of the solution that it grew from."""
        model = self.model
        assert isinstance(model, RewardModel)
        found_RM = np.full((len(item.reward_positions), self.num_members), np.nan, np.float32)
        with model.backbone.autocast(model.compute_dtype):
            states_RD = prompts.states_at(completion.messages, item.tokens, present_reads(item))
        found_RM[item.reward_positions != LOST] = self.head.rewards(model.read(states_RD)).float().cpu().numpy()
        if self.head.reads_steps and not np.isfinite(found_RM[item.reward_positions != LOST]).all():
            return self._read(self._forward, [completion], [item], self.num_members)
        return found_RM


def _reasons(members_NK: np.ndarray, rendered: Sequence[Rendered]) -> tuple[str | None, ...]:
    """Why each of N completions has no reward. Rewards that are not finite become NaN, in place."""
    is_finite = np.atleast_1d(np.isfinite(members_NK).all(axis=1))
    members_NK[~is_finite] = np.nan
    not_finite = "the model gave a reward that is not finite"
    return tuple(item.error or (None if ok else not_finite) for item, ok in zip(rendered, is_finite, strict=True))


def saved_combination(description: Mapping[str, Any]) -> Combination | None:
    """The saved combination of an artifact's members; None for a single model."""
    ensemble = description.get(ENSEMBLE)
    return Combination.from_entry(ensemble) if ensemble else None


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
        policy=StepPolicy.from_description(artifact.description),
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
