"""`assay model ensemble`: saved models as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.console import say
from assay.evaluation.member_scales import BY_CALIBRATION, calibrated_scales, measured_scales
from assay.models.saved.combine import join, refuse_join
from assay.records import Dtype
from assay.run_files import POSTERIOR, artifact_path, read_description, refuse_existing
from assay.scorers.ensemble import Combination, How
from assay.scorers.opened import open_scorer, read_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Join reward models: mean less a penalty on their disagreement, and a std (docs/scorers.md)."""

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODELS")]
    """Run directories or artifacts, of any bases."""
    out: Path
    """Directory of the ensemble."""
    reference: tuple[str, ...] = ()
    """Pairs that bring the models to one scale and level; their saved calibrations do when left out."""
    combine: How = "mean"
    """mean less --penalty x standard deviation, min, or robust (-beta log mean exp(-r / beta))."""
    penalty: float = 1.0
    robust_beta: float = 1.0
    """Of robust, in units of the scaled rewards: near the mean where it is large, near min where it is small."""
    device: str = "auto"
    """Such as cpu or cuda; for --reference."""
    dtype: Dtype = "auto"
    """Number format of the backbone; for --reference."""


def run(config: Config) -> int:
    """Write the ensemble: copies of the models, their scales, and how they are combined.

    Raises ValueError when the scale of a model is not known, DataError when one was trained on prompts of --reference.
    """
    # first, so that a mistake is reported before anything is scored or copied
    how = Combination(how=config.combine, penalty=config.penalty, beta=config.robust_beta)
    refuse_join(config.models)
    refuse_existing(config.out)
    opened = [open_scorer(model, device=config.device, dtype=config.dtype) for model in config.models]
    reference = read_named(config.reference) if config.reference else None
    scales = measured_scales(opened, reference) if reference else calibrated_scales(opened)
    scaled_by = f"margins and mean rewards on {reference.name}" if reference else BY_CALIBRATION
    join(config.models, config.out, combination=how.entry, scales=scales, scaled_by=scaled_by)
    for one, scale in zip(opened, scales, strict=True):
        say("scale", f"{one.label}: (reward {-scale.centre:+.4g}) / {scale.unit:.4g}, by {scaled_by}")
    if any(read_description(artifact_path(model)).get(POSTERIOR) for model in config.models):
        say("note", "posteriors of the heads are left out: the members' disagreement is the std now")
    say("ensemble", f"{len(config.models)} members -> {config.out}")
    return 0
