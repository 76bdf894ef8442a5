"""Replies of a causal language model, written token by token: many at once, each prompt computed once for all of its samples.

Every reply has draws of its own, from the seed, its prompt and its number: they do not depend on what else is written beside it.

Shapes: P prompts, N replies, L columns, V tokens of the vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.files import digest
from assay.generation.replies import Reply, Sampling, TokenChoices
from assay.generation.token_texts import token_ends

_LOOKS_BACK = 16  # tokens in which a text that ends a reply is looked for, and of a prompt that is gone on with


class Wish(NamedTuple):
    """A reply to write. place: its number for the caller; prompt: (T,) int32 tokens; sample: its number among those of the prompt;
    goes_on: whether the prompt ends inside of the reply's text. reads: tokens that say each of the texts whose probabilities are
    told at every token."""

    place: int
    prompt: np.ndarray
    sampling: Sampling
    sample: int
    goes_on: bool = False
    reads: tuple[np.ndarray, ...] = ()


class _Writing:
    """A reply that is being written."""

    __slots__ = ("finish", "masses", "random", "tokens", "wish")

    def __init__(self, wish: Wish) -> None:
        self.wish, self.finish = wish, ""
        self.tokens: list[int] = []
        self.masses: list[list[float]] = []  # at each token, the log-probability of each text of `reads`
        seed = digest(b"%d:%d:" % (wish.sampling.seed, wish.sample) + wish.prompt.tobytes())
        self.random = np.random.default_rng(int(seed, 16))


class Decoder:
    """Writes replies. closing: what the chat template writes after an answer. limit: tokens of prompt and reply together. max_rows:
    replies at once."""

    def __init__(self, causal: Any, tokenizer: Any, *, closing: str, limit: int, max_rows: int) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows {max_rows} must be at least 1")
        self.causal, self.tokenizer, self.limit, self.max_rows = causal, tokenizer, limit, max_rows
        self.ends = end_ids(causal, tokenizer, closing)

    def replies(self, wishes: Sequence[Wish]) -> Iterator[tuple[int, Reply]]:
        """Each wish with its reply; prompts of about one length are written together."""
        by_prompt: dict[bytes, list[Wish]] = {}
        for wish in wishes:
            by_prompt.setdefault(wish.prompt.tobytes(), []).append(wish)
        parts: list[list[Wish]] = []
        for together in sorted(by_prompt.values(), key=lambda group: len(group[0].prompt)):
            for start in range(0, len(together), self.max_rows):
                piece = together[start : start + self.max_rows]
                if parts and len(parts[-1]) + len(piece) <= self.max_rows:
                    parts[-1] += piece
                else:
                    parts.append(list(piece))
        for part in parts:
            yield from self._written(part)

    @torch.inference_mode()
    def _written(self, wishes: Sequence[Wish]) -> Iterator[tuple[int, Reply]]:
        began = time.monotonic()
        rows = [_Writing(wish) for wish in wishes]
        logits_NV, cache, seen_NL = self._after_prompts([row.wish.prompt for row in rows])
        active = list(range(len(rows)))
        while True:
            self._note_reads([rows[i] for i in active], logits_NV)
            tokens = [self._draw(rows[i], logits_NV[k]) for k, i in enumerate(active)]
            kept = [k for k, i in enumerate(active) if not self._ends(rows[i], tokens[k])]
            if not kept:
                break
            if len(kept) < len(active):
                index = torch.tensor(kept, device=seen_NL.device)
                cache.reorder_cache(index)
                seen_NL, active, tokens = seen_NL[index], [active[k] for k in kept], [tokens[k] for k in kept]
            seen_NL = torch.cat([seen_NL, seen_NL.new_ones(len(active), 1)], dim=1)
            out = self.causal(
                input_ids=torch.tensor(tokens, device=seen_NL.device)[:, None],
                attention_mask=seen_NL,
                position_ids=seen_NL.sum(dim=1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            logits_NV, cache = out.logits[:, -1], out.past_key_values
        seconds = (time.monotonic() - began) / len(rows)
        for row in rows:
            text = _ended(self._text(row), row.wish.sampling.stop)[0]
            told = self._told(row)
            yield row.wish.place, Reply(text, row.finish, len(row.wish.prompt), len(row.tokens), seconds, 0.0, tokens=told)

    def _after_prompts(self, prompts: Sequence[np.ndarray]) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Logits (N, V) behind N prompts, their cache, and which columns are no padding (N, L). Equal prompts are run once."""
        place: dict[bytes, int] = {}
        order = [place.setdefault(prompt.tobytes(), len(place)) for prompt in prompts]
        unique = list({prompt.tobytes(): prompt for prompt in prompts}.values())
        width = max(len(prompt) for prompt in unique)
        ids_PL, seen_PL = np.zeros((len(unique), width), np.int64), np.zeros((len(unique), width), np.int64)
        for row, prompt in enumerate(unique):
            ids_PL[row, width - len(prompt) :], seen_PL[row, width - len(prompt) :] = prompt, 1
        device = self.causal.device
        seen = torch.from_numpy(seen_PL).to(device)
        out = self.causal(
            input_ids=torch.from_numpy(ids_PL).to(device),
            attention_mask=seen,
            position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        index = torch.tensor(order, device=device)
        cache = out.past_key_values
        cache.reorder_cache(index)
        return out.logits[:, -1][index], cache, seen[index]

    def _note_reads(self, rows: Sequence[_Writing], logits_NV: torch.Tensor) -> None:
        """The probabilities of the texts that are to be read, at the token that is drawn next."""
        totals_N: torch.Tensor | None = None
        for reads, places in _by_reads(rows):
            if totals_N is None:
                totals_N = logits_NV.float().logsumexp(dim=1)
            index = torch.tensor(places, device=logits_NV.device)
            some_NV, some_N = logits_NV[index], totals_N[index]
            told = torch.stack([some_NV[:, ids].float().logsumexp(dim=1) - some_N for ids in reads], dim=1).tolist()
            for place, masses in zip(places, told, strict=True):
                rows[place].masses.append(masses)

    def _told(self, row: _Writing) -> tuple[TokenChoices, ...]:
        """Each token with the probabilities of the texts that were to be read."""
        if not row.wish.reads or row.wish.goes_on:
            return ()
        decode = partial(self.tokenizer.decode, skip_special_tokens=True)
        text, ends = decode(row.tokens), [0, *token_ends(decode, row.tokens).tolist()]
        names = row.wish.sampling.reads
        return tuple(
            TokenChoices(text[begin:end], tuple(zip(names, masses, strict=True)))
            for begin, end, masses in zip(ends[:-1], ends[1:], row.masses, strict=True)
        )

    def _draw(self, row: _Writing, logits_V: torch.Tensor) -> int:
        """The next token: the likeliest at temperature 0, else by the row's own draw from the probabilities, in float64."""
        temperature = row.wish.sampling.temperature
        if temperature == 0:
            return int(logits_V.argmax())
        probabilities_V = (logits_V.double() / temperature).softmax(dim=0).cumsum(dim=0)
        draw = torch.tensor(row.random.random() * float(probabilities_V[-1]), dtype=torch.float64, device=logits_V.device)
        return min(int(torch.searchsorted(probabilities_V, draw, right=True)), len(logits_V) - 1)

    def _ends(self, row: _Writing, token: int) -> bool:
        """Note a token, and whether the reply ends with it."""
        row.tokens.append(token)
        if token in self.ends or _ended(self._text(row, last=_LOOKS_BACK), row.wish.sampling.stop)[1]:
            row.finish = "stop"
        elif len(row.tokens) >= row.wish.sampling.max_tokens or len(row.tokens) + len(row.wish.prompt) >= self.limit:
            row.finish = "length"
        return bool(row.finish)

    def _text(self, row: _Writing, *, last: int | None = None) -> str:
        """What was written, or about its `last` tokens. Behind a text that it goes on with it is decoded together with that one's
        end, since some tokenizers drop a space at the beginning."""
        if last is not None and not row.wish.sampling.stop:
            return ""
        tokens = row.tokens if last is None else row.tokens[-last:]
        before = row.wish.prompt[-_LOOKS_BACK:].tolist() if row.wish.goes_on else []
        known = self.tokenizer.decode(before, skip_special_tokens=True) if before else ""
        whole = str(self.tokenizer.decode([*before, *tokens], skip_special_tokens=True))
        return (
            whole[len(known) :]
            if known and whole.startswith(known)
            else str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        )


def _by_reads(rows: Sequence[_Writing]) -> list[tuple[tuple[np.ndarray, ...], list[int]]]:
    """What is to be read, with the places of its rows; rows of which nothing is read are in none."""
    found: dict[int, tuple[tuple[np.ndarray, ...], list[int]]] = {}
    for place, row in enumerate(rows):
        if row.wish.reads:
            found.setdefault(id(row.wish.reads), (row.wish.reads, []))[1].append(place)
    return list(found.values())


def _ended(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to and with the first of the texts that end it; and whether there is one."""
    ends = [place + len(one) for one in stop if (place := text.find(one)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def end_ids(causal: Any, tokenizer: Any, closing: str) -> frozenset[int]:
    """The tokens that end a reply: those of the generation settings, eos, and the one that the template closes an answer with."""
    configured = getattr(causal.generation_config, "eos_token_id", None)
    ids = list(configured) if isinstance(configured, list | tuple) else [configured]
    closed = tokenizer(closing.strip(), add_special_tokens=False)["input_ids"] if closing.strip() else []
    ids += [tokenizer.eos_token_id, *(closed if len(closed) == 1 else [])]
    return frozenset(int(token) for token in ids if token is not None)
