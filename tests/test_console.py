"""What a run prints of its progress: a bar on a terminal, lines elsewhere, and the rate of the whole."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from assay.console import print_lines, progress


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines_of(written: StringIO) -> list[str]:
    return written.getvalue().splitlines()


def test_without_a_terminal_there_is_one_line_with_the_rate_of_the_whole():
    written, clock = StringIO(), Clock()
    with progress("candidates", 1830, "answers", to=Console(file=written), clock=clock) as advance:
        for amount, seconds in ((1800, 1.0), (30, 28.0)):  # the last thirty are slow: about one a second
            clock.now += seconds
            advance(amount)
        assert written.getvalue() == ""
        clock.now += 85.0
    assert lines_of(written) == ["candidates     1,830 answers in 114 s, 16.1/s"]


def test_what_was_done_before_is_counted_but_is_no_part_of_the_rate():
    written, clock = StringIO(), Clock()
    with progress("scoring", 5000, "rows", done=4000, to=Console(file=written), clock=clock) as advance:
        clock.now += 5.0
        advance(1000)
    assert lines_of(written) == ["scoring        5,000 rows in 5.0 s, 200/s"]


def test_a_long_job_says_every_half_minute_how_far_it_is():
    written, clock = StringIO(), Clock()
    with progress("fits", 100, "pairs", to=Console(file=written), clock=clock) as advance:
        for _ in range(100):
            clock.now += 1.0
            advance(1)
    counts = [line.split(" in ")[0].removeprefix("fits").strip() for line in lines_of(written)]
    assert counts == ["30 of 100 pairs", "60 of 100 pairs", "90 of 100 pairs", "100 pairs"]


def test_a_job_without_a_known_total_and_one_that_fails_say_how_far_they_came():
    written, clock = StringIO(), Clock()

    def fails() -> None:
        with progress("probing", None, "answers", to=Console(file=written), clock=clock) as advance:
            clock.now += 4.0
            advance(2)
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fails()
    with progress("nothing", 0, "rows", to=Console(file=written), clock=clock):
        pass
    assert lines_of(written) == ["probing        2 answers in 4.0 s, 0.5/s", "nothing        0 rows in 0.0 s"]


def test_the_last_line_is_written_once_where_the_total_is_not_known():
    written, clock = StringIO(), Clock()
    with progress("scoring", None, "rows", to=Console(file=written), clock=clock) as advance:
        clock.now += 59.0
        advance(20)
    assert lines_of(written) == ["scoring        20 rows in 59 s, 0.3/s"]


def test_on_a_terminal_the_bar_has_the_rate_of_the_whole():
    written, clock = StringIO(), Clock()
    terminal = Console(file=written, force_terminal=True, width=120, color_system=None)
    with progress("candidates", 1930, "answers", done=100, to=terminal, clock=clock) as advance:
        for amount, seconds in ((1800, 1.0), (30, 113.0)):
            clock.now += seconds
            advance(amount)
    assert "1930/1930 answers 16.1/s 0:01:54" in written.getvalue()


def test_of_several_processes_the_first_one_speaks(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    written = StringIO()
    with progress("training", 10, "steps", to=Console(file=written)) as advance:
        advance(10)
    assert written.getvalue() == ""


def test_lines_that_are_piped_are_not_broken(capsys):
    line = "final answers: 1 right, 2 wrong [of 3]; " * 6
    print_lines([line, "next"])
    assert capsys.readouterr().out == f"{line}\nnext\n"
