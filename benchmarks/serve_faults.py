"""Random requests with faults, over raw connections, and what each of them has to be answered. Used by serve_client.py.

KINDS is the table: the share of a kind, the statuses that are right for it, and how its request is made. Anything else than what it
states is wrong; no answer within a minute, where one is due, is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_TEXT, MAX_ITEMS, MAX_BODY_MB = 20_000, 64, 0.25  # of the server that is asked
POISON = "<jupyter_code>"  # the token whose embedding is NaN in its model
MAX_BODY = round(MAX_BODY_MB * 2**20)
GONE = 0  # in place of a status: the connection ended without an answer
_LOST_SECONDS = 60.0

Expected = list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What is written to a connection, in pieces with pauses between them, and whether it is closed then without waiting.

    expected: the rewards that a 200 has to hold, None for one that is null with a reason; `read` finds them in the reply.
    """

    pieces: list[bytes]
    expected: Expected = field(default_factory=list)
    read: Callable[[Any], list[float | None]] = lambda reply: [row["value"] for row in reply["rewards"]]
    pause: float = 0.0
    hangs_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Items whose rewards are known: as bodies' `items`, as rendered text, and the rewards."""

    items: list[dict[str, Any]]
    texts: list[str]
    values: list[float]


Make = Callable[[random.Random, Pool], Sent]


def http(path: str, body: bytes, *, method: str = "POST", length: int | None = None, headers: str = "") -> bytes:
    size = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body


def scored(items: Sequence[Any], expected: Expected, **more: Any) -> Sent:
    return Sent(pieces=[http("/v1/score", json.dumps({"items": items, **more}).encode())], expected=expected)


def raw(*bodies: bytes, path: str = "/v1/score", **named: Any) -> Make:
    return lambda rng, pool: Sent(pieces=[http(path, rng.choice(bodies), **named)])


def as_json(*bodies: Any, path: str = "/v1/score", **named: Any) -> Make:
    return raw(*(json.dumps(body).encode() for body in bodies), path=path, **named)


def some(rng: random.Random, pool: Pool, count: int) -> tuple[list[dict[str, Any]], Expected]:
    places = rng.sample(range(len(pool.items)), count)
    return [pool.items[i] for i in places], [pool.values[i] for i in places]


def one(rng: random.Random, pool: Pool) -> Sent:
    return scored(*some(rng, pool, 1))


def group(rng: random.Random, pool: Pool) -> Sent:
    start = 8 * rng.randrange(len(pool.items) // 8)
    return scored(pool.items[start : start + 8], list(pool.values[start : start + 8]))


def among_poison(rng: random.Random, pool: Pool) -> Sent:
    """Answers to one prompt, and one among them that makes the model give NaN: the others keep their rewards."""
    start = 8 * rng.randrange(len(pool.items) // 8)
    items, expected = pool.items[start : start + 8], list(pool.values[start : start + 8])
    place = rng.randrange(8)
    poisoned = {**items[place], "response": f"{rng.random()} {POISON} and so on"}
    return scored([*items[:place], poisoned, *items[place + 1 :]], [*expected[:place], None, *expected[place + 1 :]])


def poison_prompt(rng: random.Random, pool: Pool) -> Sent:
    items, expected = some(rng, pool, 2)
    return scored([items[0], {"prompt": f"{rng.random()} {POISON}", "response": "yes"}, items[1]], [expected[0], None, expected[1]])


def bad_item(rng: random.Random, pool: Pool) -> Sent:
    """Items that are no completion, or have none of the tokens: null with a reason, and the others their rewards."""
    bad = [
        {},
        {"prompt": "a"},
        {"token_ids": [10**6]},
        {"token_ids": [-1]},
        {"token_ids": []},
        {"text": "a", "token_ids": [1]},
        {"text": ""},
    ]
    items, expected = some(rng, pool, 2)
    return scored([items[0], rng.choice(bad), items[1]], [expected[0], None, expected[1]])


def rendered(path: str, name: str, read: Callable[[Any], list[float | None]], **more: Any) -> Make:
    def make(rng: random.Random, pool: Pool) -> Sent:
        i = rng.randrange(len(pool.items))
        body = json.dumps({name: [pool.texts[i]], **more}).encode()
        return Sent(pieces=[http(path, body)], expected=[pool.values[i]], read=read)

    return make


def slow(rng: random.Random, pool: Pool) -> Sent:
    sent = one(rng, pool)
    whole = sent.pieces[0]
    cuts = sorted(rng.sample(range(1, len(whole)), 3))
    return Sent(pieces=[whole[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)], expected=sent.expected, pause=0.05)


def dropped(where: str) -> Make:
    """The connection is closed in the head, in the body, or when all was sent and before the answer."""

    def make(rng: random.Random, pool: Pool) -> Sent:
        whole = one(rng, pool).pieces[0]
        body = whole.index(b"\r\n\r\n") + 4
        end = {"head": rng.randrange(1, body), "body": rng.randrange(body, len(whole)), "answer": len(whole)}[where]
        return Sent(pieces=[whole[:end]], pause=0.02 * rng.random(), hangs_up=True)

    return make


def chunked(rng: random.Random, pool: Pool) -> Sent:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Sent(pieces=[head, *[chunk] * (MAX_BODY // 0x10000 + 1)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    share: float
    statuses: tuple[int, ...]
    make: Make


_QUESTION = {"prompt": "a", "response": "b"}
KINDS: dict[str, Kind] = {
    "one completion": Kind(share=30, statuses=(200,), make=one),
    "a group of 8": Kind(share=6, statuses=(200,), make=group),
    "rendered, OpenRLHF's contract": Kind(
        share=4, statuses=(200,), make=rendered("/get_reward", "query", lambda reply: reply["rewards"])
    ),
    "rendered, vLLM's contract": Kind(
        share=4,
        statuses=(200,),
        make=rendered("/classify", "input", lambda reply: [row["probs"][0] for row in reply["data"]], add_special_tokens=False),
    ),
    "a body in slow pieces": Kind(share=3, statuses=(200,), make=slow),
    "NaN among answers to one prompt": Kind(share=5, statuses=(200,), make=among_poison),
    "NaN from the prompt": Kind(share=3, statuses=(200,), make=poison_prompt),
    "NaN where there is no place for a reason": Kind(
        share=2, statuses=(422,), make=as_json({"query": [f"a {POISON} b"]}, {"query": f"{POISON}"}, path="/get_reward")
    ),
    "items that are no completions": Kind(share=5, statuses=(200,), make=bad_item),
    "not JSON": Kind(
        share=5,
        statuses=(400, 422),
        make=raw(b"", b"{", b'{"items": [', b"\xff\xfe", b'{"items": [{"text": "\xff"}]}', b"[" * 50_000),
    ),
    "wrong types": Kind(
        share=5,
        statuses=(422,),
        make=as_json(
            [],
            4,
            None,
            {},
            {"items": 5},
            {"items": [7]},
            {"items": [{"text": 3}]},
            {"items": [{"token_ids": ["1"]}]},
            {"items": [{"token_ids": [True]}]},
            {"items": [{"prompt": [{"role": "user", "content": None}], "response": "b"}]},
            {"items": [{"prompt": [{"role": "nobody", "content": "a"}], "response": "b"}]},
            {"items": [_QUESTION], "timeout": "soon"},
            {"items": [_QUESTION], "timeout": -1},
        ),
    ),
    "another contract's body": Kind(share=3, statuses=(422,), make=as_json({"query": ["a"]}, {"input": ["a"]}, {"inputs": "a"})),
    "a timeout that is none": Kind(
        share=1, statuses=(422,), make=as_json({"items": [_QUESTION]}, headers="X-Request-Timeout: soon\r\n")
    ),
    "an unknown model": Kind(share=2, statuses=(404,), make=as_json({"items": [_QUESTION], "model": "nobody"})),
    "an unknown route": Kind(share=2, statuses=(404,), make=as_json({}, path="/v1/nothing")),
    "a wrong method": Kind(share=1, statuses=(405,), make=as_json({}, method="PUT")),
    "too many completions": Kind(share=1, statuses=(413,), make=as_json({"items": [_QUESTION] * (MAX_ITEMS + 1)})),
    "a text over the limit": Kind(
        share=2, statuses=(413,), make=as_json({"items": [{"prompt": "a", "response": "b " * MAX_TEXT}]})
    ),
    "a body over the limit, declared": Kind(share=2, statuses=(413,), make=raw(b"{", length=MAX_BODY + 1)),
    "a body over the limit, in chunks": Kind(share=1, statuses=(413,), make=chunked),
    "not HTTP": Kind(share=1, statuses=(400,), make=lambda rng, pool: Sent(pieces=[b"\x00\x01 what is this?\r\n\r\n"])),
    "closed in the head": Kind(share=3, statuses=(GONE,), make=dropped("head")),
    "closed in the body": Kind(share=3, statuses=(GONE,), make=dropped("body")),
    "closed before the answer": Kind(share=3, statuses=(GONE,), make=dropped("answer")),
}


def run(work: Path, *, url: str, seed: int, count: int, at_once: int, tolerance: float) -> dict[str, Any]:
    """Send them, `at_once` at a time; what came, by kind, and examples of what was wrong."""
    rows = json.loads((work / "workloads.json").read_text())["serve"]
    texts = json.loads((work / "texts.json").read_text())["serve"]
    values = json.loads((work / "values.json").read_text())
    items = [{"prompt": row["messages"], "response": row["response"]} for row in rows]
    pool, rng = Pool(items=items, texts=texts, values=values), random.Random(seed)
    names = rng.choices(list(KINDS), weights=[kind.share for kind in KINDS.values()], k=count)
    sent = iter([(name, KINDS[name].make(rng, pool)) for name in names])
    found: dict[str, Counter[str]] = {name: Counter() for name in KINDS}
    wrong: list[str] = []
    host, port = url.removeprefix("http://").split(":")

    async def sender() -> None:
        for name, request in sent:
            outcome, problem = await judge(host, int(port), KINDS[name], request, tolerance)
            found[name][outcome] += 1
            if problem:
                found[name]["wrong"] += 1
                wrong.append(f"{name}: {problem}"[:300])

    async def all_senders() -> None:
        await asyncio.gather(*(sender() for _ in range(at_once)))

    began = time.perf_counter()
    asyncio.run(all_senders())
    lost = sum(counts["lost"] for counts in found.values())
    kinds = {name: {"right": list(KINDS[name].statuses), **counts} for name, counts in found.items()}
    seconds = time.perf_counter() - began
    return {"requests": count, "seconds": seconds, "lost": lost, "wrong": len(wrong), "examples": wrong[:10], "kinds": kinds}


async def judge(host: str, port: int, kind: Kind, sent: Sent, tolerance: float) -> tuple[str, str]:
    """The status, or `lost`, and what is wrong with the answer, if anything."""
    try:
        async with asyncio.timeout(_LOST_SECONDS):
            status, body = await exchange(host, port, sent)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
        return "lost", f"no answer: {type(error).__name__} {error}"
    if status not in kind.statuses:
        return str(status), f"status {status}: {body[:150]!r}"
    if status == 200:
        rewards = sent.read(json.loads(body))
        if not agree(rewards, sent.expected, tolerance):
            return "200", f"rewards {rewards}, expected {sent.expected}"
    elif status != GONE and status != 400 and json.loads(body)["error"]["code"] != status:
        return str(status), f"no reason: {body[:150]!r}"
    return str(status), ""


def agree(found: list[float | None], expected: Expected, tolerance: float) -> bool:
    if len(found) != len(expected):
        return False
    return all(a is b if a is None or b is None else abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))


async def exchange(host: str, port: int, sent: Sent) -> tuple[int, bytes]:
    """Status and body of the answer; GONE when it was hung up, by us."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for i, piece in enumerate(sent.pieces):
            if i and sent.pause:
                await asyncio.sleep(sent.pause)
            writer.write(piece)
            await writer.drain()
        if sent.hangs_up:
            await asyncio.sleep(sent.pause)
            return GONE, b""
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
        return int(head.split()[1]), joined(body) if b"\r\ntransfer-encoding: chunked" in head.lower() else body
    finally:
        writer.close()


def joined(chunks: bytes) -> bytes:
    """The body that came in chunks."""
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        body, chunks = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body
