"""The relay world as pairs: who has the key after so many passes? The right name takes as many look-ups, one after the other.

Two chains of seven passes that share no name stand in the prompt as 14 facts, in random order; the key starts with somebody in one
of them. An answer names a holder. The wrong one is of a named kind:

other chain   who would have it, had it started at the same place of the other chain
one too few   who had it one pass before
one too many  who has it one pass later

Pairs come in twins: two prompts with the same facts in the same order and the same number of passes, the same two answers, and
the other one of them right. What differs is the name of who has the key at first, and nothing else:

    other chain: who starts is at the same place of the other chain
    one too few, one too many: who starts is one pass further on in the chain, so that each kind is the other's twin

So whatever does not read who starts (the answers' words, lengths, places in the facts, what a name gives and receives, how deep in
its chain it lies, how often it is an answer) is right in exactly half of the pairs, at each number of passes. What does read it
finds no name beside it but at one and two passes: at one pass the right one, at two the wrong one of `one too few`. At one pass
there is no such kind: it would be who starts. Every name that is an answer gives once and receives once, which takes chains of
seven passes rather than six, where five passes are asked for.

The critique is the chain written out, with the passes that are left, and says no verdict. That of one answer then says whom the
answer names, so that the verdict compares two names that stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from assay.recipes.worlds.first_errors import Names
from assay.recipes.worlds.relay import facts_of, two_chains
from assay.records import PreferencePair, as_messages

OTHER_CHAIN, TOO_FEW, TOO_MANY = "other chain", "one too few", "one too many"
PASSES = 7
"""Of a chain."""
MOST_PASSES = PASSES - 2
"""That can be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairWorldSettings:
    """How large a world of pairs is.

    pairs: their number, an even one: they come in twins. lengths: how many passes, each of equally many twins. names: a half of the
    names, or all. seed: of all draws.
    """

    pairs: int = 600
    lengths: tuple[int, ...] = (1, 2, 3)
    names: Names = "first"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 2 or self.pairs % 2:
            raise ValueError(f"pairs {self.pairs} must be an even number of at least 2: they come in twins")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths {self.lengths} must each be at least 1")


class CritiquedPair(NamedTuple):
    """A pair with what a judge would write of each answer before its verdict, and of both at once (pair)."""

    pair: PreferencePair
    chosen: str
    rejected: str
    both: str

    @property
    def columns(self) -> Mapping[str, str]:
        """The critiques under the names of the columns that they are written to beside the pair."""
        return {"chosen_critique": self.chosen, "rejected_critique": self.rejected, "critique": self.both}


def relay_pairs(settings: PairWorldSettings) -> Iterator[CritiquedPair]:
    """Pairs in twins, one behind the other; equal settings give equal pairs.

    lengths: passes, up to 5. Each is asked in equally many twins up to one; of those with two passes or more a third is of the
    other chain. tags: world, passes, kind, and twins, which both share: a cluster for intervals. Raises ValueError for more.
    """
    if max(settings.lengths) > MOST_PASSES:
        raise ValueError(f"lengths {settings.lengths}: at most {MOST_PASSES} passes can be asked for")
    rng = np.random.default_rng([settings.seed, 3])
    num_twins, num_lengths = settings.pairs // 2, len(settings.lengths)
    for i in rng.permutation(num_twins):
        is_other = settings.lengths[i % num_lengths] == 1 or (i // num_lengths) % 3 == 0
        yield from _twins(settings.lengths[i % num_lengths], is_other, int(i), settings, rng)


def _twins(
    num_passes: int, is_other: bool, name: int, settings: PairWorldSettings, rng: np.random.Generator
) -> list[CritiquedPair]:
    """Two pairs on the same facts; which of them comes first is drawn."""
    chains = two_chains(PASSES, settings.names, rng)
    facts = facts_of(chains, rng)
    own, other = chains
    if is_other:
        start = int(rng.integers(PASSES - num_passes))
        wrong = (other[start + num_passes], own[start + num_passes])
        found = [(chains[k], start, wrong[k], OTHER_CHAIN) for k in (0, 1)]
    else:
        start = int(rng.integers(PASSES - 1 - num_passes))
        found = [
            (own, start, own[start + num_passes + 1], TOO_MANY),
            (own, start + 1, own[start + num_passes], TOO_FEW),
        ]
    return [_pair(facts, found[k], num_passes, name, f"{name}:{j}", settings) for j, k in enumerate(rng.permutation(2))]


def _pair(
    facts: str, of: tuple[tuple[str, ...], int, str, str], num_passes: int, twins: int, name: str, settings: PairWorldSettings
) -> CritiquedPair:
    chain, start, wrong, kind = of
    plural = "es" if num_passes > 1 else ""
    prompt = f"Passes, in no order: {facts}\nAt first {chain[start]} had the key. Who has it after {num_passes} pass{plural}?"
    right = chain[start + num_passes]
    pair = PreferencePair(
        prompt=as_messages(prompt),
        chosen=f"{right} has it.",
        rejected=f"{wrong} has it.",
        source=f"relay-pairs:seed={settings.seed}",
        id=name,
        tags={"world": "relay-pairs", "passes": str(num_passes), "kind": kind, "twins": str(twins)},
        ground_truth={"answer": right},
    )
    critique = chain_written_out(chain[start : start + num_passes + 1])
    of_right, of_wrong = (f"{critique} The answer says {name}." for name in (right, wrong))
    return CritiquedPair(pair, of_right, of_wrong, critique)


def chain_written_out(holders: tuple[str, ...]) -> str:
    """Who had it first, and each pass with those that are left, counted down: where to stop is the same for every length."""
    left = len(holders) - 1
    lines = [f"{holders[0]} has it, {left} left."]
    for k in range(1, len(holders)):
        lines.append(f"{holders[k - 1]} passed it to {holders[k]}, {left - k} left.")
    return " ".join([*lines, f"So {holders[-1]} has it."])
