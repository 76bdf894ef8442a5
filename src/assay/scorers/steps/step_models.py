"""The process reward models of others as scorers: a reward for each step, all from one forward, and one for the solution.

Solutions to one question share its tokens in the packed batch. Values are the publisher's own (probabilities, mostly), computed in
float32 from the logits that the head gives at the places that are read. Shapes: N solutions, S steps of one, R reads, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from assay.console import say
from assay.data.steps.step_layouts import StepTokens
from assay.data.tokens.packing import Group, make_group, pack, split_group
from assay.files import digest
from assay.models.device import ScoringPlan, pick_compute, plan_scoring
from assay.models.published.published_steps import StepForm, StepsAsked
from assay.models.published.step_heads import PublishedSteps, load_published_steps
from assay.records import Completion, Dtype, Rewards
from assay.scorers.base import Scope, TokenCount
from assay.scorers.steps.step_values import refuse_reduction, said_of_reduction, step_values
from assay.stats.steps.step_meaning import StepMeaning
from assay.stats.steps.step_reductions import Reduced, reduce_values

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.03}  # of logits, as a share of the head's norm
_NOT_FINITE = "the model gave logits that are not finite"


class StepModelScorer:
    """Scores with a published process model. `Rewards.steps` has a value for each step, `Rewards.value` their reduction.

    A solution of which a step has no value has none itself, with the reason; its other steps keep theirs. reduction: in place of
    the form's own. max_tokens: token budget of one forward, None for the fastest on this machine. assumed: what -> how it is read.
    Raises ValueError for a product of values that are no probabilities.
    """

    scope: Scope = "global"

    def __init__(self, loaded: PublishedSteps, *, reduction: Reduced | None = None, max_tokens: int | None = None) -> None:
        self.loaded, self.model, self.tokens, self.form = loaded, loaded.model, loaded.renderer, loaded.form
        self.reduction: Reduced = reduction or self.form.reduction
        refuse_reduction(self.reduction, self.form)
        dtype, layout = self.model.compute_dtype, self.model.backbone.layout
        self.assumed = {**loaded.assumed, "reduction": said_of_reduction(self.reduction, self.form)}
        self.fingerprint = digest(f"{loaded.identity}/{dtype}/{self.reduction}")
        weights_KD = self.model.head_weights.detach()
        self.head_norm = float(weights_KD.norm(dim=1).max())
        self.tolerance = min(1.0, _TOLERANCE.get(dtype, 0.25) * max(1.0, self.head_norm))
        self.plan: ScoringPlan = plan_scoring(
            *self.model.backbone.activation_bytes(dtype),
            weights_KD.device,
            max_tokens=max_tokens,
            longest=self.tokens.max_length,
            cuts_groups=layout != "one row",
        )

    @property
    def step_threshold(self) -> float:
        """Above it a step is taken for right, as the publisher decides."""
        return self.form.threshold

    @property
    def step_meaning(self) -> StepMeaning:
        """Probabilities, as the publisher's value says them; of p(right) - p(wrong) the half of it plus a half."""
        half = 0.5 if self.form.value == "difference" else 0.0
        return StepMeaning(False, 1.0 - half, half, self.form.threshold)

    def step_probability(self, rewards_S: np.ndarray) -> np.ndarray:
        """P(right) of steps, see `step_meaning`."""
        return self.step_meaning.right(rewards_S)

    @property
    def computed_in(self) -> str:
        """Number format of the backbone, such as "float32"."""
        return str(self.model.compute_dtype).removeprefix("torch.")

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N solutions -> N rewards with their steps. What cannot be laid out is NaN with the reason."""
        rendered = self.tokens.render(completions)
        with torch.inference_mode():
            logits = self._logits(completions, rendered)
        steps, errors = [], []
        for item, logits_RK in zip(rendered, logits, strict=True):
            values_S = np.full(len(item.reads), np.nan, np.float32)
            values_S[item.reads >= 0] = step_values(logits_RK, self.form.value)
            lost = np.flatnonzero(np.isnan(values_S))
            steps.append(values_S)
            errors.append(item.error or (f"{_NOT_FINITE}, from step {lost[0] + 1} on" if len(lost) else None))
        value_N = np.array([reduce_values(values_S, self.reduction) for values_S in steps], np.float32)
        return Rewards(value=value_N, steps=tuple(steps), error=tuple(errors))

    @property
    def token_labels(self) -> tuple[str, ...]:
        """Names of what the model says of a token."""
        return ("bad", "neutral", "good") if self.form.head == "classes" else ("wrong", "right")

    def token_logits(self, completions: Sequence[Completion]) -> list[np.ndarray | str]:
        """Of each of N completions, in whatever form, the logits (T, labels) float32 of all its tokens, or why there are none. Of a
        value head the logit of wrong is 0."""
        whole = [self.tokens.whole(completion) for completion in completions]
        with torch.inference_mode():
            found = self._logits(completions, whole)
        if self.form.head == "value":
            found = [np.concatenate([np.zeros_like(logits), logits], axis=1) for logits in found]
        return [logits if item.error is None else item.error for item, logits in zip(whole, found, strict=True)]

    def token_counts(self, completions: Sequence[Completion]) -> list[TokenCount]:
        """Tokens of N solutions, up to the last step that is read."""
        return [TokenCount(len(item.tokens), bool(item.error and len(item.tokens))) for item in self.tokens.render(completions)]

    def _logits(self, completions: Sequence[Completion], rendered: Sequence[StepTokens]) -> list[np.ndarray]:
        """For each solution (R, K) float32 logits at the steps that are read; NaN where they are not finite.

        A masked token has weight 0, and 0 times NaN is NaN: one solution can spoil the others of its batch, and a step those before
        it, so that what is not finite is computed once more alone, and then without the steps at its end.
        """
        num_outputs = self.model.head.out_features
        found = [np.empty((0, num_outputs), np.float32)] * len(rendered)
        places = [i for i, item in enumerate(rendered) if (item.reads >= 0).any()]
        for i in self._run(completions, rendered, places, found):
            if len(places) == 1 or self._run(completions, rendered, [i], found):
                start_RK = self._finite_start(completions[i], rendered[i])
                found[i][:] = np.nan
                found[i][: len(start_RK)] = start_RK
        return found

    def _finite_start(self, completion: Completion, item: StepTokens) -> np.ndarray:
        """(r, K): the logits of the first steps, as many as are finite without what stands behind them; found by halving."""
        reads = item.reads[item.reads >= 0]
        found, num_fine, num_spoilt = np.empty((0, self.model.head.out_features), np.float32), 0, len(reads)
        while num_spoilt - num_fine > 1:
            num, rows = (num_fine + num_spoilt) // 2, [found]
            begun = item._replace(tokens=item.tokens[: reads[num - 1] + 1], reads=reads[:num])
            if self._run([completion], [begun], [0], rows):
                num_spoilt = num
            else:
                found, num_fine = rows[0], num
        return found

    def _run(
        self, completions: Sequence[Completion], rendered: Sequence[StepTokens], places: Sequence[int], found: list[np.ndarray]
    ) -> list[int]:
        """Put the logits of some solutions into `found`; returns those that are not finite."""
        spoiled = []
        groups, members = self._groups(completions, rendered, places)
        for batch in pack(groups, self.plan.max_tokens, pad_id=self._pad_id, layout=self.model.backbone.layout):
            logits_RK = self.model(batch).float().cpu().numpy()
            inside = [i for index in batch.order for i in members[index]]
            sizes = [int((rendered[i].reads >= 0).sum()) for i in inside]
            for i, logits in zip(inside, np.split(logits_RK, np.cumsum(sizes)[:-1]), strict=True):
                found[i] = logits.copy()
                if not np.isfinite(logits).all():
                    spoiled.append(i)
        return spoiled

    @property
    def _pad_id(self) -> int:
        pad = self.tokens.tokenizer.pad_token_id
        return int(pad) if pad is not None else int(self.tokens.mark_ids[-1])

    def _groups(
        self, completions: Sequence[Completion], rendered: Sequence[StepTokens], places: Sequence[int]
    ) -> tuple[list[Group], list[list[int]]]:
        """Solutions to one question as one group (in parts when over the budget), and the solutions of each group."""
        can_branch = self.model.backbone.can_branch
        by_question: dict[object, list[int]] = {}
        for i in places:
            alone = not can_branch or completions[i].response is None
            by_question.setdefault(i if alone else completions[i].messages, []).append(i)
        groups, members = [], []
        for indices in by_question.values():
            tokens, reads = [rendered[i].tokens for i in indices], [rendered[i].reads[rendered[i].reads >= 0] for i in indices]
            for part in split_group(tokens, reads, self.plan.group_tokens):
                groups.append(make_group([tokens[k] for k in part], [reads[k] for k in part]))
                members.append([indices[k] for k in part])
        return groups, members


def load_step_model(
    path: Path,
    form: StepForm,
    reading: StepsAsked,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
) -> StepModelScorer:
    """The scorer of a published process model as it lies there. What had to be assumed is printed, and kept as `assumed`.

    Raises ValueError as `load_published_steps`.
    """
    compute = pick_compute(device, dtype)
    loaded = load_published_steps(path, form, reading, dtype=compute.dtype, device=compute.device)
    scorer = StepModelScorer(loaded, reduction=reading.reduction, max_tokens=max_tokens)
    for what, how in scorer.assumed.items():
        say(what, how)
    return scorer
