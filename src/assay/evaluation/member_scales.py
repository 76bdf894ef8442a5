"""One scale for models of unlike ones, before they are joined: from their calibrations, or from their margins on the same pairs.

Bradley-Terry fixes neither the size of rewards between models nor their level. As they are, the mean of several models would be
that of the largest, and their disagreement would be its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.console import progress, say
from assay.evaluation.pair_scores import score_pairs
from assay.run_files import MemberScale, read_description
from assay.scorers.opened import NamedPairs, Opened, refuse_seen
from assay.scorers.wrappers.calibrated import Calibration

MIN_PAIRS = 20
BY_CALIBRATION = "the temperature and the mean reward of each calibration"


def measured_scales(opened: Sequence[Opened], reference: NamedPairs) -> list[MemberScale]:
    """Of each model the root mean square of its margins on the reference (the unit), and its mean reward there (the centre).

    All are measured on the pairs that every one of them scores. Raises DataError when a model was trained on prompts of the
    reference, ValueError for fewer than 20 such pairs and for a model whose margins are all 0.
    """
    rewards = []
    for one in opened:
        refuse_seen(one, reference.pairs, reference.name)
        with progress(f"scoring {one.label}", 2 * len(reference.pairs), "answers") as advance:
            rewards.append(score_pairs(one.raw, reference.pairs, advance).rewards)
    rewards_KP2 = np.stack([rewards_P2 for rewards_P2 in rewards if rewards_P2 is not None]).astype(np.float64)
    rewards_KP2 = rewards_KP2[:, np.isfinite(rewards_KP2).all(axis=(0, 2))]
    if (scored := rewards_KP2.shape[1]) < MIN_PAIRS:
        raise ValueError(f"{scored} of {len(reference.pairs)} reference pairs are scored by all models: give {MIN_PAIRS} or more")
    margins_KP = rewards_KP2[:, :, 0] - rewards_KP2[:, :, 1]
    centres = rewards_KP2.mean(axis=(1, 2)).tolist()
    scales = [MemberScale(unit, centre) for unit, centre in zip(_rms(margins_KP), centres, strict=True)]
    for one, scale in zip(opened, scales, strict=True):
        if not scale.unit > 0:
            raise ValueError(f"{one.label} gives equal rewards to both answers of every reference pair: it has no scale")
    return scales


def calibrated_scales(opened: Sequence[Opened]) -> list[MemberScale]:
    """Of each model its saved temperature (reward per logit) and the mean reward of the pairs that it was calibrated on.

    Raises ValueError that names the models without them.
    """
    calibrations = [_calibration(one) for one in opened]
    without = [one.label for one, found in zip(opened, calibrations, strict=True) if found is None]
    if without:
        fix = "give --reference PAIRS that none of them was trained on, or calibrate each with assay model calibrate"
        raise ValueError(f"the scale of {', '.join(without)} is not known, as no calibration with a mean reward was saved: {fix}")
    known = [found for found in calibrations if found is not None]
    for one, found in zip(opened, known, strict=True):
        if found.note:
            say("note", f"{one.label}: {found.note}")
    return [MemberScale(found.temperature, found.mean_reward) for found in known]


def _calibration(opened: Opened) -> Calibration | None:
    saved = read_description(opened.need_artifact("a member of an ensemble"))["calibration"]
    found = None if saved is None else Calibration.from_json(saved)
    return found if found is not None and np.isfinite(found.mean_reward) else None


def _rms(margins_KP: np.ndarray) -> list[float]:
    return np.sqrt(np.square(margins_KP).mean(axis=1)).tolist()
