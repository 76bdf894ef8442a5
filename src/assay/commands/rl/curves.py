"""`assay rl curves`: gold and reward against the square root of the KL, of runs and of best-of-n."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.audit.best_of_n import read_best_of_n
from assay.commands.shared import keep, show
from assay.rl.evaluations import read_evaluations
from assay.rl.rl_curves import rl_curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Gold and reward against the distance a policy went, with Gao's form where it fits (docs/rl.md)."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Directories that assay rl train made."""
    best_of_n: Path | None = None
    """eval/best-of-n-NAME.json of assay audit best-of-n, of the policy that the runs started from: drawn beside them."""
    out: Path | None = None
    """Directory of the page; that of the first run when left out."""
    verbose: bool = False
    """Print every figure with its note."""
    seed: int = 0
    """Of the intervals."""


def run(config: Config) -> int:
    """Read the runs, keep the page, and show what was found."""
    if not config.runs:
        raise ValueError("no run is named: give directories that assay rl train made")
    home = config.out or config.runs[0]
    beside = None if config.best_of_n is None else read_best_of_n(config.best_of_n)
    result = rl_curves({path.name: read_evaluations(path) for path in config.runs}, best_of_n=beside, seed=config.seed)
    report = keep(result, home, "curves", page="Gold against distance")
    show([report], verbose=config.verbose, page=home / "curves.html")
    return 0
