"""From a name to a Scorer. Torch is imported only where a model is loaded into this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from assay.records import Dtype
from assay.run_files import artifact_path, read_description
from assay.scorers.base import Scorer
from assay.scorers.engine_api import Remote, printable_url
from assay.scorers.remote import RemoteScorer
from assay.scorers.rules import RULE, load_rule
from assay.scorers.wrappers.cached import Cached

if TYPE_CHECKING:
    from assay.scorers.ensemble import Combination

_URL = re.compile(r"(?:(?P<engine>vllm|sglang|tei|openrlhf)\+)?(?P<scheme>https?):/+(?P<rest>.+)")  # a Path has one slash left


def load(
    spec: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    combination: Combination | None = None,
    cache: str | Path | None = None,
) -> Scorer:
    """The scorer that `spec` names: an artifact directory, a run directory that holds one, the URL of a service, or a rule.

    http://HOST:PORT is Assay's own service (see `RemoteScorer`). vllm+http://, sglang+http://, tei+http:// and openrlhf+http://
    are engines. rule:MODULE:FUNCTION is a plain Python function (see `RuleScorer`); its code is run, so never take such a name
    from a file or a request. dtype, device, max_tokens and combination are for directories only.

    `score` gives raw rewards, whether or not the artifact is calibrated; `prefer` uses the calibration if there is one.
    dtype, device: "auto" picks what suits the machine. max_tokens: token budget of one forward. combination: how an ensemble's
    members become one reward, instead of the saved way; the saved calibration does not apply to it and is then left out.
    cache: an SQLite file of cached rewards (see `Cached`).
    Raises ValueError for a name that is none of these, ArtifactError for an artifact that is damaged.
    """
    if not is_directory(spec):
        if (dtype, device, max_tokens, combination) != ("auto", "auto", None, None):
            raise ValueError(
                f"{printable_url(str(spec))} is not computed from a directory: leave dtype, device, max_tokens and combination out"
            )
        named: Scorer = load_rule(str(spec)) if is_rule(spec) else _remote(str(spec))
        return named if cache is None else Cached(named, cache)
    from assay.scorers.local import load_raw  # imports torch
    from assay.scorers.wrappers.calibrated import Calibrated, Calibration

    path = artifact_path(spec)
    scorer: Scorer = load_raw(path, dtype=dtype, device=device, max_tokens=max_tokens, combination=combination)
    scorer = Cached(scorer, cache) if cache is not None else scorer  # the cache holds rewards, so it goes inside `Calibrated`
    calibration = read_description(path).get("calibration")
    if calibration is None or combination is not None:
        return scorer
    return Calibrated(scorer=scorer, calibration=Calibration.from_json(calibration))


def is_rule(spec: str | Path) -> bool:
    """Whether the name is that of a Python function. Only text is: a Path may come from a file or a request."""
    return isinstance(spec, str) and spec.startswith(RULE)


def is_directory(spec: str | Path) -> bool:
    """Whether the name is a directory on this machine: neither a rule nor a URL."""
    return not is_rule(spec) and _URL.fullmatch(str(spec)) is None


def _remote(url: str) -> RemoteScorer:
    parts = _URL.fullmatch(url)
    assert parts is not None
    return RemoteScorer(f"{parts['scheme']}://{parts['rest']}", engine=cast(Remote, parts["engine"] or "assay"))
