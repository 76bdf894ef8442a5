"""`assay model average`: one model from the mean of several models' weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.console import say
from assay.evaluation.member_scales import calibrated_scales, measured_scales
from assay.models.saved.combine import average, refuse_average
from assay.records import Dtype
from assay.run_files import MemberScale, refuse_existing
from assay.scorers.opened import open_scorer, read_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Average the weights of models of one base into a plain one (WARM, Rame et al. 2024)."""

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MODELS")]
    """Run directories or artifacts; of an ensemble all its members."""
    out: Path
    """Directory of the averaged model."""
    reference: tuple[str, ...] = ()
    """Pairs that bring the models' heads to one scale; their saved calibrations do when left out."""
    device: str = "auto"
    """Such as cpu or cuda; for --reference."""
    dtype: Dtype = "auto"
    """Number format of the backbone; for --reference."""


def run(config: Config) -> int:
    """Write the averaged model, which is not calibrated.

    The members of one ensemble have one scale already. Raises ValueError when the scale of one of several models is not known,
    DataError when one was trained on prompts of --reference.
    """
    refuse_average(config.models)
    refuse_existing(config.out)
    opened = [open_scorer(model, device=config.device, dtype=config.dtype) for model in config.models]
    scales = [MemberScale()]
    if len(opened) > 1:
        scales = measured_scales(opened, read_named(config.reference)) if config.reference else calibrated_scales(opened)
    num_models = average(config.models, config.out, units=[scale.unit for scale in scales])
    say("average", f"of {num_models} models, heads divided by {', '.join(f'{scale.unit:.4g}' for scale in scales)} -> {config.out}")
    say("note", "the averaged model is not calibrated")
    return 0
