"""The parity certificate of an artifact: it is what was saved, plain transformers reads it as Assay does, and so does an engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.errors import EngineError
from assay.models.artifact import read_description
from assay.models.golden import Golden, golden_completions, read_golden
from assay.models.plain import PlainReader
from assay.records import Completion, Finding, Metric, Report, Rewards, Table
from assay.scorers.engines import TAKES_IDS, Engine, ask_engine, endpoint
from assay.scorers.ensemble import PLAIN
from assay.scorers.load import artifact_path
from assay.scorers.local import LocalScorer, load_local
from assay.workflows.against import Comparison, compare_rewards
from assay.workflows.rundir import write_report
from assay.workflows.settings import ModelPath
from assay.workflows.show import say
from assay.workflows.traps import Subject, largest, run_traps

TITLE, TABLE = "Parity certificate", "checks and traps"
GOLDEN, GOLDEN_TOKENS, ENGINE, FINGERPRINT = "golden rewards", "golden tokens", "remote engine", "fingerprint"
_ALLOWED = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.15}
"""Largest difference of a remote engine that passes, by the number format of the saved weights, for a head of norm 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """Replay golden vectors and try known traps, here and on an engine."""

    model: ModelPath
    """Run directory or artifact."""
    against: str | None = None
    """URL of an engine that serves the artifact, to be compared as well."""
    engine: Engine = "vllm"
    """The contract that it speaks."""
    served_name: str | None = None
    """Name of the model in the engine, where it serves several."""
    tolerance: float | None = None
    """Largest difference of the engine's rewards that passes; from the number format of the weights when left out."""
    device: str = "cpu"
    """The certificate is made in float32; on a CPU it is slow for large models but the same everywhere."""


def verify(config: VerifyConfig) -> Report:
    """Make the certificate and keep it as eval/verify.json.

    Raises ValueError for a caller's mistake, ArtifactError for an artifact whose files are not those that were saved; a check
    that does not hold is a finding of level "fail".
    """
    if config.tolerance is not None and not 0 < config.tolerance < math.inf:
        raise ValueError(f"--tolerance {config.tolerance} must be a positive number")
    if config.against is not None:
        endpoint(config.against, config.engine)
    path = artifact_path(config.model)
    description = read_description(path)
    scorer = load_local(
        path, dtype="float32", device=config.device, combination=PLAIN
    )  # hashes weights, template and settings again
    findings = [Finding("ok", FINGERPRINT, 0, 0, "weights, template and settings give the digests of reward.json")]
    golden = read_golden(path)
    completions = golden.completions if golden else tuple(golden_completions(scorer.renderer.max_length)[0])
    rewards = scorer.score(completions)
    metrics: list[Metric] = []
    if golden is None:
        findings.append(
            Finding("warn", GOLDEN, math.nan, math.nan, "no golden vectors: the artifact is older than they are; save it again")
        )
    else:
        replayed = _replay(golden, scorer, rewards)
        metrics, findings = [replayed.metric], [*findings, *replayed.findings]
    tried = _try(config, path, scorer, completions, rewards, golden, str(description["dtype"]))
    report = Report(
        title=TITLE,
        metrics=(*metrics, *tried.metrics),
        findings=(*findings, *tried.findings),
        tables=(_table((*findings, *tried.findings)),),
        facts={
            "model": str(description["fingerprint"]),
            "weights saved in": str(description["dtype"]),
            "computed in": f"float32, {config.device}",
            **({"against": f"{config.against} ({config.engine})"} if config.against else {}),
            **(
                {"left out": "; ".join(f"{name}: {why}" for name, why in golden.left_out.items())}
                if golden and golden.left_out
                else {}
            ),
        },
    )
    say("written", str(write_report(config.model, "verify", report)))
    return report


def is_sound(report: Report) -> bool:
    """Whether no check failed."""
    return all(finding.level != "fail" for finding in report.findings)


def certificate_rows(report: Report) -> list[tuple[str, str, str]]:
    """Every verdict of the certificate, as rows of `show.print_figures`."""
    return [
        (f"{finding.level:<4} {finding.name}", "" if math.isnan(finding.value) else f"{finding.value:.2g}", finding.why)
        for finding in report.findings
    ]


class _Replayed(NamedTuple):
    metric: Metric
    findings: tuple[Finding, ...]


def _replay(golden: Golden, scorer: LocalScorer, rewards: Rewards) -> _Replayed:
    """Tokens and rewards of the golden texts now, against those at save time."""
    rendered = scorer.renderer.render(golden.completions)
    pairs = zip(rendered, golden.token_ids, strict=True)
    changed = sum(tuple(item.tokens.tolist()) != ids for item, ids in pairs)
    why = f"all {len(rendered)} golden texts have the tokens that they had when the artifact was saved"
    if changed:
        why = f"{changed} of {len(rendered)} golden texts have other tokens than when the artifact was saved: restore its tokenizer"
    findings = [Finding("fail" if changed else "ok", GOLDEN_TOKENS, changed, 0, why)]
    ok_N, was_ok_N = rewards.ok, ~np.isnan(golden.rewards)
    both_N = ok_N & was_ok_N
    difference = largest(rewards.value[both_N] - golden.rewards[both_N])
    num_lost = int((ok_N != was_ok_N).sum())
    is_held = difference <= scorer.tolerance and not num_lost
    why = "the artifact gives the rewards that it gave when it was saved"
    if num_lost:
        why = f"{num_lost} golden texts have a reward now and had none at save time, or the other way round"
    elif not is_held:
        why = "the artifact gives other rewards than when it was saved, or golden.json was edited"
    findings.append(Finding("ok" if is_held else "fail", GOLDEN, difference, scorer.tolerance, why))
    scored = int(both_N.sum())
    metric = Metric(
        "difference from the golden rewards", difference, n_scored=scored, n=len(both_N), note="largest, now against save time"
    )
    return _Replayed(metric, tuple(findings))


def _try(
    config: VerifyConfig,
    path: Path,
    scorer: LocalScorer,
    completions: tuple[Completion, ...],
    rewards: Rewards,
    golden: Golden | None,
    saved_dtype: str,
) -> Comparison:
    """The traps, and the engine when one is named, on the texts that have a reward."""
    kept = np.flatnonzero(rewards.ok)
    if not len(kept):
        return Comparison((), (Finding("fail", "traps", 0, 1, "no text has a reward under this artifact's length policy"),))
    told = tuple(completions[i] for i in kept)
    rendered = scorer.renderer.render(told)
    subject = Subject(
        scorer,
        PlainReader(path, config.device),
        told,
        tuple(tuple(item.tokens.tolist()) for item in rendered),
        np.array([item.is_cut for item in rendered]),
        rewards.value[kept],
        scorer.tolerance,
        golden.num_special_tokens if golden else None,
    )
    findings, wrong = run_traps(subject)
    plain = next(finding for finding in findings if finding.name == "plain transformers")
    metric = Metric(
        "difference from plain transformers", plain.value, n_scored=len(kept), n=len(rewards), note="largest, in float32"
    )
    if config.against is None:
        return Comparison((metric,), tuple(findings))
    tolerance = config.tolerance or _ALLOWED.get(saved_dtype, 0.15) * max(1.0, scorer.head_norm)
    remote = _ask(config, config.against, subject, wrong, tolerance)
    return Comparison((metric, *remote.metrics), (*findings, *remote.findings))


def _ask(config: VerifyConfig, url: str, subject: Subject, wrong: dict[str, np.ndarray], tolerance: float) -> Comparison:
    """The engine's rewards against ours; whatever it does wrong is a failed check."""
    takes_ids = config.engine in TAKES_IDS
    kept = np.flatnonzero(~subject.is_cut | takes_ids)  # a text is sent whole, so that the engine would cut it in its own way
    texts = [_without_bos(subject, subject.plain.text(subject.completions[i])) for i in kept]
    try:
        theirs_N = ask_engine(
            url, [subject.token_ids[i] for i in kept], texts, engine=config.engine, served_name=config.served_name
        )
    except EngineError as error:
        return Comparison((), (Finding("fail", ENGINE, math.nan, math.nan, str(error)),))
    compared = compare_rewards(
        subject.ours[kept],
        theirs_N,
        [subject.completions[i] for i in kept],
        {name: wrong_N[kept] for name, wrong_N in wrong.items()},
        tolerance=tolerance,
        exact=subject.tolerance,
    )
    return compared


def _without_bos(subject: Subject, text: str) -> str:
    """A rendered text for an engine that adds special tokens itself."""
    bos = subject.plain.tokenizer.bos_token
    return text.removeprefix(bos) if bos and subject.plain.tokenizer.num_special_tokens_to_add() else text


def _table(findings: tuple[Finding, ...]) -> Table:
    columns = ("trap", "value", "tolerance", "verdict", "what it says")
    rows = tuple((f.name, f.value, f.threshold, f.level, f.why) for f in findings)
    return Table(title=TABLE, columns=columns, rows=rows, note="value: largest difference or movement of a reward, or a count")
