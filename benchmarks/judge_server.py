"""A chat endpoint that answers after a fixed time, for benchmarks/judge.py: `python benchmarks/judge_server.py SECONDS`.

It prints its port. GET /stats gives how many calls were answered, when, and how often each message was; a verdict is made of the
message's digest, so that it repeats.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections import Counter

PROBE = "Answer with the JSON"


class Chat:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.times: list[float] = []
        self.sent: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method = line.decode().split()[0]
                length = 0
                while (header := await reader.readline()).strip():
                    name, _, value = header.decode().partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                body = await reader.readexactly(length)
                content = json.dumps(self.stats() if method == "GET" else await self.answer(json.loads(body))).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content))
                writer.write(content)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def stats(self) -> dict[str, object]:
        return {"times": self.times, "sent": self.sent, "answered": self.answered}

    async def answer(self, body: dict) -> dict:
        text = body["messages"][-1]["content"]
        verdict = "Yes."
        if not text.startswith(PROBE):
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            self.sent[key] += 1
            self.times.append(time.monotonic())
            await asyncio.sleep(self.seconds)
            self.answered[key] += 1
            verdict = f"A reason.\nVerdict: {'yes' if int(key, 16) % 3 else 'no'}"
        choice = {"index": 0, "message": {"role": "assistant", "content": verdict}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": len(text) // 4, "completion_tokens": 8}}


async def main(seconds: float) -> None:
    server = await asyncio.start_server(Chat(seconds).handle, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
