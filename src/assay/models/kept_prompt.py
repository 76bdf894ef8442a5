"""What is kept of a prompt while its answers run a few at a time: keys and values of every layer, and what the last layer reads.

On a CPU a few answers at a time stay in the cache of the processor, and however many there are, the prompt is computed once and
memory is that of one round. Shapes: L columns of a round, P of them the prompt's, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from assay.data.tokens.packing import PackedBatch


class KeptPrompt:
    """num_columns: columns of the prompt that are known, 0 in the first round. cache: the keys and values behind them."""

    def __init__(self, num_prompt: int) -> None:
        self._num_prompt, self.num_columns = num_prompt, 0
        self.cache = DynamicCache()  # without windows: the layout says what a token sees
        self._hidden_1PD: torch.Tensor | None = None

    def whole(self, hidden_1LD: torch.Tensor) -> torch.Tensor:
        """The states before the last layer at the columns of a round, with those of the prompt where they are known: (1, L, D)."""
        if self._hidden_1PD is None:
            self._hidden_1PD = hidden_1LD[:, : self._num_prompt]
            return hidden_1LD
        return torch.cat([self._hidden_1PD, hidden_1LD], dim=1)

    def end_round(self, num_columns: int) -> None:
        """Drop keys and values of the answers of a round of so many columns, prompt included."""
        self.cache.crop(self._num_prompt - num_columns)
        self.num_columns = self._num_prompt


def read_in_rounds(read: Callable[..., torch.Tensor], rounds: Sequence[PackedBatch]) -> torch.Tensor:
    """The states (R, D) that `read(batch, behind=kept)` gives in each of the rounds of a group (`packing.rounds_of`)."""
    behind = KeptPrompt(num_prompt=int((rounds[0].branch == 0).sum()))
    states_RD = []
    for batch in rounds:
        states_RD.append(read(batch, behind=behind))
        behind.end_round(batch.tokens.size)
    return torch.cat(states_RD)


def kept_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token in all layers."""
    config = config.get_text_config()
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * num_heads * width * dtype.itemsize)
