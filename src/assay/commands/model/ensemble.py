"""`assay model ensemble`: reward models joined into one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.console import say
from assay.models.combine import join
from assay.scorers.ensemble import Combination, How


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Join reward models: mean less a penalty on their disagreement, and a std (docs/scorers.md)."""

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODELS")]
    """Run directories or artifacts, of any bases."""
    out: Path
    """Directory of the ensemble."""
    combine: How = "mean"
    """mean less --penalty x standard deviation, or min."""
    penalty: float = 1.0


def run(config: Config) -> int:
    """Write the ensemble: copies of the models, and how they are combined."""
    Combination(how=config.combine, penalty=config.penalty)  # a mistake is reported before anything is copied
    join(config.models, config.out, combine=config.combine, penalty=config.penalty)
    say("ensemble", f"{len(config.models)} members -> {config.out}")
    return 0
