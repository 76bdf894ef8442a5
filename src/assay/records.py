"""The records that flow through Assay: pairs in, completions scored, rewards and reports out.

Everything here is frozen, keyword-only and free of torch. `Message` and `ToolCall` (messages.py), `Metric`, `Finding` and `Table`
are parts of the four records `PreferencePair`, `Completion`, `Rewards` and `Report`; they are never used alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from assay.messages import Message as Message
from assay.messages import Messages as Messages
from assay.messages import ToolCall as ToolCall
from assay.messages import answer_message, as_message, as_tools, digest, size_of
from assay.messages import as_messages as as_messages
from assay.messages import prompt_key as prompt_key

Dtype = Literal["auto", "float32", "bfloat16"]
"""Number format that a backbone is computed in; auto measures which is faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Two answers to one prompt, of which `chosen` was preferred.

    prompt: the messages before the answer; a string is taken as one user turn.
    preference: probability that chosen beats rejected, in [0, 1]: 1.0 is a plain label, 0.5 a tie.
    margin: how much better chosen is, in the units of the label (>= 0), or None when it was not measured.
    weight: weight of the pair in the loss (>= 0).
    source: the data set; `id`: unique within it; `tags`: slices for reports, such as {"axis": "safety"}.
    tools: descriptions of the functions that the answers could call.
    chosen_message, rejected_message: the answer as the assistant's message where it has tool calls or reasoning beside its text,
    else None; `chosen` and `rejected` are its text.
    ground_truth: what is known to be right (answer, tests, constraints), for rules and judges: it is never rendered.
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
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    chosen_message: Message | None = None
    rejected_message: Message | None = None
    ground_truth: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", as_messages(self.prompt))
        object.__setattr__(self, "tools", as_tools(self.tools))
        object.__setattr__(self, "chosen_message", answer_message(self.chosen, self.chosen_message))
        object.__setattr__(self, "rejected_message", answer_message(self.rejected, self.rejected_message))
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
        sides = (("chosen", self.chosen, self.chosen_message), ("rejected", self.rejected, self.rejected_message))
        chosen, rejected = (
            Completion(
                messages=self.prompt,
                response=text,
                response_message=message,
                tools=self.tools,
                ground_truth=self.ground_truth,
                id=f"{self.id}:{side}",
            )
            for side, text, message in sides
        )
        return chosen, rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What is rewarded, in one of three forms.

    messages + response: the prompt and the answer; the Renderer applies the chat template.
    text: prompt and answer as one string that a trainer has already rendered: never templated again.
    token_ids: the same, already tokenised.
    steps: the response cut into steps, for process rewards; their concatenation is the response.
    response_message: the answer as the assistant's message where it has tool calls or reasoning beside its text, else None; its
    text is `response`, which may then be left out. tools: descriptions of the functions that the answer could call.
    ground_truth: what is known to be right (answer, tests, constraints), for scorers that read it; never rendered, not in the key.
    """

    messages: Messages = ()
    response: str | None = None
    steps: tuple[str, ...] | None = None
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    id: str = ""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    response_message: Message | None = None
    ground_truth: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", as_messages(self.messages))
        object.__setattr__(self, "tools", as_tools(self.tools))
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps))
            if self.response is None:
                object.__setattr__(self, "response", "".join(self.steps))
        if self.response_message is not None:
            message = as_message(self.response_message)
            object.__setattr__(self, "response", message.content if self.response is None else self.response)
            object.__setattr__(self, "response_message", answer_message(str(self.response), message))
        if self.token_ids is not None:
            object.__setattr__(self, "token_ids", tuple(int(token) for token in self.token_ids))
        forms = [name for name in ("response", "text", "token_ids") if getattr(self, name) is not None]
        if len(forms) != 1:
            raise ValueError(f"a completion is given as messages + response, or text, or token_ids; got {forms or 'none'}")
        if forms[0] != "response" and (self.messages or self.tools):
            raise ValueError(f"messages go with response (tools too), not with {forms[0]}, which is already rendered")

    @property
    def key(self) -> str:
        """Content hash (sha256, 32 hex digits): equal for equal content, whatever the id and the ground truth."""
        content = [[turn.hashed() for turn in self.messages], self.response, self.steps, self.text, self.token_ids]
        extras = self.response_message.extras if self.response_message else {}
        return digest([*content, extras, self.tools] if extras or self.tools else content)

    @property
    def ground_truth_digest(self) -> str:
        """Hash (32 hex digits) of the ground truth, "" without one: scorers that read it are cached by it too."""
        return "" if self.ground_truth is None else digest(self.ground_truth, sort_keys=True)

    @property
    def answer(self) -> Message:
        """The response as the assistant's message. Raises ValueError for a completion that was rendered already."""
        if self.response is None:
            raise ValueError("a completion as text or token ids does not say where its answer begins: give messages and response")
        return self.response_message or Message("assistant", self.response)

    @property
    def sizes(self) -> tuple[int, int]:
        """Characters of the prompt (with its tools) and of the answer; token ids are not counted."""
        answer = self.text or "" if self.response is None else self.answer
        prompt = sum(size_of(turn) for turn in self.messages) + (len(json.dumps(self.tools)) if self.tools else 0)
        return prompt, len(answer) if isinstance(answer, str) else size_of(answer)

    @property
    def is_plain(self) -> bool:
        """Whether the conversation is nothing but roles and texts, which every chat template can render."""
        return not (self.tools or self.response_message or any(turn.extras for turn in self.messages))

    def conversation(self) -> list[dict[str, Any]]:
        """Messages and answer in the form of chat templates. Raises ValueError as `answer` does."""
        return [turn.as_dict() for turn in (*self.messages, self.answer)]


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


Level = Literal["ok", "warn", "fail"]
Failure = Literal[
    "baseline", "overfitting", "calibration", "length", "surface", "hacking", "overoptimization", "drift", "suites", "parity"
]
"""The ways in which a reward model fails; `audit/verdicts.py` says each in a sentence, with its remedy."""


class Finding(NamedTuple):
    """A verdict: ok, warn or fail; the value that was seen, the threshold that it was compared with, and why it matters.

    failure: the way of failing that it decides, None when it decides none. remedy: what to do about it, where it is not what the
    failure's own remedy says.
    """

    level: Level
    name: str
    value: float
    threshold: float
    why: str
    failure: Failure | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under named columns; `chart` says how a page draws them.

    "none": as a table. "line": first column x, one line for each further column, NaN is a gap. "curves": the same, each column
    measured at x of its own, so that NaN is none. "bars": first column the label, second the height. "reliability": columns
    predicted, observed, low, high, n, with the diagonal drawn. "panels": columns figure, of, value, low, high: a panel for each
    figure, with a scale of its own, in which a mark for each `of` has one colour.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    chart: Literal["none", "line", "curves", "bars", "reliability", "panels"] = "none"
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found out about a reward model on one set, ready to be rendered or compared.

    examples: rows of text to look at, each with a `kind` ("best", "worst", ...), the prompt, both answers and their margin.
    facts: short name -> value strings that say what was run (model, data, versions).
    lead: one sentence that says what was found. key: names of the metrics to be seen first, each with what it is held against:
    names of other metrics, or a few words.
    """

    title: str
    metrics: tuple[Metric, ...] = ()
    tables: tuple[Table, ...] = ()
    examples: tuple[Mapping[str, object], ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    lead: str = ""
    key: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """The metric of that name. Raises KeyError naming the ones there are."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"no metric {name!r} in the report {self.title!r}; it has {[m.name for m in self.metrics]}")


class Parts(NamedTuple):
    """What a measure adds to a report."""

    metrics: tuple[Metric, ...] = ()
    tables: tuple[Table, ...] = ()
    findings: tuple[Finding, ...] = ()


NO_FACTS: Mapping[str, str] = {}


def extended(
    report: Report,
    metrics: Iterable[Metric] = (),
    tables: Iterable[Table] = (),
    findings: Iterable[Finding] = (),
    *,
    first: Mapping[str, str] = NO_FACTS,
    facts: Mapping[str, str] = NO_FACTS,
) -> Report:
    """The report with more behind what it has. facts: behind its own, replacing those of the same name; first: before its own."""
    return replace(
        report,
        metrics=(*report.metrics, *metrics),
        tables=(*report.tables, *tables),
        findings=(*report.findings, *findings),
        facts={**first, **report.facts, **facts},
    )


class Result(Protocol):
    """What a measure returns: figures under names of their own, the findings that decide a verdict, and a report for the page."""

    @property
    def findings(self) -> tuple[Finding, ...]: ...
    def report(self) -> Report: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PageResult:
    """A `Result` whose page is made with it: the page's findings are its own."""

    page: Report

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.page.findings

    def report(self) -> Report:
        return self.page


def verdicts(findings: Iterable[Finding]) -> dict[Failure, tuple[Finding, ...]]:
    """The findings that decide a failure, by failure."""
    found: dict[Failure, tuple[Finding, ...]] = {}
    for finding in findings:
        if finding.failure is not None:
            found[finding.failure] = (*found.get(finding.failure, ()), finding)
    return found


def concatenate(parts: Sequence[Rewards]) -> Rewards:
    """The rewards of several calls as one. A column that one part has and another lacks is empty there (NaN, no steps, no text)."""
    if not parts:
        return Rewards(value=np.empty(0, np.float32), error=())
    has_std, has_steps, has_text = (any(getattr(part, name) is not None for part in parts) for name in ("std", "steps", "text"))
    nan = [np.full(len(part), np.nan, np.float32) for part in parts]
    none = [(None,) * len(part) for part in parts]
    no_steps = [(np.empty(0, np.float32),) * len(part) for part in parts]
    return Rewards(
        value=np.concatenate([part.value for part in parts]),
        std=np.concatenate([n if p.std is None else p.std for p, n in zip(parts, nan, strict=True)]) if has_std else None,
        steps=tuple(s for p, n in zip(parts, no_steps, strict=True) for s in p.steps or n) if has_steps else None,
        text=tuple(t for p, n in zip(parts, none, strict=True) for t in p.text or n) if has_text else None,
        error=tuple(e for p, n in zip(parts, none, strict=True) for e in p.error or n),
    )


def log_length(text: str) -> float:
    """log(1 + number of characters): the length that length-debiasing removes from rewards."""
    return math.log1p(len(text))
