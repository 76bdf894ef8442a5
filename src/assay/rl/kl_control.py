"""KL to the reference policy: estimates of it, and what holds it where it should be. Pure functions of a state that is saved.

Estimates, a token (Schulman, "Approximating KL divergence", 2020), of x drawn from the policy, d = log p_policy(x) - log p_ref(x):
k1 = d (unbiased, noisy, may be negative), k2 = d^2 / 2 (biased, never negative), k3 = exp(-d) - 1 + d (unbiased, never negative).

Controllers say which beta multiplies it next. "fixed": the same. "ziegler": multiplied by 1 + gain clip(KL / target - 1, +-0.2)
(Ziegler et al. 2019, arXiv 1909.08593, section 2.2, with their K_beta as gain). "pi": log beta is proportional to the error and to
its sum; the sum stands still while beta is at an end of its range, so that it need not be unwound first (anti-windup). An alarm
multiplies beta at once by `on_alarm`; that factor then fades by half every `fades` steps.

Suffixes: B answers, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np

Estimate = Literal["k1", "k2", "k3"]
Control = Literal["fixed", "ziegler", "pi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KLSettings:
    """beta: the factor to begin with. target: nats an answer that "ziegler" and "pi" aim at; `schedule` nats are added to it every
    step, up to `highest_target`. gain: of the error; integral: of its sum ("pi"). low, high: the range of beta. on_alarm: factor
    of beta after an alarm, 1 for none; fades: steps in which its logarithm halves."""

    control: Control = "fixed"
    beta: float = 0.05
    target: float | None = None
    schedule: float = 0.0
    highest_target: float | None = None
    gain: float = 0.1
    integral: float = 0.01
    low: float = 1e-4
    high: float = 10.0
    on_alarm: float = 2.0
    fades: float = 50.0

    def __post_init__(self) -> None:
        if self.control not in get_args(Control):
            raise ValueError(f"control {self.control!r} is unknown: use one of {', '.join(get_args(Control))}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta {self.beta:g} must be 0 or more")
        if self.control == "fixed":
            return
        if self.target is None or not self.target > 0:
            raise ValueError(f"control {self.control} needs a target above 0, in nats an answer; it is {self.target}")
        if not 0 < self.low <= self.beta <= self.high:
            raise ValueError(f"beta {self.beta:g} must lie in the range from {self.low:g} to {self.high:g}, which begins above 0")
        if self.on_alarm < 1 or self.fades <= 0:
            raise ValueError(f"on_alarm {self.on_alarm:g} must be 1 or more, and fades {self.fades:g} above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class KLState:
    """step: how many there were. beta: of the controller alone. summed: of the errors ("pi"). alarm: logarithm of the factor that
    an alarm left."""

    step: int = 0
    beta: float
    summed: float = 0.0
    alarm: float = 0.0

    def saved(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_saved(cls, saved: Mapping[str, Any]) -> Self:
        return cls(**saved)


def first_state(settings: KLSettings) -> KLState:
    return KLState(beta=settings.beta)


def beta_of(settings: KLSettings, state: KLState) -> float:
    """The factor of the KL in the next step, with what an alarm left of its own; never above the range."""
    if state.alarm == 0 or settings.beta == 0:
        return state.beta
    return min(state.beta * math.exp(state.alarm), max(settings.high, state.beta))


def target_at(settings: KLSettings, step: int) -> float:
    """Nats an answer that are aimed at in a step."""
    target = (settings.target or 0.0) + settings.schedule * step
    return target if settings.highest_target is None else min(target, settings.highest_target)


def after_alarm(settings: KLSettings, state: KLState) -> KLState:
    """The state after an alarm: beta is multiplied by `on_alarm` at once."""
    return replace(state, alarm=math.log(settings.on_alarm))


def after_step(settings: KLSettings, state: KLState, kl: float) -> KLState:
    """The state after a step with this mean KL of an answer, in nats. A KL that is not finite leaves beta as it is: there is
    nothing to go by."""
    state = replace(state, step=state.step + 1, alarm=state.alarm * 0.5 ** (1 / settings.fades))
    if settings.control == "fixed" or not math.isfinite(kl):
        return state
    error = kl / target_at(settings, state.step - 1) - 1
    if settings.control == "ziegler":
        beta = state.beta * (1 + settings.gain * min(max(error, -0.2), 0.2))
        return replace(state, beta=_within(settings, beta))
    error = min(max(error, -1.0), 1.0)
    summed = state.summed + error
    beta = settings.beta * math.exp(settings.gain * error + settings.integral * summed)
    if _within(settings, beta) != beta and error * (beta - _within(settings, beta)) > 0:
        summed = state.summed  # at an end, and pushed beyond it
    return replace(state, beta=_within(settings, beta), summed=summed)


def kl_estimate(log_ratio_BT: np.ndarray, kind: Estimate = "k3") -> np.ndarray:
    """(B, T) estimate of the KL of each token from log p_policy - log p_reference of the tokens that the policy drew."""
    log_ratio_BT = np.asarray(log_ratio_BT, dtype=np.float64)
    if kind == "k1":
        return log_ratio_BT
    if kind == "k2":
        return log_ratio_BT**2 / 2
    if kind == "k3":
        return np.expm1(-log_ratio_BT) + log_ratio_BT
    raise ValueError(f"estimate {kind!r} is unknown: use one of {', '.join(get_args(Estimate))}")


def _within(settings: KLSettings, beta: float) -> float:
    return min(max(beta, settings.low), settings.high)
