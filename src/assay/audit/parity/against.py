"""A remote engine's rewards against Assay's: how far apart, which answers change places, and which known mistake explains it.

Suffix: N texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from assay.audit.parity.traps import largest, num_new_ties
from assay.records import Completion, Finding, Metric
from assay.scorers.http.engine_api import Engine, endpoint

REMOTE, FLIPS, FLIPS_OVERALL, TIES = "remote difference", "rank flips within a prompt", "rank flips overall", "new ties"
DIAGNOSIS = "what the engine does"
_CLEARLY = 4.0  # a mistake explains the engine's rewards when it comes this many times nearer to them than ours do


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEngine:
    """An engine that serves an artifact. engine: the contract that it speaks; served_name: of the model, where it serves several.

    tolerance: largest difference of a reward that passes; None: by the number format of the saved weights. Raises ValueError for a
    URL that is none.
    """

    url: str
    engine: Engine = "vllm"
    served_name: str | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        endpoint(self.url, self.engine)


class Comparison(NamedTuple):
    """Figures and findings of two sets of rewards that should be the same."""

    metrics: tuple[Metric, ...]
    findings: tuple[Finding, ...]


def compare_rewards(
    ours_N: np.ndarray,
    theirs_N: np.ndarray,
    completions: Sequence[Completion],
    wrong: Mapping[str, np.ndarray],
    *,
    tolerance: float,
    exact: float,
) -> Comparison:
    """Compare N rewards of an engine with Assay's.

    wrong: what an engine with a known mistake gives. tolerance: largest difference that passes; a flip between two answers to
    one prompt that are further apart than that fails too. exact: difference below which the two are the same.
    """
    everything = list(combinations(range(len(ours_N)), 2))
    siblings = [(i, j) for i, j in everything if completions[i].messages == completions[j].messages]
    difference = largest(theirs_N - ours_N)
    flips = [(i, j) for i, j in siblings if _is_flip(ours_N, theirs_N, i, j)]
    flips_overall = sum(_is_flip(ours_N, theirs_N, i, j) for i, j in everything)
    ties, clear = num_new_ties(ours_N, theirs_N, siblings), [(i, j) for i, j in flips if abs(ours_N[i] - ours_N[j]) > tolerance]
    metrics = (
        Metric(REMOTE, difference, n_scored=len(ours_N), n=len(ours_N), note="largest, in units of the reward"),
        Metric(FLIPS, len(flips), n_scored=len(siblings), n=len(siblings), note="pairs of answers to one prompt"),
        Metric(FLIPS_OVERALL, flips_overall, n_scored=len(everything), n=len(everything), note="pairs of any two texts"),
        Metric(TIES, ties, n_scored=len(siblings), n=len(siblings), note="pairs of answers to one prompt"),
    )
    findings = [
        Finding(
            "ok" if difference <= tolerance else "fail",
            REMOTE,
            difference,
            tolerance,
            "the engine's rewards are Assay's, within the tolerance"
            if difference <= tolerance
            else "the engine's rewards are not those of the artifact",
        )
    ]
    findings += _rank_findings(len(flips), len(clear), ties, tolerance)
    findings += _diagnosis(ours_N, theirs_N, wrong, tolerance=tolerance, exact=exact)
    return Comparison(metrics, tuple(findings))


def _rank_findings(num_flips: int, num_clear: int, num_ties: int, tolerance: float) -> list[Finding]:
    findings = []
    if num_clear:
        why = f"the engine prefers the other answer in pairs that Assay holds more than {tolerance:.2g} apart"
        findings.append(Finding("fail", FLIPS, num_clear, 0, why))
    elif num_flips:
        why = f"the engine prefers the other answer in pairs that Assay holds less than {tolerance:.2g} apart"
        findings.append(Finding("warn", FLIPS, num_flips, 0, why))
    else:
        findings.append(Finding("ok", FLIPS, 0, 0, "answers to one prompt come in the same order"))
    if num_ties:
        why = "answers with different rewards in Assay have equal ones in the engine: its head or its reply rounds"
        findings.append(Finding("warn", TIES, num_ties, 0, why))
    return findings


def _diagnosis(
    ours_N: np.ndarray, theirs_N: np.ndarray, wrong: Mapping[str, np.ndarray], *, tolerance: float, exact: float
) -> list[Finding]:
    """Names the known mistake that comes clearly nearer to the engine's rewards than ours do, on the texts it was tried on."""
    error_N = theirs_N - ours_N
    if not largest(error_N) > exact:
        return []
    offset = float(np.mean(error_N))
    candidates = {f"a constant of {offset:+.3g} on every reward": ours_N + np.float32(offset), **wrong}
    nearness: dict[str, tuple[float, float]] = {}
    for name, wrong_N in candidates.items():
        tried = np.isfinite(wrong_N)
        distance, error = largest((theirs_N - wrong_N)[tried]), largest(error_N[tried])
        if tried.any() and distance * _CLEARLY < error:
            nearness[name] = (distance, error)
    if not nearness:
        return []
    name = min(nearness, key=lambda name: nearness[name][0])
    distance, error = nearness[name]
    level: Literal["warn", "fail"] = "fail" if largest(error_N) > tolerance else "warn"
    return [Finding(level, DIAGNOSIS, distance, error, f"its rewards are those of {name}, to within {distance:.2g}")]


def _is_flip(ours_N: np.ndarray, theirs_N: np.ndarray, i: int, j: int) -> bool:
    return bool((ours_N[i] - ours_N[j]) * (theirs_N[i] - theirs_N[j]) < 0)
