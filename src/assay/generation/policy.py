"""The language model that answers, by its name on a command line: in this process, or at an endpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass

from assay.generation.endpoint import Endpoint
from assay.generation.replies import Backend
from assay.records import Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who answers."""

    policy: str | None = None
    """Language model in this process: directory or hub id; with --policy-url its name there."""
    policy_url: str | None = None
    """OpenAI-compatible endpoint of the policy, such as http://127.0.0.1:8000/v1."""
    policy_key_env: str | None = None
    """Name of the variable that holds the key of --policy-url; it is sent to that host alone."""
    policy_budget: float | None = None
    """US dollars that the answers may cost at most."""

    def __post_init__(self) -> None:
        if self.policy_key_env is not None and self.policy_url is None:
            raise ValueError(
                f"--policy-key-env {self.policy_key_env} goes with --policy-url: the key is sent to the host named there"
            )
        if self.policy is None and (self.policy_url is not None or self.policy_budget is not None):
            raise ValueError("--policy-url and --policy-budget are of --policy, which names no language model: give it")

    def backend(self, *, dtype: Dtype, device: str) -> Backend:
        """The backend. Raises ValueError without a name, for a variable that is empty and a model that cannot be loaded."""
        if self.policy is None:
            raise ValueError("--policy names no language model: give a directory, a hub id, or its name at --policy-url")
        if self.policy_url is not None:
            return Endpoint(self.policy_url, self.policy, key=_key(self.policy_key_env))
        from assay.generation.local_model import load_language_model  # imports torch

        return load_language_model(self.policy, dtype=dtype, device=device)


def _key(name: str | None) -> str | None:
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise ValueError(f"--policy-key-env {name}: there is no such variable, or it is empty")
    return key or None
