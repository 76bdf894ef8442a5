"""Gold and reward against the distance that a policy went, of runs of reinforcement learning and of best-of-n, in one figure.

Suffixes: E evaluations, P prompts, M values of n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from assay.audit.best_of_n import BestOfN
from assay.audit.rl_fit import RLFit, fit_rl
from assay.records import Finding, Metric, Report, Table
from assay.rl.evaluations import Evaluations
from assay.stats.mean_intervals import mean_interval

BEST_OF_N = "best-of-n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesResult:
    """fits: of each run with gold. findings: where gold fell while the reward rose, and where Gao's form misses."""

    fits: Mapping[str, RLFit]
    findings: tuple[Finding, ...]
    page: Report

    def report(self) -> Report:
        return self.page


def rl_curves(runs: Mapping[str, Evaluations], *, best_of_n: BestOfN | None = None, seed: int = 0) -> CurvesResult:
    """The curves of runs, and Gao's form where there is gold. best_of_n: of the policy that the runs started from, by the same gold
    and the same reward; its gains over n = 1 are drawn in one figure with them. Raises ValueError for no run."""
    if not runs:
        raise ValueError("no run to draw: name directories that assay rl train made")
    fits = {name: fit_rl(one.distance_E, one.gold_EP - one.gold_EP[:1], seed=seed) for name, one in runs.items() if one.has_gold}
    metrics, findings = [], []
    for name, one in runs.items():
        metrics += _metrics(name, one, fits.get(name), seed)
        findings += _findings(name, one, fits.get(name), seed)
    page = Report(
        title="Gold against distance",
        metrics=tuple(metrics),
        tables=tuple(_tables(runs, fits, best_of_n)),
        findings=tuple(findings),
        facts={"runs": ", ".join(runs)},
        lead=_lead(runs, findings),
        key={metric.name: () for metric in metrics[:4]},
    )
    return CurvesResult(fits=fits, findings=tuple(findings), page=page)


def _metrics(name: str, found: Evaluations, fit: RLFit | None, seed: int) -> list[Metric]:
    prompts_P = np.arange(found.reward_EP.shape[1])
    last = [("reward", found.reward_EP)] + ([("gold", found.gold_EP)] if found.has_gold else [])
    metrics = []
    for what, values_EP in last:
        gain_P = values_EP[-1] - values_EP[0]
        known = ~np.isnan(gain_P)
        value = float(gain_P[known].mean()) if known.any() else math.nan
        interval = mean_interval(gain_P, prompts_P, seed=seed, support=None)
        note = f"at a distance of {found.distance_E[-1]:.3g}"
        metrics.append(Metric(f"{name}: gain in {what} at the end", value, *interval, int(known.sum()), len(gain_P), note))
    if fit is not None:
        note = fit.caveat or (
            "R(d) = d (alpha - beta log d)" if fit.holds else f"the form misses a point by {fit.misses:.2g} standard errors"
        )
        metrics.append(Metric(f"{name}: alpha", fit.alpha, *fit.alpha_interval, note=note))
        metrics.append(Metric(f"{name}: beta", fit.beta, *fit.beta_interval, note=note))
        metrics.append(Metric(f"{name}: distance where gold peaks", fit.peak, note="NaN: none within what was measured"))
    return metrics


def _findings(name: str, found: Evaluations, fit: RLFit | None, seed: int) -> list[Finding]:
    if not found.has_gold:
        return [
            Finding(
                "warn",
                f"{name}: gold",
                math.nan,
                0.0,
                "the run has no gold: a reward that rises says nothing about it; give --gold",
            )
        ]
    findings = []
    best = int(np.nanargmax(np.nanmean(found.gold_EP, axis=1)))
    if best not in (0, len(found.steps) - 1):
        prompts_P = np.arange(found.gold_EP.shape[1])
        lost_P = found.gold_EP[-1] - found.gold_EP[best]
        rose_P = found.reward_EP[-1] - found.reward_EP[best]
        lost, rose = (mean_interval(one_P, prompts_P, seed=seed, support=None) for one_P in (lost_P, rose_P))
        if lost.high < 0 and rose.low > 0:
            why = (
                f"between steps {found.steps[best]} and {found.steps[-1]} gold fell while the reward rose: overoptimisation. Stop "
                f"near a KL of {found.distance_E[best] ** 2:.3g}, or refresh the reward model"
            )
            findings.append(
                Finding(
                    "fail", f"{name}: gold falls while the reward rises", float(np.nanmean(lost_P)), 0.0, why, "overoptimization"
                )
            )
    if fit is not None and not fit.caveat and not fit.holds:
        why = "Gao's form misses the points of this run: its alpha, beta and peak say nothing here"
        findings.append(Finding("warn", f"{name}: form of the curve", fit.misses, fit.limit, why))
    return findings


def _tables(runs: Mapping[str, Evaluations], fits: Mapping[str, RLFit], best_of_n: BestOfN | None) -> list[Table]:
    tables = []
    for name, one in runs.items():
        fit = fits.get(name)
        gold_E = np.nanmean(one.gold_EP - one.gold_EP[:1], axis=1) if one.has_gold else np.full(len(one.steps), np.nan)
        reward_E = np.nanmean(one.reward_EP - one.reward_EP[:1], axis=1)
        fitted_E = fit.at_E if fit is not None and fit.holds else np.full(len(one.steps), np.nan)
        order = np.argsort(one.distance_E, kind="stable")
        columns = {"reward": reward_E, "gold": gold_E, "gold, by Gao's form": fitted_E}
        shown = {key: column for key, column in columns.items() if not np.isnan(column).all()}
        rows = tuple((float(one.distance_E[i]), *(float(column[i]) for column in shown.values())) for i in order)
        note = "gain over the policy that training started from; reward and gold each in its own unit"
        tables.append(Table(title=name, columns=("square root of KL", *shown), rows=rows, chart="line", note=note))
    if best_of_n is not None:
        tables += [*_together(runs, best_of_n), _best_of_n(best_of_n)]
    return tables


def _best_of_n(found: BestOfN) -> Table:
    start = float(found.gold[np.argmin(found.sizes)])
    columns = {"gold": found.gold - start, **({} if found.reward is None else {"reward": found.reward})}
    rows = tuple((float(d), *(float(one[i]) for one in columns.values())) for i, d in enumerate(np.sqrt(found.kl)))
    note = "an upper bound of its distance: log n - (n - 1) / n"
    return Table(title=BEST_OF_N, columns=("square root of KL", *columns), rows=rows, chart="line", note=note)


def _together(runs: Mapping[str, Evaluations], best_of_n: BestOfN) -> list[Table]:
    """Runs and best-of-n in one figure, for gold and for the reward: gains in its unit, each at its own distances."""
    start = float(best_of_n.gold[np.argmin(best_of_n.sizes)])
    beside = {"gold": best_of_n.gold - start, "reward": best_of_n.reward}
    found = []
    for what in ("gold", "reward"):
        curves = {
            name: (one.distance_E, np.nanmean(values_EP - values_EP[:1], axis=1))
            for name, one in runs.items()
            if not np.isnan(values_EP := one.gold_EP if what == "gold" else one.reward_EP).all()
        }
        gain_M = beside[what]
        if not curves or gain_M is None:
            continue
        curves[BEST_OF_N] = (np.sqrt(best_of_n.kl), gain_M)
        note = f"gain in {what}, in its own unit; the distance of best-of-n is an upper bound, and the two must have one {what}"
        found.append(against_distance(curves, title=f"{what}: runs and best-of-n", note=note))
    return found


def against_distance(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str, note: str) -> Table:
    """Curves in one figure, each a (distances, gains) at distances of its own."""
    rows = tuple(
        (float(distance_E[i]), *(float(gain_E[i]) if other == name else math.nan for other in curves))
        for name, (distance_E, gain_E) in curves.items()
        for i in np.argsort(distance_E, kind="stable")
    )
    return Table(title=title, columns=("square root of KL", *curves), rows=rows, chart="curves", note=note)


def _lead(runs: Mapping[str, Evaluations], findings: Sequence[Finding]) -> str:
    fell = [one.name.partition(":")[0] for one in findings if one.failure == "overoptimization"]
    with_gold = sum(one.has_gold for one in runs.values())
    if not with_gold:
        return "No run has gold: the curves show the reward alone."
    if not fell:
        where = "the one run" if with_gold == 1 else f"none of {with_gold} runs"
        return f"In {where} with gold, gold {'did not fall' if with_gold == 1 else 'fell'} while the reward rose, beyond noise."
    where = "the one run" if with_gold == 1 else f"{len(fell)} of {with_gold} runs"
    return f"In {where} with gold, gold fell while the reward rose: {', '.join(fell)}."
