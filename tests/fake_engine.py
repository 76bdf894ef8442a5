"""An inference engine on this machine, for tests: it answers a path and a JSON body by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def fake_engine(answer: Callable[[str, dict[str, Any]], tuple[int, Any]]) -> Iterator[str]:
    """Serves until the block ends; gives the URL. answer: (path, body) -> (status, what JSON holds, or bytes sent as they are)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, reply = answer(self.path, body)
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(reply, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            with suppress(BrokenPipeError):  # a client that waits no longer
                self.end_headers()
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
