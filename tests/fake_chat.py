"""An OpenAI-compatible endpoint on this machine, for faults: it answers each chat request by a function."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

PROBE = "Answer with the JSON"  # how the probe's message begins


class Request(NamedTuple):
    body: dict[str, Any]
    headers: Mapping[str, str]
    path: str

    @property
    def text(self) -> str:
        return self.body["messages"][-1]["content"]


class Chat:
    """The server: `url`, and the `requests` it got, without probes. features: what it does of n, logprobs, schema."""

    def __init__(self, answer: Callable[[Request], Any], features: tuple[str, ...] = (), seconds: float = 0.0) -> None:
        self.answer, self.features, self.seconds = answer, features, seconds
        self.requests: list[Request] = []
        self.probes: list[Request] = []
        self.url = ""
        self.is_closed = False


def said(text: str | None, *, finish: str = "stop", tokens: Any = None, **message: Any) -> dict[str, Any]:
    """A chat completion with one choice; 10 tokens in, 2 out. tokens: [(token, {token: logprob})] for logprobs."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    if tokens is not None:
        rows = [
            {"token": token, "logprob": top.get(token, -9.0), "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
            for token, top in tokens
        ]
        choice["logprobs"] = {"content": rows}
    return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}


def probed(chat: Chat, body: dict[str, Any]) -> dict[str, Any]:
    """An answer to the probe that does what `features` says, and ignores the rest."""
    text = '{"word": "yes"}' if "schema" in chat.features and "response_format" in body else "Yes."
    reply = said(
        text, tokens=[("Yes", {"Yes": -0.1, "No": -2.4})] if "logprobs" in chat.features and body.get("logprobs") else None
    )
    if "n" in chat.features and body.get("n", 1) > 1:
        reply["choices"] *= body["n"]
    return reply


@contextmanager
def fake_chat(
    answer: Callable[[Request], Any], features: tuple[str, ...] = (), *, seconds: float = 0.0, answers_probes: bool = True
) -> Iterator[Chat]:
    """Serves until the block ends. answer: request -> reply, (status, reply) or (status, reply, headers); bytes go as they are."""
    chat = Chat(answer, features, seconds)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            if chat.is_closed:  # a connection that was kept open
                self.close_connection = True
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = Request(body, dict(self.headers), self.path)
            if request.text.startswith(PROBE) and answers_probes:
                chat.probes.append(request)
                given: Any = probed(chat, body)
            else:
                chat.requests.append(request)
                if chat.seconds:
                    time.sleep(chat.seconds)
                given = chat.answer(request)
            status, reply, headers = (*given, {})[:3] if isinstance(given, tuple) else (200, given, {})
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        chat.is_closed = True
        server.shutdown()
        server.server_close()
