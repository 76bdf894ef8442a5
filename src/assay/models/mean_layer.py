"""One more layer, which adds the mean over the text to the state that is read at the last token; the checkpoint stays a plain one.

Its queries and keys are zero, so that its attention is uniform over what a token sees. Values and output carry one number, the
projection of the mean of the normed states, into the direction in which the last token is read. Whoever loads such a checkpoint
runs it as any other layer. Shapes: D hidden size.
"""

from __future__ import annotations

import copy

import torch

from assay.models.backbone import Backbone, with_layer
from assay.models.last_layer import has_known_form


@torch.no_grad()
def add_mean_layer(backbone: Backbone, last_D: torch.Tensor, mean_D: torch.Tensor, size: float) -> Backbone:
    """The backbone with the layer behind its last one, parameters of the others shared.

    last_D, mean_D: weights of a linear reward of the normed state at the last token and of the mean of the normed states over the
    text. size: root mean square of the states at last tokens before the final norm. A head with the weights last_D behind the layer
    then gives last_D . last + mean_D . mean times size / (root mean square of that answer's own state): so near to the sum as those
    are near to each other (4% apart in SmolLM2-135M, and what the addition does to the norm is smaller still).

    Raises ValueError for architectures whose layers have another form than Llama's.
    """
    model = backbone.model
    if not has_known_form(model) or type(model.norm) is not type(model.layers[-1].input_layernorm):
        raise ValueError(f"--mean-read cannot be given for {type(model).__name__}: its layers have another form than Llama's")
    layer = copy.deepcopy(model.layers[-1]).requires_grad_(False)
    attention = layer.self_attn
    attention.layer_idx = backbone.num_layers
    layer.input_layernorm.load_state_dict(model.norm.state_dict())
    for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, layer.mlp.down_proj):
        for parameter in part.parameters():
            parameter.zero_()
    attention.v_proj.weight[0] = mean_D
    read_D = last_D * model.norm.weight.float()
    attention.o_proj.weight[:, 0] = size * read_D / (read_D @ read_D)
    return with_layer(backbone, layer)
