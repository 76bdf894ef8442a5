"""Whether the margins of the data can be what `--use-margin` takes them for: logits."""

from __future__ import annotations

import math

import numpy as np

from assay.console import say

LARGEST = 20.0  # logits: a probability of 2 in a billion that the other answer is better


def check_margins(margin_P: np.ndarray) -> None:
    """Say which training pairs have no margin, and which have one that is no logit. Raises ValueError where none has one.

    margin_P: of the training pairs, NaN where there is none.
    """
    known_P = margin_P[~np.isnan(margin_P)]
    if not len(known_P):
        raise ValueError(
            f"--use-margin: none of the {len(margin_P):,} training pairs has a margin; give the data a column `margin`, or two "
            "scores such as score_chosen and score_rejected, or leave --use-margin out"
        )
    if num_missing := len(margin_P) - len(known_P):
        say("margins", f"{num_missing:,} of {len(margin_P):,} training pairs have none, and count as 0")
    num_large = int((known_P > LARGEST).sum())
    if num_large:
        largest = float(known_P.max())
        odds = f"1 in {math.exp(LARGEST):.0e}"
        say(
            "margins",
            f"{num_large:,} of {len(known_P):,} lie above {LARGEST:g}, the largest is {largest:g}. They are taken as logits, where "
            f"{LARGEST:g} leaves the other answer a chance of {odds}: divide scores of another scale first, for example so that "
            f"the median is about 1 (it is {float(np.median(known_P)):g})",
        )
