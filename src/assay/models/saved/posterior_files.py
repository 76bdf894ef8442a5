"""The posterior of a head beside its artifact: posterior/head.safetensors, and the entry of reward.json that has its digest.

It decides the std of a reward, and no value: the digest of the weights leaves it out, the fingerprint has its entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from assay.errors import ArtifactError
from assay.files import file_sha256, replacing
from assay.run_files import POSTERIOR, read_description, write_description
from assay.stats.head_posterior import HeadPosterior

FILE = f"{POSTERIOR}/head.safetensors"


class SavedPosterior(NamedTuple):
    """entry: of reward.json."""

    posterior: HeadPosterior
    entry: Mapping[str, Any]

    @property
    def reference(self) -> str:
        """The answer that rewards are compared with for their std."""
        return str(self.entry["reference"])


def save_posterior(artifact: Path, posterior: HeadPosterior, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Keep a posterior beside an artifact, in place of one that is there; returns the entry. facts: what else it says."""
    (artifact / POSTERIOR).mkdir(exist_ok=True)
    with replacing(artifact / FILE) as work:
        save_file({"factor": np.ascontiguousarray(posterior.factor_DD, np.float32)}, work)
    entry = {"kind": "laplace", "prior": posterior.prior, **facts, "digest": file_sha256(artifact / FILE)[:32]}
    write_description(artifact, {**read_description(artifact), POSTERIOR: entry})
    return entry


def load_posterior(artifact: Path) -> SavedPosterior | None:
    """The posterior of an artifact; None where none was fitted. Raises ArtifactError for one that is missing or another."""
    entry = read_description(artifact).get(POSTERIOR)
    if not entry:
        return None
    file, fix = artifact / FILE, "fit it again with assay model posterior"
    if not file.is_file():
        raise ArtifactError(f"{file} is missing, and {artifact} says that it has one: {fix}")
    if file_sha256(file)[:32] != entry["digest"]:
        raise ArtifactError(f"{file} is not the posterior that {artifact} was given (digest {entry['digest']}): {fix}")
    try:
        factor_DD = load_file(file)["factor"]
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{file} cannot be read ({error}): {fix}") from error
    return SavedPosterior(HeadPosterior(factor_DD=factor_DD.astype(np.float64), prior=float(entry["prior"])), entry)
