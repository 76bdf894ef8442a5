"""What a run prints: plain lines, progress bars, one table at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from assay.records import Metric, Report
from assay.train.distributed import rank

console = Console(stderr=True, highlight=False)


def say(label: str, text: str) -> None:
    """One line of a run: what, then the finding. Of several processes the first one speaks."""
    if rank() == 0:
        console.print(f"[bold]{escape(label):<14}[/] {escape(text)}", soft_wrap=True)


@contextmanager
def progress(label: str, total: int | None, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar; the value it gives is called with how much was done. total: None when it is not known; done: before this."""
    columns = (
        TextColumn(f"[bold]{label:<14}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=rank() != 0) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda amount: bar.advance(task, amount)


class _RateColumn(ProgressColumn):
    """How much is done a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.1f}/s")


def figure_table(title: str, rows: Sequence[tuple[str, str, str]]) -> RichTable:
    """Three columns: what, the figure, what to know of it."""
    table = RichTable(title=title, title_justify="left", show_lines=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("what to know of it")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def print_figures(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """The table on standard output."""
    plain_console = Console(highlight=False)
    Console(highlight=False, width=max(100, plain_console.width)).print(figure_table(title, rows))


def percent(metric: Metric) -> str:
    """72.3% [68.6, 75.9] or n/a."""
    if math.isnan(metric.value):
        return "n/a"
    interval = "" if math.isnan(metric.low) else f" [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
    return f"{100 * metric.value:.1f}%{interval}"


def plain(metric: Metric) -> str:
    """0.2031, 3 for a count, or n/a."""
    if math.isnan(metric.value):
        return "n/a"
    return f"{metric.value:,.0f}" if float(metric.value).is_integer() else f"{metric.value:.4f}"


def plain_with_interval(metric: Metric) -> str:
    """0.2031 [0.1912, 0.2150], as far as there is one."""
    figure = plain(metric)
    return figure if math.isnan(metric.low) else f"{figure} [{metric.low:.4f}, {metric.high:.4f}]"


def report_rows(report: Report) -> list[tuple[str, str, str]]:
    """The metrics of a report and the findings that are not ok, as rows of `figure_table`."""
    rows = []
    for metric in report.metrics:
        figure = percent(metric) if "accuracy" in metric.name else plain_with_interval(metric)
        count = f"{metric.n_scored:,} of {metric.n:,}" if metric.n else ""
        rows.append((metric.name, figure, "; ".join(part for part in (count, metric.note) if part)))
    return rows + [
        (f"{finding.level}: {finding.name}", f"{finding.value:.3g}", finding.why)
        for finding in report.findings
        if finding.level != "ok"
    ]
