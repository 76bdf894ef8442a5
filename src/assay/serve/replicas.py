"""The same application on several replicas: Ray Serve starts them, spreads the requests over them, and replaces those that die.

Ray Serve is an optional dependency: `pip install 'assay-rm[serve,ray]'`. Replicas import this module.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from assay.errors import AssayError
from assay.scorers.ray import import_ray, slots_of, threads_each
from assay.serve.app import build_app
from assay.serve.server import KEEP_ALIVE_SECONDS, MAX_CONNECTIONS, ServiceFailed, log_to_stderr
from assay.serve.service import Service

NAME = "assay"
HEALTH_SECONDS = 2.0


class Replica:
    """What lives in the process of one replica: models, engines, and the application, built there since none of them travels."""

    def __init__(self, make: Callable[[], Service], num_threads: int, drain_seconds: float) -> None:
        log_to_stderr()
        self.service, self.drain_seconds = make(), drain_seconds
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(num_threads)

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(self.service, drain_seconds=self.drain_seconds)

    def check_health(self) -> None:
        """Raises RuntimeError when an engine has ended or is stuck: Ray Serve then puts another replica in its place."""
        if (trouble := self.service.trouble()) is not None:
            raise RuntimeError(trouble)


def run_replicas(
    make: Callable[[], Service],
    *,
    num_replicas: int,
    device: str,
    host: str,
    port: int,
    drain_seconds: float,
    say: Callable[[str, str], None],
) -> None:
    """Serve on replicas until SIGTERM or SIGINT, then answer what was asked and return.

    make: gives the service of one replica, and is run in its process. This process is connected to a cluster already, and is not
    any more afterwards. Raises OSError when the address is taken, ServiceFailed when the replicas cannot start.
    """
    serve, ray = import_serve(), import_ray()
    port = _free_port(host, port)
    stopped = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: stopped.set()) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        http = {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
        deployment = serve.deployment(serve.ingress()(Replica)).options(
            name=NAME,
            num_replicas=num_replicas,
            max_ongoing_requests=MAX_CONNECTIONS,  # the queue is the engine's, which answers 429
            ray_actor_options=slots_of(num_replicas, device),
            health_check_period_s=HEALTH_SECONDS,
            graceful_shutdown_timeout_s=drain_seconds,
            graceful_shutdown_wait_loop_s=0.2,
            logging_config=quiet,
        )
        try:
            serve.run(deployment.bind(make, threads_each(num_replicas), drain_seconds), name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise ServiceFailed(f"the replicas do not start: {_reason(serve, error)}") from None
        say("serving", f"http://{f'[{host}]' if ':' in host else host}:{port} ({num_replicas} replicas)")
        stopped.wait()
        serve.delete(NAME)
        serve.shutdown()
        say("stopped", "what was asked is answered")
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        ray.shutdown()


def import_serve() -> ModuleType:
    """The ray.serve package. Raises ValueError with the fix when it is not installed."""
    import_ray()
    try:
        from ray import serve
    except ImportError:
        raise ValueError("Ray Serve is not installed: pip install 'assay-rm[serve,ray]'") from None
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return serve


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises OSError when it is taken: Ray Serve would go on trying."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port") from error
        return int(listener.getsockname()[1])


def _reason(serve: ModuleType, error: RuntimeError) -> str:
    """What the replicas raised, where Ray Serve tells."""
    try:
        deployment = serve.status().applications[NAME].deployments[NAME]
        return str(deployment.message or error)
    except (AssayError, KeyError, AttributeError):
        return str(error)
