"""The records that flow through Assay: pairs in, completions scored, rewards and reports out.

Everything here is frozen, keyword-only and free of torch. `Message`, `Metric`, `Finding` and `Table` are parts of the four
records `PreferencePair`, `Completion`, `Rewards` and `Report`; they have no life of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

ROLES = ("system", "user", "assistant", "tool")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


Messages: TypeAlias = tuple[Message, ...]


def as_messages(prompt: str | Iterable[Message | Mapping[str, str]]) -> Messages:
    """A prompt in any of its usual forms as a tuple of `Message`: a string is one user turn.

    Raises ValueError for an entry without a text `content` or with an unknown `role`.
    """
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    messages = []
    for entry in prompt:
        role, content = (entry.get("role"), entry.get("content")) if isinstance(entry, Mapping) else entry
        if role not in ROLES:
            raise ValueError(f"unknown message role {role!r}: use one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"message content is {type(content).__name__}, not text: join content parts into one string")
        messages.append(Message(role, content))
    return tuple(messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Two answers to one prompt, of which `chosen` was preferred.

    prompt: the messages before the answer; a string is taken as one user turn.
    preference: probability that chosen beats rejected, in [0, 1]: 1.0 is a plain label, 0.5 a tie.
    margin: how much better chosen is, in the units of the label (>= 0), or None when it was not measured.
    weight: weight of the pair in the loss (>= 0).
    source: the data set; `id`: unique within it; `tags`: slices for reports, such as {"axis": "safety"}.
    """

    prompt: Messages
    chosen: str
    rejected: str
    preference: float = 1.0
    margin: float | None = None
    weight: float = 1.0
    source: str = ""
    id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", as_messages(self.prompt))
        if not 0.0 <= self.preference <= 1.0:
            raise ValueError(f"preference {self.preference} is not a probability: give a value in [0, 1], 0.5 for a tie")
        if not (self.weight >= 0.0 and math.isfinite(self.weight)):
            raise ValueError(f"weight {self.weight} must be finite and not negative")
        if self.margin is not None and not math.isfinite(self.margin):
            raise ValueError(f"margin {self.margin} must be finite, or None when it was not measured")

    @property
    def is_tie(self) -> bool:
        return self.preference == 0.5

    @property
    def prompt_key(self) -> str:
        """Hash of the prompt's text alone: the unit of splitting and of clustered intervals."""
        return prompt_key(self.prompt)

    def completions(self) -> tuple[Completion, Completion]:
        """The chosen and the rejected answer as things to score."""
        return (
            Completion(messages=self.prompt, response=self.chosen, id=f"{self.id}:chosen"),
            Completion(messages=self.prompt, response=self.rejected, id=f"{self.id}:rejected"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What is rewarded, in one of three forms.

    messages + response: the prompt and the answer; the Renderer applies the chat template.
    text: prompt and answer as one string that a trainer has already rendered: never templated again.
    token_ids: the same, already tokenised.
    steps: the response cut into steps, for process rewards; their concatenation is the response.
    """

    messages: Messages = ()
    response: str | None = None
    steps: tuple[str, ...] | None = None
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", as_messages(self.messages))
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps))
            if self.response is None:
                object.__setattr__(self, "response", "".join(self.steps))
        if self.token_ids is not None:
            object.__setattr__(self, "token_ids", tuple(int(token) for token in self.token_ids))
        forms = [name for name in ("response", "text", "token_ids") if getattr(self, name) is not None]
        if len(forms) != 1:
            raise ValueError(f"a completion is given as messages + response, or text, or token_ids; got {forms or 'none'}")
        if forms[0] != "response" and self.messages:
            raise ValueError(f"messages go with response, not with {forms[0]}, which is already rendered")

    @property
    def key(self) -> str:
        """Content hash (sha256, 32 hex digits): equal for equal content, whatever the id."""
        return _digest([self.messages, self.response, self.steps, self.text, self.token_ids])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewards:
    """Rewards of N completions, as columns.

    value: (N,) float32; NaN where the completion could not be scored.
    std: (N,) float32 uncertainty, or None. steps: N arrays of step rewards, or None. text: N critiques, or None.
    error: N reasons, None where the value is a number. Left out, it is filled in for NaN values.
    """

    value: np.ndarray
    std: np.ndarray | None = None
    steps: tuple[np.ndarray, ...] | None = None
    text: tuple[str | None, ...] | None = None
    error: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        value = np.asarray(self.value, dtype=np.float32).reshape(-1).copy()
        object.__setattr__(self, "value", value)
        if self.std is not None:
            object.__setattr__(self, "std", np.asarray(self.std, dtype=np.float32).reshape(-1).copy())
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(np.asarray(s, dtype=np.float32).copy() for s in self.steps))
        if self.text is not None:
            object.__setattr__(self, "text", tuple(self.text))
        error = self.error if self.error is not None else (None,) * len(value)
        bad = ~np.isfinite(value)
        object.__setattr__(
            self, "error", tuple(e or "the scorer returned no finite value" if b else e for e, b in zip(error, bad, strict=True))
        )
        value[bad] = np.nan
        for name in ("std", "steps", "text", "error"):
            column = getattr(self, name)
            if column is not None and len(column) != len(value):
                raise ValueError(f"Rewards.{name} has {len(column)} rows, value has {len(value)}")

    def __len__(self) -> int:
        return len(self.value)

    @property
    def ok(self) -> np.ndarray:
        """(N,) bool: where there is a reward."""
        return ~np.isnan(self.value)

    def take(self, index: Sequence[int] | np.ndarray) -> Rewards:
        """The rows at `index`, in that order."""
        index = np.asarray(index, dtype=np.int64)
        return Rewards(
            value=self.value[index],
            std=None if self.std is None else self.std[index],
            steps=None if self.steps is None else tuple(self.steps[i] for i in index),
            text=None if self.text is None else tuple(self.text[i] for i in index),
            error=None if self.error is None else tuple(self.error[i] for i in index),
        )


class Metric(NamedTuple):
    """One figure of a report: value with an interval [low, high] (NaN when there is none), and what it was computed from."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n_scored: int = 0
    n: int = 0
    note: str = ""


class Finding(NamedTuple):
    """A verdict: ok, warn or fail; the value that was seen, the threshold it was held against, and why it matters."""

    level: Literal["ok", "warn", "fail"]
    name: str
    value: float
    threshold: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under named columns; `chart` says how a page draws them.

    "none": as a table. "line": first column x, one line for each further column, NaN is a gap. "bars": first column the
    label, second the height. "reliability": columns predicted, observed, low, high, n, with the diagonal drawn.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    chart: Literal["none", "line", "bars", "reliability"] = "none"
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found out about a reward model on one set, ready to be rendered or compared.

    examples: rows of text to look at, each with a `kind` ("best", "worst", ...), the prompt, both answers and their margin.
    facts: short name -> value strings that say what was run (model, data, versions).
    """

    title: str
    metrics: tuple[Metric, ...] = ()
    tables: tuple[Table, ...] = ()
    examples: tuple[Mapping[str, object], ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """The metric of that name. Raises KeyError naming the ones there are."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"no metric {name!r} in the report {self.title!r}; it has {[m.name for m in self.metrics]}")


def prompt_key(prompt: Messages) -> str:
    """Content hash of a prompt (sha256, 32 hex digits), surrounding white space apart."""
    return _digest([(role, content.strip()) for role, content in prompt])


def log_length(text: str) -> float:
    """log(1 + number of characters): the length that rewards are freed of."""
    return math.log1p(len(text))


def _digest(content: object) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
