"""`assay model posterior`: how sure the pairs make a reward model of its rewards, from one forward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from assay.commands.shared import Model, Pairs, Where, pairs_for
from assay.evaluation.fit_posterior import MAX_PAIRS, REFERENCE, fit_posterior


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Fit a Laplace posterior of the head: rewards then have a std, from one forward (docs/scorers.md)."""

    model: Model
    pairs: Pairs = field(default_factory=lambda: Pairs(limit=MAX_PAIRS))
    prior: Annotated[float | None, tyro.conf.arg(metavar="N")] = None
    """Precision of the prior on the head's weights; the one of the highest marginal likelihood when left out."""
    reference: str = REFERENCE
    """The answer to each prompt that a reward is compared with for its std."""
    where: Where = field(default_factory=Where)


def run(config: Config) -> int:
    """Fit on the run's own training pairs, or on --data, and keep the result beside the weights."""
    opened = config.where.open(config.model)
    fit_posterior(opened, pairs_for(opened, config.pairs, "train"), prior=config.prior, reference=config.reference)
    return 0
