"""Splits by prompt, and the proof that they are apart.

A split depends on the prompt's text alone (`records.prompt_key`), so it is known row by row, is the same on every machine,
and never puts one prompt on two sides. T prompt hashes are uint64, the first 8 bytes of the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np

from assay.errors import DataError
from assay.files import digest, sha256
from assay.messages import Messages, prompt_key
from assay.records import PreferencePair

Split = Literal["train", "calibration", "test"]

_NUM_PROMPTS_SHOWN = 3
_NUM_CHARS_SHOWN = 80


class HasPrompt(Protocol):
    """Whatever stands under a prompt: a pair, a case of a suite."""

    @property
    def prompt(self) -> Messages: ...
    @property
    def prompt_key(self) -> str: ...


def split_of(prompt: Messages, *, seed: int = 0, calibration: float = 0.1, test: float = 0.1) -> Split:
    """The split of a prompt, by hash; calibration and test are shares of all prompts, in [0, 1].

    A change of `calibration` moves no prompt into or out of test. Raises ValueError for shares that leave nothing sensible.
    """
    if not (calibration >= 0 and test >= 0 and calibration + test <= 1):
        raise ValueError(f"calibration {calibration} and test {test} must be shares >= 0 whose sum is at most 1")
    place = int(sha256(f"{seed}:{prompt_key(prompt)}")[:16], 16) / 2**64
    if place < test:
        return "test"
    return "calibration" if place < test + calibration else "train"


def fingerprint(pairs: Iterable[PreferencePair]) -> str:
    """Digest (32 hex digits) of what the pairs say, whatever their order, ids, sources and tags.

    A sum of sha256 digests modulo 2^256, so it streams, and a pair that stands twice counts twice.
    """
    total, num_pairs = 0, 0
    for pair in pairs:
        prompt, beside = [turn.hashed() for turn in pair.prompt], [pair.tools, pair.ground_truth]
        beside += [message and message.extras for message in (pair.chosen_message, pair.rejected_message)]
        content = [prompt, pair.chosen, pair.rejected, float(pair.preference), pair.margin, float(pair.weight)]
        content += [beside] if any(beside) else []
        total += int(sha256(json.dumps(content)), 16)
        num_pairs += 1
    return digest(f"{num_pairs}:{total % 2**256}")


def prompt_hashes(pairs: Iterable[HasPrompt]) -> np.ndarray:
    """The prompts of the pairs: (T,) uint64, sorted, each once. 8 bytes a pair are held."""
    return np.unique(np.fromiter((_prompt_hash(pair) for pair in pairs), dtype=np.uint64))


def refuse_overlap(train_hashes: np.ndarray, pairs: Iterable[HasPrompt], *, train_name: str, eval_name: str) -> None:
    """Nothing, if no prompt of the pairs is among the training prompts (`prompt_hashes`); else DataError says which are."""
    seen: dict[int, str | None] = {}
    for pair in pairs:
        key = _prompt_hash(pair)
        if key not in seen:
            seen[key] = _beginning(pair.prompt) if _contains(train_hashes, key) else None
    shared = [beginning for beginning in seen.values() if beginning is not None]
    if shared:
        shown = "".join(f"\n  {beginning}" for beginning in shared[:_NUM_PROMPTS_SHOWN])
        raise DataError(
            f"{len(shared):,} of the {len(seen):,} prompts of {eval_name} are also in {train_name}, which flatters its figures:"
            f"{shown}\nLeave these prompts out of {train_name}, or split both from one set with `split_of`, which goes by prompt."
        )


def is_among(train_hashes: np.ndarray, pair: HasPrompt) -> bool:
    """Whether the prompt of a pair is one of `prompt_hashes`."""
    return _contains(train_hashes, _prompt_hash(pair))


def _prompt_hash(pair: HasPrompt) -> int:
    return int(pair.prompt_key[:16], 16)


def _contains(sorted_hashes: np.ndarray, key: int) -> bool:
    place = int(np.searchsorted(sorted_hashes, np.uint64(key)))
    return place < len(sorted_hashes) and int(sorted_hashes[place]) == key


def _beginning(prompt: Messages) -> str:
    text = " ".join(prompt[-1].content.split()) if prompt else ""
    return repr(text if len(text) <= _NUM_CHARS_SHOWN else text[:_NUM_CHARS_SHOWN] + "...")


def group_keys(pairs: Iterable[PreferencePair]) -> list[str]:
    """One key a pair, equal for pairs that share a prompt or an answer text, over any chain of such pairs.

    The unit of honest cross-validation: two answers that stand swapped under two prompts must not be learned from one and
    predicted in the other.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = parent[above]
            key = above
        return key

    keys = []
    for pair in pairs:
        prompt = f"prompt {pair.prompt_key}"
        for answer in (pair.chosen, pair.rejected):
            parent[root(f"answer {answer.strip()}")] = root(prompt)
        keys.append(prompt)
    return [root(key) for key in keys]
