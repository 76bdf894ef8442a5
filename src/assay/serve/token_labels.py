"""Rows of a request that asks what a model says of every token (vLLM's task "token_classify"), in place of a reward."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from assay.records import Completion
from assay.scorers.base import LabelsTokens, Scorer, capability
from assay.serve.queue import COUNTS, Row

NO_LABELS = "this model labels no tokens"
_NOT_FINITE = "the model gave logits that are not finite"

log = logging.getLogger("assay.serve")


def label_tokens(scorer: Scorer, completions: Sequence[Completion]) -> list[Row]:
    """A row for each completion: `logits`, a list for each token, and the number of tokens; or an error. The value is what the last
    token's last label has more than its first."""
    labelling = capability(scorer, LabelsTokens, of_same_rewards=True)
    if labelling is None or not labelling.token_labels:
        return [{"value": None, "error": NO_LABELS} for _ in completions]
    try:
        found = labelling.token_logits(completions)
    except Exception as error:
        if len(completions) > 1:
            return [row for completion in completions for row in label_tokens(scorer, [completion])]
        log.error("the scorer raised %s on the tokens of an item", type(error).__name__)
        return [{"value": None, "error": f"the scorer failed on this item ({type(error).__name__})"}]
    return [_row(logits) for logits in found]


def _row(logits: np.ndarray | str) -> Row:
    if isinstance(logits, str):
        return {"value": None, "error": logits}
    if not np.isfinite(logits).all():
        return {"value": None, "error": _NOT_FINITE}
    counted = dict(zip(COUNTS, (len(logits), False), strict=True))
    return {"value": float(logits[-1, -1] - logits[-1, 0]), "logits": logits.tolist(), **counted}
