"""A language model whose replies are written by a function: for judges and generative models without a server or weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from assay.generation.generator import Generator
from assay.generation.prices import Price
from assay.generation.replies import Ask, Desk, Features, Reply, TokenChoices


class Scripted:
    """A `Backend`: `answer` writes the reply to each ask. asked: all asks so far."""

    is_thread_safe = True
    repeats = True
    price = Price(1.0, 2.0)

    def __init__(self, answer: Callable[[Ask], str | Reply], *, logprobs: bool = False) -> None:
        self.answer, self.logprobs = answer, logprobs
        self.model = self.identity = "scripted"
        self.asked: list[Ask] = []

    def probe(self) -> tuple[Features, Reply]:
        return Features(replies=True, logprobs=self.logprobs, schema=False), Reply("", "known", 0, 0)

    def use(self, features: Features) -> None:
        pass

    def run(self, asks: Sequence[Ask], desk: Desk) -> None:
        for i, ask in enumerate(asks):
            if (why := desk.may_send(i)) is not None:
                desk.unsent(i, why)
                continue
            self.asked.append(ask)
            reply = self.answer(ask)
            reply = Reply(reply, "stop", 10, 2) if isinstance(reply, str) else reply
            while desk.settle(i, reply, 60.0) is not None:
                pass


def scripted(answer: Callable[[Ask], str | Reply], *, logprobs: bool = False) -> Generator:
    """A generator whose replies `answer` writes."""
    return Generator(Scripted(answer, logprobs=logprobs))


def with_tokens(*parts: str | tuple[str, dict[str, float]]) -> Reply:
    """A reply in tokens; a token with its rivals is (text, {text: probability})."""
    tokens = [
        TokenChoices(part, ())
        if isinstance(part, str)
        else TokenChoices(part[0], tuple((t, math.log(p)) for t, p in part[1].items()))
        for part in parts
    ]
    return Reply("".join(token.token for token in tokens), "stop", 10, len(tokens), tokens=tuple(tokens))
