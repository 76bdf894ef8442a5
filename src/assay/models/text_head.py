"""The language model's own head, for a loss on the text of answers in training; it is no part of what is saved.

Log-probabilities of given tokens from last hidden states, some tokens at a time: the logits of a whole batch over a vocabulary are
never in memory at once. Their gradient is computed beside them, since that of a token's log-probability by its state needs the same
logits: what is kept for the way back is one vector a token.

Shapes: T tokens, N of them at a time, V tokens of the vocabulary, D hidden size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from assay.data.tokens.packing import make_group, pack
from assay.models.backbone import Backbone, attention_for
from assay.models.bases import no_progress_bars

LOGITS_AT_ONCE = 1 << 23
"""Float32 values: 32 MiB, of which a few are in memory at a time."""
_AGREES = 0.02  # largest difference of log-probabilities from the whole model's, in float32


class TextHead(nn.Module):
    """`forward(states_TD, targets_T) -> logprobs_T`, float32: log p of each target by the state that predicts it.

    weight: (V, D), of the base's embeddings where the two are tied; it is trained where it requires gradients. cap: of the logits,
    cap x tanh(logits / cap), as in Gemma 2.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None, *, cap: float | None = None) -> None:
        super().__init__()
        self.weight, self.bias, self.cap = weight, bias, cap

    @property
    def num_tokens(self) -> int:
        return int(self.weight.shape[0])

    def forward(self, states_TD: torch.Tensor, targets_T: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """dtype: of the products; that of the states where left out. Logits and what follows are float32."""
        if not len(targets_T):
            return states_TD.new_zeros(0, dtype=torch.float32)
        keeps = torch.is_grad_enabled() and states_TD.requires_grad
        return _LogProbs.apply(states_TD, self.weight, self.bias, targets_T, self.cap, dtype or states_TD.dtype, keeps)  # type: ignore[no-any-return, no-untyped-call]

    def frozen(self, dtype: torch.dtype) -> TextHead:
        """The same without gradients, in the number format that it is multiplied in."""
        bias = None if self.bias is None else nn.Parameter(self.bias.detach(), requires_grad=False)
        return TextHead(nn.Parameter(self.weight.detach().to(dtype), requires_grad=False), bias, cap=self.cap)


class _LogProbs(torch.autograd.Function):
    """log softmax(logits)[target], and d/d state = (one at the target - softmax) @ weight, from one pass over the vocabulary."""

    @staticmethod
    def forward(
        ctx: Any,
        states_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_T: torch.Tensor,
        cap: float | None,
        dtype: torch.dtype,
        keeps: bool,
    ) -> torch.Tensor:
        logprobs_T = states_TD.new_empty(len(targets_T), dtype=torch.float32)
        slopes_TD = torch.empty_like(states_TD, dtype=torch.float32) if keeps else None
        known_VD = weight_VD.to(dtype)
        for part in _parts(len(targets_T), len(weight_VD)):
            logits_NV, bend_NV = _logits(states_TD[part].to(dtype), known_VD, bias_V, cap)
            logprobs_T[part], slope_NV = _likelihood(logits_NV, targets_T[part], with_slope=slopes_TD is not None)
            if slopes_TD is not None:
                slopes_TD[part] = (slope_NV if bend_NV is None else slope_NV.mul_(bend_NV)).to(dtype) @ known_VD
        ctx.cap, ctx.dtype, ctx.state_dtype = cap, dtype, states_TD.dtype
        of_weights = weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad)
        ctx.save_for_backward(slopes_TD, weight_VD, bias_V, *((states_TD, targets_T) if of_weights else (None, None)))
        return logprobs_T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient_T,) = gradients
        slopes_TD, weight_VD, bias_V, states_TD, targets_T = ctx.saved_tensors
        of_states = None if slopes_TD is None else (gradient_T[:, None] * slopes_TD).to(ctx.state_dtype)
        if states_TD is None:
            return of_states, None, None, None, None, None, None
        of_weight, of_bias = torch.zeros_like(weight_VD, dtype=torch.float32), None if bias_V is None else torch.zeros_like(bias_V)
        known_VD = weight_VD.to(ctx.dtype)
        for part in _parts(len(targets_T), len(weight_VD)):
            logits_NV, bend_NV = _logits(states_TD[part].to(ctx.dtype), known_VD, bias_V, ctx.cap)
            slope_NV = _likelihood(logits_NV, targets_T[part], with_slope=True)[1].mul_(gradient_T[part, None])
            slope_NV = slope_NV if bend_NV is None else slope_NV.mul_(bend_NV)
            of_weight += slope_NV.to(ctx.dtype).T @ states_TD[part].to(ctx.dtype)
            if of_bias is not None:
                of_bias += slope_NV.sum(0)
        return of_states, of_weight.to(weight_VD.dtype), of_bias, None, None, None, None


def _parts(num_tokens: int, num_choices: int) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE // num_choices)
    return [slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size)]


def _logits(
    states_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, cap: float | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """float32 logits (N, V), and what the cap multiplies their gradient by."""
    logits_NV = (states_ND @ weight_VD.T).float()
    logits_NV = logits_NV if bias_V is None else logits_NV + bias_V.float()
    if cap is None:
        return logits_NV, None
    bent_NV = torch.tanh(logits_NV / cap)
    return cap * bent_NV, 1 - bent_NV**2


def _likelihood(logits_NV: torch.Tensor, targets_N: torch.Tensor, *, with_slope: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of the targets (N,), and its gradient by the logits (N, V), in the memory of the logits."""
    total_N1 = logits_NV.logsumexp(1, keepdim=True)
    own_N1 = logits_NV.gather(1, targets_N[:, None])
    if with_slope:
        logits_NV.sub_(total_N1).exp_().neg_()
        logits_NV.scatter_add_(1, targets_N[:, None], torch.ones_like(own_N1))
    return (own_N1 - total_N1)[:, 0], logits_NV


@no_progress_bars()
def load_text_head(path: str, name: str, backbone: Backbone) -> TextHead:
    """The head that a base predicts tokens with; one that is tied to the embeddings shares those of `backbone`.

    Compared with the base's own logits on a few tokens. Raises ValueError for a base that is no language model, and for one that
    makes its logits in another way.
    """
    try:
        causal, loading = AutoModelForCausalLM.from_pretrained(
            path,
            dtype="auto",
            trust_remote_code=False,
            attn_implementation=attention_for(backbone.config),
            output_loading_info=True,
            use_safetensors=True,
        )
    except ValueError as error:
        raise ValueError(f"--text-loss: base {name} is no language model that transformers can load: {_line(error)}") from error
    own = causal.eval().get_output_embeddings()
    embeddings = backbone.model.get_input_embeddings()
    is_tied = own is not None and own.weight is causal.get_input_embeddings().weight
    if own is None or (loading["missing_keys"] and not is_tied):
        raise ValueError(f"--text-loss: base {name} has no language model's head: give a base that writes")
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    bias = getattr(own, "bias", None)
    head = TextHead(embeddings.weight if is_tied else own.weight, bias, cap=cap)
    if not _agrees(head, backbone, causal):
        raise ValueError(f"--text-loss: {type(causal).__name__} makes its logits in a way of its own: leave --text-loss out")
    return head


@torch.no_grad()
def _agrees(head: TextHead, backbone: Backbone, causal: Any) -> bool:
    """Whether the log-probabilities of some tokens are those of the whole model."""
    ids = np.arange(1, 9, dtype=np.int32)
    batch = pack([make_group([ids], [np.array([7])])], 64, layout="plain")[0]
    logits_V = causal(input_ids=torch.from_numpy(ids[None].astype(np.int64)), use_cache=False).logits[0, -1].float()
    targets_T = logits_V.topk(min(64, len(logits_V))).indices  # in a half format the unlikeliest tokens differ most
    ours_T = head(backbone.read(batch).expand(len(targets_T), -1), targets_T)
    most = _AGREES if causal.dtype == torch.float32 else 30 * _AGREES
    return bool(((ours_T - logits_V.log_softmax(0)[targets_T]).abs() <= most).all())


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
