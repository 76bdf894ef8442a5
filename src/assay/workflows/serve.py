"""`assay serve`: load artifacts, listen, answer until told to stop. FastAPI and uvicorn are the extra `serve`."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from assay.data.pairs import read_pairs
from assay.data.split import refuse_overlap
from assay.models.artifact import PROMPTS_FILE
from assay.models.device import Dtype
from assay.records import PreferencePair
from assay.scorers.base import Scorer
from assay.scorers.load import load
from assay.scorers.remote import as_told
from assay.workflows.align import AGREEMENT, FACTOR, compare_margins
from assay.workflows.rundir import prompt_file
from assay.workflows.show import say

if TYPE_CHECKING:
    from assay.serve.batcher import Batcher
    from assay.serve.gate import Keys
    from assay.serve.service import Service

TOKENS_VARIABLE, ADMIN_VARIABLE = "ASSAY_TOKENS", "ASSAY_ADMIN_TOKENS"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Serve reward models over HTTP, in the contracts of trainers and engines."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]MODEL")]
    """Run directories or artifacts; the first is the default. The name is that of the directory unless given."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own demands tokens."""
    port: int = 8000
    """0 takes a free one, and prints it."""
    token_file: Path | None = None
    """Tokens of those who may ask, one a line; more in ASSAY_TOKENS."""
    admin_token_file: Path | None = None
    """Tokens of those who may change models, one a line; more in ASSAY_ADMIN_TOKENS."""
    models_dir: Path | None = None
    """Directory whose artifacts may be loaded while serving."""
    reference: str | None = None
    """Pairs by whose margins a new model is brought to the scale of the old one."""
    reference_limit: int | None = None
    """Use the first pairs only."""
    timeout: float = 60.0
    """Seconds for a request, unless it says less."""
    drain: float = 30.0
    """Seconds for what is being answered when told to stop."""
    max_queued: int = 2048
    """Completions that may wait for each model; more are refused with 429."""
    max_items: int = 1024
    """Completions of one request."""
    max_text: int = 1_000_000
    """Characters of one completion."""
    max_body_mb: float = 8.0
    linger_ms: float = 3.0
    """How long an idle engine waits for more to come, at most."""
    batch_tokens: int | None = None
    """Tokens of one batch, about; four forwards' worth when left out."""
    cache: Path | None = None
    """SQLite file of rewards that are not computed again."""
    log_text: bool = False
    """Write prompts and answers to the log."""
    device: str = "auto"
    dtype: Dtype = "auto"
    ray: int = 0
    """Serve from so many replicas, by Ray Serve; 0: from this process."""
    ray_address: str | None = None
    """Ray cluster to join, as HOST:PORT, or auto; else one is started on this machine."""


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was asked and return.

    Raises ValueError for a caller's mistake (an open address without tokens too), OSError when the address is taken, ServiceFailed
    when an engine ended or got stuck.
    """
    try:
        from assay.serve.server import run_service
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'assay-rm[serve]'") from None
    if config.ray:
        serve_on_ray(config)
    else:
        run_service(make_service(config), host=config.host, port=config.port, drain_seconds=config.drain, say=say)


def serve_on_ray(config: ServeConfig) -> None:
    """The same on replicas, each of which loads the models: from places that every node finds, in one number format."""
    from assay.scorers.ray import connect, settled_dtype
    from assay.serve.replicas import import_serve, run_replicas

    if config.ray < 0:
        raise ValueError(f"--ray {config.ray} must be a number of replicas")
    if config.models_dir is not None:
        raise ValueError("--models-dir goes without --ray: a swap would reach one replica alone; start a second service instead")
    if config.ray_address is None and not _is_loopback(config.host):
        raise ValueError(f"--host {config.host} needs --ray-address: the cluster that is started here takes 127.0.0.1 alone")
    import_serve()
    keys, named = keys_of(config), _named(config.models)
    places = tuple(f"{name}={Path(spec).resolve() if Path(spec).exists() else spec}" for name, spec in named.items())
    cache = None if config.cache is None else config.cache.resolve()
    connect(config.ray, config.ray_address)
    settled = replace(config, models=places, cache=cache, dtype=settled_dtype(config.dtype, config.device))
    run_replicas(
        partial(make_service, settled, keys),
        num_replicas=config.ray,
        device=config.device,
        host=config.host,
        port=config.port,
        drain_seconds=config.drain,
        say=say,
    )


def keys_of(config: ServeConfig) -> Keys:
    """The tokens of file and environment. Raises ValueError for an address that others reach, without any."""
    from assay.serve.gate import Keys

    keys = Keys.of(
        _tokens(config.token_file, TOKENS_VARIABLE, "--token-file"),
        _tokens(config.admin_token_file, ADMIN_VARIABLE, "--admin-token-file"),
    )
    if not _is_loopback(config.host) and not keys.tokens:
        raise ValueError(
            f"--host {config.host} lets other machines ask: give --token-file or {TOKENS_VARIABLE}, or listen on 127.0.0.1"
        )
    return keys


def make_service(config: ServeConfig, keys: Keys | None = None) -> Service:
    """Load the models and start their engines; keys: of `keys_of`, where it was asked already."""
    from assay.serve.figures import Figures
    from assay.serve.gate import Limits
    from assay.serve.served import Served
    from assay.serve.service import EngineSettings, Service, Swapping, aside, start_engine

    keys = keys or keys_of(config)
    limits = Limits(
        max_body_bytes=round(config.max_body_mb * 2**20),
        max_items=config.max_items,
        max_text=config.max_text,
        timeout_seconds=config.timeout,
    )
    if config.max_items > config.max_queued:
        raise ValueError(f"--max-items {config.max_items} is more than --max-queued {config.max_queued}: such a request never fits")
    engine = EngineSettings(max_queued=config.max_queued, batch_tokens=config.batch_tokens, linger_seconds=config.linger_ms / 1000)
    named = _named(config.models)
    figures, models = Figures(), {}
    for name, spec in named.items():
        scorer = aside(_load, config, spec).result()
        told = as_told(spec)
        source = told if "://" in told else Path(spec).name
        models[name] = Served(name, start_engine(name, scorer, source, figures, engine))
        say("model", f"{name}: {told} ({models[name].current.fingerprint})")
    swapping = None
    if config.models_dir is not None:
        if not config.models_dir.is_dir():
            raise ValueError(f"--models-dir {config.models_dir} is no directory")
        pairs = _reference(config)
        swapping = Swapping(
            directory=config.models_dir,
            load=lambda path: _load_new(config, path, pairs),
            measure_scale=None if pairs is None else lambda old, new: measure_scale(old, new, pairs),
        )
    return Service(
        models=models,
        aliases={spec: name for name, spec in named.items()},
        keys=keys,
        limits=limits,
        figures=figures,
        engine=engine,
        swapping=swapping,
        log_text=config.log_text,
    )


def measure_scale(old: Batcher, new: Scorer, pairs: list[PreferencePair]) -> dict[str, Any]:
    """What rewards of `new` are to be multiplied by to be on the scale of `old`: by the margins of pairs, with an interval.

    Raises ValueError for fewer than 20 pairs that both score, or margins that are all 0.
    """
    completions = [completion for pair in pairs for completion in pair.completions()]

    def margins(value: np.ndarray) -> np.ndarray:
        return value[0::2].astype(np.float64) - value[1::2]

    report = compare_margins(margins(old.score(completions).value), margins(new.score(completions).value), pairs)
    factor, agreement = report.metric(FACTOR), report.metric(AGREEMENT)
    return {
        "factor": factor.value,
        "low": None if np.isnan(factor.low) else factor.low,
        "high": None if np.isnan(factor.high) else factor.high,
        "n_scored": factor.n_scored,
        "n": factor.n,
        "agreement": None if np.isnan(agreement.value) else agreement.value,
        "warnings": [f"{finding.name}: {finding.why}" for finding in report.findings if finding.level != "ok"],
    }


def _load(config: ServeConfig, spec: str | Path) -> Scorer:
    return load(spec, dtype=config.dtype, device=config.device, cache=config.cache)


def _load_new(config: ServeConfig, path: Path, pairs: list[PreferencePair] | None) -> Scorer:
    """A model to load while serving; refused when it was trained on prompts of the reference."""
    trained_on = prompt_file(path, PROMPTS_FILE) if pairs is not None else None
    if pairs is not None and trained_on is not None:
        refuse_overlap(trained_on, pairs, train_name=f"the training set of {path.name}", eval_name="the reference")
    return _load(config, path)


def _reference(config: ServeConfig) -> list[PreferencePair] | None:
    if config.reference is None:
        return None
    reader = read_pairs(config.reference, limit=config.reference_limit)
    pairs = list(reader)
    say("reference", f"{config.reference}: {reader.summary()}")
    return pairs


def _named(specs: tuple[str, ...]) -> dict[str, str]:
    """Name -> model. Raises ValueError for none, for two of one name, and for a name that could not stand in a path."""
    named: dict[str, str] = {}
    for spec in specs:
        given, _, rest = spec.partition("=") if re.match(r"[A-Za-z0-9._-]+=", spec) else ("", "", spec)
        if not given and "://" in spec:
            raise ValueError(f"{as_told(spec)} has no name to be served under: give NAME=URL")
        name = given or Path(rest).resolve().name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"{name!r} cannot be a model's name: give one as NAME={rest}, of letters, digits and . _ -")
        if name in named:
            raise ValueError(f"two models are named {name}: name them, as in {name}-2={rest}")
        named[name] = rest
    if not named:
        raise ValueError("no model to serve: name a run directory or an artifact")
    return named


def _tokens(file: Path | None, variable: str, flag: str) -> list[str]:
    """From a file, a line each, and from the environment, separated by commas or spaces."""
    found = re.split(r"[\s,]+", os.environ.get(variable, ""))
    if file is not None:
        if not file.is_file():
            raise ValueError(f"{flag} {file} does not exist")
        found += file.read_text().split()
    return [token for token in found if token]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
