"""What a run prints: plain lines, progress bars, one table at the end."""

from __future__ import annotations

import os
import time
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

console = Console(stderr=True, highlight=False)
LINE_EVERY = 30.0  # seconds between lines of progress where there is no terminal


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def speaks() -> bool:
    """Whether this process prints: of several that torchrun started the first one."""
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def print_notice(text: str) -> None:
    """A plain line beside the figures, on standard error."""
    console.print(escape(text), soft_wrap=True)


def print_error(text: str, *, label: str = "error") -> None:
    """Why a command ends without having done what was asked."""
    console.print(f"[bold red]{label}[/] {escape(text)}", soft_wrap=True)


def say(label: str, text: str) -> None:
    """One line of a run: what, then the finding. Of several processes the first one speaks."""
    if speaks():
        console.print(f"[bold]{escape(label):<14}[/] {escape(text)}", soft_wrap=True)


@contextmanager
def progress(
    label: str,
    total: int | None,
    unit: str,
    *,
    done: int = 0,
    to: Console = console,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], None]]:
    """A progress bar; the value it gives is called with how much was done. total: None when it is not known; done: before this.

    The rate is that of all that was done here. Where `to` is no terminal there are lines: one every 30 seconds, and one at the end.
    """
    if not speaks():
        yield lambda amount: None
    elif to.is_terminal:
        columns = (TextColumn(f"[bold]{label:<14}[/]"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, _RateColumn(done), *times, console=to, get_time=clock) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda amount: bar.advance(task, amount)
    else:
        lines = _Lines(label, total, unit, done, to, clock)
        try:
            yield lines.advance
        finally:
            lines.close()


class _RateColumn(ProgressColumn):
    """How much is done a second, over all of the time. done: before it."""

    def __init__(self, done: int) -> None:
        super().__init__()
        self.done = done

    def render(self, task: Task) -> Text:
        return Text(_rate(task.completed - self.done, task.elapsed or 0.0))


class _Lines:
    """Progress as plain lines."""

    def __init__(self, label: str, total: int | None, unit: str, done: int, to: Console, clock: Callable[[], float]) -> None:
        self.label, self.total, self.unit, self.done, self.to, self.clock = label, total, unit, done, to, clock
        self.count, self.began = done, clock()
        self.written, self.told = self.began, -1

    def advance(self, amount: int) -> None:
        self.count += amount
        if self.clock() - self.written >= LINE_EVERY and self.count != self.total:
            self.write()

    def close(self) -> None:
        """The last line, unless it was written already: of a total that is not known nobody knew that it was the last."""
        if self.told != self.count:
            self.write()

    def write(self) -> None:
        self.written, self.told = self.clock(), self.count
        seconds = self.written - self.began
        of = "" if self.total in (None, self.count) else f" of {self.total:,}"
        took = f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
        found = ", ".join(filter(None, (took, _rate(self.count - self.done, seconds))))
        self.to.print(escape(f"{self.label:<14} {self.count:,}{of} {self.unit} in {found}"), soft_wrap=True)


def _rate(amount: float, seconds: float) -> str:
    """How much a second: 1,200/s, 16.1/s; nothing where nothing was done yet."""
    if not (amount > 0 and seconds > 0):
        return ""
    rate = amount / seconds
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.1f}/s"


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


def print_columns(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a name and a cell for each of several columns, on standard output."""
    table = RichTable(title=title, title_justify="left", show_lines=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    plain_console = Console(highlight=False)
    Console(highlight=False, width=max(100, plain_console.width)).print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Plain lines on standard output: on a terminal wrapped to its width, else as they are, for whoever reads them next."""
    plain_console = Console(highlight=False)
    to = Console(highlight=False, width=max(100, plain_console.width))
    for line in lines:
        to.print(escape(line), soft_wrap=not to.is_terminal)
