"""`assay audit verify`: do the artifact's files, plain transformers and an engine give the same rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from assay.audit.parity.against import RemoteEngine
from assay.audit.parity.certificate import Certificate, make_certificate
from assay.audit.parity.verdict_parity import verdict_certificate
from assay.commands.shared import Model, keep, show
from assay.run_files import read_description
from assay.scorers.generative.open_generative import is_generative
from assay.scorers.http.engine_api import Engine
from assay.scorers.opened import open_scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Replay golden vectors and try known mistakes, here and on an engine; exit status 4 if one fails."""

    model: Model
    against: str | None = None
    """URL of an engine that serves the artifact, to be compared as well."""
    engine: Engine = "vllm"
    """The contract that it speaks."""
    served_name: str | None = None
    """Name of the model in the engine, where it serves several."""
    tolerance: float | None = None
    """Largest difference of the engine's rewards that passes; from the number format of the weights when left out."""
    out: Path | None = None
    """Directory of the report; that of the model when left out."""
    device: str = "cpu"
    """The certificate is made in float32; on a CPU it is slow for large models but the same everywhere."""
    verbose: bool = False
    """Print every figure with its note, not only the summary."""


def run(config: Config) -> int:
    """Make the certificate, keep it as eval/verify.json, and print every check."""
    if config.tolerance is not None and not 0 < config.tolerance < math.inf:
        raise ValueError(f"--tolerance {config.tolerance} must be a positive number")
    remote = None
    if config.against is not None:
        remote = RemoteEngine(url=config.against, engine=config.engine, served_name=config.served_name, tolerance=config.tolerance)
    opened = open_scorer(config.model)
    artifact = opened.need_artifact("a parity certificate")
    if is_generative(read_description(artifact)):
        if remote is not None:
            raise ValueError(f"--against {config.against}: a generative model is compared with none; ask it there with --judge-url")
        certificate = verdict_certificate(artifact)
    else:
        certificate = make_certificate(artifact, device=config.device, remote=remote)
    home = opened.report_home(config.out)
    report = keep(certificate, home, "verify", page=f"{certificate.page.title} of {opened.name}")
    then = ("assay", "serve", config.model) if certificate.is_sound else ()
    show([report], verbose=config.verbose, page=home / "verify.html", then=then, rows=certificate_rows(certificate))
    return 0 if certificate.is_sound else 4


def certificate_rows(certificate: Certificate) -> list[tuple[str, str, str]]:
    """Every check as a row of a table."""
    return [
        (f"{finding.level:<4} {finding.name}", "" if math.isnan(finding.value) else f"{finding.value:.2g}", finding.why)
        for finding in certificate.findings
    ]
