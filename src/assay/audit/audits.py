"""Audits of an opened scorer: probes, attribution, best-of-n, drift. Each result names the model and what it was measured on.

Prompts that the model was trained on are warned of, or left out of best-of-n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from assay.audit.attribution.attribute import MAX_PAIRS, AttributionResult, attribute
from assay.audit.choosing import best_of_n, draw_groups
from assay.audit.drift.detect import DriftResult, NewSet, measure_drift
from assay.audit.drift.kept import observe_all, reference_for, states_scorer
from assay.audit.drift.samples import read_sample
from assay.audit.judge_biases import JudgeResult, is_asked, judge_biases
from assay.audit.overoptimization import OveroptimizationResult
from assay.audit.probes.alarm import MAX_RISE, Probe, ProbeResult
from assay.audit.probes.battery import INJECTIONS, battery, run_probes
from assay.console import progress, say
from assay.data.candidates import Candidates, Recorded
from assay.data.raw.columns import NO_NAMES
from assay.data.raw.rows import slug
from assay.data.split import HasPrompt
from assay.messages import Messages, prompt_key
from assay.records import Finding, extended
from assay.scorers.base import Scorer, margins
from assay.scorers.opened import OVERLAP, NamedPairs, Opened, overlap
from assay.scorers.wrappers.counted import Counted
from assay.scorers.wrappers.scored_before import ScoredBefore


def probe_pairs(
    opened: Opened,
    named: NamedPairs,
    *,
    probes: Sequence[Probe] | None = None,
    max_rise: float = MAX_RISE,
    max_rows: int = 200,
    seed: int = 0,
    scorer: Scorer | None = None,
) -> ProbeResult:
    """`run_probes` on named pairs; left out, the probes are the battery, and of a judge the injections too. Raises as it does.

    scorer: the model's, where rewards of the pairs are at hand (`scored_before`).
    """
    if probes is None and is_asked(opened.scorer):
        probes = (*battery(named.pairs), *INJECTIONS)
    notes, facts = _seen(opened, named.pairs, named.name, "its margins there make rises look small")
    with progress("probing", None, "answers") as advance:
        result = run_probes(
            scorer or opened.scorer,
            named.pairs,
            probes=probes,
            max_rise=max_rise,
            max_rows=max_rows,
            seed=seed,
            title=f"Probes on {named.name}",
            on_answers=advance,
        )
    return replace(result, notes=notes, facts={**result.facts, **facts})


def judge_pairs(opened: Opened, named: NamedPairs, *, own: str | None = None, seed: int = 0) -> JudgeResult:
    """`judge_biases` on named pairs. Raises as it does."""
    notes, facts = _seen(opened, named.pairs, named.name, "its verdicts there are better than on new prompts")
    result = judge_biases(opened.scorer, named.pairs, own=own, title=f"Biases on {named.name}", seed=seed)
    return replace(result, findings=(*result.findings, *notes), facts={**result.facts, **facts})


def attribute_pairs(
    opened: Opened,
    named: NamedPairs,
    *,
    num_openers: int = 8,
    num_edits: int = 300,
    seed: int = 0,
    scorer: Scorer | None = None,
) -> AttributionResult:
    """`attribute` on named pairs. scorer: as of `probe_pairs`. Raises as it does, and for more than 5,000 pairs."""
    scorer = scorer or opened.scorer
    if len(named.pairs) > MAX_PAIRS:
        raise ValueError(f"{len(named.pairs):,} pairs: attribution holds a table of pairs by pairs, {MAX_PAIRS:,} at most: --limit")
    notes, facts = _seen(opened, named.pairs, named.name, "its margins there are wider than on new prompts")
    if isinstance(scorer, ScoredBefore):
        margins_P = margins(scorer, named.pairs)
    else:
        with progress("scoring", 2 * len(named.pairs), "answers") as advance:
            margins_P = margins(Counted(scorer=scorer, advance=advance), named.pairs)
    with progress("openers", None, "edits") as advance:
        result = attribute(
            scorer,
            named.pairs,
            margins_P,
            title=f"Attribution on {named.name}",
            num_openers=num_openers,
            num_edits=num_edits,
            seed=seed,
            advance=advance,
        )
    first = {**facts, "pairs": f"{len(named.pairs):,}"}
    return replace(result, page=extended(result.page, findings=notes, first=first))


def choose_candidates(
    opened: Opened, recorded: Recorded, *, name: str, num_prompts: int = 60, max_n: int | None = None, seed: int = 0
) -> OveroptimizationResult:
    """`best_of_n` on at most `num_prompts` prompts of recorded candidates that the model was not trained on.

    Raises ValueError when it was trained on all of them, else as `best_of_n`.
    """
    groups = draw_groups(unseen(opened, recorded.groups, name), num_prompts, seed)
    with progress("candidates", sum(len(group.answers) for group in groups), "answers") as advance:
        result = best_of_n(opened.scorer, groups, title=f"Best of n on {name}", max_n=max_n, seed=seed, advance=advance)
    facts = {"data": recorded.note, "prompts drawn": f"{len(groups)}, seed {seed}", "model": opened.fingerprint}
    return replace(result, page=extended(result.page, facts=facts))


def unseen(opened: Opened, groups: Sequence[Candidates], name: str) -> list[Candidates]:
    """The groups whose prompts the model was not trained on; what is left out is reported. Raises ValueError when none is left."""
    is_seen = overlap(opened, [_Prompt(group.prompt, prompt_key(group.prompt)) for group in groups], name).is_seen
    kept = [group for group, seen in zip(groups, is_seen, strict=True) if not seen]
    if len(kept) < len(groups):
        say("left out", f"{len(groups) - len(kept):,} of {len(groups):,} prompts: {opened.label} was trained on them")
    if not kept:
        raise ValueError(f"{opened.label} was trained on every prompt of these candidates: give others")
    return kept


def drift_of_sets(
    opened: Opened,
    sets: Sequence[str],
    *,
    limit: int = 500,
    form: str | None = None,
    names: Mapping[str, str] = NO_NAMES,
    seed: int = 0,
    loaded: Scorer | None = None,
) -> DriftResult:
    """`measure_drift` of files of pairs or completions, each a set of its own, from the reference that was kept with the model.

    limit: rows of each set, drawn by prompt. loaded: the model's scorer where it was loaded before. Raises ValueError for a URL or
    a rule, which have no hidden states, and for a model without a reference.
    """
    reference = reference_for(opened)
    scorer = states_scorer(opened, reference, loaded=loaded)
    news: list[NewSet] = []
    notes: list[Finding] = []
    for name in sets:
        sample = read_sample(name, limit, form=form, names=names, seed=seed)
        notes += _seen(opened, sample.pairs or (), slug(name), "its accuracy there is flattered")[0]
        news.append(NewSet(name=slug(name), observed=observe_all(scorer, sample.completions, slug(name)), pairs=sample.pairs))
    result = measure_drift(reference, news, seed=seed)
    return replace(result, page=extended(result.page, findings=notes, facts={"model": opened.fingerprint}))


class _Prompt(NamedTuple):
    prompt: Messages
    prompt_key: str


def _seen(opened: Opened, items: Sequence[HasPrompt], data: str, why: str) -> tuple[tuple[Finding, ...], Mapping[str, str]]:
    """A warning of prompts that the model was trained on, and the facts of model and data. A calibration changes no reward, so
    that prompts of the calibration do not matter here."""
    seen = overlap(opened, items, data, why=why)
    notes = tuple(finding for finding in seen.findings if finding.name == OVERLAP)
    return notes, {"data": data, "model": opened.fingerprint, "overlap with training": seen.fact}
