"""A kind of head, whole: the class of transformers that holds it, what of its outputs is a reward, how many rewards a text has,
which texts prove it, and what a card says of it.

Saving, loading, golden vectors, the plain reference, parity and scoring ask here. A new kind of head is an entry of `HEADS`.
Shapes: R reward positions, K outputs, M members (1 where the head is none of an ensemble), B rows, L columns, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from assay.data.tokens.render import Overlong
from assay.errors import ArtifactError
from assay.models.reward_model import Outputs
from assay.models.saved.golden_steps import STEP_TEXTS
from assay.models.saved.step_card import STEP_CARD
from assay.records import Completion

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A kind of head.

    kind: in reward.json. outputs: see `RewardModel`. loader, classes: the auto class of transformers, and its mapping from
    configurations to classes. task: what transformers calls it. labels: names of the saved outputs. saved: a head -> weight and
    bias of the plain one; beside: what the plain one has no place for; restored: both -> the head. rewards: outputs (R, K) at R
    reward positions -> rewards (R, M), linear in the outputs. reads_steps: whether a text has a reward for each of its steps, or
    one. overlong: which part of a text that is too long is kept. golden: texts that prove it, beside those of every head. card:
    what the model card says in place of what it says of a scalar reward.
    """

    kind: str
    outputs: Outputs
    loader: Any
    classes: Any
    task: str
    labels: Callable[[int], Sequence[str]]
    saved: Callable[[nn.Linear], Tensors]
    beside: Callable[[nn.Linear], Tensors]
    restored: Callable[[Tensors, Tensors], nn.Linear]
    rewards: Callable[[torch.Tensor], torch.Tensor]
    reads_steps: bool = False
    overlong: Overlong = "keep_end"
    golden: tuple[Completion, ...] = ()
    card: Mapping[str, str] | None = None

    def reads(self, reward_positions: np.ndarray) -> np.ndarray:
        """Of the rendered reward positions of a text those that this head reads."""
        return reward_positions if self.reads_steps else reward_positions[-1:]

    def slopes(self, weight_KD: torch.Tensor) -> torch.Tensor:
        """(M, D): how fast each reward grows with the state."""
        return self.rewards(weight_KD.T).T

    def plain_rewards(self, logits: torch.Tensor, reads: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rewards of rows at their reads, row after row, as plain transformers computes them.

        logits: of the plain model, (B, K), which the model reads at one place itself, or (B, L, K) where it labels tokens.
        """
        if logits.ndim == 3:
            rows = torch.tensor([row for row, places in enumerate(reads) for _ in places], device=logits.device, dtype=torch.long)
            columns = torch.tensor([place for places in reads for place in places], device=logits.device, dtype=torch.long)
            logits = logits[rows, columns]
        return self.rewards(logits).mean(dim=1)


def _linear(tensors: Tensors) -> nn.Linear:
    """A float32 head of such a weight, and with a bias where there is one."""
    weight_KD, bias_K = tensors["weight"].float(), tensors.get("bias")
    head = nn.Linear(weight_KD.shape[1], len(weight_KD), bias=bias_K is not None, dtype=torch.float32)
    with torch.no_grad():
        head.weight.copy_(weight_KD)
        if bias_K is not None:
            head.bias.copy_(bias_K.float())
    return head


def _mean_of_members(head: nn.Linear) -> Tensors:
    return {"weight": head.weight.detach().float().mean(dim=0, keepdim=True)}


def _beside_the_mean(head: nn.Linear) -> Tensors:
    """ "offsets" of members from their mean, and the "bias" of an adopted head, which plain decoder classes do not have."""
    heads_KD = head.weight.detach().float().cpu()
    offsets = {"offsets": heads_KD - heads_KD.mean(dim=0)} if len(heads_KD) > 1 else {}
    return offsets | ({} if head.bias is None else {"bias": head.bias.detach().float().cpu()})


def _members(saved: Tensors, beside: Tensors) -> nn.Linear:
    weight_KD = saved["weight"].float()
    if "offsets" in beside:
        weight_KD = weight_KD + beside["offsets"]
    return _linear({"weight": weight_KD} | ({"bias": beside["bias"]} if "bias" in beside else {}))


def _weight_and_bias(head: nn.Linear) -> Tensors:
    """The head as it is; without a bias one of zeros, which transformers' class has."""
    bias_K = torch.zeros(head.out_features) if head.bias is None else head.bias
    return {"weight": head.weight.detach().float(), "bias": bias_K.detach().float()}


SCALAR = Head(
    kind="scalar",
    outputs="members",
    loader=AutoModelForSequenceClassification,
    classes=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    task="sequence-classification",
    labels=lambda num_outputs: ["reward"],
    saved=_mean_of_members,
    beside=_beside_the_mean,
    restored=_members,
    rewards=lambda outputs_RK: outputs_RK,
)
PROCESS = Head(
    kind="process",
    outputs="steps",
    loader=AutoModelForTokenClassification,
    classes=MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    task="token-classification",
    labels=lambda num_outputs: ["wrong", "right"],
    saved=_weight_and_bias,
    beside=lambda head: {},
    restored=lambda saved, beside: _linear(saved),
    rewards=lambda outputs_RK: outputs_RK[:, 1:] - outputs_RK[:, :1],
    reads_steps=True,
    overlong="keep_start",
    golden=STEP_TEXTS,
    card=STEP_CARD,
)
HEADS = (SCALAR, PROCESS)


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
