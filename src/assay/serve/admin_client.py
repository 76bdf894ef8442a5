"""Ask a running service to change its models; the admin token is read from ASSAY_ADMIN_TOKENS."""

from __future__ import annotations

import os
from typing import Any, Literal

import httpx2

from assay.errors import EngineError
from assay.serve.serve_config import ADMIN_VARIABLE

SECONDS = 1800.0  # loading a large model and scoring the reference with it takes its time
Change = Literal["list", "load", "shadow", "unshadow", "promote", "rollback", "drop"]


def change_models(
    url: str, action: Change, *, model: str | None = None, artifact: str | None = None, as_it_is: bool = False
) -> list[dict[str, Any]]:
    """Do it, and return what the service says of its models.

    model: the one to change, None where one is served. artifact: for load, the name of a directory in the service's --models-dir;
    as_it_is: leave its rewards on its own scale. Raises ValueError for a caller's mistake, EngineError when the service cannot be
    reached or refuses.
    """
    if (action == "load") != (artifact is not None):
        raise ValueError("load needs --artifact, and nothing else takes it")
    models = _ask(url, "GET", "/models", None)["models"]
    if action == "list":
        return list(models)
    names = [served["name"] for served in models]
    if model is None and len(names) > 1:
        raise ValueError(f"the service has {', '.join(names)}: say which with --model")
    body = {"artifact": artifact, "rescale": not as_it_is} if action == "load" else None
    return [_ask(url, "POST", f"/models/{model or names[0]}/{action}", body)]


def _ask(url: str, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    token = os.environ.get(ADMIN_VARIABLE, "").replace(",", " ").split()
    if not token:
        raise ValueError(f"no admin token: set {ADMIN_VARIABLE} to one that the service knows")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is no URL: give http://HOST:PORT")
    headers = {"Authorization": f"Bearer {token[0]}"}
    try:
        response = httpx2.request(method, f"{url.rstrip('/')}/v1/admin{path}", json=body, headers=headers, timeout=SECONDS)
        reply = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise EngineError(f"{url} does not answer as a service of Assay does ({type(error).__name__})") from error
    if response.status_code != 200:
        raise EngineError(f"{url} answered {response.status_code}: {reply.get('error', {}).get('message', reply)}")
    return dict(reply)
