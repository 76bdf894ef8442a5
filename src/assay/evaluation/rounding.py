"""What bfloat16 would do to the verdicts: pairs that become ties when rewards are rounded, and the accuracy that is left.

bfloat16 keeps 8 significant bits: near 20 its numbers are 0.125 apart, near 2 they are 0.016 apart. A constant on all rewards,
which means nothing, costs ties here. Suffixes: P pairs, 2 chosen and rejected.
"""

from __future__ import annotations

import numpy as np

from assay.evaluation.slices import Columns
from assay.records import Metric
from assay.stats.metrics import is_right, mean

ROUNDED_TIES, ROUNDED_ACCURACY = "ties at bfloat16", "accuracy at bfloat16"
RESOLUTION = 2.0**-8  # of the larger reward: between half and the whole distance of neighbouring numbers


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 values that bfloat16 can hold, the nearest ones, halves to even: any shape; NaN stays NaN."""
    values = np.asarray(values, dtype=np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(values), values, rounded)


def rounding_metrics(rewards_P2: np.ndarray, columns: Columns) -> tuple[Metric, Metric]:
    """Share of pairs of different answers that tie once rewards are rounded to bfloat16, and accuracy then (a tie is wrong).

    The note counts margins within 2^-8 of the larger reward, which may become ties: it depends on where the grid lies.
    """
    rewards_P2 = np.asarray(rewards_P2, dtype=np.float64)
    rounded_P2 = to_bfloat16(rewards_P2).astype(np.float64)
    rounded_P = rounded_P2[:, 0] - rounded_P2[:, 1]
    differ_P = np.array([pair.chosen != pair.rejected for pair in columns.pairs])
    ties_P = np.where(differ_P & ~np.isnan(rounded_P), rounded_P == 0, np.nan)
    near_P = differ_P & (np.abs(rewards_P2[:, 0] - rewards_P2[:, 1]) <= RESOLUTION * np.abs(rewards_P2).max(axis=1))
    right_P = is_right(rounded_P, columns.preference_P)
    scored, n = int(np.sum(~np.isnan(ties_P))), int(differ_P.sum())
    note = f"if rewards were rounded to it; {int(near_P.sum())} margins lie within its resolution, 2^-8 of the reward"
    lost = mean(columns.right_P) - mean(right_P)
    return (
        Metric(ROUNDED_TIES, mean(ties_P), *columns.interval(ties_P), scored, n, note if scored else "no pair could be scored"),
        Metric(
            ROUNDED_ACCURACY,
            mean(right_P),
            *columns.interval(right_P),
            int(np.sum(~np.isnan(right_P))),
            int(np.sum(columns.preference_P != 0.5)),
            "no pair has both a score and a label" if np.isnan(lost) else f"rounding costs {100 * lost:.2f} points: ties are wrong",
        ),
    )
