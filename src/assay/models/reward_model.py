"""The reward model: a backbone and a linear head, on packed batches. Shapes: R reward positions, K outputs, D hidden size."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import dropout

from assay.data.tokens.packing import PackedBatch
from assay.models.backbone import Backbone
from assay.models.text_head import TextHead

Outputs = Literal["members", "labels", "attributes", "steps"]


class RewardModel(nn.Module):
    """`forward(batch) -> rewards_RK`, float32, always: R rewarded tokens, K outputs of the head.

    The head is a linear map in float32, outside of autocast, whatever the backbone computes in: a head in bfloat16 would round
    rewards to steps of 0.004-0.03 and make ties. It has a bias where another's checkpoint has one, and where it reads steps.
    outputs: what the K outputs are: rewards of the members of an ensemble (1 for a single model), logits of labels, attributes of
    an answer, or logits that a step is wrong and that it is right. before: what stands between backbone and head in a checkpoint of
    others: linear maps with ReLU. compute_dtype: the backbone runs under autocast when this is not its own number format. dropout:
    share of the head's inputs that is dropped in training. text_head: the base's own, for a loss on text in training; not saved.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Linear,
        *,
        outputs: Outputs = "members",
        before: nn.Sequential | None = None,
        compute_dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
        text_head: TextHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.outputs, self.text_head = backbone, head.float(), outputs, text_head
        self.before = None if before is None else before.float()
        self.compute_dtype, self.dropout = compute_dtype, dropout

    @property
    def num_members(self) -> int:
        """Members of the ensemble, 1 for a single model. Raises ValueError for a head whose outputs are not rewards."""
        if self.outputs != "members":
            raise ValueError(f"the head gives {self.outputs}, not rewards: it is no scalar reward model, nor an ensemble of them")
        return self.head.out_features

    @property
    def head_weights(self) -> torch.Tensor:
        """(K, D), float32: the slopes of the rewards in the states; with layers between, the most that they can be."""
        slopes = self.head.weight
        for part in reversed(list(self.before or ())):
            slopes = slopes.abs() @ part.weight.abs() if isinstance(part, nn.Linear) else slopes
        return slopes

    def forward(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
        return self.read(self.states(batch, hidden_BLD))

    def forward_with_states(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(rewards_RK, states_RD): the rewards, and the hidden states that the head read them from."""
        states_RD = self.states(batch)
        return self.read(states_RD), states_RD

    def states(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states (R, D) at the rewarded tokens, in the number format that the backbone computes in."""
        with self.backbone.autocast(self.compute_dtype):
            return self.backbone.read(batch, hidden_BLD)

    def read(self, states_RD: torch.Tensor) -> torch.Tensor:
        """Rewards (R, K) of the hidden states at the rewarded tokens."""
        with torch.autocast(states_RD.device.type, enabled=False):
            states_RD = dropout(states_RD.float(), self.dropout, self.training)
            return self.head(states_RD if self.before is None else self.before(states_RD))


def new_head(hidden_size: int, num_outputs: int = 1, *, seed: int, bias: bool = False) -> nn.Linear:
    """A fresh head, normal with standard deviation 1/sqrt(hidden_size + 1) (Stiennon et al. 2020, appendix; Huang et al. 2024).

    bias: of 0, where the outputs have a zero of their own: a difference of rewards needs none, a probability does.
    """
    head = nn.Linear(hidden_size, num_outputs, bias=bias, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if bias:
            head.bias.zero_()
        head.weight.normal_(0.0, 1.0 / math.sqrt(hidden_size + 1), generator=generator)
    return head
