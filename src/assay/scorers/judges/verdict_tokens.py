"""The expected verdict from the probabilities of its tokens, read where the verdict stands and nowhere else.

The mass of all spellings of a choice is summed ("Yes", " yes"); what lies outside of the choices is told. A choice that is written
in several tokens is refused where its parts do not tell it from another one: "1" may begin 10. A reply that begins with no verdict
is read at its first token, as a local model is, where the likeliest tokens tell enough of the choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from assay.generation.replies import Reply, TokenChoices, Unreadable
from assay.generation.spellings import normal
from assay.scorers.judges.verdict_text import verdict_at_start

LEAST_MASS = 0.001  # of all choices together: with less the reply would have been something else
READ_TEXT = 'reading = "text" in [judge]'  # what a reason says to do where no probability can be read
MOST_UNSEEN = 0.05  # of the mass of the choices that are seen: what the others could have at most, outside of the likeliest tokens


class Masses(NamedTuple):
    """The probability of each choice among the choices, in their order; outside: the share of all other tokens before that."""

    choices: tuple[float, ...]
    outside: float


def masses_of(reply: Reply, choices: Sequence[str]) -> Masses:
    """Raises `Unreadable` where there are no probabilities, no verdict to read them at, too little mass, or two choices of equal
    mass."""
    if not reply.tokens:
        raise Unreadable("the reply has no probabilities of tokens: give " + READ_TEXT)
    if reply.finish == "choice":  # the choices were read whole
        return _masses(reply.tokens[0], choices)
    try:
        offset = verdict_at_start(reply.text or "", choices).offset
    except Unreadable as reason:
        return _masses_before_another_word(reply, choices, str(reason))
    return masses_at(reply, offset, choices)


def masses_at(reply: Reply, offset: int, choices: Sequence[str]) -> Masses:
    """The same of a verdict that was written at an offset of the reply's text."""
    token = _token_at(reply, offset)
    _refuse_parts(token, choices)
    return _masses(token, choices)


def _masses(token: TokenChoices, choices: Sequence[str]) -> Masses:
    masses = [0.0] * len(choices)
    place_of = {normal(choice): place for place, choice in enumerate(choices)}
    for text, logprob in token.top:
        if (place := place_of.get(normal(text))) is not None:
            masses[place] += math.exp(logprob)
    total = math.fsum(masses)
    if total < LEAST_MASS:
        raise Unreadable(f"the choices have {100 * total:.2g}% of the probability: the reply would have been something else")
    first, second = sorted(masses, reverse=True)[:2]
    if first == second:
        raise Unreadable("two choices are equally likely: there is no verdict")
    return Masses(tuple(mass / total for mass in masses), max(0.0, 1 - total))


def _masses_before_another_word(reply: Reply, choices: Sequence[str], reason: str) -> Masses:
    """The masses at the first token of a reply that begins with something else than a verdict, and not with a thought.

    Raises `Unreadable` where a choice that is none of the likeliest tokens could have more than `MOST_UNSEEN` of what is seen.
    """
    first = reply.tokens[0]
    if (reply.text or "").lstrip().startswith("<") or not first.top:
        raise Unreadable(reason)
    mass_of: dict[str, float] = {}
    for text, logprob in first.top:
        mass_of[normal(text)] = mass_of.get(normal(text), 0.0) + math.exp(logprob)
    names = [normal(choice) for choice in choices]
    least = math.exp(min(logprob for _, logprob in first.top))
    unseen = sum(
        max(least, math.fsum(mass for part, mass in mass_of.items() if part and name.startswith(part)))
        for name in names
        if name not in mass_of
    )
    seen = math.fsum(mass_of.get(name, 0.0) for name in names)
    if seen < LEAST_MASS or unseen > MOST_UNSEEN * seen:
        raise Unreadable(f"{reason}, and too little is known of the choices among the {len(first.top)} likeliest first tokens")
    return _masses(first, choices)


def _token_at(reply: Reply, offset: int) -> TokenChoices:
    """The token that begins at an offset of the text, leading white space apart. Raises `Unreadable` where none does."""
    start = 0
    for token in reply.tokens:
        end = start + len(token.token)
        if start <= offset < end:
            if token.token[: offset - start].strip():
                raise Unreadable(f"the verdict begins inside of the token {token.token!r}: its probability is not known")
            return token
        start = end
    raise Unreadable("the reply's tokens do not make up its text: the verdict cannot be found among them")


def _refuse_parts(token: TokenChoices, choices: Sequence[str]) -> None:
    """Raises `Unreadable` where the token that was written is only the beginning of a choice, or may be."""
    written = normal(token.token)
    names = [normal(choice) for choice in choices]
    longer = [choice for choice, name in zip(choices, names, strict=True) if name.startswith(written) and name != written]
    whole = {normal(text) for text, _ in token.top}
    if written not in names:
        what = f"the choice {longer[0]!r} is several tokens here" if longer else f"the token at the verdict is {token.token!r}"
        raise Unreadable(f"{what}: its probability is not known; give choices of one token, or {READ_TEXT}")
    if unseen := [choice for choice in longer if normal(choice) not in whole]:
        raise Unreadable(f"{token.token!r} may be {written!r} or begin {unseen[0]!r}: give the scale one digit, or {READ_TEXT}")
