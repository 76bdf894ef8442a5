"""`assay data check`: read preference pairs, count them, and say what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.commands.shared import Columns, Ignored, keep, reading_flags, show
from assay.console import print_error, print_lines, say
from assay.data.check import check_pairs
from assay.data.raw.columns import renaming
from assay.data.steps.step_check import check_steps, holds_steps
from assay.data.tokens.render import Renderer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Read preference pairs as training would, and say what is wrong with them (docs/data.md).

    Exit status 2 when a file gives no pair.
    """

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES")]
    """Pairs (docs/data.md) or labelled steps (docs/process-data.md): files, folders, globs or hub:org/name#split."""
    form: str | None = None
    """Form of the rows (docs/data.md); found when left out."""
    columns: Columns = ()
    """Such as prompt=instruction chosen=good (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    limit: int | None = None
    """Look at no more than so many pairs of each file: a random sample, whole prompts."""
    base: str | None = None
    """Say too what the chat template of this base would cut and set aside: hub id, directory or .gguf."""
    max_length: int = 1024
    """With --base: maximum tokens of prompt and answer, as in assay train."""
    out: Path | None = None
    """Directory to keep eval/data-check.json and the page data-check.html in."""
    seed: int = 0
    """Of intervals and samples."""
    verbose: bool = False
    """Print every figure with its note, not only the summary."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("no file is given: name at least one file of preference pairs")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")


def run(config: Config) -> int:
    """Check, show the figures, and keep them where --out says. Files of labelled steps are counted, and said to be such."""
    of_steps = [name for name in config.files if holds_steps(name, config.form)]
    if of_steps:
        return _of_steps(config, of_steps)
    renderer, base = None, ""
    if config.base is not None:
        from assay.models.bases import load_tokenizer  # imports transformers, which the check without a base does not need

        found, tokenizer = load_tokenizer(config.base)
        renderer, base = Renderer(tokenizer, max_length=config.max_length), found.name
    names = renaming(config.columns, config.ignore)
    result = check_pairs(
        config.files, form=config.form, limit=config.limit, seed=config.seed, names=names, renderer=renderer, base=base
    )
    for file in result.files:
        say("read", f"{file.name}: {file.summary()}")
    for line in result.spread.lines():
        say("order", line)
    if result.fit is not None:
        say("rendered", result.fit.summary())
    report = result.report() if config.out is None else keep(result, config.out, "data-check", page=result.title)
    if result.num_pairs:
        page = None if config.out is None else config.out / "data-check.html"
        reading = reading_flags(config.files, config.form, config.columns, config.ignore)
        then = ("assay", "train", *reading, "--base", config.base or "BASE", "--out", "runs/first")
        show([report], verbose=config.verbose, page=page, then=then)
    empty = [file for file in result.files if file.is_empty]
    if empty:
        reasons = "".join(f"\n{file.why_empty}" for file in empty if file.why_empty)
        print_error(f"no pair could be read from {', '.join(file.name for file in empty)}{reasons}")
    return 2 if empty else 0


def _of_steps(config: Config, of_steps: list[str]) -> int:
    """Count files of labelled steps. Raises ValueError for pairs beside them, and flags that are of pairs alone."""
    others = [name for name in config.files if name not in of_steps]
    if others:
        raise ValueError(f"{of_steps[0]} holds labelled steps and {others[0]} does not: check them apart")
    given = (("--columns", config.columns), ("--base", config.base), ("--out", config.out))
    if flags := [flag for flag, value in given if value]:
        raise ValueError(f"{of_steps[0]} holds labelled steps: {flags[0]} goes with preference pairs")
    empty = []
    for name in of_steps:
        found = check_steps(name, form=config.form, limit=config.limit, seed=config.seed, ignore=config.ignore)
        print_lines(found.lines())
        empty += [] if found.num_solutions else [name]
    if empty:
        print_error(f"no solution could be read from {', '.join(empty)}")
    return 2 if empty else 0
