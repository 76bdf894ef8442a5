"""A scorer that asks a server over HTTP: Assay's own service, or an engine that serves a reward model. No torch here.

    engine    requests                                                    items it takes
    assay     POST /v1/score, GET /v1/info                                all forms
    vllm      POST /classify (use_activation off), GET /v1/models         token ids, text; conversations one a request
    sglang    POST /classify, GET /get_model_info                         token ids, text
    tei       POST /predict (raw_scores), GET /info                       text
    openrlhf  POST /get_reward                                            text

With `artifact=`, the artifact that the engine serves, every engine takes every form, in the same tokens as in this process. Of a
process reward model's artifact vLLM gives the steps (POST /pooling, token_classify); the other engines have no route for them.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np

from assay.errors import EngineError
from assay.files import json_digest
from assay.records import Completion, Rewards
from assay.scorers.base import Scope
from assay.scorers.http.engine_api import (
    Engine,
    Remote,
    endpoint,
    engine_request,
    labels_endpoint,
    printable_url,
    read_rewards,
    token_labels_request,
)
from assay.scorers.http.http_answers import Refused, Silent, Unanswered, error_text, seconds_of
from assay.scorers.http.remote_items import Item, engine_item, ids_item, rendered_item, renderer_for
from assay.scorers.steps.engine_steps import engine_steps
from assay.stats.steps.step_meaning import StepMeaning
from assay.wire import FINGERPRINT_HEADER, completion_to_row, rewards_from_rows

if TYPE_CHECKING:
    from assay.data.tokens.render import Renderer

ENGINE_TOLERANCE = 0.15  # how far a reward may differ between batches of a bfloat16 engine, for a head of norm 1
_IDENTITY = {"vllm": "/v1/models", "sglang": "/get_model_info", "tei": "/info"}
_NAMES = ("id", "root", "model_path", "model_id", "model_sha")  # fields that name the model in their answers
_SPLITS = (400, 413, 422)  # one item may be the cause: the others are sent again without it
_AGAIN = (429, 503)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 20.0
_FIRST_ATTEMPTS = 6  # at construction: a wrong URL is reported after seconds, although a server's restart may take minutes
_FIXES = {
    401: "give token=, or set ASSAY_TOKEN",
    403: "this token has no access",
    404: "there is no such path or model there: check the URL, engine= and model=",
}


class RemoteScorer:
    """Rewards from a server. url: its address, with /t/TOKEN and /m/NAME if it has them.

    engine: the kind of server. model: one of several models. token: sent as a bearer header (from ASSAY_TOKEN when left out).
    artifact: directory or run of the artifact that an engine serves, whose tokenizer and chat template then make the engine's
    tokens; renderer: the same, already loaded. tolerance: of an engine, since engines do not report one. chunk: completions of one
    request; num_connections: requests at once; timeout_seconds: for one answer; deadline_seconds: for one call of `score`.
    attempts: tries of one request (12 take about 80 seconds, in which a server may load its model again; at construction 6 at most,
    about 6 seconds).

    A request is tried again after a connection error, 429 or 503, or when Ray Serve reports that a replica died. The pause between
    tries grows, with jitter, and is at least what the server asks for. Completions without a reward after that are NaN with the
    reason. Raises ValueError when the URL is not one; EngineError when there is no answer at construction, for a refused token, and
    when the server's model has changed.
    """

    scope: Scope = "global"
    is_thread_safe = True  # the server scores the requests of several threads in one batch

    def __init__(
        self,
        url: str,
        *,
        engine: Remote = "assay",
        model: str | None = None,
        token: str | None = None,
        artifact: str | Path | None = None,
        renderer: Renderer | None = None,
        tolerance: float = ENGINE_TOLERANCE,
        chunk: int = 64,
        num_connections: int = 4,
        timeout_seconds: float = 60.0,
        deadline_seconds: float = 600.0,
        attempts: int = 12,
        seed: int | None = None,
        client: httpx2.Client | None = None,
    ) -> None:
        if chunk < 1 or num_connections < 1 or attempts < 1:
            raise ValueError(f"chunk {chunk}, num_connections {num_connections} and attempts {attempts} must be at least 1")
        if not (timeout_seconds > 0 and deadline_seconds > 0):
            raise ValueError(f"timeout_seconds {timeout_seconds} and deadline_seconds {deadline_seconds} must be positive")
        self.engine, self.model, self.steps = engine, model, engine_steps(engine, artifact)
        self.renderer = renderer_for(engine, artifact, renderer) if self.steps is None else None
        self.base = url.rstrip("/") if engine == "assay" else url.rstrip("/").removesuffix("/v1")
        self.address = f"{self.base}/v1/score" if engine == "assay" else endpoint(url, engine)
        self.address = self.address if self.steps is None else labels_endpoint(url)
        self.name = printable_url(self.address)
        if not self.base.startswith(("http://", "https://")):
            raise ValueError(f"{self.name} is no URL: give http://HOST:PORT")
        self.chunk, self.num_connections, self.attempts = chunk, num_connections, min(attempts, _FIRST_ATTEMPTS)
        self.timeout_seconds, self.deadline_seconds = timeout_seconds, deadline_seconds
        token = token if token is not None else os.environ.get("ASSAY_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connect(client, seed)
        self._echo: str | None = None  # the fingerprint that an engine sends with its rewards, if it sends one
        until = time.monotonic() + timeout_seconds
        self._identity = self._described(until)
        self.attempts = attempts
        self.fingerprint, self.tolerance = self._fingerprint(), tolerance
        if self.steps is not None:
            self.tolerance = self.steps.policy.tolerance(tolerance)
        if engine == "assay":
            self.tolerance = float(self._identity["tolerance"])
            self.chunk = min(chunk, int(self._identity["max_items"]))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled for another process (verl's and Ray's workers), with the token; it opens its own connections."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_client", "_lock", "_random")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect(None, None)

    @property
    def closing(self) -> str:
        """See `closing_of`."""
        return str(self._identity.get("closing", "")) if self.renderer is None else self.renderer.closing

    @property
    def padding(self) -> tuple[str, ...]:
        """See `padding_of`."""
        return tuple(map(str, self._identity.get("padding", ()))) if self.renderer is None else self.renderer.ends.marks

    @property
    def reads_ground_truth(self) -> bool:
        """Whether the server's scorer reads it; otherwise no ground truth is sent."""
        return bool(self._identity.get("reads_ground_truth"))

    def _connect(self, client: httpx2.Client | None, seed: int | None) -> None:
        limits = httpx2.Limits(max_connections=self.num_connections)
        self._client = client or httpx2.Client(limits=limits, follow_redirects=False)
        self._random, self._lock = random.Random(seed), threading.Lock()

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, in order; Assay's service gives std and steps too, an engine steps."""
        until = time.monotonic() + self.deadline_seconds
        if self.engine in _IDENTITY and completions:
            try:
                self._check_identity(until)
            except Silent as silent:  # the model may have changed: no reward can be trusted
                return rewards_from_rows([{"value": None, "error": str(silent)}] * len(completions))
        cut, rendered = self.steps.rendered(completions) if self.steps is not None else ([], [])
        items = [ids_item(item) for item in rendered] if self.steps is not None else self._items(completions)
        sent = [i for i, item in enumerate(items) if item.error is None]
        size = self.chunk
        parts = [sent[start : start + size] for start in range(0, len(sent), size)]
        rows: list[dict[str, Any]] = [{"value": None, "error": item.error} for item in items]
        with ThreadPoolExecutor(self.num_connections) as pool:
            found = pool.map(lambda part: self._rows([items[i] for i in part], until), parts)
            for i, row in zip(sent, itertools.chain.from_iterable(found), strict=True):
                rows[i] = row
        return rewards_from_rows(rows) if self.steps is None else self.steps.rewards(rows, cut, rendered)

    @property
    def step_meaning(self) -> StepMeaning | None:
        """What the rewards of steps mean, as the service or the artifact of an engine says it; None where neither does."""
        if self.steps is not None:
            policy = self.steps.policy
            return StepMeaning(True, policy.scale, policy.shift, policy.threshold)
        told = self._identity.get("steps") if self.engine == "assay" else None
        return StepMeaning(**told) if isinstance(told, dict) and set(told) == {*StepMeaning._fields} else None

    @property
    def step_threshold(self) -> float:
        """See `ReadsSteps`; NaN where it is not known."""
        return math.nan if self.step_meaning is None else float(self.step_meaning.threshold)

    def step_probability(self, rewards_S: np.ndarray) -> np.ndarray:
        """See `ReadsSteps`; NaN where it is not known."""
        return np.full(len(rewards_S), math.nan) if self.step_meaning is None else self.step_meaning.right(rewards_S)

    def close(self) -> None:
        self._client.close()

    def _rows(self, items: list[Item], until: float) -> list[dict[str, Any]]:
        """Rows of one request. If the server refuses its content, each half is sent, down to the single item that is refused."""
        if len({item.kind for item in items}) > 1:  # an engine's request has one kind
            runs = [list(run) for _, run in itertools.groupby(items, key=lambda item: item.kind)]
            return [row for run in runs for row in self._rows(run, until)]
        if items[0].kind == "conversation" and len(items) > 1:
            return [row for item in items for row in self._rows([item], until)]
        try:
            return self._request_rows(items, until)
        except Unanswered as failure:
            if failure.status in _SPLITS and len(items) > 1:
                half = len(items) // 2
                return [*self._rows(items[:half], until), *self._rows(items[half:], until)]
            return [{"value": None, "error": str(failure)}] * len(items)

    def _request_rows(self, items: list[Item], until: float) -> list[dict[str, Any]]:
        body = self._body(items)
        reply, headers = self._request("POST", self.address, body, until)
        if self.engine == "assay":
            return self._own_rows(reply, len(items))
        self._check_echo(headers.get(FINGERPRINT_HEADER))
        try:
            if self.steps is not None:
                return self.steps.rows(reply, [item.token_ids or () for item in items], self.name)
            return [{"value": float(value)} for value in read_rewards(reply, len(items), self.name)]
        except EngineError as error:  # one item may be the cause
            raise Unanswered(str(error), _SPLITS[0]) from error

    def _own_rows(self, reply: Any, num_items: int) -> list[dict[str, Any]]:
        rows = reply.get("rewards") if isinstance(reply, dict) else None
        if not isinstance(rows, list) or len(rows) != num_items or not all(isinstance(row, dict) for row in rows):
            raise EngineError(f"{self.name} did not answer with {num_items} rewards: is this Assay's service?")
        if reply.get("fingerprint") != self.fingerprint:
            raise self._changed(str(reply.get("fingerprint")))
        return rows

    def _body(self, items: list[Item]) -> dict[str, Any]:
        model = {} if self.model is None else {"model": self.model}
        if self.engine == "assay":
            return {"items": [item.row for item in items], **model}
        if self.steps is not None:
            return token_labels_request([item.token_ids or () for item in items], self.model)
        match self.engine, items[0].kind:
            case _, "conversation":
                return {**model, "messages": items[0].row["messages"], "use_activation": False}
            case "vllm", "text":
                return {**model, "input": [item.text for item in items], "use_activation": False, "add_special_tokens": False}
            case "sglang", "text":
                return {**model, "text": [item.text for item in items]}
        engine: Engine = self.engine
        return engine_request(
            self.address, engine, [item.token_ids or () for item in items], [item.text or "" for item in items], self.model
        )

    def _items(self, completions: Sequence[Completion]) -> list[Item]:
        if self.engine == "assay":
            return [Item(row=completion_to_row(c, with_ground_truth=self.reads_ground_truth)) for c in completions]
        engine, renderer = self.engine, self.renderer
        if renderer is None:
            return [engine_item(completion, engine) for completion in completions]
        rendered = renderer.render(completions)
        return [rendered_item(c, engine, item, renderer) for c, item in zip(completions, rendered, strict=True)]

    def _described(self, until: float) -> dict[str, Any]:
        """What the server reports about its model; empty for engines that report nothing."""
        if self.engine == "assay":
            return self._own_description(until)
        if (path := _IDENTITY.get(self.engine)) is None:
            return {}
        try:
            reply, _ = self._request("GET", f"{self.base}{path}", None, until)
        except Refused as refusal:
            if refusal.status == 404:  # this engine reports nothing
                return {}
            raise
        except Unanswered as failure:
            raise Silent(str(failure)) from failure
        known = reply if isinstance(reply, dict) else {}
        models = [row for row in known.get("data", []) if isinstance(row, dict) and self.model in (None, row.get("id"))]
        known = models[0] if models else known
        return {name: known[name] for name in _NAMES if isinstance(known.get(name), str)}

    def _own_description(self, until: float) -> dict[str, Any]:
        try:
            reply, _ = self._request("GET", f"{self.base}/v1/info", None, until)
        except Unanswered as failure:
            raise Silent(f"{failure}: start it, mend the URL, or name the engine (vllm+http://...)") from failure
        try:
            models = {model["name"]: model for model in reply["models"]}
            named = self.model or next(iter(models))
            if named not in models:
                raise EngineError(f"{self.name} serves {', '.join(models)}, not {named}")
            chosen = models[named]
            if chosen["scope"] != "global":
                raise EngineError(f"{self.name} serves a prompt-scoped scorer, which needs all answers at once")
            return {**chosen, "max_items": reply["limits"]["max_items"]}
        except (KeyError, TypeError, StopIteration) as error:
            raise EngineError(f"{self.name} is not Assay's service: name the engine, as in vllm+http://HOST:PORT") from error

    def _fingerprint(self) -> str:
        if self.engine == "assay":
            return str(self._identity["fingerprint"])
        policy = None if self.renderer is None else [self.renderer.tokenizer.chat_template, self.renderer.settings()]
        steps = [] if self.steps is None else [self.steps.identity()]
        return json_digest([self.engine, self.name, self.model, self._identity, policy, *steps])

    def _check_identity(self, until: float) -> None:
        described = self._described(until)
        if described and self._identity and described != self._identity:
            raise self._changed(str(described))

    def _check_echo(self, echo: str | None) -> None:
        with self._lock:
            before, self._echo = self._echo, echo or self._echo
        if before is not None and echo is not None and echo != before:
            raise self._changed(echo)

    def _changed(self, now: str) -> EngineError:
        was = self._echo or self._identity.get("fingerprint") or self._identity
        return EngineError(f"{self.name} answers with another model than before ({now}, not {was}): make a new scorer for it")

    def _request(self, method: str, address: str, body: Any, until: float) -> tuple[Any, httpx2.Headers]:
        """The JSON of an answer; failures that may pass are tried again. Raises Unanswered when there are no rewards, EngineError
        when every other request would fail too."""
        content = None if body is None else json.dumps(body).encode()  # escaped: the server reports invalid Unicode
        failure = Unanswered(f"{self.name} gave no answer in {self.deadline_seconds:g} s")
        for attempt in range(self.attempts):
            left = until - time.monotonic()
            if left <= 0:
                break
            seconds = min(self.timeout_seconds, left)
            headers = {**self._headers, "Content-Type": "application/json", "X-Request-Timeout": f"{seconds:.3f}"}
            try:
                response = self._client.request(method, address, content=content, headers=headers, timeout=seconds)
            except httpx2.TimeoutException as error:
                if not isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout):
                    raise Unanswered(f"{self.name} gave no answer in {seconds:g} s") from error
                failure = Unanswered(f"{self.name} cannot be reached in {seconds:g} s")
            except httpx2.TransportError as error:
                failure = Unanswered(f"{self.name} cannot be reached ({type(error).__name__})")
            else:
                if response.status_code not in _AGAIN and not self._is_ray_serve_error(response):
                    return self._read(response), response.headers
                failure = Unanswered(f"{self.name} answered {response.status_code} ({error_text(response)})", response.status_code)
                failure.retry_after = seconds_of(response.headers.get("Retry-After"))
            if attempt + 1 < self.attempts:
                time.sleep(min(self._pause(attempt, failure.retry_after), max(0.0, until - time.monotonic())))
        raise failure

    def _is_ray_serve_error(self, response: httpx2.Response) -> bool:
        """Whether a 500 comes from Ray Serve, because a replica died; errors of the service itself are JSON."""
        kind = response.headers.get("Content-Type", "")
        return self.engine == "assay" and response.status_code == 500 and not kind.startswith("application/json")

    def _read(self, response: httpx2.Response) -> Any:
        status = response.status_code
        if status in _FIXES:
            raise Refused(f"{self.name} answered {status} ({error_text(response)}): {_FIXES[status]}", status)
        if status != 200:
            raise Unanswered(f"{self.name} answered {status} ({error_text(response)})", status)
        try:
            return response.json()
        except ValueError as error:
            raise EngineError(
                f"{self.name} did not answer with JSON: is this the right address, and engine= the right one?"
            ) from error

    def _pause(self, attempt: int, retry_after: float) -> float:
        with self._lock:
            jitter = self._random.random()
        return max(retry_after * (1 + 0.25 * jitter), min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt) * (0.5 + jitter / 2))
