"""What a refresh is asked for, and what one that goes on must have in common with the one that was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from assay.data.prompt_rows import Prompt
from assay.files import json_digest
from assay.records import Dtype
from assay.rl.loop.loop_settings import PolicySettings
from assay.run_files import artifact_path, read_description
from assay.scorers.base import Scorer

Then = Literal["restart", "back", "go-on"]
WhenWorse = Literal["go-on", "stop"]
PEOPLE = "people"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSettings:
    """When the reward model is trained anew, on what, and what the policy does then."""

    every: int | None = None
    """Refresh every so many steps."""
    kl_budget: float | None = None
    """Refresh so many nats an answer beyond where the policy last began."""
    at_alarm: bool = False
    """Refresh when the policy loses to its own past by the anchor."""
    rounds: int = 3
    """Refreshes at most; after them the policy takes its last steps."""
    pairs: int = 250
    """New pairs in each."""
    then: Then = "restart"
    """The policy begins anew, goes back to half its steps, or on."""
    when_worse: WhenWorse = "go-on"
    """When the new model is worse: go on under the old one, or stop."""
    max_unlabelled: float = 0.1
    """Share of new pairs that may stay without a label."""
    fdr: float = 0.05
    """Of the gate, as of assay compare."""
    drop: float = 0.0
    """Of the gate: smaller losses of accuracy are none."""

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("rounds", 1), ("pairs", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} {value} must be at least {least}")
        if self.kl_budget is not None and not self.kl_budget > 0:
            raise ValueError(f"kl_budget {self.kl_budget:g} must be above 0, in nats an answer")
        for name in ("max_unlabelled", "fdr", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name):g} lies outside [0, 1]: it is a share, such as 0.05")
        for name, known in (("then", get_args(Then)), ("when_worse", get_args(WhenWorse))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: use one of {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A running service that gets each promoted model. url: of it; models_dir: the directory that it loads from, on this machine;
    name: of the model there, None where it serves one."""

    url: str
    models_dir: Path
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class RefreshRun:
    """policy: what training starts from, and what the KL is measured to. reward: run directory of the first reward model. prompts:
    to train on; held_out: to look at. labeller: opens what labels the new pairs, None for people; labeller_name: for the records.
    gold: for figures alone. anchor: by which the policy is held against its past; gold if None. service: gets what is promoted.
    """

    policy: str
    reward: Path
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    out: Path
    settings: RefreshSettings
    labeller: Callable[[], Scorer] | None
    labeller_name: str
    policy_settings: PolicySettings = field(default_factory=PolicySettings)
    gold: Scorer | None = None
    anchor: Scorer | None = None
    service: ServedModel | None = None
    device: str = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        if self.settings.every is None and self.settings.kl_budget is None and not self.settings.at_alarm:
            raise ValueError("nothing says when to refresh: give --every STEPS, --kl-budget NATS, --at-alarm, or several of them")
        if self.settings.at_alarm and self.anchor is None and self.gold is None:
            raise ValueError("--at-alarm needs what the policy is held against its past by: give --anchor, or --gold")
        every = self.settings.every
        others = self.settings.kl_budget is not None or self.settings.at_alarm
        if every is not None and every >= self.policy_settings.steps and not others:
            raise ValueError(
                f"--every {every} with --steps {self.policy_settings.steps}: the policy ends before the first refresh; take fewer "
                "steps between them, or more in all"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same when the run in `out` goes on; the machine and the service may be others."""
        asked = [[turn.as_dict() for turn in prompt.messages] for prompt in (*self.prompts, *self.held_out)]
        return {
            "policy": self.policy,
            "reward model": str(read_description(artifact_path(self.reward))["fingerprint"]),
            "prompts": json_digest(asked),
            "labeller": self.labeller_name,
            "gold": None if self.gold is None else self.gold.fingerprint,
            "anchor": None if self.anchor is None else self.anchor.fingerprint,
            "settings": asdict(self.settings),
            "policy settings": asdict(self.policy_settings),
        }
