"""New pairs for a reward model: half of the current policy against itself, half of it against an earlier one.

What the current policy says is where the reward model is asked now; the earlier answers tie what it learns there to the scale of
what it knew before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from assay.data.pairs import write_pairs
from assay.data.prompt_rows import Prompt
from assay.errors import TrainingError
from assay.records import PreferencePair
from assay.rl.loop.beginnings import put_weights, steps_kept, weights_at
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import PolicyModel
from assay.rl.loop.policy_step import answered, generator_of

PAIRS = "pairs.jsonl"
CURRENT, EARLIER = "current", "earlier"
SAME = "one answer, or none"
_REFRESH = 8  # what a generator is for
_DRAWS = 4  # answers of a prompt among which two that differ are looked for
_TRIES = 4  # prompts for each pair that is asked for, at most


class Source(NamedTuple):
    """run: directory of the policy's run. step: where it stopped."""

    run: Path
    step: int

    @property
    def earlier(self) -> int:
        """The last look at or before half of the steps."""
        return max(step for step in steps_kept(self.run) if step <= self.step // 2)


def choose_pairs(
    model: PolicyModel,
    source: Source,
    prompts: Sequence[Prompt],
    settings: PolicySettings,
    *,
    num: int,
    number: int,
    seed: int,
    out: Path,
) -> Counter[str]:
    """Write `num` pairs of different answers, unlabelled (preference 0.5), in Assay's form; how many of each kind, and how often a
    prompt gave no pair. The same arguments give the same file. number: of the refresh.

    Raises TrainingError where the policy says the same to all.
    """
    order = [prompts[i] for i in np.random.default_rng([seed, number, _REFRESH]).permutation(len(prompts))]
    found: list[PreferencePair] = []
    counts: Counter[str] = Counter()
    for kind, wanted, begin in ((CURRENT, num - num // 2, 0), (EARLIER, num // 2, num - num // 2)):
        asked = [order[(begin + i) % len(order)] for i in range(_TRIES * wanted)]
        for pair in _pairs_of(model, source, asked, settings, kind, number, seed):
            if counts[kind] == wanted:
                break
            counts[SAME if pair is None else kind] += 1
            found += [] if pair is None else [pair]
    if not found:
        raise TrainingError(f"the policy at step {source.step} gives one answer to each prompt: there are no pairs to label")
    write_pairs(out, found)
    return counts


def _pairs_of(
    model: PolicyModel, source: Source, prompts: Sequence[Prompt], settings: PolicySettings, kind: str, number: int, seed: int
) -> Iterator[PreferencePair | None]:
    """A pair for each prompt, the prompts of a step at a time; None where all answers are one."""
    now, before = weights_at(source.run, source.step), weights_at(source.run, source.earlier)
    for begin in range(0, len(prompts), settings.prompts):
        asked = prompts[begin : begin + settings.prompts]
        seeds = (seed, number, _REFRESH, (CURRENT, EARLIER).index(kind), begin)
        ours = _texts(model, now, asked, settings, generator_of(*seeds, 0))
        theirs = _texts(model, before, asked, settings, generator_of(*seeds, 1)) if kind == EARLIER else ours
        for i, prompt in enumerate(asked):
            yield _pair(prompt, ours[i], theirs[i], kind, number, begin + i, source)


def _texts(
    model: PolicyModel,
    weights: Mapping[str, torch.Tensor],
    prompts: Sequence[Prompt],
    settings: PolicySettings,
    generator: torch.Generator,
) -> list[list[str]]:
    """Some answers to each prompt, of the policy with these weights."""
    put_weights(model, weights)
    with model.autocast(), torch.no_grad():
        drawn = answered(model.plain, model.tokens, prompts, settings, samples=_DRAWS, generator=generator)
    said = [str(one.response) for one in drawn.completions]
    return [said[i : i + _DRAWS] for i in range(0, len(said), _DRAWS)]


def _pair(
    prompt: Prompt, ours: Sequence[str], theirs: Sequence[str], kind: str, number: int, place: int, source: Source
) -> PreferencePair | None:
    """The first answer and the first other one that differs from it, neither of them empty: training reads no empty ones."""
    said = [text for text in ours if text.strip()]
    other = next((text for text in theirs if text.strip() and text.strip() != said[0].strip()), None) if said else None
    if other is None:
        return None
    tags = {"refresh": str(number), "against": kind, "step": str(source.step)}
    return PreferencePair(
        prompt=prompt.messages,
        chosen=said[0],
        rejected=other,
        preference=0.5,
        source="refresh",
        id=f"refresh-{number}-{kind}-{place}",
        tags={**prompt.tags, **tags},
        ground_truth=prompt.ground_truth,
    )
