"""An encoder with its own classification head as a reward model: DeBERTa, RoBERTa, XLM-R, ModernBERT, BERT and their kin.

It reads question and answer at once, in both directions, so that answers share nothing: each is a padded row of its own.
Shapes: B rows, L columns, R rewards (one a row), H width of what the last linear map reads.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from assay.data.tokens.packing import PackedBatch, RowLayout
from assay.models.reward_model import Outputs


class EncoderModel(nn.Module):
    """`forward(batch) -> rewards_RK` as in `RewardModel`, with K = 1.

    plain: transformers' ForSequenceClassification of one label. separator: id of the token that ends the question, for models with
    token types; None for those without. The last linear map is computed in float32, whatever the rest computes in.
    """

    can_branch: ClassVar[bool] = False
    layout: ClassVar[RowLayout] = "plain"
    num_members: ClassVar[int] = 1
    outputs: ClassVar[Outputs] = "members"
    windows: ClassVar[list[int | None]] = []

    def __init__(self, plain: Any, *, separator: int | None) -> None:
        super().__init__()
        self.plain, self.separator = plain, separator
        self.compute_dtype = next(plain.parameters()).dtype
        self.head = last_linear(plain).float()
        self._read: list[torch.Tensor] = []  # what the last linear map read, in the latest forward
        self.head.register_forward_pre_hook(self._keep)

    @property
    def backbone(self) -> EncoderModel:
        """Itself: what scoring asks of a backbone."""
        return self

    @property
    def config(self) -> Any:
        return self.plain.config

    @property
    def head_weights(self) -> torch.Tensor:
        """(1, H), float32."""
        return self.head.weight

    def activation_bytes(self, dtype: torch.dtype) -> tuple[int, int]:
        """See `Backbone.activation_bytes`; attention is counted with its scores, which DeBERTa computes three times."""
        config = self.config
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        per_token = (3 * int(inner) + 3 * config.hidden_size) * dtype.itemsize + 4 * config.hidden_size
        return per_token, 3 * config.num_attention_heads * dtype.itemsize

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        return self.forward_with_states(batch)[0]

    def forward_with_states(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(rewards_R1, states_RH): the rewards, and what the last linear map read. Raises ValueError for rows of several texts."""
        if not batch.is_plain:
            raise ValueError("an encoder reads one text a row: pack with layout 'plain', without sharing")
        device = self.head.weight.device
        inputs = {"input_ids": batch.tokens.astype(np.int64), "attention_mask": (batch.group >= 0).astype(np.int64)}
        if self.separator is not None:
            inputs["token_type_ids"] = token_types(batch.tokens, self.separator) * inputs["attention_mask"]
        logits_B1 = self.plain(**{name: torch.from_numpy(value).to(device) for name, value in inputs.items()}).logits
        row_R = torch.from_numpy(batch.reward_positions // batch.tokens.shape[1]).to(device)
        return logits_B1.float()[row_R], self._read[-1][row_R]

    def read(self, states_RH: torch.Tensor) -> torch.Tensor:
        """Rewards (R, 1) of what the last linear map reads."""
        return nn.functional.linear(states_RH.float(), self.head.weight, self.head.bias)

    def _keep(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        self._read[:] = [inputs[0].float()]
        return (self._read[0],)


def token_types(tokens_BL: np.ndarray, separator: int) -> np.ndarray:
    """(B, L): 0 up to the first separator of a row, 1 behind it, as BERT's tokenizer gives them for a pair."""
    is_separator = tokens_BL == separator
    return (np.cumsum(is_separator, axis=1) - is_separator > 0).astype(np.int64)


def last_linear(plain: nn.Module) -> nn.Linear:
    """The linear map that gives the labels: the last one of the head. Raises ValueError for a head of another form."""
    num_labels = int(plain.config.num_labels)  # type: ignore[union-attr, arg-type]
    linear = [part for name, part in plain.named_modules() if isinstance(part, nn.Linear) and part.out_features == num_labels]
    if not linear:
        raise ValueError(f"{type(plain).__name__} has no linear map of {num_labels} labels at its end: it is not adopted")
    return linear[-1]


def replace_last_linear(plain: nn.Module, new: nn.Linear) -> None:
    """Put another linear map in the place of the last one, and one label into the configuration."""
    old = last_linear(plain)
    for module in plain.modules():
        for name, part in module.named_children():
            if part is old:
                setattr(module, name, new)
    if hasattr(plain, "num_labels"):
        plain.num_labels = new.out_features  # type: ignore[assignment]


def separator_of(tokenizer: Any, config: Any) -> int | None:
    """Id of the token behind which the answer's token type begins; None for a model without token types.

    Raises ValueError for a tokenizer whose token types are given by another rule.
    """
    if int(getattr(config, "type_vocab_size", 0) or 0) < 2 or "token_type_ids" not in tokenizer.model_input_names:
        return None
    encoded = tokenizer("a question", "an answer", return_token_type_ids=True)
    tokens, types = np.array([encoded["input_ids"]]), np.array([encoded["token_type_ids"]])
    if not types.any():
        return None
    separator = tokenizer.sep_token_id
    if separator is None or (token_types(tokens, separator) != types).any():
        raise ValueError(
            f"{type(config).__name__}: the tokenizer's token types {types[0].tolist()} follow a rule that is not known"
        )
    return int(separator)
