"""`assay train`: train, calibrate, evaluate and report. Each step but the first can be run again by a command of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from assay.commands.shared import keep, show
from assay.console import say
from assay.report.run_page import write_run_page
from assay.run_files import read_report
from assay.training import distributed
from assay.training.fits.choice import QUICK
from assay.training.generative.generative_run import train_generative
from assay.training.generative.kind_words import is_written
from assay.training.generative.measure_generative import measure_generative
from assay.training.run import alone_in, train_and_keep
from assay.training.settings import TrainConfig as Config
from assay.training.tasks.task import Measured, kind_of


def run(config: Config) -> int:
    """Labelled answers and a base in; a trained, calibrated, evaluated and explained reward model in --out."""
    train_all(config)
    return 0


def train_all(config: Config) -> Path:
    """The whole job; returns the run directory. Of several processes (torchrun) all train, the first one does the rest."""
    with ExitStack() as held:
        if is_written(config.kind):
            held.enter_context(alone_in(config.out))
            train_generative(config)
            _finish(config, measure_generative(config), config.out / "artifact")
            return config.out
        with distributed.process_group(config.machine.device):
            held.enter_context(alone_in(config.out))
            saved, is_first = train_and_keep(config), distributed.rank() == 0
        if is_first:
            _finish(config, kind_of(config.kind).measure(config, saved.scorer), saved.path)
    return config.out


def _finish(config: Config, measured: Measured | None, artifact: Path) -> None:
    """Keep what was measured, write the page, and say where all of it is."""
    report = None if measured is None else keep(measured.result, config.out, measured.kept_as)
    page = write_run_page(config.out)
    if report is not None:
        fitted = read_report(config.out, "training")
        then = (*(() if measured is None else measured.then), config.out)
        show([report, *([fitted] if fitted else [])], verbose=config.machine.verbose, page=page, then=then)
    if config.machine.quick:
        say("quick", QUICK)
    say("artifact", str(artifact))
    say("report", str(page))
