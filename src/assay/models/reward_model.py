"""The reward model: a backbone and a scalar head, on packed batches. Shapes: R reads, K members, D hidden size."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import dropout

from assay.data.packing import PackedBatch
from assay.models.backbone import Backbone


class RewardModel(nn.Module):
    """`forward(batch) -> rewards_RK`, float32, always: R rewarded tokens, K members (1 for a single model).

    The head is a bias-free linear map in float32, outside of autocast, whatever the backbone computes in: a head in bfloat16
    would round rewards to steps of 0.004-0.03 and make ties. compute_dtype: bfloat16 runs the backbone under autocast.
    dropout: share of the head's inputs that is dropped in training.
    """

    def __init__(
        self, backbone: Backbone, head: nn.Linear, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.compute_dtype, self.dropout = backbone, head.float(), compute_dtype, dropout

    @property
    def head_weights(self) -> torch.Tensor:
        """(K, D), float32."""
        return self.head.weight

    def forward(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
        return self.read(self.states(batch, hidden_BLD))

    def forward_with_states(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(rewards_RK, states_RD): the rewards, and the hidden states that the head read them from."""
        states_RD = self.states(batch)
        return self.read(states_RD), states_RD

    def states(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states (R, D) at the rewarded tokens, in the number format that the backbone computes in."""
        device = self.head.weight.device
        with torch.autocast(device.type, dtype=self.compute_dtype, enabled=self.compute_dtype != self.backbone.dtype):
            return self.backbone.read(batch, hidden_BLD)

    def read(self, states_RD: torch.Tensor) -> torch.Tensor:
        """Rewards (R, K) of the hidden states at the rewarded tokens."""
        with torch.autocast(states_RD.device.type, enabled=False):
            return self.head(dropout(states_RD.float(), self.dropout, self.training))


def new_head(hidden_size: int, num_members: int = 1, *, seed: int) -> nn.Linear:
    """A fresh head, normal with standard deviation 1/sqrt(hidden_size + 1) (Stiennon et al. 2020, appendix; Huang et al. 2024)."""
    head = nn.Linear(hidden_size, num_members, bias=False, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0.0, 1.0 / math.sqrt(hidden_size + 1), generator=generator)
    return head
