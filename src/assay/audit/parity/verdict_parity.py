"""The parity certificate of a generative model: its files are those that were saved, and its golden verdicts are given again."""

from __future__ import annotations

from pathlib import Path

from assay.audit.parity.certificate import FINGERPRINT, TITLE, Certificate
from assay.models.saved.artifact import verify_digest
from assay.records import Finding, Metric, Report
from assay.run_files import GENERATIVE, read_description
from assay.scorers.generative.golden_verdicts import golden_verdicts, largest_change, plain_log_odds, read_golden_verdicts
from assay.scorers.generative.own_forms import own_form

TOKENS, VERDICTS, PLAIN = "golden tokens", "golden verdicts", "plain transformers"
ALLOWED = 1e-3  # log-odds, in float32


def verdict_certificate(artifact: Path) -> Certificate:
    """Replay the golden verdicts here and with plain transformers, in float32 on a CPU.

    Raises ArtifactError for an artifact whose files are not those that were saved.
    """
    description = read_description(artifact)
    verify_digest(artifact)
    entry = description[GENERATIVE]
    own = own_form(str(entry["form"]).removeprefix("assay-"), critique=bool(entry.get("critique", True)))  # type: ignore[arg-type]
    saved, again = read_golden_verdicts(artifact), golden_verdicts(artifact, own)
    other = sum(one.token_ids != two.token_ids for one, two in zip(saved, again, strict=True))
    change = largest_change(saved, again)
    told = [(one.log_odds, plain_log_odds(artifact, own, one.token_ids)) for one in saved if one.log_odds is not None]
    plain = max((abs(ours - theirs) for ours, theirs in told if theirs is not None), default=0.0)
    compared = sum(theirs is not None for _, theirs in told)
    findings = [
        Finding("ok", FINGERPRINT, 0, 0, "weights, template and settings give the digests of reward.json"),
        Finding(
            "fail" if other else "ok", TOKENS, other, 0, f"{other} of {len(saved)} questions have other tokens than were saved"
        ),
        Finding(
            "fail" if change > ALLOWED else "ok",
            VERDICTS,
            change,
            ALLOWED,
            f"log-odds of {len(saved)} questions, replayed in float32",
        ),
        Finding(
            "fail" if plain > ALLOWED else "ok",
            PLAIN,
            plain,
            ALLOWED,
            f"log-odds of {compared} questions by plain transformers"
            + ("" if compared else ": none, since a word is several tokens or has too little probability"),
        ),
    ]
    metrics = (Metric(f"{VERDICTS}: largest difference", change, n_scored=len(saved), n=len(saved)),)
    findings = [one._replace(failure="parity") for one in findings]
    bad = [one.name for one in findings if one.level == "fail"]
    lead = f"Not sound: {', '.join(bad)}." if bad else "Its files are those that were saved, and its verdicts are given again."
    facts = {"model": str(description["fingerprint"]), "computed in": "float32, cpu"}
    return Certificate(page=Report(title=TITLE, metrics=metrics, findings=tuple(findings), facts=facts, lead=lead))
