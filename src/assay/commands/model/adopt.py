"""`assay model adopt`: another's reward model as an artifact, with golden vectors and, given pairs, a calibration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from assay.commands.shared import Pairs, Where
from assay.console import say
from assay.evaluation.calibrate import calibrate
from assay.files import write_text
from assay.models.published.adopt import adopt, adopt_steps
from assay.models.published.checkpoints import Reading
from assay.models.published.published_steps import StepsAsked, form_of_files, named_form
from assay.report.card import render_card
from assay.run_files import read_description
from assay.scorers.form_specs import form_asked
from assay.scorers.generative.critics import GenerativeAsked
from assay.scorers.generative.generative_forms import generative_form_of
from assay.scorers.load import checkpoint_path
from assay.scorers.opened import open_scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Make an artifact of another's reward model: what is assumed is printed and kept (docs/adopt.md)."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Directory of transformers' form, or hub id."""
    template: str | None = None
    """A named chat template of its tokenizer, or a file; its own when left out."""
    label: str | None = None
    """Of two labels, the one of the better answer."""
    max_length: int | None = None
    """Maximum tokens; what its positions hold, at most 4,096, when left out."""
    pairs: Pairs = field(default_factory=Pairs)
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if self.where.out is None:
            raise ValueError("--out names no directory: give the one of the artifact")


def run(config: Config) -> int:
    """Write the artifact to --out; with --data fit a calibration on these pairs.

    Raises ValueError for a checkpoint that is not adopted, with the reason, and for an --out that is not empty.
    """
    out = config.where.out
    assert out is not None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty directory: name a new one")
    spec, asked = form_asked(config.model, None)
    checkpoint = checkpoint_path(spec)
    if checkpoint is None:
        raise ValueError(
            f"{config.model} is no checkpoint of transformers' form (a directory with config.json and weights) to adopt"
        )
    if isinstance(asked, GenerativeAsked) or (asked is None and generative_form_of(str(spec)) is not None):
        why = "it writes its verdicts, and has no head that an artifact could hold"
        raise ValueError(f"{config.model} is not adopted: {why}; score, evaluate or serve it as it is (docs/generative.md)")
    named = config.pairs.read() if config.pairs.data else None  # a mistake is reported before anything is copied
    assumed = _adopted(config, checkpoint, str(spec), asked or StepsAsked(), out)
    for what, how in assumed.items():
        say(what, how)
    if named is not None:
        calibrate(replace(config.where, out=None).open(str(out)), named)
    opened = open_scorer(out)
    write_text(out / "README.md", render_card(read_description(out), []))
    say("adopted", f"{config.model} -> {out}, fingerprint {opened.fingerprint}")
    if named is None:
        say("not calibrated", "give --data, or run assay model calibrate: probabilities of a margin need it")
    return 0


def _adopted(config: Config, checkpoint: Path, spec: str, steps: StepsAsked, out: Path) -> dict[str, str]:
    """The artifact of a reward model of one reward, or of a process model by its form; returns what was assumed."""
    form = named_form(steps.form) if steps.form else form_of_files(checkpoint, spec)
    if form is None:
        reading = Reading(max_length=config.max_length, template=config.template, label=config.label)
        return adopt(checkpoint, out, reading, name=config.model)
    if config.label is not None:
        raise ValueError(f"--label {config.label} is for heads of two labels without a form; #{form.name} says which is right")
    asked = steps._replace(
        template=steps.template if config.template is None else config.template,
        max_length=steps.max_length if config.max_length is None else config.max_length,
    )
    return adopt_steps(checkpoint, out, form, asked, name=config.model)
