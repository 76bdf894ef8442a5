"""A run that begins where another one stopped, or at one of its looks: to go on under another reward model, or once more.

The new run's directory holds all that the other one had up to there, so that figures and curves of the whole way are read from one
directory, and the policy is held against its own past as before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from assay.audit.monitors import GroundLost
from assay.errors import CheckpointError
from assay.files import write_text
from assay.rl.evaluations import EVALUATIONS
from assay.run_files import ANSWERS, COMPLETIONS, METRICS
from assay.training.checkpoint import latest_checkpoint, restore_checkpoint

RECORDS = (METRICS, COMPLETIONS, EVALUATIONS, ANSWERS)
CHECKPOINTS, PAST = "checkpoints", "past"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """run: directory of the other run. step: how many of its steps are kept. whole: as it stopped there, with moments, controller
    and evidence; else its weights alone, as a look kept them."""

    run: Path
    step: int
    whole: bool = True

    @property
    def identity(self) -> list[Any]:
        return [self.run.name, self.step, self.whole]


def begin_from(begin: Beginning, out: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Fill the run directory `out`, the model and the optimizer; the state of the loop where it is taken whole, else None.

    Evidence that has rung stays with the other run: what comes after bets anew. May be called again after a kill. Raises
    CheckpointError where the other run kept nothing of that step.
    """
    for name in RECORDS:
        if not (begin.run / name).is_file():
            continue
        write_text(out / name, "".join(line + "\n" for line in lines_before(begin.run / name, begin.step)))
    for kept in sorted((begin.run / PAST).glob("*.safetensors")):
        if int(kept.stem) <= begin.step:
            _link(kept, out / PAST / kept.name)
    if not begin.whole:
        put_weights(model, weights_at(begin.run, begin.step))
        return None
    found = latest_checkpoint(begin.run / CHECKPOINTS)
    if found is None or found.step != begin.step:
        there = "no checkpoint" if found is None else f"its last checkpoint at step {found.step}"
        raise CheckpointError(f"{begin.run} has {there}, and is to be gone on with at step {begin.step}: it was changed since")
    restore_checkpoint(found, model, optimizer)
    ground = found.state["ground"]
    rung = ground is not None and GroundLost.of_saved(ground).alarmed
    return {**found.state, "ground": GroundLost().saved() if rung else ground, "stopped": None}


def lines_before(path: Path, step: int) -> list[str]:
    """The lines of a file of records that are of an earlier step; one that a kill cut off is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in lines if (row := _row(line)) is not None and row["step"] < step]


def weights_at(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The trained weights that a look kept. Raises CheckpointError where there are none of that step."""
    path = run / PAST / f"{step:08d}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: no look of {run} kept the weights of step {step}")
    return load_file(path)


def steps_kept(run: Path) -> list[int]:
    """The steps whose weights a run kept, in order."""
    return sorted(int(path.stem) for path in (run / PAST).glob("*.safetensors"))


def evidence_of(run: Path) -> GroundLost | None:
    """The evidence against the policy's past that a run came to; None without an anchor or a checkpoint."""
    found = latest_checkpoint(run / CHECKPOINTS) if (run / CHECKPOINTS).is_dir() else None
    return None if found is None or found.state["ground"] is None else GroundLost.of_saved(found.state["ground"])


def put_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put weights in the places of their names; the others stay."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # kept weights are never written to again
    except OSError:  # another file system, or one without links
        shutil.copy(source, target)


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # cut off by a kill
        return None
    return row if isinstance(row, dict) else None
