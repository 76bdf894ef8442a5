"""`assay data check`: read preference pairs, count them, and say what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.commands.shared import keep, show
from assay.console import print_error, say
from assay.data.check import check_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Read preference pairs as training would, and say what is wrong with them (docs/data.md).

    Exit status 2 when a file gives no pair.
    """

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES")]
    """Pairs: jsonl, jsonl.gz, json, parquet, or hub:org/name#split."""
    form: str | None = None
    """Form of the rows (docs/data.md); found when left out."""
    limit: int | None = None
    """Read at most so many pairs of each file."""
    out: Path | None = None
    """Directory to keep eval/data-check.json and the page data-check.html in."""
    seed: int = 0
    """Of the interval, and of the pairs that are drawn from pointwise labels."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("no file is given: name at least one file of preference pairs")


def run(config: Config) -> int:
    """Check, show the figures, and keep them where --out says."""
    result = check_pairs(config.files, form=config.form, limit=config.limit, seed=config.seed)
    for file in result.files:
        say("read", f"{file.name}: {file.summary()}")
    report = result.report() if config.out is None else keep(result, config.out, "data-check", page=result.title)
    if result.num_pairs:
        show(report)
    empty = [file.name for file in result.files if file.is_empty]
    if empty:
        print_error(f"no pair could be read from {', '.join(empty)}")
    return 2 if empty else 0
