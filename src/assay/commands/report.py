"""`assay report`: the page of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.console import print_lines
from assay.report.run_page import write_run_page


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One page and the model card from all that was found out about a run."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Run directory or artifact."""


def run(config: Config) -> int:
    """Write the page and print its path."""
    print_lines([str(write_run_page(config.model))])
    return 0
