"""`assay data world`: made problems with exact labels, as solutions with labelled steps or as pairs with critiques."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from assay.console import print_lines, say
from assay.data.pairs import write_pairs
from assay.data.steps.step_check import check_steps
from assay.data.steps.step_rows import write_labelled_steps
from assay.recipes.worlds.brevity import brevity_pairs
from assay.recipes.worlds.first_errors import Names, WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.recipes.worlds.relay_pairs import CritiquedPair, PairWorldSettings, relay_pairs
from assay.recipes.worlds.tool_use import tool_world

_WORLDS = {"relay": relay_world, "tools": tool_world}
_PAIRS: dict[str, Callable[[PairWorldSettings], Iterator[CritiquedPair]]] = {"relay-pairs": relay_pairs, "brevity": brevity_pairs}
_OF_SOLUTIONS = ("solutions", "error_rate", "lucky")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Write a made world: solutions with labelled steps, or pairs with critiques.

    Solutions: relay (who has the key after so many passes), tools (look-ups and a calculator).

    Pairs: relay-pairs (two answers to the relay), brevity (the shorter answer is right).
    """

    world: Annotated[
        tyro.conf.Positional[Literal["relay", "tools", "relay-pairs", "brevity"]],
        tyro.conf.arg(metavar="{relay,tools,relay-pairs,brevity}"),
    ]
    """Which world."""
    out: Path
    """jsonl or jsonl.gz of labelled steps, or of pairs."""
    problems: int = 1000
    """Number of problems, or of pairs."""
    lengths: tuple[int, ...] = (1, 2, 3)
    """Passes of a relay, or items of a task; each length equally often. Up to 6 in relay, else 5: longer than trained is a second
    file."""
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
        """Of a world of solutions."""
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
    if config.world in _PAIRS:
        return _run_pairs(config)
    if config.world == "tools" and config.lucky:
        raise ValueError(f"--lucky {config.lucky:g} goes with relay: every wrong turn of the tools world spoils the answer")
    num = write_labelled_steps(config.out, _WORLDS[config.world](config.settings))
    print_lines(check_steps(str(config.out)).lines()[1:])
    say("written", f"{config.out}: {num:,} solutions")
    return 0


def _run_pairs(config: Config) -> int:
    """Write pairs with their critiques beside them, and count their kinds."""
    defaults = {one.name: one.default for one in fields(Config)}
    if given := [name for name in _OF_SOLUTIONS if getattr(config, name) != defaults[name]]:
        flag = given[0].replace("_", "-")
        raise ValueError(f"--{flag} {getattr(config, given[0])} goes with worlds of solutions: leave it out with {config.world}")
    settings = PairWorldSettings(pairs=config.problems, lengths=config.lengths, names=config.names, seed=config.seed)
    made = list(_PAIRS[config.world](settings))
    columns = {one.pair.id: one.columns for one in made}
    num = write_pairs(config.out, (one.pair for one in made), beside=lambda pair: columns[pair.id])
    counts = Counter((one.pair.tags.get("passes", ""), one.pair.tags.get("kind", "")) for one in made)
    for (passes, kind), count in sorted(counts.items()):
        if kind:
            say("pairs", f"{passes} pass{'es' if passes != '1' else ''}, wrong answer {kind}: {count:,}")
    say("written", f"{config.out}: {num:,} pairs")
    return 0
