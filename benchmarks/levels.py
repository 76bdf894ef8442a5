"""Every interval, test and threshold of Assay: the level it claims against the level that simulation shows. Last line: one JSON.

    python benchmarks/levels.py
    python benchmarks/levels.py --only "probes" --runs 10000
    python benchmarks/levels.py --part 0 2 & python benchmarks/levels.py --part 1 2

A level is the chance of a false word: that a 95% interval misses the truth, that a test finds what is not there, that a threshold
is passed by chance. Each claim names the family of laws that it is made for; data are drawn by laws of that family, and the share
of runs with a false word is held against the claim. Law: kept means seen <= claimed + 2 Monte-Carlo errors in at least 2,000 runs
(power: seen >= claimed - 2 errors). A level that is not kept at first is simulated again with four times the runs, which decide.
One test is broken on purpose (it takes the pairs of a prompt for independent); the run is worth nothing if it is called kept.

Where a claim is weaker than the nominal level (coverage of at least 93% by intervals called 95%), the table shows the claim.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import tyro
from levels_frame import ERRORS, Level, Seen, all_held, held_against
from levels_of_agreement import LEVELS as AGREEMENT
from levels_of_fits import LEVELS as FITS
from levels_of_intervals import LEVELS as INTERVALS
from levels_of_probes import LEVELS as PROBES
from levels_of_steps import LEVELS as STEPS
from levels_of_tests import BROKEN
from levels_of_tests import LEVELS as TESTS

LEVELS: tuple[Level, ...] = (*INTERVALS, *TESTS, *PROBES, *FITS, *AGREEMENT, *STEPS)
"""The table of all claims: one module of laws a theme, each with its own LEVELS."""


@dataclass(frozen=True, kw_only=True)
class LevelsConfig:
    runs: int = 2000
    seed: int = 0
    only: str = ""
    """Part of the names to run."""
    part: tuple[int, int] = (0, 1)
    """Which of how many parts, to run them on several cores: 0 2 and 1 2."""


def main() -> int:
    config = tyro.cli(LevelsConfig)
    chosen = [level for level in LEVELS if config.only in level.name][config.part[0] :: config.part[1]]
    found = all_held(chosen, config.runs, seed=config.seed, tell=lambda seen: print(line(seen), flush=True))
    broken = held_against(BROKEN, config.runs, seed=config.seed)
    print(f"{line(broken)}   (broken on purpose)")
    processor = platform.processor() or platform.machine()
    result = {
        "machine": {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()},
        "runs": config.runs,
        "errors_allowed": ERRORS,
        "levels": [seen.row() for seen in found],
        "not_kept": [f"{seen.level.name}: {seen.level.law}" for seen in found if not seen.is_kept],
        "broken_is_caught": not broken.is_kept,
    }
    print(json.dumps(result))
    return 0 if all(seen.is_kept for seen in found) and not broken.is_kept else 1


def line(seen: Seen) -> str:
    level = seen.level
    claim = f"at least {level.least:.3f}" if level.least else f"at most  {level.most:.3f}"
    verdict = "kept" if seen.is_kept else "NOT KEPT"
    figures = f"{verdict:8s} {claim}  seen {seen.seen:.4f} +- {seen.error:.4f}"
    return f"{figures}  {level.name}: {level.law} ({seen.runs:,} runs, {seen.seconds:.1f} s)"


if __name__ == "__main__":
    sys.exit(main())
