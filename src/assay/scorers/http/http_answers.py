"""What a server answers in place of rewards, and what is made of it."""

from __future__ import annotations

import math

import httpx2

from assay.errors import EngineError


class Refused(EngineError):
    """The server refuses every request, whatever its items: a second try would fail too."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Silent(EngineError):
    """The server does not answer which model it serves."""


class Unanswered(Exception):
    """There are no rewards for this request. status: of the answer; 0 when there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = 0.0


def error_text(response: httpx2.Response) -> str:
    """The server's error message, 200 characters at most."""
    try:
        content = response.json()
        content = content.get("error", content.get("detail", content)) if isinstance(content, dict) else content
        content = content.get("message", content) if isinstance(content, dict) else content
    except ValueError:
        content = response.text
    return " ".join(str(content).split())[:200]


def seconds_of(header: str | None) -> float:
    """Of a header Retry-After; 0 for none, 1 for a date."""
    try:
        value = float(header or 0)
    except ValueError:  # a date
        return 1.0
    return value if math.isfinite(value) and value > 0 else 0.0
