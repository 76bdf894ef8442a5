"""The one generator: a language model, its ledger, and the limits of a run. What was answered once is never asked, or paid, again.

    generator = Generator(Endpoint("http://127.0.0.1:8000/v1", "llama"), ledger=Ledger("runs/mine/ledger.sqlite"))
    replies = generator.sample(["Write a line about eggs."], n=4, temperature=0.8, seed=0)   # 1 x 4 replies

Judges ask with a reader (`ask`), which makes a verdict of a reply or says why there is none. A reply that cannot be read was paid
for: it is asked for once more, and the second such reply settles the ask, in later runs too. What failed on the way (429, a
timeout, a server that is down) is tried again within the budgets, and again by the next run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from assay.files import json_digest
from assay.generation.ledger import PROBE, Attempt, Bill, Ledger
from assay.generation.prices import dollars
from assay.generation.replies import Answered, Ask, Backend, Desk, Features, Reader, Reply, Sampling, Unreadable, text_of
from assay.messages import Message, Messages, as_messages

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 20.0
_BYTES_PER_TOKEN = 3  # few, so that a call is not dearer than it was taken for


class Limits(NamedTuple):
    """What a run may cost: from the first ask of a `Generator` on.

    attempts: tries of one ask that failed on the way; readings: replies to one ask that could not be read. retries: of all asks
    together, None for 20 and a tenth of the calls. item_seconds: for one ask with all its tries; run_seconds: for all, None for no
    limit. budget: US dollars, None for no limit; it needs a known price.
    """

    attempts: int = 4
    readings: int = 2
    retries: int | None = None
    item_seconds: float = 120.0
    run_seconds: float | None = None
    budget: float | None = None


class Estimate(NamedTuple):
    """What asks would come to, before they are asked. num_known: answered from the ledger. price: US dollars at most, None where it
    is not known."""

    num_calls: int
    num_known: int
    input_tokens: int
    max_output_tokens: int
    price: float | None

    def summary(self) -> str:
        """One line for people."""
        known = f", {self.num_known:,} known from the ledger" if self.num_known else ""
        tokens = f"about {self.input_tokens:,} tokens to read, {self.max_output_tokens:,} to write at most"
        at_most = "" if self.price is None else " at most"
        return f"{self.num_calls:,} calls to make{known}; {tokens}; {dollars(self.price)}{at_most}"


def total_of(estimates: Sequence[Estimate]) -> Estimate:
    """What asks that share no call come to together; the price is not known where that of one is not."""
    prices = [one.price for one in estimates if one.price is not None]
    price = sum(prices) if len(prices) == len(estimates) else None
    calls, known, to_read, to_write = (sum(column) for column in zip(*(one[:4] for one in estimates), strict=True))
    return Estimate(calls, known, to_read, to_write, price)


class Generator:
    """A backend with a ledger and limits. ledger: None keeps one in memory, for this process. bill: of this run alone."""

    def __init__(self, backend: Backend, *, ledger: Ledger | None = None, limits: Limits = Limits()) -> None:  # noqa: B008
        if limits.attempts < 1 or limits.readings < 1:
            raise ValueError(f"attempts {limits.attempts} and readings {limits.readings} must be at least 1")
        if limits.budget is not None and backend.price is None:
            raise ValueError(
                f"a budget of {dollars(limits.budget)} needs a price, and that of {backend.model} is not known: give price_in and "
                "price_out in [judge] where it is a judge (US dollars a million tokens), else leave the budget out"
            )
        self.backend, self.ledger, self.limits = backend, ledger or Ledger(), limits
        self.bill = Bill()
        self._lock = threading.RLock()
        self._began: float | None = None
        self._retries = 0
        self._reserved: dict[object, float] = {}

    def readings(self, ask: Ask) -> int:
        """How many replies that cannot be read settle an ask: one where the next would be the same."""
        says_the_same = self.backend.repeats or (bool(ask.sampling.choices) and ask.sampling.temperature == 0)
        return 1 if says_the_same else self.limits.readings

    def features(self) -> Features:
        """What the backend can do: from the ledger, else by a call. Raises EngineError when it cannot be asked."""
        probe = Ask(messages=(Message("user", "probe"),), sampling=Sampling(), rubric=PROBE)
        key = json_digest(["probe", self.backend.identity])
        for attempt in reversed(self.ledger.attempts([key]).get(key, [])):
            if attempt.verdict is not None:
                features = Features(**attempt.verdict)
                break
        else:
            features, reply = self.backend.probe()
            if not self.backend.repeats:  # a model in this process knows it without a call
                self._keep(probe, key, self._priced(reply), features._asdict(), None)
        self.backend.use(features)
        return features

    def sample(
        self,
        prompts: Sequence[str | Messages],
        *,
        n: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
        max_tokens: int = 512,
        stop: tuple[str, ...] = (),
    ) -> list[list[Reply]]:
        """P prompts -> P lists of n replies, in order. A reply without text has an error; `finish` is "length" where it was cut
        off.

        Messages that end with the assistant's are gone on with; then a reply may be empty, where that was a whole answer. stop:
        texts at which a reply ends, with the one that it met as its last words. Equal arguments give equal replies: from the
        ledger, and from a local model also without one. Raises ValueError for n < 1.
        """
        if n < 1:
            raise ValueError(f"n {n} must be at least 1: how many replies are drawn for each prompt")
        sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed, stop=stop)
        asks = [
            Ask(messages=as_messages(p), sampling=sampling, sample=k, shared=str(i))
            for i, p in enumerate(prompts)
            for k in range(n)
        ]
        found = [
            one.reply if one.error is None else one.reply._replace(text=None, error=one.error) for one in self.ask(asks, text_of)
        ]
        return [found[start : start + n] for start in range(0, len(found), n)]

    def ask(self, asks: Sequence[Ask], read: Reader) -> list[Answered]:
        """N asks -> N answers, in order. Nothing is raised for an ask that fails; CacheError for a ledger that cannot be
        written."""
        keys = [ask.key(self.backend.identity) for ask in asks]
        known = self.ledger.attempts(keys)
        settled: dict[str, Answered] = {}
        opened: dict[str, int] = {}
        spent: dict[str, int] = {}
        for i, (ask, key) in enumerate(zip(asks, keys, strict=True)):
            if key in settled or key in opened:
                continue
            answered, spent[key] = self._known(ask, known.get(key, []), read)
            if answered is None:
                opened[key] = i
            else:
                settled[key] = answered
        with self._lock:
            self.bill = self.bill.with_known(len(settled))
        if opened:
            turn = _Turn(self, [asks[i] for i in opened.values()], list(opened), [spent[key] for key in opened], read)
            self.backend.run(turn.asks, Desk(turn.may_send, turn.settle, turn.unsent, self.limits.item_seconds))
            settled |= turn.answered
        return [settled[key] for key in keys]

    def estimate(self, asks: Sequence[Ask]) -> Estimate:
        """What these asks would come to, at most: tokens are taken to have three bytes."""
        keys = {ask.key(self.backend.identity): ask for ask in asks}
        known = self.ledger.attempts(keys)
        new = [ask for key, ask in keys.items() if not any(attempt.error is None for attempt in known.get(key, []))]
        read, written = sum(_tokens_of(ask) for ask in new), sum(ask.sampling.max_tokens for ask in new)
        price = self.backend.price
        return Estimate(len(new), len(keys) - len(new), read, written, None if price is None else price.of(read, written))

    def _known(self, ask: Ask, attempts: Sequence[Attempt], read: Reader) -> tuple[Answered | None, int]:
        """The answer that the ledger holds, read anew; and how many replies could not be read."""
        num_unread, last = 0, None
        for attempt in reversed(attempts):
            if attempt.reply.may_pass:
                continue
            answered = _read(ask, attempt.reply, read)
            if answered.error is None:
                return answered, num_unread
            num_unread, last = num_unread + 1, last or answered
        return (last, num_unread) if num_unread >= self.readings(ask) else (None, num_unread)

    def _priced(self, reply: Reply) -> Reply:
        if reply.price is not None or self.backend.price is None:
            return reply
        return reply._replace(price=self.backend.price.of(reply.input_tokens, reply.output_tokens))

    def _keep(self, ask: Ask, key: str, reply: Reply, verdict: Any, error: str | None) -> None:
        self.ledger.record(ask, key, self.backend.model, reply, verdict, error)
        with self._lock:
            self.bill = self.bill.with_call(reply, error, is_probe=ask.rubric == PROBE)

    def _seconds_left(self) -> float:
        with self._lock:
            self._began = self._began or time.monotonic()
        return float("inf") if self.limits.run_seconds is None else self._began + self.limits.run_seconds - time.monotonic()

    def _reserve(self, token: object, ask: Ask) -> str | None:
        """Set the most that a call can cost aside; the reason when the budget does not have it."""
        price, budget = self.backend.price, self.limits.budget
        if budget is None or price is None:
            return None
        most = price.of(_tokens_of(ask), ask.sampling.max_tokens) or 0.0
        with self._lock:
            self._reserved.pop(token, None)  # of a call that was refused as it was, and is made in another way
            under_way = sum(self._reserved.values())
            if self.bill.price + under_way + most > budget:
                aside = f", {dollars(under_way)} at most for calls under way" if under_way else ""
                return (
                    f"not asked: the next call may cost {dollars(most)} and could exceed the budget of {dollars(budget)} "
                    f"({dollars(self.bill.price)} spent{aside})"
                )
            self._reserved[token] = most
        return None

    def _release(self, token: object) -> None:
        with self._lock:
            self._reserved.pop(token, None)

    def _take_retry(self) -> bool:
        with self._lock:
            most = self.limits.retries if self.limits.retries is not None else 20 + self.bill.num_calls // 10
            if self._retries >= most:
                return False
            self._retries += 1
            return True


class _Turn:
    """One call of `Generator.ask`: counts the tries of each ask, and settles it."""

    def __init__(self, generator: Generator, asks: list[Ask], keys: list[str], spent: Sequence[int], read: Reader) -> None:
        self.generator, self.asks, self.keys, self.read = generator, asks, keys, read
        self.unread, self.failed = list(spent), [0] * len(asks)
        self.answered: dict[str, Answered] = {}

    def may_send(self, i: int) -> str | None:
        left = self.generator._seconds_left()
        if left <= 0:
            return f"not asked: the run's {self.generator.limits.run_seconds:g} s are over"
        return self.generator._reserve((id(self), i), self.asks[i])

    def settle(self, i: int, reply: Reply, seconds_left: float) -> float | None:
        generator = self.generator
        generator._release((id(self), i))
        reply = generator._priced(reply)
        answered = _read(self.asks[i], reply, self.read)
        generator._keep(self.asks[i], self.keys[i], reply, answered.verdict, answered.error)
        why, pause = (None, None) if answered.error is None else self._again(i, reply, seconds_left)
        if pause is None:
            error = None if answered.error is None else f"{answered.error}{why or ''}"
            self.answered[self.keys[i]] = answered._replace(error=error)
        return pause

    def _again(self, i: int, reply: Reply, seconds_left: float) -> tuple[str | None, float | None]:
        """After a failure: why the ask is not made again, or the seconds after which it is."""
        generator, limits = self.generator, self.generator.limits
        counts, most = (self.failed, limits.attempts) if reply.may_pass else (self.unread, generator.readings(self.asks[i]))
        counts[i] += 1
        if counts[i] >= most:
            return (f" ({most} tries)" if reply.may_pass and most > 1 else ""), None
        pause = max(reply.retry_after, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (counts[i] - 1))) if reply.may_pass else 0.0
        if pause >= min(seconds_left, generator._seconds_left()):
            return ": no time was left for another try", None
        return (None, pause) if generator._take_retry() else (": the run's retries are spent", None)

    def unsent(self, i: int, reason: str) -> None:
        self.generator._release((id(self), i))
        before = self.answered.get(self.keys[i])
        self.answered[self.keys[i]] = before or Answered(None, reason, Reply(None, error=reason))


def _read(ask: Ask, reply: Reply, read: Reader) -> Answered:
    if reply.text is None:
        return Answered(None, reply.error or "there was no reply", reply)
    try:
        return Answered(read(ask, reply), None, reply)
    except Unreadable as reason:
        return Answered(None, str(reason), reply)


def _tokens_of(ask: Ask) -> int:
    return sum(len(turn.content.encode("utf-8", "replace")) for turn in ask.messages) // _BYTES_PER_TOKEN + 8 * len(ask.messages)
