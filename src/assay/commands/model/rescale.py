"""`assay model rescale`: a model in the units of the one that it is to replace."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from assay.commands.shared import Pairs, Where, show
from assay.console import progress, say
from assay.evaluation.pair_scores import score_pairs
from assay.evaluation.rescale import save_rescaled
from assay.evaluation.scale import measure_scale
from assay.models.device import pick_compute
from assay.records import extended
from assay.run_files import write_report
from assay.scorers.opened import refuse_seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Bring a model to another's scale, to replace it under the same KL coefficient (docs/training.md)."""

    old: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OLD")]
    """The scorer whose scale is kept: run, artifact, URL or rule."""
    new: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NEW")]
    """The scorer that is to replace it."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if not self.pairs.data:
            raise ValueError("--data names no pairs: give answers like the policy's, to prompts that neither model was trained on")


def run(config: Config) -> int:
    """Compare the margins of both on --data; with --out write NEW with its head times the factor, a plain artifact.

    The report is kept with NEW. Raises ValueError for fewer than 20 pairs that both score, margins that are all 0, or an --out that
    is not empty; DataError when a model was trained on prompts of the pairs.
    """
    out = config.where.out
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty directory: name a new one")
    compute = pick_compute(config.where.device, config.where.dtype)  # once: measured for each model it could be two formats
    where = replace(config.where, device=str(compute.device), dtype=compute.name)
    old, new = where.open(config.old), where.open(config.new)
    new_artifact = new.need_artifact("a rescaled model")
    named = config.pairs.read()
    margins = []
    for opened, label in ((old, "scoring old"), (new, "scoring new")):
        refuse_seen(opened, named.pairs, named.name)
        with progress(label, 2 * len(named.pairs), "answers") as advance:
            margins.append(score_pairs(opened.raw, named.pairs, advance).margins)
    title = f"Scale against an earlier model on {named.kept_as}"
    result = measure_scale(margins[0], margins[1], named.pairs, title=title, seed=config.pairs.seed)
    facts = {"old": old.fingerprint, "model": new.fingerprint, "reference": named.name, "computed in": compute.name}
    result = replace(result, page=extended(result.page, first=facts))
    write_report(new.report_home(None), f"rescale-{named.kept_as}", result.report())
    say("scale", result.findings[0].why)
    show(result.report())
    if out is not None:
        save_rescaled(new_artifact, out, result)
        say("rescaled", f"{new.label} with its head times the factor -> {out}")
    return 0
