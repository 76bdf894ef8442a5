"""An artifact with its rewards multiplied: the same model in another's units."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from assay.evaluation.scale import ScaleResult
from assay.files import new_directory
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.models.saved.posterior_files import SavedPosterior, load_posterior, save_posterior
from assay.report.card import render_card
from assay.run_files import CALIBRATION_PROMPTS_FILE, ENSEMBLE, STEPS, WORDS_FILE, prompt_file, read_description, saved_scales
from assay.scorers.wrappers.calibrated import Calibration
from assay.stats.head_posterior import HeadPosterior


def save_rescaled(path: Path, out: Path, result: ScaleResult) -> None:
    """Write the artifact at `path` with head and calibration multiplied by the factor, all or nothing.

    The facts of the result's report name the two models and the reference ("old", "model", "reference").
    """
    report = result.report()
    dtype = getattr(torch, read_description(path)["dtype"])
    model, renderer, description = load_artifact(path, dtype=dtype)
    if description.get(STEPS):
        raise ValueError(f"{path} rewards steps by log-odds, whose scale is that of its probabilities: it is not rescaled")
    factor, calibration = result.factor, description["calibration"]
    with torch.no_grad():
        for parameter in model.head.parameters():  # a bias too, where an adopted head has one
            parameter.mul_(factor.value)
    low, high = (None if math.isnan(end) else end for end in (factor.low, factor.high))
    reference = {"name": report.facts["reference"], "num_pairs": result.num_pairs}
    scale = {"aligned_to": report.facts["old"], "model": report.facts["model"], "reference": reference}
    description["scale"] = {**scale, "factor": factor.value, "low": low, "high": high}
    if ensemble := description.get(ENSEMBLE):  # heads: their levels grow with them
        scales = [[scale.unit, scale.centre * factor.value] for scale in saved_scales(description)]
        description[ENSEMBLE] = {**ensemble, "scales": scales}
    if calibration is not None:
        description["calibration"] = scaled_calibration(Calibration.from_json(calibration), factor.value).to_json()
    with new_directory(out) as work:
        trained_on, calibrated_on = prompt_file(path), prompt_file(path, CALIBRATION_PROMPTS_FILE)
        written = save_artifact(model, renderer, work, description, dtype=dtype, train_prompts=trained_on)
        if calibrated_on is not None:
            np.save(work / CALIBRATION_PROMPTS_FILE, calibrated_on)
        if (saved := load_posterior(path)) is not None:
            keep_scaled_posterior(work, saved, factor.value)
            written = read_description(work)
        if (path / WORDS_FILE).is_file():
            shutil.copy(path / WORDS_FILE, work)
        (work / "README.md").write_text(render_card(written, [report]), encoding="utf-8")


def keep_scaled_posterior(work: Path, saved: SavedPosterior, factor: float) -> None:
    """Keep the posterior of a head whose weights were multiplied by `factor` > 0: stds grow with them, the prior is theirs too."""
    posterior = HeadPosterior(factor_DD=saved.posterior.factor_DD / factor, prior=saved.posterior.prior / factor**2)
    save_posterior(work, posterior, {name: value for name, value in saved.entry.items() if name not in ("kind", "prior", "digest")})


def scaled_calibration(calibration: Calibration, factor: float) -> Calibration:
    """The calibration of a scorer whose rewards were multiplied by `factor` > 0: equal probabilities for the scaled margins."""
    return replace(
        calibration,
        temperature=calibration.temperature * factor,
        temperature_se=calibration.temperature_se * factor,
        knot_margins=tuple(knot * factor for knot in calibration.knot_margins),
        largest_margin=calibration.largest_margin * factor,
        mean_reward=calibration.mean_reward * factor,
        scorer="",  # it named the scorer before scaling
    )
