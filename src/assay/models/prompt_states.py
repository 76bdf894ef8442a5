"""A cache of keys and values of prompts, for answers that are scored one by one: the prompt is not computed again.

Answers that are scored together share their prompt in the packed batch and do not use this cache.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache

from assay.data.tokens.packing import num_common
from assay.models.backbone import Backbone
from assay.models.kept_prompt import kept_bytes

_LEAST = 16  # with fewer shared tokens an entry is not reused


@dataclass(slots=True)
class _Entry:
    tokens: np.ndarray
    states: DynamicCache


class PromptStates:
    """The most recent prompts, within a memory limit.

    max_bytes: of all keys and values; beyond it the prompt used longest ago is dropped. num_reused: tokens that were reused.
    """

    def __init__(self, backbone: Backbone, max_bytes: int) -> None:
        self.backbone, self.max_bytes = backbone, max_bytes
        self.num_reused = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes_per_token = kept_bytes(backbone.config, backbone.dtype)

    @staticmethod
    def suits(backbone: Backbone) -> bool:
        """Whether a cropped cache gives the states of a whole forward: every layer must attend to all earlier positions."""
        return backbone.can_branch and not any(backbone.windows)

    @property
    def num_bytes(self) -> int:
        return sum(len(entry.tokens) for entry in self._entries.values()) * self._bytes_per_token

    def last_state(self, prompt: Hashable, tokens_T: np.ndarray) -> torch.Tensor:
        """Final hidden state (1, D) at the last of T tokens; the first tokens may be cached under `prompt`."""
        return self.states_at(prompt, tokens_T, np.array([len(tokens_T) - 1]))

    def states_at(self, prompt: Hashable, tokens_T: np.ndarray, reads_R: np.ndarray) -> torch.Tensor:
        """Final hidden states (R, D) at some of T tokens, in ascending order; the tokens before them may be cached under `prompt`.

        Tokens are compared with the cached ones: the longest common prefix is reused.
        """
        tokens_T = tokens_T[: int(reads_R[-1]) + 1]
        with self._lock:
            entry = self._entries.pop(prompt, None)
            num_shared = num_common(entry.tokens, tokens_T[: int(reads_R[0])]) if entry is not None else 0
            if entry is None or num_shared < _LEAST:
                entry, num_shared = _Entry(tokens_T, DynamicCache(config=self.backbone.config)), 0
            elif (surplus := entry.states.get_seq_length() - num_shared) > 0:
                entry.states.crop(-surplus)
            rest = torch.from_numpy(tokens_T[num_shared:].astype(np.int64))[None].to(self.backbone.device)
            hidden_1TD = self.backbone.model(input_ids=rest, past_key_values=entry.states, use_cache=True).last_hidden_state
            self.num_reused += num_shared
            found = hidden_1TD[0, torch.from_numpy(reads_R - num_shared).to(hidden_1TD.device, torch.long)]
            if not bool(torch.isfinite(hidden_1TD).all()):  # NaN reaches the keys of tokens before it: 0 times NaN is NaN
                return found
            if num_shared:  # keep the prompt, not the answer
                entry.states.crop(-len(rest[0]))
                entry.tokens = tokens_T[:num_shared]
            self._keep(prompt, entry)
            return found

    def _keep(self, prompt: Hashable, entry: _Entry) -> None:
        self._entries[prompt] = entry
        while self._entries and self.num_bytes > self.max_bytes:
            self._entries.popitem(last=False)
