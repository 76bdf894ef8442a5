"""Fit the calibration of an artifact on pairs, and keep it in reward.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from assay.console import progress, say
from assay.data.split import prompt_hashes
from assay.evaluation.pair_scores import score_pairs
from assay.files import replacing
from assay.records import Metric, PreferencePair
from assay.report.headline import figure_text
from assay.run_files import CALIBRATION_PROMPTS_FILE, read_description, write_description
from assay.scorers.opened import NamedPairs, Opened, refuse_seen
from assay.scorers.wrappers.calibrated import fit_calibration
from assay.stats.metrics import mean


def calibrate(opened: Opened, named: NamedPairs) -> Metric:
    """Score the pairs without a calibration, fit one, and keep it in the artifact; returns the temperature with its interval.

    Raises ValueError for a scorer without an artifact and for fewer than 20 scored pairs, DataError when the model was trained on
    prompts of the pairs.
    """
    artifact = opened.need_artifact("a calibration")
    refuse_seen(opened, named.pairs, named.name)
    with progress("calibrating", 2 * len(named.pairs), "answers") as advance:
        rewards_P2 = score_pairs(opened.raw, named.pairs, advance).rewards
    assert rewards_P2 is not None, "a saved model rewards answers one by one"
    return keep_calibration(artifact, rewards_P2, named.pairs, split=named.kept_as if named.is_own else named.name)


def keep_calibration(artifact: Path, rewards_P2: np.ndarray, pairs: Sequence[PreferencePair], *, split: str) -> Metric:
    """Fit on the rewards (P, 2) of these pairs and keep the result; returns the temperature with its interval.

    Raises ValueError for fewer than 20 scored pairs. split: name of the pairs' set.
    """
    calibration = fit_calibration(
        rewards_P2[:, 0] - rewards_P2[:, 1],
        preference_P=np.array([pair.preference for pair in pairs]),
        clusters_P=np.array([pair.prompt_key for pair in pairs]),
        split=split,
    )
    calibration = replace(calibration, mean_reward=mean(rewards_P2[np.isfinite(rewards_P2).all(axis=1)]))
    write_description(artifact, {**read_description(artifact), "calibration": calibration.to_json()})
    with replacing(artifact / CALIBRATION_PROMPTS_FILE) as work, work.open("wb") as file:
        np.save(file, prompt_hashes(pairs))
    fitted = Metric("temperature", calibration.temperature, *calibration.temperature_interval, calibration.num_pairs, len(pairs))
    say("temperature", f"{figure_text(fitted)}, fitted on {calibration.num_pairs:,} pairs of {split}")
    if calibration.note:
        say("note", calibration.note)
    return fitted
