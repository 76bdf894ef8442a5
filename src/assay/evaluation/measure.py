"""Evaluate an opened scorer: on pairs, or on a suite. Prompts that it was trained on are refused, or left out of a suite."""

from __future__ import annotations

import itertools
from dataclasses import replace

from assay.console import progress
from assay.evaluation.evaluate import BAG_OF_WORDS, EvaluationResult, evaluate
from assay.evaluation.suites.lookup import LoadedSuite
from assay.evaluation.suites.summary import SuiteResult, evaluate_suite
from assay.records import Finding, extended
from assay.scorers.baselines import fit_bag_of_words
from assay.scorers.opened import NamedPairs, Opened, overlap, refuse_seen
from assay.scorers.wrappers.counted import Counted

WORDS_PAIRS = 20_000  # training pairs that the bag of words is fitted on, at most


def evaluate_pairs(opened: Opened, named: NamedPairs, *, title: str, seed: int = 0) -> EvaluationResult:
    """`evaluate` on named pairs. On the run's own pairs the bag-of-words baseline is fitted on the training pairs of the model.

    Raises DataError when the model was trained on prompts of the pairs.
    """
    refuse_seen(opened, named.pairs, named.name)
    seen = overlap(opened, named.pairs, named.name)
    train = itertools.islice(opened.own_data.pairs("train"), WORDS_PAIRS) if named.is_own else ()
    with progress("evaluating", 2 * len(named.pairs), "answers") as advance:
        result = evaluate(
            opened.scorer,
            named.pairs,
            title=title,
            seed=seed,
            baselines={BAG_OF_WORDS: fit_bag_of_words(list(train))} if named.is_own else None,
            advance=advance,
        )
    facts = {"data": named.name, "model": opened.fingerprint, "overlap with training": seen.fact}
    return replace(result, page=extended(result.page, findings=seen.findings, facts=facts))


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
    facts = {"model": opened.fingerprint, "overlap with training": seen.fact}
    return replace(result, page=extended(result.page, findings=findings, facts=facts))
