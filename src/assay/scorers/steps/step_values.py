"""From what a process model of others gives at a step to the publisher's value, and from these to one number of a solution.

Shapes: S steps of one solution, R reads, K outputs.
"""

from __future__ import annotations

import numpy as np

from assay.models.published.published_steps import ProcessForm, StepValue, WrittenForm
from assay.stats.steps.step_reductions import Reduced


def step_values(logits_RK: np.ndarray, value: StepValue) -> np.ndarray:
    """(R,) float32 values of steps from their logits: one logit (a sigmoid), two labels or three classes (a softmax)."""
    logits_RK = logits_RK.astype(np.float64)
    if logits_RK.shape[1] == 1:
        logits_RK = np.concatenate([np.zeros_like(logits_RK), logits_RK], axis=1)
    shares_RK = np.exp(logits_RK - logits_RK.max(axis=1, initial=-np.inf, keepdims=True))
    shares_RK /= shares_RK.sum(axis=1, keepdims=True)
    match value:
        case "probability":
            values_R = shares_RK[:, -1]
        case "difference":
            values_R = shares_RK[:, 1] - shares_RK[:, 0]
        case "validity":
            values_R = shares_RK[:, 1] + shares_RK[:, 2]
        case "usefulness":
            values_R = shares_RK[:, 0] + shares_RK[:, 2]
    return values_R.astype(np.float32)


def refuse_reduction(reduction: Reduced, form: ProcessForm) -> None:
    """Raises ValueError for a product of values that can be negative."""
    if reduction == "product" and not isinstance(form, WrittenForm) and form.value == "difference":
        raise ValueError(f"a product of p(right) - p(wrong), which #{form.name} gives, means nothing: use min, mean or last")


def said_of_reduction(reduction: Reduced, form: ProcessForm) -> str:
    """In words, whose choice it is."""
    default = f"the default of #{form.name}"
    whose = default if reduction == form.reduction else f"as given; {default} is {form.reduction}"
    what = "the logarithm of the product" if reduction == "product" else reduction
    return f"{what} over steps, {whose}; a step is right above {form.threshold:g}"
