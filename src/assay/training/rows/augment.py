"""Counter-examples for training: pairs that teach a reward model that the edits of the probes are worth nothing.

From a pair with the preferred answer `good` and the other one, `bad`, and a probe drawn at random, one of these is made:

    worthless     either answer over its edited version, at preference 0.9
    style         either answer against its edited version, as a tie
    destructive   good over its ruined version, at preference 1
    kept true     good over bad with either of the two edited, at the pair's own preference (worthless and style): the edit does
                  not change which answer is better. Were always good edited, these pairs would teach the very hack.

The labels of the first two are where to begin: `assay train --augment` finds those at which the edit is worth nothing in the model
that comes out (training/fits/neutral.py). 0.9 fines it.

Answers to other prompts as losers are the augmentation of RRM (Liu et al. 2024, arXiv 2409.13156, section 3), cut-off answers and
bare openers that of Master-RM (Zhao et al. 2025, arXiv 2507.08794). Probes with prompts of their own (`agreement`) are not used,
as the prompt decides the split of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from assay.audit.probes.alarm import Probe
from assay.audit.probes.battery import INJECTIONS, as_probe, contrast_of, preferred, probes_with
from assay.data.probe_edits.edits import Edit
from assay.records import Completion, PreferencePair

AUGMENTED = "assay.augment"
"""Tag of a pair that was made here; its value is the probe's name."""

CONTRAST = "assay.contrast"
"""Tag of a pair that is an answer against its edited self, and whose label may be moved; its value is the probe's kind."""

PREFERENCE = {"worthless": 0.9, "style": 0.5, "destructive": 1.0}
KEPT_TRUE = 1 / 3  # of the pairs made with worthless and style probes
NUM_POOLED = 1000  # answers that may be put under another prompt
NUM_DRAWS = 5  # probes tried on a pair before it is passed over


def augment(
    pairs: Iterable[PreferencePair], *, share: float = 0.25, seed: int = 0, probes: Sequence[Probe | Edit] | None = None
) -> list[PreferencePair]:
    """The pairs as they are, then counter-examples made from them, which make up `share` of the whole list.

    share: in [0, 1). probes: those of the battery when left out; plain functions are worthless edits. Added pairs carry the tag
    `AUGMENTED`, their pair's prompt, source and weight. Raises ValueError for a share that is none.
    """
    rows = list(augmented(pairs, share=share, seed=seed, probes=probes))
    return [*(pair for pair in rows if AUGMENTED not in pair.tags), *(pair for pair in rows if AUGMENTED in pair.tags)]


def augmented(
    pairs: Iterable[PreferencePair],
    *,
    share: float,
    seed: int = 0,
    probes: Sequence[Probe | Edit] | None = None,
    only: Collection[str] | None = None,
    is_source: Callable[[PreferencePair], bool] = lambda pair: True,
) -> Iterator[PreferencePair]:
    """As `augment`, streaming: every pair, followed by the counter-examples that are due.

    only: names of the probes to use; all when left out. is_source: whether counter-examples may be made from a pair, for example
    when it is in the training split; the share is of those pairs. None are made from a counter-example.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share {share} must be at least 0 and below 1: it is the counter-examples' part of all pairs")
    rng, pool = np.random.default_rng(seed), list[Completion]()
    every = (*probes_with(pool), *(INJECTIONS if only is not None else ()))  # these cost others their share: only where named
    known = [as_probe(probe) for probe in (every if probes is None else probes)]
    chosen = [probe for probe in known if only is None or probe.name in only]
    due, rate = 0.0, share / (1 - share)
    for pair in pairs:
        yield pair
        if AUGMENTED in pair.tags or not is_source(pair):
            continue
        due += rate
        for number in range(min(int(due + 1e-9), math.ceil(rate) + 1)):  # what is still due, the next pairs make up for
            made = _counter_example(pair, chosen, rng)
            if made is None:
                break
            yield replace(made, id=f"{made.id}:{number}") if number else made
            due -= 1
        if len(pool) < NUM_POOLED:
            pool.append(preferred(pair))
        else:
            pool[int(rng.integers(NUM_POOLED))] = preferred(pair)


def contrasted(
    pairs: Iterable[PreferencePair],
    *,
    most: int,
    seed: int = 0,
    only: Collection[str] | None = None,
    is_source: Callable[[PreferencePair], bool] = lambda pair: True,
) -> Iterator[PreferencePair]:
    """Every pair, each of the first `most` sources followed by one of its answers against its worthless or restyled self.

    only, is_source: as of `augmented`.
    """
    rng = np.random.default_rng([seed, 17])
    every = (*probes_with([]), *(INJECTIONS if only is not None else ()))
    chosen = [probe for probe in every if probe.kind != "destructive" and (only is None or probe.name in only)]
    for pair in pairs:
        yield pair
        if most and AUGMENTED not in pair.tags and is_source(pair):
            made = _counter_example(pair, chosen, rng, kept_true=0.0)
            if made is not None:
                yield made
                most -= 1


def _counter_example(
    pair: PreferencePair, probes: Sequence[Probe], rng: np.random.Generator, kept_true: float = KEPT_TRUE
) -> PreferencePair | None:
    """One pair made from another with a probe drawn at random; None when none of a few draws applies."""
    for _ in range(NUM_DRAWS if probes else 0):
        probe = probes[int(rng.integers(len(probes)))]
        good, bad = preferred(pair), pair.completions()[int(pair.preference >= 0.5)]
        is_ruined = probe.kind == "destructive"
        is_on_good = is_ruined or rng.random() < 0.5
        is_kept_true = not is_ruined and not pair.is_tie and rng.random() < kept_true
        contrast = contrast_of(probe, good if is_on_good else bad, rng)
        if contrast is None:
            continue
        winner, loser = contrast
        preference = PREFERENCE[probe.kind]
        if is_kept_true:
            winner, loser = (contrast[1], bad) if is_on_good else (good, contrast[1])
            preference = max(pair.preference, 1 - pair.preference)
        can_be_read = bool(str(winner.response).strip() and str(loser.response).strip())  # an empty answer is no training text
        if can_be_read and winner.messages == loser.messages == pair.prompt and winner.response != loser.response:
            return replace(
                pair,
                chosen=str(winner.response),
                rejected=str(loser.response),
                chosen_message=winner.response_message,
                rejected_message=loser.response_message,
                preference=preference,
                margin=None,
                id=f"{pair.id}:{probe.name}",
                tags={**pair.tags, AUGMENTED: probe.name, **({} if is_kept_true or is_ruined else {CONTRAST: probe.kind})},
            )
    return None
