"""`assay data relabel`: pairs with the labels of a judge or a larger model, from which a scalar model learns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from assay.bulk.label import Ledgered, open_labeller
from assay.bulk.relabel import relabel
from assay.commands.shared import Columns, Ignored
from assay.console import print_error, say
from assay.data.columns import renaming
from assay.data.pairs import read_pairs, write_pairs
from assay.files import write_text
from assay.generation.ledger import Ledger
from assay.records import Dtype
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Pairs with a judge's labels in place of their own, to train a model on (docs/distillation.md).

    Exit status 2 when no pair comes of it.
    """

    pairs: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PAIRS")]
    """Pairs: a file, folder, glob or hub:org/name#split (docs/data.md); what they are labelled is only compared with."""
    out: Path
    """jsonl or jsonl.gz of pairs; beside it what came of them as .label.json, and the ledger of a judge's calls."""
    judge: str
    """Rubric file or a shipped rubric's name, which then compares in both orders; or any scorer."""
    hard: bool = False
    """Write 1 in place of the judge's probability."""
    limit: int | None = None
    """At most so many pairs, drawn by whole prompts."""
    dry_run: bool = False
    """Say what it would cost and stop."""
    form: str | None = None
    """Form of the rows (docs/data.md); found when left out."""
    columns: Columns = ()
    """Such as prompt=instruction chosen=good (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    seed: int = 0
    """Of the draw."""
    device: str = "auto"
    """Such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Number format of models in this process; auto measures which is faster."""
    judging: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if not self.out.name.endswith((".jsonl", ".jsonl.gz")):
            raise ValueError(f"--out {self.out}: pairs are written as .jsonl or .jsonl.gz")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")


def run(config: Config) -> int:
    """Say the price, judge, write, and say what it came to and how far it agrees with what was there."""
    reader = read_pairs(
        config.pairs, form=config.form, limit=config.limit, seed=config.seed, names=renaming(config.columns, config.ignore)
    )
    pairs = list(reader)
    say("read", f"{config.pairs}: {reader.summary()}")
    if not pairs:
        print_error(f"there is no pair in {config.pairs}")
        return 2
    ledger = None
    if is_judge(config.judge):
        ledger = Ledger(config.judging.ledger or config.out.with_name(f"{config.out.name}.ledger.sqlite"))
    judge = open_labeller(config.judge, config.judging, ledger, device=config.device, dtype=config.dtype)
    if isinstance(judge, Ledgered):
        say("judge", judge.estimate([one for pair in pairs for one in pair.completions()]).summary())
    if config.dry_run:
        return 0
    found = relabel(judge, pairs, hard=config.hard, seed=config.seed)
    write_pairs(config.out, found.pairs)
    content = {
        "judge": judge.fingerprint,
        "hard": config.hard,
        "pairs judged": found.num_judged,
        "pairs written": len(found.pairs),
        "pairs not written": dict(found.unwritten),
        "seconds": round(found.seconds, 3),
        "agreement with the labels": found.agreement.value if found.agreement.n_scored else None,
    }
    write_text(config.out.with_name(f"{config.out.name}.label.json"), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    say("labelled", found.summary())
    if found.agreement.n_scored:
        low, high = found.agreement.low, found.agreement.high
        say(
            "agrees",
            f"with {found.agreement.value:.3f} [{low:.3f}, {high:.3f}] of {found.agreement.n_scored:,} labels that were there",
        )
    if ledger is not None:
        say("bill", ledger.bill().summary())
    say("written", f"{len(found.pairs):,} pairs -> {config.out}" + ("" if found.pairs else ", which is empty"))
    if not found.pairs:
        print_error("no pair came of it: give a judge whose verdicts stand in both orders")
    return 0 if found.pairs else 2
