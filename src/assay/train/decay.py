"""How far a head alone is held back: the weight decay with the least held-out loss, by cross-validation on the training pairs.

A linear head on frozen states has more weights than many preference sets have pairs; what holds it back best differs tenfold
between sets (dev/LOG.md), and a fit from kept states takes a second or two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from assay.metrics import cluster_folds
from assay.models.reward_model import RewardModel
from assay.train.batches import Source
from assay.train.loop import LoopSettings, fit, pair_figures, reward_pairs

DECAYS = (1.0, 3.0, 10.0)
NUM_FOLDS = 3
MOST_PAIRS = 2000
NUM_FITS = NUM_FOLDS * len(DECAYS)


def choose_decay(
    model: RewardModel,
    source: Source,
    rows: np.ndarray,
    settings: LoopSettings,
    *,
    on_fit: Callable[[int], None] = lambda num_fits: None,
) -> tuple[float, str]:
    """(weight decay, why): of `DECAYS` the one with the least held-out loss, folds by prompt, of at most `MOST_PAIRS` pairs.

    The model is left as it was. Fewer than two prompts a fold tell nothing: the settings' own.
    """
    table = source.table
    rows = np.sort(np.random.default_rng(settings.seed).permutation(rows)[:MOST_PAIRS])
    prompts_P, num_prompts = table.prompt[rows], len(np.unique(table.prompt[rows]))
    if num_prompts < 2 * NUM_FOLDS:
        return settings.weight_decay, f"{num_prompts} prompts are too few to choose it by"
    folds_P = cluster_folds(prompts_P, NUM_FOLDS, seed=settings.seed)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    losses = []
    for decay in DECAYS:
        loss = 0.0
        for fold in range(NUM_FOLDS):
            inside, outside = rows[folds_P == fold], rows[folds_P != fold]
            fit(model, source, outside, replace(settings, weight_decay=decay))
            loss += len(inside) * pair_figures(reward_pairs(model, source, inside), table.preference[inside]).loss
            model.load_state_dict(start, strict=False)
            on_fit(1)
        losses.append(loss / len(rows))
    best = int(np.argmin(losses))
    tried = ", ".join(f"{decay:g} ({loss:.3f})" for decay, loss in zip(DECAYS, losses, strict=True))
    return DECAYS[best], f"the least held-out loss of {tried}, in {NUM_FOLDS} folds of {len(rows):,} training pairs"
