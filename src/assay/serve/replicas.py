"""The application on several replicas: Ray Serve starts them, distributes requests to them, and replaces those that die.

Ray Serve is an optional dependency: `pip install '.[serve,ray]'` in Assay's clone. Replicas import this module.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

from assay.errors import AssayError
from assay.scorers.ray import import_ray, slots_of, threads_each
from assay.serve.app import build_app
from assay.serve.connections import MAX_CONNECTIONS
from assay.serve.server import KEEP_ALIVE_SECONDS, ServiceFailed, listen, signals_handled
from assay.serve.service import Service
from assay.serve.service_log import log_to_stderr

NAME = "assay"
HEALTH_SECONDS = 2.0


class Replica:
    """One replica. Models, engines and the application are built in its process, since they cannot be pickled."""

    def __init__(self, make: Callable[[], Service], num_threads: int, drain_seconds: float, log_json: bool) -> None:
        log_to_stderr(as_json=log_json)
        self.service, self.drain_seconds = make(), drain_seconds
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(num_threads)

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(self.service, drain_seconds=self.drain_seconds)

    def check_health(self) -> None:
        """Raises RuntimeError when an engine has ended or is stuck: Ray Serve then replaces the replica."""
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
    log_json: bool = False,
    say: Callable[[str, str], None],
) -> None:
    """Serve on replicas until SIGTERM or SIGINT, then answer all waiting requests and return.

    make: builds the service of one replica, in its process. This process must be connected to a cluster; it disconnects at the end.
    Raises OSError when the address is taken, ServiceFailed when the replicas cannot start.
    """
    serve, ray = import_serve(), import_ray()
    with listen(host, port) as listener:  # Ray Serve would go on trying where the port is taken
        port = listener.getsockname()[1]
    stopped = threading.Event()
    with ExitStack() as on_exit:
        on_exit.callback(ray.shutdown)
        on_exit.enter_context(signals_handled(lambda *_: stopped.set()))
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
            serve.run(deployment.bind(make, threads_each(num_replicas), drain_seconds, log_json), name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise ServiceFailed(f"the replicas do not start: {_reason(serve, error)}") from None
        say("serving", f"http://{f'[{host}]' if ':' in host else host}:{port} ({num_replicas} replicas)")
        stopped.wait()
        serve.delete(NAME)
        serve.shutdown()
        say("stopped", "all requests are answered")


def import_serve() -> ModuleType:
    """The ray.serve package. Raises ValueError with the fix when it is not installed."""
    import_ray()
    try:
        from ray import serve
    except ImportError:
        raise ValueError("Ray Serve is not installed: pip install '.[serve,ray]' in Assay's clone") from None
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return serve


def _reason(serve: ModuleType, error: RuntimeError) -> str:
    """The error of the replicas, if Ray Serve reports it."""
    try:
        deployment = serve.status().applications[NAME].deployments[NAME]
        return str(deployment.message or error)
    except (AssayError, KeyError, AttributeError):
        return str(error)
