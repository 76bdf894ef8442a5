"""`assay swap`: change the models of a running service."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import httpx2
import tyro

from assay.console import print_figures
from assay.errors import EngineError
from assay.serve.serve_config import ADMIN_VARIABLE

SECONDS = 1800.0  # loading a large model and scoring the reference with it takes its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Change the models of a running service: load, shadow, promote, roll back."""

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """The service, such as http://127.0.0.1:8000; its admin token is read from ASSAY_ADMIN_TOKENS."""
    action: tyro.conf.Positional[Literal["list", "load", "shadow", "unshadow", "promote", "rollback", "drop"]]
    """What to do."""
    model: str | None = None
    """Name of the model to change; may be left out where one is served."""
    artifact: str | None = None
    """For load: name of a directory in the service's --models-dir."""
    as_it_is: bool = False
    """For load: leave its rewards on its own scale."""


def run(config: Config) -> int:
    """Do it, and print the models of the service."""
    print_figures(f"Models of {config.url}", swap_rows(swap(config)))
    return 0


def swap(config: Config) -> list[dict[str, Any]]:
    """Do it, and return what the service says of its models.

    Raises ValueError for a caller's mistake, EngineError when the service cannot be reached or refuses.
    """
    if (config.action == "load") != (config.artifact is not None):
        raise ValueError("load needs --artifact, and nothing else takes it")
    models = _ask(config.url, "GET", "/models", None)["models"]
    if config.action == "list":
        return list(models)
    names = [model["name"] for model in models]
    if config.model is None and len(names) > 1:
        raise ValueError(f"the service has {', '.join(names)}: say which with --model")
    body = {"artifact": config.artifact, "rescale": not config.as_it_is} if config.action == "load" else None
    return [_ask(config.url, "POST", f"/models/{config.model or names[0]}/{config.action}", body)]


def swap_rows(models: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What stands where, as rows of `show.print_figures`."""
    rows = []
    for model in models:
        for role in ("current", "candidate", "previous"):
            if (loaded := model[role]) is not None:
                scale = loaded["scale"] and f"rewards times {loaded['scale']['factor']:.4g}"
                rows.append((f"{model['name']}: {role}", loaded["source"], "; ".join(filter(None, (loaded["fingerprint"], scale)))))
                rows += [(f"{model['name']}: {role}", "warn", warning) for warning in (loaded["scale"] or {}).get("warnings", ())]
        if (shadow := model["shadow"]) is not None:
            rms = shadow["rms_difference"]
            seen = f"{shadow['n_scored']:,} of {shadow['n']:,} rewards, {shadow['flips']} of {shadow['pairs']} pairs flip"
            rows.append((f"{model['name']}: shadow", "" if rms is None else f"{rms:.4g}", f"root mean square difference; {seen}"))
    return rows


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
