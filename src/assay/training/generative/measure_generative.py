"""The saved generative model on the test split: as every model is measured, beside length and a bag of words."""

from __future__ import annotations

from assay.console import say
from assay.evaluation.calibrate import calibrate
from assay.evaluation.measure import evaluate_pairs
from assay.run_files import read_description
from assay.scorers.opened import open_scorer
from assay.scorers.wrappers.calibrated import MIN_PAIRS
from assay.training.generative.kind_words import read_kind
from assay.training.settings import TrainConfig
from assay.training.tasks.task import Measured


def measure_generative(config: TrainConfig) -> Measured | None:
    """Evaluate on the test split, at most the pairs that the stages were measured on; None, having said why, where it is empty.

    A model of single answers is calibrated first, on the calibration split; one of two answers gives probabilities of its own.
    """
    kind, splits = read_kind(config.kind), read_description(config.out / "artifact")["splits"]
    opened = open_scorer(config.out, device=config.machine.device, dtype=config.machine.dtype, ledger=config.out / "ledger.sqlite")
    if kind.form == "pointwise" and splits["calibration"]["num_pairs"] >= MIN_PAIRS:
        calibrate(opened, opened.own_pairs("calibration", kind.judged))
        opened = open_scorer(
            config.out, device=config.machine.device, dtype=config.machine.dtype, ledger=config.out / "ledger.sqlite"
        )
    if not (splits["test"]["num_pairs"] or config.eval_data is not None):
        say("not evaluated", "the test split is empty: raise --test, or run assay evaluate with --data")
        return None
    named = opened.own_pairs("test", kind.judged)
    result = evaluate_pairs(opened, named, title=f"Evaluation on {named.name}", seed=config.seed)
    return Measured(result, named.kept_as)
