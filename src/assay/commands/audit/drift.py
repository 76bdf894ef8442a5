"""`assay audit drift`: keep a reference of a model's own data, and test new text against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from assay.audit.audits import drift_of_sets
from assay.audit.drift.kept import fit_reference
from assay.commands.shared import Columns, Ignored, Model, Where, keep, show
from assay.data.raw.columns import renaming


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Test new text for distribution shift from the training data (docs/drift.md)."""

    model: Model
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SET")]
    """Pairs, completions or candidates, each file a set of its own."""
    fit: bool = False
    """Make the reference from --data (the model's own data) and keep it; nothing is compared with it."""
    limit: int = 500
    """Use so many rows of each set, drawn by prompt."""
    form: str | None = None
    """Form of the rows (docs/data.md); found when left out."""
    columns: Columns = ()
    """Such as prompt=instruction chosen=good (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    seed: int = 0
    """Of draws and intervals."""
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("--data names no set: give at least one file of pairs or completions")
        if self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")


def run(config: Config) -> int:
    """Compare each set with the reference, keep the report as eval/drift.json and as a page, and show it; or keep a reference."""
    opened = config.where.open(config.model)
    names = renaming(config.columns, config.ignore)
    if config.fit:
        fit_reference(opened, config.data, limit=config.limit, form=config.form, names=names, seed=config.seed)
        return 0
    result = drift_of_sets(opened, config.data, limit=config.limit, form=config.form, names=names, seed=config.seed)
    home = opened.report_home(config.where.out)
    report = keep(result, home, "drift", page=f"Drift of {opened.name}")
    against = [word for name in config.data for word in ("--against", name)]
    show([report], verbose=config.where.verbose, page=home / "drift.html", then=("assay", "audit", "all", config.model, *against))
    return 0
