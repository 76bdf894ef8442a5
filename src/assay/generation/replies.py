"""What is asked of a language model, and what came back. Neither torch nor a client is needed here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from assay.files import digest
from assay.generation.prices import Price
from assay.messages import Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a reply is drawn.

    temperature: 0 takes the likeliest token. max_tokens: of the reply. seed: of the draws. choices: the texts that a verdict may
    have: then the probabilities of the tokens are wanted too (from a local model, the verdict's alone: nothing is written). reads:
    the texts of a verdict that may stand anywhere in what is written: a local model tells their probabilities at every token, and
    nothing else of the reply depends on it. schema: JSON schema that the reply has to fit, as text; "" for free text. stop: texts
    at which the reply ends, with the one that it met as its last words.
    """

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0
    choices: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    schema: str = ""
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature {self.temperature} must not be negative: 0 takes the likeliest token")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens} must be at least 1: a reply needs room")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError(f'stop {self.stop!r} must be texts, none of them empty, such as ("\\n\\n",)')

    def as_text(self) -> str:
        """One line of JSON, for keys and the ledger."""
        parts = [self.temperature, self.max_tokens, self.seed, self.choices, self.schema]
        return json.dumps([*parts, self.stop] if self.stop else parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call: messages, and how the reply is drawn. Messages that end with the assistant's are gone on with: the reply is what
    follows its text.

    sample: the number of the sample, for several replies to the same messages. order: which answer was shown first, of a
    comparison. rubric: digest of the rubric. shared: what the asks that begin alike have in common; it is not part of the key.
    """

    messages: Messages
    sampling: Sampling
    sample: int = 0
    order: str = ""
    rubric: str = ""
    shared: str = ""

    def key(self, identity: str) -> str:
        """Hash (32 hex digits) of all that decides the reply. identity: of the backend."""
        parts = [identity, self.rubric, self.sampling.as_text(), self.order, str(self.sample), self.messages_text()]
        return digest("\x1f".join(parts))

    @property
    def goes_on(self) -> bool:
        """Whether the reply goes on with a text of the assistant."""
        return bool(self.messages) and self.messages[-1].role == "assistant"

    def messages_text(self) -> str:
        """The messages as one line of JSON."""
        return json.dumps([turn.hashed() for turn in self.messages], ensure_ascii=False)


class TokenChoices(NamedTuple):
    """A token of a reply, and how likely it and its rivals were: (text, natural logarithm of the probability), likeliest first."""

    token: str
    top: tuple[tuple[str, float], ...]


class Reply(NamedTuple):
    """What one call gave.

    text: the reply; None where there was none, then error says why. finish: why it ended ("stop", "length", ...). input_tokens,
    output_tokens: as billed; None where that is not known. price: in US dollars, None where it is not known. tokens: with choices
    or reads.
    may_pass: the failure lies with the server or the network, so that another try may succeed. retry_after: seconds that the
    server asks to wait.
    """

    text: str | None
    finish: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0
    price: float | None = None
    error: str | None = None
    tokens: tuple[TokenChoices, ...] = ()
    may_pass: bool = False
    retry_after: float = 0.0


class Answered(NamedTuple):
    """The end of one ask. verdict: what the reader made of the reply, None where error says why not. reply: the last one."""

    verdict: Any
    error: str | None
    reply: Reply


class Unreadable(Exception):
    """A reply without a verdict: the message is the reason. Raised by readers, caught here."""


Reader: TypeAlias = Callable[[Ask, Reply], Any]
"""Makes a verdict (what JSON can hold) of a whole reply, or raises `Unreadable`."""


class Desk(NamedTuple):
    """What a backend needs beside the asks. may_send(i): None when ask number i may be sent, else why not (the budget is spent).

    settle(i, reply, seconds_left): takes a reply; None when the ask is settled, else the seconds after which to ask again.
    unsent(i, reason): settles an ask that was not sent. item_seconds: for one ask with all its tries.
    """

    may_send: Callable[[int], str | None]
    settle: Callable[[int, Reply, float], float | None]
    unsent: Callable[[int, str], None]
    item_seconds: float


class Features(NamedTuple):
    """What a backend does of what it may be asked for. replies: several to one call; logprobs: of the tokens and their rivals;
    schema: a reply that fits a JSON schema. length_field: the name of the limit of tokens."""

    replies: bool
    logprobs: bool
    schema: bool
    length_field: str = "max_tokens"

    def summary(self) -> str:
        """What it ignores, in words."""
        fields = {"n": self.replies, "logprobs": self.logprobs, "response_format": self.schema}
        ignored = [name for name, is_there in fields.items() if not is_there]
        return f"it ignores or refuses {', '.join(ignored)}" if ignored else "it knows n, logprobs and JSON schemas"


class Backend(Protocol):
    """A language model that can be asked. model: its name, for reports. identity: all that decides its replies. price: None when
    it is not known. is_thread_safe: whether several threads may ask at once. repeats: equal asks get equal replies, so that asking
    again for one that cannot be read is of no use."""

    @property
    def model(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def price(self) -> Price | None: ...
    @property
    def is_thread_safe(self) -> bool: ...
    @property
    def repeats(self) -> bool: ...
    def probe(self) -> tuple[Features, Reply]:
        """What it can do, found by asking for it. Raises EngineError when it cannot be asked at all."""
        ...

    def use(self, features: Features) -> None:
        """Ask as the probe found that it may be asked."""
        ...

    def run(self, asks: Sequence[Ask], desk: Desk) -> None:
        """Ask all; every ask is settled when it returns. The desk is called from one thread at a time."""
        ...


def text_of(ask: Ask, reply: Reply) -> str:
    """The reader of free text: the whole reply. Raises `Unreadable` for an empty one, unless it goes on with a text, which may have
    been at its end."""
    if reply.text is None or not (reply.text.strip() or ask.goes_on):
        raise Unreadable("the reply is empty")
    return reply.text
