"""The client of the load benchmark, a process of its own without Assay and torch: callers in a closed loop, and arrivals at a rate.

python benchmarks/serve_client.py WORK, asked over standard input. Every caller sends one completion a request.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import serve_faults
from score_child import serve

TIMEOUT = 600.0


def payloads(work: Path, workload: str, form: str) -> list[dict[str, Any]]:
    """Requests of every item of a workload, in the form of who answers."""
    rows = json.loads((work / "workloads.json").read_text())[workload]
    if form == "vllm":
        texts = json.loads((work / "texts.json").read_text())[workload]
        named = {"model": "rm", "use_activation": False, "add_special_tokens": False}
        return [{**named, "input": text} for text in texts]
    turns = [row["messages"] for row in rows]
    if form == "plain":
        answers = [[{"role": "assistant", "content": row["response"]}] for row in rows]
        return [{"messages": [*prompt, *answer]} for prompt, answer in zip(turns, answers, strict=True)]
    return [{"items": [{"prompt": prompt, "response": row["response"]}]} for prompt, row in zip(turns, rows, strict=True)]


PATHS = {"assay": "/v1/score", "plain": "/score", "vllm": "/classify"}


def value_of(form: str, reply: Any) -> float | None:
    match form:
        case "assay":
            return reply["rewards"][0]["value"]
        case "plain":
            return reply["value"]
        case _:
            return reply["data"][0]["probs"][0]


Answer = tuple[int, int, float | None, float]
"""Which item, the status (0: no answer), the reward, and seconds."""


async def ask(client: httpx2.AsyncClient, form: str, body: bytes, item: int) -> Answer:
    began = time.perf_counter()
    try:
        reply = await client.post(PATHS[form], content=body, headers={"Content-Type": "application/json"})
        value = value_of(form, reply.json()) if reply.status_code == 200 else None
        return item, reply.status_code, value, time.perf_counter() - began
    except httpx2.HTTPError:
        return item, 0, None, time.perf_counter() - began


def client_of(url: str, connections: int) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx2.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False)


async def closed(url: str, form: str, bodies: list[bytes], count: int, callers: int) -> list[Answer]:
    """`callers` ask item after item, the next when the last is answered: the answers of a prompt are asked for at about the same
    time."""
    numbers = iter(range(count))
    answers: list[Answer] = []
    async with client_of(url, callers) as client:

        async def caller() -> None:
            for number in numbers:
                item = number % len(bodies)
                answers.append(await ask(client, form, bodies[item], item))

        await asyncio.gather(*(caller() for _ in range(callers)))
    return answers


async def at_rate(url: str, form: str, bodies: list[bytes], rate: float, seconds: float, late: list[float]) -> list[Answer]:
    """Requests that arrive at a rate whatever becomes of those before; by how much each was sent too late is put into `late`."""
    began = time.perf_counter()
    async with client_of(url, 1000) as client, asyncio.TaskGroup() as group:
        tasks = []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            late.append(time.perf_counter() - began - number / rate)
            item = number % len(bodies)
            tasks.append(group.create_task(ask(client, form, bodies[item], item)))
        await asyncio.wait(tasks)
    return [task.result() for task in tasks]


def timed(run: Callable[[], Awaitable[list[Answer]]]) -> dict[str, Any]:
    cpu, began = time.process_time(), time.perf_counter()
    answers = asyncio.run(run())  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "client_cpu_seconds": time.process_time() - cpu, "answers": answers}


def prepare(work: Path) -> Mapping[str, Callable[..., Any]]:
    def bodies(workload: str, form: str, limit: int | None) -> list[bytes]:
        return [json.dumps(payload).encode() for payload in payloads(work, workload, form)[:limit]]

    def run_closed(url: str, form: str, workload: str, count: int, callers: int) -> dict[str, Any]:
        asked = bodies(workload, form, count)
        return timed(lambda: closed(url, form, asked, count, callers))

    def run_at_rate(url: str, form: str, workload: str, rate: float, seconds: float) -> dict[str, Any]:
        asked = bodies(workload, form, None)
        late: list[float] = []
        return timed(lambda: at_rate(url, form, asked, rate, seconds, late)) | {"latest_s": max(late)}

    return {"closed": run_closed, "at_rate": run_at_rate, "faults": lambda **asked: serve_faults.run(work, **asked)}


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 8192), hard))
    sys.exit(serve(lambda: prepare(Path(sys.argv[1]))))
