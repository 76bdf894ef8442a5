"""A reward from the last token's state and from the mean of the states, saved as one more layer of a plain checkpoint.

The layer's queries and keys are zero, so its attention is uniform over the tokens that a token sees. Its values and its output
carry one number, a projection of the mean of the normed states, and add it in the direction that the head reads. Any program that
loads the checkpoint runs it as any other layer. Shapes: R rewarded tokens, T tokens of a batch, D hidden size.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from assay.data.packing import PackedBatch
from assay.models.backbone import Backbone, with_layer
from assay.models.last_layer import has_known_form
from assay.models.reward_model import RewardModel

HEAD_MEAN = "head:mean"  # of --params: the head alone, on the last token and the mean over the text


class MeanReadModel(RewardModel):
    """The model that `--params head:mean` trains, on cached states (R, 2D) of a frozen backbone (see `last_and_mean`).

    The head's weights are (2D): w for the last token, then v for the mean times `scale`. The reward is that of `folded`,
    w . norm(last + added), where added is (v . scale mean) size a / (a . a) and a = w times the norm's gain. To first order it is
    w . norm(last) + v . scale mean, if the root mean square of `last` is `size` (it is within 4% in SmolLM2-135M). scale gives both
    inputs the same spread between answers, so that weight decay acts on both alike.
    Raises ValueError for architectures whose layers have another form than Llama's.
    """

    size: torch.Tensor
    scale: torch.Tensor
    gain_D: torch.Tensor

    def __init__(self, whole: RewardModel) -> None:
        refuse_other_forms(whole.backbone)
        width = whole.backbone.hidden_size
        head = nn.Linear(2 * width, 1, bias=False, dtype=torch.float32, device=whole.head.weight.device)
        with torch.no_grad():
            head.weight.zero_()[:, :width].copy_(whole.head.weight)
        super().__init__(whole.backbone, head, compute_dtype=whole.compute_dtype)
        self.norm = copy.deepcopy(whole.backbone.model.norm).float().requires_grad_(False)
        self.register_buffer("gain_D", _gain(self.norm, width), persistent=False)
        for name in ("size", "scale"):
            self.register_buffer(name, torch.ones((), device=self.gain_D.device), persistent=False)

    def read(self, states_R2D: torch.Tensor) -> torch.Tensor:
        """Rewards (R, 1)."""
        states_R2D = nn.functional.dropout(states_R2D.float(), self.dropout, self.training)
        last_RD, mean_RD = states_R2D.chunk(2, dim=-1)
        last_D, mean_D = self.head.weight[0].chunk(2)
        added_RD = (mean_RD @ (self.scale * mean_D))[:, None] * self._direction(last_D)
        return (self.norm(last_RD + added_RD) @ last_D)[:, None]

    @torch.no_grad()
    def folded(self) -> RewardModel:
        """A model with the same rewards that starts from tokens: the backbone with one more layer, and a head of width D."""
        last_D, mean_D = self.head.weight[0].chunk(2)
        backbone, width = self.backbone, self.backbone.hidden_size
        layer = copy.deepcopy(backbone.model.layers[-1]).requires_grad_(False)
        attention = layer.self_attn
        attention.layer_idx = backbone.num_layers
        layer.input_layernorm.load_state_dict(backbone.model.norm.state_dict())
        for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, layer.mlp.down_proj):
            for parameter in part.parameters():
                parameter.zero_()
        attention.v_proj.weight[0] = self.scale * mean_D
        attention.o_proj.weight[:, 0] = self._direction(last_D)
        head = nn.Linear(width, 1, bias=False, dtype=torch.float32, device=last_D.device)
        head.weight.copy_(last_D[None])
        return RewardModel(with_layer(backbone, layer), head, compute_dtype=self.compute_dtype)

    @torch.no_grad()
    def measure(self, states_N2D: np.ndarray) -> None:
        """Set `size` and `scale` from cached states (N, 2, 2D) of chosen and rejected."""
        last_N2D, mean_N2D = torch.from_numpy(states_N2D.copy()).to(self.gain_D.device).chunk(2, dim=-1)
        self.size.copy_(last_N2D.square().mean(-1).sqrt().mean())
        of_last, of_mean = (part.diff(dim=1).square().mean().sqrt() for part in (self.norm(last_N2D), mean_N2D))
        if of_mean > 0:
            self.scale.copy_(of_last / of_mean)

    def _direction(self, last_D: torch.Tensor) -> torch.Tensor:
        read_D = last_D * self.gain_D
        return self.size * read_D / (read_D @ read_D)


@torch.no_grad()
def last_and_mean(backbone: Backbone, packed: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
    """(R, 2D), float32: the state at each rewarded token before the final norm, and the mean of the normed states up to it.

    hidden_BLD: input states in place of the token embeddings.
    """
    raw: list[torch.Tensor] = []  # the last entry counts: the first forward of a backbone runs tests on a few tokens before
    hook = backbone.model.norm.register_forward_pre_hook(lambda module, inputs: raw.append(inputs[0]))
    try:
        normed_BLD = backbone(packed, hidden_BLD)
    finally:
        hook.remove()
    last_RD = raw[-1].flatten(0, 1)[torch.from_numpy(packed.reward_positions).to(normed_BLD.device)]
    return torch.cat([last_RD.float(), MeanRead(packed, normed_BLD.device)(normed_BLD.flatten(0, 1))], dim=-1)


class MeanRead:
    """The mean of the states of each text of a packed batch, as a product with weights: a tenth of the cost of adding up tokens.

    A shared prompt counts for each of its answers. Places that hold no token are left out, since their states may be NaN.
    """

    def __init__(self, packed: PackedBatch, device: torch.device) -> None:
        group_T, branch_T = packed.group.ravel(), packed.branch.ravel()
        places_U = np.flatnonzero(group_T >= 0)
        num_reward_positions = len(packed.reward_positions)
        group_R, side_R = np.divmod(np.arange(num_reward_positions), num_reward_positions // len(packed.order))
        is_shared_U = branch_T[places_U] == 0
        is_read_RU = (group_T[places_U] == group_R[:, None]) & (is_shared_U | (branch_T[places_U] == side_R[:, None] + 1))
        weights_RU = is_read_RU.astype(np.float32)
        self._weights_RU = torch.from_numpy(weights_RU / weights_RU.sum(1, keepdims=True)).to(device)
        self._places_U = None if len(places_U) == len(group_T) else torch.from_numpy(places_U).to(device)

    def __call__(self, states_TD: torch.Tensor) -> torch.Tensor:
        """(T, D) -> (R, D), float32."""
        used_UD = states_TD if self._places_U is None else states_TD.index_select(0, self._places_U)
        return self._weights_RU @ used_UD.float()


@torch.no_grad()
def folded_states(backbone: Backbone, states_R2D: torch.Tensor) -> torch.Tensor:
    """(R, D), float32: what the head reads of a backbone whose last layer is that of `MeanReadModel.folded`, from what
    `last_and_mean` gives of the backbone below that layer."""
    last_RD, mean_RD = states_R2D.float().chunk(2, dim=-1)
    attention = backbone.model.layers[-1].self_attn
    value_R = mean_RD @ attention.v_proj.weight[0].float()
    norm = copy.deepcopy(backbone.model.norm).float()
    return norm(last_RD + value_R[:, None] * attention.o_proj.weight[:, 0].float())  # type: ignore[no-any-return]


def _gain(norm: nn.Module, width: int) -> torch.Tensor:
    """The gain g (D) of norm(x) = g x / rms(x); architectures store it in different ways."""
    return norm(torch.ones(width, device=next(norm.parameters()).device))


@torch.no_grad()
def refuse_other_forms(backbone: Backbone) -> None:
    """Raises ValueError for architectures whose layers or final norm have another form than Llama's."""
    model, name = backbone.model, type(backbone.model).__name__
    refused = f"--params head:mean cannot be given for {name}: "
    if not has_known_form(model) or type(model.norm) is not type(model.layers[-1].input_layernorm):
        raise ValueError(f"{refused}its layers have another form than Llama's; use --params head")
    probe = torch.linspace(-1, 2, backbone.hidden_size, device=next(model.norm.parameters()).device)
    norm = copy.deepcopy(model.norm).float()
    if not torch.allclose(norm(probe), _gain(norm, len(probe)) * probe / probe.square().mean().sqrt(), atol=1e-3):
        raise ValueError(f"{refused}its final norm is not a root-mean-square norm; use --params head")
    if backbone.windows[-1] is not None:
        raise ValueError(f"{refused}its last layer sees a window of the text only; use --params head")
