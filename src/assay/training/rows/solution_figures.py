"""How well log-odds tell right from wrong: figures of a training report, with intervals by problem.

Shapes: R reads of some rows of a table, N rows.
"""

from __future__ import annotations

import numpy as np

from assay.data.tokens.answer_table import AnswerTable
from assay.records import Metric
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.mean_intervals import share_interval
from assay.stats.metrics import auroc, mean


def figures(what: str, log_odds_R: np.ndarray, labels_R: np.ndarray, table: AnswerTable, rows: np.ndarray) -> list[Metric]:
    """AUROC, and accuracy at one half beside the share that is right, of what is labelled; a label of one half counts in neither.

    what: the reads are called so.
    """
    problem_R = np.repeat(table.prompt[rows], table.num_reward_positions[rows])
    right_R = np.where(labels_R == 0.5, np.nan, labels_R > 0.5)
    right_R = np.where(np.isnan(labels_R), np.nan, right_R)
    num = int((~np.isnan(right_R)).sum())
    if not num:
        return [Metric(f"accuracy on {what}", float("nan"), note="none is labelled")]
    is_hit_R = np.where(np.isnan(right_R), np.nan, (log_odds_R > 0) == (right_R > 0.5))
    share = mean(right_R)
    note = f"always {'right' if share >= 0.5 else 'wrong'}: {max(share, 1 - share):.3f}"
    ranked = auroc(log_odds_R, right_R)
    return [
        Metric(f"AUROC of {what}", ranked, *auroc_interval(log_odds_R, right_R, problem_R), num, len(right_R), "right above wrong"),
        Metric(f"accuracy on {what}", mean(is_hit_R), *share_interval(is_hit_R, problem_R), num, len(right_R), note),
    ]
