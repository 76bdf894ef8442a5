"""Build and run the service of `assay serve`: load models, read tokens, set limits; in this process or in Ray Serve's replicas."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from assay.console import say
from assay.data.pairs import read_pairs
from assay.evaluation.scale import measure_scale
from assay.records import PreferencePair
from assay.scorers.base import Scorer
from assay.scorers.http.engine_api import printable_url
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.load import is_directory
from assay.scorers.opened import open_scorer, refuse_seen
from assay.scorers.ray import connect, resolved_dtype
from assay.serve.batcher import Batcher
from assay.serve.metrics.prometheus import Counters
from assay.serve.middleware import Keys, Limits
from assay.serve.replicas import import_serve, run_replicas
from assay.serve.serve_config import ADMIN_VARIABLE, TOKENS_VARIABLE, ServeConfig
from assay.serve.served import Served
from assay.serve.server import run_service
from assay.serve.service import EngineSettings, Service, Swapping, run_in_thread, start_engine

_WORD = "[A-Za-z0-9][A-Za-z0-9._-]*"


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then answer all waiting requests and return.

    Raises ValueError for wrong settings (such as an open address without tokens), OSError when the address is taken, ServiceFailed
    when an engine ended or got stuck.
    """
    if config.ray:
        serve_on_ray(config)
    else:
        run_service(
            make_service(config), host=config.host, port=config.port, drain_seconds=config.drain, log_json=config.log_json, say=say
        )


def serve_on_ray(config: ServeConfig) -> None:
    """The same on replicas. Each replica loads the models, from absolute paths and in one number format."""
    if config.ray < 0:
        raise ValueError(f"--ray {config.ray} must be a number of replicas")
    if judged := [spec for spec in _named(config.models).values() if is_judge(spec)]:
        raise ValueError(f"{judged[0]} is a judge, which is asked from one process: leave --ray out")
    if config.models_dir is not None:
        raise ValueError("--models-dir goes without --ray: a swap would reach one replica alone; start a second service instead")
    if config.ray_address is None and not _is_loopback(config.host):
        raise ValueError(f"--host {config.host} needs --ray-address: the cluster that is started here takes 127.0.0.1 alone")
    import_serve()
    keys, named = keys_of(config), _named(config.models)
    places = tuple(f"{name}={Path(spec).resolve() if Path(spec).exists() else spec}" for name, spec in named.items())
    cache = None if config.cache is None else config.cache.resolve()
    connect(config.ray, config.ray_address)
    resolved = replace(config, models=places, cache=cache, dtype=resolved_dtype(config.dtype, config.device))
    run_replicas(
        partial(make_service, resolved, keys),
        num_replicas=config.ray,
        device=config.device,
        host=config.host,
        port=config.port,
        drain_seconds=config.drain,
        log_json=config.log_json,
        say=say,
    )


def keys_of(config: ServeConfig) -> Keys:
    """The tokens of file and environment. Raises ValueError when there are none and other machines can reach the address."""
    keys = Keys.of(
        _tokens(config.token_file, TOKENS_VARIABLE, "--token-file"),
        _tokens(config.admin_token_file, ADMIN_VARIABLE, "--admin-token-file"),
    )
    if not _is_loopback(config.host) and not keys.tokens:
        raise ValueError(
            f"--host {config.host} lets other machines ask: give --token-file or {TOKENS_VARIABLE}, or listen on 127.0.0.1"
        )
    return keys


def hosts_of(config: ServeConfig, keys: Keys) -> tuple[str, ...]:
    """Names that the Host header may have besides addresses; empty for any, where tokens keep strangers out and none is given."""
    given = tuple(host.lower() for host in config.allowed_host)
    return given if keys.tokens else (config.host.lower(), *given)


def make_service(config: ServeConfig, keys: Keys | None = None) -> Service:
    """Load the models and start their engines. keys: from `keys_of`, which is called when they are left out."""
    keys = keys or keys_of(config)
    limits = Limits(
        max_body_bytes=round(config.max_body_mb * 2**20),
        max_items=config.max_items,
        max_text=config.max_text,
        timeout_seconds=config.timeout,
    )
    if config.max_items > config.max_queued:
        raise ValueError(f"--max-items {config.max_items} is more than --max-queued {config.max_queued}: such a request never fits")
    engine = EngineSettings(
        max_queued=config.max_queued,
        batch_tokens=config.batch_tokens,
        linger_seconds=config.linger_ms / 1000,
        watching=config.signs.read(),
    )
    named = _named(config.models)
    figures, models = Counters(), {}
    for name, spec in named.items():
        scorer = run_in_thread(_load, config, spec).result()
        label = printable_url(spec)
        source = Path(spec).name if is_directory(spec) or is_judge(spec) else label
        models[name] = Served(name, start_engine(name, scorer, source, figures, engine))
        say("model", f"{name}: {label} ({models[name].current.fingerprint})")
    swapping = None
    if config.models_dir is not None:
        if not config.models_dir.is_dir():
            raise ValueError(f"--models-dir {config.models_dir} is no directory")
        pairs = _reference(config)
        swapping = Swapping(
            directory=config.models_dir,
            load=lambda path: _load_new(config, path, pairs),
            measure_scale=None if pairs is None else lambda old, new: scale_onto(old, new, pairs),
        )
    return Service(
        models=models,
        aliases={spec: name for name, spec in named.items()},
        keys=keys,
        limits=limits,
        figures=figures,
        engine=engine,
        swapping=swapping,
        hosts=hosts_of(config, keys),
        log_text=config.log_text,
    )


def scale_onto(old: Batcher, new: Scorer, pairs: list[PreferencePair]) -> dict[str, Any]:
    """The factor that brings rewards of `new` to the scale of `old`, from the margins of pairs, with an interval.

    Raises ValueError for fewer than 20 pairs that both score, or margins that are all 0.
    """
    completions = [completion for pair in pairs for completion in pair.completions()]

    def margins(value: np.ndarray) -> np.ndarray:
        return value[0::2].astype(np.float64) - value[1::2]

    result = measure_scale(margins(old.score(completions).value), margins(new.score(completions).value), pairs)
    factor, agreement = result.factor, result.agreement
    return {
        "factor": factor.value,
        "low": None if np.isnan(factor.low) else factor.low,
        "high": None if np.isnan(factor.high) else factor.high,
        "n_scored": factor.n_scored,
        "n": factor.n,
        "agreement": None if np.isnan(agreement.value) else agreement.value,
        "warnings": [f"{finding.name}: {finding.why}" for finding in result.findings if finding.level != "ok"],
    }


def _load(config: ServeConfig, spec: str | Path) -> Scorer:
    judge = config.judge if is_judge(spec) or not any(map(is_judge, _named(config.models).values())) else None
    return open_scorer(
        spec, dtype=config.dtype, device=config.device, cache=config.cache, judge=judge, run_code=config.code.allowed
    ).scorer


def _load_new(config: ServeConfig, path: Path, pairs: list[PreferencePair] | None) -> Scorer:
    """A model to load while serving. Only directories are accepted, and no model that was trained on prompts of the reference."""
    opened = open_scorer(path, dtype=config.dtype, device=config.device, cache=config.cache)
    opened.need_artifact("a model that is loaded while serving")
    if pairs is not None:
        refuse_seen(opened, pairs, "the reference")
    return opened.scorer


def _reference(config: ServeConfig) -> list[PreferencePair] | None:
    if config.reference is None:
        return None
    reader = read_pairs(config.reference, limit=config.reference_limit)
    pairs = list(reader)
    say("reference", f"{config.reference}: {reader.summary()}")
    return pairs


def _named(specs: tuple[str, ...]) -> dict[str, str]:
    """Name -> model. Raises ValueError without models, for two of one name, and for a name that cannot be part of a URL path."""
    named: dict[str, str] = {}
    for spec in specs:
        given, _, rest = spec.partition("=") if re.match(r"[A-Za-z0-9._/-]+=", spec) else ("", "", spec)
        if not given and not is_directory(spec) and not is_judge(spec):
            raise ValueError(f"{printable_url(spec)} has no name to be served under: give NAME={printable_url(spec)}")
        name = given or (Path(rest).stem if is_judge(rest) else Path(rest).resolve().name)
        if not re.fullmatch(rf"{_WORD}(/{_WORD})*", name):
            raise ValueError(f"{name!r} cannot be a model's name: give one as NAME={rest}, of letters, digits and . _ - /")
        if name in named:
            raise ValueError(f"two models are named {name}: name them, as in {name}-2={rest}")
        named[name] = rest
    if not named:
        raise ValueError("no model to serve: name a run directory or an artifact")
    return named


def _tokens(file: Path | None, variable: str, flag: str) -> list[str]:
    """Tokens from a file, one a line, and from an environment variable, separated by commas or spaces."""
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
