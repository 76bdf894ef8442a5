"""A cache of keys and values of solutions that are scored again when they have grown by a step: what was there is not computed
again.

Search asks for the same beginning many times: each candidate is an earlier solution with one more step. Shapes: T tokens, R reads,
D hidden size.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from assay.data.tokens.packing import num_common
from assay.models.backbone import Backbone
from assay.models.kept_prompt import kept_bytes

_LEAST = 16  # with fewer shared tokens an entry is not reused


@dataclass(slots=True)
class _Entry:
    """A solution up to its last read. at_reads: the final hidden state (D,) of each token that was read."""

    prompt: Hashable
    tokens: np.ndarray
    states: DynamicCache
    at_reads: dict[int, torch.Tensor]


class _Beginning(NamedTuple):
    """What is taken of an entry: its first tokens."""

    entry: _Entry
    num_tokens: int


class GrowingStates:
    """The most recent solutions, within a memory limit.

    max_bytes: of all keys and values; beyond it the solution used longest ago is dropped. num_reused: tokens that were reused.
    """

    def __init__(self, backbone: Backbone, max_bytes: int) -> None:
        self.backbone, self.max_bytes = backbone, max_bytes
        self.num_reused = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._bytes_per_token = kept_bytes(backbone.config, backbone.dtype)

    @property
    def num_bytes(self) -> int:
        return sum(len(entry.tokens) for entry in self._entries.values()) * self._bytes_per_token

    def states_at(self, prompt: Hashable, tokens_T: np.ndarray, reads_R: np.ndarray) -> torch.Tensor:
        """Final hidden states (R, D) at some of T tokens, in ascending order. What the tokens have in common with an earlier
        solution under the same prompt is not computed again, nor are the states that were read there."""
        reads, tokens_T = [int(place) for place in reads_R], tokens_T[: int(reads_R[-1]) + 1]
        with self._lock:
            begun = self._longest(prompt, tokens_T, reads)
            entry = _Entry(prompt, tokens_T, DynamicCache(config=self.backbone.config), {})
            if begun.num_tokens:
                for number, layer in enumerate(begun.entry.states.layers):
                    kept = slice(None, begun.num_tokens)
                    entry.states.update(layer.keys[:, :, kept], layer.values[:, :, kept], number)
                known = begun.entry.at_reads
                entry.at_reads = {place: known[place] for place in reads if place in known and place < begun.num_tokens}
            new = [place for place in reads if place not in entry.at_reads]
            if new:
                rest = torch.from_numpy(tokens_T[begun.num_tokens :].astype(np.int64))[None].to(self.backbone.device)
                hidden_1TD = self.backbone.model(input_ids=rest, past_key_values=entry.states, use_cache=True).last_hidden_state
                entry.at_reads |= {place: hidden_1TD[0, place - begun.num_tokens] for place in new}
            self.num_reused += begun.num_tokens
            if not new or bool(torch.isfinite(hidden_1TD).all()):  # NaN reaches the keys of tokens before it: 0 times NaN is NaN
                self._keep(entry)
            return torch.stack([entry.at_reads[place] for place in reads])

    def _longest(self, prompt: Hashable, tokens_T: np.ndarray, reads: list[int]) -> _Beginning:
        """The most that an entry has of the tokens, up to the first read whose state it does not have."""
        best = _Beginning(_Entry(prompt, tokens_T[:0], DynamicCache(), {}), 0)
        for number, entry in list(self._entries.items()):
            if entry.prompt != prompt:
                continue
            shared = num_common(entry.tokens, tokens_T)
            shared = min([shared, *(place for place in reads if place < shared and place not in entry.at_reads)])
            if shared >= _LEAST and shared > best.num_tokens:
                best = _Beginning(entry, shared)
                self._entries.move_to_end(number)
        return best

    def _keep(self, entry: _Entry) -> None:
        self._entries[next(self._numbers)] = entry
        while self._entries and self.num_bytes > self.max_bytes:
            self._entries.popitem(last=False)
