"""`assay model export`: one member of an ensemble as a model of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.console import say
from assay.models.saved.combine import export
from assay.run_files import refuse_existing


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Take one member out of an ensemble as a plain artifact."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Run directory or artifact of the ensemble."""
    out: Path
    """Directory of the member."""
    member: int = 0
    """Its number, from 0."""


def run(config: Config) -> int:
    """Write the member, which is not calibrated."""
    refuse_existing(config.out)
    export(config.model, config.member, config.out)
    say("member", f"{config.member} -> {config.out}; not calibrated")
    return 0
