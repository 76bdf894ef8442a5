"""From what a model gives at the end of each step to the rewards of solutions. Shapes: N solutions, R steps of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.data.tokens.render import LOST, Rendered
from assay.models.saved.step_policy import StepPolicy
from assay.records import Completion, Rewards

NO_STEPS = (
    "a process reward model reads the ends of steps, and a rendered text does not say where they are: "
    "give messages and a response, or steps"
)
_NOT_FINITE = "the model gave a reward that is not finite"


def without_rendered(completions: Sequence[Completion], rendered: Sequence[Rendered]) -> list[Rendered]:
    """What was rendered of completions that say where their steps are; of the others the reason why there is no reward."""
    empty = np.empty(0, np.int32)
    return [
        item if item.error or completion.steps is not None else Rendered(empty, empty, error=NO_STEPS)
        for completion, item in zip(completions, rendered, strict=True)
    ]


def step_rewards(
    log_odds_R: np.ndarray, completions: Sequence[Completion], rendered: Sequence[Rendered], policy: StepPolicy
) -> Rewards:
    """Rewards with `steps`, the raw log-odds of each, and `value`, their reduction.

    A solution of which a step has no reward has none itself, with the reason: a minimum or a product of some steps would flatter
    it. The list of its steps stays whole, NaN where a step has none.
    """
    sizes_N = [len(item.reward_positions) for item in rendered]
    found_N = np.split(log_odds_R.astype(np.float32), np.cumsum(sizes_N)[:-1]) if sizes_N else []
    values, steps, errors = [], [], []
    for completion, item, found_S in zip(completions, rendered, found_N, strict=True):
        step_S = np.where(np.isfinite(found_S), found_S, np.nan) if item.error is None else _missing(completion)
        steps.append(step_S)
        errors.append(_reason(item, step_S))
        values.append(np.nan if errors[-1] else policy.value(step_S))
    return Rewards(value=np.array(values, np.float32), steps=tuple(steps), error=tuple(errors))


def _missing(completion: Completion) -> np.ndarray:
    return np.full(len(completion.steps or ()), np.nan, np.float32)


def _reason(item: Rendered, step_S: np.ndarray) -> str | None:
    """Why a solution has no reward."""
    if item.error is not None or item.lost is not None:
        return item.error or item.lost
    num_lost = int((item.reward_positions == LOST).sum())
    if num_lost:
        return f"{num_lost} of {len(step_S)} steps lie behind the length limit and have no reward, so the whole has none"
    return f"{_NOT_FINITE}, from step {int(np.isnan(step_S).argmax()) + 1} on" if np.isnan(step_S).any() else None
