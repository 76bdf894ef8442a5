"""What is done with a trained model: calibrate, evaluate, write the report. They read and write files only."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from assay.data.pairs import read_pairs
from assay.data.rows import stem
from assay.data.split import prompt_hashes, refuse_overlap
from assay.evaluation.evaluate import BAG_OF_WORDS, BRIER, ECE, evaluate_margins
from assay.evaluation.slices import columns_of
from assay.evaluation.uncertainty import diversity, member_rewards, members_of
from assay.metrics import brier, ece
from assay.models.artifact import PROMPTS_FILE, read_description, write_description
from assay.models.device import Dtype
from assay.records import Finding, Metric, PreferencePair, Report, Rewards
from assay.report.card import render_card
from assay.report.html import write_html
from assay.scorers.base import Scorer, pair_rewards, sigmoid
from assay.scorers.baselines import fit_bag_of_words
from assay.scorers.calibrate import Calibrated, fit_calibration
from assay.scorers.load import artifact_path, load, load_raw
from assay.wire import report_from_json
from assay.workflows.chunks import CHUNK
from assay.workflows.rundir import prompt_file, run_config, split_pairs, write_report
from assay.workflows.settings import ModelPath
from assay.workflows.show import progress, say

CALIBRATION_PROMPTS_FILE = "calibration_prompts.npy"
COMMON_NAMES = ("data", "pairs", "test", "train", "training", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig:
    """Fit temperature and monotone map on pairs that it was not trained on."""

    model: ModelPath
    """Run directory or artifact."""
    data: str | None = None
    """Pairs to calibrate on; the run's own calibration split when left out."""
    limit: int | None = None
    form: str | None = None
    device: str = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Accuracy with intervals, baselines, calibration, slices; suites."""

    model: ModelPath
    """Run directory or artifact."""
    data: str | None = None
    """Pairs to evaluate on; the run's own test split when left out."""
    suite: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Instead: a benchmark by name (docs/suites.md), or a file of pairs or of lists. Several: give it again."""
    suite_folder: Path | None = None
    """Where the suites' files lie; else the environment's ASSAY_DATA, else the hub."""
    name: str | None = None
    """Name of the evaluation; that of the data when left out."""
    limit: int | None = None
    form: str | None = None
    strict: bool = False
    seed: int = 0
    device: str = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """One page and the model card from all that was found out about a run."""

    model: ModelPath
    """Run directory or artifact."""


def calibrate(config: CalibrateConfig) -> Metric:
    """Fit on the named pairs and keep the result in reward.json; returns the temperature with its interval.

    Raises ValueError for fewer than 20 scored pairs, DataError when they hold prompts that the model was trained on.
    """
    path = artifact_path(config.model)
    pairs, name = _pairs(config.model, path, config.data, "calibration", config.limit, form=config.form)
    scorer = load_raw(path, dtype=config.dtype, device=config.device)
    return keep_calibration(path, score_margins(scorer, pairs, "calibrating"), pairs, split=name)


def keep_calibration(path: Path, margins_P: np.ndarray, pairs: list[PreferencePair], *, split: str) -> Metric:
    """Fit on the margins of these pairs and keep the result in reward.json; returns the temperature with its interval."""
    calibration = fit_calibration(
        margins_P,
        preference_P=np.array([pair.preference for pair in pairs]),
        clusters_P=np.array([pair.prompt_key for pair in pairs]),
        split=Path(split).name,
    )
    write_description(path, {**read_description(path), "calibration": calibration.to_json()})
    np.save(path / CALIBRATION_PROMPTS_FILE, prompt_hashes(pairs))
    spread = 1.96 * calibration.temperature_se
    error = f" +- {spread:.3f}" if np.isfinite(spread) else ""
    say("temperature", f"{calibration.temperature:.3f}{error}, fitted on {calibration.num_pairs:,} pairs of {split}")
    if calibration.note:
        say("note", calibration.note)
    low, high = calibration.temperature - spread, calibration.temperature + spread
    return Metric("temperature", calibration.temperature, low, high, calibration.num_pairs, len(pairs))


def evaluate_model(config: EvaluateConfig) -> Report:
    """Evaluate and keep the report under eval/; the calibration's effect is shown by the uncalibrated figures beside."""
    path = artifact_path(config.model)
    pairs, name = _pairs(config.model, path, config.data, "test", config.limit, form=config.form, strict=config.strict)
    kept_as = "test" if name == "test" and not (config.name or config.data) else slug(config.name or name)
    scorer = load(path, dtype=config.dtype, device=config.device)
    rewards_P2, members_KP2 = score_pairs(scorer, pairs, "evaluating")
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    calibration = scorer.calibration if isinstance(scorer, Calibrated) else None
    raw_P = sigmoid(margins_P)
    report = evaluate_margins(
        margins_P,
        pairs,
        calibration.probability(margins_P) if calibration else raw_P,
        rewards_P2=rewards_P2,
        title=f"Evaluation on {config.name or kept_as}",
        seed=config.seed,
        baselines=_fitted_words(config.model) if config.data is None else None,
    )
    report = replace(report, findings=(*report.findings, *_calibrated_on_these(path, pairs)))
    members = members_of(scorer)
    if members is not None and members_KP2 is not None:
        preference_P, clusters_P = np.array([pair.preference for pair in pairs]), np.array([pair.prompt_key for pair in pairs])
        parts = diversity(members_KP2, preference_P, clusters_P, members.combination, seed=config.seed)
        report = replace(
            report,
            metrics=(*report.metrics, *parts.metrics),
            tables=(*report.tables, *parts.tables),
            findings=(*report.findings, *parts.findings),
        )
    if calibration:
        report = replace(report, metrics=(*report.metrics, *_uncalibrated(raw_P, margins_P, pairs, config.seed)))
    origin = f"calibrated on {calibration.split}" if calibration else "sigmoid of the margin, not calibrated"
    found = {"data": Path(name).name, "model": str(read_description(path)["fingerprint"]), "probabilities": origin}
    report = replace(report, facts={"scorer": scorer.fingerprint, **report.facts, **found})
    write_report(config.model, kept_as, report)
    return report


def report_run(config: ReportConfig) -> Path:
    """Write report.html from the reports under eval/, and the artifact's model card; returns the page's path."""
    directory = config.model
    if not (directory / "eval").is_dir():
        raise ValueError(f"{directory} holds no eval/ directory: run assay train or assay evaluate first")
    files = sorted((directory / "eval").glob("*.json"), key=lambda file: (file.stem != "test", file.stem == "training", file.stem))
    reports = [report_from_json(file.read_text(encoding="utf-8")) for file in files]
    path = artifact_path(directory)
    description = read_description(path)
    reports = [_with_staleness(report, str(description["fingerprint"])) for report in reports]
    (path / "README.md").write_text(render_card(description, reports), encoding="utf-8")
    for file, report in zip(files, reports, strict=True):
        if path != directory:  # the figures travel with the model, the rows of the data do not
            write_report(path, file.stem, replace(report, examples=()))
    page = directory / "report.html"
    write_html(page, reports, str(description.get("title", directory.name)))
    return page


def score_margins(scorer: Scorer, pairs: list[PreferencePair], label: str) -> np.ndarray:
    """Margins (P,) of many pairs, with a progress bar."""
    with progress(label, 2 * len(pairs), "answers") as advance:
        rewards_P2 = pair_rewards(Counting(scorer, advance), pairs)
    return rewards_P2[:, 0] - rewards_P2[:, 1]


def score_pairs(scorer: Scorer, pairs: list[PreferencePair], label: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rewards of chosen and rejected (P, 2), and of an ensemble those of its members (K, P, 2) too, from one pass."""
    members, parts = members_of(scorer), []
    with progress(label, 2 * len(pairs), "answers") as advance:
        if members is None:
            return pair_rewards(Counting(scorer, advance), pairs), None
        for start in range(0, len(pairs), CHUNK // 2):
            parts.append(member_rewards(members, pairs[start : start + CHUNK // 2]))
            advance(2 * parts[-1].shape[1])
    members_KP2 = np.concatenate(parts, axis=1)
    return members.combination(members_KP2.reshape(len(members_KP2), -1))[0].reshape(-1, 2).astype(np.float64), members_KP2


def slug(name: str) -> str:
    """A file name for a data set's name; a name that many sets share ("pairs", "test") is led by its folder's."""
    base = stem(name)
    if base in COMMON_NAMES:
        base = f"{Path(name).parent.name or 'data'}-{base}"
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in base) or "data"


def _fitted_words(run: Path) -> dict[str, Scorer]:
    """The bag-of-words baseline fitted on the very pairs that the model was trained on (at most 20,000 of them)."""
    return {BAG_OF_WORDS: fit_bag_of_words(list(itertools.islice(split_pairs(run_config(run), "train"), 20_000)))}


def _calibrated_on_these(path: Path, pairs: list[PreferencePair]) -> tuple[Finding, ...]:
    known = prompt_file(path, CALIBRATION_PROMPTS_FILE)
    shared = np.intersect1d(known, prompt_hashes(pairs)) if known is not None else np.empty(0)
    if not len(shared):
        return ()
    why = "the model was calibrated on prompts of this set: its Brier score and ECE here are flattered"
    return (Finding("warn", "prompts that it was calibrated on", float(len(shared)), 0.0, why),)


def _with_staleness(report: Report, fingerprint: str) -> Report:
    if report.facts.get("model", fingerprint) == fingerprint:
        return report
    why = "these figures were made with other weights or another calibration: evaluate again"
    return replace(report, findings=(Finding("warn", "stale figures", math.nan, math.nan, why), *report.findings))


def _uncalibrated(raw_P: np.ndarray, margins_P: np.ndarray, pairs: list[PreferencePair], seed: int) -> tuple[Metric, Metric]:
    columns = columns_of(margins_P, pairs, raw_P, seed)
    scored, note = int(np.isfinite(raw_P).sum()), "sigmoid of the raw margin: what the calibration changed"
    return (
        Metric(f"{BRIER}, not calibrated", brier(raw_P, columns.preference_P), n_scored=scored, n=len(pairs), note=note),
        Metric(f"{ECE}, not calibrated", ece(*columns.confidence), n_scored=scored, n=len(pairs), note=note),
    )


class Counting:
    """A scorer that scores in chunks and tells how far it is; its rewards are the inner scorer's."""

    def __init__(self, scorer: Scorer, advance: Any) -> None:
        self.scorer, self._advance = scorer, advance
        self.fingerprint, self.scope, self.tolerance = scorer.fingerprint, scorer.scope, scorer.tolerance

    def score(self, completions: Any) -> Rewards:
        parts, start = [], 0
        while start < len(completions):
            end = min(start + CHUNK, len(completions))
            while end < len(completions) and completions[end].messages == completions[end - 1].messages != ():
                end += 1  # the answers to a prompt stay together: they share it
            parts.append(self.scorer.score(completions[start:end]))
            self._advance(len(parts[-1]))
            start = end
        errors = tuple(error for part in parts for error in part.error or ())
        return Rewards(value=np.concatenate([part.value for part in parts]) if parts else np.empty(0), error=errors)


def _pairs(
    model: Path, path: Path, data: str | None, split: str, limit: int | None, *, form: str | None = None, strict: bool = False
) -> tuple[list[PreferencePair], str]:
    """The pairs that a step is asked to use and their name; refused when the model was trained on some of their prompts."""
    if data is None:
        config = run_config(model)
        pairs, name = list(split_pairs(config, split)), split if config.eval_data is None or split != "test" else config.eval_data
    else:
        reader = read_pairs(data, form=form, strict=strict, limit=limit)
        pairs, name = list(reader), data
        say("read", f"{data}: {reader.summary()}")
    if not pairs:
        raise ValueError(f"there are no pairs in {name}: give --data")
    trained_on = prompt_file(path, PROMPTS_FILE)
    if trained_on is None:
        say("note", f"{path} does not say what it was trained on: an overlap with {name} would not be seen")
    else:
        refuse_overlap(trained_on, pairs, train_name=f"the training set of {model}", eval_name=name)
    return pairs[:limit], name
