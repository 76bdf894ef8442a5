"""The reward of an answer token by token, as coloured text: what raised it is blue, what lowered it orange, the more the deeper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from assay.report.text import escape, is_finite, number

NUM_SHADES = 3


def trace_html(trace: object) -> str:
    """The text of a trace, a sequence of (token, reward if the answer stopped there), each token with its reward as a tip.

    A token's shade goes by the change from the token before it, relative to the largest change; the first has none, nor has one
    whose reward is not finite. Empty for what is no trace.
    """
    if not isinstance(trace, Sequence) or isinstance(trace, str) or not trace:
        return ""
    tokens = [str(step[0]) for step in trace]
    rewards = [float(step[1]) if is_finite(step[1]) else math.nan for step in trace]
    changes = [math.nan, *(after - before for before, after in itertools.pairwise(rewards))]
    largest = max((abs(change) for change in changes if not math.isnan(change)), default=0.0)
    spans = "".join(
        f'<span class="{_shade(change, largest)}" title="reward {escape(number(reward))}">{escape(token)}</span>'
        for token, reward, change in zip(tokens, rewards, changes, strict=True)
    )
    key = "Reward if the answer stopped at each token: blue raised it, orange lowered it, against the token before."
    head = f'<h4>Reward by token</h4><p class="note">{key}</p>'
    return f'<div class="answer">{head}<div class="text trace" dir="auto">{spans}</div></div>'


def _shade(change: float, largest: float) -> str:
    """up1..up3 or down1..down3; none below a tenth of the largest change."""
    share = abs(change) / largest if largest > 0 and not math.isnan(change) else 0.0
    if share < 0.1:
        return "level"
    return f"{'up' if change > 0 else 'down'}{min(NUM_SHADES, 1 + int(share * NUM_SHADES))}"
