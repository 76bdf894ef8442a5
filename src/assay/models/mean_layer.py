"""A reward from the last token's state and from the mean of the states, saved as one more layer of a plain checkpoint.

The layer's queries and keys are zero, so its attention is uniform over the tokens that a token sees. Its values and its output
carry one number, a projection of the mean of the normed states, and add it in the direction that the head reads. Any program that
loads the checkpoint runs it as any other layer. Attention is causal, so that at the token of each step it gives the mean over what
stands before it: one forward serves all steps. Shapes: R rewarded tokens, T tokens of a batch, D hidden size, K outputs.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from assay.data.tokens.packing import PackedBatch
from assay.models.backbone import Backbone, with_layer
from assay.models.heads import head_of
from assay.models.last_layer import has_known_form
from assay.models.reward_model import RewardModel

HEAD_MEAN = "head:mean"  # of --params: the head alone, on the last token and the mean over the text


class MeanReadModel(RewardModel):
    """The model that `--params head:mean` trains, on cached states (R, 2D) of a frozen backbone (see `last_and_mean`).

    The head's weights are (K, 2D). The slope of the reward in its inputs (of two outputs, wrong and right, their difference) is w
    for the last token, then v for the mean times `scale`. The reward is that of `folded`, w . norm(last + added), where added is
    (v . scale mean) size a / (a . a) and a = w times the norm's gain. To first order it is w . norm(last) + v . scale mean, if the
    root mean square of `last` is `size` (it is within 4% in SmolLM2-135M). scale gives both inputs the same spread between the
    reads of a prompt, so that weight decay acts on both alike.
    Raises ValueError for architectures whose layers have another form than Llama's, and for heads that give more than one reward.
    """

    size: torch.Tensor
    scale: torch.Tensor
    gain_D: torch.Tensor

    def __init__(self, whole: RewardModel) -> None:
        refuse_other_forms(whole.backbone)
        width, first = whole.backbone.hidden_size, whole.head
        slopes = head_of(whole.outputs).slopes
        if (num_rewards := len(slopes(first.weight))) > 1:
            raise ValueError(
                f"--params head:mean reads one mean for one reward, and this head gives {num_rewards}: use --params head"
            )
        has_bias, device = first.bias is not None, first.weight.device
        head = nn.Linear(2 * width, first.out_features, bias=has_bias, dtype=torch.float32, device=device)
        with torch.no_grad():
            head.weight.zero_()[:, :width].copy_(first.weight)
            if has_bias:
                head.bias.copy_(first.bias)
        super().__init__(whole.backbone, head, outputs=whole.outputs, compute_dtype=whole.compute_dtype)
        self._slopes = slopes
        self.norm = copy.deepcopy(whole.backbone.model.norm).float().requires_grad_(False)
        self.register_buffer("gain_D", _gain(self.norm, width), persistent=False)
        for name in ("size", "scale"):
            self.register_buffer(name, torch.ones((), device=self.gain_D.device), persistent=False)

    def read(self, states_R2D: torch.Tensor) -> torch.Tensor:
        """Outputs (R, K)."""
        states_R2D = nn.functional.dropout(states_R2D.float(), self.dropout, self.training)
        last_RD, mean_RD = states_R2D.chunk(2, dim=-1)
        last_D, mean_D = self._slopes(self.head.weight)[0].chunk(2)
        added_RD = (mean_RD @ (self.scale * mean_D))[:, None] * self._direction(last_D)
        weight_KD = self.head.weight[:, : self.backbone.hidden_size]
        return nn.functional.linear(self.norm(last_RD + added_RD), weight_KD, self.head.bias)

    @torch.no_grad()
    def folded(self) -> RewardModel:
        """A model with the same outputs that starts from tokens: the backbone with one more layer, and a head of width D."""
        last_D, mean_D = self._slopes(self.head.weight)[0].chunk(2)
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
        head = copy.deepcopy(self.head)
        head.in_features, head.weight = width, nn.Parameter(self.head.weight[:, :width].clone())
        return RewardModel(with_layer(backbone, layer), head, outputs=self.outputs, compute_dtype=self.compute_dtype)

    @torch.no_grad()
    def measure(self, states_R2D: np.ndarray, prompt_R: np.ndarray) -> None:
        """Set `size` and `scale` from cached states (R, 2D) of some reads, and the prompt of each."""
        last_RD, mean_RD = torch.from_numpy(states_R2D.copy()).to(self.gain_D.device).chunk(2, dim=-1)
        self.size.copy_(last_RD.square().mean(-1).sqrt().mean())
        of_last, of_mean = (_spread(part, prompt_R) for part in (self.norm(last_RD), mean_RD))
        if of_mean > 0:
            self.scale.copy_(of_last / of_mean)

    def _direction(self, last_D: torch.Tensor) -> torch.Tensor:
        read_D = last_D * self.gain_D
        return self.size * read_D / (read_D @ read_D)


def _spread(states_RD: torch.Tensor, prompt_R: np.ndarray) -> torch.Tensor:
    """Root mean square of the deviation of states from the mean of their prompt; where no prompt has two, from the mean of all."""
    place_R = np.unique(prompt_R, return_inverse=True)[1]
    if len(np.unique(place_R)) == len(place_R):
        place_R = np.zeros_like(place_R)
    sizes_C = torch.from_numpy(np.bincount(place_R)).to(states_RD.device)
    index_R = torch.from_numpy(place_R).to(states_RD.device)
    sums_CD = states_RD.new_zeros(len(sizes_C), states_RD.shape[1]).index_add(0, index_R, states_RD)
    return (states_RD - (sums_CD / sizes_C[:, None])[index_R]).square().mean().sqrt()


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
    """The mean of the states of what each rewarded token of a packed batch sees, itself among it, as a product with weights: a
    tenth of the cost of adding up tokens. For the last token of a text it is the mean over the text.

    A shared prompt counts for each of its answers. Places that hold no token are left out, since their states may be NaN.
    """

    def __init__(self, packed: PackedBatch, device: torch.device) -> None:
        group_T, branch_T, position_T = packed.group.ravel(), packed.branch.ravel(), packed.positions.ravel()
        places_U, reads_R1 = np.flatnonzero(group_T >= 0), packed.reward_positions[:, None]
        is_own_RU = (branch_T[places_U] == 0) | (branch_T[places_U] == branch_T[reads_R1])
        is_before_RU = position_T[places_U] <= position_T[reads_R1]
        weights_RU = ((group_T[places_U] == group_T[reads_R1]) & is_own_RU & is_before_RU).astype(np.float32)
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
