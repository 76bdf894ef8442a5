"""`JudgeSettings`: how a judge is asked. What is asked is the rubric (rubrics/rubric)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["pointwise", "pairwise", "listwise"]
Backend = Literal["local", "endpoint"]
Calls = Literal["together", "each"]
Reading = Literal["text", "tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """How a judge is asked, as the table [judge] of a file has it; what a command line gives replaces it.

    backend: a local transformers model, or an OpenAI-compatible endpoint at `url`; in a file a URL alone means an endpoint.
    model: directory, hub id or name at the endpoint. mode: each answer alone, two in both orders, or
    all of a prompt. calls: all criteria in one call, or one call each.
    reading: the verdict as text, or the expected value over the verdict's tokens. k: samples an answer, whose votes are counted.
    budget: most that a run may cost; price_in, price_out: of a million tokens, in the same currency; None is unknown, not free.
    deadline: seconds an answer may take, with its retries; concurrency, requests_per_minute, tokens_per_minute: None is no limit.
    """

    backend: Backend = "local"
    model: str = ""
    url: str = ""
    mode: Mode = "pointwise"
    calls: Calls = "together"
    reading: Reading = "tokens"
    k: int = 1
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 512
    budget: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    deadline: float = 120.0
    retries: int = 4
    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("backend", Backend), ("mode", Mode), ("calls", Calls), ("reading", Reading)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} {getattr(self, name)!r}: use one of {', '.join(get_args(allowed))}")
        for name in ("k", "max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("temperature", "retries"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} {getattr(self, name)} must be finite and not negative")
        for name in ("budget", "price_in", "price_out", "deadline", "requests_per_minute", "tokens_per_minute"):
            given = getattr(self, name)
            if given is not None and not (math.isfinite(given) and (given >= 0 if name.startswith("price") else given > 0)):
                raise ValueError(f"{name} {given} must be finite and positive")
        if self.k > 1 and self.temperature == 0 and self.reading == "text":
            raise ValueError(f"k = {self.k} samples at temperature 0 are one sample {self.k} times: give a temperature, or k = 1")
