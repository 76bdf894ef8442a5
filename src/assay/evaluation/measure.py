"""Evaluate an opened scorer: on pairs, on labelled steps, or on a suite. Prompts that it was trained on are refused, or left out of
a suite."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.console import progress, say
from assay.data.raw.columns import NO_NAMES
from assay.data.raw.rows import slug
from assay.data.sampling import draw_prompts
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import read_labelled_steps
from assay.errors import DataError
from assay.evaluation.evaluate import EvaluationResult, evaluate
from assay.evaluation.rivals import BAG_OF_WORDS
from assay.evaluation.steps.evaluate_steps import DATA_SET, StepEvaluationResult, evaluate_steps
from assay.evaluation.steps.outcome_figures import OutcomeResult, measure_outcomes
from assay.evaluation.steps.step_findings import calibrated_on_few
from assay.evaluation.steps.step_scores import labels_of, score_steps
from assay.evaluation.suites.lookup import LoadedSuite
from assay.evaluation.suites.summary import SuiteResult, evaluate_suite
from assay.records import Finding, extended
from assay.run_files import STEP_CALIBRATION, STEPS, read_description
from assay.scorers.base import Scorer
from assay.scorers.baselines import MAX_PAIRS, fit_bag_of_words, kept_bag_of_words
from assay.scorers.opened import NamedPairs, Opened, overlap, refuse_seen
from assay.scorers.wrappers.counted import Counted
from assay.stats.steps.step_figures import fit_threshold


def evaluate_pairs(opened: Opened, named: NamedPairs, *, title: str, seed: int = 0) -> EvaluationResult:
    """`evaluate` on named pairs. The bag-of-words baseline is that of the model's training pairs: kept with the artifact, or fitted
    where the data of the run can still be read; only where neither is there it is cross-validated on the pairs themselves.

    Raises DataError when the model was trained on prompts of the pairs.
    """
    refuse_seen(opened, named.pairs, named.name)
    seen = overlap(opened, named.pairs, named.name)
    words = words_of_training(opened)
    with progress("evaluating", 2 * len(named.pairs), "answers") as advance:
        result = evaluate(
            opened.scorer,
            named.pairs,
            title=title,
            seed=seed,
            baselines=None if words is None else {BAG_OF_WORDS: words},
            advance=advance,
        )
    facts = {"data": named.name, **opened.facts, "overlap with training": seen.fact}
    return replace(result, page=extended(result.page, findings=seen.findings, facts=facts))


class NamedSteps(NamedTuple):
    """Solutions with labelled steps, the name of their set, and the name under which their figures are kept."""

    items: list[LabelledSteps]
    name: str
    kept_as: str


def read_named_steps(
    data: Sequence[str],
    *,
    form: str | None = None,
    strict: bool = False,
    limit: int | None = None,
    seed: int = 0,
    names: Mapping[str, str] = NO_NAMES,
) -> NamedSteps:
    """The solutions of one set or of several. Of several, each is tagged with its set, which is a part of ProcessBench F1.

    Arguments as of `read_named`. Raises DataError when a set holds no solutions.
    """
    items: list[LabelledSteps] = []
    for name in data:
        reader = read_labelled_steps(name, form=form, strict=strict, limit=limit, seed=seed, names=names)
        read = list(reader)
        say("read", f"{name}: {reader.summary()}")
        if not read:
            raise DataError(f"there are no solutions with labelled steps in {name}: leave it out, or give a file that has some")
        items += [replace(one, tags={**one.tags, DATA_SET: slug(name)}) for one in read] if len(data) > 1 else read
    return NamedSteps(items, " and ".join(Path(name).name for name in data), "-".join(slug(name) for name in data))


def own_steps(opened: Opened, *, limit: int | None = None) -> NamedSteps:
    """The test split of a run's own labelled steps; with a limit whole problems, drawn by the run's seed. Raises ValueError when it
    is empty."""
    own = opened.own_data
    items = list(own.solutions("test"))
    if not items:
        raise ValueError(f"there are no solutions in the test split of {opened.label}: give --data")
    if limit is not None:
        items = list(draw_prompts(items, limit, seed=own.seed, prompt_of=lambda one: one.prompt_key).items)
    name = "the test split" if own.eval_data is None else Path(own.eval_data).name
    return NamedSteps(items, name, "test" if own.eval_data is None else slug(own.eval_data))


def evaluate_solutions(
    opened: Opened,
    named: NamedSteps,
    *,
    title: str,
    threshold: float | None = None,
    threshold_from: NamedSteps | None = None,
    seed: int = 0,
) -> StepEvaluationResult:
    """`evaluate_steps` on named solutions. threshold: in place of the scorer's own; threshold_from: other solutions, on which the
    one with the best F1 is chosen.

    Raises DataError when the model was trained on prompts of the solutions, or the threshold is to be chosen on them; ValueError
    for both a threshold and solutions to choose it on.
    """
    refuse_seen(opened, named.items, named.name)
    seen, said = overlap(opened, named.items, named.name), {}
    if threshold_from is not None:
        if threshold is not None:
            raise ValueError(f"the threshold is {threshold:g} or chosen on {threshold_from.name}: give one of the two")
        shared = {one.prompt_key for one in named.items} & {one.prompt_key for one in threshold_from.items}
        if shared:
            raise DataError(
                f"{len(shared):,} problems of {named.name} are also in {threshold_from.name}, on which the threshold is chosen: "
                "that flatters its figures; give other problems"
            )
        with progress("choosing a threshold", len(threshold_from.items), "solutions") as advance:
            scores = score_steps(opened.scorer, threshold_from.items, advance=advance)
        fitted = fit_threshold(scores.scores, labels_of(threshold_from.items))
        threshold, size = fitted.threshold, len(threshold_from.items)
        said = {"threshold from": f"{threshold_from.name}: {size:,} solutions, where it gives {fitted.value:.3f}"}
    with progress("evaluating", len(named.items), "solutions") as advance:
        result = evaluate_steps(opened.scorer, named.items, title=title, threshold=threshold, seed=seed, advance=advance)
    facts = {"data": named.name, **said, **opened.facts, "overlap with training": seen.fact}
    findings = (*_rests_on_few(opened), *seen.findings)
    return replace(result, page=extended(result.page, findings=findings, facts=facts))


def gives_one_reward(opened: Opened) -> bool:
    """Whether it is known, before anything is scored, that a solution gets one reward and its steps none."""
    return opened.artifact is not None and not read_description(opened.artifact).get(STEPS)


def evaluate_outcomes(opened: Opened, named: NamedSteps, *, title: str, seed: int = 0) -> OutcomeResult:
    """One reward a solution against the final answer being right, of solutions of which that is known.

    Raises DataError when the model was trained on prompts of the solutions; ValueError where no outcome is known.
    """
    items = [item for item in named.items if item.outcome is not None]
    if not items:
        raise ValueError(f"{opened.label} gives one reward a solution, and {named.name} does not say which final answers are right")
    refuse_seen(opened, items, named.name)
    seen = overlap(opened, items, named.name)
    with progress("evaluating", len(items), "solutions") as advance:
        rewards = Counted(scorer=opened.scorer, advance=advance).score([replace(item.completion, steps=None) for item in items])
    line = {} if opened.artifact is None else read_description(opened.artifact).get(STEP_CALIBRATION) or {}
    labels_N, problems = np.array([item.outcome for item in items], np.float64), [item.prompt_key for item in items]
    result = measure_outcomes(
        rewards.value, labels_N, problems, title=title, scale=line.get("scale", 1.0), shift=line.get("shift", 0.0), seed=seed
    )
    left = len(named.items) - len(items)
    said = {"left out": f"{left:,} solutions: it is not known whether the final answer is right"} if left else {}
    facts = {"data": named.name, **said, **opened.facts, "overlap with training": seen.fact}
    findings = (*_rests_on_few(opened), *seen.findings)
    return replace(result, page=extended(result.page, findings=findings, facts=facts))


def _rests_on_few(opened: Opened) -> tuple[Finding, ...]:
    """That the probabilities of an artifact were calibrated on few problems, where they were."""
    if opened.artifact is None:
        return ()
    few = calibrated_on_few(read_description(opened.artifact).get(STEP_CALIBRATION))
    return () if few is None else (few,)


def words_of_training(opened: Opened) -> Scorer | None:
    """The bag of words of the pairs that a scorer was trained on; None where they are not known or cannot be read again."""
    if opened.artifact is None:
        return None
    kept = kept_bag_of_words(opened.artifact)
    if kept is not None:
        return kept
    try:
        pairs = list(itertools.islice(opened.own_data.pairs("train"), MAX_PAIRS))
    except (ValueError, OSError):  # DataError too: the files have moved, or the splits are not known
        return None
    return fit_bag_of_words(pairs) if pairs else None


def evaluate_on_suite(opened: Opened, loaded: LoadedSuite, *, seed: int = 0) -> SuiteResult:
    """`evaluate_suite` without the cases whose prompts the model was trained on; they are counted. Raises DataError when none is
    left."""
    seen = overlap(opened, loaded.cases, loaded.suite.name)
    if seen.is_seen.all():
        refuse_seen(opened, loaded.cases, loaded.suite.name)
    skipped = frozenset(seen.is_seen.nonzero()[0].tolist())
    num_answers = sum(len(set(case.candidates)) for i, case in enumerate(loaded.cases) if i not in skipped)
    with progress(loaded.suite.name, num_answers, "answers") as advance:
        result = evaluate_suite(Counted(scorer=opened.scorer, advance=advance), loaded, skipped=skipped, seed=seed)
    why = f"of {len(loaded.cases):,} cases: their prompts are in the training set, so they are in no figure"
    findings = [Finding("warn", "cases that it was trained on", len(skipped), 0, why)] if skipped else []
    facts = {**opened.facts, "overlap with training": seen.fact}
    return replace(result, page=extended(result.page, findings=findings, facts=facts))
