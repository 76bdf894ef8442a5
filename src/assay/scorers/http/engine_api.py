"""Rewards of rendered texts from an inference engine over HTTP: one request, and one reward for each text or an error.

    engine    path       request                                                    reply
    vllm      /classify  {"input": [[token ids]], "use_activation": false}          {"data": [{"probs": [reward]}]}
    vllm      /pooling   the same and {"task": "classify"}                          {"data": [{"data": [reward]}]}
    sglang    /classify  {"input_ids": [[token ids]]}                               [{"embedding": [reward]}]
    tei       /predict   {"inputs": [[text]], "raw_scores": true}                   [[{"score": reward}]]
    openrlhf  /get_reward {"query": [text], "prompts": [text], "labels": [""]}      {"rewards": [reward]}

Token ids are sent where the API takes them: the engine then cannot add a template or special tokens, nor cut the text.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from assay.errors import EngineError

Engine = Literal["vllm", "sglang", "tei", "openrlhf"]
Remote = Literal["assay", "vllm", "sglang", "tei", "openrlhf"]
TAKES_IDS = ("vllm", "sglang")
TIMEOUT_SECONDS = 300.0  # the first request to an engine may compile kernels
_PATHS = {"vllm": "/classify", "sglang": "/classify", "tei": "/predict", "openrlhf": "/get_reward"}
_FIELDS = ("probs", "logits", "data", "embedding", "score", "rewards", "scores")
_FIXES = {
    400: "the engine does not take this request: check --engine, and that its context is as long as the artifact's max_length",
    401: "the engine asks for a key: start it without one for the certificate",
    403: "the engine refuses this client: start it without a key for the certificate",
    404: "the engine has no such path: serve the artifact as a classifier (docs/verify.md), or name the path in --against",
    413: "the request is too large for the engine: raise its limit",
    422: "the engine does not take this request: check --engine",
}


def ask_engine(
    url: str,
    token_ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    *,
    engine: Engine = "vllm",
    served_name: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> np.ndarray:
    """Rewards (N,) float32 of N texts, given as token ids and as rendered text; the engine's API uses one of the two.

    url: of the engine, with or without the path. served_name: "model" of the request, for engines that serve several models.
    Raises ValueError for what is not a URL, EngineError when the engine cannot be reached or its answer is wrong.
    """
    address = endpoint(url, engine)
    reply = _post(address, engine_request(address, engine, token_ids, texts, served_name), timeout)
    return read_rewards(reply, len(token_ids), address)


def ask_token_labels(
    url: str, token_ids: Sequence[Sequence[int]], *, served_name: str | None = None, timeout: float = 300.0
) -> list[np.ndarray]:
    """What an engine of vLLM's contract says of every token of N texts: (T, labels) float32 logits each.

    POST /pooling with the task token_classify, whose rows are those of all tokens (pooling_type ALL). Raises EngineError as
    `ask_engine`, and where an answer has not one row for each token.
    """
    address = labels_endpoint(url)
    found = read_token_labels(_post(address, token_labels_request(token_ids, served_name), timeout), token_ids, address)
    if lost := [place for place, logits in enumerate(found) if not np.isfinite(logits).all()]:
        raise EngineError(f"{address} answered numbers that are not finite for text {lost[0]}: serve in bfloat16 or float32")
    return found


def labels_endpoint(url: str) -> str:
    """The address of an engine of vLLM's contract that labels tokens."""
    parts = urlsplit(endpoint(url, "vllm"))
    path = parts.path.removesuffix("/classify").removesuffix("/pooling") + "/pooling"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def token_labels_request(token_ids: Sequence[Sequence[int]], served_name: str | None) -> dict[str, Any]:
    """The body that asks for the labels of all tokens of N texts."""
    name = {} if served_name is None else {"model": served_name}
    asked = {"task": "token_classify", "use_activation": False, "add_special_tokens": False}
    return {**name, **asked, "input": [list(ids) for ids in token_ids]}


def read_token_labels(reply: Any, token_ids: Sequence[Sequence[int]], address: str) -> list[np.ndarray]:
    """(T, labels) float32 of each of N texts. Raises EngineError where an answer has not one row of numbers for each token."""
    rows = _rows(reply, address)
    if len(rows) != len(token_ids):
        raise EngineError(f"{address} answered {len(rows)} texts of {len(token_ids)}: check the served model")
    found = []
    for place, (row, ids) in enumerate(zip(rows, token_ids, strict=True)):
        try:
            logits = np.asarray(row.get("data") if isinstance(row, dict) else row, dtype=np.float32)
        except (TypeError, ValueError):
            logits = np.empty(0, np.float32)
        if logits.ndim != 2 or len(logits) != len(ids):
            raise EngineError(
                f"{address} answered numbers of shape {logits.shape} for the {len(ids)} tokens of text {place}: serve the artifact "
                "with the rows of all tokens (vLLM: --runner pooling, pooling_type ALL)"
            )
        found.append(logits)
    return found


def endpoint(url: str, engine: Engine) -> str:
    """The address to post to: the engine's usual path unless the URL has one. Raises ValueError when it is not an http URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"--against {url!r} is no URL of an engine: give http://HOST:PORT, with a path where it is not {_PATHS[engine]}"
        )
    path = parts.path.rstrip("/")
    # no engine has its rewards below /v1, which is where a client of OpenAI's API would ask
    path = f"{path.removesuffix('/v1')}{_PATHS[engine]}" if path == "" or path.endswith("/v1") else path
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def printable_url(url: str) -> str:
    """The URL without the token in its path."""
    return re.sub(r"/t/[^/]+", "/t/...", url)


def engine_request(
    address: str, engine: Engine, token_ids: Sequence[Sequence[int]], texts: Sequence[str], served_name: str | None
) -> dict[str, Any]:
    """The body to post for N texts, given as token ids and as rendered text."""
    name = {} if served_name is None else {"model": served_name}
    match engine:
        case "sglang":
            return {**name, "input_ids": [list(ids) for ids in token_ids]}
        case "tei":
            return {"inputs": [[text] for text in texts], "raw_scores": True, "truncate": False}
        case "openrlhf":
            return {"query": list(texts), "prompts": list(texts), "labels": [""] * len(texts)}
    task = {"task": "classify"} if urlsplit(address).path.endswith("/pooling") else {}
    return {**name, **task, "input": [list(ids) for ids in token_ids], "use_activation": False, "add_special_tokens": False}


def _post(address: str, body: dict[str, Any], timeout: float) -> Any:
    request = urllib.request.Request(
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json", "Accept": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
        fix = _FIXES.get(error.code, "look at the engine's own log")
        raise EngineError(f"{address} answered {error.code} ({said or error.reason}): {fix}") from error
    except TimeoutError as error:
        raise EngineError(
            f"{address} gave no answer in {timeout:g} s: wait until the engine has started, then try again"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise EngineError(f"{address} cannot be reached ({reason}): start the engine, or mend the host and port") from error
    try:
        return json.loads(content)
    except ValueError as error:
        raise EngineError(
            f"{address} did not answer with JSON: is this the engine's address, and --engine the right one?"
        ) from error


def read_rewards(reply: Any, num_texts: int, address: str) -> np.ndarray:
    """Rewards (N,) float32 from an engine's answer. Raises EngineError unless it has one finite number for each text."""
    rows = _rows(reply, address)
    if len(rows) != num_texts:
        raise EngineError(f"{address} answered {len(rows)} rewards to {num_texts} texts: check --engine and the served model")
    return np.array([_reward(row, place, address) for place, row in enumerate(rows)], dtype=np.float32)


def _rows(reply: Any, address: str) -> list[Any]:
    """One entry for each text, in the order of the request."""
    if isinstance(reply, dict):
        reply = next((reply[name] for name in ("data", "rewards", "scores") if name in reply), reply)
    if not isinstance(reply, list):
        raise EngineError(f"{address} answered {str(reply)[:100]}, not a list of rewards: check --engine and the path")
    if all(isinstance(row, dict) and isinstance(row.get("index"), int) for row in reply):
        return sorted(reply, key=lambda row: row["index"])
    return reply


def _reward(row: Any, place: int, address: str) -> float:
    """The one number in an entry, inside any nested lists and dicts."""
    value = row
    while isinstance(value, dict | list):
        if isinstance(value, dict):
            inner = [value[name] for name in _FIELDS if name in value]
        else:
            inner = value
        if len(inner) != 1:
            raise EngineError(
                f"{address} answered {len(inner)} numbers for text {place}, not one reward: serve the artifact as a classifier, "
                "not token by token"
            )
        value = inner[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EngineError(f"{address} answered {value!r} for text {place}, which is no number: check --engine and the path")
    if not math.isfinite(value):
        raise EngineError(
            f"{address} answered {value} for text {place}: the engine's number format overflows; serve in bfloat16 or float32"
        )
    return float(value)
