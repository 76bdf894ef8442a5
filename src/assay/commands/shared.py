"""What the commands share: the groups of flags, and how a result is kept and shown."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

import tyro

from assay.console import print_figures, print_lines, say
from assay.data.raw.columns import renaming
from assay.data.split import Split
from assay.records import Dtype, Report, Result
from assay.report.headline import report_rows, summary_lines
from assay.report.html import write_html
from assay.run_files import LEDGER, write_report
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import NamedPairs, Opened, open_scorer, read_named
from assay.scorers.verifiers.confined import CodeFlags

_MODEL_HELP = "Run directory, artifact, URL (http://, vllm+http://), rule:NAME, rule:module:function or rubric (docs/judges.md)."
Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL", help=_MODEL_HELP)]
"""What is measured, as `open_scorer` takes it."""
Columns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="A=B")]
Ignored = Annotated[tuple[str, ...], tyro.conf.arg(metavar="COL")]
Rows: TypeAlias = Sequence[tuple[str, str, str]]
"""What, the figure, what to know of it: rows of the table that --verbose prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Which pairs."""

    data: tuple[str, ...] = ()
    """Pairs: files, folders, globs or hub:org/name#split (docs/data.md); the run's own when left out. Several are pooled."""
    limit: int | None = None
    """Take at most so many pairs of each set: a random sample, whole prompts."""
    form: str | None = None
    """Form of the rows (docs/data.md); found when left out."""
    columns: Columns = ()
    """Such as prompt=instruction chosen=good (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    strict: bool = False
    """Stop at the first bad row."""
    seed: int = 0
    """Of draws and intervals."""

    def __post_init__(self) -> None:
        if isinstance(self.data, str):
            object.__setattr__(self, "data", (self.data,))
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of a command that reads the same pairs; none where --data was left out."""
        return reading_flags(self.data, self.form, self.columns, self.ignore) if self.data else ()

    def read(self) -> NamedPairs:
        """The pairs of --data. Raises as `read_named`."""
        names = renaming(self.columns, self.ignore)
        return read_named(self.data, form=self.form, strict=self.strict, limit=self.limit, seed=self.seed, names=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where to compute, and where to keep what was found."""

    out: Path | None = None
    """Directory of reports and pages; that of the model when left out."""
    device: str = "auto"
    """Such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Number format of the backbone; auto measures which is faster."""
    verbose: bool = False
    """Print every figure with its note, not only the summary."""
    code: CodeFlags = field(default_factory=CodeFlags)

    def open(self, model: str, cache: Path | None = None, *, judge: JudgeOptions | None = None) -> Opened:
        """judge: of a rubric; its ledger lies in `out` unless it says where."""
        ledger = None if self.out is None else self.out / LEDGER
        return open_scorer(
            model,
            device=self.device,
            dtype=self.dtype,
            cache=cache,
            judge=judge,
            ledger=ledger,
            run_code=self.code.allowed,
        )


def reading_flags(data: Sequence[str], form: str | None, columns: Columns, ignore: Ignored) -> tuple[str, ...]:
    """The flags that read these files in the same way."""
    given = (("--data", tuple(data)), ("--form", () if form is None else (form,)), ("--columns", columns), ("--ignore", ignore))
    return tuple(word for flag, words in given if words for word in (flag, *words))


def pairs_for(opened: Opened, pairs: Pairs, split: Split = "test") -> NamedPairs:
    """The pairs of --data, or the run's own split. Raises ValueError when there are none."""
    return pairs.read() if pairs.data else opened.own_pairs(split, pairs.limit)


def keep(result: Result, home: Path, name: str, *, page: str | None = None) -> Report:
    """Write eval/NAME.json below `home`, and with `page` a title's page NAME.html beside; returns the report."""
    report = result.report()
    kept = write_report(home, name, report)
    if page is None:
        say("report", str(kept))
    else:
        write_html(home / f"{name}.html", [report], page)
        say("report", f"{kept} and {home / f'{name}.html'}")
    return report


def show(
    reports: Sequence[Report], *, verbose: bool, page: Path | None = None, then: Sequence[object] = (), rows: Rows | None = None
) -> None:
    """A command's last words on standard output: its summary, at most twelve lines; with `verbose` the figures of each report too.

    page: where the report lies. then: the words of the command to type next. rows: of the first report, where they are others than
    its metrics and warnings.
    """
    where = "" if page is None else str(page) if verbose else f"{page} (every figure here: --verbose)"
    print_lines(summary_lines(reports, closing={"report": where, "next": command_line(then)}))
    for i, report in enumerate(reports if verbose else ()):
        print_figures(report.title, rows if rows is not None and i == 0 else report_rows(report))


def command_line(words: Sequence[object]) -> str:
    """The words as they are typed; a word in capitals stands for what only the reader knows."""
    return shlex.join(str(word) for word in words)
