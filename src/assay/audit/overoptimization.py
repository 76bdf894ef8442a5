"""Overoptimisation by best-of-n: what choosing among more answers by a proxy gains in gold, and where the gold reward peaks.

The distance from the policy is d = sqrt(KL), KL = log n - (n - 1) / n, in root nats (Gao et al. 2022, "Scaling Laws for Reward
Model Overoptimization"); their form for best-of-n is fitted by `gao_fit`.

Intervals are 95%, resampled over prompts, the same draws for all that is compared. Where every prompt shows the same (a perfect
proxy), resampling gives no interval: `resampled_interval` bounds what other prompts could show.

Suffixes: P prompts, N candidates of a prompt, M values of n, S samples of the bootstrap, K members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from assay.audit.best_of_n import BY_SIZE, REWARD_GAINED, size_at, sizes_up_to
from assay.audit.gains import Columns, Gains, gain_curves
from assay.audit.gao_fit import GaoFit, fit_gao
from assay.records import Finding, Level, Metric, PageResult, Report, Table
from assay.stats.bootstrap import resampled, resampled_interval
from assay.stats.metrics import NO_INTERVAL, Interval

Figure: TypeAlias = tuple[float, float, float]
"""A mean and the ends of its interval."""

RANDOM, GAINED, SHARE = "gold of a random choice", "gold gained", "share of what gold itself would gain"
GOLD_GAIN, PROXY_GAIN, GAP = "gold gained, in standard deviations", "proxy gained, in standard deviations", "proxy - gold gap"
CORRELATION, SHORTFALL = "correlation of proxy and gold within prompts", "gold beyond what the correlation predicts"
ALPHA, BETA, PEAK, PEAK_N, MAX_RESIDUAL = "alpha", "beta", "peak: sqrt(KL)", "peak: n", "max residual of the fit"
OVEROPTIMISED, USEFUL, ENSEMBLE_GAIN = "overoptimisation", "gain over a random choice", "gain over a single member"
PROXY, GOLD = "the proxy", "gold itself"

COVERED = 0.8  # share of the prompts that must have the largest n of candidates
NUM_SAMPLES = 2000
FEW_PROMPTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OveroptimizationResult(PageResult):
    """Best-of-n by a proxy: what it gains in gold, and where gold peaks.

    random: gold of a random choice; chosen: gold of best-of-n at the largest n, in the gold's own unit; share: of what choosing by
    gold itself would gain; peak: the n at which gold peaks. The findings decide "overoptimization".
    """

    random: Metric
    chosen: Metric
    share: Metric
    peak: Metric


def overoptimization(
    proxy: Columns,
    gold: Columns,
    *,
    title: str,
    controls: Mapping[str, Columns] | None = None,
    members: Sequence[Columns] | None = None,
    ensembles: Mapping[str, Columns] | None = None,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
) -> OveroptimizationResult:
    """Gold and proxy against sqrt(KL), Gao's form with intervals, the peak it predicts, and controls.

    proxy, gold: rewards and true worth of the recorded candidates of P prompts; what is not finite is left out, and a candidate
    that one of the proxies could not score is left out for all. controls: other proxies to set beside; gold itself is always one.
    members, ensembles: rewards of each member of an ensemble, and ways of combining them, to be compared with a member, in pairs.
    sizes: values of n; left out, 1, 2, 3, 4, 6, 8, 12 ... as far as 80% of the prompts have candidates. A prompt with fewer than
    the largest n counts nowhere.
    Raises ValueError for columns that do not match, and when fewer than two prompts have two candidates.
    """
    rivals = {PROXY: proxy, **(controls or {}), **(ensembles or {})}
    sizes_M, kept, columns = _together([gold, *rivals.values(), *(members or ())], sizes)
    gains = {name: gain_curves(column, columns[0], sizes_M) for name, column in zip(rivals, columns[1:], strict=False)}
    gains[GOLD] = gain_curves(columns[0], columns[0], sizes_M)
    weights_SP = _draws(len(kept), seed)
    fits = {name: fit_gao(one.distance, one.gold, weights_SP) for name, one in gains.items()}
    worth = [_in_unit(columns[0], gains[PROXY], m, weights_SP) for m in range(len(sizes_M))]
    metrics = _metrics(gains[PROXY], gains[GOLD], fits[PROXY], worth, weights_SP, len(gold))
    drawn = {name: one for name, one in gains.items() if name not in (ensembles or {})}
    tables = [_chart(drawn, fits[PROXY]), _by_size(gains[PROXY], fits[PROXY], worth)]
    tables.append(_rivals({name: (gains[name], fits[name]) for name in gains}, weights_SP))
    findings = [_useful(gains[PROXY], weights_SP), _overoptimised(gains[PROXY], fits[PROXY], weights_SP)]
    findings.append(_enough(len(kept), len(gold)))
    if members:
        singles = [gain_curves(column, columns[0], sizes_M).gold for column in columns[1 + len(rivals) :]]
        ways = {name: gains[name].gold for name in ensembles or {}}
        parts = _ensembles(np.mean(singles, axis=0), ways, gains[GOLD], weights_SP, len(gold))
        metrics, tables, findings = [*metrics, *parts[0]], [*tables, parts[1]], [*findings, *parts[2]]
    num_all, num_kept = sum(map(len, gold)), sum(map(len, columns[0]))
    facts = {
        "prompts": f"{len(kept):,} of {len(gold):,} with {sizes_M[-1]} scored candidates",
        "candidates": f"{num_kept:,} of {num_all:,}: scored, with gold, on these prompts",
        "gold": f"a standard deviation within a prompt is {gains[GOLD].gold_scale:.4g} of its unit",
        "seed": str(seed),
    }
    named = {metric.name: metric for metric in metrics}
    return OveroptimizationResult(
        random=named[RANDOM],
        chosen=named[chosen_name(sizes_M[-1])],
        share=named[SHARE],
        peak=named[PEAK_N],
        page=Report(
            title=title,
            metrics=tuple(metrics),
            tables=tuple(tables),
            findings=tuple(findings),
            facts=facts,
            lead=_lead(named[GAINED], int(sizes_M[-1])),
            key={chosen_name(sizes_M[-1]): (RANDOM,), GAINED: (), CORRELATION: (), PEAK_N: ()},
        ),
    )


def _lead(gained: Metric, n: int) -> str:
    """What the choice of the best of n gains, as far as it is known."""
    interval = f"[{gained.low:+.3f}, {gained.high:+.3f}]"
    if gained.low > 0 or gained.high < 0:
        return f"The best of {n} by this reward has {gained.value:+.3f} gold over a random choice {interval}."
    return f"It is not known whether the best of {n} by this reward is better than a random choice: {gained.value:+.3f} {interval}."


def chosen_name(n: int) -> str:
    """Name of the metric of the gold of best-of-n."""
    return f"gold of best-of-{n}"


def _together(columns: Sequence[Columns], sizes: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]:
    """The values of n, the prompts that have as many candidates scored by all as the largest, every column on those candidates."""
    lengths = [[len(column_N) for column_N in column] for column in columns]
    if any(length != lengths[0] for length in lengths):
        raise ValueError("proxy and gold must have the same prompts, each with the same candidates")
    arrays = [[np.asarray(column_N, np.float64) for column_N in column] for column in columns]
    scored = [np.isfinite(np.stack(of_prompt)).all(axis=0) for of_prompt in zip(*arrays, strict=True)]
    counts_P = np.array([int(mask_N.sum()) for mask_N in scored], dtype=np.int64)
    if sizes is None:
        enough = np.sort(counts_P[counts_P >= 2])[::-1]
        sizes_M = sizes_up_to(int(enough[math.ceil(COVERED * len(enough)) - 1])) if len(enough) else np.array([1, 2])
    else:
        sizes_M = np.unique(np.array([1, *sizes], dtype=np.int64))
        if sizes_M[0] < 1:
            raise ValueError(f"sizes {list(sizes)} must be at least 1")
    kept = np.flatnonzero(counts_P >= sizes_M[-1])
    if len(kept) < 2 or sizes_M[-1] < 2:
        seen = f"{len(kept)} of {len(counts_P)} prompts have {sizes_M[-1]} scored candidates"
        raise ValueError(f"{seen}: two are needed, give more candidates or smaller sizes")
    return sizes_M, kept, [[column[i][scored[i]] for i in kept] for column in arrays]


def _draws(num_prompts: int, seed: int) -> np.ndarray:
    """(S, P) how often each prompt is drawn, as weights that sum to 1."""
    return resampled(lambda counts_SP: counts_SP / num_prompts, num_prompts, seed=seed, num_samples=NUM_SAMPLES)


def _mean(values_P: np.ndarray, weights_SP: np.ndarray, possible: Interval) -> Figure:
    """Mean over prompts with its interval."""
    value = float(values_P.mean())
    return value, *resampled_interval(weights_SP @ values_P, value, possible, len(values_P))


def _share(gold_P: np.ndarray, best_P: np.ndarray, weights_SP: np.ndarray, gold_range: Interval) -> Figure:
    """What this choice gains, as a share of what the best one does, with its interval; prompts without a gain do not count."""
    with np.errstate(divide="ignore", invalid="ignore"):
        samples_S, value = (weights_SP @ gold_P) / (weights_SP @ best_P), float(gold_P.mean() / best_P.mean())
    possible = Interval(gold_range.low / float(best_P[best_P > 0].mean()), 1.0)
    return value, *resampled_interval(samples_S, value, possible, int(np.count_nonzero(best_P)))


def _less(a: Interval, b: Interval) -> Interval:
    """What a - b could be."""
    return Interval(a.low - b.high, a.high - b.low)


def _in_unit(gold: Columns, gains: Gains, m: int, weights_SP: np.ndarray) -> Figure:
    """Mean gold of best-of-n at the m-th n, in the gold's own unit, with its interval."""
    possible = Interval(float(min(map(np.min, gold))), float(max(map(np.max, gold))))
    return _mean(np.array([np.mean(gold_N) for gold_N in gold]) + gains.gold_scale * gains.gold[:, m], weights_SP, possible)


def _metrics(
    gains: Gains, best: Gains, fit: GaoFit, worth: Sequence[Figure], weights_SP: np.ndarray, num_given: int
) -> list[Metric]:
    n, gold_P, proxy_P = gains.sizes[-1], gains.gold[:, -1], gains.proxy[:, -1]
    at, counts = f"at n = {n}", (len(gold_P), num_given)
    slope, slope_S = _slopes(gains, np.full((1, len(gold_P)), 1 / len(gold_P)))[0], _slopes(gains, weights_SP)
    shortfall, shortfall_S = float(gold_P.mean() - slope * proxy_P.mean()), weights_SP @ gold_P - slope_S * (weights_SP @ proxy_P)
    (peak, ends), (alpha, beta) = fit.peak(gains.distance[-1]), (NO_INTERVAL, NO_INTERVAL) if fit.caveat else fit.intervals
    about_peak = _about_peak(fit, gains)
    about_residual = fit.caveat if math.isnan(fit.beta) else "of Gao's form, standard deviations of gold"
    residual_M = np.abs(gains.gold.mean(axis=0) - fit.at(gains.distance))
    in_sd, no_slope = f"{at}, in standard deviations within a prompt", "the proxy is the same for all candidates of each prompt"
    gained = _mean(gold_P, weights_SP, gains.gold_range)
    in_unit = Interval(*(gains.gold_scale * end for end in gained[1:]))
    shortfall_ends = resampled_interval(shortfall_S, shortfall, _less(gains.gold_range, gains.proxy_range), len(gold_P))
    return [
        Metric(RANDOM, *worth[0], *counts, "mean over the prompts"),
        Metric(chosen_name(n), *worth[-1], *counts, "in the gold's own unit"),
        Metric(GAINED, gains.gold_scale * gained[0], *in_unit, *counts, f"{at}, over a random choice; paired"),
        Metric(
            SHARE, *_share(gold_P, best.gold[:, -1], weights_SP, gains.gold_range), *counts,
            f"{at}; 1: every choice is a best one",
        ),
        Metric(GOLD_GAIN, *gained, *counts, in_sd),
        Metric(PROXY_GAIN, *_mean(proxy_P, weights_SP, gains.proxy_range), *counts, in_sd),
        Metric(GAP, *_mean(proxy_P - gold_P, weights_SP, _less(gains.proxy_range, gains.gold_range)), *counts, in_sd),
        Metric(CORRELATION, *_correlation(gains, weights_SP), *counts, no_slope if math.isnan(slope) else "pooled"),
        Metric(
            SHORTFALL, shortfall, *shortfall_ends, *counts,
            no_slope if math.isnan(slope) else f"{in_sd}; below 0: high proxy rewards are worth less than predicted",
        ),
        Metric(ALPHA, fit.alpha, *alpha, *counts, fit.caveat or "R(d) = d (alpha - beta d), standard deviations of gold"),
        Metric(BETA, fit.beta, *beta, *counts, fit.caveat or "above 0: the gold reward has a peak"),
        Metric(PEAK, peak, *ends, *counts, about_peak),
        Metric(PEAK_N, size_at(peak), size_at(ends.low), size_at(ends.high), *counts, about_peak),
        Metric(MAX_RESIDUAL, float(residual_M.max()), math.nan, math.nan, *counts, about_residual),
    ]  # fmt: skip


def _about_peak(fit: GaoFit, gains: Gains) -> str:
    if math.isnan(fit.beta):
        return fit.caveat
    if not fit.has_peak:
        return "alpha or beta is not above 0 beyond noise: no peak"
    if math.isnan(fit.peak(gains.distance[-1])[0]):
        return f"no peak within n <= {gains.sizes[-1]}: where the form would turn down beyond it is an extrapolation"
    return f"alpha / (2 beta); {fit.caveat}" if fit.caveat else "alpha / (2 beta)"


def _slopes(gains: Gains, weights_SP: np.ndarray) -> np.ndarray:
    """(S,) slope of gold on the proxy within prompts, in scaled units."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights_SP @ gains.moments[:, 2]) / (weights_SP @ gains.moments[:, 0])


def _correlation(gains: Gains, weights_SP: np.ndarray) -> Figure:
    """Of proxy and gold within prompts, pooled; NaN for a constant proxy."""
    moments_S3 = np.concatenate([gains.moments.mean(axis=0)[None], weights_SP @ gains.moments])
    with np.errstate(divide="ignore", invalid="ignore"):
        found_S = moments_S3[:, 2] / np.sqrt(moments_S3[:, 0] * moments_S3[:, 1])
    value, num_varying = float(found_S[0]), int(np.count_nonzero(gains.moments[:, :2].all(axis=1)))
    return value, *resampled_interval(found_S[1:], value, Interval(-1.0, 1.0), num_varying)


def _useful(gains: Gains, weights_SP: np.ndarray) -> Finding:
    value, low, high = _mean(gains.gold[:, -1], weights_SP, gains.gold_range)
    seen = f"best-of-{gains.sizes[-1]} gains {value:+.3f} standard deviations of gold [{low:+.3f}, {high:+.3f}]"
    if low > 0:
        return Finding("ok", USEFUL, value, 0.0, seen, "overoptimization")
    if high < 0:
        return Finding("fail", USEFUL, value, 0.0, f"{seen}: worse than choosing at random", "overoptimization")
    why = f"{seen}: not significantly better than choosing at random"
    return Finding("warn", USEFUL, value, 0.0, why, "overoptimization")


def _overoptimised(gains: Gains, fit: GaoFit, weights_SP: np.ndarray) -> Finding:
    """The peak that the form predicts is believed when gold is seen to fall after it, in pairs, beyond noise."""
    n = gains.sizes[-1]

    def found(level: Level, value: float, why: str) -> Finding:
        return Finding(level, OVEROPTIMISED, value, float(n), why, "overoptimization")

    if math.isnan(fit.beta):
        return found("warn", math.nan, f"not known: {fit.caveat}")
    (alpha, beta), prompts = fit.intervals, " in every prompt" if fit.caveat else ""
    if not alpha.low > 0:
        seen = f"alpha [{alpha.low:+.3f}, {alpha.high:+.3f}]{prompts}"
        return found("warn", math.nan, f"gold does not rise to begin with, {seen}: there is no peak to look for")
    no_peak = f"no peak within the range seen (n = 1 to {n})"
    if not beta.low > 0:
        return found("ok", math.nan, f"{no_peak}: beta [{beta.low:+.3f}, {beta.high:+.3f}]{prompts} is not above 0")
    peak, ends = fit.peak(gains.distance[-1])
    if math.isnan(peak):
        return found("ok", math.nan, f"{no_peak}: the gain slows; a peak beyond it would be an extrapolation")
    where = f"n = {size_at(peak):,.0f}" + ("" if fit.caveat else f" [{_bound(ends.low)}, {_bound(ends.high)}]")
    k = int(np.argmin(np.abs(gains.distance - peak)))
    possible = _less(gains.gold_range, gains.gold_range)
    fall, low, high = _mean(gains.gold[:, k] - gains.gold[:, -1], weights_SP, possible)
    seen = f"peak at {where}; from best-of-{gains.sizes[k]} to best-of-{n} gold falls by {fall:.3f} [{low:.3f}, {high:.3f}]"
    if low > 0:
        return found("fail", size_at(peak), f"{seen} standard deviations: choose among fewer")
    return found("warn", size_at(peak), f"{seen}: the fall is within noise")


def _bound(distance: float) -> str:
    """The n of an end of the peak's interval, which these data bound or do not."""
    return f"{size_at(distance):,.0f}" if math.isfinite(distance) else "not bounded by these data"


def _enough(num_kept: int, num_given: int) -> Finding:
    if num_kept < FEW_PROMPTS:
        why = f"{num_kept} of {num_given} prompts: under about {FEW_PROMPTS} the intervals are narrower than they should be"
        return Finding("warn", "prompts", num_kept, FEW_PROMPTS, why)
    return Finding("ok", "prompts", num_kept, FEW_PROMPTS, f"{num_kept} of {num_given} prompts have enough scored candidates")


def _chart(gains: Mapping[str, Gains], fit: GaoFit) -> Table:
    """Gold by the proxy, its fit, what the proxy promises, and gold by every other choice."""
    proxy, others = gains[PROXY], [name for name in gains if name != PROXY]
    columns = ("sqrt(KL)", "gold", "fit", "proxy", *(f"gold, by {name}" for name in others))
    lines = [proxy.gold.mean(axis=0), fit.at(proxy.distance), proxy.proxy.mean(axis=0)]
    lines += [gains[name].gold.mean(axis=0) for name in others]
    rows = tuple(tuple(float(cell) for cell in row) for row in zip(proxy.distance, *lines, strict=True))
    note = "gained over a random choice, in standard deviations within a prompt; fit: R(d) = d (alpha - beta d)"
    return Table(title="gold and proxy against sqrt(KL)", columns=columns, rows=rows, chart="line", note=note)


def _by_size(gains: Gains, fit: GaoFit, worth: Sequence[Figure]) -> Table:
    fit_M, rows = fit.at(gains.distance), []
    for m, n in enumerate(gains.sizes):
        gold_P, proxy_P = gains.gold[:, m], gains.proxy[:, m]
        in_sd = (gold_P.mean(), fit_M[m], proxy_P.mean(), (proxy_P - gold_P).mean())
        cells = (*in_sd, gains.proxy_scale * proxy_P.mean())
        rows.append((int(n), float(gains.distance[m]), *worth[m], *(float(cell) for cell in cells)))
    columns = ("n", "sqrt(KL)", "gold", "low", "high", "gold gained", "fit", "proxy gained", "gap", REWARD_GAINED)
    note = "gold and the last column in their own units; the four between in standard deviations within a prompt"
    return Table(title=BY_SIZE, columns=columns, rows=tuple(rows), note=note)


def _rivals(found: Mapping[str, tuple[Gains, GaoFit]], weights_SP: np.ndarray) -> Table:
    rows = []
    for name, (gains, fit) in found.items():
        gained = _mean(gains.gold[:, -1], weights_SP, gains.gold_range)
        beta = NO_INTERVAL if fit.caveat else fit.intervals[1]
        rows.append((name, *gained, fit.alpha, fit.beta, *beta, size_at(fit.peak(gains.distance[-1])[0])))
    columns = ("chosen by", "gold gained", "low", "high", "alpha", "beta", "beta from", "beta to", "peak n")
    note = "at the largest n, standard deviations within a prompt; a peak n only where one is seen: beyond noise and in range"
    return Table(title="the proxy and its controls", columns=columns, rows=tuple(rows), note=note)


def _ensembles(
    single_PM: np.ndarray, ways: Mapping[str, np.ndarray], best: Gains, weights_SP: np.ndarray, num_given: int
) -> tuple[list[Metric], Table, list[Finding]]:
    """Gold by a member (mean over the members) and by each way of combining them; differences prompt by prompt."""
    n, counts, possible = best.sizes[-1], (len(single_PM), num_given), _less(best.gold_range, best.gold_range)
    metrics, findings = [], []
    for name, gold_PM in ways.items():
        value, low, high = _mean(gold_PM[:, -1] - single_PM[:, -1], weights_SP, possible)
        metrics.append(Metric(f"{ENSEMBLE_GAIN}: {name}", value, low, high, *counts, f"at n = {n}, standard deviations; paired"))
        why = "beyond noise" if low > 0 else "the ensemble is not worth its cost here"
        seen = f"{value:+.3f} standard deviations of gold [{low:+.3f}, {high:+.3f}] at n = {n}: {why}"
        findings.append(Finding("ok" if low > 0 else "warn", f"{ENSEMBLE_GAIN}: {name}", value, 0.0, seen))
    lines = [single_PM.mean(axis=0), *(gold_PM.mean(axis=0) for gold_PM in ways.values())]
    rows = tuple(tuple(float(cell) for cell in row) for row in zip(best.distance, *lines, strict=True))
    note = "gold gained over a random choice, standard deviations within a prompt; a member: mean over the members"
    columns = ("sqrt(KL)", "a member", *ways)
    return metrics, Table(title="ensemble against a member", columns=columns, rows=rows, chart="line", note=note), findings
