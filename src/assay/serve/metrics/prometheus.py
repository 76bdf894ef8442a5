"""Counters, gauges and histograms of the service in Prometheus' text form (version 0.0.4). Safe for threads."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKENS = (64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0, 262144.0)
ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
WINDOW = 1024
"""The number of last rewards for mean, standard deviation and rate of failures."""


class Counters:
    """Counters and histograms by name and labels; `text` gives all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, tuple[Sequence[float], dict[Labels, list[float]]]] = {}

    def count(self, name: str, help: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._add("counter", name, help, amount, labels)

    def change(self, name: str, help: str, by: float, **labels: str) -> None:
        """Add to a gauge."""
        self._add("gauge", name, help, by, labels)

    def _add(self, kind: str, name: str, help: str, amount: float, labels: Mapping[str, str]) -> None:
        with self._lock:
            self._help[name] = (kind, help)
            values = self._values.setdefault(name, {})
            key = tuple(labels.items())
            values[key] = values.get(key, 0.0) + amount

    def observe(self, name: str, help: str, value: float, bounds: Sequence[float], **labels: str) -> None:
        """Add a value to a histogram with these upper bounds; all observations of a name have the same."""
        with self._lock:
            self._help[name] = ("histogram", help)
            bounds, series = self._histograms.setdefault(name, (bounds, {}))
            cells = series.setdefault(tuple(labels.items()), [0.0] * (len(bounds) + 2))  # one for each bound, the rest, the sum
            cells[bisect_left(bounds, value)] += 1
            cells[-1] += value

    def text(self, gauges: Mapping[str, tuple[str, Mapping[Labels, float]]] | None = None) -> str:
        """All metrics as text. gauges: values of now, name -> (help, labels -> value); a name that ends in _total is a counter."""
        with self._lock:
            lines: list[str] = []
            for name, values in self._values.items():
                lines += _head(name, *self._help[name])
                lines += [f"{name}{_braces(labels)} {_number(value)}" for labels, value in values.items()]
            for name, (bounds, series) in self._histograms.items():
                lines += _head(name, *self._help[name])
                for labels, cells in series.items():
                    lines += _histogram(name, labels, bounds, cells)
        for name, (help, read) in (gauges or {}).items():
            lines += _head(name, "counter" if name.endswith("_total") else "gauge", help)
            lines += [f"{name}{_braces(labels)} {_number(value)}" for labels, value in read.items()]
        return "\n".join(lines) + "\n"


class RewardWindow:
    """The last rewards of a model: their number, mean and standard deviation, and the share of completions without a reward."""

    def __init__(self, size: int = WINDOW) -> None:
        self._lock = threading.Lock()
        self._values: deque[float | None] = deque(maxlen=size)

    def add(self, values: Sequence[float | None]) -> None:
        with self._lock:
            self._values.extend(values)

    def summary(self) -> dict[str, float]:
        """mean, std (of n - 1) and nan_rate; NaN where there is nothing to compute them from. n, n_scored: of the window."""
        with self._lock:
            values = list(self._values)
        scored = [value for value in values if value is not None]
        n, n_scored = len(values), len(scored)
        mean = math.fsum(scored) / n_scored if n_scored else math.nan
        spread = math.fsum((value - mean) ** 2 for value in scored)
        return {
            "mean": mean,
            "std": math.sqrt(spread / (n_scored - 1)) if n_scored > 1 else math.nan,
            "nan_rate": (n - n_scored) / n if n else math.nan,
            "n": float(n),
            "n_scored": float(n_scored),
        }


def _head(name: str, kind: str, help: str) -> list[str]:
    return [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]


def _histogram(name: str, labels: Labels, bounds: Sequence[float], cells: list[float]) -> list[str]:
    lines, total = [], 0.0
    for bound, cell in zip((*bounds, math.inf), cells[:-1], strict=True):
        total += cell
        lines.append(f"{name}_bucket{_braces((*labels, ('le', _number(bound))))} {_number(total)}")
    return [*lines, f"{name}_sum{_braces(labels)} {_number(cells[-1])}", f"{name}_count{_braces(labels)} {_number(total)}"]


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
