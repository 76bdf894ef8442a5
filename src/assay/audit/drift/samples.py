"""Sets of text to measure drift on: pairs, or completions or recorded candidates without labels, drawn by prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from assay.console import say
from assay.data.candidates import read_candidates
from assay.data.pairs import read_completions, read_pairs
from assay.data.raw.columns import NO_NAMES
from assay.data.sampling import draw_prompts
from assay.errors import DataError
from assay.records import Completion, PreferencePair, prompt_key

MOST_READ = 20_000  # pairs or completions of a large set that are held


class Sample(NamedTuple):
    """A set as it was read: completions, and the pairs where it is labelled (chosen and rejected are then in turn)."""

    completions: list[Completion]
    pairs: list[PreferencePair] | None


def read_sample(name: str, limit: int, *, form: str | None = None, names: Mapping[str, str] = NO_NAMES, seed: int = 0) -> Sample:
    """At most `limit` pairs of a set, or completions where it holds no pairs, drawn by prompt over the whole set."""
    try:
        reader = read_pairs(name, form=form, names=names, limit=MOST_READ, seed=seed)
        pairs = list(reader)
    except DataError as error:
        completions, what = _without_labels(name, names, seed, error)
        say("read", f"{name}: {len(completions):,} {what}")
        return Sample(draw(completions, limit, seed), None)
    say("read", f"{name}: {reader.summary()}")
    kept = [pairs[i] for i in _by_prompt([pair.prompt_key for pair in pairs], seed)[:limit]]
    return Sample(answers_of(kept), kept)


def _without_labels(name: str, names: Mapping[str, str], seed: int, error: DataError) -> tuple[Sequence[Completion], str]:
    """A set of completions, or of candidates with gold, which is not looked at; and which it was. Raises `error` for neither."""
    try:
        found = (item for _, item in read_completions(name) if isinstance(item, Completion))
        return draw_prompts(found, MOST_READ, seed=seed, prompt_of=prompt_of).items, "completions"
    except DataError:
        pass
    try:
        answers = (answer for group in read_candidates(name, names).groups for answer in group.completions())
        return draw_prompts(answers, MOST_READ, seed=seed, prompt_of=prompt_of).items, "candidates; their gold is not looked at"
    except DataError:
        raise error from None


def answers_of(pairs: Iterable[PreferencePair]) -> list[Completion]:
    """Both answers of each pair, chosen and rejected in turn."""
    return [completion for pair in pairs for completion in pair.completions()]


def draw(completions: Sequence[Completion], limit: int, seed: int) -> list[Completion]:
    """At most `limit` completions, each text once, whole prompts in a drawn order."""
    unique = list({completion.key: completion for completion in completions}.values())
    return [unique[i] for i in _by_prompt([completion.messages or completion.key for completion in unique], seed)[:limit]]


def prompt_of(completion: Completion) -> str:
    """The key of a completion's prompt; of what was rendered already, its own."""
    return prompt_key(completion.messages) if completion.messages else completion.key


def _by_prompt(keys: Sequence[object], seed: int) -> list[int]:
    """Row numbers, prompt by prompt in a drawn order."""
    first: dict[object, int] = {}
    for key in keys:
        first.setdefault(key, len(first))
    place = np.random.default_rng(seed).permutation(len(first))
    return sorted(range(len(keys)), key=lambda i: place[first[keys[i]]])
