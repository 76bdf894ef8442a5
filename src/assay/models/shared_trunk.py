"""K members over one trunk: the frozen layers run once, then each member's own last layers and head.

Shapes: R reward positions, K members, B rows, L columns, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from assay.data.tokens.packing import PackedBatch
from assay.models.backbone import Backbone
from assay.models.reward_model import Outputs, RewardModel


class SharedTrunk(nn.Module):
    """`forward(batch) -> rewards_RK` as in `RewardModel`, for members that differ only in their last layers.

    trunk: the first layers, without the final norm. tops: each member's last layers with the norm, and its head of one output.
    """

    outputs: ClassVar[Outputs] = "members"

    def __init__(self, trunk: Backbone, tops: Sequence[RewardModel]) -> None:
        super().__init__()
        self.backbone, self.tops = trunk, nn.ModuleList(tops)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._members()[0].compute_dtype

    @property
    def num_members(self) -> int:
        return len(self.tops)

    @property
    def head_weights(self) -> torch.Tensor:
        """(K, D), float32."""
        return torch.cat([top.head.weight for top in self._members()])

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        return self.forward_with_states(batch)[0]

    def forward_with_states(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(rewards_RK, states_RD): the rewards, and the hidden states that the first member's head read."""
        with self.backbone.autocast(self.compute_dtype):
            hidden_BLD = self.backbone(batch)
        states_KRD = [top.states(batch, hidden_BLD) for top in self._members()]
        rewards_RK = torch.cat([top.read(states_RD) for top, states_RD in zip(self._members(), states_KRD, strict=True)], dim=1)
        return rewards_RK, states_KRD[0]

    def _members(self) -> list[RewardModel]:
        return list(self.tops)  # type: ignore[arg-type]
