"""`assay model rescale`: a model in the units of the one that it is to replace."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import tyro

from assay.audit.audits import unseen
from assay.commands.shared import Pairs, Where, show
from assay.console import progress, say
from assay.data.candidates import read_candidates
from assay.evaluation.equal_kl import EqualKl, equal_kl_factor
from assay.evaluation.pair_scores import score_pairs
from assay.evaluation.rescale import save_rescaled
from assay.evaluation.scale import measure_scale
from assay.models.device import pick_compute
from assay.records import extended
from assay.run_files import refuse_existing, write_report
from assay.scorers.opened import Opened, refuse_seen
from assay.scorers.wrappers.counted import Counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Bring a model to another's scale, to replace it under the same KL coefficient (docs/training.md)."""

    old: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OLD")]
    """The scorer whose scale is kept: run, artifact, URL or rule."""
    new: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NEW")]
    """The scorer that is to replace it."""
    pairs: Pairs = field(default_factory=Pairs)
    candidates: str | None = None
    """Recorded answers to each prompt, as of best-of-n: the factor is solved for an equal KL at --beta."""
    beta: float | None = None
    """The KL coefficient at which OLD is used, in units of its rewards."""
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if not self.pairs.data:
            raise ValueError("--data names no pairs: give answers like the policy's, to prompts that neither model was trained on")
        if (self.candidates is None) != (self.beta is None):
            given, missing = ("--beta", "--candidates FILE") if self.candidates is None else ("--candidates", "--beta COEFFICIENT")
            raise ValueError(f"{given} alone says nothing: give {missing} too")


def run(config: Config) -> int:
    """Compare the margins of both on --data; with --out write NEW with its head times the factor, a plain artifact.

    The report is kept with NEW. Raises ValueError for fewer than 20 pairs that both score, margins that are all 0, or an --out that
    is not empty; DataError when a model was trained on prompts of the pairs.
    """
    out = config.where.out
    if out is not None:
        refuse_existing(out)
    compute = pick_compute(config.where.device, config.where.dtype)  # once: measured for each model it could be two formats
    where = replace(config.where, device=str(compute.device), dtype=compute.name)
    old, new = where.open(config.old), where.open(config.new)
    new_artifact = new.need_artifact("a rescaled model")
    named, seed = config.pairs.read(), config.pairs.seed
    margins = []
    for opened, label in ((old, "scoring old"), (new, "scoring new")):
        refuse_seen(opened, named.pairs, named.name)
        with progress(label, 2 * len(named.pairs), "answers") as advance:
            margins.append(score_pairs(opened.raw, named.pairs, advance).margins)
    solved = None if config.candidates is None or config.beta is None else _solved(config.candidates, config.beta, old, new)
    title = f"Scale against an earlier model on {named.kept_as}"
    result = measure_scale(margins[0], margins[1], named.pairs, title=title, equal_kl=solved, seed=seed)
    facts = {"old": old.fingerprint, "model": new.fingerprint, "reference": named.name, "computed in": compute.name}
    result = replace(result, page=extended(result.page, first=facts))
    kept = write_report(new.report_home(None), f"rescale-{named.kept_as}", result.report())
    say("scale", result.findings[0].why)
    then = ("assay", "compare", config.old, str(out or config.new), *config.pairs.flags)
    show([result.report()], verbose=config.where.verbose, page=kept, then=then)
    if out is not None:
        save_rescaled(new_artifact, out, result)
        say("rescaled", f"{new.label} with its head times the factor -> {out}")
    return 0


def _solved(file: str, beta: float, old: Opened, new: Opened) -> EqualKl:
    """The factor from the candidates of a file, to prompts that neither model was trained on."""
    recorded = read_candidates(file)
    say("read", f"{file}: {recorded.note}")
    groups = unseen(new, unseen(old, recorded.groups, file), file)
    completions = [completion for group in groups for completion in group.completions()]
    ends = np.cumsum([len(group.answers) for group in groups])[:-1]
    rewards = []
    for opened, label in ((old, "scoring candidates, old"), (new, "scoring candidates, new")):
        with progress(label, len(completions), "answers") as advance:
            values = Counted(scorer=opened.raw, advance=advance).score(completions).value.astype(np.float64)
        rewards.append(np.split(values, ends))
    of_old, of_new = rewards
    return equal_kl_factor(of_old, of_new, beta)
