"""Fit the calibration of an artifact on pairs, and keep it in reward.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.console import progress, say
from assay.data.split import prompt_hashes
from assay.evaluation.pair_scores import score_pairs
from assay.files import replacing
from assay.records import Metric, PreferencePair
from assay.run_files import CALIBRATION_PROMPTS_FILE, read_description, write_description
from assay.scorers.opened import NamedPairs, Opened, refuse_seen
from assay.scorers.wrappers.calibrated import fit_calibration


def calibrate(opened: Opened, named: NamedPairs) -> Metric:
    """Score the pairs without a calibration, fit one, and keep it in the artifact; returns the temperature with its interval.

    Raises ValueError for a scorer without an artifact and for fewer than 20 scored pairs, DataError when the model was trained on
    prompts of the pairs.
    """
    artifact = opened.need_artifact("a calibration")
    refuse_seen(opened, named.pairs, named.name)
    with progress("calibrating", 2 * len(named.pairs), "answers") as advance:
        margins_P = score_pairs(opened.raw, named.pairs, advance).margins
    return keep_calibration(artifact, margins_P, named.pairs, split=named.kept_as if named.is_own else named.name)


def keep_calibration(artifact: Path, margins_P: np.ndarray, pairs: Sequence[PreferencePair], *, split: str) -> Metric:
    """Fit on the margins (P,) of these pairs and keep the result; returns the temperature with its interval.

    Raises ValueError for fewer than 20 scored pairs. split: name of the pairs' set.
    """
    calibration = fit_calibration(
        margins_P,
        preference_P=np.array([pair.preference for pair in pairs]),
        clusters_P=np.array([pair.prompt_key for pair in pairs]),
        split=split,
    )
    write_description(artifact, {**read_description(artifact), "calibration": calibration.to_json()})
    with replacing(artifact / CALIBRATION_PROMPTS_FILE) as work, work.open("wb") as file:
        np.save(file, prompt_hashes(pairs))
    spread = 1.96 * calibration.temperature_se
    error = f" +- {spread:.3f}" if np.isfinite(spread) else ""
    say("temperature", f"{calibration.temperature:.3f}{error}, fitted on {calibration.num_pairs:,} pairs of {split}")
    if calibration.note:
        say("note", calibration.note)
    low, high = calibration.temperature - spread, calibration.temperature + spread
    return Metric("temperature", calibration.temperature, low, high, calibration.num_pairs, len(pairs))
