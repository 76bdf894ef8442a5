"""The weight decay of a linear head: the one with the lowest held-out loss, by cross-validation on the training rows.

A linear head on frozen states has more weights than many preference sets have pairs. The best weight decay differs tenfold between
sets (dev/LOG.md), and a fit from cached states takes a second or two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from assay.models.reward_model import RewardModel
from assay.stats.metrics import cluster_folds
from assay.training.checkpoint import trained_weights
from assay.training.loop import LoopSettings, fit
from assay.training.tasks.task import Task

DECAYS = (1.0, 3.0, 10.0)
NUM_FOLDS = 3
MAX_ROWS = 2000
NUM_FITS = NUM_FOLDS * len(DECAYS)


def choose_decay(
    model: RewardModel,
    task: Task,
    rows: np.ndarray,
    prompts: np.ndarray,
    settings: LoopSettings,
    *,
    on_fit: Callable[[int], None] = lambda num_fits: None,
) -> tuple[float, str]:
    """(weight decay, why): of `DECAYS` the one with the lowest held-out loss, folds by prompt, on at most `MAX_ROWS` of the rows.

    prompts: the prompt of each row. The model is left as it was. With fewer than two prompts a fold the settings' own is kept.
    """
    sample = np.sort(np.random.default_rng(settings.seed).permutation(len(rows))[:MAX_ROWS])
    rows, prompts = rows[sample], prompts[sample]
    num_prompts = len(np.unique(prompts))
    if num_prompts < 2 * NUM_FOLDS:
        return settings.weight_decay, f"{num_prompts} prompts are too few to choose it by"
    folds = cluster_folds(prompts, NUM_FOLDS, seed=settings.seed)
    start = trained_weights(model)
    losses = []
    for decay in DECAYS:
        loss = 0.0
        for fold in range(NUM_FOLDS):
            inside, outside = rows[folds == fold], rows[folds != fold]
            fit(model, task, outside, replace(settings, weight_decay=decay))
            loss += len(inside) * task.evaluate(model, inside)["loss"]
            model.load_state_dict(start, strict=False)
            on_fit(1)
        losses.append(loss / len(rows))
    best = int(np.argmin(losses))
    tried = ", ".join(f"{decay:g} ({loss:.3f})" for decay, loss in zip(DECAYS, losses, strict=True))
    return DECAYS[best], f"the lowest held-out loss of {tried}, in {NUM_FOLDS} folds of {len(rows):,} training rows"
