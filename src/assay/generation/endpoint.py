"""An OpenAI-compatible endpoint as a backend: chat completions, many at once, within the rates that it allows.

The `openai` client builds, sends and times the requests; tries, pauses and budgets are ours. The answer is read as text first, so
that a page of HTML, half a JSON or an empty choice is a failure with its reason, and no exception of a parser. The key goes to one
host.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from assay.errors import EngineError
from assay.files import json_digest
from assay.generation.background import Background
from assay.generation.chat_replies import failed, replies_in, valid
from assay.generation.prices import Price, list_price
from assay.generation.replies import Ask, Desk, Features, Reply, Sampling
from assay.messages import Message

if TYPE_CHECKING:
    import httpx2

LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOP_LOGPROBS = 20  # the most that OpenAI's API gives
_PROBES = 3  # tries of the first call, where the endpoint is busy
_BURST_SECONDS = 0.05  # requests of so long a time may go out at once, so that a rate is held over a second too
_CHARACTERS_PER_TOKEN = 4
_KEPT_HEADERS = ("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent")
_MAY_PASS = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_FIXES = {
    401: "name the variable that holds the key with --key-env",
    403: "this key has no access",
    404: "there is no such path or model there: check the URL, which ends in /v1 at most servers, and the model",
}
_WORD_SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": ["yes"]}},
    "required": ["word"],
    "additionalProperties": False,
}


class Rates(NamedTuple):
    """How fast an endpoint may be asked. concurrency: calls at once. A minute's tokens are counted with the most that a reply may
    have, as providers do. None: no limit. timeout_seconds: for one call."""

    concurrency: int = 32
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout_seconds: float = 60.0


class Endpoint:
    """A model behind an OpenAI-compatible URL, such as http://127.0.0.1:8000/v1.

    key: sent as a bearer token to the URL's host alone, after no redirect; nothing of the environment is sent. price: None takes
    the provider's list price, which is unknown for a server of one's own. Raises ValueError for a URL or rates that are none, and
    where the extra `judge` is not installed.
    """

    is_thread_safe = True
    repeats = False

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        rates: Rates = Rates(),  # noqa: B008  (immutable)
        price: Price | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError(f"{url} is no URL of an endpoint: give one such as http://127.0.0.1:8000/v1, without a key in it")
        if rates.concurrency < 1 or not rates.timeout_seconds > 0:
            raise ValueError(
                f"concurrency {rates.concurrency} must be at least 1, timeout_seconds {rates.timeout_seconds} positive"
            )
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (value := getattr(rates, name)) is not None and not value > 0:
                raise ValueError(f"{name} {value} must be positive, or left out for no limit")
        try:
            import aiolimiter  # noqa: F401
            import openai  # noqa: F401
        except ImportError as error:
            raise ValueError(f"{error.name} is not installed: pip install '.[judge]' in Assay's clone") from None
        self.url, self.model, self.rates = url.rstrip("/"), model, rates
        self.identity = json_digest(["endpoint", self.url, model])
        self.price = price if price is not None else list_price(model, self.url)
        self._key, self._origin = key, _origin(url)
        self._length_field = "max_tokens"
        self._takes_n = False
        self._background = Background()
        self._connected: tuple[int, _Connection] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_background", "_connected")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._background, self._connected = Background(), None

    def use(self, features: Features) -> None:
        """Ask as the probe found that it may be asked."""
        self._takes_n, self._length_field = features.replies, features.length_field

    def probe(self) -> tuple[Features, Reply]:
        """Ask for two replies, logprobs and a JSON schema at once, and believe what comes back rather than the status.

        Where that is refused each is asked for alone. Raises EngineError when the endpoint cannot be reached or refuses the key or
        model.
        """
        return self._background.run(self._probe())

    def run(self, asks: Sequence[Ask], desk: Desk) -> None:
        """See `Backend.run`. Samples of the same messages go as one call where the endpoint gives several replies."""
        self._background.run(self._all(asks, desk))

    async def _all(self, asks: Sequence[Ask], desk: Desk) -> None:
        jobs = [[i] for i in range(len(asks))]
        if self._takes_n:
            alike = itertools.groupby(range(len(asks)), key=lambda i: (asks[i].messages, asks[i].sampling, asks[i].order))
            jobs = [list(group) for _, group in alike]
        try:
            async with asyncio.TaskGroup() as group:  # a ledger that cannot be written stops them all: no call goes unrecorded
                for job in jobs:
                    group.create_task(self._one(asks, job, desk))
        except* Exception as failed:
            raise failed.exceptions[0] from None

    async def _one(self, asks: Sequence[Ask], job: list[int], desk: Desk) -> None:
        """Settle all of a job. Where it is refused as one call, its samples are asked for alone; if the first is then answered, it
        was the number that was refused, and no other job is tried as one."""
        alone = job if len(job) > 1 and not self._takes_n else (await self._settled(asks, job, desk))[0]
        for place, i in enumerate(alone):
            _, is_answered = await self._settled(asks, [i], desk)
            if place == 0 and is_answered:
                self._takes_n = False

    async def _settled(self, asks: Sequence[Ask], job: list[int], desk: Desk) -> tuple[list[int], bool]:
        """Ask until all of a job is settled. Those left unsettled, since so many replies at once were refused; and whether the last
        call was answered."""
        is_answered = False
        connection = self._connection()
        async with connection.slots:
            until = time.monotonic() + desk.item_seconds
            while job:
                refusals = {i: reason for i in job if (reason := desk.may_send(i)) is not None}
                for i, reason in refusals.items():
                    desk.unsent(i, reason)
                job = [i for i in job if i not in refusals]
                if not job:
                    return [], is_answered
                if not await self._may_go(connection, asks[job[0]], len(job), until):
                    for i in job:
                        desk.unsent(i, f"timed out: the rates of the endpoint left no time to ask within {desk.item_seconds:g} s")
                    return [], is_answered
                replies = await self._call(connection, asks[job[0]], len(job), until - time.monotonic())
                is_answered = replies[0].text is not None
                if len(job) > 1 and not is_answered and not replies[0].may_pass:  # llama.cpp gives as many as it has slots
                    return job, False
                left = until - time.monotonic()
                pauses = {i: desk.settle(i, reply, left) for i, reply in zip(job, replies, strict=True)}
                job = [i for i, pause in pauses.items() if pause is not None]
                await asyncio.sleep(max((pause for pause in pauses.values() if pause is not None), default=0.0))
        return [], is_answered

    async def _may_go(self, connection: _Connection, ask: Ask, num_replies: int, until: float) -> bool:
        """Wait for the rates, and for a pause that the endpoint has asked for; False when that takes longer than there is time."""
        size = sum(len(turn.content) for turn in ask.messages) // _CHARACTERS_PER_TOKEN
        tokens = size + num_replies * ask.sampling.max_tokens
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                while (pause := connection.not_before - time.monotonic()) > 0:
                    await asyncio.sleep(pause)
                if connection.tokens is not None:
                    await connection.tokens.acquire(min(tokens, connection.tokens.max_rate))
                if connection.requests is not None:
                    await connection.requests.acquire()
        except TimeoutError:
            return False
        return True

    async def _call(self, connection: _Connection, ask: Ask, num_replies: int, seconds_left: float) -> list[Reply]:
        seconds = max(0.001, min(self.rates.timeout_seconds, seconds_left))
        began = time.monotonic()
        status, text, headers, failure = await self._post(connection, self._body(ask, num_replies), seconds)
        took = time.monotonic() - began
        if failure is not None:
            return [failed(failure, seconds=took, may_pass=True)] * num_replies
        if status != 200:
            retry_after = _seconds(headers.get("retry-after"))
            if status in (429, 503) and retry_after:
                connection.not_before = max(connection.not_before, time.monotonic() + retry_after)
            said = f"the endpoint answered {status} ({_said(text)})" + (f": {_FIXES[status]}" if status in _FIXES else "")
            return [failed(said, seconds=took, may_pass=status in _MAY_PASS, retry_after=retry_after)] * num_replies
        told = ask.sampling
        return replies_in(text, num_replies, seconds=took, with_tokens=bool(told.choices), stop=told.stop)

    async def _post(
        self, connection: _Connection, body: Mapping[str, Any], seconds: float
    ) -> tuple[int, str, Mapping[str, str], str | None]:
        """Status, text and headers of the answer, or why there is none."""
        import httpx2
        import openai

        try:
            content = valid(json.dumps(body, ensure_ascii=False)).encode()  # servers refuse what is no valid Unicode, some with 500
            async with asyncio.timeout(seconds):
                response = await connection.client.post(
                    "/chat/completions", cast_to=httpx2.Response, content=content, options={"timeout": seconds, **_JSON}
                )
        except openai.APIStatusError as error:
            return error.response.status_code, error.response.text, error.response.headers, None
        except (openai.APITimeoutError, TimeoutError):
            return 0, "", {}, f"timed out: no reply in {seconds:.3g} s"
        except openai.APIConnectionError as error:
            reason = type(error.__cause__ or error).__name__
            return 0, "", {}, f"the endpoint cannot be reached ({reason}): is it running at {self.url}?"
        return response.status_code, response.text, response.headers, None

    def _body(self, ask: Ask, num_replies: int) -> dict[str, Any]:
        sampling = ask.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [turn.as_dict() for turn in ask.messages],
            "temperature": sampling.temperature,
            self._length_field: sampling.max_tokens,
            "seed": sampling.seed + ask.sample,
        }
        body |= {"n": num_replies} if num_replies > 1 else {}
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if sampling.choices else {}
        if sampling.schema:
            named = {"name": "verdict", "strict": True, "schema": json.loads(sampling.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if ask.goes_on:  # of vLLM and SGLang: another endpoint would begin a new answer, unless it refuses what it does not know
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        return body

    async def _probe(self) -> tuple[Features, Reply]:
        connection = self._connection()
        messages = (Message("user", 'Answer with the JSON {"word": "yes"} and nothing else.'),)
        schema = json.dumps(_WORD_SCHEMA)
        whole = Sampling(temperature=1.0, max_tokens=16, choices=("yes",), schema=schema)
        parts = (
            Sampling(temperature=1.0, max_tokens=16),
            Sampling(max_tokens=16, choices=("yes",)),
            Sampling(max_tokens=16, schema=schema),
        )
        replies = await self._probed(connection, Ask(messages=messages, sampling=whole), 2)
        if _is_fatal(replies):
            raise EngineError(f"{self.url}: {replies[0].error}")
        if replies[0].text is not None:
            return self._found(replies, replies, replies), replies[0]
        alone = [
            await self._probed(connection, Ask(messages=messages, sampling=one), count)
            for one, count in zip(parts, (2, 1, 1), strict=True)
        ]
        if all(one[0].text is None for one in alone):
            plain = await self._probed(connection, Ask(messages=messages, sampling=Sampling(max_tokens=16)), 1)
            if plain[0].text is None:
                raise EngineError(f"{self.url} does not answer {self.model}: {plain[0].error}")
            return self._found(plain, plain, plain), plain[0]
        return self._found(*alone), next(one[0] for one in alone if one[0].text is not None)

    async def _probed(self, connection: _Connection, ask: Ask, num_replies: int) -> list[Reply]:
        """One call of the probe; with the newer name of the limit of tokens where the endpoint asks for that."""
        for attempt in range(_PROBES):
            replies = await self._call(connection, ask, num_replies, self.rates.timeout_seconds)
            if not replies[0].may_pass or "cannot be reached" in (replies[0].error or ""):
                break
            await asyncio.sleep(max(replies[0].retry_after, 0.25 * 2**attempt))
        if replies[0].text is None and "max_completion_tokens" in (replies[0].error or ""):
            self._length_field = "max_completion_tokens"
            replies = await self._call(connection, ask, num_replies, self.rates.timeout_seconds)
        return replies

    def _found(self, several: Sequence[Reply], probable: Sequence[Reply], shaped: Sequence[Reply]) -> Features:
        fits = False
        if shaped[0].text is not None:
            try:
                fits = json.loads(shaped[0].text) == {"word": "yes"}
            except ValueError:
                fits = False
        return Features(
            replies=len(several) > 1 and all(reply.text is not None for reply in several),
            logprobs=bool(probable[0].tokens) and any(len(token.top) > 1 for token in probable[0].tokens),
            schema=fits,
            length_field=self._length_field,
        )

    def _connection(self) -> _Connection:
        """The client and the limits of this process's loop."""
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = (os.getpid(), _connect(self.url, self._origin, self._key, self.rates))
        return self._connected[1]


_JSON: dict[str, Any] = {"headers": {"Content-Type": "application/json"}}


class _Connection:
    """What belongs to one event loop. not_before: when the endpoint may be asked again (monotonic seconds)."""

    def __init__(self, client: Any, slots: asyncio.Semaphore, requests: Any, tokens: Any) -> None:
        self.client, self.slots, self.requests, self.tokens = client, slots, requests, tokens
        self.not_before = 0.0


def _connect(url: str, origin: str, key: str | None, rates: Rates) -> _Connection:
    import httpx2
    import openai
    from aiolimiter import AsyncLimiter

    async def only_ours(request: httpx2.Request) -> None:
        """Of the client's own headers only what HTTP needs goes out; the key goes to the host that the user named."""
        for name in [name for name in request.headers if name.lower() not in _KEPT_HEADERS]:
            del request.headers[name]
        if key is not None and _origin(str(request.url)) == origin:
            request.headers["Authorization"] = f"Bearer {key}"

    limits = httpx2.Limits(max_connections=rates.concurrency, max_keepalive_connections=rates.concurrency)
    http = httpx2.AsyncClient(limits=limits, follow_redirects=False, trust_env=False, event_hooks={"request": [only_ours]})
    client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0, http_client=http, timeout=rates.timeout_seconds)
    requests = tokens = None
    if rates.requests_per_minute is not None:
        burst = max(1, math.floor(rates.requests_per_minute / 60 * _BURST_SECONDS))
        requests = AsyncLimiter(burst, 60 * burst / rates.requests_per_minute)
    if rates.tokens_per_minute is not None:
        tokens = AsyncLimiter(rates.tokens_per_minute, 60)
    return _Connection(client, asyncio.Semaphore(rates.concurrency), requests, tokens)


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    return (urlsplit(url).hostname or "") in LOOPBACK


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _is_fatal(replies: Sequence[Reply]) -> bool:
    said = replies[0].error or ""
    return "cannot be reached" in said or any(f"answered {status} " in said for status in _FIXES)


def _said(text: str) -> str:
    """The endpoint's error message, 200 characters at most."""
    try:
        content = json.loads(text)
        content = content.get("error", content.get("detail", content)) if isinstance(content, dict) else content
        content = content.get("message", content) if isinstance(content, dict) else content
    except ValueError:
        content = text
    return " ".join(str(content).split())[:200]


def _seconds(header: str | None) -> float:
    """Retry-After in seconds; 1 for a date, 0 without one."""
    try:
        value = float(header or 0)
    except ValueError:
        return 1.0
    return value if math.isfinite(value) and value > 0 else 0.0
