"""`assay model calibrate`: what a margin says of the probability that the preferred answer is the better one."""

from __future__ import annotations

from dataclasses import dataclass, field

from assay.commands.shared import Model, Pairs, Where, pairs_for
from assay.evaluation.calibrate import calibrate


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Fit the calibration (temperature and monotone map) on pairs that the model was not trained on."""

    model: Model
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)


def run(config: Config) -> int:
    """Fit on --data, or on the run's own calibration split, and keep the result in reward.json."""
    opened = config.where.open(config.model)
    calibrate(opened, pairs_for(opened, config.pairs, "calibration"))
    return 0
