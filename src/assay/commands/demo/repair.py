"""The demo's repair: counter-examples whose labels are set so that a planted habit ends up worth nothing, neither paid nor fined.

The labels are found as `assay train --augment` finds them (training/neutral.py), on training prompts that are kept apart meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.training.neutral import find_labels, labelled

if TYPE_CHECKING:  # it imports torch
    from assay.training.prepare import Prepared


def neutral_fit(
    prepared: Prepared,
    rows: np.ndarray,
    habits: Mapping[str, np.ndarray],
    start: Mapping[str, Any],
    fit_rows: Callable[[Prepared, np.ndarray], None],
) -> dict[str, float]:
    """Fit the model on the rows, with the labels of the counter-examples that leave each habit neutral; returns those labels.

    habits: rows of the counter-examples of each, a part of `rows`. start: weights to begin every fit from.
    """
    labels = dict(find_labels(prepared, rows, habits, fit_rows).labels)
    prepared.model.load_state_dict(dict(start), strict=False)
    fit_rows(labelled(prepared, habits, labels), rows)
    return labels
