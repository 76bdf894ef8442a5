"""`assay best-of-n`: what choosing by a model gains in gold, where it turns down, and what the model promises meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from assay.data.candidates import Candidates, read_candidates
from assay.data.split import is_among
from assay.evaluation.overoptimization import overoptimization, sizes_up_to
from assay.evaluation.uncertainty import members_of
from assay.models.artifact import PROMPTS_FILE
from assay.models.device import Dtype
from assay.records import PreferencePair, Report
from assay.report.html import write_html
from assay.scorers.base import Scorer
from assay.scorers.baselines import LengthScorer
from assay.scorers.load import artifact_path, load
from assay.workflows.rundir import prompt_file, write_report
from assay.workflows.settings import ModelPath
from assay.workflows.show import progress, say
from assay.workflows.steps import slug

NUM_EXAMPLES = 6
AT_ONCE = 8  # prompts to one call of the scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfNConfig:
    """What choosing by a model gains in gold, where it peaks and bends."""

    model: ModelPath
    """Run directory or artifact."""
    data: str
    """Candidates with gold: a file (prompt, candidates, gold), or one of docs/overoptimization.md."""
    prompts: int = 60
    """At most so many prompts, drawn by the seed: every candidate of each is scored."""
    max_n: int | None = None
    """Largest n; as far as 80% of the prompts have candidates when left out."""
    name: str | None = None
    """Name of the evaluation; that of the data when left out."""
    seed: int = 0
    device: str = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        if self.prompts < 2:
            raise ValueError(f"--prompts {self.prompts}: two are needed, and about 60 for an interval that says something")
        if self.max_n is not None and self.max_n < 2:
            raise ValueError(f"--max-n {self.max_n} must be at least 2")


class Judged(NamedTuple):
    """Rewards of the candidates of P prompts, NaN where there is none; members: the same by each member of an ensemble."""

    values: list[np.ndarray]
    members: list[list[np.ndarray]] | None = None


def best_of_n(config: BestOfNConfig) -> Report:
    """Score the candidates and keep the report under eval/, with a page beside; prompts the model was trained on are left out.

    Raises ValueError for settings, DataError for data, that cannot be used.
    """
    path = artifact_path(config.model)
    recorded = read_candidates(config.data)
    say("read", f"{config.data}: {recorded.note}")
    groups = unseen(recorded.groups, prompt_file(path, PROMPTS_FILE), str(config.model))
    groups = drawn(groups, config.prompts, config.seed)
    name = config.name or recorded.source
    scorer = load(path, dtype=config.dtype, device=config.device)
    report = measure(scorer, groups, title=f"Best of n on {name}", max_n=config.max_n, seed=config.seed)
    report = replace(report, facts={**report.facts, "data": recorded.note, "prompts drawn": f"{len(groups)}, seed {config.seed}"})
    write_report(config.model, f"best-of-n-{slug(name)}", report)
    page = config.model / f"best-of-n-{slug(name)}.html"
    write_html(page, [report], report.title)
    for finding in report.findings:
        say(finding.name, finding.why)
    say("report", str(page))
    return report


def measure(
    scorer: Scorer,
    groups: Sequence[Candidates],
    *,
    title: str,
    max_n: int | None = None,
    controls: Mapping[str, Scorer] | None = None,
    seed: int = 0,
) -> Report:
    """`overoptimization` of a scorer on recorded candidates; length is always among the controls, an ensemble meets its members.

    Raises ValueError when fewer than two prompts have candidates that could be scored.
    """
    gold = [group.gold for group in groups]
    judged = judge(scorer, groups)
    rivals = {"length": LengthScorer(), **(controls or {})}
    asked = members_of(scorer)
    ensembles = None
    if judged.members is not None and asked is not None:
        how = asked.combination
        label = "min" if how.how == "min" else f"mean - {how.penalty:g} std"
        ensembles = {"mean": [np.mean(members, axis=0) for members in zip(*judged.members, strict=True)], label: judged.values}
    report = overoptimization(
        judged.values,
        gold,
        title=title,
        controls={name: judge(rival, groups).values for name, rival in rivals.items()},
        members=judged.members,
        ensembles=ensembles,
        sizes=None if max_n is None else _sizes(max_n),
        seed=seed,
    )
    failed = sum(int(np.isnan(values).sum()) for values in judged.values)
    facts = {"scorer": scorer.fingerprint, **report.facts, "not scored": f"{failed:,} candidates"}
    return replace(report, facts=facts, examples=misled(groups, judged.values))


def judge(scorer: Scorer, groups: Sequence[Candidates]) -> Judged:
    """Score every candidate, the answers to a prompt in one call, so that they share the prompt."""
    asked, parts, members = members_of(scorer), [], []
    with progress("candidates", sum(len(group.answers) for group in groups), "answers") as advance:
        for start in range(0, len(groups), AT_ONCE):
            completions = [completion for group in groups[start : start + AT_ONCE] for completion in group.completions()]
            if asked is None:
                parts.append(scorer.score(completions).value)
            else:
                members.append(asked.score_members(completions))
                parts.append(asked.combination(members[-1])[0])
            advance(len(completions))
    ends = [0, *accumulate(len(group.answers) for group in groups)]

    def of_prompts(values_N: np.ndarray) -> list[np.ndarray]:
        return [values_N[start:end].astype(np.float64) for start, end in pairwise(ends)]

    members_KN = np.concatenate(members, axis=1) if members else None
    return Judged(of_prompts(np.concatenate(parts)), None if members_KN is None else [of_prompts(one) for one in members_KN])


def unseen(groups: Sequence[Candidates], trained_on: np.ndarray | None, model: str) -> list[Candidates]:
    """The groups whose prompts the model was not trained on; what is left out is said. Raises ValueError when none is left."""
    if trained_on is None:
        say("note", f"{model} does not say what it was trained on: an overlap would not be seen")
        return list(groups)
    kept = [group for group in groups if not is_among(trained_on, PreferencePair(prompt=group.prompt, chosen="", rejected=""))]
    if len(kept) < len(groups):
        say("left out", f"{len(groups) - len(kept):,} of {len(groups):,} prompts: {model} was trained on them")
    if not kept:
        raise ValueError(f"{model} was trained on every prompt of these candidates: give others")
    return kept


def drawn(groups: Sequence[Candidates], num_prompts: int, seed: int) -> list[Candidates]:
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
            "prompt": [message._asdict() for message in group.prompt],
            "best by gold": group.answers[best],
            "picked": group.answers[pick],
            "gold of the pick": float(group.gold[pick]),
            "gold of a random answer": float(group.gold[pick]) + below,
            "reward of the pick above the best": above,
        }
        for below, group, pick, best, above in found[:NUM_EXAMPLES]
    )


def _sizes(max_n: int) -> list[int]:
    return [*sizes_up_to(max_n).tolist(), max_n]
