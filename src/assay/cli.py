"""The `assay` command. Each subcommand is a function of one frozen dataclass; its fields are the flags."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Annotated

# Read when OpenMP is loaded: without it some process starts run pointwise operations many times slower. Torch comes first, since
# scikit-learn brings an OpenMP of its own: the one that is loaded second finds the process bound to one core, and stays on it.
# With OMP_NUM_THREADS given, several processes may share the machine: binding would put them all on the first cores. And where
# torch was loaded before, only the second runtime would read it, and torch's threads would be left on its one core.
if "OMP_NUM_THREADS" not in os.environ and "torch" not in sys.modules:
    os.environ.setdefault("OMP_PROC_BIND", "true")
import torch  # noqa: F401
import tyro
from rich.markup import escape
from transformers.utils import logging as transformers_logging

from assay.errors import AssayError
from assay.records import Report
from assay.train import distributed
from assay.workflows import steps
from assay.workflows.align import AlignConfig, align_scale
from assay.workflows.bestofn import BestOfNConfig, best_of_n
from assay.workflows.curve import CurveConfig, learning_curve
from assay.workflows.demo import DemoConfig, demo
from assay.workflows.members import AverageConfig, EnsembleConfig, ExportConfig, average, export, join
from assay.workflows.probe import ProbeConfig, is_exploitable, probe_model, probe_rows
from assay.workflows.run import train_all
from assay.workflows.score import ScoreConfig, score_file
from assay.workflows.settings import TrainConfig
from assay.workflows.show import console, print_figures, report_rows
from assay.workflows.verify import VerifyConfig, certificate_rows, is_sound, verify

Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[steps.EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[steps.CalibrateConfig, tyro.conf.subcommand("calibrate")]
    | Annotated[ScoreConfig, tyro.conf.subcommand("score")]
    | Annotated[steps.ReportConfig, tyro.conf.subcommand("report")]
    | Annotated[CurveConfig, tyro.conf.subcommand("curve")]
    | Annotated[EnsembleConfig, tyro.conf.subcommand("ensemble")]
    | Annotated[AverageConfig, tyro.conf.subcommand("average")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[AlignConfig, tyro.conf.subcommand("align-scale")]
    | Annotated[VerifyConfig, tyro.conf.subcommand("verify")]
    | Annotated[BestOfNConfig, tyro.conf.subcommand("best-of-n")]
    | Annotated[ProbeConfig, tyro.conf.subcommand("probe")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; 0 when it did what was asked, 1 when some rows have no reward, 2 for a mistake, 3 for a failure.

    `verify` gives 4 when the artifact or the engine does not keep a check of the certificate, 3 when the files are damaged;
    `probe` gives 6 when an edit that is worth nothing raises the reward.
    """
    keep_freed_memory()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    config = tyro.cli(Command, prog="assay", description="Reward models you can trust.", args=arguments, config=_FLAGS)  # type: ignore[call-overload]
    try:
        if distributed.is_launched() and not isinstance(config, TrainConfig):
            raise ValueError("torchrun is for assay train: run this command in one process")
        return run(config)
    except ValueError as error:
        console.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        return 2
    except (AssayError, OSError) as error:
        console.print(f"[bold red]failed[/] {escape(str(error))}", soft_wrap=True)
        return 3


def run(config: object) -> int:
    """Do what the configuration of a subcommand says; returns the exit status."""
    match config:
        case TrainConfig():
            train_all(config)
        case steps.EvaluateConfig():
            show(steps.evaluate_model(config))
        case steps.CalibrateConfig():
            steps.calibrate(config)
        case ScoreConfig():
            num_rows, num_failed = score_file(config)
            console.print(escape(f"{num_rows:,} rows, {num_failed:,} without a reward -> {config.output}"), soft_wrap=True)
            return 1 if num_failed else 0
        case steps.ReportConfig():
            console.print(escape(str(steps.report_run(config))), soft_wrap=True)
        case CurveConfig():
            show(learning_curve(config))
        case AlignConfig():
            show(align_scale(config))
        case BestOfNConfig():
            show(best_of_n(config))
        case VerifyConfig():
            report = verify(config)
            print_figures(report.title, certificate_rows(report))
            return 0 if is_sound(report) else 4
        case ProbeConfig():
            report = probe_model(config)
            print_figures(report.title, probe_rows(report))
            return 6 if is_exploitable(report) else 0
        case EnsembleConfig():
            join(config)
        case AverageConfig():
            average(config)
        case ExportConfig():
            export(config)
        case DemoConfig():
            demo(config)
    return 0


def show(report: Report) -> None:
    """The figures of a report, as a table."""
    print_figures(report.title, report_rows(report))


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks rather than hand them back and fault them in again (8-27% faster in bfloat16)."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # glibc only
            library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            library.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


_FLAGS = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)

if __name__ == "__main__":
    sys.exit(main())
