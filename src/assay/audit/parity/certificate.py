"""The parity certificate of an artifact: it is what was saved, plain transformers reads it as Assay does, and so does an engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.audit.parity.against import REMOTE, Comparison, RemoteEngine, compare_rewards
from assay.audit.parity.step_traps import StepCase, run_step_traps, step_case
from assay.audit.parity.traps import PLAIN_TRANSFORMERS, ParityCase, largest, run_traps
from assay.errors import EngineError
from assay.models.saved.golden import Golden, golden_completions, read_golden
from assay.models.saved.plain import PlainReader
from assay.records import Completion, Finding, Metric, PageResult, Report, Rewards, Table
from assay.run_files import read_description
from assay.scorers.ensemble import PLAIN
from assay.scorers.http.engine_api import TAKES_IDS, ask_engine, ask_token_labels
from assay.scorers.local import LocalScorer, load_local

TITLE, TABLE = "Parity certificate", "checks and traps"
GOLDEN, GOLDEN_TOKENS, ENGINE, FINGERPRINT = "golden rewards", "golden tokens", "remote engine", "fingerprint"
_ALLOWED = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.15}
"""Largest difference of a remote engine that passes, by the number format of the saved weights, for a head of norm 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(PageResult):
    """The parity certificate of an artifact; all findings decide "parity"."""

    @property
    def is_sound(self) -> bool:
        """Whether no check failed."""
        return all(finding.level != "fail" for finding in self.findings)


def make_certificate(artifact: Path, *, device: str = "cpu", remote: RemoteEngine | None = None) -> Certificate:
    """Replay the golden vectors, try the known mistakes, and compare with an engine where one is given; in float32.

    Raises ArtifactError for an artifact whose files are not those that were saved; a check that does not hold is a finding of level
    "fail".
    """
    description = read_description(artifact)
    # hashes weights, template and settings again
    scorer = load_local(artifact, dtype="float32", device=device, combination=PLAIN)
    identity = Finding("ok", FINGERPRINT, 0, 0, "weights, template and settings give the digests of reward.json")
    golden = read_golden(artifact)
    completions = golden.completions if golden else tuple(golden_completions(scorer.renderer.max_length, scorer.head)[0])
    rewards = scorer.score(completions)
    allowed = _ALLOWED.get(str(description["dtype"]), 0.15) * max(1.0, scorer.head_norm)
    replayed = _replay(golden, scorer, rewards)
    if scorer.head.reads_steps:
        tried = _try_steps(step_case(scorer, PlainReader(artifact, device), completions), remote, allowed)
    else:
        tried = _try(_case(artifact, device, scorer, completions, rewards, golden), len(rewards), remote, allowed)
    facts = {
        "model": str(description["fingerprint"]),
        "weights saved in": str(description["dtype"]),
        "computed in": f"float32, {device}",
    }
    if remote is not None:
        facts["against"] = f"{remote.url} ({remote.engine})"
    if golden and golden.left_out:
        facts["left out"] = "; ".join(f"{name}: {why}" for name, why in golden.left_out.items())
    findings = tuple(finding._replace(failure="parity") for finding in (identity, *replayed.findings, *tried.findings))
    metrics = (*replayed.metrics, *tried.metrics)
    page = Report(title=TITLE, metrics=metrics, tables=(_table(findings),), findings=findings, facts=facts, lead=_lead(findings))
    return Certificate(page=replace(page, key={metric.name: () for metric in metrics}))


def _lead(findings: Sequence[Finding]) -> str:
    failed = [finding.name for finding in findings if finding.level == "fail"]
    if not failed:
        return "No reader that was tried gives other rewards than the saved files."
    return f"Rewards differ, or would: {', '.join(failed[:4])}{', ...' if len(failed) > 4 else ''}."


def _replay(golden: Golden | None, scorer: LocalScorer, rewards: Rewards) -> Comparison:
    """Tokens and rewards of the golden texts now, against those at save time."""
    if golden is None:
        why = "no golden vectors: the artifact is older than they are; save it again"
        return Comparison((), (Finding("warn", GOLDEN, math.nan, math.nan, why),))
    rendered = scorer.renderer.render(golden.completions)
    pairs = zip(rendered, golden.token_ids, strict=True)
    changed = sum(tuple(item.tokens.tolist()) != ids for item, ids in pairs)
    why = f"all {len(rendered)} golden texts have the tokens that they had when the artifact was saved"
    if changed:
        why = f"{changed} of {len(rendered)} golden texts have other tokens than when the artifact was saved: restore its tokenizer"
    tokens = Finding("fail" if changed else "ok", GOLDEN_TOKENS, changed, 0, why)
    now_R, then_R = _all_rewards(scorer, rewards), np.concatenate(golden.steps)
    what = "step" if scorer.head.reads_steps else "golden text"
    if len(now_R) != len(then_R):
        why = f"the golden texts have {len(now_R)} {what}s now and had {len(then_R)} at save time"
        return Comparison((), (tokens, Finding("fail", GOLDEN, math.nan, scorer.tolerance, why)))
    ok_R, was_ok_R = np.isfinite(now_R), np.isfinite(then_R)
    both_R = ok_R & was_ok_R
    name, difference = "difference from the golden rewards", largest(now_R[both_R] - then_R[both_R])
    num_lost, tolerance = int((ok_R != was_ok_R).sum()), scorer.step_tolerance
    if not both_R.any() and not num_lost:
        why = f"not measured: no {what} has a reward, neither now nor at save time"
        metric = Metric(name, difference, n=len(both_R), note=why)
        return Comparison((metric,), (tokens, Finding("warn", GOLDEN, difference, 0, why)))
    is_equal = difference <= tolerance and not num_lost
    why = "the artifact gives the rewards that it gave when it was saved" + (", of every step" if scorer.head.reads_steps else "")
    if num_lost:
        why = f"{num_lost} {what}s have a reward now and had none at save time, or the other way round"
    elif not is_equal:
        why = "the artifact gives other rewards than when it was saved, or golden.json was edited"
    metric = Metric(
        name, difference, n_scored=int(both_R.sum()), n=len(both_R), note=f"largest of each {what}, now and at save time"
    )
    return Comparison((metric,), (tokens, Finding("ok" if is_equal else "fail", GOLDEN, difference, tolerance, why)))


def _all_rewards(scorer: LocalScorer, rewards: Rewards) -> np.ndarray:
    """Of each text the reward, or the rewards of its steps, one after another."""
    if not scorer.head.reads_steps:
        return rewards.value
    assert rewards.steps is not None
    return np.concatenate(rewards.steps)


def _try_steps(case: StepCase | None, remote: RemoteEngine | None, allowed: float) -> Comparison:
    """The checks of a model that reads steps. allowed: as in `_try`."""
    if case is None:
        return Comparison((), (Finding("fail", "traps", 0, 1, "no step has a reward under this artifact's length policy"),))
    findings = run_step_traps(case)
    more: tuple[Metric, ...] = ()
    if remote is not None:
        compared = _ask_steps(remote, case, remote.tolerance or allowed)
        more, findings = compared.metrics, [*findings, *compared.findings]
    plain = next(finding for finding in findings if finding.name == PLAIN_TRANSFORMERS)
    num = len(case.ours)
    note = "largest of all steps, in float32"
    metric = Metric("difference from plain transformers", plain.value, n_scored=num, n=num, note=note)
    return Comparison((metric, *more), tuple(findings))


def _ask_steps(remote: RemoteEngine, case: StepCase, tolerance: float) -> Comparison:
    """The rows that an engine gives for the tokens at the ends of steps, against ours."""
    if remote.engine != "vllm":
        why = f"not compared: {remote.engine} gives no logits of tokens; vLLM's /pooling does"
        return Comparison((), (Finding("warn", ENGINE, math.nan, tolerance, why),))
    try:
        rows = ask_token_labels(remote.url, case.token_ids, served_name=remote.served_name)
    except EngineError as error:
        return Comparison((), (Finding("fail", ENGINE, math.nan, math.nan, str(error)),))
    logits_RK = np.concatenate([of[list(places)] for of, places in zip(rows, case.reads, strict=True)])
    if logits_RK.shape[1] != len(case.scorer.token_labels):
        why = f"the engine gives {logits_RK.shape[1]} numbers a token, the model has {len(case.scorer.token_labels)} labels"
        return Comparison((), (Finding("fail", REMOTE, math.nan, tolerance, why),))
    difference_R = logits_RK[:, 1] - logits_RK[:, 0] - case.ours
    difference, num = largest(difference_R), len(difference_R)
    is_equal = difference <= tolerance
    offset = float(np.mean(difference_R))
    is_shift = not is_equal and largest(difference_R - offset) <= tolerance
    why = "the engine's rewards of all steps are Assay's, within the tolerance"
    if is_shift:
        bias_K: Any = getattr(case.scorer.model.head, "bias", None)
        is_bias = bias_K is not None and abs(offset + float((bias_K[1] - bias_K[0]).detach())) <= tolerance
        why = f"every reward differs by {offset:+.3g}" + (": the engine has lost the bias of the head" if is_bias else "")
    elif not is_equal:
        why = "the engine's rewards of steps are not those of the artifact"
    metric = Metric(REMOTE, difference, n_scored=num, n=num, note="largest of all steps, in log-odds")
    return Comparison((metric,), (Finding("ok" if is_equal else "fail", REMOTE, difference, tolerance, why),))


def _case(
    artifact: Path,
    device: str,
    scorer: LocalScorer,
    completions: tuple[Completion, ...],
    rewards: Rewards,
    golden: Golden | None,
) -> ParityCase | None:
    """The texts that have a reward; None when none has."""
    kept = np.flatnonzero(rewards.ok)
    if not len(kept):
        return None
    scored = tuple(completions[i] for i in kept)
    rendered = scorer.renderer.render(scored)
    return ParityCase(
        scorer,
        PlainReader(artifact, device),
        scored,
        tuple(tuple(item.tokens.tolist()) for item in rendered),
        np.array([item.is_cut for item in rendered]),
        rewards.value[kept],
        scorer.tolerance,
        golden.num_special_tokens if golden else None,
    )


def _try(case: ParityCase | None, num_texts: int, remote: RemoteEngine | None, allowed: float) -> Comparison:
    """The checks, and the engine where one is given. allowed: difference that passes where the caller named none."""
    if case is None:
        return Comparison((), (Finding("fail", "traps", 0, 1, "no text has a reward under this artifact's length policy"),))
    findings, wrong = run_traps(case)
    plain = next(finding for finding in findings if finding.name == PLAIN_TRANSFORMERS)
    metric = Metric(
        "difference from plain transformers", plain.value, n_scored=len(case.ours), n=num_texts, note="largest, in float32"
    )
    if remote is None:
        return Comparison((metric,), tuple(findings))
    compared = _ask(remote, case, wrong, remote.tolerance or allowed)
    return Comparison((metric, *compared.metrics), (*findings, *compared.findings))


def _ask(remote: RemoteEngine, case: ParityCase, wrong: Mapping[str, np.ndarray], tolerance: float) -> Comparison:
    """The engine's rewards against ours; whatever it does wrong is a failed check."""
    takes_ids = remote.engine in TAKES_IDS
    kept = np.flatnonzero(~case.is_cut | takes_ids)  # a text is sent whole, so that the engine would cut it in its own way
    if not len(kept):
        why = "not compared: every text is longer than the length policy allows, and this engine would cut it in its own way"
        return Comparison((), (Finding("warn", ENGINE, math.nan, tolerance, why),))
    ids, texts = [case.token_ids[i] for i in kept], [_without_bos(case, case.plain.text(case.completions[i])) for i in kept]
    try:
        theirs_N = ask_engine(remote.url, ids, texts, engine=remote.engine, served_name=remote.served_name)
    except EngineError as error:
        return Comparison((), (Finding("fail", ENGINE, math.nan, math.nan, str(error)),))
    return compare_rewards(
        case.ours[kept],
        theirs_N,
        [case.completions[i] for i in kept],
        {name: wrong_N[kept] for name, wrong_N in wrong.items()},
        tolerance=tolerance,
        exact=case.tolerance,
    )


def _without_bos(case: ParityCase, text: str) -> str:
    """A rendered text for an engine that adds special tokens itself."""
    bos = case.plain.tokenizer.bos_token
    return text.removeprefix(bos) if bos and case.plain.tokenizer.num_special_tokens_to_add() else text


def _table(findings: tuple[Finding, ...]) -> Table:
    columns = ("trap", "value", "tolerance", "verdict", "what it says")
    rows = tuple((f.name, f.value, f.threshold, f.level, f.why) for f in findings)
    return Table(title=TABLE, columns=columns, rows=rows, note="value: largest difference or shift of a reward, or a count")
