"""A reward model in this process: any number of completions in any order, prompts shared, packed by a token budget."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from assay.data.packing import Group, make_group, pack, split_group
from assay.data.render import Rendered, Renderer
from assay.models.artifact import fingerprint, load_artifact
from assay.models.device import Dtype, pick_compute, token_budget
from assay.models.reward_model import RewardModel
from assay.records import Completion, Rewards
from assay.scorers.base import Scope

# Largest change of a reward between two layouts of the same text, as a share of the head's norm (rewards grow with it): what was
# measured on SmolLM2-135M, with room to spare.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.03}


class LocalScorer:
    """Scores with a `RewardModel`.

    max_tokens: token budget of one forward, None for the device's own. tolerance: see `Scorer`; from dtype and head norm.
    """

    scope: Scope = "global"

    def __init__(self, model: RewardModel, renderer: Renderer, *, identity: str, max_tokens: int | None = None) -> None:
        if model.head.out_features != 1:
            raise ValueError(f"a LocalScorer has one head, this model has {model.head.out_features}")
        self.model, self.renderer = model.eval(), renderer
        self.max_tokens = max_tokens or token_budget(model.head.weight.device)
        dtype = model.compute_dtype
        self.fingerprint = hashlib.sha256(f"{identity}/{dtype}".encode()).hexdigest()[:32]
        self.tolerance = _TOLERANCE.get(dtype, 0.15) * max(1.0, float(model.head.weight.detach().norm()))

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, the raw output of the head. Unrenderable items are NaN with the reason."""
        rendered = self.renderer.render(completions)
        value = np.full(len(completions), np.nan, dtype=np.float32)
        groups, members = self._groups(completions, rendered)
        branches = self.model.backbone.can_branch
        with torch.inference_mode():
            for batch in pack(groups, self.max_tokens, pad_id=self.renderer.pad_id, one_per_row=not branches):
                rewards_R = self.model(batch)[:, 0].float().cpu().numpy()
                value[np.concatenate([members[index] for index in batch.order])] = rewards_R
        errors = [item.error for item in rendered]
        not_finite = "the model gave a reward that is not finite"
        return Rewards(
            value=value,
            error=tuple(error or (None if np.isfinite(v) else not_finite) for error, v in zip(errors, value, strict=True)),
        )

    def _groups(self, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> tuple[list[Group], list[list[int]]]:
        """Answers to one prompt as one group (in parts when over the budget), and which completions each group holds."""
        by_prompt: dict[object, list[int]] = {}
        for i, (completion, item) in enumerate(zip(completions, rendered, strict=True)):
            if item.error is None:
                share = self.model.backbone.can_branch and completion.response is not None
                by_prompt.setdefault(completion.messages if share else i, []).append(i)
        groups, members = [], []
        for indices in by_prompt.values():
            tokens, reads = [rendered[i].tokens for i in indices], [rendered[i].reads[-1:] for i in indices]
            for part in split_group(tokens, reads, self.max_tokens):
                groups.append(make_group([tokens[i] for i in part], [reads[i] for i in part]))
                members.append([indices[i] for i in part])
        return groups, members


def load_local(path: str | Path, *, dtype: Dtype = "auto", device: str = "auto", max_tokens: int | None = None) -> LocalScorer:
    """The scorer of an artifact directory, uncalibrated. "auto" computes in bfloat16 where the machine gains by it."""
    compute = pick_compute(device, dtype)
    artifact = load_artifact(path, dtype=compute.dtype, device=compute.device)
    identity = fingerprint({**artifact.description, "calibration": None})  # a calibration leaves the rewards as they are
    return LocalScorer(artifact.model, artifact.renderer, identity=identity, max_tokens=max_tokens)
