"""The flags of `assay serve`. This module does not need FastAPI."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from assay.records import Dtype
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.verifiers.confined import CodeFlags
from assay.serve.metrics.watching import WatchFlags

TOKENS_VARIABLE, ADMIN_VARIABLE = "ASSAY_TOKENS", "ASSAY_ADMIN_TOKENS"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Serve reward models over HTTP, with the APIs of trainers and engines."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]MODEL")]
    """Runs, artifacts, URLs, rules or rubrics; the first is the default. The name is that of the directory unless given."""
    host: str = "127.0.0.1"
    """Address to listen on; an address that other machines can reach needs tokens."""
    port: int = 8000
    """0 takes a free one, and prints it."""
    allowed_host: tuple[str, ...] = ()
    """Names that clients may have for this machine; addresses and localhost always may. With tokens: any name, unless one is
    given."""
    token_file: Path | None = None
    """Tokens that requests must have, one a line; more in ASSAY_TOKENS."""
    admin_token_file: Path | None = None
    """Tokens that allow changing models, one a line; more in ASSAY_ADMIN_TOKENS."""
    models_dir: Path | None = None
    """Directory whose artifacts may be loaded while serving."""
    reference: str | None = None
    """Pairs whose margins bring a new model's rewards to the scale of the old one."""
    reference_limit: int | None = None
    """Use the first pairs only."""
    timeout: float = 60.0
    """Seconds for a request, unless it asks for less."""
    drain: float = 30.0
    """Seconds to finish running requests at SIGTERM or SIGINT."""
    max_queued: int = 2048
    """Completions that may wait for each model; more are refused with 429."""
    max_items: int = 1024
    """Completions of one request."""
    max_text: int = 1_000_000
    """Characters of one completion."""
    max_body_mb: float = 8.0
    linger_ms: float = 3.0
    """How long an idle engine waits for more completions, at most."""
    batch_tokens: int | None = None
    """Approximate tokens of one batch; those of four forwards when left out."""
    cache: Path | None = None
    """SQLite file of cached rewards."""
    signs: WatchFlags = field(default_factory=WatchFlags)
    log_text: bool = False
    """Write prompts and answers to the log."""
    log_json: bool = False
    """Write the log as JSON, one object a line."""
    device: str = "auto"
    dtype: Dtype = "auto"
    code: CodeFlags = field(default_factory=CodeFlags)
    ray: int = 0
    """Number of Ray Serve replicas; 0: serve from this process."""
    ray_address: str | None = None
    """Ray cluster to join, as HOST:PORT, or auto; else one is started on this machine."""
    judge: JudgeOptions = field(default_factory=JudgeOptions)
