"""A random sample of a file: whole prompts, drawn by seed, in one pass and in memory that does not grow with the file.

The first rows of a file are no sample of it: many published sets are sorted by category, source or difficulty.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from assay.data.raw.rows import is_hub
from assay.files import sha256
from assay.records import PreferencePair

T = TypeVar("T")
HUB_FIRST = 20_000  # items of a hub data set that a sample is drawn from, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Generic[T]):
    """The items that were drawn, in the order of the file, and how many there were."""

    items: tuple[T, ...]
    num_seen: int

    @property
    def is_all(self) -> bool:
        return len(self.items) == self.num_seen


@dataclass(slots=True)
class _Prompt(Generic[T]):
    """num_items: of the prompt in the file; items: of them with their numbers, as many as the sample may hold."""

    num_items: int = 0
    items: list[tuple[int, T]] = field(default_factory=list)


def draw_prompts(items: Iterable[T], limit: int, *, seed: int, prompt_of: Callable[[T], str]) -> Sample[T]:
    """At most `limit` of the items: prompts in a random order, each with all of its items, as many as fit.

    prompt_of: the key of an item's prompt. The place of a prompt in the order is a hash of seed and key, so the same prompts are
    drawn from a file in any order, and most of them again when rows are added (bottom-k sampling: Cohen and Kaplan 2007). A prompt
    of more items than still fit is passed over; only where whole prompts would fill less than half of the sample is one cut.
    """
    kept: dict[int, _Prompt[T]] = {}
    places: list[int] = []  # a heap, the last place on top
    total, num_seen, end = 0, 0, 2**64
    for number, item in enumerate(items):
        num_seen = number + 1
        place = int(sha256(f"sample:{seed}:{prompt_of(item)}")[:16], 16)
        if place >= end:
            continue
        if place not in kept:
            kept[place] = _Prompt()
            heapq.heappush(places, -place)
        prompt = kept[place]
        prompt.num_items += 1
        if len(prompt.items) < limit:
            prompt.items.append((number, item))
            total += 1
        while len(places) > 1 and total - len(kept[-places[0]].items) >= 2 * limit:  # twice: some may not fit
            end = -heapq.heappop(places)
            total -= len(kept.pop(end).items)
    return Sample(items=tuple(item for _, item in sorted(_fitting(kept, limit), key=lambda entry: entry[0])), num_seen=num_seen)


def draw_from_file(
    path: str | Path, items: Iterable[T], limit: int, *, seed: int, prompt_of: Callable[[T], str], what: str
) -> tuple[Sample[T], str]:
    """`draw_prompts` over all items of a file; of a hub data set, which would have to be fetched whole, over its first ones. And
    what was drawn, in words: "" where that is all. what: the items, such as pairs."""
    first = max(HUB_FIRST, 50 * limit) if is_hub(path) else None
    sample = draw_prompts(islice(items, first), limit, seed=seed, prompt_of=prompt_of)
    if sample.is_all:
        return sample, ""
    whole = f"the first {sample.num_seen:,} {what} of the set" if sample.num_seen == first else f"{sample.num_seen:,} {what}"
    return sample, f"{len(sample.items):,} of {whole} drawn at random, whole prompts, seed {seed}"


def draw_pairs(pairs: Iterable[PreferencePair], limit: int, *, seed: int) -> list[PreferencePair]:
    """At most `limit` of the pairs, whole prompts: see `draw_prompts`."""
    return list(draw_prompts(pairs, limit, seed=seed, prompt_of=lambda pair: pair.prompt_key).items)


def _fitting(kept: dict[int, _Prompt[T]], limit: int) -> list[tuple[int, T]]:
    """The items of the first prompts that fit whole, and where those are few the beginning of one that does not."""
    taken: list[tuple[int, T]] = []
    passed_over: list[_Prompt[T]] = []
    for _, prompt in sorted(kept.items()):
        fits = len(taken) + prompt.num_items <= limit
        taken += prompt.items if fits else []
        passed_over += [] if fits else [prompt]
    if passed_over and len(taken) < limit / 2:
        taken += passed_over[0].items[: limit - len(taken)]
    return taken
