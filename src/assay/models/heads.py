"""How an artifact keeps a kind of head: the class of transformers that holds it, and what of its outputs is the reward.

Saving, loading, golden vectors and the plain reference ask here. A new kind of head is an entry of `HEADS`. Shapes: R reward
positions, K outputs, B rows, L columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

from assay.errors import ArtifactError
from assay.models.reward_model import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A kind of head.

    kind: in reward.json. outputs: see `RewardModel`. loader, classes: the auto class of transformers, and its mapping from
    configurations to classes. task: what transformers calls it. labels: names of the saved outputs. saved: weights (K, D) of a
    model -> those of the plain head. reward: outputs (R, K) at the R reward positions of one answer, in order -> its reward.
    """

    kind: str
    outputs: Outputs
    loader: Any
    classes: Any
    task: str
    labels: Callable[[int], Sequence[str]]
    saved: Callable[[torch.Tensor], torch.Tensor]
    reward: Callable[[torch.Tensor], torch.Tensor]

    def plain_rewards(self, logits: torch.Tensor, num_tokens: Sequence[int]) -> torch.Tensor:
        """Rewards (B,) of rows of so many tokens whose last token is the only rewarded one.

        logits: of the plain model, (B, K), or (B, L, K) where it labels tokens.
        """
        if logits.ndim == 3:
            logits = logits[torch.arange(len(logits)), torch.tensor(num_tokens, device=logits.device) - 1]
        return torch.stack([self.reward(outputs_K[None]) for outputs_K in logits])


SCALAR = Head(
    kind="scalar",
    outputs="members",
    loader=AutoModelForSequenceClassification,
    classes=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    task="sequence-classification",
    labels=lambda num_outputs: ["reward"],
    saved=lambda weight_KD: weight_KD.mean(dim=0, keepdim=True),
    reward=lambda outputs_RK: outputs_RK[-1].mean(),
)
HEADS = (SCALAR,)


def head_of(outputs: Outputs) -> Head:
    """The kind of head that gives these outputs. Raises ValueError where no artifact holds it."""
    for head in HEADS:
        if head.outputs == outputs:
            return head
    raise ValueError(f"the head gives {outputs}, not rewards: no artifact holds it")


def head_named(kind: str) -> Head:
    """The kind of head that reward.json names. Raises ArtifactError for one that this version does not know."""
    for head in HEADS:
        if head.kind == kind:
            return head
    known = ", ".join(head.kind for head in HEADS)
    raise ArtifactError(f"an artifact of kind {kind!r} is not known to this version, which knows {known}: upgrade assay-rm")
