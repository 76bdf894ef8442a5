"""The relay world: who has the key after so many passes? A solution writes one pass a step, and every step has an exact label.

Two chains of passes that share no name stand in the prompt, in random order. A wrong step is of a named kind:

wrong receiver   the one who has the key passes it to somebody else
skipped pass     the next pass but one, as if one had been made
other chain      a pass of the chain that the key is not in
slip             a wrong receiver, behind which the solution goes on as if it had been right: the answer is right (`lucky`)

Every pass but that of `wrong receiver` and `slip` stands in the prompt, so that a step cannot be told by itself. What names could
say is balanced: whoever is named as a receiver, rightly or not, gives once and receives once in the prompt, and was not named in
the solution before; names have four letters; a solution has as many steps as the question has passes, right or wrong; and a step
is wrong with one probability at every place. Behind the first error steps follow the prompt from there on, and are labelled as
unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from assay.data.steps.labelled_steps import LabelledSteps
from assay.recipes.worlds.first_errors import Names, WorldSettings, dealt, first_errors, labels_up_to
from assay.records import Completion, as_messages

KINDS = ("wrong receiver", "skipped pass", "other chain")
SLIP, NONE = "slip", "none"
PASSES_OF_A_CHAIN = 8
_NAMES = (
    "Adam", "Alan", "Alex", "Anna", "Bill", "Carl", "Dave", "Dean", "Doug", "Earl", "Emma", "Eric", "Fred", "Gary", "Gene",
    "Glen", "Greg", "Hugh", "Ivan", "Jack", "Jake", "Jane", "Jeff", "Joan", "John", "Josh", "Judy", "Karl", "Kate", "Kurt",
    "Lily", "Lisa", "Lucy", "Luke", "Mary", "Mike", "Neil", "Nick", "Nina", "Noah", "Owen", "Paul", "Pete", "Phil", "Ross",
    "Ruth", "Ryan", "Sara", "Sean", "Seth", "Todd", "Tony",
)  # fmt: skip
"""Each is one token of SmolLM2 behind a space, and four letters long."""

PHRASES = ("{giver} passes it to {receiver}.", "It goes from {giver} to {receiver}.", "{receiver} gets it from {giver}.")


class Problem(NamedTuple):
    """chains: the one that the key goes along, and the other, as names in order. num_passes: those that are asked for. text: the
    prompt."""

    chains: tuple[tuple[str, ...], tuple[str, ...]]
    num_passes: int
    text: str

    @property
    def answer(self) -> str:
        return self.chains[0][self.num_passes]


class Pass(NamedTuple):
    """A step, before it is put into words."""

    giver: str
    receiver: str


def relay_world(settings: WorldSettings) -> Iterator[LabelledSteps]:
    """Candidate solutions, problem by problem, with the label of each step and the outcome; equal settings give equal solutions.

    lengths: passes that are asked for, up to 6. tags: passes, kind (of the first error) and first_error (counted from 0).
    ground_truth: {"answer": name}, which a solution says behind "Answer:". Raises ValueError for more passes than a chain has
    room for.
    """
    if max(settings.lengths) > PASSES_OF_A_CHAIN - 2:
        raise ValueError(f"lengths {settings.lengths}: at most {PASSES_OF_A_CHAIN - 2} passes can be asked for")
    rng = np.random.default_rng([settings.seed, 1])
    lengths = [settings.lengths[i % len(settings.lengths)] for i in range(settings.problems)]
    places = {
        length: iter(first_errors(length, settings.solutions * lengths.count(length), settings.error_rate, rng))
        for length in dict.fromkeys(lengths)
    }
    kinds = iter(dealt(KINDS, settings.problems * settings.solutions, rng))
    for i, length in enumerate(lengths):
        problem = _problem(length, settings, rng)
        for j in range(settings.solutions):
            place = next(places[length])
            kind = NONE if place is None else next(kinds)
            if place is not None and place < length - 1 and rng.random() < settings.lucky:
                kind = SLIP
            yield _solution(problem, place, kind, f"{i}:{j}", settings, rng)


def two_chains(num_passes: int, names: Names, rng: np.random.Generator) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two chains of so many passes, as names in order; they share none."""
    pool, size = names_of(names), num_passes + 1
    drawn = [pool[i] for i in rng.permutation(len(pool))[: 2 * size]]
    return tuple(drawn[:size]), tuple(drawn[size:])


def names_of(names: Names) -> tuple[str, ...]:
    """The names of a half, or all."""
    return {"first": _NAMES[0::2], "second": _NAMES[1::2], "all": _NAMES}[names]


def facts_of(chains: Sequence[Sequence[str]], rng: np.random.Generator) -> str:
    """All passes of the chains in random order, a sentence each."""
    facts = [f"{giver} passed it to {receiver}." for chain in chains for giver, receiver in pairwise(chain)]
    return " ".join(facts[i] for i in rng.permutation(len(facts)))


def _problem(num_passes: int, settings: WorldSettings, rng: np.random.Generator) -> Problem:
    chains = two_chains(PASSES_OF_A_CHAIN, settings.names, rng)
    shuffled = facts_of(chains, rng)
    plural = "es" if num_passes > 1 else ""
    text = (
        f"Passes, in no order: {shuffled}\n"
        f"At first {chains[0][0]} had the key. Who has it after {num_passes} pass{plural}? Write a pass a line, then the answer."
    )
    return Problem(chains, num_passes, text)


def _solution(
    problem: Problem, place: int | None, kind: str, name: str, settings: WorldSettings, rng: np.random.Generator
) -> LabelledSteps:
    passes = passes_of(problem, place, kind, rng)
    phrase = PHRASES[rng.integers(len(PHRASES))]
    steps = [f"{k}. {phrase.format(giver=one.giver, receiver=one.receiver)}\n" for k, one in enumerate(passes, start=1)]
    said = passes[-1].receiver
    steps[-1] += f"Answer: {said}"
    tags = {"world": "relay", "passes": str(problem.num_passes), "kind": kind}
    return LabelledSteps(
        completion=Completion(
            messages=as_messages(problem.text), steps=tuple(steps), ground_truth={"answer": problem.answer}, id=name
        ),
        right=labels_up_to(place, len(steps)),
        outcome=float(said == problem.answer),
        source=f"relay:seed={settings.seed}",
        id=name,
        tags=tags if place is None else {**tags, "first_error": str(place)},
    )


def passes_of(problem: Problem, place: int | None, kind: str, rng: np.random.Generator) -> list[Pass]:
    """The passes that a solution writes: right up to `place`, where an error of the kind is made."""
    own, other = problem.chains
    last = problem.num_passes
    right = [Pass(own[k], own[k + 1]) for k in range(last)]
    if place is None:
        return right
    before = right[:place]
    match kind:
        case "skipped pass":
            return before + [Pass(own[k + 1], own[k + 2]) for k in range(place, last)]
        case "other chain":
            return before + [Pass(other[k], other[k + 1]) for k in range(place, last)]
    left = last - 1 - place  # passes behind this one
    rooms = [
        (chain, i)
        for chain in (own, other)
        for i in range(1, PASSES_OF_A_CHAIN - (0 if kind == SLIP else left))
        if chain is other or i > place + 1
    ]
    chain, i = rooms[rng.integers(len(rooms))]
    wrong = Pass(own[place], chain[i])
    behind = right[place + 1 :] if kind == SLIP else [Pass(chain[i + k], chain[i + k + 1]) for k in range(left)]
    return [*before, wrong, *behind]
