"""Attribution of a scorer's margins: surface features, opening phrases, and the reward token by token where the scorer gives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.audit.attribution.openers import Effect, find_openers, opener_effects, opener_parts, plan_edits
from assay.audit.attribution.surface import attribute_margins
from assay.audit.attribution.token_rewards import trace_table, traces
from assay.records import Metric, PageResult, PreferencePair, Report, extended
from assay.scorers.base import Scorer

MAX_PAIRS = 5_000  # 200 MB for the kernel of words


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionResult(PageResult):
    """How much of the margins the surface of the answers explains, and what opening phrases add to the reward.

    surface, length, words: R^2 of all surface features, of length alone, of words and pairs of words. openers: the effect of each
    opener, added and removed. The findings decide "length" and "surface".
    """

    surface: Metric
    length: Metric
    words: Metric
    openers: tuple[Effect, ...]


def check_openers(num_openers: int, num_edits: int) -> None:
    """Raises ValueError for a number of edits that is too small for as many openers."""
    if num_openers < 0 or (num_openers and num_edits < 3 * num_openers):
        raise ValueError(f"--openers {num_openers} with --edits {num_edits}: give at least three edits an opener, or 0 openers")


def attribute(
    scorer: Scorer,
    pairs: Sequence[PreferencePair],
    margins_P: np.ndarray,
    *,
    title: str = "Attribution",
    num_openers: int = 8,
    num_edits: int = 300,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> AttributionResult:
    """Attribute the P margins that a scorer gives to pairs; which answer is called chosen does not matter.

    num_openers: how many of the most frequent openers are moved to other answers; 0 for none. num_edits: answers that are edited
    and scored for that, at most. advance: called with the number of edits that were scored. Raises as `attribute_margins`.
    """
    explained = attribute_margins(margins_P, pairs, seed=seed)
    page = extended(Report(title=title, facts={"seed": str(seed)}), *explained)
    effects: tuple[Effect, ...] = ()
    if num_openers:
        edits = plan_edits(pairs, find_openers(pairs, num_openers), num_edits, seed=seed)
        effects = opener_effects(scorer, edits, float(np.nanmedian(np.abs(margins_P))), seed=seed)
        advance(len(edits))
        page = extended(page, *opener_parts(effects))
    examples = traces(scorer, pairs, margins_P)
    if examples:
        page = replace(extended(page, tables=[trace_table(examples[-1])]), examples=tuple(examples))
    surface, length, words = explained.metrics
    page = replace(page, lead=_lead(length, surface), key={length.name: (), surface.name: (), words.name: ()})
    return AttributionResult(surface=surface, length=length, words=words, openers=effects, page=page)


def _lead(length: Metric, surface: Metric) -> str:
    """What length alone explains, and all surface features together."""
    if math.isnan(length.value):
        return f"What the margins go with is not known: {length.note}."
    alone, together = (f"{100 * max(metric.value, 0.0):.0f}%" for metric in (length, surface))
    return f"Length alone explains {alone} of the margins, all surface features together {together}."
