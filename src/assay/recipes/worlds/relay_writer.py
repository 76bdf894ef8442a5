"""A writer of the relay world that errs at a known rate: a policy without a language model, for what a search can gain.

    generator = Generator(RelayWriter(error_rate=0.3))
    search(generator, scorer, prompts, SearchSettings(method="beam", n=16, stop=("\\n",)))

It reads the passes in the question, goes on with the text so far, and writes a pass a line and the answer, as solutions of
`relay_world` do. A pass is the first wrong one with one probability at every place; the error is of one of the world's kinds, and
behind it the writer follows the question from where it stands, as the world's wrong solutions do. A draw is set by seed, question,
text so far and number of the sample.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from assay.files import digest
from assay.generation.prices import FREE
from assay.generation.replies import Ask, Desk, Features, Reply
from assay.recipes.worlds.relay import KINDS, PHRASES, Pass

_FACT = re.compile(r"(\w+) passed it to (\w+)\.")
_QUESTION = re.compile(r"At first (\w+) had the key\. Who has it after (\d+) pass")
_SAID = tuple(
    re.compile(re.escape(phrase).replace(r"\{giver\}", r"(?P<giver>\w+)").replace(r"\{receiver\}", r"(?P<receiver>\w+)"))
    for phrase in PHRASES
)
_ANSWER = "Answer:"
_TOKEN = re.compile(r"\w+|[^\w ]")


class RelayWriter:
    """A `Backend` that writes solutions of the relay world. Tokens are words, marks and line ends.

    error_rate: the probability that a pass is wrong where those before it are right. Raises ValueError unless it lies in [0, 1).
    A question or a text of another kind has an error instead of a reply.
    """

    is_thread_safe = True
    repeats = True
    price = FREE

    def __init__(self, error_rate: float = 0.3) -> None:
        if not 0 <= error_rate < 1:
            raise ValueError(f"error_rate {error_rate} must lie in [0, 1): it is the chance that a pass is wrong")
        self.error_rate = error_rate
        self.model = self.identity = f"relay writer, error rate {error_rate:g}"

    def probe(self) -> tuple[Features, Reply]:
        return Features(replies=False, logprobs=False, schema=False), Reply("", "known", 0, 0)

    def use(self, features: Features) -> None:
        pass

    def run(self, asks: Sequence[Ask], desk: Desk) -> None:
        for i, ask in enumerate(asks):
            if (why := desk.may_send(i)) is not None:
                desk.unsent(i, why)
                continue
            while desk.settle(i, self._reply(ask), 60.0) is not None:
                pass

    def _reply(self, ask: Ask) -> Reply:
        question, begun = ask.messages[0].content, ask.messages[-1].content if ask.goes_on else ""
        try:
            text = self._written(question, begun, ask)
        except ValueError as reason:
            return Reply(None, error=str(reason))
        return Reply(text, "stop", num_tokens(question) + num_tokens(begun), num_tokens(text))

    def _written(self, question: str, begun: str, ask: Ask) -> str:
        """What follows the text so far: up to the first text that ends a step, or to the answer."""
        seed = digest("\x1f".join([self.identity, str(ask.sampling.seed), question, begun, str(ask.sample)]))
        rng, text = np.random.default_rng(int(seed, 16)), ""
        while (line := _next_line(question, begun + text, self.error_rate, rng)) is not None:
            text += line
            ends = [text.find(stop) + len(stop) for stop in ask.sampling.stop if stop in text]
            if ends:
                return text[: min(ends)]
        return text


@lru_cache(maxsize=4096)
def num_tokens(text: str) -> int:
    """Words, marks and line ends."""
    return len(_TOKEN.findall(text))


def right_names(question: str) -> tuple[str, ...]:
    """Who has the key, from the first to the one asked for. Raises ValueError for a question of another kind."""
    read = _question(question)
    return read.chains[0][: read.num_passes + 1]


def passes_in(text: str) -> list[Pass]:
    """The passes of a solution as far as it has come. Raises ValueError for a line that is none, and not the answer."""
    return [_read(line)[0] for line in text.splitlines() if not line.startswith(_ANSWER)]


def _next_line(question: str, begun: str, error_rate: float, rng: np.random.Generator) -> str | None:
    """The next pass, or the answer; None behind it. Raises ValueError for a question or a text of another kind."""
    own, lines = right_names(question), begun.splitlines()
    if lines and lines[-1].startswith(_ANSWER):
        return None
    read = [_read(line) for line in lines]
    passes, k = [one for one, _ in read], len(read)
    at = passes[-1].receiver if passes else own[0]
    if k == len(own) - 1:
        return f"{_ANSWER} {at}"
    errs = passes == [Pass(*one) for one in pairwise(own[: k + 1])] and rng.random() < error_rate
    made = _wrong(k, _question(question), rng) if errs else Pass(at, _question(question).facts[at])
    phrase = read[-1][1] if read else PHRASES[rng.integers(len(PHRASES))]
    return f"{k + 1}. {phrase.format(giver=made.giver, receiver=made.receiver)}\n"


def _read(line: str) -> tuple[Pass, str]:
    for phrase, pattern in zip(PHRASES, _SAID, strict=True):
        if found := pattern.search(line):
            return Pass(found["giver"], found["receiver"]), phrase
    raise ValueError(f"{line!r} is no pass as the relay world's solutions write it")


def _wrong(place: int, question: _Question, rng: np.random.Generator) -> Pass:
    """A wrong pass at a place (from 0), of one of the kinds of `passes_of`, behind which the passes that are left can be made."""
    kind, left = KINDS[rng.integers(len(KINDS))], question.num_passes - 1 - place
    own, other = question.chains
    match kind:
        case "skipped pass":
            return Pass(own[place + 1], own[place + 2])
        case "other chain":
            return Pass(other[place], other[place + 1])
    rooms = [one for names in (own, other) for i, one in enumerate(names[: -1 - left]) if i and (names is other or i > place + 1)]
    return Pass(own[place], rooms[rng.integers(len(rooms))])


class _Question(NamedTuple):
    """chains: the names of the one that the key goes along, and of the other. facts: giver -> receiver."""

    chains: tuple[tuple[str, ...], tuple[str, ...]]
    num_passes: int
    facts: dict[str, str]


@lru_cache(maxsize=1024)
def _question(text: str) -> _Question:
    asked, facts = _QUESTION.search(text), dict(_FACT.findall(text))
    firsts = set(facts) - set(facts.values())
    if asked is None or asked[1] not in firsts or len(firsts) != 2:
        raise ValueError("this is no question of the relay world: it names no two chains of passes, or not who had the key")
    (other,) = firsts - {asked[1]}
    return _Question((_along(asked[1], facts), _along(other, facts)), int(asked[2]), facts)


def _along(first: str, facts: Mapping[str, str]) -> tuple[str, ...]:
    """The names of a chain."""
    names = [first]
    while names[-1] in facts:
        names.append(facts[names[-1]])
    return tuple(names)
