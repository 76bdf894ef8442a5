"""`assay data world`: problems with candidate solutions whose steps have exact labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from assay.console import print_lines, say
from assay.data.steps.step_check import check_steps
from assay.data.steps.step_rows import write_labelled_steps
from assay.recipes.worlds.first_errors import Names, WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.recipes.worlds.tool_use import tool_world

_WORLDS = {"relay": relay_world, "tools": tool_world}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Write a made world as labelled steps, several solutions to a problem (docs/process-data.md).

    relay: who has the key after so many passes. tools: what things cost, by look-ups and a calculator.
    """

    world: Annotated[tyro.conf.Positional[Literal["relay", "tools"]], tyro.conf.arg(metavar="{relay,tools}")]
    """Which world."""
    out: Path
    """jsonl or jsonl.gz of labelled steps."""
    problems: int = 1000
    """Number of problems."""
    lengths: tuple[int, ...] = (1, 2, 3)
    """Passes of a relay, or items of a task; each length equally often. Up to 6 and 5: longer than trained is a second file."""
    solutions: int = 4
    """Candidate solutions of a problem, for best-of-n."""
    error_rate: float = 0.3
    """Probability that a step is the first wrong one, at every place."""
    lucky: float = 0.0
    """Share of wrong solutions (relay) with a right answer all the same."""
    names: Names = "first"
    """Which half of the world's names is used; the second for a test with names that training did not have."""
    seed: int = 0
    """Of all draws."""

    @property
    def settings(self) -> WorldSettings:
        return WorldSettings(
            problems=self.problems,
            lengths=self.lengths,
            solutions=self.solutions,
            error_rate=self.error_rate,
            lucky=self.lucky,
            names=self.names,
            seed=self.seed,
        )


def run(config: Config) -> int:
    """Make the world, write it, and say how its labels lie."""
    if config.world == "tools" and config.lucky:
        raise ValueError(f"--lucky {config.lucky:g} goes with relay: every wrong turn of the tools world spoils the answer")
    num = write_labelled_steps(config.out, _WORLDS[config.world](config.settings))
    print_lines(check_steps(str(config.out)).lines()[1:])
    say("written", f"{config.out}: {num:,} solutions")
    return 0
