"""The tokens that a choice can be written in. All spellings of a choice count: "Yes", " yes" and "YES" are one verdict.

A choice that is one token in some spelling is read there; one that is not, as it is written itself, is read whole, over its tokens
too ("no" may be a token where "No" is none). Where a choice begins another ("1" and "10" as "1", "0"), what goes on to the longer
one is taken off the shorter one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Spellings(NamedTuple):
    """single: for each choice the ids of the tokens that say it. long: for each choice the token sequences that say it, of choices
    that are no token. continued: (choice, sequence): a sequence of a longer choice that begins with a token of this one."""

    single: tuple[np.ndarray, ...]
    long: tuple[tuple[tuple[int, ...], ...], ...]
    continued: tuple[tuple[int, tuple[int, ...]], ...]

    def sequences(self) -> list[tuple[int, ...]]:
        """Every sequence once."""
        return list(dict.fromkeys([sequence for each in self.long for sequence in each]))


def normal(text: str) -> str:
    """What two spellings of a choice have in common: white space at the ends and case do not matter."""
    return unicodedata.normalize("NFC", text).strip().casefold()


class SpelledTokens:
    """The vocabulary of a tokenizer by what its tokens say."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        special = set(tokenizer.all_special_ids)
        self._ids: dict[str, list[int]] = {}
        self._written: set[str] = set()  # what some token says in these very letters
        for index, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(tokenizer))])):
            if index not in special:
                self._ids.setdefault(normal(text), []).append(index)
                self._written.add(text.strip())
        self._known: dict[tuple[str, ...], Spellings] = {}

    def of(self, choices: Sequence[str]) -> Spellings:
        """Raises ValueError for choices that no tokens tell apart."""
        key = tuple(choices)
        if key not in self._known:
            self._known[key] = self._find(key)
        return self._known[key]

    def _find(self, choices: tuple[str, ...]) -> Spellings:
        names = [normal(choice) for choice in choices]
        if len(set(names)) < len(names):
            raise ValueError(f"the choices {list(choices)} are not told apart by more than case: give each a name of its own")
        single = [np.array(self._ids.get(name, []), np.int64) for name in names]
        long: list[tuple[tuple[int, ...], ...]] = []
        for choice, ids in zip(choices, single, strict=True):
            spelled = () if choice.strip() in self._written else self._sequences(choice, shortest=2 if len(ids) else 1)
            if not len(ids) and not spelled:
                raise ValueError(f"the choice {choice!r} has no tokens in this model's vocabulary: give it another name")
            long.append(spelled)
        continued = [
            (place, sequence)
            for place, ids in enumerate(single)
            for other, of_other in enumerate(long)
            for sequence in of_other
            if other != place and sequence[0] in set(ids.tolist())
        ]
        return Spellings(tuple(single), tuple(long), tuple(dict.fromkeys(continued)))

    def _sequences(self, choice: str, shortest: int) -> tuple[tuple[int, ...], ...]:
        variants = dict.fromkeys(text for word in (choice, choice.lower(), choice.capitalize()) for text in (word, f" {word}"))
        found = [tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in variants]
        return tuple(dict.fromkeys(sequence for sequence in found if len(sequence) >= shortest))
