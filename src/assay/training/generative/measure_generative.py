"""The saved generative model on the test split: as every model is measured, beside length and a bag of words."""

from __future__ import annotations

from assay.console import say
from assay.evaluation.calibrate import calibrate
from assay.evaluation.measure import evaluate_pairs
from assay.run_files import read_description
from assay.scorers.opened import Opened, open_scorer
from assay.scorers.wrappers.calibrated import MIN_PAIRS
from assay.training.generative.kind_words import read_kind
from assay.training.settings import TrainConfig
from assay.training.tasks.task import Measured


def measure_generative(config: TrainConfig) -> Measured | None:
    """Evaluate on the test split, at most the pairs that the stages were measured on; None, having said why, where it is empty.

    A model of single answers is calibrated first, on as many pairs of the calibration split; one of two answers gives probabilities
    of its own. Where too few pairs have a verdict the model stays as it is, and that is said.
    """
    kind, splits = read_kind(config.kind), read_description(config.out / "artifact")["splits"]
    opened = _opened(config)
    if kind.form == "pointwise" and _calibrated(opened, kind.judged, splits["calibration"]["num_pairs"]):
        opened = _opened(config)
    if not (splits["test"]["num_pairs"] or config.eval_data is not None):
        say("not evaluated", "the test split is empty: raise --test, or run assay evaluate with --data")
        return None
    named = opened.own_pairs("test", kind.judged)
    result = evaluate_pairs(opened, named, title=f"Evaluation on {named.name}", seed=config.seed)
    return Measured(result, named.kept_as)


def _opened(config: TrainConfig) -> Opened:
    machine = config.machine
    return open_scorer(config.out, device=machine.device, dtype=machine.dtype, ledger=config.out / "ledger.sqlite")


def _calibrated(opened: Opened, judged: int, num_held: int) -> bool:
    """Whether the artifact was calibrated; why not is said. A trained model is not lost for want of held-out pairs."""
    if min(judged, num_held) < MIN_PAIRS:
        why = f"judged={judged} and a calibration split of {num_held} pairs: {MIN_PAIRS} are needed"
    else:
        try:
            calibrate(opened, opened.own_pairs("calibration", judged))
        except ValueError as error:  # too few of them have a verdict
            why = str(error)
        else:
            return True
    say("not calibrated", why)
    return False
