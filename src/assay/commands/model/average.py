"""`assay model average`: one model from the mean of several models' weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.console import say
from assay.models.combine import average


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Average the weights of models of one base into a plain one (WARM, Rame et al. 2024)."""

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODELS")]
    """Run directories or artifacts; of an ensemble all its members."""
    out: Path
    """Directory of the averaged model."""


def run(config: Config) -> int:
    """Write the averaged model, which is not calibrated."""
    num_models = average(config.models, config.out)
    say("average", f"of {num_models} models -> {config.out}; not calibrated")
    return 0
