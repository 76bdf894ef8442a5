"""`assay rubric export`: a rubric in another form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.console import say
from assay.files import write_text
from assay.rubrics.formats import to_healthbench
from assay.rubrics.rubric_text import rubric_to_toml
from assay.rubrics.shipped import find_rubric


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Write a rubric, shipped or of another program, as Assay's TOML or as HealthBench's JSON (docs/rubrics.md)."""

    rubric: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUBRIC")]
    """A .toml or .json file, or the name of a shipped rubric."""
    out: Path
    """A .toml file for Assay's form, a .json file for HealthBench's."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".toml", ".json"):
            raise ValueError(f"--out {self.out}: rubrics are written as .toml (Assay) or .json (HealthBench)")


def run(config: Config) -> int:
    """Read, and write in the form of the suffix."""
    rubric = find_rubric(config.rubric)
    if config.out.suffix == ".json":
        text = json.dumps(to_healthbench(rubric), indent=1, ensure_ascii=False) + "\n"
    else:
        text = rubric_to_toml(rubric)
    write_text(config.out, text)
    say("rubric", f"{len(rubric.criteria)} criteria, formula {rubric.formula} -> {config.out}")
    return 0
