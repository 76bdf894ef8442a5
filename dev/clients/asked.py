"""What the scripts of this folder have in common: read the cases, print what was seen. Standard library only."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple


class Cases(NamedTuple):
    """A question with its answers, the same as conversations, and as rendered texts in reverse order; the address of the service
    and the name of its model; base: directory of a tiny policy, for trainers; steps: of a tiny process artifact."""

    url: str
    model: str
    question: str
    answers: list[str]
    conversations: list[list[dict[str, str]]]
    texts: list[str]
    base: str
    steps: str


def read_cases() -> Cases:
    """From the file that is named on the command line."""
    return Cases(**json.loads(Path(sys.argv[1]).read_text()))


class Seen:
    """The rewards that a client read, by what it called."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.rows: list[dict[str, Any]] = []

    def add(
        self,
        call: str,
        path: str,
        of: str | list[dict[str, Any]],
        values: Sequence[float],
        tokens: int | None = None,
        *,
        of_steps: bool = False,
    ) -> None:
        """call: of the client; path: that it posts to; of: what was scored, "answers", "texts", "sigmoid answers", or items of
        /v1/score; tokens: what the client counts; of_steps: the values are of the items' steps, by the process artifact."""
        row = {
            "call": call,
            "path": path,
            "of": of,
            "values": [float(value) for value in values],
            "tokens": tokens,
            "steps": of_steps,
        }
        self.rows.append(row)

    def tell(self) -> None:
        """The last line of the output."""
        print(json.dumps({"package": self.package, "version": version(self.package), "rows": self.rows}))


def in_order(ranked: Sequence[tuple[int, float]]) -> list[float]:
    """Scores of a ranking, in the order of the answers. Raises ValueError for a ranking that is not best first, or not of all."""
    scores = [score for _, score in ranked]
    if scores != sorted(scores, reverse=True) or sorted(index for index, _ in ranked) != list(range(len(ranked))):
        raise ValueError(f"not a ranking of all answers, best first: {ranked}")
    return [score for _, score in sorted(ranked)]


def without_engine(*packages: str) -> None:
    """Let modules of these packages be imported without what the packages import first: the engine that they train with."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"there is no package {name}")
        module = types.ModuleType(name)
        module.__path__, module.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules[name] = module
