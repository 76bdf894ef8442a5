"""Best-of-n by a scorer on recorded candidates: what choosing by its reward gains in gold, and where gold peaks.

Suffixes: N candidates of all prompts, K members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from assay.audit.best_of_n import sizes_up_to
from assay.audit.overoptimization import OveroptimizationResult, overoptimization
from assay.data.candidates import Candidates
from assay.records import extended
from assay.scorers.base import Scorer
from assay.scorers.baselines import LengthScorer
from assay.scorers.ensemble import members_of

NUM_EXAMPLES = 6
AT_ONCE = 8  # prompts to one call of the scorer


class Judged(NamedTuple):
    """Rewards of the candidates of each prompt, NaN where there is none; members: the same by each member of an ensemble."""

    values: list[np.ndarray]
    members: list[list[np.ndarray]] | None = None


def best_of_n(
    scorer: Scorer,
    groups: Sequence[Candidates],
    *,
    title: str,
    max_n: int | None = None,
    controls: Mapping[str, Scorer] | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> OveroptimizationResult:
    """`overoptimization` of a scorer on recorded candidates; length is always among the controls, an ensemble is compared with its
    members.

    max_n: largest n; as far as 80% of the prompts have candidates when left out. advance: called with the number of answers that
    were scored. Raises ValueError when fewer than two prompts have candidates that could be scored.
    """
    gold = [group.gold for group in groups]
    judged = judge(scorer, groups, advance)
    rivals = {"length": LengthScorer(), **(controls or {})}
    made_of = members_of(scorer)
    ensembles = None
    if judged.members is not None and made_of is not None:
        how = made_of.combination
        label = f"mean - {how.penalty:g} std" if how.how == "mean" else how.words
        ensembles = {"mean": [np.mean(members, axis=0) for members in zip(*judged.members, strict=True)], label: judged.values}
    result = overoptimization(
        judged.values,
        gold,
        title=title,
        controls={name: judge(rival, groups).values for name, rival in rivals.items()},
        members=judged.members,
        ensembles=ensembles,
        sizes=None if max_n is None else [*sizes_up_to(max_n).tolist(), max_n],
        seed=seed,
    )
    failed = sum(int(np.isnan(values).sum()) for values in judged.values)
    page = extended(result.page, first={"scorer": scorer.fingerprint}, facts={"not scored": f"{failed:,} candidates"})
    return replace(result, page=replace(page, examples=misled(groups, judged.values)))


def judge(scorer: Scorer, groups: Sequence[Candidates], advance: Callable[[int], None] = lambda n: None) -> Judged:
    """Score every candidate, the answers to a prompt in one call, so that they share the prompt."""
    made_of, parts, members = members_of(scorer), [], []
    for start in range(0, len(groups), AT_ONCE):
        completions = [completion for group in groups[start : start + AT_ONCE] for completion in group.completions()]
        if made_of is None:
            parts.append(scorer.score(completions).value)
        else:
            members.append(made_of.score_members(completions))
            parts.append(made_of.combination(members[-1])[0])
        advance(len(completions))
    ends = [0, *accumulate(len(group.answers) for group in groups)]

    def of_prompts(values_N: np.ndarray) -> list[np.ndarray]:
        return [values_N[start:end].astype(np.float64) for start, end in pairwise(ends)]

    members_KN = np.concatenate(members, axis=1) if members else None
    return Judged(of_prompts(np.concatenate(parts)), None if members_KN is None else [of_prompts(one) for one in members_KN])


def draw_groups(groups: Sequence[Candidates], num_prompts: int, seed: int) -> list[Candidates]:
    """At most `num_prompts` of the groups, in their order."""
    if len(groups) <= num_prompts:
        return list(groups)
    return [groups[i] for i in sorted(np.random.default_rng(seed).permutation(len(groups))[:num_prompts])]


def misled(groups: Sequence[Candidates], values: Sequence[np.ndarray]) -> tuple[Mapping[str, object], ...]:
    """The prompts on which the model's pick of all candidates falls furthest below a random choice, with the best by gold."""
    found = []
    for group, value_N in zip(groups, values, strict=True):
        known = ~(np.isnan(value_N) | np.isnan(group.gold))
        if not known.any():
            continue
        pick, best = int(np.argmax(np.where(known, value_N, -np.inf))), int(np.argmax(np.where(known, group.gold, -np.inf)))
        below = float(group.gold[known].mean() - group.gold[pick])
        if below > 0:
            found.append((below, group, pick, best, float(value_N[pick] - value_N[best])))
    found.sort(key=lambda item: -item[0])
    return tuple(
        {
            "kind": "picked, though worth less than a random answer",
            "prompt": [message.as_dict() for message in group.prompt],
            "best by gold": group.answers[best],
            "picked": group.answers[pick],
            "gold of the pick": float(group.gold[pick]),
            "gold of a random answer": float(group.gold[pick]) + below,
            "reward of the pick above the best": above,
        }
        for below, group, pick, best, above in found[:NUM_EXAMPLES]
    )
