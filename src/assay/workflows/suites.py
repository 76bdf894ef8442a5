"""Benchmarks of a trained model: `assay evaluate --suite NAME|FILE`, one report for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from assay.data.split import is_among, refuse_overlap
from assay.evaluation.suites.cases import Scored, score_cases
from assay.evaluation.suites.load import LoadedSuite, load_suite
from assay.evaluation.suites.report import suite_report
from assay.models.artifact import PROMPTS_FILE, read_description
from assay.records import Finding, Report
from assay.scorers.base import Scorer
from assay.scorers.load import artifact_path, load
from assay.workflows.rundir import prompt_file, write_report
from assay.workflows.show import progress, say
from assay.workflows.steps import Counting, EvaluateConfig, slug


def evaluate_suites(config: EvaluateConfig) -> Iterator[Report]:
    """A report for each suite, kept as eval/suite-NAME.json, as soon as it is there.

    Cases whose prompts the model was trained on are not scored; they count as that. Raises ValueError for flags that do not go
    together, unknown suites, and those that cannot be found, before anything is scored; DataError when no prompt is left.
    """
    if config.data or config.form or config.strict:
        raise ValueError("--suite goes without --data, --form and --strict: evaluate pairs in a call of their own")
    if config.name and len(config.suite) > 1:
        raise ValueError(f"--name {config.name} is one name for {len(config.suite)} suites: leave it out, or give one suite a call")
    path = artifact_path(config.model)
    suites = [load_suite(spec, config.suite_folder, config.limit) for spec in dict.fromkeys(config.suite)]
    scorer = load(path, dtype=config.dtype, device=config.device)
    fingerprint = str(read_description(path)["fingerprint"])
    for loaded in suites:
        seen = _seen(config.model, path, loaded)
        report = suite_report(loaded, _scored(scorer, loaded, seen), seed=config.seed)
        facts = {"scorer": scorer.fingerprint, **report.facts, "model": fingerprint}
        report = replace(report, facts=facts, findings=(*report.findings, *_trained_on(loaded, seen)))
        write_report(config.model, f"suite-{slug(config.name or loaded.suite.name)}", report)
        yield report


def _scored(scorer: Scorer, loaded: LoadedSuite, seen: frozenset[int]) -> Scored:
    num_answers = sum(len(set(case.candidates)) for i, case in enumerate(loaded.cases) if i not in seen)
    with progress(loaded.suite.name, num_answers, "answers") as advance:
        return score_cases(Counting(scorer, advance), loaded.cases, seen)


def _seen(model: Path, path: Path, loaded: LoadedSuite) -> frozenset[int]:
    """Numbers of the cases whose prompts the model was trained on."""
    trained_on = prompt_file(path, PROMPTS_FILE)
    if trained_on is None:
        say("note", f"{path} does not say what it was trained on: an overlap with {loaded.suite.name} would not be seen")
        return frozenset()
    seen = frozenset(i for i, case in enumerate(loaded.cases) if is_among(trained_on, case))
    if len(seen) == len(loaded.cases):
        refuse_overlap(trained_on, loaded.cases, train_name=f"the training set of {model}", eval_name=loaded.suite.name)
    return seen


def _trained_on(loaded: LoadedSuite, seen: frozenset[int]) -> tuple[Finding, ...]:
    if not seen:
        return ()
    why = f"of {len(loaded.cases):,} cases: their prompts are in the training set, so they are in no figure"
    return (Finding("warn", "cases that it was trained on", len(seen), 0, why),)
