"""Evaluate an opened scorer: on pairs, or on a suite. Prompts that it was trained on are refused, or left out of a suite."""

from __future__ import annotations

import itertools
from dataclasses import replace

from assay.console import progress
from assay.evaluation.evaluate import EvaluationResult, evaluate
from assay.evaluation.rivals import BAG_OF_WORDS
from assay.evaluation.suites.lookup import LoadedSuite
from assay.evaluation.suites.summary import SuiteResult, evaluate_suite
from assay.records import Finding, extended
from assay.scorers.base import Scorer
from assay.scorers.baselines import MAX_PAIRS, fit_bag_of_words, kept_bag_of_words
from assay.scorers.opened import NamedPairs, Opened, overlap, refuse_seen
from assay.scorers.wrappers.counted import Counted


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
