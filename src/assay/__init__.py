"""Assay: reward models you can trust. Train, calibrate, evaluate, score and watch them.

    import assay
    scorer = assay.load("runs/demo")
    rewards = scorer.score([assay.Completion(messages="What is 2 + 2?", response="4.")])

Importing `assay` loads neither torch nor scikit-learn; a name that needs them loads them when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from assay.errors import ArtifactError, AssayError, CacheError, CheckpointError, DataError, EngineError, TrainingError
from assay.messages import Message, ToolCall
from assay.records import Completion, Finding, Metric, PreferencePair, Report, Rewards, Table

if TYPE_CHECKING:
    from assay.audit.probes.battery import run_probes
    from assay.data.pairs import read_completions, read_pairs, write_pairs
    from assay.data.steps.labelled_steps import LabelledSteps
    from assay.data.steps.step_rows import read_labelled_steps, write_labelled_steps
    from assay.data.steps.step_rules import split_steps
    from assay.evaluation.evaluate import evaluate
    from assay.scorers.base import Scorer, prefer
    from assay.scorers.baselines import BagOfWordsScorer, LengthScorer, fit_bag_of_words
    from assay.scorers.checks import check_scorer
    from assay.scorers.http.remote import RemoteScorer
    from assay.scorers.judges.options import JudgeOptions
    from assay.scorers.load import load
    from assay.scorers.wrappers.cached import Cached
    from assay.scorers.wrappers.calibrated import Calibrated, Calibration, fit_calibration
    from assay.training.rows.augment import augment

__version__ = "0.1.0.dev0"

_LAZY = {
    "assay.data.steps.labelled_steps": ("LabelledSteps",),
    "assay.data.pairs": ("read_completions", "read_pairs", "write_pairs"),
    "assay.data.steps.step_rows": ("read_labelled_steps", "write_labelled_steps"),
    "assay.data.steps.step_rules": ("split_steps",),
    "assay.evaluation.evaluate": ("evaluate",),
    "assay.training.rows.augment": ("augment",),
    "assay.audit.probes.battery": ("run_probes",),
    "assay.scorers.base": ("Scorer", "prefer"),
    "assay.scorers.checks": ("check_scorer",),
    "assay.scorers.baselines": ("BagOfWordsScorer", "LengthScorer", "fit_bag_of_words"),
    "assay.scorers.wrappers.cached": ("Cached",),
    "assay.scorers.wrappers.calibrated": ("Calibrated", "Calibration", "fit_calibration"),
    "assay.scorers.judges.options": ("JudgeOptions",),
    "assay.scorers.load": ("load",),
    "assay.scorers.http.remote": ("RemoteScorer",),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "ArtifactError",
    "AssayError",
    "BagOfWordsScorer",
    "CacheError",
    "Cached",
    "Calibrated",
    "Calibration",
    "CheckpointError",
    "Completion",
    "DataError",
    "EngineError",
    "Finding",
    "JudgeOptions",
    "LabelledSteps",
    "LengthScorer",
    "Message",
    "Metric",
    "PreferencePair",
    "RemoteScorer",
    "Report",
    "Rewards",
    "Scorer",
    "Table",
    "ToolCall",
    "TrainingError",
    "augment",
    "check_scorer",
    "evaluate",
    "fit_bag_of_words",
    "fit_calibration",
    "load",
    "prefer",
    "read_completions",
    "read_labelled_steps",
    "read_pairs",
    "run_probes",
    "split_steps",
    "write_labelled_steps",
    "write_pairs",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'assay' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
